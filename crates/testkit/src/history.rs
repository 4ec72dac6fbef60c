//! Whether what clients saw can have happened: a recorded history of transactions that append to lists and read them is
//! checked for anomalies, as Elle does (Kingsbury and Alvaro, «Elle: Inferring Isolation Anomalies from Experimental
//! Observations», VLDB 2020). Each value is appended once, so a list that was read tells the order of its writes.
//! Pure: no clocks and no databases.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a transaction did, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Appended that value to the list of that key. No value is appended twice.
    Append(u32, u64),
    /// Read the list of that key.
    Read(u32, Vec<u64>),
}

/// How a transaction ended, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was acknowledged.
    Committed,
    /// It was rolled back, for sure.
    Aborted,
    /// Its answer was lost.
    Unknown,
}

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// What it did.
    pub ops: Vec<Op>,
    /// How it ended.
    pub end: End,
}

/// What cannot have happened under serializability. Transactions are named by their place in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anomaly {
    /// An acknowledged append is missing in what was read last.
    Lost {
        /// Of which list.
        key: u32,
        /// What was appended.
        value: u64,
    },
    /// A value was read that nobody appended, or that was rolled back (G1a).
    NeverCommitted {
        /// In which list.
        key: u32,
        /// What was read.
        value: u64,
    },
    /// Two reads of a list, neither of which is the beginning of the other: the history forked. Or a value twice.
    Fork {
        /// Of which list.
        key: u32,
        /// What was read.
        reads: [Vec<u64>; 2],
    },
    /// Transactions that come before each other in a circle.
    Cycle {
        /// `G0`: of writes only; `G1c`: of writes and of reads of them; `G2-item`: also of reads that lack a write.
        class: &'static str,
        /// The circle, from one to the next.
        through: Vec<usize>,
    },
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Anomaly::Lost { key, value } => write!(f, "acknowledged and lost: {value} of list {key}"),
            Anomaly::NeverCommitted { key, value } => {
                write!(f, "read and never committed: {value} of list {key}")
            }
            Anomaly::Fork { key, reads } => write!(f, "list {key} forked: {reads:?}"),
            Anomaly::Cycle { class, through } => write!(f, "{class}: a cycle through {through:?}"),
        }
    }
}

/// Everything that is wrong with `history`. `last` is what was read of each list when everything had ended; a list that
/// is not in it is taken as empty.
pub fn check(history: &[Transaction], last: &BTreeMap<u32, Vec<u64>>) -> Vec<Anomaly> {
    let mut found = Vec::new();
    let mut writers: BTreeMap<(u32, u64), usize> = BTreeMap::new();
    for (number, transaction) in history.iter().enumerate() {
        for op in &transaction.ops {
            if let Op::Append(key, value) = op {
                writers.insert((*key, *value), number);
            }
        }
    }
    let empty = Vec::new();
    for ((key, value), writer) in &writers {
        let list = last.get(key).unwrap_or(&empty);
        if history[*writer].end == End::Committed && !list.contains(value) {
            found.push(Anomaly::Lost {
                key: *key,
                value: *value,
            });
        }
    }
    for (key, list) in last {
        for value in list {
            let writer = writers.get(&(*key, *value));
            if writer.is_none_or(|writer| history[*writer].end == End::Aborted) {
                found.push(Anomaly::NeverCommitted {
                    key: *key,
                    value: *value,
                });
            }
        }
        let different: BTreeSet<&u64> = list.iter().collect();
        if different.len() != list.len() {
            found.push(Anomaly::Fork {
                key: *key,
                reads: [list.clone(), list.clone()],
            });
        }
    }
    let reads = reads(history);
    for (_, key, list) in &reads {
        let whole = last.get(key).unwrap_or(&empty);
        if !whole.starts_with(list) {
            found.push(Anomaly::Fork {
                key: *key,
                reads: [list.clone(), whole.clone()],
            });
        }
    }
    if found.is_empty() {
        found.extend(cycle(history, last, &writers, &reads));
    }
    found
}

/// What was read by transactions that were not rolled back: by whom, of which list, less what they appended themselves.
fn reads(history: &[Transaction]) -> Vec<(usize, u32, Vec<u64>)> {
    let mut reads = Vec::new();
    for (number, transaction) in history.iter().enumerate() {
        if transaction.end == End::Aborted {
            continue;
        }
        let mut own: BTreeSet<(u32, u64)> = BTreeSet::new();
        for op in &transaction.ops {
            match op {
                Op::Append(key, value) => {
                    own.insert((*key, *value));
                }
                Op::Read(key, list) => {
                    let others = list.iter().take_while(|value| !own.contains(&(*key, **value)));
                    reads.push((number, *key, others.copied().collect()));
                }
            }
        }
    }
    reads
}

/// Which transaction comes right before which, by kind.
#[derive(Default)]
struct Edges {
    /// The second overwrote the first.
    ww: BTreeSet<(usize, usize)>,
    /// The second read the first.
    wr: BTreeSet<(usize, usize)>,
    /// The first read what the second had not written yet.
    rw: BTreeSet<(usize, usize)>,
}

fn cycle(
    history: &[Transaction],
    last: &BTreeMap<u32, Vec<u64>>,
    writers: &BTreeMap<(u32, u64), usize>,
    reads: &[(usize, u32, Vec<u64>)],
) -> Option<Anomaly> {
    let mut edges = Edges::default();
    let writer = |key: u32, value: u64| writers.get(&(key, value)).copied();
    let add = |set: &mut BTreeSet<(usize, usize)>, from: Option<usize>, to: Option<usize>| {
        if let (Some(from), Some(to)) = (from, to)
            && from != to
        {
            set.insert((from, to));
        }
    };
    for (key, list) in last {
        for pair in list.windows(2) {
            add(&mut edges.ww, writer(*key, pair[0]), writer(*key, pair[1]));
        }
    }
    for (reader, key, list) in reads {
        let newest = list.last().and_then(|value| writer(*key, *value));
        add(&mut edges.wr, newest, Some(*reader));
        let next = last.get(key).and_then(|whole| whole.get(list.len()));
        let next = next.and_then(|value| writer(*key, *value));
        add(&mut edges.rw, Some(*reader), next);
    }
    let mut all = edges.ww;
    for (class, more) in [("G0", BTreeSet::new()), ("G1c", edges.wr), ("G2-item", edges.rw)] {
        all.extend(more);
        if let Some(through) = circle(history.len(), &all) {
            return Some(Anomaly::Cycle { class, through });
        }
    }
    None
}

/// A circle, if there is one: what is left when all that nothing comes before is taken away holds one.
fn circle(count: usize, edges: &BTreeSet<(usize, usize)>) -> Option<Vec<usize>> {
    let mut before = vec![0_usize; count];
    for (_, to) in edges {
        before[*to] += 1;
    }
    let mut free: Vec<usize> = (0..count).filter(|one| before[*one] == 0).collect();
    let mut left = count;
    let after = |one: usize| edges.range((one, 0)..(one + 1, 0)).map(|(_, to)| *to);
    while let Some(one) = free.pop() {
        left -= 1;
        for to in after(one) {
            before[to] -= 1;
            if before[to] == 0 {
                free.push(to);
            }
        }
    }
    if left == 0 {
        return None;
    }
    // Each that is left has one before it that is left: back along those until one comes again.
    let source = |one: usize| {
        let mut into = edges.iter().filter(|(from, to)| *to == one && before[*from] > 0);
        into.next().map(|(from, _)| *from)
    };
    let mut way = vec![(0..count).find(|one| before[*one] > 0)?];
    loop {
        let next = source(*way.last()?)?;
        if let Some(begin) = way.iter().position(|one| *one == next) {
            let mut through = way.split_off(begin);
            through.reverse();
            return Some(through);
        }
        way.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(end: End, ops: &[Op]) -> Transaction {
        Transaction {
            ops: ops.to_vec(),
            end,
        }
    }

    fn a(key: u32, value: u64) -> Op {
        Op::Append(key, value)
    }

    fn r(key: u32, list: &[u64]) -> Op {
        Op::Read(key, list.to_vec())
    }

    fn last(lists: &[(u32, &[u64])]) -> BTreeMap<u32, Vec<u64>> {
        lists.iter().map(|(key, list)| (*key, list.to_vec())).collect()
    }

    use End::{Aborted, Committed, Unknown};

    fn class(found: &[Anomaly]) -> Option<&'static str> {
        match found {
            [Anomaly::Cycle { class, .. }] => Some(class),
            _ => None,
        }
    }

    #[test]
    fn what_can_have_happened_is_no_anomaly() {
        let history = [
            t(Committed, &[a(1, 1), r(1, &[1])]),
            t(Unknown, &[a(1, 2), a(2, 3)]),
            t(Committed, &[r(1, &[1, 2]), a(1, 4), r(1, &[1, 2, 4])]),
            t(Unknown, &[a(2, 9)]),
            t(Aborted, &[a(1, 5), r(1, &[1, 5])]),
        ];
        let found = check(&history, &last(&[(1, &[1, 2, 4]), (2, &[3])]));
        assert_eq!(found, [], "an unknown one may have happened or not");
    }

    #[test]
    fn a_lost_write_is_found() {
        let history = [t(Committed, &[a(1, 1)]), t(Committed, &[a(1, 2)])];
        let lost = |key, value| Anomaly::Lost { key, value };
        assert_eq!(check(&history, &last(&[(1, &[2])])), [lost(1, 1)]);
        assert_eq!(check(&history, &last(&[])), [lost(1, 1), lost(1, 2)]);
    }

    #[test]
    fn what_was_rolled_back_or_never_written_is_not_read() {
        let history = [t(Aborted, &[a(1, 1)])];
        let never = |value| Anomaly::NeverCommitted { key: 1, value };
        assert_eq!(check(&history, &last(&[(1, &[1, 7])])), [never(1), never(7)]);
    }

    #[test]
    fn a_fork_is_found() {
        // Two primaries: each client saw its own end.
        let history = [
            t(Committed, &[a(1, 1)]),
            t(Unknown, &[a(1, 2)]),
            t(Committed, &[r(1, &[1, 2])]),
            t(Committed, &[a(1, 3)]),
        ];
        let found = check(&history, &last(&[(1, &[1, 3])]));
        let fork = Anomaly::Fork {
            key: 1,
            reads: [vec![1, 2], vec![1, 3]],
        };
        assert_eq!(found, [fork]);
        let twice = check(&history[..1], &last(&[(1, &[1, 1])]));
        assert!(matches!(&twice[..], [Anomaly::Fork { .. }]), "{twice:?}");
    }

    #[test]
    fn circles_are_found_and_told_apart() {
        let writes = [
            t(Committed, &[a(1, 1), a(2, 1)]),
            t(Committed, &[a(1, 2), a(2, 2)]),
        ];
        let found = check(&writes, &last(&[(1, &[1, 2]), (2, &[2, 1])]));
        assert_eq!(class(&found), Some("G0"), "{found:?}");

        let reads = [
            t(Committed, &[a(1, 1), r(2, &[1])]),
            t(Committed, &[a(2, 1), r(1, &[1])]),
        ];
        let found = check(&reads, &last(&[(1, &[1]), (2, &[1])]));
        assert_eq!(class(&found), Some("G1c"), "{found:?}");

        // Write skew: each read what the other was about to change.
        let skew = [
            t(Committed, &[r(1, &[]), a(2, 1)]),
            t(Committed, &[r(2, &[]), a(1, 1)]),
        ];
        let found = check(&skew, &last(&[(1, &[1]), (2, &[1])]));
        assert_eq!(class(&found), Some("G2-item"), "{found:?}");

        // A lost update.
        let update = [
            t(Committed, &[r(1, &[]), a(1, 1)]),
            t(Committed, &[r(1, &[]), a(1, 2)]),
        ];
        let found = check(&update, &last(&[(1, &[1, 2])]));
        assert_eq!(class(&found), Some("G2-item"), "{found:?}");

        // A stale read after one's own fresher one, through a third.
        let stale = [
            t(Committed, &[a(1, 1)]),
            t(Committed, &[a(2, 1), r(1, &[1])]),
            t(Committed, &[r(2, &[1]), r(1, &[])]),
        ];
        let found = check(&stale, &last(&[(1, &[1]), (2, &[1])]));
        assert_eq!(class(&found), Some("G2-item"), "{found:?}");
    }

    /// A thousand serial transactions are no anomaly; two of their values exchanged in what was read last are.
    #[test]
    fn a_long_serial_history_is_clean_and_one_exchange_in_it_is_seen() {
        let mut lists: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        let mut history = Vec::new();
        for number in 0..1_000_u64 {
            let (one, other) = (1, (number % 5 + 10) as u32);
            let read = lists.get(&one).cloned().unwrap_or_default();
            lists.entry(other).or_default().push(number);
            lists.entry(one).or_default().push(number + 10_000);
            history.push(t(
                Committed,
                &[Op::Read(one, read), a(other, number), a(one, number + 10_000)],
            ));
        }
        assert_eq!(check(&history, &lists), []);
        lists.get_mut(&12).unwrap().swap(40, 41);
        assert_eq!(class(&check(&history, &lists)), Some("G0"));
    }
}
