//! The archive of the binary log: closed files and the one that grows, in blocks, as they are on the primary.
//!
//! A file is cut into blocks of a MiB. The last one is written again, longer, as the file grows; what the index says of
//! it holds for its begin, so that a reader in between finds what it looks for.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use pontoon_fleet::{Code, Engine, Refusal, UnixMillis};
use pontoon_gtid::binlog::Feed;
use pontoon_gtid::{Dialect, Gtid, History, Position};
use pontoon_helper::{BinlogFile, HelperClient};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::manifest::Part;
use crate::store::Store;
use crate::upload::hex;

/// The length of a block, but for a file's last.
pub(crate) const BLOCK: u64 = 1 << 20;

/// After so many new blocks the index is written, though the file goes on.
const BLOCKS_A_NOTE: u64 = 64;

/// Where the flag is that a file is open, in the header of its first event; it changes when the file is closed, and the
/// event's checksum leaves it out (MySQL Internals, "Binary Log Event Header").
const IN_USE_AT: usize = 4 + 17;

/// What of a file's begin is read for what stands there.
const HEAD: u64 = 1 << 20;

/// How old an index may get of a file that does not grow.
const SEEN_EVERY_MS: u64 = 30_000;

/// Indexes that are asked for at a time.
const AT_A_TIME: usize = 16;

/// The version of indexes that this program writes. It reads no newer one.
const VERSION: u32 = 1;

/// What is in the archive of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The version of this text.
    pub version: u32,
    /// The server that wrote the file.
    pub server: String,
    /// Its engine.
    pub engine: Engine,
    /// In which epoch that server was primary when this was written.
    pub epoch: u64,
    /// The file's name there.
    pub file: String,
    /// When it was begun, in seconds since 1970.
    pub begun: u32,
    /// How much of it is here.
    pub bytes: u64,
    /// The blocks: what is said of each holds for its first `bytes`.
    pub blocks: Vec<Part>,
    /// What that server had before it: a position.
    pub before: String,
    /// What it had after the last whole transaction that is here: a position.
    pub after: String,
    /// The same as a history: also who wrote what.
    pub history: String,
    /// The first transaction in it (MariaDB: of each domain).
    pub firsts: Vec<String>,
    /// When the last one was committed, in seconds since 1970.
    pub last: u32,
    /// Whether the file ends here.
    pub complete: bool,
    /// When all that the file had was here.
    pub seen: UnixMillis,
}

impl Index {
    /// The folder.
    pub(crate) const FOLDER: &str = "archive";

    fn stem(begun: u32, server: &str, file: &str) -> String {
        format!("{}/{begun:010}-{server}-{file}", Self::FOLDER)
    }

    /// Its object.
    pub(crate) fn object(&self) -> String {
        format!("{}.json", Self::stem(self.begun, &self.server, &self.file))
    }

    /// The object of a block.
    pub(crate) fn block(&self, number: usize) -> String {
        format!("{}/{number:06}", Self::stem(self.begun, &self.server, &self.file))
    }

    pub(crate) fn dialect(&self) -> Dialect {
        dialect(self.engine)
    }

    /// `before` or `after` as a position; nonsense is nothing.
    pub(crate) fn position(&self, text: &str) -> Position {
        Position::parse(self.dialect(), text).unwrap_or_else(|_| Position::empty(self.dialect()))
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.version == VERSION
    }
}

pub(crate) fn dialect(engine: Engine) -> Dialect {
    match engine {
        Engine::Mysql => Dialect::MySql,
        _ => Dialect::MariaDb,
    }
}

/// Where the binary log is read from.
pub trait Binlogs: Send + Sync {
    /// Its files, oldest first.
    fn files(&self) -> BoxFuture<'_, Result<Vec<BinlogFile>, Refusal>>;

    /// A part of one: fewer bytes than `most` when it ends there.
    fn read<'a>(&'a self, file: &'a str, from: u64, most: u64) -> BoxFuture<'a, Result<Vec<u8>, Refusal>>;
}

impl Binlogs for HelperClient {
    fn files(&self) -> BoxFuture<'_, Result<Vec<BinlogFile>, Refusal>> {
        self.binlogs().boxed()
    }

    fn read<'a>(&'a self, file: &'a str, from: u64, most: u64) -> BoxFuture<'a, Result<Vec<u8>, Refusal>> {
        self.read_binlog(file, from, most).boxed()
    }
}

/// Sends one server's binary log into the archive while that server is primary.
pub struct Archiver {
    store: Store,
    server: String,
    engine: Engine,
    /// By name on the server; files before the first of them are not for the archive.
    files: BTreeMap<String, File>,
    begun: bool,
}

/// A file on its way.
struct File {
    index: Index,
    feed: Feed,
    /// The bytes of its last block.
    tail: Vec<u8>,
    history: History,
    after: Position,
    noted: Option<Index>,
}

impl Archiver {
    /// For the binary log of `server`.
    pub fn new(store: Store, server: &str, engine: Engine) -> Archiver {
        Archiver {
            store,
            server: server.to_owned(),
            engine,
            files: BTreeMap::new(),
            begun: false,
        }
    }

    /// Sends what is new. Returns how many bytes that were.
    ///
    /// # Errors
    /// The store's, the helper's; [`Code::D020`] for a binary log that cannot be read. To be called again either way.
    pub async fn tick(
        &mut self,
        source: &dyn Binlogs,
        epoch: u64,
        now: &(dyn Fn() -> UnixMillis + Send + Sync),
    ) -> Result<u64, Refusal> {
        // Everything that is in the files after this moment is in what is read now.
        let seen = now();
        let files = source.files().await?;
        if !self.begun {
            self.begin(source, &files).await?;
        }
        let Some(first) = self.files.keys().next().cloned() else {
            return Ok(0);
        };
        let mut sent = 0;
        let start = files.iter().position(|file| file.name == first).unwrap_or(0);
        for (at, there) in files.iter().enumerate().skip(start) {
            let is_last = at + 1 == files.len();
            if !self.files.contains_key(&there.name) {
                let file = self.open(source, &there.name).await?;
                self.files.insert(there.name.clone(), file);
            }
            let Some(file) = self.files.get_mut(&there.name) else {
                continue;
            };
            if file.noted.as_ref().is_some_and(|noted| noted.complete) {
                continue;
            }
            let outcome = file.send(&self.store, source, there.bytes, &mut sent).await;
            let whole = outcome.is_ok();
            if whole {
                file.index.seen = seen;
                file.index.epoch = epoch;
                file.index.complete = !is_last;
            }
            let noted = file.note(&self.store).await;
            if let Err(refusal) = outcome.and(noted) {
                // What is held of it and what is in the store may be two things: read it again from its begin.
                self.begun = false;
                self.files.clear();
                return Err(refusal);
            }
        }
        // What was purged on the server stays in the archive, and is no longer thought of.
        self.files
            .retain(|name, _| files.iter().any(|file| file.name == *name));
        Ok(sent)
    }

    /// Finds the file with which to begin: the last one before which the archive has everything; without an archive, the
    /// last one.
    async fn begin(&mut self, source: &dyn Binlogs, files: &[BinlogFile]) -> Result<(), Refusal> {
        let archived = indexes(&self.store).await?;
        let archived: Vec<&Index> = archived
            .iter()
            .filter(|index| index.engine == self.engine)
            .collect();
        let mut reached = Position::empty(dialect(self.engine));
        for index in &archived {
            reached.merge(&index.position(&index.after));
        }
        for (at, there) in files.iter().enumerate().rev() {
            let head = read_head(source, &there.name, self.engine).await?;
            let before = head
                .before
                .unwrap_or_else(|| Position::empty(dialect(self.engine)));
            if archived.is_empty() || reached.reaches(&before) || at == 0 {
                let file = self.open(source, &there.name).await?;
                self.files.insert(there.name.clone(), file);
                break;
            }
        }
        self.begun = true;
        Ok(())
    }

    /// Takes a file up, from where the archive has it.
    async fn open(&self, source: &dyn Binlogs, name: &str) -> Result<File, Refusal> {
        let head = read_head(source, name, self.engine).await?;
        let stem = Index::stem(head.begun, &self.server, name);
        let noted: Option<Index> = self.store.get_json(&format!("{stem}.json")).await?;
        let noted = noted.filter(Index::is_readable);
        let dialect = dialect(self.engine);
        let mut file = File {
            index: Index {
                version: VERSION,
                server: self.server.clone(),
                engine: self.engine,
                epoch: 0,
                file: name.to_owned(),
                begun: head.begun,
                bytes: 0,
                blocks: Vec::new(),
                before: String::new(),
                after: String::new(),
                history: String::new(),
                firsts: Vec::new(),
                last: 0,
                complete: false,
                seen: UnixMillis(0),
            },
            feed: Feed::new(dialect),
            tail: Vec::new(),
            history: History::empty(dialect),
            after: Position::empty(dialect),
            noted: None,
        };
        let Some(noted) = noted else { return Ok(file) };
        if !noted.complete {
            // The blocks are in the store already: the file is gone through for what is in it.
            let mut from = 0;
            while from < noted.bytes {
                let bytes = source.read(name, from, BLOCK.min(noted.bytes - from)).await?;
                if bytes.is_empty() {
                    break; // shorter than it was: its end was cut off
                }
                from += bytes.len() as u64;
                file.take(bytes)?;
            }
        }
        file.noted = Some(noted);
        Ok(file)
    }
}

/// What a file says at its begin.
struct Head {
    begun: u32,
    before: Option<Position>,
}

async fn read_head(source: &dyn Binlogs, name: &str, engine: Engine) -> Result<Head, Refusal> {
    let bytes = source.read(name, 0, HEAD).await?;
    let mut feed = Feed::new(dialect(engine));
    feed.take(&bytes, &mut |_| {})
        .map_err(|error| unreadable(name, &error))?;
    let begun = feed
        .begun()
        .ok_or_else(|| unreadable(name, &"it has just been begun"))?;
    let before = feed.before().map(|before| position_of(before, engine));
    Ok(Head { begun, before })
}

fn position_of(history: &History, engine: Engine) -> Position {
    let dialect = dialect(engine);
    Position::parse(dialect, &history.to_string()).unwrap_or_else(|_| Position::empty(dialect))
}

fn unreadable(name: &str, why: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Code::D020, "the binary log cannot be archived").because(format!("{name}: {why}"))
}

impl File {
    /// Sends everything up to `bytes`, where the file ended when it was looked at, and what came since.
    async fn send(
        &mut self,
        store: &Store,
        source: &dyn Binlogs,
        bytes: u64,
        sent: &mut u64,
    ) -> Result<(), Refusal> {
        let mut blocks = 0;
        while self.index.bytes < bytes {
            let room = BLOCK - self.index.bytes % BLOCK;
            let file = self.index.file.clone();
            let more = source.read(&file, self.index.bytes, room).await?;
            if more.is_empty() {
                return Ok(()); // its end was cut off since
            }
            *sent += more.len() as u64;
            self.take(more)?;
            let last = self.index.blocks.len() - 1;
            store
                .put(&self.index.block(last), Bytes::from(self.tail.clone()))
                .await?;
            blocks += 1;
            if blocks % BLOCKS_A_NOTE == 0 {
                self.note(store).await?;
            }
        }
        Ok(())
    }

    /// Takes bytes in that belong to one block.
    fn take(&mut self, mut bytes: Vec<u8>) -> Result<(), Refusal> {
        if self.index.bytes.is_multiple_of(BLOCK) {
            self.tail.clear();
            self.index.blocks.push(Part {
                bytes: 0,
                sha256: String::new(),
            });
        }
        let begin = usize::try_from(self.index.bytes).unwrap_or(usize::MAX);
        if let Some(flag) = IN_USE_AT.checked_sub(begin).and_then(|at| bytes.get_mut(at)) {
            *flag &= !1;
        }
        let engine = self.index.engine;
        let mut seen = Vec::new();
        self.feed
            .take(&bytes, &mut |committed| seen.push(committed))
            .map_err(|error| unreadable(&self.index.file, &error))?;
        if self.index.before.is_empty()
            && let Some(before) = self.feed.before()
        {
            let position = position_of(before, engine);
            if self.index.firsts.is_empty() {
                self.history = before.clone();
                self.after = position.clone();
            }
            self.index.before = position.to_string();
        }
        for committed in seen {
            let gtid = &committed.transaction.gtid;
            let name = gtid.to_string();
            self.history.add(gtid);
            if let Ok(one) = Position::parse(dialect(engine), &name) {
                self.after.merge(&one);
            }
            let is_first = match gtid {
                Gtid::MariaDb { domain, .. } => {
                    let of_domain = format!("{domain}-");
                    !self
                        .index
                        .firsts
                        .iter()
                        .any(|first| first.starts_with(&of_domain))
                }
                Gtid::MySql { .. } => self.index.firsts.is_empty(),
            };
            if is_first {
                self.index.firsts.push(name);
            }
            self.index.last = committed.at;
        }
        self.index.bytes += bytes.len() as u64;
        self.tail.extend_from_slice(&bytes);
        if let Some(block) = self.index.blocks.last_mut() {
            block.bytes = self.tail.len() as u64;
            block.sha256 = hex(&Sha256::digest(&self.tail));
        }
        Ok(())
    }

    /// Writes the index, when it says something new.
    async fn note(&mut self, store: &Store) -> Result<(), Refusal> {
        self.index.after = self.after.to_string();
        self.index.history = self.history.to_string();
        if let Some(noted) = &self.noted {
            if self.index.bytes < noted.bytes {
                return Ok(()); // its end was cut off on the server
            }
            let same = Index {
                seen: noted.seen,
                ..self.index.clone()
            };
            if same == *noted && self.index.seen.0 < noted.seen.0 + SEEN_EVERY_MS {
                return Ok(());
            }
        }
        store.put_json(&self.index.object(), &self.index).await?;
        self.noted = Some(self.index.clone());
        Ok(())
    }
}

/// Every file of the archive that this program can read, oldest first.
pub(crate) async fn indexes(store: &Store) -> Result<Vec<Index>, Refusal> {
    let mut names: Vec<String> = Vec::new();
    for object in store.list(Index::FOLDER).await? {
        names.extend(Some(object.name).filter(|name| name.ends_with(".json")));
    }
    let read = |name: String| async move {
        let index = store.get_json::<Index>(&name).await?;
        let index = index.filter(|index| index.is_readable() && index.object() == name);
        Ok::<_, Refusal>(index)
    };
    let found: Vec<Option<Index>> = futures::stream::iter(names)
        .map(read)
        .buffered(AT_A_TIME)
        .try_collect()
        .await?;
    let mut found: Vec<Index> = found.into_iter().flatten().collect();
    found.sort_by(|left, right| (left.begun, &left.file).cmp(&(right.begun, &right.file)));
    Ok(found)
}
