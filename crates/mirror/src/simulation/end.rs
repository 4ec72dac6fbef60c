//! How every schedule ends: everything runs again, and then all must be the same and nothing lost.

use super::server::{Bytes, GRACE_MS, Path, Server, content};
use super::world::{Checked, MOST_PATHS, World};

impl World {
    /// Everything runs, and people have answered what they were asked.
    pub(super) fn heal(&mut self) -> Checked {
        self.cut.clear();
        self.bucket_up = true;
        for at in 0..self.servers.len() {
            if !self.servers[at].up {
                self.start(at);
            }
            self.servers[at].mounted = true;
            self.servers[at].rescan = true;
        }
        for round in 0..400 {
            self.now_ms += GRACE_MS;
            for at in 0..self.servers.len() {
                self.servers[at].scan();
                for _ in 0..2 * MOST_PATHS {
                    let made = self.servers[at].observe(self.now_ms)?;
                    self.made(at, made.into_iter().collect());
                }
                if self.servers[at].journal.braked {
                    self.servers[at].journal.braked = false;
                    self.servers[at].brake.confirmed();
                    self.tombstones.clear();
                    let held = self.servers[at].vanishing.keys().copied().collect();
                    let made = self.servers[at].believe(held, self.now_ms);
                    self.made(at, made);
                }
                self.judge(at)?;
                self.ask(at);
                self.fetch_if_idle(at);
                for _ in 0..5 {
                    if self.servers[at].placing.is_some() {
                        self.place(at)?;
                    }
                }
                self.bucket_step(at);
            }
            for _ in 0..6 {
                self.deliver()?;
            }
            if round % 8 == 7 && self.check().is_ok() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn fetch_if_idle(&mut self, at: usize) {
        if self.servers[at].placing.is_none() {
            self.fetch(at);
        }
    }

    pub(super) fn check(&self) -> Checked {
        let shown = |server: &Server| -> Vec<(Path, Bytes)> {
            server
                .disk
                .iter()
                .map(|(path, file)| (*path, file.bytes))
                .collect()
        };
        let first = &self.servers[0];
        for server in &self.servers {
            if shown(server) != shown(first) {
                return Err(format!(
                    "{} has {:?}, {} has {:?}",
                    first.name,
                    shown(first),
                    server.name,
                    shown(server)
                ));
            }
            for (path, record) in &server.journal.records {
                let here = server.disk.get(path).map(|file| content(file).sha256);
                let have = record
                    .have
                    .as_ref()
                    .and_then(|have| have.content())
                    .map(|had| had.sha256);
                if record.wanted.is_some() || here != have {
                    return Err(format!(
                        "{}: the journal does not say what is at {path}",
                        server.name
                    ));
                }
            }
        }
        let bucket: Vec<(Path, Bytes)> = self
            .bucket
            .iter()
            .map(|(path, (_, bytes))| (*path, *bytes))
            .collect();
        if bucket != shown(first) {
            return Err(format!(
                "the bucket has {bucket:?}, the servers {:?}",
                shown(first)
            ));
        }
        for bytes in 1..=self.next {
            let kept = self.servers.iter().any(|server| {
                server.trash.contains(&bytes)
                    || server.conflicts.contains(&bytes)
                    || server.swap.contains(&bytes)
                    || server.disk.values().any(|file| file.bytes == bytes)
            });
            if !kept && !self.destroyed.contains(&bytes) {
                return Err(format!("{bytes} is nowhere, and no application destroyed it"));
            }
        }
        for (path, file) in &first.disk {
            if self.stale.contains(&file.bytes) && self.written.contains(path) {
                return Err(format!("an old copy won at {path}"));
            }
        }
        Ok(())
    }
}
