//! What is kept of an answer, for how long, and what a visitor gets of it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pontoon_fleet::{CacheRules, LONGEST_KEPT};

use super::directives::Directives;
use crate::http1::body::Length;
use crate::http1::head::Fields;
use crate::http1::request::Version;
use crate::http1::response::{Ending, Handover, Parsed};
use crate::http1::syntax;

/// Those that mean the same for everybody (RFC 9110 section 15.1), less what has parts or no content.
const KEPT: [u16; 6] = [200, 203, 301, 308, 404, 410];
/// Of those the ones that are kept although the application says nothing.
const KEPT_UNSAID: [u16; 3] = [200, 301, 308];

/// An answer that is kept, or will be when its body is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// As it is passed on, without the empty line and without an age.
    head: Bytes,
    /// In the application's own framing.
    pub body: Bytes,
    /// What it depends on: names in lower case, and what the request said.
    pub vary: Vec<(Vec<u8>, Vec<u8>)>,
    status: u16,
    /// When it was asked for, in milliseconds of the clock of all threads.
    asked_at: u64,
    /// How old it was then.
    age: Duration,
    /// How old it may become.
    fresh_for: Duration,
    /// For how long after that it is shown while a new one is asked for.
    while_revalidate: Duration,
    /// For how long after that it is shown in place of an error.
    if_error: Duration,
}

/// How what is kept came to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It is what the visitor asked for, or it is over and a new one is asked for.
    Hit,
    /// The application was asked, and has nothing better than an error.
    InsteadOfAnError,
}

impl Kept {
    /// Of `answer` to the request whose head is `head`, which was sent at `asked_at`; `None`: it is not to be kept.
    /// `date` is now.
    pub fn of(
        rules: &CacheRules,
        answer: &Parsed<'_>,
        head: &[u8],
        asked_at: u64,
        date: SystemTime,
    ) -> Option<Kept> {
        let response = &answer.response;
        let fits = match response.ending {
            Ending::Announced(Length::Known(length)) => length <= rules.largest,
            Ending::Announced(Length::None | Length::Chunked) => true,
            // Nobody can tell its end from a loss.
            Ending::Close => false,
        };
        if !fits || !KEPT.contains(&response.status) {
            return None;
        }
        let mut says = Says::default();
        for (_, name, value) in answer.fields() {
            says.read(&name.to_ascii_lowercase(), value)?;
        }
        let age = Duration::from_secs(says.age.unwrap_or(0));
        let fresh_for = says.fresh_for(rules, response.status, date)?;
        let fresh_for = fresh_for.min(age.saturating_add(rules.longest));
        if fresh_for <= age {
            return None;
        }
        let (while_revalidate, if_error) = says.stale_for(rules, fresh_for.saturating_sub(age));
        if says.is_coded {
            says.vary.push(b"accept-encoding".to_vec());
        }
        let vary = says.vary.iter().map(|name| (name.clone(), said(head, name)));
        Some(Kept {
            head: kept_head(answer),
            body: Bytes::new(),
            vary: vary.collect(),
            status: response.status,
            asked_at,
            age,
            fresh_for,
            while_revalidate,
            if_error,
        })
    }

    /// Whether it is the answer to a request with the head `head`, as far as the fields that it depends on go.
    pub fn suits(&self, head: &[u8]) -> bool {
        self.vary.iter().all(|(name, value)| said(head, name) == *value)
    }

    /// Whether it depends on the same fields, with the same values.
    pub fn is_same_variant(&self, other: &Kept) -> bool {
        self.vary == other.vary
    }

    /// How old it is at `now`, with what it took to come (section 4.2.3, without the apparent age: the clocks of two
    /// machines say nothing that is worth a wrong hit).
    pub fn age(&self, now: u64) -> Duration {
        self.age
            .saturating_add(Duration::from_millis(now.saturating_sub(self.asked_at)))
    }

    /// How long it is still fresh at `now`; `None`: it is not. A clock before its beginning is none that can be trusted.
    pub fn fresh_for(&self, now: u64) -> Option<Duration> {
        let left = self.fresh_for.checked_sub(self.age(now))?;
        (now >= self.asked_at && !left.is_zero()).then_some(left)
    }

    /// Whether it may be shown at `now` although it is over, while a new one is asked for.
    pub fn is_shown_while_asking(&self, now: u64) -> bool {
        self.over_for(now)
            .is_some_and(|over| over < self.while_revalidate)
    }

    /// Whether it may be shown at `now` in place of an error.
    pub fn is_shown_for_an_error(&self, now: u64) -> bool {
        self.over_for(now).is_some_and(|over| over < self.if_error)
    }

    fn over_for(&self, now: u64) -> Option<Duration> {
        let over = self.age(now).saturating_sub(self.fresh_for);
        (now >= self.asked_at).then_some(over)
    }

    /// About how much memory it takes, beside its key.
    pub fn cost(&self) -> u64 {
        const OVERHEAD: usize = 512;
        let vary = self
            .vary
            .iter()
            .map(|(name, value)| name.len() + value.len() + 64);
        (self.head.len() + self.body.len() + vary.sum::<usize>() + OVERHEAD) as u64
    }

    /// What a visitor gets who asked with `head`, at `now`: head and body.
    pub fn deliver(&self, head: &[u8], is_head: bool, now: u64, shown: Shown) -> (Vec<u8>, Bytes) {
        let not_modified = self.status == 200 && self.is_known_to(head);
        let mut out = Vec::with_capacity(self.head.len() + 128);
        match not_modified {
            true => self.write_not_modified(&mut out),
            false => out.extend_from_slice(&self.head),
        }
        let age = self.age(now).as_secs();
        // RFC 9211 sections 2.1, 2.2 and 2.4; less than nothing is left of what is over.
        let how = match shown {
            Shown::Hit => "hit",
            Shown::InsteadOfAnError => "fwd=stale; detail=stale-if-error",
        };
        let ttl = match self.fresh_for(now) {
            Some(left) => left.as_secs().to_string(),
            None => format!("-{}", self.over_for(now).unwrap_or_default().as_secs().max(1)),
        };
        out.extend_from_slice(
            format!("Age: {age}\r\nCache-Status: Pontoon; {how}; ttl={ttl}\r\n\r\n").as_bytes(),
        );
        match not_modified || is_head {
            true => (out, Bytes::new()),
            false => (out, self.body.clone()),
        }
    }

    /// RFC 9110 section 15.4.5.
    fn write_not_modified(&self, out: &mut Vec<u8>) {
        const SAID: [&str; 7] = [
            "cache-control",
            "content-location",
            "date",
            "etag",
            "expires",
            "last-modified",
            "vary",
        ];
        out.extend_from_slice(b"HTTP/1.1 304 Not Modified\r\n");
        for line in self.head.split_inclusive(|byte| *byte == b'\n').skip(1) {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            if SAID.iter().any(|said| name.eq_ignore_ascii_case(said.as_bytes())) {
                out.extend_from_slice(line);
            }
        }
    }

    /// Whether the visitor has it already (RFC 9110 section 13.2.2).
    fn is_known_to(&self, head: &[u8]) -> bool {
        let known = said(head, b"if-none-match");
        if !known.is_empty() {
            let Some(tag) = self.field("etag") else {
                return known == b"*";
            };
            // Weakly: what was compressed on its way has a weak one.
            let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
            return known == b"*"
                || known
                    .split(|byte| *byte == b',')
                    .any(|one| opaque(one.trim_ascii()) == opaque(tag));
        }
        let since = date(&said(head, b"if-modified-since"));
        let modified = self.field("last-modified").and_then(date);
        matches!((modified, since), (Some(modified), Some(since)) if modified <= since)
    }

    fn field(&self, wanted: &str) -> Option<&[u8]> {
        self.head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
            let at = line.iter().position(|byte| *byte == b':')?;
            let is_it = line[..at].eq_ignore_ascii_case(wanted.as_bytes());
            is_it.then(|| line[at + 1..].trim_ascii())
        })
    }
}

/// What an answer says that matters to a cache.
#[derive(Default)]
struct Says {
    control: Directives,
    age: Option<u64>,
    date: Option<SystemTime>,
    /// `None` in it: something that is no date, and so over.
    expires: Option<Option<SystemTime>>,
    vary: Vec<Vec<u8>>,
    /// It is in a coding that not everybody reads, whether it says that it depends on that or not.
    is_coded: bool,
    /// It names a site that may read it: whose request it answers, if it is not for all of them.
    names_an_origin: bool,
}

impl Says {
    /// `None`: nothing is kept that says this.
    fn read(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        match name {
            b"set-cookie" | b"content-range" | b"www-authenticate" => return None,
            b"cache-control" => self.control.read(value),
            b"age" => self.age = Some(self.age.unwrap_or(0).max(syntax::decimal(value)?)),
            b"date" => self.date = date(value),
            b"content-encoding" => self.is_coded = true,
            b"access-control-allow-origin" => self.names_an_origin |= value.trim_ascii() != b"*",
            b"expires" => self.expires = Some(date(value).filter(|_| self.expires.is_none())),
            b"vary" => {
                for name in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    match name {
                        b"*" => return None,
                        b"" => {}
                        name => self.vary.push(name.to_ascii_lowercase()),
                    }
                }
            }
            _ => {}
        }
        Some(())
    }

    /// How old it may become (RFC 9111 section 4.2.1); `None`: it is not to be kept. Nothing is guessed.
    fn fresh_for(&self, rules: &CacheRules, status: u16, now: SystemTime) -> Option<Duration> {
        let control = &self.control;
        if control.no_store || control.no_cache || control.private {
            return None;
        }
        // One site's permission shown to another keeps that out: the application forgot to say that it varies.
        if self.names_an_origin && !self.vary.iter().any(|name| name == b"origin") {
            return None;
        }
        if let Some(seconds) = control.s_maxage.or(control.max_age) {
            return Some(Duration::from_secs(seconds));
        }
        match self.expires {
            Some(until) => until?.duration_since(self.date.unwrap_or(now)).ok(),
            None => KEPT_UNSAID.contains(&status).then_some(rules.unsaid),
        }
    }

    /// For how long it is shown after it was fresh for `fresh`: while a new one is asked for, and in place of an error.
    fn stale_for(&self, rules: &CacheRules, fresh: Duration) -> (Duration, Duration) {
        let control = &self.control;
        if control.must_revalidate {
            return (Duration::ZERO, Duration::ZERO);
        }
        let most = LONGEST_KEPT.saturating_sub(fresh);
        let window = |said: Option<u64>, unsaid: Duration| {
            let said = said.map(|seconds| Duration::from_secs(seconds).min(rules.longest));
            said.unwrap_or(unsaid).min(most)
        };
        (
            window(control.stale_while_revalidate, rules.stale_while_revalidate),
            window(control.stale_if_error, rules.stale_if_error),
        )
    }
}

/// The head that is kept: as it would be passed on, less what belongs to this one answer.
fn kept_head(answer: &Parsed<'_>) -> Bytes {
    let mut passed = Vec::new();
    let to = Handover {
        version: Version::Http11,
        keep_alive: true,
        chunk: answer.response.ending == Ending::Announced(Length::Chunked),
    };
    answer.write(&to, &mut passed);
    let mut kept = Vec::with_capacity(passed.len());
    for line in passed.split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if line != b"\r\n" && !is("age") && !is("x-request-id") && !is("server-timing") {
            kept.extend_from_slice(line);
        }
    }
    kept.into()
}

/// All that a request says in the fields with this name.
fn said(head: &[u8], wanted: &[u8]) -> Vec<u8> {
    let Ok((_, fields)) = Fields::parse(head) else {
        return Vec::new();
    };
    let values = fields
        .iter()
        .filter(|(_, name, _)| name.eq_ignore_ascii_case(wanted))
        .map(|(_, _, value)| value);
    values.collect::<Vec<_>>().join(&b", "[..])
}

fn date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?.trim()).ok()
}
