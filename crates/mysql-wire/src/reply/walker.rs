//! The walk through an answer's packets.

use std::sync::Arc;

use super::{Changes, Done, Expect, Fed, Hidden, Outcome, Prepared, Step};
use crate::{
    Capabilities, EofPacket, ErrorPacket, FrameHeader, HEADER_LEN, MAX_FRAME_PAYLOAD, OkPacket, StatusFlags,
    WireError,
};

/// The longest packet that has to be whole before it is understood, in bytes: OK packets with session state, ERR
/// packets, names of local files. Rows and definitions have no limit.
pub const MAX_CONTROL_PACKET: usize = 1024 * 1024;

/// The longest row that is kept back until it is known to be one of out-parameters, in bytes.
pub const MAX_HELD: usize = 64 * 1024;

/// How a server without `DEPRECATE_EOF` says that a row is one of out-parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutParams {
    /// MariaDB: before the row and behind it.
    BeforeAndBehind,
    /// MySQL: before the row only, and there also that more follows.
    Before,
}

/// Session status that belongs to the packet it came with, not to an EOF packet that is put in before it.
const OF_ONE_PACKET: StatusFlags = StatusFlags(
    StatusFlags::MORE_RESULTS_EXISTS.0
        | StatusFlags::CURSOR_EXISTS.0
        | StatusFlags::LAST_ROW_SENT.0
        | StatusFlags::PS_OUT_PARAMS.0
        | StatusFlags::SESSION_STATE_CHANGED.0,
);

/// Where in the answer the next packet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// The first packet of the answer or of a further result.
    First,
    /// A definition; this many are left, and at least one.
    Definitions { left: u64, of: Of },
    /// The EOF packet after definitions, of a server without `DEPRECATE_EOF`.
    DefinitionsEnd(Of),
    /// The first row, or the end of the rows. The client without `DEPRECATE_EOF` has not got its EOF packet yet:
    /// whether it is due depends on whether a cursor was opened.
    FirstRow,
    /// A row, or the end of the rows.
    Rows,
    /// A packet of text.
    Text,
    /// Behind the end.
    Ended,
}

/// What definitions are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// A prepared statement's parameters; so many columns follow.
    Params { columns: u16 },
    /// A prepared statement's columns.
    PreparedColumns,
    /// A result set.
    Result,
}

/// Walks one answer: forwards it, rewritten for the client, and collects what it says.
#[derive(Clone, Debug)]
pub struct ReplyWalker {
    pub(super) expect: Expect,
    pub(super) backend: Capabilities,
    pub(super) client: Capabilities,
    pub(super) at: At,
    /// The number of the next packet to the client.
    pub(super) sequence: u8,
    /// The number due from the server; `None` before its first packet.
    pub(super) due: Option<u8>,
    /// Payload bytes still to come of a data packet's current frame.
    pub(super) frame_left: usize,
    /// Whether that frame is continued by another.
    pub(super) continued: bool,
    pub(super) hidden: Option<Arc<Hidden>>,
    pub(super) statement_id: Option<u32>,
    /// Bytes written in earlier calls.
    pub(super) delivered: u64,
    pub(super) rows: bool,
    /// Whether a cursor with more rows is open.
    pub(super) cursor: bool,
    /// Whether another result follows the out-parameters, whatever the packet behind them says.
    pub(super) out_params_follow: bool,
    pub(super) out_params: Option<OutParams>,
    /// Where in `out` the EOF packet before a row stands that may be one of out-parameters.
    pub(super) held_at: Option<usize>,
    /// How many bytes at the end of `out` may still change.
    held: usize,
    /// What the OK packet of a command says instead of the server's own count.
    pub(super) told_warnings: Option<u16>,
    pub(super) status: StatusFlags,
    pub(super) status_told: bool,
    pub(super) warnings: u16,
    pub(super) affected_rows: u64,
    pub(super) row_count: u32,
    pub(super) last_insert_id: u64,
    pub(super) state: Changes,
    pub(super) prepared: Option<Prepared>,
}

impl ReplyWalker {
    /// A walker at the beginning of an answer. `backend` and `client` are the capabilities agreed on with either side,
    /// both with `PROTOCOL_41`; `sequence` is the number that the first packet to the client carries: one more than
    /// the last frame of its command.
    pub fn new(expect: Expect, backend: Capabilities, client: Capabilities, sequence: u8) -> ReplyWalker {
        ReplyWalker {
            expect,
            backend: backend | Capabilities::PROTOCOL_41,
            client: client | Capabilities::PROTOCOL_41,
            at: match expect {
                Expect::Fetch | Expect::FieldList => At::Rows,
                Expect::Statistics => At::Text,
                _ => At::First,
            },
            sequence,
            due: None,
            frame_left: 0,
            continued: false,
            hidden: None,
            statement_id: None,
            delivered: 0,
            rows: matches!(expect, Expect::Fetch),
            cursor: false,
            out_params_follow: false,
            out_params: None,
            held_at: None,
            held: 0,
            told_warnings: None,
            status: StatusFlags::AUTOCOMMIT,
            status_told: false,
            warnings: 0,
            affected_rows: 0,
            row_count: 0,
            last_insert_id: 0,
            state: Changes::default(),
            prepared: None,
        }
    }

    /// With the session's status as last heard: EOF packets that are put in carry it, because the server has not said
    /// the new one yet.
    #[must_use]
    pub fn with_status(mut self, status: StatusFlags) -> ReplyWalker {
        self.status = status;
        self
    }

    /// For a statement that may answer with out-parameters: a client without `DEPRECATE_EOF` looks for that before their
    /// row, where a server with it has not said so yet. See [`ReplyWalker::held`].
    #[must_use]
    pub fn with_out_params(mut self, manner: OutParams) -> ReplyWalker {
        let (server, client) = (self.backend, self.client);
        let differ = server.has(Capabilities::DEPRECATE_EOF) && !client.has(Capabilities::DEPRECATE_EOF);
        self.out_params = (differ && self.expect == Expect::Execute).then_some(manner);
        self
    }

    /// For a command that is no statement: the OK packet tells so many warnings. A server tells those of the statement
    /// before, and that may have run elsewhere.
    #[must_use]
    pub fn with_warnings(mut self, warnings: u16) -> ReplyWalker {
        self.told_warnings = Some(warnings);
        self
    }

    /// With session state that the client must not see.
    #[must_use]
    pub fn with_hidden(mut self, hidden: Arc<Hidden>) -> ReplyWalker {
        self.hidden = Some(hidden);
        self
    }

    /// With the number that the client is told for a statement it prepares. [`Prepared::id`] is the server's own.
    #[must_use]
    pub fn with_statement_id(mut self, id: u32) -> ReplyWalker {
        self.statement_id = Some(id);
        self
    }

    /// Before the first packet: it carries this number.
    pub fn begin_with(&mut self, sequence: u8) {
        self.sequence = sequence;
    }

    /// How many bytes at the end of what was written are to be kept back, because they may still change: at most
    /// [`MAX_HELD`].
    pub fn held(&self) -> usize {
        self.held
    }

    /// Bytes written for the client so far.
    pub fn delivered_bytes(&self) -> u64 {
        self.delivered
    }

    /// Whether what was written ends between two packets, so that a packet of the proxy's own may follow.
    pub fn at_boundary(&self) -> bool {
        self.frame_left == 0 && !self.continued
    }

    /// The number that the next packet to the client carries.
    pub fn next_sequence(&self) -> u8 {
        self.sequence
    }

    /// What the answer said about the session so far: all that is known when the server dies in the middle.
    pub fn changes(&self) -> &Changes {
        &self.state
    }

    /// What to add (wrapping) to the sequence numbers of a local file's packets on their way to the server.
    pub fn upload_offset(&self) -> u8 {
        self.due.unwrap_or(self.sequence).wrapping_sub(self.sequence)
    }

    /// The client has sent its local file, as `frames` frames (modulo 256) with the empty one at the end. The answer
    /// goes on.
    pub fn uploaded(&mut self, frames: u8) {
        self.sequence = self.sequence.wrapping_add(frames);
        self.due = self.due.map(|due| due.wrapping_add(frames));
    }

    /// Takes what the server sent and appends to `out` what the client is to get. Bytes that are not consumed have to
    /// be fed again, with more behind them; they are at most [`MAX_CONTROL_PACKET`] and a header.
    ///
    /// # Errors
    /// [`WireError`] when this is no answer to what was sent. Neither side can go on then: what is in `out` is valid as
    /// far as it goes.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Fed, WireError> {
        let before = out.len();
        self.held_at = (self.held > 0).then(|| before.saturating_sub(self.held));
        let fed = self.walk(bytes, out);
        self.held = self.held_at.map_or(0, |at| out.len() - at);
        if self.held > MAX_HELD {
            self.held = 0;
        }
        self.delivered += (out.len() - before) as u64;
        let mut fed = fed?;
        if let Step::Done(done) = &mut fed.step {
            done.delivered_bytes = self.delivered - done.final_bytes as u64;
        }
        Ok(fed)
    }

    fn walk(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Fed, WireError> {
        let mut consumed = 0;
        if self.at == At::Ended {
            return Err(WireError::Malformed("bytes after the end of an answer"));
        }
        if self.expect == Expect::Nothing {
            let step = Step::Done(self.done(Outcome::Ok, 0));
            return Ok(Fed { consumed, step });
        }
        loop {
            let rest = &bytes[consumed..];
            let moved = match self.at_boundary() {
                true => self.whole_packets(rest, out)?,
                false => self.part_of_packet(rest, out)?,
            };
            consumed += moved.len;
            if let Some(step) = moved.step {
                return Ok(Fed { consumed, step });
            }
            if moved.starved {
                return Ok(Fed {
                    consumed,
                    step: Step::More,
                });
            }
        }
    }

    /// From between two packets: as many small data packets as are there, then the packet after them.
    fn whole_packets(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Moved, WireError> {
        let mut moved = self.run(bytes, out)?;
        if moved.step.is_some() {
            return Ok(moved);
        }
        let rest = &bytes[moved.len..];
        let Some((header, payload)) = rest.split_first_chunk::<HEADER_LEN>() else {
            return Ok(moved.starved());
        };
        let header = FrameHeader::parse(*header);
        if header.len == 0 {
            return Err(WireError::Malformed("an empty packet in an answer"));
        }
        let Some(&first) = payload.first() else {
            return Ok(moved.starved());
        };
        if self.is_data(first, header.len)? {
            self.begin_data(out);
            self.row_count = self.row_count.saturating_add(u32::from(self.at == At::Rows));
            self.begin_frame(header, out)?;
            moved.len += HEADER_LEN;
            return Ok(moved);
        }
        if header.len > MAX_CONTROL_PACKET {
            return Err(WireError::TooLarge {
                limit: MAX_CONTROL_PACKET,
            });
        }
        let Some(payload) = payload.get(..header.len) else {
            return Ok(moved.starved());
        };
        self.take(header.sequence)?;
        moved.step = self.control(payload, out)?;
        moved.len += HEADER_LEN + header.len;
        Ok(moved)
    }

    /// Whether a packet is a row, a definition or text, which goes through in pieces. Everything else is a control
    /// packet and has to be whole.
    fn is_data(&self, first: u8, len: usize) -> Result<bool, WireError> {
        match self.at {
            At::Rows | At::FirstRow => Ok(match first {
                0xFF => false,
                OkPacket::AS_EOF if self.backend.has(Capabilities::DEPRECATE_EOF) => len >= MAX_FRAME_PAYLOAD,
                OkPacket::AS_EOF => len >= 9,
                _ => true,
            }),
            At::Definitions { .. } => match first {
                0xFF => Ok(false),
                0xFB | 0xFE => Err(WireError::Malformed("fewer definitions than were announced")),
                _ => Ok(true),
            },
            At::Text => Ok(first != ErrorPacket::HEADER),
            At::First | At::DefinitionsEnd(_) | At::Ended => Ok(false),
        }
    }

    /// The inner loop: forwards the data packets at the beginning of `bytes` that are whole and of one frame. They are
    /// copied together; their sequence numbers are patched only where the two sides count differently.
    fn run(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Moved, WireError> {
        // A first byte from `stop` on is looked at more closely by `is_data`.
        let (stop, mut left) = match self.at {
            At::Rows | At::FirstRow => (0xFE, u64::MAX),
            At::Definitions { left, .. } => (0xFB, left),
            _ => return Ok(Moved::default()),
        };
        let mut end = 0;
        let mut due = self.due;
        while left > 0 {
            let Some(&[a, b, c, sequence, first]) = bytes[end..].first_chunk::<5>() else {
                break;
            };
            let len = u32::from_le_bytes([a, b, c, 0]) as usize;
            let next = end + HEADER_LEN + len;
            if first >= stop || next > bytes.len() || len == MAX_FRAME_PAYLOAD || len == 0 {
                break;
            }
            if due.is_some_and(|due| due != sequence) {
                break;
            }
            due = Some(sequence.wrapping_add(1));
            left -= 1;
            end = next;
        }
        let mut moved = Moved {
            len: end,
            ..Moved::default()
        };
        if end == 0 {
            return Ok(moved);
        }
        self.begin_data(out);
        let (first, copied) = (bytes[3], out.len());
        out.extend_from_slice(&bytes[..end]);
        if first != self.sequence {
            renumber(&mut out[copied..], self.sequence);
        }
        let frames = due.unwrap_or(first).wrapping_sub(first);
        self.sequence = self.sequence.wrapping_add(frames);
        self.due = due;
        match self.at {
            At::Definitions { of, .. } => moved.step = self.definitions_left(left, of, out),
            _ => {
                let rows = u32::try_from(u64::MAX - left).unwrap_or(u32::MAX);
                self.row_count = self.row_count.saturating_add(rows);
            }
        }
        Ok(moved)
    }

    /// In the middle of a data packet: the rest of its frame, or the header of the next one.
    fn part_of_packet(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Moved, WireError> {
        let mut moved = Moved::default();
        if self.frame_left > 0 {
            moved.len = self.frame_left.min(bytes.len());
            out.extend_from_slice(&bytes[..moved.len]);
            self.frame_left -= moved.len;
        } else {
            let Some((header, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
                return Ok(moved.starved());
            };
            self.begin_frame(FrameHeader::parse(*header), out)?;
            moved.len = HEADER_LEN;
        }
        if !self.at_boundary() {
            moved.starved = moved.len == bytes.len();
            return Ok(moved);
        }
        match self.at {
            At::Definitions { left, of } => moved.step = self.definitions_left(left - 1, of, out),
            At::Text => moved.step = Some(Step::Done(self.done(Outcome::Ok, 0))),
            _ => {}
        }
        Ok(moved)
    }

    fn begin_frame(&mut self, header: FrameHeader, out: &mut Vec<u8>) -> Result<(), WireError> {
        self.take(header.sequence)?;
        out.extend_from_slice(
            &FrameHeader {
                sequence: self.sequence,
                ..header
            }
            .to_bytes(),
        );
        self.sequence = self.sequence.wrapping_add(1);
        self.frame_left = header.len;
        self.continued = header.is_continued();
        Ok(())
    }

    /// Checks a frame's number against the one that is due.
    fn take(&mut self, sequence: u8) -> Result<(), WireError> {
        if let Some(expected) = self.due.filter(|due| *due != sequence) {
            return Err(WireError::OutOfOrder {
                expected,
                got: sequence,
            });
        }
        self.due = Some(sequence.wrapping_add(1));
        Ok(())
    }

    /// Before a data packet: the EOF packet that is due before the first row.
    pub(super) fn begin_data(&mut self, out: &mut Vec<u8>) {
        if self.at == At::FirstRow {
            self.held_at = self.out_params.map(|_| out.len());
            self.put_eof_in(self.status, out);
            self.at = At::Rows;
        }
    }

    /// Writes the EOF packet after definitions, which only a client without `DEPRECATE_EOF` gets, and only where the
    /// server did not send one itself.
    pub(super) fn put_eof_in(&mut self, status: StatusFlags, out: &mut Vec<u8>) {
        if self.backend.has(Capabilities::DEPRECATE_EOF) && !self.client.has(Capabilities::DEPRECATE_EOF) {
            let eof = EofPacket {
                warnings: 0,
                status: status.without(OF_ONE_PACKET),
            };
            self.packet(out, |out| eof.write(out));
        }
    }

    fn definitions_left(&mut self, left: u64, of: Of, out: &mut Vec<u8>) -> Option<Step> {
        if left > 0 {
            self.at = At::Definitions { left, of };
            return None;
        }
        if !self.backend.has(Capabilities::DEPRECATE_EOF) {
            self.at = At::DefinitionsEnd(of);
            return None;
        }
        if of != Of::Result {
            self.put_eof_in(self.status, out);
        }
        self.after_definitions(of)
    }

    pub(super) fn after_definitions(&mut self, of: Of) -> Option<Step> {
        match of {
            Of::Result => self.at = At::FirstRow,
            Of::Params { columns } if columns > 0 => {
                self.at = At::Definitions {
                    left: u64::from(columns),
                    of: Of::PreparedColumns,
                };
            }
            Of::Params { .. } | Of::PreparedColumns => {
                return Some(Step::Done(self.done(Outcome::Ok, 0)));
            }
        }
        None
    }

    /// Appends one packet of one frame, of which `payload` writes the payload.
    pub(super) fn packet(&mut self, out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        payload(out);
        let header = FrameHeader {
            len: out.len() - start - HEADER_LEN,
            sequence: self.sequence,
        };
        if let Some(place) = out.get_mut(start..start + HEADER_LEN) {
            place.copy_from_slice(&header.to_bytes());
        }
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// [`ReplyWalker::feed`] fills in the delivered bytes.
    pub(super) fn done(&mut self, outcome: Outcome, final_bytes: usize) -> Done {
        self.at = At::Ended;
        Done {
            outcome,
            status: self.status,
            status_told: self.status_told,
            warnings: self.warnings,
            affected_rows: self.affected_rows,
            row_count: self.row_count,
            last_insert_id: self.last_insert_id,
            state: std::mem::take(&mut self.state),
            prepared: self.prepared,
            cursor: self.cursor,
            delivered_bytes: 0,
            final_bytes,
        }
    }
}

/// Gives the whole frames in `out` the numbers from `sequence` on.
fn renumber(out: &mut [u8], mut sequence: u8) {
    let mut rest = out;
    while let Some((&mut [a, b, c, ref mut number], after)) = rest.split_first_chunk_mut::<HEADER_LEN>() {
        *number = sequence;
        sequence = sequence.wrapping_add(1);
        let len = u32::from_le_bytes([a, b, c, 0]) as usize;
        rest = after.get_mut(len..).unwrap_or_default();
    }
}

/// What one step of the walk did.
#[derive(Debug, Default)]
struct Moved {
    /// Bytes taken.
    len: usize,
    /// What ends the call.
    step: Option<Step>,
    /// Whether more bytes are needed.
    starved: bool,
}

impl Moved {
    fn starved(self) -> Moved {
        Moved {
            starved: true,
            ..self
        }
    }
}
