//! Answering.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pontoon_fleet::Refusal;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Body, HttpError, full, status_of};
use crate::shutdown::Shutdown;

/// How long a peer may take for a request's head, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves requests on one connection, one after the other, until the peer ends it or `shutdown` asks; a request that
/// has begun by then is finished.
///
/// # Errors
/// [`HttpError::Connection`] when the peer broke it off or did not speak HTTP: for a debug log.
pub async fn serve<IO, H, F>(io: IO, shutdown: Shutdown, handler: H) -> Result<(), HttpError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(64)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = shutdown.requested() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

/// An answer with `value` as JSON.
pub fn json_response<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Response<Body> {
    let (status, bytes) = match serde_json::to_vec(value) {
        Ok(bytes) => (status, bytes),
        Err(error) => {
            tracing::error!(%error, "an answer has no JSON form");
            (StatusCode::INTERNAL_SERVER_ERROR, Vec::new())
        }
    };
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A refusal as an answer; [`call`](super::call) on the other side gives it back as it was.
pub fn refusal_response(refusal: &Refusal) -> Response<Body> {
    json_response(status_of(refusal.code.category()), refusal)
}
