//! Certificates for visitors from an authority (`[edge.tls.acme]`), for the whole fleet.
//!
//! One server orders, all serve. What they share is a [`Book`]: `share` carries it from server to server, `order` is the
//! server that talks with the authority, `say` what an operator is told.
//!
//! Who orders is not a matter of a lease: it is the first control server that answers. Two that take themselves for it,
//! as when a network is cut, get a certificate each, and the books merge; nothing of a visitor's is at stake.

mod names;
mod order;
mod say;
mod share;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_acme::{Book, Place};
use pontoon_config::Acme;
use pontoon_decide::view::Issued;
use pontoon_fleet::{CertificateFiles, Challenge, Proofs, Refusal, ServerName, UnixMillis};
use pontoon_rt::files;
use pontoon_rt::paths::Paths;
use tokio::sync::Notify;

pub(crate) use order::first_control;
pub(crate) use say::{problems, renew, renewed_by_us, status};
pub(crate) use share::{Told, book_for, hear, to_tell};

use crate::core::Agent;

/// How far the clocks of two servers are thought to be apart at the most.
const CLOCKS_APART: Duration = Duration::from_secs(86_400);

/// A hundred certificates with their keys are smaller.
const MAX_FILE: u64 = 4 << 20;

/// What the tasks of this module share.
#[derive(Default)]
pub(crate) struct Desk {
    /// This server's copy. Never held across an await.
    book: Mutex<Book>,
    /// The names whose certificates are in files here, for the edge.
    files: Mutex<BTreeSet<String>>,
    /// What the control servers say that they have.
    heard: Mutex<BTreeMap<ServerName, Told>>,
    /// Rings when the book or what others have of it changed.
    changed: Notify,
}

impl Desk {
    /// With what this server has on its disk. A book that cannot be read is renamed: the others have it too.
    pub(crate) fn load(paths: &Paths, now: UnixMillis) -> Result<Desk, Refusal> {
        let path = paths.acme_file();
        let book = match files::read_limited(&path, MAX_FILE)? {
            None => Book::default(),
            Some(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                let spoilt = PathBuf::from(format!("{}.spoilt-{}", path.display(), now.0 / 1000));
                let renamed = std::fs::rename(&path, &spoilt);
                tracing::error!(%error, path = %path.display(), ?renamed, "what is known of certificates cannot be read");
                Book::default()
            }),
        };
        let names = std::fs::read_dir(paths.issued_dir())
            .into_iter()
            .flatten()
            .flatten();
        let names = names
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".pem")?.to_owned()))
            .filter(|name| !name.starts_with('.'));
        Ok(Desk {
            book: Mutex::new(book),
            files: Mutex::new(names.collect()),
            ..Desk::default()
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<ServerName, Told>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After leaving a fleet.
    pub(crate) fn forget(&self) {
        *self.book() = Book::default();
        self.files().clear();
        self.heard().clear();
    }
}

/// Runs until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) {
    tokio::join!(share::run(&agent), order::run(&agent));
}

/// What the configuration says of it.
fn wanted(agent: &Agent) -> Option<Acme> {
    agent.active()?.config.edge.tls.as_ref()?.acme.clone()
}

fn place(acme: &Acme) -> Place {
    Place {
        directory: acme.directory.clone(),
        email: acme.email.clone(),
        ca: acme.ca.clone(),
        challenge: acme.challenge,
    }
}

/// Chain and key of `name`, as the edge is told of them.
fn file_of(agent: &Agent, name: &str) -> CertificateFiles {
    let file = agent.paths.issued_dir().join(format!("{name}.pem"));
    CertificateFiles {
        certificate: file.clone(),
        key: file,
        ocsp: None,
    }
}

/// What the view says of certificates from an authority.
pub(crate) fn issued(agent: &Agent) -> Issued {
    let Some(acme) = wanted(agent) else {
        return Issued::default();
    };
    let files = agent.acme.files();
    let book = agent.acme.book();
    Issued {
        certificates: acme
            .names
            .iter()
            .filter(|name| files.contains(*name))
            .map(|name| file_of(agent, name))
            .collect(),
        thumbprint: book.account.as_ref().map(|account| account.thumbprint.clone()),
        proofs: proofs_of(&book, &acme),
    }
}

/// What the zone is to hold for authorities, and what others who answer for it.
pub(crate) fn proofs(agent: &Agent) -> Proofs {
    wanted(agent).map_or_else(Proofs::default, |acme| proofs_of(&agent.acme.book(), &acme))
}

fn proofs_of(book: &Book, acme: &Acme) -> Proofs {
    match acme.challenge {
        Challenge::Http01 => Proofs::default(),
        Challenge::Dns01 => book.proofs(&acme.names),
    }
}

/// From now on the zone has `text` for a name, or nothing.
pub(crate) fn prove(agent: &Agent, name: &str, text: Option<&str>) {
    let now = agent.clock.unix();
    change(agent, |book| book.prove(name, now, text.map(str::to_owned)));
}

/// Changes the book and keeps it. What cannot be written down is still told to the others.
fn change<T>(agent: &Agent, how: impl FnOnce(&mut Book) -> T) -> T {
    let (outcome, written) = {
        let mut book = agent.acme.book();
        let outcome = how(&mut book);
        let text = serde_json::to_vec(&*book).unwrap_or_default();
        // In the lock, so that an older state never replaces a newer one.
        (
            outcome,
            files::write_atomic(&agent.paths.acme_file(), &text, 0o600),
        )
    };
    if let Err(error) = written {
        tracing::error!(%error, "what is known of certificates was not kept");
    }
    agent.acme.changed.notify_waiters();
    agent.changed.notify_one();
    outcome
}
