//! The life of one connection: a client's, or another proxy's.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pontoon_mysql_wire::{Capabilities, ErrorPacket, SqlState, encode_packet, error_code};
use pontoon_telemetry::metrics::ConnectionState;
use tokio::io::AsyncWriteExt;

use crate::context::Context;
use crate::counters::Counted;
use crate::hold::{self, Begun, NotOpened};
use crate::peer::Peer;
use crate::splice::{discard, splice};
use crate::target::{Pin, Target, Transport};

/// How long a refused client may take to read why.
const REFUSAL_LINGER: Duration = Duration::from_millis(500);

/// Serves a client until it or its database ends, or its database is no longer the primary's.
pub async fn serve_client(context: &Context, mut client: Peer, transport: Transport) {
    context.counters.connections.fetch_add(1, Relaxed);
    let Some(_place) = Counted::within(&context.counters.clients, context.limits.max_clients) else {
        return refuse_for_number(context, context.limits.max_clients, client).await;
    };
    let opened = tokio::select! {
        opened = hold::open(context, Some(&client), transport, Begun::No) => opened,
        () = context.closing.cancelled() => {
            let text = "Server shutdown in progress (pontoon sql is stopping)";
            let error = ErrorPacket::new(error_code::SERVER_SHUTDOWN, SqlState::LINK_FAILURE, text);
            return refuse(client, &error).await;
        }
    };
    match opened {
        Ok(mut opened) => {
            let state = match opened.peer {
                Peer::Tls(_) => ConnectionState::Relayed,
                Peer::Tcp(_) | Peer::Unix(_) | Peer::Within(_) => ConnectionState::Local,
            };
            let _open = context.metrics.served(state);
            let _unwatched = context.floors.pass_through(opened.pin.epoch);
            let greeted = client.write_all(&opened.first).await;
            if greeted.is_ok() {
                pass_through(context, &mut client, &mut opened.peer, &opened.pin).await;
            }
        }
        Err(NotOpened::ClientGone) => {}
        Err(NotOpened::TimedOut { waited, obstacle }) => {
            context.counters.refused.fetch_add(1, Relaxed);
            context.metrics.refused();
            tracing::warn!(%obstacle, waited_ms = waited.as_millis() as u64, "a connection was refused");
            // 1105 is the one code without a meaning that a client could act on wrongly: 2003 and its like are made
            // by client libraries only, 1040 invites waiting for others to leave, 1053 and 1927 are for sessions.
            let text = format!("Pontoon: {obstacle}; waited {:.1} s", waited.as_secs_f64());
            refuse(
                client,
                &ErrorPacket::new(error_code::UNKNOWN_ERROR, SqlState::GENERAL, &text),
            )
            .await;
        }
    }
}

/// Passes bytes until either side ends, the primary changes or the process closes.
pub async fn pass_through(context: &Context, client: &mut Peer, database: &mut Peer, pin: &Pin) {
    pass_through_while(context, client, database, |target| target.permits(pin)).await;
}

/// As [`pass_through`], for as long as the target allows it.
pub async fn pass_through_while(
    context: &Context,
    client: &mut Peer,
    database: &mut Peer,
    permitted: impl Fn(&Target) -> bool,
) {
    let mut targets = context.targets.clone();
    let demoted = async {
        if targets.wait_for(|target| !permitted(target)).await.is_err() {
            // The sender is gone: the process ends, and `closing` says when.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        // In this order: not a byte more once the primary has changed.
        biased;
        () = demoted => {
            context.counters.demoted.fetch_add(1, Relaxed);
            database.abort_on_drop();
        }
        () = context.closing.cancelled() => {}
        ended = splice(client, database) => if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        },
    }
}

/// Refuses a client because there are too many.
pub async fn refuse_for_number(context: &Context, limit: u64, client: Peer) {
    context.counters.over_limit.fetch_add(1, Relaxed);
    let text = format!("Too many connections (pontoon sql takes {limit})");
    let error = ErrorPacket::new(error_code::TOO_MANY_CONNECTIONS, SqlState::REFUSED, &text);
    refuse(client, &error).await;
}

/// Sends an error in place of the greeting and closes.
pub async fn refuse(mut client: Peer, error: &ErrorPacket) {
    let mut bytes = Vec::new();
    // Nothing is agreed on before the handshake, so there is no SQLSTATE in it.
    encode_packet(&mut bytes, 0, &error.to_payload(Capabilities::default()));
    let say = async {
        if client.write_all(&bytes).await.is_ok() && client.shutdown().await.is_ok() {
            discard(&mut client).await;
        }
    };
    let _ = tokio::time::timeout(REFUSAL_LINGER, say).await;
}
