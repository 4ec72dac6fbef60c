//! What stands before this edge, as far as it is believed, and what the edge tells of a request to visitors and
//! applications.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aws_lc_rs::rand;
use pontoon_fleet::EdgeFront;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::http1::marks::{Marks, visitor_of};
use crate::http1::reject::Reject;
use crate::http1::request::{Request, Sender};
use crate::http1::response::Parsed;
use crate::proxy_protocol::{self, Header};
use crate::stay;
use crate::worker::Worker;

/// Whether connections from `peer` begin with a header of the PROXY protocol.
pub fn is_introduced(front: &EdgeFront, peer: IpAddr) -> bool {
    front.proxy_protocol && front.trusts(peer)
}

/// Reads the header with which a proxy introduces a visitor: who that is, and where it connected to. `None` when the
/// connection is to be closed.
pub async fn introduced(
    worker: &Worker,
    stream: &mut TcpStream,
    (peer, local): (SocketAddr, SocketAddr),
) -> Option<(SocketAddr, SocketAddr)> {
    let limit = worker.upstreams().tuning.head_timeout;
    let refused = |reject: Reject| {
        worker.stats.rejected(reject as usize);
        tracing::debug!(%peer, %reject, "closed a connection of a proxy");
        None
    };
    match tokio::time::timeout(limit, read_header(stream)).await {
        Err(_) => refused(Reject::ProxyHeaderTimeout),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => refused(Reject::BadProxyHeader),
        // It went away, as a check does that only asks whether somebody listens.
        Ok(Err(_)) => None,
        Ok(Ok(Header::Local)) => Some((peer, local)),
        Ok(Ok(Header::Proxied { source, destination })) => Some((source, destination)),
    }
}

/// Takes the header, and not a byte more, from `stream`.
async fn read_header(stream: &mut TcpStream) -> io::Result<Header> {
    let mut header = Vec::new();
    let mut seen = [0; proxy_protocol::MAX];
    loop {
        let count = stream.peek(&mut seen).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = header.len();
        header.extend_from_slice(&seen[..count]);
        let read = proxy_protocol::read(&header).map_err(|_| io::ErrorKind::InvalidData)?;
        // All that was seen is part of a header that is not complete.
        let taken = read.map_or(count, |(_, length)| length.saturating_sub(before));
        stream.read_exact(&mut seen[..taken]).await?;
        if let Some((header, _)) = read {
            return Ok(header);
        }
    }
}

/// What a request of `sender` is read with. `is_trusted` is [`EdgeFront::trusts`].
pub fn marks<'m>(
    worker: &Worker,
    front: &EdgeFront,
    sender: &Sender,
    is_trusted: &'m dyn Fn(IpAddr) -> bool,
) -> Marks<'m> {
    let Sender::Visitor { peer, .. } = sender else {
        return Marks::default();
    };
    Marks {
        trusted: (!front.trusted.is_empty() && is_trusted(*peer)).then_some(is_trusted),
        request_id: front.request_id.then(|| worker.ids.next()),
        trace: front
            .traceparent
            .then(|| (worker.ids.next(), worker.ids.next() as u64)),
    }
}

/// The header that introduces the visitor of `request`, whose head is `head`, to an application at `address`.
pub fn introduction(
    version: proxy_protocol::Version,
    request: &Request,
    head: &[u8],
    address: SocketAddr,
) -> Vec<u8> {
    // A relay has it from the edge that sent the request here, which wrote it.
    let told = || stay::field(head, "x-forwarded-for").and_then(visitor_of);
    let header = match request.peer.or_else(told) {
        Some(visitor) => Header::Proxied {
            // The port is nobody's business but the first proxy's.
            source: SocketAddr::new(visitor, 0),
            destination: request.local.unwrap_or(address),
        },
        None => Header::Local,
    };
    let mut bytes = Vec::new();
    proxy_protocol::write(version, &header, &mut bytes);
    bytes
}

/// What an answer tells of its request.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The field with the request's id; empty for none.
    pub request_id: String,
    /// When the request began; `None` where that is not told.
    pub begun: Option<Instant>,
}

impl Told {
    /// What is told of `request`, whose head is `head`; `None` for nothing.
    pub fn of(front: &EdgeFront, request: &Request, head: &[u8]) -> Option<Told> {
        let id = std::str::from_utf8(request.id(head)).ok();
        let id = id.filter(|id| !id.is_empty());
        let told = Told {
            request_id: id.map_or_else(String::new, |id| format!("X-Request-Id: {id}\r\n")),
            begun: front.server_timing.then(Instant::now),
        };
        (id.is_some() || told.begun.is_some()).then_some(told)
    }

    /// The fields for an answer that the application gave after `took`. Its own id stands.
    pub fn fields(&self, answer: &Parsed<'_>, took: Duration) -> String {
        let mut fields = match answer.has(b"x-request-id") {
            true => String::new(),
            false => self.request_id.clone(),
        };
        if let Some(begun) = self.begun {
            let millis = |span: Duration| span.as_secs_f64() * 1000.0;
            fields += &format!(
                "Server-Timing: edge;dur={:.1}, app;dur={:.1}\r\n",
                millis(begun.elapsed().saturating_sub(took)),
                millis(took),
            );
        }
        fields
    }
}

/// Random numbers for ids of one thread: no secrets, and never twice the same (xoroshiro128++, Blackman and Vigna 2019).
#[derive(Debug)]
pub struct Ids(Cell<[u64; 2]>);

impl Default for Ids {
    fn default() -> Ids {
        let mut seed = [0; 16];
        if rand::fill(&mut seed).is_err() {
            seed = u128::from(std::process::id()).to_ne_bytes();
        }
        let number = u128::from_ne_bytes(seed) | 1;
        Ids(Cell::new([number as u64, (number >> 64) as u64]))
    }
}

impl Ids {
    /// The next.
    pub fn next(&self) -> u128 {
        (u128::from(self.half()) << 64) | u128::from(self.half())
    }

    fn half(&self) -> u64 {
        let [a, b] = self.0.get();
        let next = a.wrapping_add(b).rotate_left(17).wrapping_add(a);
        let mixed = b ^ a;
        self.0
            .set([a.rotate_left(49) ^ mixed ^ (mixed << 21), mixed.rotate_left(28)]);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        let (one, other) = (Ids::default(), Ids::default());
        let mut all: Vec<u128> = (0..1000).flat_map(|_| [one.next(), other.next()]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 2000);
    }
}
