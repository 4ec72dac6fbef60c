//! The other agents' door: the peer API of [`crate::peer`], mutual TLS 1.3 on the private address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use pontoon_fleet::{Code, EventKind, Refusal};
use pontoon_pki::tls;
use pontoon_rt::http::{self, Body};
use pontoon_rt::listen::{self, ListenOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::admin::count;
use crate::authorise::{Peer, Verb, authorise, verb_of};
use crate::core::{Agent, Membership};
use crate::peer::{ChangeMessage, Events, Heartbeat, Hello, RenewRequest};
use crate::{acme, backup, compare, failover, heartbeat, host, observe, renew, reseed, unstick};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Peers that may be connected at a time from the fleet's addresses.
const MAX_CONNECTIONS: usize = 512;

/// And from all others: joiners have something to say, once.
const MAX_STRANGERS: usize = 64;

/// How long somebody without a certificate may stay.
const STRANGER_TIME: Duration = Duration::from_secs(30);

/// How long a request's body may take.
const BODY_TIME: Duration = Duration::from_secs(10);

/// The largest body.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The largest with rows of a table in it.
const MAX_MENDED_BYTES: usize = 64 << 20;

/// The largest of somebody without a certificate.
const MAX_HELLO_BYTES: usize = 64 << 10;

/// The largest message of failover.
const MAX_SMALL_BYTES: usize = 64 << 10;

/// Serves while this server is a member; binds anew when that or the address changes.
pub(crate) async fn run(agent: Arc<Agent>) {
    loop {
        let changed = agent.membership_changed.notified();
        match (agent.membership(), agent.own_address()) {
            (Some(membership), Some(address)) => {
                tokio::select! {
                    () = serve_on(&agent, &membership, address) => {}
                    () = changed => continue,
                    () = agent.shutdown.requested() => return,
                }
            }
            _ => tokio::select! {
                () = changed => continue,
                () = agent.shutdown.requested() => return,
            },
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Returns when the address cannot be bound.
async fn serve_on(agent: &Arc<Agent>, membership: &Membership, address: SocketAddr) {
    let options = ListenOptions {
        freebind: true,
        ..ListenOptions::default()
    };
    let listener = match listen::tcp(address, options).and_then(TcpListener::from_std) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%address, %error, "cannot listen for the other agents; trying again");
            return;
        }
    };
    let (members, others) = (
        Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        Arc::new(Semaphore::new(MAX_STRANGERS)),
    );
    loop {
        let Ok((tcp, from)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let slots = if is_of_the_fleet(agent, from.ip()) {
            &members
        } else {
            &others
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            continue; // closes the connection: better than to let strangers exhaust the memory
        };
        let (agent, membership) = (agent.clone(), membership.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(agent, membership, tcp, from).await {
                tracing::debug!(%from, %error, "a peer's connection ended with an error");
            }
            drop(slot);
        });
    }
}

async fn connection(
    agent: Arc<Agent>,
    membership: Membership,
    tcp: TcpStream,
    from: SocketAddr,
) -> Result<(), Refusal> {
    let _ = tcp.set_nodelay(true); // a slow connection is still a connection
    let config = tls::agent_server_config(&membership.identity)?;
    let (stream, name) = tls::accept(&config, tcp, HANDSHAKE_TIMEOUT).await?;
    let shutdown = agent.shutdown.clone();
    let is_stranger = name.is_none();
    let served = http::serve(stream, shutdown, move |request| {
        let (agent, name) = (agent.clone(), name.clone());
        async move {
            // Looked up for each request: a server that left the fleet a moment ago is an outsider now.
            let peer = agent.peer(name);
            answer(&agent, &peer, from, request)
                .await
                .unwrap_or_else(|refusal| {
                    if refusal.code == Code::J005 {
                        let refused = EventKind::PeerRefused {
                            peer: peer.label(),
                            reason: refusal.to_string(),
                        };
                        agent.record_seldom(&peer.label(), 1, refused);
                    }
                    http::refusal_response(&refusal)
                })
        }
        .boxed()
    });
    if !is_stranger {
        return Ok(served.await?);
    }
    match tokio::time::timeout(STRANGER_TIME, served).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(http::HttpError::Timeout(STRANGER_TIME).into()),
    }
}

/// Whether a connection comes from where a server of the fleet, or one that is joining, is. Proves nothing: it keeps
/// strangers from taking the place that servers need.
fn is_of_the_fleet(agent: &Agent, from: IpAddr) -> bool {
    let from = from.to_canonical();
    let known = agent.known();
    let is_joiner = known.joiners.values().any(|joiner| joiner.private == from);
    is_joiner
        || known.active.as_ref().is_some_and(|active| {
            let mut servers = active.config.servers.iter();
            servers.any(|server| server.private == from || server.public.contains(&from))
        })
}

async fn answer(
    agent: &Arc<Agent>,
    peer: &Peer,
    from: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    let verb = match (request.method(), path.as_str()) {
        (&Method::POST, "/p/v1/join/hello") => Verb::Hello,
        (&Method::POST, "/p/v1/heartbeat") | (&Method::GET, "/p/v1/config") => Verb::Know,
        (&Method::GET, "/p/v1/events") => Verb::Timeline,
        (&Method::GET, "/p/v1/certificates") => Verb::Certificates,
        (&Method::GET, "/p/v1/facts") | (&Method::POST, "/p/v1/backup") => Verb::Steer,
        // What the message in it may do is looked at when it has been read.
        (&Method::POST, "/p/v1/change") => Verb::Know,
        (&Method::POST, "/p/v1/renew") => Verb::Renew,
        (&Method::POST, "/p/v1/join/source") | (&Method::GET, "/p/v1/join/backup" | "/p/v1/join/dump") => {
            Verb::CopyDatabase
        }
        // Who may copy it all may read some of it.
        (&Method::POST, "/p/v1/db/look" | "/p/v1/join/origin") => Verb::CopyDatabase,
        (&Method::POST, "/p/v1/join/finish") => Verb::FinishJoin,
        (&Method::POST, "/p/v1/leave") => Verb::Leave,
        (
            &Method::POST,
            "/p/v1/failover/answer"
            | "/p/v1/failover/acknowledge"
            | "/p/v1/failover/asked"
            | "/p/v1/failover/halted"
            | "/p/v1/failover/hold"
            | "/p/v1/failover/changed"
            | "/p/v1/db/mend",
        ) => Verb::Failover,
        (&Method::POST, "/p/v1/failover/order" | "/p/v1/failover/probe" | "/p/v1/db/reseed") => Verb::Steer,
        (method, path) => {
            return Err(
                Refusal::new(Code::N005, format!("this agent does not answer {method} {path}"))
                    .because(format!("it is Pontoon {}", env!("CARGO_PKG_VERSION"))),
            );
        }
    };
    authorise(peer, verb)?;
    match path.as_str() {
        "/p/v1/heartbeat" => {
            let said: Heartbeat = read(request, MAX_BODY_BYTES).await?;
            if peer.name() != Some(&said.report.server) {
                return Err(Refusal::new(
                    Code::J005,
                    format!("{} may not report for another", peer.label()),
                ));
            }
            heartbeat::hear(agent, peer, said, None)?;
            ok(&heartbeat::own(agent, peer)?)
        }
        "/p/v1/config" => ok(&agent.config()?.committed),
        "/p/v1/events" => ok(&Events {
            events: agent.events().tail(count(&request)),
        }),
        "/p/v1/certificates" => ok(&acme::book_for(agent, peer)),
        "/p/v1/backup" => ok(&backup::here(agent).await?),
        "/p/v1/facts" => ok(&observe::facts(agent).await?),
        "/p/v1/change" => {
            let said: ChangeMessage = read(request, MAX_BODY_BYTES).await?;
            authorise(peer, verb_of(&said.message))?;
            if let Some(from) = peer.name() {
                agent.changes.received(from.clone(), said.message);
            }
            ok(&())
        }
        "/p/v1/renew" => ok(&renew::sign(
            agent,
            peer,
            &read::<RenewRequest>(request, MAX_HELLO_BYTES).await?,
        )?),
        "/p/v1/join/hello" => {
            let hello: Hello = read(request, MAX_HELLO_BYTES).await?;
            ok(&host::welcome(agent, hello, from)?)
        }
        "/p/v1/join/source" => ok(&host::source(agent, peer, read(request, MAX_SMALL_BYTES).await?).await?),
        "/p/v1/join/origin" => ok(&host::origin(agent, peer, &read(request, MAX_SMALL_BYTES).await?).await?),
        "/p/v1/join/backup" => host::backup(agent, peer, false).await,
        "/p/v1/join/dump" => host::backup(agent, peer, true).await,
        "/p/v1/db/look" => ok(&compare::here(agent, &read(request, MAX_BODY_BYTES).await?).await?),
        "/p/v1/db/mend" => ok(&unstick::here(agent, read(request, MAX_MENDED_BYTES).await?).await?),
        "/p/v1/db/reseed" => ok(&reseed::here(agent, read(request, MAX_BODY_BYTES).await?).await?),
        "/p/v1/join/finish" => ok(&host::finish(agent, peer).await?),
        "/p/v1/leave" => ok(&host::farewell(agent, peer).await?),
        "/p/v1/failover/answer" => ok(&failover::here(agent).await?),
        "/p/v1/failover/acknowledge" => {
            ok(&failover::answer(agent, read(request, MAX_SMALL_BYTES).await?).await?)
        }
        "/p/v1/failover/asked" => {
            let asked = read(request, MAX_SMALL_BYTES).await?;
            ok(&peer.name().map(|from| failover::asked(agent, from, asked)))
        }
        "/p/v1/failover/halted" => {
            let halted = read(request, MAX_SMALL_BYTES).await?;
            ok(&peer.name().map(|from| failover::halted(agent, from, halted)))
        }
        "/p/v1/failover/hold" => {
            let wanted = read(request, MAX_SMALL_BYTES).await?;
            match peer.name() {
                Some(from) => ok(&failover::hold::here(agent, from, wanted).await),
                None => ok(&()),
            }
        }
        "/p/v1/failover/changed" => {
            let changed = read(request, MAX_SMALL_BYTES).await?;
            failover::changed(agent, peer, &changed);
            ok(&())
        }
        "/p/v1/failover/probe" => {
            ok(&failover::probe::here(agent, &read(request, MAX_BODY_BYTES).await?).await?)
        }
        "/p/v1/failover/order" => {
            ok(&failover::order_here(agent, read(request, MAX_SMALL_BYTES).await?).await?)
        }
        _ => Err(Refusal::new(
            Code::N007,
            format!("{path} was allowed and is not answered"),
        )),
    }
}

/// A peer that sends a byte now and then does not keep its place by it.
async fn read<T: DeserializeOwned>(request: Request<Incoming>, limit: usize) -> Result<T, Refusal> {
    match tokio::time::timeout(BODY_TIME, http::read_json(request.into_body(), limit)).await {
        Ok(read) => Ok(read?),
        Err(_) => Err(http::HttpError::Timeout(BODY_TIME).into()),
    }
}

fn ok<T: Serialize>(value: &T) -> Result<Response<Body>, Refusal> {
    Ok(http::json_response(StatusCode::OK, value))
}
