//! The board against a simulated fleet: a primary, replicas that fall behind, break and come back, and proxies whose
//! sessions write and read. No read may miss what it must see, whatever happens in whatever order.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_fleet::{Epoch, ServerName};
use pontoon_gtid::{Dialect, Floor, Position};

use super::board::{Board, Moment, PATIENCE};

const BOUND: Duration = Duration::from_secs(1);
const UUID: &str = "00000000-0000-0000-0000-0000000000aa";

fn name(index: usize) -> ServerName {
    format!("r{index}").parse().unwrap()
}

fn position(dialect: Dialect, count: u64) -> Position {
    let text = match (dialect, count) {
        (_, 0) => String::new(),
        (Dialect::MariaDb, count) => format!("0-1-{count}"),
        (Dialect::MySql, count) => format!("{UUID}:1-{count}"),
    };
    Position::parse(dialect, &text).unwrap()
}

/// What the database says of one commit.
fn gtid(dialect: Dialect, number: u64) -> Position {
    match dialect {
        Dialect::MariaDb => position(dialect, number),
        Dialect::MySql => Position::parse(dialect, &format!("{UUID}:{number}")).unwrap(),
    }
}

fn floor(epoch: u64, dialect: Dialect, number: u64) -> Floor {
    Floor {
        epoch: Epoch(epoch),
        position: gtid(dialect, number),
    }
}

/// Whether a reader of `generation` may read from that replica.
fn may_read(board: &Board, server: &ServerName, generation: u64, now: Moment) -> bool {
    let replica = board.replicas().iter().find(|replica| &replica.server == server);
    replica.is_some_and(|replica| {
        replica.reached >= generation && board.valid_until(replica).is_some_and(|until| now < until)
    })
}

fn board(dialect: Dialect, fleet_wide: bool, replicas: usize) -> Board {
    let mut board = Board::new(Epoch(1), dialect, BOUND, fleet_wide);
    board.set_replicas(&(0..replicas).map(name).collect::<Vec<_>>());
    board
}

/// Small numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

const REPLICAS: usize = 3;
const NODES: usize = 2;

/// The truth, and what travels.
struct World {
    dice: Dice,
    dialect: Dialect,
    epoch: u64,
    now: Moment,
    /// Transactions that the primary has committed.
    committed: u64,
    /// When each was acknowledged, and through which node: what a reader there must see.
    acknowledged: Vec<(u64, usize, Moment)>,
    /// Transactions that each replica has applied; whether its connections work.
    applied: [u64; REPLICAS],
    up: [bool; REPLICAS],
    boards: Vec<Board>,
    /// Questions and polls on their way, per node: the answer as it was when it was made.
    questions: Vec<Option<(u64, u64, u64, Moment)>>,
    reports: BTreeMap<(usize, usize), (u64, u64)>,
    fleet_wide: bool,
    reads: [u64; 2],
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice(seed);
        let dialect = if dice.one_in(2) {
            Dialect::MariaDb
        } else {
            Dialect::MySql
        };
        let fleet_wide = dice.one_in(3);
        let committed = dice.below(5) as u64;
        World {
            boards: (0..NODES).map(|_| board(dialect, fleet_wide, REPLICAS)).collect(),
            questions: vec![None; NODES],
            reports: BTreeMap::new(),
            dice,
            dialect,
            epoch: 1,
            now: Duration::from_secs(10),
            committed,
            acknowledged: Vec::new(),
            applied: [0; REPLICAS],
            up: [true; REPLICAS],
            fleet_wide,
            reads: [0; 2],
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_micros(self.dice.next() % 30_000);
        let node = self.dice.below(NODES);
        let replica = self.dice.below(REPLICAS);
        match self.dice.below(40) {
            0..=5 => self.write(node),
            6..=11 => self.apply(replica),
            12..=16 => self.send_question(node),
            17..=21 => self.answer_question(node),
            22..=25 => self.send_report(node, replica),
            26..=29 => self.deliver_report(node, replica),
            30 => self.break_replica(replica),
            31 if self.dice.one_in(20) => self.fail_over(),
            32 if self.dice.one_in(10) => self.restart_proxy(node),
            33 => self.carry_cookie(node),
            _ => self.read(node, replica),
        }
        for board in &self.boards {
            board.check();
        }
    }

    fn write(&mut self, node: usize) {
        let count = 1 + self.dice.below(3) as u64;
        let first = self.committed + 1;
        self.committed += count;
        let board = &mut self.boards[node];
        if self.dice.one_in(6) {
            // It ended in an error after part of it was committed, or the connection broke.
            board.doubt();
        } else {
            let mut gtids = gtid(self.dialect, first);
            (first..=self.committed).for_each(|number| gtids.merge(&gtid(self.dialect, number)));
            board.raise(&gtids, self.now);
        }
        self.acknowledged.push((self.committed, node, self.now));
    }

    fn apply(&mut self, replica: usize) {
        let behind = self.committed.saturating_sub(self.applied[replica]);
        if self.up[replica] && behind > 0 {
            self.applied[replica] += 1 + self.dice.next() % behind;
        }
    }

    fn send_question(&mut self, node: usize) {
        if self.questions[node].is_none() {
            // Committed now, or in the moment in which the answer is made: the least is what must be safe.
            let covers = self.boards[node].questions().0;
            self.questions[node] = Some((self.epoch, covers, self.committed, self.now));
        }
    }

    fn answer_question(&mut self, node: usize) {
        if let Some((epoch, covers, count, sent)) = self.questions[node].take()
            && !self.dice.one_in(10)
        {
            let position = position(self.dialect, count);
            self.boards[node].sampled(Epoch(epoch), covers, position, sent, self.now);
        }
    }

    fn send_report(&mut self, node: usize, replica: usize) {
        if self.up[replica] {
            let report = (self.epoch, self.applied[replica]);
            self.reports.entry((node, replica)).or_insert(report);
        }
    }

    fn deliver_report(&mut self, node: usize, replica: usize) {
        if let Some((epoch, count)) = self.reports.remove(&(node, replica)) {
            let position = position(self.dialect, count);
            self.boards[node].applied(&name(replica), Epoch(epoch), &position, self.now);
        }
    }

    /// Killed and restarted, perhaps from an older copy: every connection to it breaks.
    fn break_replica(&mut self, replica: usize) {
        self.up[replica] = !self.up[replica];
        if self.dice.one_in(2) {
            self.applied[replica] -= self.dice.next() % (self.applied[replica] + 1);
        }
        for node in 0..NODES {
            self.reports.remove(&(node, replica));
            self.boards[node].lost(&name(replica));
        }
    }

    /// A replica becomes primary; what it had not is lost. Every node hears of it here; that they do at different
    /// times is for the sessions, whose connections carry the epoch.
    fn fail_over(&mut self) {
        let kept = self.applied.iter().copied().max().unwrap_or(0);
        self.committed = kept;
        self.epoch += 1;
        self.acknowledged.retain(|(number, ..)| *number <= kept);
        self.reports.clear();
        for board in &mut self.boards {
            board.begin(Epoch(self.epoch), self.dialect, BOUND, self.fleet_wide);
        }
    }

    fn restart_proxy(&mut self, node: usize) {
        let mut fresh = board(self.dialect, self.fleet_wide, REPLICAS);
        fresh.begin(Epoch(self.epoch), self.dialect, BOUND, self.fleet_wide);
        self.boards[node] = fresh;
        self.questions[node] = None;
        self.reports.retain(|(of, _), _| *of != node);
    }

    /// A visitor who wrote through one node comes to the other: from now on what it wrote must be seen there.
    fn carry_cookie(&mut self, node: usize) {
        let other = 1 - node;
        let cookie = self.boards[other].node_floor();
        let epoch = self.epoch;
        match cookie {
            Some(floor) => self.boards[node].heard(&floor, self.now),
            None => {
                self.boards[node].doubt();
                true
            }
        };
        assert_eq!(epoch, self.epoch);
        let now = self.now;
        let of_other: Vec<u64> = self.seen_by(other);
        self.acknowledged
            .extend(of_other.into_iter().map(|number| (number, node, now)));
    }

    fn seen_by(&self, node: usize) -> Vec<u64> {
        let through = |entry: &&(u64, usize, Moment)| entry.1 == node;
        self.acknowledged
            .iter()
            .filter(through)
            .map(|entry| entry.0)
            .max()
            .into_iter()
            .collect()
    }

    fn read(&mut self, node: usize, replica: usize) {
        let must_see = if self.fleet_wide {
            // The read asks, and waits for the answer.
            let asked = self.boards[node].ask();
            let committed = self.committed;
            self.questions[node] = None;
            self.send_question(node);
            self.answer_question(node);
            if !self.boards[node].answered(asked) {
                self.reads[1] += 1;
                return;
            }
            committed
        } else {
            self.seen_by(node).into_iter().max().unwrap_or(0)
        };
        let generation = self.boards[node].generation();
        if self.dice.one_in(2) {
            self.apply(replica);
            self.send_report(node, replica);
            self.deliver_report(node, replica);
        }
        if !may_read(&self.boards[node], &name(replica), generation, self.now) {
            self.reads[1] += 1;
            return;
        }
        self.reads[0] += 1;
        let sees = self.applied[replica];
        assert!(
            sees >= must_see,
            "a stale read: {sees} < {must_see} at {:?}",
            self.now
        );
        // Nothing acknowledged to anybody before the bound is missing.
        let old = self.acknowledged.iter().filter(|(.., at)| *at + BOUND < self.now);
        let old = old.map(|(number, ..)| *number).max().unwrap_or(0);
        assert!(sees >= old, "a replica that is too far behind: {sees} < {old}");
    }
}

#[test]
fn no_read_misses_what_it_must_see() {
    let only = std::env::var("PONTOON_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = match only {
        Some(seed) => seed..seed + 1,
        None => 0..4_000u64,
    };
    let mut reads = [0; 2];
    for seed in seeds {
        let ended = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..400).for_each(|_| world.step());
            world.reads
        });
        let Ok(of_seed) = ended else {
            panic!("again with PONTOON_SEED={seed}");
        };
        reads = [reads[0] + of_seed[0], reads[1] + of_seed[1]];
    }
    let share = reads[0] as f64 / (reads[0] + reads[1]) as f64;
    assert!(
        only.is_some() || share > 0.03,
        "replicas are hardly used: {share}, {reads:?}"
    );
}

fn at(millis: u64) -> Moment {
    Duration::from_millis(millis)
}

/// A board whose primary and replica are at `count`.
fn settled(dialect: Dialect, count: u64) -> Board {
    let mut board = board(dialect, false, 1);
    let (asked, _) = board.questions();
    board.sampled(Epoch(1), asked, position(dialect, count), at(0), at(1));
    board.applied(&name(0), Epoch(1), &position(dialect, count), at(2));
    board
}

#[test]
fn nothing_is_read_from_a_replica_before_the_primary_was_asked() {
    let mut board = board(Dialect::MariaDb, false, 1);
    board.applied(&name(0), Epoch(1), &position(Dialect::MariaDb, 9), at(1));
    assert!(!may_read(&board, &name(0), board.generation(), at(1)));
    assert_eq!(board.node_floor(), None);
    let board = settled(Dialect::MariaDb, 9);
    assert!(may_read(&board, &name(0), board.generation(), at(3)));
    assert_eq!(board.node_floor(), Some(floor(1, Dialect::MariaDb, 9)));
}

#[test]
fn a_replica_serves_those_who_came_before_the_write_while_it_is_behind() {
    let mut board = settled(Dialect::MySql, 9);
    let before = board.generation();
    board.raise(&gtid(Dialect::MySql, 10), at(10));
    let after = board.generation();
    assert!(may_read(&board, &name(0), before, at(11)));
    assert!(!may_read(&board, &name(0), after, at(11)));
    assert_eq!(board.wanted(&name(0)), Some(position(Dialect::MySql, 10)));
    board.applied(&name(0), Epoch(1), &position(Dialect::MySql, 10), at(14));
    assert!(may_read(&board, &name(0), after, at(14)));
    assert_eq!(board.wanted(&name(0)), None);
    assert!(
        (at(1)..at(2)).contains(&board.replicas()[0].lag),
        "{:?}",
        board.replicas()[0].lag
    );
}

#[test]
fn a_question_that_was_sent_before_the_doubt_does_not_end_it() {
    let mut board = settled(Dialect::MariaDb, 9);
    let (covers, _) = board.questions();
    board.doubt();
    board.sampled(Epoch(1), covers, position(Dialect::MariaDb, 9), at(20), at(21));
    assert!(!board.is_known());
    let (covers, _) = board.questions();
    board.sampled(Epoch(1), covers, position(Dialect::MariaDb, 10), at(22), at(23));
    assert!(board.is_known());
    assert!(!may_read(&board, &name(0), board.generation(), at(24)));
    board.applied(&name(0), Epoch(1), &position(Dialect::MariaDb, 10), at(25));
    assert!(may_read(&board, &name(0), board.generation(), at(26)));
}

#[test]
fn a_replica_that_stands_still_is_out_when_the_primary_moves_on_or_is_not_heard_of() {
    let mut board = settled(Dialect::MariaDb, 9);
    // Idle, but asked: fresh.
    for tick in 1..20 {
        let (covers, _) = board.questions();
        board.sampled(
            Epoch(1),
            covers,
            position(Dialect::MariaDb, 9),
            at(tick * 250),
            at(tick * 250 + 1),
        );
        board.applied(
            &name(0),
            Epoch(1),
            &position(Dialect::MariaDb, 9),
            at(tick * 250 + 2),
        );
    }
    assert!(may_read(&board, &name(0), board.generation(), at(5_000)));
    // Somebody else writes; its IO thread is stopped, and it has applied all that it has.
    let (covers, _) = board.questions();
    for tick in 0..3 {
        board.sampled(
            Epoch(1),
            covers,
            position(Dialect::MariaDb, 10 + tick),
            at(5_000 + tick),
            at(5_001 + tick),
        );
        board.applied(&name(0), Epoch(1), &position(Dialect::MariaDb, 9), at(5_500));
    }
    assert!(may_read(&board, &name(0), board.generation(), at(5_700)));
    assert!(
        !may_read(&board, &name(0), board.generation(), at(5_751)),
        "1 s after 4,750"
    );
    let replica = &board.replicas()[0];
    assert_eq!(board.behind(replica, at(5_900)), Some(at(900)));
    // A primary that is not heard of may have gone on without us.
    let board = settled(Dialect::MariaDb, 9);
    assert!(!may_read(&board, &name(0), board.generation(), at(1_001)));
}

#[test]
fn a_replica_that_does_not_answer_is_out_however_large_the_bound() {
    let mut board = settled(Dialect::MariaDb, 9);
    board.begin(Epoch(1), Dialect::MariaDb, Duration::from_secs(3600), false);
    let last = at(2) + PATIENCE;
    assert!(may_read(&board, &name(0), board.generation(), last - at(1)));
    assert!(!may_read(&board, &name(0), board.generation(), last));
    board.applied(&name(0), Epoch(1), &position(Dialect::MariaDb, 9), last);
    assert!(may_read(&board, &name(0), board.generation(), last));
    board.lost(&name(0));
    assert!(!may_read(&board, &name(0), board.generation(), last));
}

#[test]
fn another_epoch_forgets_all_and_hears_nothing_of_the_old() {
    let mut board = settled(Dialect::MariaDb, 90);
    board.begin(Epoch(2), Dialect::MariaDb, BOUND, false);
    board.applied(&name(0), Epoch(1), &position(Dialect::MariaDb, 99), at(5));
    let (covers, _) = board.questions();
    board.sampled(Epoch(1), covers, position(Dialect::MariaDb, 99), at(5), at(6));
    assert!(!board.is_known() && !may_read(&board, &name(0), 0, at(7)));
    // The new primary lost some: that floor is the floor.
    board.sampled(Epoch(2), covers, position(Dialect::MariaDb, 80), at(7), at(8));
    board.applied(&name(0), Epoch(2), &position(Dialect::MariaDb, 80), at(9));
    assert!(may_read(&board, &name(0), board.generation(), at(9)));
    assert!(
        board.heard(&floor(1, Dialect::MariaDb, 90), at(10)),
        "an old cookie is nothing"
    );
    assert!(may_read(&board, &name(0), board.generation(), at(10)));
}

#[test]
fn a_floor_from_outside_is_believed_only_if_the_primary_has_it() {
    let mut board = settled(Dialect::MySql, 9);
    let generation = board.generation();
    assert!(board.heard(&floor(1, Dialect::MySql, 5), at(3)));
    assert_eq!(board.generation(), generation);
    // True or forged, nobody knows yet.
    assert!(!board.heard(&floor(1, Dialect::MySql, 1 << 40), at(3)));
    assert!(!board.is_known());
    let (covers, _) = board.questions();
    board.sampled(Epoch(1), covers, position(Dialect::MySql, 12), at(4), at(5));
    board.applied(&name(0), Epoch(1), &position(Dialect::MySql, 12), at(6));
    assert!(
        may_read(&board, &name(0), board.generation(), at(6)),
        "nobody waits for what does not exist"
    );
    // Another server's, sampled already.
    let (covers, _) = board.questions();
    board.sampled(Epoch(1), covers, position(Dialect::MySql, 20), at(7), at(8));
    assert!(board.heard(&floor(1, Dialect::MySql, 15), at(9)));
    assert!(!may_read(&board, &name(0), board.generation(), at(9)));
    // Of an epoch that is not known here, or of another database.
    assert!(!board.heard(&floor(2, Dialect::MySql, 1), at(9)));
    assert!(!board.heard(&floor(1, Dialect::MariaDb, 1), at(9)));
}

#[test]
fn a_primary_that_came_back_without_its_last_commits_is_not_waited_for() {
    let mut board = settled(Dialect::MariaDb, 9);
    board.raise(&gtid(Dialect::MariaDb, 30), at(100));
    let (covers, _) = board.questions();
    // Sent before the commit was acknowledged: says nothing.
    board.sampled(Epoch(1), covers, position(Dialect::MariaDb, 9), at(99), at(101));
    assert_eq!(board.wanted(&name(0)), Some(position(Dialect::MariaDb, 30)));
    board.sampled(Epoch(1), covers, position(Dialect::MariaDb, 12), at(200), at(201));
    board.applied(&name(0), Epoch(1), &position(Dialect::MariaDb, 12), at(202));
    assert!(may_read(&board, &name(0), board.generation(), at(203)));
}

#[test]
fn many_scattered_writes_become_one_piece_again() {
    let mut board = settled(Dialect::MySql, 9);
    let mut asked = 0;
    for number in 0..1_000u64 {
        board.raise(&gtid(Dialect::MySql, 10 + number * 2), at(10 + number));
        let (questions, answered) = board.questions();
        if questions > answered {
            asked += 1;
            let all = position(Dialect::MySql, 10 + number * 2);
            board.sampled(Epoch(1), questions, all, at(10 + number), at(11 + number));
        }
        board.check();
    }
    assert!((5..50).contains(&asked), "{asked}");
    let floor = board.node_floor().unwrap();
    assert!(floor.position.parts() < 100, "{}", floor.position.parts());
}

#[test]
fn a_thousand_writes_that_no_replica_reaches_take_no_memory() {
    let mut board = settled(Dialect::MariaDb, 9);
    for number in 0..10_000 {
        board.raise(&gtid(Dialect::MariaDb, 10 + number), at(number));
        let (covers, _) = board.questions();
        board.sampled(
            Epoch(1),
            covers,
            position(Dialect::MariaDb, 10 + number),
            at(number),
            at(number),
        );
        board.check();
    }
    board.applied(
        &name(0),
        Epoch(1),
        &position(Dialect::MariaDb, 10_009),
        at(10_000),
    );
    assert!(may_read(&board, &name(0), board.generation(), at(10_000)));
}
