//! Letting a client in, and serving it: as itself, and as whom it becomes by COM_CHANGE_USER.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pontoon_mysql_wire::{Capabilities, ErrorPacket, SqlState, error_code};

use pontoon_telemetry::metrics::Sender;

use super::state::State;
use super::{Client, Entrance, Next, Refused, serve};
use crate::auth::{Authenticated, Dial, Doorkeeper, NotAuthenticated, authenticate};
use crate::backend::{Opened, SESSION_FLAGS};
use crate::context::Context;
use crate::exchange::Link;
use crate::front::{Attempt, Front, FrontError};
use crate::hold::{self, Begun, NotOpened};
use crate::packets::PacketError;
use crate::peer::Peer;
use crate::pool::{Identity, Left, Thread};
use crate::target::{Pin, Transport};

/// The way to the present primary, for questions about accounts.
#[derive(Debug)]
struct ToPrimary(Arc<Context>);

impl Dial for ToPrimary {
    async fn open(&self, transport: Transport) -> Result<Opened, ErrorPacket> {
        hold::open(&self.0, None, transport, Begun::No).await.map_err(|error| {
            let text = match error {
                NotOpened::ClientGone => "Pontoon: the client is gone".to_owned(),
                NotOpened::TimedOut { waited, obstacle } => {
                    tracing::warn!(%obstacle, waited_ms = waited.as_millis() as u64, "a connection was refused");
                    format!("Pontoon: {obstacle}; waited {:.1} s", waited.as_secs_f64())
                }
            };
            ErrorPacket::new(error_code::UNKNOWN_ERROR, SqlState::GENERAL, &text)
        })
    }

    fn permits(&self, pin: &Pin) -> bool {
        self.0.targets.borrow().permits(pin)
    }
}

/// Greets a client, finds out who it is, and serves it to its end.
pub async fn admit(thread: Rc<Thread>, peer: Peer, transport: Transport) {
    let link = Rc::new(Link::default());
    let id = thread.context.sessions.number();
    thread.sessions.borrow_mut().insert(id, Rc::clone(&link));
    Box::pin(greet(&thread, peer, transport, id, &link)).await;
    thread.sessions.borrow_mut().remove(&id);
}

async fn greet(thread: &Rc<Thread>, peer: Peer, transport: Transport, id: u32, link: &Rc<Link>) {
    let dial = ToPrimary(Arc::clone(&thread.context));
    let model = match thread.directory.model(&dial, transport).await {
        Ok(model) => model,
        Err(packet) => {
            thread
                .context
                .counters
                .refused
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            thread.context.metrics.refused();
            return crate::passthrough::refuse(peer, &packet).await;
        }
    };
    let greeted = Front::greet(peer, transport, id, &model, &thread.keys).await;
    let (front, attempt) = match greeted {
        Ok(greeted) => greeted,
        Err((error, front)) => {
            tracing::debug!(%error, "a client did not log in");
            count(thread, &error);
            if let (Some(packet), Some(mut front)) = (error.to_packet(), front) {
                front.refuse(&packet).await;
            }
            return;
        }
    };
    let (challenge, capabilities) = (front.challenge(), front.capabilities());
    let mut before: Option<Before> = None;
    let mut refused_changes = 0;
    let mut turn = Turn::Ask(Box::new(front), attempt);
    loop {
        let entered = match turn {
            Turn::Serve(client) => Ok(client),
            Turn::Ask(front, _) if refused_changes >= MAX_REFUSED_CHANGES => {
                Err(Some(refused(*front, unknown_command())))
            }
            Turn::Ask(front, attempt) => {
                let entrance = match before {
                    None => Entrance::Login,
                    Some(_) => Entrance::Change,
                };
                ask(thread, *front, attempt, (&dial, transport), id, entrance).await
            }
        };
        let refused = match entered {
            Err(None) => return,
            Err(Some(refused)) => refused,
            Ok(client) => {
                let now = Same::of(&client);
                match Box::pin(serve(Rc::clone(thread), client, Rc::clone(link))).await {
                    None => return,
                    Some(Next::Refused(refused)) => refused,
                    Some(Next::Change(change)) => {
                        let attempt = Attempt::of_change(change.to, now.identity.collation);
                        before = Some(Before {
                            client: now,
                            kept: change.kept,
                        });
                        let (peer, read) = (change.peer, &change.read);
                        let front =
                            Front::again(peer, read, transport, challenge, capabilities, change.sequence);
                        turn = Turn::Ask(Box::new(front), attempt);
                        continue;
                    }
                }
            }
        };
        // A MariaDB lets the session go on as whom it was; a MySQL ends it.
        let back = before.take().filter(|_| model.is_mariadb());
        let back = back.and_then(|before| Some((before.client, before.kept?)));
        let Refused {
            mut peer,
            read,
            sequence,
            packet,
        } = refused;
        if back.is_some() {
            refused_changes += 1;
            tokio::time::sleep(AFTER_REFUSED_CHANGE).await;
        }
        let told = super::say::error_to(&mut peer, link, sequence, &packet, capabilities);
        // Who does not listen is not waited for.
        let told = tokio::time::timeout(TELLING, told).await.unwrap_or(false);
        match back.filter(|_| told) {
            Some((same, kept)) => turn = Turn::Serve(same.again(peer, sequence, read, kept)),
            None => return,
        }
    }
}

/// What comes next for a client.
enum Turn {
    /// It is asked who it is.
    Ask(Box<Front>, Attempt),
    /// It is served.
    Serve(Client),
}

/// Finds out who the client is.
async fn ask(
    thread: &Rc<Thread>,
    mut front: Front,
    attempt: Attempt,
    (dial, transport): (&ToPrimary, Transport),
    id: u32,
    entrance: Entrance,
) -> Result<Client, Option<Refused>> {
    let login = thread.login();
    let door = Doorkeeper {
        directory: &thread.directory,
        proven: &thread.proven,
        keys: &thread.keys,
        dial,
    };
    match authenticate(&mut front, attempt, &door).await {
        Ok(who) => {
            let (peer, sequence, rest) = front.into_parts();
            let parts = (peer, sequence, rest, login, entrance);
            client(thread, who, transport, id, parts).await.map_err(Some)
        }
        Err(NotAuthenticated::Refused(packet)) => Err(Some(refused(front, packet))),
        Err(NotAuthenticated::Front(error)) => {
            tracing::debug!(%error, "a client did not log in");
            count(thread, &error);
            if let Some(packet) = error.to_packet() {
                front.refuse(&packet).await;
            }
            Err(None)
        }
    }
}

fn count(thread: &Thread, error: &FrontError) {
    if matches!(error, FrontError::Packet(PacketError::Wire(_))) {
        thread.context.metrics.malformed(Sender::Client);
    }
}

fn refused(front: Front, packet: ErrorPacket) -> Refused {
    let (peer, sequence, read) = front.into_parts();
    Refused {
        peer,
        read,
        sequence,
        packet,
    }
}

/// How long it may take to tell a client that it is refused.
const TELLING: Duration = Duration::from_millis(500);

/// Refused changes of user that one connection may try, so that nobody finds a password by them (MariaDB's own
/// number).
const MAX_REFUSED_CHANGES: u32 = 3;

/// What each of them costs (MariaDB's own span).
const AFTER_REFUSED_CHANGE: Duration = Duration::from_secs(1);

fn unknown_command() -> ErrorPacket {
    let state = SqlState::new(*b"08S01").unwrap_or(SqlState::GENERAL);
    ErrorPacket::new(super::commands::UNKNOWN_COMMAND, state, "Unknown command")
}

/// Whom a client is until its COM_CHANGE_USER is granted.
#[derive(Debug)]
struct Before {
    client: Same,
    kept: Option<Rc<State>>,
}

/// What makes a session of the same client anew.
#[derive(Debug)]
struct Same {
    id: u32,
    capabilities: Capabilities,
    identity: Rc<Identity>,
    login: u64,
}

impl Same {
    fn of(client: &Client) -> Same {
        Same {
            id: client.id,
            capabilities: client.capabilities,
            identity: Rc::clone(&client.identity),
            login: client.login,
        }
    }

    fn again(self, peer: Peer, sequence: u8, read: Vec<u8>, kept: Rc<State>) -> Client {
        Client {
            peer,
            id: self.id,
            capabilities: self.capabilities,
            identity: self.identity,
            database: kept.database.as_deref().map(<[u8]>::to_vec),
            sequence,
            read,
            bound: None,
            login: self.login,
            proof: Vec::new(),
            entrance: Entrance::Refused(kept),
        }
    }
}

/// What its proof says of a client, and the connections that came of it.
async fn client(
    thread: &Rc<Thread>,
    who: Authenticated,
    transport: Transport,
    id: u32,
    (peer, sequence, read, login, entrance): (Peer, u8, Vec<u8>, u64, Entrance),
) -> Result<Client, Refused> {
    let identity = thread.identity(Identity {
        user: who.user,
        fingerprint: who.secret.fingerprint(),
        secret: who.secret,
        flags: who.capabilities & SESSION_FLAGS,
        collation: who.collation,
        transport,
        tls: who.tls,
        alone: who.bound.is_some(),
    });
    let mut bound = None;
    if let Some(backend) = who.bound {
        match thread.adopt(*backend, &identity, who.database.as_deref()).await {
            Ok(connection) => bound = Some(connection),
            Err(why) => {
                let general = || {
                    ErrorPacket::new(
                        error_code::UNKNOWN_ERROR,
                        SqlState::GENERAL,
                        "Pontoon: no connection",
                    )
                };
                return Err(Refused {
                    peer,
                    read,
                    sequence,
                    packet: super::say::refusal(&why).unwrap_or_else(general),
                });
            }
        }
    } else if let Some(backend) = who.fresh
        && let Ok(connection) = thread.adopt(*backend, &identity, who.database.as_deref()).await
    {
        let free = Left {
            free: true,
            precious: false,
        };
        thread.leave(connection, free);
    }
    Ok(Client {
        peer,
        id,
        capabilities: who.capabilities,
        identity,
        database: who.database,
        sequence,
        read,
        bound,
        login,
        proof: who.proof,
        entrance,
    })
}
