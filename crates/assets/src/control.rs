//! What the command line asks: how uploads stand, whether they are the same everywhere, what was deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use pontoon_fleet::{AssetsReport, Code, Refusal, ServerView};
use pontoon_mirror::{Digest, names};
use pontoon_rt::http::{self, Body};
use pontoon_rt::listen;
use pontoon_rt::paths::Paths;
use pontoon_rt::percent;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::fetch::{Hashing, Tools};
use crate::peers::{Listed, list, rehash};
use crate::watch::How;

/// Differences and names that are shown; all are counted.
const SHOWN: usize = 1000;
/// How long a server may take for a page of its list.
const PATIENCE: Duration = Duration::from_secs(30);

/// How uploads stand on this server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AssetsStatus {
    /// The figures.
    pub report: AssetsReport,
    /// Files that are not mirrored: their path, and why.
    pub skipped: BTreeMap<String, String>,
    /// Files that vanished: held when `report.held_deletions` is not 0, else about to be judged.
    pub vanished: Vec<String>,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verified {
    /// Files here that were read again.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whom they were compared with.
    pub with: Vec<String>,
    /// Differences: all of them.
    pub different_total: u64,
    /// Differences, the first thousand, in words.
    pub different: Vec<String>,
}

/// Where an undeleted file came from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Undeleted {
    /// Which file.
    pub path: String,
    /// From whose trash.
    pub from: String,
}

/// Deletions that were confirmed or taken back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settled {
    /// How many.
    pub files: u64,
}

/// Answers the command line until shutdown.
pub(crate) async fn serve(tools: Tools, paths: &Paths) {
    let listener = match listen::unix(&paths.assets_socket(), 0o660).and_then(UnixListener::from_std) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the command line is not answered");
            return;
        }
    };
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tools.shutdown.requested() => return,
        };
        let Ok((stream, _)) = stream else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let tools = tools.clone();
        tokio::spawn(async move {
            let shutdown = tools.shutdown.clone();
            let served = http::serve(stream, shutdown, move |request| {
                let tools = tools.clone();
                async move {
                    answer(&tools, request)
                        .await
                        .unwrap_or_else(|no| http::refusal_response(&no))
                }
            });
            if let Err(error) = served.await {
                tracing::debug!(%error, "a command went away");
            }
        });
    }
}

async fn answer(tools: &Tools, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let uri = request.uri().path().to_owned();
    match (request.method().clone(), uri.as_str()) {
        (Method::GET, "/status") => Ok(http::json_response(StatusCode::OK, &status(tools)?)),
        (Method::POST, "/verify") => Ok(http::json_response(StatusCode::OK, &verify(tools).await?)),
        (Method::POST, "/undelete") => {
            let path: String = http::read_json(request.into_body(), 8 << 10).await?;
            Ok(http::json_response(
                StatusCode::OK,
                &undelete(tools, &path).await?,
            ))
        }
        (Method::POST, "/deletions") => {
            let confirm: bool = http::read_json(request.into_body(), 64).await?;
            let from = tools.others().into_iter().next().map(|server| server.name);
            let from = from.unwrap_or_else(|| tools.node.me.clone());
            let node = Arc::clone(&tools.node);
            let settled = tokio::task::spawn_blocking(move || node.settle_deletions(confirm, &from)).await;
            let files = settled.map_err(internal)?.map_err(internal)?;
            Ok(http::json_response(StatusCode::OK, &Settled { files }))
        }
        _ => Err(Refusal::new(
            Code::N005,
            "the assets process does not know that question",
        )),
    }
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::U002, "uploads cannot be looked after").because(error.to_string())
}

fn status(tools: &Tools) -> Result<AssetsStatus, Refusal> {
    let report = tools.node.report().map_err(internal)?;
    let state = tools.node.state();
    Ok(AssetsStatus {
        report,
        skipped: state
            .skipped
            .iter()
            .take(SHOWN)
            .map(|(path, why)| (path.clone(), why.to_string()))
            .collect(),
        vanished: state.vanishing.keys().take(SHOWN).cloned().collect(),
    })
}

/// Reads every file here again and compares it with the journal, with every other server and with the bucket. What differs
/// is looked at a second time a moment later: it may have been on its way.
async fn verify(tools: &Tools) -> Result<Verified, Refusal> {
    let first = compare(tools).await?;
    if first.different_total == 0 {
        return Ok(first);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut second = compare(tools).await?;
    second
        .different
        .retain(|difference| first.different.contains(difference) || first.different.len() >= SHOWN);
    if first.different.len() < SHOWN {
        second.different_total = second.different.len() as u64;
    }
    Ok(second)
}

async fn compare(tools: &Tools) -> Result<Verified, Refusal> {
    let mut found = Verified::default();
    let say = |found: &mut Verified, what: String| {
        found.different_total += 1;
        if found.different.len() < SHOWN {
            found.different.push(what);
        }
    };
    let mut here: BTreeMap<String, Digest> = BTreeMap::new();
    let mut after = String::new();
    loop {
        let (node, from) = (Arc::clone(&tools.node), after.clone());
        let read = tokio::task::spawn_blocking(move || {
            let (listed, last) = list(&node, &from)?;
            let hashed: Vec<(Listed, Option<Digest>)> = listed
                .into_iter()
                .map(|file| {
                    let digest = rehash(&node, &file.path);
                    (file, digest)
                })
                .collect();
            Ok::<_, String>((hashed, last))
        });
        let (hashed, last) = read.await.map_err(internal)?.map_err(internal)?;
        for (file, digest) in hashed {
            found.files += 1;
            match digest {
                Some(digest) if digest == file.sha256 => {}
                Some(_) => say(&mut found, format!("{}: not what was written down", file.path)),
                None => say(&mut found, format!("{}: not here", file.path)),
            }
            here.insert(file.path, file.sha256);
        }
        match last {
            Some(last) => after = last,
            None => break,
        }
    }
    found.bytes = tools.node.report().map_err(internal)?.bytes;
    for server in tools.others() {
        let there = listed_by(tools, &server).await?;
        let name = &server.name;
        for (path, digest) in &here {
            match there.get(path) {
                Some(other) if other == digest => {}
                Some(_) => say(&mut found, format!("{path}: another one on {name}")),
                None => say(&mut found, format!("{path}: not on {name}")),
            }
        }
        for path in there.keys().filter(|path| !here.contains_key(*path)) {
            say(&mut found, format!("{path}: on {name} only"));
        }
        found.with.push(name.to_string());
    }
    let bucket = tools.bucket().map_err(internal)?;
    for (path, digest) in &here {
        let has = bucket
            .has(path)
            .await
            .map_err(|why| Refusal::new(Code::N002, "the bucket does not answer").because(why))?;
        match has {
            Some((_, Some(there))) if there == *digest => {}
            Some(_) => say(&mut found, format!("{path}: another one in the bucket")),
            None => say(&mut found, format!("{path}: not in the bucket")),
        }
    }
    found.with.push(format!("the bucket {}", tools.settings.bucket));
    Ok(found)
}

async fn listed_by(tools: &Tools, server: &ServerView) -> Result<BTreeMap<String, Digest>, Refusal> {
    let (mut all, mut after) = (BTreeMap::new(), String::new());
    loop {
        let uri = format!("/v1/list?after={}", percent::encode(&after));
        let page: Result<(Vec<Listed>, Option<String>), String> =
            tools.peers.get_json(server, &uri, PATIENCE).await;
        let (listed, last) = page.map_err(|why| {
            Refusal::new(Code::N002, format!("{} does not say what it has", server.name)).because(why)
        })?;
        all.extend(listed.into_iter().map(|file| (file.path, file.sha256)));
        match last {
            Some(last) => after = last,
            None => return Ok(all),
        }
    }
}

async fn undelete(tools: &Tools, path: &str) -> Result<Undeleted, Refusal> {
    names::check(path).map_err(|why| {
        Refusal::new(Code::U003, "that is no path of an upload")
            .because(format!("{path:?}: {why}"))
            .because("paths are relative to assets.local, as in 2026/11/photo.jpg")
    })?;
    let folder = &tools.node.folder;
    let (name, mut file) = folder.incoming().map_err(internal)?;
    let from = match kept(tools, path, &mut file).await {
        Ok(Some(from)) => from,
        other => {
            folder.discard(&name);
            other?;
            return Err(Refusal::new(Code::U003, "nothing of that path is kept").because(format!(
                "{path} is in the trash of no server and of no bucket: it never was there, or longer ago than 30 days"
            )));
        }
    };
    match folder.restore(&name, path) {
        Ok(()) => {
            tools.node.mark(path, How::Closed);
            Ok(Undeleted {
                path: path.to_owned(),
                from,
            })
        }
        Err(error) => {
            folder.discard(&name);
            let refusal =
                Refusal::new(Code::U004, "the file was not put back").because(format!("{path}: {error}"));
            Err(match error.kind() {
                std::io::ErrorKind::AlreadyExists => refusal.because("there is one: move it away first"),
                _ => refusal,
            })
        }
    }
}

/// The latest that is kept of a path, into `file`: from here, from another server, from the bucket.
async fn kept(tools: &Tools, path: &str, file: &mut std::fs::File) -> Result<Option<String>, Refusal> {
    if let Some(kept) = tools.node.folder.kept(path) {
        let mut kept = std::fs::File::open(kept).map_err(internal)?;
        std::io::copy(&mut kept, file).map_err(internal)?;
        return Ok(Some(tools.node.me.to_string()));
    }
    for server in tools.others() {
        let uri = format!("/v1/trash?path={}", percent::encode(path));
        let Ok((answer, _)) = tools.peers.get(&server, &uri, PATIENCE).await else {
            continue;
        };
        if answer.status().is_success() {
            let mut reader = http::body_reader(answer.into_body());
            let mut to = tokio::fs::File::from_std(file.try_clone().map_err(internal)?);
            tokio::io::copy(&mut reader, &mut to).await.map_err(internal)?;
            tokio::io::AsyncWriteExt::flush(&mut to).await.map_err(internal)?;
            return Ok(Some(server.name.to_string()));
        }
    }
    let mut into = Hashing::new(file.try_clone().map_err(internal)?);
    let bucket = tools.bucket().map_err(internal)?;
    let found = bucket.fetch_trash(path, &mut into).await.map_err(internal)?;
    Ok(found.then(|| format!("the bucket {}", tools.settings.bucket)))
}
