//! A share of a core for a process, by control groups of either version.

use std::path::{Path, PathBuf};

use pontoon_testkit::{LabError, Skip};

/// A process's share; the group is removed when the process has ended and this is dropped.
pub struct Quota {
    group: PathBuf,
}

/// Microseconds in which a share is used up.
const PERIOD: u32 = 10_000;

impl Quota {
    /// Gives the process at most `percent` of a core.
    ///
    /// # Errors
    /// [`LabError::Skip`] where no group can be made.
    pub fn of(pid: i32, percent: u32) -> Result<Quota, LabError> {
        let name = format!("pontoon-bench-{pid}");
        let quota = PERIOD / 100 * percent;
        let first = Path::new("/sys/fs/cgroup/cpu");
        let (group, settings) = match first.join("cpu.cfs_period_us").exists() {
            true => (
                first.join(name),
                vec![
                    ("cpu.cfs_period_us", PERIOD.to_string()),
                    ("cpu.cfs_quota_us", quota.to_string()),
                ],
            ),
            false => (
                Path::new("/sys/fs/cgroup").join(name),
                vec![("cpu.max", format!("{quota} {PERIOD}"))],
            ),
        };
        let made = std::fs::create_dir(&group).and_then(|()| {
            for (file, value) in settings {
                std::fs::write(group.join(file), value)?;
            }
            std::fs::write(group.join("cgroup.procs"), pid.to_string())
        });
        let quota = Quota { group };
        match made {
            Ok(()) => Ok(quota),
            Err(error) => Err(Skip(format!("no share of a core can be given: {error}")).into()),
        }
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // Whoever is still in it goes to the group above.
        let above = self.group.parent().map(|above| above.join("cgroup.procs"));
        let inside = std::fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        if let Some(above) = above {
            for pid in inside.lines() {
                let _ = std::fs::write(&above, pid);
            }
        }
        let _ = std::fs::remove_dir(&self.group);
    }
}
