//! One body on its way through a coding: bytes go in, chunks (RFC 9112 section 7.1) come out.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::rc::Rc;

use brotli::CompressorWriter;
use flate2::Compression;
use flate2::write::GzEncoder;
use pontoon_fleet::Coding;

/// Good for what is made while somebody waits for it.
const GZIP_LEVEL: u32 = 5;
const BROTLI_LEVEL: u32 = 4;
const ZSTD_LEVEL: i32 = 3;
/// Windows of 256 KiB: each body that is under way costs that, and some more.
const WINDOW_BITS: u32 = 18;
const BROTLI_BUFFER: usize = 4096;

/// The most bodies that one thread compresses at the same time: memory for them is bounded so. Those beyond go out
/// as they are.
const MOST: usize = 64;

/// A body's place among those that a thread compresses.
#[derive(Debug)]
pub struct Seat(Rc<Cell<usize>>);

impl Seat {
    /// One of `taken`, if one is left.
    pub fn take(taken: &Rc<Cell<usize>>) -> Option<Seat> {
        (taken.get() < MOST).then(|| {
            taken.set(taken.get() + 1);
            Seat(Rc::clone(taken))
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Where a coder writes to.
#[derive(Clone, Debug, Default)]
struct Coded(Rc<RefCell<Vec<u8>>>);

impl Write for Coded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Coder {
    Zstd(zstd::stream::write::Encoder<'static, Coded>),
    Br(Box<CompressorWriter<Coded>>),
    Gzip(Box<GzEncoder<Coded>>),
}

/// One body on its way through a coding.
pub struct Encoder {
    coding: Coding,
    /// `None` at its end.
    coder: Option<Coder>,
    coded: Coded,
    /// Something went in that may not have come out.
    holds_back: bool,
    read: u64,
    written: u64,
    _seat: Seat,
}

impl Encoder {
    /// A new body.
    ///
    /// # Errors
    /// When the coder cannot be made: out of memory.
    pub fn new(coding: Coding, seat: Seat) -> io::Result<Encoder> {
        let coded = Coded::default();
        let to = coded.clone();
        let coder = match coding {
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(to, ZSTD_LEVEL)?;
                encoder.window_log(WINDOW_BITS)?;
                Coder::Zstd(encoder)
            }
            Coding::Br => Coder::Br(Box::new(CompressorWriter::new(
                to,
                BROTLI_BUFFER,
                BROTLI_LEVEL,
                WINDOW_BITS,
            ))),
            Coding::Gzip => Coder::Gzip(Box::new(GzEncoder::new(to, Compression::new(GZIP_LEVEL)))),
        };
        Ok(Encoder {
            coding,
            coder: Some(coder),
            coded,
            holds_back: false,
            read: 0,
            written: 0,
            _seat: seat,
        })
    }

    /// Takes `bytes` in; appends to `out` what comes of them now.
    pub fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.read += bytes.len() as u64;
        self.holds_back |= !bytes.is_empty();
        // What is written to is memory: it takes everything.
        let _ = match &mut self.coder {
            Some(Coder::Zstd(coder)) => coder.write_all(bytes),
            Some(Coder::Br(coder)) => coder.write_all(bytes),
            Some(Coder::Gzip(coder)) => coder.write_all(bytes),
            None => Ok(()),
        };
        self.hand_out(out);
    }

    /// Appends all that is held back, so that a visitor sees what was sent so far; says whether there was anything.
    pub fn flush(&mut self, out: &mut Vec<u8>) -> bool {
        if !std::mem::take(&mut self.holds_back) {
            return false;
        }
        let _ = match &mut self.coder {
            Some(Coder::Zstd(coder)) => coder.flush(),
            Some(Coder::Br(coder)) => coder.flush(),
            Some(Coder::Gzip(coder)) => coder.flush(),
            None => Ok(()),
        };
        self.hand_out(out)
    }

    /// The body has ended: appends its end.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        match self.coder.take() {
            Some(Coder::Zstd(coder)) => drop(coder.finish()),
            Some(Coder::Br(coder)) => drop(coder.into_inner()),
            Some(Coder::Gzip(coder)) => drop(coder.finish()),
            None => return,
        }
        self.holds_back = false;
        self.hand_out(out);
        out.extend_from_slice(b"0\r\n\r\n");
    }

    /// By what, how many bytes went in, and how many came out.
    pub fn counts(&self) -> (Coding, u64, u64) {
        (self.coding, self.read, self.written)
    }

    /// Appends what came out as one chunk.
    fn hand_out(&mut self, out: &mut Vec<u8>) -> bool {
        let mut coded = self.coded.0.borrow_mut();
        if coded.is_empty() {
            return false;
        }
        self.written += coded.len() as u64;
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{:x}\r\n", coded.len());
        out.extend_from_slice(&coded);
        out.extend_from_slice(b"\r\n");
        coded.clear();
        true
    }
}

#[cfg(test)]
pub mod tests {
    use std::io::Read;

    use super::*;

    /// The content of a whole chunked body.
    pub fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        loop {
            let end = bytes.windows(2).position(|end| end == b"\r\n").unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
            bytes = &bytes[end + 2..];
            if size == 0 {
                assert_eq!(bytes, b"\r\n");
                return content;
            }
            content.extend_from_slice(&bytes[..size]);
            assert_eq!(&bytes[size..size + 2], b"\r\n");
            bytes = &bytes[size + 2..];
        }
    }

    pub fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        match coding {
            Coding::Zstd => return zstd::stream::decode_all(bytes).unwrap(),
            Coding::Br => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut content),
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut content),
        }
        .unwrap();
        content
    }

    #[test]
    fn what_comes_out_is_what_went_in() {
        let taken = Rc::default();
        let long: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for coding in Coding::ALL {
            for body in [&b""[..], b"x", &long] {
                let mut encoder = Encoder::new(coding, Seat::take(&taken).unwrap()).unwrap();
                let mut out = Vec::new();
                for (index, piece) in body.chunks(60_001).enumerate() {
                    encoder.take(piece, &mut out);
                    if index % 3 == 1 {
                        encoder.flush(&mut out);
                    }
                }
                encoder.finish(&mut out);
                encoder.finish(&mut out);
                assert_eq!(decoded(coding, &unchunked(&out)), body, "{coding:?}");
                let (_, read, written) = encoder.counts();
                assert_eq!(read, body.len() as u64);
                assert!(
                    body.len() < 1000 || written < read / 2,
                    "{coding:?}: {written} of {read}"
                );
            }
        }
        assert_eq!(taken.get(), 0);
    }

    #[test]
    fn what_was_flushed_can_be_read_before_the_end() {
        for coding in Coding::ALL {
            let mut encoder = Encoder::new(coding, Seat::take(&Rc::default()).unwrap()).unwrap();
            let (mut first, mut nothing) = (Vec::new(), Vec::new());
            encoder.take(b"data: 1\n\n", &mut first);
            assert!(encoder.flush(&mut first) && !encoder.flush(&mut nothing));
            first.extend_from_slice(b"0\r\n\r\n");
            let mut seen = [0; 9];
            let bytes = unchunked(&first);
            match coding {
                Coding::Zstd => zstd::stream::read::Decoder::new(&bytes[..])
                    .unwrap()
                    .read_exact(&mut seen),
                Coding::Br => brotli::Decompressor::new(&bytes[..], 4096).read_exact(&mut seen),
                Coding::Gzip => flate2::read::GzDecoder::new(&bytes[..]).read_exact(&mut seen),
            }
            .unwrap();
            assert_eq!(&seen, b"data: 1\n\n");
        }
    }

    #[test]
    fn only_so_many_are_compressed_at_the_same_time() {
        let taken = Rc::default();
        let mut seats: Vec<_> = (0..MOST).map(|_| Seat::take(&taken).unwrap()).collect();
        assert!(Seat::take(&taken).is_none());
        seats.pop();
        assert!(Seat::take(&taken).is_some());
    }
}
