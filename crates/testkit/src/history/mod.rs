//! Whether what clients saw can have happened: a recorded history of transactions that append to lists, write registers
//! and read both is checked for anomalies, as Elle does (Kingsbury and Alvaro, «Elle: Inferring Isolation Anomalies from
//! Experimental Observations», VLDB 2020; the classes are Adya's). Each value is written once, so a list that was read
//! tells the order of its writes, and a register that was read before it was written tells what was overwritten.
//! Pure: no clocks and no databases.

mod graph;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// What a transaction did, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Appended that value to the list of that key. No value is appended twice.
    Append(u32, u64),
    /// Read the list of that key.
    Read(u32, Vec<u64>),
    /// Wrote that value to the register of that key. No value is written twice.
    Write(u32, u64),
    /// Read the register of that key; nothing when nobody had written it.
    Get(u32, Option<u64>),
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
    /// Before its first statement was sent, on the one clock of all clients.
    pub began: Duration,
    /// After its last answer came, on the same clock. That of an unknown one says nothing.
    pub ended: Duration,
}

/// What was read when everything had ended; what is not in it is taken as empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Last {
    /// Each list.
    pub lists: BTreeMap<u32, Vec<u64>>,
    /// Each register.
    pub registers: BTreeMap<u32, u64>,
}

/// What cannot have happened under strict serializability. Transactions are named by their place in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anomaly {
    /// An acknowledged append is missing in what was read last.
    Lost {
        /// Of which list.
        key: u32,
        /// What was appended.
        value: u64,
    },
    /// A value was read that nobody wrote, or that was rolled back (G1a).
    NeverCommitted {
        /// Of which list or register.
        key: u32,
        /// What was read.
        value: u64,
    },
    /// A value was read that its writer had not left there (G1b).
    Intermediate {
        /// Of which list or register.
        key: u32,
        /// What was read.
        value: u64,
    },
    /// A transaction did not read what it had written itself.
    Internal {
        /// Which transaction.
        transaction: usize,
        /// Of which list or register.
        key: u32,
    },
    /// Two transactions read the same state of a list or register, and both wrote it.
    LostUpdate {
        /// Of which list or register.
        key: u32,
        /// Which transactions.
        writers: [usize; 2],
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
        /// `G0`: of writes only; `G1c`: of writes and of reads of them; `G2-item`: also of reads that lack a write;
        /// `real-time`: also of transactions that had ended before others began, such as a stale read.
        class: &'static str,
        /// The circle, from one to the next. What was read last has the number after the history's.
        through: Vec<usize>,
    },
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Anomaly::Lost { key, value } => write!(f, "acknowledged and lost: {value} of list {key}"),
            Anomaly::NeverCommitted { key, value } => {
                write!(f, "read and never committed: {value} of {key}")
            }
            Anomaly::Intermediate { key, value } => {
                write!(f, "read in the midst of its transaction: {value} of {key}")
            }
            Anomaly::Internal { transaction, key } => {
                write!(f, "transaction {transaction} did not read its own write of {key}")
            }
            Anomaly::LostUpdate { key, writers } => {
                write!(f, "lost update: {writers:?} changed the same state of {key}")
            }
            Anomaly::Fork { key, reads } => write!(f, "list {key} forked: {reads:?}"),
            Anomaly::Cycle { class, through } => write!(f, "{class}: a cycle through {through:?}"),
        }
    }
}

/// Everything that is wrong with `history`. A transaction that only read may have seen what was so up to `stale` before
/// it began: zero asks for strict serializability, more allows a primary that was replaced to answer reads for so long.
pub fn check(history: &[Transaction], last: &Last, stale: Duration) -> Vec<Anomaly> {
    let book = Book::new(history, last);
    let mut found = book.lists(last);
    found.extend(book.values());
    found.extend(book.internal());
    if found.is_empty() {
        found.extend(book.lost_updates());
    }
    if found.is_empty() {
        found.extend(graph::cycle(&book, last, stale));
    }
    found
}

/// A list or a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    List(u32),
    Register(u32),
}

impl Place {
    fn key(self) -> u32 {
        let (Place::List(key) | Place::Register(key)) = self;
        key
    }
}

/// What a read of another's writes saw.
#[derive(Clone, Debug)]
struct Seen {
    reader: usize,
    place: Place,
    /// The whole list, or what was in the register.
    state: Vec<u64>,
}

/// The history with its last read as one more transaction, and who wrote and read what.
struct Book {
    history: Vec<Transaction>,
    writers: BTreeMap<(Place, u64), usize>,
    /// Whether each transaction was carried out, as far as that is known.
    done: Vec<bool>,
    seen: Vec<Seen>,
}

impl Book {
    fn new(history: &[Transaction], last: &Last) -> Book {
        let lists = last.lists.iter().map(|(key, list)| Op::Read(*key, list.clone()));
        let registers = last
            .registers
            .iter()
            .map(|(key, value)| Op::Get(*key, Some(*value)));
        let end = Transaction {
            ops: lists.chain(registers).collect(),
            end: End::Committed,
            began: Duration::MAX,
            ended: Duration::MAX,
        };
        let mut book = Book {
            history: history.iter().cloned().chain([end]).collect(),
            writers: BTreeMap::new(),
            done: Vec::new(),
            seen: Vec::new(),
        };
        for (number, transaction) in book.history.iter().enumerate() {
            for op in &transaction.ops {
                match op {
                    Op::Append(key, value) => book.writers.insert((Place::List(*key), *value), number),
                    Op::Write(key, value) => book.writers.insert((Place::Register(*key), *value), number),
                    Op::Read(..) | Op::Get(..) => None,
                };
            }
        }
        book.done = book.history.iter().map(|one| one.end == End::Committed).collect();
        for (number, transaction) in book.history.iter().enumerate() {
            if transaction.end == End::Committed {
                book.seen.extend(seen(number, transaction));
            }
        }
        // One whose answer was lost was carried out if somebody saw a write of it. If nobody did, what it read says
        // nothing: it may have been rolled back.
        let found: BTreeSet<usize> = book
            .seen
            .iter()
            .flat_map(|seen| {
                seen.state
                    .iter()
                    .filter_map(|value| book.writer(seen.place, *value))
            })
            .filter(|writer| book.history[*writer].end == End::Unknown)
            .collect();
        for number in found {
            book.done[number] = true;
            book.seen.extend(seen(number, &book.history[number]));
        }
        book
    }

    fn writer(&self, place: Place, value: u64) -> Option<usize> {
        self.writers.get(&(place, value)).copied()
    }

    /// What is lost, and what forked.
    fn lists(&self, last: &Last) -> Vec<Anomaly> {
        let (mut found, empty) = (Vec::new(), Vec::new());
        for ((place, value), writer) in &self.writers {
            let Place::List(key) = *place else { continue };
            let list = last.lists.get(&key).unwrap_or(&empty);
            if self.history[*writer].end == End::Committed && !list.contains(value) {
                found.push(Anomaly::Lost { key, value: *value });
            }
        }
        for (key, list) in &last.lists {
            let different: BTreeSet<&u64> = list.iter().collect();
            if different.len() != list.len() {
                found.push(Anomaly::Fork {
                    key: *key,
                    reads: [list.clone(), list.clone()],
                });
            }
        }
        for seen in &self.seen {
            let Place::List(key) = seen.place else { continue };
            let whole = last.lists.get(&key).unwrap_or(&empty);
            let aborted = |value: &u64| {
                let writer = self.writer(seen.place, *value);
                writer.is_none_or(|writer| self.history[writer].end == End::Aborted)
            };
            // One that reads what was rolled back is told by that.
            if !whole.starts_with(&seen.state) && !seen.state.iter().any(aborted) {
                found.push(Anomaly::Fork {
                    key,
                    reads: [seen.state.clone(), whole.clone()],
                });
            }
        }
        found
    }

    /// What was read and never committed, or was not left there by its writer.
    fn values(&self) -> Vec<Anomaly> {
        let mut never = BTreeSet::new();
        let mut intermediate = BTreeSet::new();
        for seen in &self.seen {
            let place = seen.place;
            for value in &seen.state {
                let writer = self.writer(place, *value);
                if writer.is_none_or(|writer| self.history[writer].end == End::Aborted) {
                    never.insert((place, *value));
                }
            }
            let newest = seen.state.last().copied();
            let writer = newest.and_then(|value| self.writer(place, value));
            if let (Some(value), Some(writer)) = (newest, writer)
                && left(&self.history[writer], place) != Some(value)
            {
                intermediate.insert((place, value));
            }
        }
        let never = never.into_iter().map(|(place, value)| Anomaly::NeverCommitted {
            key: place.key(),
            value,
        });
        let intermediate = intermediate
            .into_iter()
            .map(|(place, value)| Anomaly::Intermediate {
                key: place.key(),
                value,
            });
        never.chain(intermediate).collect()
    }

    /// Who did not see what it had written itself.
    fn internal(&self) -> Vec<Anomaly> {
        let mut found = Vec::new();
        for (transaction, one) in self.history.iter().enumerate() {
            let mut own: BTreeMap<Place, u64> = BTreeMap::new();
            for op in &one.ops {
                let (place, newest) = match op {
                    Op::Append(key, value) => {
                        own.insert(Place::List(*key), *value);
                        continue;
                    }
                    Op::Write(key, value) => {
                        own.insert(Place::Register(*key), *value);
                        continue;
                    }
                    Op::Read(key, list) => (Place::List(*key), list.last()),
                    Op::Get(key, value) => (Place::Register(*key), value.as_ref()),
                };
                if self.done[transaction] && own.get(&place).is_some_and(|value| Some(value) != newest) {
                    let key = place.key();
                    found.push(Anomaly::Internal { transaction, key });
                }
            }
        }
        found
    }

    /// Who changed the same state of something as another.
    fn lost_updates(&self) -> Vec<Anomaly> {
        let mut first: BTreeMap<(Place, &[u64]), usize> = BTreeMap::new();
        let mut found = Vec::new();
        for seen in &self.seen {
            let writes = left(&self.history[seen.reader], seen.place).is_some();
            if self.history[seen.reader].end != End::Committed || !writes {
                continue;
            }
            let earlier = *first
                .entry((seen.place, seen.state.as_slice()))
                .or_insert(seen.reader);
            if earlier != seen.reader {
                found.push(Anomaly::LostUpdate {
                    key: seen.place.key(),
                    writers: [earlier, seen.reader],
                });
            }
        }
        found
    }
}

/// What a transaction saw of others: the reads of what it had not written itself before.
fn seen(reader: usize, transaction: &Transaction) -> Vec<Seen> {
    let mut own: BTreeSet<(Place, u64)> = BTreeSet::new();
    let mut all = Vec::new();
    for op in &transaction.ops {
        match op {
            Op::Append(key, value) => {
                own.insert((Place::List(*key), *value));
            }
            Op::Write(key, value) => {
                own.insert((Place::Register(*key), *value));
            }
            Op::Read(key, list) => {
                let place = Place::List(*key);
                let others = list.iter().take_while(|value| !own.contains(&(place, **value)));
                let state = others.copied().collect();
                all.push(Seen { reader, place, state });
            }
            Op::Get(key, value) => {
                let place = Place::Register(*key);
                if !own.iter().any(|(written, _)| *written == place) {
                    let state = value.iter().copied().collect();
                    all.push(Seen { reader, place, state });
                }
            }
        }
    }
    all
}

/// The last value that a transaction wrote there.
fn left(transaction: &Transaction, place: Place) -> Option<u64> {
    let mut writes = transaction.ops.iter().rev();
    writes.find_map(|op| match (op, place) {
        (Op::Append(key, value), Place::List(of)) if *key == of => Some(*value),
        (Op::Write(key, value), Place::Register(of)) if *key == of => Some(*value),
        _ => None,
    })
}
