//! What servers report about a session beside their answers (`session_track_…`). The proxy has them report what it must
//! know. A session that looks at these settings, or changes them, is shown what it would find without the proxy.

use std::sync::Arc;

use super::Session;
use super::route::Side;

/// Whether a statement names one of the settings.
pub(super) fn mentions_tracking(sql: &[u8]) -> bool {
    mentions(sql, b"session", b"track_")
}

/// Whether a statement has a name with these letters before and after one of its underscores.
pub(super) fn mentions(sql: &[u8], before: &[u8], after: &[u8]) -> bool {
    let is = |part: Option<&[u8]>, word: &[u8]| part.is_some_and(|part| part.eq_ignore_ascii_case(word));
    memchr::memchr_iter(b'_', sql).any(|at| {
        is(sql.get(at + 1..at + 1 + after.len()), after)
            && at
                .checked_sub(before.len())
                .is_some_and(|from| is(sql.get(from..at), before))
    })
}

impl Session {
    /// From here on the session has a connection of its own that reports nothing for the proxy's sake, and hides nothing
    /// of what is reported. What it writes is not told any more: each of its writes is a doubt about the floor.
    pub(super) fn show_own_tracking(&mut self) {
        if self.bonds.transaction == Some(Side::Replica) {
            // The connection of a replica cannot be kept.
            return;
        }
        self.untracked = true;
        self.bonds.pinned = true;
        self.hidden = Arc::default();
    }

    /// The end of that.
    pub(super) fn track_again(&mut self) {
        self.untracked = false;
        self.hidden = Arc::clone(&self.thread.context.hidden);
    }
}

#[cfg(test)]
mod tests {
    use super::mentions_tracking;

    #[test]
    fn settings_of_tracking_are_seen_wherever_they_stand() {
        for sql in [
            "SELECT @@session_track_gtids",
            "set SESSION Session_Track_Schema=0",
            "SHOW VARIABLES LIKE 'session_track_%'",
        ] {
            assert!(mentions_tracking(sql.as_bytes()), "{sql}");
        }
        for sql in [
            "SELECT 1",
            "",
            "SELECT s",
            "SET SESSION x=1",
            "SELECT 'session_trac",
        ] {
            assert!(!mentions_tracking(sql.as_bytes()), "{sql}");
        }
    }
}
