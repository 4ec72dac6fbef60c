//! Which reads go to replicas, and to which; and what has to be known about writes before.

use std::rc::Rc;

use pontoon_mysql_wire::StatusFlags;
use pontoon_mysql_wire::reply::{Done, Outcome};
use pontoon_sql_class::{Effects, Route, Verdict};
use pontoon_telemetry::metrics::Diverted;

use super::Session;
use super::route::Side;
use crate::floor::{Place, Why};
use crate::pool::{Connection, Database};

/// Where a read goes.
pub(super) enum Reader {
    /// There.
    Replica(Rc<Database>),
    /// To the primary: because of that, or because it has less to do.
    Primary(Option<Diverted>),
}

impl Session {
    /// Whether reads may go to replicas at all.
    pub(super) fn splits(&self) -> bool {
        self.thread.context.floors.is_active()
    }

    /// Where to read: of the replicas that have what the session must see, and the primary, the one with the fewest
    /// statements under way. Of equals a replica, and the one that the session read from last: the primary has the
    /// writes, too.
    pub(super) async fn choose_reader(&mut self) -> Reader {
        let ready = match self.thread.context.floors.place().await {
            Place::Replicas(ready) => ready,
            Place::Primary(Why::Behind) => return Reader::Primary(Some(Diverted::AfterWrite)),
            Place::Primary(Why::Unanswered) => return Reader::Primary(Some(Diverted::Unanswered)),
            Place::Primary(Why::NoReplica | Why::NotSpread) => return Reader::Primary(Some(Diverted::Lag)),
        };
        let databases = self.thread.databases();
        let Some(primary) = &databases.primary else {
            return Reader::Primary(None);
        };
        if primary.pin.epoch != ready.epoch() {
            return Reader::Primary(Some(Diverted::Lag));
        }
        let able = || {
            let replicas = databases.replicas.iter();
            replicas.filter(|replica| ready.contains(&replica.pin.server))
        };
        let Some(least) = able().map(|replica| replica.places.busy()).min() else {
            return Reader::Primary(Some(Diverted::Lag));
        };
        if primary.places.busy() < least {
            return Reader::Primary(None);
        }
        // Another thread may have given one of them a statement meanwhile.
        let idlest = || able().filter(|replica| replica.places.busy() <= least);
        let same = idlest().find(|replica| Some(replica.server) == self.replica);
        let count = idlest().count().max(1);
        let chosen = same.or_else(|| idlest().nth(self.id as usize % count));
        let Some(chosen) = chosen.or_else(|| able().next()) else {
            return Reader::Primary(None);
        };
        self.replica = Some(chosen.server);
        Reader::Replica(Rc::clone(chosen))
    }

    /// Notes what the statement wrote, before its client hears of it. An ERR packet says no position: what failed may
    /// have committed something before it did.
    pub(super) fn raise_floor(&mut self, verdict: &Verdict, done: &Done, connection: &Connection) {
        if connection.key.side == Side::Replica {
            return;
        }
        let floors = &self.thread.context.floors;
        let epoch = connection.backend.pin.epoch;
        for gtids in &done.state.gtids {
            floors.raise(epoch, gtids);
        }
        let failed = matches!(done.outcome, Outcome::Error { .. });
        let read = verdict.route == Route::Replica
            || (verdict.kind == pontoon_sql_class::Kind::Select
                && !verdict.effects.intersects(Effects::RUNS_ROUTINE));
        // Nobody said where it was written: the session has turned the tracking off (it is pinned then).
        let written = done.affected_rows > 0 && !done.status.has(StatusFlags::IN_TRANS);
        let untold = done.state.gtids.is_empty() && (written || self.is_pinned());
        if ((failed || untold) && !read) || done.state.incomplete {
            floors.doubt(epoch);
        }
    }

    /// The same for a statement whose answer was lost.
    pub(super) fn doubt_floor(&self, verdict: &Verdict, connection: &Connection) {
        if connection.key.side == Side::Primary && verdict.route != Route::Replica {
            self.thread.context.floors.doubt(connection.backend.pin.epoch);
        }
    }
}
