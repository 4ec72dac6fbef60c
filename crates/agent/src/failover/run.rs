//! Keeps one task alive while the configuration wants one, and begins it anew when it has to.

use std::sync::Arc;
use std::time::Duration;

use pontoon_config::{Config, Lease};
use pontoon_decide::failover::{Notice, Record, State};
use pontoon_fleet::{Code, EventKind, Refusal, Revision, ServerName};
use pontoon_lease::{Kept, Place};
use pontoon_replication::work::{OnlyHere, Peers, Worker, Works};
use pontoon_replication::{Database, Wanted};
use pontoon_rt::clock::boot_id;
use pontoon_rt::shutdown::Shutdown;

use super::line::AgentLine;
use super::remembered::Remembered;
use super::setup;
use super::task::{Audience, End, Outfit, Task};
use crate::carry_out;
use crate::core::{Active, Agent};

/// Between two looks whether there is something to do.
const LOOK: Duration = Duration::from_millis(500);

/// Before a task that could not begin, or ended on an error, is begun anew.
const PAUSE: Duration = Duration::from_secs(2);

/// How long a task may take to end: it may be killing the database, and nothing else is waited for.
const REST_PATIENCE: Duration = Duration::from_secs(60);

/// Makes what carries out work on a database.
pub(crate) type WorksOf = fn(Arc<Database>, Wanted) -> Arc<dyn Works>;

/// The real thing.
pub(crate) fn worker(database: Arc<Database>, wanted: Wanted) -> Arc<dyn Works> {
    Arc::new(Worker::new(database, wanted))
}

/// Runs until shutdown.
pub(crate) async fn run(agent: Arc<Agent>, works: WorksOf) {
    let mut told: Option<Refusal> = None;
    loop {
        if let Some(active) = wanted(&agent) {
            let end = one_life(&agent, &active, works).await;
            let trouble = match end {
                Ok(End::Shutdown) => return agent.failover.close(None),
                Ok(End::Again(why)) => why,
                Err(refusal) => Some(refusal),
            };
            if let Some(refusal) = trouble.as_ref().filter(|now| told.as_ref() != Some(*now)) {
                agent.record(EventKind::FailoverStopped {
                    code: refusal.code,
                    reason: refusal.to_string(),
                });
            }
            let pause = if trouble.is_some() { PAUSE } else { Duration::ZERO };
            told = trouble.clone();
            agent.failover.close(trouble);
            agent.changed.notify_one();
            if wait(&agent, pause).await {
                return;
            }
        } else {
            agent.failover.close(None);
            if wait(&agent, LOOK).await {
                return;
            }
        }
    }
}

/// Whether to end.
async fn wait(agent: &Agent, pause: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(pause) => false,
        () = agent.shutdown.requested() => true,
    }
}

/// The configuration, if it wants failover here and this server is as it says.
fn wanted(agent: &Agent) -> Option<Active> {
    let me = agent.membership()?.me;
    let active = agent.active()?;
    let settled = agent.known().settled >= active.committed.revision;
    (settled && setup::takes_part(&active.config, &me)).then_some(active)
}

async fn one_life(agent: &Arc<Agent>, active: &Active, works: WorksOf) -> Result<End, Refusal> {
    let config = &active.config;
    let me = agent.member()?.me;
    let (Some(db), Some(lease), Some(server)) = (&config.db, &config.lease, config.server(&me)) else {
        return Ok(End::Again(None));
    };
    let database = carry_out::open_database(agent, db).await?;
    let file = agent.paths.failover_file();
    let remembered = Remembered::open(&file, &config.fleet.name, &me, boot_id())?;
    let works = works(database, carry_out::wanted(agent, db, server, true)?);
    let timing = setup::timing(lease);
    let store = store(config, lease)?;
    let founder = founder(agent, config, &me);
    let setup = setup::setup(config, db, lease, &me, founder, works.relay_survives());
    let line = AgentLine::new(agent, works.clone());
    let inbox = agent.failover.open();
    agent.set_works(Some(works.clone()));
    let outfit = Outfit {
        clock: agent.clock.clone(),
        store,
        works,
        peers: Arc::new(Peers {
            me: me.clone(),
            address: server.private,
            servers: setup::peers(config, db, &me),
            ask: line.clone(),
        }),
        line,
        audience: Arc::new(Fleet { agent: agent.clone() }),
        desk: agent.failover.clone(),
        timing,
    };
    // A task ends with the agent, and with the configuration that it was begun for.
    let ending = Shutdown::new();
    let task = Task::begin(outfit, setup, remembered)
        .await
        .run(inbox, ending.clone());
    tokio::pin!(task);
    let revision = active.committed.revision;
    let end = loop {
        tokio::select! {
            end = &mut task => break end,
            () = tokio::time::sleep(LOOK) => {
                if is_over(agent, revision) {
                    ending.trigger();
                }
            }
            () = agent.shutdown.requested() => ending.trigger(),
        }
    };
    agent.set_works(None);
    let asked = agent.shutdown.is_requested();
    Ok(match end {
        End::Shutdown if !asked => End::Again(None),
        end => end,
    })
}

fn is_over(agent: &Agent, revision: Revision) -> bool {
    wanted(agent).is_none_or(|active| active.committed.revision != revision)
}

/// Waits until no task holds the database, so that it may be given other settings. A task ends by itself once another
/// revision is active than the one that it was begun for.
pub(crate) async fn at_rest(agent: &Agent) -> Result<(), Refusal> {
    let revision = agent.revision();
    free(agent, || agent.known().settled >= revision).await
}

/// The same where no configuration is active any more: nobody may kill or start the database of a server that leaves
/// while it is moved back.
pub(crate) async fn at_end(agent: &Agent) -> Result<(), Refusal> {
    free(agent, || false).await
}

async fn free(agent: &Agent, is_settled: impl Fn() -> bool) -> Result<(), Refusal> {
    let begun = agent.clock.now();
    loop {
        if is_settled() || agent.works().is_none() {
            return Ok(());
        }
        if agent.clock.now().saturating_sub(begun) > REST_PATIENCE {
            return Err(
                Refusal::new(Code::L001, "failover does not let go of the database")
                    .because(format!("for {} s", REST_PATIENCE.as_secs()))
                    .next("see what it does", "pontoon db status"),
            );
        }
        tokio::time::sleep(LOOK / 5).await;
    }
}

/// The store of the configuration, opened.
fn store(config: &Config, lease: &Lease) -> Result<super::task::Store, Refusal> {
    let place = Place::of(Some(lease), &config.fleet.name)
        .ok_or_else(|| Refusal::new(Code::L001, "the lease is in no store that servers share"))?;
    let cell = pontoon_lease::open(&place, setup::timing(lease).request)?;
    Ok(Arc::new(Kept::new(cell)))
}

/// The server whose database served the application before there was a record.
fn founder(agent: &Agent, config: &Config, me: &ServerName) -> bool {
    let known = agent.known().lease.clone();
    match known {
        Some(lease) => lease.leader == *me,
        None => agent
            .membership()
            .and_then(|membership| carry_out::first_leader(config, &membership.keeper))
            .is_some_and(|first| first == *me),
    }
}

/// Tells the rest of the agent, and through it the fleet.
struct Fleet {
    agent: Arc<Agent>,
}

impl Fleet {
    fn epoch(record: Option<&Record>) -> pontoon_fleet::Epoch {
        record.map(|record| record.epoch).unwrap_or_default()
    }

    fn tell(&self, kind: EventKind) {
        self.agent
            .failover
            .told(self.agent.clock.unix(), kind.to_string());
        self.agent.record(kind);
    }
}

impl Audience for Fleet {
    fn record(&self, record: &Record) {
        let lease = record.lease();
        let before = self.agent.known().lease.clone();
        self.agent.learn_lease(&lease);
        let me = self.agent.membership().map(|membership| membership.me);
        let grew = before.is_none_or(|before| before.epoch < lease.epoch);
        if grew && me.as_ref() == Some(&lease.leader) {
            self.tell(EventKind::LeaseTaken { epoch: lease.epoch });
            if let Some(loss) = record.loss {
                let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                self.tell(EventKind::WritesAtRisk {
                    epoch: lease.epoch,
                    window_ms: loss.window.map(ms),
                    known: loss.known,
                });
            }
        }
        self.agent.changed.notify_one();
    }

    fn notice(&self, notice: &Notice) {
        let record = self.agent.failover.posted().and_then(|posted| posted.record);
        let epoch = Fleet::epoch(record.as_ref());
        self.tell(match notice {
            Notice::StoreWentBack => EventKind::LeaseStoreWentBack,
            Notice::ForeignLease(fleet) => EventKind::LeaseForeign {
                fleet: fleet.to_string(),
            },
            Notice::Stranded => EventKind::DatabaseStranded { epoch },
            Notice::NeedsCopy => EventKind::DatabaseNeedsCopy { epoch },
            Notice::KilledSilent => EventKind::DatabaseSilent { epoch },
            Notice::KilledFull => EventKind::DatabaseFull { epoch },
            Notice::Fenced => EventKind::DatabaseFenced { epoch },
            Notice::HandOverGivenUp(to) => EventKind::FailoverRefused {
                reason: format!("the hand-over to {to} was given up: this server stays the primary"),
            },
            Notice::TakenBack(to) => EventKind::FailoverRefused {
                reason: format!(
                    "the hand-over to {to} was taken back, because its database ended in that moment: this server is the primary \
                     again"
                ),
            },
            Notice::Refused(why) => EventKind::FailoverRefused {
                reason: super::orders::words(*why),
            },
        });
    }

    fn only_here(&self, what: &OnlyHere) {
        self.tell(EventKind::TransactionsOnlyHere {
            transactions: what.transactions,
            which: what.which.clone(),
            kept: what.kept.as_ref().map(|file| file.display().to_string()),
        });
    }

    fn state(&self, before: Option<State>, now: State, record: Option<&Record>) {
        let epoch = Fleet::epoch(record);
        let opened = |state| matches!(state, State::LeaderSync | State::LeaderAlone);
        if opened(now) && before.is_some_and(|before| !opened(before)) {
            self.tell(EventKind::PrimaryOpened { epoch });
        }
        match (now, record) {
            (State::LeaderSync, Some(record)) => self.tell(EventKind::PrimaryInSync {
                epoch,
                replicas: record.sync.keys().cloned().collect(),
                acks: record.acks,
            }),
            (State::LeaderAlone, _) => self.tell(EventKind::PrimaryAlone { epoch }),
            (State::Follow, Some(record)) if before != Some(State::FollowSync) => {
                self.tell(EventKind::DatabaseFollows {
                    epoch,
                    leader: record.leader.clone(),
                });
            }
            _ => {}
        }
        self.agent.changed.notify_one();
    }

    fn store(&self, error: Option<&str>) {
        self.tell(match error {
            Some(reason) => EventKind::LeaseStoreSilent {
                reason: reason.to_owned(),
            },
            None => EventKind::LeaseStoreAnswers,
        });
    }
}
