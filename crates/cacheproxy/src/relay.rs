//! The relay: takes connections of other servers' proxies for the memcached here, and for nothing else.

use std::io;
use std::time::Duration;

use pontoon_fleet::{FleetView, Role, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::context::Context;
use crate::dial;
use crate::guard::Pass;
use crate::memcached;
use crate::preface::{Answer, PREFACE_LEN, parse};

/// How long the caller may take for its handshake and preface.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// Serves one connection of another proxy.
pub async fn serve_relay(context: &Context, tcp: TcpStream) {
    let introduced = async {
        let (mut stream, name) = context.tls.accept(tcp, INTRODUCTION).await.ok()?;
        let mut bytes = [0; PREFACE_LEN];
        stream.read_exact(&mut bytes).await.ok()?;
        Some((stream, name, parse(bytes)))
    };
    let introduced = tokio::select! {
        introduced = timeout(INTRODUCTION, introduced) => introduced,
        () = context.closing.cancelled() => return,
    };
    let Ok(Some((mut caller, name, list))) = introduced else {
        tracing::debug!("a connection to the cache relay did not say who it is");
        return;
    };
    let answer = match list {
        None => Err(Answer::BadPreface),
        Some(_) if !is_allowed(context.views.borrow().as_deref(), &name) => Err(Answer::NotAllowed),
        Some(list) => grant(context, list).await,
    };
    let (said, number) = match &answer {
        Ok((pass, _)) => (Answer::Accepted, pass.serving.list),
        Err(answer) => (*answer, context.guard.serving().map_or(0, |serving| serving.list)),
    };
    let told = async {
        caller.write_all(&said.to_bytes(number)).await?;
        caller.flush().await
    };
    let told: Result<io::Result<()>, _> = timeout(INTRODUCTION, told).await;
    let Ok((pass, mut memcached)) = answer else {
        tracing::debug!(%name, why = said.why(), "a connection to the cache relay was refused");
        return;
    };
    if matches!(told, Ok(Ok(()))) {
        let (mut from, mut to) = split(caller);
        let (mut back, mut there) = memcached.split();
        tokio::select! {
            () = forward(&pass, &mut from, &mut there) => {}
            () = answers(&mut back, &mut to) => {}
            () = pass.ended() => {}
            () = context.closing.cancelled() => {}
            () = left(context, &name) => {}
        }
    }
    dial::close(&mut memcached).await;
    drop(pass);
}

async fn grant(context: &Context, list: u64) -> Result<(Pass<'_>, UnixStream), Answer> {
    let pass = context.guard.admit(list).ok_or(Answer::OtherList)?;
    match memcached::connect(&context.socket).await {
        Ok((stream, pid)) if pid == pass.serving.pid => Ok((pass, stream)),
        _ => Err(Answer::NoMemcached),
    }
}

/// Passes requests on. What arrives after the list has changed is dropped.
async fn forward(
    pass: &Pass<'_>,
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        if !pass.is_valid()
            || to
                .write_all(chunk.get(..length).unwrap_or_default())
                .await
                .is_err()
        {
            return;
        }
    }
}

async fn answers(from: &mut (impl AsyncReadExt + Unpin), to: &mut (impl AsyncWriteExt + Unpin)) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let bytes = chunk.get(..length).unwrap_or_default();
        if to.write_all(bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

const CHUNK_BYTES: usize = 32 << 10;

/// Until the caller is no longer one that may call.
async fn left(context: &Context, name: &ServerName) {
    let mut views = context.views.clone();
    if views
        .wait_for(|view| !is_allowed(view.as_deref(), name))
        .await
        .is_err()
    {
        // The sender is gone: the process ends, and `closing` says when.
        std::future::pending::<()>().await;
    }
}

/// Whether the view knows `caller` as a server with the cache's clients, or with a part of it.
fn is_allowed(view: Option<&FleetView>, caller: &ServerName) -> bool {
    view.and_then(|view| view.server(caller))
        .is_some_and(|server| server.roles.contains(&Role::App) || server.roles.contains(&Role::Cache))
}
