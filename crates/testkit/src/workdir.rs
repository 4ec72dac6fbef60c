//! The one folder on disk that a lab lives in, and the removal of folders whose lab died without cleaning up.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::LabError;
use crate::proc::{self, ProcessId};

/// Chooses another place for labs than `/var/tmp` (which is on disk even where `/tmp` is memory).
pub const BASE_VARIABLE: &str = "PONTOON_LAB_BASE";

/// A lab's folder. Whoever creates it removes it; when its owner dies first, the next lab does.
#[derive(Debug)]
pub struct Workdir {
    path: PathBuf,
}

impl Workdir {
    /// Removes what dead labs left behind, then makes a fresh folder that belongs to this process.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn create() -> Result<Workdir, LabError> {
        let base = base_folder();
        sweep(&base);
        let mut attempt = 0;
        loop {
            let path = base.join(format!("{PREFIX}{}-{}-{attempt}", own_uid(), std::process::id()));
            match fs::DirBuilder::new().mode(0o755).create(&path) {
                Ok(()) => {
                    let workdir = Workdir { path };
                    let owner = Owner::this_process()?;
                    fs::write(workdir.path.join(OWNER_FILE), owner.to_line())
                        .map_err(LabError::io("lab folder"))?;
                    return Ok(workdir);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && attempt < 1_000 => attempt += 1,
                Err(e) => return Err(LabError::io(format!("create {}", path.display()))(e)),
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next lab.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The folders below `base` that belong to this user's labs, dead or alive.
pub fn existing(base: &Path) -> Vec<PathBuf> {
    let uid = own_uid();
    let Ok(entries) = fs::read_dir(base) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid))
        .collect()
}

/// Where labs are made.
pub fn base_folder() -> PathBuf {
    if let Some(base) = std::env::var_os(BASE_VARIABLE) {
        return base.into();
    }
    let disk = Path::new("/var/tmp");
    if disk.is_dir() {
        disk.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// Removes the folders of this user's labs whose owner has died.
fn sweep(base: &Path) {
    for path in existing(base) {
        let owner = fs::read_to_string(path.join(OWNER_FILE))
            .ok()
            .and_then(|line| Owner::from_line(&line));
        let dead = match owner {
            Some(owner) => owner.dead(),
            // Its owner died between two system calls, or is between them just now.
            None => older_than(&path, Duration::from_secs(3_600)),
        };
        if dead {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn older_than(path: &Path, age: Duration) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    modified.is_ok_and(|then| then.elapsed().is_ok_and(|past| past > age))
}

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Who owns a lab, so that others can tell whether that process still lives.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    process: ProcessId,
    pid_namespace: String,
    boot: String,
}

impl Owner {
    fn this_process() -> Result<Owner, LabError> {
        let pid = std::process::id() as i32;
        let unreadable = || LabError::Unknown("/proc does not show this process".to_owned());
        Ok(Owner {
            process: ProcessId::of(pid).ok_or_else(unreadable)?,
            pid_namespace: proc::namespace(pid, "pid").ok_or_else(unreadable)?,
            boot: boot_id(),
        })
    }

    fn to_line(&self) -> String {
        format!(
            "{} {} {} {}\n",
            self.process.pid, self.process.start_ticks, self.pid_namespace, self.boot
        )
    }

    fn from_line(line: &str) -> Option<Owner> {
        let mut words = line.split_whitespace();
        Some(Owner {
            process: ProcessId {
                pid: words.next()?.parse().ok()?,
                start_ticks: words.next()?.parse().ok()?,
            },
            pid_namespace: words.next()?.to_owned(),
            boot: words.next()?.to_owned(),
        })
    }

    /// An owner in another pid namespace of this boot cannot be seen from here: it counts as alive.
    fn dead(&self) -> bool {
        if self.boot != boot_id() {
            return true;
        }
        let here = proc::namespace(std::process::id() as i32, "pid");
        here.as_deref() == Some(self.pid_namespace.as_str()) && !self.process.alive()
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

const PREFIX: &str = "pontoon-lab-";
const OWNER_FILE: &str = "owner";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_folders_of_dead_labs_are_swept() {
        let base = std::env::temp_dir().join(format!("pontoon-sweep-{}", std::process::id()));
        let make = |name: &str, owner: &Owner| {
            let path = base.join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(OWNER_FILE), owner.to_line()).unwrap();
            path
        };
        let me = Owner::this_process().unwrap();
        let gone = |f: fn(&mut Owner)| {
            let mut owner = Owner::this_process().unwrap();
            f(&mut owner);
            owner
        };
        let alive = make("pontoon-lab-1", &me);
        let reused_pid = make("pontoon-lab-2", &gone(|o| o.process.start_ticks += 1));
        let other_boot = make("pontoon-lab-3", &gone(|o| o.boot = "another".to_owned()));
        let elsewhere = make(
            "pontoon-lab-4",
            &gone(|o| {
                o.pid_namespace = "pid:[1]".to_owned();
                o.process.start_ticks += 1;
            }),
        );
        let not_ours = make("something-else", &gone(|o| o.process.start_ticks += 1));
        let unfinished = base.join("pontoon-lab-5");
        fs::create_dir_all(&unfinished).unwrap();
        sweep(&base);
        let left: Vec<bool> = [alive, reused_pid, other_boot, elsewhere, not_ours, unfinished]
            .iter()
            .map(|path| path.exists())
            .collect();
        fs::remove_dir_all(&base).unwrap();
        assert_eq!(left, [true, false, false, true, true, true]);
    }

    #[test]
    fn a_bad_owner_line_is_no_owner() {
        for bad in ["", "1", "x y z w", "1 2", "1 2 pid:[3]"] {
            assert_eq!(Owner::from_line(bad), None, "{bad}");
        }
    }
}
