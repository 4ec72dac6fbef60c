//! HTTP/1.1 over any stream: a TLS connection between servers, a Unix socket, a pipe in a test.
//!
//! For control traffic: agents, the helper, the command line. The edge's hot path has its own forwarder.
//!
//! What a server refuses travels as a [`Refusal`] in JSON with a status of 400 or above; [`call`] gives it back as
//! [`HttpError::Refused`].

mod body;
mod client;
mod server;

use std::io;

use hyper::StatusCode;
use pontoon_fleet::{Category, Code, Refusal};

pub use body::{Body, BoxError, body_reader, empty, full, json_body, read_body, read_json, reader_body};
pub use client::{Call, call, request};
pub use server::{json_response, refusal_response, serve};

/// What a request over the fleet's network can meet.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The stream broke, or the peer does not speak HTTP.
    #[error("the connection failed: {0}")]
    Connection(#[from] hyper::Error),
    /// The stream broke while a body was read.
    #[error("the body broke off: {0}")]
    Body(#[source] BoxError),
    /// A body that is larger than this side takes.
    #[error("the body is over {0} bytes")]
    TooLarge(usize),
    /// No answer within the time allowed.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// A body that is not the JSON expected.
    #[error("not the expected JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A request that cannot be built, from a bad path for example.
    #[error("not a request: {0}")]
    Request(#[from] hyper::http::Error),
    /// An answer with an error status and no refusal in it.
    #[error("answered with {status}: {text}")]
    Status {
        /// The status.
        status: StatusCode,
        /// The beginning of the body.
        text: String,
    },
    /// The peer refused, and said why.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl From<HttpError> for Refusal {
    fn from(error: HttpError) -> Refusal {
        match error {
            HttpError::Refused(refusal) => refusal,
            HttpError::Connection(_) | HttpError::Timeout(_) | HttpError::Body(_) => {
                Refusal::new(Code::N002, "the server did not answer as it should").because(error.to_string())
            }
            HttpError::TooLarge(_)
            | HttpError::Json(_)
            | HttpError::Request(_)
            | HttpError::Status { .. } => {
                Refusal::new(Code::N005, "the peer's message is wrong").because(error.to_string())
            }
        }
    }
}

impl HttpError {
    /// The error as one of [`io`], for code that reads a streamed body.
    pub fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

/// The status that a refusal travels with.
pub fn status_of(category: Category) -> StatusCode {
    match category {
        Category::Usage => StatusCode::BAD_REQUEST,
        Category::Safety => StatusCode::FORBIDDEN,
        Category::Changed => StatusCode::CONFLICT,
        Category::Unreachable => StatusCode::GATEWAY_TIMEOUT,
        Category::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests;
