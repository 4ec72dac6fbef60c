//! What there is on this machine: for the plan, for `pontoon init`, for the check before a revision is activated.
//!
//! Looks and never touches: reads `/proc` and `/etc`, connects to this machine's own ports, starts nothing.

pub mod addresses;
pub mod database;
pub mod disk;
pub mod http;
pub mod listeners;
pub mod system;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pontoon_decide::{DatabaseFacts, ServerFacts, Tools};
use tokio::net::TcpStream;

use system::System;

/// What was found on this server. `database` is what is known of its database; `upstream` is where the configuration
/// says that the application listens.
pub async fn facts(database: Option<DatabaseFacts>, upstream: Option<SocketAddr>) -> ServerFacts {
    // Reading every process's open files takes milliseconds on a busy machine: not on the runtime's thread.
    let looked = tokio::task::spawn_blocking(|| {
        let root = Path::new("/");
        (System::look(root), addresses::look(root), listeners::look(root))
    })
    .await;
    // It cannot panic; a runtime that shuts down finds nothing.
    let (system, addresses, listeners) =
        looked.unwrap_or_else(|_| (System::unknown(), Vec::new(), Vec::new()));
    let data = database
        .as_ref()
        .map_or(Path::new("/var/lib"), |database| database.datadir.as_path());
    ServerFacts {
        debian: system.name,
        cores: u32::try_from(system.cores).unwrap_or(u32::MAX),
        memory_bytes: system.memory_bytes,
        disk_free_bytes: disk_free(data),
        addresses: addresses.into_iter().map(|address| address.ip).collect(),
        database,
        listeners,
        app_answers: match upstream {
            Some(upstream) => Some(connects(upstream).await),
            None => None,
        },
        tools: tools(),
    }
}

/// Bytes that an ordinary user may still write on the file system of `path`; 0 when it cannot be told.
pub fn disk_free(path: &Path) -> u64 {
    disk_left(path).unwrap_or_default()
}

/// The same; nothing when it cannot be told.
pub fn disk_left(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Which of the database's tools can be run from the usual folders.
pub fn tools() -> Tools {
    let found = |names: &[&str]| {
        PROGRAM_DIRS.iter().any(|dir| {
            names.iter().any(|name| {
                rustix::fs::access(Path::new(dir).join(name), rustix::fs::Access::EXEC_OK).is_ok()
            })
        })
    };
    // `mariabackup` is its name before MariaDB 10.5 and a link since.
    Tools {
        mariadb_backup: found(&["mariadb-backup", "mariabackup"]),
        mbstream: found(&["mbstream"]),
        dump: ["mariadb-dump", "mariadb", "mariadb-install-db"]
            .iter()
            .all(|name| found(&[name]))
            || ["mysqldump", "mysql"].iter().all(|name| found(&[name])),
    }
}

/// Whether something takes connections at `address` as this machine reaches it.
async fn connects(address: SocketAddr) -> bool {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    matches!(
        tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(address)).await,
        Ok(Ok(_))
    )
}

const PROGRAM_DIRS: [&str; 5] = [
    "/usr/bin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/local/sbin",
    "/bin",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_has_facts() {
        let application = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = application.local_addr().unwrap();
        let found = facts(
            None,
            Some(SocketAddr::new("0.0.0.0".parse().unwrap(), upstream.port())),
        )
        .await;
        assert_eq!(found.app_answers, Some(true));
        assert!(found.cores > 0 && !found.debian.is_empty() && found.disk_free_bytes > 0);
        assert!(
            listeners::tcp(&found.listeners)
                .iter()
                .any(|listener| listener.address == upstream)
        );
        drop(application);
        assert_eq!(facts(None, Some(upstream)).await.app_answers, Some(false));
        assert_eq!(disk_free(Path::new("/nonexistent")), 0);
    }
}
