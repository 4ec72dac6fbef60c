//! From a suspicion to a verdict: rows that were not the same in one pair of reads are read again. Pure.

use std::collections::BTreeMap;

use super::question::{Digest, KeyValue};

/// How often suspects are read again at the most.
pub(crate) const ROUNDS: u32 = 8;

/// What is known of the suspects.
#[derive(Debug, Default)]
pub(crate) struct Settling(BTreeMap<KeyValue, Suspect>);

#[derive(Debug, Default)]
struct Suspect {
    first: Option<Pair>,
    primary_moved: bool,
    replica_moved: bool,
}

/// What the primary and the replica had; `None`: no such row.
type Pair = (Option<String>, Option<String>);

/// What is to be thought of a row in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Both sides changed it all the time: each write sets the whole row.
    Rewritten,
    /// The replica lacks it.
    Missing,
    /// Only the replica has it.
    Extra,
    /// It holds something else.
    Other,
}

impl Settling {
    /// The rows that are not the same in two lists.
    pub(crate) fn suspects(primary: &[Digest], replica: &[Digest]) -> Settling {
        let (ours, theirs) = (by_key(primary), by_key(replica));
        let keys = ours.keys().chain(theirs.keys());
        let differing = keys.filter(|key| ours.get(*key) != theirs.get(*key));
        Settling(
            differing
                .map(|key| ((*key).clone(), Suspect::default()))
                .collect(),
        )
    }

    /// Whose case is open.
    pub(crate) fn keys(&self) -> Vec<KeyValue> {
        self.0.keys().cloned().collect()
    }

    /// Drops all but the first `most`; says whether some were dropped.
    pub(crate) fn keep(&mut self, most: usize) -> bool {
        let Some(first_dropped) = self.0.keys().nth(most).cloned() else {
            return false;
        };
        self.0.split_off(&first_dropped);
        true
    }

    /// Another pair of reads of all suspects.
    pub(crate) fn round(&mut self, primary: &[Digest], replica: &[Digest]) {
        let (ours, theirs) = (by_key(primary), by_key(replica));
        self.0.retain(|key, suspect| {
            let now: Pair = (
                ours.get(key).map(|digest| (*digest).clone()),
                theirs.get(key).map(|digest| (*digest).clone()),
            );
            if now.0 == now.1 {
                return false;
            }
            let first = suspect.first.get_or_insert_with(|| now.clone());
            suspect.primary_moved |= first.0 != now.0;
            suspect.replica_moved |= first.1 != now.1;
            true
        });
    }

    /// What is to be thought of those that are left.
    pub(crate) fn verdicts(&self) -> Vec<(KeyValue, Verdict)> {
        let verdict = |suspect: &Suspect| match &suspect.first {
            _ if suspect.primary_moved && suspect.replica_moved => Verdict::Rewritten,
            Some((Some(_), None)) => Verdict::Missing,
            Some((None, Some(_))) => Verdict::Extra,
            Some((Some(primary), Some(replica))) => more_or_fewer(primary, replica),
            _ => Verdict::Other,
        };
        self.0
            .iter()
            .map(|(key, suspect)| (key.clone(), verdict(suspect)))
            .collect()
    }
}

/// Without a key it is counts that are compared: how many equal rows there are.
fn more_or_fewer(primary: &str, replica: &str) -> Verdict {
    match (primary.parse::<u64>(), replica.parse::<u64>()) {
        (Ok(primary), Ok(replica)) if primary > replica => Verdict::Missing,
        (Ok(primary), Ok(replica)) if primary < replica => Verdict::Extra,
        _ => Verdict::Other,
    }
}

fn by_key(rows: &[Digest]) -> BTreeMap<&KeyValue, &String> {
    rows.iter().map(|(key, digest)| (key, digest)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(of: &[(&str, &str)]) -> Vec<Digest> {
        of.iter()
            .map(|(key, digest)| (vec![(*key).to_owned()], (*digest).to_owned()))
            .collect()
    }

    /// What the two sides have in one pair of reads.
    type Read<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)]);

    fn verdict_after(reads: &[Read<'_>]) -> Vec<(String, Verdict)> {
        let mut settling = Settling::suspects(&rows(reads[0].0), &rows(reads[0].1));
        for (primary, replica) in reads {
            settling.round(&rows(primary), &rows(replica));
        }
        let mut found = settling.verdicts();
        found
            .iter_mut()
            .map(|(key, verdict)| (key.remove(0), *verdict))
            .collect()
    }

    #[test]
    fn what_stays_different_is_named_by_how_it_differs() {
        let reads: Read<'_> = (
            &[("1", "a"), ("2", "b"), ("4", "d")],
            &[("1", "x"), ("3", "c"), ("4", "d")],
        );
        assert_eq!(
            verdict_after(&[reads; 3]),
            [
                ("1".to_owned(), Verdict::Other),
                ("2".to_owned(), Verdict::Missing),
                ("3".to_owned(), Verdict::Extra)
            ]
        );
    }

    #[test]
    fn of_equal_rows_without_a_key_some_are_missing_or_too_many() {
        let reads: Read<'_> = (&[("d1", "12"), ("d2", "9")], &[("d1", "9"), ("d2", "12")]);
        let found = verdict_after(&[reads; 2]);
        assert_eq!(found[0].1, Verdict::Missing);
        assert_eq!(found[1].1, Verdict::Extra);
    }

    #[test]
    fn what_was_the_same_once_is_acquitted() {
        let (one, other): (&[_], &[_]) = (&[("1", "a")], &[("1", "b")]);
        assert_eq!(verdict_after(&[(one, other), (one, one), (one, other)]), []);
        // It was deleted on both sides.
        assert_eq!(verdict_after(&[(one, other), (&[], &[])]), []);
    }

    #[test]
    fn a_row_that_both_sides_rewrite_all_the_time_is_no_difference() {
        let at = |digest: &'static str| [("1", digest)];
        let reads = [(at("a"), at("b")), (at("c"), at("d")), (at("e"), at("f"))];
        let reads: Vec<Read<'_>> = reads.iter().map(|(a, b)| (&a[..], &b[..])).collect();
        assert_eq!(verdict_after(&reads), [("1".to_owned(), Verdict::Rewritten)]);
    }

    #[test]
    fn a_replica_that_does_not_take_the_writes_or_has_writes_of_its_own_differs() {
        let at = |digest: &'static str| [("1", digest)];
        for reads in [
            [(at("a"), at("x")), (at("b"), at("x")), (at("c"), at("x"))],
            [(at("a"), at("x")), (at("a"), at("y")), (at("a"), at("z"))],
        ] {
            let reads: Vec<Read<'_>> = reads.iter().map(|(a, b)| (&a[..], &b[..])).collect();
            assert_eq!(verdict_after(&reads), [("1".to_owned(), Verdict::Other)]);
        }
    }

    #[test]
    fn more_suspects_than_can_be_followed_are_cut_and_that_is_said() {
        let primary = rows(&[("1", "a"), ("2", "a"), ("3", "a")]);
        let mut settling = Settling::suspects(&primary, &[]);
        assert!(!settling.keep(3));
        assert!(settling.keep(2));
        assert_eq!(settling.keys().len(), 2);
    }
}
