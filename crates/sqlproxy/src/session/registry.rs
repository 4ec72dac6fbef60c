//! Every session of the process by its number, for KILL.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

/// The first number that a session gets. Servers count from 1, so that theirs (in `SHOW PROCESSLIST`) and ours are
/// told apart for as long as a server lives.
const FIRST: u32 = 1 << 30;

/// What other sessions may know of one.
#[derive(Debug)]
pub struct Entry {
    /// Its user's name.
    pub user: Vec<u8>,
    /// The connection that runs its statement: the server's number in the process plus one, and the server's number of
    /// the connection; 0 when none runs.
    running: AtomicU64,
    /// Where its thread hears that it is to end.
    end: UnboundedSender<u32>,
}

impl Entry {
    /// Notes that a statement runs, on connection `thread_id` of `server`.
    pub fn runs(&self, server: usize, thread_id: u32) {
        let server = u64::try_from(server).unwrap_or(0) + 1;
        self.running.store(server << 32 | u64::from(thread_id), Relaxed);
    }

    /// Notes that nothing runs.
    pub fn rests(&self) {
        self.running.store(0, Relaxed);
    }

    /// What runs: the server's number in the process, and the server's number of the connection.
    pub fn running(&self) -> Option<(usize, u32)> {
        let running = self.running.load(Relaxed);
        let server = usize::try_from(running >> 32).ok()?.checked_sub(1)?;
        Some((server, running as u32))
    }

    /// Has the session of that number ended by its thread.
    pub fn end(&self, id: u32) {
        // The thread is gone only when the process ends.
        let _ = self.end.send(id);
    }
}

/// Every session of the process.
#[derive(Debug)]
pub struct Registry {
    next: AtomicU32,
    sessions: Mutex<HashMap<u32, Arc<Entry>>>,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            next: FIRST.into(),
            sessions: Mutex::default(),
        }
    }
}

impl Registry {
    /// A number for a new session.
    pub fn number(&self) -> u32 {
        let id = self.next.fetch_add(1, Relaxed);
        if id < FIRST {
            self.next.store(FIRST + 1, Relaxed);
            return FIRST;
        }
        id
    }

    /// Enters a session that has logged in.
    pub fn enter(&self, id: u32, user: &[u8], end: UnboundedSender<u32>) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            user: user.to_vec(),
            running: AtomicU64::new(0),
            end,
        });
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.insert(id, Arc::clone(&entry));
        entry
    }

    /// The session of that number.
    pub fn find(&self, id: u64) -> Option<Arc<Entry>> {
        let id = u32::try_from(id).ok()?;
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get(&id).cloned()
    }

    /// A session has ended.
    pub fn leave(&self, id: u32) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.remove(&id);
    }
}

/// What a KILL asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The statement only, not the session.
    pub query: bool,
    /// Whose.
    pub id: u64,
}

/// Reads `KILL [HARD | SOFT] [CONNECTION | QUERY] n`; none for the other forms (`KILL USER`, `KILL QUERY ID`, an
/// expression), which name nothing of the proxy's.
pub fn parse_kill(sql: &[u8]) -> Option<Kill> {
    let text = std::str::from_utf8(sql)
        .ok()?
        .trim()
        .trim_end_matches(';')
        .trim_end();
    let mut words = text.split_ascii_whitespace().peekable();
    let mut is = |word: &str| words.next_if(|next| next.eq_ignore_ascii_case(word)).is_some();
    if !is("KILL") {
        return None;
    }
    let _ = is("HARD") || is("SOFT");
    let query = is("QUERY");
    if !query {
        is("CONNECTION");
    }
    let id = words.next()?.parse().ok()?;
    words.next().is_none().then_some(Kill { query, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_that_name_a_number_are_read() {
        let kill = |query, id| Some(Kill { query, id });
        assert_eq!(parse_kill(b"KILL 5"), kill(false, 5));
        assert_eq!(parse_kill(b" kill  connection 5 ; "), kill(false, 5));
        assert_eq!(
            parse_kill(b"KILL SOFT QUERY\n1073741825"),
            kill(true, 1 << 30 | 1)
        );
        for other in [
            "KILL USER x",
            "KILL QUERY ID 7",
            "KILL 5+1",
            "KILL",
            "KILL 5 6",
            "SELECT 1",
            "KILL -1",
            "KILL @a",
        ] {
            assert_eq!(parse_kill(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn sessions_are_found_and_say_what_they_run() {
        let registry = Registry::default();
        let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let id = registry.number();
        assert!(id >= FIRST && registry.number() != id);
        let entry = registry.enter(id, b"wp", sender);
        assert_eq!(entry.running(), None);
        entry.runs(0, 77);
        assert_eq!(registry.find(id.into()).unwrap().running(), Some((0, 77)));
        entry.rests();
        assert_eq!(entry.running(), None);
        entry.end(id);
        assert_eq!(heard.try_recv(), Ok(id));
        registry.leave(id);
        assert!(registry.find(id.into()).is_none());
    }
}
