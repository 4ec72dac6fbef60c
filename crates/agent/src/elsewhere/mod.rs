//! Name servers elsewhere get the addresses that visitors are served at: by a dynamic update (`[dns.update]`), by a
//! program of the operator's (`[dns.hook]`), or both.
//!
//! One server does it for all. Where the lease is shared it is the leader, as long as the store has answered lately: the
//! others' opinion on addresses may be another one, and two that write in turn would never end. Where it is not, it is the
//! first control server that answers. What is to be there follows from the view; to write it again changes nothing.

mod hook;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_config::{Dns, DnsHook, DnsUpdate};
use pontoon_decide::view::dns_view;
use pontoon_dns::Keys;
use pontoon_dns::update::{self, Wanted};
use pontoon_fleet::ElsewhereReport;
use pontoon_zone::{Name, Rrset, rtype};

use crate::acme;
use crate::addresses;
use crate::core::Agent;
use crate::failover;
use crate::heartbeat::SILENCE;

/// How often it is looked whether something is to be told.
const INTERVAL: Duration = Duration::from_millis(250);

/// Whether it is still so elsewhere is found out so often: others may write there too.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// A program cannot be asked. It is called again so often.
const CALL_AGAIN: Duration = Duration::from_secs(3600);

/// After a failure, and the longest wait after many.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A leader that has not heard of the lease store for so long may have a successor.
const STORE_SILENCE: Duration = Duration::from_secs(10);

const UPDATE: &str = "update";
const HOOK: &str = "hook";

/// What others are told of it.
#[derive(Debug, Default)]
pub(crate) struct Desk(Mutex<BTreeMap<&'static str, ElsewhereReport>>);

impl Desk {
    /// What became of it here; empty while it is another server's business.
    pub(crate) fn reports(&self) -> Vec<ElsewhereReport> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().cloned().collect()
    }

    fn set(&self, way: &'static str, report: Option<ElsewhereReport>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match report {
            Some(report) => known.insert(way, report),
            None => known.remove(way),
        };
    }
}

/// One of the ways: what was told, and when the next attempt is due.
#[derive(Debug)]
struct Way<T> {
    done: Option<T>,
    /// By the agent's clock.
    again: Duration,
    failures: u32,
}

impl<T> Default for Way<T> {
    fn default() -> Way<T> {
        Way {
            done: None,
            again: Duration::ZERO,
            failures: 0,
        }
    }
}

impl<T: PartialEq> Way<T> {
    fn is_due(&self, wanted: &T, now: Duration) -> bool {
        now >= self.again || self.failures == 0 && self.done.as_ref() != Some(wanted)
    }

    fn ended(&mut self, wanted: T, good: bool, now: Duration, rest: Duration) {
        if good {
            (self.done, self.failures, self.again) = (Some(wanted), 0, now + rest);
        } else {
            let pause = FIRST_PAUSE * 2u32.saturating_pow(self.failures.min(10));
            self.failures = self.failures.saturating_add(1);
            (self.done, self.again) = (None, now + pause.min(LONGEST_PAUSE));
        }
    }
}

/// Runs until shutdown. A program that hangs keeps no update waiting.
pub(crate) async fn run(agent: Arc<Agent>) {
    // An agent that has just begun has heard of nobody, and would take itself for the first.
    tokio::select! {
        () = tokio::time::sleep(SILENCE) => {}
        () = agent.shutdown.requested() => return,
    }
    let updates = async {
        let mut way = Way::default();
        loop {
            give(&agent, &mut way).await;
            tokio::time::sleep(INTERVAL).await;
        }
    };
    let calls = async {
        let mut calls = Calls::default();
        loop {
            call(&agent, &mut calls).await;
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::select! {
        () = updates => {}
        () = calls => {}
        () = agent.shutdown.requested() => {}
    }
}

/// What is to be told now; `None` while nothing is, or it is another server's business.
fn wanted(agent: &Agent) -> Option<(Dns, Wanted)> {
    let dns = agent.active()?.config.dns.clone()?;
    let decided = addresses::decided(agent);
    // While nothing is known yet, that is no reason to take anything away.
    if decided.views().is_empty() || !is_ours(agent) {
        return None;
    }
    let view = dns_view(&dns);
    let ttls = (view.ttl_seconds, view.ttl_degraded_seconds);
    let proofs = acme::proofs(agent);
    match Wanted::new(&view.zone, &view.names, decided.views(), ttls, &proofs) {
        Ok(wanted) => Some((dns, wanted)),
        Err(reason) => {
            tracing::error!(reason, "the names of [dns] cannot be told to others");
            None
        }
    }
}

/// Gives them to the name server of `[dns.update]`.
async fn give(agent: &Agent, way: &mut Way<(Wanted, DnsUpdate)>) {
    let aim = wanted(agent).and_then(|(dns, wanted)| Some((wanted, dns.update?)));
    let Some(aim) = aim else {
        // Who has it again begins anew: somebody else has written meanwhile.
        *way = Way::default();
        return agent.elsewhere.set(UPDATE, None);
    };
    if !way.is_due(&aim, agent.clock.now()) {
        return;
    }
    let (wanted, DnsUpdate { server, key_file }) = &aim;
    let outcome = match Keys::load(key_file) {
        Ok(keys) => update::push(*server, &keys, wanted).await,
        Err(reason) => Err(reason),
    };
    match &outcome {
        Ok(0) => {}
        Ok(changed) => tracing::info!(%server, changed, "gave it the addresses"),
        Err(reason) => tracing::warn!(%server, reason, "could not give it the addresses; trying again"),
    }
    let report = ElsewhereReport {
        to: name_server(*server),
        proofs: proofs_in(wanted.sets.iter().filter(|_| outcome.is_ok())),
        trouble: outcome.err(),
    };
    way.ended(aim, report.trouble.is_none(), agent.clock.now(), LOOK_AGAIN);
    agent.elsewhere.set(UPDATE, Some(report));
}

/// What a program was told, by name and type.
#[derive(Default)]
struct Calls {
    program: Option<DnsHook>,
    way: Way<()>,
    told: BTreeMap<(Name, u16), Rrset>,
}

/// Calls the program of `[dns.hook]` for each name and type of which it was not told what is so now.
async fn call(agent: &Agent, calls: &mut Calls) {
    let aim = wanted(agent).and_then(|(dns, wanted)| Some((wanted, dns.hook?)));
    let Some((wanted, hook)) = aim else {
        *calls = Calls::default();
        return agent.elsewhere.set(HOOK, None);
    };
    if calls.program.as_ref() != Some(&hook) {
        *calls = Calls {
            program: Some(hook.clone()),
            ..Calls::default()
        };
    }
    let now = agent.clock.now();
    if calls.way.failures > 0 && now < calls.way.again {
        return;
    }
    if calls.way.failures == 0 && now >= calls.way.again {
        // It is to hear all again.
        calls.told.clear();
    }
    let due: Vec<_> = wanted
        .sets
        .iter()
        .filter(|(place, set)| calls.told.get(place) != Some(*set))
        .collect();
    if due.is_empty() {
        return;
    }
    let mut trouble = None;
    for (place, set) in due {
        calls.told.remove(place);
        match hook::call(&hook, &wanted.zone, place, set).await {
            Ok(()) => {
                calls.told.insert(place.clone(), set.clone());
            }
            Err(reason) => {
                tracing::warn!(program = %hook.exec.display(), name = %place.0, reason, "it failed; it is called again");
                trouble = Some(format!("for {}: {reason}", place.0));
                break;
            }
        }
    }
    let report = ElsewhereReport {
        to: program(&hook),
        proofs: proofs_in(calls.told.iter()),
        trouble,
    };
    let good = report.trouble.is_none();
    calls.way.ended((), good, agent.clock.now(), CALL_AGAIN);
    agent.elsewhere.set(HOOK, Some(report));
}

/// As reports name the server of `[dns.update]`.
pub(crate) fn name_server(server: SocketAddr) -> String {
    format!("the name server {server}")
}

/// As reports name the program of `[dns.hook]`.
pub(crate) fn program(hook: &DnsHook) -> String {
    format!("the program {}", hook.exec.display())
}

/// The proofs among these records.
fn proofs_in<'a>(sets: impl Iterator<Item = (&'a (Name, u16), &'a Rrset)>) -> BTreeSet<String> {
    let texts = sets.filter(|((_, rtype), _)| *rtype == rtype::TXT);
    texts
        .flat_map(|((_, rtype), set)| set.data.iter().filter_map(|data| hook::text(*rtype, data)))
        .collect()
}

/// Whether this server is the one that does it.
fn is_ours(agent: &Agent) -> bool {
    let (Some(own), Some(active)) = (agent.membership(), agent.active()) else {
        return false;
    };
    if !failover::is_shared(&active.config) {
        return acme::first_control(agent).is_some_and(|name| name == own.me);
    }
    let now = agent.clock.now();
    agent.failover.posted().is_some_and(|posted| {
        let leads = posted.record.is_some_and(|record| record.leader == own.me);
        let heard = posted
            .store_answered
            .is_some_and(|at| now.saturating_sub(at) < STORE_SILENCE);
        leads && heard
    })
}
