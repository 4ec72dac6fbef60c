//! Whose acknowledgement counts. A primary takes that of every semi-synchronous replica that is connected: nothing in it
//! tells one from another. So those who are not members say that they connect as others do; and who cannot be asked is
//! shut out, because it would come back by itself as it was.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pontoon_fleet::{Code, Refusal, ServerName};

use super::Peers;
use super::worker::{SQL_PATIENCE, Worker};
use crate::control::Row;
use crate::database::replication_user;

/// How long a connection that was killed may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(3);

/// How long a statement about an account may wait for others, in seconds.
const LOCK_WAIT: u32 = 3;

impl Worker {
    /// Only `members` may connect as semi-synchronous replicas.
    pub(super) async fn choose_members(
        &self,
        members: &BTreeSet<ServerName>,
        peers: &Peers,
    ) -> Result<(), Refusal> {
        let mut shut_out = self.shut_out.lock().await;
        for name in peers.servers.keys() {
            let yes = members.contains(name);
            // A server that stands still would be waited for longer than commits should.
            let there = peers.ask.answer(name).await.is_some();
            if there && peers.ask.acknowledge(name, yes).await {
                self.let_in(|user| user == replication_user(name)).await?;
                shut_out.remove(name);
            } else if yes {
                return Err(
                    Refusal::new(Code::N002, format!("{name} does not say that it acknowledges"))
                        .because("commits are to wait for it"),
                );
            } else {
                self.shut_out(name, peers).await?;
                tracing::warn!(
                    %name,
                    "shut out: it does not answer, and an acknowledgement of it would count"
                );
                shut_out.insert(name.clone());
            }
        }
        Ok(())
    }

    /// No acknowledgement counts any more: everybody may connect.
    pub(super) async fn let_everybody_in(&self) {
        let mut shut_out = self.shut_out.lock().await;
        match self.let_in(|_| true).await {
            Ok(()) => shut_out.clear(),
            Err(refusal) => tracing::warn!(%refusal, "a replica stays shut out for now"),
        }
    }

    /// Lets those in who were shut out and answer again.
    pub(super) async fn let_back(&self, peers: &Peers) {
        let Ok(mut shut_out) = self.shut_out.try_lock() else {
            return;
        };
        for name in shut_out.clone() {
            if peers.ask.answer(&name).await.is_none() || !peers.ask.acknowledge(&name, false).await {
                continue;
            }
            match self.let_in(|user| user == replication_user(&name)).await {
                Ok(()) => {
                    tracing::info!(%name, "let in again");
                    shut_out.remove(&name);
                }
                Err(refusal) => tracing::warn!(%name, %refusal, "it stays shut out for now"),
            }
        }
    }

    /// Its account is locked on this server alone, and its connection ended.
    async fn shut_out(&self, name: &ServerName, peers: &Peers) -> Result<(), Refusal> {
        let Some(peer) = peers.servers.get(name) else {
            return Ok(());
        };
        let user = replication_user(name);
        self.alter_account(&user, &peer.address.to_string(), "LOCK")
            .await?;
        let begun = Instant::now();
        loop {
            let rows = self.connections_of(&user).await?;
            if rows.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > KILL_PATIENCE {
                return Err(
                    Refusal::new(Code::D004, format!("the connection of {name} cannot be ended"))
                        .because("its acknowledgement would count"),
                );
            }
            for row in rows {
                // It may have ended meanwhile.
                let kill = format!("KILL {}", row.number("id"));
                let _ = self.database.control.query(&kill).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn connections_of(&self, user: &str) -> Result<Vec<Row>, Refusal> {
        let statement = format!("SELECT id FROM information_schema.processlist WHERE user = '{user}'");
        self.database.control.query(&statement).await
    }

    async fn let_in(&self, whom: impl Fn(&str) -> bool) -> Result<(), Refusal> {
        let locked = self
            .database
            .control
            .query(self.database.flavor.locked_replicas());
        for row in locked.await? {
            let (Some(user), Some(host)) = (row.get("user"), row.get("host")) else {
                continue;
            };
            if whom(user) {
                self.alter_account(user, host, "UNLOCK").await?;
            }
        }
        Ok(())
    }

    /// On this server alone: who leads next decides anew.
    async fn alter_account(&self, user: &str, host: &str, what: &str) -> Result<(), Refusal> {
        let mut session = self.database.control.session().await?;
        let flavor = &self.database.flavor;
        let closed = session.query(flavor.is_super_read_only(), SQL_PATIENCE).await?;
        let closed = closed.first().and_then(Row::first) == Some("1");
        let mut statements = vec![
            "SET SESSION sql_log_bin = 0".to_owned(),
            format!("SET SESSION lock_wait_timeout = {LOCK_WAIT}"),
        ];
        if closed {
            // Clients are still kept out by `read_only`.
            statements.push("SET GLOBAL super_read_only = OFF".to_owned());
        }
        statements.push(format!("ALTER USER '{user}'@'{host}' ACCOUNT {what}"));
        let mut outcome = Ok(());
        for statement in &statements {
            if outcome.is_ok() {
                outcome = session.query(statement, SQL_PATIENCE).await.map(drop);
            }
        }
        if closed {
            session
                .query("SET GLOBAL super_read_only = ON", SQL_PATIENCE)
                .await?;
        }
        outcome
    }
}
