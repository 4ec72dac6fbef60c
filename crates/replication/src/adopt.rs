//! A replica that was set up by hand, by file and position, becomes one by GTID without a new copy ([`Database::adopt`]).
//! Nothing waits for it on its source, which goes on writing.
//!
//! **MariaDB** numbers transactions for replicas by file and position too. The place up to which the replica applied is
//! looked up in the source's binary log; when the GTID there is the one that the replica wrote down, it goes on from it.
//!
//! **MySQL** numbers transactions only where `gtid_mode` says so. The replica takes both kinds (`ON_PERMISSIVE`) and
//! follows by position until everything without a GTID is applied: that is when it reaches a file of the source's log that
//! was begun after the source numbered all. What the source had numbered by then, and the replica applied by position
//! without its number, is noted as applied (`gtid_purged`); numbers that only the replica has, such as those of the dump
//! that it was loaded with, are forgotten. Then `gtid_mode` is ON, and it goes on by GTID.
//!
//! Whether it holds the same rows is not known by that: whoever adopts compares them afterwards
//! ([`check`](crate::check)).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pontoon_fleet::{Code, Engine, Refusal};
use pontoon_gtid::{History, Position};
use serde::{Deserialize, Serialize};

use crate::clone::SourceTicket;
use crate::control::Session;
use crate::database::{Database, check_position};
use crate::flavor::{Source, Wanted};
use crate::repair::LogPlace;
use crate::work::BoxFuture;

/// How long a statement of the conversion may take: stopping a replica waits for the transaction that it applies.
const PATIENCE: Duration = Duration::from_secs(60);

/// A replica that applies nothing new for this long, and is not where it must be, stands still.
const STANDSTILL: Duration = Duration::from_secs(60);

/// What a replica asks its source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginAsk {
    /// Up to where it applied the source's log.
    pub place: LogPlace,
    /// Whether the source shall begin a new file of its log.
    pub new_file: bool,
}

/// What the source says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// MySQL: its `server_uuid`.
    pub uuid: String,
    /// The GTID position of that place (MariaDB), and whether the log has the place at all: `None` when not.
    pub at: Option<String>,
    /// The transactions that it has.
    pub history: String,
    /// The new file, and which transactions were numbered before it (MySQL).
    pub file: Option<(String, String)>,
    /// Its accounts, `'user'@'host'`, each with a digest of how it proves itself.
    pub accounts: BTreeMap<String, String>,
}

/// Asks the source.
pub type AskOrigin<'a> = dyn Fn(OriginAsk) -> BoxFuture<'a, Result<Origin, Refusal>> + Send + Sync + 'a;

impl Database {
    /// Answers a replica that is to be adopted.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`]; [`Code::N005`] for a place that is none.
    pub async fn origin(&self, ask: &OriginAsk) -> Result<Origin, Refusal> {
        if !ask
            .place
            .file
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        {
            return Err(Refusal::new(Code::N005, "that is not a file of a binary log"));
        }
        let mysql = self.node.engine == Engine::Mysql;
        let uuid = match mysql {
            true => self.text("SELECT @@global.server_uuid").await?,
            false => String::new(),
        };
        let file = match ask.new_file && mysql {
            true => Some(self.new_log_file().await?),
            false => None,
        };
        Ok(Origin {
            uuid,
            at: self.at(&ask.place).await?,
            history: self.history().await?,
            file,
            accounts: self.accounts().await?,
        })
    }

    /// The GTID position of a place in this server's log; on MySQL an empty one when the place is there.
    async fn at(&self, place: &LogPlace) -> Result<Option<String>, Refusal> {
        let logs = self.control.query("SHOW BINARY LOGS").await?;
        let log = logs.iter().find(|row| row.get("Log_name") == Some(&place.file));
        if log.is_none_or(|row| row.number("File_size") < place.offset) {
            return Ok(None);
        }
        if self.node.engine == Engine::Mysql {
            return Ok(Some(String::new()));
        }
        let statement = format!("SELECT BINLOG_GTID_POS('{}', {})", place.file, place.offset);
        let rows = self.control.query(&statement).await?;
        Ok(rows.first().and_then(|row| row.first()).map(str::to_owned))
    }

    async fn new_log_file(&self) -> Result<(String, String), Refusal> {
        self.control.query("FLUSH BINARY LOGS").await?;
        let logs = self.control.query("SHOW BINARY LOGS").await?;
        let file = logs
            .last()
            .and_then(|row| row.get("Log_name"))
            .unwrap_or_default();
        let events = format!("SHOW BINLOG EVENTS IN '{file}' LIMIT 3");
        let before = self.control.query(&events).await?;
        let before = before
            .iter()
            .find(|row| row.get("Event_type") == Some("Previous_gtids"))
            .and_then(|row| row.get("Info"))
            .unwrap_or_default()
            .replace(['\n', ' '], "");
        Ok((file.to_owned(), before))
    }

    /// The accounts that applications and people have here.
    async fn accounts(&self) -> Result<BTreeMap<String, String>, Refusal> {
        // The servers' own, those that each machine has for itself, and Pontoon's.
        let asked = "SELECT CONCAT('''', user, '''@''', host, '''') AS who, \
                     SHA2(CONCAT_WS('|', plugin, authentication_string), 256) AS digest FROM mysql.user \
                     WHERE user NOT IN ('', 'root', 'mysql', 'mariadb.sys', 'debian-sys-maint', 'mysql.sys', \
                     'mysql.session', 'mysql.infoschema', 'pontoon') AND user NOT LIKE 'pontoon\\_%'";
        let rows = self.control.query(asked).await?;
        Ok(rows
            .iter()
            .filter_map(|row| Some((row.get("who")?.to_owned(), row.get("digest")?.to_owned())))
            .collect())
    }

    /// Makes a replica by file and position one of the ticket's source by GTID. `false`: this server follows nobody, there
    /// is nothing to adopt. To be repeated after any failure or kill.
    ///
    /// # Errors
    /// [`Code::D016`] with what stands in the way; [`Code::D002`], [`Code::D005`], [`Code::D004`].
    pub async fn adopt(
        &self,
        ticket: &SourceTicket,
        wanted: &Wanted,
        ask: &AskOrigin<'_>,
        tell: &mut (dyn FnMut(&'static str) + Send),
    ) -> Result<bool, Refusal> {
        let wanted = Wanted {
            replica: true,
            inherited: adoptable(&ticket.inherited),
            ..wanted.clone()
        };
        if !self.follows_by_gtid(ticket).await {
            tell("moving the replica to its own port");
            let by_position = Wanted {
                by_position: true,
                ..wanted.clone()
            };
            self.move_aside(&by_position).await?;
            self.refuse_other_names(ticket).await?;
            let rows = self.control.query(self.flavor.replica_status()).await?;
            match rows.len() {
                0 => return Ok(false),
                1 => {}
                several => {
                    return Err(not_adopted("it follows more than one source")
                        .because(format!("it has {several} connections")));
                }
            }
            tell("going over to GTID");
            let mut session = self.control.session().await?;
            self.halt(&mut session).await?;
            match self.node.engine {
                Engine::Mysql => self.number_mysql(&mut session, ticket, ask).await?,
                _ => self.number_mariadb(&mut session, ask).await?,
            }
            let origin = ask(OriginAsk::default()).await?;
            let alone = self.beyond(&self.history().await?, &origin.history).await?;
            if !alone.is_empty() {
                return Err(not_adopted("it has transactions that the primary lacks").because(alone));
            }
        }
        // Also one that an attempt before brought so far, and that has stopped since.
        self.follow(ticket).await.map_err(|refusal| {
            let refused = not_adopted("it does not go on by GTID");
            refusal
                .evidence
                .iter()
                .fold(refused, |all, line| all.because(line))
        })?;
        // The same settings as any replica's from the next start on; nothing of them needs one now.
        self.move_aside(&wanted).await?;
        Ok(true)
    }

    /// Refuses a replica that lacks accounts of its source's, or has them otherwise: promoted, it would refuse the
    /// application.
    ///
    /// # Errors
    /// [`Code::D016`] with the accounts.
    pub async fn check_accounts(&self, origin: &Origin) -> Result<(), Refusal> {
        let here = self.accounts().await?;
        let mut refusal = not_adopted("its accounts are not the primary's");
        let whole = refusal.evidence.len();
        for (who, digest) in &origin.accounts {
            refusal = match here.get(who) {
                Some(same) if same == digest => refusal,
                Some(_) => refusal.because(format!("{who} has another password here")),
                None => refusal.because(format!("{who} is missing here")),
            };
        }
        match refusal.evidence.len() == whole {
            true => Ok(()),
            false => Err(refusal.next(
                "make them here as they are there, not in the binary log; then repeat the join",
                "SET SESSION sql_log_bin = 0; CREATE USER …; GRANT …",
            )),
        }
    }

    /// Whether an attempt before came so far.
    async fn follows_by_gtid(&self, ticket: &SourceTicket) -> bool {
        let Ok(rows) = self.control.query(self.flavor.replica_status()).await else {
            return false;
        };
        rows.first().is_some_and(|row| {
            let status = self.flavor.read_replica_status(row);
            status.by_gtid
                && status.source_port == ticket.port
                && status.source_host == ticket.address.to_string()
        })
    }

    /// Names are as large or small as at the server's first start: nothing changes that.
    async fn refuse_other_names(&self, ticket: &SourceTicket) -> Result<(), Refusal> {
        let own = self.text("SELECT @@global.lower_case_table_names").await?;
        let theirs = ticket
            .inherited
            .iter()
            .find(|setting| setting.name == "lower_case_table_names");
        match theirs {
            Some(theirs) if theirs.value != own => {
                Err(
                    not_adopted("its tables' names are not taken as the primary takes them").because(
                        format!("lower_case_table_names is {own} here and {} there", theirs.value),
                    ),
                )
            }
            _ => Ok(()),
        }
    }

    /// Stops it, and refuses one that had stopped by itself.
    async fn halt(&self, session: &mut Session) -> Result<(), Refusal> {
        self.refuse_broken().await?;
        session.query(self.flavor.stop_replica(), PATIENCE).await?;
        self.refuse_broken().await
    }

    /// Refuses a replica that could not apply what it received, or that would hide it.
    ///
    /// # Errors
    /// [`Code::D016`]; [`Code::N002`], [`Code::D008`].
    pub async fn refuse_broken(&self) -> Result<(), Refusal> {
        let stop = self.stop_of().await?;
        if stop.error != 0 {
            return Err(not_adopted("it is broken: it could not apply what it received")
                .because(format!("error {}: {}", stop.error, stop.message)));
        }
        if stop.lenient {
            return Err(
                not_adopted("it passes over rows that differ").because("slave_exec_mode is IDEMPOTENT")
            );
        }
        Ok(())
    }

    async fn number_mariadb(&self, session: &mut Session, ask: &AskOrigin<'_>) -> Result<(), Refusal> {
        let place = self.stop_of().await?.place;
        let origin = ask(OriginAsk {
            place: place.clone(),
            new_file: false,
        })
        .await?;
        let there = origin.at.ok_or_else(|| not_there(&place))?;
        let here = self.text("SELECT @@global.gtid_slave_pos").await?;
        let read = |text: &str| {
            Position::parse(self.dialect(), text).map_err(|error| {
                Refusal::new(Code::N005, "that is not a position").because(error.to_string())
            })
        };
        let (own, place_there) = (read(&here)?, read(&there)?);
        let history = History::parse(self.dialect(), &origin.history)
            .map_err(|error| Refusal::new(Code::N005, "that is not a history").because(error.to_string()))?;
        // After a crash the place may be an older one; the GTID was written with the data.
        if own.reaches(&place_there) && history.has_position(&own) && !own.is_empty() {
            return Ok(());
        }
        if !here.is_empty() {
            return Err(
                not_adopted("it is not where it says that it is, or follows another server")
                    .because(format!("it applied up to {}", words(&place)))
                    .because(format!(
                        "the primary's GTID there: {there:?}; this server's: {here:?}"
                    )),
            );
        }
        // It has applied nothing yet since it was loaded: by position it is where the log is there.
        check_position(&there)?;
        session
            .query(&format!("SET GLOBAL gtid_slave_pos = '{there}'"), PATIENCE)
            .await
            .map(drop)
    }

    async fn number_mysql(
        &self,
        session: &mut Session,
        ticket: &SourceTicket,
        ask: &AskOrigin<'_>,
    ) -> Result<(), Refusal> {
        let status = self.replica_status().await?.unwrap_or_default();
        let place = self.stop_of().await?.place;
        let asked = OriginAsk {
            place: place.clone(),
            new_file: true,
        };
        let origin = ask(asked).await?;
        if status.source_uuid != origin.uuid {
            return Err(not_adopted("it follows another server").because(format!(
                "its source is {:?}, the primary is {}",
                status.source_uuid, origin.uuid
            )));
        }
        if status.by_gtid {
            return Ok(());
        }
        origin.at.ok_or_else(|| not_there(&place))?;
        let Some((file, numbered)) = origin.file else {
            return Err(Refusal::new(Code::N005, "the primary began no new log"));
        };
        check_position(&numbered)?;
        let source = Source {
            address: ticket.address,
            port: ticket.port,
            account: ticket.account.clone(),
            delay_seconds: 0,
        };
        for statement in self.flavor.follow_from(&source, &self.tls_files(), &place) {
            session.query(&statement, PATIENCE).await?;
        }
        session.query(self.flavor.start_replica(), PATIENCE).await?;
        self.reach_file(&file).await?;
        self.halt(session).await?;
        let anonymous = "SHOW GLOBAL STATUS LIKE 'Ongoing_anonymous_transaction_count'";
        let begun = Instant::now();
        while session
            .query(anonymous, PATIENCE)
            .await?
            .first()
            .is_some_and(|row| row.number("Value") > 0)
        {
            if begun.elapsed() > STANDSTILL {
                return Err(not_adopted("transactions without a GTID do not end there"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // What it wrote itself, such as the dump that it was loaded with, is in nobody's history. What it did to the rows is
        // found by comparing them.
        let history = ask(OriginAsk::default()).await?.history;
        check_position(&history)?;
        let own = "@@global.gtid_executed";
        let alone = self
            .text(&format!("SELECT GTID_SUBTRACT({own}, '{history}')"))
            .await?;
        let lacking = self
            .text(&format!("SELECT GTID_SUBTRACT('{numbered}', {own})"))
            .await?;
        if !alone.is_empty() || !lacking.is_empty() {
            let applied = self
                .text(&format!("SELECT GTID_SUBTRACT({own}, '{alone}')"))
                .await?;
            let noted: Vec<&str> = [applied.as_str(), numbered.as_str()]
                .into_iter()
                .filter(|set| !set.is_empty())
                .collect();
            // MySQL 8.2 renamed it. The log that this begins anew is Pontoon's; the one before stays where it is.
            let forget = "RESET BINARY LOGS AND GTIDS";
            if session.query(forget, PATIENCE).await.is_err() {
                session.query("RESET MASTER", PATIENCE).await?;
            }
            let noted = format!("SET GLOBAL gtid_purged = '{}'", noted.join(","));
            session.query(&noted, PATIENCE).await?;
        }
        session
            .query("SET GLOBAL gtid_mode = ON", PATIENCE)
            .await
            .map(drop)
    }

    /// Waits until it has applied everything before that file of its source's log.
    async fn reach_file(&self, file: &str) -> Result<(), Refusal> {
        let mut last = (LogPlace::default(), Instant::now());
        loop {
            self.refuse_broken().await?;
            let stop = self.stop_of().await?;
            if number(&stop.place.file) >= number(file) {
                return Ok(());
            }
            if stop.place != last.0 {
                last = (stop.place.clone(), Instant::now());
            }
            if last.1.elapsed() > STANDSTILL {
                return Err(not_adopted("it does not catch up with the primary")
                    .because(format!("it has been at {} for a minute", words(&stop.place)))
                    .because(stop.receiving_message));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn text(&self, statement: &str) -> Result<String, Refusal> {
        let rows = self.control.query(statement).await?;
        let text = rows.first().and_then(|row| row.first()).unwrap_or_default();
        Ok(text.replace(['\n', ' '], ""))
    }
}

/// Settings that a replica shares with its source, without those that belong to its own files.
pub fn adoptable(inherited: &[pontoon_helper::Setting]) -> Vec<pontoon_helper::Setting> {
    let of_files = [
        "innodb_page_size",
        "innodb_data_file_path",
        "lower_case_table_names",
    ];
    let shared = inherited
        .iter()
        .filter(|setting| !of_files.contains(&setting.name.as_str()));
    shared.cloned().collect()
}

/// Refuses to go on with the replica that is there.
pub(crate) fn not_adopted(why: &str) -> Refusal {
    Refusal::new(Code::D016, "the replica that is here is not taken over").because(why)
}

fn not_there(place: &LogPlace) -> Refusal {
    not_adopted("the primary's binary log does not have the place where it is")
        .because(format!("it applied up to {}", words(place)))
        .because(
            "the primary deleted that file, writes another log now, or is not the server that it followed",
        )
}

fn words(place: &LogPlace) -> String {
    format!("{} of {}", place.offset, place.file)
}

/// The number at the end of a log's name.
fn number(file: &str) -> u64 {
    let digits = file.rsplit('.').next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use pontoon_helper::Setting;

    use super::*;

    #[test]
    fn files_of_a_log_come_one_after_the_other() {
        assert!(number("mysql-bin.000010") > number("mysql-bin.000009"));
        assert!(number("b.1000000") > number("b.999999"));
        assert_eq!(number("nonsense"), 0);
    }

    #[test]
    fn what_belongs_to_the_files_of_a_server_is_not_taken_from_another() {
        let settings = ["innodb_page_size", "sql_mode", "lower_case_table_names"];
        let settings = settings.map(|name| Setting::new(name, "x"));
        assert_eq!(adoptable(&settings), [Setting::new("sql_mode", "x")]);
    }
}
