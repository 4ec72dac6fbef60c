//! Transactions that this database has in its binary log and its primary has not: which they are, and a copy of them in a
//! file that people read and can apply, before the data directory gives way to another.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use pontoon_fleet::{Code, Refusal, ServerName};
use pontoon_gtid::binlog::{MAGIC, Transaction};
use pontoon_gtid::{Dialect, Gtid, History};
use pontoon_rt::files::FileError;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::node::{DatabaseNode, suffixed};
use crate::{binlogs, cut, dirs, foreign, walk};

/// How many of them are named one by one.
const NAMED: usize = 5;

/// How long the database's own tool may take to write them out.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(600);

/// What a database has alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alone {
    /// How many transactions.
    pub count: u64,
    /// The first of them.
    pub first: Vec<AloneAt>,
    /// A binary log with nothing but them, when that was asked for.
    pub kept: Option<PathBuf>,
    /// The same as statements, written by the database's own tool; `None` too when it is not installed.
    pub text: Option<PathBuf>,
}

/// A transaction and its place in the binary log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AloneAt {
    /// Its name.
    pub gtid: String,
    /// The file, without its directory.
    pub file: String,
    /// Where in it.
    pub offset: u64,
}

/// A stretch of a file, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    path: PathBuf,
    format_end: u64,
    begin: u64,
    end: u64,
}

/// What was found in one domain; MySQL has one.
#[derive(Default)]
struct Found {
    count: u64,
    first: Vec<AloneAt>,
    stretches: Vec<Stretch>,
}

/// Which transactions are looked for.
pub(crate) struct Sought {
    /// Not those.
    pub(crate) keep: History,
    /// Only those (MySQL), or only in their domains (MariaDB).
    pub(crate) only: Option<History>,
}

impl Sought {
    fn has(&self, gtid: &Gtid) -> bool {
        if self.keep.has(gtid) {
            return false;
        }
        match (&self.only, gtid) {
            (Some(only @ History::MySql(_)), _) => only.has(gtid),
            (Some(History::MariaDb(only)), Gtid::MariaDb { domain, .. }) => only.has_domain(*domain),
            _ => true,
        }
    }
}

/// Those that are sought, read from the files at `base`. Looks only.
fn find(node: &DatabaseNode, base: &Path, sought: &Sought) -> Result<Vec<Found>, Refusal> {
    let dialect = cut::dialect(node);
    let mut domains: BTreeMap<u32, Found> = BTreeMap::new();
    for path in binlogs::index(base)? {
        let mut here: Vec<(u32, usize)> = Vec::new();
        let walked = walk::each(&path, dialect, unreadable, &mut |transaction| {
            let found = domains.entry(domain(&transaction.gtid)).or_default();
            if sought.has(&transaction.gtid) {
                take(found, &path, &transaction);
                here.push((domain(&transaction.gtid), found.stretches.len() - 1));
            } else if dialect == Dialect::MariaDb && sought.keep.has(&transaction.gtid) {
                // A primary that was itself copied knows the last transaction of a domain, and not who wrote before. What a
                // database has alone comes after everything that it has in common (gtid_strict_mode).
                *found = Found::default();
            }
            Ok(())
        })?;
        for (domain, at) in here {
            if let Some(stretch) = domains
                .get_mut(&domain)
                .and_then(|found| found.stretches.get_mut(at))
                && stretch.path == path
            {
                stretch.format_end = walked.format_end();
            }
        }
    }
    Ok(domains.into_values().filter(|found| found.count > 0).collect())
}

fn domain(gtid: &Gtid) -> u32 {
    match gtid {
        Gtid::MariaDb { domain, .. } => *domain,
        Gtid::MySql { .. } => 0,
    }
}

fn take(found: &mut Found, path: &Path, transaction: &Transaction) {
    found.count += 1;
    if found.first.len() < NAMED {
        found.first.push(AloneAt {
            gtid: transaction.gtid.to_string(),
            file: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            offset: transaction.begin,
        });
    }
    match found.stretches.last_mut() {
        Some(last) if last.path == path && last.end == transaction.begin => last.end = transaction.end,
        _ => found.stretches.push(Stretch {
            path: path.to_owned(),
            format_end: 0,
            begin: transaction.begin,
            end: transaction.end,
        }),
    }
}

/// Looks what `leader` does not have; with `export` writes it down beside the data directory.
pub(crate) async fn alone(
    node: &DatabaseNode,
    base: &Path,
    sought: Sought,
    leader: &ServerName,
    export: bool,
) -> Result<Alone, Refusal> {
    let (of, at) = (node.clone(), base.to_owned());
    let looking = tokio::task::spawn_blocking(move || find(&of, &at, &sought));
    let found = looking
        .await
        .map_err(|error| Refusal::new(Code::N007, error.to_string()))??;
    let mut alone = Alone {
        count: found.iter().map(|found| found.count).sum(),
        ..Alone::default()
    };
    for found in &found {
        let room = NAMED.saturating_sub(alone.first.len());
        alone.first.extend(found.first.iter().take(room).cloned());
    }
    if export && alone.count > 0 {
        let kept = dirs::aside_of_as(&node.datadir, "only-here", &format!("not-on-{leader}"));
        let stretches: Vec<Stretch> = found.into_iter().flat_map(|found| found.stretches).collect();
        let target = kept.clone();
        let writing = tokio::task::spawn_blocking(move || write(&stretches, &target));
        writing
            .await
            .map_err(|error| Refusal::new(Code::N007, error.to_string()))?
            .map_err(|error| FileError::new(&kept, "write", error))?;
        alone.text = write_out(node, &kept).await?;
        alone.kept = Some(kept);
    }
    Ok(alone)
}

/// A binary log of these stretches: each file's begin goes before the first stretch of it.
fn write(stretches: &[Stretch], to: &Path) -> io::Result<()> {
    let mut target = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    target.write_all(&MAGIC)?;
    let mut open: Option<(&Path, File)> = None;
    for stretch in stretches {
        let is_open = open.as_ref().is_some_and(|(path, _)| *path == stretch.path);
        if !is_open {
            let Some((mut file, _)) = foreign::open(&stretch.path).map_err(|error| error.source)? else {
                return Err(io::ErrorKind::NotFound.into());
            };
            file.seek(SeekFrom::Start(4))?;
            io::copy(
                &mut (&mut file).take(stretch.format_end.saturating_sub(4)),
                &mut target,
            )?;
            open = Some((&stretch.path, file));
        }
        if let Some((_, file)) = &mut open {
            file.seek(SeekFrom::Start(stretch.begin))?;
            io::copy(&mut file.take(stretch.end - stretch.begin), &mut target)?;
        }
    }
    target.sync_all()
}

/// The same as text, by the database's own tool; `None` when that is not installed.
async fn write_out(node: &DatabaseNode, kept: &Path) -> Result<Option<PathBuf>, Refusal> {
    let text = suffixed(kept, "sql");
    let tool = match node.is_mariadb() {
        true => "mariadb-binlog".to_owned(),
        // Beside the server, wherever that is installed.
        false => node
            .program
            .first()
            .map(|program| Path::new(program).with_file_name("mysqlbinlog"))
            .filter(|beside| beside.exists())
            .or_else(|| {
                let program = Path::new(node.program.first()?);
                let bin = program.parent()?.parent()?.join("bin/mysqlbinlog");
                bin.exists().then_some(bin)
            })
            .map_or_else(|| "mysqlbinlog".to_owned(), |path| path.display().to_string()),
    };
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&text);
    let file = file.map_err(|error| FileError::new(&text, "write", error))?;
    let mut command = Command::new(&tool);
    command
        .args(["--no-defaults", "--verbose", "--verbose"])
        .arg(kept)
        .stdin(Stdio::null())
        .stdout(Stdio::from(file))
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // Not `output()`, which would take the file's place.
    let running = async { command.spawn()?.wait_with_output().await };
    let written = match tokio::time::timeout(PATIENCE, running).await {
        Ok(Ok(output)) if output.status.success() => return Ok(Some(text)),
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it took longer than {} s", PATIENCE.as_secs()),
    };
    tracing::warn!(
        tool,
        why = written,
        "what only this database has is kept, and not written out as text"
    );
    pontoon_rt::files::remove_optional(&text)?;
    Ok(None)
}

fn unreadable(path: &Path, why: String) -> Refusal {
    Refusal::new(Code::N006, "the binary log cannot be read").because(format!("{}: {why}", path.display()))
}

#[cfg(test)]
#[path = "alone_tests.rs"]
mod tests;
