//! Reading `/proc`, and signals by pid: processes are never found or ended by name.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::LabError;

/// A process as seen from where the caller stands. The start time tells it from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId {
    /// The pid in the caller's pid namespace.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`, proc(5)).
    pub start_ticks: u64,
}

/// The fields of `/proc/PID/stat` that a lab needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Pid and start time.
    pub id: ProcessId,
    /// `R`, `S`, `D`, `T` (stopped), `Z` (dead, not yet collected) …
    pub state: char,
    /// The parent's pid.
    pub parent: i32,
    /// The session's id: the pid of its leader.
    pub session: i32,
}

/// Reads a process; `None` when there is none.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Every process that the caller can see.
pub fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .collect()
}

/// The identity of a namespace of a process, such as `pid:[4026531836]`.
pub fn namespace(pid: i32, kind: &str) -> Option<String> {
    let link = fs::read_link(Path::new("/proc").join(pid.to_string()).join("ns").join(kind)).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// The pid that a process has in the innermost pid namespace it lives in (the last of `NSpid`, proc(5)).
pub fn innermost_pid(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?
        .split_whitespace()
        .last()?
        .parse()
        .ok()
}

impl ProcessId {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<ProcessId> {
        stat(pid).map(|stat| stat.id)
    }

    /// Whether it still runs: neither gone, nor dead and merely uncollected, nor replaced by another.
    pub fn alive(self) -> bool {
        stat(self.pid).is_some_and(|now| now.id == self && !matches!(now.state, 'Z' | 'X'))
    }

    /// Ends it at once, as the kernel's out-of-memory killer would. Nothing happens when it has ended already.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill_9(self) -> Result<(), LabError> {
        self.signal(Signal::KILL)
    }

    /// Has it stand still (SIGSTOP), or go on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn freeze(self, frozen: bool) -> Result<(), LabError> {
        self.signal(if frozen { Signal::STOP } else { Signal::CONT })
    }

    /// Sends a signal; nothing happens when the process has ended or another has its pid.
    ///
    /// After [`Signal::STOP`] no thread of it runs any more: the kernel tells them one after the other, and on a busy machine
    /// some go on for a while after the call.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(self, signal: Signal) -> Result<(), LabError> {
        if !self.alive() {
            return Ok(());
        }
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(());
        };
        match kill_process(pid, signal) {
            Ok(()) if signal == Signal::STOP => {
                self.until_stopped();
                Ok(())
            }
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(LabError::Io {
                what: format!("signal {signal:?} to {pid:?}"),
                source: e.into(),
            }),
        }
    }

    /// Waits until no thread of it runs, for 10 s at the most: one that waits for a disk stops only after that.
    fn until_stopped(self) {
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_secs(10) {
            let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid));
            let threads = threads.into_iter().flatten().flatten();
            let mut numbers = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
            // One that is gone is not there to run.
            if numbers.all(|thread| stat(thread).is_none_or(|now| matches!(now.state, 'T' | 't' | 'Z' | 'X')))
            {
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// The name of the program stands in parentheses and may itself hold any of `) (` and blanks.
fn parse_stat(text: &str) -> Option<Stat> {
    let pid = text.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let start_ticks = fields.get(19)?.parse().ok()?;
    Some(Stat {
        id: ProcessId { pid, start_ticks },
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "42 (a ) (b) S 7 40 39 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 1";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            (stat.id.pid, stat.state, stat.parent, stat.session),
            (42, 'S', 7, 39)
        );
        assert_eq!(stat.id.start_ticks, 98_765);
    }

    #[test]
    fn nonsense_is_no_process() {
        for bad in ["", "x", "1 (a", "1 (a) S", "1 (a) S 1 2 3", "x (a) S 1 2 3"] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_process_that_ended_is_not_alive_even_uncollected() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = ProcessId::of(child.id() as i32);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while id.is_some_and(ProcessId::alive) && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!id.is_some_and(ProcessId::alive));
        child.wait().unwrap();
        assert!(ProcessId::of(std::process::id() as i32).unwrap().alive());
    }

    #[test]
    fn a_pid_with_another_start_time_is_never_signalled() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id() as i32).unwrap();
        ProcessId {
            start_ticks: id.start_ticks + 1,
            ..id
        }
        .kill_9()
        .unwrap();
        assert!(child.try_wait().unwrap().is_none());
        id.kill_9().unwrap();
        child.wait().unwrap();
    }
}
