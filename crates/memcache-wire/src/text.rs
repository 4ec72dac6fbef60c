//! Lines of the text protocol and of the meta commands: what a client wants, and what memcached says when it is wrong
//! (`proto_text.c` of 1.6.18).

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine;
use bytes::{BufMut, Bytes, BytesMut};
use smallvec::{SmallVec, smallvec};

use crate::{MAX_ITEM_BYTES, MAX_KEY_BYTES};

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A command for the server of its key, or of each of its keys.
    Keyed(Keyed),
    /// `flush_all`, with its delay in seconds as it was written.
    FlushAll {
        /// The delay; empty without one.
        delay: Bytes,
        /// No answer is wanted.
        quiet: bool,
    },
    /// `stats`, with what follows.
    Stats(Bytes),
    /// `version`.
    Version,
    /// `mn`.
    MetaNoop,
    /// `quit`, or something after which memcached closes without a word.
    Close,
    /// Answered so; empty: not at all.
    Answer(&'static [u8]),
    /// Answered so after that many bytes of data and their line end were read and dropped.
    TooLarge {
        /// What follows the line.
        swallow_bytes: usize,
        /// `set`: memcached drops what was stored before, so that nothing old stays.
        key: Option<Bytes>,
        /// No answer is wanted.
        quiet: bool,
        /// What is said.
        says: &'static [u8],
    },
}

/// Where keys are; most often there is one, and nothing is allocated for it.
pub type Keys = SmallVec<[Range<usize>; 1]>;

/// A command with one key or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// The line without its end, and the data with its end if there is any.
    pub frame: Bytes,
    /// Where the line ends in it.
    pub line_bytes: usize,
    /// How long the data is, with its end; 0 without.
    pub data_bytes: usize,
    /// What it is.
    pub verb: Verb,
    /// The keys in `frame`.
    pub keys: Keys,
    /// No answer is wanted (`noreply`), or only some (`q` of a meta command).
    pub quiet: bool,
}

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `get`, `gets`, `gat`, `gats`.
    Get,
    /// `set`, `add`, `replace`, `append`, `prepend`, `cas`.
    Store,
    /// `delete`, `incr`, `decr`, `touch`.
    Change,
    /// `mg`.
    MetaGet,
    /// `ms`.
    MetaSet,
    /// `md`.
    MetaDelete,
    /// `ma`.
    MetaArithmetic,
    /// `me`.
    MetaDebug,
}

impl Verb {
    /// Whether nothing is changed by it, so that «nothing there» is an answer that is never wrong.
    pub fn is_read(self) -> bool {
        matches!(self, Verb::Get | Verb::MetaGet | Verb::MetaDebug)
    }
}

impl Keyed {
    /// The key that says on which server it is: of a meta command with `b`, what its base64 stands for.
    pub fn key(&self, index: usize) -> Bytes {
        match self.name(index) {
            Cow::Borrowed(name) => self.frame.slice_ref(name),
            Cow::Owned(name) => name.into(),
        }
    }

    /// The same without a share in the frame, for who looks at it once.
    pub fn name(&self, index: usize) -> Cow<'_, [u8]> {
        let range = self.keys.get(index).cloned();
        let name = range.and_then(|range| self.frame.get(range)).unwrap_or_default();
        if self.is_base64()
            && let Ok(decoded) = base64::engine::general_purpose::STANDARD.decode(name)
        {
            return decoded.into();
        }
        name.into()
    }

    fn is_base64(&self) -> bool {
        let is_meta = !matches!(self.verb, Verb::Get | Verb::Store | Verb::Change);
        is_meta
            && flags(&self.frame, &self.keys, self.line_bytes).any(|flag| {
                self.frame
                    .get(flag)
                    .is_some_and(|flag| flag.first() == Some(&b'b'))
            })
    }

    /// The command for the key `index` alone, such that it is always answered, with `name` in the place of the key.
    pub fn write(&self, index: usize, name: &[u8], out: &mut BytesMut) {
        let Some(key) = self.keys.get(index) else { return };
        let first = self.keys.first().map_or(0, |first| first.start);
        let line = self.frame.get(..self.line_bytes).unwrap_or_default();
        out.reserve(self.frame.len() + name.len() + 4);
        out.put_slice(line.get(..first).unwrap_or_default());
        out.put_slice(name);
        let rest = line.get(key.end..).unwrap_or_default();
        match self.verb {
            Verb::Get => {}
            Verb::Store | Verb::Change if self.quiet => {
                let rest = rest.trim_ascii_end();
                out.put_slice(rest.strip_suffix(b"noreply").unwrap_or(rest).trim_ascii_end());
            }
            Verb::Store | Verb::Change => out.put_slice(rest),
            _ if self.quiet => {
                for word in words(rest).map(|range| &rest[range]) {
                    if word != b"q" {
                        out.put_u8(b' ');
                        out.put_slice(word);
                    }
                }
            }
            _ => out.put_slice(rest),
        }
        out.put_slice(b"\r\n");
        out.put_slice(
            self.frame
                .get(self.frame.len() - self.data_bytes..)
                .unwrap_or_default(),
        );
    }

    /// What a client gets when nothing is known of the key: a read finds nothing.
    pub fn miss(&self) -> &'static [u8] {
        match self.verb {
            Verb::Get => b"END\r\n",
            Verb::MetaGet | Verb::MetaDebug => b"EN\r\n",
            _ => b"",
        }
    }

    /// Whether a client that asked for quiet hears `answer`. Errors are heard from meta commands only.
    pub fn is_heard(&self, answer: &[u8]) -> bool {
        if !self.quiet {
            return true;
        }
        let code = answer.get(..2).unwrap_or_default();
        match self.verb {
            Verb::Get | Verb::MetaDebug => true,
            Verb::Store | Verb::Change => false,
            Verb::MetaGet => code != b"EN",
            Verb::MetaSet | Verb::MetaDelete => code != b"HD",
            Verb::MetaArithmetic => code != b"HD" && code != b"VA",
        }
    }
}

/// The flags of a meta command: what follows the key, but for the length of `ms`.
fn flags<'a>(
    frame: &'a Bytes,
    keys: &[Range<usize>],
    line_bytes: usize,
) -> impl Iterator<Item = Range<usize>> + 'a {
    let from = keys.first().map_or(line_bytes, |key| key.end);
    let line = frame.get(from..line_bytes).unwrap_or_default();
    words(line).map(move |word| word.start + from..word.end + from)
}

/// What is between the blanks of a line.
fn words(line: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += line.get(at..)?.iter().position(|byte| *byte != b' ')?;
        let from = at;
        at = memchr::memchr(b' ', line.get(from..)?).map_or(line.len(), |end| from + end);
        Some(from..at)
    })
}

const ERROR: Line = Line::Answer(b"ERROR\r\n");
const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format\r\n";
const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache\r\n";
const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta argument\r\n";
const BAD_EXPTIME: &[u8] = b"CLIENT_ERROR invalid exptime argument\r\n";

/// Reads a line, without its end. `frame` of a command with data is the line alone: [`Keyed::data_bytes`] says what is to
/// be added.
pub fn parse(line: Bytes) -> Line {
    let all: SmallVec<[Range<usize>; 8]> = words(&line).take(MAX_WORDS).collect();
    let Some(verb) = all.first() else { return ERROR };
    let count = all.len();
    let parser = Parser {
        line: &line,
        words: &all,
    };
    match &line[verb.clone()] {
        b"get" | b"gets" if count >= 2 => parser.get(1),
        b"gat" | b"gats" if count >= 2 => parser.get_and_touch(),
        b"gat" | b"gats" => ERROR,
        b"set" if matches!(count, 5 | 6) => parser.store(None),
        b"add" | b"replace" | b"append" | b"prepend" if matches!(count, 5 | 6) => parser.store(None),
        b"cas" if matches!(count, 6 | 7) => parser.store(Some(5)),
        b"delete" if matches!(count, 2..=4) => parser.delete(),
        b"incr" | b"decr" if matches!(count, 3 | 4) => {
            parser.change(BAD_DELTA, |word| number::<u64>(word).is_some())
        }
        b"touch" if matches!(count, 3 | 4) => {
            parser.change(BAD_EXPTIME, |word| number::<i32>(word).is_some())
        }
        b"mg" | b"ms" | b"md" | b"ma" | b"me" if count < 2 => ERROR,
        b"mg" => parser.meta(Verb::MetaGet),
        b"ms" => parser.meta(Verb::MetaSet),
        b"md" => parser.meta(Verb::MetaDelete),
        b"ma" => parser.meta(Verb::MetaArithmetic),
        b"me" => parser.meta(Verb::MetaDebug),
        b"mn" => Line::MetaNoop,
        b"version" => Line::Version,
        b"quit" => Line::Close,
        b"stats" => Line::Stats(line.slice(verb.end..)),
        b"flush_all" if matches!(count, 1..=3) => parser.flush_all(),
        b"verbosity" => parser.verbosity(),
        b"cache_memlimit" if matches!(count, 2 | 3) => parser.memory_limit(),
        b"shutdown" => Line::Answer(b"ERROR: shutdown not enabled\r\n"),
        // Somebody's browser.
        _ if count >= 2
            && all
                .last()
                .is_some_and(|last| line[last.clone()].starts_with(b"HTTP/")) =>
        {
            Line::Close
        }
        _ => ERROR,
    }
}

struct Parser<'a> {
    line: &'a Bytes,
    words: &'a [Range<usize>],
}

impl Parser<'_> {
    fn word(&self, index: usize) -> &[u8] {
        self.words
            .get(index)
            .map_or(&[], |range| &self.line[range.clone()])
    }

    fn is_quiet(&self) -> bool {
        self.words.len() > 1 && self.word(self.words.len() - 1) == b"noreply"
    }

    fn wrong(&self, says: &'static [u8], quiet: bool) -> Line {
        Line::Answer(if quiet { b"" } else { says })
    }

    fn keyed(&self, verb: Verb, keys: Keys, data_bytes: usize, quiet: bool) -> Line {
        Line::Keyed(Keyed {
            frame: self.line.clone(),
            line_bytes: self.line.len(),
            data_bytes,
            verb,
            keys,
            quiet,
        })
    }

    /// Keys of the whole line, however many.
    fn get(&self, first: usize) -> Line {
        let keys: Keys = words(self.line).skip(first).collect();
        if keys.iter().any(|key| key.len() > MAX_KEY_BYTES) {
            return Line::Answer(BAD_FORMAT);
        }
        self.keyed(Verb::Get, keys, 0, false)
    }

    fn get_and_touch(&self) -> Line {
        if number::<i32>(self.word(1)).is_none() {
            return Line::Answer(BAD_EXPTIME);
        }
        if self.words.len() == 2 {
            return Line::Answer(b"END\r\n");
        }
        self.get(2)
    }

    fn store(&self, cas: Option<usize>) -> Line {
        let quiet = self.is_quiet();
        let wrong = || self.wrong(BAD_FORMAT, quiet);
        let key = self.words.get(1).cloned().unwrap_or_default();
        let fine = key.len() <= MAX_KEY_BYTES
            && number::<u32>(self.word(2)).is_some()
            && number::<i32>(self.word(3)).is_some()
            && cas.is_none_or(|at| number::<u64>(self.word(at)).is_some());
        let length = number::<i32>(self.word(4)).filter(|length| (0..=i32::MAX - 2).contains(length));
        let (true, Some(length)) = (fine, length.and_then(|length| usize::try_from(length).ok())) else {
            return wrong();
        };
        if length > MAX_ITEM_BYTES {
            return Line::TooLarge {
                swallow_bytes: length + 2,
                key: (self.word(0) == b"set").then(|| self.line.slice(key)),
                quiet,
                says: TOO_LARGE,
            };
        }
        self.keyed(Verb::Store, smallvec![key], length + 2, quiet)
    }

    fn delete(&self) -> Line {
        let quiet = self.is_quiet();
        let key = self.words.get(1).cloned().unwrap_or_default();
        if self.words.len() > 2 {
            // A time of 0 is taken for the sake of old clients.
            let zero = self.word(2) == b"0";
            let valid = match self.words.len() {
                3 => zero || quiet,
                _ => zero && quiet,
            };
            if !valid {
                let says = b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n";
                return self.wrong(says, quiet);
            }
        }
        if key.len() > MAX_KEY_BYTES {
            return self.wrong(BAD_FORMAT, quiet);
        }
        self.keyed(Verb::Change, smallvec![key], 0, quiet)
    }

    fn change(&self, says: &'static [u8], fine: impl Fn(&[u8]) -> bool) -> Line {
        let quiet = self.is_quiet();
        let key = self.words.get(1).cloned().unwrap_or_default();
        if key.len() > MAX_KEY_BYTES {
            return self.wrong(BAD_FORMAT, quiet);
        }
        if !fine(self.word(2)) {
            return self.wrong(says, quiet);
        }
        self.keyed(Verb::Change, smallvec![key], 0, quiet)
    }

    fn meta(&self, verb: Verb) -> Line {
        let key = self.words.get(1).cloned().unwrap_or_default();
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Line::Answer(BAD_FORMAT);
        }
        let mut flags = 2;
        let mut data_bytes = 0;
        if verb == Verb::MetaSet {
            flags = 3;
            let length = number::<i32>(self.word(2)).and_then(|length| usize::try_from(length).ok());
            let Some(length) = length.filter(|length| *length <= i32::MAX as usize - 2) else {
                return Line::Answer(BAD_FORMAT);
            };
            if length > MAX_ITEM_BYTES {
                return Line::TooLarge {
                    swallow_bytes: length + 2,
                    key: None,
                    quiet: false,
                    says: TOO_LARGE,
                };
            }
            data_bytes = length + 2;
        }
        if self.words.len() >= MAX_WORDS {
            return Line::Answer(b"CLIENT_ERROR options flags are too long\r\n");
        }
        let quiet = (flags..self.words.len()).any(|at| self.word(at) == b"q");
        self.keyed(verb, smallvec![key], data_bytes, quiet)
    }

    fn flush_all(&self) -> Line {
        let quiet = self.is_quiet();
        let delay = match self.words.len() - usize::from(quiet) {
            1 => Bytes::new(),
            _ if number::<i32>(self.word(1)).is_none() => return self.wrong(BAD_FORMAT, quiet),
            _ => self
                .words
                .get(1)
                .map(|word| self.line.slice(word.clone()))
                .unwrap_or_default(),
        };
        Line::FlushAll { delay, quiet }
    }

    /// How much a server writes into its log is not a client's to say; the answer is memcached's.
    fn verbosity(&self) -> Line {
        let quiet = self.is_quiet();
        match self.words.len() - usize::from(quiet) {
            1 => self.wrong(b"ERROR\r\n", quiet),
            _ if number::<u32>(self.word(1)).is_none() => self.wrong(BAD_FORMAT, quiet),
            _ => self.wrong(b"OK\r\n", quiet),
        }
    }

    /// The memory is the configuration's; the answer is memcached's.
    fn memory_limit(&self) -> Line {
        let quiet = self.is_quiet();
        match number::<u32>(self.word(1)) {
            None => self.wrong(BAD_FORMAT, quiet),
            Some(megabytes) if megabytes < 8 => {
                let says = b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n";
                self.wrong(says, quiet)
            }
            Some(_) => self.wrong(b"OK\r\n", quiet),
        }
    }
}

/// The data of a command does not end where its length says.
pub const BAD_CHUNK: &[u8] = b"CLIENT_ERROR bad data chunk\r\n";

/// As many words as memcached looks at in one go (`MAX_TOKENS`); more are keys of a `get`.
const MAX_WORDS: usize = 24;

/// A number in decimal, as `safe_strtol` and its like take it: of one that is too long for its place, the low bits.
fn number<N: Number>(word: &[u8]) -> Option<N> {
    N::read(std::str::from_utf8(word).ok()?)
}

trait Number: Sized {
    fn read(text: &str) -> Option<Self>;
}

impl Number for i32 {
    #[allow(clippy::cast_possible_truncation)] // as memcached does
    fn read(text: &str) -> Option<i32> {
        text.parse::<i64>().ok().map(|number| number as i32)
    }
}

impl Number for u32 {
    #[allow(clippy::cast_possible_truncation)] // as memcached does
    fn read(text: &str) -> Option<u32> {
        text.parse::<u64>().ok().map(|number| number as u32)
    }
}

impl Number for u64 {
    fn read(text: &str) -> Option<u64> {
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(line: &'static str) -> Keyed {
        match parse(Bytes::from_static(line.as_bytes())) {
            Line::Keyed(keyed) => keyed,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn written(line: &'static str, index: usize, name: &str) -> String {
        let mut out = BytesMut::new();
        keyed(line).write(index, name.as_bytes(), &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_command_is_written_for_one_key_and_is_always_answered() {
        assert_eq!(written("get a bb c", 1, "bb"), "get bb\r\n");
        assert_eq!(written("gats 30 a bb", 1, "x"), "gats 30 x\r\n");
        assert_eq!(written("delete a noreply", 0, "a"), "delete a\r\n");
        assert_eq!(written("delete a 0 noreply", 0, "a"), "delete a 0\r\n");
        assert_eq!(written("incr a 5", 0, "b"), "incr b 5\r\n");
        assert_eq!(written("mg foo t q v Oq", 0, "foo"), "mg foo t v Oq\r\n");
    }

    #[test]
    fn the_key_behind_base64_says_where_it_is() {
        assert_eq!(keyed("mg Zm9v v b").key(0), Bytes::from_static(b"foo"));
        assert_eq!(keyed("mg Zm9v v").key(0), Bytes::from_static(b"Zm9v"));
    }

    #[test]
    fn what_is_wrong_is_answered_as_memcached_does() {
        let says = |line: &str| match parse(Bytes::copy_from_slice(line.as_bytes())) {
            Line::Answer(says) => String::from_utf8_lossy(says).trim_end().to_owned(),
            Line::TooLarge { says, .. } => String::from_utf8_lossy(says).trim_end().to_owned(),
            other => format!("{other:?}"),
        };
        let long = "k".repeat(251);
        for (line, wanted) in [
            ("", "ERROR"),
            ("get", "ERROR"),
            ("nonsense", "ERROR"),
            ("set a 0 0", "ERROR"),
            ("set a 0 0 -1", "CLIENT_ERROR bad command line format"),
            ("set a x 0 1", "CLIENT_ERROR bad command line format"),
            ("set a 0 0 2000000", "SERVER_ERROR object too large for cache"),
            ("incr a b", "CLIENT_ERROR invalid numeric delta argument"),
            ("touch a b", "CLIENT_ERROR invalid exptime argument"),
            (&format!("get {long}"), "CLIENT_ERROR bad command line format"),
            (&format!("mg {long} v"), "CLIENT_ERROR bad command line format"),
            (
                "delete a 5",
                "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]",
            ),
            ("shutdown", "ERROR: shutdown not enabled"),
        ] {
            assert_eq!(says(line), wanted, "{line}");
        }
        assert_eq!(parse(Bytes::from_static(b"GET / HTTP/1.1")), Line::Close);
    }
}
