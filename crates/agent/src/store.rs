//! What an agent keeps on disk below its state directory. Every write is atomic and synced before it is answered for:
//! an agent that is killed at any point finds either the old or the new.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_fleet::{
    Code, DrainBook, Engine, LeaseRecord, MaintenanceMark, PurgeBook, Refusal, Revision, Role, ServerName,
    UnixMillis,
};
use pontoon_helper::Setting;
use pontoon_rt::files;
use pontoon_rt::paths::Paths;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use pontoon_decide::change::Committed;

/// A file of the state directory can be no larger; one that is was not written by an agent.
const LARGEST_FILE_BYTES: u64 = 8 << 20;

/// Plans that are kept for `apply ID`.
const PLANS_KEPT: usize = 50;

/// Texts of earlier configurations that are kept however old they are, and for how long all are.
const TEXTS_KEPT: usize = 100;
const TEXTS_KEPT_FOR: Duration = Duration::from_secs(30 * 86_400);

/// The files of one agent.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    dir: PathBuf,
}

/// A server that was given a certificate and is not in the configuration yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PendingJoiner {
    pub(crate) private: IpAddr,
    pub(crate) public: Vec<IpAddr>,
    /// `None` for all.
    pub(crate) roles: Option<Vec<Role>>,
    /// Its database's engine and version; `None` when it has none.
    pub(crate) database: Option<(Engine, String)>,
    /// The fingerprint of its key: another machine cannot join under its name meanwhile.
    pub(crate) key: String,
    /// When it last said hello, by the clock of the server that admitted it.
    pub(crate) since: UnixMillis,
}

/// A join that is not complete after this long is over: the longest copy is shorter.
const LONGEST_JOIN: Duration = Duration::from_secs(7 * 86_400);

impl PendingJoiner {
    pub(crate) fn roles(&self) -> Vec<Role> {
        self.roles.clone().unwrap_or_else(|| Role::ALL.to_vec())
    }

    /// Whether it may still be joining.
    pub(crate) fn is_current(&self, now: UnixMillis) -> bool {
        now.since(self.since) < LONGEST_JOIN
    }
}

/// How far this server's own join has come. Kept until the join is complete, so that a killed one can be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JoinRecord {
    /// The agent that admitted us.
    pub(crate) address: std::net::SocketAddr,
    /// Its name.
    pub(crate) host: ServerName,
    /// The name that we asked for.
    pub(crate) name: ServerName,
    /// Our private address.
    pub(crate) private: IpAddr,
    /// Whether the database is to be copied.
    pub(crate) needs_database: bool,
    /// Whether it is copied also when the one that is here replicates already.
    #[serde(default)]
    pub(crate) copy: bool,
    /// Whether the database is copied and follows its source.
    pub(crate) database_done: bool,
}

macro_rules! kept {
    ($($(#[$doc:meta])* $load:ident $save:ident $file:literal $mode:literal $type:ty;)*) => {
        impl Store {
            $(
                $(#[$doc])*
                pub(crate) fn $load(&self) -> Result<Option<$type>, Refusal> {
                    self.load($file)
                }

                pub(crate) fn $save(&self, value: &$type) -> Result<(), Refusal> {
                    self.save($file, $mode, value)
                }
            )*
        }
    };
}

kept! {
    /// The cache servers, as the keeper said last.
    cache_list save_cache_list "cache-list.json" 0o640 pontoon_fleet::CacheList;
    /// The active configuration.
    active save_active "active.json" 0o640 Committed;
    /// The server that decides changes of the configuration.
    keeper save_keeper "keeper.json" 0o640 ServerName;
    /// The revision that was carried out last.
    settled save_settled "settled.json" 0o640 Revision;
    /// Who is drained.
    drains save_drains "drains.json" 0o640 DrainBook;
    /// Whether visitors get the maintenance page.
    maintenance save_maintenance "maintenance.json" 0o640 MaintenanceMark;
    /// What edges were told to forget.
    purges save_purges "purges.json" 0o640 PurgeBook;
    /// The lease as last heard of, so that an agent that starts alone does not forget who is primary.
    known_lease save_known_lease "known-lease.json" 0o640 LeaseRecord;
    /// Settings of the source that this replica must share.
    inherited save_inherited "inherited.json" 0o640 Vec<Setting>;
    /// When this server's database was last copied anew without an operator.
    reclone save_reclone "reclone.json" 0o640 pontoon_fleet::UnixMillis;
    /// Servers that are joining through this one.
    joiners save_joiners "joiners.json" 0o640 BTreeMap<ServerName, PendingJoiner>;
    /// The join tokens that this server issued.
    tokens save_tokens "tokens.json" 0o600 pontoon_pki::TokenBook;
    /// This server's own join.
    join save_join "join.json" 0o640 JoinRecord;
}

impl Store {
    pub(crate) fn new(paths: &Paths) -> Store {
        Store {
            dir: paths.state_dir.clone(),
        }
    }

    /// Forgets this server's own join, once it is complete.
    pub(crate) fn join_is_complete(&self) -> Result<(), Refusal> {
        files::remove_optional(&self.dir.join("join.json"))
            .map_err(|error| unusable(&self.dir.join("join.json"), &error))
    }

    /// Sets aside everything that made this server a member, under names that end in `suffix`.
    pub(crate) fn set_aside(&self, suffix: &str) -> Result<Vec<(PathBuf, PathBuf)>, Refusal> {
        let names = [
            "active.json",
            "revisions",
            "keeper.json",
            "settled.json",
            "drains.json",
            "maintenance.json",
            "purges.json",
            "known-lease.json",
            "floor.key",
            "dnssec.key",
            "acme.json",
            "tls",
            "inherited.json",
            "database.secret",
            "clone.json",
            "joiners.json",
            "join.json",
            "tokens.json",
            "lease.json",
            "failover.json",
            "identity",
            "view.json",
        ];
        // A second leave within the same second must not overwrite what the first one kept.
        let is_taken = |suffix: &str| {
            let taken = |name| std::fs::symlink_metadata(self.dir.join(format!("{name}.{suffix}"))).is_ok();
            names.into_iter().any(taken)
        };
        let mut free = suffix.to_owned();
        let mut number = 2;
        while is_taken(&free) {
            free = format!("{suffix}-{number}");
            number += 1;
        }
        let mut moved = Vec::new();
        for name in names {
            let from = self.dir.join(name);
            let to = self.dir.join(format!("{name}.{free}"));
            match std::fs::rename(&from, &to) {
                Ok(()) => moved.push((from, to)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(unusable(&from, &error)),
            }
        }
        Ok(moved)
    }

    /// Keeps the text of a revision that was activated, so that a `fleet.toml` that says so is known to be old.
    pub(crate) fn keep_text(&self, revision: Revision, text: &str) -> Result<(), Refusal> {
        let path = self.text_file(revision);
        if let Some(dir) = path.parent() {
            files::create_dir(dir, 0o750).map_err(|error| unusable(dir, &error))?;
        }
        files::write_atomic(&path, text.as_bytes(), 0o640).map_err(|error| unusable(&path, &error))?;
        self.forget_old_texts(&path);
        Ok(())
    }

    /// Removes the texts that are neither among the latest [`TEXTS_KEPT`] nor written within [`TEXTS_KEPT_FOR`] before
    /// `latest`, which is there to stay. Best effort: a text too many does no harm.
    fn forget_old_texts(&self, latest: &Path) {
        let written = |path: &Path| std::fs::metadata(path)?.modified();
        let Ok(now) = written(latest) else { return };
        let entries = std::fs::read_dir(self.dir.join("revisions"));
        let mut texts: Vec<(u64, PathBuf)> = entries
            .into_iter()
            .flatten()
            .flatten()
            // What is not called as a revision is not ours to remove.
            .filter_map(|entry| {
                let name = entry.file_name();
                Some((name.to_str()?.strip_suffix(".toml")?.parse().ok()?, entry.path()))
            })
            .collect();
        texts.sort();
        for (_, old) in texts.iter().rev().skip(TEXTS_KEPT) {
            // A time in the future is that of a clock that was wrong: it is young.
            let age = written(old).ok().and_then(|then| now.duration_since(then).ok());
            if old != latest
                && age.is_some_and(|age| age > TEXTS_KEPT_FOR)
                && let Err(error) = files::remove_optional(old)
            {
                tracing::warn!(%error, "an old configuration's text stays");
            }
        }
    }

    pub(crate) fn text_file(&self, revision: Revision) -> PathBuf {
        self.dir.join(format!("revisions/{}.toml", revision.0))
    }

    /// The texts that were active here at some time.
    pub(crate) fn earlier_texts(&self) -> Vec<Vec<u8>> {
        let entries = std::fs::read_dir(self.dir.join("revisions"));
        entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| files::read_limited(&entry.path(), LARGEST_FILE_BYTES).ok()?)
            .collect()
    }

    /// A plan that was made; `None` when there is none of that id.
    pub(crate) fn plan(&self, id: &str) -> Result<Option<serde_json::Value>, Refusal> {
        // The id becomes a file's name: nothing but what ids are made of.
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Ok(None);
        }
        self.load(&format!("plans/{id}.json"))
    }

    pub(crate) fn save_plan(&self, id: &str, plan: &serde_json::Value) -> Result<(), Refusal> {
        let dir = self.dir.join("plans");
        files::create_dir(&dir, 0o750).map_err(|error| unusable(&dir, &error))?;
        self.save(&format!("plans/{id}.json"), 0o640, plan)?;
        self.forget_old_plans(&dir);
        Ok(())
    }

    /// Keeps the latest plans. Best effort: a plan too many does no harm.
    fn forget_old_plans(&self, dir: &Path) {
        let mut plans: Vec<_> = std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        plans.sort();
        for (_, old) in plans.iter().rev().skip(PLANS_KEPT) {
            if let Err(error) = files::remove_optional(old) {
                tracing::warn!(%error, "an old plan stays");
            }
        }
    }

    fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let path = self.dir.join(name);
        let Some(bytes) =
            files::read_limited(&path, LARGEST_FILE_BYTES).map_err(|error| unusable(&path, &error))?
        else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| unusable(&path, &error))
    }

    fn save<T: Serialize>(&self, name: &str, mode: u32, value: &T) -> Result<(), Refusal> {
        let path = self.dir.join(name);
        let bytes = serde_json::to_vec_pretty(value).map_err(|error| unusable(&path, &error))?;
        files::write_atomic(&path, &bytes, mode).map_err(|error| unusable(&path, &error))
    }
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Code::N006, format!("cannot use {}", path.display())).because(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store {
            dir: dir.path().to_owned(),
        };
        (dir, store)
    }

    #[test]
    fn what_was_saved_is_loaded_and_what_was_not_is_absent() {
        let (_dir, store) = store();
        assert_eq!(store.known_lease().unwrap(), None);
        let lease = LeaseRecord {
            epoch: pontoon_fleet::Epoch(3),
            leader: "a".parse().unwrap(),
        };
        store.save_known_lease(&lease).unwrap();
        assert_eq!(store.known_lease().unwrap(), Some(lease));
    }

    #[test]
    fn a_torn_or_foreign_file_is_refused_with_its_path() {
        let (dir, store) = store();
        std::fs::write(dir.path().join("active.json"), b"{\"revision\": 3, \"te").unwrap();
        let refusal = store.active().unwrap_err();
        assert_eq!(refusal.code, Code::N006);
        assert!(refusal.what.contains("active.json"));
    }

    #[test]
    fn the_latest_plans_are_kept_and_their_names_lead_nowhere_else() {
        let (dir, store) = store();
        for number in 0..PLANS_KEPT + 20 {
            store
                .save_plan(&format!("p{number}"), &serde_json::json!(number))
                .unwrap();
        }
        let last = format!("p{}", PLANS_KEPT + 19);
        assert!(store.plan(&last).unwrap().is_some());
        assert_eq!(
            std::fs::read_dir(dir.path().join("plans")).unwrap().count(),
            PLANS_KEPT
        );
        std::fs::write(dir.path().join("tokens.json"), "{}").unwrap();
        for bad in ["../tokens", "", ".", "a/b", "a\0"] {
            assert_eq!(store.plan(bad).unwrap(), None, "{bad:?}");
        }
    }

    #[test]
    fn texts_of_earlier_configurations_are_kept_for_a_month_and_the_latest_for_ever() {
        let (dir, store) = store();
        let revisions = dir.path().join("revisions");
        let months_old = std::time::SystemTime::now() - 3 * TEXTS_KEPT_FOR;
        let there = |revision: u64| store.text_file(Revision(revision)).exists();
        let age = |revision: u64| {
            let file = std::fs::File::options()
                .write(true)
                .open(store.text_file(Revision(revision)));
            file.unwrap().set_modified(months_old).unwrap();
        };
        store.keep_text(Revision(1), "one").unwrap();
        for name in ["notes.toml", "7.toml.bak"] {
            std::fs::write(revisions.join(name), "an operator's").unwrap();
        }
        // Young ones stay, however many there are.
        let latest = TEXTS_KEPT as u64 + 20;
        for revision in 2..=latest {
            store
                .keep_text(Revision(revision), &revision.to_string())
                .unwrap();
        }
        assert!((1..=latest).all(there));
        // Of old ones the latest stay, by number and not as names are sorted.
        (1..=latest).filter(|revision| *revision != 5).for_each(age);
        store.keep_text(Revision(latest + 1), "now").unwrap();
        let gone: Vec<u64> = (1..=latest + 1).filter(|revision| !there(*revision)).collect();
        let old: Vec<u64> = (1..=21).filter(|revision| *revision != 5).collect();
        assert_eq!(gone, old);
        assert_eq!(
            store.earlier_texts().len(),
            TEXTS_KEPT + 1 + 2,
            "and what is not ours"
        );
        // An older revision comes again: what was just written is not removed.
        age(latest + 1);
        store.keep_text(Revision(3), "three").unwrap();
        assert!(there(3));
    }

    #[test]
    fn setting_aside_renames_and_deletes_nothing() {
        let (dir, store) = store();
        std::fs::write(dir.path().join("active.json"), b"{}").unwrap();
        std::fs::create_dir(dir.path().join("identity")).unwrap();
        let moved = store.set_aside("left-1").unwrap();
        assert_eq!(moved.len(), 2);
        assert!(dir.path().join("identity.left-1").is_dir());
        assert!(dir.path().join("active.json.left-1").is_file());
    }

    #[test]
    fn what_was_set_aside_in_the_same_second_is_not_overwritten() {
        let (dir, store) = store();
        for text in ["one", "two"] {
            std::fs::write(dir.path().join("active.json"), text).unwrap();
            std::fs::create_dir_all(dir.path().join("revisions")).unwrap();
            std::fs::write(dir.path().join("revisions/1.toml"), text).unwrap();
            assert_eq!(store.set_aside("left-1").unwrap().len(), 2);
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("active.json.left-1"), "one");
        assert_eq!(read("active.json.left-1-2"), "two");
        assert_eq!(read("revisions.left-1-2/1.toml"), "two");
    }
}
