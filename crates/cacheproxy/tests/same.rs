//! A client cannot tell the proxy from memcached: libmemcached's own test of servers, and generated commands whose answers
//! are compared byte by byte with those of a memcached that is asked directly; client libraries; and where keys are put.
//!
//! `PONTOON_LONG=1` compares 100,000 commands of each protocol; `PONTOON_SEED=n` plays one seed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a panic is the report
#![allow(clippy::disallowed_methods)] // threads of their own, no runtime

#[path = "same/clients.rs"]
mod clients;
#[path = "same/fills.rs"]
mod fills;
#[path = "same/placement.rs"]
mod placement;
#[path = "same/support.rs"]
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use support::{One, SOON, memcached};

#[test]
fn memccapable_finds_nothing() {
    let Some(program) = support::program("memccapable") else {
        return;
    };
    let Some(one) = One::start() else { return };
    let port = one.proxy.port().to_string();
    for protocol in ["-a", "-b"] {
        let output = Command::new(&program)
            .args(["-h", "127.0.0.1", "-p", &port, protocol, "-t", "30"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let failed: Vec<_> = text
            .lines()
            .filter(|line| line.contains("FAIL") || line.contains("fail"))
            .collect();
        assert!(output.status.success() && failed.is_empty(), "{protocol}: {text}");
        println!(
            "memccapable {protocol}: {} passed",
            text.matches("[pass]").count()
        );
    }
}

#[test]
fn generated_commands_are_answered_as_by_memcached() {
    let count = if std::env::var_os("PONTOON_LONG").is_some() {
        100_000
    } else {
        4_000
    };
    let seed = std::env::var("PONTOON_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let mut differences = Vec::new();
    for protocol in [Protocol::Text, Protocol::Meta, Protocol::Binary] {
        let Some(one) = One::start() else { return };
        let other = tempfile::tempdir().unwrap();
        let socket = other.path().join("m.sock");
        let _direct = memcached(&socket);
        while UnixStream::connect(&socket).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut dice = Dice(seed);
        let mut pair: Option<(UnixStream, TcpStream)> = None;
        let mut done = 0;
        while done < count {
            let (direct, proxied) = pair.get_or_insert_with(|| {
                let (direct, proxied) = (
                    UnixStream::connect(&socket).unwrap(),
                    TcpStream::connect(one.proxy).unwrap(),
                );
                direct.set_read_timeout(Some(SOON)).unwrap();
                proxied.set_read_timeout(Some(SOON)).unwrap();
                (direct, proxied)
            });
            let mut batch = Vec::new();
            let commands = dice.below(8) + 1;
            let mut log = Vec::new();
            for _ in 0..commands {
                let command = match protocol {
                    Protocol::Text => dice.text(),
                    Protocol::Meta => dice.meta(),
                    Protocol::Binary => dice.binary(),
                };
                log.push(
                    String::from_utf8_lossy(&command)
                        .chars()
                        .take(200)
                        .collect::<String>(),
                );
                batch.extend(command);
            }
            done += commands;
            // A command whose answer says that all before it is answered.
            let (mark, end) = match protocol {
                Protocol::Binary => (MARK.to_vec(), MARK_ANSWER.to_vec()),
                _ => (
                    format!("\r\nmg nowhere Om{done}\r\n").into_bytes(),
                    format!("EN Om{done}\r\n").into_bytes(),
                ),
            };
            batch.extend(mark);
            let send = |stream: &mut dyn Write| {
                let _ = stream.write_all(&batch);
            };
            send(direct);
            send(proxied);
            let wanted = answer(direct, &end, &log);
            let got = answer(proxied, &end, &log);
            if without_cas(protocol, &wanted) != without_cas(protocol, &got) {
                differences.push(format!(
                    "{protocol:?} seed {seed}, after {done}:\n{log:#?}\nmemcached: {}\nproxy:     {}",
                    String::from_utf8_lossy(&wanted),
                    String::from_utf8_lossy(&got)
                ));
                // What the two hold may differ from here on.
                break;
            }
            if !wanted.ends_with(&end) || !got.ends_with(&end) {
                // Both have closed.
                pair = None;
            }
        }
        println!("{protocol:?}: {done} commands, {} differences", differences.len());
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Text,
    Meta,
    Binary,
}

/// `noop` with an opaque of its own.
const MARK: [u8; 24] = {
    let mut bytes = [0; 24];
    (bytes[0], bytes[1], bytes[12], bytes[13]) = (0x80, 0x0a, 0xfe, 0xfe);
    bytes
};
const MARK_ANSWER: [u8; 24] = {
    let mut bytes = MARK;
    bytes[0] = 0x81;
    bytes
};

fn answer(stream: &mut impl Read, end: &[u8], log: &[String]) -> Vec<u8> {
    let (mut found, mut chunk) = (Vec::new(), [0; 16 << 10]);
    while !found.ends_with(end) {
        match stream.read(&mut chunk) {
            Ok(length @ 1..) => found.extend(&chunk[..length]),
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!(
                "{error} after {:.2000?} of {log:#?}",
                String::from_utf8_lossy(&found)
            ),
        }
    }
    found
}

/// The numbers of cas grow with every write anywhere, so that they may differ.
fn without_cas(protocol: Protocol, answer: &[u8]) -> Vec<u8> {
    if protocol != Protocol::Binary {
        return answer.to_vec();
    }
    let (mut out, mut at) = (answer.to_vec(), 0);
    while at + 24 <= out.len() {
        let length = u32::from_be_bytes(out[at + 8..at + 12].try_into().unwrap()) as usize;
        out[at + 16..at + 24].fill(0);
        at += 24 + length;
    }
    out
}

/// Splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn key(&mut self) -> String {
        match self.below(60) {
            0 => "k".repeat(250),
            1 => "k".repeat(251),
            _ => format!("key{}", self.below(12)),
        }
    }

    fn text(&mut self) -> Vec<u8> {
        let key = self.key();
        let quiet = self.one(&["", "", "", " noreply"]);
        // Memcached 1.6.18 loses the answers of commands before a `get` with a key that is too long.
        let short = &key[..key.len().min(249)];
        let verb = match self.below(22) {
            0..=5 => {
                let verb = self.one(&["set", "set", "set", "add", "replace", "append", "prepend"]);
                let length = match key.len() {
                    // Its data is read as a line, which must not be longer than what is read at once.
                    251 => self.one(&["0", "1", "30"]),
                    _ => self.one(&["0", "1", "5", "30", "5000"]),
                };
                let data = self.one(&["7", "x"]).repeat(length.parse().unwrap());
                let flags = self.one(&["0", "17", "4294967295"]);
                format!("{verb} {key} {flags} 0 {length}{quiet}\r\n{data}")
            }
            6 => format!("cas {key} 0 0 1 99999999{quiet}\r\nx"),
            7..=10 => format!("get {short}"),
            11 => format!("get {short} key1 key2 key1 key3"),
            12 => format!("gat {} {short} key4", self.one(&["0", "100", "x"])),
            13 => format!("delete {key}{}{quiet}", self.one(&["", "", " 0", " 5"])),
            // Nothing that makes a number shorter: memcached then writes it into the old place with blanks behind it, or into
            // a new one without, as a reader of the moment has it.
            14 => {
                let (verb, delta) =
                    [("incr", "1"), ("decr", "0"), ("incr", "x"), ("decr", "x")][self.below(4)];
                format!("{verb} {key} {delta}{quiet}")
            }
            15 => format!("touch {key} {}{quiet}", self.one(&["0", "1000", "x"])),
            16 => self
                .one(&[
                    "verbosity 1",
                    "verbosity",
                    "cache_memlimit 64",
                    "mn",
                    "flush_all",
                    "version",
                ])
                .to_owned(),
            17 => self
                .one(&[
                    "",
                    "get",
                    "set",
                    "nonsense",
                    "set key1 0 0",
                    "gat 1",
                    "delete",
                    "incr key1",
                    "touch key1",
                ])
                .to_owned(),
            18 => format!(
                "set {key} 0 0 {}{quiet}",
                self.one(&["-1", "x", "99999999999999999999"])
            ),
            19 => format!("set {key} x 0 1{quiet}\r\ny"),
            20 => format!("set {key} 0 0 3{quiet}\r\nfar too long"),
            _ => format!("gets {short}x missing"),
        };
        format!("{verb}\r\n").into_bytes()
    }

    fn meta(&mut self) -> Vec<u8> {
        let key = self.key();
        let quiet = self.one(&["", "", " q"]);
        let opaque = self.one(&["", "", " O123", " k"]);
        let line = match self.below(12) {
            0..=3 => {
                let length = if key.len() > 250 {
                    "5"
                } else {
                    self.one(&["0", "1", "5", "5000"])
                };
                let data = self.one(&["7", "x"]).repeat(length.parse().unwrap());
                let mode = self.one(&["", "", " ME", " MA", " MP", " MR", " T0", " F9"]);
                format!("ms {key} {length}{mode}{opaque}{quiet}\r\n{data}")
            }
            4..=7 => format!(
                "mg {key}{}{opaque}{quiet}",
                self.one(&["", " v", " s v f t", " k v", " N0 v"])
            ),
            8 => format!("md {key}{opaque}{quiet}"),
            9 => {
                let how = self.one(&["", " v", " D5 v", " N0 J7 v", " MD D0 v"]);
                // With both, an item that was there is not answered and one that is made is: only its server knows which.
                let quiet = if how.contains('N') { "" } else { quiet };
                format!("ma {key}{how}{opaque}{quiet}")
            }
            10 => self
                .one(&["mg", "ms key1", "ms key1 x", "md", "ma", "mn"])
                .to_owned(),
            _ => format!("mg Zm9v b v{opaque}"),
        };
        format!("{line}\r\n").into_bytes()
    }

    fn binary(&mut self) -> Vec<u8> {
        let mut key = self.key().into_bytes();
        let value = b"7".repeat([0, 1, 5, 5000][self.below(4)]);
        let quiet = self.below(3) == 0;
        let opcode: u8 = [
            0x00, 0x00, 0x01, 0x01, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0c, 0x0e, 0x0f, 0x1c, 0x1d, 0x23,
            0x0b, 0x0a, 0x7f,
        ][self.below(19)];
        let mut extras = match opcode {
            0x01..=0x03 => vec![0, 0, 0, self.below(9) as u8, 0, 0, 0, 0],
            0x05 => [&[0, 0, 0, 0, 0, 0, 0, 3][..], &[0; 7], &[5], &[0; 4]].concat(),
            0x06 => [&[0; 15][..], &[5], &[0; 4]].concat(),
            0x1c | 0x1d | 0x23 => vec![0; 4],
            _ => Vec::new(),
        };
        let value = if matches!(opcode, 0x01..=0x03 | 0x0e | 0x0f) {
            value
        } else {
            Vec::new()
        };
        if matches!(opcode, 0x0a | 0x0b | 0x7f) {
            key.clear();
        }
        if self.below(150) == 0 && opcode != 0x7f {
            extras.push(1);
        }
        let number = match (opcode, quiet) {
            (0x00, true) => 0x09,
            (0x01..=0x06, true) => opcode + 0x10,
            (0x0c, true) => 0x0d,
            (0x0e, true) => 0x19,
            (0x0f, true) => 0x1a,
            (0x1d, true) => 0x1e,
            (0x23, true) => 0x24,
            (opcode, _) => opcode,
        };
        let mut packet = vec![0x80, number];
        packet.extend((key.len() as u16).to_be_bytes());
        packet.extend([extras.len() as u8, 0, 0, 0]);
        packet.extend(((extras.len() + key.len() + value.len()) as u32).to_be_bytes());
        packet.extend((self.next() as u32 & 0x7fff_ffff).to_be_bytes());
        packet.extend([0; 8]);
        packet.extend(extras);
        packet.extend(key);
        packet.extend(value);
        packet
    }
}

#[test]
fn a_memcached_that_is_killed_comes_back_empty() {
    let Some(mut one) = One::start() else { return };
    let mut stream = TcpStream::connect(one.proxy).unwrap();
    assert_eq!(support::say(&mut stream, b"set a 0 0 1\r\n1\r\n"), b"STORED\r\n");
    drop(one.memcached.take());
    // The same connection: nothing is found, and nothing that is not so is said to be.
    assert_eq!(support::say(&mut stream, b"get a\r\n"), b"END\r\n");
    let said = support::say(&mut stream, b"set a 0 0 1\r\n2\r\n");
    assert!(said.starts_with(b"SERVER_ERROR"), "{said:?}");
    one.memcached = Some(memcached(&one.dir.path().join("memcached.sock")));
    // Each thread of the proxy dials for itself, so that what one connection finds says nothing of another's.
    support::until(|| {
        assert_eq!(support::say(&mut stream, b"get a\r\n"), b"END\r\n");
        support::say(&mut stream, b"set b 0 0 1\r\n3\r\n") == b"STORED\r\n"
    });
    assert_eq!(support::say(&mut stream, b"get a\r\n"), b"END\r\n");
    assert_eq!(support::say(&mut stream, b"set a 0 0 1\r\n3\r\n"), b"STORED\r\n");
}
