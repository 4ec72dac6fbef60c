//! Whether a fleet can be founded here, and how what was here before makes room: by being renamed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_fleet::{Code, Refusal, UnixMillis};
use pontoon_pki::IdentityFiles;
use pontoon_rt::paths::Paths;
use pontoon_rt::process;

use crate::commands::Context;
use crate::start;

/// Refuses where there is a fleet already; with `force` only where one still runs.
pub async fn check(context: &Context, force: bool) -> Result<(), Refusal> {
    let paths = &context.paths;
    let mut there = Vec::new();
    let files = IdentityFiles::in_dir(&paths.identity_dir());
    if files.cert.exists() || files.ca_key.exists() {
        there.push(format!(
            "there is an identity in {}",
            paths.identity_dir().display()
        ));
    }
    if paths.config.exists() {
        there.push(format!("there is a configuration: {}", paths.config.display()));
    }
    let mut runs = Vec::new();
    // An agent without a fleet, as after `leave` or a reboot, gives way: see `end_idle_agent`.
    if files.cert.exists() && context.client.answers().await {
        runs.push("its agent runs".to_owned());
    }
    for tier in ["edge", "sql"] {
        if let Ok(Some(process)) = process::adopt(&paths.pid_file(tier)) {
            runs.push(format!("its {tier} runs (pid {})", process.pid));
        }
    }
    if there.is_empty() && runs.is_empty() {
        return Ok(());
    }
    if force && runs.is_empty() {
        return Ok(());
    }
    let refusal = there.iter().chain(&runs).fold(
        Refusal::new(Code::J006, "this machine already belongs to a fleet"),
        |refusal, line| refusal.because(line.as_str()),
    );
    Err(if runs.is_empty() {
        refusal
            .next("go on with what is there", "pontoon plan")
            .next("begin anew; what is there is renamed", "pontoon init --force")
    } else {
        refusal
            .next("look at it", "pontoon status")
            .next("give it up first", "pontoon leave")
    })
}

/// Ends an agent that belongs to no fleet: it would not learn of the one that is founded now. `apply` starts it again.
pub async fn end_idle_agent(paths: &Paths) -> Result<(), Refusal> {
    if let Some(agent) = process::adopt(&paths.pid_file("agent"))? {
        agent.terminate(PATIENCE).await?;
    } else if start::by_systemd(paths) {
        start::systemctl("stop", "agent").await?;
    }
    Ok(())
}

/// Renames configuration and state; says what is where now.
pub fn make(paths: &Paths, now: UnixMillis) -> Result<Vec<(PathBuf, PathBuf)>, Refusal> {
    let suffix = format!("before-init-{}", now.0 / 1000);
    let mut moved: Vec<(PathBuf, PathBuf)> = Vec::new();
    for path in [&paths.config, &paths.state_dir] {
        let to = with_suffix(path, &suffix);
        if to.exists() {
            return Err(undo(moved, path, "a second ago it was renamed already"));
        }
        match std::fs::rename(path, &to) {
            Ok(()) => moved.push((path.clone(), to)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(undo(moved, path, &error.to_string())),
        }
    }
    Ok(moved)
}

/// All is renamed or nothing.
fn undo(moved: Vec<(PathBuf, PathBuf)>, path: &Path, why: &str) -> Refusal {
    let mut refusal = Refusal::new(Code::N006, format!("cannot rename {}", path.display())).because(why);
    for (from, to) in moved {
        if let Err(error) = std::fs::rename(&to, &from) {
            refusal = refusal.because(format!("{} is now {}: {error}", from.display(), to.display()));
        }
    }
    refusal
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_is_renamed_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        assert!(make(&paths, UnixMillis(5000)).unwrap().is_empty());
        paths.create_dirs().unwrap();
        std::fs::create_dir_all(paths.config.parent().unwrap()).unwrap();
        std::fs::write(&paths.config, "mine").unwrap();
        std::fs::write(paths.node_file(), "node").unwrap();
        let moved = make(&paths, UnixMillis(5000)).unwrap();
        assert_eq!(moved.len(), 2);
        assert_eq!(std::fs::read_to_string(&moved[0].1).unwrap(), "mine");
        assert_eq!(
            std::fs::read_to_string(moved[1].1.join("node.toml")).unwrap(),
            "node"
        );
        // The same second again: nothing is overwritten, and the first rename of this call is undone.
        std::fs::write(&paths.config, "newer").unwrap();
        assert_eq!(make(&paths, UnixMillis(5000)).unwrap_err().code, Code::N006);
        assert_eq!(std::fs::read_to_string(&paths.config).unwrap(), "newer");
    }
}
