//! Queries over connections (RFC 7766).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_telemetry::metrics::DnsThread;
use pontoon_zone::{Asker, Transport, Verdict, answer, rcode};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::shared::{Holder, Shared, now};

/// A connection on which nothing happens for so long is closed.
const IDLE: Duration = Duration::from_secs(10);

/// How often one who waits for a signature looks whether it is his turn.
const TURN: Duration = Duration::from_millis(100);

/// Whose turn does not come in so many looks is given up.
const TURNS: u32 = 100;

/// Connections at once, of all and of one address.
const CONNECTIONS: usize = 2000;
const CONNECTIONS_EACH: usize = 50;

/// Waiting connections the kernel keeps for us.
const BACKLOG: i32 = 512;

/// Listens; the tasks are spawned by [`accept`].
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Who is connected how often.
#[derive(Debug, Default)]
pub(crate) struct Guests(Mutex<HashMap<IpAddr, usize>>);

struct Guest {
    guests: Arc<Guests>,
    address: IpAddr,
}

impl Guests {
    /// A place for one more connection of `address`.
    fn admit(self: &Arc<Guests>, address: IpAddr) -> Option<Guest> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = places.values().sum();
        let own = places.get(&address).copied().unwrap_or(0);
        if all >= CONNECTIONS || own >= CONNECTIONS_EACH {
            return None;
        }
        places.insert(address, own + 1);
        Some(Guest {
            guests: Arc::clone(self),
            address,
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut places = self.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = places.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                places.remove(&self.address);
            }
        }
    }
}

/// Takes connections until it is dropped.
pub(crate) async fn accept(
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
    stats: Arc<DnsThread>,
    guests: Arc<Guests>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listener could not be taken over");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let address = from.ip().to_canonical();
                // Who has too many is not told: the connection just ends.
                if let Some(guest) = guests.admit(address) {
                    let (shared, stats) = (Arc::clone(&shared), Arc::clone(&stats));
                    tokio::spawn(async move {
                        let _guest = guest;
                        // Whatever ends it, the asker asks again.
                        let _ = converse(stream, address, &shared, &stats).await;
                    });
                }
            }
            // Out of files, most likely: others close some.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn converse(
    mut stream: TcpStream,
    address: IpAddr,
    shared: &Shared,
    stats: &DnsThread,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut holder = Holder::new(shared);
    let (mut packet, mut bytes, mut framed) = (Vec::new(), Vec::new(), Vec::new());
    let mut turn = 0;
    loop {
        let length = usize::from(timeout(IDLE, stream.read_u16()).await??);
        packet.resize(length, 0);
        timeout(IDLE, stream.read_exact(&mut packet)).await??;
        let mut asker = Asker {
            address,
            transport: Transport::Tcp,
            now: now(),
            turn,
            may_sign: false,
        };
        turn += 1;
        let mut outcome = answer(holder.get(shared), &shared.settings, &asker, &packet, &mut bytes);
        // Only what needs a signature that is not there yet waits until one may be made: a flood slows itself.
        let mut turns = 0;
        while outcome.truncated && !asker.may_sign {
            asker.now = now();
            asker.may_sign = shared.tcp_signatures.is_left(asker.now);
            if asker.may_sign {
                outcome = answer(holder.get(shared), &shared.settings, &asker, &packet, &mut bytes);
                shared.tcp_signatures.spend(asker.now, outcome.signed);
            } else {
                turns += 1;
                if turns > TURNS {
                    return Ok(());
                }
                tokio::time::sleep(TURN).await;
            }
        }
        stats.answered(outcome.verdict as usize, outcome.truncated);
        if outcome.verdict == Verdict::Silence {
            return Ok(());
        }
        // Only what is signed is answered so.
        if outcome.code == rcode::NOTAUTH {
            let (messages, _) = shared.answer_signed(holder.get(shared), &asker, &packet);
            for message in messages {
                write(&mut stream, &mut framed, &message).await?;
            }
            continue;
        }
        write(&mut stream, &mut framed, &bytes).await?;
    }
}

/// Sends one message with its length before it (RFC 1035 section 4.2.2).
async fn write(stream: &mut TcpStream, framed: &mut Vec<u8>, message: &[u8]) -> io::Result<()> {
    framed.clear();
    framed.extend_from_slice(&u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    timeout(IDLE, stream.write_all(framed)).await?
}
