//! What must hold for any bytes at all. The property tests here and the fuzz targets (`fuzz/targets`) ask the same.
// Each user has its own part of it.
#![allow(dead_code)]

use std::sync::Arc;

use pontoon_mysql_wire::reply::{Done, Expect, Fed, Hidden, ReplyWalker, Step};
use pontoon_mysql_wire::{Capabilities, StatusFlags, WireError, encode_packet};

/// Every kind of answer that has bytes.
pub const EXPECTS: [Expect; 7] = [
    Expect::Simple,
    Expect::Prepare,
    Expect::Execute,
    Expect::Fetch,
    Expect::FieldList,
    Expect::Statistics,
    Expect::ResetOrPing,
];

/// What every connection to a server has.
pub const BACKEND: Capabilities = Capabilities(
    Capabilities::PROTOCOL_41.0
        | Capabilities::DEPRECATE_EOF.0
        | Capabilities::SESSION_TRACK.0
        | Capabilities::LOCAL_FILES.0,
);

/// A client, and what is kept from it, chosen by eight bits.
#[derive(Clone, Copy, Debug)]
pub struct Client(pub u8);

impl Client {
    pub fn capabilities(self) -> Capabilities {
        let mut all = Capabilities::PROTOCOL_41;
        for (bit, flag) in [
            (1, Capabilities::DEPRECATE_EOF),
            (2, Capabilities::SESSION_TRACK),
            (4, Capabilities::LOCAL_FILES),
            (8, Capabilities::MARIADB_PROGRESS),
        ] {
            if self.0 & bit != 0 {
                all = all | flag;
            }
        }
        all
    }

    fn walker(self, expect: Expect) -> ReplyWalker {
        let walker = ReplyWalker::new(expect, BACKEND, self.capabilities(), self.0);
        match self.0 & 16 {
            0 => walker,
            _ => walker.with_hidden(Arc::new(Hidden {
                gtids: true,
                schema: true,
                variables: vec![b"last_gtid".to_vec()],
                ..Hidden::default()
            })),
        }
    }

    /// Whether the client gets all that the server says.
    fn sees_everything(self) -> bool {
        self.0 & (16 | 3) == 3
    }
}

/// Packets of the given payloads, as a server numbers them.
pub fn packets<P: AsRef<[u8]>>(payloads: impl IntoIterator<Item = P>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sequence = 1;
    for payload in payloads {
        sequence = encode_packet(&mut out, sequence, payload.as_ref());
    }
    out
}

/// Cuts `data` into payloads: each begins with a byte that is its length.
pub fn payloads(mut data: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some((len, rest)) = data.split_first() {
        let (payload, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        all.push(payload);
        data = rest;
    }
    all
}

/// Walks `bytes` in pieces of the given sizes, used over and over; all of it at once without any.
pub fn walk(
    mut walker: ReplyWalker,
    bytes: &[u8],
    pieces: &[u8],
) -> (Vec<u8>, Result<Option<Done>, WireError>) {
    let mut out = Vec::new();
    let mut pending = Vec::new();
    let mut sizes = pieces.iter().map(|size| usize::from(*size).max(1)).cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(rest.len()).min(rest.len());
        let (piece, later) = rest.split_at(size);
        rest = later;
        pending.extend_from_slice(piece);
        loop {
            let Fed { consumed, step } = match walker.feed(&pending, &mut out) {
                Ok(fed) => fed,
                Err(e) => return (out, Err(e)),
            };
            pending.drain(..consumed);
            match step {
                Step::More => break,
                Step::LocalInfile => walker.uploaded(1),
                Step::Done(done) => return (out, Ok(Some(done))),
            }
        }
    }
    (out, Ok(None))
}

/// Any bytes as an answer: in pieces as at once; never much more out than in; and what the client gets means the same
/// to it, and goes through a second walk unchanged.
pub fn answer(expect: Expect, client: Client, pieces: &[u8], bytes: &[u8]) {
    let (out, result) = walk(client.walker(expect), bytes, &[]);
    let in_pieces = walk(client.walker(expect), bytes, pieces);
    assert_eq!(in_pieces, (out.clone(), result.clone()), "in pieces {pieces:?}");
    assert!(
        out.len() <= 4 * bytes.len() + 16,
        "{} of {}",
        out.len(),
        bytes.len()
    );
    assert!(out.capacity() <= 8 * bytes.len() + 64, "{}", out.capacity());

    let capabilities = client.capabilities();
    let second = ReplyWalker::new(expect, capabilities, capabilities, client.0);
    let (again, read) = walk(second, &out, &[]);
    let Ok(Some(done)) = result else {
        return;
    };
    assert_eq!(again, out, "a second walk changes nothing");
    let read = read.expect("the client understands it").expect("it has an end");
    assert_eq!(
        (read.outcome, read.prepared, read.warnings),
        (done.outcome, done.prepared, done.warnings)
    );
    assert_eq!(
        (read.cursor, read.status_told, read.affected_rows),
        (done.cursor, done.status_told, done.affected_rows)
    );
    assert_eq!(
        (read.delivered_bytes, read.final_bytes),
        (done.delivered_bytes, done.final_bytes)
    );
    if done.status_told {
        let changed = StatusFlags::SESSION_STATE_CHANGED;
        assert_eq!(read.status.without(changed), done.status.without(changed));
    }
    if client.sees_everything() {
        assert_eq!(
            (read.state, read.last_insert_id),
            (done.state, done.last_insert_id)
        );
    }
}
