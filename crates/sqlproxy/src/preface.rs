//! What one proxy says to another before it passes bytes through. Pure.
//!
//! Inside mutual TLS, the caller sends 16 bytes:
//!
//! | bytes | meaning |
//! |---|---|
//! | 4 | the magic `PnSQ` |
//! | 1 | the version, 1 |
//! | 1 | how the client came: 1 over TCP, 2 over a Unix socket |
//! | 1 | what the connection is for: 0 the primary's database, 1 a replica's, to read from |
//! | 1 | zero |
//! | 8 | the epoch in which the caller believes the callee to be that, big-endian |
//!
//! The callee answers with 9 bytes: one of [`Answer`], and its own epoch, big-endian. After [`Answer::Accepted`] the
//! database's own bytes follow and both sides pass everything through; after anything else it closes, and the caller
//! waits and looks at its view again.

use std::fmt;

use pontoon_fleet::Epoch;

use crate::target::Transport;

/// Length of a [`Preface`] on the wire.
pub const PREFACE_LEN: usize = 16;
/// Length of a [`Reply`] on the wire.
pub const REPLY_LEN: usize = 9;

const MAGIC: [u8; 4] = *b"PnSQ";
const VERSION: u8 = 1;

/// What the caller wants of the callee's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is the primary: it takes writes.
    Primary,
    /// It is a replica: the caller sends reads only. The database is read-only by itself.
    Replica,
}

/// What the caller says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    /// What the connection is for.
    pub purpose: Purpose,
    /// How the client came.
    pub transport: Transport,
    /// The epoch of the caller's view.
    pub epoch: Epoch,
}

impl Preface {
    /// As bytes.
    pub fn to_bytes(self) -> [u8; PREFACE_LEN] {
        let transport = match self.transport {
            Transport::Tcp => 1,
            Transport::Unix => 2,
        };
        let mut bytes = [0; PREFACE_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = transport;
        bytes[6] = match self.purpose {
            Purpose::Primary => 0,
            Purpose::Replica => 1,
        };
        bytes[8..].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes
    }

    /// From bytes; `None` when they are not a preface of this version.
    pub fn parse(bytes: [u8; PREFACE_LEN]) -> Option<Preface> {
        let [m0, m1, m2, m3, version, transport, purpose, 0, epoch @ ..] = bytes else {
            return None;
        };
        let purpose = match purpose {
            0 => Purpose::Primary,
            1 => Purpose::Replica,
            _ => return None,
        };
        let transport = match transport {
            1 => Transport::Tcp,
            2 => Transport::Unix,
            _ => return None,
        };
        ([m0, m1, m2, m3] == MAGIC && version == VERSION).then_some(Preface {
            purpose,
            transport,
            epoch: Epoch(u64::from_be_bytes(epoch)),
        })
    }
}

/// What the callee says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// The database's bytes follow.
    Accepted = 0,
    /// The preface is not one of this version.
    BadPreface = 1,
    /// The caller is not an application or database server of the callee's view.
    NotAllowed = 2,
    /// The callee's database is not primary.
    NotPrimary = 3,
    /// The callee has not yet heard of the caller's epoch: it may have been demoted and not know.
    BehindCaller = 4,
    /// The callee's database cannot be connected.
    DatabaseUnavailable = 5,
    /// The callee has as many connections as it takes.
    Full = 6,
    /// The callee is shutting down.
    Stopping = 7,
    /// The callee has no database that is a replica: none at all, or the primary's.
    NotReplica = 8,
}

impl Answer {
    /// Every answer.
    pub const ALL: [Answer; 9] = [
        Answer::Accepted,
        Answer::BadPreface,
        Answer::NotAllowed,
        Answer::NotPrimary,
        Answer::BehindCaller,
        Answer::DatabaseUnavailable,
        Answer::Full,
        Answer::Stopping,
        Answer::NotReplica,
    ];
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Answer::Accepted => "accepted",
            Answer::BadPreface => "it does not speak this version's protocol",
            Answer::NotAllowed => "this server is not an application or database server of its view",
            Answer::NotPrimary => "its database is not primary",
            Answer::BehindCaller => "it has not heard of this epoch yet",
            Answer::DatabaseUnavailable => "its database cannot be connected",
            Answer::Full => "it has as many connections as it takes",
            Answer::Stopping => "it is shutting down",
            Answer::NotReplica => "its database is not a replica",
        })
    }
}

/// The callee's whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Yes, or why not.
    pub answer: Answer,
    /// The callee's epoch.
    pub epoch: Epoch,
}

impl Reply {
    /// As bytes.
    pub fn to_bytes(self) -> [u8; REPLY_LEN] {
        let mut bytes = [0; REPLY_LEN];
        bytes[0] = self.answer as u8;
        bytes[1..].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes
    }

    /// From bytes; `None` for an answer that this version does not know.
    pub fn parse(bytes: [u8; REPLY_LEN]) -> Option<Reply> {
        let [answer, epoch @ ..] = bytes;
        let answer = Answer::ALL.into_iter().find(|known| *known as u8 == answer)?;
        Some(Reply {
            answer,
            epoch: Epoch(u64::from_be_bytes(epoch)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn prefaces_and_replies_come_back(epoch: u64, unix: bool, replica: bool, answer in 0usize..9) {
            let transport = if unix { Transport::Unix } else { Transport::Tcp };
            let purpose = if replica { Purpose::Replica } else { Purpose::Primary };
            let preface = Preface { purpose, transport, epoch: Epoch(epoch) };
            prop_assert_eq!(Preface::parse(preface.to_bytes()), Some(preface));
            let reply = Reply { answer: Answer::ALL[answer], epoch: Epoch(epoch) };
            prop_assert_eq!(Reply::parse(reply.to_bytes()), Some(reply));
        }

        #[test]
        fn a_preface_with_any_other_byte_in_its_head_is_refused(at in 0usize..8, value: u8) {
            let good = Preface { purpose: Purpose::Primary, transport: Transport::Tcp, epoch: Epoch(3) };
            let mut bytes = good.to_bytes();
            bytes[at] = value;
            let parsed = Preface::parse(bytes);
            let unix = Preface { transport: Transport::Unix, ..good };
            let replica = Preface { purpose: Purpose::Replica, ..good };
            let other = (at == 5 && parsed == Some(unix)) || (at == 6 && parsed == Some(replica));
            prop_assert!(bytes == good.to_bytes() || parsed.is_none() || other);
        }
    }
}
