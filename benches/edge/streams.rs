//! Visitors that speak HTTP/2: connections with several requests at a time on each. Frames by hand (RFC 9113), because
//! the load must cost less than what it measures.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustls::ClientConfig;

use crate::busy::Busy;
use crate::load::{Done, FIELDS, Load, PATH};
use crate::wire::Wire;

/// Requests at a time on one connection.
pub const STREAMS: usize = 8;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// END_STREAM of DATA and HEADERS, ACK of SETTINGS and PING.
const LAST: u8 = 1;
const END_HEADERS: u8 = 4;
/// What a connection may receive until it is told that it may receive as much again.
const WINDOW: u32 = (1 << 30) - 1;

/// Runs `load`, whose connections are so many in all as requests at a time.
///
/// # Errors
/// When a connection cannot be made or breaks.
pub fn visit(load: &Load) -> io::Result<Done> {
    let config = load.over.config()?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let count = (load.connections / STREAMS).max(1);
    let mut all = (0..count)
        .map(|index| Connection::open(load, config.as_ref(), &poll, index))
        .collect::<io::Result<Vec<_>>>()?;
    let (busy, mut before) = (Busy::default(), Duration::ZERO);
    let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
    let mut bytes = vec![0; 256 * 1024];
    let mut done = Done::default();
    let (mut begun, mut measuring) = (Instant::now(), false);
    loop {
        let now = Instant::now();
        if !measuring && now - begun >= load.warm_up {
            busy.note_now();
            before = busy.time();
            (measuring, begun, done) = (true, now, Done::default());
        } else if measuring && now - begun >= load.time {
            busy.note_now();
            done.busy = busy.time() - before;
            done.took = now - begun;
            done.latencies.sort_unstable();
            return Ok(done);
        }
        let wait = Timespec::try_from(Duration::from_millis(20)).map_err(io::Error::other)?;
        match epoll::wait(&poll, spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            if let Some(connection) = all.get_mut(event.data.u64() as usize) {
                connection.hear(&mut bytes, &mut done)?;
            }
        }
    }
}

struct Connection {
    wire: Wire,
    /// The beginning of a frame that has not come in whole.
    partial: Vec<u8>,
    out: Vec<u8>,
    /// Requests under way, with when they were sent.
    open: Vec<(u32, Instant)>,
    next: u32,
    /// Bytes of answers since the window was opened last.
    received: u32,
}

impl Connection {
    fn open(
        load: &Load,
        config: Option<&Arc<ClientConfig>>,
        poll: &OwnedFd,
        index: usize,
    ) -> io::Result<Connection> {
        let wire = Wire::open(load.to, config, false)?;
        let mark = epoll::EventData::new_u64(index as u64);
        epoll::add(poll, &wire, mark, epoll::EventFlags::IN)?;
        let mut connection = Connection {
            wire,
            partial: Vec::new(),
            out: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            open: Vec::new(),
            next: 1,
            received: 0,
        };
        // No push, and as much of each answer as there is.
        let mut settings = vec![0, 2, 0, 0, 0, 0, 0, 4];
        settings.extend_from_slice(&WINDOW.to_be_bytes());
        connection.frame(SETTINGS, 0, 0, &settings);
        connection.frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        for _ in 0..STREAMS {
            connection.ask();
        }
        connection.flush()?;
        Ok(connection)
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.out
            .extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        self.out.extend_from_slice(&[kind, flags]);
        self.out.extend_from_slice(&stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.wire.send(&std::mem::take(&mut self.out))?;
        }
        Ok(())
    }

    /// One more request. What the first said of the visitor, the others refer to (RFC 7541).
    fn ask(&mut self) {
        // `:method: GET`, `:scheme: https`, `:path` as it is.
        let mut block = vec![0x82, 0x87, 0x04];
        string(&mut block, PATH);
        for (place, (index, _, value)) in FIELDS.iter().enumerate() {
            if self.next == 1 {
                // Kept in the table by both sides; 61 names are there from the beginning.
                block.push(0x40 | index);
                string(&mut block, value);
            } else {
                // The latest is the first after those.
                block.push(0x80 | (62 + FIELDS.len() - 1 - place) as u8);
            }
        }
        let stream = self.next;
        self.next += 2;
        self.open.push((stream, Instant::now()));
        self.frame(HEADERS, LAST | END_HEADERS, stream, &block);
    }

    /// Reads all that is there.
    fn hear(&mut self, bytes: &mut [u8], done: &mut Done) -> io::Result<()> {
        loop {
            let count = match self.wire.read(bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let mut input = std::mem::take(&mut self.partial);
            input.extend_from_slice(&bytes[..count]);
            let mut rest = &input[..];
            while let Some((head, after)) = rest.split_at_checked(9) {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let Some((payload, after)) = after.split_at_checked(length) else {
                    break;
                };
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
                self.take(head[3], head[4], stream, payload, done)?;
                rest = after;
            }
            self.partial = rest.to_vec();
        }
        self.flush()
    }

    fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8], done: &mut Done) -> io::Result<()> {
        match kind {
            SETTINGS if flags & LAST == 0 => self.frame(SETTINGS, LAST, 0, b""),
            PING if flags & LAST == 0 => self.frame(PING, LAST, 0, payload),
            GOAWAY => return Err(io::ErrorKind::ConnectionReset.into()),
            RST_STREAM => self.ended(stream, false, done),
            // A change of the table's size may stand before `:status: 200`.
            HEADERS => {
                let status = payload.iter().find(|byte| **byte & 0xe0 != 0x20);
                let good = status == Some(&0x88);
                if !good || flags & LAST != 0 {
                    self.ended(stream, good, done);
                }
            }
            DATA => {
                self.received += payload.len() as u32;
                if self.received > WINDOW / 2 {
                    let received = std::mem::take(&mut self.received).to_be_bytes();
                    self.frame(WINDOW_UPDATE, 0, 0, &received);
                }
                if flags & LAST != 0 {
                    self.ended(stream, true, done);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn ended(&mut self, stream: u32, good: bool, done: &mut Done) {
        let Some(place) = self.open.iter().position(|(open, _)| *open == stream) else {
            return;
        };
        let (_, since) = self.open.swap_remove(place);
        if good {
            done.requests += 1;
            let took = since.elapsed().as_micros();
            done.latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
        } else {
            done.failed += 1;
        }
        self.ask();
    }
}

/// A string as it is (RFC 7541 section 5.2); none here is as long as 127 bytes.
fn string(block: &mut Vec<u8>, text: &str) {
    block.push(text.len() as u8);
    block.extend_from_slice(text.as_bytes());
}
