//! The list of cache servers: the keeper makes it (`pontoon_decide::cache`) and says it in its heartbeats; the others take it
//! over and put it into their views. It is on the disk before anybody hears of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pontoon_config::Config;
use pontoon_decide::cache::{Seen, Wanted, next};
use pontoon_fleet::{CacheList, CacheReport, Role, ServerName, ServerReport, Tier, TierDetail};

use crate::core::Agent;
use crate::heartbeat::SILENCE;
use crate::publish::observed;

/// The list as it is known here.
pub(crate) struct Desk {
    known: Mutex<Listed>,
}

struct Listed {
    list: Option<CacheList>,
    /// Since when it is as it is.
    since: Instant,
}

impl Desk {
    pub(crate) fn new(list: Option<CacheList>) -> Desk {
        Desk {
            known: Mutex::new(Listed {
                list,
                since: Instant::now(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Listed> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list for the view.
    pub(crate) fn list(&self) -> Option<CacheList> {
        self.lock().list.clone()
    }
}

/// What this server's heartbeats say: the keeper's list, after what follows from what it heard.
pub(crate) fn to_tell(agent: &Agent) -> Option<CacheList> {
    let membership = agent.membership()?;
    if membership.keeper != membership.me {
        return None;
    }
    step(agent);
    agent.cache.list()
}

/// Takes over what the keeper said, if it is later; what anybody else says is nothing.
pub(crate) fn hear(agent: &Agent, from: &ServerName, said: Option<CacheList>) {
    let keeper = agent.membership().map(|membership| membership.keeper);
    let (Some(list), true) = (said, keeper.as_ref() == Some(from)) else {
        return;
    };
    let mut known = agent.cache.lock();
    let age = |list: &CacheList| (list.number, list.open);
    if known.list.as_ref().is_none_or(|known| age(known) < age(&list)) {
        keep(agent, &mut known, list);
    }
}

/// The keeper's next step, if there is one.
pub(crate) fn step(agent: &Agent) {
    let Some(active) = agent.active() else { return };
    let Some(wanted) = wanted(&active.config) else {
        return;
    };
    let seen: BTreeMap<ServerName, Seen> = observed(agent)
        .into_iter()
        .filter_map(|(server, observed)| {
            let report = report(&observed.report)?;
            let seen = Seen {
                fresh: observed.age <= SILENCE,
                closed: report.closed,
            };
            Some((server, seen))
        })
        .collect();
    let mut known = agent.cache.lock();
    let waiting = known.since.elapsed();
    if let Some(list) = next(known.list.as_ref(), &wanted, &seen, waiting) {
        keep(agent, &mut known, list);
    }
}

fn keep(agent: &Agent, known: &mut Listed, list: CacheList) {
    if let Err(refusal) = agent.store.save_cache_list(&list) {
        tracing::warn!(%refusal, "the list of cache servers was not kept: it stays as it was");
        return;
    }
    let servers: Vec<_> = list.members.iter().map(|member| member.server.as_str()).collect();
    tracing::info!(
        number = list.number,
        open = list.open,
        ?servers,
        "the cache servers"
    );
    known.list = Some(list);
    known.since = Instant::now();
    agent.changed.notify_one();
}

/// What a server's cache proxy said last.
pub(crate) fn report(report: &ServerReport) -> Option<&CacheReport> {
    match &report.tier(Tier::Cache)?.detail {
        TierDetail::Cache(report) => Some(report),
        _ => None,
    }
}

fn wanted(config: &Config) -> Option<Wanted> {
    let cache = config.cache.as_ref()?;
    let label = |server: &ServerName| {
        cache
            .labels
            .get(server)
            .cloned()
            .unwrap_or_else(|| server.to_string())
    };
    Some(Wanted {
        placement: cache.placement,
        servers: config
            .with_role(Role::Cache)
            .map(|server| (server.name.clone(), label(&server.name)))
            .collect(),
        all: config.servers.iter().map(|server| server.name.clone()).collect(),
    })
}
