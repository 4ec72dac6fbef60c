//! What a new configuration would change, on which server, in which order, and what that interrupts.
//!
//! A plan is made of facts and texts only; carrying it out is the agent's. The same inputs give the same plan and
//! the same id, so that `pontoon apply 7f3a` carries out what was looked at or refuses.

mod blockers;
mod steps;
mod text;
mod version;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pontoon_config::Config;
use pontoon_fleet::units::millis;
use pontoon_fleet::{Engine, FleetName, ListenAddress, Refusal, Revision, ServerName};
use serde::{Deserialize, Serialize};

use crate::facts::{RunBy, ServerFacts};

pub use version::{Release, is_supported};

/// What would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Short and stable: the same base, configuration and facts give the same id.
    pub id: String,
    /// The fleet.
    pub fleet: FleetName,
    /// The revision that it changes; the plan is worth nothing at any other.
    pub base: Revision,
    /// What to do, in the order in which each server does it.
    pub steps: Vec<Step>,
    /// Why it cannot be applied. Empty when it can.
    pub blockers: Vec<Refusal>,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// One thing to do on one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where.
    pub server: ServerName,
    /// Whether something comes, changes or goes.
    pub sign: Sign,
    /// What it is about (`mariadb`, `sqlproxy`, `edge`, `server`).
    pub subject: String,
    /// What is done, in the operator's words.
    pub text: String,
    /// What it interrupts.
    pub impact: Option<Impact>,
    /// The same for the agent.
    pub action: Action,
}

/// Whether something comes, changes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    /// `+`
    Add,
    /// `~`
    Change,
    /// `-`
    Remove,
}

impl Sign {
    /// As printed.
    pub fn as_char(self) -> char {
        match self {
            Sign::Add => '+',
            Sign::Change => '~',
            Sign::Remove => '-',
        }
    }
}

/// What a step interrupts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impact {
    /// What happens (`restart`).
    pub what: String,
    /// How long, expected; a database with much to write out takes longer.
    #[serde(with = "millis")]
    pub expected: Duration,
}

/// A step in the terms of the agent that carries it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// Stop the database, give it another port and socket together with Pontoon's settings, and start it.
    DatabaseMoveAside(DatabaseMove),
    /// Take the move and the settings back: the database listens where it did before Pontoon came.
    DatabaseMoveBack(DatabaseMove),
    /// Bring Pontoon's settings into force where the database is; it is restarted.
    DatabaseSettings {
        /// Which engine.
        engine: Engine,
        /// How it is run.
        run_by: RunBy,
    },
    /// Start the SQL proxy.
    SqlProxyStart {
        /// Where it listens for applications; empty when it only serves other SQL proxies.
        listen: Vec<ListenAddress>,
    },
    /// Have the SQL proxy take up what is new in the view; no connection is closed.
    SqlProxyChange {
        /// Where it listens from now on.
        listen: Vec<ListenAddress>,
    },
    /// Drain and stop the SQL proxy.
    SqlProxyStop,
    /// Start the edge.
    EdgeStart {
        /// Where it listens for visitors; empty when it only serves other edges.
        listen: Vec<SocketAddr>,
    },
    /// Have the edge take up what is new in the view; no connection is closed.
    EdgeChange {
        /// Where it listens from now on.
        listen: Vec<SocketAddr>,
    },
    /// Drain and stop the edge.
    EdgeStop,
    /// The server becomes one of the fleet.
    ServerAdded,
    /// The server is no longer one of the fleet.
    ServerRemoved,
    /// Settings that every agent follows and nothing has to be restarted for.
    FleetSettings,
}

/// Where a database moves from and to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseMove {
    /// Which engine.
    pub engine: Engine,
    /// How it is run.
    pub run_by: RunBy,
    /// Its TCP port now; `None` when it does not listen on TCP.
    pub from_port: Option<u16>,
    /// Its TCP port afterwards; `None` leaves it to the database's own configuration.
    pub to_port: Option<u16>,
    /// Its Unix socket now.
    pub from_socket: Option<PathBuf>,
    /// Its Unix socket afterwards; `None` leaves it where it is (moving aside) or to the database's own
    /// configuration (moving back).
    pub to_socket: Option<PathBuf>,
}

/// Makes the plan from the active configuration (`None`: never applied) to the wanted one. `facts` are of every
/// server that answered, named as in the configuration.
pub fn plan(
    active: Option<(&Config, Revision)>,
    wanted: &Config,
    facts: &BTreeMap<ServerName, ServerFacts>,
) -> Plan {
    let base = active.map_or(Revision(0), |(_, revision)| revision);
    let active = active.map(|(config, _)| config);
    let steps = steps::steps(active, wanted, facts);
    let blockers = blockers::blockers(active, wanted, facts, &steps);
    let notes = steps::notes(active, wanted, facts, &steps);
    let mut plan = Plan {
        id: String::new(),
        fleet: wanted.fleet.name.clone(),
        base,
        steps,
        blockers,
        notes,
    };
    plan.id = id(&plan, wanted);
    plan
}

impl Plan {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether it may be applied.
    pub fn is_allowed(&self) -> bool {
        self.blockers.is_empty()
    }

    /// The steps of one server, in order.
    pub fn of<'a, 's>(&'a self, server: &'s ServerName) -> impl Iterator<Item = &'a Step> + use<'a, 's> {
        self.steps.iter().filter(move |step| step.server == *server)
    }

    /// The plan as `pontoon plan` prints it.
    pub fn render(&self) -> String {
        text::render(self)
    }
}

/// Eight hexadecimal digits: enough that two plans an operator has in mind never share it.
fn id(plan: &Plan, wanted: &Config) -> String {
    let mut all = format!("{}\n{}\n", plan.base, wanted.to_toml());
    for step in &plan.steps {
        all.push_str(&format!(
            "{} {} {} {:?}\n",
            step.server,
            step.sign.as_char(),
            step.subject,
            step.action
        ));
    }
    for blocker in &plan.blockers {
        all.push_str(&format!("{blocker}\n"));
    }
    let mut id = crate::digest(&all);
    id.truncate(8);
    id
}
