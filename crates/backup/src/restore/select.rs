//! Which of the archived transactions belong to the wanted state. Pure.

use pontoon_gtid::binlog::Committed;
use pontoon_gtid::{Dialect, Gtid, History, Position};

use crate::archive::Index;
use crate::moment::Moment;

/// What to do with a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is next.
    Take,
    /// It is in already, or never became part of the history.
    Skip,
    /// It and all after it are later than the wanted moment.
    Stop,
}

/// Decides about one transaction after the other.
pub(crate) struct Select {
    dialect: Dialect,
    here: Position,
    moment: Moment,
    truth: Truth,
    stopped: bool,
    found: bool,
    taken: u64,
    last: Option<u32>,
}

/// Which of two primaries is right. What one had that the next one never got was lost with it, and nobody was promised
/// it: the archive may hold it all the same.
struct Truth {
    /// MySQL: what the last primary has.
    history: Option<History>,
    /// MariaDB: where each file begins, with its epoch: from there on it is right, and those of earlier epochs are not.
    begins: Vec<(u64, u32, u64)>,
}

impl Select {
    /// After `here`, of the files `archive`.
    pub(crate) fn new(dialect: Dialect, here: Position, moment: Moment, archive: &[&Index]) -> Select {
        Select {
            dialect,
            here,
            moment,
            truth: Truth::of(dialect, archive),
            stopped: false,
            found: false,
            taken: 0,
            last: None,
        }
    }

    /// Decides about the next one of a file whose index says `epoch`.
    pub(crate) fn next(&mut self, epoch: u64, committed: &Committed) -> Verdict {
        if self.stopped {
            return Verdict::Stop;
        }
        let gtid = &committed.transaction.gtid;
        let name = gtid.to_string();
        let Ok(one) = Position::parse(self.dialect, &name) else {
            return Verdict::Skip;
        };
        if self.here.reaches(&one) {
            return Verdict::Skip;
        }
        if self.truth.lacks(epoch, gtid) {
            return Verdict::Skip;
        }
        if let Moment::Before(at) = self.moment
            && committed.at >= at
        {
            self.stopped = true;
            return Verdict::Stop;
        }
        if self.moment == Moment::Through(name) {
            self.stopped = true;
            self.found = true;
        }
        self.here.merge(&one);
        self.taken += 1;
        self.last = Some(committed.at);
        Verdict::Take
    }

    /// What is in now.
    pub(crate) fn here(&self) -> &Position {
        &self.here
    }

    /// Whether nothing that comes can be wanted.
    pub(crate) fn is_done(&self) -> bool {
        self.stopped
    }

    /// Whether the wanted transaction was met, when one was named.
    pub(crate) fn has_found(&self) -> bool {
        self.found
    }

    /// How many were taken, and when the last of them was committed.
    pub(crate) fn taken(&self) -> (u64, Option<u32>) {
        (self.taken, self.last)
    }
}

impl Truth {
    fn of(dialect: Dialect, archive: &[&Index]) -> Truth {
        let latest = archive
            .iter()
            .max_by_key(|index| (index.epoch, index.seen, index.begun));
        let history = latest
            .filter(|_| dialect == Dialect::MySql)
            .and_then(|latest| History::parse(dialect, &latest.history).ok());
        let begin = |epoch: u64, first: &str| {
            let mut words = first.split('-');
            let domain = words.next()?.parse().ok()?;
            Some((epoch, domain, words.nth(1)?.parse().ok()?))
        };
        let begins = archive
            .iter()
            .flat_map(|index| {
                index
                    .firsts
                    .iter()
                    .filter_map(move |first| begin(index.epoch, first))
            })
            .filter(|_| dialect == Dialect::MariaDb)
            .collect();
        Truth { history, begins }
    }

    fn lacks(&self, of_epoch: u64, gtid: &Gtid) -> bool {
        match gtid {
            Gtid::MariaDb { domain, sequence, .. } => self
                .begins
                .iter()
                .any(|(epoch, of, begin)| *epoch > of_epoch && of == domain && sequence >= begin),
            Gtid::MySql { .. } => self.history.as_ref().is_some_and(|history| !history.has(gtid)),
        }
    }
}
