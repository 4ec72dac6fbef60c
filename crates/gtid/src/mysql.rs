//! MySQL: sets of transactions (`gtid_executed`, the OK packet's GTIDs). MySQL manual, "GTID Format and Storage":
//!
//! ```text
//! gtid_set: uuid_set [, uuid_set] …
//! uuid_set: uuid:[tag:]interval[:interval]…[:tag:interval…]
//! interval: m[-n]
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::PositionError;
use crate::mariadb::number;

/// More than any server's history has.
const MAX_INTERVALS: usize = 16_384;
/// Transaction numbers end below 2^63 (MySQL manual, "GTID Format").
pub(crate) const MAX_NUMBER: u64 = i64::MAX as u64;
/// The longest tag, in bytes.
const MAX_TAG: usize = 32;

/// A set of transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GtidSet(BTreeMap<Source, Intervals>);

/// Who numbered the transactions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    uuid: u128,
    /// Lower case; empty for none.
    tag: String,
}

/// Closed intervals: in order, not empty, with a gap between two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Intervals(Vec<(u64, u64)>);

impl GtidSet {
    /// Reads a set. Case, blanks and the order of its parts mean nothing.
    ///
    /// # Errors
    /// [`PositionError::Malformed`].
    pub fn parse(text: &str) -> Result<GtidSet, PositionError> {
        let mut set = GtidSet::default();
        let mut count = 0;
        for part in text.split(',').map(str::trim) {
            // MySQL itself writes and reads sets with empty parts.
            if part.is_empty() {
                continue;
            }
            let mut pieces = part.split(':').map(str::trim);
            let mut source = Source {
                uuid: uuid(pieces.next().unwrap_or(""))?,
                tag: String::new(),
            };
            let mut intervals = Vec::new();
            let mut seen = false;
            for piece in pieces {
                if piece.starts_with(|first: char| first.is_ascii_digit()) {
                    intervals.push(interval(piece)?);
                    seen = true;
                    count += 1;
                    if count > MAX_INTERVALS {
                        return Err(PositionError::Malformed("too many intervals"));
                    }
                } else {
                    set.add_all(&source, std::mem::take(&mut intervals));
                    source.tag = tag(piece)?;
                    seen = false;
                }
            }
            if !seen {
                return Err(PositionError::Malformed("expected an interval"));
            }
            set.add_all(&source, intervals);
        }
        Ok(set)
    }

    fn add_all(&mut self, source: &Source, intervals: Vec<(u64, u64)>) {
        if !intervals.is_empty() {
            self.0.entry(source.clone()).or_default().add_all(intervals);
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many transactions are in it.
    pub fn transactions(&self) -> u64 {
        let of = |intervals: &Intervals| {
            intervals
                .0
                .iter()
                .fold(0, |sum: u64, (first, last)| sum.saturating_add(last - first + 1))
        };
        self.0
            .values()
            .fold(0, |sum, intervals| sum.saturating_add(of(intervals)))
    }

    /// The set of one transaction, or of none when it cannot be: numbers begin at 1.
    pub(crate) fn of_one(uuid: u128, tag: &str, number: u64) -> GtidSet {
        let mut set = GtidSet::default();
        if (1..MAX_NUMBER).contains(&number) {
            let source = Source {
                uuid,
                tag: tag.to_owned(),
            };
            set.add_all(&source, vec![(number, number)]);
        }
        set
    }

    /// Takes a run of transactions in.
    pub(crate) fn add_run(&mut self, uuid: u128, tag: &str, run: (u64, u64)) {
        let source = Source {
            uuid,
            tag: tag.to_owned(),
        };
        self.add_all(&source, vec![run]);
    }

    /// The transactions that `other` lacks.
    pub fn without(&self, other: &GtidSet) -> GtidSet {
        let mut left = GtidSet::default();
        for (source, ours) in &self.0 {
            let theirs = other.0.get(source);
            let rest = ours.without(theirs.map_or(&[], |theirs| &theirs.0));
            left.add_all(source, rest);
        }
        left
    }

    /// How many intervals it has.
    pub fn parts(&self) -> usize {
        self.0.values().map(|intervals| intervals.0.len()).sum()
    }

    /// Whether the same servers numbered its transactions as those of `other`.
    pub(crate) fn has_sources_of(&self, other: &GtidSet) -> bool {
        self.0.keys().eq(other.0.keys())
    }

    /// Whether every transaction of `other` is in it.
    pub fn contains(&self, other: &GtidSet) -> bool {
        let contained = |(source, theirs): (&Source, &Intervals)| {
            self.0.get(source).is_some_and(|ours| ours.contains(theirs))
        };
        other.0.iter().all(contained)
    }

    /// The transactions of both.
    pub fn merge(&mut self, other: &GtidSet) {
        for (source, theirs) in &other.0 {
            match self.0.get_mut(source) {
                // The usual case: the next one of a source.
                Some(ours) => match theirs.0[..] {
                    [one] => ours.add(one),
                    _ => ours.add_all(theirs.0.clone()),
                },
                None => {
                    self.0.insert(source.clone(), theirs.clone());
                }
            }
        }
    }

    /// Fills the smallest gaps until every source has at most `most` intervals (and one at least).
    pub fn widen(&mut self, most: usize) {
        self.0
            .values_mut()
            .for_each(|intervals| intervals.widen(most.max(1)));
    }
}

impl Intervals {
    fn add(&mut self, (first, last): (u64, u64)) {
        // The intervals that overlap or touch the new one.
        let from = self.0.partition_point(|&(_, end)| end.saturating_add(1) < first);
        let until = self
            .0
            .partition_point(|&(start, _)| start <= last.saturating_add(1));
        if from >= until {
            self.0.insert(from, (first, last));
            return;
        }
        let joined = (self.0[from].0.min(first), self.0[until - 1].1.max(last));
        self.0.splice(from..until, [joined]);
    }

    /// Many at once, in the time that sorting takes.
    fn add_all(&mut self, mut more: Vec<(u64, u64)>) {
        more.append(&mut self.0);
        more.sort_unstable();
        for (first, last) in more {
            match self.0.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => self.0.push((first, last)),
            }
        }
    }

    fn contains(&self, other: &Intervals) -> bool {
        other.0.iter().all(|&(first, last)| {
            let at = self.0.partition_point(|&(_, end)| end < first);
            self.0
                .get(at)
                .is_some_and(|&(start, end)| start <= first && last <= end)
        })
    }

    fn without(&self, theirs: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut left = Vec::new();
        let mut theirs = theirs.iter().peekable();
        for &(mut first, last) in &self.0 {
            while let Some(&&(start, end)) = theirs.peek() {
                if end < first {
                    theirs.next();
                    continue;
                }
                if start > last {
                    break;
                }
                if first < start {
                    left.push((first, start - 1));
                }
                first = end + 1;
                if end >= last {
                    break;
                }
                theirs.next();
            }
            if first <= last {
                left.push((first, last));
            }
        }
        left
    }

    /// Keeps the largest gaps, in the time that sorting takes.
    fn widen(&mut self, most: usize) {
        if self.0.len() <= most {
            return;
        }
        let mut gaps: Vec<(u64, usize)> = self
            .0
            .windows(2)
            .enumerate()
            .map(|(at, pair)| (pair[1].0 - pair[0].1, at))
            .collect();
        gaps.sort_unstable_by(|one, other| other.cmp(one));
        gaps.truncate(most.saturating_sub(1));
        let kept: BTreeSet<usize> = gaps.into_iter().map(|(_, at)| at).collect();
        let mut wide: Vec<(u64, u64)> = Vec::with_capacity(most);
        for (at, &(first, last)) in self.0.iter().enumerate() {
            match wide.last_mut() {
                Some(before) if at.checked_sub(1).is_none_or(|gap| !kept.contains(&gap)) => before.1 = last,
                _ => wide.push((first, last)),
            }
        }
        self.0 = wide;
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (source, intervals)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let hex = format!("{:032x}", source.uuid);
            let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
            write!(f, "{comma}{a}-{b}-{c}-{d}-{e}")?;
            if !source.tag.is_empty() {
                write!(f, ":{}", source.tag)?;
            }
            for &(first, last) in &intervals.0 {
                match first == last {
                    true => write!(f, ":{first}")?,
                    false => write!(f, ":{first}-{last}")?,
                }
            }
        }
        Ok(())
    }
}

/// `3e11fa47-71ca-11e1-9e33-c80aa9429562`; MySQL takes it without dashes and in braces too, but writes it so.
fn uuid(text: &str) -> Result<u128, PositionError> {
    const WRONG: PositionError = PositionError::Malformed("expected the UUID of a server");
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return Err(WRONG);
    }
    let mut value = 0u128;
    for (at, byte) in bytes.iter().enumerate() {
        let digit = match (at, byte) {
            (8 | 13 | 18 | 23, b'-') => continue,
            (8 | 13 | 18 | 23, _) => return Err(WRONG),
            (_, byte) => char::from(*byte).to_digit(16).ok_or(WRONG)?,
        };
        value = value << 4 | u128::from(digit);
    }
    Ok(value)
}

/// Letters, digits and underscores, not a digit first; case means nothing.
pub(crate) fn tag(text: &str) -> Result<String, PositionError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let first_is_good = text.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    if !first_is_good || text.len() > MAX_TAG || !text.bytes().all(good) {
        return Err(PositionError::Malformed("expected an interval or a tag"));
    }
    Ok(text.to_ascii_lowercase())
}

fn interval(text: &str) -> Result<(u64, u64), PositionError> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first.trim())?, number(last.trim())?),
        None => {
            let only = number(text)?;
            (only, only)
        }
    };
    if first == 0 || last < first || last >= MAX_NUMBER {
        return Err(PositionError::Malformed(
            "an interval that is empty or out of range",
        ));
    }
    Ok((first, last))
}
