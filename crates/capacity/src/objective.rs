//! What counts as good: `"p99<300ms,errors<0.5%"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use pontoon_fleet::units::{format_duration, format_share, parse_duration, parse_share};
use serde::{Serialize, Serializer};

/// What a server must keep to be within its limit: one or more terms, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objective {
    terms: Vec<Term>,
}

/// One term of an objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// Of all requests, this share (in thousandths of a percent) is answered without an error in less than `limit`.
    Latency {
        /// 99,000 for p99.
        quantile: u32,
        /// The longest wait that is good, from when the request was due.
        limit: Duration,
    },
    /// Less than this share (in thousandths of a percent) gets an error or no answer at all.
    Errors {
        /// 500 for 0.5 %.
        allowed: u32,
    },
}

/// Why an objective is not one: where in the text, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} (in {part:?}, term {position} of the objective)")]
pub struct BadObjective {
    /// Which term, from 1.
    pub position: usize,
    /// The term as written.
    pub part: String,
    /// What is wrong.
    pub problem: String,
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, and not with an error, so long after it was due.
    Answered(Duration),
    /// Answered with an error, or not at all.
    Failed,
}

impl Term {
    /// The share of bad requests, 0 to 1, at which the term is just kept.
    pub fn allowed(&self) -> f64 {
        let thousandths = match self {
            Term::Latency { quantile, .. } => 100_000 - quantile,
            Term::Errors { allowed } => *allowed,
        };
        f64::from(thousandths) / 100_000.0
    }

    /// The time of a latency term.
    pub fn limit(&self) -> Option<Duration> {
        match self {
            Term::Latency { limit, .. } => Some(*limit),
            Term::Errors { .. } => None,
        }
    }

    /// Whether a request with this outcome is bad for the term. One that failed is not in time either: a server that
    /// answers errors quickly must not look fast.
    pub fn is_bad(&self, outcome: Outcome) -> bool {
        match (self, outcome) {
            (_, Outcome::Failed) => true,
            (Term::Latency { limit, .. }, Outcome::Answered(after)) => after >= *limit,
            (Term::Errors { .. }, Outcome::Answered(_)) => false,
        }
    }
}

impl Objective {
    /// That 99 % are answered in less than `limit`.
    pub fn p99(limit: Duration) -> Objective {
        Objective {
            terms: vec![Term::Latency {
                quantile: 99_000,
                limit,
            }],
        }
    }

    /// Its terms; at least one.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The longest limit of its terms; zero when it is of errors only.
    pub fn longest(&self) -> Duration {
        self.terms
            .iter()
            .filter_map(Term::limit)
            .max()
            .unwrap_or_default()
    }
}

impl FromStr for Objective {
    type Err = BadObjective;

    fn from_str(text: &str) -> Result<Objective, BadObjective> {
        let mut terms: Vec<Term> = Vec::new();
        for (index, part) in text.split(',').enumerate() {
            let part = part.trim();
            let bad = |problem: String| BadObjective {
                position: index + 1,
                part: part.to_owned(),
                problem,
            };
            let term = term(part).map_err(bad)?;
            for other in &terms {
                contradiction(other, &term).map_or(Ok(()), |problem| Err(bad(problem)))?;
            }
            terms.push(term);
        }
        Ok(Objective { terms })
    }
}

fn term(part: &str) -> Result<Term, String> {
    let Some((name, value)) = part.split_once('<') else {
        return Err("a term is NAME<VALUE, as in p99<300ms or errors<0.5%".to_owned());
    };
    let (name, value) = (name.trim(), value.trim());
    if name == "errors" {
        return match parse_share(value)? {
            0 => Err("less than no errors cannot be: errors<0.1% is the next best".to_owned()),
            100_000 => Err("less than 100% of errors is no objective".to_owned()),
            allowed => Ok(Term::Errors { allowed }),
        };
    }
    let Some(quantile) = name.strip_prefix('p') else {
        return Err(format!("{name:?} is not known: use p50, p99, p99.9 or errors"));
    };
    let quantile = parse_share(&format!("{quantile}%"))
        .map_err(|_| format!("{name:?} is not a percentile: use p50, p95, p99 or p99.9"))?;
    if !(1_000..=99_990).contains(&quantile) {
        // Beyond p99.99 no affordable run has enough requests to say anything.
        return Err(format!("{name:?} cannot be measured: from p1 to p99.99"));
    }
    let limit = parse_duration(value)?;
    if limit < SHORTEST || limit > LONGEST {
        return Err(format!(
            "{value:?} is not between {} and {}",
            format_duration(SHORTEST),
            format_duration(LONGEST)
        ));
    }
    Ok(Term::Latency { quantile, limit })
}

/// Why two terms cannot stand together: the one could never matter.
fn contradiction(one: &Term, other: &Term) -> Option<String> {
    match (one, other) {
        (Term::Errors { .. }, Term::Errors { .. }) => Some("errors stands twice".to_owned()),
        (
            Term::Latency { quantile, limit },
            Term::Latency {
                quantile: second,
                limit: other_limit,
            },
        ) => {
            if quantile == second {
                return Some(format!("{} stands twice", percentile(*quantile)));
            }
            let more = quantile > second;
            ((more && limit <= other_limit) || (!more && limit >= other_limit)).then(|| {
                format!(
                    "{one} and {other} do not go together: the higher percentile needs the longer time, or the other one never matters"
                )
            })
        }
        _ => None,
    }
}

fn percentile(quantile: u32) -> String {
    format!("p{}", format_share(quantile).trim_end_matches('%'))
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Latency { quantile, limit } => {
                write!(f, "{}<{}", percentile(*quantile), format_duration(*limit))
            }
            Term::Errors { allowed } => write!(f, "errors<{}", format_share(*allowed)),
        }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            write!(f, "{}{term}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl Serialize for Objective {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Shorter than this the generator's own lateness is most of what is measured.
const SHORTEST: Duration = Duration::from_micros(500);
/// Longer than this a search would take hours.
const LONGEST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> BadObjective {
        text.parse::<Objective>().unwrap_err()
    }

    #[test]
    fn what_is_written_is_what_is_meant() {
        let objective: Objective = "p99<300ms, errors<0.5%".parse().unwrap();
        assert_eq!(objective.to_string(), "p99<300ms,errors<0.5%");
        assert_eq!(objective.terms()[0].allowed(), 0.01);
        assert_eq!(objective.terms()[1].allowed(), 0.005);
        assert_eq!(objective.longest(), Duration::from_millis(300));
        let both: Objective = "p50<20ms,p99.9<1s".parse().unwrap();
        assert_eq!(both.to_string(), "p50<20ms,p99.9<1s");
    }

    #[test]
    fn an_error_is_never_in_time() {
        let objective: Objective = "p99<300ms,errors<1%".parse().unwrap();
        let [late, errors] = objective.terms() else {
            panic!()
        };
        assert!(late.is_bad(Outcome::Failed) && errors.is_bad(Outcome::Failed));
        let after = |ms| Outcome::Answered(Duration::from_millis(ms));
        assert!(!late.is_bad(after(299)) && late.is_bad(after(300)));
        assert!(!errors.is_bad(after(3_000)));
    }

    #[test]
    fn impossible_objectives_are_refused_with_their_place() {
        for (text, position, word) in [
            ("", 1, "NAME<VALUE"),
            ("p99", 1, "NAME<VALUE"),
            ("p99<300", 1, "no unit"),
            ("p99<0s", 1, "between"),
            ("p99<1h", 1, "between"),
            ("p100<1s", 1, "cannot be measured"),
            ("p0<1s", 1, "cannot be measured"),
            ("p99.999<1s", 1, "cannot be measured"),
            ("px<1s", 1, "not a percentile"),
            ("mean<1s", 1, "not known"),
            ("errors<0%", 1, "no errors"),
            ("errors<100%", 1, "no objective"),
            ("errors<200%", 1, "more than"),
            ("errors<5", 1, "not a share"),
            ("p99<300ms,errors<1%,errors<2%", 3, "twice"),
            ("p99<300ms,p99<1s", 2, "twice"),
            ("p99<100ms,p50<300ms", 2, "never matters"),
            ("p50<100ms,p99<100ms", 2, "never matters"),
            ("p99<300ms,", 2, "NAME<VALUE"),
        ] {
            let bad = refused(text);
            assert_eq!(bad.position, position, "{text}: {bad}");
            assert!(bad.problem.contains(word), "{text}: {bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_typed_panics_and_what_is_taken_reads_back(text in "[p0-9.<>a-z%, é]{0,30}") {
            if let Ok(objective) = text.parse::<Objective>() {
                prop_assert_eq!(objective.to_string().parse::<Objective>().unwrap(), objective);
            }
        }
    }
}
