//! The relay: takes connections of other servers' proxies for the database here, and for nothing else.
//!
//! It never forwards to another server, so there are no loops. As the primary's database it serves only while the view
//! says that the database here is that (P2), as a replica's until the primary changes. See `preface.rs` for what is said.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pontoon_fleet::{Epoch, FleetView, Role, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backend::connect_local;
use crate::context::Context;
use crate::counters::Counted;
use crate::passthrough::pass_through_while;
use crate::peer::Peer;
use crate::preface::{Answer, PREFACE_LEN, Preface, Purpose, Reply};
use crate::target::{Local, Pin, Target, Transport, Way};

/// How long the caller may take for its handshake and preface.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// How long the database here may take to accept. The caller waits for the greeting.
const CONNECT: Duration = Duration::from_secs(1);

/// Serves one connection of another proxy.
pub async fn serve_relay(context: &Context, tcp: TcpStream) {
    let Some(_place) = Counted::within(&context.counters.relayed, context.limits.max_clients) else {
        // Without a word: the handshake that an answer needs is what there is no room for.
        return refused("no room");
    };
    let introduced = tokio::select! {
        introduced = timeout(INTRODUCTION, introduce(context, tcp)) => introduced,
        () = context.closing.cancelled() => return,
    };
    let (mut caller, name, preface) = match introduced {
        Ok(Ok(introduced)) => introduced,
        Ok(Err(reason)) => return refused(&reason),
        Err(_) => return refused("no preface in time"),
    };
    let decided = decide(
        preface,
        &name,
        context.draining.load(Relaxed),
        context.views.borrow().as_deref(),
        &context.targets.borrow(),
        &context.me,
    );
    let Granted {
        purpose,
        pin,
        local,
        transport,
    } = match decided {
        Ok(granted) => granted,
        Err(reply) => return answer(&mut caller, &name, reply).await,
    };
    let mut database = match timeout(CONNECT, connect_local(&local, transport)).await {
        Ok(Ok(database)) => database,
        _ => {
            let reply = Reply {
                answer: Answer::DatabaseUnavailable,
                epoch: pin.epoch,
            };
            return answer(&mut caller, &name, reply).await;
        }
    };
    let reply = Reply {
        answer: Answer::Accepted,
        epoch: pin.epoch,
    };
    if caller.write_all(&reply.to_bytes()).await.is_ok() && caller.flush().await.is_ok() {
        let mut views = context.views.clone();
        let left = async {
            let wait = views.wait_for(|view| !is_allowed(view.as_deref(), &name));
            if wait.await.is_err() {
                // The sender is gone: the process ends, and `closing` says when.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = pass_through_while(context, &mut caller, &mut database, |target| match purpose {
                Purpose::Primary => target.permits(&pin),
                Purpose::Replica => target.permits_replica(&pin),
            }) => {}
            () = left => refused(&format!("{name}: no longer an application or database server")),
        }
    }
}

/// What a caller gets.
struct Granted {
    purpose: Purpose,
    pin: Pin,
    local: Local,
    transport: Transport,
}

/// Whether the database here may be used by `caller`, by what this server knows. Pure.
fn decide(
    preface: Option<Preface>,
    caller: &ServerName,
    draining: bool,
    view: Option<&FleetView>,
    target: &Target,
    me: &ServerName,
) -> Result<Granted, Reply> {
    let mut reply = Reply {
        answer: Answer::BadPreface,
        epoch: view.map_or(Epoch(0), |view| view.epoch),
    };
    let mut no = |answer| {
        reply.answer = answer;
        reply
    };
    let Some(preface) = preface else {
        return Err(no(Answer::BadPreface));
    };
    if !is_allowed(view, caller) {
        return Err(no(Answer::NotAllowed));
    }
    if draining {
        return Err(no(Answer::Stopping));
    }
    // A transaction under way may still need a connection while the primary is about to hand over.
    let Ok(primary) = target.serving() else {
        return Err(no(match preface.purpose {
            Purpose::Primary => Answer::NotPrimary,
            Purpose::Replica => Answer::NotReplica,
        }));
    };
    if primary.pin.epoch < preface.epoch {
        return Err(no(Answer::BehindCaller));
    }
    let granted = match preface.purpose {
        Purpose::Primary if &primary.pin.server == me => Some((&primary.pin, &primary.way)),
        Purpose::Primary => None,
        Purpose::Replica => target
            .replicas
            .iter()
            .find(|replica| &replica.pin.server == me)
            .map(|replica| (&replica.pin, &replica.way)),
    };
    match (granted, preface.purpose) {
        (Some((pin, Way::Local(local))), purpose) => Ok(Granted {
            purpose,
            pin: pin.clone(),
            local: local.clone(),
            transport: preface.transport,
        }),
        (_, Purpose::Primary) => Err(no(Answer::NotPrimary)),
        (_, Purpose::Replica) => Err(no(Answer::NotReplica)),
    }
}

/// Whether the view knows `caller` as a server that has a database's clients, or may come to have them.
fn is_allowed(view: Option<&FleetView>, caller: &ServerName) -> bool {
    view.and_then(|view| view.server(caller))
        .is_some_and(|server| server.roles.contains(&Role::App) || server.roles.contains(&Role::Db))
}

async fn introduce(context: &Context, tcp: TcpStream) -> Result<(Peer, ServerName, Option<Preface>), String> {
    let (caller, name) = context
        .tls
        .accept(tcp, INTRODUCTION)
        .await
        .map_err(|error| error.to_string())?;
    let mut caller = Peer::Tls(Box::new(caller));
    let mut bytes = [0; PREFACE_LEN];
    caller
        .read_exact(&mut bytes)
        .await
        .map_err(|error| error.to_string())?;
    Ok((caller, name, Preface::parse(bytes)))
}

fn refused(reason: &str) {
    tracing::debug!(reason, "a connection to the SQL relay was refused");
}

async fn answer(caller: &mut Peer, name: &ServerName, reply: Reply) {
    refused(&format!("{name}: {}", reply.answer));
    let say = async {
        if caller.write_all(&reply.to_bytes()).await.is_ok() {
            let _ = caller.shutdown().await;
        }
    };
    let _ = timeout(CONNECT, say).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Follower;
    use crate::target::tests::view;

    fn ask(
        primary: Option<&str>,
        epoch: u64,
        caller: &str,
        asked: u64,
        change: impl Fn(&mut FleetView),
    ) -> Result<Epoch, Answer> {
        ask_for(Purpose::Primary, primary, epoch, caller, asked, change)
    }

    fn ask_for(
        purpose: Purpose,
        primary: Option<&str>,
        epoch: u64,
        caller: &str,
        asked: u64,
        change: impl Fn(&mut FleetView),
    ) -> Result<Epoch, Answer> {
        let me: ServerName = "a".parse().unwrap();
        let mut view = view(primary, epoch);
        change(&mut view);
        let target = Follower::new(me.clone()).follow(Some(&view));
        let preface = Preface {
            purpose,
            transport: Transport::Unix,
            epoch: Epoch(asked),
        };
        let caller = caller.parse().unwrap();
        decide(Some(preface), &caller, false, Some(&view), &target, &me)
            .map(|granted| granted.pin.epoch)
            .map_err(|reply| reply.answer)
    }

    #[test]
    fn only_the_primary_of_at_least_the_callers_epoch_accepts() {
        let same = |_: &mut FleetView| ();
        assert_eq!(ask(Some("a"), 5, "b", 5, same), Ok(Epoch(5)));
        assert_eq!(
            ask(Some("a"), 5, "b", 4, same),
            Ok(Epoch(5)),
            "the caller is told the newer epoch"
        );
        assert_eq!(ask(Some("a"), 5, "b", 6, same), Err(Answer::BehindCaller));
        assert_eq!(
            ask(Some("b"), 5, "b", 5, same),
            Err(Answer::NotPrimary),
            "it never forwards"
        );
        assert_eq!(ask(None, 5, "b", 5, same), Err(Answer::NotPrimary));
    }

    #[test]
    fn only_application_and_database_servers_of_the_view_may_call() {
        let same = |_: &mut FleetView| ();
        assert_eq!(ask(Some("a"), 5, "x", 5, same), Err(Answer::NotAllowed));
        let edge_only = |view: &mut FleetView| view.servers[1].roles = [Role::Edge].into_iter().collect();
        assert_eq!(ask(Some("a"), 5, "b", 5, edge_only), Err(Answer::NotAllowed));
        let app_only = |view: &mut FleetView| view.servers[1].roles = [Role::App].into_iter().collect();
        assert_eq!(ask(Some("a"), 5, "b", 5, app_only), Ok(Epoch(5)));
    }

    #[test]
    fn a_replica_is_lent_to_readers_of_its_own_epoch_and_the_primary_is_not_a_replica() {
        let servers = |view: &mut FleetView| {
            view.sql.as_mut().unwrap().servers = ["a", "b"].map(crate::target::tests::database).into();
        };
        let replica = |primary, asked, change: &dyn Fn(&mut FleetView)| {
            ask_for(Purpose::Replica, primary, 5, "b", asked, change)
        };
        assert_eq!(replica(Some("b"), 5, &servers), Ok(Epoch(5)));
        assert_eq!(replica(Some("b"), 4, &servers), Ok(Epoch(5)));
        assert_eq!(replica(Some("b"), 6, &servers), Err(Answer::BehindCaller));
        assert_eq!(replica(Some("a"), 5, &servers), Err(Answer::NotReplica));
        assert_eq!(replica(None, 5, &servers), Err(Answer::NotReplica));
        // The view lists no database here.
        let none = |view: &mut FleetView| view.sql.as_mut().unwrap().servers.clear();
        assert_eq!(replica(Some("b"), 5, &none), Err(Answer::NotReplica));
    }
}
