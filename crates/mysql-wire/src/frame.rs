//! Framing (MySQL: "MySQL Packets"; MariaDB: "0 - Packet"). A frame is a header of three bytes of length and one of
//! sequence, then the payload. A payload of 16 MiB − 1 or more is cut into frames of exactly 16 MiB − 1 bytes, the
//! last of which is shorter, possibly empty.

use crate::WireError;

/// Length of a frame's header, in bytes.
pub const HEADER_LEN: usize = 4;

/// The longest payload of one frame, in bytes. A frame of this length is continued by the next.
pub const MAX_FRAME_PAYLOAD: usize = 0xFF_FFFF;

/// The four bytes before each frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Payload length in bytes, at most [`MAX_FRAME_PAYLOAD`].
    pub len: usize,
    /// Counts frames within one exchange; wraps from 255 to 0.
    pub sequence: u8,
}

impl FrameHeader {
    /// Reads a header. Any four bytes are one.
    pub fn parse(bytes: [u8; HEADER_LEN]) -> FrameHeader {
        let [a, b, c, sequence] = bytes;
        FrameHeader {
            len: u32::from_le_bytes([a, b, c, 0]) as usize,
            sequence,
        }
    }

    /// The header as bytes. A longer `len` is written as [`MAX_FRAME_PAYLOAD`].
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [a, b, c, _] = (self.len.min(MAX_FRAME_PAYLOAD) as u32).to_le_bytes();
        [a, b, c, self.sequence]
    }

    /// Whether the packet goes on in the next frame.
    pub fn is_continued(self) -> bool {
        self.len == MAX_FRAME_PAYLOAD
    }
}

/// Appends `payload` as one packet, cut into as many frames as it needs, and returns the sequence number that the
/// next packet of this exchange carries.
pub fn encode_packet(out: &mut Vec<u8>, mut sequence: u8, payload: &[u8]) -> u8 {
    let mut rest = payload;
    loop {
        let (now, later) = rest.split_at(rest.len().min(MAX_FRAME_PAYLOAD));
        let header = FrameHeader {
            len: now.len(),
            sequence,
        };
        out.extend_from_slice(&header.to_bytes());
        out.extend_from_slice(now);
        sequence = sequence.wrapping_add(1);
        if !header.is_continued() {
            return sequence;
        }
        rest = later;
    }
}

/// A whole packet, its frames joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The sequence number of its last frame.
    pub sequence: u8,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Joins bytes that arrive in pieces into packets, for the phases in which packets are small and looked at whole.
///
/// It holds only bytes that were fed to it, never what a header promises, and stops at `limit`.
#[derive(Debug)]
pub struct PacketDecoder {
    limit: usize,
    buffer: Vec<u8>,
    /// Bytes of `buffer` already given out.
    consumed: usize,
}

impl PacketDecoder {
    /// A decoder that refuses packets whose payload is longer than `limit` bytes.
    pub fn new(limit: usize) -> PacketDecoder {
        PacketDecoder {
            limit,
            buffer: Vec::new(),
            consumed: 0,
        }
    }

    /// Takes bytes from the peer.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes fed and not yet given out as packets.
    pub fn pending(&self) -> &[u8] {
        self.buffer.get(self.consumed..).unwrap_or_default()
    }

    /// The next packet, or `None` while it is not complete. A packet that is announced as too long is refused as
    /// soon as its header is there.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] and [`WireError::OutOfOrder`]; the stream cannot be used after either.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, WireError> {
        let mut rest = self.pending();
        let mut total = 0;
        let mut frames = Vec::new();
        let mut expected = None;
        loop {
            let Some((header, after)) = rest.split_first_chunk::<HEADER_LEN>() else {
                return Ok(None);
            };
            let header = FrameHeader::parse(*header);
            if let Some(expected) = expected.filter(|expected| *expected != header.sequence) {
                return Err(WireError::OutOfOrder {
                    expected,
                    got: header.sequence,
                });
            }
            total += header.len;
            if total > self.limit {
                return Err(WireError::TooLarge { limit: self.limit });
            }
            let Some((payload, after)) = after.split_at_checked(header.len) else {
                return Ok(None);
            };
            frames.push(payload);
            rest = after;
            if header.is_continued() {
                expected = Some(header.sequence.wrapping_add(1));
                continue;
            }
            let packet = Packet {
                sequence: header.sequence,
                payload: frames.concat(),
            };
            self.consumed = self.buffer.len() - rest.len();
            return Ok(Some(packet));
        }
    }
}

/// One stretch of bytes within one packet, found by a [`SegmentScanner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// How many of the scanned bytes belong to it, headers included.
    pub len: usize,
    /// The first byte of the packet's payload (its type), when it stands in this segment.
    pub first_byte: Option<u8>,
    /// The sequence number of the packet's latest frame.
    pub sequence: u8,
    /// Whether the packet ends with this segment.
    pub ends: bool,
}

/// Follows packets through a stream that is forwarded as it is: looks at headers and first bytes only, keeps no
/// payload, and so needs the same few bytes for a packet of a gibibyte.
#[derive(Clone, Debug, Default)]
pub struct SegmentScanner {
    header: [u8; HEADER_LEN],
    header_have: usize,
    /// Payload bytes of the current frame still to come.
    frame_left: usize,
    sequence: u8,
    /// Whether the current frame is continued by another.
    continued: bool,
    /// Whether the packet's first payload byte has been seen.
    begun: bool,
}

impl SegmentScanner {
    /// A scanner at the beginning of a packet.
    pub fn new() -> SegmentScanner {
        SegmentScanner::default()
    }

    /// Whether the stream stands between two packets.
    pub fn at_boundary(&self) -> bool {
        self.header_have == 0 && self.frame_left == 0 && !self.continued
    }

    /// Follows `bytes` to the end of the current packet or to their own end, whichever comes first. `None` only
    /// for no bytes; call again with the bytes after [`Segment::len`].
    pub fn scan(&mut self, bytes: &[u8]) -> Option<Segment> {
        if bytes.is_empty() {
            return None;
        }
        let mut used = 0;
        let mut first_byte = None;
        while let Some(&byte) = bytes.get(used) {
            if self.frame_left > 0 {
                if !self.begun {
                    self.begun = true;
                    first_byte = Some(byte);
                }
                let step = self.frame_left.min(bytes.len() - used);
                self.frame_left -= step;
                used += step;
            } else {
                self.header[self.header_have] = byte;
                self.header_have += 1;
                used += 1;
                if self.header_have < HEADER_LEN {
                    continue;
                }
                let header = FrameHeader::parse(self.header);
                self.header_have = 0;
                self.frame_left = header.len;
                self.sequence = header.sequence;
                self.continued = header.is_continued();
            }
            if self.frame_left == 0 && !self.continued && self.header_have == 0 {
                self.begun = false;
                return Some(Segment {
                    len: used,
                    first_byte,
                    sequence: self.sequence,
                    ends: true,
                });
            }
        }
        Some(Segment {
            len: used,
            first_byte,
            sequence: self.sequence,
            ends: false,
        })
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
