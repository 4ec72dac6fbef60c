//! Addresses that a provider moves (`[ip] method` other than `arp`): whoever has the lease tells the provider which server
//! is to have which address, and looks whether it is so. Who has the lease, and what is to be where, is decided in
//! `decide::routing`; how a provider is told in `crates/provider`.
//!
//! Orders are given by a task for each address, and every one ends when the lease does.

mod lease;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_config::{AddressMethod, Config};
use pontoon_decide::routing::{Edge, VERIFY, place};
use pontoon_fleet::{Code, Epoch, EventKind, Refusal, Role, RoutedAddress, RoutingReport, ServerName};
use pontoon_provider::{Claim, MoveError, Mover, Place};
use tokio::task::{AbortHandle, JoinSet};

use crate::addresses;
use crate::api::AskedAddress;
use crate::core::Agent;
use lease::Lease;

/// Between two looks at what is to be where.
const INTERVAL: Duration = Duration::from_millis(250);

/// Runs until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) {
    let mut routes: Option<Routes> = None;
    loop {
        let active = agent.active().filter(|active| active.config.routing().is_some());
        let me = agent.membership().map(|membership| membership.me);
        match (active, me) {
            (Some(active), Some(me)) => {
                let same = routes
                    .as_ref()
                    .is_some_and(|routes| routes.revision == agent.revision());
                if !same {
                    // What runs for the configuration before ends here.
                    drop(routes.take());
                    routes = Some(Routes::new(&agent, &active.config, me));
                }
                if let Some(routes) = &mut routes {
                    routes.step().await;
                    agent.known().routing = Some(routes.report());
                }
            }
            _ => {
                routes = None;
                agent.known().routing = None;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => return,
        }
    }
}

/// Asks the provider from this server where every address is; moves nothing.
///
/// # Errors
/// [`Code::A001`] where no provider moves addresses.
pub(crate) async fn ask(agent: &Agent) -> Result<Vec<AskedAddress>, Refusal> {
    let active = agent.active().filter(|active| active.config.routing().is_some());
    let config = &active
        .as_ref()
        .ok_or_else(|| {
            Refusal::new(Code::A001, "no provider moves addresses in this fleet")
                .because("the configuration has no [ip] with a provider's method, or fewer than two servers")
                .next(
                    "rehearse a takeover of a server's addresses",
                    "pontoon address test SERVER --yes",
                )
        })?
        .config;
    let mover = mover(config);
    let mut answers = Vec::new();
    for (address, home) in homes(config) {
        let asked = agent.clock.now();
        let found = match &mover {
            Ok(mover) => mover.place(address).await,
            Err(error) => Err(error.clone()),
        };
        let (at, fleet, trouble) = match found {
            Ok(Place::At(server)) => (Some(server.to_string()), true, None),
            Ok(other) => (Some(other.to_string()), other == Place::Unsaid, None),
            Err(error) => (None, false, Some(error.to_string())),
        };
        answers.push(AskedAddress {
            address,
            home,
            at,
            fleet,
            trouble,
            took_ms: u64::try_from(agent.clock.now().saturating_sub(asked).as_millis()).unwrap_or(u64::MAX),
        });
    }
    Ok(answers)
}

/// All that one configuration needs.
struct Routes {
    agent: Arc<Agent>,
    revision: pontoon_fleet::Revision,
    me: ServerName,
    method: &'static str,
    /// Whether addresses arrive under their own name, so that this server's kernel must have them.
    by_name: bool,
    mover: Result<Arc<Mover>, MoveError>,
    lease: Lease,
    states: BTreeMap<IpAddr, State>,
    calls: JoinSet<Done>,
}

/// How an address stands, in the eyes of who gives the orders.
struct State {
    to: ServerName,
    there: bool,
    trouble: Option<MoveError>,
    failures: u32,
    /// When to look or to try again.
    next: Duration,
    call: Option<AbortHandle>,
}

/// A call that ended.
struct Done {
    ip: IpAddr,
    claim: Claim,
    result: Result<Found, MoveError>,
}

/// What a call that succeeded found out.
enum Found {
    /// It is there now, and was asked for.
    Moved,
    /// It was looked at only.
    Seen(Place),
}

impl Routes {
    fn new(agent: &Arc<Agent>, config: &Config, me: ServerName) -> Routes {
        let ip = config.routing();
        Routes {
            revision: agent.revision(),
            method: ip.map_or("none", |ip| ip.method.name()),
            by_name: ip
                .is_some_and(|ip| !matches!(ip.method, AddressMethod::DigitalOcean | AddressMethod::Exec(_))),
            mover: mover(config).map(Arc::new),
            lease: Lease::of(config, me.clone()),
            states: BTreeMap::new(),
            calls: JoinSet::new(),
            agent: agent.clone(),
            me,
        }
    }

    async fn step(&mut self) {
        let Some(active) = self.agent.active() else { return };
        let config = &active.config;
        let clock = self.agent.clock.clone();
        let placed = self.lease.placed();
        let holds = self.lease.holds(clock.now());
        // What is to be where is this server's to say only when it has the lease, also while it writes it down.
        let wanted = if holds {
            self.wanted(config, &placed)
        } else {
            placed
        };
        self.lease.keep(&*clock, &wanted).await;
        while let Some(ended) = self.calls.try_join_next() {
            if let Ok(done) = ended {
                self.take_in(done);
            }
        }
        if !self.lease.holds(clock.now()) {
            self.calls.abort_all();
            self.states.clear();
            return;
        }
        // Only what is written down is ordered: the next caller goes on from there.
        let (placed, epoch) = (self.lease.placed(), self.lease.epoch());
        for (ip, home) in homes(config) {
            let to = placed.get(&home).unwrap_or(&home).clone();
            self.order(clock.now(), ip, home, to, epoch);
        }
        let known: Vec<IpAddr> = homes(config).map(|(ip, _)| ip).collect();
        self.states.retain(|ip, _| known.contains(ip));
    }

    /// Who should have which home's addresses.
    fn wanted(
        &self,
        config: &Config,
        placed: &BTreeMap<ServerName, ServerName>,
    ) -> BTreeMap<ServerName, ServerName> {
        let now = self.agent.clock.now();
        let seen = addresses::decided(&self.agent);
        let drains = self.agent.known().drains.clone();
        let edges: Vec<Edge> = config
            .with_role(Role::Edge)
            .map(|server| {
                let well_for = seen.well_for(&server.name, now);
                Edge {
                    name: server.name.clone(),
                    home: !server.public.is_empty(),
                    serves: well_for.is_some(),
                    well_for: well_for.unwrap_or_default(),
                    drained: drains.is_drained_whole(&server.name),
                    standby: server.standby,
                }
            })
            .collect();
        let home_after = config.routing().map_or(Duration::ZERO, |ip| ip.home_after);
        place(&edges, placed, home_after)
    }

    /// Sees to one address.
    fn order(&mut self, now: Duration, ip: IpAddr, home: ServerName, to: ServerName, epoch: Epoch) {
        let mover = match &self.mover {
            Ok(mover) => Arc::clone(mover),
            Err(error) => {
                self.states.insert(
                    ip,
                    State {
                        to,
                        there: false,
                        trouble: Some(error.clone()),
                        failures: 1,
                        next: Duration::MAX,
                        call: None,
                    },
                );
                return;
            }
        };
        let state = self
            .states
            .entry(ip)
            .or_insert_with(|| State::of(to.clone(), now));
        if state.to != to {
            if let Some(call) = state.call.take() {
                call.abort();
            }
            *state = State::of(to.clone(), now);
        }
        if state.call.is_some() || now < state.next {
            return;
        }
        let claim = Claim { ip, to, home, epoch };
        let look_only = state.there;
        state.call = Some(self.calls.spawn(async move {
            let result = match look_only {
                true => mover.place(ip).await.map(Found::Seen),
                false => mover.claim(&claim).await.map(|()| Found::Moved),
            };
            Done { ip, claim, result }
        }));
    }

    fn take_in(&mut self, done: Done) {
        let now = self.agent.clock.now();
        let Done { ip, claim, result } = done;
        let Some(state) = self.states.get_mut(&ip).filter(|state| state.to == claim.to) else {
            return;
        };
        state.call = None;
        match result {
            Ok(Found::Seen(place)) if place != Place::At(claim.to.clone()) && place != Place::Unsaid => {
                tracing::warn!(%ip, %place, to = %claim.to, "the provider sends an address elsewhere; told again");
                (state.there, state.next) = (false, now);
            }
            Ok(found) => {
                if matches!(found, Found::Moved) && !state.there {
                    tracing::info!(%ip, to = %claim.to, epoch = %claim.epoch, "the provider sends an address where it should be");
                    self.agent.record(EventKind::AddressRouted {
                        address: ip,
                        to: claim.to,
                    });
                }
                state.there = true;
                (state.trouble, state.failures, state.next) = (None, 0, now + VERIFY);
            }
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                state.next = now + error.patience(state.failures);
                // What is being moved just now is no failure yet.
                let told = state.trouble.as_ref().map(ToString::to_string) == Some(error.to_string());
                if !told {
                    tracing::warn!(%ip, to = %claim.to, %error, "an address did not move");
                    self.agent.record(EventKind::AddressNotRouted {
                        address: ip,
                        to: claim.to,
                        reason: error.to_string(),
                    });
                }
                state.trouble = Some(error);
            }
        }
    }

    fn report(&self) -> RoutingReport {
        let config = self.agent.active().map(|active| active.config);
        let homes: BTreeMap<IpAddr, ServerName> = config.iter().flat_map(|config| homes(config)).collect();
        let addresses = self.states.iter().filter_map(|(ip, state)| {
            Some(RoutedAddress {
                address: *ip,
                home: homes.get(ip)?.clone(),
                to: state.to.clone(),
                there: state.there,
                trouble: state.trouble.as_ref().map(ToString::to_string),
            })
        });
        let mut trouble: Vec<String> = self.lease.trouble().into_iter().collect();
        let is_edge = config
            .as_ref()
            .and_then(|config| config.server(&self.me))
            .is_some_and(|server| server.roles.contains(&Role::Edge));
        if is_edge && self.by_name {
            trouble.extend(homes.keys().filter(|ip| !is_here(**ip)).map(|ip| {
                format!("{ip} is no address of this server: what the provider sends for it would find nobody")
            }));
        }
        let now = self.agent.clock.now();
        RoutingReport {
            method: self.method.to_owned(),
            orders: self.lease.holds(now),
            caller: self.lease.caller(),
            epoch: self.lease.epoch(),
            addresses: addresses.collect(),
            trouble,
        }
    }
}

impl State {
    fn of(to: ServerName, now: Duration) -> State {
        State {
            to,
            there: false,
            trouble: None,
            failures: 0,
            next: now,
            call: None,
        }
    }
}

fn mover(config: &Config) -> Result<Mover, MoveError> {
    let unusable = || MoveError::Unusable("no provider moves addresses".to_owned());
    let ip = config.routing().ok_or_else(unusable)?;
    Mover::new(&config.fleet.name, ip)?.ok_or_else(unusable)
}

/// Every address that moves, and whose it is.
fn homes(config: &Config) -> impl Iterator<Item = (IpAddr, ServerName)> {
    config
        .with_role(Role::Edge)
        .flat_map(|server| server.public.iter().map(|ip| (*ip, server.name.clone())))
}

/// Whether the kernel has the address: only then can a socket be bound to it.
fn is_here(ip: IpAddr) -> bool {
    match std::net::UdpSocket::bind((ip, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::AddrNotAvailable,
    }
}
