//! What one cache proxy says to another before it passes bytes through. Pure.
//!
//! Inside mutual TLS the caller sends 16 bytes: the magic `PnCA`, the version 1, three zeros, and the number of the list of
//! servers that it goes by, big-endian. The callee answers with 9: one of [`Answer`], and the number of its own list.

/// Length of what the caller says.
pub const PREFACE_LEN: usize = 16;
/// Length of the answer.
pub const REPLY_LEN: usize = 9;

const HEAD: [u8; 8] = [b'P', b'n', b'C', b'A', 1, 0, 0, 0];

/// What the callee says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// Memcached's bytes follow.
    Accepted = 0,
    /// The preface is not one of this version.
    BadPreface = 1,
    /// The caller is no application or cache server of the callee's view.
    NotAllowed = 2,
    /// The callee serves another list, or none at the moment.
    OtherList = 3,
    /// The callee's memcached cannot be connected.
    NoMemcached = 4,
}

/// The caller's 16 bytes.
pub fn preface(list: u64) -> [u8; PREFACE_LEN] {
    let mut bytes = [0; PREFACE_LEN];
    bytes[..8].copy_from_slice(&HEAD);
    bytes[8..].copy_from_slice(&list.to_be_bytes());
    bytes
}

/// The list that the caller goes by; `None` when this is no preface.
pub fn parse(bytes: [u8; PREFACE_LEN]) -> Option<u64> {
    let list = bytes.strip_prefix(&HEAD)?;
    list.try_into().map(u64::from_be_bytes).ok()
}

impl Answer {
    const ALL: [Answer; 5] = [
        Answer::Accepted,
        Answer::BadPreface,
        Answer::NotAllowed,
        Answer::OtherList,
        Answer::NoMemcached,
    ];

    /// With the number of the callee's list.
    pub fn to_bytes(self, list: u64) -> [u8; REPLY_LEN] {
        let mut bytes = [self as u8; REPLY_LEN];
        bytes[1..].copy_from_slice(&list.to_be_bytes());
        bytes
    }

    /// From the callee's bytes; `None` for one that this version does not know.
    pub fn parse(bytes: [u8; REPLY_LEN]) -> Option<Answer> {
        Answer::ALL.into_iter().find(|answer| *answer as u8 == bytes[0])
    }

    /// In words.
    pub fn why(self) -> &'static str {
        match self {
            Answer::Accepted => "accepted",
            Answer::BadPreface => "it does not speak this version's protocol",
            Answer::NotAllowed => "this server is no application or cache server of its view",
            Answer::OtherList => "it goes by another list of cache servers",
            Answer::NoMemcached => "its memcached does not answer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood_and_nothing_else() {
        assert_eq!(parse(preface(77)), Some(77));
        for at in 0..8 {
            let mut bytes = preface(77);
            bytes[at] ^= 1;
            assert_eq!(parse(bytes), None);
        }
        for answer in Answer::ALL {
            assert_eq!(Answer::parse(answer.to_bytes(5)), Some(answer));
        }
        assert_eq!(Answer::parse([9; REPLY_LEN]), None);
    }
}
