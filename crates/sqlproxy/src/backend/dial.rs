//! One attempt to reach the primary's database and to hear its greeting.
//!
//! A kernel accepts connections for a process that is frozen, so a connection proves nothing. In MySQL's protocol the
//! server speaks first: only a greeting proves that somebody is there.

use std::io;
use std::time::Duration;

use pontoon_fleet::Epoch;
use pontoon_mysql_wire::{ErrorPacket, PacketDecoder, ServerGreeting, WireError, error_code};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use crate::peer::{Peer, tune};
use crate::preface::{Answer, Preface, Purpose, REPLY_LEN, Reply};
use crate::target::{Local, Pin, Primary, Transport, Way};
use crate::tls::{FleetTls, FleetTlsError};

/// A database that has greeted.
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub peer: Peer,
    /// Everything that it has sent so far: the greeting, or an error in its place. Goes to the client as it is.
    pub first: Vec<u8>,
    /// What the connection is bound to.
    pub pin: Pin,
    /// How the database sees it.
    pub transport: Transport,
}

/// Why an attempt failed. Said to the client when no attempt succeeds in time.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The connection could not be made.
    #[error("the database cannot be connected: {0}")]
    Connect(#[source] io::Error),
    /// It was accepted, or not even that, and nothing came.
    #[error("the database does not greet: it is frozen, overloaded or cut off")]
    Silent,
    /// It closed or failed before its greeting was complete.
    #[error("the database closed the connection before its greeting")]
    Closed,
    /// It sent something that is no greeting.
    #[error("what answers at the database's address is not a database: {0}")]
    NotMysql(#[from] WireError),
    /// It is on its way down.
    #[error("the database is shutting down")]
    ShuttingDown,
    /// The client came over a Unix socket and the database has none.
    #[error("the database's Unix socket is not known (backend_socket)")]
    NoSocket,
    /// The other server could not be reached.
    #[error("the SQL relay of the primary cannot be connected: {0}")]
    Relay(#[source] io::Error),
    /// The other server is not who it should be, or there is no identity to show it.
    #[error(transparent)]
    Tls(#[from] FleetTlsError),
    /// The other server's proxy said no.
    #[error("the SQL relay of the primary refused: {0}")]
    Refused(Answer),
}

/// More than any greeting or error in its place has.
const MAX_GREETING: usize = 8 * 1024;

/// Connects to `primary` for a client that came by `transport`, and waits at most `limit` for its greeting.
///
/// # Errors
/// Why there is none. The attempt can be repeated: the database has heard nothing of the client.
pub async fn attempt(
    primary: &Primary,
    transport: Transport,
    tls: &FleetTls,
    limit: Duration,
) -> Result<Opened, AttemptError> {
    attempt_as(
        Purpose::Primary,
        &primary.pin,
        &primary.way,
        transport,
        tls,
        limit,
    )
    .await
}

/// As [`attempt`], for a database of either kind.
///
/// # Errors
/// As [`attempt`].
pub async fn attempt_as(
    purpose: Purpose,
    pin: &Pin,
    way: &Way,
    transport: Transport,
    tls: &FleetTls,
    limit: Duration,
) -> Result<Opened, AttemptError> {
    let deadline = Instant::now() + limit;
    let silent = |_| AttemptError::Silent;
    let mut pin = pin.clone();
    let mut peer = match way {
        Way::Local(local) => timeout_at(deadline, connect_local(local, transport))
            .await
            .map_err(silent)??,
        Way::Relay(address) => {
            let tcp = timeout_at(deadline, TcpStream::connect(address))
                .await
                .map_err(|_| AttemptError::Relay(io::ErrorKind::TimedOut.into()))?
                .map_err(AttemptError::Relay)?;
            tune(&tcp);
            let asked = ask_relay(tcp, purpose, &pin, transport, tls, limit);
            let (peer, epoch) = timeout_at(deadline, asked).await.map_err(silent)??;
            pin.epoch = pin.epoch.max(epoch);
            peer
        }
    };
    let first = timeout_at(deadline, read_greeting(&mut peer))
        .await
        .map_err(silent)??;
    Ok(Opened {
        peer,
        first,
        pin,
        transport,
    })
}

/// Connects to the database of this server.
///
/// # Errors
/// [`AttemptError::Connect`] or [`AttemptError::NoSocket`].
pub async fn connect_local(local: &Local, transport: Transport) -> Result<Peer, AttemptError> {
    match transport {
        Transport::Tcp => {
            let stream = TcpStream::connect(local.tcp)
                .await
                .map_err(AttemptError::Connect)?;
            tune(&stream);
            Ok(Peer::Tcp(stream))
        }
        Transport::Unix => {
            let path = local.socket.as_ref().ok_or(AttemptError::NoSocket)?;
            UnixStream::connect(path)
                .await
                .map(Peer::Unix)
                .map_err(AttemptError::Connect)
        }
    }
}

async fn ask_relay(
    tcp: TcpStream,
    purpose: Purpose,
    pin: &Pin,
    transport: Transport,
    tls: &FleetTls,
    limit: Duration,
) -> Result<(Peer, Epoch), AttemptError> {
    let mut peer = Peer::Tls(Box::new(tls.connect(&pin.server, tcp, limit).await?));
    let preface = Preface {
        purpose,
        transport,
        epoch: pin.epoch,
    };
    peer.write_all(&preface.to_bytes())
        .await
        .map_err(AttemptError::Relay)?;
    peer.flush().await.map_err(AttemptError::Relay)?;
    let mut reply = [0; REPLY_LEN];
    peer.read_exact(&mut reply).await.map_err(AttemptError::Relay)?;
    match Reply::parse(reply) {
        Some(Reply {
            answer: Answer::Accepted,
            epoch,
        }) => Ok((peer, epoch)),
        Some(Reply { answer, .. }) => Err(AttemptError::Refused(answer)),
        None => Err(AttemptError::Refused(Answer::BadPreface)),
    }
}

/// Reads until the server's first packet is whole.
async fn read_greeting(peer: &mut Peer) -> Result<Vec<u8>, AttemptError> {
    let mut decoder = PacketDecoder::new(MAX_GREETING);
    let mut first = Vec::new();
    let mut bytes = [0; 1024];
    loop {
        let count = peer.read(&mut bytes).await.unwrap_or(0);
        if count == 0 {
            return Err(AttemptError::Closed);
        }
        first.extend_from_slice(&bytes[..count]);
        decoder.feed(&bytes[..count]);
        let Some(packet) = decoder.next_packet()? else {
            continue;
        };
        return match ServerGreeting::parse(&packet.payload)? {
            ServerGreeting::Refused(error) if is_going_down(&error) => Err(AttemptError::ShuttingDown),
            // Its own refusals (1040 too many connections, 1129 host blocked) are the client's to see.
            ServerGreeting::Refused(_) | ServerGreeting::Ready(_) => Ok(first),
        };
    }
}

fn is_going_down(error: &ErrorPacket) -> bool {
    matches!(
        error.code,
        error_code::SERVER_SHUTDOWN | error_code::CONNECTION_KILLED
    )
}
