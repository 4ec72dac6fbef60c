//! Cuts the end off the binary log of a dead primary: what the new primary lacks, and so was never acknowledged.
//!
//! Rows of such transactions are in the engine, prepared, not committed. At its next start the server asks its binary log
//! which of the prepared ones to commit; what it does not find there it rolls back. So the database comes back as it
//! was at the last transaction that the new primary has, and follows, without a new copy. What stays in the engine
//! whatever the log says (statements, tables without transactions, XA) makes that impossible and is refused, as is
//! everything that could not be read with certainty ([`Code::D011`]).
//!
//! What is cut off is kept in a file of its own beside the log, which mysqlbinlog and mariadb-binlog read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pontoon_fleet::{Code, Engine, Refusal, ServerName};
use pontoon_gtid::binlog::Transaction;
use pontoon_gtid::{Dialect, History, Position};
use pontoon_rt::files::{self, FileError};
use serde::{Deserialize, Serialize};

use crate::node::DatabaseNode;
use crate::{dirs, find, foreign, walk};

/// The largest index of binary logs.
const INDEX_BYTES: u64 = 16 << 20;

/// How many transactions are named in a refusal.
const NAMED: usize = 4;

/// What was cut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The file, without its directory.
    pub file: String,
    /// Where it ends now, in bytes.
    pub position: u64,
    /// How many transactions were cut off.
    pub transactions: u64,
    /// The first of them.
    pub first: String,
    /// The last of them.
    pub last: String,
    /// Where they are kept.
    pub kept: PathBuf,
}

/// Which dialect the node's engine writes.
pub(crate) fn dialect(node: &DatabaseNode) -> Dialect {
    match node.engine {
        Engine::Mysql => Dialect::MySql,
        _ => Dialect::MariaDb,
    }
}

/// Cuts what `keep` does not have. `None` when there is nothing to cut off. Repeatable.
pub(crate) fn cut(
    node: &DatabaseNode,
    base: &Path,
    keep: &History,
    leader: &ServerName,
) -> Result<Option<Cut>, Refusal> {
    if let Some(pid) = find::server_in(&node.datadir) {
        return Err(
            Refusal::new(Code::N003, "the binary log is not cut while the database runs")
                .because(format!("process {pid} works in {}", node.datadir.display())),
        );
    }
    let Some(path) = last_file(base)? else {
        return Ok(None);
    };
    let tail = read(&path, dialect(node), keep)?;
    let Some(first) = tail.first else {
        return Ok(None);
    };
    let position = first.begin;
    let kept = dirs::aside_of_as(&path, "cut", &format!("not-on-{leader}"));
    // Of a cut that nobody has asked the engine about yet, all count.
    let earlier = unproved(node)?.filter(|cut| cut.file == name(&path));
    let cut = Cut {
        file: name(&path),
        position,
        transactions: tail.count + earlier.map_or(0, |cut| cut.transactions),
        first: first.gtid.to_string(),
        last: tail.last,
        kept: kept.clone(),
    };
    let failed = |what: &'static str, path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| Refusal::from(FileError::new(&path, what, error))
    };
    keep_aside(&path, tail.format_end, position, &kept).map_err(failed("write", &kept))?;
    // Before the cut: the next start has to be asked what it found in the engine, whoever asks.
    let mark = serde_json::to_vec(&cut).map_err(|error| Refusal::new(Code::N007, error.to_string()))?;
    files::write_atomic(&mark_path(node), &mark, 0o600)?;
    rename_uuid(node)?;
    shorten(&path, position).map_err(failed("cut", &path))?;
    tracing::warn!(?cut, "cut the end off the binary log");
    Ok(Some(cut))
}

/// MySQL counts its transactions by its UUID: under the old one it would give the numbers that were cut off a second
/// time. Without this file it makes a new one.
fn rename_uuid(node: &DatabaseNode) -> Result<(), Refusal> {
    let path = node.datadir.join("auto.cnf");
    if node.is_mariadb() || std::fs::symlink_metadata(&path).is_err() {
        return Ok(());
    }
    let moved = dirs::aside_of(&path);
    dirs::rename(&moved.from, &moved.to)
}

/// The cut after which the database has not been asked yet what it found.
pub(crate) fn unproved(node: &DatabaseNode) -> Result<Option<Cut>, Refusal> {
    let bytes = foreign::read(&mark_path(node), 1 << 16)?;
    Ok(bytes.and_then(|(bytes, _)| serde_json::from_slice(&bytes).ok()))
}

/// That question was answered.
pub(crate) fn forget(node: &DatabaseNode) -> Result<(), Refusal> {
    Ok(files::remove_optional(&mark_path(node))?)
}

fn mark_path(node: &DatabaseNode) -> PathBuf {
    node.files.join("cut.json")
}

/// The last file of the index, which must be the last one that is there.
fn last_file(base: &Path) -> Result<Option<PathBuf>, Refusal> {
    let (Some(dir), Some(stem)) = (base.parent(), base.file_name().and_then(|name| name.to_str())) else {
        return Err(uncertain(base, "its name makes no sense".to_owned()));
    };
    let index = dir.join(format!("{stem}.index"));
    let Some((bytes, _)) = foreign::read(&index, INDEX_BYTES)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let number = |name: &str| -> Option<u64> {
        let digits = name.strip_prefix(stem)?.strip_prefix('.')?;
        let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        all.then(|| digits.parse().ok()).flatten()
    };
    let Some(line) = text.lines().map(str::trim).rfind(|line| !line.is_empty()) else {
        return Ok(None);
    };
    let last = name(Path::new(line));
    let Some(listed) = number(&last) else {
        return Err(uncertain(&index, format!("its last line is {line:?}")));
    };
    let entries = std::fs::read_dir(dir).map_err(|error| FileError::new(dir, "read", error))?;
    let newer = entries
        .flatten()
        .filter_map(|entry| number(entry.file_name().to_str()?))
        .find(|there| *there > listed);
    if let Some(newer) = newer {
        return Err(uncertain(
            &index,
            format!("it ends with {last}, and {stem}.{newer:06} is there too"),
        ));
    }
    Ok(Some(dir.join(last)))
}

/// What a file ends with that is not wanted.
struct Tail {
    format_end: u64,
    first: Option<Transaction>,
    last: String,
    count: u64,
}

fn read(path: &Path, dialect: Dialect, keep: &History) -> Result<Tail, Refusal> {
    let mut tail = Tail {
        format_end: 0,
        first: None,
        last: String::new(),
        count: 0,
    };
    let mut staying = Vec::new();
    let walk = walk::each(path, dialect, uncertain, &mut |transaction| {
        if keep.has(&transaction.gtid) {
            return match &tail.first {
                Some(first) => Err(uncertain(
                    path,
                    format!(
                        "the new primary lacks {} and has {}",
                        first.gtid, transaction.gtid
                    ),
                )),
                None => Ok(()),
            };
        }
        if let Some(why) = transaction.stays
            && staying.len() < NAMED
        {
            staying.push(format!("{}: {why}", transaction.gtid));
        }
        tail.count += 1;
        tail.last = transaction.gtid.to_string();
        tail.first.get_or_insert(transaction);
        Ok(())
    })?;
    tail.format_end = walk.format_end();
    if walk.in_use().is_none() || walk.before().is_none() {
        return Err(uncertain(
            path,
            "it ends before it says what came before it".to_owned(),
        ));
    }
    let before = walk.before().map(ToString::to_string).unwrap_or_default();
    let before = Position::parse(dialect, &before).map_err(|error| uncertain(path, error.to_string()))?;
    if !keep.has_position(&before) {
        return Err(uncertain(
            path,
            format!("what the new primary lacks begins in an earlier file: it does not have all of {before}"),
        ));
    }
    if tail.first.is_some() && !staying.is_empty() {
        let refusal = uncertain(path, "not everything would be rolled back".to_owned());
        return Err(staying.into_iter().fold(refusal, Refusal::because));
    }
    if tail.first.is_some() && walk.in_use() == Some(false) {
        return Err(uncertain(
            path,
            "the database was stopped in good order, so everything in it is committed".to_owned(),
        ));
    }
    Ok(tail)
}

/// Copies the file's begin and its end from `from` on, so that the result is a binary log too, and syncs it.
fn keep_aside(path: &Path, format_end: u64, from: u64, kept: &Path) -> io::Result<()> {
    let Some((mut source, metadata)) = foreign::open(path).map_err(|error| error.source)? else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let mut target = foreign::create_new(kept, (metadata.uid(), metadata.gid()))?;
    io::copy(&mut (&mut source).take(format_end), &mut target)?;
    source.seek(SeekFrom::Start(from))?;
    io::copy(&mut source, &mut target)?;
    target.flush()?;
    target.sync_all()?;
    sync_dir(kept)
}

fn shorten(path: &Path, position: u64) -> io::Result<()> {
    let file = foreign::open_to_write(path)?;
    file.set_len(position)?;
    file.sync_all()?;
    sync_dir(path)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn uncertain(path: &Path, why: String) -> Refusal {
    Refusal::new(
        Code::D011,
        "the database has transactions that its primary lacks, and they cannot be cut off",
    )
    .because(format!("{}: {why}", path.display()))
    .next(
        "make a new copy; the present data is kept under another name",
        "pontoon db reseed",
    )
}

#[cfg(test)]
#[path = "cut_tests.rs"]
pub(crate) mod tests;
