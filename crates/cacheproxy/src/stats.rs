//! Numbers of several servers as those of one.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Bytes, BytesMut};
use pontoon_memcache_wire::binary::Asked;

use crate::client::Outcome;
use crate::proxy::Thread;

/// What the servers are asked for `stats` with these words; `None` when nobody has to be asked.
pub fn question(words: &[u8]) -> Option<Bytes> {
    let words = words.trim_ascii();
    match words {
        b"" => Some(Bytes::from_static(b"stats\r\n")),
        b"items" | b"slabs" | b"sizes" | b"conns" | b"settings" | b"reset" => {
            let mut command = BytesMut::from(&b"stats "[..]);
            command.extend_from_slice(words);
            command.extend_from_slice(b"\r\n");
            Some(command.freeze())
        }
        _ => None,
    }
}

/// The answer in the text protocol.
pub fn text(thread: &Thread, words: &[u8], outcomes: &[Outcome]) -> Bytes {
    match words.trim_ascii() {
        b"proxy" => return lines(&proxy(thread)),
        b"servers" => return lines(&servers(thread)),
        b"reset" => return Bytes::from_static(b"RESET\r\n"),
        b"detail on" | b"detail off" => return Bytes::from_static(b"OK\r\n"),
        words if question(words).is_none() => return Bytes::from_static(b"ERROR\r\n"),
        _ => {}
    }
    let mut total: Vec<(String, String)> = Vec::new();
    for outcome in outcomes {
        let Outcome::Answer(answer) = outcome else {
            continue;
        };
        for line in String::from_utf8_lossy(answer).lines() {
            let mut parts = line.splitn(3, ' ');
            let (Some("STAT"), Some(name), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            match total.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum = joined(name, sum, value),
                None => total.push((name.to_owned(), value.to_owned())),
            }
        }
    }
    lines(&total)
}

/// Two servers' values of one name in one: sums of what is counted, one of what is the same everywhere.
fn joined(name: &str, one: &str, other: &str) -> String {
    const SAME: [&str; 12] = [
        "pid",
        "time",
        "version",
        "libevent",
        "pointer_size",
        "hash_power_level",
        "chunk_size",
        "chunks_per_page",
        "accepting_conns",
        "maxconns",
        "item_size_max",
        "growth_factor",
    ];
    if name == "uptime" {
        let older = |text: &str| text.parse().unwrap_or(0_u64);
        return older(one).max(older(other)).to_string();
    }
    if SAME.contains(&name.rsplit(':').next().unwrap_or(name)) {
        return one.to_owned();
    }
    if let (Ok(one), Ok(other)) = (one.parse::<u64>(), other.parse::<u64>()) {
        return one.saturating_add(other).to_string();
    }
    match (one.parse::<f64>(), other.parse::<f64>()) {
        (Ok(one), Ok(other)) => format!("{:.6}", one + other),
        _ => one.to_owned(),
    }
}

fn proxy(thread: &Thread) -> Vec<(String, String)> {
    let counters = &thread.context.counters;
    [
        ("curr_connections", counters.clients.load(Relaxed)),
        ("total_connections", counters.connections.load(Relaxed)),
        ("requests", counters.requests.load(Relaxed)),
        ("missed", counters.missed.load(Relaxed)),
        ("waited", counters.waited.load(Relaxed)),
        ("failed", counters.failed.load(Relaxed)),
        ("list", thread.list()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_string()))
    .into()
}

fn servers(thread: &Thread) -> Vec<(String, String)> {
    let standing = thread
        .context
        .standing
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let say = |trouble: &Option<String>| trouble.clone().unwrap_or_else(|| "up".to_owned());
    standing
        .values()
        .map(|report| (report.server.to_string(), say(&report.trouble)))
        .collect()
}

fn lines(pairs: &[(String, String)]) -> Bytes {
    let mut out = BytesMut::new();
    for (name, value) in pairs {
        out.extend_from_slice(format!("STAT {name} {value}\r\n").as_bytes());
    }
    out.extend_from_slice(b"END\r\n");
    out.freeze()
}

/// The same in the binary protocol: a packet each, and one that is empty.
pub fn packets(asked: &Asked, text: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    for line in String::from_utf8_lossy(text).lines() {
        let mut parts = line.splitn(3, ' ');
        if let (Some("STAT"), Some(name), Some(value)) = (parts.next(), parts.next(), parts.next()) {
            out.extend_from_slice(&asked.say(0, name.as_bytes(), value.as_bytes()));
        }
    }
    let status = if text == b"ERROR\r\n" { 1 } else { 0 };
    out.extend_from_slice(&asked.say(status, b"", b""));
    out.freeze()
}

/// What a client may rely on everywhere.
pub fn lowest_version(outcomes: &[Outcome]) -> Bytes {
    let key = |line: &Bytes| -> Vec<u32> {
        let text = String::from_utf8_lossy(line).into_owned();
        let version = text.trim().trim_start_matches("VERSION ");
        version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
    };
    let lines = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Answer(line) => Some(line),
        _ => None,
    });
    lines
        .min_by_key(|line| key(line))
        .cloned()
        .unwrap_or_else(|| Bytes::from_static(b"VERSION 1.6.0\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_version_is_told_and_numbers_are_added() {
        let answers =
            ["VERSION 1.6.18\r\n", "VERSION 1.6.9\r\n"].map(|line| Outcome::Answer(Bytes::from(line)));
        assert_eq!(lowest_version(&answers), &b"VERSION 1.6.9\r\n"[..]);
        assert_eq!(joined("cmd_get", "3", "4"), "7");
        assert_eq!(joined("rusage_user", "0.250000", "0.500000"), "0.750000");
        assert_eq!(joined("pid", "3", "4"), "3");
        assert_eq!(joined("uptime", "3", "9"), "9");
    }
}
