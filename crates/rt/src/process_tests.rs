use super::*;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.path().join("p.pid")
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("p.log")
    }

    fn start(&self, script: &str) -> Running {
        let spec = Spec::new("/bin/sh").arg("-c").arg(script);
        spawn_detached(&spec, &self.pid_file(), &self.log_file()).unwrap()
    }

    async fn log_says(&self, what: &str) {
        for _ in 0..250 {
            if std::fs::read_to_string(self.log_file())
                .unwrap_or_default()
                .contains(what)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the log never said {what:?}");
    }
}

#[tokio::test]
async fn a_started_process_is_found_by_its_pid_file_and_ends_on_term() {
    let place = Place::new();
    let running = place.start("echo up; exec sleep 30");
    place.log_says("up").await;
    assert!(running.alive());
    assert_eq!(adopt(&place.pid_file()).unwrap(), Some(running.clone()));
    running.terminate(Duration::from_secs(5)).await.unwrap();
    assert!(!running.alive());
    assert!(
        !Path::new(&format!("/proc/{}", running.pid)).exists(),
        "reaped, not a zombie"
    );
    assert_eq!(adopt(&place.pid_file()).unwrap(), None);
    running.terminate(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_process_lives_then_is_dead_until_somebody_waits_for_it_then_is_none() {
    assert_eq!(life(std::process::id()), Some(Life::Lives));
    let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let pid = child.id();
    assert_eq!(life(pid), Some(Life::Lives));
    child.kill().unwrap();
    // Between the two it may be seen ending.
    while let Some(Life::Lives | Life::Ends) = life(pid) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(life(pid), Some(Life::Dead));
    child.wait().unwrap();
    assert_eq!(life(pid), None);
}

#[tokio::test]
async fn one_that_ignores_term_is_killed_after_the_grace() {
    let place = Place::new();
    let running = place.start("trap '' TERM; echo up; while :; do sleep 0.1; done");
    place.log_says("up").await;
    running.terminate(Duration::from_millis(200)).await.unwrap();
    assert!(!running.alive());
}

#[tokio::test]
async fn a_stopped_one_is_killed_too() {
    let place = Place::new();
    let running = place.start("echo up; exec sleep 30");
    place.log_says("up").await;
    running.signal(Signal::STOP).unwrap();
    running.terminate(Duration::from_millis(100)).await.unwrap();
    assert!(!running.alive());
}

#[tokio::test]
async fn a_child_that_was_killed_counts_as_dead_at_once() {
    let place = Place::new();
    let running = place.start("exec sleep 30");
    running.signal(Signal::KILL).unwrap();
    tokio::time::timeout(Duration::from_secs(5), running.ended())
        .await
        .unwrap();
    assert!(!running.alive());
}

#[tokio::test]
async fn a_reused_pid_is_never_signalled() {
    let place = Place::new();
    let victim = place.start("exec sleep 30");
    let earlier = Running {
        start_time: victim.start_time - 1,
        ..victim.clone()
    };
    let other_boot = Running {
        boot_id: "another".to_owned(),
        ..victim.clone()
    };
    for stranger in [earlier, other_boot] {
        assert!(!stranger.alive());
        stranger.signal(Signal::KILL).unwrap();
        stranger.terminate(Duration::ZERO).await.unwrap();
        stranger.save(&place.pid_file()).unwrap();
        assert_eq!(adopt(&place.pid_file()).unwrap(), None);
    }
    assert!(victim.alive());
    victim.terminate(Duration::from_secs(5)).await.unwrap();
}

#[test]
fn nonsense_in_a_pid_file_is_nobody() {
    let place = Place::new();
    assert_eq!(adopt(&place.pid_file()).unwrap(), None);
    let boot = boot_id();
    for text in [
        "".to_owned(),
        "1".to_owned(),
        "{\"pid\":".to_owned(),
        "\u{0}\u{1}".to_owned(),
        format!("{{\"pid\":0,\"start_time\":0,\"boot_id\":\"{boot}\"}}"),
        format!("{{\"pid\":4294967295,\"start_time\":0,\"boot_id\":\"{boot}\"}}"),
    ] {
        std::fs::write(place.pid_file(), text).unwrap();
        assert_eq!(adopt(&place.pid_file()).unwrap(), None);
    }
    std::fs::write(place.pid_file(), vec![b'1'; 10_000]).unwrap();
    assert!(adopt(&place.pid_file()).is_err());
}

#[test]
fn a_program_that_cannot_run_leaves_no_pid_file() {
    let place = Place::new();
    let spec = Spec::new("/no/such/program");
    let error = spawn_detached(&spec, &place.pid_file(), &place.log_file()).unwrap_err();
    assert!(matches!(error, ProcessError::Program { .. }));
    assert!(!place.pid_file().exists());
}

#[test]
fn no_pid_file_no_process() {
    let place = Place::new();
    let spec = Spec::new("/bin/sh").arg("-c").arg("echo ran");
    let nowhere = place.dir.path().join("no/such/dir/p.pid");
    assert!(spawn_detached(&spec, &nowhere, &place.log_file()).is_err());
    assert_eq!(std::fs::read_to_string(place.log_file()).unwrap(), "");
}

/// The parent of [`a_process_outlives_its_killed_parent_and_is_adopted`]: this test again, in a process of its own.
const PARENT_DIR: &str = "PONTOON_RT_TEST_PARENT_DIR";

#[tokio::test]
async fn a_process_outlives_its_killed_parent_and_is_adopted() {
    if let Some(dir) = std::env::var_os(PARENT_DIR) {
        let dir = PathBuf::from(dir);
        let spec = Spec::new("/bin/sh").arg("-c").arg("echo up; exec sleep 30");
        spawn_detached(&spec, &dir.join("p.pid"), &dir.join("p.log")).unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        return;
    }
    let place = Place::new();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "process::tests::a_process_outlives_its_killed_parent_and_is_adopted",
        ])
        .env(PARENT_DIR, place.dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    place.log_says("up").await;
    parent.kill().unwrap();
    parent.wait().unwrap();
    let adopted = adopt(&place.pid_file()).unwrap().expect("it goes on");
    assert!(adopted.alive());
    let ended = tokio::spawn({
        let adopted = adopted.clone();
        async move { adopted.ended().await }
    });
    adopted.terminate(Duration::from_secs(5)).await.unwrap();
    ended.await.unwrap();
    assert!(!adopted.alive());
}
