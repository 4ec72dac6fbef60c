//! The application behind the proxies: answers every request with the same bytes, from one thread on a core of its
//! own. Requests have no bodies.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use crate::busy::{Busy, pin};

/// A running origin; it lives as long as the process.
#[derive(Clone)]
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    counts: Arc<Counts>,
    busy: Busy,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    connections: AtomicU64,
}

impl Origin {
    /// Starts one whose answers have bodies of `bytes`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(bytes: usize, core: usize) -> io::Result<Origin> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        // The standard library's backlog of 128 is short of a thousand connections at once.
        rustix::net::listen(&listener, 4096)?;
        listener.set_nonblocking(true)?;
        let origin = Origin {
            address: listener.local_addr()?,
            counts: Arc::default(),
            busy: Busy::default(),
        };
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nServer: origin\r\nContent-Type: text/html; charset=utf-8\r\n\
             Cache-Control: no-store\r\nContent-Length: {bytes}\r\n\r\n"
        )
        .into_bytes();
        answer.resize(answer.len() + bytes, b'x');
        let (counts, busy) = (Arc::clone(&origin.counts), origin.busy.clone());
        std::thread::Builder::new()
            .name("origin".to_owned())
            .spawn(move || {
                pin(core);
                serve(&listener, &answer, &counts, &busy)
            })?;
        Ok(origin)
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// Connections taken so far: few, if a proxy keeps them.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// The processor time of its thread.
    pub fn busy(&self) -> &Busy {
        &self.busy
    }
}

struct Connection {
    stream: TcpStream,
    /// The end of a request that has not come in whole.
    partial: Vec<u8>,
    /// Answers that are due, and how much of the first was sent.
    due: usize,
    sent: usize,
    wants_write: bool,
}

const LISTENER: u64 = 0;

fn serve(listener: &TcpListener, answer: &[u8], counts: &Counts, busy: &Busy) -> io::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &poll,
        listener,
        epoll::EventData::new_u64(LISTENER),
        epoll::EventFlags::IN,
    )?;
    let mut connections: HashMap<u64, Connection> = HashMap::new();
    let mut next = LISTENER + 1;
    let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
    let mut bytes = vec![0; 64 * 1024];
    loop {
        busy.note();
        match epoll::wait(&poll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let id = event.data.u64();
            if id == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    epoll::add(
                        &poll,
                        &stream,
                        epoll::EventData::new_u64(next),
                        epoll::EventFlags::IN,
                    )?;
                    counts.connections.fetch_add(1, Ordering::Relaxed);
                    let connection = Connection {
                        stream,
                        partial: Vec::new(),
                        due: 0,
                        sent: 0,
                        wants_write: false,
                    };
                    connections.insert(next, connection);
                    next += 1;
                }
                continue;
            }
            let Some(connection) = connections.get_mut(&id) else {
                continue;
            };
            let flags = event.flags;
            let open = (!flags.contains(epoll::EventFlags::IN) || connection.take(&mut bytes, counts))
                && connection.give(answer);
            if !open {
                connections.remove(&id);
                continue;
            }
            if (connection.due > 0) != connection.wants_write {
                connection.wants_write = connection.due > 0;
                let flags = match connection.wants_write {
                    true => epoll::EventFlags::IN | epoll::EventFlags::OUT,
                    false => epoll::EventFlags::IN,
                };
                epoll::modify(&poll, &connection.stream, epoll::EventData::new_u64(id), flags)?;
            }
        }
    }
}

impl Connection {
    /// Reads once; `false` when the connection has ended.
    fn take(&mut self, bytes: &mut [u8], counts: &Counts) -> bool {
        let count = match self.stream.read(bytes) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        };
        let mut came = &bytes[..count];
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(came);
            came = &self.partial;
        }
        let (mut ends, mut rest) = (0, 0);
        for end in memchr::memmem::find_iter(came, b"\r\n\r\n") {
            ends += 1;
            rest = end + 4;
        }
        self.partial = came[rest..].to_vec();
        self.due += ends;
        counts.requests.fetch_add(ends as u64, Ordering::Relaxed);
        true
    }

    /// Sends what is due, as far as it goes; `false` when the connection has ended.
    fn give(&mut self, answer: &[u8]) -> bool {
        while self.due > 0 {
            match self.stream.write(&answer[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
            if self.sent == answer.len() {
                (self.sent, self.due) = (0, self.due - 1);
            }
        }
        true
    }
}
