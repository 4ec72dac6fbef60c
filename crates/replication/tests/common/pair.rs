//! A primary and a replica that follows it, on loopback.

use std::path::Path;
use std::time::Duration;

use pontoon_fleet::{Refusal, ServerName};
use pontoon_helper::BackupOptions;
use pontoon_replication::Database;
use pontoon_replication::check::{Answer, Ask, Side};
use pontoon_replication::work::BoxFuture;

use super::{Ca, Machine, Software, beating};

/// The two machines; the beats go on until it is dropped.
pub struct Pair {
    pub a: Machine,
    pub b: Machine,
    pub source: Database,
    pub replica: Database,
    beats: tokio::task::JoinHandle<()>,
}

impl Pair {
    /// Sets up `software` on both; `fill` gets the socket of the first one before there is a second.
    pub async fn start(software: Software, fill: impl AsyncFnOnce(&Path)) -> Pair {
        let ca = Ca::new();
        let a = Machine::start(&ca, software, "a", "127.0.0.2").await;
        let b = Machine::start(&ca, software, "b", "127.0.0.1").await;
        fill(&a.original_socket()).await;
        let (source, replica) = (a.database(), b.database());
        source.move_aside(&a.wanted(false)).await.unwrap();
        let beats = beating(&a);
        let ticket = source
            .prepare_source(&b.joiner(), a.address, pontoon_replication::Wish::Auto)
            .await
            .unwrap();
        let from = a.database();
        replica
            .clone_from(
                &ticket,
                &b.wanted(true),
                || async { Ok(carry(from)) },
                &mut |_| {},
            )
            .await
            .unwrap();
        Pair {
            a,
            b,
            source,
            replica,
            beats,
        }
    }

    /// Changes the replica behind its primary's back.
    pub fn plant(&self, statements: &str) {
        let open = match self.b.software {
            Software::Mysql => "SET GLOBAL super_read_only = 0;",
            Software::Mariadb => "",
        };
        let close = match self.b.software {
            Software::Mysql => "SET GLOBAL super_read_only = 1;",
            Software::Mariadb => "",
        };
        self.b.moved_sql(&format!(
            "{open} SET SESSION sql_log_bin = 0; SET SESSION foreign_key_checks = 0; {statements}; {close}"
        ));
    }

    /// Waits until the replica has what the primary has now.
    pub async fn caught_up(&self) {
        let position = self.source.position().await.unwrap();
        let patience = Duration::from_secs(60);
        assert!(self.replica.wait_for_position(&position, patience).await.unwrap());
    }

    pub fn sides(&self) -> (Here<'_>, Here<'_>) {
        (Here::new("a", &self.source), Here::new("b", &self.replica))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.beats.abort();
    }
}

fn carry(source: Database) -> tokio::io::DuplexStream {
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let _ = source.serve_backup(&mut ours, &BackupOptions::default()).await;
    });
    theirs
}

/// A database that is asked without a network in between.
pub struct Here<'a> {
    name: ServerName,
    database: &'a Database,
}

impl<'a> Here<'a> {
    pub fn new(name: &str, database: &'a Database) -> Here<'a> {
        Here {
            name: name.parse().unwrap(),
            database,
        }
    }
}

impl Side for Here<'_> {
    fn name(&self) -> &ServerName {
        &self.name
    }

    fn ask<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, Result<Answer, Refusal>> {
        Box::pin(self.database.look(ask))
    }
}
