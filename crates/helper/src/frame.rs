//! Frames around a copy's bytes. A backup tool's stream has no end that can be trusted: mbstream leaves with 0 when
//! the backup failed. Here the last frame says whether everything came, and its digest says that it came whole.
//!
//! A frame is one byte of kind, four bytes of length (big endian) and the payload.

use std::io;

use pontoon_fleet::Refusal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest payload; a longer one is a broken peer.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of the tool's stream.
    Data(Vec<u8>),
    /// How far it is; comes between data frames.
    Progress(Progress),
    /// The last frame of a good copy.
    End(End),
    /// The last frame of a failed copy.
    Failed(Refusal),
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes so far.
    pub bytes: u64,
    /// Bytes expected; an estimate.
    pub total: u64,
}

/// What a good copy's last frame says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Bytes of all data frames.
    pub bytes: u64,
    /// Their sha256, in hexadecimal.
    pub sha256: String,
    /// The copy's GTID position, where the tool says it before the copy is prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
}

const DATA: u8 = b'D';
const PROGRESS: u8 = b'P';
const END: u8 = b'E';
const FAILED: u8 = b'F';

/// Writes one frame.
///
/// # Errors
/// The stream's.
pub async fn write<W: AsyncWrite + Unpin>(stream: &mut W, frame: &Frame) -> io::Result<()> {
    match frame {
        Frame::Data(bytes) => write_raw(stream, DATA, bytes).await,
        Frame::Progress(progress) => write_raw(stream, PROGRESS, &serde_json::to_vec(progress)?).await,
        Frame::End(end) => write_raw(stream, END, &serde_json::to_vec(end)?).await,
        Frame::Failed(refusal) => write_raw(stream, FAILED, &serde_json::to_vec(refusal)?).await,
    }
}

/// Writes a data frame without copying the bytes.
///
/// # Errors
/// The stream's; `InvalidInput` for more than [`MAX_PAYLOAD`].
pub async fn write_data<W: AsyncWrite + Unpin>(stream: &mut W, bytes: &[u8]) -> io::Result<()> {
    write_raw(stream, DATA, bytes).await
}

async fn write_raw<W: AsyncWrite + Unpin>(stream: &mut W, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|length| *length as usize <= MAX_PAYLOAD)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a frame is too long"))?;
    let mut head = [0; 5];
    head[0] = kind;
    head[1..].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&head).await?;
    stream.write_all(payload).await
}

/// Reads one frame.
///
/// # Errors
/// The stream's; `UnexpectedEof` when it ends, at whatever place, before a last frame came; `InvalidData` when what
/// came is no frame.
pub async fn read<R: AsyncRead + Unpin>(stream: &mut R) -> io::Result<Frame> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MAX_PAYLOAD {
        return Err(invalid(format!("a frame of {length} bytes")));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    let broken = |error: serde_json::Error| invalid(format!("a frame's text is broken: {error}"));
    match head[0] {
        DATA => Ok(Frame::Data(payload)),
        PROGRESS => serde_json::from_slice(&payload)
            .map(Frame::Progress)
            .map_err(broken),
        END => serde_json::from_slice(&payload).map(Frame::End).map_err(broken),
        FAILED => serde_json::from_slice(&payload)
            .map(Frame::Failed)
            .map_err(broken),
        kind => Err(invalid(format!("{kind} is not a kind of frame"))),
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use pontoon_fleet::Code;

    use super::*;

    #[tokio::test]
    async fn frames_come_back_as_they_went() {
        let frames = [
            Frame::Data(vec![7; 70_000]),
            Frame::Progress(Progress { bytes: 1, total: 2 }),
            Frame::End(End {
                bytes: 3,
                sha256: "ab".to_owned(),
                position: Some("0-1-7".to_owned()),
            }),
            Frame::Failed(Refusal::new(Code::D003, "no").because("why")),
        ];
        let mut wire = Vec::new();
        for frame in &frames {
            write(&mut wire, frame).await.unwrap();
        }
        let mut reader = wire.as_slice();
        for frame in &frames {
            assert_eq!(&read(&mut reader).await.unwrap(), frame);
        }
        assert_eq!(
            read(&mut reader).await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[tokio::test]
    async fn whatever_a_lying_peer_sends_is_an_error_and_no_panic() {
        for wire in [
            &b"D\xff\xff\xff\xff"[..],
            b"D\0\0\0\x05abc",
            b"X\0\0\0\0",
            b"E\0\0\0\x02{}",
            b"P\0\0\0\x01\xff",
            b"D\0",
        ] {
            let mut reader = wire;
            assert!(read(&mut reader).await.is_err(), "{wire:?}");
        }
    }
}
