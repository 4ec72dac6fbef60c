//! Every session of the process by its number, for KILL.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

/// The first number that a session gets. Servers count from 1, so that theirs (in `SHOW PROCESSLIST`) and ours are
/// told apart for as long as a server lives.
const FIRST: u32 = 1 << 30;

/// What other sessions may know of one.
#[derive(Debug)]
pub struct Entry {
    /// Its user's name.
    pub user: Vec<u8>,
    at: Mutex<At>,
    /// Where its thread hears that it is to end.
    end: UnboundedSender<u32>,
}

/// Which connection a session uses, and whether somebody is about to end that.
#[derive(Debug, Default)]
struct At {
    /// The server's number in the process, and the server's number of the connection.
    connection: Option<(usize, u32)>,
    aims: usize,
}

/// The connection of a session, for as long as somebody is about to end it or what it runs: it is lent to nobody else.
#[derive(Debug)]
pub struct Aim<'a> {
    entry: &'a Entry,
    /// The server's number in the process.
    pub server: usize,
    /// The server's number of the connection.
    pub thread_id: u32,
}

impl Entry {
    /// Notes that the session uses connection `thread_id` of `server`: a statement runs there, or it is held.
    pub fn uses(&self, server: usize, thread_id: u32) {
        self.at().connection = Some((server, thread_id));
    }

    /// Notes that the session uses no connection. False while somebody is about to end what ran on the one that it
    /// used: whoever got that next would be hit.
    pub fn rests(&self) -> bool {
        let mut at = self.at();
        at.connection = None;
        at.aims == 0
    }

    /// The connection that the session uses, kept for the one who aims at it.
    pub fn aim(&self) -> Option<Aim<'_>> {
        let mut at = self.at();
        let (server, thread_id) = at.connection?;
        at.aims += 1;
        Some(Aim {
            entry: self,
            server,
            thread_id,
        })
    }

    /// Has the session of that number ended by its thread.
    pub fn end(&self, id: u32) {
        // The thread is gone only when the process ends.
        let _ = self.end.send(id);
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Aim<'_> {
    fn drop(&mut self) {
        self.entry.at().aims -= 1;
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
            at: Mutex::default(),
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
    let plain = without_comments(std::str::from_utf8(sql).ok()?)?;
    let text = plain.trim().trim_end_matches(';').trim_end();
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

/// With a blank for each comment; none when one is executed, or has no end.
fn without_comments(text: &str) -> Option<Cow<'_, str>> {
    let mut plain = Cow::Borrowed(text);
    while let Some((before, rest)) = plain.split_once("/*") {
        let (comment, after) = rest.split_once("*/")?;
        if comment.starts_with('!') || comment.starts_with("M!") {
            return None;
        }
        plain = Cow::Owned(format!("{before} {after}"));
    }
    Some(plain)
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
        assert_eq!(parse_kill(b"kill/* x */query/**/5"), kill(true, 5));
        for other in [
            "KILL USER x",
            "KILL QUERY ID 7",
            "KILL 5+1",
            "KILL",
            "KILL 5 6",
            "SELECT 1",
            "KILL -1",
            "KILL @a",
            "KILL /*!50000 QUERY */ 5",
            "KILL 5 /* x",
        ] {
            assert_eq!(parse_kill(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn sessions_are_found_and_say_what_they_use() {
        let registry = Registry::default();
        let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let id = registry.number();
        assert!(id >= FIRST && registry.number() != id);
        let entry = registry.enter(id, b"wp", sender);
        assert!(entry.aim().is_none());
        entry.uses(0, 77);
        let found = registry.find(id.into()).unwrap();
        let aim = found.aim().unwrap();
        assert_eq!((aim.server, aim.thread_id), (0, 77));
        assert!(!entry.rests(), "somebody aims at what it used");
        drop(aim);
        assert!(entry.rests() && entry.aim().is_none());
        entry.end(id);
        assert_eq!(heard.try_recv(), Ok(id));
        registry.leave(id);
        assert!(registry.find(id.into()).is_none());
    }
}
