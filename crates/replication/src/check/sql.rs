//! The statements of a comparison, and of what follows from it: from structured questions to text, pure. Names are quoted, values are written as numbers
//! or in hexadecimal digits: nothing that was read from a table or a peer becomes part of a statement otherwise.

use pontoon_fleet::{Code, Refusal};

use super::question::{Column, Form, Key, KeyColumn, KeyForm, KeyValue, Range, Table};

/// A session that reads nothing but what it is asked, the same everywhere: one time zone, one character set, no mode that
/// changes what a text is; it writes nothing, and does not wait behind an ALTER TABLE.
pub(crate) const PREPARE: &str = "SET SESSION time_zone = '+00:00', sql_mode = '', group_concat_max_len = 1048576, \
     lock_wait_timeout = 2";

/// A name as an identifier.
pub(crate) fn name(text: &str) -> String {
    format!("`{}`", text.replace('`', "``"))
}

pub(crate) fn place(table: &Table) -> String {
    format!("{}.{}", name(&table.schema), name(&table.name))
}

/// The text of a column by which it is compared; never NULL, and without the separator.
fn text(column: &Column) -> String {
    let it = name(&column.name);
    let shown = match column.form {
        Form::Plain => format!("CONCAT({it})"),
        Form::Float => format!("CONCAT({it} * 1e0)"),
        Form::Bits => format!("CONCAT({it} + 0)"),
        // An empty text is not NULL.
        Form::Bytes => format!("CONCAT('x', HEX({it}))"),
        Form::Long => format!("SHA2({it}, 256)"),
    };
    format!("IFNULL({shown}, '~')")
}

/// The digest of a row: 64 hexadecimal digits. SHA-256, which every version has built in.
pub(crate) fn digest(table: &Table) -> String {
    let parts: Vec<String> = table.columns.iter().map(text).collect();
    format!("SHA2(CONCAT_WS('|', {}), 256)", parts.join(", "))
}

fn from(table: &Table) -> String {
    match &table.key {
        Some(key) => format!("{} FORCE INDEX ({})", place(table), name(&key.index)),
        None => place(table),
    }
}

/// Count and sums of a range: two pieces of 44 bits of each row's digest, which a million rows do not overflow. Summed, not
/// XORed: equal rows must not cancel each other.
pub(crate) fn sum(table: &Table, range: &Range) -> Result<String, Refusal> {
    let part =
        |from: u32| format!("IFNULL(SUM(CAST(CONV(SUBSTRING(d, {from}, 11), 16, 10) AS UNSIGNED)), 0)");
    Ok(format!(
        "SELECT COUNT(*) AS n, {} AS high, {} AS low FROM (SELECT {} AS d FROM {} WHERE {}) AS x",
        part(1),
        part(12),
        digest(table),
        from(table),
        within(table, range)?
    ))
}

/// The last key of the next `rows` rows.
pub(crate) fn bound(
    table: &Table,
    key: &Key,
    after: Option<&KeyValue>,
    rows: u64,
) -> Result<String, Refusal> {
    let range = Range {
        after: after.cloned(),
        until: None,
    };
    Ok(format!(
        "SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT {}, 1",
        selected(key),
        from(table),
        within(table, &range)?,
        ordered(key),
        rows.saturating_sub(1)
    ))
}

/// Key and digest of each row of a range; without a key digest and count.
pub(crate) fn rows(table: &Table, range: &Range, most: u64) -> Result<String, Refusal> {
    Ok(match &table.key {
        Some(key) => format!(
            "SELECT {}, {} AS d FROM {} WHERE {} ORDER BY {} LIMIT {most}",
            selected(key),
            digest(table),
            from(table),
            within(table, range)?,
            ordered(key)
        ),
        None => format!(
            "SELECT {} AS k0, COUNT(*) AS d FROM {} GROUP BY k0 ORDER BY k0 LIMIT {most}",
            digest(table),
            place(table)
        ),
    })
}

/// The same for these keys.
pub(crate) fn find(table: &Table, keys: &[KeyValue]) -> Result<String, Refusal> {
    let wanted = these(table, keys)?;
    Ok(match &table.key {
        Some(key) => format!(
            "SELECT {}, {} AS d FROM {} WHERE {wanted}",
            selected(key),
            digest(table),
            place(table)
        ),
        None => format!(
            "SELECT k0, COUNT(*) AS d FROM (SELECT {} AS k0 FROM {}) AS x WHERE {wanted} GROUP BY k0",
            digest(table),
            place(table)
        ),
    })
}

/// Everything of these rows. The key comes first, under the names k0, k1, …
pub(crate) fn show(table: &Table, keys: &[KeyValue]) -> Result<String, Refusal> {
    let wanted = these(table, keys)?;
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| match column.form {
            Form::Bits => format!("{0} + 0 AS {0}", name(&column.name)),
            Form::Float => format!("{0} * 1e0 AS {0}", name(&column.name)),
            _ => name(&column.name),
        })
        .collect();
    Ok(match &table.key {
        Some(key) => format!(
            "SELECT {}, {} FROM {} WHERE {wanted}",
            selected(key),
            columns.join(", "),
            place(table)
        ),
        None => format!(
            "SELECT * FROM (SELECT {} AS k0, {} FROM {}) AS x WHERE {wanted} LIMIT {}",
            digest(table),
            columns.join(", "),
            place(table),
            keys.len()
        ),
    })
}

pub(crate) fn these(table: &Table, keys: &[KeyValue]) -> Result<String, Refusal> {
    let Some(key) = &table.key else {
        let digests: Result<Vec<String>, Refusal> = keys
            .iter()
            .map(|key| hex(key.first().map_or("", String::as_str)).map(|digest| format!("'{digest}'")))
            .collect();
        return Ok(format!("k0 IN ({})", digests?.join(", ")));
    };
    let one = |value: &KeyValue| -> Result<String, Refusal> {
        let parts: Result<Vec<String>, Refusal> = pairs(key, value)?
            .map(|(column, value)| Ok(format!("{} = {}", name(&column.name), value_of(column, value)?)))
            .collect();
        Ok(format!("({})", parts?.join(" AND ")))
    };
    let all: Result<Vec<String>, Refusal> = keys.iter().map(one).collect();
    Ok(all?.join(" OR "))
}

/// The condition of a range. `(a, b) > (1, 2)` would not use the index everywhere: it is written out.
fn within(table: &Table, range: &Range) -> Result<String, Refusal> {
    let Some(key) = &table.key else {
        return Ok("1 = 1".to_owned());
    };
    let mut conditions = Vec::new();
    if let Some(after) = &range.after {
        conditions.push(beside(key, after, ">", false)?);
    }
    if let Some(until) = &range.until {
        conditions.push(beside(key, until, "<", true)?);
    }
    Ok(match conditions.is_empty() {
        true => "1 = 1".to_owned(),
        false => conditions.join(" AND "),
    })
}

fn beside(key: &Key, value: &KeyValue, sign: &str, inclusive: bool) -> Result<String, Refusal> {
    let mut equal: Vec<String> = Vec::new();
    let mut cases: Vec<String> = Vec::new();
    let mut lead = None;
    for (column, value) in pairs(key, value)? {
        let (it, value) = (name(&column.name), value_of(column, value)?);
        lead.get_or_insert_with(|| format!("{it} {sign}= {value}"));
        let mut case = equal.clone();
        case.push(format!("{it} {sign} {value}"));
        cases.push(format!("({})", case.join(" AND ")));
        equal.push(format!("{it} = {value}"));
    }
    if inclusive {
        cases.push(format!("({})", equal.join(" AND ")));
    }
    Ok(match lead {
        Some(lead) => format!("{lead} AND ({})", cases.join(" OR ")),
        None => "1 = 1".to_owned(),
    })
}

fn pairs<'a>(
    key: &'a Key,
    value: &'a KeyValue,
) -> Result<impl Iterator<Item = (&'a KeyColumn, &'a str)>, Refusal> {
    if key.columns.len() != value.len() || value.is_empty() {
        return Err(wrong("a key has other columns than its index"));
    }
    Ok(key.columns.iter().zip(value.iter().map(String::as_str)))
}

fn value_of(column: &KeyColumn, value: &str) -> Result<String, Refusal> {
    let made_of = |allowed: &str| {
        let good = |c: char| c.is_ascii_hexdigit() || allowed.contains(c);
        match value.chars().all(good) {
            true => Ok(value),
            false => Err(wrong("a key's value is not what its column holds")),
        }
    };
    let word = |text: &str| match text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        true => Ok(text.to_owned()),
        false => Err(wrong("that is not the name of a character set")),
    };
    Ok(match &column.form {
        KeyForm::Number if value.is_empty() => return Err(wrong("a number is missing")),
        KeyForm::Number => match value.chars().all(|c| c.is_ascii_digit() || "-.".contains(c)) {
            true => value.to_owned(),
            false => return Err(wrong("a key's value is not a number")),
        },
        KeyForm::Quoted => format!("'{}'", made_of(":. -")?),
        KeyForm::Bytes => format!("X'{}'", hex(value)?),
        KeyForm::Text { charset, collation } => {
            format!(
                "_{} X'{}' COLLATE {}",
                word(charset)?,
                hex(value)?,
                word(collation)?
            )
        }
    })
}

fn hex(value: &str) -> Result<&str, Refusal> {
    match value.len().is_multiple_of(2) && value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(value),
        false => Err(wrong("a key's value is not in hexadecimal digits")),
    }
}

fn selected(key: &Key) -> String {
    let columns: Vec<String> = key
        .columns
        .iter()
        .enumerate()
        .map(|(at, column)| match column.form {
            KeyForm::Number | KeyForm::Quoted => format!("{} AS k{at}", name(&column.name)),
            KeyForm::Bytes | KeyForm::Text { .. } => format!("HEX({}) AS k{at}", name(&column.name)),
        })
        .collect();
    columns.join(", ")
}

fn ordered(key: &Key) -> String {
    let columns: Vec<String> = key.columns.iter().map(|column| name(&column.name)).collect();
    columns.join(", ")
}

fn wrong(why: &str) -> Refusal {
    Refusal::new(Code::N005, "a question about rows makes no sense").because(why)
}

#[cfg(test)]
#[path = "sql_tests.rs"]
mod tests;
