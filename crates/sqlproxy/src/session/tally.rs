//! Statements counted, for metrics and `pontoon sql top`. Values of statements are never kept.

use std::borrow::Cow;
use std::time::Instant;

use pontoon_mysql_wire::reply::{Done, Expect, Outcome};
use pontoon_sql_class::{Kind, digest};
use pontoon_telemetry::digests::Execution;
use pontoon_telemetry::metrics::{Route, Verb};

use super::Session;
use super::route::Side;
use super::run::{What, Work};

/// More of a statement is not looked at: a digest is shorter.
const LOOKED_AT: usize = 64 * 1024;

impl Session {
    /// Counts a statement that was answered, before what it did is recorded; `done` is missing when its database was
    /// lost. `began` is when all of it was there.
    pub(super) fn tally(&self, work: &Work<'_>, side: Side, began: Instant, done: Option<&Done>) {
        if !work.records || work.expect == Expect::Prepare {
            return;
        }
        let took = began.elapsed();
        let context = &self.thread.context;
        let route = match side {
            Side::Primary => Route::Primary,
            Side::Replica => Route::Replica,
        };
        context.metrics.query(route, verb(work.verdict.kind), took);
        let prepared = match work.what {
            What::Execute { id, .. }
            | What::Streamed {
                statement: Some(id), ..
            } => self
                .statements
                .get(id)
                .and_then(|statement| statement.known.as_ref()),
            _ => None,
        };
        let text = match (prepared, work.sql, &work.what) {
            (Some(known), ..) => Cow::Borrowed(known.digest.as_str()),
            (None, Some(sql), _) => Cow::Owned(digest(&sql[..sql.len().min(LOOKED_AT)], &self.context())),
            (None, None, What::Streamed { .. }) => Cow::Borrowed("(a statement of more than 1 MiB)"),
            (None, None, _) => return,
        };
        let mut execution = Execution {
            on_replica: side == Side::Replica,
            failed: true,
            took,
            ..Execution::default()
        };
        if let Some(done) = done {
            execution.failed = matches!(done.outcome, Outcome::Error { .. });
            execution.affected_rows = done.affected_rows;
            execution.rows = done.row_count.into();
            execution.bytes = done.delivered_bytes + done.final_bytes as u64;
        }
        context.digests.record(&text, &execution);
    }
}

fn verb(kind: Kind) -> Verb {
    match kind {
        Kind::Select | Kind::Values => Verb::Select,
        Kind::Insert | Kind::Replace | Kind::Load => Verb::Insert,
        Kind::Update => Verb::Update,
        Kind::Delete => Verb::Delete,
        Kind::Begin | Kind::Commit | Kind::Rollback | Kind::Savepoint | Kind::Xa => Verb::Transaction,
        _ => Verb::Other,
    }
}
