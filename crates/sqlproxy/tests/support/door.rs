//! The front and the doorkeeper in front of a real database, without sessions: who is let in is passed through.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pontoon_mysql_wire::reply::{Expect, ReplyWalker, Step};
use pontoon_mysql_wire::{
    Capabilities, ChangeUser, Command, ErrorPacket, FrameHeader, SqlState, encode_packet, write,
};
use pontoon_sqlproxy::auth::{Dial, Directory, Doorkeeper, NotAuthenticated, Proven, authenticate};
use pontoon_sqlproxy::backend::{Backend, Login, LoginError, Opened, attempt, login};
use pontoon_sqlproxy::front::{Attempt, Front, Keys};
use pontoon_sqlproxy::peer::Peer;
use pontoon_sqlproxy::target::{Pin, Primary, Transport};
use pontoon_sqlproxy::tls::FleetTls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::database::{Database, Road};

/// What the door has seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub bound: AtomicU32,
    pub fresh: AtomicU32,
    pub by_hash: AtomicU32,
}

pub struct Door {
    pub tcp: SocketAddr,
    pub socket: PathBuf,
    pub seen: Arc<Seen>,
    _thread: std::thread::JoinHandle<()>,
}

struct ToPrimary {
    primary: Primary,
    tls: FleetTls,
}

impl Dial for ToPrimary {
    async fn open(&self, transport: Transport) -> Result<Opened, ErrorPacket> {
        attempt(&self.primary, transport, &self.tls, Duration::from_secs(5))
            .await
            .map_err(|error| ErrorPacket::new(1105, SqlState::GENERAL, &error.to_string()))
    }

    fn permits(&self, pin: &Pin) -> bool {
        *pin == self.primary.pin
    }
}

/// Everything of one thread.
struct Place {
    dial: ToPrimary,
    directory: Directory,
    proven: Proven,
    keys: Keys,
    seen: Arc<Seen>,
}

impl Door {
    pub async fn before(database: &Database) -> Door {
        Door::with_account(database, &database.account_file()).await
    }

    pub async fn with_account(database: &Database, account: &Path) -> Door {
        let seen = Arc::new(Seen::default());
        let place = Place {
            dial: ToPrimary {
                primary: database.primary(),
                tls: FleetTls::new(database.dir.path().join("none")),
            },
            directory: Directory::new(account.to_owned()),
            proven: Proven::default(),
            keys: Keys::generate(),
            seen: Arc::clone(&seen),
        };
        static DOORS: AtomicU32 = AtomicU32::new(0);
        let number = DOORS.fetch_add(1, Ordering::Relaxed);
        let socket = database.dir.path().join(format!("door{number}.sock"));
        let unix = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        unix.set_nonblocking(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let address = tcp.local_addr().unwrap();
        // Sessions of one thread, as in the proxy.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                let place = std::rc::Rc::new(place);
                let (tcp, unix) = (
                    TcpListener::from_std(tcp).unwrap(),
                    UnixListener::from_std(unix).unwrap(),
                );
                for id in 1_000_000.. {
                    let (peer, transport) = tokio::select! {
                        accepted = tcp.accept() => (Peer::Tcp(accepted.unwrap().0), Transport::Tcp),
                        accepted = unix.accept() => (Peer::Unix(accepted.unwrap().0), Transport::Unix),
                    };
                    let place = std::rc::Rc::clone(&place);
                    tokio::task::spawn_local(async move { serve(&place, peer, transport, id).await });
                }
            });
        });
        Door {
            tcp: address,
            socket,
            seen,
            _thread: thread,
        }
    }

    pub fn roads(&self) -> [Road; 3] {
        [
            Road::Unix(self.socket.clone()),
            Road::Tcp(self.tcp),
            Road::Tls(self.tcp),
        ]
    }

    /// How many clients were let in bound, with a fresh connection, by their hash.
    pub fn seen(&self) -> (u32, u32, u32) {
        let count = |count: &AtomicU32| count.load(Ordering::Relaxed);
        (
            count(&self.seen.bound),
            count(&self.seen.fresh),
            count(&self.seen.by_hash),
        )
    }
}

async fn serve(place: &Place, peer: Peer, transport: Transport, id: u32) {
    let model = match place.directory.model(&place.dial, transport).await {
        Ok(model) => model,
        Err(error) => panic!("{error}"),
    };
    let (mut front, mut attempt) = match Front::greet(peer, transport, id, &model, &place.keys).await {
        Ok(greeted) => greeted,
        Err((error, front)) => {
            if let (Some(packet), Some(mut front)) = (error.to_packet(), front) {
                front.refuse(&packet).await;
            }
            return;
        }
    };
    let (challenge, capabilities, collation) = (front.challenge(), front.capabilities(), attempt.collation);
    loop {
        let (backend, text) = match let_in(place, &mut front, attempt).await {
            Ok(in_) => in_,
            Err(packet) => {
                if let Some(packet) = packet {
                    front.refuse(&packet).await;
                }
                return;
            }
        };
        let (mut client, sequence, rest) = front.into_parts();
        assert!(rest.is_empty());
        let mut ok = Vec::new();
        let mut payload = b"\0\0\0\x02\0\0\0".to_vec();
        match capabilities.has(Capabilities::SESSION_TRACK) {
            true => write::lenenc_bytes(&mut payload, &text),
            false => payload.extend_from_slice(&text),
        }
        encode_packet(&mut ok, sequence, &payload);
        if client.write_all(&ok).await.is_err() || client.flush().await.is_err() {
            return;
        }
        let Some((change, sequence)) = pass(&mut client, backend, capabilities).await else {
            return;
        };
        front = Front::again(
            client,
            &[],
            transport,
            challenge,
            capabilities,
            sequence.wrapping_add(1),
        );
        attempt = Attempt::of_change(change, collation);
    }
}

async fn let_in(
    place: &Place,
    front: &mut Front,
    attempt: Attempt,
) -> Result<(Backend, Vec<u8>), Option<ErrorPacket>> {
    let door = Doorkeeper {
        directory: &place.directory,
        proven: &place.proven,
        keys: &place.keys,
        dial: &place.dial,
    };
    let who = match authenticate(front, attempt, &door).await {
        Ok(who) => who,
        Err(NotAuthenticated::Refused(packet)) => return Err(Some(packet)),
        Err(NotAuthenticated::Front(error)) => return Err(error.to_packet()),
    };
    let count = match (&who.bound, &who.fresh) {
        (Some(_), _) => &place.seen.bound,
        (None, Some(_)) => &place.seen.fresh,
        (None, None) => &place.seen.by_hash,
    };
    count.fetch_add(1, Ordering::Relaxed);
    if let Some(backend) = who.bound.or(who.fresh) {
        return Ok((*backend, who.proof));
    }
    let login_as = Login {
        user: &who.user,
        secret: &who.secret,
        database: who.database.as_deref(),
        capabilities: who.capabilities,
        collation: who.collation,
        attributes: &[],
        tls: who.tls,
    };
    let opened = place.dial.open(front.transport()).await.map_err(Some)?;
    match login(opened, &login_as, Duration::from_secs(5)).await {
        Ok(backend) => Ok((backend, who.proof)),
        Err(LoginError::Refused(packet)) => Err(Some(packet)),
        Err(error) => panic!("{error}"),
    }
}

/// Passes commands and answers until the client ends, or becomes another user.
async fn pass(
    client: &mut Peer,
    mut backend: Backend,
    capabilities: Capabilities,
) -> Option<(ChangeUser, u8)> {
    loop {
        let mut header = [0; 4];
        client.read_exact(&mut header).await.ok()?;
        let mut payload = vec![0; FrameHeader::parse(header).len];
        client.read_exact(&mut payload).await.ok()?;
        let command = Command::from_byte(payload[0]).unwrap();
        if command == Command::ChangeUser {
            return Some((ChangeUser::parse(&payload, capabilities).ok()?, header[3]));
        }
        backend.peer.write_all(&header).await.ok()?;
        backend.peer.write_all(&payload).await.ok()?;
        backend.peer.flush().await.ok()?;
        let mut walker = ReplyWalker::new(Expect::of(command)?, backend.capabilities, capabilities, 1);
        let mut heard = Vec::new();
        loop {
            let mut chunk = [0; 4096];
            let count = backend
                .peer
                .read(&mut chunk)
                .await
                .ok()
                .filter(|count| *count > 0)?;
            heard.extend_from_slice(&chunk[..count]);
            let mut out = Vec::new();
            let fed = walker.feed(&heard, &mut out).unwrap();
            heard.drain(..fed.consumed);
            client.write_all(&out).await.ok()?;
            client.flush().await.ok()?;
            if matches!(fed.step, Step::Done(_)) {
                break;
            }
        }
    }
}
