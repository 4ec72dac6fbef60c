//! Whether two database servers hold the same. Asks the servers themselves: Pontoon's own comparison does not judge
//! Pontoon.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use mysql_async::Conn;
use pontoon_testkit::database::{SOCKET, connect_root, rows};
use pontoon_testkit::{LabError, Server};
use serde::Serialize;

use super::writers::{Ledger, Writers};
use crate::fleet::{Engine, Fleet, expect, in_sync, tell};

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Tables compared: all but the engine's own and Pontoon's heartbeat.
    pub tables: usize,
    /// Those that differ, with both checksums.
    pub different: Vec<String>,
    /// Transactions that were acknowledged.
    pub acknowledged: usize,
    /// How many of them the first server has, and the second.
    pub found: (usize, usize),
}

impl Comparison {
    /// Same tables, same contents, nothing lost.
    pub fn holds(&self) -> bool {
        let all = (self.acknowledged, self.acknowledged);
        self.tables > 0 && self.different.is_empty() && self.found == all
    }
}

/// Waits until `replica` has everything that `source` has now, and compares every table by its checksum, and the
/// ledger with both. Nobody else may write meanwhile.
///
/// # Errors
/// When it does not follow within a minute, or a database does not answer.
pub async fn compare(
    source: &Server,
    replica: &Server,
    engine: Engine,
    ledger: &Ledger,
) -> Result<Comparison, LabError> {
    let mut ours = connect_root(&database_socket(source)?).await?;
    let mut theirs = connect_root(&database_socket(replica)?).await?;
    let (written, wait) = match engine {
        Engine::Mariadb => ("SELECT @@gtid_binlog_pos", "SELECT MASTER_GTID_WAIT('{}', 60)"),
        Engine::Mysql => (
            "SELECT @@gtid_executed",
            "SELECT WAIT_FOR_EXECUTED_GTID_SET('{}', 60)",
        ),
    };
    let position: Vec<String> = rows(&mut ours, written).await?;
    let position = position.concat().replace('\n', "");
    let reached: Vec<i64> = rows(&mut theirs, &wait.replace("{}", &position)).await?;
    expect(!position.is_empty() && reached == [0], || {
        format!("{} does not reach {position:?}", replica.name())
    })?;
    let (left, right) = (checksums(&mut ours).await?, checksums(&mut theirs).await?);
    let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let different = names
        .iter()
        .filter(|name| left.get(**name) != right.get(**name))
        .map(|name| format!("{name}: {:?} and {:?}", left.get(*name), right.get(*name)));
    Ok(Comparison {
        tables: names.len(),
        different: different.collect(),
        acknowledged: ledger.acknowledged.len(),
        found: (held(&mut ours, ledger).await?, held(&mut theirs, ledger).await?),
    })
}

/// Stops the writers of a fleet of two, one of which leads, and says of how many rounds nothing that was acknowledged was
/// lost.
///
/// # Errors
/// When something was, or the two differ.
pub async fn nothing_lost(fleet: &Fleet, writers: Writers, rounds: usize) -> Result<(), LabError> {
    let ledger = writers.stop().await;
    let now = in_sync(&[&fleet.a, &fleet.b]).await?;
    let replica = if now.leader == "a" { &fleet.b } else { &fleet.a };
    let comparison = compare(fleet.named(&now.leader)?, replica, fleet.engine, &ledger).await?;
    tell(&format!(
        "{rounds} rounds, {} writes acknowledged, {:?} found",
        comparison.acknowledged, comparison.found
    ));
    expect(comparison.holds() && comparison.acknowledged > 0, || {
        format!("lost or different: {comparison:?}")
    })
}

/// The database's own socket on a server where Pontoon has moved it aside; the usual one elsewhere.
///
/// # Errors
/// When the server is off.
pub fn database_socket(server: &Server) -> Result<PathBuf, LabError> {
    let view = std::fs::read_to_string(server.path("/var/lib/pontoon/view.json")?).unwrap_or_default();
    let moved = view
        .split_once("\"backend_socket\":\"")
        .and_then(|(_, rest)| rest.split('"').next())
        .map(|path| server.path(path))
        .transpose()?;
    match moved.filter(|path| path.exists()) {
        Some(path) => Ok(path),
        None => server.path(SOCKET),
    }
}

async fn checksums(conn: &mut Conn) -> Result<BTreeMap<String, Option<u64>>, LabError> {
    let names: Vec<String> = rows(
        conn,
        "SELECT CONCAT('`', table_schema, '`.`', table_name, '`') FROM information_schema.tables WHERE table_type = \
         'BASE TABLE' AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') AND NOT \
         (table_schema = 'pontoon' AND table_name = 'heartbeat')",
    )
    .await?;
    let mut sums = BTreeMap::new();
    for name in names {
        let found: Vec<(String, Option<u64>)> =
            rows(conn, &format!("CHECKSUM TABLE {name} EXTENDED")).await?;
        sums.insert(name, found.into_iter().next().and_then(|(_, sum)| sum));
    }
    Ok(sums)
}

async fn held(conn: &mut Conn, ledger: &Ledger) -> Result<usize, LabError> {
    if ledger.acknowledged.is_empty() {
        return Ok(0);
    }
    let found: Vec<(u32, u32)> = rows(conn, "SELECT writer, number FROM shop.receipts").await?;
    let found: BTreeSet<(u32, u32)> = found.into_iter().collect();
    Ok(ledger.acknowledged.intersection(&found).count())
}
