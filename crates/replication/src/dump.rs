//! A dump of this server for a joiner. It is one moment of the tables, taken without a lock that lasts; what a dump
//! cannot hold to one moment is refused beforehand (tables without transactions), or found afterwards and the dump thrown
//! away (definitions and accounts that were changed meanwhile).

use std::time::Duration;

use pontoon_fleet::{Code, Engine, Refusal};
use pontoon_helper::DumpOptions;
use pontoon_helper::frame::{self, Frame};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::control::{Row, Session};
use crate::database::Database;

/// How long it may take to read all definitions.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long the lock for the moment of MySQL's snapshot may be waited for. Writes wait behind it meanwhile, and it waits
/// for statements that run.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// What a dump begins with is smaller.
const HEAD_BYTES: usize = 256 << 10;

/// Schemas of the server's own.
const OWN_SCHEMAS: &str = "'mysql', 'sys', 'information_schema', 'performance_schema'";

/// Accounts of the server's own.
const OWN_ACCOUNTS: &str = "'mysql.sys', 'mysql.session', 'mysql.infoschema', 'mariadb.sys', 'PUBLIC'";

/// How many tables a refusal names.
const NAMED: usize = 8;

/// MariaDB dumps the history of its tables from this version on.
const HISTORY_SINCE: (u32, u32) = (10, 11);

impl Database {
    /// Refuses a database that one moment of a dump would not hold.
    ///
    /// # Errors
    /// [`Code::D017`] with the tables; [`Code::N002`], [`Code::D008`].
    pub(crate) async fn check_consistent(&self) -> Result<(), Refusal> {
        let without_transactions = format!(
            "SELECT CONCAT(table_schema, '.', table_name, ' (', COALESCE(engine, 'unreadable'), ')') AS name \
             FROM information_schema.tables WHERE table_schema NOT IN ({OWN_SCHEMAS}) \
             AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE') \
             AND COALESCE(engine, '') NOT IN ('InnoDB', 'BLACKHOLE') ORDER BY 1"
        );
        let mut session = self.control.session().await?;
        let rows = session.query(&without_transactions, PATIENCE).await?;
        if !rows.is_empty() {
            let (names, first) = (texts(&rows), texts(&rows).into_iter().next().unwrap_or_default());
            let table = first.split(" (").next().unwrap_or_default().replace('.', "`.`");
            return Err(
                Refusal::new(Code::D017, "a dump of this database would not be of one moment")
                    .because(format!("tables without transactions: {}", named(&names)))
                    .next("make them InnoDB", format!("ALTER TABLE `{table}` ENGINE=InnoDB"))
                    .next(
                        "or let the files be copied: see what they need",
                        "pontoon explain D007",
                    ),
            );
        }
        let version = self.version()?;
        if (version.major, version.minor) < HISTORY_SINCE && self.keeps_history(&mut session).await? {
            return Err(
                Refusal::new(Code::D017, "a dump of this database would leave out a part")
                    .because("tables WITH SYSTEM VERSIONING: this version does not dump their history"),
            );
        }
        Ok(())
    }

    async fn keeps_history(&self, session: &mut Session) -> Result<bool, Refusal> {
        if self.node.engine == Engine::Mysql {
            return Ok(false);
        }
        let versioned =
            "SELECT 1 FROM information_schema.tables WHERE table_type = 'SYSTEM VERSIONED' LIMIT 1";
        Ok(!session.query(versioned, PATIENCE).await?.is_empty())
    }

    /// Sends a dump of the running database as frames. What goes wrong after the first byte is said in the last frame.
    ///
    /// # Errors
    /// [`Code::D007`] without the tool, [`Code::D017`]; [`Code::N002`] when the receiver is gone.
    pub async fn serve_dump<W: AsyncWrite + Unpin>(
        &self,
        to: &mut W,
        bytes_per_second: Option<u64>,
    ) -> Result<(), Refusal> {
        match self.begin_dump(bytes_per_second).await {
            Ok((before, mut frames)) => self.pass_on(&mut frames, to, &before).await,
            Err(refusal) => {
                // The joiner should hear the reason, not only that the stream ended.
                let _ = frame::write(to, &Frame::Failed(refusal.clone())).await;
                Err(refusal)
            }
        }
    }

    async fn begin_dump(
        &self,
        bytes_per_second: Option<u64>,
    ) -> Result<(String, impl AsyncRead + Unpin + use<>), Refusal> {
        self.check_consistent().await?;
        let mut session = self.control.session().await?;
        let before = self.definitions(&mut session).await?;
        let databases = format!(
            "SELECT schema_name AS name FROM information_schema.schemata WHERE schema_name NOT IN ({OWN_SCHEMAS}) ORDER BY 1"
        );
        let options = DumpOptions {
            databases: texts(&session.query(&databases, PATIENCE).await?),
            accounts: match self.node.engine {
                Engine::Mysql => mysql_accounts(&mut session).await?,
                _ => mariadb_accounts(&mut session).await?,
            },
            history: self.keeps_history(&mut session).await?,
            expected_bytes: self.data_bytes().await,
            bytes_per_second,
        };
        if options.accounts.iter().map(String::len).sum::<usize>() > MOST_ACCOUNT_BYTES {
            return Err(Refusal::new(Code::D017, "there are too many accounts for a dump"));
        }
        Ok((before, self.helper.dump(&options).await?))
    }

    async fn pass_on<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        frames: &mut R,
        to: &mut W,
        before: &str,
    ) -> Result<(), Refusal> {
        let gone = |error: std::io::Error| {
            Refusal::new(Code::N002, "the receiver of the dump is gone").because(error.to_string())
        };
        let held_up = self.end_held_up_lock();
        tokio::pin!(held_up);
        let mut waits = self.node.engine == Engine::Mysql;
        let (mut ended_lock, mut sent) = (None, 0);
        loop {
            let read = tokio::select! {
                read = frame::read(frames) => read,
                why = &mut held_up, if waits => {
                    (waits, ended_lock) = (false, Some(why));
                    continue;
                }
            };
            let frame = read.unwrap_or_else(|error| {
                Frame::Failed(
                    Refusal::new(Code::D003, "the dump failed on the source").because(error.to_string()),
                )
            });
            let frame = match frame {
                Frame::Data(bytes) => {
                    sent += bytes.len();
                    // Its head is before the snapshot, rows are behind it.
                    waits &= sent < HEAD_BYTES;
                    Frame::Data(bytes)
                }
                Frame::End(end) => match self.check_unchanged(before).await {
                    Ok(()) => Frame::End(end),
                    Err(refusal) => Frame::Failed(refusal),
                },
                Frame::Failed(refusal) => Frame::Failed(ended_lock.take().unwrap_or(refusal)),
                progress => progress,
            };
            frame::write(to, &frame).await.map_err(gone)?;
            match frame {
                Frame::End(_) => return to.flush().await.map_err(gone),
                Frame::Failed(refusal) => {
                    to.flush().await.map_err(gone)?;
                    return Err(refusal);
                }
                Frame::Data(_) | Frame::Progress(_) => {}
            }
        }
    }

    /// Waits until the tool's lock has been waited for too long, and ends the tool: nobody's writes wait for a dump.
    async fn end_held_up_lock(&self) -> Refusal {
        let waiting = format!(
            "SELECT id FROM information_schema.processlist WHERE user = 'pontoon' AND time >= {} \
             AND info LIKE 'FLUSH%TABLES%'",
            LOCK_PATIENCE.as_secs()
        );
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let rows = self.control.query(&waiting).await.unwrap_or_default();
            for row in &rows {
                // It may have got its lock meanwhile.
                let _ = self.control.query(&format!("KILL {}", row.number("id"))).await;
            }
            if !rows.is_empty() {
                return Refusal::new(Code::D003, "the dump was ended to keep the source writable")
                    .because("a statement that runs for long held up its lock, and others waited behind it")
                    .next("see which", "SHOW PROCESSLIST");
            }
        }
    }

    async fn check_unchanged(&self, before: &str) -> Result<(), Refusal> {
        let mut session = self.control.session().await?;
        if self.definitions(&mut session).await? == before {
            return Ok(());
        }
        Err(Refusal::new(
            Code::D003,
            "the dump is of no use: definitions changed while it was made",
        )
        .because("tables, views, routines, triggers, events or accounts were made, altered or dropped")
        .next(
            "let such changes rest until the copy is there",
            "pontoon db status",
        ))
    }

    /// All definitions and accounts in a short text that changes when one of them does.
    async fn definitions(&self, session: &mut Session) -> Result<String, Refusal> {
        let accounts = match self.node.engine {
            Engine::Mysql => {
                "CHECKSUM TABLE mysql.user, mysql.db, mysql.tables_priv, mysql.columns_priv, mysql.procs_priv, \
                 mysql.proxies_priv, mysql.role_edges, mysql.default_roles, mysql.global_grants"
            }
            _ => {
                "CHECKSUM TABLE mysql.global_priv, mysql.db, mysql.tables_priv, mysql.columns_priv, \
                 mysql.procs_priv, mysql.proxies_priv, mysql.roles_mapping"
            }
        };
        let mut text = String::new();
        for row in session.query(accounts, PATIENCE).await? {
            text.push_str(row.get("Checksum").unwrap_or("none"));
            text.push(' ');
        }
        let parts: [(&str, &str, &str); 7] = [
            (
                "tables",
                "table_schema",
                "table_name, table_type, COALESCE(create_time, '')",
            ),
            (
                "columns",
                "table_schema",
                "table_name, column_name, ordinal_position, column_type, COALESCE(column_default, ''), is_nullable, extra",
            ),
            (
                "statistics",
                "table_schema",
                "table_name, index_name, seq_in_index, COALESCE(column_name, '')",
            ),
            ("views", "table_schema", "table_name, view_definition"),
            (
                "triggers",
                "trigger_schema",
                "trigger_name, event_object_table, action_statement",
            ),
            (
                "routines",
                "routine_schema",
                "routine_name, routine_type, last_altered",
            ),
            ("events", "event_schema", "event_name, last_altered"),
        ];
        for (table, schema, columns) in parts {
            let statement = format!(
                "SELECT CONCAT(COUNT(*), ':', COALESCE(SUM(CRC32(CONCAT_WS('|', {schema}, {columns}))), 0)) AS n \
                 FROM information_schema.{table} WHERE {schema} NOT IN ({OWN_SCHEMAS})"
            );
            for row in session.query(&statement, PATIENCE).await? {
                text.push_str(row.first().unwrap_or_default());
                text.push(' ');
            }
        }
        Ok(text)
    }
}

/// The accounts ride in one line to the helper.
const MOST_ACCOUNT_BYTES: usize = 700_000;

/// Statements that make the accounts and roles, and then what each may.
async fn mariadb_accounts(session: &mut Session) -> Result<Vec<String>, Refusal> {
    let everybody = format!(
        "SELECT QUOTE(user) AS user, QUOTE(host) AS host, is_role AS is_role FROM mysql.user \
         WHERE user NOT IN ({OWN_ACCOUNTS}) ORDER BY is_role DESC, user, host"
    );
    let rows = session.query(&everybody, PATIENCE).await?;
    let (mut made, mut granted) = (Vec::new(), Vec::new());
    for row in &rows {
        let (user, host) = (
            row.get("user").unwrap_or_default(),
            row.get("host").unwrap_or_default(),
        );
        let is_role = row.get("is_role") == Some("Y");
        let who = match is_role {
            true => user.to_owned(),
            false => format!("{user}@{host}"),
        };
        match is_role {
            true => made.push(format!("CREATE ROLE {who}")),
            false => made.extend(firsts(session, &format!("SHOW CREATE USER {who}")).await?),
        }
        granted.extend(firsts(session, &format!("SHOW GRANTS FOR {who}")).await?);
    }
    let public = "SELECT 1 FROM mysql.global_priv WHERE user = 'PUBLIC'";
    if !session.query(public, PATIENCE).await?.is_empty() {
        granted.extend(firsts(session, "SHOW GRANTS FOR PUBLIC").await?);
    }
    made.extend(without_stale(session, granted).await?);
    Ok(made)
}

/// The same; an account that has roles by default comes after those.
async fn mysql_accounts(session: &mut Session) -> Result<Vec<String>, Refusal> {
    session
        .query("SET SESSION print_identified_with_as_hex = ON", PATIENCE)
        .await?;
    let everybody = format!(
        "SELECT QUOTE(u.user) AS user, QUOTE(u.host) AS host FROM mysql.user u WHERE u.user NOT IN ({OWN_ACCOUNTS}) \
         ORDER BY (SELECT COUNT(*) FROM mysql.default_roles d WHERE d.user = u.user AND d.host = u.host) > 0, u.user, u.host"
    );
    let rows = session.query(&everybody, PATIENCE).await?;
    let (mut made, mut granted) = (Vec::new(), Vec::new());
    for row in &rows {
        let (user, host) = (
            row.get("user").unwrap_or_default(),
            row.get("host").unwrap_or_default(),
        );
        let who = format!("{user}@{host}");
        made.extend(firsts(session, &format!("SHOW CREATE USER {who}")).await?);
        granted.extend(firsts(session, &format!("SHOW GRANTS FOR {who}")).await?);
    }
    made.extend(without_stale(session, granted).await?);
    Ok(made)
}

/// Without grants for tables and routines that are gone: they would be refused.
async fn without_stale(session: &mut Session, grants: Vec<String>) -> Result<Vec<String>, Refusal> {
    let gone = "SELECT DISTINCT CONCAT('ON `', p.db, '`.`', p.table_name, '` TO') AS part FROM mysql.tables_priv p \
                LEFT JOIN information_schema.tables t ON t.table_schema = p.db AND t.table_name = p.table_name \
                WHERE t.table_name IS NULL \
                UNION SELECT DISTINCT CONCAT(p.routine_type, ' `', p.db, '`.`', p.routine_name, '` TO') FROM mysql.procs_priv p \
                LEFT JOIN information_schema.routines r ON r.routine_schema = p.db AND r.routine_name = p.routine_name \
                WHERE r.routine_name IS NULL";
    let gone = texts(&session.query(gone, PATIENCE).await?);
    let stays = |grant: &String| !gone.iter().any(|part| grant.contains(part.as_str()));
    Ok(grants.into_iter().filter(stays).collect())
}

async fn firsts(session: &mut Session, statement: &str) -> Result<Vec<String>, Refusal> {
    Ok(texts(&session.query(statement, PATIENCE).await?))
}

fn texts(rows: &[Row]) -> Vec<String> {
    rows.iter()
        .filter_map(|row| row.first().map(str::to_owned))
        .collect()
}

fn named(names: &[String]) -> String {
    let mut text = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}
