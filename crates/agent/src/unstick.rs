//! `pontoon db unstick`: what stops a replica, and, when it is a row that differs, past it: the transaction applied, the
//! tables that it touches compared, their rows fetched from the primary. The steps on each database are
//! [`pontoon_replication::repair`]'s.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::{Code, Refusal, ServerName};
use pontoon_replication::check::{Checked, KeyValue, Options, Table};
use pontoon_replication::repair::{Events, FullRow, LogPlace, Stop};
use pontoon_rt::http::Call;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::UnstickRequest;
use crate::compare::{self, leader};
use crate::core::Agent;
use crate::dial;
use crate::reporter::Reporter;

/// Longer than the longest step.
const PATIENCE: Duration = Duration::from_secs(90);

/// Transactions that are passed before a new copy is the better way.
const MOST_STEPS: usize = 100;

/// How long a replica that goes on is watched for the next stop.
const WATCHED: Duration = Duration::from_secs(2);

/// Rows fetched at a time.
const ROWS: usize = 50;

/// What one agent asks another to do to its database.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "mend", rename_all = "snake_case")]
pub(crate) enum Mend {
    /// A replica: how applying stands. Answer: [`Stop`].
    Stop,
    /// A primary: what its log has there. Answer: [`Events`].
    Events {
        from: LogPlace,
        transaction: Option<String>,
        until: Option<LogPlace>,
    },
    /// A replica: past the transaction that it stopped at. Answer: [`LogPlace`].
    StepOver,
    /// A replica: past the transaction that it stopped at, without it. Answer: nothing.
    Skip,
    /// A primary: which transactions it has. Answer: a text.
    History,
    /// A primary: these rows. Answer: rows.
    Fetch { table: Table, keys: Vec<KeyValue> },
    /// A replica: makes these rows so. Answer: nothing.
    Put {
        table: Table,
        keys: Vec<KeyValue>,
        rows: Vec<FullRow>,
    },
}

/// Shows what stops the replica; with `yes` gets it past that.
pub(crate) async fn run(
    agent: &Arc<Agent>,
    request: UnstickRequest,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let primary = leader(agent)?;
    let replica = request.server;
    must_be_a_replica(agent, &primary, &replica)?;
    let stop: Stop = ask(agent, &replica, &Mend::Stop).await?;
    if stop.applying && stop.error == 0 && stop.receiving_error == 0 && !stop.lenient {
        return Ok(format!(
            "{replica} is not stuck: it applies what {primary} writes"
        ));
    }
    if stop.applying && stop.lenient {
        return strict_again(agent, (&primary, &replica), request.yes, reporter).await;
    }
    let events = show(agent, (&primary, &replica), &stop, reporter).await?;
    if request.accept_drift && stop.error != 0 {
        return skip(
            agent,
            (&primary, &replica),
            &stop,
            &events,
            (request.yes, reporter),
        )
        .await;
    }
    repairable(&replica, &stop).map_err(|refusal| offer_skip(refusal, &replica, &stop))?;
    if !request.yes {
        let would = format!(
            "it would apply this transaction and go on; {} would be compared, and put right from {primary}",
            events.tables.join(", ")
        );
        return Err(only_looked(&replica, would));
    }
    let tables = {
        let _changing = agent.changing.lock().await;
        step_over_all(agent, (&primary, &replica), stop, reporter).await?
    };
    put_right(agent, (&primary, &replica), Some(tables), reporter).await
}

/// A step that was not finished left the replica passing over rows that differ: nobody knows which.
async fn strict_again(
    agent: &Arc<Agent>,
    (primary, replica): (&ServerName, &ServerName),
    yes: bool,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let text = format!("{replica} passes over rows that differ: an earlier attempt was not finished");
    reporter.note(text).await;
    if !yes {
        let would = "it would be strict again, and all its tables would be compared and put right";
        return Err(only_looked(replica, would.to_owned()));
    }
    ask::<LogPlace>(agent, replica, &Mend::StepOver).await?;
    put_right(agent, (primary, replica), None, reporter).await
}

/// What stands between a replica and its next transaction can be left out: that is offered where nothing better helps.
fn offer_skip(refusal: Refusal, replica: &ServerName, stop: &Stop) -> Refusal {
    match stop.error {
        0 | 1032 | 1062 | 1950 => refusal,
        _ => refusal.next(
            "or leave that transaction out, and have its tables compared",
            format!("pontoon db unstick {replica} --accept-drift"),
        ),
    }
}

/// Leaves one transaction out, compares what it touches, and puts right what can be.
async fn skip(
    agent: &Arc<Agent>,
    (primary, replica): (&ServerName, &ServerName),
    stop: &Stop,
    events: &Events,
    (yes, reporter): (bool, &Reporter),
) -> Result<String, Refusal> {
    let name = events.transaction.as_deref().unwrap_or("without a number");
    // Without rows nobody knows what it would have changed.
    let tables: Option<BTreeSet<String>> =
        Some(events.tables.iter().cloned().collect()).filter(|tables: &BTreeSet<String>| !tables.is_empty());
    let named = tables.as_ref().map_or_else(
        || "all tables".to_owned(),
        |tables| tables.iter().cloned().collect::<Vec<_>>().join(", "),
    );
    if !yes {
        return Err(
            Refusal::new(Code::P007, format!("nothing was changed on {replica}"))
                .because(format!(
                    "transaction {name} would be left out, and {replica} would differ by it; {named} would be compared with \
                     {primary}, and rows put right where that is possible"
                ))
                .next(
                    "to do it",
                    format!("pontoon db unstick {replica} --accept-drift --yes"),
                ),
        );
    }
    {
        let _changing = agent.changing.lock().await;
        ask::<()>(agent, replica, &Mend::Skip).await?;
    }
    reporter
        .done(
            replica,
            format!("transaction {name} was left out ({})", stop.message),
        )
        .await;
    tokio::time::sleep(WATCHED).await;
    let now: Stop = ask(agent, replica, &Mend::Stop).await?;
    if !now.applying {
        return Err(Refusal::new(
            Code::D013,
            format!("{replica} has left out transaction {name} and stopped again"),
        )
        .because(now.message)
        .because(format!("{named} may differ from {primary}"))
        .next("see the next one", format!("pontoon db unstick {replica}"))
        .next(
            "a new copy helps in any case",
            format!("pontoon db reseed {replica}"),
        ));
    }
    put_right(agent, (primary, replica), tables, reporter).await
}

/// P007: the command line asks, or says how to say yes.
fn only_looked(replica: &ServerName, would: String) -> Refusal {
    Refusal::new(Code::P007, format!("nothing was changed on {replica}"))
        .because(would)
        .next("to do it", format!("pontoon db unstick {replica} --yes"))
}

fn must_be_a_replica(agent: &Agent, primary: &ServerName, replica: &ServerName) -> Result<(), Refusal> {
    let config = agent.config()?.config;
    let server = config
        .server(replica)
        .ok_or_else(|| dial::no_such_server(replica, &config))?;
    if replica == primary || !config.runs_database(server) {
        return Err(
            Refusal::new(Code::F004, format!("{replica} has no replica of the database"))
                .because(format!("the primary is {primary}"))
                .next("see which servers have one", "pontoon db status"),
        );
    }
    Ok(())
}

async fn show(
    agent: &Arc<Agent>,
    (primary, replica): (&ServerName, &ServerName),
    stop: &Stop,
    reporter: &Reporter,
) -> Result<Events, Refusal> {
    if stop.error == 0 {
        return Ok(Events::default());
    }
    let asked = Mend::Events {
        from: stop.place.clone(),
        transaction: stop.transaction.clone(),
        until: None,
    };
    let events: Events = ask(agent, primary, &asked).await?;
    let transaction = events.transaction.as_deref().unwrap_or("without a number");
    reporter
        .note(format!(
            "{replica} stopped at transaction {transaction} ({} at {} of {primary})",
            stop.place.file, stop.place.offset
        ))
        .await;
    reporter
        .note(format!("error {}: {}", stop.error, stop.message))
        .await;
    for statement in events.statements.iter().take(5) {
        reporter.note(format!("statement: {statement}")).await;
    }
    if !events.tables.is_empty() {
        reporter
            .note(format!("it writes to {}", events.tables.join(", ")))
            .await;
    }
    Ok(events)
}

/// Whether the stop is one that rows can mend.
fn repairable(replica: &ServerName, stop: &Stop) -> Result<(), Refusal> {
    if matches!(stop.error, 1032 | 1062) && !stop.applying {
        return Ok(());
    }
    let (what, why) = match (stop.error, stop.receiving_error) {
        (0, 1236) => (
            "the primary no longer has what it needs next, or the two have parted",
            &stop.receiving_message,
        ),
        (0, 0) => ("it was stopped by hand", &stop.message),
        (0, _) => ("it does not receive", &stop.receiving_message),
        (1146, _) => ("a table is missing there", &stop.message),
        _ => (
            "the transaction fails for another reason than a row",
            &stop.message,
        ),
    };
    let refusal = Refusal::new(
        Code::D013,
        format!("{replica} is not got going by mending rows: {what}"),
    );
    let refusal = match why.is_empty() {
        true => refusal,
        false => refusal.because(why.clone()),
    };
    Err(refusal
        .next("see how the databases stand", "pontoon db status")
        .next("what can be done", "pontoon explain D013")
        .next(
            "a new copy helps in any case",
            format!("pontoon db reseed {replica}"),
        ))
}

/// Past this stop and those that follow at once. Gives the tables that were touched meanwhile.
async fn step_over_all(
    agent: &Arc<Agent>,
    (primary, replica): (&ServerName, &ServerName),
    mut stop: Stop,
    reporter: &Reporter,
) -> Result<BTreeSet<String>, Refusal> {
    let mut tables = BTreeSet::new();
    for step in 1..=MOST_STEPS {
        reporter
            .step(
                replica,
                format!("applying the transaction it stopped at ({step})"),
            )
            .await;
        let until: LogPlace = ask(agent, replica, &Mend::StepOver).await?;
        let asked = Mend::Events {
            from: stop.place.clone(),
            transaction: None,
            until: Some(until),
        };
        let events: Events = ask(agent, primary, &asked).await?;
        tables.extend(events.all_tables);
        tokio::time::sleep(WATCHED).await;
        stop = ask(agent, replica, &Mend::Stop).await?;
        if stop.applying {
            reporter
                .done(
                    replica,
                    format!("goes on, strict as before, after {step} transactions"),
                )
                .await;
            return Ok(tables);
        }
        repairable(replica, &stop)?;
    }
    Err(Refusal::new(Code::D013, format!("{replica} differs in too much"))
        .because(format!(
            "it stopped {MOST_STEPS} times, last at: {}",
            stop.message
        ))
        .next("what can be done", "pontoon explain D013"))
}

/// Compares the tables (without a list: all of them), fetches the rows that differ, compares again.
async fn put_right(
    agent: &Arc<Agent>,
    (primary, replica): (&ServerName, &ServerName),
    tables: Option<BTreeSet<String>>,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let all = tables.is_none();
    let options = Options {
        only: tables
            .into_iter()
            .flatten()
            .filter(|table| !table.starts_with("pontoon.") && !table.starts_with("mysql."))
            .collect(),
        ..Options::default()
    };
    let named = match all {
        true => "all tables".to_owned(),
        false => options.only.join(", "),
    };
    if options.only.is_empty() && !all {
        return Ok(format!("{replica} goes on; no table of yours was touched"));
    }
    let servers = [replica.clone()];
    let mut mended = 0;
    let mut checked = Checked::default();
    for round in 0..3 {
        let step = format!("comparing {named} with {primary}");
        reporter.step(replica, step).await;
        checked = compare::compare(agent, primary, &servers, &options, reporter).await?;
        if checked.is_same() {
            break;
        }
        if round == 2 || checked.found.is_empty() {
            break;
        }
        for (_, table, keys) in &checked.found {
            for keys in keys.chunks(ROWS) {
                let (table, keys) = (table.clone(), keys.to_vec());
                let fetch = Mend::Fetch {
                    table: table.clone(),
                    keys: keys.clone(),
                };
                let rows: Vec<FullRow> = ask(agent, primary, &fetch).await?;
                mended += keys.len();
                ask::<()>(agent, replica, &Mend::Put { table, keys, rows }).await?;
            }
        }
        reporter
            .done(replica, format!("{mended} rows are as {primary} has them"))
            .await;
    }
    match checked.is_same() {
        true => Ok(format!(
            "{replica} goes on, and holds what {primary} holds in {named}"
        )),
        false => {
            let mut refusal = Refusal::new(
                Code::D012,
                format!("{replica} goes on, and still differs from {primary}"),
            );
            for (_, what, rows) in &checked.differing {
                refusal = refusal.because(format!("{what}: {rows} rows"));
            }
            Err(refusal
                .next("look at all of it", "pontoon db check")
                .next("what can be done", "pontoon explain D012"))
        }
    }
}

/// The answer to `POST /p/v1/db/mend`, as JSON.
pub(crate) async fn here(agent: &Agent, mend: Mend) -> Result<serde_json::Value, Refusal> {
    let database = compare::database(agent).await?;
    let leads = agent
        .member()
        .is_ok_and(|member| leader(agent).is_ok_and(|leader| leader == member.me));
    let on_primary = matches!(mend, Mend::Events { .. } | Mend::Fetch { .. } | Mend::History);
    if leads != on_primary {
        return Err(Refusal::new(Code::F001, "the primary is another server by now")
            .next("see who it is", "pontoon db status"));
    }
    let json = |error: serde_json::Error| Refusal::new(Code::N007, error.to_string());
    match mend {
        Mend::Stop => serde_json::to_value(database.stop_of().await?),
        Mend::Events {
            from,
            transaction,
            until,
        } => {
            let events = database.events(&from, transaction.as_deref(), until.as_ref());
            serde_json::to_value(events.await?)
        }
        Mend::History => serde_json::to_value(database.history().await?),
        Mend::Skip => serde_json::to_value(database.skip().await?),
        Mend::StepOver => serde_json::to_value(database.step_over().await?),
        Mend::Fetch { table, keys } => serde_json::to_value(database.rows_of(&table, &keys).await?),
        Mend::Put { table, keys, rows } => {
            serde_json::to_value(database.put_rows(&table, &keys, &rows).await?)
        }
    }
    .map_err(json)
}

pub(crate) async fn ask<T: DeserializeOwned>(
    agent: &Arc<Agent>,
    server: &ServerName,
    mend: &Mend,
) -> Result<T, Refusal> {
    if agent.member()?.me == *server {
        let answer = here(agent, mend.clone()).await?;
        return serde_json::from_value(answer).map_err(|error| Refusal::new(Code::N007, error.to_string()));
    }
    let address = dial::address_of(agent, server)?;
    let mut call = Call::post(server.as_str(), "/p/v1/db/mend").timeout(PATIENCE);
    call.limit = 64 << 20;
    dial::ask(agent, server, address, &call, Some(mend)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_that_differ_are_mended_and_every_other_stop_says_why_not() {
        let b: ServerName = "b".parse().unwrap();
        let stop = |error, receiving_error| Stop {
            error,
            receiving_error,
            message: "said so".to_owned(),
            receiving_message: "purged".to_owned(),
            ..Stop::default()
        };
        for error in [1032, 1062] {
            repairable(&b, &stop(error, 0)).unwrap();
        }
        for (stop, word) in [
            (stop(1146, 0), "a table is missing"),
            (stop(1452, 0), "another reason"),
            (stop(0, 1236), "no longer has"),
            (stop(0, 2003), "does not receive"),
            (stop(0, 0), "by hand"),
        ] {
            let refusal = repairable(&b, &stop).unwrap_err();
            assert_eq!(refusal.code, Code::D013);
            assert!(refusal.what.contains(word), "{refusal:?}");
            assert!(!refusal.evidence.is_empty() && !refusal.next.is_empty());
        }
    }
}
