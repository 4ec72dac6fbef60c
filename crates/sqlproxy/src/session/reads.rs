//! Which reads go to replicas, and to which.

use pontoon_mysql_wire::reply::Done;
use pontoon_sql_class::Verdict;

use super::Session;
use crate::pool::{Connection, Database};

impl Session {
    /// Whether reads may go to replicas at all.
    pub(super) fn splits(&self) -> bool {
        false
    }

    /// A replica that has what the session must see; `None` when none has it in time.
    pub(super) async fn choose_replica(&mut self) -> Option<Database> {
        None
    }

    /// Notes what the statement wrote, before its client hears of it.
    pub(super) fn raise_floor(&mut self, _verdict: &Verdict, _done: &Done, _connection: &Connection) {}
}
