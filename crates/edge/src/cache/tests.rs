use std::time::{Duration, SystemTime};

use pontoon_fleet::{CacheRules, EdgeAnswers, LONGEST_KEPT, Purge, UnixMillis};

use super::answer::Kept;
use super::asked::Key;
use super::store::{Cache, Found, Looking, Moment};
use crate::http1::response::{self, Asked};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n";

fn kept(fields: &str, asked_at: u64) -> Option<Kept> {
    kept_by(&CacheRules::default(), "200 OK", fields, asked_at)
}

fn kept_by(rules: &CacheRules, status: &str, fields: &str, asked_at: u64) -> Option<Kept> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n{fields}\r\n");
    let asked = Asked {
        head: false,
        upgrade: false,
    };
    let answer = response::read(head.as_bytes(), &asked).unwrap();
    Kept::of(rules, &answer, REQUEST, asked_at, SystemTime::UNIX_EPOCH)
}

fn fresh_for(fields: &str) -> Option<u64> {
    kept(fields, 0)?.fresh_for(0).map(|left| left.as_secs())
}

#[test]
fn how_long_an_answer_is_kept() {
    for (fields, seconds) in [
        ("Cache-Control: max-age=9\r\n", Some(9)),
        ("Cache-Control: max-age=9, s-maxage=3\r\n", Some(3)),
        (
            "Cache-Control: Max-Age=\"9\"\r\nCache-Control: max-age=4\r\n",
            Some(4),
        ),
        ("Cache-Control: max-age=9, must-revalidate\r\nAge: 4\r\n", Some(5)),
        ("Cache-Control: max-age=9999999999999999999999\r\n", None),
        ("Cache-Control: max-age=x\r\n", None),
        ("Cache-Control: x=\"a, no-store\", max-age=9\r\n", Some(9)),
        ("Cache-Control: max-age=9, private=\"a, b\"\r\n", None),
        ("Cache-Control: max-age=9\r\nAge: soon\r\n", None),
        ("Expires: Thu, 01 Jan 1970 00:00:09 GMT\r\n", Some(9)),
        (
            "Date: Thu, 01 Jan 1970 00:00:05 GMT\r\nExpires: Thu, 01 Jan 1970 00:00:09 GMT\r\n",
            Some(4),
        ),
        ("Expires: 0\r\n", None),
        ("", None),
    ] {
        assert_eq!(fresh_for(fields), seconds, "{fields}");
    }
    let rules = CacheRules {
        unsaid: Duration::from_secs(7),
        longest: Duration::from_secs(60),
        ..CacheRules::default()
    };
    let by = |status, fields| Some(kept_by(&rules, status, fields, 0)?.fresh_for(0)?.as_secs());
    assert_eq!(by("200 OK", ""), Some(7));
    assert_eq!(by("404 No", ""), None);
    assert_eq!(by("404 No", "Cache-Control: max-age=3600\r\n"), Some(60));
    for status in ["206 Part", "302 Found", "500 No", "304 Same"] {
        assert_eq!(by(status, "Cache-Control: max-age=9\r\n"), None, "{status}");
    }
}

#[test]
fn a_clock_that_goes_back_makes_nothing_fresh() {
    let one = kept("Cache-Control: max-age=9\r\n", 5_000).unwrap();
    assert!(one.fresh_for(5_000).is_some() && one.fresh_for(13_999).is_some());
    assert!(one.fresh_for(4_999).is_none() && one.fresh_for(14_000).is_none());
}

#[test]
fn how_long_what_is_over_is_shown() {
    let rules = CacheRules {
        stale_while_revalidate: Duration::from_secs(5),
        stale_if_error: Duration::from_secs(7),
        longest: Duration::from_secs(600),
        ..CacheRules::default()
    };
    for (fields, while_asking, for_an_error) in [
        ("max-age=2", 5, 7),
        ("max-age=2, stale-while-revalidate=9, stale-if-error=1", 9, 1),
        (
            "max-age=2, stale-while-revalidate=9999999, stale-if-error=x",
            600,
            0,
        ),
        ("max-age=2, must-revalidate, stale-while-revalidate=9", 0, 0),
        ("max-age=2, proxy-revalidate", 0, 0),
        ("s-maxage=2, stale-if-error=9", 0, 0),
    ] {
        let field = format!("Cache-Control: {fields}\r\n");
        let one = kept_by(&rules, "200 OK", &field, 1_000).unwrap();
        let shown = |over: u64| {
            let now = 3_000 + over * 1_000;
            assert_eq!(one.fresh_for(now), None, "{fields}");
            (one.is_shown_while_asking(now), one.is_shown_for_an_error(now))
        };
        for over in [0, 1, 5, 7, 9, 599, 600, 700] {
            assert_eq!(
                shown(over),
                (over < while_asking, over < for_an_error),
                "{fields} {over}"
            );
        }
        assert!(!one.is_shown_while_asking(999) && !one.is_shown_for_an_error(999));
    }
    let rules = CacheRules {
        longest: LONGEST_KEPT,
        stale_if_error: LONGEST_KEPT,
        ..CacheRules::default()
    };
    let day = kept_by(&rules, "200 OK", "Cache-Control: max-age=86400\r\n", 0).unwrap();
    assert!(!day.is_shown_for_an_error(86_400_000), "a day in all");
    assert_eq!(rules.oldest(), LONGEST_KEPT);
}

#[test]
fn what_depends_on_more_than_it_says_is_told_apart_or_not_kept() {
    let coded = kept("Cache-Control: max-age=9\r\nContent-Encoding: gzip\r\n", 0).unwrap();
    let who_reads_it = b"GET / HTTP/1.1\r\nHost: t\r\nAccept-Encoding: gzip\r\n\r\n";
    assert!(coded.suits(REQUEST) && !coded.suits(who_reads_it));
    for (origin, is_kept) in [("*", true), ("https://a.test", false), ("null", false)] {
        let field = format!("Cache-Control: max-age=9\r\nAccess-Control-Allow-Origin: {origin}\r\n");
        assert_eq!(kept(&field, 0).is_some(), is_kept, "{origin}");
        assert!(kept(&(field + "Vary: Origin\r\n"), 0).is_some());
    }
}

fn key(target: &str) -> Key {
    Key([b"http", "t".as_bytes(), b"t", target.as_bytes()].join(&0).into())
}

fn obeying(memory: u64) -> (Cache, EdgeAnswers) {
    let cache = Cache::default();
    let answers = EdgeAnswers {
        cache: Some(CacheRules {
            memory,
            ..CacheRules::default()
        }),
        ..EdgeAnswers::default()
    };
    cache.obey(&answers);
    (cache, answers)
}

fn moment(cache: &Cache, key: &Key) -> Option<Moment> {
    let looking = Looking {
        now: 0,
        alone: true,
        may_keep: true,
    };
    match cache.find(key, looking, |_| true) {
        Found::Nothing(asking) => Some(asking.moment),
        Found::Kept(_) | Found::Over(..) | Found::Asked(_) => None,
    }
}

fn keep(cache: &Cache, key: &Key, moment: Moment) -> bool {
    cache.keep(key, kept("Cache-Control: max-age=9\r\n", 0).unwrap(), moment)
}

#[test]
fn what_was_asked_for_before_a_purge_or_a_write_is_not_kept() {
    let (cache, mut answers) = obeying(1024 * 1024);
    let (page, other) = (key("/a"), key("/b"));
    let before = moment(&cache, &page).unwrap();
    answers.purges.0.insert(Purge::everything(UnixMillis(1)));
    cache.obey(&answers);
    assert!(!keep(&cache, &page, before));
    let after = moment(&cache, &page).unwrap();
    assert!(keep(&cache, &page, after));
    cache.obey(&answers);
    assert!(moment(&cache, &page).is_none(), "a purge is obeyed once");
    let before = moment(&cache, &other).unwrap();
    cache.forget(&other);
    assert!(!keep(&cache, &other, before));
}

#[test]
fn memory_stays_within_its_bounds_whatever_is_asked_for() {
    let most = 64 * 1024;
    let (cache, _) = obeying(most);
    let all: Vec<Key> = (0..2_000)
        .map(|n| key(&format!("/{n}{}", "k".repeat(n % 500))))
        .collect();
    for key in &all {
        let moment = moment(&cache, key).unwrap();
        assert!(keep(&cache, key, moment));
    }
    let left = all.iter().filter(|key| moment(&cache, key).is_none()).count() as u64;
    assert!(left > 10 && left * 512 <= most, "{left}");
    assert!(moment(&cache, &all[1_999]).is_none(), "the last one is there");
    // What is on its way, too.
    let rules = CacheRules {
        memory: most,
        ..CacheRules::default()
    };
    assert!(cache.take_room(most / 2, &rules) && !cache.take_room(1, &rules));
    cache.give_back(most / 2);
    assert!(cache.take_room(1, &rules));
}
