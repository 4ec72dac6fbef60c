//! Which reads go to replicas, and to which; and what has to be known about writes before.

use pontoon_mysql_wire::StatusFlags;
use pontoon_mysql_wire::reply::{Done, Outcome};
use pontoon_sql_class::{Effects, Route, Verdict};

use super::Session;
use super::route::Side;
use crate::floor::Place;
use crate::pool::{Connection, Database};

impl Session {
    /// Whether reads may go to replicas at all.
    pub(super) fn splits(&self) -> bool {
        self.thread.context.floors.is_active()
    }

    /// A replica that has what the session must see: the one that it read from last if that will do. `None` when none
    /// has it in time.
    pub(super) async fn choose_replica(&mut self) -> Option<Database> {
        let ready = match self.thread.context.floors.place().await {
            Place::Replicas(ready) => ready,
            Place::Primary(_) => return None,
        };
        let target = self.thread.context.targets.borrow().clone();
        if target
            .primary
            .as_ref()
            .is_ok_and(|primary| primary.pin.epoch != ready.epoch())
        {
            return None;
        }
        let able = || {
            target
                .replicas
                .iter()
                .filter(|replica| ready.contains(&replica.pin.server))
        };
        let count = able().count().max(1);
        let last = self.replica.as_ref();
        let chosen = able()
            .find(|replica| Some(&replica.pin.server) == last)
            .or_else(|| able().nth(self.id as usize % count))?;
        self.replica = Some(chosen.pin.server.clone());
        Some(Database {
            side: Side::Replica,
            pin: chosen.pin.clone(),
            way: chosen.way.clone(),
        })
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
