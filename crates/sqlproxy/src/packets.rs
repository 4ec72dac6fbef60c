//! Whole packets over a stream, while few and small ones are exchanged: the handshake of either side.

use std::io;

use pontoon_mysql_wire::{PacketDecoder, WireError, encode_packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::peer::Peer;

/// The longest packet of a handshake, in bytes. Connection attributes may have 64 KiB; nothing else comes near.
pub const MAX_HANDSHAKE: usize = 128 * 1024;

/// Why an exchange of packets ended.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The peer closed.
    #[error("the connection was closed")]
    Closed,
    /// The stream broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is no packet, or not the one that was due.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A stream and the place in it. Nothing is read beyond what the peer has sent of its own accord, and what was read
/// and not asked for is handed on with the stream.
#[derive(Debug)]
pub struct Packets {
    peer: Peer,
    decoder: PacketDecoder,
    /// What the next packet, of either side, carries.
    sequence: u8,
}

impl Packets {
    /// At the beginning of a stream, of which `read` has been read already.
    pub fn new(peer: Peer, read: &[u8]) -> Packets {
        Packets::at(peer, read, 0)
    }

    /// The same within an exchange, whose next packet carries `sequence`.
    pub fn at(peer: Peer, read: &[u8], sequence: u8) -> Packets {
        let mut decoder = PacketDecoder::new(MAX_HANDSHAKE);
        decoder.feed(read);
        Packets {
            peer,
            decoder,
            sequence,
        }
    }

    /// The number that the next packet, of either side, carries.
    pub fn sequence(&self) -> u8 {
        self.sequence
    }

    /// The next packet's payload.
    ///
    /// # Errors
    /// [`PacketError`]: also for a packet that is too long or out of order.
    pub async fn read(&mut self) -> Result<Vec<u8>, PacketError> {
        let mut bytes = [0; 1024];
        loop {
            if let Some(packet) = self.decoder.next_packet()? {
                let (first, last) = (self.sequence, packet.sequence);
                self.sequence = last.wrapping_add(1);
                // A packet of this size has one frame, so its first number is its last.
                if first != last {
                    return Err(PacketError::Wire(WireError::OutOfOrder {
                        expected: first,
                        got: last,
                    }));
                }
                return Ok(packet.payload);
            }
            let count = self.peer.read(&mut bytes).await?;
            if count == 0 {
                return Err(PacketError::Closed);
            }
            self.decoder.feed(&bytes[..count]);
        }
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(payload.len() + 4);
        self.sequence = encode_packet(&mut bytes, self.sequence, payload);
        self.peer.write_all(&bytes).await?;
        self.peer.flush().await
    }

    /// Goes over to TLS. What was read of it and not asked for is a lie: it came before it was asked for, in plain
    /// text, and would be taken for protected.
    ///
    /// # Errors
    /// [`PacketError`]; the stream is of no more use.
    pub async fn secure<F>(self, handshake: impl FnOnce(Peer) -> F) -> Result<Packets, PacketError>
    where
        F: Future<Output = io::Result<Peer>>,
    {
        if !self.decoder.pending().is_empty() {
            return Err(PacketError::Wire(WireError::Malformed(
                "plain text where TLS begins",
            )));
        }
        Ok(Packets {
            peer: handshake(self.peer).await?,
            ..self
        })
    }

    /// The stream, and what was read of it and not asked for.
    pub fn into_parts(self) -> (Peer, Vec<u8>) {
        let rest = self.decoder.pending().to_vec();
        (self.peer, rest)
    }
}
