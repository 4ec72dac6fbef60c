//! What goes from the client to the database while it comes: long packets, and local files.

use std::io;

use pontoon_mysql_wire::{HEADER_LEN, SegmentScanner};

use super::Session;
use crate::exchange::{Answer, buffers, read_more, send};
use crate::pool::Connection;

impl Session {
    /// Passes on the rest of a packet of which `begun` has been sent. Returns the number that the answer begins with.
    pub(super) async fn stream(&mut self, begun: &[u8], connection: &mut Connection) -> io::Result<u8> {
        let mut scanner = SegmentScanner::new();
        let mut segment = scanner.scan(begun);
        if segment.is_some_and(|segment| segment.ends && segment.len < begun.len()) {
            // More than the packet was sent: the caller takes care that this cannot be.
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut chunk = buffers::take();
        let ended = loop {
            if let Some(last) = segment.filter(|segment| segment.ends) {
                break Ok(last.sequence.wrapping_add(1));
            }
            chunk.clear();
            if let Err(error) = self.read_client(&mut chunk).await {
                break Err(error);
            }
            segment = scanner.scan(&chunk);
            let len = segment.map_or(0, |segment| segment.len);
            if let Err(error) = send(&mut connection.backend.peer, &chunk[..len], &connection.link).await {
                break Err(error);
            }
            if len < chunk.len() {
                self.inbound = buffers::take();
                self.inbound.extend_from_slice(&chunk[len..]);
            }
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
