//! One client: reads its requests, has them done, and answers in the order in which it asked.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pontoon_memcache_wire::answers::{Expect, blocks};
use pontoon_memcache_wire::binary::{Asked, Status, What};
use pontoon_memcache_wire::requests::{Request, Requests};
use pontoon_memcache_wire::text::{Keyed, Line, Verb};
use smallvec::{SmallVec, smallvec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::bell::Bell;
use crate::context::Context;
use crate::dial::Stream;
use crate::fills;
use crate::lane::{Frame, Job};
use crate::proxy::Thread;
use crate::stats;

/// What became of a [`Job`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server's answer.
    Answer(Bytes),
    /// It did not answer; nothing was changed.
    Missed,
    /// It did not answer; nobody knows whether it was done.
    Failed,
}

/// Where the outcome of a job goes.
#[derive(Debug)]
pub enum Reply {
    /// To a client, as a part of that answer.
    Client {
        /// Its answers.
        line: Rc<Waiting>,
        /// Which of them.
        number: u64,
        /// Which part.
        part: usize,
    },
    /// The same, and to those who wait for the key to be filled.
    Filled(Box<Reply>, Arc<Context>, Bytes),
    /// To a task.
    Once(oneshot::Sender<Outcome>),
}

impl Reply {
    /// This became of it.
    pub fn settle(self, outcome: Outcome) {
        match self {
            Reply::Client { line, number, part } => line.settle(number, part, outcome),
            Reply::Filled(reply, context, key) => {
                context.fills.stored(&key);
                reply.settle(outcome);
            }
            // Who asked is gone with its client.
            Reply::Once(sender) => drop(sender.send(outcome)),
        }
    }
}

/// What a client asked and has not been answered, in order.
#[derive(Debug, Default)]
pub struct Waiting {
    slots: RefCell<VecDeque<Slot>>,
    /// The number of the first of them.
    first: Cell<u64>,
    ready: Bell,
}

#[derive(Debug)]
struct Slot {
    asked: Answered,
    outcomes: SmallVec<[Option<Outcome>; 1]>,
    missing: usize,
}

/// What an answer is made of.
#[derive(Debug)]
enum Answered {
    /// This, whatever else.
    Ready(Bytes),
    /// A command with keys.
    Keyed(Rc<Keyed>),
    /// A packet with a key.
    Packet(Rc<Asked>),
    /// `flush_all`; quiet?
    Flush(bool),
    Version,
    Stats(Bytes),
    PacketFlush(Asked),
    PacketVersion(Asked),
    PacketStats(Asked),
}

/// Requests of a client that may wait at a time.
const MAX_WAITING: usize = 256;
const NOT_KNOWN: &[u8] = b"SERVER_ERROR the cache server of this key does not answer\r\n";

impl Waiting {
    fn push(self: &Rc<Waiting>, asked: Answered, parts: usize) -> impl Fn(usize) -> Reply + use<> {
        let mut slots = self.slots.borrow_mut();
        let number = self.first.get() + slots.len() as u64;
        slots.push_back(Slot {
            asked,
            outcomes: smallvec![None; parts],
            missing: parts,
        });
        let line = Rc::clone(self);
        move |part| Reply::Client {
            line: Rc::clone(&line),
            number,
            part,
        }
    }

    fn settle(&self, number: u64, part: usize, outcome: Outcome) {
        let mut slots = self.slots.borrow_mut();
        let index = number
            .checked_sub(self.first.get())
            .and_then(|index| usize::try_from(index).ok());
        let Some((index, slot)) = index.and_then(|index| Some((index, slots.get_mut(index)?))) else {
            return;
        };
        if let Some(place) = slot.outcomes.get_mut(part)
            && place.replace(outcome).is_none()
        {
            slot.missing -= 1;
            if slot.missing == 0 && index == 0 {
                self.ready.ring();
            }
        }
    }

    fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    /// The answers that can be given now.
    fn drain(&self, thread: &Thread, out: &mut BytesMut) {
        loop {
            let slot = {
                let mut slots = self.slots.borrow_mut();
                if slots.front().is_none_or(|slot| slot.missing > 0) {
                    return;
                }
                self.first.set(self.first.get() + 1);
                slots.pop_front()
            };
            if let Some(slot) = slot {
                slot.answer(thread, out);
            }
        }
    }
}

impl Slot {
    fn answer(self, thread: &Thread, out: &mut BytesMut) {
        let outcomes: SmallVec<[Outcome; 1]> = self.outcomes.into_iter().flatten().collect();
        let all_well = outcomes
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Answer(_)));
        match self.asked {
            Answered::Ready(bytes) => out.extend_from_slice(&bytes),
            Answered::Keyed(keyed) => keyed_answer(&keyed, &outcomes, out),
            Answered::Packet(asked) => {
                let answer = match outcomes.into_iter().next() {
                    Some(Outcome::Answer(answer)) => asked.translate(&answer),
                    Some(Outcome::Missed) => asked.translate(&asked.answer(Status::NotFound)),
                    _ => Some(asked.answer(Status::Temporary)),
                };
                out.extend_from_slice(&answer.unwrap_or_default());
            }
            Answered::Flush(true) => {}
            Answered::Flush(false) => out.extend_from_slice(if all_well { b"OK\r\n" } else { NOT_FLUSHED }),
            Answered::Version => out.extend_from_slice(&stats::lowest_version(&outcomes)),
            Answered::Stats(words) => out.extend_from_slice(&stats::text(thread, &words, &outcomes)),
            Answered::PacketFlush(asked) => {
                let status = if all_well {
                    Status::Success
                } else {
                    Status::Temporary
                };
                if !(asked.is_quiet() && all_well) {
                    out.extend_from_slice(&asked.answer(status));
                }
            }
            Answered::PacketVersion(asked) => {
                let line = stats::lowest_version(&outcomes);
                let version = line.strip_prefix(b"VERSION ").unwrap_or(&line).trim_ascii();
                out.extend_from_slice(&asked.say(0, b"", version));
            }
            Answered::PacketStats(asked) => {
                let lines = stats::text(thread, &asked.key(), &outcomes);
                out.extend_from_slice(&stats::packets(&asked, &lines));
            }
        }
    }
}

const NOT_FLUSHED: &[u8] = b"SERVER_ERROR a cache server does not answer\r\n";

fn keyed_answer(keyed: &Keyed, outcomes: &[Outcome], out: &mut BytesMut) {
    if keyed.verb != Verb::Get || outcomes.len() == 1 {
        let answer = match outcomes.first() {
            Some(Outcome::Answer(answer)) => &answer[..],
            Some(Outcome::Missed) => keyed.miss(),
            _ => NOT_KNOWN,
        };
        if keyed.is_heard(answer) {
            out.extend_from_slice(answer);
        }
        return;
    }
    let from = out.len();
    for outcome in outcomes {
        if let Outcome::Answer(answer) = outcome {
            match blocks(answer) {
                Some(found) => out.extend_from_slice(&found),
                None => {
                    out.truncate(from);
                    out.extend_from_slice(answer);
                    return;
                }
            }
        }
    }
    out.extend_from_slice(b"END\r\n");
}

/// Serves a client until it goes, or says that it does.
pub async fn serve_client(thread: &Rc<Thread>, mut stream: impl Stream) {
    let waiting = Rc::new(Waiting::default());
    let mut requests = Requests::default();
    let (mut input, mut out) = (BytesMut::with_capacity(8 << 10), BytesMut::new());
    let mut over = false;
    let mut closing = pin!(thread.context.closing.cancelled());
    loop {
        while !over && waiting.len() < MAX_WAITING {
            match requests.next(&mut input) {
                None => break,
                Some(request) => over = !dispatch(thread, &waiting, request),
            }
        }
        waiting.drain(thread, &mut out);
        if !out.is_empty() {
            if stream.write_all(&out).await.is_err() {
                return;
            }
            out.clear();
            continue;
        }
        if over && waiting.len() == 0 {
            let _ = stream.shutdown().await;
            return;
        }
        if input.capacity() - input.len() < 1024 {
            input.reserve(8 << 10);
        }
        tokio::select! {
            biased;
            read = stream.read_buf(&mut input), if !over && waiting.len() < MAX_WAITING => {
                over = !matches!(read, Ok(1..));
            }
            () = waiting.ready.heard() => {}
            () = &mut closing => return,
        }
    }
}

/// Has a request done; says whether more may follow.
fn dispatch(thread: &Rc<Thread>, waiting: &Rc<Waiting>, request: Request) -> bool {
    thread.requests.set(thread.requests.get() + 1);
    match request {
        Request::Close => return false,
        Request::Text(line) => text(thread, waiting, line),
        Request::Binary(asked) => return binary(thread, waiting, asked),
    }
    true
}

fn ready(waiting: &Rc<Waiting>, bytes: impl Into<Bytes>) {
    drop(waiting.push(Answered::Ready(bytes.into()), 0));
}

fn text(thread: &Rc<Thread>, waiting: &Rc<Waiting>, line: Line) {
    match line {
        Line::Keyed(keyed) => {
            let keyed = Rc::new(keyed);
            let reply = waiting.push(Answered::Keyed(Rc::clone(&keyed)), keyed.keys.len());
            let expect = match keyed.verb {
                Verb::Get => Expect::Values,
                Verb::Store | Verb::Change => Expect::Line,
                _ => Expect::Meta,
            };
            for index in 0..keyed.keys.len() {
                let job = Job {
                    frame: Frame::Text(Rc::clone(&keyed), index),
                    expect,
                    read: keyed.verb.is_read(),
                    reply: reply(index),
                };
                let name = keyed.name(index);
                match keyed.verb {
                    Verb::Get | Verb::Store if thread.fills_once(&name) => once(thread, job, false, &name),
                    _ => thread.to_home(&name, false, job),
                }
            }
        }
        Line::Answer(says) => ready(waiting, says),
        Line::MetaNoop => ready(waiting, &b"MN\r\n"[..]),
        Line::TooLarge { key, quiet, says, .. } => {
            let says: &'static [u8] = if quiet { b"" } else { says };
            let reply = waiting.push(
                Answered::Ready(Bytes::from_static(says)),
                usize::from(key.is_some()),
            );
            if let Some(key) = key {
                let job = Job {
                    frame: Frame::Forget(key.clone()),
                    expect: Expect::Line,
                    read: false,
                    reply: reply(0),
                };
                thread.to_home(&key, false, job);
            }
        }
        Line::FlushAll { delay, quiet } => {
            let mut command = BytesMut::from(&b"flush_all"[..]);
            if !delay.is_empty() {
                command.extend_from_slice(b" ");
                command.extend_from_slice(&delay);
            }
            command.extend_from_slice(b"\r\n");
            to_all(
                thread,
                waiting,
                Answered::Flush(quiet),
                &command.freeze(),
                Expect::Line,
                false,
            );
        }
        Line::Version => {
            let command = Bytes::from_static(b"version\r\n");
            to_all(thread, waiting, Answered::Version, &command, Expect::Line, true);
        }
        Line::Stats(words) => stats_of(thread, waiting, Answered::Stats(words.clone()), &words),
        Line::Close => {}
    }
}

/// A read or a store of a key that one client fills while others wait.
fn once(thread: &Rc<Thread>, job: Job, is_binary: bool, key: &[u8]) {
    let name = Bytes::copy_from_slice(key);
    let Job {
        frame,
        expect,
        read,
        reply,
    } = job;
    if read {
        return fills::read(thread, frame, expect, name, reply);
    }
    let reply = Reply::Filled(Box::new(reply), Arc::clone(&thread.context), name);
    let job = Job {
        frame,
        expect,
        read,
        reply,
    };
    thread.to_home(key, is_binary, job);
}

fn stats_of(thread: &Rc<Thread>, waiting: &Rc<Waiting>, asked: Answered, words: &Bytes) {
    match stats::question(words) {
        Some(command) => to_all(thread, waiting, asked, &command, Expect::Lines, true),
        None => drop(waiting.push(asked, 0)),
    }
}

/// Every server is asked the same, in the text protocol.
fn to_all(
    thread: &Rc<Thread>,
    waiting: &Rc<Waiting>,
    asked: Answered,
    command: &Bytes,
    expect: Expect,
    read: bool,
) {
    let servers = thread.servers();
    let reply = waiting.push(asked, servers);
    for index in 0..servers {
        let job = Job {
            frame: Frame::Raw(command.clone()),
            expect,
            read,
            reply: reply(index),
        };
        thread.to(index, false, job);
    }
}

fn binary(thread: &Rc<Thread>, waiting: &Rc<Waiting>, asked: Asked) -> bool {
    match asked.what {
        What::Keyed => {
            let asked = Rc::new(asked);
            let reply = waiting.push(Answered::Packet(Rc::clone(&asked)), 1);
            let job = Job {
                expect: Expect::Packet,
                read: asked.is_read(),
                reply: reply(0),
                frame: Frame::Binary(Rc::clone(&asked)),
            };
            match (asked.is_read(), asked.is_store()) {
                (false, false) => thread.to_home(asked.name(), true, job),
                _ if thread.fills_once(asked.name()) => once(thread, job, true, asked.name()),
                _ => thread.to_home(asked.name(), true, job),
            }
        }
        What::Flush(delay) => {
            let command = match delay {
                0 => Bytes::from_static(b"flush_all\r\n"),
                delay => Bytes::from(format!("flush_all {delay}\r\n")),
            };
            to_all(
                thread,
                waiting,
                Answered::PacketFlush(asked),
                &command,
                Expect::Line,
                false,
            );
        }
        What::Stats => {
            let words = asked.key();
            stats_of(thread, waiting, Answered::PacketStats(asked), &words);
        }
        What::Version => {
            let command = Bytes::from_static(b"version\r\n");
            to_all(
                thread,
                waiting,
                Answered::PacketVersion(asked),
                &command,
                Expect::Line,
                true,
            );
        }
        What::Success => ready(waiting, asked.answer(Status::Success)),
        What::Quit => {
            if !asked.is_quiet() {
                ready(waiting, asked.answer(Status::Success));
            }
            return false;
        }
        What::Error(status) => ready(waiting, asked.answer(status)),
        What::Fatal(status) => {
            ready(waiting, asked.answer(status));
            return false;
        }
    }
    true
}
