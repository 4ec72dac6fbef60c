//! Asking.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use pontoon_fleet::Refusal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Body, HttpError, empty, json_body, read_body};

/// Sends one request over `io` and gives the answer's head; the body comes as it is read. The connection lives until
/// the body is read or dropped, in a task of its own.
///
/// # Errors
/// [`HttpError::Connection`] when the stream breaks or the peer does not speak HTTP.
pub async fn request<IO>(io: IO, request: Request<Body>) -> Result<Response<Incoming>, HttpError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a client connection ended with an error");
        }
    });
    Ok(sender.send_request(request).await?)
}

/// A request with JSON on both sides.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// What the `Host` header says: the server's name. For logs; nobody is trusted for it.
    pub host: &'a str,
    /// How long everything may take, until the last byte of the answer.
    pub timeout: Duration,
    /// How large the answer may be, in bytes.
    pub limit: usize,
}

impl<'a> Call<'a> {
    /// `GET path`, 10 s, 4 MiB.
    pub fn get(host: &'a str, path: &'a str) -> Call<'a> {
        Call {
            method: Method::GET,
            path,
            host,
            timeout: Duration::from_secs(10),
            limit: 4 << 20,
        }
    }

    /// `POST path`, 10 s, 4 MiB.
    pub fn post(host: &'a str, path: &'a str) -> Call<'a> {
        Call {
            method: Method::POST,
            ..Call::get(host, path)
        }
    }

    /// With another timeout.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Call<'a> {
        self.timeout = timeout;
        self
    }

    /// The request's head with `body`.
    ///
    /// # Errors
    /// [`HttpError::Request`] when path or host have characters that HTTP does not allow.
    pub fn request(&self, body: Body) -> Result<Request<Body>, HttpError> {
        Ok(Request::builder()
            .method(self.method.clone())
            .uri(self.path)
            .header(HOST, self.host)
            .header(CONTENT_TYPE, "application/json")
            .body(body)?)
    }
}

/// Makes a [`Call`] over `io`: sends `input` as JSON (`None`: no body) and reads the answer as JSON. An answer without
/// content reads as `null`, so that `T = ()` works.
///
/// # Errors
/// Every [`HttpError`]; a refusal of the peer is [`HttpError::Refused`].
pub async fn call<IO, I, T>(io: IO, call: &Call<'_>, input: Option<&I>) -> Result<T, HttpError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    I: Serialize + ?Sized,
    T: DeserializeOwned,
{
    let body = input.map_or_else(|| Ok(empty()), json_body)?;
    let head = call.request(body)?;
    let exchange = async {
        let answer = request(io, head).await?;
        let status = answer.status();
        let bytes = read_body(answer.into_body(), call.limit).await?;
        if status.is_success() {
            let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
            return Ok(serde_json::from_slice(text)?);
        }
        Err(match serde_json::from_slice::<Refusal>(&bytes) {
            Ok(refusal) => HttpError::Refused(refusal),
            Err(_) => HttpError::Status {
                status,
                text: beginning(&bytes),
            },
        })
    };
    tokio::time::timeout(call.timeout, exchange)
        .await
        .map_err(|_| HttpError::Timeout(call.timeout))?
}

/// At most 200 characters of what a peer said, without control characters: it goes into logs and onto screens.
fn beginning(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .take(200)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
