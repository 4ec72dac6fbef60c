//! What is said of many rounds.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Fault;

/// One round that held.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// What happened.
    pub fault: Fault,
    /// The longest time without an acknowledged write, through the server that was not hit.
    pub pause: Duration,
    /// How long it took until the replica had everything again.
    pub whole: Duration,
    /// Whether a server's database was copied anew.
    pub copied: bool,
}

/// All rounds.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    rounds: BTreeMap<String, Vec<Round>>,
}

impl Tally {
    /// Counts one.
    pub fn count(&mut self, round: Round) {
        let kind = format!("{:?}", round.fault);
        self.rounds.entry(kind).or_default().push(round);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = ["no write for", "rounds", "p50", "p99", "at most", "copied anew"];
        write!(
            f,
            "{:<26}{:>8}{:>10}{:>10}{:>10}{:>13}",
            names[0], names[1], names[2], names[3], names[4], names[5]
        )?;
        for (kind, rounds) in &self.rounds {
            let mut pauses: Vec<f64> = rounds.iter().map(|round| round.pause.as_secs_f64()).collect();
            pauses.sort_by(f64::total_cmp);
            let at = |share: usize| pauses[(pauses.len() * share / 100).min(pauses.len() - 1)];
            let copied = rounds.iter().filter(|round| round.copied).count();
            write!(
                f,
                "\n{kind:<26}{:>8}{:>8.2} s{:>8.2} s{:>8.2} s{copied:>13}",
                rounds.len(),
                at(50),
                at(99),
                at(100)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_line() {
        let mut tally = Tally::default();
        for (fault, pause, copied) in [
            (Fault::Divided, 4, false),
            (Fault::Divided, 5, true),
            (Fault::StoreSilent, 1, false),
        ] {
            tally.count(Round {
                fault,
                pause: Duration::from_secs(pause),
                whole: Duration::from_secs(9),
                copied,
            });
        }
        let text = tally.to_string();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[1],
            ["Divided", "2", "5.00", "s", "5.00", "s", "5.00", "s", "1"]
        );
        assert_eq!(lines[2][..2], ["StoreSilent", "1"]);
    }
}
