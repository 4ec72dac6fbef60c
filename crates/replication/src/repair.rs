//! A replica that stopped at a transaction gets on: what stops it and which tables that touches ([`Database::stop_of`],
//! [`Database::events`]), the one step past it ([`Database::step_over`]), rows as the primary has them
//! ([`Database::rows_of`], [`Database::put_rows`]).
//!
//! **The ladder.** Only two errors are stepped over: a row that is there already (1062) and one that is not there (1032). Then
//! the replica's rows are not what the primary's log builds on: some differ already, and stepping over makes that visible, not
//! worse. The step is taken by the database itself, in the mode `IDEMPOTENT`: what would be inserted replaces, what would be
//! deleted may be missing; only an update of a missing row is lost. For as long as that mode lasts the tables of the
//! transactions applied are noted, compared afterwards ([`check`](crate::check)), and rows that differ are fetched from the
//! primary by their key. Nothing is skipped by counting.
//!
//! **The way past everything else** is [`Database::skip`]: the whole transaction is left out, whatever it did. What it touches
//! is compared afterwards too, and only an operator who accepts that it may differ asks for it.
//!
//! **Never both threads.** Only applying is stopped and started: a MariaDB whose threads are both stopped throws away what it
//! received, which may be what a dead primary acknowledged.

use std::time::{Duration, Instant};

use pontoon_fleet::{Code, Engine, Refusal};
use serde::{Deserialize, Serialize};

use crate::check::{KeyValue, Table};
use crate::control::Row;
use crate::database::Database;

mod rows;

pub use rows::FullRow;

/// How long a statement here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the one transaction may take.
const STEP: Duration = Duration::from_secs(60);

/// Events that are read at a time.
const PAGE: usize = 1_000;

/// A replica has a transaction of its own where its source's next one belongs (`ER_GTID_STRICT_OUT_OF_ORDER`).
const OUT_OF_ORDER: u64 = 1950;

/// More are not looked through.
const MOST_EVENTS: usize = 200_000;

/// A place in the primary's binary log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlace {
    /// The file.
    pub file: String,
    /// The offset.
    pub offset: u64,
}

/// How applying stands on a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Whether it applies.
    pub applying: bool,
    /// The number of the error that stopped it; 0 for none.
    pub error: u64,
    /// The error in the database's words.
    pub message: String,
    /// The number of the error that keeps it from receiving; 0 for none.
    pub receiving_error: u64,
    /// The same in words.
    pub receiving_message: String,
    /// The transaction that failed, where the database says so: with several appliers it is not the next one of the log.
    pub transaction: Option<String>,
    /// Up to where in the primary's log everything is applied.
    pub place: LogPlace,
    /// What it has applied.
    pub applied: String,
    /// Whether it passes over rows that differ: a step was not finished.
    pub lenient: bool,
}

/// What a part of the primary's log does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// The transaction that was asked for.
    pub transaction: Option<String>,
    /// Its statements, if the log has them.
    pub statements: Vec<String>,
    /// The tables that its rows are of.
    pub tables: Vec<String>,
    /// The tables of the whole part.
    pub all_tables: Vec<String>,
}

impl Database {
    /// How applying stands here.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`]; [`Code::D013`] when this server follows nobody.
    pub async fn stop_of(&self) -> Result<Stop, Refusal> {
        let rows = self.control.query(self.flavor.replica_status()).await?;
        let row = rows
            .first()
            .ok_or_else(|| Refusal::new(Code::D013, "this database follows nobody"))?;
        let said = |names: [&str; 2]| names.iter().find_map(|name| row.get(name)).unwrap_or_default();
        let facts = self.facts().await?;
        let mut stop = Stop {
            applying: said(["Slave_SQL_Running", "Replica_SQL_Running"]) == "Yes",
            error: row.number("Last_SQL_Errno"),
            message: said(["Last_SQL_Error", "Last_SQL_Error"]).to_owned(),
            transaction: None,
            receiving_error: row.number("Last_IO_Errno"),
            receiving_message: said(["Last_IO_Error", "Last_IO_Error"]).to_owned(),
            place: LogPlace {
                file: said(["Relay_Master_Log_File", "Relay_Source_Log_File"]).to_owned(),
                offset: said(["Exec_Master_Log_Pos", "Exec_Source_Log_Pos"])
                    .parse()
                    .unwrap_or(0),
            },
            applied: facts.get("applied").unwrap_or_default().replace(['\n', ' '], ""),
            lenient: facts.get("exec_mode") == Some("IDEMPOTENT"),
        };
        if self.node.engine == Engine::Mysql && stop.error != 0 {
            // Of several appliers the first one that failed says why.
            let workers = "SELECT last_error_message AS m FROM performance_schema.replication_applier_status_by_worker \
                           WHERE last_error_number <> 0 ORDER BY last_error_timestamp LIMIT 1";
            if let Some(row) = self.control.query(workers).await?.first() {
                stop.message = row.get("m").unwrap_or_default().to_owned();
            }
            stop.transaction = named_in(&stop.message);
        }
        Ok(stop)
    }

    /// What this primary's log has from `from` on: one transaction (the first, if it is not named), and all tables up to
    /// `until`, or up to its end.
    ///
    /// # Errors
    /// [`Code::D013`] when the log does not have it any more, or it is too much; [`Code::N005`] for a file that is none.
    pub async fn events(
        &self,
        from: &LogPlace,
        transaction: Option<&str>,
        until: Option<&LogPlace>,
    ) -> Result<Events, Refusal> {
        let mut found = Events::default();
        let mut at = from.clone();
        let (mut is_it, mut seen) = (false, 0);
        loop {
            check_file(&at.file)?;
            let page = format!(
                "SHOW BINLOG EVENTS IN '{}' FROM {} LIMIT {PAGE}",
                at.file, at.offset
            );
            let rows = self.control.query(&page).await.map_err(|refusal| {
                Refusal::new(
                    Code::D013,
                    "the primary's binary log does not have that transaction any more",
                )
                .because(refusal.evidence.last().cloned().unwrap_or_default())
            })?;
            for row in &rows {
                at.offset = row.number("End_log_pos");
                let begins = row.number("Pos");
                if until.is_some_and(|until| until.file == at.file && begins >= until.offset) {
                    return Ok(found);
                }
                if is_beginning(row) {
                    if is_it && until.is_none() {
                        return Ok(found);
                    }
                    let gtid = gtid_of(row.get("Info").unwrap_or_default());
                    is_it = found.transaction.is_none() && transaction.is_none_or(|wanted| wanted == gtid);
                    if is_it {
                        found.transaction = Some(gtid);
                    }
                }
                note(row, is_it, &mut found);
            }
            seen += rows.len();
            if seen > MOST_EVENTS {
                return Err(Refusal::new(
                    Code::D013,
                    "too much has happened since the transaction that failed",
                )
                .because(format!("more than {MOST_EVENTS} events")));
            }
            if rows.len() < PAGE {
                // The end of this file: the transaction may be in the next one.
                match self.log_after(&at.file).await? {
                    Some(next) if until.is_some() || found.transaction.is_none() => {
                        at = LogPlace {
                            file: next,
                            offset: 4,
                        };
                    }
                    _ => return Ok(found),
                }
            }
        }
    }

    async fn log_after(&self, file: &str) -> Result<Option<String>, Refusal> {
        let logs = self.control.query("SHOW BINARY LOGS").await?;
        let mut names = logs.iter().filter_map(|row| row.get("Log_name"));
        names.find(|name| *name == file);
        Ok(names.next().map(str::to_owned))
    }

    /// Lets a replica that stopped at 1062 or 1032 apply that transaction in the mode `IDEMPOTENT`, and go on in the strict one.
    /// Says up to where the other mode lasted. One that was left in that mode gets the strict one.
    ///
    /// # Errors
    /// [`Code::D013`] when it does not get on even so; it is in the strict mode again then.
    pub async fn step_over(&self) -> Result<LogPlace, Refusal> {
        let stop = self.stop_of().await?;
        if stop.applying && stop.lenient {
            self.stop_applying().await?;
            self.set_mode("STRICT").await?;
            self.control.query(self.flavor.start_applying()).await?;
            return Ok(self.stop_of().await?.place);
        }
        if stop.applying || !matches!(stop.error, 1032 | 1062) {
            return Err(
                Refusal::new(Code::D013, "the replica is not stopped by a row that differs")
                    .because(stop.message),
            );
        }
        self.set_mode("IDEMPOTENT").await?;
        let passed = self.pass(&stop).await;
        // Whatever came of it. Should this process die before: `db status` names the mode, and this is done again.
        self.stop_applying().await?;
        self.set_mode("STRICT").await?;
        let until = self.stop_of().await?.place;
        passed?;
        self.control.query(self.flavor.start_applying()).await?;
        Ok(until)
    }

    /// Leaves out the one transaction that a replica stopped at, and lets it go on. On MariaDB by
    /// `sql_slave_skip_counter`, on MySQL by an empty transaction of that name.
    ///
    /// # Errors
    /// [`Code::D013`] when it did not stop at a transaction, or that cannot be left out; [`Code::D008`] with the database's
    /// own word against it.
    pub async fn skip(&self) -> Result<(), Refusal> {
        let stop = self.stop_of().await?;
        let no = |why: String| {
            Refusal::new(Code::D013, "there is no transaction that could be skipped").because(why)
        };
        if stop.applying || stop.error == 0 {
            return Err(no("the replica did not stop at one".to_owned()));
        }
        if stop.error == OUT_OF_ORDER {
            return Err(no(stop.message));
        }
        let mut session = self.control.session().await?;
        match self.node.engine {
            Engine::Mysql => {
                let Some(name) = &stop.transaction else {
                    return Err(no("the database does not name it".to_owned()));
                };
                crate::database::check_position(name)?;
                for statement in [
                    format!("SET SESSION gtid_next = '{name}'"),
                    "BEGIN".to_owned(),
                    "COMMIT".to_owned(),
                    "SET SESSION gtid_next = 'AUTOMATIC'".to_owned(),
                ] {
                    session.query(&statement, PATIENCE).await?;
                }
            }
            _ => {
                let skip = "SET GLOBAL sql_slave_skip_counter = 1";
                session.query(skip, PATIENCE).await?;
            }
        }
        self.pass(&stop).await
    }

    async fn pass(&self, stop: &Stop) -> Result<(), Refusal> {
        self.control.query(self.flavor.start_applying()).await?;
        let begun = Instant::now();
        loop {
            let now = self.stop_of().await?;
            if now.applied != stop.applied {
                return Ok(());
            }
            if !now.applying || begun.elapsed() > STEP {
                return Err(
                    Refusal::new(Code::D013, "the transaction fails whatever the rows are")
                        .because(now.message),
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stop_applying(&self) -> Result<(), Refusal> {
        let statement = match self.node.engine {
            Engine::Mysql => "STOP REPLICA SQL_THREAD",
            _ => "STOP SLAVE SQL_THREAD",
        };
        let mut session = self.control.session().await?;
        session.query(statement, PATIENCE).await.map(drop)
    }

    async fn set_mode(&self, mode: &str) -> Result<(), Refusal> {
        let name = match self.node.engine {
            Engine::Mysql => "replica_exec_mode",
            _ => "slave_exec_mode",
        };
        self.control
            .query(&format!("SET GLOBAL {name} = '{mode}'"))
            .await
            .map(drop)
    }

    /// Whole rows, for a replica that has others.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`].
    pub async fn rows_of(&self, table: &Table, keys: &[KeyValue]) -> Result<Vec<FullRow>, Refusal> {
        rows::fetch(self, table, keys).await
    }

    /// Makes these rows of a replica what the primary has: `rows` are put in place of what is there, and what the primary
    /// does not have is deleted. Not written to the binary log.
    ///
    /// # Errors
    /// [`Code::D013`] for a table with triggers, which would fire; [`Code::D008`].
    pub async fn put_rows(&self, table: &Table, keys: &[KeyValue], rows: &[FullRow]) -> Result<(), Refusal> {
        rows::put(self, table, keys, rows).await
    }
}

fn is_beginning(row: &Row) -> bool {
    let kind = row.get("Event_type").unwrap_or_default();
    matches!(kind, "Gtid" | "Gtid_tagged" | "Anonymous_Gtid")
}

fn note(row: &Row, is_it: bool, found: &mut Events) {
    let info = row.get("Info").unwrap_or_default();
    match row.get("Event_type").unwrap_or_default() {
        "Table_map" => {
            let Some(table) = table_of(info) else { return };
            if is_it && !found.tables.contains(&table) {
                found.tables.push(table.clone());
            }
            if !found.all_tables.contains(&table) {
                found.all_tables.push(table);
            }
        }
        "Annotate_rows" | "Rows_query" if is_it => found.statements.push(info.to_owned()),
        "Query" if is_it && !matches!(info, "BEGIN" | "COMMIT") => found.statements.push(info.to_owned()),
        _ => {}
    }
}

/// `BEGIN GTID 0-1-7`, `GTID 0-1-7`, `SET @@SESSION.GTID_NEXT= '…:7'`.
fn gtid_of(info: &str) -> String {
    let last = info
        .split_whitespace()
        .find(|word| word.contains('-'))
        .unwrap_or(info);
    last.trim_matches('\'').to_owned()
}

/// `Worker 1 failed executing transaction '…:83' at source log …`.
fn named_in(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("transaction '")?;
    Some(rest.split_once('\'')?.0.to_owned())
}

/// `table_id: 22 (app.t)`.
fn table_of(info: &str) -> Option<String> {
    let (_, rest) = info.split_once('(')?;
    Some(rest.strip_suffix(')')?.to_owned())
}

fn check_file(file: &str) -> Result<(), Refusal> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match !file.is_empty() && file.chars().all(good) {
        true => Ok(()),
        false => {
            Err(Refusal::new(Code::N005, "that is not the name of a binary log").because(format!("{file:?}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, info: &str) -> Row {
        let text = |text: &str| Some(text.to_owned());
        Row::new(vec![
            ("Event_type".to_owned(), text(kind)),
            ("Info".to_owned(), text(info)),
        ])
    }

    #[test]
    fn both_engines_events_are_read() {
        for (gtid, expected) in [
            ("BEGIN GTID 0-1-7", "0-1-7"),
            ("GTID 0-1-8", "0-1-8"),
            (
                "SET @@SESSION.GTID_NEXT= '3e11fa47-71ca-11e1-9e33-c80aa9429562:7'",
                "3e11fa47-71ca-11e1-9e33-c80aa9429562:7",
            ),
        ] {
            assert_eq!(gtid_of(gtid), expected);
        }
        let mut found = Events::default();
        note(&event("Table_map", "table_id: 22 (app.t)"), true, &mut found);
        note(&event("Annotate_rows", "UPDATE t SET a = 1"), true, &mut found);
        note(&event("Query", "COMMIT"), true, &mut found);
        note(&event("Table_map", "table_id: 23 (app.later)"), false, &mut found);
        assert_eq!(found.tables, ["app.t"]);
        assert_eq!(found.all_tables, ["app.t", "app.later"]);
        assert_eq!(found.statements, ["UPDATE t SET a = 1"]);
        let message = "Worker 1 failed executing transaction '3519643d-e713-11f1-b001-02fc00000001:83' at source log x, end";
        assert_eq!(
            named_in(message).as_deref(),
            Some("3519643d-e713-11f1-b001-02fc00000001:83")
        );
        assert_eq!(named_in("Could not execute"), None);
    }

    #[test]
    fn a_files_name_cannot_carry_a_statement() {
        check_file("pontoon-bin.000001").unwrap();
        for bad in ["", "a'", "../x", "a b"] {
            assert_eq!(check_file(bad).unwrap_err().code, Code::N005, "{bad}");
        }
    }
}
