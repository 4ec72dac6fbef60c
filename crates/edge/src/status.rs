//! `<run>/edge.sock`: `GET /metrics` for Prometheus, `GET /healthz` for whoever asks whether the process is well.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pontoon_rt::listen;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::stats::{self, ThreadStats};
use crate::worker::Shared;

/// Answers on the Unix socket `path` for as long as it is polled. A socket that cannot be bound is tried again:
/// requests are served without it.
pub async fn serve(path: PathBuf, threads: Vec<Arc<ThreadStats>>, shared: Arc<Shared>) {
    let listener = loop {
        match listen::unix(&path, 0o660).and_then(UnixListener::from_std) {
            Ok(listener) => break listener,
            Err(error) => tracing::debug!(%error, "the status socket cannot be bound"),
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    };
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let (threads, shared) = (threads.clone(), Arc::clone(&shared));
            tokio::task::spawn_local(async move {
                let _ = tokio::time::timeout(Duration::from_secs(2), answer(stream, &threads, &shared)).await;
            });
        } else {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn answer(
    mut stream: UnixStream,
    threads: &[Arc<ThreadStats>],
    shared: &Shared,
) -> std::io::Result<()> {
    let mut head = [0u8; 2048];
    let mut length = 0;
    while length < head.len() && !head[..length].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut head[length..]).await? {
            0 => break,
            count => length += count,
        }
    }
    let (status, body) = match head[..length]
        .split(|byte| *byte == b' ')
        .take(2)
        .collect::<Vec<_>>()[..]
    {
        [b"GET", b"/metrics"] => ("200 OK", metrics(threads, shared)),
        [b"GET", b"/healthz"] => ("200 OK", "ok\n".to_owned()),
        _ => ("404 Not Found", "there are /metrics and /healthz\n".to_owned()),
    };
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await
}

fn metrics(threads: &[Arc<ThreadStats>], shared: &Shared) -> String {
    let mut text = stats::exposition(threads);
    let name = "pontoon_edge_upstream_healthy";
    text.push_str(&format!(
        "# HELP {name} Whether new requests go there.\n# TYPE {name} gauge\n"
    ));
    for upstream in &shared.upstreams.borrow().servers {
        let healthy = u8::from(upstream.health.is_healthy());
        text.push_str(&format!("{name}{{upstream=\"{}\"}} {healthy}\n", upstream.server));
    }
    text
}
