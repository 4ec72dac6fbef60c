//! `pontoon db reseed` and `pontoon db rejoin`: a database that cannot follow any more gets a new copy of the primary's, or
//! tries once more with what it has.
//!
//! The order is kept on the disk of the server that it is for, and goes on there after any kill. In a fleet with failover the
//! node of that server carries it out ([`Command::CopyAnew`]): with a new life of the data directory, so that nobody takes it
//! for in sync until it is. Elsewhere [`run`] does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_decide::failover::{Command, State, Why};
use pontoon_fleet::{Code, DatabaseRole, EventKind, Refusal, ServerName};
use pontoon_replication::{CloneStep, Copying, Database, Errant, SourceTicket};
use pontoon_rt::http::Call;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::{Progress, ReseedRequest};
use crate::compare::{self, leader};
use crate::core::Agent;
use crate::reporter::Reporter;
use crate::{carry_out, dial, errant, failover, joiner};

/// How long one question may take: a long binary log is read for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at how it goes.
const LOOK: Duration = Duration::from_millis(500);

/// How long the agent of that server may be silent before nobody waits for it any more. The copy goes on without.
const SILENCE: Duration = Duration::from_secs(60);

/// Before an attempt that failed is made again.
const REST: Duration = Duration::from_secs(5);

/// A replica that is no further behind has caught up.
const CAUGHT_UP_MS: u64 = 2_000;

/// What one agent asks another about its database.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "reseed", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// How it stands beside the primary, whose history this is. Answer: [`Stand`].
    Look { keep: String },
    /// Copy it anew. Answer: nothing.
    Begin {
        /// As a dump, whatever the configuration says.
        #[serde(default)]
        logical: bool,
    },
    /// Do not, after all. Answer: nothing.
    Cancel,
    /// How it goes. Answer: [`Going`].
    Going,
    /// Try now to follow with what is there. Answer: nothing.
    TryAgain,
}

/// How a database stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stand {
    /// Its data directory.
    datadir: PathBuf,
    /// Whether a process of it lives.
    runs: bool,
    /// Whether it follows and is well.
    follows: bool,
    /// Why not, in the words of who knows.
    why: Option<Refusal>,
    /// What it has alone.
    errant: Option<Errant>,
}

/// How a copy goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Going {
    copying: Copying,
    /// Whether it follows and is well.
    follows: bool,
    /// What is done to the database, in words.
    work: Option<String>,
    why: Option<Refusal>,
}

/// `pontoon db reseed SERVER`.
pub(crate) async fn order(
    agent: &Arc<Agent>,
    request: ReseedRequest,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let (primary, server) = (leader(agent)?, request.server.clone());
    must_be_another(agent, &primary, &server)?;
    let keep = errant::history_of(agent, &primary)
        .await
        .map_err(|refusal| last_copy(&primary, &server, &refusal))?;
    let going: Going = ask(agent, &server, &Ask::Going).await?;
    if !going.copying.ordered {
        let stand: Stand = ask(agent, &server, &Ask::Look { keep }).await?;
        show(&server, &primary, &stand, reporter).await;
        if !request.yes {
            return Err(
                Refusal::new(Code::P007, format!("nothing was changed on {server}"))
                    .because(format!(
                        "its database would be copied anew from {primary}; {} would be renamed and kept",
                        stand.datadir.display()
                    ))
                    .next(
                        "to do it",
                        format!("pontoon db reseed {server}{} --yes", request.options()),
                    ),
            );
        }
        let logical = request.logical;
        ask::<()>(agent, &server, &Ask::Begin { logical }).await?;
    }
    follow(agent, &primary, &server, reporter).await
}

/// `pontoon db rejoin SERVER`.
pub(crate) async fn rejoin(
    agent: &Arc<Agent>,
    server: ServerName,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let primary = leader(agent)?;
    must_be_another(agent, &primary, &server)?;
    // What the primary writes from now on is not looked for.
    let keep = errant::history_of(agent, &primary).await?;
    let stand: Stand = ask(agent, &server, &Ask::Look { keep: keep.clone() }).await?;
    show(&server, &primary, &stand, reporter).await;
    if stand.follows && stand.errant.is_none() {
        return Ok(format!("{server} follows {primary} and is well"));
    }
    reporter
        .step(&server, format!("trying to follow {primary} with what is there"))
        .await;
    // Why it did not succeed is told once it is known whether the server has something alone.
    let tried = ask::<()>(agent, &server, &Ask::TryAgain).await.err();
    let begun = Instant::now();
    let mut told = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let going: Going = ask(agent, &server, &Ask::Going).await?;
        if going.work != told {
            if let Some(work) = &going.work {
                reporter.step(&server, work.clone()).await;
            }
            told.clone_from(&going.work);
        }
        if going.work.is_some() {
            continue;
        }
        let stand: Stand = ask(agent, &server, &Ask::Look { keep: keep.clone() }).await?;
        if stand.follows && stand.errant.is_none() {
            return Ok(format!("{server} follows {primary} again, without a new copy"));
        }
        // What a running database has alone is committed there: nothing can be cut off any more.
        let parted = stand.runs && stand.errant.is_some();
        let refused = going.why.as_ref().is_some_and(|why| why.code == Code::D011);
        if parted || refused || tried.is_some() || begun.elapsed() > PATIENCE {
            show(&server, &primary, &stand, reporter).await;
            let why = tried.or(going.why).or(stand.why);
            return Err(hopeless(&server, &primary, why, stand.errant));
        }
    }
}

/// What it found, and what helps.
fn hopeless(
    server: &ServerName,
    primary: &ServerName,
    why: Option<Refusal>,
    errant: Option<Errant>,
) -> Refusal {
    let mut refusal = match (why, errant) {
        (Some(why), _) if why.code == Code::D011 => why,
        // Paused, no primary any more: the copy is not what is wrong.
        (Some(why), _) if matches!(why.code, Code::D014 | Code::F001) => return why,
        (_, Some(errant)) => Refusal::new(
            Code::D011,
            format!("{server} has transactions that {primary} lacks"),
        )
        .because(errant.transactions),
        (Some(why), None) => why,
        (None, None) => Refusal::new(Code::D004, format!("{server} does not follow {primary}")),
    };
    refusal.next.clear();
    refusal.next(
        "a new copy helps; the present data is kept under another name",
        format!("pontoon db reseed {server}"),
    )
}

fn must_be_another(agent: &Agent, primary: &ServerName, server: &ServerName) -> Result<(), Refusal> {
    let config = agent.config()?.config;
    let entry = config
        .server(server)
        .ok_or_else(|| dial::no_such_server(server, &config))?;
    if !config.runs_database(entry) {
        return Err(Refusal::new(Code::F004, format!("{server} has no database"))
            .because("its roles are without db")
            .next("see who has one", "pontoon db status"));
    }
    if server == primary {
        return Err(
            Refusal::new(Code::D014, format!("{server} has the primary database"))
                .because("every other copy follows it; there is nothing that it could be copied from")
                .next(
                    "if another one shall lead, hand over first",
                    "pontoon db switchover",
                )
                .next("see how the databases stand", "pontoon db status"),
        );
    }
    Ok(())
}

fn last_copy(primary: &ServerName, server: &ServerName, why: &Refusal) -> Refusal {
    Refusal::new(
        Code::D014,
        format!("{server} may have the last copy: the primary database does not answer"),
    )
    .because(format!("{primary}: {why}"))
    .next("see how the databases stand", "pontoon db status")
    .next(
        format!("if {primary} is lost"),
        format!("pontoon db failover {server}"),
    )
}

async fn show(server: &ServerName, primary: &ServerName, stand: &Stand, reporter: &Reporter) {
    let runs = match (stand.runs, stand.follows) {
        (true, true) => format!("follows {primary}"),
        (true, false) => format!("runs and does not follow {primary}"),
        (false, _) => "does not run".to_owned(),
    };
    reporter.note(format!("{server}: its database {runs}")).await;
    if let Some(why) = &stand.why {
        reporter.note(format!("{server}: {why}")).await;
        for line in &why.evidence {
            reporter.note(format!("    {line}")).await;
        }
    }
    match &stand.errant {
        None => {}
        Some(errant) => {
            for line in words(server, primary, errant) {
                reporter.note(line).await;
            }
        }
    }
}

/// What a server has alone, for people.
pub(crate) fn words(server: &ServerName, primary: &ServerName, errant: &Errant) -> Vec<String> {
    let count = transactions(errant.count);
    let mut lines = vec![format!(
        "{server} has {count} that {primary} lacks: {}",
        errant.transactions
    )];
    for one in &errant.first {
        let what = match (one.statements.first(), one.tables.is_empty()) {
            (Some(statement), _) => statement.clone(),
            (None, false) => format!("writes to {}", one.tables.join(", ")),
            (None, true) => "(not readable)".to_owned(),
        };
        lines.push(format!("{}: {what}", one.gtid));
    }
    lines.extend(errant.left.clone());
    lines
}

fn transactions(count: u64) -> String {
    match count {
        0 => "transactions".to_owned(),
        1 => "1 transaction".to_owned(),
        count => format!("{count} transactions"),
    }
}

/// Watches until it follows, or cannot be done.
async fn follow(
    agent: &Arc<Agent>,
    primary: &ServerName,
    server: &ServerName,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let mut heard = Instant::now();
    let (mut step, mut failed): (Option<CloneStep>, Option<Refusal>) = (None, None);
    let (mut told_export, mut told_how) = (false, false);
    reporter
        .step(server, format!("copying database from {primary}"))
        .await;
    loop {
        tokio::time::sleep(LOOK).await;
        let going: Going = match ask(agent, server, &Ask::Going).await {
            Ok(going) => going,
            Err(refusal) if heard.elapsed() > SILENCE => {
                return Err(refusal.next(
                    "the copy goes on when its agent is back; see how far it is",
                    "pontoon db status",
                ));
            }
            Err(_) => continue,
        };
        heard = Instant::now();
        let copying = going.copying;
        if let (Some(exported), false) = (&copying.exported, told_export) {
            told_export = true;
            for line in export_words(server, exported) {
                reporter.note(line).await;
            }
        }
        let done = !copying.ordered && going.follows;
        // Before an attempt has begun it says how the copy before this one was made. A quick one is over between two looks.
        let begun = copying.progress.is_some() || done;
        if let (Some(how), true, false) = (&copying.how, begun, told_how) {
            told_how = true;
            reporter.note(format!("{server}: {how}")).await;
        }
        if let Some(progress) = copying.progress {
            if step != Some(progress.step) {
                step = Some(progress.step);
                reporter.step(server, progress.step.as_str()).await;
            }
            if progress.step == CloneStep::Copying {
                reporter.say_if_room(Progress::Bytes {
                    done: progress.bytes,
                    total: Some(progress.total),
                });
            }
        }
        if let Some(why) = copying
            .failure
            .filter(|_| copying.ordered && copying.progress.is_none())
        {
            if is_final(&why) {
                ask::<()>(agent, server, &Ask::Cancel).await?;
                return Err(why.because(format!("the order was taken back; {server} is as it was")));
            }
            if failed.as_ref() != Some(&why) {
                reporter.note(format!("it is tried again: {why}")).await;
                failed = Some(why);
            }
        }
        if done {
            let kept = copying.aside.map_or_else(String::new, |aside| {
                format!("; its old data directory is {}", aside.display())
            });
            reporter
                .done(server, "follows and has caught up".to_owned())
                .await;
            return Ok(format!("{server} has a new copy of {primary}'s database{kept}"));
        }
    }
}

fn export_words(server: &ServerName, exported: &pontoon_replication::Exported) -> Vec<String> {
    if let Some(why) = &exported.unknown {
        return vec![format!(
            "what only {server} had cannot be told ({why}); it stays in its old data directory"
        )];
    }
    let Some(kept) = &exported.kept else {
        return vec![format!("{server} had nothing that the primary lacks")];
    };
    let count = transactions(exported.count);
    let mut lines = vec![format!(
        "{count} that only {server} had: kept on {server} in {}",
        kept.display()
    )];
    if let Some(text) = &exported.text {
        lines.push(format!("and, to be read, in {}", text.display()));
    }
    lines
}

/// Whether trying again changes nothing.
fn is_final(why: &Refusal) -> bool {
    matches!(
        why.code,
        Code::D001 | Code::D002 | Code::D006 | Code::D007 | Code::D010 | Code::D017
    ) || (why.code == Code::D003 && why.what.contains("not enough free space"))
}

/// The answer to `POST /p/v1/db/reseed`, as JSON.
pub(crate) async fn here(agent: &Arc<Agent>, wanted: Ask) -> Result<serde_json::Value, Refusal> {
    let json = |error: serde_json::Error| Refusal::new(Code::N007, error.to_string());
    let database = compare::database(agent).await?;
    match wanted {
        Ask::Look { keep } => serde_json::to_value(stand(agent, &database, &keep).await?),
        Ask::Going => serde_json::to_value(going(agent, &database).await?),
        Ask::Begin { logical } => {
            database.ask_for_dump(logical)?;
            let begun = begin(agent, &database, true).await;
            if begun.is_err() {
                database.ask_for_dump(false)?;
            }
            serde_json::to_value(begun?)
        }
        Ask::Cancel => serde_json::to_value(begin(agent, &database, false).await?),
        Ask::TryAgain => serde_json::to_value(try_again(agent, &database).await?),
    }
    .map_err(json)
}

async fn stand(agent: &Arc<Agent>, database: &Database, keep: &str) -> Result<Stand, Refusal> {
    let leader = leader(agent)?;
    let runs = database.helper().state().await?.pid.is_some();
    let mut why = why(agent, database).await;
    let beyond = match runs {
        true => match database.stands().await {
            Ok(own) => database.beyond(&own, keep).await?,
            Err(refusal) => {
                why = why.or(Some(refusal));
                String::new()
            }
        },
        false => String::new(),
    };
    let suspected = !beyond.is_empty() || !runs || agent.known().errant.is_some();
    let errant = match suspected {
        true => Some(database.errant(beyond, keep, &leader).await),
        false => None,
    };
    Ok(Stand {
        datadir: database.node().datadir.clone(),
        runs,
        follows: follows(agent, database).await,
        why,
        errant: errant.filter(|errant| errant.count > 0 || !errant.transactions.is_empty()),
    })
}

/// Why it does not follow.
async fn why(agent: &Agent, database: &Database) -> Option<Refusal> {
    if let Some(works) = agent.works() {
        let state = agent.failover.report(agent.clock.now())?.state;
        return works
            .reason()
            .filter(|_| !matches!(state, State::Follow | State::FollowSync));
    }
    let report = database.report().await;
    report
        .error
        .map(|error| Refusal::new(Code::D004, "the replica does not follow").because(error))
}

async fn follows(agent: &Agent, database: &Database) -> bool {
    if agent.works().is_some() {
        let report = agent.failover.report(agent.clock.now());
        return report.is_some_and(|report| {
            let near = report
                .facts
                .as_ref()
                .and_then(|facts| facts.behind_ms)
                .is_some_and(|ms| ms <= CAUGHT_UP_MS);
            matches!(report.state, State::FollowSync) || (report.state == State::Follow && near)
        });
    }
    let report = database.report().await;
    report.role == DatabaseRole::Replica
        && report.error.is_none()
        && report.lag_ms.is_some_and(|lag| lag <= CAUGHT_UP_MS)
}

async fn going(agent: &Agent, database: &Database) -> Result<Going, Refusal> {
    Ok(Going {
        copying: database.copying()?,
        follows: follows(agent, database).await,
        work: agent
            .failover
            .report(agent.clock.now())
            .and_then(|report| report.work),
        why: why(agent, database).await,
    })
}

pub(crate) async fn begin(agent: &Arc<Agent>, database: &Database, yes: bool) -> Result<(), Refusal> {
    let me = agent.member()?.me;
    if takes_part(agent, &me)? {
        let report = agent.failover.report(agent.clock.now());
        if yes && report.is_some_and(|report| report.paused) {
            return Err(Refusal::new(Code::D014, format!("failover is paused on {me}"))
                .because("nothing is started or stopped there by itself meanwhile")
                .next("go on first", "pontoon db resume"));
        }
        return match agent.failover.command(Command::CopyAnew(yes)).await? {
            Ok(()) => Ok(()),
            Err(why) => Err(refused(&me, why)),
        };
    }
    must_be_another(agent, &leader(agent)?, &me)?;
    database.order_copy(yes).await?;
    if !yes {
        agent.to_carry_out.notify_one();
    }
    Ok(())
}

async fn try_again(agent: &Arc<Agent>, database: &Database) -> Result<(), Refusal> {
    let me = agent.member()?.me;
    if takes_part(agent, &me)? {
        return match agent.failover.command(Command::Rejoin).await? {
            Ok(()) => Ok(()),
            Err(why) => Err(refused(&me, why)),
        };
    }
    let _changing = agent.changing.lock().await;
    database.ensure_running().await?;
    let (_, ticket) = ticket(agent).await?;
    database.follow(&ticket).await
}

fn refused(me: &ServerName, why: Why) -> Refusal {
    Refusal::new(Code::D014, format!("{me} does not do that now"))
        .because(failover::why_words(why))
        .next("see how the databases stand", "pontoon db status")
}

fn takes_part(agent: &Agent, me: &ServerName) -> Result<bool, Refusal> {
    Ok(failover::takes_part(&agent.config()?.config, me))
}

async fn ticket(agent: &Arc<Agent>) -> Result<(ServerName, SourceTicket), Refusal> {
    let source = leader(agent)?;
    let address = dial::address_of(agent, &source)?;
    let call = Call::post(source.as_str(), "/p/v1/join/source").timeout(Duration::from_secs(60));
    let means = compare::database(agent).await?.means().await;
    let ticket = dial::ask::<_, SourceTicket>(agent, &source, address, &call, Some(&means)).await?;
    Ok((source, ticket))
}

/// Carries orders out in a fleet without failover. Runs until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = agent.shutdown.requested() => return,
        }
        let Ok(database) = compare::database(&agent).await else {
            continue;
        };
        let ours = agent
            .membership()
            .is_some_and(|membership| takes_part(&agent, &membership.me).is_ok_and(|part| !part));
        if !ours || !database.copy_ordered() {
            continue;
        }
        tokio::select! {
            copied = copy(&agent, &database) => if let Err(refusal) = copied {
                tracing::warn!(%refusal, "the database was not copied anew; it is tried again");
                database.note_failure(&refusal);
                tokio::time::sleep(REST).await;
            },
            () = agent.shutdown.requested() => return,
        }
    }
}

async fn copy(agent: &Arc<Agent>, database: &Database) -> Result<(), Refusal> {
    let _changing = agent.changing.lock().await;
    let active = agent.config()?;
    let me = agent.member()?.me;
    must_be_another(agent, &leader(agent)?, &me)?;
    let (Some(db), Some(server)) = (&active.config.db, active.config.server(&me)) else {
        return Ok(());
    };
    let (source, ticket) = ticket(agent).await?;
    let keep = errant::history_of(agent, &source).await?;
    database.export_alone(&keep, &source).await?;
    agent.store.save_inherited(&ticket.inherited)?;
    let wanted = carry_out::wanted(agent, db, server, true)?;
    let address = dial::address_of(agent, &source)?;
    let open = || joiner::backup_stream(agent, &source, address, ticket.method);
    database.clone_from(&ticket, &wanted, open, &mut |_| {}).await?;
    agent.record(EventKind::ReplicationStarted { source });
    Ok(())
}

async fn ask<T: DeserializeOwned>(
    agent: &Arc<Agent>,
    server: &ServerName,
    wanted: &Ask,
) -> Result<T, Refusal> {
    if agent.member()?.me == *server {
        let answer = here(agent, wanted.clone()).await?;
        return serde_json::from_value(answer).map_err(|error| Refusal::new(Code::N007, error.to_string()));
    }
    let address = dial::address_of(agent, server)?;
    let call = Call::post(server.as_str(), "/p/v1/db/reseed").timeout(PATIENCE);
    dial::ask(agent, server, address, &call, Some(wanted)).await
}

#[cfg(test)]
mod tests {
    use pontoon_replication::{ErrantTransaction, Exported};

    use super::*;

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    #[test]
    fn what_a_server_has_alone_is_named_with_its_statements() {
        let errant = Errant {
            transactions: "0-7-9".to_owned(),
            count: 2,
            first: vec![
                ErrantTransaction {
                    gtid: "0-7-8".to_owned(),
                    statements: vec!["INSERT INTO t VALUES (1)".to_owned()],
                    tables: vec!["app.t".to_owned()],
                },
                ErrantTransaction {
                    gtid: "0-7-9".to_owned(),
                    statements: Vec::new(),
                    tables: vec!["app.t".to_owned()],
                },
            ],
            left: None,
        };
        assert_eq!(
            words(&name("b"), &name("a"), &errant),
            [
                "b has 2 transactions that a lacks: 0-7-9",
                "0-7-8: INSERT INTO t VALUES (1)",
                "0-7-9: writes to app.t"
            ]
        );
    }

    #[test]
    fn what_is_kept_is_said_with_its_path_and_what_is_not_known_too() {
        let nothing = export_words(&name("b"), &Exported::default());
        assert_eq!(nothing, ["b had nothing that the primary lacks"]);
        let unknown = Exported {
            unknown: Some("it is encrypted".to_owned()),
            ..Exported::default()
        };
        assert!(export_words(&name("b"), &unknown)[0].contains("it is encrypted"));
        let kept = Exported {
            count: 3,
            kept: Some("/var/lib/x".into()),
            text: Some("/var/lib/x.sql".into()),
            unknown: None,
        };
        let lines = export_words(&name("b"), &kept);
        assert!(lines[0].contains("3 transactions") && lines[1].ends_with("/var/lib/x.sql"));
    }

    #[test]
    fn only_what_time_does_not_mend_ends_an_order() {
        assert!(is_final(&Refusal::new(Code::D002, "another engine")));
        assert!(is_final(&Refusal::new(
            Code::D003,
            "there is not enough free space for the copy"
        )));
        assert!(!is_final(&Refusal::new(
            Code::D003,
            "the copy of the database failed"
        )));
        assert!(!is_final(&Refusal::new(Code::N002, "nobody answers")));
    }

    #[test]
    fn the_last_copy_is_not_given_up() {
        let why = Refusal::new(Code::N002, "no answer");
        let refusal = last_copy(&name("a"), &name("b"), &why);
        assert_eq!(refusal.code, Code::D014);
        assert!(!refusal.evidence.is_empty() && refusal.next.len() == 2);
    }
}
