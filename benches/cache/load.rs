//! The applications: connections that ask for keys, from one thread on a core of its own. Names and values have one length,
//! so that how much is to come back is known when something is asked, and counting it costs next to nothing.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use pontoon_benches::busy::{Busy, pin};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// What is asked, by whom and how fast.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where.
    pub to: SocketAddr,
    /// Connections.
    pub connections: usize,
    /// Requests that a connection sends at a time; the next ones follow when all are answered.
    pub depth: usize,
    /// Such batches a second of all connections, evenly; `None` for as many as there can be.
    pub rate: Option<f64>,
    /// How long it is measured, after [`WARM_UP`].
    pub time: Duration,
    /// The core that it runs on.
    pub core: usize,
}

/// Not measured.
pub const WARM_UP: Duration = Duration::from_millis(300);

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Requests answered in the measured time.
    pub requests: u64,
    /// In all, the warm-up included.
    pub all: u64,
    /// Latencies of batches in microseconds, sorted. With a rate they count from when one was due.
    pub latencies: Vec<u32>,
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

    /// The latency below which `share` of the batches were, in microseconds.
    pub fn percentile(&self, share: f64) -> u32 {
        pontoon_benches::percentile(&self.latencies, share)
    }
}

const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 100;
/// One request of so many is a `set`.
const SETS: u64 = 10;
const STORED: &[u8] = b"STORED\r\n";
const END: &[u8] = b"END\r\n";

fn set(key: usize) -> Vec<u8> {
    format!(
        "set key:{key:08} 0 0 {VALUE_BYTES}\r\n{}\r\n",
        "x".repeat(VALUE_BYTES)
    )
    .into_bytes()
}

fn found_bytes() -> usize {
    format!("VALUE key:{:08} 0 {VALUE_BYTES}\r\n\r\n", 0).len() + VALUE_BYTES + END.len()
}

/// Stores every key.
///
/// # Errors
/// When one is not stored.
pub fn fill(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut said = [0; STORED.len()];
    for key in 0..KEYS {
        stream.write_all(&set(key))?;
        stream.read_exact(&mut said)?;
        if said != *STORED {
            return Err(io::Error::other("a key was not stored"));
        }
    }
    Ok(())
}

/// Runs the load on a thread of its own and waits for its end.
///
/// # Errors
/// When a connection cannot be made, or an answer is not the one that was asked for.
pub fn run(load: &Load) -> io::Result<Done> {
    let load = load.clone();
    let thread = std::thread::spawn(move || {
        pin(load.core);
        Applications::new(load)?.ask_and_hear()
    });
    thread
        .join()
        .map_err(|_| io::Error::other("the load's thread ended"))?
}

struct Application {
    stream: TcpStream,
    /// Bytes still to come.
    left: usize,
    last: &'static [u8],
    /// When what is under way was due.
    since: Instant,
}

struct Applications {
    load: Load,
    poll: OwnedFd,
    all: Vec<Application>,
    free: Vec<usize>,
    random: u64,
    batch: Vec<u8>,
    done: Done,
    measuring: bool,
}

impl Applications {
    fn new(load: Load) -> io::Result<Applications> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut all = Vec::new();
        for index in 0..load.connections {
            let stream = TcpStream::connect(load.to)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&poll, &stream, data, epoll::EventFlags::IN)?;
            all.push(Application {
                stream,
                left: 0,
                last: END,
                since: Instant::now(),
            });
        }
        Ok(Applications {
            free: (0..load.connections).collect(),
            load,
            poll,
            all,
            random: 7,
            batch: Vec::new(),
            done: Done::default(),
            measuring: false,
        })
    }

    fn ask_and_hear(mut self) -> io::Result<Done> {
        let busy = Busy::default();
        let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
        let mut bytes = vec![0; 64 * 1024];
        let (mut begun, mut before) = (Instant::now(), Duration::ZERO);
        let mut due = begun;
        let step = self
            .load
            .rate
            .map(|rate| Duration::from_secs_f64(1.0 / rate.max(1e-3)));
        loop {
            let now = Instant::now();
            if !self.measuring && now - begun >= WARM_UP {
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
            if let Some(step) = step {
                while due <= now
                    && let Some(index) = self.free.pop()
                {
                    self.ask(index, due)?;
                    due += step;
                }
                wait = wait.min(due.saturating_duration_since(now));
            } else {
                while let Some(index) = self.free.pop() {
                    self.ask(index, now)?;
                }
            }
            let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
            match epoll::wait(&self.poll, spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                self.hear(event.data.u64() as usize, &mut bytes)?;
            }
        }
    }

    fn ask(&mut self, index: usize, due: Instant) -> io::Result<()> {
        self.batch.clear();
        let application = &mut self.all[index];
        for _ in 0..self.load.depth {
            // Xorshift: any will do.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let key = (self.random >> 20) as usize % KEYS;
            if self.random.is_multiple_of(SETS) {
                self.batch.extend(set(key));
                application.left += STORED.len();
                application.last = STORED;
            } else {
                write!(self.batch, "get key:{key:08}\r\n")?;
                application.left += found_bytes();
                application.last = END;
            }
        }
        application.since = due;
        // So little always fits.
        application.stream.write_all(&self.batch)
    }

    fn hear(&mut self, index: usize, bytes: &mut [u8]) -> io::Result<()> {
        let application = &mut self.all[index];
        let length = match application.stream.read(bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let odd = || {
            let said = String::from_utf8_lossy(&bytes[..length.min(200)]).into_owned();
            io::Error::other(format!("not what was asked for: {said}"))
        };
        application.left = application.left.checked_sub(length).ok_or_else(odd)?;
        if application.left > 0 {
            return Ok(());
        }
        if !bytes[..length].ends_with(application.last) {
            return Err(odd());
        }
        self.done.all += self.load.depth as u64;
        if self.measuring {
            self.done.requests += self.load.depth as u64;
            let latency = application.since.elapsed().as_micros();
            self.done
                .latencies
                .push(u32::try_from(latency).unwrap_or(u32::MAX));
        }
        self.free.push(index);
        Ok(())
    }
}
