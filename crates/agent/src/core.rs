//! What an agent knows and holds: one value shared by its tasks. Decisions are not made here; they are in `decide`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pontoon_config::Config;
use pontoon_decide::addresses::Addresses;
use pontoon_decide::change::Committed;
use pontoon_fleet::{
    Code, DatabaseReport, DrainBook, EventKind, LeaseRecord, MaintenanceMark, Purge, PurgeBook, Refusal,
    Revision, Role, ServerName, ServerReport, Tier, TierReport, UnixMillis,
};
use pontoon_helper::HelperClient;
use pontoon_pki::SharedIdentity;
use pontoon_replication::work::Works;
use pontoon_replication::{Database, Errant};
use pontoon_rt::clock::Clock;
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;
use pontoon_telemetry::events::EventLog;
use tokio::sync::Notify;

use crate::authorise::{Peer, is_control};
use crate::change::ChangeHub;
use crate::failover::hold::Mark;
use crate::failover::{Deadlines, Desk, FailoverReport};
use crate::observe::Rate;
use crate::purge;
use crate::store::{PendingJoiner, Store};
use crate::throttle::Throttle;

/// A tier's report that is older than this no longer says anything.
const TIER_REPORT_LIFE: Duration = Duration::from_secs(5);

/// How far the clocks of two servers are thought to be apart at the most.
const CLOCKS_APART: Duration = Duration::from_secs(86_400);

/// How the tiers of this server are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supervision {
    /// As systemd's units `pontoon-edge.service` and `pontoon-sql.service`.
    Systemd,
    /// As detached children that outlive the agent: in containers, and in the demo.
    Children,
}

/// Everything that the tasks of one agent share.
pub(crate) struct Agent {
    pub(crate) paths: Paths,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    events: RwLock<Arc<EventLog>>,
    pub(crate) shutdown: Shutdown,
    /// The `pontoon` program that the tiers are started from.
    pub(crate) program: PathBuf,
    pub(crate) supervision: Supervision,
    membership: RwLock<Option<Membership>>,
    known: Mutex<Known>,
    /// Held from when a mark is known until it is on disk: of two that come at once the older must not be written last.
    marking: Mutex<()>,
    /// Rings when the view may have changed.
    pub(crate) changed: Notify,
    /// Rings when this server became a member or ceased to be one.
    pub(crate) membership_changed: Notify,
    /// The two-phase change; see `change`.
    pub(crate) changes: ChangeHub,
    /// Rings when there is something to carry out.
    pub(crate) to_carry_out: Notify,
    /// Held by whoever changes something on this server: an activation, a join, a leave. One at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Held while tokens or joiners are read, changed and written. Never across an await.
    pub(crate) admitting: Mutex<()>,
    throttle: Throttle,
    /// This server's database; `None` while it has none under its care.
    pub(crate) database: tokio::sync::RwLock<Option<Arc<Database>>>,
    /// Where the failover task is met.
    pub(crate) failover: Arc<Desk>,
    /// Where those who make copies for the object store are met.
    pub(crate) backups: crate::backup::Desk,
    /// What carries out its work, while it runs.
    works: RwLock<Option<Arc<dyn Works>>>,
    /// Until when primaries may be written to, where that is limited.
    pub(crate) deadlines: Deadlines,
    /// Whether this server's SQL proxy is to begin nothing new.
    pub(crate) hold: Mark,
    /// Certificates from authorities.
    pub(crate) acme: crate::acme::Desk,
    /// The cache servers.
    pub(crate) cache: crate::cache::Desk,
    pub(crate) elsewhere: crate::elsewhere::Desk,
    /// Which public addresses visitors are sent to. Never held across an await.
    pub(crate) addresses: Mutex<Addresses>,
}

/// Who this server is.
#[derive(Clone)]
pub(crate) struct Membership {
    pub(crate) me: ServerName,
    pub(crate) identity: SharedIdentity,
    /// The server that decides changes of the configuration: the founder, which holds the lease store `single`.
    pub(crate) keeper: ServerName,
}

/// The active configuration, as text and as what it means.
#[derive(Clone)]
pub(crate) struct Active {
    pub(crate) config: Arc<Config>,
    pub(crate) committed: Committed,
}

/// What was heard and seen. Guarded by one lock that is never held across an await.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) active: Option<Active>,
    pub(crate) peers: BTreeMap<ServerName, Heard>,
    pub(crate) tiers: BTreeMap<Tier, (TierReport, Instant)>,
    pub(crate) database: Option<DatabaseReport>,
    pub(crate) load_percent: u8,
    /// A folder of this server whose disk is full.
    pub(crate) full_disk: Option<String>,
    /// Requests per second of this server's edge.
    pub(crate) edge_rate: Option<Rate>,
    pub(crate) lease: Option<LeaseRecord>,
    pub(crate) drains: DrainBook,
    /// Whether visitors get the maintenance page.
    pub(crate) maintenance: MaintenanceMark,
    /// What edges were told to forget.
    pub(crate) purges: PurgeBook,
    /// Who joins through this server.
    pub(crate) joiners: BTreeMap<ServerName, PendingJoiner>,
    /// Who joins through another control server.
    pub(crate) joiners_elsewhere: BTreeMap<ServerName, BTreeMap<ServerName, PendingJoiner>>,
    /// The last revision that was carried out here in full.
    pub(crate) settled: Revision,
    /// What stands between this server and its configuration, until it is mended.
    pub(crate) trouble: Option<Refusal>,
    /// Transactions that this server's database has and the primary lacks.
    pub(crate) errant: Option<Errant>,
    /// The servers that nothing was heard of for a moment.
    pub(crate) unheard: Vec<ServerName>,
    /// When the opinion on the public addresses last changed.
    pub(crate) addresses_changed: UnixMillis,
    /// What this server says of addresses that a provider moves.
    pub(crate) routing: Option<pontoon_fleet::RoutingReport>,
}

/// What a peer last said, and when it was heard.
pub(crate) struct Heard {
    pub(crate) report: ServerReport,
    pub(crate) at: Instant,
    /// Requests per second of its edge.
    pub(crate) edge_rate: Option<Rate>,
    /// Whether it is counted as unreachable: decides when an event is due.
    pub(crate) silent: bool,
    /// How failover stands there.
    pub(crate) failover: Option<FailoverReport>,
    /// Transactions that its database has and the primary lacks.
    pub(crate) errant: Option<Errant>,
}

impl Known {
    /// A server that is joining, through whomever, and has not taken too long for it.
    pub(crate) fn joiner(&self, name: &ServerName, now: UnixMillis) -> Option<&PendingJoiner> {
        let own = self.joiners.get(name);
        let elsewhere = self
            .joiners_elsewhere
            .values()
            .filter_map(|theirs| theirs.get(name));
        own.into_iter()
            .chain(elsewhere)
            .find(|joiner| joiner.is_current(now))
    }
}

impl Agent {
    /// The helper of this machine.
    pub(crate) fn helper(&self) -> HelperClient {
        HelperClient::new(self.paths.helper_socket())
    }

    pub(crate) fn new(parts: Parts) -> Result<Agent, Refusal> {
        let store = Store::new(&parts.paths);
        let known = Known {
            active: store.active()?.map(activated).transpose()?,
            lease: store.known_lease()?,
            settled: store.settled()?.unwrap_or_default(),
            drains: store.drains()?.unwrap_or_default(),
            maintenance: store.maintenance()?.unwrap_or_default(),
            purges: store.purges()?.unwrap_or_default(),
            joiners: store.joiners()?.unwrap_or_default(),
            ..Known::default()
        };
        let acme = crate::acme::Desk::load(&parts.paths, parts.clock.unix())?;
        let cache = crate::cache::Desk::new(store.cache_list()?);
        Ok(Agent {
            paths: parts.paths,
            store,
            clock: parts.clock,
            events: RwLock::new(Arc::new(parts.events)),
            shutdown: parts.shutdown,
            program: parts.program,
            supervision: parts.supervision,
            membership: RwLock::new(parts.membership),
            known: Mutex::new(known),
            marking: Mutex::default(),
            changed: Notify::new(),
            changes: parts.changes,
            to_carry_out: Notify::new(),
            membership_changed: Notify::new(),
            changing: tokio::sync::Mutex::new(()),
            admitting: Mutex::new(()),
            throttle: Throttle::default(),
            database: tokio::sync::RwLock::new(None),
            failover: Arc::default(),
            backups: crate::backup::Desk::default(),
            works: RwLock::new(None),
            deadlines: Deadlines::default(),
            hold: Mark::default(),
            acme,
            cache,
            elsewhere: crate::elsewhere::Desk::default(),
            addresses: Mutex::default(),
        })
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn membership(&self) -> Option<Membership> {
        self.membership
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What carries out the work of failover here.
    pub(crate) fn works(&self) -> Option<Arc<dyn Works>> {
        self.works.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_works(&self, works: Option<Arc<dyn Works>>) {
        *self.works.write().unwrap_or_else(PoisonError::into_inner) = works;
    }

    /// Whether the lease is in a store that servers share, so that the primary can change.
    pub(crate) fn has_shared_lease(&self) -> bool {
        self.active()
            .is_some_and(|active| crate::failover::is_shared(&active.config))
    }

    /// Who this server is, or J007.
    pub(crate) fn member(&self) -> Result<Membership, Refusal> {
        self.membership().ok_or_else(|| {
            Refusal::new(Code::J007, "this machine does not belong to a fleet yet")
                .next("found a fleet here", "pontoon init")
                .next("join one", "pontoon join ADDRESS TOKEN")
        })
    }

    pub(crate) fn set_membership(&self, membership: Option<Membership>) {
        *self.membership.write().unwrap_or_else(PoisonError::into_inner) = membership;
        self.membership_changed.notify_waiters();
        self.changed.notify_one();
    }

    pub(crate) fn active(&self) -> Option<Active> {
        self.known().active.clone()
    }

    /// The active configuration, or P-something: for commands that need one.
    pub(crate) fn config(&self) -> Result<Active, Refusal> {
        self.active().ok_or_else(|| {
            Refusal::new(Code::J007, "no configuration is active on this server yet")
                .next("see what would change", "pontoon plan")
                .next("change it", "pontoon apply")
        })
    }

    pub(crate) fn revision(&self) -> Revision {
        self.known()
            .active
            .as_ref()
            .map_or(Revision(0), |active| active.committed.revision)
    }

    pub(crate) fn record(&self, kind: EventKind) {
        self.events().record(kind);
    }

    /// As [`record`](Agent::record), for what a peer can make happen as often as it likes: `most` times a minute of `whom`.
    pub(crate) fn record_seldom(&self, whom: &str, most: u32, kind: EventKind) {
        if self.throttle.may(whom, most, self.clock.now()) {
            self.record(kind);
        } else {
            tracing::debug!("{kind}");
        }
    }

    /// The timeline of this server.
    pub(crate) fn events(&self) -> Arc<EventLog> {
        self.events.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on events carry this name: a joiner gets its own in the middle of a run.
    pub(crate) fn name_events_after(&self, me: &ServerName) {
        let renamed = EventLog::open(&self.paths.events_file(), me.clone());
        *self.events.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(renamed);
    }

    /// Where this server's agent listens for the others.
    pub(crate) fn own_address(&self) -> Option<SocketAddr> {
        let membership = self.membership()?;
        let address = *membership.identity.current().addresses().first()?;
        let base = self
            .known()
            .active
            .as_ref()
            .map(|active| active.config.ports().agent);
        Some(SocketAddr::new(address, base.unwrap_or(crate::DEFAULT_PORT)))
    }

    /// Where the agent of a member, or of a joiner, listens.
    pub(crate) fn address_for_change(&self, server: &ServerName) -> Result<SocketAddr, Refusal> {
        let now = self.clock.unix();
        let known = self.known();
        let active = known.active.as_ref();
        let port = active.map_or(crate::DEFAULT_PORT, |active| active.config.ports().agent);
        let member = active
            .and_then(|active| active.config.server(server))
            .map(|server| server.private);
        let joiner = known.joiner(server, now).map(|joiner| joiner.private);
        let address = member
            .or(joiner)
            .ok_or_else(|| Refusal::new(Code::F004, format!("there is no server {server} in the fleet")))?;
        Ok(SocketAddr::new(address, port))
    }

    /// Puts a name that a certificate proved into its place.
    pub(crate) fn peer(&self, name: Option<ServerName>) -> Peer {
        let Some(name) = name else { return Peer::Stranger };
        let is_keeper = self
            .membership()
            .is_some_and(|membership| membership.keeper == name);
        let now = self.clock.unix();
        let known = self.known();
        if let Some(server) = known
            .active
            .as_ref()
            .and_then(|active| active.config.server(&name))
        {
            let roles: Vec<Role> = server.roles.iter().copied().collect();
            return Peer::Member {
                control: is_keeper || is_control(&roles),
                roles,
                name,
            };
        }
        match known.joiner(&name, now) {
            Some(joiner) => Peer::Joiner {
                roles: joiner.roles(),
                name,
            },
            None => Peer::Outsider { name },
        }
    }

    /// Whether this server may steer the fleet.
    pub(crate) fn is_control(&self) -> bool {
        let Some(membership) = self.membership() else {
            return false;
        };
        match self.active() {
            Some(active) => active.config.server(&membership.me).is_some_and(|server| {
                membership.keeper == membership.me
                    || is_control(&server.roles.iter().copied().collect::<Vec<_>>())
            }),
            // Before the first apply there is one server, and it founded the fleet.
            None => true,
        }
    }

    /// This server's own report, as peers get it.
    pub(crate) fn report(&self) -> Option<ServerReport> {
        let me = self.membership()?.me;
        let known = self.known();
        Some(ServerReport {
            server: me,
            at: self.clock.unix(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: known
                .active
                .as_ref()
                .map_or(Revision(0), |active| active.committed.revision),
            settled: known.settled,
            trouble: known.trouble.clone(),
            config_digest: known
                .active
                .as_ref()
                .map_or_else(String::new, |active| active.committed.digest()),
            tiers: known
                .tiers
                .values()
                .filter(|(_, at)| at.elapsed() < TIER_REPORT_LIFE)
                .map(|(report, _)| report.clone())
                .collect(),
            database: known.database.clone(),
            load_percent: known.load_percent,
            full_disk: known.full_disk.clone(),
            drains: known.drains.clone(),
            maintenance: known.maintenance.clone(),
            purges: known.purges.clone(),
            lease: known.lease.clone(),
            unheard: known.unheard.clone(),
            addresses_changed: known.addresses_changed,
            elsewhere: self.elsewhere.reports(),
            routing: known.routing.clone(),
        })
    }

    /// What a tier of this server said last, if that still says anything.
    pub(crate) fn tier_report(&self, tier: Tier) -> Option<TierReport> {
        let known = self.known();
        let (report, at) = known.tiers.get(&tier)?;
        (at.elapsed() < TIER_REPORT_LIFE).then(|| report.clone())
    }

    /// Forgets what was known of a fleet, after leaving it.
    pub(crate) fn forget_everything(&self) {
        *self.known() = Known::default();
        self.acme.forget();
        self.changed.notify_one();
    }

    /// Takes over a lease record that `peer` told of. The keeper has the store and believes nobody; the others believe
    /// who may steer the fleet: an edge that is broken into must not be able to name a primary.
    pub(crate) fn hear_lease(&self, peer: &Peer, record: &LeaseRecord) {
        let is_keeper = self
            .membership()
            .is_some_and(|membership| membership.keeper == membership.me);
        // A store that servers share is read by each of them: there the keeper knows no more than others.
        if (!is_keeper || self.has_shared_lease()) && matches!(peer, Peer::Member { control: true, .. }) {
            self.learn_lease(record);
        }
    }

    /// Takes over a lease record if it is newer than what is known, and keeps it for the next start.
    pub(crate) fn learn_lease(&self, record: &LeaseRecord) {
        let mut known = self.known();
        if known.lease.as_ref().is_none_or(|ours| ours.epoch < record.epoch) {
            if let Err(refusal) = self.store.save_known_lease(record) {
                tracing::error!(%refusal, "the lease is known but not on disk");
            }
            known.lease = Some(record.clone());
            drop(known);
            self.changed.notify_one();
        }
    }

    /// Takes over drains that are newer than ours. Marks of servers that are not in the configuration, and of a day that
    /// has not come, are nobody's word: the latter could not be taken back.
    pub(crate) fn learn_drains(&self, book: &DrainBook) -> Result<(), Refusal> {
        let latest = self.clock.unix().plus(CLOCKS_APART);
        let _turn = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.known();
        let Some(active) = &known.active else {
            return Ok(());
        };
        let credible = book
            .0
            .iter()
            .filter(|(server, mark)| mark.at <= latest && active.config.server(server).is_some())
            .map(|(server, mark)| (server.clone(), mark.clone()));
        let credible = DrainBook(credible.collect());
        if known.drains.merge(&credible) {
            let drains = known.drains.clone();
            drop(known);
            self.store.save_drains(&drains)?;
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Takes over a mark of maintenance that is newer than ours, and not of a day that has not come.
    pub(crate) fn learn_maintenance(&self, mark: &MaintenanceMark) -> Result<(), Refusal> {
        let latest = self.clock.unix().plus(CLOCKS_APART);
        let _turn = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.known();
        if mark.at <= latest && known.maintenance.merge(mark) {
            drop(known);
            self.store.save_maintenance(mark)?;
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Takes over what edges are told to forget, as [`Agent::learn_maintenance`] does.
    pub(crate) fn learn_purges(&self, book: &PurgeBook) -> Result<(), Refusal> {
        let now = self.clock.unix();
        let (latest, earliest) = (now.plus(CLOCKS_APART), purge::earliest(now));
        let credible = |purge: &&Purge| {
            (earliest..=latest).contains(&purge.at) && purge.path.len() <= PurgeBook::LONGEST_PATH
        };
        let credible = PurgeBook(book.0.iter().filter(credible).cloned().collect());
        let _turn = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.known();
        if known.purges.merge(&credible) {
            known.purges.forget_before(earliest);
            let purges = known.purges.clone();
            drop(known);
            self.store.save_purges(&purges)?;
            self.changed.notify_one();
        }
        Ok(())
    }
}

/// What an [`Agent`] is made of.
pub(crate) struct Parts {
    pub(crate) paths: Paths,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: EventLog,
    pub(crate) shutdown: Shutdown,
    pub(crate) program: PathBuf,
    pub(crate) supervision: Supervision,
    pub(crate) membership: Option<Membership>,
    pub(crate) changes: ChangeHub,
}

/// Reads a committed text as a configuration.
pub(crate) fn activated(committed: Committed) -> Result<Active, Refusal> {
    let config = parse(&committed.text)?;
    Ok(Active {
        config: Arc::new(config),
        committed,
    })
}

/// Reads a text as a configuration, or says everything that is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Config, Refusal> {
    Config::parse(text).map_err(|errors| {
        let code = errors.first().map_or(Code::C001, |error| error.code);
        let mut refusal = Refusal::new(code, "the configuration is wrong");
        for error in &errors {
            refusal = refusal.because(pontoon_config::render(error, text, "fleet.toml"));
        }
        refusal.next("see every mistake with its place", "pontoon check")
    })
}
