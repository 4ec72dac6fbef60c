//! The events that matter, and the few fields of them that do.

use crate::history::{Gtid, History, Writers};
use crate::mysql::{MAX_NUMBER, tag as check_tag};
use crate::{Dialect, GtidSet};

/// The length of an event's header.
pub const HEADER_BYTES: usize = 19;

pub(super) const QUERY: u8 = 2;
pub(super) const STOP: u8 = 3;
pub(super) const ROTATE: u8 = 4;
pub(super) const INTVAR: u8 = 5;
pub(super) const RAND: u8 = 13;
pub(super) const USER_VAR: u8 = 14;
pub(super) const FORMAT_DESCRIPTION: u8 = 15;
pub(super) const XID: u8 = 16;
pub(super) const INCIDENT: u8 = 26;
pub(super) const HEARTBEAT: u8 = 27;
pub(super) const MYSQL_GTID: u8 = 33;
pub(super) const MYSQL_ANONYMOUS_GTID: u8 = 34;
pub(super) const PREVIOUS_GTIDS: u8 = 35;
pub(super) const XA_PREPARE: u8 = 38;
pub(super) const TRANSACTION_PAYLOAD: u8 = 40;
pub(super) const MYSQL_GTID_TAGGED: u8 = 42;
pub(super) const MARIADB_ANNOTATE_ROWS: u8 = 160;
pub(super) const MARIADB_CHECKPOINT: u8 = 161;
pub(super) const MARIADB_GTID: u8 = 162;
pub(super) const MARIADB_GTID_LIST: u8 = 163;
pub(super) const MARIADB_START_ENCRYPTION: u8 = 164;
pub(super) const MARIADB_QUERY_COMPRESSED: u8 = 165;

/// As much of a statement's event as its first words need: fixed part, status variables (less than 64 KiB), the name
/// of the schema, and some words.
pub(super) const QUERY_BYTES: usize = 13 + 65_535 + 256 + 64;

/// `LOG_EVENT_BINLOG_IN_USE_F`: the file was not closed in good order.
const IN_USE: u16 = 1;

/// What every event begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub(super) kind: u8,
    pub(super) server: u32,
    pub(super) size: u32,
    pub(super) flags: u16,
}

impl Header {
    /// Reads it. `None` when its length is less than its own.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let header = Header {
            kind: bytes[4],
            server: word(5),
            size: word(9),
            flags: u16::from_le_bytes([bytes[17], bytes[18]]),
        };
        (header.size as usize >= HEADER_BYTES).then_some(header)
    }

    /// The length of the event, this header included.
    pub fn event_bytes(&self) -> u64 {
        u64::from(self.size)
    }

    /// The length of what follows the header.
    pub fn body_bytes(&self) -> usize {
        (self.size as usize).saturating_sub(HEADER_BYTES)
    }

    pub(super) fn is_in_use(self) -> bool {
        self.flags & IN_USE != 0
    }
}

/// Reads numbers off the front.
struct Fields<'a>(&'a [u8]);

const SHORT: &str = "it ends too early";

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        self.take(N)?.try_into().map_err(|_| SHORT)
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_le_bytes)
    }

    /// MySQL's `mysql::serialization`: the count of trailing one bits of the first byte is the count of bytes that
    /// follow; the value stands above them.
    fn varlen(&mut self) -> Result<u64, &'static str> {
        let first = self.byte()?;
        let more = first.trailing_ones() as usize;
        let mut bytes = [0; 8];
        if more == 8 {
            return self.u64();
        }
        bytes[0] = first;
        bytes[1..=more].copy_from_slice(self.take(more)?);
        Ok(u64::from_le_bytes(bytes) >> (more + 1))
    }

    /// The same of a signed number: the lowest bit is the sign.
    fn signed(&mut self) -> Result<i64, &'static str> {
        let value = self.varlen()?;
        let magnitude = i64::try_from(value >> 1).map_err(|_| "a number that is too large")?;
        Ok(match value & 1 {
            0 => magnitude,
            _ => -magnitude - 1,
        })
    }
}

/// How many bytes of checksum each event of the file ends with: the format description's last five bytes are the
/// algorithm and its own checksum.
pub(super) fn checksum_bytes(body: &[u8]) -> Result<usize, &'static str> {
    let mut fields = Fields(body);
    if fields.u16()? != 4 {
        return Err("a format other than version 4");
    }
    fields.take(50 + 4)?;
    if usize::from(fields.byte()?) != HEADER_BYTES {
        return Err("headers of another length");
    }
    let algorithm = fields.0.len().checked_sub(5).and_then(|at| fields.0.get(at));
    match algorithm {
        Some(0) => Ok(0),
        Some(1) => Ok(4),
        _ => Err("an unknown checksum"),
    }
}

/// The name of the transaction that begins, why it could not be rolled back, and whether it is one event.
pub(super) fn gtid(
    dialect: Dialect,
    header: &Header,
    body: &[u8],
) -> Result<(Gtid, Option<&'static str>, bool), &'static str> {
    let mut fields = Fields(body);
    match (dialect, header.kind) {
        (Dialect::MySql, MYSQL_GTID) => {
            fields.byte()?;
            let uuid = u128::from_be_bytes(fields.array()?);
            let number = fields.u64()?;
            Ok((mysql_gtid(uuid, String::new(), number)?, None, false))
        }
        (Dialect::MySql, MYSQL_GTID_TAGGED) => {
            let (gtid, stays) = (tagged(&mut fields)?, None);
            Ok((gtid, stays, false))
        }
        (Dialect::MariaDb, MARIADB_GTID) => {
            let (sequence, domain, flags) = (fields.u64()?, fields.u32()?, fields.byte()?);
            let gtid = Gtid::MariaDb {
                domain,
                server: header.server,
                sequence,
            };
            Ok((gtid, mariadb_stays(flags), flags & 1 != 0))
        }
        _ => Err("a GTID of the other engine"),
    }
}

/// From the flags of MariaDB's GTID event: standalone 1, transactional 4, DDL 32, XA prepared 64, XA completed 128.
fn mariadb_stays(flags: u8) -> Option<&'static str> {
    match flags {
        _ if flags & 0xc0 != 0 => Some("it is a part of an XA transaction"),
        _ if flags & 0x20 != 0 => Some("it changes the schema or accounts"),
        _ if flags & 0x04 == 0 => Some("it wrote to a table that is not transactional"),
        _ if flags & 0x01 != 0 => Some("it holds a statement instead of rows"),
        _ => None,
    }
}

/// MySQL's event 42: fields with numbers, of which 1 to 3 name the transaction.
fn tagged(fields: &mut Fields<'_>) -> Result<Gtid, &'static str> {
    let _version = fields.varlen()?;
    let _size = fields.varlen()?;
    let _last_needed = fields.varlen()?;
    let expect = |fields: &mut Fields<'_>, number: u64| match fields.varlen()? == number {
        true => Ok(()),
        false => Err("a field of a GTID is missing"),
    };
    expect(fields, 0)?;
    fields.varlen()?;
    expect(fields, 1)?;
    let mut uuid = 0u128;
    for _ in 0..16 {
        let byte = u8::try_from(fields.varlen()?).map_err(|_| "a UUID that is none")?;
        uuid = uuid << 8 | u128::from(byte);
    }
    expect(fields, 2)?;
    let number = u64::try_from(fields.signed()?).map_err(|_| "a number below 1")?;
    expect(fields, 3)?;
    let tag = tag(fields)?;
    mysql_gtid(uuid, tag, number)
}

fn tag(fields: &mut Fields<'_>) -> Result<String, &'static str> {
    let length = usize::try_from(fields.varlen()?).map_err(|_| SHORT)?;
    if length == 0 {
        return Ok(String::new());
    }
    let text = std::str::from_utf8(fields.take(length)?).map_err(|_| "a tag that is none")?;
    check_tag(text).map_err(|_| "a tag that is none")
}

fn mysql_gtid(uuid: u128, tag: String, number: u64) -> Result<Gtid, &'static str> {
    match (1..MAX_NUMBER).contains(&number) {
        true => Ok(Gtid::MySql { uuid, tag, number }),
        false => Err("a number below 1"),
    }
}

/// What the server had before this file.
pub(super) fn history_before(dialect: Dialect, kind: u8, body: &[u8]) -> Result<History, &'static str> {
    let mut fields = Fields(body);
    match (dialect, kind) {
        (Dialect::MariaDb, MARIADB_GTID_LIST) => {
            let count = fields.u32()? & 0x0fff_ffff;
            let mut writers = Writers::default();
            for _ in 0..count {
                let (domain, server) = (fields.u32()?, fields.u32()?);
                writers.raise(domain, server, fields.u64()?);
            }
            Ok(History::MariaDb(writers))
        }
        (Dialect::MySql, PREVIOUS_GTIDS) => previous_gtids(&mut fields).map(History::MySql),
        _ => Err("a list of GTIDs of the other engine"),
    }
}

/// The first eight bytes are the count of sources; with tags the first and the last of them are 1 and the count stands
/// between.
fn previous_gtids(fields: &mut Fields<'_>) -> Result<GtidSet, &'static str> {
    let head = fields.u64()?;
    let tagged = head >> 56 == 1;
    let sources = match tagged {
        true => head >> 8 & 0xffff_ffff_ffff,
        false => head,
    };
    let mut set = GtidSet::default();
    for _ in 0..sources {
        let uuid = u128::from_be_bytes(fields.array()?);
        let tag = if tagged { tag(fields)? } else { String::new() };
        for _ in 0..fields.u64()? {
            // The second number is the one after the last.
            let (first, after) = (fields.u64()?, fields.u64()?);
            if first == 0 || after <= first || after > MAX_NUMBER {
                return Err("an interval that is empty or out of range");
            }
            set.add_run(uuid, &tag, (first, after - 1));
        }
    }
    Ok(set)
}

/// What a statement's event does to the transaction that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    Begin,
    /// Changes nothing by itself: savepoints.
    Within,
    Commit,
    Rollback,
    XaBegin,
    XaWithin,
    XaEnd,
    Other,
}

/// Reads the statement's begin.
pub(super) fn first_words(body: &[u8]) -> Result<Words, &'static str> {
    let mut fields = Fields(body);
    fields.take(4 + 4)?;
    let schema = usize::from(fields.byte()?);
    fields.u16()?;
    let variables = usize::from(fields.u16()?);
    fields.take(variables)?;
    fields.take(schema + 1)?;
    let text = fields.0.get(..fields.0.len().min(32)).unwrap_or_default();
    let text = text.to_ascii_uppercase();
    let begins = |words: &str| text.starts_with(words.as_bytes());
    Ok(match () {
        () if begins("BEGIN") => Words::Begin,
        () if begins("SAVEPOINT") || begins("ROLLBACK TO") || begins("RELEASE SAVEPOINT") => Words::Within,
        () if begins("COMMIT") => Words::Commit,
        () if begins("ROLLBACK") => Words::Rollback,
        () if begins("XA START") || begins("XA BEGIN") => Words::XaBegin,
        () if begins("XA END") => Words::XaWithin,
        () if begins("XA ") => Words::XaEnd,
        () => Words::Other,
    })
}
