//! A binary log as it comes, in pieces of any size.

use super::{BinlogError, HEADER_BYTES, Header, Transaction, Walk};
use crate::{Dialect, History};

/// A transaction, and when it was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// What it is and where it stands.
    pub transaction: Transaction,
    /// Seconds since 1970 by the clock of the server that wrote it: the latest of its events.
    pub at: u32,
}

/// Goes through one file whose bytes are handed in as they come.
#[derive(Clone, Debug)]
pub struct Feed {
    dialect: Dialect,
    walk: Option<Walk>,
    expects: Expects,
    held: Vec<u8>,
    begun: Option<u32>,
    latest: u32,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug)]
enum Expects {
    Magic,
    Header,
    /// As much of the event's body as the walk reads.
    Body(Header, u32),
    /// The rest of it: so many bytes.
    Rest(Header, u32, u64),
}

impl Feed {
    /// At the begin of a file.
    pub fn new(dialect: Dialect) -> Feed {
        Feed {
            dialect,
            walk: None,
            expects: Expects::Magic,
            held: Vec::new(),
            begun: None,
            latest: 0,
        }
    }

    /// Takes the next bytes; `found` gets each transaction whose end is in.
    ///
    /// # Errors
    /// When they are no binary log ([`BinlogError`]). Nothing may be handed in after that.
    pub fn take(&mut self, bytes: &[u8], found: &mut dyn FnMut(Committed)) -> Result<(), BinlogError> {
        let mut bytes = bytes;
        loop {
            match self.expects {
                Expects::Magic => {
                    if !self.hold(&mut bytes, 4) {
                        return Ok(());
                    }
                    let magic = [self.held[0], self.held[1], self.held[2], self.held[3]];
                    self.walk = Some(Walk::new(self.dialect, magic)?);
                    self.held.clear();
                    self.expects = Expects::Header;
                }
                Expects::Header => {
                    if !self.hold(&mut bytes, HEADER_BYTES) {
                        return Ok(());
                    }
                    let mut head = [0; HEADER_BYTES];
                    head.copy_from_slice(&self.held);
                    self.held.clear();
                    let at = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
                    let header =
                        Header::parse(&head)
                            .filter(|_| head[4] != 0)
                            .ok_or(BinlogError::Malformed {
                                at: self.at(),
                                what: "what is there is no event",
                            })?;
                    self.expects = Expects::Body(header, at);
                }
                Expects::Body(header, at) => {
                    let wants = self.walk.as_ref().map_or(Ok(0), |walk| walk.wants(&header))?;
                    if !self.hold(&mut bytes, wants) {
                        return Ok(());
                    }
                    let rest = (header.body_bytes() - wants) as u64;
                    self.expects = Expects::Rest(header, at, rest);
                }
                Expects::Rest(header, at, rest) => {
                    let passed = rest.min(bytes.len() as u64);
                    bytes = bytes
                        .get(usize::try_from(passed).unwrap_or(usize::MAX)..)
                        .unwrap_or_default();
                    self.expects = Expects::Rest(header, at, rest - passed);
                    if passed < rest {
                        return Ok(());
                    }
                    self.event(&header, at, found)?;
                    self.held.clear();
                    self.expects = Expects::Header;
                }
            }
        }
    }

    fn event(
        &mut self,
        header: &Header,
        at: u32,
        found: &mut dyn FnMut(Committed),
    ) -> Result<(), BinlogError> {
        let Some(walk) = &mut self.walk else { return Ok(()) };
        self.begun.get_or_insert(at);
        let was_open = walk.incomplete().is_some();
        let done = walk.event(header, &self.held)?;
        self.latest = if was_open { self.latest.max(at) } else { at };
        if let Some(transaction) = done {
            found(Committed {
                transaction,
                at: self.latest,
            });
        }
        Ok(())
    }

    /// Fills `held` up to `count` bytes; says whether they are all there.
    fn hold(&mut self, bytes: &mut &[u8], count: usize) -> bool {
        let missing = count.saturating_sub(self.held.len()).min(bytes.len());
        self.held.extend_from_slice(&bytes[..missing]);
        *bytes = &bytes[missing..];
        self.held.len() >= count
    }

    /// Where the next event begins whose end has not been seen.
    pub fn at(&self) -> u64 {
        self.walk.as_ref().map_or(0, Walk::at)
    }

    /// When the file was begun: seconds since 1970, of its first event. `None` before that.
    pub fn begun(&self) -> Option<u32> {
        self.begun
    }

    /// What the server had before this file; `None` before that event.
    pub fn before(&self) -> Option<&History> {
        self.walk.as_ref()?.before()
    }

    /// Where the events end that every reader of a part of this file needs first.
    pub fn format_end(&self) -> u64 {
        self.walk.as_ref().map_or(0, Walk::format_end)
    }
}
