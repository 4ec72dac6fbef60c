//! The primary's side: recover, drain, open, close, and when a commit is acknowledged.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pontoon_decide::failover::{Acks, Members, Position};
use pontoon_fleet::{Code, Epoch, Refusal, ServerName};
use pontoon_gtid::Dialect;

use super::worker::{SQL_PATIENCE, Worker};
use super::{Peers, Works};
use crate::flavor::ReplicaStatus;

/// How long members are waited for that do not have everything yet. Longer and commits would wait for them.
const MEMBERS_PATIENCE: Duration = Duration::from_secs(4);

/// How long what was received may take to be applied. Writes wait meanwhile, but they would be lost otherwise.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3600);

/// How long a receiver may take to stop before its connection is ended, and between two attempts at that.
const HANG_UP: Duration = Duration::from_millis(50);

/// How long a primary may take to do without its replicas before their connections are ended. They dial anew.
const HANG_UP_REPLICAS: Duration = Duration::from_millis(500);

/// How often a primary is told in vain to do without its replicas.
const UNHEARD: u32 = 2;

/// How long replication may take to stop: what it applies just now comes to its end.
const LEAVE_PATIENCE: Duration = Duration::from_secs(120);

/// How long transactions under way may take to end before a hand-over is given up.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks at the transactions: InnoDB shows the same ones again to who looked less than 100 ms ago.
const TRX_LOOK: Duration = Duration::from_millis(110);

/// A replica that applies what is committed here so soon can take over without a pause that is noticed.
const NEAR: Duration = Duration::from_millis(100);

/// How long a replica may take to come so near before a hand-over is given up.
const NEAR_PATIENCE: Duration = Duration::from_secs(5);

impl Worker {
    /// Starts it as it is: read-only, following nobody.
    pub(super) async fn recover(&self) -> Result<(), Refusal> {
        self.write_settings(self.database.server_id()?).await?;
        self.database.helper.start().await?;
        self.database.login().await?;
        self.check_closed().await
    }

    pub(super) async fn write_settings(&self, server_id: u32) -> Result<(), Refusal> {
        let (settings, _) = self.database.settings(&self.wanted, server_id)?;
        self.database.helper.write_settings(&settings).await
    }

    /// The settings make every start so; whatever else did the starting, it is so from here on.
    async fn check_closed(&self) -> Result<(), Refusal> {
        let words = &self.database.flavor;
        if self.has().await?.open {
            self.run(&words.set_writable(false)).await?;
        }
        self.run(&words.acknowledge(0)).await?;
        if let Some(status) = self.database.replica_status().await?
            && (status.receiving || status.connecting)
        {
            // Not both at once: what was received and not applied would be lost.
            self.run(&[words.start_applying()]).await?;
            self.stop_receiver(&status).await?;
        }
        Ok(())
    }

    /// Starts applying, stops receiving; what was received is known and stays.
    async fn stop_receiving(&self) -> Result<Option<ReplicaStatus>, Refusal> {
        let words = &self.database.flavor;
        let Some(status) = self.database.replica_status().await? else {
            return Ok(None);
        };
        if !status.applying {
            self.check_relay_log(&status).await?;
            self.run(&[words.start_applying()]).await?;
        }
        self.stop_receiver(&status).await?;
        let status = self.database.replica_status().await?.unwrap_or_default();
        match (status.receiving || status.connecting, status.applying) {
            (false, true) => Ok(Some(status)),
            (true, _) => Err(Refusal::new(Code::D004, "the replica goes on receiving")),
            (_, false) => Err(stopped_applying(&status)),
        }
    }

    /// Stops receiving. A receiver whose source is dead or cut off notices it after two seconds only: by then its connection
    /// has been ended for it.
    pub(super) async fn stop_receiver(&self, status: &ReplicaStatus) -> Result<(), Refusal> {
        let statement = self.database.flavor.stop_receiving();
        self.stop(statement, SQL_PATIENCE, status).await
    }

    /// Carries that statement out, which waits for the receiver's end.
    async fn stop(&self, statement: &str, patience: Duration, status: &ReplicaStatus) -> Result<(), Refusal> {
        let mut session = self.database.control.session().await?;
        let Ok(source) = status.source_host.parse() else {
            return session.query(statement, patience).await.map(drop);
        };
        let stopped = session.query(statement, patience);
        let hung_up = self.hanging_up(stopped, HANG_UP, vec![(source, Some(status.source_port))]);
        hung_up.await.map(drop)
    }

    /// Does it, and ends those connections of the database whenever it has taken so long.
    async fn hanging_up<T>(
        &self,
        work: impl Future<Output = T>,
        every: Duration,
        connections: Vec<(IpAddr, Option<u16>)>,
    ) -> T {
        let hang_up = async {
            loop {
                tokio::time::sleep(every).await;
                for (address, port) in &connections {
                    if let Err(refusal) = self.database.helper.hang_up(*address, *port).await {
                        tracing::debug!(%refusal, "the end of the connection is waited for");
                        return;
                    }
                }
            }
        };
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => done,
            () = hang_up => work.await,
        }
    }

    /// MariaDB throws the relay log away when it starts with neither side running.
    async fn check_relay_log(&self, status: &ReplicaStatus) -> Result<(), Refusal> {
        let stands = !status.receiving && !status.connecting && !status.applying;
        if self.dialect() == Dialect::MySql || !stands {
            return Ok(());
        }
        let has = self.has().await?;
        let received = self.received(&has, status)?;
        if has.position.reaches(&received) {
            return Ok(());
        }
        Err(stopped_applying(status)
            .because(format!("received {received}, applied {}", has.position))
            .because("MariaDB would forget what was not applied if replication were started now"))
    }

    pub(super) async fn drain(&self) -> Result<Position, Refusal> {
        self.run(&self.database.flavor.acknowledge(0)).await?;
        if let Some(status) = self.stop_receiving().await? {
            let goal = self.received(&self.has().await?, &status)?;
            self.wait_applied(&goal).await?;
            self.leave_source().await?;
        }
        Ok(self.has().await?.position.transactions())
    }

    /// Stops replication and forgets the source.
    pub(super) async fn leave_source(&self) -> Result<(), Refusal> {
        let words = &self.database.flavor;
        let status = self.database.replica_status().await?.unwrap_or_default();
        self.stop(words.stop_replica(), LEAVE_PATIENCE, &status).await?;
        let mut session = self.database.control.session().await?;
        session.query(words.forget_source(), LEAVE_PATIENCE).await?;
        Ok(())
    }

    async fn wait_applied(&self, goal: &pontoon_gtid::Position) -> Result<(), Refusal> {
        let begun = Instant::now();
        loop {
            let has = self.has().await?;
            let mut applied = has.position;
            applied.merge(&has.applied);
            if applied.reaches(goal) {
                return Ok(());
            }
            let status = self.database.replica_status().await?.unwrap_or_default();
            if !status.applying {
                return Err(stopped_applying(&status));
            }
            if begun.elapsed() > DRAIN_PATIENCE {
                return Err(
                    Refusal::new(Code::D004, "what was received is not applied in time")
                        .because(format!("received {goal}, applied {applied}")),
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn halt(&self) -> Result<Position, Refusal> {
        let status = self.stop_receiving().await?;
        let has = self.has().await?;
        let received = self.received(&has, &status.unwrap_or_default())?;
        Ok(received.transactions())
    }

    pub(super) async fn resume(&self, peers: &Peers) -> Result<(), Refusal> {
        let Some(status) = self.database.replica_status().await? else {
            return Err(Refusal::new(Code::D004, "there is no source to receive from"));
        };
        self.check_relay_log(&status).await?;
        let words = &self.database.flavor;
        self.keep_flag(self.flag() || peers.servers.len() == 1)?;
        let flag = words.semi_sync_replica(self.flag());
        if !status.applying {
            self.run(&[words.start_applying()]).await?;
        }
        if !status.receiving && !status.connecting {
            self.run(&[flag.as_str(), words.start_receiving()]).await?;
        }
        Ok(())
    }

    pub(super) async fn set_acknowledgements(&self, acks: &Acks, peers: &Peers) -> Result<(), Refusal> {
        let words = &self.database.flavor;
        let (members, needed) = match acks {
            Acks::Alone => {
                // Apart: a statement before it may wait for the very acknowledgement that will not come.
                let statements = words.acknowledge(0);
                let alone = self.database.control.run_apart(&statements);
                let replicas = peers.servers.values().map(|peer| (peer.address, None));
                let done = self.hanging_up(alone, HANG_UP_REPLICAS, replicas.collect()).await;
                self.mind_unheard(&done).await;
                done?;
                self.let_everybody_in().await;
                return Ok(());
            }
            Acks::Of { members, needed } => (members, *needed),
        };
        if self.dialect() == Dialect::MariaDb && needed > 1 {
            return Err(Refusal::new(
                Code::D008,
                "MariaDB acknowledges a commit when one replica has it, not more",
            )
            .because(format!("{needed} were asked for")));
        }
        self.choose_members(members, peers).await?;
        // Before commits may have to wait.
        self.database.control.keep_spare().await?;
        self.run(&words.acknowledge(needed.max(1))).await
    }

    /// A server whose commits wait, and which does not hear that they need not, is of no use to anybody: it is killed after
    /// some attempts, and started like one that died.
    async fn mind_unheard(&self, alone: &Result<(), Refusal>) {
        match alone {
            Err(refusal) if refusal.code == Code::N002 => {
                if self.unheard.fetch_add(1, Ordering::Relaxed) + 1 >= UNHEARD {
                    tracing::error!(%refusal, "the database hears nothing and is killed");
                    self.kill().await;
                    self.unheard.store(0, Ordering::Relaxed);
                }
            }
            _ => self.unheard.store(0, Ordering::Relaxed),
        }
    }

    pub(super) async fn wait_for_members(&self, members: &Members, peers: &Peers) -> Result<(), Refusal> {
        let begun = Instant::now();
        if self.has().await?.open {
            // What is in the binary log and not committed yet has no number that could be asked for. A beat stands behind
            // all of it.
            while let Err(refusal) = self.beat().await {
                if begun.elapsed() > MEMBERS_PATIENCE {
                    return Err(refusal);
                }
            }
        }
        let goal = self.has().await?.position;
        for (name, life) in members {
            loop {
                let answer = peers.ask.answer(name).await;
                let there = answer.as_ref().is_some_and(|answer| answer.incarnation == *life);
                let facts = answer
                    .and_then(|answer| answer.facts)
                    .filter(|facts| facts.answers);
                let received = facts.map(|facts| self.parse(&facts.received)).transpose()?;
                if there && received.is_some_and(|received| received.reaches(&goal)) {
                    break;
                }
                if begun.elapsed() > MEMBERS_PATIENCE {
                    return Err(Refusal::new(
                        Code::N002,
                        format!("{name} has not received everything in time"),
                    )
                    .because(format!("up to {goal}")));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    pub(super) async fn open(&self, epoch: Epoch, peers: &Peers) -> Result<(), Refusal> {
        let opened = self.try_open(epoch, peers).await;
        if opened.is_err() {
            // Not open, or dead.
            let statements = self.database.flavor.set_writable(false);
            let closing = self.run(&statements);
            if !matches!(tokio::time::timeout(SQL_PATIENCE, closing).await, Ok(Ok(()))) {
                self.kill().await;
            }
        }
        opened
    }

    async fn try_open(&self, epoch: Epoch, peers: &Peers) -> Result<(), Refusal> {
        let database = &self.database;
        if self.dialect() == Dialect::MySql {
            // Clients are still kept out by `read_only`.
            self.run(&["SET GLOBAL super_read_only = OFF"]).await?;
        }
        database.create_schema().await?;
        self.write_epoch(epoch).await?;
        for (name, peer) in &peers.servers {
            self.keep_account(name, peer.address).await?;
        }
        // This server is a replica one day too, and by then may not write.
        self.keep_account(&peers.me, peers.address).await?;
        let account = database.keep_sql_account()?;
        database.create_sql_account(&account).await?;
        self.run(&database.flavor.set_writable(true)).await?;
        // After a hand-over that was given up.
        peers.ask.go_on().await;
        self.let_events_run().await
    }

    /// Whether this epoch's leader has been open before.
    pub(super) async fn is_begun(&self, epoch: Epoch) -> Result<bool, Refusal> {
        let control = &self.database.control;
        let there = "SELECT 1 FROM information_schema.tables WHERE table_schema = 'pontoon' AND table_name = 'epochs'";
        if control.query(there).await?.is_empty() {
            return Ok(false);
        }
        let written = format!("SELECT 1 FROM pontoon.epochs WHERE epoch = {}", epoch.0);
        Ok(!control.query(&written).await?.is_empty())
    }

    /// The epoch stands in the history itself, before the first write of a client.
    async fn write_epoch(&self, epoch: Epoch) -> Result<(), Refusal> {
        let control = &self.database.control;
        let there = "SELECT 1 FROM information_schema.tables WHERE table_schema = 'pontoon' AND table_name = 'epochs'";
        if control.query(there).await?.is_empty() {
            control
                .query(
                    "CREATE TABLE IF NOT EXISTS pontoon.epochs (epoch BIGINT UNSIGNED NOT NULL PRIMARY KEY, \
                     server_id INT UNSIGNED NOT NULL, at_us BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB \
                     COMMENT='Written by Pontoon at each change of the primary'",
                )
                .await?;
        }
        let written = format!("SELECT 1 FROM pontoon.epochs WHERE epoch = {}", epoch.0);
        if control.query(&written).await?.is_empty() {
            control
                .query(&format!(
                    "INSERT INTO pontoon.epochs (epoch, server_id, at_us) VALUES ({}, @@server_id, \
                     TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))) \
                     ON DUPLICATE KEY UPDATE server_id = VALUES(server_id)",
                    epoch.0
                ))
                .await?;
        }
        Ok(())
    }

    async fn keep_account(&self, name: &ServerName, address: std::net::IpAddr) -> Result<(), Refusal> {
        let account = self.database.replication_account(name, address);
        let there = format!(
            "SELECT 1 FROM mysql.user WHERE user = '{}' AND host = '{}'",
            account.user, account.host
        );
        if self.database.control.query(&there).await?.is_empty() {
            self.run(&self.database.flavor.create_account(&account)).await?;
        }
        Ok(())
    }

    /// No more writes, so that `to` can take over: nothing new is begun at the proxies, and what is under way ends first.
    pub(super) async fn close(&self, to: &ServerName, peers: &Peers) -> Result<(), Refusal> {
        self.wait_near(to, peers).await?;
        let closed = match peers.ask.hold().await {
            Ok(()) => self.stop_writes().await,
            Err(refusal) => Err(refusal),
        };
        if closed.is_err() {
            peers.ask.go_on().await;
        }
        closed
    }

    /// Waits until that replica has applied what is committed here within [`NEAR`] of being asked for. Clocks of two
    /// servers are not compared.
    async fn wait_near(&self, to: &ServerName, peers: &Peers) -> Result<(), Refusal> {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < NEAR_PATIENCE {
            let goal = self.has().await?.position;
            let asked = Instant::now();
            loop {
                let answer = peers.ask.answer(to).await;
                let facts = answer
                    .and_then(|answer| answer.facts)
                    .filter(|facts| facts.answers);
                let applied = facts.map(|facts| self.parse(&facts.applied)).transpose()?;
                if applied.as_ref().is_some_and(|applied| applied.reaches(&goal)) {
                    if asked.elapsed() < NEAR {
                        return Ok(());
                    }
                    break;
                }
                last = applied.or(last);
                if begun.elapsed() > NEAR_PATIENCE {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let there = last.map_or_else(|| "nothing is known of it".to_owned(), |last| last.to_string());
        Err(Refusal::new(
            Code::L002,
            format!("{to} is too far behind to take over without a pause"),
        )
        .because(format!(
            "it did not come within {} ms of this server in {} s; applied there: {there}",
            NEAR.as_millis(),
            NEAR_PATIENCE.as_secs()
        ))
        .next("see how far behind it is", "pontoon db status"))
    }

    async fn stop_writes(&self) -> Result<(), Refusal> {
        let control = &self.database.control;
        self.wait_for_transactions().await?;
        self.run(&["SET GLOBAL event_scheduler = OFF"]).await?;
        // In a session of its own, which can be ended when commits hold it up.
        let mut session = control.session().await?;
        for statement in self.database.flavor.set_writable(false) {
            if let Err(refusal) = session.query(&statement, CLOSE_PATIENCE).await {
                let _ = control.query(&format!("KILL {}", session.id())).await;
                self.run(&self.database.flavor.set_writable(true)).await?;
                self.let_events_run().await?;
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// Waits for the transactions that have written something by now. Those that passed the proxies' sessions have ended
    /// already; new ones can come over connections that are passed through only, and are refused by the database.
    async fn wait_for_transactions(&self) -> Result<(), Refusal> {
        let writing = "SELECT trx_id AS id, trx_mysql_thread_id AS thread, \
                       TIMESTAMPDIFF(SECOND, trx_started, NOW()) AS age \
                       FROM information_schema.innodb_trx WHERE trx_rows_modified > 0";
        let begun = Instant::now();
        let mut waited_for: Option<BTreeSet<u64>> = None;
        loop {
            let rows = self.database.control.query(writing).await?;
            let now: BTreeSet<u64> = rows.iter().map(|row| row.number("id")).collect();
            let left: BTreeSet<u64> = match &waited_for {
                None => now,
                Some(known) => known.intersection(&now).copied().collect(),
            };
            if left.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > CLOSE_PATIENCE {
                let oldest = rows
                    .iter()
                    .filter(|row| left.contains(&row.number("id")))
                    .max_by_key(|row| row.number("age"));
                let mut refusal = Refusal::new(
                    Code::L002,
                    "transactions go on for too long: a hand-over would break them off",
                );
                if let Some(row) = oldest {
                    refusal = refusal.because(format!(
                        "{} of them; the oldest, of connection {}, for {} s",
                        left.len(),
                        row.number("thread"),
                        row.number("age")
                    ));
                }
                return Err(refusal.next("when they have ended", "pontoon db switchover"));
            }
            waited_for = Some(left);
            tokio::time::sleep(TRX_LOOK).await;
        }
    }
}

pub(super) fn stopped_applying(status: &ReplicaStatus) -> Refusal {
    let said = status
        .error
        .clone()
        .unwrap_or_else(|| "it says nothing".to_owned());
    Refusal::new(Code::D004, "the replica does not apply what it received")
        .because(said)
        .next("see what stops it, and mend it", "pontoon db unstick")
}
