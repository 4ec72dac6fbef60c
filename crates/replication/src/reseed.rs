//! A database that cannot follow its primary any more is copied anew by an operator's order: what it has alone is found
//! ([`Database::alone`]) and kept in files first ([`Database::export_alone`]), the order survives a kill
//! ([`Database::order_copy`]), and how the copy goes can be asked at any time ([`Database::copying`]).

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pontoon_fleet::{Code, Engine, Refusal, ServerName};
use pontoon_gtid::{Dialect, History, Position};
use pontoon_helper::{Alone, IncomingState};
use pontoon_rt::files;
use serde::{Deserialize, Serialize};

use crate::clone::CloneProgress;
use crate::database::Database;
use crate::repair::LogPlace;

/// Transactions that only one server has, and so nobody may follow it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errant {
    /// Those that the primary lacks: a GTID set (MySQL), or the last one in each domain (MariaDB).
    pub transactions: String,
    /// How many the binary log has of them; 0 when it does not have them, or cannot be read.
    pub count: u64,
    /// The first of them.
    pub first: Vec<ErrantTransaction>,
    /// Why it is not copied anew by itself, where that is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrantTransaction {
    /// Its GTID.
    pub gtid: String,
    /// Its statements, as far as the binary log has them.
    pub statements: Vec<String>,
    /// The tables that its rows are of.
    pub tables: Vec<String>,
}

/// Where what a server had alone is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// How many transactions.
    pub count: u64,
    /// A binary log with nothing but them.
    pub kept: Option<PathBuf>,
    /// The same as statements.
    pub text: Option<PathBuf>,
    /// Why it cannot be told what the server had alone.
    pub unknown: Option<String>,
}

/// How a copy goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copying {
    /// An operator ordered it, and it is not done.
    pub ordered: bool,
    /// How far the attempt is that is under way.
    pub progress: Option<CloneProgress>,
    /// Why the last attempt failed.
    pub failure: Option<Refusal>,
    /// What the server had alone, once it was looked for.
    pub exported: Option<Exported>,
    /// Where the data directory went that was there before, once the copy is in its place.
    pub aside: Option<PathBuf>,
    /// How it is made, for people, when that is not the usual way.
    #[serde(default)]
    pub how: Option<String>,
}

/// An attempt that is under way, or was the last one of this process.
#[derive(Debug, Default)]
pub(crate) struct Going {
    last: Mutex<(Option<CloneProgress>, Option<Refusal>)>,
    /// MySQL: why its clone plugin could not be loaded.
    without_clone: Mutex<Option<String>>,
}

impl Going {
    fn lock(&self) -> MutexGuard<'_, (Option<CloneProgress>, Option<Refusal>)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn without_clone(&self) -> Option<String> {
        let why = self.without_clone.lock();
        why.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn note_without_clone(&self, why: String) {
        let noted = self.without_clone.lock();
        *noted.unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    pub(crate) fn note(&self, progress: CloneProgress) {
        self.lock().0 = Some(progress);
    }

    pub(crate) fn ended(&self, failure: Option<&Refusal>) {
        *self.lock() = (None, failure.cloned());
    }
}

impl Database {
    /// Which transactions this server has, for others to compare with: what is in its binary log, and on a fresh copy what
    /// it was copied with.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`].
    pub async fn history(&self) -> Result<String, Refusal> {
        let rows = self.control.query(self.flavor.history()).await?;
        let row = rows
            .first()
            .ok_or_else(|| Refusal::new(Code::D008, "the database says nothing about itself"))?;
        let text = |column: &str| row.get(column).unwrap_or_default().replace(['\n', ' '], "");
        Ok(match self.node.engine {
            Engine::Mysql => text("history"),
            // Either may be empty: a fresh binary log, a server that never followed.
            _ => {
                let (history, applied) = (text("history"), text("applied"));
                let parts = [history, applied].into_iter().filter(|part| !part.is_empty());
                parts.collect::<Vec<_>>().join(",")
            }
        })
    }

    /// What this server has and `keep`, a history of its primary that is read later, has not; empty when there is
    /// nothing. One that is said to have something should be asked again: on MySQL a transaction that waits for its
    /// acknowledgement is not among those that the primary says to have.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`]; [`Code::N005`] for a history that is none.
    pub async fn beyond(&self, own: &str, keep: &str) -> Result<String, Refusal> {
        let unreadable = |error: pontoon_gtid::PositionError| {
            Refusal::new(Code::N005, "that is not a list of transactions").because(error.to_string())
        };
        let dialect = self.dialect();
        let history = History::parse(dialect, keep).map_err(unreadable)?;
        let position = Position::parse(dialect, own).map_err(unreadable)?;
        if history.has_position(&position) {
            return Ok(String::new());
        }
        Ok(match (&position, &history) {
            (Position::MySql(here), History::MySql(there)) => here.without(there).to_string(),
            (Position::MariaDb(here), _) => {
                let names: Vec<String> = here
                    .gtids()
                    .filter(|gtid| !history.has(gtid))
                    .map(|gtid| gtid.to_string())
                    .collect();
                names.join(",")
            }
            (position, _) => position.to_string(),
        })
    }

    /// Whether one of these was written on this server, and not received from another.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`].
    pub async fn wrote(&self, transactions: &str) -> Result<bool, Refusal> {
        let (id, separator) = match self.node.engine {
            Engine::Mysql => ("SELECT @@global.server_uuid", ':'),
            _ => ("SELECT @@global.server_id", '-'),
        };
        let rows = self.control.query(id).await?;
        let id = rows.first().and_then(|row| row.first()).unwrap_or_default();
        Ok(transactions.split(',').any(|one| {
            let writer = match separator {
                '-' => one.split('-').nth(1),
                _ => one.split(':').next(),
            };
            writer.is_some_and(|writer| writer.trim().eq_ignore_ascii_case(id))
        }))
    }

    /// Where this server stands: everything that it wrote or applied.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`].
    pub async fn stands(&self) -> Result<String, Refusal> {
        let rows = self.control.query(self.flavor.history()).await?;
        let row = rows
            .first()
            .ok_or_else(|| Refusal::new(Code::D008, "the database says nothing about itself"))?;
        let read = |column: &str| {
            let text = row.get(column).unwrap_or_default().replace(['\n', ' '], "");
            Position::parse(self.dialect(), &text).map_err(|error| {
                Refusal::new(Code::D008, "the database's position cannot be read").because(error.to_string())
            })
        };
        let mut position = read("written")?;
        position.merge(&read("applied")?);
        Ok(position.to_string())
    }

    /// The first transactions that `keep`, the history of `leader`, does not have, with their statements. `transactions` is
    /// what [`beyond`](Database::beyond) said.
    pub async fn errant(&self, transactions: String, keep: &str, leader: &ServerName) -> Errant {
        let mut errant = Errant {
            transactions,
            ..Errant::default()
        };
        let only = Some(errant.transactions.as_str()).filter(|only| !only.is_empty());
        let alone = match self.helper.alone(keep, only, leader, false).await {
            Ok(alone) => alone,
            Err(refusal) => {
                tracing::info!(%refusal, "what this server has alone cannot be read from its binary log");
                return errant;
            }
        };
        errant.count = alone.count;
        for at in alone.first {
            let place = LogPlace {
                file: at.file,
                offset: at.offset,
            };
            let events = self.events(&place, None, None).await.unwrap_or_default();
            errant.first.push(ErrantTransaction {
                gtid: at.gtid,
                statements: events.statements,
                tables: events.tables,
            });
        }
        errant
    }

    /// Writes down what only this server has, beside its data directory, before that gives way. Once for an order: an
    /// attempt that goes on does not write it again. That it cannot be told is no reason to stop: the data directory stays,
    /// under another name.
    ///
    /// # Errors
    /// [`Code::N006`] when it could be read and not be written.
    pub async fn export_alone(&self, keep: &str, leader: &ServerName) -> Result<(), Refusal> {
        let path = self.exported_file();
        let begun = self.helper.state().await?.incoming;
        let in_place =
            begun.is_some_and(|mark| matches!(mark.state, IncomingState::Activating | IncomingState::Active));
        if in_place || files::read_limited(&path, MAX_BYTES)?.is_some() {
            return Ok(());
        }
        let beyond = match self.stands().await {
            Ok(own) => Some(self.beyond(&own, keep).await?),
            // It does not run: its binary log holds nothing newer than what its primary was asked for.
            Err(_) => None,
        };
        let found = match beyond.as_deref() {
            Some("") => Ok(Alone::default()),
            only => self.helper.alone(keep, only, leader, true).await,
        };
        let exported = match found {
            Ok(Alone {
                count, kept, text, ..
            }) => Exported {
                count,
                kept,
                text,
                unknown: None,
            },
            Err(refusal) if refusal.what.contains("write") => return Err(refusal),
            Err(refusal) => Exported {
                unknown: Some(refusal.to_string()),
                ..Exported::default()
            },
        };
        tracing::warn!(?exported, "what only this server had");
        let bytes =
            serde_json::to_vec(&exported).map_err(|error| Refusal::new(Code::N007, error.to_string()))?;
        Ok(files::write_atomic(&path, &bytes, 0o600)?)
    }

    /// Keeps on the disk that the database is to be copied anew, or takes that back.
    ///
    /// # Errors
    /// The helper's, [`Code::N006`].
    pub async fn order_copy(&self, yes: bool) -> Result<(), Refusal> {
        if !yes {
            return self.order_is_done();
        }
        if self.copy_ordered() {
            return Ok(()); // it goes on
        }
        let mark = self.helper.state().await?.incoming;
        if mark.is_some_and(|mark| mark.state != IncomingState::Activating) {
            self.helper.discard_incoming().await?;
        }
        files::remove_optional(&self.exported_file())?;
        self.reseed.ended(None);
        Ok(files::write_atomic(&self.order_file(), b"copy", 0o600)?)
    }

    /// Whether that was ordered and is not done.
    pub fn copy_ordered(&self) -> bool {
        self.order_file().exists()
    }

    pub(crate) fn order_is_done(&self) -> Result<(), Refusal> {
        self.ask_for_dump(false)?;
        Ok(files::remove_optional(&self.order_file())?)
    }

    /// An attempt failed before its copy began.
    pub fn note_failure(&self, failure: &Refusal) {
        self.reseed.ended(Some(failure));
    }

    /// How the copy goes.
    ///
    /// # Errors
    /// [`Code::N006`].
    pub fn copying(&self) -> Result<Copying, Refusal> {
        let (progress, failure) = self.reseed.lock().clone();
        let exported = files::read_limited(&self.exported_file(), MAX_BYTES)?;
        let last = self.last_clone()?;
        Ok(Copying {
            how: last.as_ref().and_then(|last| last.how.clone()),
            ordered: self.copy_ordered(),
            progress,
            failure,
            exported: exported.and_then(|bytes| serde_json::from_slice(&bytes).ok()),
            aside: last.and_then(|last| last.aside),
        })
    }

    fn order_file(&self) -> PathBuf {
        self.paths.state_dir.join("copy-ordered")
    }

    fn exported_file(&self) -> PathBuf {
        self.paths.state_dir.join("exported.json")
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self.node.engine {
            Engine::Mysql => Dialect::MySql,
            _ => Dialect::MariaDb,
        }
    }
}

/// Larger than any file here.
const MAX_BYTES: u64 = 64 << 10;
