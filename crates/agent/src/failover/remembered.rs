//! What must survive the agent's death: the life of the data directory, the epoch that it follows or leads, and whether
//! an operator paused it. Lost or damaged, it is never guessed: a guess could make a copy that lacks acknowledged writes
//! look like one that has them.

use std::path::{Path, PathBuf};

use pontoon_decide::failover::{Durable, Incarnation};
use pontoon_fleet::{Code, FleetName, Refusal, ServerName};
use pontoon_rt::files;
use serde::{Deserialize, Serialize};

/// Larger than any.
const MAX_BYTES: u64 = 64 << 10;

/// The agent alone reads and writes it.
const MODE: u32 = 0o640;

/// The file, and what stands in it.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    path: PathBuf,
    kept: Kept,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    fleet: FleetName,
    server: ServerName,
    durable: Durable,
    paused: bool,
    /// Which start of the machine it was.
    #[serde(default)]
    boot: String,
}

impl Remembered {
    /// Reads it, or makes it when this server never had one. A new one begins at a life that no other had: if the file
    /// was removed by hand, the store's record means another life, and nothing is promoted on it.
    ///
    /// `boot` names this start of the machine. After another one, what a replica had received and not applied may be gone:
    /// a relay log is written before it is acknowledged, and not flushed. So it begins a new life. A leader, which flushes
    /// each commit and had applied all that it had received, keeps its own.
    ///
    /// # Errors
    /// [`Code::F001`] when it is damaged or another server's, [`Code::N006`] when it cannot be read or written.
    pub(crate) fn open(
        path: &Path,
        fleet: &FleetName,
        server: &ServerName,
        boot: &str,
    ) -> Result<Remembered, Refusal> {
        let damaged = |why: String| {
            Refusal::new(Code::F001, "what failover must remember cannot be read")
                .because(format!("{}: {why}", path.display()))
                .because("without it nobody can tell which acknowledged writes this server's database has")
                .next("look at it; a copy from a backup is not the same", format!("cat {}", path.display()))
                .next(
                    "if this server's database may be copied anew, move the file away; it then rejoins as a new one",
                    format!("mv {0} {0}.damaged", path.display()),
                )
        };
        if let Some(bytes) = files::read_limited(path, MAX_BYTES)? {
            let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
            if kept.version != 1 || kept.fleet != *fleet || kept.server != *server {
                return Err(damaged(format!(
                    "it is of {} in the fleet {}, version {}",
                    kept.server, kept.fleet, kept.version
                )));
            }
            let mut remembered = Remembered {
                path: path.to_owned(),
                kept,
            };
            remembered.begin(boot)?;
            return Ok(remembered);
        }
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random)
            .map_err(|_| Refusal::new(Code::N006, "the system gives no random numbers"))?;
        let remembered = Remembered {
            path: path.to_owned(),
            kept: Kept {
                version: 1,
                fleet: fleet.clone(),
                server: server.clone(),
                durable: Durable {
                    // Room to count up, and exact in every JSON reader.
                    incarnation: Incarnation(u64::from_le_bytes(random) >> 12),
                    ..Durable::default()
                },
                paused: false,
                boot: boot.to_owned(),
            },
        };
        remembered.write(&remembered.kept)?;
        Ok(remembered)
    }

    fn begin(&mut self, boot: &str) -> Result<(), Refusal> {
        let same = self.kept.boot == boot && !boot.is_empty();
        let durable = match self.kept.durable {
            replica if replica.drained.is_none() && !same => Durable {
                incarnation: replica.incarnation.next(),
                follows: None,
                through: false,
                drained: None,
            },
            durable => durable,
        };
        self.replace(Kept {
            durable,
            boot: boot.to_owned(),
            ..self.kept.clone()
        })
    }

    /// What the protocol remembers.
    pub(crate) fn durable(&self) -> Durable {
        self.kept.durable
    }

    /// Whether an operator paused it.
    pub(crate) fn is_paused(&self) -> bool {
        self.kept.paused
    }

    /// Durable when it returns.
    ///
    /// # Errors
    /// [`Code::N006`]; what stood there may be either.
    pub(crate) fn keep(&mut self, durable: Durable) -> Result<(), Refusal> {
        self.replace(Kept {
            durable,
            ..self.kept.clone()
        })
    }

    /// Durable when it returns.
    ///
    /// # Errors
    /// As [`keep`](Remembered::keep).
    pub(crate) fn keep_paused(&mut self, paused: bool) -> Result<(), Refusal> {
        self.replace(Kept {
            paused,
            ..self.kept.clone()
        })
    }

    fn replace(&mut self, kept: Kept) -> Result<(), Refusal> {
        if kept != self.kept {
            self.write(&kept)?;
            self.kept = kept;
        }
        Ok(())
    }

    fn write(&self, kept: &Kept) -> Result<(), Refusal> {
        let bytes = serde_json::to_vec_pretty(kept)
            .map_err(|error| Refusal::new(Code::N007, "this has no JSON form").because(error.to_string()))?;
        Ok(files::write_atomic(&self.path, &bytes, MODE)?)
    }
}

#[cfg(test)]
mod tests {
    use pontoon_fleet::Epoch;

    use super::*;

    fn open(path: &Path, server: &str) -> Result<Remembered, Refusal> {
        open_after(path, server, "one")
    }

    fn open_after(path: &Path, server: &str, boot: &str) -> Result<Remembered, Refusal> {
        Remembered::open(path, &"notes".parse().unwrap(), &server.parse().unwrap(), boot)
    }

    #[test]
    fn after_another_start_of_the_machine_a_replica_lives_anew_and_a_leader_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("failover.json");
        let mut remembered = open(&path, "a").unwrap();
        let follows = Durable {
            follows: Some(Epoch(4)),
            ..remembered.durable()
        };
        remembered.keep(follows).unwrap();
        let after = open_after(&path, "a", "two").unwrap().durable();
        assert_eq!(after.incarnation, follows.incarnation.next());
        assert_eq!(after.follows, None);
        assert_eq!(
            open_after(&path, "a", "two").unwrap().durable(),
            after,
            "once a start"
        );
        // Who cannot tell whether the machine was started again must take it that it was.
        let unknown = open_after(&path, "a", "").unwrap().durable();
        assert_eq!(unknown.incarnation, after.incarnation.next());

        let mut remembered = open_after(&path, "a", "two").unwrap();
        let leads = Durable {
            drained: Some(Epoch(5)),
            ..remembered.durable()
        };
        remembered.keep(leads).unwrap();
        assert_eq!(open_after(&path, "a", "three").unwrap().durable(), leads);
    }

    #[test]
    fn what_was_kept_is_there_again_and_new_servers_begin_at_lives_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one.json"), dir.path().join("two.json"));
        let mut first = open(&one, "a").unwrap();
        assert_ne!(
            first.durable().incarnation,
            open(&two, "a").unwrap().durable().incarnation
        );
        assert_eq!(
            open(&one, "a").unwrap().durable(),
            first.durable(),
            "not a new one at each start"
        );
        let durable = Durable {
            incarnation: first.durable().incarnation.next(),
            follows: Some(Epoch(4)),
            through: true,
            drained: None,
        };
        first.keep(durable).unwrap();
        first.keep_paused(true).unwrap();
        let again = open(&one, "a").unwrap();
        assert_eq!((again.durable(), again.is_paused()), (durable, true));
    }

    #[test]
    fn damaged_torn_and_foreign_files_are_refused_and_left_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("failover.json");
        open(&path, "a").unwrap();
        let whole = std::fs::read(&path).unwrap();
        for bad in [&b""[..], b"{}", b"null", &whole[..whole.len() / 2], b"\xff\xff"] {
            std::fs::write(&path, bad).unwrap();
            let refusal = open(&path, "a").unwrap_err();
            assert_eq!(refusal.code, Code::F001);
            assert_eq!(std::fs::read(&path).unwrap(), bad);
        }
        std::fs::write(&path, &whole).unwrap();
        let refusal = open(&path, "b").unwrap_err();
        assert!(
            refusal.to_string().contains('a') || !refusal.evidence.is_empty(),
            "{refusal}"
        );
        assert_eq!(refusal.code, Code::F001);
    }

    #[test]
    fn what_could_not_be_written_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone/failover.json");
        std::fs::create_dir(dir.path().join("gone")).unwrap();
        let mut remembered = open(&path, "a").unwrap();
        let before = remembered.durable();
        std::fs::remove_dir_all(dir.path().join("gone")).unwrap();
        let durable = Durable {
            drained: Some(Epoch(2)),
            ..before
        };
        assert_eq!(remembered.keep(durable).unwrap_err().code, Code::N006);
        assert_eq!(remembered.durable(), before);
    }
}
