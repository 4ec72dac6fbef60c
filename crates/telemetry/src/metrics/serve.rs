//! A process's Unix socket for its numbers: `GET /metrics` for Prometheus, `GET /healthz` for whoever asks whether the
//! process is well, and what else the process has to show.

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
    serve_with(path, registry, Vec::new(), shutdown);
}

/// Something more that the socket shows: `GET` of this path, answered with what the function makes of the query.
pub type Page = (&'static str, Box<dyn Fn(&str) -> Response<Body> + Send + Sync>);

/// A page of what `make` gives at that moment for the query, as JSON.
pub fn json_page<T: serde::Serialize>(
    path: &'static str,
    make: impl Fn(&str) -> T + Send + Sync + 'static,
) -> Page {
    let show = move |query: &str| http::json_response(hyper::StatusCode::OK, &make(query));
    (path, Box::new(show))
}

/// As [`serve`], with `pages` beside the numbers.
pub fn serve_with(path: &Path, registry: Registry, pages: Vec<Page>, shutdown: Shutdown) {
    let path = path.to_owned();
    let shown = Arc::new((registry, pages));
    tokio::spawn(async move {
        tokio::select! {
            () = accept_all(&path, &shown, &shutdown) => {}
            () = shutdown.requested() => {}
        }
    });
}

async fn accept_all(path: &Path, shown: &Arc<(Registry, Vec<Page>)>, shutdown: &Shutdown) {
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
        let (shown, shutdown) = (Arc::clone(shown), shutdown.clone());
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = answer(stream, &shown, shutdown).await {
                tracing::debug!(%error, "a reader of the metrics broke off");
            }
        });
    }
}

async fn answer(
    stream: UnixStream,
    (registry, pages): &(Registry, Vec<Page>),
    shutdown: Shutdown,
) -> Result<(), http::HttpError> {
    http::serve(stream, shutdown, |request| {
        std::future::ready(match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => numbers(registry),
            (&Method::GET, "/healthz") => Response::new(http::full("ok\n")),
            (&Method::GET, path) => pages
                .iter()
                .find(|(page, _)| *page == path)
                .map_or_else(not_found, |(_, show)| {
                    show(request.uri().query().unwrap_or_default())
                }),
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
