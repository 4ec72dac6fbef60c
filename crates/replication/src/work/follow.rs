//! The replica's side: come back after a crash, follow, copy.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use pontoon_fleet::{Code, Engine, Epoch, Refusal, ServerName};
use pontoon_gtid::{History, Position};

use super::lead::stopped_applying;
use super::worker::{Ended, SQL_PATIENCE, Worker};
use super::{Facts, OnlyHere, Peers, Works};
use crate::clone::CloneProgress;
use crate::control::Session;
use crate::database::{Database, is_on};
use crate::flavor::Source;
use crate::secret;

/// How long the leader may take to show a transaction that this server has: on MySQL one that waits for its
/// acknowledgement is not among those that are said to be executed, and a replica may have applied it.
const AHEAD_PATIENCE: Duration = Duration::from_secs(5);

/// How long a replica may take to connect.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// The source's word that the replica has what it does not have (`ER_MASTER_FATAL_ERROR_READING_BINLOG`), or that what
/// comes next is gone.
pub(crate) const FATAL_READING: u64 = 1236;

impl Worker {
    /// After a crash: cuts what the leader lacks, starts, follows.
    pub(super) async fn rejoin(&self, leader: &ServerName, epoch: Epoch, peers: &Peers) -> Result<(), Ended> {
        if self.database.helper.state().await?.pid.is_some() {
            // Somebody started it. What it wrote down meanwhile is looked at as after any crash.
            self.database.control.close().await;
            self.database.helper.kill().await?;
        }
        let facts = self.ask_leader(leader, epoch, peers).await?;
        let cut = self.database.helper.cut_binlog(&facts.received, leader).await?;
        if let Some(cut) = &cut {
            tracing::warn!(
                file = cut.file,
                position = cut.position,
                transactions = cut.transactions,
                first = cut.first,
                last = cut.last,
                kept = %cut.kept.display(),
                "cut off what the primary lacks"
            );
            self.note_only_here(OnlyHere {
                transactions: cut.transactions,
                which: format!("{} to {}", cut.first, cut.last),
                kept: Some(cut.kept.clone()),
            });
        }
        // A new id: a server skips events of its own id, which may come back to it now.
        self.write_settings(secret::new_server_id()?).await?;
        self.database.helper.start().await?;
        self.database.login().await?;
        self.database.helper.check_recovery().await?;
        self.follow(leader, epoch, peers).await
    }

    /// Points the running server to that leader, when it has nothing that the leader lacks.
    pub(super) async fn follow(&self, leader: &ServerName, epoch: Epoch, peers: &Peers) -> Result<(), Ended> {
        let words = &self.database.flavor;
        let mut session = self.database.control.session().await?;
        self.check_no_waiters().await?;
        for statement in words.set_writable(false) {
            session.query(&statement, SQL_PATIENCE).await?;
        }
        for statement in words.acknowledge(0) {
            session.query(&statement, SQL_PATIENCE).await?;
        }
        session
            .query("SET GLOBAL event_scheduler = OFF", SQL_PATIENCE)
            .await?;
        if self.database.replica_status().await?.is_some() {
            self.leave_source().await?;
        }
        let position = self.check_errant(leader, epoch, peers).await?;
        self.keep_flag(peers.servers.len() == 1)?;
        self.attach(session, leader, position, peers).await
    }

    /// From the leader that it follows to a replica of it that has everything which is here.
    pub(super) async fn follow_through(
        &self,
        source: &ServerName,
        epoch: Epoch,
        peers: &Peers,
    ) -> Result<(), Ended> {
        let session = self.database.control.session().await?;
        if self.database.replica_status().await?.is_some() {
            self.leave_source().await?;
        }
        let own = self.has().await?.position;
        let begun = Instant::now();
        loop {
            // The answer is of one moment, its database later than what is on its disk.
            let answer = peers.ask.answer(source).await;
            let there = answer.filter(|answer| answer.follows == Some(epoch));
            let facts = there
                .and_then(|answer| answer.facts)
                .filter(|facts| facts.answers);
            let applied = facts.map(|facts| self.parse(&facts.applied)).transpose()?;
            if applied.is_some_and(|applied| applied.reaches(&own)) {
                break;
            }
            if begun.elapsed() > AHEAD_PATIENCE {
                return Err(
                    Refusal::new(Code::N002, format!("{source} cannot be followed yet"))
                        .because(format!("it does not have everything up to {own}"))
                        .into(),
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Nobody takes its acknowledgement for one of the leader's.
        self.keep_flag(false)?;
        self.attach(session, source, own, peers).await
    }

    /// Receives from that server what comes after `position`.
    async fn attach(
        &self,
        mut session: Session,
        from: &ServerName,
        position: Position,
        peers: &Peers,
    ) -> Result<(), Ended> {
        let words = &self.database.flavor;
        let peer = peers
            .servers
            .get(from)
            .ok_or_else(|| Refusal::new(Code::F004, format!("{from} has no database")))?;
        let source = Source {
            address: peer.address,
            port: peer.port,
            account: self.database.replication_account(&peers.me, peers.address),
            delay_seconds: self.database.delay_seconds(),
        };
        let position = position.to_string();
        crate::database::check_position(&position)?;
        for statement in words.set_position(&position) {
            session.query(&statement, SQL_PATIENCE).await?;
        }
        let flag = words.semi_sync_replica(self.flag());
        session.query(&flag, SQL_PATIENCE).await?;
        self.database.point_to(&mut session, &source).await?;
        if let Some(appliers) = words.set_appliers() {
            session.query(&appliers, SQL_PATIENCE).await?;
        }
        session.query(words.start_replica(), SQL_PATIENCE).await?;
        self.wait_following().await?;
        if self.database.helper.state().await?.incoming.is_some() && !self.database.copy_ordered() {
            // Of a copy that was not finished and is not needed: a later one must not take it for its own.
            self.database.helper.discard_incoming().await?;
        }
        Ok(())
    }

    /// Copies that leader's data; the present data directory is renamed.
    pub(super) async fn copy(&self, leader: &ServerName, epoch: Epoch, peers: &Peers) -> Result<(), Ended> {
        let prepared = async {
            let facts = self.ask_leader(leader, epoch, peers).await?;
            let ticket = peers.ask.ticket(leader).await?;
            self.database.export_alone(&facts.received, leader).await?;
            Ok::<_, Refusal>(ticket)
        };
        let ticket = prepared
            .await
            .inspect_err(|refusal| self.database.note_failure(refusal))?;
        let (from, method) = (leader.clone(), ticket.method);
        let open = || async move { peers.ask.copy(&from, method).await };
        let mut progress = |now: CloneProgress| {
            let step = now.step.as_str();
            tracing::debug!(step, bytes = now.bytes, total = now.total, "copying");
        };
        // By its full name: an Arc has a `clone_from` of its own.
        Database::clone_from(&self.database, &ticket, &self.wanted, open, &mut progress).await?;
        // It follows already; now as one whose acknowledgement may count, and after the same checks as any other.
        self.follow(leader, epoch, peers).await
    }

    /// Commits that wait for an acknowledgement get none any more. Switching it off would end them as if they had one; of a
    /// database that is killed they are cut off when it rejoins.
    async fn check_no_waiters(&self) -> Result<(), Refusal> {
        let waiting = self.waiting_commits().await?;
        if waiting == 0 {
            return Ok(());
        }
        self.kill().await;
        Err(Refusal::new(
            Code::D004,
            "commits waited for an acknowledgement that cannot come any more",
        )
        .because(format!(
            "{waiting} of them; the database was killed, and rejoins without them"
        )))
    }

    /// What the leader says, when it leads that epoch and has applied all that it had received before.
    async fn ask_leader(&self, leader: &ServerName, epoch: Epoch, peers: &Peers) -> Result<Facts, Refusal> {
        let away =
            |why: String| Refusal::new(Code::N002, format!("{leader} cannot be followed yet")).because(why);
        let Some(answer) = peers.ask.answer(leader).await else {
            return Err(away("its agent does not answer".to_owned()));
        };
        if answer.drained != Some(epoch) {
            return Err(away(format!(
                "it has not applied yet all that it had received before epoch {epoch}"
            )));
        }
        match answer.facts {
            Some(facts) if facts.answers => Ok(facts),
            _ => Err(away("its database does not answer".to_owned())),
        }
    }

    fn note_only_here(&self, found: OnlyHere) {
        *self.only_here.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    /// Where this server stands, when everything that it has is in the leader's history.
    async fn check_errant(
        &self,
        leader: &ServerName,
        epoch: Epoch,
        peers: &Peers,
    ) -> Result<Position, Ended> {
        let begun = Instant::now();
        loop {
            let has = self.has().await?;
            let facts = self.ask_leader(leader, epoch, peers).await?;
            let history = History::parse(self.dialect(), &facts.received).map_err(|error| {
                Refusal::new(Code::N005, "a position that is none").because(error.to_string())
            })?;
            if history.has_position(&has.position) {
                return Ok(has.position);
            }
            if begun.elapsed() > AHEAD_PATIENCE {
                let lacks = match (&has.position, &history) {
                    (Position::MySql(here), History::MySql(there)) => here.without(there).to_string(),
                    (position, _) => position.to_string(),
                };
                self.note_only_here(OnlyHere {
                    transactions: history.lacks(&has.position),
                    which: lacks.clone(),
                    kept: None,
                });
                return Err(Ended::Diverged(
                    Refusal::new(Code::D011, "the database has transactions that its primary lacks")
                        .because(format!("{leader} does not have {lacks}"))
                        .next(
                            "make a new copy; the present data is kept under another name",
                            "pontoon db reseed",
                        ),
                ));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn wait_following(&self) -> Result<(), Ended> {
        let begun = Instant::now();
        loop {
            let status = self.database.replica_status().await?.unwrap_or_default();
            if status.receiving && status.applying {
                return Ok(());
            }
            if status.receiving_error == FATAL_READING {
                return Err(Ended::Diverged(
                    Refusal::new(
                        Code::D011,
                        "the primary's binary log does not go on where this server stands",
                    )
                    .because(status.error.unwrap_or_default())
                    .next(
                        "make a new copy; the present data is kept under another name",
                        "pontoon db reseed",
                    ),
                ));
            }
            if status.applying_error != 0 && !status.applying {
                return Err(stopped_applying(&status).into());
            }
            if begun.elapsed() > CONNECT_PATIENCE {
                let said = status.error.unwrap_or_else(|| "it says nothing".to_owned());
                return Err(Refusal::new(Code::D004, "the replica does not follow")
                    .because(said)
                    .into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Connects anew as a semi-synchronous replica, or as one that is not.
    pub(super) async fn become_acknowledging(&self, yes: bool) -> Result<(), Refusal> {
        let words = &self.database.flavor;
        self.keep_flag(yes)?;
        let rows = self.database.control.query(words.is_semi_sync_replica()).await?;
        let is = is_on(rows.first().and_then(crate::control::Row::first));
        let status = self.database.replica_status().await?;
        if is == yes && status.as_ref().is_none_or(|status| status.receiving) {
            return Ok(());
        }
        self.run(&[words.semi_sync_replica(yes)]).await?;
        let Some(status) = status else { return Ok(()) };
        if !status.applying {
            // Receiving is not stopped while nothing holds the relay log.
            return Err(stopped_applying(&status));
        }
        if status.receiving || status.connecting {
            self.stop_receiver(&status).await?;
            self.run(&[words.start_receiving()]).await?;
        }
        Ok(())
    }

    /// Events run on the primary only, and there when they did before Pontoon came.
    pub(super) async fn let_events_run(&self) -> Result<(), Refusal> {
        let control = &self.database.control;
        if !self.events_wanted()? {
            return Ok(());
        }
        let off = "SELECT event_schema AS s, event_name AS n, definer AS d FROM information_schema.events \
                   WHERE status IN ('SLAVESIDE_DISABLED', 'REPLICA_SIDE_DISABLED')";
        let name = |text: &str| format!("`{}`", text.replace('`', "``"));
        for row in control.query(off).await? {
            let (Some(schema), Some(event), Some(definer)) = (row.get("s"), row.get("n"), row.get("d"))
            else {
                continue;
            };
            let Some((user, host)) = definer.rsplit_once('@') else {
                continue;
            };
            let statement = format!(
                "ALTER DEFINER = {}@{} EVENT {}.{} ENABLE",
                name(user),
                name(host),
                name(schema),
                name(event)
            );
            if let Err(refusal) = control.query(&statement).await {
                tracing::warn!(%refusal, schema, event, "an event that ran on the primary before does not run");
            }
        }
        control.query("SET GLOBAL event_scheduler = ON").await.map(drop)
    }

    fn events_wanted(&self) -> Result<bool, Refusal> {
        let kept = self
            .database
            .last_clone()?
            .map(|state| state.inherited)
            .unwrap_or_default();
        let shared = kept.iter().chain(&self.wanted.inherited);
        let said = shared
            .into_iter()
            .find(|setting| setting.name == "event_scheduler");
        Ok(match said {
            Some(setting) => is_on(Some(setting.value.as_str())),
            None => self
                .database
                .events_before()?
                .unwrap_or(self.database.node().engine == Engine::Mysql),
        })
    }
}

impl Database {
    /// Whether events ran before Pontoon switched them off at every start; `None` when nobody looked.
    pub(crate) fn events_before(&self) -> Result<Option<bool>, Refusal> {
        let kept = pontoon_rt::files::read_limited(&self.paths.state_dir.join("events"), 16)?;
        Ok(kept.map(|bytes| bytes.starts_with(b"1")))
    }

    /// Looks, once, before the settings change it.
    pub(crate) async fn remember_events(&self) -> Result<(), Refusal> {
        if self.events_before()?.is_some() {
            return Ok(());
        }
        let rows = self.control.query("SELECT @@global.event_scheduler").await?;
        let on = is_on(rows.first().and_then(crate::control::Row::first));
        pontoon_rt::files::write_atomic(
            &self.paths.state_dir.join("events"),
            if on { b"1" } else { b"0" },
            0o600,
        )?;
        Ok(())
    }
}
