//! What the visitors need to know of an application: which requests to send, how to judge the answers, and how to read
//! back what was acknowledged.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::LabError;
use crate::http::{Request, Response};

/// A request of a visitor, and what its answer will be judged by.
#[derive(Clone, Debug)]
pub struct Visit {
    /// What it is for, in a word: `home`, `comment` …
    pub what: &'static str,
    /// What is sent.
    pub request: Request,
    /// The text that a write carries; `None` for a read.
    pub text: Option<String>,
}

/// The identity of something that was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct WriteId {
    /// `comment`, `post`, `note` …
    pub kind: &'static str,
    /// What the application called it when it acknowledged it.
    pub id: u64,
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)
    }
}

/// SHA-256 of the text that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextHash([u8; 32]);

impl TextHash {
    /// The hash of `text`.
    pub fn of(text: &str) -> TextHash {
        TextHash(Sha256::digest(text.as_bytes()).into())
    }
}

/// How an answer was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A read was answered as it should.
    Good,
    /// A write was acknowledged under this identity.
    Written(WriteId),
    /// The answer came but is wrong; the reason in a few words.
    Bad(String),
}

/// A future that can be sent to another thread.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything that a reader of an application found: identities and the hashes of their texts.
pub type Found = BTreeMap<WriteId, TextHash>;

/// An application as its visitors see it.
pub trait Visited: Send + Sync {
    /// The `Host` that visitors ask for.
    fn host(&self) -> String;

    /// The next request, chosen by `dice`. `known` are writes that were acknowledged before, to be read.
    fn next(&self, dice: &mut Dice, known: &[WriteId]) -> Visit;

    /// A write that [`Visited::look`] shows.
    fn write(&self, _dice: &mut Dice) -> Option<Visit> {
        None
    }

    /// The page that shows what was written, with its text.
    fn look(&self, _id: &WriteId) -> Option<Request> {
        None
    }

    /// Judges an answer. A redirection or an error page with status 200 is the application's to recognise.
    fn judge(&self, visit: &Visit, response: &Response) -> Verdict;

    /// Reads everything that visitors wrote, through the server at `address`, as a visitor would.
    fn read_back(&self, address: SocketAddr) -> Later<'_, Result<Found, LabError>>;

    /// Reads everything that visitors wrote straight from a database, by its Unix socket, as its root.
    fn read_database<'a>(&'a self, socket: &'a std::path::Path) -> Later<'a, Result<Found, LabError>>;
}

/// A small generator of random numbers (xorshift64*, Vigna 2016): the same seed gives the same visitors.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// A generator from a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`, or 0 when `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 {
            0
        } else {
            (self.roll() >> 11) as usize % limit
        }
    }

    /// A number from 0 up to, not including, 1.
    pub fn share(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of `known`, the newest hundred of them.
    pub fn recent<'a>(&mut self, known: &'a [WriteId], kind: &str) -> Option<&'a WriteId> {
        let tail = &known[known.len().saturating_sub(100)..];
        let fit: Vec<&WriteId> = tail.iter().filter(|id| id.kind == kind).collect();
        fit.get(self.below(fit.len())).copied()
    }

    /// A text that no other write has.
    pub fn text(&mut self) -> String {
        format!("pontoon{:016x}{:016x}", self.roll(), self.roll())
    }
}
