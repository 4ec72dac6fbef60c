//! Which transactions a binary log file holds, and where each begins and ends.
//!
//! Only as much of each event is read as that needs (MySQL Internals, "Binary Log Event"; MariaDB manual,
//! "Replication Protocol", for the events 160 to 166). Whoever reads the file calls [`Walk::wants`] with each header and
//! hands in as many bytes of the body; so this is pure, and any bytes may be given to it.
//!
//! **Must never:** take a transaction for complete whose end is not there; trust a length.

mod event;
mod feed;
#[cfg(test)]
mod tests;

use crate::history::{Gtid, History};
use crate::{Dialect, PositionError};

pub use event::{HEADER_BYTES, Header};
pub use feed::{Committed, Feed};

/// What a binary log file begins with.
pub const MAGIC: [u8; 4] = *b"\xfebin";

/// What one begins with that MySQL has encrypted (`binlog_encryption`).
const ENCRYPTED_MAGIC: [u8; 4] = *b"\xfdbin";

/// The longest body that is asked for: lists of GTIDs.
const MAX_BODY: usize = 16 << 20;

/// Why a binary log cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BinlogError {
    /// It begins with something else.
    #[error("it is not a binary log")]
    NotABinlog,
    /// It is encrypted.
    #[error("it is encrypted")]
    Encrypted,
    /// Something in it makes no sense.
    #[error("the event at {at}: {what}")]
    Malformed {
        /// Where it begins, in bytes from the file's begin.
        at: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A transaction in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its name.
    pub gtid: Gtid,
    /// Where its first event begins.
    pub begin: u64,
    /// Where its last event ends.
    pub end: u64,
    /// Why the engine would not roll it back when it is prepared there and missing in the binary log; `None` when it
    /// would: rows of transactional tables, ended by an XID.
    pub stays: Option<&'static str>,
}

/// Goes through one file, event by event.
#[derive(Clone, Debug)]
pub struct Walk {
    dialect: Dialect,
    at: u64,
    in_use: Option<bool>,
    checksum_bytes: usize,
    before: Option<History>,
    format_end: u64,
    open: Option<Open>,
}

/// A transaction whose end has not been seen yet.
#[derive(Clone, Debug)]
struct Open {
    gtid: Gtid,
    begin: u64,
    stays: Option<&'static str>,
    /// Ends with the next event (MariaDB's standalone groups).
    standalone: bool,
    /// MySQL: `BEGIN` was seen.
    begun: bool,
}

impl Walk {
    /// Of a file that begins with `magic`.
    ///
    /// # Errors
    /// [`BinlogError::Encrypted`], [`BinlogError::NotABinlog`].
    pub fn new(dialect: Dialect, magic: [u8; 4]) -> Result<Walk, BinlogError> {
        match magic {
            MAGIC => Ok(Walk {
                dialect,
                at: 4,
                in_use: None,
                checksum_bytes: 0,
                before: None,
                format_end: 4,
                open: None,
            }),
            ENCRYPTED_MAGIC => Err(BinlogError::Encrypted),
            _ => Err(BinlogError::NotABinlog),
        }
    }

    /// Where the next event begins.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Whether the file was not closed in good order, so that the server's start will recover from it. `None` before its
    /// first event.
    pub fn in_use(&self) -> Option<bool> {
        self.in_use
    }

    /// What the server had before this file, as the file says; `None` before that event.
    pub fn before(&self) -> Option<&History> {
        self.before.as_ref()
    }

    /// Where the events end that every reader of a part of this file needs first: the format description and the list
    /// of what came before.
    pub fn format_end(&self) -> u64 {
        self.format_end
    }

    /// Where the transaction begins whose end has not been seen yet.
    pub fn incomplete(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.begin)
    }

    /// How many bytes of the body of the event with this header [`Walk::event`] needs, from its first on.
    ///
    /// # Errors
    /// When the header makes no sense.
    pub fn wants(&self, header: &Header) -> Result<usize, BinlogError> {
        let body = header.body_bytes();
        let wanted = match header.kind {
            event::FORMAT_DESCRIPTION
            | event::PREVIOUS_GTIDS
            | event::MARIADB_GTID_LIST
            | event::MYSQL_GTID
            | event::MYSQL_GTID_TAGGED
            | event::MARIADB_GTID => body,
            event::QUERY => body.min(event::QUERY_BYTES),
            _ => 0,
        };
        match wanted > MAX_BODY {
            true => Err(self.malformed("it is longer than any of its kind")),
            false => Ok(wanted),
        }
    }

    /// Takes an event in; returns the transaction that ends with it.
    ///
    /// # Errors
    /// When it makes no sense there, or a file that is encrypted begins to be so ([`BinlogError::Encrypted`]).
    pub fn event(&mut self, header: &Header, body: &[u8]) -> Result<Option<Transaction>, BinlogError> {
        if body.len() < self.wants(header)? {
            return Err(self.malformed("its body is not all there"));
        }
        if self.in_use.is_none() && header.kind != event::FORMAT_DESCRIPTION {
            return Err(self.malformed("expected the format description"));
        }
        let begin = self.at;
        let end = begin + u64::from(header.size);
        let malformed = |what| BinlogError::Malformed { at: begin, what };
        let plain = body.len().saturating_sub(self.checksum_bytes);
        let mut done = None;
        match header.kind {
            event::FORMAT_DESCRIPTION => {
                if self.in_use.is_some() {
                    return Err(malformed("a second format description"));
                }
                self.checksum_bytes = event::checksum_bytes(body).map_err(malformed)?;
                self.in_use = Some(header.is_in_use());
                self.format_end = end;
            }
            event::MARIADB_START_ENCRYPTION => return Err(BinlogError::Encrypted),
            event::PREVIOUS_GTIDS | event::MARIADB_GTID_LIST => {
                let list = event::history_before(self.dialect, header.kind, &body[..plain]);
                self.before = Some(list.map_err(malformed)?);
                self.format_end = end;
            }
            event::MYSQL_GTID | event::MYSQL_GTID_TAGGED | event::MARIADB_GTID => {
                if self.open.is_some() {
                    return Err(malformed("a transaction begins inside another"));
                }
                let (gtid, stays, standalone) =
                    event::gtid(self.dialect, header, &body[..plain]).map_err(malformed)?;
                self.open = Some(Open {
                    gtid,
                    begin,
                    stays,
                    standalone,
                    begun: self.dialect == Dialect::MariaDb,
                });
            }
            event::MYSQL_ANONYMOUS_GTID => return Err(malformed("a transaction without a GTID")),
            // The next file's name, a clean end, a heartbeat, what the coordinator may forget: not part of a transaction.
            event::ROTATE | event::STOP | event::HEARTBEAT | event::MARIADB_CHECKPOINT => {
                if self.open.is_some() {
                    return Err(malformed("the file goes on inside a transaction"));
                }
            }
            kind => done = self.inside(kind, body, end).map_err(malformed)?,
        }
        self.at = end;
        Ok(done)
    }

    /// An event of a transaction.
    fn inside(&mut self, kind: u8, body: &[u8], end: u64) -> Result<Option<Transaction>, &'static str> {
        let Some(open) = &mut self.open else {
            return match kind {
                event::INCIDENT => Ok(None),
                _ => Err("it belongs to no transaction"),
            };
        };
        let mut ends = false;
        match kind {
            event::XID => {
                ends = true;
                if !open.begun {
                    open.stays = Some("it has no BEGIN");
                }
            }
            event::XA_PREPARE => {
                ends = true;
                open.stays = Some("it is prepared by XA");
            }
            event::TRANSACTION_PAYLOAD => {
                ends = true;
                open.stays = Some("it is compressed as a whole, and what is in it cannot be seen");
            }
            event::INCIDENT => {
                ends = true;
                open.stays = Some("it says that something was lost");
            }
            event::QUERY | event::MARIADB_QUERY_COMPRESSED => {
                let words = match kind {
                    event::QUERY => event::first_words(body)?,
                    _ => event::Words::Other,
                };
                match words {
                    event::Words::Begin => open.begun = true,
                    event::Words::Within => {}
                    event::Words::Commit | event::Words::Rollback => {
                        ends = true;
                        open.stays = Some("it wrote to a table that is not transactional");
                    }
                    event::Words::XaBegin | event::Words::XaWithin | event::Words::XaEnd => {
                        ends = words == event::Words::XaEnd;
                        open.begun = true;
                        open.stays = Some("it is a part of an XA transaction");
                    }
                    event::Words::Other => {
                        // Alone, it is a change of the schema or of accounts.
                        ends = !open.begun;
                        open.stays = open.stays.or(Some("it holds a statement instead of rows"));
                    }
                }
            }
            _ => {}
        }
        ends |= open.standalone && is_last_of_standalone(kind);
        if !ends {
            return Ok(None);
        }
        let open = self.open.take().ok_or("it belongs to no transaction")?;
        Ok(Some(Transaction {
            gtid: open.gtid,
            begin: open.begin,
            end,
            stays: open.stays,
        }))
    }

    fn malformed(&self, what: &'static str) -> BinlogError {
        BinlogError::Malformed { at: self.at, what }
    }
}

/// MariaDB's standalone groups are one event, before which there may be some that only prepare it.
fn is_last_of_standalone(kind: u8) -> bool {
    !matches!(
        kind,
        event::INTVAR | event::RAND | event::USER_VAR | event::MARIADB_ANNOTATE_ROWS
    )
}

impl From<PositionError> for BinlogError {
    fn from(_: PositionError) -> BinlogError {
        BinlogError::Malformed {
            at: 0,
            what: "a GTID that is none",
        }
    }
}
