//! How a measurement ends, in one word and one exit status.

use std::time::Duration;

use serde::Serialize;

use crate::Objective;

/// How a measurement ended. The exit statuses are for scripts and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The objective was kept, or the limit was found.
    Pass,
    /// The objective was not kept, or the limit is below what was asked for.
    Threshold,
    /// The numbers say something about the generator and not about the server.
    Invalid,
    /// The load was taken away because the target did not bear it.
    Safety,
    /// The limit is above what could be offered.
    NotReached,
}

impl Verdict {
    /// The exit status of the command.
    pub fn exit_status(self) -> u8 {
        match self {
            Verdict::Pass => 0,
            Verdict::Threshold => 1,
            Verdict::Invalid => 2,
            Verdict::Safety => 3,
            Verdict::NotReached => 4,
        }
    }

    /// In a few words.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Threshold => "the objective was not kept",
            Verdict::Invalid => "invalid: the generator was the limit",
            Verdict::Safety => "stopped: the target did not bear it",
            Verdict::NotReached => "the limit was not reached",
        }
    }
}

/// What the generator saw of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Itself {
    /// Of all requests 99 % were sent not later than this after they were due.
    #[serde(with = "micros")]
    pub late_p99: Duration,
    /// The share of planned requests that were sent, 0 to 1.
    pub sent_share: f64,
    /// The share of a processor that it took, 0 to 1.
    pub busy: f64,
    /// Requests for which there was no port, no file descriptor or no memory.
    pub exhausted: u64,
}

impl Itself {
    /// Why what was measured says more about the generator than about the target; `None` when it does not.
    pub fn was_the_limit(&self, objective: &Objective) -> Option<String> {
        // Lateness adds to what is measured: up to a twentieth of the limit it changes no verdict.
        let shortest = objective.terms().iter().filter_map(crate::Term::limit).min();
        let most = shortest.map_or(LATE, |limit| (limit / 20).max(LATE));
        if self.exhausted > 0 {
            return Some(format!(
                "{} requests found no port or file descriptor here",
                self.exhausted
            ));
        }
        if self.late_p99 > most {
            return Some(format!(
                "1 % of the requests were sent {:.1} ms late or later; {:.1} ms is the most",
                self.late_p99.as_secs_f64() * 1e3,
                most.as_secs_f64() * 1e3
            ));
        }
        if self.sent_share < LEAST_SENT {
            return Some(format!(
                "only {:.1} % of the planned requests were sent",
                self.sent_share * 100.0
            ));
        }
        None
    }
}

const LATE: Duration = Duration::from_millis(1);
const LEAST_SENT: f64 = 0.99;

mod micros {
    use std::time::Duration;

    pub fn serialize<S: serde::Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generator_that_was_late_is_found_out() {
        let objective: Objective = "p99<300ms,errors<1%".parse().unwrap();
        let well = Itself {
            late_p99: Duration::from_millis(14),
            sent_share: 1.0,
            busy: 0.5,
            exhausted: 0,
        };
        assert_eq!(well.was_the_limit(&objective), None);
        for (itself, word) in [
            (
                Itself {
                    late_p99: Duration::from_millis(16),
                    ..well
                },
                "late",
            ),
            (
                Itself {
                    sent_share: 0.98,
                    ..well
                },
                "sent",
            ),
            (Itself { exhausted: 1, ..well }, "port"),
        ] {
            assert!(itself.was_the_limit(&objective).unwrap().contains(word));
        }
        // Without a time in the objective a millisecond is the most.
        let errors: Objective = "errors<1%".parse().unwrap();
        assert!(well.was_the_limit(&errors).is_some());
    }

    #[test]
    fn exit_statuses_stay_as_they_are() {
        let all = [
            Verdict::Pass,
            Verdict::Threshold,
            Verdict::Invalid,
            Verdict::Safety,
            Verdict::NotReached,
        ];
        assert_eq!(all.map(Verdict::exit_status), [0, 1, 2, 3, 4]);
    }
}
