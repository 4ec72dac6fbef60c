//! HTTP/2 (RFC 9113), translated to HTTP/1.1 and back at the edge of the edge.
//!
//! One stream of a visitor looks to the rest of this crate like a client connection with one request on it
//! ([`VisitorStream`]), one stream to an application like a connection to it ([`UpstreamStream`]): whatever decides,
//! retries, limits and carries requests is the same code for both versions. What HTTP/1.1 refuses as ambiguous is
//! refused here too, because it is read by the same parser.
//!
//! Frames, HPACK and flow control are the `h2` crate's. Memory is bounded: a stream's window opens only as its bytes are
//! taken, and an answer is taken only as the visitor's window opens.

mod fields;
mod outgoing;
mod serve;
mod upstream;
mod visitor;

pub use serve::serve;
pub use upstream::{Connections, UpstreamStream, connect};
pub use visitor::VisitorStream;

use std::collections::VecDeque;
use std::io;

use bytes::{Buf, Bytes};
use h2::Reason;
use tokio::io::ReadBuf;

/// The window of one stream, in bytes: what may wait here of one body.
const STREAM_WINDOW: u32 = 128 * 1024;
/// The window of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What may wait to be written of one answer.
const SEND_BUFFER: usize = 64 * 1024;

/// Bytes of an HTTP/1.1 message that were made of frames and are not yet read.
#[derive(Default)]
struct Made {
    pieces: VecDeque<(Bytes, bool)>,
}

impl Made {
    fn text(&mut self, bytes: impl Into<Bytes>) {
        self.pieces.push_back((bytes.into(), false));
    }

    /// What a DATA frame brought, as a chunk of its own where that is asked for.
    fn data(&mut self, data: Bytes, chunked: bool) {
        if data.is_empty() {
            return;
        }
        if chunked {
            self.text(format!("{:x}\r\n", data.len()).into_bytes());
        }
        self.pieces.push_back((data, true));
        if chunked {
            self.text(&b"\r\n"[..]);
        }
    }

    /// Moves what fits into `out`; says how much of it came in DATA frames.
    fn read(&mut self, out: &mut ReadBuf<'_>) -> usize {
        let mut of_data = 0;
        while let Some((bytes, is_data)) = self.pieces.front_mut() {
            let count = bytes.len().min(out.remaining());
            out.put_slice(&bytes[..count]);
            bytes.advance(count);
            if *is_data {
                of_data += count;
            }
            if !bytes.is_empty() {
                break;
            }
            self.pieces.pop_front();
        }
        of_data
    }
}

/// Whether `error` says that the application has not looked at the request: it may be sent again, whatever its method
/// (RFC 9113 section 8.7).
pub fn is_unprocessed(error: &io::Error) -> bool {
    let error = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<h2::Error>());
    error.is_some_and(|error| {
        let leaves = error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
        leaves || (error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM))
    })
}

fn broken(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}
