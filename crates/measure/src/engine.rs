//! Sends requests when they are due, whether or not earlier ones were answered, and says what became of them.
//!
//! All on one thread. A wait counts from when the request was **due**, not from when it was sent: a server that stands
//! still cannot slow its own measurement (coordinated omission, Tene 2013).

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pontoon_capacity::search::{Offer, Seen};
use pontoon_capacity::{Dice, Itself, Latencies, Objective, Outcome};
use rustix::time::{ClockId, clock_gettime};

use crate::http1::{self, Answer, Connection, Fault};
use crate::http2;
use crate::pace::Pace;
use crate::report::{Second, Totals};
use crate::target::Target;

/// Sends.
pub struct Engine {
    shared: Rc<Shared>,
    pace: Pace,
    dice: Dice,
    /// When the next request is due, if the schedule goes on.
    next_due: Option<Instant>,
    begun: Instant,
    cpu_begun: Duration,
}

/// What all requests under way share.
struct Shared {
    target: Target,
    objective: Objective,
    request: Vec<u8>,
    patience: Duration,
    most_in_flight: usize,
    idle: RefCell<Vec<Connection>>,
    streams: http2::Connections,
    in_flight: Cell<usize>,
    planned: Cell<u64>,
    exhausted: Cell<u64>,
    last_good: Cell<Instant>,
    failed_since_good: Cell<u64>,
    late: RefCell<Latencies>,
    /// Of the offer under way.
    late_now: RefCell<Latencies>,
    window: RefCell<Option<Window>>,
    totals: RefCell<Totals>,
    seconds: RefCell<Seconds>,
}

/// The part of an offer that is judged.
struct Window {
    from: Instant,
    to: Instant,
    /// Requests that were due in it, and those that were answered and bad.
    seen: Seen,
    /// Those not answered yet.
    open: u64,
}

/// What was answered second by second.
#[derive(Default)]
struct Seconds {
    done: Vec<Second>,
    current: Second,
    latencies: Latencies,
}

impl Engine {
    /// One that has sent nothing. A request is given up after `patience`.
    ///
    /// # Errors
    /// Without file descriptors.
    pub fn new(target: Target, objective: Objective, patience: Duration, seed: u64) -> io::Result<Engine> {
        let now = Instant::now();
        let shared = Shared {
            request: http1::request(&target),
            target,
            objective,
            patience,
            most_in_flight: most_in_flight(),
            idle: RefCell::default(),
            streams: http2::Connections::default(),
            in_flight: Cell::new(0),
            planned: Cell::new(0),
            exhausted: Cell::new(0),
            last_good: Cell::new(now),
            failed_since_good: Cell::new(0),
            late: RefCell::default(),
            late_now: RefCell::default(),
            window: RefCell::default(),
            totals: RefCell::default(),
            seconds: RefCell::default(),
        };
        Ok(Engine {
            shared: Rc::new(shared),
            pace: Pace::new()?,
            dice: Dice::new(seed),
            next_due: None,
            begun: now,
            cpu_begun: cpu(),
        })
    }

    /// How many requests may be under way at once.
    pub fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight
    }

    /// Asks once and waits for the answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn probe(&self) -> Result<Answer, String> {
        let shared = Rc::clone(&self.shared);
        match tokio::time::timeout(shared.patience, shared.ask()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {:?}", self.shared.patience)),
        }
    }

    /// Offers a rate, going on where the last one ended; gives what came of the judged part. `watch` is called about
    /// once a second; it ends early when that says no, or when the target has stopped answering (`None`).
    ///
    /// # Errors
    /// Those of the timer.
    pub async fn offer(
        &mut self,
        offer: &Offer,
        watch: &mut dyn FnMut(&Engine) -> bool,
    ) -> io::Result<Option<Seen>> {
        let now = Instant::now();
        // What was decided between two offers took a moment: the schedule goes on from now, not in a burst.
        let begin = self.next_due.filter(|due| *due > now).unwrap_or(now);
        let from = begin + offer.settle;
        let to = from + offer.measure;
        let end = to + offer.guard;
        self.shared.judge(from, to);
        self.shared.late_now.take();
        let mut watched = now;
        let mut due = begin;
        loop {
            due += Duration::from_secs_f64(self.dice.exponential(1.0 / offer.rate));
            self.pace.until(due.min(end)).await?;
            if due >= end {
                break;
            }
            self.shared.send(due);
            let now = Instant::now();
            if now.saturating_duration_since(due) > Duration::from_micros(200) || now - watched > EACH {
                // Late, or nothing to wait for: what came in meanwhile is read first.
                tokio::task::yield_now().await;
            }
            if now - watched > EACH {
                watched = now;
                if self.shared.is_dead() || !watch(self) {
                    self.next_due = None;
                    return Ok(None);
                }
            }
        }
        self.next_due = Some(end);
        Ok(self.shared.judged())
    }

    /// Offers nothing until everything is answered or given up.
    pub async fn drain(&mut self) {
        self.next_due = None;
        while self.shared.in_flight.get() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What happened so far.
    pub fn totals(&self) -> Totals {
        self.shared.totals.borrow().clone()
    }

    /// Requests sent and not answered.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.get()
    }

    /// What was answered in each second so far; the last one may not be whole.
    pub fn seconds(&self) -> Vec<Second> {
        let mut seconds = self.shared.seconds.borrow_mut();
        seconds.close();
        seconds.done.clone()
    }

    /// What the generator saw of itself in the last offer alone, as far as it can be told apart.
    pub fn itself_lately(&self) -> Itself {
        Itself {
            late_p99: self.shared.late_now.borrow().percentile(99.0),
            ..self.itself()
        }
    }

    /// What the generator saw of itself.
    pub fn itself(&self) -> Itself {
        let shared = &self.shared;
        let sent = shared.totals.borrow().sent as f64;
        Itself {
            late_p99: shared.late.borrow().percentile(99.0),
            sent_share: if shared.planned.get() == 0 {
                1.0
            } else {
                sent / shared.planned.get() as f64
            },
            busy: cpu().saturating_sub(self.cpu_begun).as_secs_f64()
                / self.begun.elapsed().as_secs_f64().max(1e-9),
            exhausted: shared.exhausted.get(),
        }
    }
}

impl Shared {
    fn judge(&self, from: Instant, to: Instant) {
        let seen = Seen {
            sent: 0,
            bad: vec![0; self.objective.terms().len()],
        };
        *self.window.borrow_mut() = Some(Window {
            from,
            to,
            seen,
            open: 0,
        });
    }

    /// What came of the judged part. What is not answered is late by now, which is no error yet.
    fn judged(&self) -> Option<Seen> {
        let window = self.window.borrow_mut().take()?;
        let mut seen = window.seen;
        for (bad, term) in seen.bad.iter_mut().zip(self.objective.terms()) {
            *bad += if term.limit().is_some() { window.open } else { 0 };
        }
        Some(seen)
    }

    fn send(self: &Rc<Shared>, due: Instant) {
        self.planned.set(self.planned.get() + 1);
        let judged = self.window.borrow_mut().as_mut().is_some_and(|window| {
            let judged = (window.from..window.to).contains(&due);
            window.seen.sent += u64::from(judged);
            window.open += u64::from(judged);
            judged
        });
        let window = judged
            .then(|| self.window.borrow().as_ref().map(|window| window.from))
            .flatten();
        let mut totals = self.totals.borrow_mut();
        totals.sent += 1;
        if self.in_flight.get() >= self.most_in_flight {
            totals.not_sent += 1;
            drop(totals);
            // The target has so much to answer that there is no room for more: a failure of its own.
            self.finished(window, Outcome::Failed, Some("too many under way"));
            return;
        }
        drop(totals);
        self.in_flight.set(self.in_flight.get() + 1);
        let late = due.elapsed();
        self.late.borrow_mut().add(late);
        self.late_now.borrow_mut().add(late);
        let shared = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let asked = tokio::time::timeout(shared.patience, shared.ask()).await;
            let waited = due.elapsed();
            let (outcome, why) = match asked {
                Ok(Ok(answer)) if answer.status < 400 => (Outcome::Answered(waited), None),
                Ok(Ok(answer)) => (Outcome::Failed, Some(format!("status {}", answer.status))),
                Ok(Err(error)) => {
                    shared.notice_exhaustion(&error);
                    (Outcome::Failed, Some(error.kind().to_string()))
                }
                Err(_) => (Outcome::Failed, Some("no answer in time".to_owned())),
            };
            shared.in_flight.set(shared.in_flight.get() - 1);
            shared.finished(window, outcome, why.as_deref());
        });
    }

    /// Asks on a connection that is free, or on a new one.
    async fn ask(&self) -> io::Result<Answer> {
        if self.target.http2 {
            return self.streams.ask(&self.target).await;
        }
        loop {
            // The one used last is the likeliest to be open still. The borrow ends before anything is waited for.
            let kept = self.idle.borrow_mut().pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::new(self.target.connect().await?),
            };
            match connection.ask(&self.request).await {
                Ok((answer, keep)) => {
                    if keep {
                        self.idle.borrow_mut().push(connection);
                    }
                    return Ok(answer);
                }
                // A server may end a kept connection when it likes (RFC 9112, 9.3.1): GET may be asked again.
                Err(Fault::Stale) => {}
                Err(Fault::Broken(error)) => return Err(error),
            }
        }
    }

    fn finished(&self, window: Option<Instant>, outcome: Outcome, why: Option<&str>) {
        if let Some(current) = self
            .window
            .borrow_mut()
            .as_mut()
            .filter(|current| window == Some(current.from))
        {
            current.open -= 1;
            for (bad, term) in current.seen.bad.iter_mut().zip(self.objective.terms()) {
                *bad += u64::from(term.is_bad(outcome));
            }
        }
        let mut totals = self.totals.borrow_mut();
        let mut seconds = self.seconds.borrow_mut();
        seconds.turn();
        for (bad, term) in totals.bad_for(&self.objective).zip(self.objective.terms()) {
            *bad += u64::from(term.is_bad(outcome));
        }
        match outcome {
            Outcome::Answered(waited) => {
                totals.latencies.add(waited);
                totals.answered += 1;
                seconds.current.answered += 1;
                seconds.latencies.add(waited);
                self.last_good.set(Instant::now());
                self.failed_since_good.set(0);
            }
            Outcome::Failed => {
                totals.failed(why.unwrap_or("failed"));
                seconds.current.failed += 1;
                self.failed_since_good.set(self.failed_since_good.get() + 1);
            }
        }
    }

    /// Whether nothing but failures came for a while: what is down is not helped by a load.
    fn is_dead(&self) -> bool {
        self.failed_since_good.get() >= DEAD_AFTER && self.last_good.get().elapsed() > DEAD
    }

    fn notice_exhaustion(&self, error: &io::Error) {
        use rustix::io::Errno;
        let here = [
            Errno::ADDRNOTAVAIL,
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
        ];
        if error
            .raw_os_error()
            .is_some_and(|raw| here.iter().any(|errno| errno.raw_os_error() == raw))
        {
            self.exhausted.set(self.exhausted.get() + 1);
        }
    }
}

impl Seconds {
    /// Begins the next second when it has come.
    fn turn(&mut self) {
        let now = Instant::now();
        match self.current.begun {
            Some(begun) if now - begun < EACH => {}
            Some(_) => self.close(),
            None => {}
        }
        self.current.begun.get_or_insert(now);
    }

    fn close(&mut self) {
        let mut second = std::mem::take(&mut self.current);
        let latencies = std::mem::take(&mut self.latencies);
        if second.begun.is_some() {
            second.p50_us = u64::try_from(latencies.percentile(50.0).as_micros()).unwrap_or(u64::MAX);
            second.p99_us = u64::try_from(latencies.percentile(99.0).as_micros()).unwrap_or(u64::MAX);
            self.done.push(second);
        }
    }
}

/// Processor time of this thread.
fn cpu() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(spent.tv_sec).unwrap_or(0),
        u32::try_from(spent.tv_nsec).unwrap_or(0),
    )
}

/// As many as there are file descriptors, up to what one thread can keep in mind.
fn most_in_flight() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MOST).min(MOST);
    let current = limit.current.unwrap_or(MOST);
    let raised = Rlimit {
        current: Some(wanted.max(current)),
        maximum: limit.maximum,
    };
    // Raising the soft limit to the hard one needs no right; when it fails the old one holds.
    let got = if setrlimit(Resource::Nofile, raised).is_ok() {
        wanted.max(current)
    } else {
        current
    };
    usize::try_from(got.min(MOST).saturating_sub(SPARE))
        .unwrap_or(0)
        .max(16)
}

const EACH: Duration = Duration::from_secs(1);
/// File descriptors, and so connections, at most.
const MOST: u64 = 16_384;
/// For everything that is not a connection.
const SPARE: u64 = 64;
const DEAD: Duration = Duration::from_secs(5);
const DEAD_AFTER: u64 = 20;
