//! Which public addresses visitors are sent to.
//!
//! An address is up while somebody serves on it: its own server, or the one that took it over. Whether that is so is
//! judged by what is heard (or not) of the agents and of their edges, by at least two agents where there are three
//! or more, and damped: a server that comes and goes stays out longer each time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pontoon_config::Config;
use pontoon_fleet::{
    AddressState, AddressView, DrainBook, Role, ServerName, ServerReport, Tier, TierDetail, UnixMillis,
};

use crate::health::Damper;
use crate::view::Observed;

/// Between two looks.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// A server that nothing came from for so long is not heard of. Each of two agents asks the other every half second.
pub const UNHEARD_AFTER: Duration = Duration::from_millis(800);

/// Looks in a row that must say "lost", and "back".
const FALL: u32 = 2;
const RISE: u32 = 10;

/// How long a server that was lost stays out after it is back; doubled each time, up to the longest.
const HOLD: Duration = Duration::from_secs(10);
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// A server that has just begun to be looked at may not have spoken yet.
const GRACE: Duration = Duration::from_secs(4);

/// A server that was well for so long begins at the shortest hold again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// What one look sees.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The configuration that is active.
    pub config: &'a Config,
    /// Who looks.
    pub me: &'a ServerName,
    /// What the servers said, this one included.
    pub reports: &'a BTreeMap<ServerName, Observed>,
    /// Who is drained.
    pub drains: &'a DrainBook,
    /// Addresses that another server than their own has taken over, and who.
    pub taken: &'a BTreeMap<IpAddr, ServerName>,
    /// Addresses that are about to be taken over.
    pub moving: &'a BTreeSet<IpAddr>,
    /// Now, since some fixed moment.
    pub now: Duration,
    /// Now, for others to compare with.
    pub unix: UnixMillis,
}

/// What is remembered from look to look.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    edges: BTreeMap<ServerName, Edge>,
    views: Vec<AddressView>,
    changed: UnixMillis,
}

#[derive(Clone, Debug)]
struct Edge {
    damper: Damper,
    hold: Duration,
    held_until: Duration,
    well_since: Duration,
    looked_at_since: Duration,
    reason: String,
}

impl Addresses {
    /// Begins with what was published before this agent started: nothing changes until there is reason to.
    pub fn resume(views: Vec<AddressView>, changed: UnixMillis) -> Addresses {
        Addresses {
            edges: BTreeMap::new(),
            views,
            changed,
        }
    }

    /// The addresses as last decided.
    pub fn views(&self) -> &[AddressView] {
        &self.views
    }

    /// When the fleet's opinion last changed, the other agents' word included. It only grows.
    pub fn changed(&self) -> UnixMillis {
        self.changed
    }

    /// For how long the edge of `server` has been well without a break; `None` while it is not.
    pub fn well_for(&self, server: &ServerName, now: Duration) -> Option<Duration> {
        let edge = self.edges.get(server).filter(|edge| edge.damper.is_healthy())?;
        Some(now.saturating_sub(edge.well_since))
    }

    /// Takes in a look; says whether anything is different now.
    pub fn look(&mut self, look: &Look<'_>) -> bool {
        let told = look
            .reports
            .values()
            .map(|observed| observed.report.addresses_changed);
        let heard = told.fold(self.changed, UnixMillis::max);
        let advanced = heard != self.changed;
        self.changed = heard;
        let edges: Vec<_> = look.config.with_role(Role::Edge).collect();
        self.edges
            .retain(|name, _| edges.iter().any(|server| &server.name == name));
        let was_down: BTreeSet<ServerName> = self
            .views
            .iter()
            .filter(|view| view.state == AddressState::Down)
            .map(|view| view.home.clone())
            .collect();
        for server in &edges {
            self.judge(look, &server.name, was_down.contains(&server.name));
        }
        let views: Vec<AddressView> = edges
            .iter()
            .flat_map(|server| server.public.iter().map(move |address| (server, *address)))
            .map(|(server, address)| self.view(look, server, address))
            .collect();
        let state = |views: &[AddressView]| -> Vec<_> {
            views
                .iter()
                .map(|view| (view.address, view.state.is_published()))
                .collect()
        };
        if state(&views) != state(&self.views) {
            // Later than all that others told of, even by a clock that is behind.
            self.changed = look.unix.max(UnixMillis(self.changed.0 + 100));
            self.views = views;
            return true;
        }
        let differs = views != self.views;
        self.views = views;
        advanced || differs
    }

    /// Counts one look at a server's edge.
    fn judge(&mut self, look: &Look<'_>, server: &ServerName, was_down: bool) {
        let found = trouble(look, server);
        let edge = self.edges.entry(server.clone()).or_insert_with(|| Edge {
            damper: Damper::new(!was_down, FALL, RISE),
            hold: HOLD,
            held_until: Duration::ZERO,
            well_since: look.now,
            looked_at_since: look.now,
            reason: String::new(),
        });
        match found {
            Some(_) if look.now < edge.looked_at_since + GRACE => {}
            Some(reason) => {
                edge.reason = reason;
                if edge.damper.observe(false).is_some() {
                    if look.now.saturating_sub(edge.well_since) > FORGIVEN_AFTER {
                        edge.hold = HOLD;
                    }
                    edge.held_until = look.now + edge.hold;
                    edge.hold = (edge.hold * 2).min(LONGEST_HOLD);
                }
            }
            None if look.now < edge.held_until => edge.reason = "back, and watched for a while".to_owned(),
            None => {
                if edge.damper.observe(true).is_some() {
                    edge.well_since = look.now;
                }
            }
        }
    }

    fn view(&self, look: &Look<'_>, server: &pontoon_config::Server, address: IpAddr) -> AddressView {
        let edge = self.edges.get(&server.name);
        let well = |name: &ServerName| self.edges.get(name).is_some_and(|edge| edge.damper.is_healthy());
        let taken_by = look.taken.get(&address);
        let taken_by = taken_by
            .filter(|name| **name != server.name && well(name))
            .cloned();
        let moving = look.moving.contains(&address);
        let drained = look.drains.is_drained_whole(&server.name);
        let deaf = deaf(look, &server.name, address);
        let (holder, state, reason) = match taken_by {
            Some(other) => {
                let reason = format!("{other} has taken it over");
                (Some(other), AddressState::Up, reason)
            }
            None if drained => (
                Some(server.name.clone()),
                AddressState::Draining,
                format!("{} is drained", server.name),
            ),
            None if server.standby => (
                Some(server.name.clone()),
                AddressState::Standby,
                format!("{} is a standby", server.name),
            ),
            None if deaf.is_some() => {
                let text = deaf.unwrap_or_default();
                let reason = format!("the edge of {} cannot listen on {text}", server.name);
                (None, AddressState::Down, reason)
            }
            None if well(&server.name) => (
                Some(server.name.clone()),
                AddressState::Up,
                format!("the edge of {} serves there", server.name),
            ),
            None if moving => (None, AddressState::Moving, "it is being taken over".to_owned()),
            None => {
                let reason = edge.map(|edge| edge.reason.clone()).unwrap_or_default();
                (None, AddressState::Down, reason)
            }
        };
        AddressView {
            address,
            home: server.name.clone(),
            holder,
            state,
            reason,
            weight: server.dns_weight,
        }
    }
}

/// The servers that `me` has heard nothing of for a moment: what it tells the others.
pub fn unheard(
    config: &Config,
    me: &ServerName,
    reports: &BTreeMap<ServerName, Observed>,
) -> Vec<ServerName> {
    config
        .servers
        .iter()
        .map(|server| &server.name)
        .filter(|name| *name != me && !is_heard(reports, name))
        .cloned()
        .collect()
}

fn is_heard(reports: &BTreeMap<ServerName, Observed>, server: &ServerName) -> bool {
    reports
        .get(server)
        .is_some_and(|observed| observed.age <= UNHEARD_AFTER && &observed.report.server == server)
}

/// What the edge of `server` says about an address that it cannot listen on.
fn deaf(look: &Look<'_>, server: &ServerName, address: IpAddr) -> Option<String> {
    let report = &look.reports.get(server)?.report;
    let Some(TierDetail::Edge(edge)) = report.tier(Tier::Edge).map(|tier| &tier.detail) else {
        return None;
    };
    let socket = |text: &str| text.split(": ").next()?.parse::<SocketAddr>().ok();
    edge.not_listening
        .iter()
        .find(|text| socket(text).is_some_and(|socket| socket.ip() == address))
        .cloned()
}

/// What speaks against visitors being served by the edge of `server`.
fn trouble(look: &Look<'_>, server: &ServerName) -> Option<String> {
    if server == look.me || is_heard(look.reports, server) {
        // What is said of itself needs no second opinion.
        let report = look.reports.get(server).map(|observed| &observed.report)?;
        return match report.tier(Tier::Edge).map(|tier| &tier.detail) {
            Some(TierDetail::Edge(_)) => None,
            _ if report.settled < report.revision => None, // it is about to start
            _ => Some(format!("the edge of {server} does not report")),
        };
    }
    let others: Vec<&ServerReport> = look
        .reports
        .iter()
        .filter(|(name, _)| *name != look.me && *name != server && is_heard(look.reports, name))
        .map(|(_, observed)| &observed.report)
        .collect();
    let agreeing = others
        .iter()
        .filter(|report| report.unheard.contains(server))
        .count();
    match (look.config.servers.len(), others.len()) {
        // Of two servers nobody else could say.
        (..=2, _) => Some(format!("{server} is not heard of")),
        // Who hears nobody is cut off itself.
        (_, 0) => None,
        _ if agreeing == 0 => None,
        _ => Some(format!(
            "{server} is not heard of, here and by {agreeing} of the others"
        )),
    }
}
