//! An application that writes down where each request that reaches it ends. It reads only what nobody can read in two
//! ways, which is all that a proxy should send.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `POST`, …
    pub method: String,
    /// The request target.
    pub target: String,
    /// The content of its body.
    pub body: Vec<u8>,
}

/// What came, by the number of the case: targets are `/NUMBER/…`.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<HashMap<usize, Vec<Seen>>>>);

impl Record {
    /// Adds one.
    pub fn add(&self, seen: Seen) {
        let number = seen
            .target
            .split('/')
            .nth(1)
            .and_then(|number| number.parse().ok());
        let mut all = self.0.lock().unwrap();
        // What is not a case is a part of one that was taken for a request.
        all.entry(number.unwrap_or(usize::MAX)).or_default().push(seen);
    }

    /// What came of that case.
    pub fn of(&self, number: usize) -> Vec<Seen> {
        self.0.lock().unwrap().get(&number).cloned().unwrap_or_default()
    }

    /// What came and belongs to no case.
    pub fn strays(&self) -> Vec<Seen> {
        self.of(usize::MAX)
    }
}

/// Starts one at `address`; it lives as long as the test's process.
pub fn start(address: SocketAddr) -> Record {
    let record = Record::default();
    let listener = TcpListener::bind(address).unwrap();
    let kept = record.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let record = kept.clone();
            std::thread::spawn(move || listen(stream, &record));
        }
    });
    record
}

fn listen(mut stream: TcpStream, record: &Record) {
    let mut bytes = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        while let Some((seen, length)) = read(&bytes) {
            bytes.drain(..length);
            record.add(seen);
            if stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .is_err()
            {
                return;
            }
        }
        match stream.read(&mut piece) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&piece[..count]),
            _ => return,
        }
    }
}

/// The request that `bytes` begin with and its length; `None` when it is not whole.
fn read(bytes: &[u8]) -> Option<(Seen, usize)> {
    let head_end = find(bytes, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut words = head.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let field = |wanted: &str| {
        head.lines().skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted)
                .then(|| value.trim().to_ascii_lowercase())
        })
    };
    let rest = &bytes[head_end..];
    let (body, length) = if field("transfer-encoding").as_deref() == Some("chunked") {
        chunks(rest)?
    } else {
        let length = field("content-length").and_then(|length| length.parse().ok());
        let length = length.unwrap_or(0);
        (rest.get(..length)?.to_vec(), length)
    };
    let seen = Seen { method, target, body };
    Some((seen, head_end + length))
}

fn chunks(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut at, mut content) = (0, Vec::new());
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let digits = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(digits.split(';').next()?.trim(), 16).ok()?;
        at += line + 2;
        if size == 0 {
            // Trailers, then an empty line.
            loop {
                let line = find(&bytes[at..], b"\r\n")?;
                at += line + 2;
                if line == 0 {
                    return Some((content, at));
                }
            }
        }
        content.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
