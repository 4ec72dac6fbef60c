//! Uploads, as the view and the reports name them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::name::ServerName;

/// Uploads: a folder that is the same on every server with the role `app`, and in a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetsView {
    /// The folder that the application writes to.
    pub local: PathBuf,
    /// The path that visitors read them under; begins and ends with `/`.
    pub url: String,
    /// Whether edges hand them out themselves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub serve: bool,
    /// Paths below `url` that the application hands out all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<String>,
    /// The bucket.
    pub bucket: String,
    /// The object store's URL; `None` means AWS.
    pub endpoint: Option<String>,
    /// Where the bucket's keys are on each server; `None` means the environment or the machine's own role.
    pub keys: Option<KeyPlace>,
}

/// Where a secret is. Never the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyPlace {
    /// A systemd credential's name.
    Credential(String),
    /// A file's absolute path.
    File(PathBuf),
    /// An environment variable's name.
    Env(String),
}

/// How the uploads of a server stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetsReport {
    /// Files in place.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether every file was looked at since the process started.
    pub looked_around: bool,
    /// Paths that changed here and are not written down yet.
    pub unsettled: u64,
    /// Files that somebody has open to write to them; they are mirrored when they are closed.
    #[serde(default)]
    pub being_written: u64,
    /// Files that other servers have and this one fetches.
    pub wanted: u64,
    /// The age of the oldest of them, in milliseconds.
    pub oldest_wanted_ms: u64,
    /// Changes that the bucket does not have yet.
    pub owed_to_bucket: u64,
    /// Of each other server that asks: changes that it has not heard of.
    pub unread: BTreeMap<ServerName, u64>,
    /// Deletions that are held until somebody confirms them.
    pub held_deletions: u64,
    /// Losers of conflicts that were kept since the process started.
    pub conflicts_total: u64,
    /// Files that cannot be mirrored.
    pub skipped: u64,
    /// What does not work, in words.
    pub trouble: Vec<String>,
}
