//! Bodies: whole or streamed, always with a limit where they are collected.

use std::io;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::HttpError;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Any body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Bytes read at a time from a streamed source.
const CHUNK_BYTES: usize = 64 << 10;

/// A body without bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body of `value` as JSON.
///
/// # Errors
/// When the value has no JSON form.
pub fn json_body<T: Serialize + ?Sized>(value: &T) -> Result<Body, HttpError> {
    Ok(full(serde_json::to_vec(value)?))
}

/// A body that is read from `reader` as the peer takes it. An error of the reader breaks the message off, so that the
/// peer cannot mistake the part for the whole.
pub fn reader_body(reader: impl AsyncRead + Send + 'static) -> Body {
    let frames = ReaderStream::with_capacity(reader, CHUNK_BYTES)
        .map_ok(Frame::data)
        .map_err(BoxError::from);
    StreamBody::new(frames.boxed()).boxed_unsync()
}

/// The body as a reader, without collecting it. Ends with an error when the message broke off.
pub fn body_reader<B>(body: B) -> impl AsyncRead + Send + Unpin
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let chunks = body
        .into_data_stream()
        .map_err(|error| io::Error::other(error.into()));
    StreamReader::new(chunks.boxed())
}

/// The whole body.
///
/// # Errors
/// [`HttpError::TooLarge`] over `limit` bytes, [`HttpError::Body`] when it broke off.
pub async fn read_body<B>(body: B, limit: usize) -> Result<Bytes, HttpError>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(HttpError::TooLarge(limit)),
        Err(error) => Err(HttpError::Body(error)),
    }
}

/// The whole body, read as JSON.
///
/// # Errors
/// As [`read_body`], and [`HttpError::Json`].
pub async fn read_json<T, B>(body: B, limit: usize) -> Result<T, HttpError>
where
    T: DeserializeOwned,
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    Ok(serde_json::from_slice(&read_body(body, limit).await?)?)
}
