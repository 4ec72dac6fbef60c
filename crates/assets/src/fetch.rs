//! What moves: changes are read from the other servers, files are fetched, put in place and sent to the bucket.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_fleet::{AssetsView, FleetView, ServerName, ServerView};
use pontoon_mirror::{Content, Digest, Entry};
use pontoon_rt::http;
use pontoon_rt::percent;
use pontoon_rt::shutdown::Shutdown;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use crate::bucket::{Bucket, Sent};
use crate::journal::{Cursor, JournalError};
use crate::node::Node;
use crate::peers::{self, Changes, Peers};
use crate::watch::How;

/// Longer than a question for changes stays open.
const POLL_PATIENCE: Duration = Duration::from_secs(30);
/// How long a server may take for the head of a file, and between two pieces of it.
const FILE_PATIENCE: Duration = Duration::from_secs(10);
/// After a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What every task works with.
#[derive(Clone)]
pub(crate) struct Tools {
    pub node: Arc<Node>,
    pub peers: Arc<Peers>,
    pub views: watch::Receiver<Option<Arc<FleetView>>>,
    pub settings: AssetsView,
    bucket: Arc<Mutex<Option<Bucket>>>,
    pub shutdown: Shutdown,
}

impl Tools {
    pub fn new(
        node: Arc<Node>,
        peers: Peers,
        views: watch::Receiver<Option<Arc<FleetView>>>,
        settings: AssetsView,
        shutdown: Shutdown,
    ) -> Tools {
        Tools {
            node,
            peers: Arc::new(peers),
            views,
            settings,
            bucket: Arc::default(),
            shutdown,
        }
    }

    pub fn others(&self) -> Vec<ServerView> {
        let view = self.views.borrow().clone();
        view.map_or_else(Vec::new, |view| peers::others(&view, &self.node.me))
    }

    /// The bucket; its keys are read again until they can be.
    pub fn bucket(&self) -> Result<Bucket, String> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = &*bucket {
            return Ok(bucket.clone());
        }
        let opened = Bucket::open(&self.settings)?;
        *bucket = Some(opened.clone());
        Ok(opened)
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, String> {
        let node = Arc::clone(&self.node);
        match tokio::task::spawn_blocking(move || work(&node)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits, or until the end is asked for.
    pub(crate) async fn pause(&self, span: Duration) {
        tokio::select! {
            () = tokio::time::sleep(span) => {}
            () = self.shutdown.requested() => {}
        }
    }
}

/// Looks at what is due, one part of several.
pub(crate) async fn look(tools: Tools) {
    while !tools.shutdown.is_requested() {
        let due = tools.node.take_due();
        if due.is_empty() {
            // Ends the first look around when nothing was there.
            let ended = tools.blocking(|node| node.look_at(Vec::new())).await;
            tools.node.trouble("journal", ended.err());
            tokio::select! {
                () = tools.node.to_look.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
                () = tools.shutdown.requested() => {}
            }
            continue;
        }
        let looked = tools.blocking(move |node| node.look_at(due)).await;
        tools.node.trouble("journal", looked.err());
    }
}

/// Reads the changes of one other server, for as long as it takes part.
pub(crate) async fn follow(tools: Tools, name: ServerName) {
    let mut pause = PAUSE.0;
    while !tools.shutdown.is_requested() {
        // What others say counts only after everything here was looked at: a file that was here before must not look new.
        let ready = {
            let state = tools.node.state();
            state.looked && state.whole.looked_around
        };
        let server = tools.others().into_iter().find(|server| server.name == name);
        let (true, Some(server)) = (ready, server) else {
            tools.pause(PAUSE.0).await;
            continue;
        };
        let read = tokio::select! {
            read = read_changes(&tools, &server) => read,
            () = tools.shutdown.requested() => return,
        };
        match read {
            Ok(()) => pause = PAUSE.0,
            Err(error) => {
                tracing::debug!(server = %name, error, "its changes were not read");
                tools.pause(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

async fn read_changes(tools: &Tools, server: &ServerView) -> Result<(), String> {
    let name = server.name.clone();
    let asked = name.clone();
    let cursor = tools.blocking(move |node| node.journal.cursor(&asked)).await?;
    let uri = format!(
        "/v1/changes?journal={}&after={}",
        percent::encode(&cursor.journal),
        cursor.after
    );
    let answer: Changes = tools.peers.get_json(server, &uri, POLL_PATIENCE).await?;
    let next = Cursor {
        journal: answer.journal,
        after: answer.upto,
    };
    if next == cursor {
        return Ok(());
    }
    tools
        .blocking(move |node| node.learn(&name, &next, answer.changes))
        .await
}

/// Gets what is wanted, one of several.
pub(crate) async fn fetch(tools: Tools) {
    while !tools.shutdown.is_requested() {
        let Some(path) = tools.node.take_wanted() else {
            tokio::select! {
                () = tools.node.to_fetch.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
                () = tools.shutdown.requested() => {}
            }
            continue;
        };
        // Others may sleep while there is more.
        tools.node.to_fetch.notify_one();
        let got = tokio::select! {
            got = get(&tools, &path) => got,
            () = tools.shutdown.requested() => Ok(true),
        };
        tools.node.release(&path);
        if let Err(error) = &got {
            tracing::debug!(path, error, "a file was not fetched");
        }
        if got != Ok(true) {
            let node = Arc::clone(&tools.node);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(500)).await;
                node.state().wanted.push_back(path);
                node.to_fetch.notify_one();
            });
        }
    }
}

/// Gets one file and puts it in place. `false`: not now.
async fn get(tools: &Tools, path: &str) -> Result<bool, String> {
    let asked = path.to_owned();
    let record = tools.blocking(move |node| node.journal.get(&asked)).await?;
    let Some(wanted) = record.wanted else {
        return Ok(true);
    };
    let entry = wanted.entry;
    let incoming = match entry.content().copied() {
        None => None,
        Some(content) => Some(download(tools, path, &content, &wanted.from).await?),
    };
    let (path, name) = (path.to_owned(), incoming.clone());
    let done = tools
        .blocking(move |node| node.put_in_place(&path, &entry, name.as_deref()))
        .await;
    if let (Some(name), false) = (incoming, done == Ok(true)) {
        tools.node.folder.discard(&name);
    }
    done
}

/// A whole file, whose digest is what it should be, from whoever has it.
async fn download(tools: &Tools, path: &str, content: &Content, from: &ServerName) -> Result<String, String> {
    let mut servers = tools.others();
    servers.sort_by_key(|server| server.name != *from);
    let mut why = String::from("nobody has it");
    for server in &servers {
        match download_from(tools, server, path, content).await {
            Ok(name) => return Ok(name),
            Err(error) => why = error,
        }
    }
    let bucket = tools.bucket()?;
    let (name, file) = tools.node.folder.incoming().map_err(|error| error.to_string())?;
    let mut into = Hashing::new(file);
    let fetched = bucket.fetch(path, &mut into).await;
    match fetched {
        Ok(true) if into.digest() == content.sha256 => Ok(name),
        other => {
            tools.node.folder.discard(&name);
            Err(other.err().unwrap_or(why))
        }
    }
}

async fn download_from(
    tools: &Tools,
    server: &ServerView,
    path: &str,
    content: &Content,
) -> Result<String, String> {
    let uri = format!(
        "/v1/file?path={}&sha256={}",
        percent::encode(path),
        content.sha256
    );
    let (answer, sender) = tools.peers.get(server, &uri, FILE_PATIENCE).await?;
    if !answer.status().is_success() {
        return Err(format!("{} answers {}", server.name, answer.status()));
    }
    let (name, file) = tools.node.folder.incoming().map_err(|error| error.to_string())?;
    let mut into = Hashing::new(file);
    let mut reader = http::body_reader(answer.into_body());
    let mut buffer = vec![0; 64 << 10];
    let ended = loop {
        let read = match tokio::time::timeout(FILE_PATIENCE, reader.read(&mut buffer)).await {
            Ok(Ok(0)) => break Ok(()),
            Ok(Ok(read)) => read,
            Ok(Err(error)) => break Err(error.to_string()),
            Err(_) => break Err(format!("{} stopped within a file", server.name)),
        };
        if let Err(error) = into.write_all(&buffer[..read]) {
            break Err(error.to_string());
        }
    };
    let whole = ended.and_then(|()| match into.digest() == content.sha256 {
        true => Ok(()),
        false => Err(format!("what {} sent is not what was asked for", server.name)),
    });
    if let Err(error) = whole {
        tools.node.folder.discard(&name);
        return Err(error);
    }
    tools.peers.done(&server.name, sender);
    Ok(name)
}

/// A file, and the digest of what was written to it.
pub(crate) struct Hashing {
    file: std::fs::File,
    hasher: Sha256,
}

impl Hashing {
    pub fn new(file: std::fs::File) -> Hashing {
        Hashing {
            file,
            hasher: Sha256::new(),
        }
    }

    pub fn digest(self) -> Digest {
        Digest(self.hasher.finalize().into())
    }
}

impl std::io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Gives the bucket what it lacks, one of several. While it is away everything else goes on.
pub(crate) async fn upload(tools: Tools) {
    let mut pause = PAUSE.0;
    while !tools.shutdown.is_requested() {
        let next = tools.node.state().owed.pop_front();
        let Some(path) = next else {
            tokio::select! {
                () = tools.node.to_upload.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
                () = tools.shutdown.requested() => {}
            }
            continue;
        };
        tools.node.to_upload.notify_one();
        match send(&tools, &path).await {
            Ok(Sent::Done) => {
                pause = PAUSE.0;
                tools.node.trouble("bucket", None);
            }
            Ok(Sent::LookFirst) => {
                tools.node.mark(&path, How::Listed);
                // It may be owed as it is, if it looks as before.
                tools.pause(PAUSE.0).await;
                tools.node.state().owed.push_back(path);
            }
            Err(error) => {
                tools.node.trouble(
                    "bucket",
                    Some(format!("the bucket does not take uploads: {error}")),
                );
                tools.node.state().owed.push_front(path);
                tools.pause(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

async fn send(tools: &Tools, path: &str) -> Result<Sent, String> {
    let asked = path.to_owned();
    let record = tools.blocking(move |node| node.journal.get(&asked)).await?;
    let Some(entry) = record.owed_to_bucket().cloned() else {
        return Ok(Sent::Done);
    };
    let sent = send_entry(tools, path, &entry).await?;
    if sent == Sent::Done {
        let path = path.to_owned();
        tools.blocking(move |node| node.in_bucket(&path, &entry)).await?;
    }
    Ok(sent)
}

async fn send_entry(tools: &Tools, path: &str, entry: &Entry) -> Result<Sent, String> {
    let bucket = tools.bucket()?;
    tokio::select! {
        sent = bucket.send(&tools.node, path, entry) => sent,
        () = tools.shutdown.requested() => Err("the process ends".to_owned()),
    }
}
