//! Where an operator asks a running process to hand over: a Unix socket of its own, for its user and root only.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::{Method, Response, StatusCode};
use pontoon_fleet::{Code, Refusal};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::http::{self, Body};
use crate::listen;
use crate::shutdown::Shutdown;

/// Between two tries to open the socket: the process before this one may still have it.
const RETRY: Duration = Duration::from_millis(100);

/// Who has taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOver {
    /// The process that did serve.
    pub from: u32,
    /// The one that serves now.
    pub to: u32,
}

/// Somebody wants the process to hand over, and waits for word.
pub type Asked = oneshot::Sender<Result<HandedOver, Refusal>>;

/// Takes requests (`POST /upgrade`) on the Unix socket `path` until `shutdown`, one at a time. Must be called within a
/// runtime.
pub fn listen(path: &Path, shutdown: Shutdown) -> mpsc::Receiver<Asked> {
    let (ask, asked) = mpsc::channel(1);
    let path = path.to_owned();
    tokio::spawn(async move {
        tokio::select! {
            () = accept(path, ask, shutdown.clone()) => {}
            () = shutdown.requested() => {}
        }
    });
    asked
}

async fn accept(path: PathBuf, ask: mpsc::Sender<Asked>, shutdown: Shutdown) {
    let listener = loop {
        match listen::unix(&path, 0o600).and_then(UnixListener::from_std) {
            Ok(listener) => break listener,
            Err(error) => tracing::debug!(%error, path = %path.display(), "cannot be asked to hand over yet"),
        }
        tokio::time::sleep(RETRY).await;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (ask, shutdown) = (ask.clone(), shutdown.clone());
                tokio::spawn(async move {
                    // Who asked and went away needs no answer.
                    let _ = answer(stream, ask, shutdown).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept who asks for a handover");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn answer(
    stream: UnixStream,
    ask: mpsc::Sender<Asked>,
    shutdown: Shutdown,
) -> Result<(), http::HttpError> {
    http::serve(stream, shutdown, |request| {
        let ask = ask.clone();
        let known = request.method() == Method::POST && request.uri().path() == "/upgrade";
        async move {
            match known {
                true => upgrade(&ask).await,
                false => {
                    let mut response = Response::new(http::full("there is POST /upgrade\n"));
                    *response.status_mut() = StatusCode::NOT_FOUND;
                    response
                }
            }
        }
    })
    .await
}

async fn upgrade(ask: &mpsc::Sender<Asked>) -> Response<Body> {
    let (answer, answered) = oneshot::channel();
    let busy = || Refusal::new(Code::N009, "a handover is under way, or the process ends");
    let refusal = match ask.try_send(answer) {
        Err(_) => busy(),
        Ok(()) => match answered.await {
            Ok(Ok(done)) => return http::json_response(StatusCode::OK, &done),
            Ok(Err(refusal)) => refusal,
            Err(_) => busy(),
        },
    };
    http::refusal_response(&refusal)
}
