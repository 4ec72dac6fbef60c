//! `pontoon db check`: asks the databases of all servers, here and over the fleet's mutual TLS, whether they hold the same.

use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::{Code, Refusal, Role, ServerName};
use pontoon_replication::Database;
use pontoon_replication::check::{Answer, Ask, Checked, Options, Side, Told, check};
use pontoon_replication::work::BoxFuture;
use pontoon_rt::http::Call;
use tokio::sync::mpsc::unbounded_channel;

use crate::api::{CheckRequest, Progress};
use crate::core::{Active, Agent};
use crate::reporter::Reporter;
use crate::{carry_out, dial, heartbeat};

/// A question, its connection and the wait for a replica included. Longer than any statement may run.
const PATIENCE: Duration = Duration::from_secs(60);

/// The largest answer: what there is in a database with many thousand tables.
const LARGEST_ANSWER: usize = 64 << 20;

/// Compares every replica, or the one that is named, with the primary. Ends when nobody listens any more: nothing
/// has to be cleaned up.
pub(crate) async fn run(
    agent: &Arc<Agent>,
    request: CheckRequest,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let active = agent.config()?;
    let primary = leader(agent)?;
    let replicas = replicas(agent, &active, &primary, request.server.as_ref())?;
    let options = Options {
        only: request.tables,
        max_lag: request.max_lag,
        chunk_time: request.chunk_time,
        show: request.rows,
    };
    let names = words(&replicas);
    reporter
        .step(&primary, format!("comparing its rows with those of {names}"))
        .await;
    let checked = tokio::select! {
        checked = compare(agent, &primary, &replicas, &options, reporter) => checked?,
        () = reporter.is_alone() => return Err(Refusal::new(Code::N001, "nobody listens any more")),
    };
    verdict(&primary, &names, &checked)
}

/// Compares; says how it goes and what differs.
pub(crate) async fn compare(
    agent: &Arc<Agent>,
    primary: &ServerName,
    replicas: &[ServerName],
    options: &Options,
    reporter: &Reporter,
) -> Result<Checked, Refusal> {
    let side = |name: &ServerName| AgentSide {
        agent: agent.clone(),
        name: name.clone(),
    };
    let ours = side(primary);
    let theirs: Vec<AgentSide> = replicas.iter().map(side).collect();
    let theirs: Vec<&dyn Side> = theirs.iter().map(|side| side as &dyn Side).collect();
    let (told, mut heard) = unbounded_channel();
    let work = async {
        let mut tell = |what| drop(told.send(what));
        let checked = check(&ours, &theirs, options, &mut tell).await;
        drop(told);
        checked
    };
    let mut table = String::new();
    let pass_on = async {
        while let Some(what) = heard.recv().await {
            pass_on(what, &mut table, reporter).await;
        }
    };
    let (checked, ()) = tokio::join!(work, pass_on);
    checked
}

async fn pass_on(told: Told, table: &mut String, reporter: &Reporter) {
    match told {
        Told::Table { name, number, tables } => *table = format!("{name}, table {number} of {tables}"),
        Told::Rows { done, total } => reporter.say_if_room(Progress::Rows {
            done,
            total,
            at: table.clone(),
        }),
        Told::Waiting(server) => reporter.say_if_room(Progress::Waiting { server }),
        Told::Differs(what) => reporter.say(Progress::Differs(what)).await,
        Told::Unchecked(what) => {
            reporter
                .note(format!("not compared: {} ({})", what.what, what.why))
                .await;
        }
    }
}

/// What is said in the end: the same, or D012.
pub(crate) fn verdict(primary: &ServerName, names: &str, checked: &Checked) -> Result<String, Refusal> {
    let compared = format!(
        "{} tables with {} rows were compared",
        checked.tables, checked.rows
    );
    if checked.is_same() {
        let left_out = match checked.unchecked.len() {
            0 => String::new(),
            count => format!("; not compared: {count}, see above"),
        };
        return Ok(format!(
            "{names} holds what {primary} holds: {compared}{left_out}"
        ));
    }
    let mut refusal = Refusal::new(Code::D012, format!("{names} does not hold what {primary} holds"));
    for (server, what, rows) in &checked.differing {
        refusal = refusal.because(match rows {
            0 => format!("{server}: {what} is defined otherwise, or only one of the two has it"),
            rows => format!("{server}: {what} has {rows} rows that differ"),
        });
    }
    let refusal = match checked.unchecked.len() {
        0 => refusal.because(compared),
        count => refusal.because(format!("{compared}; not compared: {count}, see above")),
    };
    Err(refusal
        .next("look again", "pontoon db check")
        .next("what can be done", "pontoon explain D012"))
}

/// The answer to `POST /p/v1/db/look`, and this server's own.
pub(crate) async fn here(agent: &Agent, ask: &Ask) -> Result<Answer, Refusal> {
    database(agent).await?.look(ask).await
}

/// This server's database.
pub(crate) async fn database(agent: &Agent) -> Result<Arc<Database>, Refusal> {
    let active = agent.config()?;
    let db = active
        .config
        .db
        .as_ref()
        .filter(|db| db.is_ours())
        .ok_or_else(|| Refusal::new(Code::D009, "the fleet has no database of its own"))?;
    carry_out::open_database(agent, db).await
}

/// A database of the fleet, by its server's name.
struct AgentSide {
    agent: Arc<Agent>,
    name: ServerName,
}

impl AgentSide {
    async fn ask(&self, ask: &Ask) -> Result<Answer, Refusal> {
        if self.agent.member()?.me == self.name {
            return here(&self.agent, ask).await;
        }
        let address = dial::address_of(&self.agent, &self.name)?;
        let mut call = Call::post(self.name.as_str(), "/p/v1/db/look").timeout(PATIENCE);
        call.limit = LARGEST_ANSWER;
        dial::ask(&self.agent, &self.name, address, &call, Some(ask)).await
    }
}

impl Side for AgentSide {
    fn name(&self) -> &ServerName {
        &self.name
    }

    fn ask<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, Result<Answer, Refusal>> {
        Box::pin(self.ask(ask))
    }
}

pub(crate) fn leader(agent: &Agent) -> Result<ServerName, Refusal> {
    let lease = agent.known().lease.clone();
    lease.map(|lease| lease.leader).ok_or_else(|| {
        Refusal::new(
            Code::F001,
            "no server holds the lease: there is no primary to compare with",
        )
        .next("see how the databases stand", "pontoon db status")
    })
}

/// The replicas that are to be compared; refused when one of them cannot be.
fn replicas(
    agent: &Agent,
    active: &Active,
    primary: &ServerName,
    only: Option<&ServerName>,
) -> Result<Vec<ServerName>, Refusal> {
    let config = &active.config;
    if let Some(only) = only {
        let server = config
            .server(only)
            .ok_or_else(|| dial::no_such_server(only, config))?;
        if only == primary || !config.runs_database(server) {
            return Err(
                Refusal::new(Code::F004, format!("{only} has no replica of the database"))
                    .because(format!("the primary is {primary}"))
                    .next("see which servers have one", "pontoon db status"),
            );
        }
        if server.delay.is_some() {
            return Err(Refusal::new(
                Code::D004,
                format!("{only} cannot be compared: its copy is delayed on purpose"),
            )
            .because("it is compared with the primary at one moment, and reaches that one much later")
            .next("compare the others", "pontoon db check"));
        }
    }
    let found: Vec<ServerName> = config
        .with_role(Role::Db)
        .filter(|server| config.runs_database(server) && server.name != *primary)
        .filter(|server| server.delay.is_none())
        .map(|server| server.name.clone())
        .filter(|name| only.is_none_or(|only| only == name))
        .collect();
    if found.is_empty() {
        return Err(Refusal::new(Code::D009, "there is no replica to compare with")
            .because(format!("{primary} has the only database of this fleet"))
            .next("make a second one", "pontoon token new"));
    }
    let me = agent.member()?.me;
    let known = agent.known();
    for name in &found {
        let heard = known.peers.get(name);
        let report = match *name == me {
            true => known.database.as_ref(),
            false => heard.and_then(|heard| heard.report.database.as_ref()),
        };
        let up = *name == me || heard.is_some_and(|heard| heard.at.elapsed() <= heartbeat::SILENCE);
        if !up {
            return Err(
                Refusal::new(Code::N002, format!("the agent on {name} does not answer"))
                    .next("see who answers", "pontoon status"),
            );
        }
        if let Some(error) = report.and_then(|report| report.error.as_ref()) {
            return Err(Refusal::new(
                Code::D004,
                format!("{name} cannot be compared: it does not get what the primary writes"),
            )
            .because(error.clone())
            .next("see what stops it", format!("pontoon db unstick {name}"))
            .next("see how the databases stand", "pontoon db status"));
        }
    }
    Ok(found)
}

fn words(names: &[ServerName]) -> String {
    names
        .iter()
        .map(ServerName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str) -> ServerName {
        name.parse().unwrap()
    }

    #[test]
    fn the_verdict_counts_what_was_compared_and_names_what_differs() {
        let mut checked = Checked {
            tables: 3,
            rows: 70,
            ..Checked::default()
        };
        let same = verdict(&server("a"), "b", &checked).unwrap();
        assert_eq!(same, "b holds what a holds: 3 tables with 70 rows were compared");
        checked.differing.push((server("b"), "app.t".to_owned(), 2));
        checked.differing.push((server("b"), "view app.v".to_owned(), 0));
        let refusal = verdict(&server("a"), "b", &checked).unwrap_err();
        assert_eq!(refusal.code, Code::D012);
        assert_eq!(refusal.evidence[0], "b: app.t has 2 rows that differ");
        assert!(refusal.evidence[1].contains("view app.v"), "{refusal:?}");
    }
}
