//! The server that talks with the authority: the first control server, in the configuration's order, that answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_acme::{
    Attempt, Authority, Begun, Failure, FailureKind, Issued, Place, Stamped, account_key, schedule,
};
use pontoon_config::{Acme, Config};
use pontoon_fleet::{Challenge, EventKind, ServerName, Tier, TierDetail, UnixMillis};

use super::{change, names, place, prove, wanted};
use crate::authorise::is_control;
use crate::core::Agent;
use crate::heartbeat::SILENCE;

/// Between two looks at what is due.
const INTERVAL: Duration = Duration::from_secs(1);

/// A server orders when nobody before it was heard of for so long: after its start it first hears what others have.
const STEADY: Duration = Duration::from_secs(6);

/// The edges are waited for so long before the authority looks.
const EDGES_PATIENCE: Duration = Duration::from_secs(20);

/// How long one order may take.
const ORDER_PATIENCE: Duration = Duration::from_secs(240);

/// Runs until shutdown.
pub(super) async fn run(agent: &Arc<Agent>) {
    let mut mine_since = None;
    loop {
        let changed = agent.acme.changed.notified();
        let mine = orderer(agent).is_some_and(|name| agent.membership().is_some_and(|own| own.me == name));
        mine_since = match mine {
            true => mine_since.or_else(|| Some(Instant::now())),
            false => None,
        };
        if mine_since.is_some_and(|since: Instant| since.elapsed() >= STEADY) {
            tokio::select! {
                () = round(agent) => {}
                () = agent.shutdown.requested() => return,
            }
        }
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => return,
        }
    }
}

/// Who orders, in the eyes of this server; `None` without `[edge.tls.acme]`.
pub(super) fn orderer(agent: &Agent) -> Option<ServerName> {
    wanted(agent)?;
    first_control(agent)
}

/// The first control server that answers: for what one does for all, and two may do.
pub(crate) fn first_control(agent: &Agent) -> Option<ServerName> {
    let own = agent.membership()?;
    let active = agent.active()?;
    let known = agent.known();
    let answers = |name: &ServerName| {
        *name == own.me
            || known
                .peers
                .get(name)
                .is_some_and(|heard| heard.at.elapsed() < SILENCE)
    };
    may_order(&active.config, &own.keeper).find(answers)
}

fn may_order<'a>(config: &'a Config, keeper: &'a ServerName) -> impl Iterator<Item = ServerName> + 'a {
    let control = move |server: &&pontoon_config::Server| {
        &server.name == keeper || is_control(&server.roles.iter().copied().collect::<Vec<_>>())
    };
    config
        .servers
        .iter()
        .filter(control)
        .map(|server| server.name.clone())
}

/// Orders what is due, one after the other.
async fn round(agent: &Arc<Agent>) {
    let Some((acme, own)) = wanted(agent).zip(agent.membership()) else {
        return;
    };
    let place = place(&acme);
    if due(agent, &acme, &place).is_empty() {
        return;
    }
    let Some(account) = known_account(agent) else {
        return;
    };
    if place.challenge == Challenge::Http01 && !edges_answer(agent, &account.thumbprint).await {
        tracing::warn!("not every edge answers the authority's challenges yet; ordering nevertheless");
    }
    let names = due(agent, &acme, &place);
    let authority = match Authority::open(&place, &account).await {
        Ok(authority) => authority,
        Err(failure) => {
            for name in names {
                failed(agent, &place, &name, &failure);
            }
            return;
        }
    };
    for name in names {
        // The configuration may have changed meanwhile.
        if wanted(agent).as_ref() != Some(&acme) {
            return;
        }
        tracing::info!(name, directory = place.directory, "orders a certificate");
        let ordered = tokio::time::timeout(ORDER_PATIENCE, one(agent, &own.me, &authority, &place, &name));
        let outcome = ordered.await.unwrap_or_else(|_| {
            Err(Failure {
                kind: FailureKind::Unreachable,
                what: format!("the authority took longer than {ORDER_PATIENCE:?}"),
                retry_after: None,
            })
        });
        match outcome {
            Ok(issued) => succeeded(agent, &place, &name, issued),
            Err(failure) => failed(agent, &place, &name, &failure),
        }
    }
}

fn due(agent: &Agent, acme: &Acme, place: &Place) -> Vec<String> {
    let (now, book) = (agent.clock.unix(), agent.acme.book());
    let is_due = |name: &&String| schedule::due(book.names.get(*name), place, name) <= now;
    acme.names.iter().filter(is_due).cloned().collect()
}

/// The fleet's account with its key, made when there is none; `None` while the key is still on its way here.
fn known_account(agent: &Agent) -> Option<pontoon_acme::Account> {
    let known = agent.acme.book().account.clone();
    match known {
        Some(account) => account.key.is_some().then_some(account),
        None => match account_key(agent.clock.unix()) {
            Ok(account) => change(agent, |book| book.account.get_or_insert(account).clone()).into(),
            Err(refusal) => {
                tracing::error!(%refusal, "there is no key for an account with an authority");
                None
            }
        },
    }
}

/// Waits until every edge that reports answers challenges: the authority looks at whichever it finds.
async fn edges_answer(agent: &Agent, thumbprint: &str) -> bool {
    let deadline = Instant::now() + EDGES_PATIENCE;
    loop {
        let all = {
            let reports = crate::publish::observed(agent);
            let edges = reports
                .values()
                .filter(|seen| seen.age < SILENCE)
                .filter_map(
                    |seen| match seen.report.tier(Tier::Edge).map(|tier| &tier.detail) {
                        Some(TierDetail::Edge(edge)) => {
                            Some(edge.acme_thumbprint.as_deref() == Some(thumbprint))
                        }
                        _ => None,
                    },
                );
            let answers: Vec<bool> = edges.collect();
            !answers.is_empty() && answers.into_iter().all(|answers| answers)
        };
        if all || Instant::now() >= deadline {
            return all;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn one(
    agent: &Agent,
    me: &ServerName,
    authority: &Authority,
    place: &Place,
    name: &str,
) -> Result<Issued, Failure> {
    let known = agent
        .acme
        .book()
        .names
        .get(name)
        .and_then(|entry| entry.begun.clone());
    let known = known.and_then(|stamped| stamped.value);
    let begun = match known {
        Some(begun) if authority.goes_on(&begun).await => begun,
        _ => {
            let begun = authority.begin(name).await?;
            keep_begun(agent, name, Some(begun.clone()));
            begun
        }
    };
    if let Some(text) = authority.proof(name, &begun).await? {
        prove(agent, name, Some(&text));
        names::answer(agent, name, &text).await?;
    }
    let obtained = authority.finish(name, &begun).await?;
    Ok(Issued {
        directory: place.directory.clone(),
        issuer: obtained.issuer,
        obtained: agent.clock.unix(),
        by: me.clone(),
        renew_at: schedule::renewal(obtained.not_before, obtained.not_after, chance()),
        not_before: obtained.not_before,
        not_after: obtained.not_after,
        chain: obtained.chain,
        key: obtained.key,
    })
}

fn keep_begun(agent: &Agent, name: &str, begun: Option<Begun>) {
    let now = agent.clock.unix();
    change(agent, |book| {
        let entry = book.entry(name);
        entry.begun = Some(Stamped::after(entry.begun.as_ref(), now, begun));
    });
}

fn succeeded(agent: &Agent, place: &Place, name: &str, mut issued: Issued) {
    let until = issued.not_after;
    let by = issued.by.clone();
    change(agent, |book| {
        let entry = book.entry(name);
        let now = answer_to(entry.wanted, agent.clock.unix());
        issued.obtained = now;
        let attempt = Attempt {
            by,
            asked: schedule::asked(place, name),
            failures: 0,
            failure: None,
            next: UnixMillis(0),
        };
        entry.begun = Some(Stamped::after(entry.begun.as_ref(), now, None));
        entry.attempt = Some(Stamped::after(entry.attempt.as_ref(), now, attempt));
        entry.issued = Some(Stamped::after(entry.issued.as_ref(), now, issued));
        book.prove(name, now, None);
    });
    let name = name.to_owned();
    agent.record(EventKind::VisitorCertificateIssued { name, until });
}

fn failed(agent: &Agent, place: &Place, name: &str, failure: &Failure) {
    let Some(own) = agent.membership() else { return };
    let asked = schedule::asked(place, name);
    let chance = chance();
    change(agent, |book| {
        let entry = book.entry(name);
        let now = answer_to(entry.wanted, agent.clock.unix());
        let before = entry
            .attempt
            .as_ref()
            .filter(|attempt| attempt.value.asked == asked);
        let failures = before
            .map_or(0, |attempt| attempt.value.failures)
            .saturating_add(1);
        let attempt = Attempt {
            by: own.me,
            asked,
            failures,
            failure: Some((failure.kind, failure.what.clone())),
            next: agent
                .clock
                .unix()
                .plus(schedule::back_off(failure, failures, chance)),
        };
        entry.attempt = Some(Stamped::after(entry.attempt.as_ref(), now, attempt));
        // One that was refused is over; one that was not answered may be gone on with.
        if failure.kind == FailureKind::Refused {
            entry.begun = Some(Stamped::after(entry.begun.as_ref(), now, None));
            book.prove(name, now, None);
        }
    });
    let (name, reason) = (name.to_owned(), failure.what.clone());
    agent.record(EventKind::VisitorCertificateRefused { name, reason });
}

/// When something that an operator asked for was done: never before it was asked for, whatever the clocks of two servers say,
/// or it would be done for ever.
fn answer_to(wanted: Option<UnixMillis>, now: UnixMillis) -> UnixMillis {
    wanted.map_or(now, |wanted| wanted.max(now))
}

fn chance() -> u16 {
    let mut bytes = [0; 2];
    // Without random numbers there is no jitter.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u16::from_le_bytes(bytes)
}
