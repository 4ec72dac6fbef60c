//! Session tickets that every edge of the fleet can open, so that a visitor whose next connection comes to another
//! server is spared a full handshake (RFC 5077, RFC 8446 section 4.6.1).
//!
//! The keys are secrets of the fleet: with one of them a recorded TLS 1.2 session that was resumed can be read. So they
//! are changed twice a day and forgotten after a day and a half.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use pontoon_fleet::UnixMillis;
use pontoon_rt::files;
use rustls::server::ProducesTickets;

const SECRET: usize = 32;
const ID: usize = 8;
const MAX_FILE: u64 = 4096;
/// A new key comes this often.
const CHANGE_EVERY: Duration = Duration::from_secs(12 * 3600);
/// Tickets of an older key are not taken, and none are made.
const FORGET_AFTER: Duration = Duration::from_secs(36 * 3600);
/// A new key is used when every edge should have it.
const SPREAD: Duration = Duration::from_secs(60);
/// How long a client may come back with a ticket, in seconds.
const LIFETIME: u32 = 12 * 3600;

/// The keys that a fleet's edges share, the newest first.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKeys(Vec<TicketKey>);

#[derive(Clone, PartialEq, Eq)]
struct TicketKey {
    made: UnixMillis,
    secret: [u8; SECRET],
}

impl std::fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TicketKeys({} of them)", self.0.len())
    }
}

impl TicketKeys {
    /// None yet.
    pub fn none() -> TicketKeys {
        TicketKeys(Vec::new())
    }

    /// The keys as they should be at `now`; `None` when these are. `secret` is for the key that is then added.
    pub fn changed(
        &self,
        now: UnixMillis,
        secret: impl FnOnce() -> Option<[u8; SECRET]>,
    ) -> Option<TicketKeys> {
        let newest = self.0.first().map(|key| key.made);
        if newest.is_some_and(|made| now.since(made) < CHANGE_EVERY) {
            return None;
        }
        let mut keys = vec![TicketKey {
            made: now,
            secret: secret()?,
        }];
        let young = |key: &&TicketKey| now.since(key.made) < FORGET_AFTER;
        keys.extend(self.0.iter().filter(young).cloned());
        Some(TicketKeys(keys))
    }

    /// As [`TicketKeys::parse`] reads it: a line for each key, when it was made and its secret.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for key in &self.0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "{} ", key.made.0);
            for byte in key.secret {
                let _ = write!(text, "{byte:02x}");
            }
            text.push('\n');
        }
        text
    }

    /// Reads keys; `None` when they are not well-formed.
    pub fn parse(text: &str) -> Option<TicketKeys> {
        let keys: Vec<TicketKey> = text.lines().map(line).collect::<Option<_>>()?;
        let in_order = keys.is_sorted_by(|one, next| one.made > next.made);
        (in_order && keys.len() <= 8).then_some(TicketKeys(keys))
    }
}

fn line(line: &str) -> Option<TicketKey> {
    let (made, hex) = line.split_once(' ')?;
    if hex.len() != 2 * SECRET || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut secret = [0; SECRET];
    for (at, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(TicketKey {
        made: UnixMillis(made.parse().ok()?),
        secret,
    })
}

/// Makes and opens tickets with the keys in a file. Without one, or with none that is young enough, there are no
/// tickets: every handshake is a full one.
#[derive(Debug)]
pub struct Tickets {
    path: PathBuf,
    keys: RwLock<Arc<Ready>>,
}

/// Keys, ready to be used.
struct Ready {
    from: TicketKeys,
    /// The one that new tickets are sealed with.
    seal: Option<usize>,
    keys: Vec<([u8; ID], LessSafeKey)>,
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.from.fmt(f)
    }
}

impl Tickets {
    /// With the keys in the file `path`, which need not be there yet; [`Tickets::load`] reads it.
    pub fn new(path: PathBuf) -> Tickets {
        Tickets {
            path,
            keys: RwLock::new(Arc::new(Ready::new(TicketKeys::none(), UnixMillis(0)))),
        }
    }

    /// Reads the file and looks which key is the right one at `now`. What was read last stays when it cannot be read.
    pub fn load(&self, now: UnixMillis) {
        let read = files::read_limited(&self.path, MAX_FILE);
        let text = read
            .ok()
            .flatten()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let keys = text
            .and_then(|text| TicketKeys::parse(&text))
            .unwrap_or_else(|| self.ready().from.clone());
        let ready = Arc::new(Ready::new(keys, now));
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = ready;
    }

    fn ready(&self) -> Arc<Ready> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Ready {
    fn new(from: TicketKeys, now: UnixMillis) -> Ready {
        let young: Vec<&TicketKey> = from
            .0
            .iter()
            .filter(|key| now.since(key.made) < FORGET_AFTER)
            .collect();
        let everywhere = young.iter().position(|key| now.since(key.made) >= SPREAD);
        // The first of all need not wait: no other edge has a better one.
        let seal = everywhere.or(young.len().checked_sub(1));
        let keys = young.iter().filter_map(|key| {
            let mut id = [0; ID];
            id.copy_from_slice(&digest::digest(&digest::SHA256, &key.secret).as_ref()[..ID]);
            let unbound = UnboundKey::new(&AES_256_GCM_SIV, &key.secret).ok()?;
            Some((id, LessSafeKey::new(unbound)))
        });
        let keys: Vec<_> = keys.collect();
        Ready { seal, keys, from }
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    /// Key id, nonce, and what is sealed.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let ready = self.ready();
        let (id, key) = ready.keys.get(ready.seal?)?;
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(id), &mut sealed)
            .ok()?;
        Some([&id[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (id, rest) = ticket.split_first_chunk::<ID>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let ready = self.ready();
        let (id, key) = ready.keys.iter().find(|(known, _)| known == id)?;
        let mut plain = sealed.to_vec();
        let length = key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(id), &mut plain)
            .ok()?
            .len();
        plain.truncate(length);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn keys(at: &[(u64, u8)]) -> TicketKeys {
        TicketKeys(
            at.iter()
                .map(|(made, byte)| TicketKey {
                    made: UnixMillis(*made),
                    secret: [*byte; SECRET],
                })
                .collect(),
        )
    }

    #[test]
    fn keys_change_twice_a_day_and_are_forgotten() {
        let at = |hours: u64, byte: u8, keys: &TicketKeys| {
            keys.changed(UnixMillis(hours * HOUR), || Some([byte; SECRET]))
        };
        let first = at(100, 1, &TicketKeys::none()).unwrap();
        assert_eq!(at(111, 9, &first), None);
        let second = at(112, 2, &first).unwrap();
        assert_eq!(second, keys(&[(112 * HOUR, 2), (100 * HOUR, 1)]));
        let third = at(136, 3, &second).unwrap();
        assert_eq!(third, keys(&[(136 * HOUR, 3), (112 * HOUR, 2)]));
        assert_eq!(
            third.changed(UnixMillis(200 * HOUR), || None),
            None,
            "no random numbers"
        );
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let both = keys(&[(2, 0xab), (1, 0)]);
        assert_eq!(TicketKeys::parse(&both.to_text()), Some(both.clone()));
        assert_eq!(TicketKeys::parse(""), Some(TicketKeys::none()));
        let text = both.to_text();
        for wrong in [
            &text[..text.len() - 2],
            "1 zz",
            "x",
            "1 ",
            &keys(&[(1, 0), (2, 0)]).to_text(),
        ] {
            assert_eq!(TicketKeys::parse(wrong), None, "{wrong:?}");
        }
        assert!(!format!("{both:?}").contains("ab"), "a key is not shown");
    }

    #[test]
    fn one_edge_opens_the_tickets_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket.keys");
        let (one, other) = (Tickets::new(path.clone()), Tickets::new(path.clone()));
        one.load(UnixMillis(0));
        assert_eq!(one.encrypt(b"state"), None, "without keys there are no tickets");
        let mut now = UnixMillis(1000 * HOUR);
        std::fs::write(&path, keys(&[(now.0, 1)]).to_text()).unwrap();
        one.load(now);
        other.load(now);
        let ticket = one.encrypt(b"state").unwrap();
        assert_eq!(other.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        for at in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[at] ^= 1;
            assert_eq!(other.decrypt(&forged), None);
        }
        // A new key is opened at once, and sealed with when everybody has it.
        now.0 += 12 * HOUR;
        std::fs::write(&path, keys(&[(now.0, 2), (1000 * HOUR, 1)]).to_text()).unwrap();
        one.load(now);
        assert!(
            other.decrypt(&one.encrypt(b"x").unwrap()).is_some(),
            "the old one still seals"
        );
        now.0 += 61_000;
        one.load(now);
        let ticket = one.encrypt(b"y").unwrap();
        assert_eq!(other.decrypt(&ticket), None, "this one has not read the new key");
        other.load(now);
        assert!(other.decrypt(&ticket).is_some());
        // A file that is spoilt changes nothing; keys that are too old are not used.
        std::fs::write(&path, "spoilt").unwrap();
        other.load(now);
        assert!(other.decrypt(&ticket).is_some());
        now.0 += 36 * HOUR;
        other.load(now);
        assert_eq!((other.decrypt(&ticket), other.encrypt(b"z")), (None, None));
    }
}
