//! What the cache would do with a request at this moment, in words, for whoever asks on the edge's socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use pontoon_fleet::CacheRules;
use pontoon_fleet::units::format_bytes;
use serde::{Deserialize, Serialize};

use super::asked::asked;
use super::serve::is_wanted;
use super::store::Cache;
use crate::http1::request::{self, Sender};

/// The cache of an edge at this moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CacheState {
    /// Answers that it keeps.
    pub answers: u64,
    /// About how much memory they take.
    pub bytes: u64,
    /// How much they may take.
    pub memory: u64,
    /// What it would do with the request that was asked about.
    pub says: Option<String>,
    /// The application would not be asked before it is answered.
    #[serde(default)]
    pub is_hit: bool,
}

/// A request as it is asked about: over HTTPS or not, and its head in hexadecimal digits.
pub fn asking(secure: bool, head: &[u8]) -> String {
    let scheme = if secure { "https" } else { "http" };
    let digits = head.iter().map(|byte| format!("{byte:02x}"));
    format!("{scheme}:{}", digits.collect::<String>())
}

impl CacheState {
    /// Of `cache` at `now`, asked as [`asking`] does.
    pub(crate) fn of(cache: &Cache, rules: &CacheRules, question: &str, now: u64) -> CacheState {
        let (answers, bytes) = cache.size();
        let would = parse(question).map(|(secure, head)| would(cache, rules, secure, &head, now));
        let is_hit = would.as_ref().is_some_and(|(is_hit, _)| *is_hit);
        CacheState {
            answers,
            bytes,
            memory: rules.memory,
            says: would.map(|(_, says)| says),
            is_hit,
        }
    }
}

fn parse(question: &str) -> Option<(bool, Vec<u8>)> {
    let (scheme, digits) = question.split_once(':')?;
    let pairs = digits.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    Some((scheme == "https", bytes.collect::<Option<_>>()?))
}

fn would(cache: &Cache, rules: &CacheRules, secure: bool, head: &[u8], now: u64) -> (bool, String) {
    let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let visitor = Sender::Visitor {
        peer: nowhere,
        local: SocketAddr::new(nowhere, 0),
        secure,
    };
    let mut passed = Vec::new();
    let request = match request::read(head, &visitor, &mut passed) {
        Ok(request) => request,
        Err(reject) => return (false, format!("it would be refused: {}", reject.word())),
    };
    let asked = match asked(rules, &request, &passed) {
        Ok(asked) => asked,
        Err(why) => return (false, format!("the cache has nothing to do with it: {why}")),
    };
    let kept = cache.peek(&asked.key, |kept| is_wanted(&asked, kept, &passed, now));
    let Some(kept) = kept else {
        return (false, "nothing is kept that answers it (edge.cache)".to_owned());
    };
    let (age, size) = (kept.age(now).as_secs(), format_bytes(kept.body.len() as u64));
    let is_over_and_shown = kept.is_shown_while_asking(now);
    let says = match kept.fresh_for(now) {
        Some(left) => format!(
            "it is answered with what is kept: {size}, {age} s old, fresh for {} s (edge.cache)",
            left.as_secs()
        ),
        None if is_over_and_shown => format!(
            "it is answered with what is kept and over: {size}, {age} s old, and a new one is asked for \
             (stale-while-revalidate)"
        ),
        None if kept.is_shown_for_an_error(now) => {
            format!("what is kept is over, {age} s old, and shown in place of an error (stale-if-error)")
        }
        None => "what is kept is over: the application is asked (edge.cache)".to_owned(),
    };
    (kept.fresh_for(now).is_some() || is_over_and_shown, says)
}
