//! Addresses that a provider moves: which server is to have which, and which server tells the provider.
//!
//! A provider routes an address to one server and obeys whoever has the token, so two servers can never hold one address;
//! but two that give orders at once would undo what the other did, for ever. So the right to give orders is a lease in
//! the store that the fleet's servers share: a [`Record`], replaced only by who knows the one before. [`Keeper`] says when
//! a server has it.
//!
//! Clocks are never compared. A server that wants the lease waits until the record has stood still for [`TTL`] by its own
//! clock; the one that has it stops after [`HELD_FOR`], counted from before its last write was sent. So at most one server
//! gives orders, but for one case: a process that is frozen between its last look at the clock and sending a request says
//! one thing too much when it thaws. The server with the lease looks at the provider every [`VERIFY`], finds that out and
//! puts it right.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_fleet::{Epoch, ServerName};
use serde::{Deserialize, Serialize};

/// Between two writes of a server that has the lease, or two looks of one that has not.
pub const RENEW: Duration = Duration::from_secs(2);

/// A record that has not changed for so long is nobody's.
pub const TTL: Duration = Duration::from_secs(10);

/// How long a server gives orders after the moment before its last write. Shorter than [`TTL`] by more than clocks that run
/// a tenth too fast or too slow can bring.
pub const HELD_FOR: Duration = Duration::from_secs(7);

/// Between two looks at the provider when nothing is known to be wrong.
pub const VERIFY: Duration = Duration::from_secs(15);

/// What the store keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who gives the orders.
    pub caller: ServerName,
    /// Grows by one with each change of anything but the nonce.
    pub epoch: Epoch,
    /// Different with each write.
    pub nonce: u64,
    /// Who is to have the addresses of which home. A home that is not in it is at home.
    pub placed: BTreeMap<ServerName, ServerName>,
}

/// What a server should do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// Read the record.
    Look,
    /// Write it with this server as the caller: nobody has it, or this server does.
    Write,
}

/// Whether this server has the lease.
#[derive(Clone, Debug, Default)]
pub struct Keeper {
    /// The record as it is known, and since when it has stood still.
    seen: Option<(Option<Record>, Duration)>,
    asked: Option<Duration>,
    held_until: Option<Duration>,
    /// What was written with an answer that got lost, and the moment before it was sent.
    doubt: Option<(Record, Duration)>,
}

impl Keeper {
    /// Whether orders may be given now, by a clock that runs while the machine sleeps.
    pub fn holds(&self, now: Duration) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// The record as it is known.
    pub fn record(&self) -> Option<&Record> {
        self.seen.as_ref().and_then(|(record, _)| record.as_ref())
    }

    /// Whether it is known what became of everything that this server wrote.
    pub fn is_certain(&self) -> bool {
        self.doubt.is_none()
    }

    /// What is to be done now. A server whose last write still stands goes on, also after a pause or as a new process: the
    /// store refuses it if somebody has written since. It is tried once each [`RENEW`].
    pub fn due(&self, now: Duration, me: &ServerName) -> Due {
        if self.asked.is_some_and(|at| now.saturating_sub(at) < RENEW) {
            return Due::Nothing;
        }
        match &self.seen {
            _ if self.doubt.is_some() => Due::Look,
            None => Due::Look,
            Some((None, _)) => Due::Write,
            Some((Some(record), _)) if record.caller == *me => Due::Write,
            Some((Some(_), since)) if now.saturating_sub(*since) >= TTL => Due::Write,
            Some(_) => Due::Look,
        }
    }

    /// The store is asked now.
    pub fn asks(&mut self, now: Duration) {
        self.asked = Some(now);
    }

    /// This is in the store, read after `now`.
    pub fn saw(&mut self, now: Duration, record: Option<Record>) {
        if let Some((wanted, asked)) = self.doubt.take()
            && record.as_ref() == Some(&wanted)
        {
            return self.wrote(asked, wanted);
        }
        let still = self.seen.as_ref().is_some_and(|(known, _)| *known == record);
        if !still {
            self.seen = Some((record, now));
            self.held_until = None;
        }
    }

    /// This server's record was taken; the request was sent after `asked`.
    pub fn wrote(&mut self, asked: Duration, record: Record) {
        self.held_until = Some(asked + HELD_FOR);
        self.seen = Some((Some(record), asked));
    }

    /// Whether this server's record was taken is not known; the request was sent after `asked`.
    pub fn doubts(&mut self, asked: Duration, record: Record) {
        self.doubt = Some((record, asked));
    }

    /// The record that this server writes next.
    pub fn next(&self, me: &ServerName, nonce: u64, placed: &BTreeMap<ServerName, ServerName>) -> Record {
        let before = self.record();
        let same = before.is_some_and(|record| record.caller == *me && record.placed == *placed);
        let epoch = before.map_or(Epoch(0), |record| record.epoch);
        Record {
            caller: me.clone(),
            epoch: if same { epoch } else { epoch.next() },
            nonce,
            placed: placed.clone(),
        }
    }
}

/// An edge that could have addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Its name.
    pub name: ServerName,
    /// Whether it has addresses of its own.
    pub home: bool,
    /// Whether visitors are served there.
    pub serves: bool,
    /// For how long without a break; nothing when it does not.
    pub well_for: Duration,
    /// It is taken out of service.
    pub drained: bool,
    /// It is the first to be asked when another is lost.
    pub standby: bool,
}

/// Who is to have the addresses of each home, given who has them. `home_after`: how long a home must have been well before
/// they go back to it from a server that is well.
pub fn place(
    edges: &[Edge],
    placed: &BTreeMap<ServerName, ServerName>,
    home_after: Duration,
) -> BTreeMap<ServerName, ServerName> {
    let mut load: BTreeMap<&ServerName, usize> = BTreeMap::new();
    let mut next = BTreeMap::new();
    let find = |name: &ServerName| edges.iter().find(|edge| edge.name == *name);
    let fit = |edge: &&Edge| edge.serves && !edge.drained;
    // Those who stay come first, so that what moves goes where the fewest are.
    let mut moving = Vec::new();
    for (at, home) in edges.iter().enumerate().filter(|(_, edge)| edge.home) {
        let now = placed.get(&home.name).and_then(find).unwrap_or(home);
        let back = fit(&home) && home.well_for >= home_after;
        let stays = match () {
            () if back => Some(home),
            () if fit(&now) => Some(now),
            () if fit(&home) => Some(home),
            () => None,
        };
        match stays {
            Some(edge) => {
                *load.entry(&edge.name).or_default() += 1;
                next.insert(home.name.clone(), edge.name.clone());
            }
            None => moving.push((at, home, now)),
        }
    }
    for (at, home, now) in moving {
        let place = edges
            .iter()
            .enumerate()
            .filter(|(_, edge)| fit(edge))
            .min_by_key(|(other, edge)| {
                let distance = (other + edges.len() - at) % edges.len();
                (
                    load.get(&edge.name).copied().unwrap_or(0),
                    !edge.standby,
                    distance,
                )
            });
        // When nobody serves, nothing is gained by moving.
        let to = place.map_or(now, |(_, edge)| edge);
        *load.entry(&to.name).or_default() += 1;
        next.insert(home.name.clone(), to.name.clone());
    }
    next.retain(|home, to| home != to);
    next
}

#[cfg(test)]
#[path = "routing_tests.rs"]
mod tests;
