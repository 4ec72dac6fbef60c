//! Letting a client in, and serving it: as itself, and as whom it becomes by COM_CHANGE_USER.

use std::rc::Rc;
use std::sync::Arc;

use pontoon_mysql_wire::{ErrorPacket, SqlState, error_code};

use super::{Client, serve};
use crate::auth::{Authenticated, Dial, Doorkeeper, NotAuthenticated, authenticate};
use crate::backend::{Opened, SESSION_FLAGS};
use crate::context::Context;
use crate::exchange::Link;
use crate::front::{Attempt, Front};
use crate::hold::{self, NotOpened};
use crate::peer::Peer;
use crate::pool::{Identity, Left, Thread};
use crate::target::{Pin, Transport};

/// The way to the present primary, for questions about accounts.
#[derive(Debug)]
struct ToPrimary(Arc<Context>);

impl Dial for ToPrimary {
    async fn open(&self, transport: Transport) -> Result<Opened, ErrorPacket> {
        hold::open(&self.0, None, transport).await.map_err(|error| {
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
    let (mut front, mut attempt) = match greeted {
        Ok(greeted) => greeted,
        Err((error, front)) => {
            tracing::debug!(%error, "a client did not log in");
            if let (Some(packet), Some(mut front)) = (error.to_packet(), front) {
                front.refuse(&packet).await;
            }
            return;
        }
    };
    let (challenge, capabilities) = (front.challenge(), front.capabilities());
    loop {
        let door = Doorkeeper {
            directory: &thread.directory,
            proven: &thread.proven,
            keys: &thread.keys,
            dial: &dial,
        };
        let who = match authenticate(&mut front, attempt, &door).await {
            Ok(who) => who,
            Err(NotAuthenticated::Refused(packet)) => return front.refuse(&packet).await,
            Err(NotAuthenticated::Front(error)) => {
                tracing::debug!(%error, "a client did not log in");
                if let Some(packet) = error.to_packet() {
                    front.refuse(&packet).await;
                }
                return;
            }
        };
        let collation = who.collation;
        let (peer, sequence, rest) = front.into_parts();
        let client = match client(thread, who, transport, id, peer, sequence, rest).await {
            Ok(client) => client,
            Err((mut peer, packet)) => {
                super::say::error_to(&mut peer, link, sequence, &packet, capabilities).await;
                return;
            }
        };
        let Some(change) = Box::pin(serve(Rc::clone(thread), client, Rc::clone(link))).await else {
            return;
        };
        front = Front::again(
            change.peer,
            &change.read,
            transport,
            challenge,
            capabilities,
            change.sequence,
        );
        attempt = Attempt::of_change(change.to, collation);
    }
}

/// What its proof says of a client, and the connections that came of it.
async fn client(
    thread: &Rc<Thread>,
    who: Authenticated,
    transport: Transport,
    id: u32,
    peer: Peer,
    sequence: u8,
    read: Vec<u8>,
) -> Result<Client, (Peer, ErrorPacket)> {
    let identity = thread.identity(Identity {
        user: who.user,
        fingerprint: who.secret.fingerprint(),
        secret: who.secret,
        flags: who.capabilities & SESSION_FLAGS,
        collation: who.collation,
        transport,
        tls: who.tls,
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
                return Err((peer, super::say::refusal(&why).unwrap_or_else(general)));
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
    })
}
