//! Checksums by table, to compare two servers that have applied the same transactions.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_fleet::Refusal;

use crate::control::{Control, Row};

/// One checksum and row count for each table: `schema.table` → value.
pub type Checksums = BTreeMap<String, String>;

/// A table in which two servers differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `schema.table`.
    pub table: String,
    /// What the first server has; `None` when it has no such table.
    pub left: Option<String>,
    /// What the second server has.
    pub right: Option<String>,
}

/// How long one table may take.
const PATIENCE: Duration = Duration::from_secs(3600);

impl Control {
    /// The checksums of all base tables of all schemas that are not the server's own, each table in one consistent
    /// read. Sums of row hashes: they do not depend on where rows lie. The heartbeat is left out: it never stands
    /// still. Compare at equal positions only.
    ///
    /// # Errors
    /// [`pontoon_fleet::Code::N002`], [`pontoon_fleet::Code::D008`].
    pub async fn checksums(&self) -> Result<Checksums, Refusal> {
        let mut session = self.session().await?;
        session
            .query("SET SESSION group_concat_max_len = 1048576", PATIENCE)
            .await?;
        // One zone and charset, so that two servers with other defaults hash the same bytes.
        session.query("SET NAMES utf8mb4", PATIENCE).await?;
        session
            .query("SET SESSION time_zone = '+00:00'", PATIENCE)
            .await?;
        let tables = session
            .query(
                "SELECT c.table_schema AS s, c.table_name AS t, \
                 GROUP_CONCAT(CONCAT('`', REPLACE(c.column_name, '`', '``'), '`') ORDER BY c.ordinal_position) AS cols \
                 FROM information_schema.columns c JOIN information_schema.tables t \
                 ON t.table_schema = c.table_schema AND t.table_name = c.table_name \
                 WHERE t.table_type = 'BASE TABLE' AND c.table_schema NOT IN \
                 ('mysql', 'sys', 'information_schema', 'performance_schema') \
                 AND NOT (c.table_schema = 'pontoon' AND c.table_name = 'heartbeat') \
                 GROUP BY c.table_schema, c.table_name",
                PATIENCE,
            )
            .await?;
        let mut sums = Checksums::new();
        for row in &tables {
            let (Some(schema), Some(table), Some(columns)) = (row.get("s"), row.get("t"), row.get("cols"))
            else {
                continue;
            };
            let found = session
                .query(&statement(schema, table, columns), PATIENCE)
                .await?;
            let value = found.first().map_or_else(String::new, |row: &Row| {
                format!(
                    "{} rows {:016x}{:016x}",
                    row.number("n"),
                    row.number("a"),
                    row.number("b")
                )
            });
            sums.insert(format!("{schema}.{table}"), value);
        }
        Ok(sums)
    }
}

/// The tables in which `left` and `right` differ.
pub fn differences(left: &Checksums, right: &Checksums) -> Vec<Difference> {
    let tables: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    tables
        .into_iter()
        .filter(|table| left.get(*table) != right.get(*table))
        .map(|table| Difference {
            table: table.clone(),
            left: left.get(table).cloned(),
            right: right.get(table).cloned(),
        })
        .collect()
}

/// A row's hash is two pieces of its columns' SHA-256 (MySQL 9 has no SHA1() or MD5() built in any more). XOR over rows would cancel equal rows; the halves are summed, which
/// counts them.
fn statement(schema: &str, table: &str, columns: &str) -> String {
    let name = |text: &str| text.replace('`', "``");
    let parts: Vec<String> = split_columns(columns)
        .into_iter()
        // NULL and '' must differ, and so must ('a','bc') and ('ab','c'): each value carries its length.
        .map(|column| format!("IFNULL(CONCAT(LENGTH({column}), ':', HEX({column})), '-')"))
        .collect();
    let hash = format!("SHA2(CONCAT_WS(',', {}), 256)", parts.join(", "));
    let half = |from: u32| {
        format!("CAST(SUM(CAST(CONV(SUBSTRING(h, {from}, 12), 16, 10) AS UNSIGNED)) AS UNSIGNED)")
    };
    format!(
        "SELECT COUNT(*) AS n, IFNULL({}, 0) AS a, IFNULL({}, 0) AS b FROM (SELECT {hash} AS h FROM `{}`.`{}`) AS x",
        half(1),
        half(13),
        name(schema),
        name(table)
    )
}

/// Parts a list of quoted names; a name may hold a comma.
fn split_columns(columns: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut begin, mut quoted) = (0, false);
    for (at, c) in columns.char_indices() {
        match c {
            '`' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(&columns[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&columns[begin..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_commas_and_backticks_stay_whole() {
        assert_eq!(split_columns("`a`,`b,c`,`d``,e`"), ["`a`", "`b,c`", "`d``,e`"]);
    }

    #[test]
    fn what_differs_is_found_on_either_side() {
        let sums = |pairs: &[(&str, &str)]| -> Checksums {
            pairs
                .iter()
                .map(|(table, sum)| ((*table).to_owned(), (*sum).to_owned()))
                .collect()
        };
        let left = sums(&[("a.x", "1"), ("a.y", "2")]);
        let right = sums(&[("a.x", "1"), ("a.y", "3"), ("a.z", "4")]);
        let tables: Vec<String> = differences(&left, &right)
            .into_iter()
            .map(|found| found.table)
            .collect();
        assert_eq!(tables, ["a.y", "a.z"]);
        assert!(differences(&left, &left).is_empty());
    }
}
