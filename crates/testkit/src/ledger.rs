//! What visitors were told is written, and whether it is all still there.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::app::{Found, TextHash, WriteId};

/// Every write that the application acknowledged, with the hash of its text.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<WriteId, TextHash>,
    given_twice: Vec<WriteId>,
}

/// The ledger against what was read back from one place: N of N.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reread {
    /// How many writes were acknowledged.
    pub acknowledged: usize,
    /// How many of them are there, with their text.
    pub found: usize,
    /// Those that are not there.
    pub missing: Vec<String>,
    /// Those that are there with another text, or whose identity was given to two writes.
    pub altered: Vec<String>,
}

impl Ledger {
    /// Enters an acknowledged write.
    pub fn enter(&mut self, id: WriteId, text: &str) {
        if self.entries.insert(id.clone(), TextHash::of(text)).is_some() {
            // Two writers that both count on: what a split brain looks like to visitors.
            self.given_twice.push(id);
        }
    }

    /// How many writes were acknowledged.
    pub fn len(&self) -> usize {
        self.entries.len() + self.given_twice.len()
    }

    /// Whether nothing was acknowledged yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many writes of each kind were acknowledged.
    pub fn kinds(&self) -> BTreeMap<&'static str, usize> {
        let mut kinds = BTreeMap::new();
        for id in self.entries.keys().chain(&self.given_twice) {
            *kinds.entry(id.kind).or_default() += 1;
        }
        kinds
    }

    /// Compares with what was read back. What was written without being acknowledged does no harm.
    pub fn compare(&self, found: &Found) -> Reread {
        let mut reread = Reread {
            acknowledged: self.len(),
            ..Reread::default()
        };
        reread.altered.extend(
            self.given_twice
                .iter()
                .map(|id| format!("{id} (given to two writes)")),
        );
        for (id, hash) in &self.entries {
            match found.get(id) {
                Some(there) if there == hash => reread.found += 1,
                Some(_) => reread.altered.push(id.to_string()),
                None => reread.missing.push(id.to_string()),
            }
        }
        reread
    }
}

impl Reread {
    /// Whether every acknowledged write is there.
    pub fn complete(&self) -> bool {
        self.found == self.acknowledged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_an_altered_and_a_doubled_write_are_told() {
        let id = |id| WriteId { kind: "note", id };
        let mut ledger = Ledger::default();
        for (n, text) in [
            (1, "one"),
            (2, "two"),
            (3, "three"),
            (4, "four"),
            (4, "another four"),
        ] {
            ledger.enter(id(n), text);
        }
        let found = [
            (1, "one"),
            (2, "2"),
            (4, "another four"),
            (9, "never acknowledged"),
        ];
        let found: Found = found
            .into_iter()
            .map(|(n, text)| (id(n), TextHash::of(text)))
            .collect();
        let reread = ledger.compare(&found);
        assert_eq!(
            (reread.acknowledged, reread.found, reread.complete()),
            (5, 2, false)
        );
        assert_eq!(reread.missing, ["note 3"]);
        assert_eq!(reread.altered, ["note 4 (given to two writes)", "note 2"]);
        assert!(Ledger::default().compare(&found).complete());
    }
}
