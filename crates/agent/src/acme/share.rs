//! How what one server knows of certificates comes to the others: heartbeats say which state of the [`Book`] a control
//! server has, and who has another one fetches it, over the fleet's mutual TLS. Private keys go to servers that serve
//! with them, the account's key to those that order; name servers get proofs alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pontoon_acme::Book;
use pontoon_fleet::{Role, ServerName};
use pontoon_rt::files;
use pontoon_rt::http::Call;
use serde::{Deserialize, Serialize};

use super::{CLOCKS_APART, change, file_of, wanted};
use crate::authorise::Peer;
use crate::core::Agent;
use crate::dial;

/// The edge, which is of the tiers' group, reads it.
const FILE_MODE: u32 = 0o640;
const DIR_MODE: u32 = 0o750;

/// What is to be done is looked for this often at least.
const INTERVAL: Duration = Duration::from_secs(1);

/// Which state of the book a server has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Of all of it.
    all: String,
    /// Of what edges may have.
    edges: String,
    /// Of what name servers may have.
    #[serde(default)]
    names: String,
}

impl Told {
    fn of(book: &Book) -> Told {
        Told {
            all: book.digest(),
            edges: book.for_edges().digest(),
            names: book.for_name_servers().digest(),
        }
    }
}

/// What this server's heartbeats say: only those that may order are asked.
pub(crate) fn to_tell(agent: &Agent) -> Option<Told> {
    (wanted(agent).is_some() && agent.is_control()).then(|| Told::of(&agent.acme.book()))
}

/// Takes in which state a peer has.
pub(crate) fn hear(agent: &Agent, peer: &Peer, told: Option<&Told>) {
    let Peer::Member { name, control, .. } = peer else {
        return;
    };
    let Some(told) = told.filter(|_| *control) else {
        agent.acme.heard().remove(name);
        return;
    };
    let before = agent.acme.heard().insert(name.clone(), told.clone());
    if before.as_ref() != Some(told) {
        agent.acme.changed.notify_waiters();
    }
}

/// What `peer` may have of the book.
pub(crate) fn book_for(agent: &Agent, peer: &Peer) -> Book {
    let book = agent.acme.book();
    match peer {
        Peer::Member { control: true, .. } => book.clone(),
        Peer::Member { roles, .. } if roles.contains(&Role::Edge) => book.for_edges(),
        _ => book.for_name_servers(),
    }
}

/// Runs until shutdown.
pub(super) async fn run(agent: &Arc<Agent>) {
    // What was fetched from whom, and what this server then had: the same is not fetched again.
    let mut fetched: BTreeMap<ServerName, (Told, Told)> = BTreeMap::new();
    loop {
        let changed = agent.acme.changed.notified();
        if wanted(agent).is_some() {
            fetch(agent, &mut fetched).await;
            write_files(agent);
        }
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => return,
        }
    }
}

async fn fetch(agent: &Arc<Agent>, fetched: &mut BTreeMap<ServerName, (Told, Told)>) {
    let heard = agent.acme.heard().clone();
    let control = agent.is_control();
    let (edge, names) = (has_role(agent, Role::Edge), has_role(agent, Role::Dns));
    if !control && !edge && !names {
        return;
    }
    for (name, told) in heard {
        let own = Told::of(&agent.acme.book());
        let same = match (control, edge) {
            (true, _) => own.all == told.all,
            (false, true) => own.edges == told.edges,
            (false, false) => own.names == told.names,
        };
        if same || fetched.get(&name) == Some(&(told.clone(), own.clone())) {
            continue;
        }
        let Ok(address) = dial::address_of(agent, &name) else {
            agent.acme.heard().remove(&name);
            continue;
        };
        let call = Call::get(name.as_str(), "/p/v1/certificates");
        match dial::ask::<(), Book>(agent, &name, address, &call, None).await {
            Ok(theirs) => {
                let latest = agent.clock.unix().plus(CLOCKS_APART);
                let changes = agent.acme.book().clone().merge(&theirs, latest);
                if changes {
                    change(agent, |book| book.merge(&theirs, latest));
                }
                let own = Told::of(&agent.acme.book());
                fetched.insert(name, (told, own));
            }
            Err(refusal) => tracing::debug!(%refusal, "certificates were not fetched"),
        }
    }
}

fn has_role(agent: &Agent, role: Role) -> bool {
    let own = agent.membership().zip(agent.active());
    own.is_some_and(|(own, active)| {
        let server = active.config.server(&own.me);
        server.is_some_and(|server| server.roles.contains(&role))
    })
}

/// Gives this server's edge the certificates of the book.
fn write_files(agent: &Agent) {
    let Some(acme) = wanted(agent).filter(|_| has_role(agent, Role::Edge)) else {
        return;
    };
    let book = agent.acme.book().clone();
    let mut news = false;
    for name in &acme.names {
        let Some(issued) = book.names.get(name).and_then(|entry| entry.issued.as_ref()) else {
            continue;
        };
        let (path, text) = (file_of(agent, name).certificate, issued.value.file());
        let same =
            files::read_limited(&path, super::MAX_FILE).is_ok_and(|found| found == Some(text.clone().into()));
        let written = match same {
            true => Ok(()),
            false => files::create_dir(&agent.paths.issued_dir(), DIR_MODE)
                .and_then(|()| files::write_atomic(&path, text.as_bytes(), FILE_MODE)),
        };
        match written {
            Ok(()) => news |= agent.acme.files().insert(name.clone()),
            Err(error) => tracing::error!(%error, "a certificate was not given to the edge; trying again"),
        }
    }
    if news {
        agent.changed.notify_one();
    }
}
