//! What goes from the client to the database while it comes: long packets, and local files.

use std::io;

use pontoon_mysql_wire::{HEADER_LEN, Reframer, SegmentScanner};

use super::Session;
use crate::exchange::{Answer, buffers, read_more, send};
use crate::pool::Connection;

/// Who broke off what was passed on.
#[derive(Debug)]
pub(super) enum BrokenOff {
    /// The client is gone, or does not keep to the protocol.
    Client,
    /// The database, or its connection was ended. It may have said why.
    Database,
}

/// What follows the bytes that were taken of a long packet.
#[derive(Clone, Debug)]
pub(super) enum Rest {
    /// It goes on as it comes.
    AsItComes(SegmentScanner),
    /// It goes on in frames of other lengths.
    Anew(Box<Reframer>),
}

impl Rest {
    /// The rest of the packet that `begun` is the beginning of; `begun` is less than the whole packet.
    pub(super) fn of(begun: &[u8]) -> Rest {
        let mut scanner = SegmentScanner::new();
        let _ = scanner.scan(begun);
        Rest::AsItComes(scanner)
    }

    /// Takes what came: how many bytes belong to the packet, and the number of its last frame when it has ended.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<(usize, Option<u8>)> {
        match self {
            Rest::AsItComes(scanner) => {
                let segment = scanner.scan(bytes)?;
                out.extend_from_slice(bytes.get(..segment.len)?);
                Some((segment.len, segment.ends.then_some(segment.sequence)))
            }
            Rest::Anew(reframer) => {
                let len = reframer.feed(bytes, out).ok()?;
                Some((len, reframer.ended().then(|| reframer.last_sequence())))
            }
        }
    }
}

impl Session {
    /// Passes on the rest of a packet whose beginning has been sent. Returns the number that the answer begins with.
    pub(super) async fn stream(
        &mut self,
        mut rest: Rest,
        connection: &mut Connection,
    ) -> Result<u8, BrokenOff> {
        let mut chunk = buffers::take();
        let mut out = buffers::take();
        let ended = loop {
            chunk.clear();
            out.clear();
            if self.read_client(&mut chunk).await.is_err() {
                break Err(BrokenOff::Client);
            }
            let Some((len, last)) = rest.take(&chunk, &mut out) else {
                break Err(BrokenOff::Client);
            };
            if send(&mut connection.backend.peer, &out, &connection.link)
                .await
                .is_err()
            {
                break Err(BrokenOff::Database);
            }
            if len < chunk.len() {
                self.inbound = buffers::take();
                self.inbound.extend_from_slice(&chunk[len..]);
            }
            if let Some(last) = last {
                break Ok(last.wrapping_add(1));
            }
        };
        buffers::give(chunk);
        buffers::give(out);
        ended
    }

    /// Reads the rest of a packet that began with `begun` and forgets it. Returns the number that the answer begins
    /// with; `None` when the client is gone.
    pub(super) async fn skip(&mut self, begun: &[u8]) -> Option<u8> {
        let mut scanner = SegmentScanner::new();
        let mut segment = scanner.scan(begun);
        let mut chunk = buffers::take();
        let ended = loop {
            if let Some(last) = segment.filter(|segment| segment.ends) {
                let used = last.len;
                if used < chunk.len() {
                    self.inbound = buffers::take();
                    self.inbound.extend_from_slice(&chunk[used..]);
                }
                break Some(last.sequence.wrapping_add(1));
            }
            chunk.clear();
            if self.read_client(&mut chunk).await.is_err() {
                break None;
            }
            segment = scanner.scan(&chunk);
        };
        buffers::give(chunk);
        ended
    }

    /// Passes a local file on, after the request for it.
    pub(super) async fn upload(
        &mut self,
        answer: &mut Answer,
        connection: &mut Connection,
    ) -> io::Result<()> {
        answer.send(&mut self.client, &self.link).await?;
        let offset = answer.walker().upload_offset();
        let mut frames = 0u8;
        // The header of the frame that is passed on, as far as it has come, and what is left of its payload.
        let mut head = Vec::with_capacity(HEADER_LEN);
        let mut left = 0usize;
        let mut chunk = buffers::take();
        let result = loop {
            chunk.clear();
            if !self.inbound.is_empty() {
                std::mem::swap(&mut chunk, &mut self.inbound);
            } else if let Err(error) = self.read_client(&mut chunk).await {
                break Err(error);
            }
            let mut out = buffers::take();
            let mut at = 0;
            let mut ended = false;
            while at < chunk.len() && !ended {
                if left > 0 {
                    let take = left.min(chunk.len() - at);
                    out.extend_from_slice(&chunk[at..at + take]);
                    at += take;
                    left -= take;
                    continue;
                }
                head.push(chunk[at]);
                at += 1;
                if let [a, b, c, sequence] = head[..] {
                    left = u32::from_le_bytes([a, b, c, 0]) as usize;
                    out.extend_from_slice(&[a, b, c, sequence.wrapping_add(offset)]);
                    head.clear();
                    frames = frames.wrapping_add(1);
                    ended = left == 0;
                }
            }
            let sent = send(&mut connection.backend.peer, &out, &connection.link).await;
            buffers::give(out);
            if let Err(error) = sent {
                break Err(error);
            }
            if ended {
                if at < chunk.len() {
                    self.inbound.extend_from_slice(&chunk[at..]);
                }
                break Ok(());
            }
        };
        buffers::give(chunk);
        answer.walker().uploaded(frames);
        result
    }

    async fn read_client(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        match read_more(&mut self.client, into, &self.link).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
