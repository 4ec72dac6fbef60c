//! The handshake with a visitor.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pontoon_telemetry::metrics::TlsFailure;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream, server};

use crate::http1::reject::Reject;
use crate::io::Stream;
use crate::worker::Worker;

/// A visitor's connection, and what is spoken on it.
pub enum Accepted {
    /// HTTP/1.1
    Http1(Stream),
    /// HTTP/2
    Http2(Box<server::TlsStream<TcpStream>>),
}

/// Makes the handshake within the time that a head may take; `None` when there is nothing to serve.
pub async fn accept(worker: &Worker, stream: TcpStream, peer: SocketAddr) -> Option<Accepted> {
    let https = worker.https()?;
    let limit = worker.upstreams().tuning.head_timeout;
    let failed = |reason: TlsFailure, why: &dyn std::fmt::Display| {
        worker.stats.tls_failed(reason);
        tracing::debug!(%peer, %why, "no TLS with a visitor");
    };
    let handshake = async {
        match first_byte(&stream).await? {
            Some(HANDSHAKE) => {}
            // Plain HTTP: told in words that it understands.
            Some(byte) if byte.is_ascii_alphabetic() => {
                return plain_on_tls(worker, stream).await.map(|()| None);
            }
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
            None => return Ok(None),
        }
        let tls = TlsAcceptor::from(Arc::clone(&https.config))
            .accept(stream)
            .await?;
        Ok(Some(match tls.get_ref().1.alpn_protocol() {
            Some(b"h2") => Accepted::Http2(Box::new(tls)),
            _ => Accepted::Http1(Stream::Tls(Box::new(TlsStream::Server(tls)))),
        }))
    };
    match tokio::time::timeout(limit, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            failed(TlsFailure::Protocol, &error);
            None
        }
        Err(_) => {
            failed(TlsFailure::Timeout, &"no handshake in time");
            None
        }
    }
}

/// A record of the type handshake (RFC 8446 section 5.1): what a TLS client sends first.
const HANDSHAKE: u8 = 22;

/// The first byte that the visitor sends, which stays to be read; `None` when it closes without one.
async fn first_byte(stream: &TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let count = stream.peek(&mut byte).await?;
    Ok((count > 0).then_some(byte[0]))
}

/// Plain HTTP came to the port of HTTPS.
async fn plain_on_tls(worker: &Worker, mut stream: TcpStream) -> io::Result<()> {
    let reject = Reject::PlainHttp;
    worker.stats.rejected(reject as usize);
    let mut text = Vec::new();
    worker.pages().refuse(&mut text, reject, false);
    stream.write_all(&text).await?;
    stream.shutdown().await?;
    // What it sent is taken, because closing with unread bytes would reset the answer away.
    let mut rest = [0; 4096];
    for _ in 0..16 {
        stream.readable().await?;
        match stream.try_read(&mut rest) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
