//! The other servers' assets processes: what is answered to them, and how they are asked. All over the fleet's mutual TLS.

use std::collections::HashMap;
use std::io::{Read as _, Seek as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_LENGTH, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pontoon_fleet::{Code, FleetView, Refusal, Role, ServerName, ServerView};
use pontoon_mirror::{Digest, names};
use pontoon_pki::{SharedIdentity, tls};
use pontoon_rt::http::{self, Body};
use pontoon_rt::percent;
use pontoon_rt::shutdown::Shutdown;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::journal::Change;
use crate::node::Node;

const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a question for changes may stay open while there are none.
const LONG_POLL: Duration = Duration::from_secs(15);
/// Changes in one answer.
pub(crate) const AT_A_TIME: usize = 256;
/// Connections from other servers at a time: each has a few.
const GUESTS: usize = 512;

/// What is answered to a question for changes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Changes {
    pub journal: String,
    pub upto: u64,
    pub changes: Vec<Change>,
}

/// One file of a list: for a comparison.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub path: String,
    pub sha256: Digest,
}

/// The servers that keep uploads, without this one.
pub(crate) fn others(view: &FleetView, me: &ServerName) -> Vec<ServerView> {
    view.with_role(Role::App)
        .filter(|server| server.name != *me && server.ports.assets != 0)
        .cloned()
        .collect()
}

/// Answers other servers until `shutdown`. The socket is bound already.
pub(crate) async fn serve(
    node: Arc<Node>,
    listener: TcpListener,
    identity: SharedIdentity,
    views: watch::Receiver<Option<Arc<FleetView>>>,
    shutdown: Shutdown,
) {
    let room = Arc::new(tokio::sync::Semaphore::new(GUESTS));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = shutdown.requested() => return,
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let (node, identity, views, shutdown) = (
            Arc::clone(&node),
            identity.clone(),
            views.clone(),
            shutdown.clone(),
        );
        tokio::spawn(async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true);
            let Ok(config) = tls::server_config(&identity) else {
                return;
            };
            let Ok((stream, Some(peer))) = tls::accept(&config, stream, HANDSHAKE).await else {
                return;
            };
            let ended = shutdown.clone();
            let served = http::serve(stream, shutdown, move |request| {
                let (node, peer, ended) = (Arc::clone(&node), peer.clone(), ended.clone());
                // A server that has left the fleet still has its certificate.
                let known = views
                    .borrow()
                    .as_ref()
                    .is_some_and(|view| others(view, &node.me).iter().any(|server| server.name == peer));
                async move {
                    match known {
                        true => answer(node, peer, request, ended).await,
                        false => http::refusal_response(&Refusal::new(
                            Code::J005,
                            "only servers with the role app take part in uploads",
                        )),
                    }
                }
            });
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection of another server ended");
            }
        });
    }
}

async fn answer(
    node: Arc<Node>,
    peer: ServerName,
    request: Request<Incoming>,
    ended: Shutdown,
) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let given = |name: &str| -> Option<String> {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| percent::decode(value.as_bytes()))
    };
    let number = |name: &str| given(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    match request.uri().path() {
        "/v1/changes" => {
            let mine = node.state().whole.id.clone();
            let after = match given("journal").as_deref() == Some(mine.as_str()) {
                true => number("after"),
                false => 0,
            };
            changes(node, peer, mine, after, ended).await
        }
        "/v1/file" => match (given("path"), given("sha256").and_then(|text| text.parse().ok())) {
            (Some(path), Some(sha256)) => file(&node, &path, sha256),
            _ => status(StatusCode::BAD_REQUEST),
        },
        "/v1/trash" => match given("path") {
            Some(path) if names::check(&path).is_ok() => trash(&node, &path),
            _ => status(StatusCode::BAD_REQUEST),
        },
        "/v1/list" => {
            let after = given("after").unwrap_or_default();
            let listed = tokio::task::spawn_blocking(move || list(&node, &after)).await;
            match listed {
                Ok(Ok(listed)) => http::json_response(StatusCode::OK, &listed),
                _ => status(StatusCode::INTERNAL_SERVER_ERROR),
            }
        }
        _ => status(StatusCode::NOT_FOUND),
    }
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(http::empty());
    *response.status_mut() = status;
    response
}

/// What changed after `after`; while that is nothing, the question stays open for a while.
async fn changes(
    node: Arc<Node>,
    peer: ServerName,
    journal: String,
    after: u64,
    ended: Shutdown,
) -> Response<Body> {
    node.state().heard.insert(peer, after);
    let mut changed = node.changed.subscribe();
    let until = tokio::time::Instant::now() + LONG_POLL;
    loop {
        let asked = Arc::clone(&node);
        let read = tokio::task::spawn_blocking(move || asked.journal.changes(after, AT_A_TIME)).await;
        let Ok(Ok((changes, upto))) = read else {
            return status(StatusCode::INTERNAL_SERVER_ERROR);
        };
        let over = tokio::time::Instant::now() >= until || ended.is_requested();
        if upto > after || over {
            let answer = Changes {
                journal,
                upto,
                changes,
            };
            return http::json_response(StatusCode::OK, &answer);
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep_until(until) => {}
            () = ended.requested() => {}
        }
    }
}

/// A file, if it is still the one that was meant. Who asked hashes what comes.
fn file(node: &Node, path: &str, sha256: Digest) -> Response<Body> {
    let known = node.journal.get(path).ok().and_then(|record| record.have);
    let is_it = known.is_some_and(|have| have.content().is_some_and(|content| content.sha256 == sha256));
    match node.folder.open_file(path) {
        Ok((opened, stat)) if is_it && names::check(path).is_ok() => {
            body(opened, u64::try_from(stat.st_size).unwrap_or(0))
        }
        _ => status(StatusCode::NOT_FOUND),
    }
}

fn body(opened: std::fs::File, size: u64) -> Response<Body> {
    let reader = tokio::fs::File::from_std(opened).take(size);
    let mut response = Response::new(http::reader_body(reader));
    response.headers_mut().insert(CONTENT_LENGTH, size.into());
    response
}

fn trash(node: &Node, path: &str) -> Response<Body> {
    let opened = node
        .folder
        .kept(path)
        .and_then(|kept| std::fs::File::open(kept).ok());
    match opened.and_then(|file| Some((file.metadata().ok()?.len(), file))) {
        Some((size, file)) => body(file, size),
        None => status(StatusCode::NOT_FOUND),
    }
}

pub(crate) fn list(node: &Node, after: &str) -> Result<(Vec<Listed>, Option<String>), String> {
    let page = node
        .journal
        .page(after, 1000)
        .map_err(|error| error.to_string())?;
    let last = page.last().map(|(path, _)| path.clone());
    let listed = page
        .into_iter()
        .filter_map(|(path, record)| {
            let sha256 = record.have.as_ref()?.content()?.sha256;
            Some(Listed { path, sha256 })
        })
        .collect();
    Ok((listed, last))
}

/// Connections to other servers, kept while they are good.
pub(crate) struct Peers {
    identity: SharedIdentity,
    idle: Mutex<HashMap<ServerName, Vec<SendRequest<Body>>>>,
}

impl Peers {
    pub fn new(identity: SharedIdentity) -> Peers {
        Peers {
            identity,
            idle: Mutex::default(),
        }
    }

    /// `GET uri`, the head within `patience`. The connection is used again once [`Peers::done`] has it back.
    pub async fn get(
        &self,
        server: &ServerView,
        uri: &str,
        patience: Duration,
    ) -> Result<(Response<Incoming>, SendRequest<Body>), String> {
        let ask = || {
            Request::builder()
                .uri(uri)
                .header(HOST, server.name.as_str())
                .body(http::empty())
                .map_err(|error| error.to_string())
        };
        let kept = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.get_mut(&server.name).and_then(Vec::pop)
        };
        if let Some(mut sender) = kept
            && tokio::time::timeout(HANDSHAKE, sender.ready())
                .await
                .is_ok_and(|ready| ready.is_ok())
            && let Ok(Ok(answer)) = tokio::time::timeout(patience, sender.send_request(ask()?)).await
        {
            return Ok((answer, sender));
        }
        let asked = async {
            let mut sender = self.connect(server).await?;
            let answer = sender
                .send_request(ask()?)
                .await
                .map_err(|error| error.to_string())?;
            Ok((answer, sender))
        };
        tokio::time::timeout(patience, asked)
            .await
            .map_err(|_| format!("{} did not answer within {patience:?}", server.name))?
    }

    /// The body was read to its end.
    pub fn done(&self, server: &ServerName, sender: SendRequest<Body>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(server.clone()).or_default();
        if kept.len() < 8 {
            kept.push(sender);
        }
    }

    /// The answer's body as JSON.
    pub async fn get_json<T: serde::de::DeserializeOwned>(
        &self,
        server: &ServerView,
        uri: &str,
        patience: Duration,
    ) -> Result<T, String> {
        let (answer, sender) = self.get(server, uri, patience).await?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("{} answers {status}", server.name));
        }
        let read = tokio::time::timeout(patience, http::read_json(answer.into_body(), 32 << 20)).await;
        let value = read
            .map_err(|_| format!("{} stopped in its answer", server.name))?
            .map_err(|error| error.to_string())?;
        self.done(&server.name, sender);
        Ok(value)
    }

    async fn connect(&self, server: &ServerView) -> Result<SendRequest<Body>, String> {
        let stream = TcpStream::connect(server.assets())
            .await
            .map_err(|error| format!("{}: {error}", server.name))?;
        let _ = stream.set_nodelay(true);
        let config = tls::client_config(&self.identity).map_err(|error| error.to_string())?;
        let stream = tls::connect(&config, &server.name, stream, HANDSHAKE)
            .await
            .map_err(|error| format!("{}: {error}", server.name))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to another server ended");
            }
        });
        Ok(sender)
    }
}

/// Reads the whole of a local file again: for a comparison.
pub(crate) fn rehash(node: &Node, path: &str) -> Option<Digest> {
    let (mut file, _) = node.folder.open_file(path).ok()?;
    file.rewind().ok()?;
    crate::folder::hash(&mut file.by_ref()).ok()
}
