//! The dictionary: keywords that matter, and what it means when a parenthesis follows a word.
//!
//! Built when the crate is compiled; a look-up is a hash of five bytes and, as a rule, one comparison.

mod call;
mod functions;
mod keywords;

pub(crate) use call::{Call, Callable};
pub(crate) use keywords::{Keyword, Use};

use functions::CALLS;

use crate::{Engine, Version};

/// What the dictionary knows of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) keyword: Keyword,
    /// An index of [`CALLS`]; 0 is a name like any other.
    pub(crate) call: u8,
}

impl Word {
    /// A word that is not in the dictionary, or that is a name where it stands.
    pub(crate) const NAME: Word = Word {
        keyword: Keyword::None,
        call: 0,
    };

    /// What it means when a parenthesis follows.
    pub(crate) fn call(self) -> &'static Callable {
        &CALLS[self.call as usize % CALLS.len()]
    }
}

/// What the dictionary knows of `name`, in any case of letters.
#[inline]
pub(crate) fn find(name: &[u8]) -> Word {
    if name.len() > LONGEST {
        return Word::NAME;
    }
    let mut slot = hash(name);
    loop {
        let entry = &SLOTS[slot % SIZE];
        if entry.name.is_empty() {
            return Word::NAME;
        }
        if entry.name.len() == name.len() && entry.name.as_bytes().eq_ignore_ascii_case(name) {
            return entry.word;
        }
        slot += 1;
    }
}

/// The names of functions that `engine` of this version has built in and that read without side effects: the
/// allow-list, for documentation and for the test that asks a real server about each.
pub fn built_in_functions(engine: Engine, version: Version) -> impl Iterator<Item = &'static str> {
    CALLS
        .iter()
        .filter(move |group| matches!(group.call, Call::Pure) && group.exists(engine, version))
        .flat_map(|group| group.names.iter().copied())
}

/// The keywords that may stand before a parenthesis without being a call, in the grammar of `engine`.
pub fn keywords_before_parentheses(engine: Engine) -> impl Iterator<Item = &'static str> {
    CALLS
        .iter()
        .filter(move |group| {
            matches!(group.call, Call::Grammar) && group.exists(engine, Version(u32::MAX - 1))
        })
        .flat_map(|group| group.names.iter().copied())
}

#[derive(Clone, Copy)]
struct Slot {
    name: &'static str,
    word: Word,
}

const SIZE: usize = 2048;
/// No word of the dictionary is longer; see the test.
const LONGEST: usize = 32;

static SLOTS: [Slot; SIZE] = build();

const fn build() -> [Slot; SIZE] {
    let empty = Slot {
        name: "",
        word: Word::NAME,
    };
    let mut slots = [empty; SIZE];
    let mut index = 0;
    while index < keywords::KEYWORDS.len() {
        let (name, keyword) = keywords::KEYWORDS[index];
        let slot = place(&slots, name);
        slots[slot].name = name;
        slots[slot].word.keyword = keyword;
        index += 1;
    }
    let mut group = 0;
    while group < CALLS.len() {
        let names = CALLS[group].names;
        let mut index = 0;
        while index < names.len() {
            let slot = place(&slots, names[index]);
            slots[slot].name = names[index];
            slots[slot].word.call = group as u8;
            index += 1;
        }
        group += 1;
    }
    slots
}

/// The slot of `name`, or the free one where it belongs.
const fn place(slots: &[Slot; SIZE], name: &str) -> usize {
    let mut slot = hash(name.as_bytes()) % SIZE;
    while !slots[slot].name.is_empty() && !same(slots[slot].name.as_bytes(), name.as_bytes()) {
        slot = (slot + 1) % SIZE;
    }
    slot
}

const fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut index = 0;
    while index < one.len() {
        if one[index] != other[index] {
            return false;
        }
        index += 1;
    }
    true
}

/// A hash that does not see the case of letters, of a few bytes only.
#[inline]
const fn hash(name: &[u8]) -> usize {
    let length = name.len();
    if length == 0 {
        return 0;
    }
    let one = (name[0] | 0x20) as u32;
    let two = (name[length / 2] | 0x20) as u32;
    let three = (name[length - 1] | 0x20) as u32;
    let four = (name[length / 4] | 0x20) as u32;
    let five = (name[length - 1 - length / 4] | 0x20) as u32;
    let mixed = (one | two << 8 | three << 16 | four << 24).wrapping_mul(0x9e37_79b1)
        ^ (five | (length as u32) << 8).wrapping_mul(0x85eb_ca6b);
    (mixed >> 15) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_found_in_any_case() {
        for (name, keyword) in keywords::KEYWORDS {
            assert_eq!(
                find(name.to_ascii_lowercase().as_bytes()).keyword,
                *keyword,
                "{name}"
            );
        }
        for (index, group) in CALLS.iter().enumerate() {
            for name in group.names {
                assert_eq!(
                    usize::from(find(name.as_bytes()).call),
                    index,
                    "{name} is in two groups"
                );
                assert!(name.len() <= LONGEST && !name.is_empty(), "{name}");
                assert_eq!(*name, name.to_ascii_uppercase());
            }
        }
        assert_eq!(find(b"customer_id"), Word::NAME);
        assert_eq!(find(b""), Word::NAME);
        assert_eq!(find(&[b'a'; 300]), Word::NAME);
    }

    #[test]
    fn the_table_is_sparse() {
        let used = SLOTS.iter().filter(|slot| !slot.name.is_empty()).count();
        assert!(used < SIZE / 2, "{used} of {SIZE}");
    }
}
