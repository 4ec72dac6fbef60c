//! A fleet whose primary can change: its lease in a store that both servers ask, and what is said of it.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_testkit::{LabError, LabStore, Server, StoreKind, wait_until};
use serde_json::Value;

use super::{Fleet, attempt, run};

/// Where a fleet's configuration is.
const FILE: &str = "/etc/pontoon/fleet.toml";

/// How long a replica may take until it has everything, on a machine that is busy.
const SYNC_LIMIT: Duration = Duration::from_secs(90);

/// What `pontoon db status` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The number of the present primary's reign.
    pub epoch: u64,
    /// Who has the lease.
    pub leader: String,
    /// Who has every acknowledged write.
    pub in_sync: Vec<String>,
    /// What each server says that it does.
    pub states: BTreeMap<String, String>,
}

impl Fleet {
    /// Lets a running fleet keep its lease in a store on a server of its own, and promote by itself: what an operator
    /// writes into `fleet.toml`, and `apply`.
    ///
    /// # Errors
    /// A `Skip` when there is no such store here; or when a command fails.
    pub async fn share_lease(&mut self, kind: StoreKind) -> Result<LabStore, LabError> {
        self.share_lease_with(kind, "").await
    }

    /// The same with these lines in `[db]`.
    ///
    /// # Errors
    /// A `Skip` when there is no such store here; or when a command fails.
    pub async fn share_lease_with(&mut self, kind: StoreKind, db: &str) -> Result<LabStore, LabError> {
        kind.available()?;
        let server = self.lab.add_server("s", Vec::new()).await?;
        let store = kind.start(&server).await?;
        for server in self.servers() {
            store.hand_keys_to(server)?;
        }
        self.write(&format!("failover = \"auto\"\n{db}"), &store.table())
            .await?;
        Ok(store)
    }

    /// Writes these lines into `[db]` of the running fleet, and applies them.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn set_db(&self, lines: &str) -> Result<(), LabError> {
        self.write(lines, "").await
    }

    /// Takes these lines out of `[db]` again, and applies that.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn unset_db(&self, lines: &str) -> Result<(), LabError> {
        attempt(&self.a, &["plan"]).await?;
        let path = self.a.path(FILE)?;
        let text = std::fs::read_to_string(&path).map_err(LabError::io("read fleet.toml"))?;
        std::fs::write(&path, text.replacen(lines, "", 1)).map_err(LabError::io("write fleet.toml"))?;
        run(&self.a, &["apply", "--yes"]).await.map(drop)
    }

    /// Gives the [[server]] of that name this line, or takes it away again, and applies that.
    ///
    /// # Errors
    /// With what the command said, when it fails.
    pub async fn set_server(&self, name: &str, line: &str, there: bool) -> Result<(), LabError> {
        attempt(&self.a, &["plan"]).await?;
        let path = self.a.path(FILE)?;
        let text = std::fs::read_to_string(&path).map_err(LabError::io("read fleet.toml"))?;
        let plain = format!("private = \"{}\"\n", self.named(name)?.private());
        let lined = format!("{plain}{line}\n");
        let text = match there {
            true => text.replacen(&plain, &lined, 1),
            false => text.replacen(&format!("{line}\n"), "", 1),
        };
        std::fs::write(&path, text).map_err(LabError::io("write fleet.toml"))?;
        run(&self.a, &["apply", "--yes"]).await.map(drop)
    }

    async fn write(&self, db: &str, rest: &str) -> Result<(), LabError> {
        // Any command lets the file follow what is active.
        attempt(&self.a, &["plan"]).await?;
        let path = self.a.path(FILE)?;
        let text = std::fs::read_to_string(&path).map_err(LabError::io("read fleet.toml"))?;
        let text = text.replacen("[db]", &format!("[db]\n{db}"), 1);
        std::fs::write(&path, format!("{text}\n{rest}")).map_err(LabError::io("write fleet.toml"))?;
        run(&self.a, &["apply", "--yes"]).await.map(drop)
    }

    /// The server of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(&self, name: &str) -> Result<&Server, LabError> {
        let found = self.servers().into_iter().find(|server| server.name() == name);
        found.ok_or_else(|| LabError::Unknown(format!("no server {name:?}")))
    }
}

/// `pontoon db status` on `server`.
///
/// # Errors
/// When it does not answer.
pub async fn standing(server: &Server) -> Result<Standing, LabError> {
    let text = run(server, &["db", "status", "--json"]).await?;
    let value: Value = serde_json::from_str(&text).map_err(|error| LabError::App(error.to_string()))?;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    Ok(Standing {
        epoch: value["lease"]["epoch"].as_u64().unwrap_or_default(),
        leader: word(&value["lease"]["leader"]),
        in_sync: list(&value["in_sync"]).iter().map(word).collect(),
        states: list(&value["servers"])
            .iter()
            .map(|server| (word(&server["name"]), word(&server["failover"]["state"])))
            .collect(),
    })
}

/// Waits until the primary is open and its replica has every acknowledged write, and all of `servers` say the same: one
/// that was cut off believes for a moment longer what was so before.
///
/// # Errors
/// With the last standings, when it does not come.
pub async fn in_sync(servers: &[&Server]) -> Result<Standing, LabError> {
    members_in_sync(servers, 1).await
}

/// The same, and so many replicas have every acknowledged write. All others follow.
///
/// # Errors
/// With the last standings, when it does not come.
pub async fn members_in_sync(servers: &[&Server], members: usize) -> Result<Standing, LabError> {
    let found = wait_until("replicas in sync", SYNC_LIMIT, async || {
        let mut common: Option<Standing> = None;
        for server in servers {
            let now = standing(server).await.ok()?;
            let open = now.states.get(&now.leader);
            let whole = open.is_some_and(|state| state == "leader-sync") && now.in_sync.len() == members;
            let mut others = now.states.iter().filter(|(name, _)| **name != now.leader);
            let whole = whole && others.all(|(_, state)| state.starts_with("follow"));
            let same = common.as_ref().is_none_or(|seen| seen.epoch == now.epoch);
            common = Some(now).filter(|_| whole && same);
            common.as_ref()?;
        }
        common
    })
    .await;
    let Err(error) = found else { return found };
    let mut last = Vec::new();
    for server in servers {
        last.push(standing(server).await);
    }
    Err(LabError::App(format!("{error}: {last:?}")))
}
