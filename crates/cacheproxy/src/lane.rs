//! One thread's connection to one cache server in one protocol. Commands are sent as they come and answered in that order.
//!
//! A server that is asked and says nothing for [`Limits::silence`](crate::Limits) is not asked any more: what was under way
//! has failed, reads find nothing at once, writes wait a moment for it to come back and then fail. It is dialled again and
//! again; before anything else it is told to forget what was tried to be written meanwhile.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Bytes, BytesMut};
use pontoon_memcache_wire::answers::{self, Expect};
use pontoon_memcache_wire::binary::{self, Asked};
use pontoon_memcache_wire::requests;
use pontoon_memcache_wire::text::Keyed;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::time::{Instant, sleep, timeout};

use crate::bell::Bell;
use crate::client::{Outcome, Reply};
use crate::context::{Context, Debt};
use crate::dial::{Connection, Link, Stream, close, dial};
use crate::guard::Pass;
use crate::route::Target;

/// Something for a server to do.
#[derive(Debug)]
pub struct Job {
    /// What is sent.
    pub frame: Frame,
    /// What comes back.
    pub expect: Expect,
    /// Whether nothing is changed by it.
    pub read: bool,
    /// Who waits.
    pub reply: Reply,
}

/// What is sent.
#[derive(Clone, Debug)]
pub enum Frame {
    /// A command for the key of that index.
    Text(Rc<Keyed>, usize),
    /// A packet.
    Binary(Rc<Asked>),
    /// `delete` of this key, in the text protocol.
    Forget(Bytes),
    /// Something without a key.
    Raw(Bytes),
}

impl Frame {
    fn write(&self, out: &mut BytesMut) {
        match self {
            Frame::Text(keyed, index) => {
                let name = keyed
                    .keys
                    .get(*index)
                    .and_then(|key| keyed.frame.get(key.clone()));
                keyed.write(*index, name.unwrap_or_default(), out);
            }
            Frame::Binary(asked) => asked.write(&asked.key(), out),
            Frame::Forget(key) => requests::delete(key, out),
            Frame::Raw(bytes) => out.extend_from_slice(bytes),
        }
    }

    fn key(&self) -> Option<Bytes> {
        match self {
            Frame::Text(keyed, index) => Some(keyed.key(*index)),
            Frame::Binary(asked) => Some(asked.key()),
            Frame::Forget(key) => Some(key.clone()),
            Frame::Raw(_) => None,
        }
    }
}

/// See the top.
pub struct Lane {
    context: Arc<Context>,
    target: Target,
    list: u64,
    is_binary: bool,
    queue: RefCell<Queue>,
    wake: Bell,
}

struct Queue {
    out: BytesMut,
    sent: VecDeque<Job>,
    /// Since when there has been something to answer without a pause.
    asked: Instant,
    held: VecDeque<Job>,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Dialled for the first time.
    New(Instant),
    Up,
    Down(Instant),
    /// The list has changed.
    Over,
}

impl Lane {
    /// A lane that begins to dial. Must be called within a local runtime.
    pub fn start(context: &Arc<Context>, target: &Target, list: u64, is_binary: bool) -> Rc<Lane> {
        let lane = Rc::new(Lane {
            context: Arc::clone(context),
            target: target.clone(),
            list,
            is_binary,
            queue: RefCell::new(Queue {
                out: BytesMut::new(),
                sent: VecDeque::new(),
                asked: Instant::now(),
                held: VecDeque::new(),
                state: State::New(Instant::now()),
            }),
            wake: Bell::default(),
        });
        tokio::task::spawn_local(Rc::clone(&lane).keep());
        lane
    }

    /// Has it done.
    pub fn send(&self, job: Job) {
        let mut queue = self.queue.borrow_mut();
        match queue.state {
            State::Up => {
                let was_idle = queue.out.is_empty();
                if queue.sent.is_empty() {
                    queue.asked = Instant::now();
                }
                job.frame.write(&mut queue.out);
                queue.sent.push_back(job);
                drop(queue);
                if was_idle {
                    self.wake.ring();
                }
            }
            State::New(_) => queue.held.push_back(job),
            State::Down(since) if !job.read && since.elapsed() < self.context.limits.patience => {
                queue.held.push_back(job);
            }
            State::Down(_) | State::Over => {
                drop(queue);
                self.fail(job);
            }
        }
    }

    /// The list has changed: what is under way has failed, and nothing more is sent.
    pub fn end(&self) {
        self.turn(State::Over);
        self.wake.ring();
    }

    fn fail(&self, job: Job) {
        let counters = &self.context.counters;
        if job.read {
            counters.missed.fetch_add(1, Relaxed);
            return job.reply.settle(Outcome::Missed);
        }
        counters.failed.fetch_add(1, Relaxed);
        if let Some(key) = job.frame.key() {
            self.context.owed.add(&self.target.server, key);
        }
        job.reply.settle(Outcome::Failed);
    }

    /// Changes the state; whoever waits for what can no longer come is told.
    fn turn(&self, state: State) {
        let mut queue = self.queue.borrow_mut();
        if queue.state == State::Over {
            return;
        }
        queue.state = state;
        queue.asked = Instant::now();
        queue.out.clear();
        let mut failed: Vec<Job> = queue.sent.drain(..).collect();
        let keeps = |job: &Job| match state {
            State::Down(since) => !job.read && since.elapsed() < self.context.limits.patience,
            State::New(_) | State::Up => true,
            State::Over => false,
        };
        let held = std::mem::take(&mut queue.held);
        for job in held {
            if !keeps(&job) {
                failed.push(job);
            } else if state == State::Up {
                job.frame.write(&mut queue.out);
                queue.sent.push_back(job);
            } else {
                queue.held.push_back(job);
            }
        }
        drop(queue);
        for job in failed {
            self.fail(job);
        }
    }

    fn is_over(&self) -> bool {
        self.queue.borrow().state == State::Over
    }

    async fn keep(self: Rc<Lane>) {
        let limits = self.context.limits;
        let mut since = Instant::now();
        while !self.is_over() {
            match dial(&self.context, &self.target, self.list, limits.silence).await {
                Ok(mut connection) => match self.greet(&mut connection.stream).await {
                    Ok(rest) => {
                        self.context.note(&self.target.server, None);
                        self.turn(State::Up);
                        let why = self.serve(&mut connection, rest).await;
                        since = Instant::now();
                        if let Some(why) = why {
                            self.context.note(&self.target.server, Some(why));
                            self.turn(State::Down(since));
                        }
                        self.leave(connection);
                        continue;
                    }
                    Err(why) => {
                        self.context.note(&self.target.server, Some(why));
                        self.leave(connection);
                    }
                },
                Err(why) => self.context.note(&self.target.server, Some(why)),
            }
            self.turn(State::Down(since));
            sleep(limits.pause).await;
        }
    }

    /// What was sent may still be carried out by a memcached that hangs: the guard waits for the end of it.
    fn leave(&self, connection: Connection<'_>) {
        let Connection { mut stream, pass } = connection;
        let Some(pass) = pass else { return };
        // The pass borrows the context, which a task of its own must own.
        let serving = pass.serving;
        let context = Arc::clone(&self.context);
        let kept = context.guard.keep(serving);
        drop(pass);
        tokio::task::spawn_local(async move {
            if let Link::Local(stream) = &mut stream {
                close(stream).await;
            }
            context.guard.give_back(kept);
        });
    }

    /// Has the server forget what it may hold of old values, and waits until it has answered. Returns what came beyond.
    async fn greet(&self, link: &mut Link) -> Result<BytesMut, String> {
        match link {
            Link::Local(stream) => self.talk(stream).await,
            Link::Relay(stream) => self.talk(stream).await,
        }
    }

    async fn talk(&self, stream: &mut impl Stream) -> Result<BytesMut, String> {
        let limits = self.context.limits;
        let debt = self.context.owed.take(&self.target.server);
        let (hello, count) = self.hello(debt.as_ref());
        let talk = async {
            stream
                .write_all(&hello)
                .await
                .map_err(|error| error.to_string())?;
            stream.flush().await.map_err(|error| error.to_string())?;
            let mut buffer = BytesMut::new();
            let expect = if self.is_binary {
                Expect::Packet
            } else {
                Expect::Line
            };
            for _ in 0..count {
                while answers::take(&mut buffer, expect)
                    .map_err(|_| "it does not speak memcached".to_owned())?
                    .is_none()
                {
                    let read = timeout(limits.silence, stream.read_buf(&mut buffer)).await;
                    match read.map_err(|_| "it does not answer".to_owned())? {
                        Ok(1..) => {}
                        Ok(0) => return Err("it closed the connection".to_owned()),
                        Err(error) => return Err(error.to_string()),
                    }
                }
            }
            Ok(buffer)
        };
        let greeted = timeout(limits.silence * 10, talk).await;
        let greeted = greeted.unwrap_or_else(|_| Err("it does not answer".to_owned()));
        if let (Err(_), Some(debt)) = (&greeted, debt) {
            self.context.owed.give_back(&self.target.server, debt);
        }
        greeted
    }

    fn hello(&self, debt: Option<&Debt>) -> (BytesMut, usize) {
        let mut hello = BytesMut::new();
        let mut count = 1;
        for key in debt.iter().flat_map(|debt| &debt.keys) {
            count += 1;
            if self.is_binary {
                binary::packet(binary::DELETE, key, &mut hello);
            } else if key.iter().all(u8::is_ascii_graphic) {
                requests::delete(key, &mut hello);
            } else {
                use base64::Engine;
                let word = base64::engine::general_purpose::STANDARD.encode(key);
                hello.extend_from_slice(format!("md {word} b\r\n").as_bytes());
            }
        }
        if debt.is_some_and(|debt| debt.all) {
            count += 1;
            match self.is_binary {
                true => binary::packet(binary::FLUSH, b"", &mut hello),
                false => hello.extend_from_slice(b"flush_all\r\n"),
            }
        }
        match self.is_binary {
            true => binary::packet(binary::NOOP, b"", &mut hello),
            false => hello.extend_from_slice(b"version\r\n"),
        }
        (hello, count)
    }

    /// Sends and receives until something is wrong, which is returned, or the list has changed.
    async fn serve(&self, connection: &mut Connection<'_>, rest: BytesMut) -> Option<String> {
        let pass = connection.pass.as_ref();
        match &mut connection.stream {
            Link::Local(stream) => {
                let (from, to) = stream.split();
                self.exchange(from, to, pass, rest).await
            }
            Link::Relay(stream) => {
                let (from, to) = split(stream);
                self.exchange(from, to, pass, rest).await
            }
        }
    }

    async fn exchange(
        &self,
        from: impl AsyncReadExt + Unpin,
        to: impl AsyncWriteExt + Unpin,
        pass: Option<&Pass<'_>>,
        rest: BytesMut,
    ) -> Option<String> {
        tokio::select! {
            biased;
            why = self.receive(from, rest) => why,
            why = self.send_all(to, pass) => why,
            () = ended(pass) => Some("its memcached is no longer the one of this list".to_owned()),
        }
    }

    async fn send_all(&self, mut to: impl AsyncWriteExt + Unpin, pass: Option<&Pass<'_>>) -> Option<String> {
        loop {
            let bytes = {
                let mut queue = self.queue.borrow_mut();
                if queue.state == State::Over {
                    return None;
                }
                queue.out.split()
            };
            if bytes.is_empty() {
                self.wake.heard().await;
                continue;
            }
            // The requests in it are there: whoever serves the list at this moment may answer them.
            if pass.is_some_and(|pass| !pass.is_valid()) {
                return Some("its memcached is no longer the one of this list".to_owned());
            }
            if let Err(error) = to.write_all(&bytes).await {
                return Some(error.to_string());
            }
            if let Err(error) = to.flush().await {
                return Some(error.to_string());
            }
        }
    }

    async fn receive(&self, mut from: impl AsyncReadExt + Unpin, mut buffer: BytesMut) -> Option<String> {
        let silence = self.context.limits.silence;
        // When something last came.
        let mut heard = Instant::now();
        // One timer, which is set anew when it has run out, and not at each answer.
        let mut timer = pin!(sleep(silence / 3));
        loop {
            if let Err(why) = self.answer_all(&mut buffer) {
                return Some(why.to_owned());
            }
            if buffer.capacity() - buffer.len() < 4096 {
                buffer.reserve(16 << 10);
            }
            tokio::select! {
                biased;
                read = from.read_buf(&mut buffer) => match read {
                    Ok(1..) => heard = Instant::now(),
                    Ok(0) => return Some("it closed the connection".to_owned()),
                    Err(error) => return Some(error.to_string()),
                },
                () = &mut timer => {
                    let now = Instant::now();
                    let queue = self.queue.borrow();
                    let silent_at = queue.asked.max(heard) + silence;
                    let next = match queue.sent.is_empty() {
                        true => now + silence / 3,
                        false if silent_at <= now => return Some("it does not answer".to_owned()),
                        false => silent_at,
                    };
                    drop(queue);
                    timer.as_mut().reset(next);
                }
            }
        }
    }

    /// Gives out the answers that are whole.
    fn answer_all(&self, buffer: &mut BytesMut) -> Result<(), &'static str> {
        loop {
            let Some(expect) = self.queue.borrow().sent.front().map(|job| job.expect) else {
                return match buffer.is_empty() {
                    true => Ok(()),
                    false => Err("it said something that it was not asked"),
                };
            };
            let Some(answer) = answers::take(buffer, expect).map_err(|_| "its answer is none")? else {
                return Ok(());
            };
            let job = self.queue.borrow_mut().sent.pop_front();
            if let Some(job) = job {
                job.reply.settle(Outcome::Answer(answer));
            }
        }
    }
}

async fn ended(pass: Option<&Pass<'_>>) {
    match pass {
        Some(pass) => pass.ended().await,
        None => std::future::pending().await,
    }
}
