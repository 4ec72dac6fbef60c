//! The way to the agents of the other database servers, over the fleet's mutual TLS; and what this one answers them. Only
//! servers with the role `db` are asked and answered: an application server that is broken into moves no database.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use pontoon_decide::failover::{Event, Incarnation, Position, Record};
use pontoon_fleet::{Code, Epoch, Refusal, ServerName};
use pontoon_replication::work::{Answer, AskPeers, CopyStream, Works};
use pontoon_replication::{Method, SourceTicket};
use pontoon_rt::http::Call;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::hold;
use super::task::Line;
use crate::authorise::Peer;
use crate::core::Agent;
use crate::peer::{Acknowledge, Asked, Changed, Halted};
use crate::{compare, dial, joiner};

/// How long a question may take, its connection included.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a replica may take to connect anew as a semi-synchronous one, or as another.
const RECONNECT: Duration = Duration::from_secs(15);

/// How long the source may take to make an account and look at itself.
const TICKET: Duration = Duration::from_secs(60);

/// Speaks for this server's failover.
pub(crate) struct AgentLine {
    /// Not kept alive by its own task.
    agent: Weak<Agent>,
    works: Arc<dyn Works>,
}

impl AgentLine {
    pub(crate) fn new(agent: &Arc<Agent>, works: Arc<dyn Works>) -> Arc<AgentLine> {
        Arc::new(AgentLine {
            agent: Arc::downgrade(agent),
            works,
        })
    }

    fn agent(&self) -> Result<Arc<Agent>, Refusal> {
        self.agent
            .upgrade()
            .ok_or_else(|| Refusal::new(Code::N001, "the agent is stopping"))
    }

    /// Says it and forgets it: what gets lost is asked again.
    fn say<T: Serialize + Send + Sync + 'static>(&self, to: ServerName, path: &'static str, message: T) {
        let Ok(agent) = self.agent() else { return };
        tokio::spawn(async move {
            if let Err(refusal) = ask::<T, ()>(&agent, &to, path, PATIENCE, &message).await {
                tracing::debug!(%to, %refusal, "a message of failover was lost");
            }
        });
    }
}

impl Line for AgentLine {
    fn ask(&self, to: ServerName, epoch: Epoch) {
        self.say(to, "/p/v1/failover/asked", Asked { epoch });
    }

    fn answer(&self, to: ServerName, epoch: Epoch, incarnation: Incarnation, position: Position) {
        let halted = Halted {
            epoch,
            incarnation,
            position,
        };
        self.say(to, "/p/v1/failover/halted", halted);
    }

    fn changed(&self, record: &Record) {
        let Ok(agent) = self.agent() else { return };
        let (Some(membership), Some(active)) = (agent.membership(), agent.active()) else {
            return;
        };
        for server in &active.config.servers {
            if server.name != membership.me {
                let changed = Changed {
                    lease: record.lease(),
                };
                self.say(server.name.clone(), "/p/v1/failover/changed", changed);
            }
        }
    }
}

impl AskPeers for AgentLine {
    fn answer<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Option<Answer>> {
        async move {
            let agent = self.agent().ok()?;
            let asked = ask::<(), Answer>(&agent, server, "/p/v1/failover/answer", PATIENCE, &());
            asked
                .await
                .inspect_err(|refusal| tracing::debug!(%server, %refusal, "no answer"))
                .ok()
        }
        .boxed()
    }

    fn acknowledge<'a>(&'a self, server: &'a ServerName, yes: bool) -> BoxFuture<'a, bool> {
        async move {
            let Ok(agent) = self.agent() else { return false };
            if agent
                .membership()
                .is_some_and(|membership| membership.me == *server)
            {
                return self.works.acknowledge(yes).await;
            }
            let (path, wanted) = ("/p/v1/failover/acknowledge", Acknowledge { yes });
            ask::<_, bool>(&agent, server, path, RECONNECT, &wanted)
                .await
                .unwrap_or(false)
        }
        .boxed()
    }

    fn hold(&self) -> BoxFuture<'_, Result<(), Refusal>> {
        async move { hold::everywhere(&self.agent()?).await }.boxed()
    }

    fn go_on(&self) -> BoxFuture<'_, ()> {
        async move {
            if let Ok(agent) = self.agent() {
                hold::go_on(&agent).await;
            }
        }
        .boxed()
    }

    fn ticket<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<SourceTicket, Refusal>> {
        async move {
            let agent = self.agent()?;
            let means = compare::database(&agent).await?.means().await;
            ask(&agent, server, "/p/v1/join/source", TICKET, &means).await
        }
        .boxed()
    }

    fn copy<'a>(
        &'a self,
        server: &'a ServerName,
        method: Method,
    ) -> BoxFuture<'a, Result<CopyStream, Refusal>> {
        async move {
            let agent = self.agent()?;
            let address = dial::address_of(&agent, server)?;
            let stream: CopyStream = Box::new(joiner::backup_stream(&agent, server, address, method).await?);
            Ok(stream)
        }
        .boxed()
    }
}

/// Asks the agent of `server`, within `patience`.
pub(crate) async fn ask<I, T>(
    agent: &Agent,
    server: &ServerName,
    path: &str,
    patience: Duration,
    message: &I,
) -> Result<T, Refusal>
where
    I: Serialize,
    T: DeserializeOwned,
{
    let address = dial::address_of(agent, server)?;
    let call = Call::post(server.as_str(), path).timeout(patience);
    let asked = dial::ask::<I, T>(agent, server, address, &call, Some(message));
    tokio::time::timeout(patience, asked).await.unwrap_or_else(|_| {
        let silent = format!("the agent on {server} does not answer");
        Err(Refusal::new(Code::N002, silent).because(format!("nothing within {} s", patience.as_secs())))
    })
}

/// The answer to `POST /p/v1/failover/answer`. What is on the disk is read before the database is asked.
pub(crate) async fn here(agent: &Agent) -> Result<Answer, Refusal> {
    let works = agent.works().ok_or_else(not_here)?;
    let durable = agent.failover.posted().ok_or_else(not_here)?.durable;
    Ok(Answer {
        incarnation: durable.incarnation,
        drained: durable.drained,
        follows: durable.follows,
        facts: works.standing().await,
    })
}

/// The answer to `POST /p/v1/failover/acknowledge`.
pub(crate) async fn answer(agent: &Agent, wanted: Acknowledge) -> Result<bool, Refusal> {
    Ok(agent.works().ok_or_else(not_here)?.acknowledge(wanted.yes).await)
}

/// `POST /p/v1/failover/asked` of `from`.
pub(crate) fn asked(agent: &Agent, from: &ServerName, asked: Asked) {
    agent.failover.tell(Event::Asked(from.clone(), asked.epoch));
}

/// `POST /p/v1/failover/changed` of `from`: a hint, so that nobody waits for the next look or the next heartbeat.
pub(crate) fn changed(agent: &Agent, from: &Peer, changed: &Changed) {
    agent.hear_lease(from, &changed.lease);
    agent.failover.tell(Event::Changed);
}

/// `POST /p/v1/failover/halted` of `from`.
pub(crate) fn halted(agent: &Agent, from: &ServerName, halted: Halted) {
    agent.failover.tell(Event::Halted {
        from: from.clone(),
        epoch: halted.epoch,
        incarnation: halted.incarnation,
        position: halted.position,
    });
}

fn not_here() -> Refusal {
    Refusal::new(Code::L003, "failover does not run on this server")
}
