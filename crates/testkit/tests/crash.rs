//! A lab whose owner is killed leaves no process at once, and no file once the next lab was made; as root and as an
//! ordinary user.

// The lint knows test functions, but not the helpers of a test program.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pontoon_testkit::proc::{self, ProcessId};
use pontoon_testkit::{
    BASE_VARIABLE, DatabaseOptions, LabError, Mariadb, Skip, Spawn, existing_labs, in_lab,
    namespaces_unavailable, say,
};

const HOLD: &str = "PONTOON_TEST_HOLD";

/// Not a test of its own: a lab that waits to be killed.
#[test]
fn lab_that_waits() -> Result<(), LabError> {
    if std::env::var_os(HOLD).is_none() {
        return Ok(());
    }
    in_lab("lab_that_waits", Duration::from_secs(60), |mut lab| async move {
        let a = lab.add_server("a", vec![]).await?;
        lab.add_server("b", vec![]).await?;
        a.spawn(Spawn::new("sleep", "sleep").args(["300"])).await?;
        if Mariadb::available().is_ok() {
            Mariadb::start(&a, &DatabaseOptions::default()).await?;
        }
        println!("\nUP");
        tokio::time::sleep(Duration::from_secs(
            if std::env::var(HOLD).is_ok_and(|v| v == "end") {
                0
            } else {
                60
            },
        ))
        .await;
        Ok(())
    })
}

/// A folder for labs, and this program where the user can run it.
struct Stage {
    base: PathBuf,
    user: Option<u32>,
}

impl Stage {
    fn new(user: Option<u32>) -> Stage {
        let base = PathBuf::from(format!(
            "/var/tmp/pontoon-crash-{}-{}",
            std::process::id(),
            user.unwrap_or_default()
        ));
        std::fs::create_dir_all(&base).unwrap();
        // By another process: a child that another test forks meanwhile would have the copy open for writing, and what
        // is open for writing cannot be run.
        let copied = Command::new("cp")
            .arg(std::env::current_exe().unwrap())
            .arg(base.join("program"))
            .status();
        assert!(copied.unwrap().success());
        if let Some(user) = user {
            std::os::unix::fs::chown(&base, Some(user), Some(user)).unwrap();
        }
        Stage { base, user }
    }

    fn start(&self, hold: &str) -> Child {
        let mut command = match self.user {
            None => Command::new(self.base.join("program")),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([
                    format!("--reuid={user}"),
                    format!("--regid={user}"),
                    "--clear-groups".to_owned(),
                ]);
                command.arg(self.base.join("program"));
                command
            }
        };
        command
            .args(["lab_that_waits", "--exact", "--nocapture"])
            .env(HOLD, hold)
            .env(BASE_VARIABLE, &self.base);
        command.current_dir("/").stdout(Stdio::piped()).spawn().unwrap()
    }

    fn labs(&self) -> usize {
        let own = rustix::process::geteuid().as_raw();
        let uid = self.user.unwrap_or(own);
        let mine = |entry: &std::fs::DirEntry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(&format!("pontoon-lab-{uid}-"))
        };
        std::fs::read_dir(&self.base)
            .unwrap()
            .flatten()
            .filter(mine)
            .count()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.base);
    }
}

/// Waits for the line that says so, and reads on, lest the writer meet a broken pipe.
fn wait_up(child: &mut Child) {
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(lines.any(|line| line == "UP"), "it did not come up");
    std::thread::spawn(move || lines.count());
}

/// The process and all its descendants.
fn family(root: i32) -> Vec<ProcessId> {
    let all = proc::all();
    let mut found = vec![ProcessId::of(root).unwrap()];
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|id| id.pid) {
        found.extend(
            all.iter()
                .filter(|process| process.parent == parent)
                .map(|process| process.id),
        );
        next += 1;
    }
    found
}

fn wait_gone(family: &[ProcessId]) {
    let begun = Instant::now();
    while let Some(left) = family.iter().find(|id| id.alive()) {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{left:?} is still there"
        );
        std::thread::yield_now();
    }
}

fn nothing_stays(user: Option<u32>) {
    if let Some(skip) = namespaces_unavailable() {
        return say(&skip);
    }
    let stage = Stage::new(user);

    let mut killed = stage.start("on");
    wait_up(&mut killed);
    let all = family(killed.id() as i32);
    assert!(all.len() >= 8, "{all:?}");
    let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    assert!(
        !mounts().contains("pontoon-crash"),
        "mounts of a lab are not seen outside"
    );
    killed.kill().unwrap();
    wait_gone(&all[1..]);
    killed.wait().unwrap();
    assert_eq!(stage.labs(), 1, "its folder stays: nobody was left to remove it");

    let mut next = stage.start("end");
    wait_up(&mut next);
    assert!(next.wait().unwrap().success());
    assert_eq!(stage.labs(), 0, "the next lab removes it, and its own");

    let mut interrupted = stage.start("on");
    wait_up(&mut interrupted);
    let all = family(interrupted.id() as i32);
    let term = Command::new("kill")
        .args(["-TERM", &interrupted.id().to_string()])
        .status()
        .unwrap();
    assert!(term.success());
    interrupted.wait().unwrap();
    wait_gone(&all[1..]);
    assert_eq!(stage.labs(), 0, "an interrupted lab cleans up after itself");
    assert!(existing_labs(Path::new("/nonexistent")).is_empty());
}

#[test]
fn nothing_stays_of_a_lab_whose_owner_was_killed() {
    nothing_stays(None);
}

#[test]
fn nothing_stays_of_an_ordinary_users_lab_either() {
    if !is_root() {
        return say(&Skip("this is an ordinary user already".to_owned()));
    }
    nothing_stays(Some(65_534));
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .any(|line| line.starts_with("Uid:\t0\t0"))
}
