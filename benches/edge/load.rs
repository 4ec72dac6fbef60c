//! The visitors: connections that ask for one thing, from one thread on a core of its own. With epoll, because it must
//! cost less than what it measures: two system calls for a request and its answer, where a proxy has four.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketType};
use rustls::ClientConfig;

use crate::busy::{Busy, pin};
use crate::streams;
use crate::wire::{NAME, Over, Wire};

/// What is asked, by whom and how fast.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where.
    pub to: SocketAddr,
    /// Connections.
    pub connections: usize,
    /// How visitors speak.
    pub over: Over,
    /// A new connection for each request.
    pub closing: bool,
    /// Requests a second of all connections, evenly; `None` for as many as there can be.
    pub rate: Option<f64>,
    /// Not measured.
    pub warm_up: Duration,
    /// How long it is measured.
    pub time: Duration,
    /// The core that it runs on.
    pub core: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Requests answered in the measured time.
    pub requests: u64,
    /// Their latencies in microseconds, sorted. With a rate they count from when a request was due.
    pub latencies: Vec<u32>,
    /// Requests without a whole answer of status 200.
    pub failed: u64,
    /// How long it really took.
    pub took: Duration,
    /// Processor time of the load meanwhile.
    pub busy: Duration,
}

impl Done {
    /// Requests a second.
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// The latency below which `share` of the requests were, in microseconds.
    pub fn percentile(&self, share: f64) -> u32 {
        pontoon_benches::percentile(&self.latencies, share)
    }
}

/// What is asked for.
pub const PATH: &str = "/articles/2026/pontoon?page=2";
/// What a visitor says beside that: where HTTP/2's own table has the name (RFC 7541 appendix A), the name of HTTP/1.1 and
/// the value.
pub const FIELDS: [(u8, &str, &str); 6] = [
    (1, "Host", NAME),
    (58, "User-Agent", "Mozilla/5.0 (X11; Linux x86_64)"),
    (19, "Accept", "text/html,application/xhtml+xml"),
    (17, "Accept-Language", "en-GB,en;q=0.5"),
    (16, "Accept-Encoding", "gzip, deflate, br"),
    (32, "Cookie", "session=0123456789abcdef"),
];

fn request(closing: bool) -> Vec<u8> {
    let mut text = format!("GET {PATH} HTTP/1.1\r\n");
    for (_, name, value) in FIELDS {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str(if closing {
        "Connection: close\r\n\r\n"
    } else {
        "\r\n"
    });
    text.into_bytes()
}

/// Runs the load on a thread of its own and waits for its end.
///
/// # Errors
/// When connections cannot be made.
pub fn run(load: &Load) -> io::Result<Done> {
    let load = load.clone();
    let thread = std::thread::spawn(move || {
        pin(load.core);
        match load.over {
            Over::Http2 => streams::visit(&load),
            Over::Plain | Over::Tls => Visitors::new(load)?.visit(),
        }
    });
    thread
        .join()
        .map_err(|_| io::Error::other("the load's thread ended"))?
}

/// Opens connections that have each asked once, and keeps them open.
///
/// # Errors
/// When one is not answered.
pub fn idle(to: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut open = Vec::with_capacity(count);
    let mut bytes = vec![0; 64 * 1024];
    let request = request(false);
    for index in 0..count {
        // An address has no more than 28,000 ports to call from.
        let from = SocketAddr::from(([127, 0, 1, 1 + (index / 20_000) as u8], 0));
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        rustix::net::bind(&socket, &from)?;
        rustix::net::connect(&socket, &to)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(&request)?;
        let mut answer = Answer::default();
        while !answer.is_whole() {
            match stream.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => answer.take(&bytes[..length])?,
            }
        }
        open.push(stream);
    }
    Ok(open)
}

/// As much of an answer as has come.
#[derive(Default)]
struct Answer {
    head: Vec<u8>,
    /// Bytes of the body still to come, once the head is there.
    left: Option<usize>,
}

impl Answer {
    fn is_whole(&self) -> bool {
        self.left == Some(0)
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let odd = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
        let (all, came) = match self.left {
            Some(left) => (left, bytes.len()),
            None => {
                let mut whole = std::mem::take(&mut self.head);
                let known = match whole.is_empty() {
                    true => bytes,
                    false => {
                        whole.extend_from_slice(bytes);
                        &whole[..]
                    }
                };
                let Some(end) = memchr::memmem::find(known, b"\r\n\r\n") else {
                    self.head = known.to_vec();
                    return Ok(());
                };
                let (head, body) = known.split_at(end + 4);
                if !head.starts_with(b"HTTP/1.1 200") {
                    return Err(odd("not a 200"));
                }
                (content_length(head).ok_or_else(|| odd("no length"))?, body.len())
            }
        };
        let left = all.checked_sub(came);
        self.left = Some(left.ok_or_else(|| odd("more than was announced"))?);
        Ok(())
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length: ";
    let mut lines = head.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| {
        line.get(..NAME.len())
            .filter(|name| name.eq_ignore_ascii_case(NAME))
            .map(|_| &line[NAME.len()..])
    })?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

struct Visitor {
    stream: Option<Wire>,
    answer: Answer,
    /// When the request that is under way was due.
    since: Option<Instant>,
}

struct Visitors {
    load: Load,
    request: Vec<u8>,
    config: Option<Arc<ClientConfig>>,
    poll: OwnedFd,
    all: Vec<Visitor>,
    /// Those without a request under way.
    free: VecDeque<usize>,
    done: Done,
    measuring: bool,
}

impl Visitors {
    fn new(load: Load) -> io::Result<Visitors> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let visitor = |_| Visitor {
            stream: None,
            answer: Answer::default(),
            since: None,
        };
        let all = (0..load.connections).map(visitor).collect();
        Ok(Visitors {
            free: (0..load.connections).collect(),
            request: request(load.closing),
            config: load.over.config()?,
            load,
            poll,
            all,
            done: Done::default(),
            measuring: false,
        })
    }

    fn visit(mut self) -> io::Result<Done> {
        let busy = Busy::default();
        let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
        let mut bytes = vec![0; 256 * 1024];
        let mut begun = Instant::now();
        let mut before = Duration::ZERO;
        let mut due = begun;
        let step = self
            .load
            .rate
            .map(|rate| Duration::from_secs_f64(1.0 / rate.max(1e-3)));
        loop {
            let now = Instant::now();
            if !self.measuring && now - begun >= self.load.warm_up {
                busy.note_now();
                before = busy.time();
                (self.measuring, begun) = (true, now);
            } else if self.measuring && now - begun >= self.load.time {
                busy.note_now();
                self.done.busy = busy.time() - before;
                self.done.took = now - begun;
                self.done.latencies.sort_unstable();
                return Ok(self.done);
            }
            let mut wait = Duration::from_millis(20);
            match step {
                None => {
                    while let Some(index) = self.free.pop_front() {
                        self.ask(index, now)?;
                    }
                }
                Some(step) => {
                    while due <= now
                        && let Some(index) = self.free.pop_front()
                    {
                        self.ask(index, due)?;
                        due += step;
                    }
                    wait = wait.min(due.saturating_duration_since(now));
                }
            }
            let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
            match epoll::wait(&self.poll, spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                self.hear(event.data.u64() as usize, &mut bytes);
            }
        }
    }

    fn ask(&mut self, index: usize, due: Instant) -> io::Result<()> {
        let visitor = &mut self.all[index];
        let stream = match &mut visitor.stream {
            Some(stream) => stream,
            none => {
                let stream = Wire::open(self.load.to, self.config.as_ref(), self.load.closing)?;
                epoll::add(
                    &self.poll,
                    &stream,
                    epoll::EventData::new_u64(index as u64),
                    epoll::EventFlags::IN,
                )?;
                none.insert(stream)
            }
        };
        visitor.since = Some(due);
        visitor.answer = Answer::default();
        if stream.send(&self.request).is_err() {
            self.failed(index);
        }
        Ok(())
    }

    fn hear(&mut self, index: usize, bytes: &mut [u8]) {
        while self.hear_once(index, bytes) {}
    }

    /// Reads once; says whether there may be more that no event will tell of.
    fn hear_once(&mut self, index: usize, bytes: &mut [u8]) -> bool {
        let visitor = &mut self.all[index];
        let Some(stream) = &mut visitor.stream else {
            return false;
        };
        let more = stream.reads_ahead();
        let taken = match stream.read(bytes) {
            // A kept connection may be closed between two requests; only that.
            Ok(0) if visitor.since.is_none() && !self.load.closing => {
                visitor.stream = None;
                return false;
            }
            // Who asked for a close waits for it.
            Ok(0) if self.load.closing && visitor.answer.is_whole() => {
                visitor.stream = None;
                self.answered(index);
                return false;
            }
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => visitor.answer.take(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => Err(error),
        };
        if taken.is_err() {
            self.failed(index);
            return false;
        }
        if visitor.answer.is_whole() && !self.load.closing && visitor.since.is_some() {
            self.answered(index);
        }
        more
    }

    fn answered(&mut self, index: usize) {
        if let Some(since) = self.all[index].since.take()
            && self.measuring
        {
            self.done.requests += 1;
            self.done
                .latencies
                .push(u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
        self.free.push_back(index);
    }

    fn failed(&mut self, index: usize) {
        self.done.failed += 1;
        let visitor = &mut self.all[index];
        (visitor.stream, visitor.since) = (None, None);
        self.free.push_back(index);
    }
}
