//! The database of this machine, as a plan needs to know it.

use pontoon_decide::{DatabaseFacts, ListenerFact, RunBy};
use pontoon_fleet::{ListenAddress, Refusal};
use pontoon_helper::{DatabaseNode, Run, find};
use pontoon_replication::Detected;

/// The facts of a database that was just detected. Where it listens is read from what listens, not from settings:
/// they may be newer than its last start.
pub fn facts_of_detected(detected: &Detected, listeners: &[ListenerFact]) -> DatabaseFacts {
    let own = || {
        listeners
            .iter()
            .filter(|listener| owns(detected, listener))
            .map(|listener| &listener.at)
    };
    let ports = || {
        own().filter_map(|at| match at {
            // MySQL's X protocol is not what applications dial.
            ListenAddress::Tcp(address) if address.port() != X_PROTOCOL => Some(address.port()),
            _ => None,
        })
    };
    let sockets = || {
        own().filter_map(|at| match at {
            ListenAddress::Unix(path) if !path.ends_with("mysqlx.sock") => Some(path.clone()),
            _ => None,
        })
    };
    DatabaseFacts {
        socket: sockets()
            .find(|path| *path == detected.node.socket)
            .or_else(|| sockets().next()),
        port: ports()
            .find(|port| *port == detected.node.port)
            .or_else(|| ports().next()),
        size_bytes: detected.bytes,
        databases: u32::try_from(detected.schemas).unwrap_or(u32::MAX),
        ..facts_of_node(&detected.node)
    }
}

/// The facts of a database that the node file describes and that has not been moved: before the first apply. The
/// command line and the agent that it starts both plan from these, and come to the same plan.
pub fn facts_of_node(node: &DatabaseNode) -> DatabaseFacts {
    DatabaseFacts {
        engine: node.engine,
        version: node.version.clone(),
        socket: Some(node.socket.clone()),
        port: Some(node.port),
        datadir: node.datadir.clone(),
        size_bytes: 0,
        databases: 0,
        run_by: match &node.run {
            Run::Systemd { unit, .. } => RunBy::Unit(unit.clone()),
            // Not its process id, which the next restart changes: a plan must not go stale by that.
            Run::Process { .. } => RunBy::Process(0),
        },
        settings_active: node.settings_file().exists(),
    }
}

fn owns(detected: &Detected, listener: &ListenerFact) -> bool {
    match listener.pid {
        Some(pid) => pid == detected.pid,
        None => matches!(listener.program.as_str(), "mariadbd" | "mysqld"),
    }
}

/// The database that runs here; `None` when there is none at all.
///
/// # Errors
/// D009 when there are several or one that cannot be understood, D001 when its version is not supported.
pub async fn detect() -> Result<Option<Detected>, Refusal> {
    let here = std::fs::read_link("/proc/self/ns/net").ok();
    let any = find::servers()
        .iter()
        .any(|server| std::fs::read_link(format!("/proc/{}/ns/net", server.pid)).ok() == here);
    if any {
        pontoon_replication::detect().await.map(Some)
    } else {
        Ok(None)
    }
}

const X_PROTOCOL: u16 = 33060;

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_fleet::Engine;
    use pontoon_replication::Recipe;

    fn node() -> DatabaseNode {
        DatabaseNode {
            engine: Engine::Mysql,
            version: "8.0.40".to_owned(),
            program: vec!["/usr/sbin/mysqld".to_owned()],
            user: "mysql".to_owned(),
            datadir: "/nonexistent/mysql".into(),
            socket: "/run/mysqld/mysqld.sock".into(),
            port: 3306,
            server_id: 7,
            own_log_bin: true,
            follows: None,
            files: "/nonexistent/pontoon".into(),
            run: Run::Process {
                argv: Vec::new(),
                log: "/nonexistent/log".into(),
            },
        }
    }

    #[test]
    fn where_a_database_listens_is_where_its_process_does() {
        let on = |at: &str, pid| ListenerFact {
            at: at.parse().unwrap(),
            program: "mysqld".to_owned(),
            pid,
        };
        let listeners = [
            on("0.0.0.0:33060", Some(9)),
            on("127.0.0.1:3307", Some(9)),
            on("127.0.0.1:3306", Some(8)),
            on("/run/mysqld/mysqlx.sock", Some(9)),
            on("/run/mysqld/pontoon.sock", Some(9)),
        ];
        let detected = Detected {
            recipe: Recipe::default(),
            node: node(),
            pid: 9,
            schemas: 2,
            bytes: 10,
        };
        let facts = facts_of_detected(&detected, &listeners);
        assert_eq!(
            (facts.port, facts.socket),
            (Some(3307), Some("/run/mysqld/pontoon.sock".into()))
        );
        assert_eq!(
            (facts.databases, facts.run_by, facts.settings_active),
            (2, RunBy::Process(0), false)
        );
        // Who may not look into the process goes by the program's name, and by the port that the settings name.
        let unseen = [on("127.0.0.1:3310", None), on("127.0.0.1:3306", None)];
        assert_eq!(facts_of_detected(&detected, &unseen).port, Some(3306));
        assert_eq!(facts_of_detected(&detected, &[]).port, None);
    }
}
