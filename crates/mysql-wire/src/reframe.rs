//! One packet in frames of other lengths: what is put in at its beginning moves all that follows.

use crate::{FrameHeader, HEADER_LEN, MAX_FRAME_PAYLOAD, WireError};

/// Frames one packet anew while it comes. Keeps no more of it than was put in.
#[derive(Clone, Debug)]
pub struct Reframer {
    /// Payload whose frame's length is not known yet.
    kept: Vec<u8>,
    header: [u8; HEADER_LEN],
    header_have: usize,
    /// The number that the packet's next frame must have.
    due: u8,
    /// Payload bytes of the present frame that still come.
    in_left: usize,
    /// Whether the present frame is the last one.
    last: bool,
    /// Payload bytes that are known to be there and have no place in a frame yet.
    known: usize,
    /// Payload bytes of the frame that is written which are not written yet.
    out_left: usize,
    /// The number of the next frame that is written.
    sequence: u8,
    /// The last frame has been begun.
    closing: bool,
}

impl Reframer {
    /// A packet whose first frame began with `header` and of whose payload `taken` bytes have come, in whose place
    /// `payload` is to stand.
    ///
    /// # Errors
    /// [`WireError`] when the frame has less than `taken` bytes.
    pub fn begin(header: FrameHeader, taken: usize, payload: Vec<u8>) -> Result<Reframer, WireError> {
        let in_left = header
            .len
            .checked_sub(taken)
            .ok_or(WireError::Malformed("more bytes than the frame has"))?;
        Ok(Reframer {
            known: in_left + payload.len(),
            kept: payload,
            header: [0; HEADER_LEN],
            header_have: 0,
            due: header.sequence.wrapping_add(1),
            in_left,
            last: !header.is_continued(),
            out_left: 0,
            sequence: header.sequence,
            closing: false,
        })
    }

    /// Takes what came and appends to `out` what is to be sent; returns how many bytes belonged to the packet.
    ///
    /// # Errors
    /// [`WireError::OutOfOrder`].
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, WireError> {
        let mut used = 0;
        loop {
            self.write(out);
            if self.ended() {
                return Ok(used);
            }
            let rest = bytes.get(used..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(used);
            }
            if self.in_left > 0 {
                let step = self.in_left.min(rest.len());
                self.kept.extend_from_slice(&rest[..step]);
                self.in_left -= step;
                used += step;
                continue;
            }
            self.header[self.header_have] = rest[0];
            self.header_have += 1;
            used += 1;
            if self.header_have == HEADER_LEN {
                self.header_have = 0;
                let header = FrameHeader::parse(self.header);
                if header.sequence != self.due {
                    return Err(WireError::OutOfOrder {
                        expected: self.due,
                        got: header.sequence,
                    });
                }
                self.due = self.due.wrapping_add(1);
                self.in_left = header.len;
                self.known += header.len;
                self.last = !header.is_continued();
            }
        }
    }

    /// Whether all of it has come and is written.
    pub fn ended(&self) -> bool {
        self.closing && self.out_left == 0 && self.in_left == 0
    }

    /// The number of the last frame that came: what answers count from, for who sent it.
    pub fn last_sequence(&self) -> u8 {
        self.due.wrapping_sub(1)
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        loop {
            let step = self.out_left.min(self.kept.len());
            out.extend(self.kept.drain(..step));
            self.out_left -= step;
            if self.out_left > 0 || self.closing {
                return;
            }
            let len = match self.known {
                full if full >= MAX_FRAME_PAYLOAD => MAX_FRAME_PAYLOAD,
                rest if self.last => {
                    self.closing = true;
                    rest
                }
                _ => return,
            };
            let header = FrameHeader {
                len,
                sequence: self.sequence,
            };
            out.extend_from_slice(&header.to_bytes());
            self.sequence = self.sequence.wrapping_add(1);
            self.known -= len;
            self.out_left = len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PacketDecoder, encode_packet};

    /// A payload of `len` bytes in frames, of which `taken` are replaced by `put` bytes more.
    fn grown(len: usize, taken: usize, put: usize, piece: usize) {
        let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
        let mut frames = Vec::new();
        let next = encode_packet(&mut frames, 0, &payload);
        let begin = [vec![b'+'; put], payload[..taken].to_vec()].concat();
        let header = FrameHeader::parse(*frames.first_chunk().unwrap());
        let mut reframer = Reframer::begin(header, taken, begin.clone()).unwrap();
        let mut out = Vec::new();
        let rest = &frames[HEADER_LEN + taken..];
        assert_eq!(reframer.feed(b"", &mut out).unwrap(), 0);
        let mut used = 0;
        for bytes in rest.chunks(piece) {
            used += reframer.feed(bytes, &mut out).unwrap();
            assert!(reframer.kept.len() <= put + taken, "{}", reframer.kept.len());
        }
        assert!(reframer.ended() && used == rest.len());
        assert_eq!(
            reframer.feed(b"next", &mut out).unwrap(),
            0,
            "what follows is not its own"
        );
        assert_eq!(reframer.last_sequence().wrapping_add(1), next);
        let mut wanted = Vec::new();
        encode_packet(&mut wanted, 0, &[begin, payload[taken..].to_vec()].concat());
        assert!(out == wanted, "{len} {taken} {put}");
        let mut decoder = PacketDecoder::new(usize::MAX);
        decoder.feed(&out);
        assert!(decoder.next_packet().unwrap().is_some() && decoder.pending().is_empty());
    }

    #[test]
    fn frames_are_as_if_the_packet_had_been_that_long() {
        const FULL: usize = MAX_FRAME_PAYLOAD;
        for (len, taken, put) in [
            (40, 20, 0),
            (40, 40, 7),
            (FULL - 1, 20, 0),
            (FULL - 1, 20, 1),
            (FULL - 1, 20, 2),
            (FULL, 20, 4),
            (2 * FULL - 4, 20, 3),
            (2 * FULL - 4, 20, 4),
            (2 * FULL - 4, 20, 5),
            (2 * FULL, 1000, 131_070),
        ] {
            grown(len, taken, put, 60_000);
        }
        grown(70, 10, 3, 1);
    }

    #[test]
    fn frames_that_lie_are_refused() {
        let header = FrameHeader {
            len: MAX_FRAME_PAYLOAD,
            sequence: 0,
        };
        assert!(Reframer::begin(header, MAX_FRAME_PAYLOAD + 1, Vec::new()).is_err());
        let mut reframer = Reframer::begin(header, MAX_FRAME_PAYLOAD, vec![b'x'; 9]).unwrap();
        let mut out = Vec::new();
        let wrong = reframer.feed(&[1, 0, 0, 5, b'y'], &mut out);
        assert_eq!(wrong, Err(WireError::OutOfOrder { expected: 1, got: 5 }));
    }
}
