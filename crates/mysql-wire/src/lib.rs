//! The MySQL client/server protocol as bytes, for both MySQL 8.0–9.x and MariaDB 10.6–11.8.
//!
//! **In:** byte slices as they came from a peer, in pieces of any size. **Out:** packets, greetings, handshake
//! responses, OK, EOF and ERR packets as values; and such values as bytes again.
//!
//! **Must never:** do I/O or read a clock; panic on any input; allocate more than a small multiple of the bytes
//! that really arrived, whatever a length field claims; guess at a packet whose meaning depends on capabilities
//! that the caller did not give.
//!
//! Sources, cited by section where a rule comes from them: the *MySQL Source Code Documentation*, chapter
//! "Client/Server Protocol" (dev.mysql.com/doc/dev/mysql-server, pages `page_protocol_*`), and the *MariaDB
//! Knowledge Base*, "Client/Server Protocol" (mariadb.com/kb/en/clientserver-protocol). Where the two differ, the
//! code says so.

pub mod auth;
mod capability;
mod change_user;
mod command;
mod error_packet;
mod frame;
mod greeting;
mod handshake_response;
mod ok;
mod read;
mod reframe;
pub mod reply;
pub mod statement;
mod status;
pub mod write;

pub use capability::Capabilities;
pub use change_user::ChangeUser;
pub use command::{Command, SetOption, process_kill};
pub use error_packet::{ErrorPacket, SqlState, error_code};
pub use frame::{
    FrameHeader, HEADER_LEN, MAX_FRAME_PAYLOAD, Packet, PacketDecoder, Segment, SegmentScanner, encode_packet,
};
pub use greeting::{Greeting, ServerGreeting};
pub use handshake_response::{FirstReply, HandshakeResponse, SslRequest};
pub use ok::{EofPacket, OkPacket, Reply, SessionState, SessionStateReader};
pub use read::Reader;
pub use reframe::Reframer;
pub use status::StatusFlags;

/// Why bytes are not what the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The packet ends in the middle of a field.
    #[error("the packet ends inside {0}")]
    Truncated(&'static str),
    /// A field has a value that it cannot have.
    #[error("{0}")]
    Malformed(&'static str),
    /// A packet is longer than the caller allows.
    #[error("a packet of more than {limit} bytes")]
    TooLarge {
        /// What the caller allows, in bytes.
        limit: usize,
    },
    /// A continuation frame does not carry the sequence number after its predecessor's.
    #[error("packets out of order: sequence {got} where {expected} was due")]
    OutOfOrder {
        /// The number that was due.
        expected: u8,
        /// The number that came.
        got: u8,
    },
}
