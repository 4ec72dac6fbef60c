//! Connections that nobody uses at the moment, of one thread. Pure: what a connection is, and what time is, are the
//! caller's.
//!
//! A session leaves its connection here after each transaction and usually finds it again: its *token* says which.
//! Until then it *lingers*: still that session's, but whoever needs one more may take it. A connection whose session
//! has ended is *free*.

use std::time::{Duration, Instant};

/// What a connection can be used for.
pub trait Lends {
    /// What two connections must have in common to stand in for each other.
    type Key: PartialEq;

    /// Its key.
    fn key(&self) -> &Self::Key;

    /// Which database server it takes a place of.
    fn server(&self) -> usize;
}

/// Finds a connection that a session has left here, if it is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    at: usize,
    serial: u64,
}

/// What a session says about a connection that it leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// The session has ended.
    pub free: bool,
    /// The next statement may ask about the last one (warnings, found rows): taken only when nothing else is there.
    pub precious: bool,
}

#[derive(Debug)]
struct Place<T> {
    serial: u64,
    since: Instant,
    left: Left,
    connection: T,
}

/// The connections of one thread that nobody uses.
#[derive(Debug)]
pub struct Shelf<T> {
    places: Vec<Option<Place<T>>>,
    empty: Vec<usize>,
    next_serial: u64,
}

impl<T> Default for Shelf<T> {
    fn default() -> Shelf<T> {
        Shelf {
            places: Vec::new(),
            empty: Vec::new(),
            next_serial: 0,
        }
    }
}

impl<T: Lends> Shelf<T> {
    /// Leaves a connection.
    pub fn leave(&mut self, connection: T, left: Left, now: Instant) -> Token {
        self.next_serial += 1;
        let serial = self.next_serial;
        let place = Place {
            serial,
            since: now,
            left,
            connection,
        };
        let at = match self.empty.pop() {
            Some(at) => {
                self.places[at] = Some(place);
                at
            }
            None => {
                self.places.push(Some(place));
                self.places.len() - 1
            }
        };
        Token { at, serial }
    }

    /// Takes back what was left, unless it is gone.
    pub fn claim(&mut self, token: Token) -> Option<T> {
        match self.places.get(token.at) {
            Some(Some(place)) if place.serial == token.serial => self.remove(token.at),
            _ => None,
        }
    }

    /// Says that the session which left it has ended.
    pub fn set_free(&mut self, token: Token) {
        if let Some(Some(place)) = self.places.get_mut(token.at)
            && place.serial == token.serial
        {
            place.left = Left {
                free: true,
                precious: false,
            };
        }
    }

    /// A free connection with that key: the one that `effort` says the least of, and among equals the last one left,
    /// so that those which are too many grow old.
    pub fn take_free(&mut self, key: &T::Key, effort: impl Fn(&T) -> Option<u32>) -> Option<T> {
        let candidates = self.places.iter().enumerate().filter_map(|(at, place)| {
            let place = place.as_ref()?;
            let fits = place.left.free && place.connection.key() == key;
            fits.then(|| Some((effort(&place.connection)?, std::cmp::Reverse(place.since), at)))?
        });
        let (.., at) = candidates.min()?;
        self.remove(at)
    }

    /// The connection with that key that has lingered longest; a precious one only if there is no other.
    pub fn steal(&mut self, key: &T::Key, usable: impl Fn(&T) -> bool) -> Option<T> {
        let at = self
            .oldest(|place| !place.left.free && place.connection.key() == key && usable(&place.connection))?;
        self.remove(at)
    }

    /// The connection to `server` that is of least use, whatever its key: to be closed in favour of another.
    pub fn give_up(&mut self, server: usize) -> Option<T> {
        let free = self.oldest(|place| place.left.free && place.connection.server() == server);
        let at = free.or_else(|| self.oldest(|place| place.connection.server() == server))?;
        self.remove(at)
    }

    fn oldest(&self, wanted: impl Fn(&Place<T>) -> bool) -> Option<usize> {
        let places = self.places.iter().enumerate();
        let candidates = places.filter_map(|(at, place)| Some((at, place.as_ref()?)));
        candidates
            .filter(|(_, place)| wanted(place))
            .min_by_key(|(_, place)| (place.left.precious, place.since))
            .map(|(at, _)| at)
    }

    /// Removes everything that `drop_it` says; the caller closes them.
    pub fn sweep(&mut self, now: Instant, drop_it: impl Fn(&T, Duration) -> bool) -> Vec<T> {
        let old = |place: &Place<T>| drop_it(&place.connection, now.saturating_duration_since(place.since));
        let found = (0..self.places.len())
            .filter(|at| matches!(&self.places[*at], Some(place) if old(place)))
            .collect::<Vec<_>>();
        found.into_iter().filter_map(|at| self.remove(at)).collect()
    }

    fn remove(&mut self, at: usize) -> Option<T> {
        let place = self.places.get_mut(at)?.take()?;
        self.empty.push(at);
        Some(place.connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Wire {
        id: usize,
        user: &'static str,
        server: usize,
    }

    impl Lends for Wire {
        type Key = &'static str;

        fn key(&self) -> &&'static str {
            &self.user
        }

        fn server(&self) -> usize {
            self.server
        }
    }

    fn wire(id: usize, user: &'static str) -> Wire {
        Wire { id, user, server: 0 }
    }

    fn len(shelf: &Shelf<Wire>) -> usize {
        shelf.places.iter().flatten().count()
    }

    const FREE: Left = Left {
        free: true,
        precious: false,
    };
    const PRECIOUS: Left = Left {
        free: false,
        precious: true,
    };

    #[test]
    fn a_session_finds_its_own_again_until_somebody_took_it() {
        let now = Instant::now();
        let mut shelf = Shelf::default();
        let first = shelf.leave(wire(1, "u"), Left::default(), now);
        assert_eq!(shelf.claim(first), Some(wire(1, "u")));
        assert_eq!(shelf.claim(first), None);
        let again = shelf.leave(wire(1, "u"), Left::default(), now);
        assert_eq!(shelf.claim(first), None, "the place is another's now");
        assert_eq!(shelf.steal(&"u", |_| true), Some(wire(1, "u")));
        assert_eq!(shelf.claim(again), None);
        assert_eq!(len(&shelf), 0);
    }

    #[test]
    fn free_ones_by_effort_and_lingering_ones_by_age() {
        let now = Instant::now();
        let later = |ms| now + Duration::from_millis(ms);
        let mut shelf = Shelf::default();
        shelf.leave(wire(1, "u"), FREE, now);
        shelf.leave(wire(2, "u"), FREE, later(1));
        shelf.leave(wire(3, "u"), PRECIOUS, later(2));
        shelf.leave(wire(4, "u"), Left::default(), later(3));
        shelf.leave(wire(5, "u"), Left::default(), later(4));
        assert_eq!(
            shelf.take_free(&"other", |_| Some(0)),
            None,
            "never another user's"
        );
        let effort = |wire: &Wire| (wire.id != 1).then_some(0);
        assert_eq!(shelf.take_free(&"u", effort).map(|wire| wire.id), Some(2));
        assert_eq!(
            shelf.take_free(&"u", effort),
            None,
            "what is of no use is not taken"
        );
        assert_eq!(shelf.steal(&"u", |_| true).map(|wire| wire.id), Some(4));
        assert_eq!(shelf.steal(&"u", |_| true).map(|wire| wire.id), Some(5));
        assert_eq!(
            shelf.steal(&"u", |_| true).map(|wire| wire.id),
            Some(3),
            "precious ones last"
        );
        assert_eq!(shelf.give_up(1), None);
        assert_eq!(shelf.give_up(0).map(|wire| wire.id), Some(1));
    }

    #[test]
    fn what_a_session_left_is_free_when_it_ends() {
        let now = Instant::now();
        let mut shelf = Shelf::default();
        let token = shelf.leave(wire(1, "u"), PRECIOUS, now);
        assert_eq!(shelf.take_free(&"u", |_| Some(0)), None);
        shelf.set_free(token);
        assert_eq!(shelf.take_free(&"u", |_| Some(0)), Some(wire(1, "u")));
    }

    #[test]
    fn what_is_old_or_of_no_use_is_swept() {
        let now = Instant::now();
        let mut shelf = Shelf::default();
        shelf.leave(wire(1, "u"), FREE, now);
        shelf.leave(wire(2, "u"), FREE, now + Duration::from_secs(9));
        let swept = shelf.sweep(now + Duration::from_secs(10), |_, age| {
            age >= Duration::from_secs(5)
        });
        assert_eq!(swept, [wire(1, "u")]);
        assert_eq!(shelf.sweep(now, |wire, _| wire.id == 2), [wire(2, "u")]);
    }

    proptest! {
        /// Whatever happens, nobody gets a connection that another has, nor one of another key.
        #[test]
        fn no_connection_is_lent_twice(steps in proptest::collection::vec((0usize..6, 0usize..8), 1..200)) {
            let now = Instant::now();
            let users = ["a", "b"];
            let mut shelf = Shelf::default();
            let mut out: Vec<Wire> = (0..6).map(|id| wire(id, users[id % 2])).collect();
            let mut tokens: Vec<(Token, usize)> = Vec::new();
            for (step, n) in steps {
                let got = match step {
                    0 | 1 if !out.is_empty() => {
                        let wire = out.remove(n % out.len());
                        let id = wire.id;
                        tokens.push((shelf.leave(wire, Left { free: step == 1, precious: n % 3 == 0 }, now), id));
                        None
                    }
                    2 if !tokens.is_empty() => {
                        let (token, id) = tokens.remove(n % tokens.len());
                        let got = shelf.claim(token);
                        prop_assert!(got.as_ref().is_none_or(|wire| wire.id == id));
                        got
                    }
                    3 => shelf.take_free(&users[n % 2], |_| Some(0)).inspect(|wire| assert_eq!(wire.user, users[n % 2])),
                    4 => shelf.steal(&users[n % 2], |_| true).inspect(|wire| assert_eq!(wire.user, users[n % 2])),
                    5 => shelf.give_up(0),
                    _ => None,
                };
                if let Some(wire) = got {
                    prop_assert!(out.iter().all(|other| other.id != wire.id));
                    out.push(wire);
                }
                prop_assert_eq!(out.len() + len(&shelf), 6);
            }
        }
    }
}
