//! What was measured, for people and for machines.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::joined::Comparison;
use super::terminal::{Bar, Step};
use super::writers::{Slow, Summary};

/// One join under writes.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where it was measured.
    pub machine: Machine,
    /// Size of the data.
    pub mebibytes: u64,
    /// Transactions a second that were due.
    pub rate: u32,
    /// How long it took to make the data.
    pub fill_seconds: f64,
    /// The whole command.
    pub join_seconds: f64,
    /// Its steps as the screen showed them.
    pub steps: Vec<Step>,
    /// Its progress bar.
    pub bar: Bar,
    /// The writers before the join.
    pub before: Summary,
    /// The writers while it ran.
    pub during: Summary,
    /// The second after it.
    pub after: Summary,
    /// Writes over 250 ms while it ran, one for each burst.
    pub slow: Vec<Slow>,
    /// The slowest CREATE, ALTER or DROP, when there were any.
    pub slowest_change_ms: Option<u128>,
    /// Writes that failed.
    pub failures: BTreeMap<String, u32>,
    /// Source and replica.
    pub comparison: Comparison,
    /// What stayed on the terminal.
    #[serde(skip)]
    pub screen: String,
}

/// Where something was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Cores.
    pub cores: usize,
    /// The model of its processors.
    pub processor: String,
    /// Processes that ran or waited, over the last minute, when it ended.
    pub load: String,
    /// The database engine and its version.
    pub engine: String,
}

impl Machine {
    /// This machine.
    pub fn look(engine: String) -> Machine {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Machine {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: model.map_or_else(String::new, |(_, name)| name.trim().to_owned()),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
            engine,
        }
    }
}

impl Report {
    /// Copied MiB per second, while it was copied.
    pub fn copied_per_second(&self) -> Option<f64> {
        let step = self.steps.iter().find(|step| step.name == "copying database")?;
        (step.seconds > 0.0).then(|| self.mebibytes as f64 / step.seconds)
    }

    /// The acceptance line: nobody waited for more than a second, there was a bar, nothing is lost or differs.
    pub fn is_accepted(&self) -> bool {
        self.during.over_1_s + self.after.over_1_s == 0
            && self.failures.is_empty()
            && self.bar.levels > 1
            && self.comparison.holds()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{} MiB in {}, {} commits/s; {} cores of {}, load {}",
            self.mebibytes, machine.engine, self.rate, machine.cores, machine.processor, machine.load
        )?;
        write!(f, "join {:.1} s:", self.join_seconds)?;
        for step in &self.steps {
            write!(f, " {} {:.1} s,", step.name, step.seconds)?;
        }
        writeln!(
            f,
            " copied at {:.0} MiB/s",
            self.copied_per_second().unwrap_or_default()
        )?;
        for (name, span) in [
            ("before", &self.before),
            ("during", &self.during),
            ("after", &self.after),
        ] {
            writeln!(
                f,
                "{name:7} {:6} commits in {:5.1} s  median {:6.1} ms  p99 {:6.1} ms  worst {:6.1} ms  over 1 s: {}",
                span.commits, span.seconds, span.median_ms, span.p99_ms, span.worst_ms, span.over_1_s
            )?;
        }
        for slow in &self.slow {
            writeln!(
                f,
                "  at {:.2} s of the join: {:.0} ms",
                slow.due_seconds, slow.took_ms
            )?;
        }
        if let Some(slowest) = self.slowest_change_ms {
            writeln!(f, "slowest CREATE, ALTER or DROP: {slowest} ms")?;
        }
        writeln!(
            f,
            "bar: {} frames, {} levels: {}",
            self.bar.frames, self.bar.levels, self.bar.example
        )?;
        let comparison = &self.comparison;
        writeln!(
            f,
            "{} tables, different: {:?}; acknowledged {}, on a {}, on b {}; failed: {:?}",
            comparison.tables,
            comparison.different,
            comparison.acknowledged,
            comparison.found.0,
            comparison.found.1,
            self.failures
        )?;
        write!(
            f,
            "{}",
            if self.is_accepted() {
                "ACCEPTED"
            } else {
                "NOT ACCEPTED"
            }
        )
    }
}
