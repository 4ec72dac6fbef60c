//! Packets of the binary protocol (`doc/protocol-binary.xml`, `proto_bin.c` of 1.6.18): 24 bytes of head, then extras,
//! key and value.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::answers::Garbled;
use crate::{MAX_ITEM_BYTES, MAX_KEY_BYTES};

/// The first byte of a request.
pub const REQUEST: u8 = 0x80;
/// The first byte of an answer.
pub const ANSWER: u8 = 0x81;
/// The length of a head.
pub const HEAD_BYTES: usize = 24;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The whole packet; of one that is answered here, its head alone.
    pub frame: Bytes,
    /// What is to be done.
    pub what: What,
    /// Bytes after it that are to be dropped.
    pub swallow_bytes: usize,
}

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It goes to the server of its key.
    Keyed,
    /// Everything is forgotten, after so many seconds.
    Flush(u32),
    /// `stat`.
    Stats,
    /// `version`.
    Version,
    /// `noop`, or something that is answered with success without anybody being asked.
    Success,
    /// `quit`: answered, then the connection ends.
    Quit,
    /// Answered with this error.
    Error(Status),
    /// Answered with this error, then the connection ends.
    Fatal(Status),
}

/// What an answer says of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// It was done.
    Success = 0,
    /// There is no such key.
    NotFound = 1,
    /// The value is too large.
    TooLarge = 3,
    /// The packet contradicts itself.
    Invalid = 4,
    /// There is no such command, or it is not allowed.
    Unknown = 0x81,
    /// For the moment it cannot be done.
    Temporary = 0x86,
}

impl Status {
    /// Memcached's words for it (`write_bin_error`).
    pub fn text(self) -> &'static str {
        match self {
            Status::Success => "",
            Status::NotFound => "Not found",
            Status::TooLarge => "Too large.",
            Status::Invalid => "Invalid arguments",
            Status::Unknown => "Unknown command",
            Status::Temporary => "Temporary failure",
        }
    }
}

/// What is next in a client's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A packet.
    Asked(Asked),
    /// What no client sends: the connection ends.
    Close,
}

/// Numbers of commands that have a quiet form, and that form.
const QUIET: [(u8, u8); 14] = [
    (0x00, 0x09), // get
    (0x01, 0x11), // set
    (0x02, 0x12), // add
    (0x03, 0x13), // replace
    (0x04, 0x14), // delete
    (0x05, 0x15), // increment
    (0x06, 0x16), // decrement
    (0x07, 0x17), // quit
    (0x08, 0x18), // flush
    (0x0c, 0x0d), // getk
    (0x0e, 0x19), // append
    (0x0f, 0x1a), // prepend
    (0x1d, 0x1e), // gat
    (0x23, 0x24), // gatk
];

/// The form of a command that is always answered; the same for one that is.
pub fn loud(opcode: u8) -> u8 {
    QUIET
        .iter()
        .find(|(_, quiet)| *quiet == opcode)
        .map_or(opcode, |(loud, _)| *loud)
}

impl Asked {
    /// The number of the command.
    pub fn opcode(&self) -> u8 {
        self.frame.get(1).copied().unwrap_or_default()
    }

    /// Whether it is answered only sometimes.
    pub fn is_quiet(&self) -> bool {
        loud(self.opcode()) != self.opcode()
    }

    /// Whether it changes nothing. One that touches changes when something ends.
    pub fn is_read(&self) -> bool {
        matches!(loud(self.opcode()), 0x00 | 0x0c | 0x1d | 0x23)
    }

    /// Whether it stores a value: `set`, `add`, `replace`, `append`, `prepend`.
    pub fn is_store(&self) -> bool {
        matches!(loud(self.opcode()), 0x01..=0x03 | 0x0e | 0x0f)
    }

    /// Its key.
    pub fn key(&self) -> Bytes {
        self.frame.slice_ref(self.name())
    }

    /// The same without a share in the frame, for who looks at it once.
    pub fn name(&self) -> &[u8] {
        let head = Head::of(&self.frame);
        let from = HEAD_BYTES + head.extras;
        self.frame.get(from..from + head.key).unwrap_or_default()
    }

    /// The packet such that it is always answered, with `name` in the place of its key.
    pub fn write(&self, name: &[u8], out: &mut BytesMut) {
        let head = Head::of(&self.frame);
        let from = HEAD_BYTES + head.extras;
        let body = head.body - head.key + name.len();
        out.put_u8(REQUEST);
        out.put_u8(loud(self.opcode()));
        out.put_u16(u16::try_from(name.len()).unwrap_or_default());
        out.put_slice(self.frame.get(4..8).unwrap_or_default());
        out.put_u32(u32::try_from(body).unwrap_or_default());
        out.put_slice(self.frame.get(12..from).unwrap_or_default());
        out.put_slice(name);
        out.put_slice(self.frame.get(from + head.key..).unwrap_or_default());
    }

    /// The answer of a server as the client is to see it: under the number that it asked with, and with its own key in it.
    /// `None`: the client does not hear of it.
    pub fn translate(&self, answer: &Bytes) -> Option<Bytes> {
        let head = Head::of(answer);
        let failed = status(answer) != Status::Success as u16;
        if self.is_quiet() {
            let silent = if self.is_read() {
                status(answer) == Status::NotFound as u16
            } else {
                !failed
            };
            if silent {
                return None;
            }
        }
        let key = self.key();
        let from = HEAD_BYTES + head.extras;
        let renamed = head.key > 0 && answer.get(from..from + head.key) != Some(&key[..]);
        if !self.is_quiet() && !renamed {
            return Some(answer.clone());
        }
        let mut out = BytesMut::with_capacity(answer.len() + key.len());
        out.put_u8(ANSWER);
        out.put_u8(self.opcode());
        let name: &[u8] = if head.key > 0 { &key } else { &[] };
        out.put_u16(u16::try_from(name.len()).unwrap_or_default());
        out.put_slice(answer.get(4..8).unwrap_or_default());
        out.put_u32(u32::try_from(head.body - head.key + name.len()).unwrap_or_default());
        out.put_slice(answer.get(12..from).unwrap_or_default());
        out.put_slice(name);
        out.put_slice(answer.get(from + head.key..).unwrap_or_default());
        Some(out.freeze())
    }

    /// An answer that says `status` and nothing else than memcached's words for it.
    pub fn answer(&self, status: Status) -> Bytes {
        self.say(status as u16, &[], status.text().as_bytes())
    }

    /// An answer with a key and a value.
    pub fn say(&self, status: u16, key: &[u8], value: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD_BYTES + key.len() + value.len());
        out.put_u8(ANSWER);
        out.put_u8(self.opcode());
        out.put_u16(u16::try_from(key.len()).unwrap_or_default());
        out.put_u16(0);
        out.put_u16(status);
        out.put_u32(u32::try_from(key.len() + value.len()).unwrap_or_default());
        out.put_slice(self.frame.get(12..16).unwrap_or(&[0; 4]));
        out.put_u64(0);
        out.put_slice(key);
        out.put_slice(value);
        out.freeze()
    }
}

/// A packet without a value: `delete` of a key, or one of the commands without either.
pub fn packet(opcode: u8, key: &[u8], out: &mut BytesMut) {
    out.put_slice(&[REQUEST, opcode]);
    out.put_u16(u16::try_from(key.len()).unwrap_or_default());
    out.put_u32(0);
    out.put_u32(u32::try_from(key.len()).unwrap_or_default());
    out.put_bytes(0, 12);
    out.put_slice(key);
}

/// `delete`
pub const DELETE: u8 = 0x04;
/// `flush`
pub const FLUSH: u8 = 0x08;
/// `noop`
pub const NOOP: u8 = 0x0a;

/// What an answer says.
pub fn status(answer: &[u8]) -> u16 {
    answer.get(6..8).map_or(0, |mut bytes| bytes.get_u16())
}

/// How long the answer at the beginning of `bytes` is; `None` when its head is not there yet.
///
/// # Errors
/// It is no answer, or longer than any.
pub fn answer_length(bytes: &[u8]) -> Result<Option<usize>, Garbled> {
    if bytes.first().is_some_and(|first| *first != ANSWER) {
        return Err(Garbled);
    }
    if bytes.len() < HEAD_BYTES {
        return Ok(None);
    }
    let head = Head::of(bytes);
    if head.key + head.extras > head.body || head.body > MAX_ITEM_BYTES + 1024 {
        return Err(Garbled);
    }
    Ok(Some(HEAD_BYTES + head.body))
}

struct Head {
    key: usize,
    extras: usize,
    body: usize,
}

impl Head {
    fn of(bytes: &[u8]) -> Head {
        let at = |index: usize| usize::from(bytes.get(index).copied().unwrap_or_default());
        Head {
            key: at(2) << 8 | at(3),
            extras: at(4),
            body: at(8) << 24 | at(9) << 16 | at(10) << 8 | at(11),
        }
    }
}

/// The next packet in `buffer`, taken out of it; `None` when more is needed.
pub fn next(buffer: &mut BytesMut) -> Option<Next> {
    if buffer.first().is_some_and(|first| *first != REQUEST) {
        return Some(Next::Close);
    }
    if buffer.len() < HEAD_BYTES {
        return None;
    }
    let head = Head::of(buffer);
    let opcode = buffer.get(1).copied().unwrap_or_default();
    let what = judge(opcode, &head);
    if let What::Error(_) | What::Fatal(_) = what {
        let frame = buffer.split_to(HEAD_BYTES).freeze();
        // What is too large is stored nowhere, and what was there before is forgotten: its key is needed.
        return Some(Next::Asked(Asked {
            frame,
            what,
            swallow_bytes: head.body,
        }));
    }
    if buffer.len() < HEAD_BYTES + head.body {
        buffer.reserve(HEAD_BYTES + head.body - buffer.len());
        return None;
    }
    let frame = buffer.split_to(HEAD_BYTES + head.body).freeze();
    let what = match what {
        What::Flush(_) if head.extras == 4 => {
            What::Flush(frame.get(HEAD_BYTES..).map_or(0, |mut extras| extras.get_u32()))
        }
        what => what,
    };
    Some(Next::Asked(Asked {
        frame,
        what,
        swallow_bytes: 0,
    }))
}

/// `dispatch_bin_command`.
fn judge(opcode: u8, head: &Head) -> What {
    let Head { key, extras, body } = *head;
    if key > body || key + extras > body {
        return What::Fatal(Status::Unknown);
    }
    if key > MAX_KEY_BYTES {
        return What::Fatal(Status::Invalid);
    }
    let (fine, what) = match loud(opcode) {
        0x00 | 0x0c => (extras == 0 && body == key && key > 0, What::Keyed),
        0x01..=0x03 => (extras == 8 && key > 0 && body >= key + 8, What::Keyed),
        0x04 => (key > 0 && extras == 0 && body == key, What::Keyed),
        0x05 | 0x06 => (key > 0 && extras == 20 && body == key + extras, What::Keyed),
        0x0e | 0x0f => (key > 0 && extras == 0, What::Keyed),
        0x1c | 0x1d | 0x23 => (extras == 4 && key > 0, What::Keyed),
        0x07 => (key == 0 && extras == 0 && body == 0, What::Quit),
        0x08 => (
            key == 0 && body == extras && (extras == 0 || extras == 4),
            What::Flush(0),
        ),
        0x0a => (key == 0 && extras == 0 && body == 0, What::Success),
        0x0b => (key == 0 && extras == 0 && body == 0, What::Version),
        0x10 => (extras == 0 && body <= MAX_ITEM_BYTES, What::Stats),
        _ => return What::Error(Status::Unknown),
    };
    if !fine {
        return What::Fatal(Status::Invalid);
    }
    if body - key - extras > MAX_ITEM_BYTES {
        return What::Error(Status::TooLarge);
    }
    what
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_slice(&[REQUEST, opcode]);
        out.put_u16(key.len() as u16);
        out.put_slice(&[extras.len() as u8, 0, 0, 0]);
        out.put_u32((extras.len() + key.len() + value.len()) as u32);
        out.put_u32(0xdead_beef);
        out.put_u64(5);
        out.put_slice(extras);
        out.put_slice(key);
        out.put_slice(value);
        out
    }

    fn asked(mut bytes: BytesMut) -> Asked {
        match next(&mut bytes) {
            Some(Next::Asked(asked)) => asked,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_quiet_command_is_sent_as_one_that_is_answered_and_keeps_its_number_to_the_client() {
        let set = asked(packet(0x11, &[0; 8], b"key", b"value"));
        let mut out = BytesMut::new();
        set.write(b"other", &mut out);
        assert_eq!(out, packet(0x01, &[0; 8], b"other", b"value"));
        let error = Asked {
            frame: packet(0x01, &[], b"", b"").freeze(),
            ..set.clone()
        }
        .answer(Status::TooLarge);
        let seen = set.translate(&error).unwrap();
        assert_eq!((seen[1], status(&seen)), (0x11, 3));
        assert_eq!(&seen[12..16], [0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(set.translate(&set.answer(Status::Success)), None);
    }

    #[test]
    fn the_clients_own_key_comes_back() {
        let get = asked(packet(0x0c, &[], b"key", b""));
        let answer = get.say(0, b"tagged-key", b"v");
        assert_eq!(get.translate(&answer).unwrap(), get.say(0, b"key", b"v"));
    }

    #[test]
    fn packets_that_contradict_themselves_end_the_connection() {
        let mut bad = packet(0x00, &[], b"key", b"");
        bad[3] = 200;
        assert_eq!(asked(bad).what, What::Fatal(Status::Unknown));
        assert_eq!(
            asked(packet(0x00, b"xx", b"key", b"")).what,
            What::Fatal(Status::Invalid)
        );
        assert_eq!(
            asked(packet(0x00, b"", &[b'k'; 251], b"")).what,
            What::Fatal(Status::Invalid)
        );
        assert_eq!(
            asked(packet(0x7f, b"", b"", b"")).what,
            What::Error(Status::Unknown)
        );
        assert_eq!(next(&mut BytesMut::from(&b"\x81"[..])), Some(Next::Close));
    }
}
