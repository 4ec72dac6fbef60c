//! The proxy's own answers.

use pontoon_mysql_wire::{Capabilities, ErrorPacket, SqlState, encode_packet, error_code, write};

use super::{Flow, Session};
use crate::exchange::{Link, send};
use crate::peer::Peer;
use crate::pool::NoConnection;

/// `ER_LOCK_DEADLOCK`, 40001: the transaction was rolled back, and may be tried again from its beginning. What
/// applications that retry at all do retry.
pub const LOCK_DEADLOCK: u16 = 1213;
/// `ER_NO_SUCH_THREAD`.
pub const NO_SUCH_THREAD: u16 = 1094;
/// `ER_KILL_DENIED_ERROR`.
pub const KILL_DENIED: u16 = 1095;
/// `ER_UNKNOWN_STMT_HANDLER`.
pub const UNKNOWN_STATEMENT: u16 = 1243;
/// `ER_MALFORMED_PACKET`.
pub const MALFORMED: u16 = 1835;

/// What to say about a connection that is not to be had; `None` to a client that has gone.
pub fn refusal(why: &NoConnection) -> Option<ErrorPacket> {
    let general = |text: &str| ErrorPacket::new(error_code::UNKNOWN_ERROR, SqlState::GENERAL, text);
    Some(match why {
        NoConnection::ClientGone => return None,
        NoConnection::Refused(packet) => packet.clone(),
        NoConnection::NoPrimary(reason) => general(&format!("Pontoon: {reason}")),
        NoConnection::Failed(reason) => general(&format!("Pontoon: {reason}")),
        NoConnection::Busy { limit, waited } => ErrorPacket::new(
            error_code::TOO_MANY_CONNECTIONS,
            SqlState::REFUSED,
            &format!(
                "Too many connections (Pontoon: all {limit} connections to the database were in use; waited {:.1} s)",
                waited.as_secs_f64()
            ),
        ),
    })
}

/// Sends an error as the answer that begins with `sequence`.
pub async fn error_to(
    peer: &mut Peer,
    link: &Link,
    sequence: u8,
    error: &ErrorPacket,
    agreed: Capabilities,
) -> bool {
    let mut bytes = Vec::new();
    encode_packet(&mut bytes, sequence, &error.to_payload(agreed));
    send(peer, &bytes, link).await.is_ok()
}

impl Session {
    /// Answers with an OK packet.
    pub(super) async fn say_ok(&mut self, sequence: u8) -> Flow {
        let mut payload = vec![0, 0, 0];
        write::u16(&mut payload, self.status.0);
        write::u16(&mut payload, 0);
        self.say_payload(sequence, &payload).await
    }

    /// Answers with a packet.
    pub(super) async fn say_payload(&mut self, sequence: u8, payload: &[u8]) -> Flow {
        let mut bytes = Vec::new();
        encode_packet(&mut bytes, sequence, payload);
        self.say(&bytes).await
    }

    /// Answers a command of one packet with an error.
    pub(super) async fn say_error(&mut self, code: u16, state: SqlState, text: &str) -> Flow {
        self.say_packet(&ErrorPacket::new(code, state, text)).await
    }

    /// Answers a command of one packet with an error.
    pub(super) async fn say_packet(&mut self, error: &ErrorPacket) -> Flow {
        self.say_packet_at(1, error).await
    }

    /// Answers a command with an error; the answer begins with `sequence`.
    pub(super) async fn say_packet_at(&mut self, sequence: u8, error: &ErrorPacket) -> Flow {
        self.conditions = 1;
        match error_to(&mut self.client, &self.link, sequence, error, self.capabilities).await {
            true => Flow::Next,
            false => Flow::Close,
        }
    }

    /// Answers about a connection that is not to be had.
    pub(super) async fn say_refusal(&mut self, why: &NoConnection) -> Flow {
        match refusal(why) {
            Some(packet) => {
                tracing::debug!(error = %packet, "a statement found no connection");
                self.say_packet(&packet).await
            }
            None => Flow::Close,
        }
    }

    async fn say(&mut self, bytes: &[u8]) -> Flow {
        match send(&mut self.client, bytes, &self.link).await {
            Ok(()) => Flow::Next,
            Err(_) => Flow::Close,
        }
    }
}
