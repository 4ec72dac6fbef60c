//! From a text to an active configuration: the plan, what stands in its way, and the change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_config::Config;
use pontoon_decide::change::Outcome;
use pontoon_decide::facts::ServerFacts;
use pontoon_decide::plan::{Plan, plan as make_plan};
use pontoon_fleet::{Code, DatabaseRole, Refusal, Revision, ServerName};
use pontoon_rt::http::Call;
use serde::{Deserialize, Serialize};

use crate::api::{ApplyRequest, PlanAnswer, Progress};
use crate::core::{Active, Agent, parse};
use crate::failover::probe;
use crate::reporter::Reporter;
use crate::{carry_out, dial, heartbeat, observe};

/// How long all servers may take to be as configured: a database restarts within.
const SETTLE_PATIENCE: Duration = Duration::from_secs(330);
/// How long an agent may be silent meanwhile: longer than one takes to be started again by its unit.
const SILENT_PATIENCE: Duration = Duration::from_secs(20);

/// A plan that was made and may be applied.
#[derive(Serialize, Deserialize)]
struct Kept {
    text: String,
    plan: Plan,
}

/// Makes a plan and keeps it for `apply ID`.
pub(crate) async fn plan(agent: &Arc<Agent>, text: &str) -> Result<PlanAnswer, Refusal> {
    must_steer(agent, &agent.member()?.me)?;
    let plan = plan_of(agent, &parse(text)?).await?;
    let kept = Kept {
        text: text.to_owned(),
        plan: plan.clone(),
    };
    agent.store.save_plan(
        &plan.id,
        &serde_json::to_value(&kept).map_err(|error| not_json(&error))?,
    )?;
    Ok(PlanAnswer {
        base: plan.base,
        plan,
    })
}

/// J005 on a server that may not change the fleet: the others would not even tell it what they are.
fn must_steer(agent: &Agent, me: &ServerName) -> Result<(), Refusal> {
    if agent.is_control() {
        return Ok(());
    }
    Err(Refusal::new(Code::J005, format!("{me} may not change the fleet"))
        .because("changes are made on servers with the role db")
        .next("see which they are", "pontoon status"))
}

/// Carries a plan out: everywhere, or nowhere.
pub(crate) async fn apply(
    agent: &Arc<Agent>,
    request: ApplyRequest,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let me = agent.member()?.me;
    must_steer(agent, &me)?;
    let (text, planned) = wanted_text(agent, request)?;
    let config = parse(&text)?;
    let plan = plan_of(agent, &config).await?;
    if let Some(planned) = planned.filter(|planned| planned.id != plan.id) {
        return Err(Refusal::new(
            Code::P001,
            format!("plan {} is not what would be done now", planned.id),
        )
        .because(format!(
            "it was made at revision {}; the same text now makes plan {}",
            planned.base, plan.id
        ))
        .next("look at what would be done now", "pontoon plan"));
    }
    if let Some(blocker) = plan.blockers.into_iter().next() {
        return Err(blocker);
    }
    refuse_delayed_primary(agent, &config)?;
    let is_active = |active: Active| active.committed.text == text;
    // Other words that change nothing are a revision too: every server keeps the same text.
    if plan.steps.is_empty() && agent.active().is_some_and(is_active) {
        return again(agent, &me, reporter).await;
    }
    probe::everywhere(agent, &config, &text, reporter).await?;
    let text_of_step = format!(
        "asking {} servers whether they can carry it out",
        config.servers.len()
    );
    reporter
        .say(Progress::Step {
            server: me.clone(),
            text: text_of_step,
        })
        .await;
    let revision = match agent.changes.propose(text).await? {
        Outcome::Activated(revision) => revision,
        Outcome::Unchanged(revision) => revision,
        Outcome::Refused(refusal) | Outcome::Unknown(refusal) => return Err(refusal),
    };
    reporter
        .say(Progress::Done {
            server: me,
            text: format!("revision {revision} is active"),
        })
        .await;
    wait_until_settled(agent, &config, revision, reporter).await?;
    Ok(format!("revision {revision} is carried out on every server"))
}

/// L005 where the server that leads would get a delay.
fn refuse_delayed_primary(agent: &Agent, config: &Config) -> Result<(), Refusal> {
    let Some(lease) = agent.known().lease.clone() else {
        return Ok(());
    };
    let server = config.server(&lease.leader);
    if server.is_none_or(|server| server.delay.is_none()) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::L005,
        format!("{} has the primary database: it cannot be delayed", lease.leader),
    )
    .because("a delayed copy never leads")
    .next("hand over first", "pontoon db switchover"))
}

/// Nothing is to be changed, and it was asked for on purpose: what was in the way here may be gone, or the database was
/// stopped and shall run.
async fn again(agent: &Agent, me: &ServerName, reporter: &Reporter) -> Result<String, Refusal> {
    reporter
        .step(me, "looking whether this server is as configured")
        .await;
    let _changing = agent.changing.lock().await;
    carry_out::once(agent).await;
    if let Some(trouble) = agent.known().trouble.clone() {
        return Err(trouble);
    }
    Ok(format!("{me} is as revision {} says", agent.revision()))
}

/// Waits until every server is as `revision` says, and tells as each one is. An agent that is silent carries it out when
/// it comes back; nobody is kept waiting for it.
pub(crate) async fn wait_until_settled(
    agent: &Agent,
    config: &Config,
    revision: Revision,
    reporter: &Reporter,
) -> Result<(), Refusal> {
    let started = Instant::now();
    let mut waiting: Vec<ServerName> = config.servers.iter().map(|server| server.name.clone()).collect();
    // Trouble of an earlier attempt is not this one's.
    tokio::time::sleep(Duration::from_millis(300)).await;
    while !waiting.is_empty() {
        let mut still = Vec::new();
        for server in std::mem::take(&mut waiting) {
            match state_of(agent, &server, revision) {
                Standing::Settled => {
                    let text = format!("is as revision {revision} says");
                    reporter.done(&server, text).await;
                }
                Standing::Trouble(refusal) => return Err(refusal),
                Standing::Working => still.push(server),
            }
        }
        waiting = still;
        let silent = |server: &&ServerName| silence_of(agent, server, started) > SILENT_PATIENCE;
        if let Some(server) = waiting.iter().find(silent) {
            return Err(not_everywhere(revision)
                .because(format!(
                    "the agent of {server} has not been heard for {} s; it will carry the revision out when it is back",
                    SILENT_PATIENCE.as_secs()
                ))
                .next(format!("start it, on {server}"), "systemctl start pontoon-agent"));
        }
        if started.elapsed() > SETTLE_PATIENCE {
            let names: Vec<_> = waiting.iter().map(ServerName::as_str).collect();
            return Err(not_everywhere(revision).because(format!(
                "{} did not finish within {} s",
                names.join(", "),
                SETTLE_PATIENCE.as_secs()
            )));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    if config.servers.len() > 1 {
        // So that a status on any server shows the same.
        tokio::time::sleep(heartbeat::INTERVAL).await;
    }
    Ok(())
}

fn not_everywhere(revision: Revision) -> Refusal {
    Refusal::new(
        Code::P004,
        format!("revision {revision} is active and not carried out everywhere"),
    )
    .next("see what they say", "pontoon status")
}

/// For how long `server` has said nothing, counted from no earlier than `started`.
fn silence_of(agent: &Agent, server: &ServerName, started: Instant) -> Duration {
    let is_me = agent.member().is_ok_and(|membership| &membership.me == server);
    if is_me {
        return Duration::ZERO;
    }
    let heard = agent.known().peers.get(server).map(|heard| heard.at.elapsed());
    heard.unwrap_or(Duration::MAX).min(started.elapsed())
}

enum Standing {
    Settled,
    Working,
    Trouble(Refusal),
}

fn state_of(agent: &Agent, server: &ServerName, revision: Revision) -> Standing {
    let mine = agent.report().filter(|report| &report.server == server);
    let theirs = || agent.known().peers.get(server).map(|heard| heard.report.clone());
    let Some(report) = mine.or_else(theirs) else {
        return Standing::Working;
    };
    if report.settled >= revision {
        // A database that has just become what it should be says so with the next look at it.
        return match report.database.map(|database| database.role) {
            Some(DatabaseRole::Standalone) => Standing::Working,
            _ => Standing::Settled,
        };
    }
    match report.trouble {
        Some(refusal) if report.revision >= revision => Standing::Trouble(refusal),
        _ => Standing::Working,
    }
}

async fn plan_of(agent: &Arc<Agent>, wanted: &Config) -> Result<Plan, Refusal> {
    let facts = facts_of_all(agent, wanted).await?;
    let active = agent.active();
    let active = active
        .as_ref()
        .map(|active| (&*active.config, active.committed.revision));
    let mut plan = make_plan(active, wanted, &facts);
    plan.blockers.extend(thrown_out(agent, wanted));
    Ok(plan)
}

/// A server that runs leaves by its own `pontoon leave`, which gives its database back. Left out of a file, it was most
/// likely forgotten: the file is older than its join.
fn thrown_out(agent: &Agent, wanted: &Config) -> Option<Refusal> {
    let known = agent.known();
    let alive = |name: &ServerName| {
        let heard = known.peers.get(name);
        heard.is_some_and(|heard| heard.at.elapsed() < heartbeat::SILENCE)
    };
    let active = known.active.as_ref()?;
    let gone = active
        .config
        .servers
        .iter()
        .map(|server| &server.name)
        .find(|name| wanted.server(name).is_none() && alive(name))?;
    let missing = format!("{gone} is in the fleet and runs; the configuration is without it");
    Some(
        Refusal::new(Code::P008, missing)
            .because(format!("the fleet is at revision {}", active.committed.revision))
            .next("if it shall stay", "put its [[server]] into fleet.toml")
            .next(format!("if it shall go, on {gone}"), "pontoon leave"),
    )
}

/// The facts of every server of `wanted` that answers.
async fn facts_of_all(
    agent: &Arc<Agent>,
    wanted: &Config,
) -> Result<BTreeMap<ServerName, ServerFacts>, Refusal> {
    let me = agent.member()?.me;
    let mut facts = BTreeMap::new();
    let mut asked = tokio::task::JoinSet::new();
    for server in &wanted.servers {
        if server.name == me {
            facts.insert(me.clone(), observe::facts(agent).await?);
            continue;
        }
        let Ok(address) = dial::address_of(agent, &server.name) else {
            continue;
        };
        let (agent, name) = (agent.clone(), server.name.clone());
        asked.spawn(async move {
            let call = Call::get(name.as_str(), "/p/v1/facts");
            let answer = dial::ask::<(), ServerFacts>(&agent, &name, address, &call, None).await;
            (name, answer)
        });
    }
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((name, Ok(found))) => {
                facts.insert(name, found);
            }
            Ok((name, Err(refusal))) => tracing::info!(%name, %refusal, "no facts"),
            Err(_) => {}
        }
    }
    Ok(facts)
}

fn wanted_text(agent: &Agent, request: ApplyRequest) -> Result<(String, Option<Plan>), Refusal> {
    match (request.plan, request.text) {
        (Some(id), text) => {
            let kept = agent
                .store
                .plan(&id)?
                .map(serde_json::from_value::<Kept>)
                .transpose();
            match (kept.map_err(|error| not_json(&error))?, text) {
                (Some(kept), _) => Ok((kept.text, Some(kept.plan))),
                (None, _) => Err(
                    Refusal::new(Code::P002, format!("there is no plan {id} on this server"))
                        .next("make one", "pontoon plan"),
                ),
            }
        }
        (None, Some(text)) => Ok((text, None)),
        (None, None) => Err(Refusal::new(
            Code::P002,
            "neither a plan nor a configuration was given",
        )),
    }
}

fn not_json(error: &serde_json::Error) -> Refusal {
    Refusal::new(Code::N007, "a plan has no JSON form").because(error.to_string())
}
