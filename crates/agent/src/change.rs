//! The shell around `decide::change`: carries its messages, makes its effects durable, and tells the operator how an
//! attempt ended. What is decided, and when, is decided there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pontoon_config::{Config, Server};
use pontoon_decide::change::{Change, Committed, Effect, Event, Message, Node, Outcome, step};
use pontoon_fleet::{CertificateFiles, Code, EventKind, Refusal, Role, ServerName};
use pontoon_rt::http::Call;
use tokio::sync::{mpsc, oneshot};

use crate::core::{Agent, activated, parse};
use crate::peer::ChangeMessage;
use crate::{dial, observe, page_files};

/// Messages that may wait. They are sent again when they get lost.
const QUEUE: usize = 256;

/// Between two ticks of the state machine.
const TICK: Duration = Duration::from_millis(500);

/// The way into the state machine.
#[derive(Clone)]
pub(crate) struct ChangeHub(mpsc::Sender<Input>);

/// What the state machine's task works off.
pub(crate) enum Input {
    /// A message from a peer whose name is proven.
    Received(ServerName, Message),
    /// This server's own check has ended.
    Validated(Event),
    /// An operator wants a new configuration.
    Propose {
        text: String,
        members: BTreeSet<ServerName>,
        done: oneshot::Sender<Outcome>,
    },
}

impl ChangeHub {
    pub(crate) fn new() -> (ChangeHub, mpsc::Receiver<Input>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (ChangeHub(sender), receiver)
    }

    /// Hands in a message; one that finds the queue full is lost, which the protocol allows.
    pub(crate) fn received(&self, from: ServerName, message: Message) {
        let _ = self.0.try_send(Input::Received(from, message));
    }

    /// Proposes `text` and waits for how it ends.
    pub(crate) async fn propose(&self, text: String) -> Result<Outcome, Refusal> {
        let members = members(&parse(&text)?);
        let (done, outcome) = oneshot::channel();
        let stopping = |_| Refusal::new(Code::N001, "the agent is stopping");
        self.0
            .send(Input::Propose { text, members, done })
            .await
            .map_err(|_| stopping(()))?;
        outcome.await.map_err(|_| stopping(()))
    }
}

/// Runs until shutdown, or until a decision cannot be made durable: then the process must end, and start again with
/// what is on disk.
pub(crate) async fn run(agent: Arc<Agent>, mut inputs: mpsc::Receiver<Input>) -> Result<(), Refusal> {
    let mut node: Option<Node> = None;
    let mut waiting: Vec<oneshot::Sender<Outcome>> = Vec::new();
    let mut last_number: u64 = 0;
    loop {
        node = present_node(&agent, node);
        let event = tokio::select! {
            input = inputs.recv() => match input {
                Some(Input::Received(from, message)) => match believable(&message) {
                    Ok(()) => Event::Received { from, message },
                    Err(refusal) => {
                        let (peer, reason) = (from.to_string(), refusal.to_string());
                        agent.record_seldom(from.as_str(), 1, EventKind::PeerRefused { peer, reason });
                        Event::Tick
                    }
                },
                Some(Input::Validated(event)) => event,
                Some(Input::Propose { text, members, done }) => {
                    waiting.push(done);
                    // A clock that was set back must not make this attempt look like an old one.
                    last_number = agent.clock.unix().0.max(last_number.saturating_add(1));
                    Event::Propose { number: last_number, text, members }
                }
                None => return Ok(()),
            },
            () = tokio::time::sleep(TICK) => Event::Tick,
            () = agent.shutdown.requested() => return Ok(()),
        };
        let Some(present) = node.take() else {
            // Not a member: nobody to agree with. Whoever waits learns it by the closed channel.
            waiting.clear();
            continue;
        };
        let (next, effects) = step(present, event, agent.clock.now());
        node = Some(next);
        for effect in effects {
            match effect {
                Effect::Validate(change) => {
                    tokio::spawn(validate(agent.clone(), change));
                }
                Effect::Activate(committed) => activate(&agent, committed)?,
                Effect::Send { to, message } => {
                    tokio::spawn(send(agent.clone(), to, message));
                }
                Effect::Finished { outcome, .. } => {
                    // One attempt at a time: a second one is refused at once, and it came last.
                    if let Some(done) = waiting.pop() {
                        let _ = done.send(outcome);
                    }
                }
                Effect::Forked { peer, revision } => {
                    let reason =
                        format!("it has another configuration at revision {revision}: a copied disk?");
                    let refused = EventKind::PeerRefused {
                        peer: peer.to_string(),
                        reason,
                    };
                    agent.record_seldom(peer.as_str(), 1, refused); // it is noticed with each heartbeat
                }
            }
        }
    }
}

/// The node of the present membership: the one there is, or a new one after a join or a leave.
fn present_node(agent: &Agent, node: Option<Node>) -> Option<Node> {
    let membership = agent.membership()?;
    match node {
        Some(node) if node.me == membership.me && node.keeper == membership.keeper => Some(node),
        _ => {
            let active = agent
                .active()
                .map_or_else(Committed::nothing, |active| active.committed);
            Some(Node::new(
                membership.me,
                membership.keeper,
                agent.clock.unix().0,
                active,
            ))
        }
    }
}

/// Whether what a peer says is active there could be: a text that this version reads, with the members that it names.
/// Whoever took up another would end, and end again at each start.
fn believable(message: &Message) -> Result<(), Refusal> {
    let Message::Commit { committed } = message else {
        return Ok(());
    };
    if committed.revision.0 == 0 {
        return Ok(()); // nothing is active there
    }
    if members(&parse(&committed.text)?) != committed.members {
        return Err(Refusal::new(
            Code::N005,
            "a configuration came with other members than its text",
        ));
    }
    Ok(())
}

/// Makes a configuration durable, then active.
fn activate(agent: &Agent, committed: Committed) -> Result<(), Refusal> {
    // Read before it is written: an agent must be able to start with what is on its disk.
    let active = activated(committed)?;
    agent.store.save_active(&active.committed)?;
    let revision = active.committed.revision;
    // Only for telling an old fleet.toml from an edited one: what is decided stands without it.
    if let Err(refusal) = agent.store.keep_text(revision, &active.committed.text) {
        tracing::error!(%refusal, "the revision is active and its text is not kept beside it");
    }
    {
        let mut known = agent.known();
        // What kept an earlier revision from being carried out says nothing of this one.
        (known.active, known.trouble) = (Some(active), None);
    }
    if let Some(membership) = agent.membership() {
        agent.record(EventKind::RevisionActivated {
            revision,
            by: membership.keeper,
        });
    }
    agent.changed.notify_one();
    agent.to_carry_out.notify_one();
    Ok(())
}

/// Checks whether this server can carry a change out.
async fn validate(agent: Arc<Agent>, change: Change) {
    let refusal = check(&agent, &change).await.err();
    let revision = change.base.next();
    match &refusal {
        None => agent.record(EventKind::RevisionPrepared {
            revision,
            by: change.id.coordinator.clone(),
        }),
        Some(refusal) => {
            let (code, reason) = (refusal.code, refusal.to_string());
            agent.record(EventKind::RevisionRefused {
                revision,
                code,
                reason,
            });
        }
    }
    let _ = agent
        .changes
        .0
        .send(Input::Validated(Event::Validated {
            id: change.id,
            refusal,
        }))
        .await;
}

async fn check(agent: &Arc<Agent>, change: &Change) -> Result<(), Refusal> {
    let config = parse(&change.text)?;
    if members(&config) != change.members {
        return Err(Refusal::new(
            Code::N005,
            "the change names other servers than its text",
        ));
    }
    let me = agent.member()?.me;
    let Some(server) = config.server(&me) else {
        return Ok(());
    };
    let address = agent.member()?.identity.current().addresses().first().copied();
    if address != Some(server.private) {
        return Err(
            Refusal::new(Code::C006, format!("{me} cannot change its private address"))
                .because(format!(
                    "its certificate is for {address:?}, the configuration says {}",
                    server.private
                ))
                .next(
                    format!("on {me}"),
                    "pontoon leave, then pontoon join with the new address",
                ),
        );
    }
    certificates(agent, &config, server)?;
    if server.roles.contains(&Role::Edge) {
        let active = agent.active();
        let shown = active.as_ref().map(|active| &active.config.edge.answers.pages);
        page_files::check(&config.edge.answers.pages, shown)?;
    }
    observe::blockers(agent, &config, &me).await
}

/// Whether what visitors would be shown here can be: an edge with a certificate that it cannot serve helps nobody.
fn certificates(agent: &Agent, config: &Config, server: &Server) -> Result<(), Refusal> {
    let Some(tls) = config
        .edge
        .tls
        .as_ref()
        .filter(|_| server.roles.contains(&Role::Edge))
    else {
        return Ok(());
    };
    // What is served already is for `status` to complain of: it must not stand in the way of another change.
    let active = agent.active();
    let served = active.as_ref().and_then(|active| active.config.edge.tls.as_ref());
    let is_new = |files: &&CertificateFiles| served.is_none_or(|tls| !tls.certificates.contains(files));
    for files in tls.certificates.iter().filter(is_new) {
        let loaded = pontoon_certs::load(files)?;
        if loaded.not_after <= agent.clock.unix() {
            let certificate = files.certificate.display();
            return Err(Refusal::new(Code::T001, format!("{certificate} has ended")).next(
                "look at it",
                format!("openssl x509 -noout -dates -in {certificate}"),
            ));
        }
    }
    Ok(())
}

async fn send(agent: Arc<Agent>, to: ServerName, message: Message) {
    let call = Call::post(to.as_str(), "/p/v1/change").timeout(Duration::from_secs(3));
    let sent = match agent.address_for_change(&to) {
        Ok(address) => {
            dial::ask::<_, ()>(&agent, &to, address, &call, Some(&ChangeMessage { message })).await
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = sent {
        tracing::debug!(%to, %refusal, "a message of a change was lost");
    }
}

/// The servers that a configuration names.
pub(crate) fn members(config: &Config) -> BTreeSet<ServerName> {
    config.servers.iter().map(|server| server.name.clone()).collect()
}
