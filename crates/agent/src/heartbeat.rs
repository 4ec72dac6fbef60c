//! Twice a second, every agent tells every other how its server is, and hears the same of theirs. Observations, not
//! orders: what follows from them is for `decide`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use pontoon_decide::change::Message;
use pontoon_decide::failover::Event;
use pontoon_fleet::{Code, EventKind, Refusal, Role, ServerName, ServerReport, Tier, TierDetail};
use pontoon_rt::http::{self, Body, Call};
use tokio::task::AbortHandle;

use crate::authorise::Peer;
use crate::core::{Agent, Heard};
use crate::dial;
use crate::failover::FailoverReport;
use crate::observe::Rate;
use crate::peer::Heartbeat;
use crate::{acme, address_key, cache, dnssec_key, floor_key, ticket_keys};

/// Between two heartbeats to the same peer.
pub(crate) const INTERVAL: Duration = Duration::from_millis(500);

/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A server that was not heard of for this long is shown as unreachable.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

/// Runs until shutdown: one task a peer, as the configuration has them.
pub(crate) async fn run(agent: Arc<Agent>) {
    let mut links: BTreeMap<(ServerName, SocketAddr), AbortHandle> = BTreeMap::new();
    loop {
        let wanted = peers(&agent);
        links.retain(|peer, link| {
            let keep = wanted.contains(peer) && !link.is_finished();
            if !keep {
                link.abort();
            }
            keep
        });
        for peer in wanted {
            let (name, address) = peer.clone();
            links
                .entry(peer)
                .or_insert_with(|| tokio::spawn(link(agent.clone(), name, address)).abort_handle());
        }
        note_silence(&agent);
        ticket_keys::keep(&agent);
        dnssec_key::keep(&agent);
        cache::to_tell(&agent);
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => break,
        }
    }
    for link in links.values() {
        link.abort();
    }
}

/// Takes in what a peer said, whichever side opened the connection. That the report is the peer's own has been checked.
/// `asked` is when this server asked for it, if it did.
pub(crate) fn hear(
    agent: &Arc<Agent>,
    peer: &Peer,
    said: Heartbeat,
    asked: Option<Duration>,
) -> Result<(), Refusal> {
    let report = said.report;
    let Peer::Member { control, roles, .. } = peer else {
        return Ok(()); // what a server says that is not in yet counts for nothing
    };
    // Control servers only: an application server that is broken into must not admit others.
    if *control {
        agent
            .known()
            .joiners_elsewhere
            .insert(report.server.clone(), said.joiners);
    }
    acme::hear(agent, peer, said.acme.as_ref());
    floor_key::hear(agent, &report.server, said.floor_key.as_deref());
    ticket_keys::hear(agent, &report.server, said.ticket_keys.as_deref());
    address_key::hear(agent, &report.server, said.address_key.as_deref());
    dnssec_key::hear(agent, peer, said.dnssec_key.as_deref());
    cache::hear(agent, &report.server, said.cache);
    agent.learn_drains(&report.drains)?;
    agent.learn_maintenance(&report.maintenance)?;
    agent.learn_purges(&report.purges)?;
    if let Some(lease) = &report.lease {
        agent.hear_lease(peer, lease);
    }
    // What a server without a database says of failover is nothing.
    let has_database = roles.contains(&Role::Db);
    let failover = said.failover.filter(|_| has_database);
    if let Some(failover) = &failover {
        hear_failover(agent, &report, failover, asked);
    }
    let peer = report.server.clone();
    let active = Message::Active {
        revision: report.revision,
        digest: report.config_digest.clone(),
    };
    let now = Instant::now();
    let mut known = agent.known();
    let before = known.peers.remove(&peer);
    let silent_for = before
        .as_ref()
        .filter(|heard| heard.silent)
        .map(|heard| now - heard.at);
    let edge_rate = edge_total(&report).map(|(pid, total)| {
        Rate::next(
            before.as_ref().and_then(|heard| heard.edge_rate.as_ref()),
            pid,
            total,
        )
    });
    known.peers.insert(
        peer.clone(),
        Heard {
            report,
            at: now,
            edge_rate,
            silent: false,
            failover,
            errant: said.errant.filter(|_| has_database),
        },
    );
    drop(known);
    agent.changed.notify_one();
    if let Some(silent_for) = silent_for {
        let silent_ms = u64::try_from(silent_for.as_millis()).unwrap_or(u64::MAX);
        agent.record(EventKind::PeerReachable {
            peer: peer.clone(),
            silent_ms,
        });
    }
    agent.changes.received(peer, active);
    Ok(())
}

fn hear_failover(agent: &Agent, by: &ServerReport, report: &FailoverReport, asked: Option<Duration>) {
    let (from, facts) = (&by.server, report.peer_facts(by.full_disk.is_some()));
    agent.failover.tell(Event::Peer(from.clone(), facts));
    let leads = report.record.as_ref().filter(|record| record.leader == *from);
    if let (Some(record), Some(left), Some(asked)) = (leads, report.left_ms, asked) {
        agent
            .deadlines
            .heard(from, record.epoch, asked, Duration::from_millis(left));
    }
}

fn edge_total(report: &ServerReport) -> Option<(u32, u64)> {
    let tier = report.tier(Tier::Edge)?;
    match &tier.detail {
        TierDetail::Edge(edge) => Some((tier.pid, edge.requests_total)),
        _ => None,
    }
}

/// The other servers of the active configuration.
fn peers(agent: &Agent) -> Vec<(ServerName, SocketAddr)> {
    let (Some(membership), Some(active)) = (agent.membership(), agent.active()) else {
        return Vec::new();
    };
    if active.config.server(&membership.me).is_none() {
        return Vec::new(); // not yet, or no longer
    }
    let port = active.config.ports().agent;
    active
        .config
        .servers
        .iter()
        .filter(|server| server.name != membership.me)
        .map(|server| (server.name.clone(), SocketAddr::new(server.private, port)))
        .collect()
}

pub(crate) fn note_silence(agent: &Agent) {
    let mut fallen_silent = Vec::new();
    let mut known = agent.known();
    let in_fleet: Vec<ServerName> = match &known.active {
        Some(active) => active
            .config
            .servers
            .iter()
            .map(|server| server.name.clone())
            .collect(),
        None => Vec::new(),
    };
    known.peers.retain(|name, _| in_fleet.contains(name));
    // Whoever is taken out of the fleet can let nobody in any more.
    known.joiners_elsewhere.retain(|name, _| in_fleet.contains(name));
    for (name, heard) in &mut known.peers {
        if !heard.silent && heard.at.elapsed() > SILENCE {
            heard.silent = true;
            fallen_silent.push(name.clone());
        }
    }
    drop(known);
    for peer in fallen_silent {
        agent.record(EventKind::PeerUnreachable {
            peer,
            reason: format!("no heartbeat for {} s", SILENCE.as_secs()),
        });
        agent.changed.notify_one();
    }
}

/// Keeps one connection to one peer and beats on it; opens it anew when it breaks.
async fn link(agent: Arc<Agent>, peer: ServerName, address: SocketAddr) {
    loop {
        if let Err(refusal) = beat_until_broken(&agent, &peer, address).await {
            tracing::debug!(%peer, %refusal, "the heartbeat connection broke");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn beat_until_broken(
    agent: &Arc<Agent>,
    peer: &ServerName,
    address: SocketAddr,
) -> Result<(), Refusal> {
    let stream = dial::connect(agent, peer, address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream))
        .await
        .map_err(http::HttpError::from)?;
    let driver = tokio::spawn(connection);
    let result = loop {
        match beat(agent, peer, &mut sender).await {
            Ok(()) => tokio::time::sleep(INTERVAL).await,
            Err(refusal) => break Err(refusal),
        }
    };
    driver.abort();
    result
}

async fn beat(agent: &Arc<Agent>, peer: &ServerName, sender: &mut SendRequest<Body>) -> Result<(), Refusal> {
    let asked = agent.clock.now();
    let to = agent.peer(Some(peer.clone()));
    let body = http::json_body(&own(agent, &to)?)?;
    let request: Request<Body> = Call::post(peer.as_str(), "/p/v1/heartbeat").request(body)?;
    let exchange = async {
        sender.ready().await.map_err(http::HttpError::from)?;
        let answer: Response<Incoming> = sender
            .send_request(request)
            .await
            .map_err(http::HttpError::from)?;
        let status = answer.status();
        let bytes = http::read_body(answer.into_body(), 1 << 20).await?;
        if !status.is_success() {
            return Err(serde_json::from_slice::<Refusal>(&bytes).unwrap_or_else(|_| {
                Refusal::new(Code::N005, format!("{peer} answered a heartbeat with {status}"))
            }));
        }
        Ok(serde_json::from_slice::<Heartbeat>(&bytes).map_err(http::HttpError::from)?)
    };
    let heard = tokio::time::timeout(TIMEOUT, exchange)
        .await
        .map_err(|_| http::HttpError::Timeout(TIMEOUT))??;
    if &heard.report.server != peer {
        return Err(Refusal::new(
            Code::N005,
            format!("{peer} reports for {}", heard.report.server),
        ));
    }
    hear(agent, &agent.peer(Some(peer.clone())), heard, Some(asked))
}

/// What this server says in a heartbeat to `to`.
pub(crate) fn own(agent: &Agent, to: &Peer) -> Result<Heartbeat, Refusal> {
    let report = agent
        .report()
        .ok_or_else(|| Refusal::new(Code::J007, "this server left its fleet"))?;
    // Before the lock that the next lines take.
    let floor_key = floor_key::to_tell(agent);
    let ticket_keys = ticket_keys::to_tell(agent);
    let address_key = address_key::to_tell(agent);
    let dnssec_key = dnssec_key::to_tell(agent, to);
    let acme = acme::to_tell(agent);
    let cache = cache::to_tell(agent);
    let (joiners, errant) = {
        let known = agent.known();
        (known.joiners.clone(), known.errant.clone())
    };
    Ok(Heartbeat {
        report,
        joiners,
        floor_key,
        ticket_keys,
        acme,
        address_key,
        cache,
        dnssec_key,
        failover: agent.failover.report(agent.clock.now()),
        errant,
    })
}
