//! `pontoon sql` on each server of a fleet, as it is shipped, with one thread. What the application talks to is server
//! `a`'s, beside the primary; those of the others are there for their relays, and run on the databases' cores, as they
//! would on the databases' machines.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use pontoon_rt::paths::Paths;
use pontoon_sql_tests::client::{Client, Fault};
use pontoon_sql_tests::servers::{PROXY_ACCOUNT, Pair};
use pontoon_testkit::{LabError, Standalone, found_fleet, free_port, identify, wait_until};
use serde_json::json;

use crate::load::{first_value, login};
use crate::stand::{Cores, Proxy, start};

/// How the application's statements reach databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passed through to the primary, each on a connection of its own (`db.reads.split = false`).
    Through,
    /// In sessions of the proxy's own, on pooled connections; the replica does not answer, so all go to the primary.
    Sessions,
    /// The same, and reads spread over that many database servers.
    Spread(usize),
}

/// A fleet's proxies.
pub struct Fleet {
    /// The one that is asked.
    pub proxy: Proxy,
    _relays: Vec<Proxy>,
}

struct Place {
    name: String,
    private: Ipv4Addr,
    relay: u16,
}

/// Starts the proxies of a fleet before those databases. When reads are to be spread, they are when this returns.
///
/// # Errors
/// When one is not built, does not listen, or does not come to spread reads.
pub async fn pontoon(mode: Mode, pair: &Pair, dir: &Path, cores: &Cores) -> Result<Fleet, LabError> {
    let program = std::env::current_exe()
        .map_err(LabError::io("this program"))?
        .with_file_name("pontoon");
    let count = match mode {
        Mode::Through => 1,
        Mode::Sessions => 2,
        Mode::Spread(count) => count,
    };
    let mut places = Vec::new();
    for index in 0..count {
        places.push(Place {
            name: char::from(b'a' + index as u8).to_string(),
            private: Ipv4Addr::new(127, 0, 0, 1 + index as u8),
            relay: free_port()?,
        });
    }
    let authority = found_fleet("bench")?;
    let home = dir.join(format!("fleet-{mode:?}"));
    let mut started = Vec::new();
    for (index, (place, database)) in places.iter().zip(pair.servers()).enumerate() {
        if mode == Mode::Sessions && index > 0 {
            break;
        }
        let paths = Paths::under(&home.join(&place.name));
        identify(&authority, &place.name, place.private.into(), &paths)?;
        let (user, password) = PROXY_ACCOUNT;
        let account = json!({"user": user, "password": password}).to_string();
        std::fs::write(paths.sql_account_file(), account).map_err(LabError::io("account"))?;
        let address = SocketAddr::from((place.private, free_port()?));
        let view = view(mode, pair, &places, database, address);
        std::fs::write(paths.state_dir.join("view.json"), view.to_string()).map_err(LabError::io("view"))?;
        let arguments = [
            "sql".to_owned(),
            format!("--server={}", place.name),
            "--threads=1".to_owned(),
            format!("--state-dir={}", paths.state_dir.display()),
            format!("--run-dir={}", paths.run_dir.display()),
        ];
        let cores = if index == 0 {
            &cores.proxy
        } else {
            &cores.databases
        };
        let log = home.join(&place.name).join("sql.log");
        started.push(start("pontoon sql", &program, &arguments, &log, address, cores).await?);
    }
    let proxy = started.remove(0);
    if let Mode::Spread(servers) = mode {
        until_spread(&proxy, servers).await?;
    }
    Ok(Fleet {
        proxy,
        _relays: started,
    })
}

/// The view as the agent of a server would write it, as text: fields that a version does not know are nothing to it.
fn view(
    mode: Mode,
    pair: &Pair,
    places: &[Place],
    database: &Standalone,
    listen: SocketAddr,
) -> serde_json::Value {
    let servers: Vec<_> = places
        .iter()
        .map(|place| {
            json!({
                "name": place.name, "private": place.private, "public": [], "roles": ["app", "db"], "zone": null,
                "standby": false, "state": "up", "edge_listen": [],
                "ports": {"agent": 1, "edge_relay": 2, "sql_relay": place.relay},
            })
        })
        .collect();
    let databases: Vec<_> = match mode {
        Mode::Through => Vec::new(),
        _ => places
            .iter()
            .map(|place| json!({"server": place.name, "lag_ms": null, "position": null}))
            .collect(),
    };
    let reads = match mode {
        Mode::Through => serde_json::Value::Null,
        _ => json!({"split": true, "max_lag": 5000, "after_write": "session"}),
    };
    json!({
        "fleet": "bench", "revision": 1, "epoch": 1, "serial": 1, "agent_run": "bench", "app": null,
        "servers": servers,
        "sql": {
            "engine": pair.engine.tag(), "listen": [{"tcp": listen.to_string()}],
            "backend_tcp": format!("127.0.0.1:{}", database.port()), "backend_socket": database.socket(),
            "primary": "a", "servers": databases, "hold_writes": 5000, "reads": reads,
        },
    })
}

/// Waits until every replica answers reads. The primary helps only when they have more to do.
async fn until_spread(proxy: &Proxy, servers: usize) -> Result<(), LabError> {
    let address = proxy.address;
    wait_until("reads on every replica", Duration::from_secs(30), || async {
        let asked = tokio::task::spawn_blocking(move || answering(address, servers * 4));
        (asked.await.ok()?.ok()? + 1 >= servers).then_some(())
    })
    .await
}

/// How many replicas answer when so many clients ask at once.
fn answering(address: SocketAddr, clients: usize) -> Result<usize, Fault> {
    const LONG: &[u8] = b"\x03SELECT CONCAT(@@server_id, ' ', COUNT(*)) FROM bench a JOIN bench b ON a.v = b.v WHERE a.id <= 10";
    let mut open: Vec<Client> = Vec::new();
    for _ in 0..clients {
        open.push(login(address)?);
    }
    for client in &mut open {
        client.send(LONG)?;
    }
    let mut seen = std::collections::BTreeSet::new();
    for client in &mut open {
        seen.insert(first_value(client)?);
    }
    seen.retain(|server| !server.starts_with("1 "));
    Ok(seen.len())
}
