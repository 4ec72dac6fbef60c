//! An operator's word: to which server it goes, what is asked before, and when it has come to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_decide::failover::{Command, State, Why};
use pontoon_fleet::{Code, EventKind, Refusal, Role, ServerName};

use super::desk::FailoverReport;
use super::{line, setup};
use crate::api::DbOrder;
use crate::core::{Active, Agent};
use crate::dial;
use crate::peer::Order;
use crate::reporter::Reporter;

/// How long a server may take to take an order up.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long until another database takes writes: a replica that is behind applies what it has first.
const END: Duration = Duration::from_secs(60);

/// Carries an operator's word out, on whichever server it is for.
pub(crate) async fn order(
    agent: &Arc<Agent>,
    wanted: DbOrder,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let active = agent.config()?;
    if !setup::is_shared(&active.config) {
        return Err(Refusal::new(Code::L003, "this fleet's primary cannot change")
            .because("its lease is kept on one server (`lease.store` is \"single\", which is the default)")
            .next("see how the database stands", "pontoon db status")
            .next("what it takes", "pontoon explain L003"));
    }
    match wanted {
        DbOrder::Switchover { to } => switchover(agent, &active, to, reporter).await,
        DbOrder::Failover { to, accept_loss } => failover(agent, &active, to, accept_loss, reporter).await,
        DbOrder::Pause => everywhere(agent, &active, &Order::Pause, reporter).await,
        DbOrder::Resume => everywhere(agent, &active, &Order::Resume, reporter).await,
    }
}

async fn switchover(
    agent: &Arc<Agent>,
    active: &Active,
    to: Option<ServerName>,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let leader = leader(agent)?;
    let to = match to {
        Some(to) => to,
        None => successor(agent, active, &leader)?,
    };
    must_have_a_database(active, &to)?;
    if to == leader {
        return Err(Refusal::new(Code::L002, format!("{to} is the primary already"))
            .next("see who could take over", "pontoon db status"));
    }
    reporter.step(&leader, &format!("handing over to {to}")).await;
    let given_up = report_of(agent, &leader).map_or(0, |report| report.given_up);
    send(agent, &leader, &Order::Switchover { to: to.clone() }).await?;
    wait_for(agent, &to, Some((&leader, given_up)), reporter).await
}

async fn failover(
    agent: &Arc<Agent>,
    active: &Active,
    to: Option<ServerName>,
    accept_loss: u64,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let to = match to {
        Some(to) => to,
        None => successor(agent, active, &leader(agent)?)?,
    };
    must_have_a_database(active, &to)?;
    reporter
        .step(&to, "becoming the primary by an operator's word")
        .await;
    send(agent, &to, &Order::Force { accept_loss }).await?;
    wait_for(agent, &to, None, reporter).await
}

/// Pauses or resumes every database server that answers. One that does not must be told again: it goes on as before.
async fn everywhere(
    agent: &Arc<Agent>,
    active: &Active,
    order: &Order,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let (mut done, mut silent) = (Vec::new(), Vec::new());
    for server in active.config.with_role(Role::Db) {
        let said = match order {
            Order::Pause => "paused: nothing is promoted, started or killed here by itself",
            _ => "goes on",
        };
        match send(agent, &server.name, order).await {
            Ok(()) => {
                reporter.done(&server.name, said.to_owned()).await;
                done.push(server.name.to_string());
            }
            Err(refusal) => silent.push((server.name.clone(), refusal)),
        }
    }
    let (verb, word) = match order {
        Order::Pause => ("pause", "paused"),
        _ => ("resume", "resumed"),
    };
    if let Some((name, refusal)) = silent.into_iter().next() {
        return Err(
            Refusal::new(Code::L004, format!("failover is not {word} on {name}"))
                .because(refusal.to_string())
                .because(format!(
                    "{word} on: {}",
                    if done.is_empty() {
                        "nobody".to_owned()
                    } else {
                        done.join(", ")
                    }
                ))
                .next("when it answers again", format!("pontoon db {verb}")),
        );
    }
    Ok(format!("failover is {word} on {}", done.join(", ")))
}

async fn send(agent: &Arc<Agent>, to: &ServerName, order: &Order) -> Result<(), Refusal> {
    if agent.member()?.me == *to {
        return order_here(agent, order.clone()).await;
    }
    line::ask(agent, to, "/p/v1/failover/order", PATIENCE, order).await
}

/// An order for this server.
pub(crate) async fn order_here(agent: &Agent, order: Order) -> Result<(), Refusal> {
    let (command, event) = match order {
        Order::Switchover { to } => (Command::Switchover(to.clone()), EventKind::SwitchoverAsked { to }),
        Order::Force { accept_loss } => (
            Command::Force { accept_loss },
            EventKind::FailoverForced { accept_loss },
        ),
        Order::Pause => (Command::Pause, EventKind::FailoverPaused),
        Order::Resume => (Command::Resume, EventKind::FailoverResumed),
    };
    match agent.failover.command(command).await? {
        Ok(()) => {
            agent.record(event);
            Ok(())
        }
        Err(why) => {
            let me = agent.member()?.me;
            Err(refusal(why, &me))
        }
    }
}

/// Why, with what to do next.
fn refusal(why: Why, server: &ServerName) -> Refusal {
    let base = match why {
        Why::Loss(_) => Refusal::new(
            Code::F002,
            format!("{server} does not become the primary: writes could be lost"),
        ),
        Why::Bystander => Refusal::new(Code::L005, "a delayed copy does not become the primary"),
        Why::Through => Refusal::new(
            Code::L010,
            "a replica that follows through another is not handed over to",
        ),
        _ => Refusal::new(Code::L002, format!("{server} does not do that now")),
    };
    let base = base.because(words(why));
    match why {
        Why::Loss(Some(loss)) => base
            .next("if the primary can come back, wait for it", "pontoon db status")
            .next(
                "if it cannot, name the loss",
                format!("pontoon db failover {server} --accept-loss {loss}"),
            ),
        Why::Loss(None) => base
            .next("if the primary can come back, wait for it", "pontoon db status")
            .next(
                "if it cannot: how much is lost is not known, and the number says that you accept it",
                format!("pontoon db failover {server} --accept-loss {}", u64::MAX),
            ),
        Why::Diverged => base
            .next("see which transactions those are", "pontoon db status")
            .next(
                "while the primary lives: a new copy of its database",
                format!("pontoon db reseed {server}"),
            )
            .next(
                "if it is lost for good: the number says that you accept what this copy has otherwise",
                format!("pontoon db failover {server} --accept-loss {}", u64::MAX),
            ),
        Why::NotTheLeader | Why::AlreadyTheLeader | Why::NotReady => {
            base.next("see who leads and who follows closely", "pontoon db status")
        }
        Why::Bystander => base
            .next("see who could", "pontoon db status")
            .next("what a delayed copy is good for", "pontoon explain L005"),
        Why::Through => base
            .next("see who could, and through whom it follows", "pontoon db status")
            .next("why", "pontoon explain L010"),
        Why::Busy => base.next("when it is done", "pontoon db status"),
    }
}

/// Why a command was not carried out, in words.
pub(crate) fn words(why: Why) -> String {
    match why {
        Why::NotTheLeader => "only the primary hands over, and this server is not it".to_owned(),
        Why::AlreadyTheLeader => "it is the primary already".to_owned(),
        Why::NotReady => "that server does not follow closely now".to_owned(),
        Why::Loss(Some(loss)) => {
            format!("its copy lacks {loss} transactions that the primary had when it was last heard")
        }
        Why::Loss(None) => {
            "how many transactions its copy lacks is not known: the primary renewed its lease after this \
             server last heard from its database, or another replica in sync may have acknowledged what this \
             one lacks"
                .to_owned()
        }
        Why::Diverged => "its copy has transactions that the primary lacks".to_owned(),
        Why::Bystander => "its copy is delayed on purpose, and never becomes the primary".to_owned(),
        Why::Through => {
            "nothing says at the primary what it has received: `source` of its [[server]] names another replica".to_owned()
        }
        Why::Busy => "something is under way there, or failover is paused".to_owned(),
    }
}

fn must_have_a_database(active: &Active, server: &ServerName) -> Result<(), Refusal> {
    let Some(entry) = active.config.server(server) else {
        return Err(dial::no_such_server(server, &active.config));
    };
    if active.config.runs_database(entry) {
        return Ok(());
    }
    Err(Refusal::new(Code::F004, format!("{server} has no database"))
        .because("its roles are without db")
        .next("see who has one", "pontoon db status"))
}

fn leader(agent: &Agent) -> Result<ServerName, Refusal> {
    let lease = agent.known().lease.clone();
    lease.map(|lease| lease.leader).ok_or_else(|| {
        Refusal::new(Code::F001, "no server holds the lease: there is no primary")
            .next("see what the servers say", "pontoon db status")
    })
}

/// The replica that is in sync, else the one that has the most.
fn successor(agent: &Agent, active: &Active, leader: &ServerName) -> Result<ServerName, Refusal> {
    let reports = reports(agent);
    let mut candidates: Vec<_> = active
        .config
        .with_role(Role::Db)
        .filter(|server| server.delay.is_none())
        .map(|server| server.name.clone())
        .filter(|name| name != leader)
        .filter_map(|name| {
            let report = reports
                .iter()
                .find(|(server, _)| *server == name)
                .map(|(_, report)| report)?;
            Some((report.state == State::FollowSync, report.position, name))
        })
        .collect();
    candidates.sort();
    candidates.pop().map(|(.., name)| name).ok_or_else(|| {
        Refusal::new(Code::L002, "no other database server answers")
            .next("see what they say", "pontoon db status")
    })
}

/// What every database server says of its failover, this one included.
pub(crate) fn reports(agent: &Agent) -> Vec<(ServerName, FailoverReport)> {
    let mine = agent.membership().zip(agent.failover.report(agent.clock.now()));
    let mine = mine.map(|(membership, report)| (membership.me, report));
    let known = agent.known();
    let theirs = known
        .peers
        .iter()
        .filter(|(_, heard)| !heard.silent)
        .filter_map(|(name, heard)| Some((name.clone(), heard.failover.clone()?)));
    mine.into_iter().chain(theirs).collect()
}

fn report_of(agent: &Agent, server: &ServerName) -> Option<FailoverReport> {
    let mut reports = reports(agent).into_iter();
    reports.find(|(name, _)| name == server).map(|(_, report)| report)
}

/// Waits until the database of `to` takes writes; or until `from`, which is to hand over, gives up once more than so
/// many times.
async fn wait_for(
    agent: &Agent,
    to: &ServerName,
    from: Option<(&ServerName, u64)>,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let begun = Instant::now();
    loop {
        if let Some((from, before)) = from
            && let Some(report) = report_of(agent, from).filter(|report| report.given_up > before)
            && let Some(why) = report.gave_up
        {
            return Err(why.because(format!("{from} gave up handing over and stays the primary")));
        }
        let report = report_of(agent, to);
        let open = report
            .as_ref()
            .is_some_and(|report| matches!(report.state, State::LeaderSync | State::LeaderAlone));
        if open {
            let epoch = report.and_then(|report| report.record).map(|record| record.epoch);
            reporter.done(to, "takes writes".to_owned()).await;
            return Ok(match epoch {
                Some(epoch) => format!("{to} is the primary, epoch {epoch}"),
                None => format!("{to} is the primary"),
            });
        }
        if begun.elapsed() > END {
            return Err(Refusal::new(Code::L004, format!("{to} is not the primary yet"))
                .because(format!("it was asked {} s ago", begun.elapsed().as_secs()))
                .next("see what every server does", "pontoon db status")
                .next("see what happened", "pontoon events"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_why_and_what_next() {
        let b: ServerName = "b".parse().unwrap();
        for why in [
            Why::NotTheLeader,
            Why::AlreadyTheLeader,
            Why::NotReady,
            Why::Loss(Some(3412)),
            Why::Loss(None),
            Why::Diverged,
            Why::Bystander,
            Why::Through,
            Why::Busy,
        ] {
            let refusal = refusal(why, &b);
            assert!(
                !refusal.evidence.is_empty() && !refusal.next.is_empty(),
                "{refusal:?}"
            );
            let names_loss = matches!(why, Why::Loss(_));
            assert_eq!(refusal.code == Code::F002, names_loss, "{refusal:?}");
        }
        let shown = format!("{:?}", refusal(Why::Loss(Some(3412)), &b));
        assert!(shown.contains("--accept-loss 3412"), "{shown}");
    }
}
