//! One connection of the proxy's own to a database, which asks where it is.

use std::time::Duration;

use pontoon_gtid::PositionError;
use pontoon_mysql_wire::{Capabilities, ErrorPacket, PacketDecoder, Reader, WireError, encode_packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Ground, Job};
use crate::backend::{AttemptError, Login, LoginError, attempt_as, login};
use crate::peer::Peer;

/// How long connecting may take, and how long the login.
const CONNECT: Duration = Duration::from_millis(1_500);
/// The longest answer: a GTID set of many thousand intervals.
const MAX_ANSWER: usize = 512 * 1024;
/// More columns than any question here has.
const MAX_COLUMNS: u64 = 16;
/// `utf8mb3_general_ci`, which every server has.
const COLLATION: u8 = 33;

/// Why a database does not say where it is.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It cannot be reached, or does not greet.
    #[error(transparent)]
    Attempt(#[from] AttemptError),
    /// Its server is in a later epoch than the view here: what it says is not for this epoch.
    #[error("its server is in a later epoch")]
    LaterEpoch,
    /// There is no account to ask with.
    #[error("the proxy's account is not known: {0}")]
    Account(String),
    /// It does not let the proxy in.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// It did not answer in time.
    #[error("it does not answer")]
    Silent,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// It closed the connection.
    #[error("it closed the connection")]
    Closed,
    /// What came is not the protocol.
    #[error("it broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// It answered with an error.
    #[error("it refused: {0}")]
    Refused(ErrorPacket),
    /// There is no position in its answer.
    #[error("it does not know its position: is its binary log on?")]
    NoPosition,
    /// What it calls its position is none.
    #[error(transparent)]
    Position(#[from] PositionError),
}

/// See the module.
#[derive(Debug)]
pub struct Control {
    peer: Peer,
    decoder: PacketDecoder,
    capabilities: Capabilities,
}

impl Control {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn open(ground: &impl Ground, job: &Job) -> Result<Control, ControlError> {
        let opened = attempt_as(
            job.purpose,
            &job.pin,
            &job.way,
            job.transport,
            ground.tls(),
            CONNECT,
        )
        .await?;
        if opened.pin.epoch != job.pin.epoch {
            return Err(ControlError::LaterEpoch);
        }
        let account = ground.account().map_err(ControlError::Account)?;
        let who = Login {
            user: &account.user,
            secret: &account.secret,
            database: None,
            capabilities: Capabilities::default(),
            collation: COLLATION,
            attributes: &[],
            tls: false,
        };
        let backend = login(opened, &who, CONNECT).await?;
        Ok(Control {
            peer: backend.peer,
            decoder: PacketDecoder::new(MAX_ANSWER),
            capabilities: backend.capabilities,
        })
    }

    /// Asks for one row, within `limit`.
    ///
    /// # Errors
    /// [`ControlError`]; the connection is of no more use, whatever it is.
    pub async fn ask(&mut self, sql: &str, limit: Duration) -> Result<Vec<Option<String>>, ControlError> {
        timeout(limit, self.exchange(sql))
            .await
            .map_err(|_| ControlError::Silent)?
    }

    async fn exchange(&mut self, sql: &str) -> Result<Vec<Option<String>>, ControlError> {
        const COM_QUERY: u8 = 3;
        let mut payload = vec![COM_QUERY];
        payload.extend_from_slice(sql.as_bytes());
        let mut bytes = Vec::with_capacity(payload.len() + 4);
        encode_packet(&mut bytes, 0, &payload);
        self.peer.write_all(&bytes).await?;
        self.peer.flush().await?;
        let head = self.packet().await?;
        let columns = Reader::new(&head).lenenc("the number of columns")?;
        if !(1..=MAX_COLUMNS).contains(&columns) {
            return Err(WireError::Malformed("a result without columns").into());
        }
        for _ in 0..columns {
            self.packet().await?;
        }
        if !self.capabilities.has(Capabilities::DEPRECATE_EOF) {
            self.packet().await?;
        }
        let row = read_row(&self.packet().await?, columns)?;
        let end = self.packet().await?;
        match end.first() {
            Some(0xfe) => Ok(row),
            _ => Err(WireError::Malformed("more than one row").into()),
        }
    }

    async fn packet(&mut self) -> Result<Vec<u8>, ControlError> {
        loop {
            if let Some(packet) = self.decoder.next_packet()? {
                if packet.payload.first() == Some(&0xff) {
                    let error = ErrorPacket::parse(&packet.payload)?;
                    return Err(ControlError::Refused(error));
                }
                return Ok(packet.payload);
            }
            let mut bytes = [0; 4096];
            let count = self.peer.read(&mut bytes).await?;
            if count == 0 {
                return Err(ControlError::Closed);
            }
            self.decoder.feed(&bytes[..count]);
        }
    }
}

fn read_row(payload: &[u8], columns: u64) -> Result<Vec<Option<String>>, ControlError> {
    const NULL: u8 = 0xfb;
    let mut reader = Reader::new(payload);
    let mut row = Vec::new();
    for _ in 0..columns {
        if reader.remaining().first() == Some(&NULL) {
            reader.u8("a NULL")?;
            row.push(None);
            continue;
        }
        let value = reader.lenenc_bytes("a value")?;
        row.push(Some(String::from_utf8_lossy(value).into_owned()));
    }
    match reader.is_empty() {
        true => Ok(row),
        false => Err(WireError::Malformed("bytes after a row").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_whole_or_not_at_all() {
        assert_eq!(read_row(b"\x02ab\xfb", 2).unwrap(), [Some("ab".to_owned()), None]);
        assert_eq!(read_row(b"\x00", 1).unwrap(), [Some(String::new())]);
        for wrong in [
            &b"\x05ab"[..],
            b"",
            b"\x02abc",
            b"\xff",
            b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(read_row(wrong, 1).is_err(), "{wrong:?}");
        }
    }
}
