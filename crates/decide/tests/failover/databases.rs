//! What the databases of the world do.

use pontoon_decide::failover::{Acks, Members, Outcome, Work};
use pontoon_fleet::{Epoch, ServerName};

use super::{Db, Server, Slip, World};

impl World {
    /// What that replica would receive next; an error when its copy and its source's have parted.
    pub(super) fn next_for(&self, at: usize) -> Option<Result<u16, String>> {
        let db = &self.servers[at].db;
        let (source, epoch) = db.source.filter(|_| db.up && db.receiving)?;
        // A leader that was replaced and cut its tail off serves its old replicas an error, and so does a replica whose own
        // source is another by now.
        let disk = &self.servers[source].disk;
        let leads = disk.drained == Some(epoch) || disk.follows == Some(epoch);
        let leader = &self.servers[source].db;
        let mut held = db.log.iter().chain(&db.relay);
        let parted = leader
            .log
            .iter()
            .zip(held.clone())
            .any(|(theirs, mine)| theirs != mine);
        let ahead = held.by_ref().count();
        let next = leader.log.get(ahead).copied().filter(|_| leader.up)?;
        Some(if parted && !leads {
            return None;
        } else if parted {
            Err(format!("{at} parted from its source {source}"))
        } else {
            Ok(next)
        })
    }

    /// Acknowledges what may be.
    pub(super) fn acknowledge(&mut self, at: usize) -> Result<(), String> {
        let db = &self.servers[at].db;
        let Some(epoch) = db.open else { return Ok(()) };
        let upto = match &db.acks {
            Acks::Alone => db.log.len(),
            Acks::Of { members, needed } => {
                let mut held: Vec<usize> = db
                    .confirmed
                    .iter()
                    .filter(|(who, _)| {
                        members.contains(&self.servers[**who].setup.me)
                            || self.slip == Some(Slip::AnyAcknowledges)
                    })
                    .map(|(_, held)| *held)
                    .collect();
                held.sort_unstable_by(|a, b| b.cmp(a));
                held.get(usize::from(*needed).saturating_sub(1))
                    .copied()
                    .unwrap_or(0)
            }
        };
        let upto = upto.min(db.log.len());
        if self.is_given_up(epoch) {
            // Whoever promoted another has accepted to lose it.
            self.seen.two_writers += 1;
            let db = &mut self.servers[at].db;
            db.committed = db.committed.max(upto);
            return Ok(());
        }
        let mut new = 0;
        for number in db.log[..upto].iter().copied() {
            new += u64::from(!std::mem::replace(&mut self.acked[usize::from(number)], true));
        }
        let db = &mut self.servers[at].db;
        db.committed = db.committed.max(upto);
        self.seen.acked += new;
        if new > 0 && epoch < self.top {
            self.seen.two_writers += 1;
            if self.strict {
                return Err(format!(
                    "P2: {at} acknowledged a write of epoch {epoch}, and epoch {} is open",
                    self.top
                ));
            }
        }
        Ok(())
    }

    /// How the work under way could end now.
    pub(super) fn outcome(&self, at: usize) -> Option<Outcome> {
        let server = &self.servers[at];
        let job = server.job.as_ref().filter(|job| job.done.is_none())?;
        let held = |of: &Db| of.log.iter().chain(&of.relay).copied().collect::<Vec<u16>>();
        let leads = |name: &ServerName, epoch: &Epoch| {
            let leader = &self.servers[self.index(name)];
            (leader.db.up && leader.disk.drained == Some(*epoch)).then_some(&leader.db)
        };
        match &job.work {
            Work::Recover => (!server.db.up).then_some(Outcome::Done),
            _ if server.untold => None,
            Work::Acknowledge(_) | Work::Open(_) => server.db.up.then_some(Outcome::Done),
            Work::Gather(_) => server.db.up.then_some(Outcome::Done),
            Work::Resume => (server.db.up && server.db.source.is_some()).then_some(Outcome::Done),
            Work::Close(_) => {
                let waits = server
                    .db
                    .log
                    .iter()
                    .any(|number| !self.acked[usize::from(*number)]);
                (server.db.up && !waits).then_some(Outcome::Done)
            }
            Work::CaughtUp(members) => self.caught_up(at, members).then_some(Outcome::Done),
            Work::Drain(_) | Work::Halt => server.db.up.then(|| Outcome::At(held(&server.db).len() as u64)),
            Work::Rejoin(name, epoch) if !server.db.up => leads(name, epoch).map(|leader| {
                let common = common(&server.db.log, &leader.log);
                if common < server.db.committed {
                    Outcome::Diverged
                } else {
                    Outcome::Done
                }
            }),
            Work::Follow(name, epoch) if server.db.up => leads(name, epoch).map(|leader| {
                if leader.log.starts_with(&server.db.log) {
                    Outcome::Done
                } else {
                    Outcome::Diverged
                }
            }),
            Work::Copy(name, epoch) => leads(name, epoch).map(|_| Outcome::Done),
            Work::Through(name, epoch) if server.db.up => {
                let source = &self.servers[self.index(name)];
                let follows = source.db.up && source.disk.follows == Some(*epoch);
                (follows && source.db.log.starts_with(&held(&server.db))).then_some(Outcome::Done)
            }
            Work::Rejoin(..) | Work::Follow(..) | Work::Through(..) => None,
        }
    }

    fn caught_up(&self, at: usize, members: &Members) -> bool {
        let leader = &self.servers[at].db;
        leader.up
            && members.iter().all(|(name, life)| {
                let replica = &self.servers[self.index(name)];
                let held: Vec<u16> = replica.db.log.iter().chain(&replica.db.relay).copied().collect();
                replica.disk.incarnation == *life
                    && replica.db.up
                    && replica.db.receiving
                    // Nothing in a position says by which way it came.
                    && replica.db.source.is_some()
                    && self.root(self.index(name)).is_none_or(|root| root == at)
                    && held.starts_with(&leader.log)
            })
    }

    pub(super) fn do_job(&mut self, at: usize) -> Result<(), String> {
        let outcome = self.outcome(at).unwrap();
        let job = self.servers[at].job.as_mut().unwrap();
        let work = job.work.clone();
        job.done = Some(outcome);
        if outcome == Outcome::Diverged && self.slip != Some(Slip::NoCut) {
            return Ok(());
        }
        let survives = self.servers[at].setup.relay_survives;
        match work {
            Work::Recover => {
                let db = &mut self.servers[at].db;
                db.up = true;
                db.committed = db.log.len();
                if !survives {
                    db.relay.clear();
                }
            }
            Work::Acknowledge(acks) => {
                let db = &mut self.servers[at].db;
                if db.acks != acks {
                    db.confirmed.clear();
                    db.acks = acks;
                }
                self.acknowledge(at)?;
            }
            Work::CaughtUp(_) => {}
            Work::Open(epoch) => return self.open(at, epoch),
            Work::Close(_) => self.servers[at].db.open = None,
            Work::Drain(_) => {
                let db = &mut self.servers[at].db;
                if self.slip != Some(Slip::DrainBeforeHalt) {
                    db.receiving = false;
                }
                let relay = std::mem::take(&mut db.relay);
                db.log.extend(relay);
                db.committed = db.log.len();
                if !db.receiving {
                    db.source = None;
                }
            }
            // What could be had would hide a slip; it may as well not be had.
            Work::Gather(_) if self.slip.is_some() => {}
            Work::Gather(_) => {
                let own = &self.servers[at].db.log;
                let further =
                    |other: &&Server| other.db.up && other.db.open.is_none() && other.db.log.starts_with(own);
                let most = self.servers.iter().filter(further).map(|other| &other.db.log);
                let log = most.max_by_key(|log| log.len()).cloned().unwrap_or_default();
                let db = &mut self.servers[at].db;
                if log.len() > db.log.len() {
                    self.seen.gathered += 1;
                    db.log = log;
                    db.committed = db.log.len();
                }
            }
            Work::Halt => self.servers[at].db.receiving = self.slip == Some(Slip::PositionBeforeHalt),
            Work::Resume => self.servers[at].db.receiving = true,
            Work::Rejoin(name, epoch)
            | Work::Follow(name, epoch)
            | Work::Through(name, epoch)
            | Work::Copy(name, epoch) => {
                let through = matches!(self.servers[at].job.as_ref().unwrap().work, Work::Through(..));
                self.seen.through += u64::from(through);
                let source = self.index(&name);
                let theirs = self.servers[source].db.log.clone();
                let cut = matches!(self.servers[at].job.as_ref().unwrap().work, Work::Rejoin(..));
                let copy = matches!(self.servers[at].job.as_ref().unwrap().work, Work::Copy(..));
                let db = &mut self.servers[at].db;
                if copy {
                    db.log = theirs.clone();
                    self.seen.copied += 1;
                } else if cut && self.slip != Some(Slip::NoCut) {
                    db.log.truncate(common(&db.log, &theirs));
                    self.seen.rejoined += 1;
                }
                db.relay.clear();
                db.committed = db.log.len();
                (db.up, db.open, db.receiving) = (true, None, true);
                db.source = Some((source, epoch));
                if !theirs.starts_with(&db.log) {
                    return Err(format!(
                        "{at} follows {source} and has transactions that it lacks"
                    ));
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, at: usize, epoch: Epoch) -> Result<(), String> {
        self.seen.opened += 1;
        let log = self.servers[at].db.log.clone();
        let missing =
            (0..self.acked.len()).find(|number| self.acked[*number] && !log.contains(&(*number as u16)));
        self.servers[at].db.open = Some(epoch);
        if self.is_given_up(epoch) {
            return self.acknowledge(at);
        }
        if epoch < self.top && self.strict {
            // Late, and harmless: it gets no acknowledgement and will be killed. But it may show nothing that the newer
            // leader does not have.
            let shown = log.iter().find(|number| !self.acked[usize::from(**number)]);
            return match shown {
                Some(number) => Err(format!(
                    "P3: {at} shows write {number} of epoch {epoch}, which epoch {} lacks",
                    self.top
                )),
                None => self.acknowledge(at),
            };
        }
        // A leader by an operator's word may have made others cut off what it lacks, and been followed before it opened.
        let forced =
            |from: Epoch, to: Epoch| self.forced.iter().any(|forced| from < *forced && *forced <= to);
        let accepted = forced(self.top, epoch);
        let by_another = forced(self.top, Epoch(epoch.0.saturating_sub(1)));
        self.top = self.top.max(epoch);
        if let Some(number) = missing {
            self.seen.lost += 1;
            let beat = self.book.beats.get(&at).copied().unwrap_or_default();
            if self.book.written[number] < beat && !by_another {
                return Err(format!(
                    "bounded loss: {at} opened in epoch {epoch} without write {number}, which is older than its last beat"
                ));
            }
            if self.strict && !accepted {
                return Err(format!(
                    "P1: {at} opened in epoch {epoch} without the acknowledged write {number}"
                ));
            }
            for number in 0..self.acked.len() {
                self.acked[number] &= log.contains(&(number as u16));
            }
        }
        // Readers see what is there: from now on it counts as acknowledged.
        for number in log {
            self.acked[usize::from(number)] = true;
        }
        self.acknowledge(at)
    }
}

fn common(mine: &[u16], theirs: &[u16]) -> usize {
    mine.iter()
        .zip(theirs)
        .take_while(|(mine, theirs)| mine == theirs)
        .count()
}
