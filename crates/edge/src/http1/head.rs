//! Finds the end of a head and cuts it into fields. Strict: lines end with CR LF, names are tokens, values have
//! no control characters, nothing is folded (RFC 9112 sections 2 and 5).

use std::ops::Range;

use super::reject::Reject;
use super::syntax;

/// The most header fields that a message may have: those that a visitor may send, and what an edge adds for a relay.
pub const MAX_FIELDS: usize = 144;

/// Sizes that a head may have. `head` is below 65,536 because fields are kept as 16-bit offsets.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the first line.
    pub first_line: usize,
    /// Bytes of the whole head.
    pub head: usize,
    /// Header fields; [`MAX_FIELDS`] at most.
    pub fields: usize,
}

impl HeadLimits {
    /// Between two edges: whatever one lets in, with what it adds, is not refused by the other.
    pub const RELAY: HeadLimits = HeadLimits {
        first_line: 48 * 1024,
        head: 60 * 1024,
        fields: MAX_FIELDS,
    };
}

impl Default for HeadLimits {
    /// 8 KiB for the request line and 32 KiB in all: what nginx takes by default. As many fields as HAProxy takes, and
    /// a few.
    fn default() -> Self {
        HeadLimits {
            first_line: 8 * 1024,
            head: 32 * 1024,
            fields: 128,
        }
    }
}

/// Looks for the end of a head in bytes that arrive bit by bit, each looked at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scanner {
    /// Where the next search begins.
    at: usize,
    /// Where the present line began.
    line: usize,
    /// Lines seen.
    lines: usize,
    /// Bytes of an empty line before the first one.
    leading: usize,
}

/// Where a complete head lies in the bytes that were scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first byte: 2 after an empty line that is skipped, else 0.
    pub start: usize,
    /// One past the last byte of the empty line that ends it.
    pub end: usize,
}

impl Scanner {
    /// Looks at `input`, which begins with all that was given before; `None` when more is needed.
    ///
    /// # Errors
    /// A line feed without a carriage return before it, a first line or a head over `limits`. The answer does
    /// not depend on how the bytes were split.
    pub fn scan(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Option<Extent>, Reject> {
        // Another protocol (a TLS hello, say) is told at its first byte, not when the time is over.
        if let Some(first) = input.first()
            && !syntax::is_token_byte(*first)
            && !matches!(first, b'\r' | b'\n')
        {
            return Err(Reject::BadRequestLine);
        }
        let window = &input[..input.len().min(limits.head)];
        while let Some(offset) = memchr::memchr(b'\n', window.get(self.at..).unwrap_or(&[])) {
            let feed = self.at + offset;
            if self.lines == 0 && feed - self.leading >= limits.first_line {
                return Err(Reject::TargetTooLong);
            }
            if feed == self.line || window[feed - 1] != b'\r' {
                return Err(Reject::BareLf);
            }
            self.at = feed + 1;
            let empty = feed - self.line == 1;
            self.line = feed + 1;
            if !empty {
                self.lines += 1;
                if self.lines > limits.fields + 1 {
                    return Err(Reject::TooManyFields);
                }
            } else if self.lines > 0 {
                return Ok(Some(Extent {
                    start: self.leading,
                    end: feed + 1,
                }));
            } else if self.leading > 0 {
                return Err(Reject::BadRequestLine);
            } else {
                // One empty line before a request is skipped (RFC 9112 section 2.2).
                self.leading = feed + 1;
            }
        }
        self.at = window.len();
        if self.lines == 0 && window.len() - self.leading >= limits.first_line {
            return Err(Reject::TargetTooLong);
        }
        if window.len() >= limits.head {
            return Err(Reject::HeadTooLarge);
        }
        Ok(None)
    }

    /// Whether nothing was looked at yet.
    pub fn is_fresh(&self) -> bool {
        self.at == 0
    }
}

/// A complete head, from its first line to its empty line.
pub enum Head<'h> {
    /// As it is.
    Whole(&'h [u8]),
    /// Cut already.
    Cut(Cut<'h>),
}

/// A head that was found and cut in one go.
pub struct Cut<'h> {
    line: &'h [u8],
    fields: Fields<'h>,
}

impl<'h> From<&'h [u8]> for Head<'h> {
    fn from(head: &'h [u8]) -> Head<'h> {
        Head::Whole(head)
    }
}

impl<'h> From<Cut<'h>> for Head<'h> {
    fn from(cut: Cut<'h>) -> Head<'h> {
        Head::Cut(cut)
    }
}

impl<'h> Head<'h> {
    /// Its first line and its fields.
    ///
    /// # Errors
    /// The first thing that is wrong with a line.
    pub fn parse(self) -> Result<(&'h [u8], Fields<'h>), Reject> {
        match self {
            Head::Whole(head) => Fields::parse(head),
            Head::Cut(cut) => Ok((cut.line, cut.fields)),
        }
    }
}

impl Cut<'_> {
    /// One past its last byte.
    pub fn end(&self) -> usize {
        self.fields.head.len()
    }
}

/// Finds and cuts the head that `input` begins with. What it gives is what a new [`Scanner`] and [`Fields::parse`] give,
/// with half the work; `None` when these have to look: at a head that is not complete, or has anything odd.
pub fn cut<'h>(input: &'h [u8], limits: &HeadLimits) -> Option<Cut<'h>> {
    let window = &input[..input.len().min(limits.head)];
    if !syntax::is_token_byte(*window.first()?) {
        return None;
    }
    let first_end = line_end(window, 0).ok()?;
    if first_end + 1 >= limits.first_line {
        return None;
    }
    let mut fields = Fields {
        head: window,
        spans: Vec::with_capacity(USUAL),
    };
    let mut at = first_end + 2;
    loop {
        let end = line_end(window, at).ok()?;
        if end == at {
            break;
        }
        // Whether the values are clean is seen below, of all at once.
        fields.push(at, end, true).ok()?;
        if fields.spans.len() > limits.fields {
            return None;
        }
        at = end + 2;
    }
    fields.head = &window[..at + 2];
    let line = &window[..first_end];
    let is_clean = fields.head.len() <= usize::from(u16::MAX) && syntax::is_clean(fields.head);
    is_clean.then_some(Cut { line, fields })
}

/// One header field of a head, as offsets.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    name: u16,
    name_end: u16,
    value: u16,
    value_end: u16,
    /// Where its line ends, before CR LF.
    end: u16,
    known: Known,
    /// Its line is written as it is passed on: `name: value`, with one space and nothing after it.
    is_plain: bool,
}

/// One header field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'f, 'h> {
    head: &'h [u8],
    span: &'f Span,
}

impl<'h> Field<'_, 'h> {
    /// What it is.
    pub fn known(&self) -> Known {
        self.span.known
    }

    /// Its name.
    pub fn name(&self) -> &'h [u8] {
        &self.head[usize::from(self.span.name)..usize::from(self.span.name_end)]
    }

    /// Its value, without the spaces around it.
    pub fn value(&self) -> &'h [u8] {
        &self.head[usize::from(self.span.value)..usize::from(self.span.value_end)]
    }
}

/// The fields of a head. Values are without the spaces around them.
pub struct Fields<'h> {
    head: &'h [u8],
    spans: Vec<Span>,
}

/// Fields that most messages have fewer of.
const USUAL: usize = 24;

impl<'h> Fields<'h> {
    /// Cuts `head`, a complete head from its first line to its empty line, into its first line and its fields.
    ///
    /// # Errors
    /// The first thing that is wrong with a line.
    pub fn parse(head: &'h [u8]) -> Result<(&'h [u8], Fields<'h>), Reject> {
        if head.len() > usize::from(u16::MAX) {
            return Err(Reject::HeadTooLarge);
        }
        let mut fields = Fields {
            head,
            spans: Vec::with_capacity(USUAL),
        };
        let is_clean = syntax::is_clean(head);
        let first_end = line_end(head, 0)?;
        let first = &head[..first_end];
        let mut at = first_end + 2;
        loop {
            let end = line_end(head, at)?;
            if end == at {
                return Ok((first, fields));
            }
            fields.push(at, end, is_clean)?;
            at = end + 2;
        }
    }

    /// Each field in order: what it is, its name and its value.
    pub fn iter(&self) -> impl Iterator<Item = (Known, &'h [u8], &'h [u8])> + '_ {
        self.each()
            .map(|field| (field.known(), field.name(), field.value()))
    }

    /// Each field in order.
    pub(super) fn each(&self) -> impl Iterator<Item = Field<'_, 'h>> {
        let head = self.head;
        self.spans.iter().map(move |span| Field { head, span })
    }

    /// Each field in order that means something to the edge.
    pub(super) fn that_matter(&self) -> impl Iterator<Item = Field<'_, 'h>> {
        self.each().filter(|field| field.known() != Known::Other)
    }

    /// Copies fields to `out`, after the first `front` bytes of the head.
    pub(super) fn copy_to<'o>(&self, front: usize, out: &'o mut Vec<u8>) -> Copier<'h, 'o> {
        out.reserve(self.head.len());
        Copier {
            head: self.head,
            out,
            pending: 0..front,
        }
    }

    /// The line from `start` to `end`. Nothing in the values of a head that is clean needs to be looked at again.
    // In the loop over the lines: as a call it costs a sixth more.
    #[inline(always)]
    fn push(&mut self, start: usize, end: usize, is_clean: bool) -> Result<(), Reject> {
        let line = &self.head[start..end];
        let (colon, has_underscore) = syntax::token_length(line);
        let (before, value_length, is_plain) = match line.get(colon..) {
            Some([b':', b' ', value @ ..]) if colon > 0 && is_clean && !syntax::has_space_around(value) => {
                (1, value.len(), true)
            }
            _ => value_place(line, colon, is_clean)?,
        };
        if self.spans.len() == MAX_FIELDS {
            return Err(Reject::TooManyFields);
        }
        let value = start + colon + 1 + before;
        // No head is longer than 16 bits say.
        self.spans.push(Span {
            name: start as u16,
            name_end: (start + colon) as u16,
            value: value as u16,
            value_end: (value + value_length) as u16,
            end: end as u16,
            known: known_with(&line[..colon], has_underscore),
            is_plain,
        });
        Ok(())
    }
}

/// Of a line whose name ends at `colon`: how far behind that its value begins, how long it is, and whether it is written as
/// it is passed on.
fn value_place(line: &[u8], colon: usize, is_clean: bool) -> Result<(usize, usize, bool), Reject> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Reject::ObsFold);
    }
    match line.get(colon).ok_or(Reject::BadFieldName)? {
        b':' if colon > 0 => {}
        b' ' | b'\t' if syntax::trim(&line[colon..]).first() == Some(&b':') => {
            return Err(Reject::SpaceBeforeColon);
        }
        b'\r' => return Err(Reject::BareCr),
        _ => return Err(Reject::BadFieldName),
    }
    let raw = &line[colon + 1..];
    if !is_clean && !syntax::is_value(raw) {
        let bad = raw.iter().find(|b| !syntax::is_value_byte(**b));
        return Err(match bad {
            Some(b'\r') => Reject::BareCr,
            _ => Reject::BadFieldValue,
        });
    }
    let value = syntax::trim(raw);
    let before = if value.is_empty() {
        0
    } else {
        raw.iter().take_while(|b| matches!(b, b' ' | b'\t')).count()
    };
    let is_plain = before == 1 && raw[0] == b' ' && before + value.len() == raw.len();
    Ok((before, value.len(), is_plain))
}

/// Copies fields of a head. Those that stand side by side, and are written there as they are passed on, go in one piece.
pub(super) struct Copier<'h, 'o> {
    head: &'h [u8],
    out: &'o mut Vec<u8>,
    /// Lines that are due.
    pending: Range<usize>,
}

impl<'h> Copier<'h, '_> {
    /// Passes `field` on.
    pub fn copy(&mut self, field: &Field<'_, 'h>) {
        let (start, end) = (usize::from(field.span.name), usize::from(field.span.end));
        if !field.span.is_plain {
            self.write(field.name(), field.value());
            return;
        }
        if start != self.pending.end {
            self.flush();
            self.pending.start = start;
        }
        self.pending.end = end + 2;
    }

    /// Where the value of `field` will be, which was passed on last.
    pub fn place(&self, field: &Field<'_, 'h>) -> Range<usize> {
        let start = if field.span.is_plain {
            self.out.len() + usize::from(field.span.value) - self.pending.start
        } else {
            self.out.len() - 2 - field.value().len()
        };
        start..start + field.value().len()
    }

    /// Writes another field in its place.
    pub fn write(&mut self, name: &[u8], value: &[u8]) {
        self.flush();
        write_field(self.out, name, value);
    }

    fn flush(&mut self) {
        self.out
            .extend_from_slice(&self.head[std::mem::take(&mut self.pending)]);
    }
}

impl Drop for Copier<'_, '_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Writes one field; gives the place of its value.
pub(super) fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Range<usize> {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    let start = out.len();
    out.extend_from_slice(value);
    let place = start..out.len();
    out.extend_from_slice(b"\r\n");
    place
}

/// Where the line that begins at `start` ends (its CR). A head that the [`Scanner`] passed has all of them.
fn line_end(head: &[u8], start: usize) -> Result<usize, Reject> {
    let rest = head.get(start..).ok_or(Reject::BadRequestLine)?;
    let feed = memchr::memchr(b'\n', rest).ok_or(Reject::BadRequestLine)?;
    match feed.checked_sub(1) {
        Some(end) if rest[end] == b'\r' => Ok(start + end),
        _ => Err(Reject::BareLf),
    }
}

/// The header fields that mean something to the edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Known {
    /// Passed on as it is.
    #[default]
    Other,
    /// `Host`
    Host,
    /// `Content-Length`
    ContentLength,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Connection`
    Connection,
    /// `Keep-Alive`, `Proxy-Connection`: for one connection only, never passed on.
    HopByHop,
    /// `TE`
    Te,
    /// `Upgrade`
    Upgrade,
    /// `Expect`
    Expect,
    /// `Forwarded`, `X-Forwarded-*`, `X-Real-IP`: who sent the request. Believed from the fleet only.
    Forwarded,
    /// A name that applications (CGI) cannot tell from one of the above, such as `X_Forwarded_For` or
    /// `Content_Length`; and `Proxy`, which CGI hands over as `HTTP_PROXY` (CVE-2016-5385).
    Confusing,
    /// `User-Agent`, for the access log.
    UserAgent,
    /// `Referer`, for the access log.
    Referer,
    /// The word between an edge and a relay ([`super::response::RelayWord`]).
    RelayWord,
    /// What the visitor's cookie said, between an edge and a relay ([`FLOOR_FIELD`]).
    Floor,
    /// `Cookie`, in which the floor's is not the application's.
    Cookie,
    /// `X-Request-Id`
    RequestId,
    /// `traceparent`
    Traceparent,
    /// `tracestate`
    Tracestate,
}

/// The field in which an edge hands the floor of a visitor's cookie to the relay of the application's server.
pub const FLOOR_FIELD: &str = "Pontoon-Floor";

/// What the field `name` is, whatever its case.
pub fn known(name: &[u8]) -> Known {
    known_with(name, name.contains(&b'_'))
}

/// As [`known`], where it is known whether the name has an underscore. Length and first letter say of most names that
/// they mean nothing here, before a second one is looked at.
fn known_with(name: &[u8], has_underscore: bool) -> Known {
    // As most write it, or in any other case.
    let is = |word: &str| name == word.as_bytes() || name.eq_ignore_ascii_case(word.as_bytes());
    let first = name.first().map_or(0, u8::to_ascii_lowercase);
    match (name.len(), first) {
        (2, b't') if is("TE") => Known::Te,
        (4, b'h') if is("Host") => Known::Host,
        (5, b'p') if is("Proxy") => Known::Confusing,
        (6, b'e') if is("Expect") => Known::Expect,
        (6, b'c') if is("Cookie") => Known::Cookie,
        (7, b'u') if is("Upgrade") => Known::Upgrade,
        (7, b'r') if is("Referer") => Known::Referer,
        (9, b'f') if is("Forwarded") => Known::Forwarded,
        (9, b'x') if is("X-Real-IP") => Known::Forwarded,
        (10, b'c') if is("Connection") => Known::Connection,
        (10, b'k') if is("Keep-Alive") => Known::HopByHop,
        (10, b'u') if is("User-Agent") => Known::UserAgent,
        (10, b't') if is("tracestate") => Known::Tracestate,
        (11, b't') if is("traceparent") => Known::Traceparent,
        (12, b'x') if is("X-Request-Id") => Known::RequestId,
        (13, b'p') if is("Pontoon-Relay") => Known::RelayWord,
        (13, b'p') if is(FLOOR_FIELD) => Known::Floor,
        (14, b'c') if is("Content-Length") => Known::ContentLength,
        (16, b'p') if is("Proxy-Connection") => Known::HopByHop,
        (17, b't') if is("Transfer-Encoding") => Known::TransferEncoding,
        (11.., b'x') if starts_with(name, b"x-forwarded") => Known::Forwarded,
        _ if has_underscore && confusing(name) => Known::Confusing,
        _ => Known::Other,
    }
}

fn starts_with(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether `name` becomes the name of a field that matters when `_` and `-` are taken for the same.
fn confusing(name: &[u8]) -> bool {
    let dashed: Vec<u8> = name.iter().map(|b| if *b == b'_' { b'-' } else { *b }).collect();
    !matches!(
        known(&dashed),
        Known::Other | Known::UserAgent | Known::Referer | Known::Cookie
    )
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
