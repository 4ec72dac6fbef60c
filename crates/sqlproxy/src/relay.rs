//! The relay: takes connections of other servers' proxies for the database here, and for nothing else.
//!
//! It never forwards to another server, so there are no loops, and it serves only while the view says that the
//! database here is primary (P2). See `preface.rs` for what is said.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pontoon_fleet::{Epoch, FleetView, Role, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backend::connect_local;
use crate::context::Context;
use crate::counters::Counted;
use crate::peer::Peer;
use crate::preface::{Answer, PREFACE_LEN, Preface, Reply};
use crate::session::pass_through;
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
    let (pin, local, transport) = match decided {
        Ok(decided) => decided,
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
            () = pass_through(context, &mut caller, &mut database, &pin) => {}
            () = left => refused(&format!("{name}: no longer an application or database server")),
        }
    }
}

/// Whether the database here may be used by `caller`, by what this server knows. Pure.
fn decide(
    preface: Option<Preface>,
    caller: &ServerName,
    draining: bool,
    view: Option<&FleetView>,
    target: &Target,
    me: &ServerName,
) -> Result<(Pin, Local, Transport), Reply> {
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
    match &target.primary {
        Ok(primary) if primary.pin.epoch < preface.epoch => Err(no(Answer::BehindCaller)),
        Ok(primary) if &primary.pin.server == me => match &primary.way {
            Way::Local(local) => Ok((primary.pin.clone(), local.clone(), preface.transport)),
            Way::Relay(_) => Err(no(Answer::NotPrimary)),
        },
        _ => Err(no(Answer::NotPrimary)),
    }
}

/// Whether the view knows `caller` as a server that has a database's clients, or may come to have them.
fn is_allowed(view: Option<&FleetView>, caller: &ServerName) -> bool {
    view.and_then(|view| view.server(caller))
        .is_some_and(|server| server.roles.contains(&Role::App) || server.roles.contains(&Role::Db))
}

async fn introduce(context: &Context, tcp: TcpStream) -> Result<(Peer, ServerName, Option<Preface>), String> {
    let (mut caller, name) = context
        .tls
        .accept(tcp, INTRODUCTION)
        .await
        .map_err(|error| error.to_string())?;
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
        let me: ServerName = "a".parse().unwrap();
        let mut view = view(primary, epoch);
        change(&mut view);
        let target = Follower::new(me.clone()).follow(Some(&view));
        let preface = Preface {
            transport: Transport::Unix,
            epoch: Epoch(asked),
        };
        let caller = caller.parse().unwrap();
        decide(Some(preface), &caller, false, Some(&view), &target, &me)
            .map(|(pin, ..)| pin.epoch)
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
}
