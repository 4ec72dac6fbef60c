//! A response's head: the verdict on its framing, and the head that is passed on to the client.

use super::body::Length;
use super::head::{Fields, Head, Known};
use super::reject::Reject;
use super::request::{Framing, Version, is_nominated, options};
use super::syntax;

/// What a relay tells the edge that asked, beside an answer of its own. Taken out of whatever anybody else sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayWord {
    /// The application got not a byte of the request: it may be sent elsewhere whatever its method.
    NotSent,
    /// The application closed before a byte of its answer came. Whether the request may be sent again is the
    /// asking edge's to decide, with its own count and budget.
    Closed,
}

impl RelayWord {
    /// As a header field.
    pub fn field(self) -> &'static str {
        match self {
            RelayWord::NotSent => "Pontoon-Relay: not-sent\r\n",
            RelayWord::Closed => "Pontoon-Relay: closed\r\n",
        }
    }

    fn of(value: &[u8]) -> Option<RelayWord> {
        match value {
            b"not-sent" => Some(RelayWord::NotSent),
            b"closed" => Some(RelayWord::Closed),
            _ => None,
        }
    }
}

/// What the edge needs to know of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// How its body ends.
    pub ending: Ending,
    /// Whether the application server keeps the connection open for another request.
    pub keep_alive: bool,
    /// What a relay says beside it.
    pub relay_word: Option<RelayWord>,
}

impl Response {
    /// Whether another response to the same request follows (RFC 9110 section 15.2).
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// How a response's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// After the bytes that were announced.
    Announced(Length),
    /// When the connection is closed.
    Close,
}

/// What the response answers.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The request's method is HEAD.
    pub head: bool,
    /// The request asked for another protocol.
    pub upgrade: bool,
}

/// How the response is handed to the client.
#[derive(Clone, Copy, Debug)]
pub struct Handover {
    /// What the client speaks.
    pub version: Version,
    /// Whether the connection to it stays open.
    pub keep_alive: bool,
    /// Whether the body goes in chunks.
    pub chunk: bool,
}

/// A response's head, cut into its fields and judged.
pub struct Parsed<'h> {
    /// The verdict.
    pub response: Response,
    reason: &'h [u8],
    /// The first line is as it is passed on.
    is_plain: bool,
    fields: Fields<'h>,
    nominates: bool,
}

/// Reads `head` (see [`super::head::Scanner`]).
///
/// # Errors
/// Why the response is not passed on: the client gets a 502.
pub fn read<'h>(head: &'h [u8], asked: &Asked) -> Result<Parsed<'h>, Reject> {
    read_head(head.into(), asked)
}

/// As [`read`].
///
/// # Errors
/// As [`read`].
pub fn read_head<'h>(head: Head<'h>, asked: &Asked) -> Result<Parsed<'h>, Reject> {
    let (line, fields) = head.parse()?;
    let (version, status, reason) = status_line(line)?;
    let mut framing = Framing::default();
    let (mut close, mut keep_alive, mut nominates, mut relay_word) = (false, false, false, None);
    for field in fields.that_matter() {
        let (known, value) = (field.known(), field.value());
        match known {
            Known::ContentLength => framing.content_length(value)?,
            Known::TransferEncoding => framing.transfer_encoding(value, version)?,
            Known::Connection => {
                for option in options(value) {
                    close |= option.eq_ignore_ascii_case(b"close");
                    keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    nominates = true;
                }
            }
            Known::RelayWord => relay_word = RelayWord::of(value),
            _ => {}
        }
    }
    if status == 101 && !asked.upgrade {
        return Err(Reject::UnaskedUpgrade);
    }
    let announced = framing.verdict()?;
    let bodiless = status < 200 || matches!(status, 204 | 304);
    let ending = if bodiless || asked.head {
        Ending::Announced(Length::None)
    } else if framing.is_said() {
        Ending::Announced(announced)
    } else {
        Ending::Close
    };
    // A server that announces a body where there can be none may send it all the same, and it would be read as
    // the next response. 304 may announce the length that a 200 would have had.
    let suspicious = (bodiless && announced == Length::Chunked)
        || (bodiless && status != 304 && announced != Length::None);
    let open = match version {
        Version::Http11 => !close,
        Version::Http10 => keep_alive && !close,
    };
    let response = Response {
        status,
        ending,
        keep_alive: open && !suspicious && ending != Ending::Close,
        relay_word,
    };
    Ok(Parsed {
        response,
        reason,
        is_plain: version == Version::Http11 && line.get(12) == Some(&b' '),
        fields,
        nominates,
    })
}

impl Parsed<'_> {
    /// Whether it has the field `name`.
    pub fn has(&self, name: &[u8]) -> bool {
        self.fields
            .iter()
            .any(|(_, field, _)| field.eq_ignore_ascii_case(name))
    }

    /// Its fields, in order.
    pub fn fields(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.fields.iter()
    }

    /// Appends to `out` the head that is passed on.
    pub fn write(&self, to: &Handover, out: &mut Vec<u8>) {
        let status = self.response.status;
        let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + (digit % 10) as u8);
        let front = match self.is_plain {
            true => b"HTTP/1.1 200 \r\n".len() + self.reason.len(),
            false => {
                out.extend_from_slice(b"HTTP/1.1 ");
                out.extend_from_slice(&digits);
                out.push(b' ');
                out.extend_from_slice(self.reason);
                out.extend_from_slice(b"\r\n");
                0
            }
        };
        let keeps_upgrade = matches!(status, 101 | 426);
        let without_length = status < 200 || status == 204;
        let mut copier = self.fields.copy_to(front, out);
        for field in self.fields.each() {
            match field.known() {
                Known::Connection | Known::HopByHop | Known::TransferEncoding | Known::RelayWord => continue,
                Known::ContentLength if without_length => continue,
                Known::Upgrade if !keeps_upgrade => continue,
                Known::Other if self.nominates && is_nominated(&self.fields, field.name()) => continue,
                _ => {}
            }
            copier.copy(&field);
        }
        drop(copier);
        if status == 101 {
            out.extend_from_slice(b"Connection: Upgrade\r\n\r\n");
            return;
        }
        if to.chunk {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        if !self.response.is_interim() {
            match (to.keep_alive, to.version) {
                (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
                (true, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
                (true, Version::Http11) => {}
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Version, status and reason (RFC 9112 section 4). Some servers leave out the space before an empty reason.
fn status_line(line: &[u8]) -> Result<(Version, u16, &[u8]), Reject> {
    let version = match line.get(..9) {
        Some(b"HTTP/1.1 ") => Version::Http11,
        Some(b"HTTP/1.0 ") => Version::Http10,
        _ => return Err(Reject::BadStatusLine),
    };
    let (Some(digits), rest) = (line.get(9..12), line.get(12..).unwrap_or(&[])) else {
        return Err(Reject::BadStatusLine);
    };
    let status = syntax::decimal(digits).and_then(|status| u16::try_from(status).ok());
    let reason = match rest.split_first() {
        None => rest,
        Some((b' ', reason)) if syntax::is_value(reason) => reason,
        Some(_) => return Err(Reject::BadStatusLine),
    };
    match status {
        Some(status @ 100..=999) => Ok((version, status, reason)),
        _ => Err(Reject::BadStatusLine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Asked = Asked {
        head: false,
        upgrade: false,
    };

    fn verdict(head: &str) -> Result<Response, Reject> {
        read(head.as_bytes(), &GET).map(|parsed| parsed.response)
    }

    #[test]
    fn the_end_of_a_body() {
        let ending = |head: &str| verdict(head).unwrap().ending;
        assert_eq!(
            ending("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
            Ending::Announced(Length::Known(5))
        );
        assert_eq!(
            ending("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            Ending::Announced(Length::None)
        );
        assert_eq!(
            ending("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"),
            Ending::Announced(Length::Chunked)
        );
        assert_eq!(ending("HTTP/1.1 200\r\n\r\n"), Ending::Close);
        for status in ["103", "204", "304"] {
            assert_eq!(
                ending(&format!("HTTP/1.1 {status} x\r\n\r\n")),
                Ending::Announced(Length::None)
            );
        }
        let head = read(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            &Asked {
                head: true,
                upgrade: false,
            },
        );
        assert_eq!(head.unwrap().response.ending, Ending::Announced(Length::None));
    }

    #[test]
    fn a_connection_that_may_carry_more_than_was_announced_is_not_used_again() {
        let kept = |head: &str| verdict(head).unwrap().keep_alive;
        assert!(kept("HTTP/1.1 204 x\r\n\r\n"));
        assert!(kept("HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n"));
        assert!(!kept("HTTP/1.1 204 x\r\nContent-Length: 9\r\n\r\n"));
        assert!(!kept("HTTP/1.1 304 x\r\nTransfer-Encoding: chunked\r\n\r\n"));
        assert!(!kept("HTTP/1.1 200 x\r\n\r\n"));
        assert!(!kept("HTTP/1.0 200 x\r\nContent-Length: 1\r\n\r\n"));
        assert!(kept(
            "HTTP/1.0 200 x\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n"
        ));
        assert!(!kept(
            "HTTP/1.1 200 x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n"
        ));
    }

    #[test]
    fn an_answer_that_can_be_read_two_ways_is_no_answer() {
        for (head, why) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                Reject::LengthAndChunked,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
                Reject::DuplicateLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5,5\r\n\r\n",
                Reject::BadLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                Reject::BadTransferEncoding,
            ),
            (
                "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                Reject::TransferEncodingInOldVersion,
            ),
            (
                "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
                Reject::UnaskedUpgrade,
            ),
            ("HTTP/1.1 200 OK\r\nX : y\r\n\r\n", Reject::SpaceBeforeColon),
            ("HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", Reject::ObsFold),
            ("HTTP/1.1 2000 OK\r\n\r\n", Reject::BadStatusLine),
            ("HTTP/1.1 099 OK\r\n\r\n", Reject::BadStatusLine),
            ("HTTP/2 200 OK\r\n\r\n", Reject::BadStatusLine),
            ("HTTP/1.1  200 OK\r\n\r\n", Reject::BadStatusLine),
            ("HTTP/1.1 200 a\rb\r\n\r\n", Reject::BadStatusLine),
        ] {
            assert_eq!(verdict(head).unwrap_err(), why, "{head:?}");
        }
    }

    #[test]
    fn what_was_for_the_edge_alone_is_not_passed_on() {
        let head = b"HTTP/1.1 200 Fine\r\nConnection: keep-alive, X-Mine\r\nKeep-Alive: 5\r\nX-Mine: 1\r\nUpgrade: h2c\r\n\
            Pontoon-Relay: not-sent\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 2\r\n\r\n";
        let mut out = Vec::new();
        let to = Handover {
            version: Version::Http11,
            keep_alive: false,
            chunk: false,
        };
        read(head, &GET).unwrap().write(&to, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 Fine\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
        );
    }
}
