//! A request's head: the verdict on its framing, and the head that is passed on to an application server.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::body::Length;
use super::crumb;
use super::head::{Fields, Head, Known, write_field};
use super::marks::{Ids, Marks};
use super::reject::Reject;
use super::syntax;

/// The versions that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// Who sent a request, and so how much of it is believed.
#[derive(Clone, Copy, Debug)]
pub enum Sender {
    /// A visitor. What it says about who it is, is replaced by what is known.
    Visitor {
        /// Its address.
        peer: IpAddr,
        /// Where it connected to.
        local: SocketAddr,
        /// Whether it came over TLS.
        secure: bool,
    },
    /// Another edge of the fleet, which has already written down who the visitor is.
    Edge,
}

/// What the edge needs to know of a request. Ranges point into the head that is passed on.
#[derive(Clone, Debug)]
pub struct Request {
    /// The version that the client speaks.
    pub version: Version,
    /// Length of the method at the beginning of the head that is passed on.
    pub method_length: usize,
    /// The request target.
    pub target: Range<usize>,
    /// The host that it is for.
    pub host: Range<usize>,
    /// `User-Agent`, for the access log.
    pub user_agent: Range<usize>,
    /// `Referer`, for the access log.
    pub referer: Range<usize>,
    /// Whether it came from a visitor over TLS.
    pub secure: bool,
    /// The visitor's address; `None` from another edge.
    pub peer: Option<IpAddr>,
    /// Where the visitor, or the proxy before the edge, connected to; `None` from another edge.
    pub local: Option<SocketAddr>,
    /// Where the ids of the request and of its trace are; `None` where neither is wanted.
    pub ids: Option<Box<Ids>>,
    /// Whether the method is HEAD.
    pub is_head: bool,
    /// How long the body is.
    pub length: Length,
    /// Whether the client wants the connection to stay open.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Whether the client asks for another protocol on this connection.
    pub upgrade: bool,
    /// What the visitor's floor cookie says, as it is. Not part of the head.
    pub floor: Option<Vec<u8>>,
    /// Length of the head that is passed on, with the empty line.
    pub head_length: usize,
}

/// Reads `head` (see [`super::head::Scanner`]) and writes to `out` the head that is passed on. No proxy is believed, and
/// nothing is added.
///
/// # Errors
/// As [`read_marked`].
pub fn read(head: &[u8], sender: &Sender, out: &mut Vec<u8>) -> Result<Request, Reject> {
    read_marked(head, sender, &Marks::default(), out)
}

/// As [`read`], with what `marks` say.
///
/// # Errors
/// Why the request is refused; `out` is then undefined.
pub fn read_marked<'h>(
    head: impl Into<Head<'h>>,
    sender: &Sender,
    marks: &Marks<'_>,
    out: &mut Vec<u8>,
) -> Result<Request, Reject> {
    let (line, fields) = head.into().parse()?;
    let (method, target, version) = request_line(line)?;
    let facts = Facts::gather(&fields, version)?;
    let (path, authority) = target_form(method, target)?;
    let host = host(&facts, authority, version)?;

    out.clear();
    // With the space behind it.
    out.extend_from_slice(&line[..=method.len()]);
    let target = append(out, path);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    let host_start = out.len();
    match (host, sender) {
        (Some(host), _) => out.extend_from_slice(host),
        (None, Sender::Visitor { local, .. }) => display(out, local),
        (None, Sender::Edge) => out.extend_from_slice(b"localhost"),
    }
    let host_place = host_start..out.len();
    out.extend_from_slice(b"\r\n");
    let Passed {
        user_agent,
        referer,
        floor,
    } = pass_fields(&fields, &facts, sender, marks, out);
    let upgrade = facts.upgrade(version);
    if let Some(protocol) = upgrade {
        write_field(out, b"Connection", b"Upgrade");
        write_field(out, b"Upgrade", protocol);
    } else if facts.wants_trailers {
        write_field(out, b"Connection", b"TE");
        write_field(out, b"TE", b"trailers");
    }
    let expects_continue = facts.expect && version == Version::Http11 && facts.length != Length::None;
    if expects_continue {
        write_field(out, b"Expect", b"100-continue");
    }
    let mut secure = false;
    let mut visitor = None;
    if let Sender::Visitor {
        peer,
        local,
        secure: is_tls,
    } = sender
    {
        let who = marks.who(&fields, *peer, *is_tls);
        out.extend_from_slice(b"X-Forwarded-For: ");
        for hop in &who.way {
            out.extend_from_slice(hop);
            out.extend_from_slice(b", ");
        }
        address(out, peer.to_canonical());
        out.extend_from_slice(match who.secure {
            true => b"\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: ",
            false => b"\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: ",
        });
        match who.host.or(host) {
            Some(host) => out.extend_from_slice(host),
            None => display(out, local),
        }
        out.extend_from_slice(b"\r\n");
        (secure, visitor) = (who.secure, Some(who.visitor));
    }
    let ids = marks.write_ids(&fields, out);
    out.extend_from_slice(b"\r\n");

    Ok(Request {
        version,
        method_length: method.len(),
        target,
        host: host_place,
        user_agent,
        referer,
        secure,
        peer: visitor,
        local: match sender {
            Sender::Visitor { local, .. } => Some(*local),
            Sender::Edge => None,
        },
        ids,
        is_head: method == b"HEAD",
        length: facts.length,
        keep_alive: match version {
            Version::Http11 => !facts.close,
            Version::Http10 => facts.keep_alive && !facts.close,
        },
        expects_continue,
        upgrade: upgrade.is_some(),
        floor,
        head_length: out.len(),
    })
}

/// Method, target and version (RFC 9112 section 3): single spaces, nothing before, nothing after.
fn request_line(line: &[u8]) -> Result<(&[u8], &[u8], Version), Reject> {
    // As nearly all are. What is odd about any other is said below.
    let (method_end, _) = syntax::token_length(line);
    let (method, rest) = line.split_at(method_end);
    if let Some((b' ', rest)) = rest.split_first()
        && let Some(target) = rest.strip_suffix(b" HTTP/1.1")
        && matches!(method, b"GET" | b"POST" | b"HEAD")
        && syntax::is_target(target)
    {
        return Ok((method, target, Version::Http11));
    }
    let is_space = |b: &u8| *b == b' ';
    let parts = line.iter().position(is_space).and_then(|method_end| {
        let rest = &line[method_end + 1..];
        let target_end = rest.iter().position(is_space)?;
        let (target, version) = (&rest[..target_end], &rest[target_end + 1..]);
        (!version.contains(&b' ')).then_some((&line[..method_end], target, version))
    });
    let Some((method, target, version)) = parts else {
        return Err(if line.contains(&b'\r') {
            Reject::BareCr
        } else {
            Reject::BadRequestLine
        });
    };
    if !syntax::is_token(method) {
        return Err(Reject::BadMethod);
    }
    if !syntax::is_target(target) {
        return Err(Reject::BadTarget);
    }
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        other if other.starts_with(b"HTTP/") => return Err(Reject::BadVersion),
        _ => return Err(Reject::BadRequestLine),
    };
    match method {
        b"CONNECT" => Err(Reject::ConnectRefused),
        b"TRACE" => Err(Reject::TraceRefused),
        _ => Ok((method, target, version)),
    }
}

/// The target in origin or asterisk form, and the authority if it came in absolute form (RFC 9112 section 3.2).
fn target_form<'h>(method: &[u8], target: &'h [u8]) -> Result<(Path<'h>, Option<&'h [u8]>), Reject> {
    if target[0] == b'/' {
        return Ok((Path::Whole(target), None));
    }
    if target == b"*" {
        return if method == b"OPTIONS" {
            Ok((Path::Whole(target), None))
        } else {
            Err(Reject::BadTarget)
        };
    }
    let after_scheme = [&b"http://"[..], b"https://"]
        .iter()
        .find(|scheme| {
            target
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
        .map(|scheme| &target[scheme.len()..])
        .ok_or(Reject::BadTarget)?;
    let end = after_scheme
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(after_scheme.len());
    let (authority, path) = after_scheme.split_at(end);
    if !syntax::is_host(authority) {
        return Err(Reject::BadTarget);
    }
    let path = match path.first() {
        None if method == b"OPTIONS" => Path::Whole(b"*"),
        None => Path::Whole(b"/"),
        Some(b'?') => Path::Query(path),
        Some(_) => Path::Whole(path),
    };
    Ok((path, Some(authority)))
}

/// A target in origin form.
enum Path<'h> {
    /// As it is passed on.
    Whole(&'h [u8]),
    /// A query without a path: `/` goes before it.
    Query(&'h [u8]),
}

/// The host that the request is for; `None` for an HTTP/1.0 request that does not say.
fn host<'h>(
    facts: &Facts<'h>,
    authority: Option<&'h [u8]>,
    version: Version,
) -> Result<Option<&'h [u8]>, Reject> {
    match (facts.host, authority) {
        (None, None) if version == Version::Http11 => Err(Reject::MissingHost),
        (None, Some(_)) if version == Version::Http11 => Err(Reject::MissingHost),
        (None, authority) => Ok(authority),
        (Some(host), _) if !syntax::is_host(host) => Err(Reject::BadHost),
        (Some(host), Some(authority)) if !host.eq_ignore_ascii_case(authority) => Err(Reject::HostMismatch),
        (Some(host), _) => Ok(Some(host)),
    }
}

/// What the fields say that matters to the edge.
struct Facts<'h> {
    host: Option<&'h [u8]>,
    length: Length,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    /// Some `Connection` names a field that is for this connection only.
    nominates: bool,
    upgrade: Option<&'h [u8]>,
    upgrades: usize,
    wants_trailers: bool,
    expect: bool,
}

impl<'h> Facts<'h> {
    fn gather(fields: &Fields<'h>, version: Version) -> Result<Facts<'h>, Reject> {
        let mut facts = Facts {
            host: None,
            length: Length::None,
            close: false,
            keep_alive: false,
            connection_upgrade: false,
            nominates: false,
            upgrade: None,
            upgrades: 0,
            wants_trailers: false,
            expect: false,
        };
        let mut framing = Framing::default();
        for field in fields.that_matter() {
            let (known, value) = (field.known(), field.value());
            match known {
                Known::Host => facts.host(value)?,
                Known::ContentLength => framing.content_length(value)?,
                Known::TransferEncoding => framing.transfer_encoding(value, version)?,
                Known::Connection => facts.connection(value)?,
                Known::Te => {
                    facts.wants_trailers |= options(value).any(|o| o.eq_ignore_ascii_case(b"trailers"))
                }
                Known::Upgrade => {
                    facts.upgrade = Some(value);
                    facts.upgrades += 1;
                }
                Known::Expect if value.eq_ignore_ascii_case(b"100-continue") => facts.expect = true,
                Known::Expect => return Err(Reject::BadExpect),
                _ => {}
            }
        }
        facts.length = framing.verdict()?;
        Ok(facts)
    }

    fn host(&mut self, value: &'h [u8]) -> Result<(), Reject> {
        match self.host.replace(value) {
            Some(_) => Err(Reject::DuplicateHost),
            None => Ok(()),
        }
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), Reject> {
        for option in options(value) {
            if !syntax::is_token(option) {
                return Err(Reject::BadConnection);
            }
            match option.len() {
                5 if option.eq_ignore_ascii_case(b"close") => self.close = true,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.connection_upgrade = true,
                _ => self.nominates = true,
            }
        }
        Ok(())
    }

    /// The protocol asked for. `h2c` is not passed on: it would be a tunnel past every rule of the edge
    /// (RFC 9113 has withdrawn it).
    fn upgrade(&self, version: Version) -> Option<&'h [u8]> {
        let asked = self.connection_upgrade
            && self.upgrades == 1
            && version == Version::Http11
            && self.length == Length::None;
        self.upgrade.filter(|protocols| {
            asked && !protocols.is_empty() && !options(protocols).any(|p| p.eq_ignore_ascii_case(b"h2c"))
        })
    }
}

/// What `Content-Length` and `Transfer-Encoding` say together (RFC 9112 section 6). Shared with responses.
#[derive(Default)]
pub(super) struct Framing {
    length: Option<u64>,
    chunked: bool,
}

impl Framing {
    pub(super) fn content_length(&mut self, value: &[u8]) -> Result<(), Reject> {
        let length = syntax::decimal(value).ok_or(Reject::BadLength)?;
        match self.length.replace(length) {
            // Even two equal ones: who adds them up, or takes `5, 5` for a list, differs between programs.
            Some(_) => Err(Reject::DuplicateLength),
            None => Ok(()),
        }
    }

    pub(super) fn transfer_encoding(&mut self, value: &[u8], version: Version) -> Result<(), Reject> {
        if version == Version::Http10 {
            return Err(Reject::TransferEncodingInOldVersion);
        }
        if self.chunked {
            return Err(Reject::DuplicateTransferEncoding);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Reject::BadTransferEncoding);
        }
        self.chunked = true;
        Ok(())
    }

    pub(super) fn verdict(&self) -> Result<Length, Reject> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Reject::LengthAndChunked),
            (None, true) => Ok(Length::Chunked),
            (Some(0) | None, false) => Ok(Length::None),
            (Some(length), false) => Ok(Length::Known(length)),
        }
    }

    /// Whether any of the two fields was there.
    pub(super) fn is_said(&self) -> bool {
        self.length.is_some() || self.chunked
    }
}

/// What was found while fields were passed on.
struct Passed {
    user_agent: Range<usize>,
    referer: Range<usize>,
    floor: Option<Vec<u8>>,
}

/// Writes the fields that are passed on; gives the places of `User-Agent` and `Referer`.
fn pass_fields(
    fields: &Fields<'_>,
    facts: &Facts<'_>,
    sender: &Sender,
    marks: &Marks<'_>,
    out: &mut Vec<u8>,
) -> Passed {
    let (mut user_agent, mut referer, mut floor) = (0..0, 0..0, None);
    let mut copier = fields.copy_to(0, out);
    for field in fields.each() {
        let known = field.known();
        match known {
            Known::Host
            | Known::Connection
            | Known::HopByHop
            | Known::Te
            | Known::Upgrade
            | Known::Expect => {
                continue;
            }
            Known::Confusing | Known::RelayWord => continue,
            // From another edge, which took it out of the cookie. From anybody else it is nothing.
            Known::Floor => {
                if matches!(sender, Sender::Edge) {
                    floor = Some(field.value().to_vec());
                }
                continue;
            }
            Known::Cookie => {
                if let Some((value, rest)) = crumb::cut(field.value()) {
                    floor.get_or_insert(value);
                    if !rest.is_empty() {
                        copier.write(field.name(), &rest);
                    }
                    continue;
                }
            }
            Known::Forwarded if matches!(sender, Sender::Visitor { .. }) => continue,
            Known::ContentLength | Known::TransferEncoding | Known::Forwarded => {}
            Known::RequestId | Known::Traceparent | Known::Tracestate if marks.writes(known) => continue,
            Known::Other
            | Known::UserAgent
            | Known::Referer
            | Known::RequestId
            | Known::Traceparent
            | Known::Tracestate => {
                if facts.nominates && is_nominated(fields, field.name()) {
                    continue;
                }
            }
        }
        copier.copy(&field);
        match known {
            Known::UserAgent => user_agent = copier.place(&field),
            Known::Referer => referer = copier.place(&field),
            _ => {}
        }
    }
    Passed {
        user_agent,
        referer,
        floor,
    }
}

/// Whether some `Connection` names this field, so that it ends here (RFC 9110 section 7.6.1). Fields that are
/// meant for the application cannot be taken away like this.
pub(super) fn is_nominated(fields: &Fields<'_>, name: &[u8]) -> bool {
    const END_TO_END: [&[u8]; 7] = [
        b"authorization",
        b"cache-control",
        b"content-type",
        b"cookie",
        b"date",
        b"origin",
        b"set-cookie",
    ];
    fields
        .iter()
        .filter(|(known, ..)| *known == Known::Connection)
        .any(|(_, _, value)| options(value).any(|option| option.eq_ignore_ascii_case(name)))
        && !END_TO_END.iter().any(|kept| kept.eq_ignore_ascii_case(name))
}

/// The elements of a comma-separated list; empty ones are left out (RFC 9110 section 5.6.1).
pub(super) fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(syntax::trim)
        .filter(|option| !option.is_empty())
}

fn append(out: &mut Vec<u8>, path: Path<'_>) -> Range<usize> {
    let start = out.len();
    match path {
        Path::Whole(path) => out.extend_from_slice(path),
        Path::Query(query) => {
            out.push(b'/');
            out.extend_from_slice(query);
        }
    }
    start..out.len()
}

/// Writes an address; the usual ones without the machinery of formatting.
fn address(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(v4) = address else {
        return display(out, &address);
    };
    // Three digits and a dot each; the last dot goes.
    let mut text = [b'.'; 16];
    let mut at = 0;
    for octet in v4.octets() {
        for (least, unit) in [(100, 100), (10, 10), (0, 1)] {
            if octet >= least {
                text[at] = b'0' + octet / unit % 10;
                at += 1;
            }
        }
        text[at] = b'.';
        at += 1;
    }
    out.extend_from_slice(&text[..at - 1]);
}

fn display(out: &mut Vec<u8>, value: &impl std::fmt::Display) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_everybody_writes_them() {
        for octet in 0..=255u8 {
            for octets in [[octet, 0, 9, 10], [1, octet, 99, octet], [100, 200, 255, octet]] {
                let given = IpAddr::from(octets);
                let mut out = b"for ".to_vec();
                address(&mut out, given);
                assert_eq!(out, format!("for {given}").into_bytes());
            }
        }
    }
}
