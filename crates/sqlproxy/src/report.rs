//! What the proxy tells its agent, and shows in its numbers.

use std::sync::atomic::Ordering::Relaxed;

use pontoon_fleet::{ReplicaReport, SpreadReport, SqlReport};
use pontoon_telemetry::metrics::Placed;

use crate::account::Account;
use crate::context::Context;
use crate::floor::{Floors, Standing};

impl Context {
    /// The report of this moment. Shows in the numbers what is only known now, too.
    pub fn report(&self, not_listening: Vec<String>) -> SqlReport {
        self.metrics.placed(&self.floors.placed());
        let spread = self.is_spread().then(|| self.spread_report());
        self.metrics
            .show(spread.as_ref().unwrap_or(&SpreadReport::default()));
        let mut report = self
            .counters
            .report(self.floors.handed_out(), spread, not_listening);
        report.holding = self.boundary.standing();
        report
    }

    /// Whether the view wants reads spread.
    pub fn is_spread(&self) -> bool {
        let view = self.views.borrow();
        view.as_ref()
            .and_then(|view| view.sql.as_ref()?.spread())
            .is_some()
    }

    fn spread_report(&self) -> SpreadReport {
        let mut report = SpreadReport {
            obstacle: Account::read(&self.account_file).err(),
            unwatched: self.floors.unwatched(),
            replicas: self
                .floors
                .standing()
                .into_iter()
                .map(ReplicaReport::from)
                .collect(),
            pools: self.directory.standing(),
            ..SpreadReport::default()
        };
        self.metrics.fill(&mut report);
        report
    }
}

impl From<Standing> for ReplicaReport {
    fn from(standing: Standing) -> ReplicaReport {
        let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        ReplicaReport {
            server: standing.server,
            behind_ms: standing.behind.map(millis),
            usable: standing.fresh,
        }
    }
}

impl Floors {
    /// What was counted, for Prometheus.
    fn placed(&self) -> Placed {
        let counts = &self.counts;
        let reads = [
            &counts.ready,
            &counts.held,
            &counts.behind,
            &counts.no_replica,
            &counts.unanswered,
        ];
        Placed {
            reads: reads.map(|count| count.load(Relaxed)),
            questions: counts.questions.load(Relaxed),
            doubts: [&counts.doubts, &counts.foreign_doubts].map(|count| count.load(Relaxed)),
        }
    }
}
