//! A server that is about to lead asks the other replicas whether one received more from the dead primary than it did
//! itself, and fetches that. None of it was acknowledged, so nothing depends on its success; but a replica that went
//! further than its new primary would have parted from it, and could only be copied anew.

use std::time::{Duration, Instant};

use pontoon_fleet::{Epoch, Refusal, ServerName};
use pontoon_gtid::History;

use super::worker::{Has, SQL_PATIENCE, Worker};
use super::{Facts, Peers};
use crate::flavor::Source;

/// How long a server may take to answer: the one that led before may stand still.
const ANSWER_PATIENCE: Duration = Duration::from_millis(700);

/// How long others may take to stop receiving from the primary that was.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// How long it may take to fetch what they have.
const FETCH_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

impl Worker {
    /// Before this server opens for the first time in that epoch. What goes wrong with others is logged.
    pub(super) async fn gather(&self, epoch: Epoch, peers: &Peers) -> Result<(), Refusal> {
        if peers.servers.len() < 2 || self.is_begun(epoch).await? {
            return Ok(());
        }
        let has = self.has().await?;
        let Some((name, goal)) = self.furthest(&has, peers).await else {
            return Ok(());
        };
        let begun = Instant::now();
        let fetched = self.fetch(&has, &name, &goal, peers).await;
        self.leave_source().await?;
        match fetched {
            Ok(()) => {
                tracing::info!(%name, took = ?begun.elapsed(), "it had received more, which is here now too")
            }
            Err(refusal) => {
                tracing::warn!(%name, %refusal, "it had received more, which could not be fetched");
            }
        }
        Ok(())
    }

    /// Who has most of those whose history goes on where this server's ends.
    async fn furthest(&self, own: &Has, peers: &Peers) -> Option<(ServerName, History)> {
        let others = peers.servers.iter().filter(|(_, peer)| !peer.delayed);
        let asked = others.map(|(name, _)| stopped(name, peers));
        let all = futures::future::join_all(asked).await.into_iter().flatten();
        all.filter_map(|(name, facts)| {
            let history = History::parse(self.dialect(), &facts.received).ok()?;
            let more = history.goes_on_after(&own.history);
            more.then_some((facts.position, name, history))
        })
        .max_by_key(|(position, ..)| *position)
        .map(|(_, name, history)| (name, history))
    }

    async fn fetch(
        &self,
        own: &Has,
        from: &ServerName,
        goal: &History,
        peers: &Peers,
    ) -> Result<(), Refusal> {
        let Some(peer) = peers.servers.get(from) else {
            return Ok(());
        };
        let words = &self.database.flavor;
        let source = Source {
            address: peer.address,
            port: peer.port,
            account: self.database.replication_account(&peers.me, peers.address),
            delay_seconds: 0,
        };
        let position = own.position.to_string();
        crate::database::check_position(&position)?;
        let mut statements = words.set_position(&position);
        statements.push(words.semi_sync_replica(false));
        statements.extend(words.follow(&source, &self.database.tls_files()));
        statements.push(words.start_replica().to_owned());
        let mut session = self.database.control.session().await?;
        for statement in statements {
            session.query(&statement, SQL_PATIENCE).await?;
        }
        let begun = Instant::now();
        loop {
            if self.has().await?.history.contains(goal) {
                return Ok(());
            }
            if begun.elapsed() > FETCH_PATIENCE {
                let status = self.database.replica_status().await?.unwrap_or_default();
                return Err(super::lead::stopped_applying(&status));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// How that server's database stands once it receives nothing; `None` when it is not there, or takes too long.
async fn stopped(name: &ServerName, peers: &Peers) -> Option<(ServerName, Facts)> {
    let first = tokio::time::timeout(ANSWER_PATIENCE, peers.ask.answer(name)).await;
    let mut answer = first.ok().flatten()?;
    let begun = Instant::now();
    loop {
        // Of a database that is dead nothing is awaited.
        let facts = answer.facts.filter(|facts| facts.answers && !facts.open)?;
        if !facts.receiving && !facts.applying {
            return Some((name.clone(), facts));
        }
        if begun.elapsed() > STOP_PATIENCE {
            return None;
        }
        tokio::time::sleep(LOOK).await;
        answer = peers.ask.answer(name).await?;
    }
}
