//! What people set up by hand before Pontoon came: replication by file and position, as a well-known recipe has it, with
//! filters in the option file. Filters keep databases out of the binary log or out of a replica, and nobody who is promoted
//! has what was kept out: so they are named, and no second copy is made with them.

use std::path::Path;

use pontoon_fleet::{Code, Engine, Refusal};
use pontoon_rt::files;

use crate::database::Database;

/// Options that leave something out.
const FILTERS: [&str; 9] = [
    "binlog_ignore_db",
    "binlog_do_db",
    "replicate_do_db",
    "replicate_ignore_db",
    "replicate_do_table",
    "replicate_ignore_table",
    "replicate_wild_do_table",
    "replicate_wild_ignore_table",
    "replicate_rewrite_db",
];

/// What was found of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// Options that leave something out, as `binlog-ignore-db = test`.
    pub filters: Vec<String>,
    /// `STATEMENT` or `MIXED`, when that is set.
    pub format: Option<String>,
    /// The source that it follows by file and position, as far as its files tell.
    pub follows: Option<String>,
}

impl Recipe {
    /// From the server's options as given, and its data directory.
    pub(crate) fn find(engine: Engine, words: &[String], datadir: &Path) -> Recipe {
        let mut recipe = Recipe::default();
        let mut relay_log = None;
        for (at, word) in words.iter().enumerate() {
            let Some(rest) = word.strip_prefix("--") else {
                continue;
            };
            let (name, value) = match rest.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => {
                    let next = words.get(at + 1).filter(|next| !next.starts_with('-'));
                    (rest, next.map(String::as_str))
                }
            };
            let name = name.replace('-', "_");
            let name = name.strip_prefix("loose_").unwrap_or(&name);
            let value = value.unwrap_or_default();
            if FILTERS.contains(&name) {
                let line = format!("{} = {value}", name.replace('_', "-"));
                if !recipe.filters.contains(&line) {
                    recipe.filters.push(line);
                }
            }
            if name == "relay_log" {
                relay_log = Path::new(value)
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned());
            }
            if name == "binlog_format" {
                let other = !value.eq_ignore_ascii_case("row");
                recipe.format = other.then(|| value.to_ascii_uppercase());
            }
        }
        recipe.follows = match engine {
            Engine::Mysql => received(datadir, relay_log.as_deref()),
            _ => follows(datadir),
        };
        recipe
    }

    /// What to know about it, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.filters.is_empty() {
            notes.push(format!(
                "the option file leaves something out of replication ({}): take it out before a second server joins; such a \
                 filter goes by the default database, so CREATE TABLE other.t after USE test is lost too",
                self.filters.join("; ")
            ));
        }
        if let Some(format) = &self.format {
            notes.push(format!(
                "binlog_format is {format}: Pontoon sets ROW, because statements do not do the same everywhere"
            ));
        }
        if let Some(follows) = &self.follows {
            notes.push(format!(
                "the database here follows {follows} by file and position: when this server joins, it goes over to GTID \
                 and keeps its data; where a transaction was ever skipped (SQL_SLAVE_SKIP_COUNTER) nobody can tell \
                 whether it still holds the same, so all rows are compared"
            ));
        }
        notes
    }

    /// Refuses a server that would leave something out.
    ///
    /// # Errors
    /// [`Code::D015`].
    pub fn check(&self) -> Result<(), Refusal> {
        match self.filters.as_slice() {
            [] => Ok(()),
            filters => Err(filtered(filters.iter().cloned())),
        }
    }
}

fn filtered(evidence: impl Iterator<Item = String>) -> Refusal {
    let refusal = Refusal::new(Code::D015, "a filter leaves databases out of replication");
    evidence
        .fold(refusal, Refusal::because)
        .next(
            "take those lines out of the option file and restart the database; to find them",
            "grep -rn 'binlog.*db\\|replicate' /etc/my.cnf /etc/mysql",
        )
        .next("then repeat the command; why", "pontoon explain D015")
}

/// MariaDB writes down whom it follows (`master.info`: a count of lines, file, position, host, user, password, port).
fn follows(datadir: &Path) -> Option<String> {
    let bytes = files::read_limited(&datadir.join("master.info"), 64 << 10).ok()??;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let by_gtid = lines
        .iter()
        .any(|line| line.starts_with("using_gtid=") && *line != "using_gtid=0");
    let (file, position, host, port) = (lines.get(1)?, lines.get(2)?, lines.get(3)?, lines.get(6)?);
    let plain = |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    let is_one = [file, position, host, port].into_iter().all(plain);
    (is_one && !by_gtid).then(|| format!("{host}:{port} (at {position} of {file})"))
}

/// MySQL keeps whom it follows in a table. Its files tell that it received something: a list of relay logs.
fn received(datadir: &Path, relay_log: Option<&str>) -> Option<String> {
    let named = relay_log.map(|name| format!("{name}.index"));
    let mut entries = std::fs::read_dir(datadir).ok()?.flatten();
    let found = entries.any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_list = name.ends_with("-relay-bin.index") || named.as_ref() == Some(&name);
        is_list && entry.metadata().is_ok_and(|metadata| metadata.len() > 0)
    });
    found.then(|| "another server".to_owned())
}

impl Database {
    /// Refuses to be copied while the binary log leaves databases out: what is written there would be missing on whoever is
    /// promoted.
    pub(crate) async fn check_unfiltered(&self) -> Result<(), Refusal> {
        let asked = match self.node.engine {
            // MySQL 8.2 renamed it.
            Engine::Mysql => match self.control.query("SHOW BINARY LOG STATUS").await {
                Ok(rows) => rows,
                Err(_) => self.control.query("SHOW MASTER STATUS").await?,
            },
            _ => self.control.query("SHOW MASTER STATUS").await?,
        };
        let mut found = Vec::new();
        if let Some(row) = asked.first() {
            for (column, option) in [
                ("Binlog_Ignore_DB", "binlog-ignore-db"),
                ("Binlog_Do_DB", "binlog-do-db"),
            ] {
                if let Some(databases) = row.get(column).filter(|text| !text.is_empty()) {
                    found.push(format!("{option}: {databases}"));
                }
            }
        }
        match found.is_empty() {
            true => Ok(()),
            false => Err(filtered(found.into_iter())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(words: &[&str], master_info: Option<&str>) -> Recipe {
        let dir = tempfile::tempdir().unwrap();
        if let Some(text) = master_info {
            std::fs::write(dir.path().join("master.info"), text).unwrap();
        }
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Recipe::find(Engine::Mariadb, &words, dir.path())
    }

    #[test]
    fn what_mysql_received_shows_that_it_follows() {
        let dir = tempfile::tempdir().unwrap();
        let words = ["--relay-log=/x/relays".to_owned()];
        let found = |words: &[String]| Recipe::find(Engine::Mysql, words, dir.path()).follows;
        std::fs::write(dir.path().join("relays.index"), "").unwrap();
        assert_eq!(found(&words), None, "an empty list");
        std::fs::write(dir.path().join("relays.index"), "./relays.000001\n").unwrap();
        assert_eq!(found(&[]), None, "another server's list");
        assert!(found(&words).is_some());
        std::fs::write(dir.path().join("b-relay-bin.index"), "./b-relay-bin.000001\n").unwrap();
        assert!(found(&[]).is_some());
    }

    #[test]
    fn the_well_known_recipe_is_seen_with_its_pitfalls() {
        let info = "33\nmysql-bin.000007\n4711\n10.0.0.1\nreplicator\nsecret\n3306\n60\n0\nusing_gtid=0\n";
        let found = recipe(
            &[
                "--server-id=2",
                "--binlog-ignore-db=test",
                "--loose-binlog_ignore_db",
                "information_schema",
                "--replicate-ignore-db=test",
                "--binlog_format=statement",
                "--sync_binlog=1",
            ],
            Some(info),
        );
        assert_eq!(
            found.filters,
            [
                "binlog-ignore-db = test",
                "binlog-ignore-db = information_schema",
                "replicate-ignore-db = test"
            ]
        );
        assert_eq!(found.format.as_deref(), Some("STATEMENT"));
        let notes = found.notes();
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(notes[2].contains("10.0.0.1:3306 (at 4711 of mysql-bin.000007)"));
        assert!(!notes[2].contains("secret"), "{notes:?}");
        let refusal = found.check().unwrap_err();
        assert_eq!(refusal.code, Code::D015);
        assert_eq!(refusal.evidence.len(), 3);
        assert_eq!(refusal.next.len(), 2);
    }

    #[test]
    fn what_is_no_recipe_says_nothing() {
        for info in [None, Some(""), Some("33\n\n4\n\n\n\n3306\n"), Some("x\n\u{7}\n")] {
            let found = recipe(&["--binlog-format=ROW", "--binlog-do-dbx=1", "test"], info);
            assert_eq!(found, Recipe::default(), "{info:?}");
            found.check().unwrap();
        }
        // By GTID it goes on without file and position.
        let gtid = "33\nb.1\n4\n10.0.0.1\nr\ns\n3306\nusing_gtid=2\n";
        assert_eq!(recipe(&[], Some(gtid)).follows, None);
    }
}
