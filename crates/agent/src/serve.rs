//! The other agents' door: the peer API of [`crate::peer`], mutual TLS 1.3 on the private address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use pontoon_fleet::{Code, EventKind, Refusal};
use pontoon_pki::tls;
use pontoon_rt::http::{self, Body};
use pontoon_rt::listen::{self, ListenOptions};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::admin::{count, read};
use crate::authorise::{Peer, Verb, authorise, verb_of};
use crate::core::{Agent, Membership};
use crate::peer::{ChangeMessage, Events, Heartbeat, Hello, RenewRequest};
use crate::{heartbeat, host, observe, renew};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Peers that may be connected at a time.
const MAX_CONNECTIONS: usize = 512;

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
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok((tcp, from)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
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
    http::serve(stream, shutdown, move |request| {
        let (agent, name) = (agent.clone(), name.clone());
        async move {
            // Looked up for each request: a server that left the fleet a moment ago is an outsider now.
            let peer = agent.peer(name);
            answer(&agent, &peer, from, request)
                .await
                .unwrap_or_else(|refusal| {
                    if refusal.code == Code::J005 {
                        agent.record(EventKind::PeerRefused {
                            peer: peer.label(),
                            reason: refusal.to_string(),
                        });
                    }
                    http::refusal_response(&refusal)
                })
        }
    })
    .await?;
    Ok(())
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
        (&Method::POST, "/p/v1/heartbeat") | (&Method::GET, "/p/v1/config" | "/p/v1/events") => Verb::Know,
        (&Method::GET, "/p/v1/facts") => Verb::Steer,
        // What the message in it may do is looked at when it has been read.
        (&Method::POST, "/p/v1/change") => Verb::Know,
        (&Method::POST, "/p/v1/renew") => Verb::Renew,
        (&Method::POST, "/p/v1/join/source") | (&Method::GET, "/p/v1/join/backup") => Verb::CopyDatabase,
        (&Method::POST, "/p/v1/join/finish") => Verb::FinishJoin,
        (&Method::POST, "/p/v1/leave") => Verb::Leave,
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
            let said: Heartbeat = read(request).await?;
            if peer.name() != Some(&said.report.server) {
                return Err(Refusal::new(
                    Code::J005,
                    format!("{} may not report for another", peer.label()),
                ));
            }
            heartbeat::hear(agent, said)?;
            ok(&heartbeat::own(agent)?)
        }
        "/p/v1/config" => ok(&agent.config()?.committed),
        "/p/v1/events" => ok(&Events {
            events: agent.events().tail(count(&request)),
        }),
        "/p/v1/facts" => ok(&observe::facts(agent).await?),
        "/p/v1/change" => {
            let said: ChangeMessage = read(request).await?;
            authorise(peer, verb_of(&said.message))?;
            if let Some(from) = peer.name() {
                agent.changes.received(from.clone(), said.message);
            }
            ok(&())
        }
        "/p/v1/renew" => ok(&renew::sign(agent, peer, &read::<RenewRequest>(request).await?)?),
        "/p/v1/join/hello" => {
            let hello: Hello = read(request).await?;
            ok(&host::welcome(agent, hello, from).await?)
        }
        "/p/v1/join/source" => ok(&host::source(agent, peer).await?),
        "/p/v1/join/backup" => host::backup(agent, peer).await,
        "/p/v1/join/finish" => ok(&host::finish(agent, peer).await?),
        "/p/v1/leave" => ok(&host::farewell(agent, peer).await?),
        _ => Err(Refusal::new(
            Code::N007,
            format!("{path} was allowed and is not answered"),
        )),
    }
}

fn ok<T: Serialize>(value: &T) -> Result<Response<Body>, Refusal> {
    Ok(http::json_response(StatusCode::OK, value))
}
