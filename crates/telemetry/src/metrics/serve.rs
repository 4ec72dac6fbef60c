//! A process's Unix socket for its numbers: `GET /metrics` for Prometheus, `GET /healthz` for whoever asks whether the
//! process is well.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use pontoon_rt::http::{self, Body};
use pontoon_rt::listen;
use pontoon_rt::shutdown::Shutdown;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{CONTENT_TYPE as TEXT, Registry};

/// The owner and the group `pontoon` read it; it shows numbers only.
const MODE: u32 = 0o660;
/// Readers at once.
const MAX_READERS: usize = 16;

/// Between two tries to open the socket: the process before this one may still be draining.
const RETRY: Duration = Duration::from_millis(500);

/// Answers on the Unix socket `path` until `shutdown`. Must be called within a runtime; returns at once. What goes
/// wrong here costs numbers, never a client.
pub fn serve(path: &Path, registry: Registry, shutdown: Shutdown) {
    let path = path.to_owned();
    let registry = Arc::new(registry);
    tokio::spawn(async move {
        tokio::select! {
            () = accept_all(&path, &registry, &shutdown) => {}
            () = shutdown.requested() => {}
        }
    });
}

async fn accept_all(path: &Path, registry: &Arc<Registry>, shutdown: &Shutdown) {
    let listener = loop {
        match listen::unix(path, MODE).and_then(UnixListener::from_std) {
            Ok(listener) => break listener,
            Err(error) => tracing::debug!(%error, path = %path.display(), "no metrics yet"),
        }
        tokio::time::sleep(RETRY).await;
    };
    let room = Arc::new(Semaphore::new(MAX_READERS));
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a reader of the metrics");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let (registry, shutdown) = (Arc::clone(registry), shutdown.clone());
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = answer(stream, &registry, shutdown).await {
                tracing::debug!(%error, "a reader of the metrics broke off");
            }
        });
    }
}

async fn answer(stream: UnixStream, registry: &Registry, shutdown: Shutdown) -> Result<(), http::HttpError> {
    http::serve(stream, shutdown, |request| {
        std::future::ready(match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => numbers(registry),
            (&Method::GET, "/healthz") => Response::new(http::full("ok\n")),
            _ => not_found(),
        })
    })
    .await
}

fn numbers(registry: &Registry) -> Response<Body> {
    let mut response = Response::new(http::full(registry.encode()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response
}

fn not_found() -> Response<Body> {
    let mut response = Response::new(http::full("there are /metrics and /healthz\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
