//! One database answers: [`Database::look`]. Plain consistent reads that lock no row, each bounded in time on the server's
//! side too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pontoon_fleet::{Code, Engine, Refusal};
use sha2::{Digest as _, Sha256};

use super::question::{
    Answer, Ask, Column, Digest, Form, Inventory, Key, KeyColumn, KeyForm, KeyValue, Range, Reach, Sum, Table,
};
use super::sql;
use crate::control::{Row, Session};
use crate::database::Database;

/// How long one statement may run. The server ends it a little earlier by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest text that is compared byte for byte; longer ones by their digest.
const SHORT_BYTES: u64 = 1024;

/// The longest value that is shown to people, in characters.
const SHOWN: usize = 60;

/// Schemas of the server itself, and Pontoon's own: its heartbeat never stands still.
const OWN: &str = "('mysql', 'sys', 'information_schema', 'performance_schema', 'pontoon')";

impl Database {
    /// Answers a question about rows. Writes nothing, locks no row.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`]; [`Code::N005`] for a question that makes no sense.
    pub async fn look(&self, ask: &Ask) -> Result<Answer, Refusal> {
        if let Ask::Wait { reach } = ask {
            let reached = self.wait_for_position(&reach.position, reach.patience).await?;
            let error = match reached {
                true => None,
                false => self.report().await.error,
            };
            return Ok(Answer::Reached { reached, error });
        }
        let mut session = self.reading().await?;
        match ask {
            Ask::Inventory { only } => self.inventory(&mut session, only).await.map(Answer::Inventory),
            Ask::Sum {
                table,
                range,
                rows,
                reach,
            } => self.sum(&mut session, table, range, *rows, reach.as_ref()).await,
            Ask::Rows {
                table,
                range,
                most,
                reach,
            } => {
                let statement = sql::rows(table, range, *most)?;
                self.digests(&mut session, table, &[statement], reach.as_ref())
                    .await
            }
            Ask::Find { table, keys, reach } => {
                let statements: Result<Vec<String>, Refusal> =
                    keys.chunks(100).map(|keys| sql::find(table, keys)).collect();
                self.digests(&mut session, table, &statements?, reach.as_ref())
                    .await
            }
            Ask::Show { table, keys } => show(&mut session, table, keys).await,
            Ask::Wait { .. } => Err(strange()),
        }
    }

    async fn reading(&self) -> Result<Session, Refusal> {
        let mut session = self.control.session().await?;
        session.query("SET NAMES utf8mb4", PATIENCE).await?;
        session.query(sql::PREPARE, PATIENCE).await?;
        // A client that is gone ends nothing: the server has to.
        let limit = match self.node.engine {
            Engine::Mysql => "SET SESSION max_execution_time = 25000",
            _ => "SET SESSION max_statement_time = 25",
        };
        session.query(limit, PATIENCE).await?;
        session
            .query("SET SESSION TRANSACTION READ ONLY", PATIENCE)
            .await?;
        Ok(session)
    }

    async fn reach(&self, reach: Option<&Reach>) -> Result<bool, Refusal> {
        match reach {
            None => Ok(true),
            Some(reach) => self.wait_for_position(&reach.position, reach.patience).await,
        }
    }

    async fn sum(
        &self,
        session: &mut Session,
        table: &Table,
        range: &Range,
        rows: Option<u64>,
        reach: Option<&Reach>,
    ) -> Result<Answer, Refusal> {
        let asked = Instant::now();
        let reached = self.reach(reach).await?;
        let waited_ms = millis(asked.elapsed());
        if !reached {
            return Ok(Answer::Sum {
                sum: None,
                until: None,
                position: String::new(),
                took_us: 0,
                waited_ms,
            });
        }
        let begun = Instant::now();
        let mut range = range.clone();
        if let (Some(rows), Some(key)) = (rows, &table.key) {
            let bound = sql::bound(table, key, range.after.as_ref(), rows)?;
            let found = session.query(&bound, PATIENCE).await?;
            range.until = found.first().map(|row| key_of(row, key.columns.len()));
        }
        let found = session.query(&sql::sum(table, &range)?, PATIENCE).await?;
        let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let sum = found.first().map_or(Sum::default(), |row| Sum {
            rows: row.number("n"),
            high: row.number("high"),
            low: row.number("low"),
        });
        Ok(Answer::Sum {
            sum: Some(sum),
            until: range.until,
            position: self.position().await?,
            took_us,
            waited_ms,
        })
    }

    async fn digests(
        &self,
        session: &mut Session,
        table: &Table,
        statements: &[String],
        reach: Option<&Reach>,
    ) -> Result<Answer, Refusal> {
        if !self.reach(reach).await? {
            return Ok(Answer::Rows {
                rows: None,
                position: String::new(),
            });
        }
        let columns = table.key.as_ref().map_or(1, |key| key.columns.len());
        let mut rows: Vec<Digest> = Vec::new();
        for statement in statements {
            let found = session.query(statement, PATIENCE).await?;
            rows.extend(found.iter().map(|row| {
                let digest = row.get("d").unwrap_or_default().to_owned();
                (key_of(row, columns), digest)
            }));
        }
        Ok(Answer::Rows {
            rows: Some(rows),
            position: self.position().await?,
        })
    }

    async fn inventory(&self, session: &mut Session, only: &[String]) -> Result<Inventory, Refusal> {
        let wanted = |row: &Row| only.is_empty() || only.contains(&of(row));
        let columns = session
            .query(
                &format!(
                    "SELECT table_schema AS s, table_name AS t, column_name AS c, data_type AS d, \
                     character_set_name AS cs, collation_name AS co, character_octet_length AS o, extra AS x, \
                     is_nullable AS nu FROM information_schema.columns WHERE table_schema NOT IN {OWN} \
                     ORDER BY ordinal_position"
                ),
                PATIENCE,
            )
            .await?;
        let indexes = session
            .query(
                &format!(
                    "SELECT table_schema AS s, table_name AS t, index_name AS i, column_name AS c, sub_part AS p \
                     FROM information_schema.statistics WHERE table_schema NOT IN {OWN} AND non_unique = 0 \
                     ORDER BY index_name, seq_in_index"
                ),
                PATIENCE,
            )
            .await?;
        let (columns, indexes) = (by_table(columns), by_table(indexes));
        let tables = session
            .query(
                &format!(
                    "SELECT table_schema AS s, table_name AS t, engine AS e, table_rows AS n \
                     FROM information_schema.tables WHERE table_schema NOT IN {OWN} \
                     AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY table_schema, table_name"
                ),
                PATIENCE,
            )
            .await?;
        let mut found = Vec::new();
        for row in tables.iter().filter(|row| wanted(row)) {
            let empty = Vec::new();
            let columns = columns.get(&of(row)).unwrap_or(&empty);
            let key = key(indexes.get(&of(row)).unwrap_or(&empty), columns);
            let mut table = Table {
                schema: row.get("s").unwrap_or_default().to_owned(),
                name: row.get("t").unwrap_or_default().to_owned(),
                columns: columns.iter().filter_map(column).collect(),
                rows: row.number("n"),
                engine: row.get("e").unwrap_or_default().to_owned(),
                definition: String::new(),
                key_bytes: key_bytes(key.as_ref(), columns),
                key,
            };
            let created = format!("SHOW CREATE TABLE {}", sql::place(&table));
            // One that was dropped meanwhile is missed by the comparison.
            if let Ok(rows) = session.query(&created, PATIENCE).await {
                let text = rows.first().and_then(|row| row.get("Create Table"));
                table.definition = definition(text.unwrap_or_default());
            }
            found.push(table);
        }
        let others = match only.is_empty() {
            true => others(session).await?,
            false => Some(Vec::new()),
        };
        let facts = self.facts().await?;
        Ok(Inventory {
            version: facts.get("version").unwrap_or_default().to_owned(),
            position: self.position().await?,
            tables: found,
            others,
        })
    }
}

async fn show(session: &mut Session, table: &Table, keys: &[KeyValue]) -> Result<Answer, Refusal> {
    let columns = table.key.as_ref().map_or(1, |key| key.columns.len());
    let found = session.query(&sql::show(table, keys)?, PATIENCE).await?;
    let values = |row: &Row| {
        table
            .columns
            .iter()
            .map(|column| (column.name.clone(), row.get(&column.name).map(shortened)))
            .collect()
    };
    Ok(Answer::Show {
        rows: found
            .iter()
            .map(|row| (key_of(row, columns), values(row)))
            .collect(),
    })
}

/// Views, triggers, routines and events with the digests of what makes them. Whether an event is enabled is left out: on a
/// replica none is.
async fn others(session: &mut Session) -> Result<Option<Vec<(String, String)>>, Refusal> {
    let rights = session
        .query(
            "SELECT COUNT(*) AS n FROM information_schema.user_privileges WHERE grantee = '''pontoon''@''localhost''' \
             AND privilege_type IN ('SHOW VIEW', 'TRIGGER')",
            PATIENCE,
        )
        .await?;
    if rights.first().is_none_or(|row| row.number("n") < 2) {
        return Ok(None);
    }
    let mut found = Vec::new();
    for (what, schema, name, made_of, from) in [
        (
            "view",
            "table_schema",
            "table_name",
            "view_definition, check_option, definer, security_type",
            "views",
        ),
        (
            "trigger",
            "trigger_schema",
            "trigger_name",
            "event_object_table, action_timing, event_manipulation, action_statement, definer",
            "triggers",
        ),
        (
            "routine",
            "routine_schema",
            "routine_name",
            "routine_type, dtd_identifier, routine_definition, is_deterministic, security_type, definer",
            "routines",
        ),
        (
            "event",
            "event_schema",
            "event_name",
            "event_definition, event_type, execute_at, interval_value, interval_field, definer",
            "events",
        ),
    ] {
        let statement = format!(
            "SELECT {schema} AS s, {name} AS t, SHA2(CONCAT_WS('|', {made_of}), 256) AS d \
             FROM information_schema.{from} WHERE {schema} NOT IN {OWN}"
        );
        for row in session.query(&statement, PATIENCE).await? {
            let digest = row.get("d").unwrap_or_default().to_owned();
            found.push((format!("{what} {}", of(&row)), digest));
        }
    }
    found.sort();
    Ok(Some(found))
}

fn of(row: &Row) -> String {
    format!(
        "{}.{}",
        row.get("s").unwrap_or_default(),
        row.get("t").unwrap_or_default()
    )
}

fn by_table(rows: Vec<Row>) -> BTreeMap<String, Vec<Row>> {
    let mut tables: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows {
        tables.entry(of(&row)).or_default().push(row);
    }
    tables
}

fn key_of(row: &Row, columns: usize) -> KeyValue {
    (0..columns)
        .map(|at| row.get(&format!("k{at}")).unwrap_or_default().to_owned())
        .collect()
}

/// How a column is compared; `None` for one that is computed when it is read: what it is made of is compared.
fn column(row: &Row) -> Option<Column> {
    let extra = row.get("x").unwrap_or_default().to_ascii_uppercase();
    if extra.contains("VIRTUAL") && extra.contains("GENERATED") {
        return None;
    }
    let kind = row.get("d").unwrap_or_default().to_ascii_lowercase();
    let form = match kind.as_str() {
        "float" | "double" => Form::Float,
        "bit" => Form::Bits,
        "char" | "varchar" | "binary" | "varbinary" if row.number("o") <= SHORT_BYTES => Form::Bytes,
        "enum" | "set" => Form::Bytes,
        "char" | "varchar" | "binary" | "varbinary" | "json" => Form::Long,
        kind if kind.ends_with("text") || kind.ends_with("blob") => Form::Long,
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "date" | "datetime"
        | "timestamp" | "time" | "year" | "uuid" | "inet4" | "inet6" => Form::Plain,
        // Shapes, vectors, and what will be invented.
        _ => Form::Bytes,
    };
    let charset = match kind.as_str() {
        "json" => Some("utf8mb4"),
        _ => row.get("cs"),
    };
    Some(Column {
        name: row.get("c").unwrap_or_default().to_owned(),
        form,
        charset: charset.map(str::to_owned),
        // MySQL says DEFAULT_GENERATED of a default that is an expression.
        generated: extra.contains("STORED GENERATED"),
    })
}

/// The primary key, or else the first unique one that can tell rows apart and be walked along.
fn key(indexes: &[Row], columns: &[Row]) -> Option<Key> {
    let mut found: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in indexes {
        found
            .entry(row.get("i").unwrap_or_default())
            .or_default()
            .push(row);
    }
    let usable = |rows: &Vec<&Row>| -> Option<Vec<KeyColumn>> {
        rows.iter()
            .map(|row| {
                let name = row.get("c")?;
                let column = columns.iter().find(|column| column.get("c") == Some(name))?;
                let whole = row.get("p").is_none() && column.get("nu") == Some("NO");
                whole.then_some(KeyColumn {
                    name: name.to_owned(),
                    form: key_form(column)?,
                })
            })
            .collect()
    };
    let primary = found.get_key_value("PRIMARY").into_iter();
    let others = found.iter().filter(|(index, _)| **index != "PRIMARY");
    primary.chain(others).find_map(|(index, rows)| {
        Some(Key {
            index: (*index).to_owned(),
            columns: usable(rows)?,
        })
    })
}

fn key_form(column: &Row) -> Option<KeyForm> {
    // What is computed when it is read is not among the columns of a row.
    if column
        .get("x")
        .unwrap_or_default()
        .to_ascii_uppercase()
        .contains("VIRTUAL")
    {
        return None;
    }
    Some(
        match column.get("d").unwrap_or_default().to_ascii_lowercase().as_str() {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "year" => KeyForm::Number,
            "date" | "datetime" | "timestamp" | "time" | "uuid" | "inet4" | "inet6" => KeyForm::Quoted,
            "binary" | "varbinary" => KeyForm::Bytes,
            "char" | "varchar" => KeyForm::Text {
                charset: column.get("cs")?.to_owned(),
                collation: column.get("co")?.to_owned(),
            },
            // ENUM and SET are ordered by number and compared as text; a floating point is equal to nothing.
            _ => return None,
        },
    )
}

fn key_bytes(key: Option<&Key>, columns: &[Row]) -> u64 {
    let of = |name: &str| {
        let column = columns.iter().find(|column| column.get("c") == Some(name));
        column.map_or(8, |column| column.number("o").max(8))
    };
    key.map_or(64, |key| key.columns.iter().map(|column| of(&column.name)).sum())
}

/// The next number that a table will give out is not part of what it is.
fn definition(text: &str) -> String {
    let mut kept = String::new();
    for (at, part) in text.split(" AUTO_INCREMENT=").enumerate() {
        kept.push_str(match at {
            0 => part,
            _ => part.trim_start_matches(|c: char| c.is_ascii_digit()),
        });
    }
    let digest = Sha256::digest(kept.as_bytes());
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Two long values that differ somewhere are shown differently.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => {
            let digest = Sha256::digest(text.as_bytes());
            let digits: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{}… ({} bytes, SHA-256 {digits}…)", &text[..at], text.len())
        }
        None => text.to_owned(),
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The answer of another kind than was asked for.
pub(crate) fn strange() -> Refusal {
    Refusal::new(
        Code::N005,
        "a database's answer is of another kind than the question",
    )
}

#[cfg(test)]
#[path = "look_tests.rs"]
mod tests;
