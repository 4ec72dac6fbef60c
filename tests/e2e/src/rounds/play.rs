//! How each fault is brought about and ended.

use std::time::Duration;

use pontoon_testkit::database::databases;
use pontoon_testkit::{LabError, LabStore, Lost, Server, wait_until};

use super::Fault;
use crate::fleet::{Fleet, Standing, attempt, expect, kill_agent, programs, standing, start_agent, tell};

/// How long another server may take to take over, or a server to do what it does by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// The leases of the tests run out after so long ([`LabStore::table`]).
pub(super) const TTL: Duration = Duration::from_secs(6);

/// How much of the end of what a replica received is lost with its power: pages that were not written yet.
const UNSYNCED: u64 = 4096;

/// Where the databases of the fleet listen, beside their proxies.
const DATABASE_PORT: u16 = 3307;

/// Who plays.
pub struct Scene<'a> {
    /// The fleet.
    pub fleet: &'a Fleet,
    /// Its lease store.
    pub store: &'a LabStore,
    /// Who leads.
    pub primary: &'a Server,
    /// The other one.
    pub replica: &'a Server,
    /// How it stood.
    pub before: &'a Standing,
}

impl Scene<'_> {
    /// For how long a primary that was replaced may answer reads.
    pub const STALE: Duration = Duration::from_secs(TTL.as_secs() + 2);

    /// Plays one fault and ends it.
    ///
    /// # Errors
    /// When somebody takes over who may not, or nobody does who should.
    pub async fn play(&self, fault: Fault) -> Result<(), LabError> {
        let (primary, replica, lab) = (self.primary, self.replica, &self.fleet.lab);
        let store = self.store.server();
        match fault {
            Fault::DatabaseKilled => {
                databases(primary).iter().try_for_each(|id| id.kill_9())?;
                self.taken_over().await
            }
            Fault::DatabaseStopped => {
                let asked = databases(primary);
                for id in &asked {
                    id.signal(rustix::process::Signal::TERM)?;
                }
                wait_until("the end of the database", LIMIT, async || {
                    asked.iter().all(|id| !id.alive()).then_some(())
                })
                .await?;
                self.opened_again().await
            }
            Fault::DatabaseFrozen => {
                databases(primary).iter().try_for_each(|id| id.freeze(true))?;
                // It is killed, so nobody needs to wake it.
                self.taken_over().await
            }
            Fault::ReplicaFrozen => {
                databases(replica).iter().try_for_each(|id| id.freeze(true))?;
                self.alone().await?;
                self.nobody_takes_over().await?;
                databases(replica).iter().try_for_each(|id| id.freeze(false))
            }
            Fault::AgentKilled => {
                kill_agent(primary).await?;
                self.taken_over().await?;
                start_agent(primary).await
            }
            Fault::AgentFrozen => {
                let agent = programs(primary, "agent");
                agent.iter().try_for_each(|id| id.freeze(true))?;
                self.taken_over().await?;
                agent.iter().try_for_each(|id| id.freeze(false))
            }
            Fault::ReplicaAgentKilled => {
                kill_agent(replica).await?;
                tokio::time::sleep(TTL + TTL / 2).await;
                let now = standing(primary).await?;
                expect(now.leader == primary.name(), || format!("taken over: {now:?}"))?;
                start_agent(replica).await
            }
            Fault::AgentAndDatabaseKilled => {
                let agent = kill_agent(primary);
                let database = databases(primary).into_iter().try_for_each(|id| id.kill_9());
                agent.await?;
                database?;
                self.taken_over().await?;
                start_agent(primary).await
            }
            Fault::ServerFrozen => {
                primary.freeze().await?;
                self.taken_over().await?;
                primary.thaw()
            }
            Fault::PrimaryCutOff => {
                primary.link_down().await?;
                self.taken_over().await?;
                primary.link_up().await
            }
            Fault::ReplicaCutOff => {
                replica.link_down().await?;
                self.alone().await?;
                self.nobody_takes_over().await?;
                replica.link_up().await
            }
            Fault::PrimaryUnheard => {
                let pairs = [(primary, replica), (primary, store)];
                self.one_way(pairs, true).await?;
                self.taken_over().await?;
                self.one_way(pairs, false).await
            }
            Fault::PrimaryDeaf => {
                let pairs = [(replica, primary), (store, primary)];
                self.one_way(pairs, true).await?;
                self.taken_over().await?;
                self.one_way(pairs, false).await
            }
            Fault::Divided => {
                lab.isolate(&self.fleet.a, &self.fleet.b).await?;
                self.alone().await?;
                self.nobody_takes_over().await?;
                lab.rejoin(&self.fleet.a, &self.fleet.b).await
            }
            Fault::LostToReplica => self.apart(primary, replica).await,
            Fault::LostToPrimary => self.apart(replica, primary).await,
            Fault::AcksLost => self.acknowledgements_lost().await,
            Fault::StoreSilent => {
                store.link_down().await?;
                self.nobody_takes_over().await?;
                self.still_in_sync().await?;
                store.link_up().await
            }
            Fault::StoreSilentAndDivided => {
                store.link_down().await?;
                lab.isolate(&self.fleet.a, &self.fleet.b).await?;
                self.nobody_takes_over().await?;
                // The primary may not go on without its replica on its own word.
                self.still_in_sync().await?;
                lab.rejoin(&self.fleet.a, &self.fleet.b).await?;
                store.link_up().await
            }
            Fault::StoreSilentAndPrimaryLost => {
                store.link_down().await?;
                tokio::time::sleep(TTL / 2).await;
                databases(primary).iter().try_for_each(|id| id.kill_9())?;
                self.nobody_takes_over().await?;
                store.link_up().await?;
                self.opened_again().await
            }
            Fault::RestartedInPlace => {
                replica.link_down().await?;
                self.alone().await?;
                // Some writes that this server alone has.
                tokio::time::sleep(Duration::from_secs(1)).await;
                let killed = databases(primary);
                killed.iter().try_for_each(|id| id.kill_9())?;
                wait_until("another process of the database", LIMIT, async || {
                    let now = databases(primary);
                    (!now.is_empty() && now.iter().all(|id| !killed.contains(id))).then_some(())
                })
                .await?;
                self.alone().await?;
                replica.link_up().await
            }
            Fault::ServerLost => {
                primary.power_off().await?;
                self.taken_over().await?;
                self.power_on(primary).await
            }
            Fault::ReplicaPowerCut => {
                replica.power_off().await?;
                forget_the_end(replica)?;
                self.alone().await?;
                self.power_on(replica).await
            }
            Fault::BothPowerCut => {
                replica.power_off().await?;
                primary.power_off().await?;
                forget_the_end(replica)?;
                self.power_on(replica).await?;
                tokio::time::sleep(TTL + TTL / 2).await;
                self.power_on(primary).await?;
                self.opened_again().await
            }
            Fault::PrimaryDiskFull => {
                primary.fill_disk().await?;
                let said = self.says_that_it_is_full(primary).await;
                let taken = self.taken_over().await;
                primary.free_disk()?;
                said.and(taken)
            }
            Fault::ReplicaDiskFull => {
                replica.fill_disk().await?;
                let said = self.says_that_it_is_full(replica).await;
                let stays = self.nobody_takes_over().await;
                replica.free_disk()?;
                said.and(stays)
            }
        }
    }

    /// Both at once: for how long nobody could write is counted from the first that is lost, and the lease from the other.
    async fn one_way(&self, pairs: [(&Server, &Server); 2], lost: bool) -> Result<(), LabError> {
        let ([one, other], lab) = (pairs, &self.fleet.lab);
        tokio::try_join!(
            lab.lose_one_way(one.0, one.1, lost),
            lab.lose_one_way(other.0, other.1, lost)
        )
        .map(drop)
    }

    async fn apart(&self, from: &Server, to: &Server) -> Result<(), LabError> {
        let lab = &self.fleet.lab;
        lab.lose_one_way(from, to, true).await?;
        self.alone().await?;
        self.nobody_takes_over().await?;
        lab.lose_one_way(from, to, false).await
    }

    /// As behind a middlebox that forgets a connection: what the replica answers on the connection of now is lost for ever,
    /// while it receives; then it receives nothing either, until it dials anew. Who dials anew is let through.
    async fn acknowledgements_lost(&self) -> Result<(), LabError> {
        let replica = self.replica;
        let port = ports_of(replica, self.primary).await?;
        replica.lose(&[Lost::sent(format!("tcp sport {port}"))]).await?;
        // Commits are written, received, and wait.
        tokio::time::sleep(Duration::from_secs(2)).await;
        replica
            .lose(&[
                Lost::sent(format!("tcp sport {port}")),
                Lost::received(format!("tcp dport {port}")),
            ])
            .await?;
        wait_until("another connection of the replica", LIMIT, async || {
            ports_of(replica, self.primary)
                .await
                .ok()
                .filter(|now| *now != port)
        })
        .await?;
        self.nobody_takes_over().await?;
        replica.lose(&[]).await
    }

    async fn power_on(&self, server: &Server) -> Result<(), LabError> {
        server.power_on().await?;
        self.store.hand_keys_to(server)?;
        start_agent(server).await
    }

    /// Waits until the replica leads and takes writes.
    async fn taken_over(&self) -> Result<(), LabError> {
        wait_until("a new primary", LIMIT, async || {
            let now = standing(self.replica).await.ok()?;
            let epoch = now.epoch > self.before.epoch;
            (epoch && now.leader == self.replica.name() && is_open(&now)).then_some(())
        })
        .await
    }

    /// Waits until a database that is not the process of before takes writes, on either server.
    async fn opened_again(&self) -> Result<(), LabError> {
        wait_until("an open primary", LIMIT, async || {
            for server in [self.replica, self.primary] {
                if standing(server).await.is_ok_and(|now| is_open(&now)) {
                    return Some(());
                }
            }
            None
        })
        .await
    }

    /// Waits until the primary goes on without its replica.
    async fn alone(&self) -> Result<(), LabError> {
        wait_until("a primary that goes on alone", LIMIT, async || {
            let now = standing(self.primary).await.ok()?;
            let state = now.states.get(self.primary.name())?;
            (state == "leader-alone" && now.in_sync.is_empty()).then_some(())
        })
        .await
    }

    /// For longer than a lease holds, the replica stays one.
    async fn nobody_takes_over(&self) -> Result<(), LabError> {
        tokio::time::sleep(TTL + TTL / 2).await;
        let now = standing(self.replica).await?;
        expect(now.leader != self.replica.name(), || {
            format!("taken over: {now:?}")
        })
    }

    async fn still_in_sync(&self) -> Result<(), LabError> {
        let now = standing(self.primary).await?;
        expect(now.in_sync == self.before.in_sync, || {
            format!("in sync no more: {now:?}")
        })
    }

    /// Waits until `pontoon status` on the other server names what is wrong.
    async fn says_that_it_is_full(&self, full: &Server) -> Result<(), LabError> {
        let other = if full.name() == self.primary.name() {
            self.replica
        } else {
            self.primary
        };
        let mut last = String::new();
        for _ in 0..120 {
            let (_, out, err) = attempt(other, &["status"]).await?;
            last = out + &err;
            if last.contains(&format!("the disk of {} is full", full.name())) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        tell(&last);
        Err(LabError::App(format!(
            "nobody says that the disk of {} is full",
            full.name()
        )))
    }
}

/// The replica's port of the connection over which it receives.
async fn ports_of(replica: &Server, primary: &Server) -> Result<String, LabError> {
    let wanted = format!(
        "ss -Htn state established dst {} dport = :{DATABASE_PORT}",
        primary.private()
    );
    let lines = replica.sh(&wanted).await?;
    let local = lines
        .lines()
        .next_back()
        .and_then(|line| line.split_whitespace().nth(2));
    let port = local.and_then(|address| address.rsplit_once(':'));
    port.map(|(_, port)| port.to_owned())
        .ok_or_else(|| LabError::App(format!("the replica receives from nobody: {lines:?}")))
}

fn is_open(now: &Standing) -> bool {
    let state = now.states.get(&now.leader);
    state.is_some_and(|state| state.starts_with("leader-"))
}

/// Takes the end of each newest relay log away, as a power cut does that comes before the disk was written.
fn forget_the_end(server: &Server) -> Result<(), LabError> {
    let dir = server.dir().join("var-lib/mysql");
    let mut logs: Vec<_> = std::fs::read_dir(&dir)
        .map_err(LabError::io("the data directory"))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let number = name.rsplit_once('.').map_or("", |(_, end)| end);
            name.contains("relay") && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        })
        .collect();
    logs.sort();
    let Some(newest) = logs.last() else { return Ok(()) };
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(newest)
        .map_err(LabError::io("a relay log"))?;
    let long = file.metadata().map_err(LabError::io("a relay log"))?.len();
    file.set_len(long.saturating_sub(UNSYNCED))
        .map_err(LabError::io("a relay log"))
}
