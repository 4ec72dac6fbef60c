//! What readers must see, and how far each replica is: the decisions of this folder. Pure: the time is an argument,
//! counted from any fixed moment.
//!
//! The *node floor* is what every reader through this process must see. It is known in *generations*: whatever raises
//! it, or makes it unknown, begins a new one, and a replica serves readers of the generations that it has reached.
//! Reads only compare numbers.

use std::collections::VecDeque;
use std::time::Duration;

use pontoon_fleet::{Epoch, ServerName};
use pontoon_gtid::{Dialect, Floor, Position};

/// Time since a fixed moment.
pub type Moment = Duration;

/// Generations remembered one by one. Beyond, two become one: who has reached the later has reached both.
const MAX_MARKS: usize = 256;
/// Positions of the primary remembered.
const MAX_SAMPLES: usize = 64;
/// A node floor of more parts is asked for anew, so that it becomes one interval.
const MAX_PARTS: usize = 64;
/// How long after an answer a replica counts as alive.
pub const PATIENCE: Duration = Duration::from_millis(2_000);

/// See the module.
#[derive(Debug)]
pub struct Board {
    epoch: Epoch,
    dialect: Dialect,
    /// A replica that cannot be shown to be less far behind is not read from.
    bound: Duration,
    /// Every answer of the primary raises the floor: readers see all that was acknowledged to anybody.
    fleet_wide: bool,
    node: Position,
    /// When it was raised last.
    raised: Moment,
    generation: u64,
    marks: VecDeque<Mark>,
    /// Questions to the primary: how many were asked for, up to which one the answer is in, and the one without
    /// which the node floor is unknown.
    asked: u64,
    answered: u64,
    doubted: u64,
    samples: VecDeque<Sample>,
    replicas: Vec<Watermark>,
}

/// The node floor of a generation.
#[derive(Debug)]
struct Mark {
    generation: u64,
    position: Position,
    since: Moment,
}

/// Where the primary was.
#[derive(Debug)]
struct Sample {
    position: Position,
    /// When this was asked for first and last, with the same answer.
    first: Moment,
    last: Moment,
}

/// How far a replica is.
#[derive(Debug)]
pub struct Watermark {
    /// Whose.
    pub server: ServerName,
    /// What it has applied; `None` while it does not answer.
    position: Option<Position>,
    answered: Moment,
    /// The latest generation that it has reached.
    pub reached: u64,
    /// Everything that was acknowledged before then is in it.
    fresh: Option<Moment>,
    /// How long it took lately to reach what was written.
    pub lag: Duration,
}

impl Board {
    /// Of a proxy that knows nothing yet: what was written through the one before it must be asked for.
    pub fn new(epoch: Epoch, dialect: Dialect, bound: Duration, fleet_wide: bool) -> Board {
        let mut board = Board {
            epoch,
            dialect,
            bound,
            fleet_wide,
            node: Position::empty(dialect),
            raised: Duration::ZERO,
            generation: 0,
            marks: VecDeque::new(),
            asked: 0,
            answered: 0,
            doubted: 0,
            samples: VecDeque::new(),
            replicas: Vec::new(),
        };
        board.doubt();
        board
    }

    /// The epoch that it is about.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How the databases write positions.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What a reader that comes now must have reached.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The replicas and how far they are.
    pub fn replicas(&self) -> &[Watermark] {
        &self.replicas
    }

    /// Another epoch, or other settings. What was written in an older epoch is in the first position of the new
    /// primary, or lost: floors of old are forgotten, and until that position is known nobody reads from replicas.
    pub fn begin(&mut self, epoch: Epoch, dialect: Dialect, bound: Duration, fleet_wide: bool) {
        (self.bound, self.fleet_wide) = (bound, fleet_wide);
        self.renew(epoch, dialect);
    }

    /// Whether every answer of the primary raises the floor.
    pub fn set_fleet_wide(&mut self, fleet_wide: bool) {
        self.fleet_wide = fleet_wide;
    }

    /// As [`Board::begin`], with the settings that there are.
    pub fn renew(&mut self, epoch: Epoch, dialect: Dialect) {
        if epoch == self.epoch && dialect == self.dialect {
            return;
        }
        (self.epoch, self.dialect) = (epoch, dialect);
        self.node = Position::empty(dialect);
        self.marks.clear();
        self.samples.clear();
        for replica in &mut self.replicas {
            replica.forget();
        }
        self.doubt();
    }

    /// The replicas that there are.
    pub fn set_replicas(&mut self, servers: &[ServerName]) {
        self.replicas.retain(|replica| servers.contains(&replica.server));
        for server in servers {
            if !self.replicas.iter().any(|replica| &replica.server == server) {
                self.replicas.push(Watermark::of(server.clone()));
            }
        }
    }

    /// Whether the node floor is known.
    pub fn is_known(&self) -> bool {
        self.answered >= self.doubted
    }

    /// The node floor, when it is known.
    pub fn node_floor(&self) -> Option<Floor> {
        self.is_known().then(|| Floor {
            epoch: self.epoch,
            position: self.node.clone(),
        })
    }

    /// A write was acknowledged with `position`: readers must see it.
    pub fn raise(&mut self, position: &Position, now: Moment) {
        if self.is_known() && self.node.reaches(position) {
            return;
        }
        self.node.merge(position);
        self.raised = self.raised.max(now);
        self.generation += 1;
        if !self.is_known() {
            // Its generation is marked when the answer is in.
            return;
        }
        let least = self.samples.back().map_or(0, |sample| sample.position.parts());
        if self.node.parts() > MAX_PARTS + least {
            self.doubt();
            return;
        }
        self.mark(now);
    }

    /// Something may have been written that nobody told the position of.
    pub fn doubt(&mut self) {
        self.doubted = self.ask();
        self.generation += 1;
    }

    /// Asks for the primary's position; the number is answered when [`Board::answered`] has come up to it.
    pub fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// How many questions there are, and up to which the answer is in.
    pub fn questions(&self) -> (u64, u64) {
        (self.asked, self.answered)
    }

    /// Whether question `number` has its answer.
    pub fn answered(&self, number: u64) -> bool {
        self.answered >= number
    }

    /// The primary of `epoch` was asked at `sent`, when there were `covers` questions, and said `position`: all that
    /// was acknowledged before `sent` is in it.
    pub fn sampled(&mut self, epoch: Epoch, covers: u64, position: Position, sent: Moment, now: Moment) {
        if epoch != self.epoch || position.dialect() != self.dialect {
            return;
        }
        if self
            .samples
            .back()
            .is_some_and(|last| !position.reaches(&last.position))
        {
            self.samples.clear();
        }
        if sent > self.raised && !position.reaches(&self.node) {
            // What was acknowledged is not there any more: the primary came back without its last commits. Waiting
            // for them would be waiting for ever.
            self.marks.clear();
            self.node = position.clone();
            self.doubt();
            self.answered = self.asked;
            self.mark(now);
        }
        let was_known = self.is_known();
        self.answered = self.answered.max(covers.min(self.asked));
        if self.is_known() && !was_known {
            match position.reaches(&self.node) {
                // In one piece, and nothing in it that does not exist.
                true => self.node = position.clone(),
                false => self.node.merge(&position),
            }
            self.mark(now);
        } else if self.fleet_wide {
            self.raise(&position, now);
        }
        match self.samples.back_mut() {
            Some(last) if last.position == position => last.last = last.last.max(sent),
            _ => {
                if self.samples.len() >= MAX_SAMPLES {
                    // The oldest but one: the oldest may be the last that a replica has reached.
                    self.samples.remove(1);
                }
                self.samples.push_back(Sample {
                    position,
                    first: sent,
                    last: sent,
                });
            }
        }
        let (marks, samples) = (&self.marks, &self.samples);
        for replica in &mut self.replicas {
            replica.place(marks, samples, now);
        }
        self.tidy();
    }

    /// A floor that another server's proxy gave: true only if the primary says so. Whether it was believed at once; if
    /// not, the primary is asked.
    pub fn heard(&mut self, floor: &Floor, now: Moment) -> bool {
        if floor.epoch < self.epoch {
            return true;
        }
        let reached = |position: &Position| position.reaches(&floor.position);
        if floor.epoch == self.epoch && self.is_known() && reached(&self.node) {
            return true;
        }
        let known = self
            .samples
            .back()
            .is_some_and(|sample| reached(&sample.position));
        if floor.epoch == self.epoch && known {
            self.raise(&floor.position, now);
            return true;
        }
        self.doubt();
        false
    }

    /// A replica has applied `position` in `epoch`.
    pub fn applied(&mut self, server: &ServerName, epoch: Epoch, position: &Position, now: Moment) {
        if epoch != self.epoch || position.dialect() != self.dialect {
            return;
        }
        let Some(replica) = self.replicas.iter_mut().find(|replica| &replica.server == server) else {
            return;
        };
        match &mut replica.position {
            Some(here) => here.merge(position),
            None => replica.position = Some(position.clone()),
        }
        replica.answered = now;
        replica.place(&self.marks, &self.samples, now);
        self.tidy();
    }

    /// The connection to a replica broke. When it comes back it may be another one, or an older copy of itself.
    pub fn lost(&mut self, server: &ServerName) {
        if let Some(replica) = self.replicas.iter_mut().find(|replica| &replica.server == server) {
            replica.forget();
        }
    }

    /// What to wait for at a replica: first what readers wait for, then what shows that it is fresh. `None` while it
    /// has reached all that is known.
    pub fn wanted(&self, server: &ServerName) -> Option<Position> {
        let replica = self.replicas.iter().find(|replica| &replica.server == server)?;
        let here = replica.position.as_ref()?;
        let floors = self.marks.back().map(|mark| &mark.position);
        let samples = self.samples.back().map(|sample| &sample.position);
        let mut wanted = floors.into_iter().chain(samples);
        wanted.find(|position| !here.reaches(position)).cloned()
    }

    /// Until when a replica may be read from, as far as its freshness goes; nothing for never.
    pub fn valid_until(&self, replica: &Watermark) -> Option<Moment> {
        let fresh = replica.fresh? + self.bound;
        replica.position.as_ref()?;
        Some(fresh.min(replica.answered + PATIENCE))
    }

    /// How far behind a replica is: the age of the oldest position of the primary that it has not reached.
    pub fn behind(&self, replica: &Watermark, now: Moment) -> Option<Duration> {
        let here = replica.position.as_ref()?;
        let reached = |sample: &Sample| here.reaches(&sample.position);
        let unreached = self.samples.iter().find(|sample| !reached(sample));
        Some(unreached.map_or(Duration::ZERO, |sample| now.saturating_sub(sample.first)))
    }

    fn mark(&mut self, now: Moment) {
        let mark = Mark {
            generation: self.generation,
            position: self.node.clone(),
            since: now,
        };
        if self.marks.len() >= MAX_MARKS {
            self.marks.pop_back();
        }
        self.marks.push_back(mark);
        let (marks, samples) = (&self.marks, &self.samples);
        for replica in &mut self.replicas {
            replica.place(marks, samples, now);
        }
    }

    /// Forgets what every replica that answers has behind it. The last stays: it is what a replica that comes next
    /// must reach.
    fn tidy(&mut self) {
        let answering = self.replicas.iter().filter(|replica| replica.position.is_some());
        let behind = answering.clone().map(|replica| replica.reached).min();
        let behind = behind.unwrap_or(u64::MAX);
        while self.marks.len() > 1 && self.marks.front().is_some_and(|mark| mark.generation <= behind) {
            self.marks.pop_front();
        }
        let fresh = answering.map(|replica| replica.fresh.unwrap_or_default()).min();
        let fresh = fresh.unwrap_or(Duration::MAX);
        while self.samples.len() > 1 && self.samples.front().is_some_and(|sample| sample.last < fresh) {
            self.samples.pop_front();
        }
    }
}

impl Watermark {
    fn of(server: ServerName) -> Watermark {
        Watermark {
            server,
            position: None,
            answered: Duration::ZERO,
            reached: 0,
            fresh: None,
            lag: Duration::ZERO,
        }
    }

    fn forget(&mut self) {
        *self = Watermark::of(self.server.clone());
    }

    fn place(&mut self, marks: &VecDeque<Mark>, samples: &VecDeque<Sample>, now: Moment) {
        let Some(here) = &self.position else { return };
        // Both are in order: each has what the one before it has.
        let reached = marks.partition_point(|mark| here.reaches(&mark.position));
        if let Some(mark) = reached.checked_sub(1).and_then(|last| marks.get(last))
            && mark.generation > self.reached
        {
            self.reached = mark.generation;
            let took = now.saturating_sub(mark.since);
            self.lag = (self.lag * 3 + took) / 4;
        }
        let passed = samples.partition_point(|sample| here.reaches(&sample.position));
        if let Some(sample) = passed.checked_sub(1).and_then(|last| samples.get(last)) {
            self.fresh = self.fresh.max(Some(sample.last));
        }
    }
}

#[cfg(test)]
impl Board {
    /// What holds after each change.
    pub fn check(&self) {
        assert!(self.marks.len() <= MAX_MARKS && self.samples.len() <= MAX_SAMPLES);
        let marks: Vec<_> = self.marks.iter().collect();
        for pair in marks.windows(2) {
            assert!(pair[0].generation < pair[1].generation);
            assert!(pair[1].position.reaches(&pair[0].position));
        }
        let samples: Vec<_> = self.samples.iter().collect();
        for pair in samples.windows(2) {
            assert!(pair[0].last <= pair[1].first && pair[1].position.reaches(&pair[0].position));
        }
        for replica in &self.replicas {
            assert!(replica.reached <= self.generation);
            assert!(self.is_known() || replica.reached < self.generation);
        }
        if let Some(mark) = self.marks.back()
            && self.is_known()
        {
            assert_eq!(mark.generation, self.generation);
            assert!(mark.position.reaches(&self.node));
        }
        assert!(!self.is_known() || !self.marks.is_empty());
    }
}
