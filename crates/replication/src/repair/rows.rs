//! Whole rows from one server to another: every value as a number, or in hexadecimal digits with its character set.

use std::time::Duration;

use pontoon_fleet::{Code, Engine, Refusal};

use crate::check::{Column, Form, KeyValue, Table, sql};
use crate::control::Session;
use crate::database::Database;

const PATIENCE: Duration = Duration::from_secs(30);

/// Rows in one statement.
const BATCH: usize = 50;

/// The columns that can be written, in the table's order; `None` for NULL.
pub type FullRow = Vec<Option<String>>;

pub(super) async fn fetch(
    database: &Database,
    table: &Table,
    keys: &[KeyValue],
) -> Result<Vec<FullRow>, Refusal> {
    let columns = written(table);
    let selected: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            format!(
                "{} AS v{at}, {1} IS NULL AS n{at}",
                value(column),
                sql::name(&column.name)
            )
        })
        .collect();
    let mut session = prepared(database).await?;
    let mut found = Vec::new();
    for keys in keys.chunks(BATCH) {
        let statement = format!(
            "SELECT {} FROM {} WHERE {}",
            selected.join(", "),
            sql::place(table),
            sql::these(table, keys)?
        );
        for row in session.query(&statement, PATIENCE).await? {
            let mut values = FullRow::new();
            for at in 0..columns.len() {
                let value = row.get(&format!("v{at}"));
                if value.is_none() && row.number(&format!("n{at}")) == 0 {
                    // Longer than what a statement may carry.
                    return Err(Refusal::new(Code::D013, "a value is too long to be carried over"));
                }
                values.push(value.map(str::to_owned));
            }
            found.push(values);
        }
    }
    Ok(found)
}

pub(super) async fn put(
    database: &Database,
    table: &Table,
    keys: &[KeyValue],
    rows: &[FullRow],
) -> Result<(), Refusal> {
    let mut session = prepared(database).await?;
    refuse_triggers(&mut session, table).await?;
    let columns = written(table);
    let names: Vec<String> = columns.iter().map(|column| sql::name(&column.name)).collect();
    let mut statements = Vec::new();
    for keys in keys.chunks(BATCH) {
        statements.push(format!(
            "DELETE FROM {} WHERE {}",
            sql::place(table),
            sql::these(table, keys)?
        ));
    }
    for row in rows {
        if row.len() != columns.len() {
            return Err(Refusal::new(Code::N005, "a row has other columns than its table"));
        }
        let values: Result<Vec<String>, Refusal> = columns
            .iter()
            .zip(row)
            .map(|(column, value)| literal(column, value.as_deref()))
            .collect();
        // In place of whatever has one of its unique values.
        statements.push(format!(
            "REPLACE INTO {} ({}) VALUES ({})",
            sql::place(table),
            names.join(", "),
            values?.join(", ")
        ));
    }
    let opened = database.node().engine == Engine::Mysql;
    if opened {
        // It refuses everybody; `read_only` goes on refusing all but this account.
        database.control().query("SET GLOBAL super_read_only = 0").await?;
    }
    let outcome = write(&mut session, &statements).await;
    if opened {
        database.control().query("SET GLOBAL super_read_only = 1").await?;
    }
    outcome
}

/// All or nothing: a connection that ends before the COMMIT leaves nothing.
async fn write(session: &mut Session, statements: &[String]) -> Result<(), Refusal> {
    for statement in [
        "SET SESSION sql_log_bin = 0",
        "SET SESSION foreign_key_checks = 0",
        "START TRANSACTION",
    ] {
        session.query(statement, PATIENCE).await?;
    }
    for statement in statements {
        session.query(statement, PATIENCE).await?;
    }
    session.query("COMMIT", PATIENCE).await.map(drop)
}

async fn prepared(database: &Database) -> Result<Session, Refusal> {
    let mut session = database.control().session().await?;
    session.query("SET NAMES utf8mb4", PATIENCE).await?;
    session.query(sql::PREPARE, PATIENCE).await?;
    Ok(session)
}

async fn refuse_triggers(session: &mut Session, table: &Table) -> Result<(), Refusal> {
    let hex = |text: &str| -> String { text.bytes().map(|byte| format!("{byte:02x}")).collect() };
    let triggers = session
        .query(
            &format!(
                "SELECT trigger_name AS t FROM information_schema.triggers WHERE \
                 event_object_schema = CONVERT(X'{}' USING utf8mb4) AND event_object_table = CONVERT(X'{}' USING utf8mb4)",
                hex(&table.schema),
                hex(&table.name)
            ),
            PATIENCE,
        )
        .await?;
    match triggers.first().and_then(|row| row.get("t")) {
        None => Ok(()),
        Some(trigger) => Err(Refusal::new(
            Code::D013,
            format!("rows of {} are not put right one by one", table.full_name()),
        )
        .because(format!("its trigger {trigger} would fire and write elsewhere"))),
    }
}

/// The columns that can be given a value.
fn written(table: &Table) -> Vec<&Column> {
    table.columns.iter().filter(|column| !column.generated).collect()
}

fn value(column: &Column) -> String {
    let it = sql::name(&column.name);
    match column.form {
        Form::Plain => format!("CONCAT({it})"),
        Form::Float => format!("CONCAT({it} * 1e0)"),
        Form::Bits => format!("CONCAT({it} + 0)"),
        Form::Bytes | Form::Long => format!("HEX({it})"),
    }
}

fn literal(column: &Column, value: Option<&str>) -> Result<String, Refusal> {
    let wrong = || Refusal::new(Code::N005, "a value is not what its column holds");
    let Some(value) = value else {
        return Ok("NULL".to_owned());
    };
    let made_of = |allowed: &str| {
        value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || allowed.contains(c))
    };
    match column.form {
        Form::Plain if made_of(":. -") => Ok(format!("'{value}'")),
        Form::Float if made_of("+-.") && !value.is_empty() => Ok(format!("'{value}'")),
        Form::Bits if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(value.to_owned())
        }
        Form::Bytes | Form::Long
            if value.len().is_multiple_of(2) && value.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            match &column.charset {
                None => Ok(format!("X'{value}'")),
                Some(charset) if charset.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
                    Ok(format!("_{charset} X'{value}'"))
                }
                Some(_) => Err(wrong()),
            }
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_becomes_a_literal_of_its_kind_or_is_refused() {
        let column = |form, charset: Option<&str>| Column {
            name: "c".to_owned(),
            form,
            charset: charset.map(str::to_owned),
            generated: false,
        };
        let good = |form, charset, value| literal(&column(form, charset), value).unwrap();
        assert_eq!(good(Form::Plain, None, None), "NULL");
        assert_eq!(good(Form::Plain, None, Some("-1.5")), "'-1.5'");
        assert_eq!(good(Form::Bits, None, Some("5")), "5");
        assert_eq!(good(Form::Float, None, Some("1e-10")), "'1e-10'");
        assert_eq!(good(Form::Bytes, Some("latin1"), Some("FC")), "_latin1 X'FC'");
        assert_eq!(good(Form::Long, None, Some("")), "X''");
        for (form, charset, value) in [
            (Form::Plain, None, "' OR 1"),
            (Form::Float, None, "1)"),
            (Form::Bits, None, "b"),
            (Form::Bytes, None, "F"),
            (Form::Bytes, Some("latin1 X''"), "FC"),
        ] {
            let refusal = literal(&column(form, charset), Some(value)).unwrap_err();
            assert_eq!(refusal.code, Code::N005, "{form:?} {value}");
        }
    }
}
