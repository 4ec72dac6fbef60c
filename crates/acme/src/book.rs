//! What the fleet's servers share about certificates from authorities. Every server has a copy; two copies merge to the
//! same, in whatever order and however often they meet, so that it does not matter who heard what from whom.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use pontoon_fleet::{Proofs, ServerName, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::authority::FailureKind;
use crate::key::Secret;

/// The fleet's account and its certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// The key with which the fleet speaks to authorities; `None` until one was needed.
    pub account: Option<Account>,
    /// By name.
    pub names: BTreeMap<String, Entry>,
}

/// The key of the fleet's accounts, one for all authorities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// When. Of two that were made at once the older one stays: challenges that are under way are answered with it.
    pub made: UnixMillis,
    /// Of its public half (RFC 7638): what edges answer challenges with.
    pub thumbprint: String,
    /// Its private half; `None` on servers that do not order.
    pub key: Option<Secret>,
}

/// What is known of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The newest certificate.
    #[serde(default)]
    pub issued: Option<Stamped<Issued>>,
    /// An order that is under way, so that who takes over goes on with it; `None` when it has ended.
    #[serde(default)]
    pub begun: Option<Stamped<Option<Begun>>>,
    /// The text by which the name is proved in the DNS while it is ordered; `None` when that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Stamped<Option<String>>>,
    /// How the last attempt went.
    #[serde(default)]
    pub attempt: Option<Stamped<Attempt>>,
    /// When an operator last asked for a new one.
    #[serde(default)]
    pub wanted: Option<UnixMillis>,
}

/// A value that a newer one replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped<T> {
    /// When it was written, by its writer's clock, and later than what it replaced.
    pub at: UnixMillis,
    /// What was written.
    pub value: T,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// It and those of the authorities between it and a root, PEM.
    pub chain: String,
    /// Its private key.
    pub key: Secret,
    /// The directory of the authority that issued it.
    pub directory: String,
    /// The authority's name in it.
    pub issuer: String,
    /// When it was ordered, by the clock of who did.
    pub obtained: UnixMillis,
    /// Who did.
    pub by: ServerName,
    /// Since when it is good.
    pub not_before: UnixMillis,
    /// Until when.
    pub not_after: UnixMillis,
    /// When the next one is due.
    pub renew_at: UnixMillis,
}

impl Issued {
    /// Chain and key in one file, so that an edge never sees one of them without the other.
    pub fn file(&self) -> String {
        let gap = if self.chain.ends_with('\n') { "" } else { "\n" };
        format!("{}{gap}{}", self.chain, self.key.pem())
    }
}

/// An order that the authority knows and whose certificate is not there yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The directory of the authority.
    pub directory: String,
    /// The order's URL.
    pub order: String,
    /// The key that the certificate will be for.
    pub key: Secret,
}

/// How an attempt went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Who made it.
    pub by: ServerName,
    /// What it asked for, and whom; see [`crate::schedule::asked`]. What went wrong for something else counts no more.
    pub asked: String,
    /// Failures in a row; 0 after a success.
    pub failures: u32,
    /// What the last one was.
    pub failure: Option<(FailureKind, String)>,
    /// Not before this is it tried again.
    pub next: UnixMillis,
}

impl Book {
    /// What is known of `name`, to be changed.
    pub fn entry(&mut self, name: &str) -> &mut Entry {
        self.names.entry(name.to_owned()).or_default()
    }

    /// Takes over what is newer in `theirs`, and says whether that was something. What is stamped after `latest` is
    /// nobody's word: it could not be replaced any more.
    pub fn merge(&mut self, theirs: &Book, latest: UnixMillis) -> bool {
        let before = self.clone();
        if let Some(account) = theirs.account.as_ref().filter(|account| account.made <= latest) {
            match &mut self.account {
                Some(ours) if ours.thumbprint == account.thumbprint => {
                    ours.key = ours.key.take().or_else(|| account.key.clone());
                }
                Some(ours) if (ours.made, &ours.thumbprint) <= (account.made, &account.thumbprint) => {}
                ours => *ours = Some(account.clone()),
            }
        }
        for (name, entry) in &theirs.names {
            let ours = self.entry(name);
            newer(&mut ours.issued, entry.issued.as_ref(), latest);
            newer(&mut ours.begun, entry.begun.as_ref(), latest);
            newer(&mut ours.proof, entry.proof.as_ref(), latest);
            newer(&mut ours.attempt, entry.attempt.as_ref(), latest);
            ours.wanted = ours.wanted.max(entry.wanted.filter(|at| *at <= latest));
        }
        *self != before
    }

    /// What servers that only serve certificates may have of it.
    pub fn for_edges(&self) -> Book {
        let mut book = self.clone();
        if let Some(account) = &mut book.account {
            account.key = None;
        }
        for entry in book.names.values_mut() {
            entry.begun = None;
        }
        book
    }

    /// What servers that only answer for names may have of it: proofs, which are no secret.
    pub fn for_name_servers(&self) -> Book {
        let proved = self.names.iter().filter(|(_, entry)| entry.proof.is_some());
        let only_the_proof = |entry: &Entry| Entry {
            proof: entry.proof.clone(),
            ..Entry::default()
        };
        Book {
            account: None,
            names: proved
                .map(|(name, entry)| (name.clone(), only_the_proof(entry)))
                .collect(),
        }
    }

    /// Puts the proof for `name` in the place of the one before. Its stamp is a second later than that of any other: the
    /// zone's serial counts seconds of it.
    pub fn prove(&mut self, name: &str, now: UnixMillis, text: Option<String>) {
        if self.names.get(name).and_then(Entry::proof) == text.as_deref() {
            return;
        }
        let at = UnixMillis(now.0.max(self.last_proved().0 + SECOND));
        self.entry(name).proof = Some(Stamped { at, value: text });
    }

    /// What the zone is to hold for these names.
    pub fn proofs(&self, names: &[String]) -> Proofs {
        let mut proofs = Proofs {
            changed: UnixMillis(self.last_proved().0 / SECOND * SECOND),
            ..Proofs::default()
        };
        for name in names {
            let texts = proofs.texts.entry(Proofs::place(name)).or_default();
            let text = self.names.get(name).and_then(Entry::proof);
            texts.extend(text.map(str::to_owned));
        }
        proofs
    }

    fn last_proved(&self) -> UnixMillis {
        let stamps = self.names.values().filter_map(|entry| entry.proof.as_ref());
        stamps.map(|proof| proof.at).max().unwrap_or_default()
    }

    /// Tells one state of it from another.
    pub fn digest(&self) -> String {
        // Maps are in order, so the same book has the same text. It is made of what can be written.
        let text = serde_json::to_vec(self).unwrap_or_default();
        let digest = digest::digest(&digest::SHA256, &text);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Entry {
    /// The text by which the name is proved now.
    fn proof(&self) -> Option<&str> {
        self.proof.as_ref()?.value.as_deref()
    }
}

impl<T> Stamped<T> {
    /// Of `now`, and later than what it replaces.
    pub fn after(before: Option<&Stamped<T>>, now: UnixMillis, value: T) -> Stamped<T> {
        let least = before.map_or(0, |before| before.at.0.saturating_add(1));
        Stamped {
            at: UnixMillis(now.0.max(least)),
            value,
        }
    }
}

fn newer<T: Clone + Serialize>(
    ours: &mut Option<Stamped<T>>,
    theirs: Option<&Stamped<T>>,
    latest: UnixMillis,
) {
    let Some(theirs) = theirs.filter(|theirs| theirs.at <= latest) else {
        return;
    };
    // Two of the same moment: all choose the same one.
    let text = |stamped: &Stamped<T>| serde_json::to_string(&stamped.value).unwrap_or_default();
    let replaces = ours
        .as_ref()
        .is_none_or(|ours| (ours.at, text(ours)) < (theirs.at, text(theirs)));
    if replaces {
        *ours = Some(theirs.clone());
    }
}

/// In milliseconds.
const SECOND: u64 = 1000;
