//! Visitors: an open-loop load on a fixed schedule, from a thread of its own.
//!
//! A request is sent when the schedule says so, whether or not earlier ones were answered, and its wait counts from the
//! moment it was **due**: a stalled server cannot slow its own measurement down. Nothing is retried. What was due and
//! could not be sent counts as failed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::app::{Dice, Verdict, Visit, Visited, WriteId};
use crate::http::{Connection, HttpError, Response};
use crate::ledger::Ledger;
use crate::phase::{Phase, PhaseSummary, Record};
use crate::wait::wait_until;
use crate::{LabError, Skip};

/// How requests are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// At even distances.
    Even,
    /// As independent people come: exponentially distributed distances.
    Poisson,
}

/// The schedule of a load and its bounds.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Which addresses visitors know, as from DNS; each request takes one of them.
    pub targets: Vec<SocketAddr>,
    /// Requests per second.
    pub rate: f64,
    /// How they are spread.
    pub arrivals: Arrivals,
    /// Where the dice begin.
    pub seed: u64,
    /// When a visitor gives up; the request has failed then.
    pub patience: Duration,
    /// The share of requests, 0 to 1, that come on a connection of their own; the others share kept connections.
    pub fresh_share: f64,
    /// More requests under way than this are not sent, and count as failed.
    pub most_in_flight: usize,
    /// The load ends by itself after so many requests.
    pub most_requests: u64,
    /// The load ends by itself after this time.
    pub most_time: Duration,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions {
            targets: Vec::new(),
            rate: 20.0,
            arrivals: Arrivals::Poisson,
            seed: 1,
            patience: Duration::from_secs(20),
            fresh_share: 0.3,
            most_in_flight: 1_000,
            most_requests: 200_000,
            most_time: Duration::from_secs(3_600),
        }
    }
}

/// A running load. Dropped, it ends without waiting for answers.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What a load has seen.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// The phases in order; one that was entered twice is there twice.
    pub phases: Vec<PhaseSummary>,
    /// What was acknowledged.
    pub ledger: Ledger,
    /// Every request.
    pub records: Vec<Record>,
    /// How late requests left at worst. Much more than 50 ms: this machine was too busy to be believed.
    pub latest_send: Duration,
}

impl Load {
    /// Starts visitors of `app` in a first phase.
    ///
    /// # Errors
    /// When there is no target or the thread cannot be started.
    pub fn start(app: Arc<dyn Visited>, options: LoadOptions, phase: &str) -> Result<Load, LabError> {
        if options.targets.is_empty() || !options.rate.is_finite() || options.rate <= 0.0 {
            return Err(LabError::Unknown("a load needs a target and a rate".to_owned()));
        }
        let state = State {
            phases: vec![Phase::new(phase)],
            ledger: Ledger::default(),
            records: Vec::new(),
            known: Vec::new(),
            targets: options.targets.clone(),
            rate: options.rate,
            reads_in_flight: 0,
            writes_in_flight: 0,
            latest_send: Duration::ZERO,
            held_up: false,
            writers_wanted_out: 0,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            ended: AtomicBool::new(false),
            wake: Notify::new(),
            answering: AtomicUsize::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(LabError::io("runtime"))?;
        let visitors = Visitors {
            app,
            options,
            shared: shared.clone(),
        };
        let thread = std::thread::Builder::new().name("visitors".to_owned());
        let run = move || tokio::task::LocalSet::new().block_on(&runtime, visitors.run());
        let thread = thread.spawn(run).map_err(LabError::io("thread"))?;
        Ok(Load {
            shared,
            thread: Some(thread),
        })
    }

    /// Begins a phase: requests that are due from now on belong to it.
    pub fn phase(&self, name: &str) {
        let mut state = self.shared.lock();
        if let Some(phase) = state.phases.last_mut() {
            phase.end();
        }
        state.phases.push(Phase::new(name));
    }

    /// Changes the addresses that visitors know. An empty list changes nothing.
    pub fn set_targets(&self, targets: Vec<SocketAddr>) {
        if !targets.is_empty() {
            self.shared.lock().targets = targets;
        }
    }

    /// Changes the requests per second; what is no rate changes nothing.
    pub fn set_rate(&self, rate: f64) {
        if rate.is_finite() && rate > 0.0 {
            self.shared.lock().rate = rate;
        }
    }

    /// What was seen so far.
    pub fn summary(&self) -> Vec<PhaseSummary> {
        self.shared.lock().phases.iter().map(Phase::summary).collect()
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.lock().ledger.len()
    }

    /// How many requests are under way: reads and writes.
    pub fn in_flight(&self) -> (usize, usize) {
        let state = self.shared.lock();
        (state.reads_in_flight, state.writes_in_flight)
    }

    /// Waits for a moment in which no write is under way; none begins meanwhile, since on a busy machine one would
    /// always begin before another ends. Nobody but a visitor can repeat a POST whose connection broke; who kills an
    /// application process at any other moment must count one failed write as right.
    ///
    /// # Errors
    /// When there is no such moment within `limit`.
    pub async fn between_writes(&self, limit: Duration) -> Result<(), LabError> {
        let begun = Instant::now();
        let _out = WritersOut::of(&self.shared);
        while self.in_flight().1 > 0 {
            if begun.elapsed() > limit {
                return Err(LabError::Timeout {
                    what: "a moment without a write".to_owned(),
                    after: limit,
                });
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// How many answers visitors have begun to read, and not yet to their end.
    pub fn answering(&self) -> usize {
        self.shared.answering.load(Ordering::Relaxed)
    }

    /// Lets no request begin while the value lives. What is due meanwhile is sent right after, with its wait counted from
    /// when it was due, and [`LoadReport::latest_send`] tells how long visitors were held up: do it for milliseconds.
    pub fn hold_up(&self) -> HeldUp<'_> {
        // Under the lock: no request is between its decision and its entry.
        self.shared.lock().held_up = true;
        HeldUp(&self.shared)
    }

    /// Sends nothing more, waits for the answers to what was sent, and reports.
    ///
    /// # Errors
    /// When the visitors' thread has not ended in time.
    pub async fn stop(mut self) -> Result<LoadReport, LabError> {
        self.end();
        let thread = self.thread.take();
        wait_until("the visitors' last answers", MOST_PATIENCE, || async {
            thread
                .as_ref()
                .is_none_or(std::thread::JoinHandle::is_finished)
                .then_some(())
        })
        .await?;
        let mut state = self.shared.lock();
        if let Some(phase) = state.phases.last_mut() {
            phase.end();
        }
        Ok(LoadReport {
            phases: state.phases.iter().map(Phase::summary).collect(),
            ledger: state.ledger.clone(),
            records: std::mem::take(&mut state.records),
            latest_send: state.latest_send,
        })
    }

    fn end(&self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.shared.wake.notify_one();
    }
}

/// While it lives no request begins.
#[derive(Debug)]
#[must_use = "visitors come again when this is dropped"]
pub struct HeldUp<'a>(&'a Shared);

impl Drop for HeldUp<'_> {
    fn drop(&mut self) {
        self.0.lock().held_up = false;
        self.0.wake.notify_one();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl LoadReport {
    /// Requests that failed, in all phases.
    pub fn failed(&self) -> u64 {
        self.phases.iter().map(|phase| phase.failed).sum()
    }

    /// Whether the generator itself kept its schedule well enough to be believed.
    ///
    /// # Errors
    /// [`Skip`] with how late it was.
    pub fn believable(&self) -> Result<(), Skip> {
        if self.latest_send <= LATE {
            return Ok(());
        }
        let late = self.latest_send.as_millis();
        Err(Skip(format!(
            "this machine was too busy: a request left {late} ms after it was due"
        )))
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    ended: AtomicBool,
    /// Tells the visitors' thread of an end, or of the end of a hold-up.
    wake: Notify,
    answering: AtomicUsize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct State {
    phases: Vec<Phase>,
    ledger: Ledger,
    records: Vec<Record>,
    known: Vec<WriteId>,
    targets: Vec<SocketAddr>,
    rate: f64,
    reads_in_flight: usize,
    writes_in_flight: usize,
    latest_send: Duration,
    held_up: bool,
    /// How many wait for a moment without a write: nobody begins one meanwhile.
    writers_wanted_out: usize,
}

/// While it lives, no write begins.
struct WritersOut<'a>(&'a Shared);

impl WritersOut<'_> {
    fn of(shared: &Shared) -> WritersOut<'_> {
        shared.lock().writers_wanted_out += 1;
        WritersOut(shared)
    }
}

impl Drop for WritersOut<'_> {
    fn drop(&mut self) {
        self.0.lock().writers_wanted_out -= 1;
    }
}

/// Kept connections by address, with the moment of their last answer.
type Pool = RefCell<HashMap<SocketAddr, Vec<(Connection, Instant)>>>;

struct Visitors {
    app: Arc<dyn Visited>,
    options: LoadOptions,
    shared: Arc<Shared>,
}

/// What became of a moment in which a request is due.
enum Taken {
    /// It is sent.
    Due(Due),
    /// It cannot be sent, which was entered as a failure.
    Nothing,
    /// It is to be sent later.
    HeldUp,
}

/// One request that is due.
struct Due {
    at: Instant,
    phase: usize,
    target: SocketAddr,
    visit: Visit,
    fresh: bool,
}

impl Visitors {
    async fn run(self) {
        let mut dice = Dice::new(self.options.seed);
        let pool = Rc::new(Pool::default());
        let host: Rc<str> = self.app.host().into();
        let begun = Instant::now();
        let mut due = begun;
        let mut requests = 0;
        let mut tasks = tokio::task::JoinSet::new();
        while requests < self.options.most_requests && begun.elapsed() < self.options.most_time {
            let ended = async {
                while !self.shared.ended.load(Ordering::Relaxed) {
                    self.shared.wake.notified().await;
                }
            };
            tokio::select! {
                biased;
                () = ended => break,
                () = sleep_until(due) => {}
            }
            let taken = loop {
                match self.take_up(due, &mut dice) {
                    Taken::HeldUp => self.shared.wake.notified().await,
                    taken => break taken,
                }
            };
            requests += 1;
            if let Taken::Due(one) = taken {
                let (app, shared) = (self.app.clone(), self.shared.clone());
                tasks.spawn_local(visit(
                    app,
                    shared,
                    pool.clone(),
                    host.clone(),
                    self.options.patience,
                    one,
                ));
            }
            while tasks.try_join_next().is_some() {}
            due += self.distance(&mut dice);
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Enters a request as due, unless visitors are held up.
    fn take_up(&self, at: Instant, dice: &mut Dice) -> Taken {
        let mut state = self.shared.lock();
        if state.held_up && !self.shared.ended.load(Ordering::Relaxed) {
            return Taken::HeldUp;
        }
        let visit = self.app.next(dice, &state.known);
        if visit.text.is_some() && state.writers_wanted_out > 0 {
            return Taken::Nothing;
        }
        let target = state.targets.get(dice.below(state.targets.len())).copied();
        let fresh = dice.share() < self.options.fresh_share;
        // There is a target and a phase since the load was started.
        let (Some(target), Some(index)) = (target, state.phases.len().checked_sub(1)) else {
            return Taken::Nothing;
        };
        let in_flight = state.reads_in_flight + state.writes_in_flight;
        state.latest_send = state.latest_send.max(at.elapsed());
        if let Some(phase) = state.phases.last_mut() {
            phase.sent(visit.text.is_some());
            if in_flight >= self.options.most_in_flight {
                phase.answered(Duration::ZERO, Some("not sent: too many under way"), false);
                return Taken::Nothing;
            }
        }
        match visit.text {
            Some(_) => state.writes_in_flight += 1,
            None => state.reads_in_flight += 1,
        }
        Taken::Due(Due {
            at,
            phase: index,
            target,
            visit,
            fresh,
        })
    }

    fn distance(&self, dice: &mut Dice) -> Duration {
        let mean = 1.0 / self.shared.lock().rate.clamp(0.01, 100_000.0);
        match self.options.arrivals {
            Arrivals::Even => Duration::from_secs_f64(mean),
            // 1 - share is never 0; a pause of more than ten means is cut.
            Arrivals::Poisson => Duration::from_secs_f64(mean * (-(1.0 - dice.share()).ln()).min(10.0)),
        }
    }
}

async fn visit(
    app: Arc<dyn Visited>,
    shared: Arc<Shared>,
    pool: Rc<Pool>,
    host: Rc<str>,
    patience: Duration,
    due: Due,
) {
    let deadline = patience.saturating_sub(due.at.elapsed());
    let answer = timeout(deadline, exchange(&pool, &due, &host, &shared)).await;
    let wait = due.at.elapsed();
    let status = answer
        .as_ref()
        .ok()
        .and_then(|answer| answer.as_ref().ok())
        .map(|response| response.status);
    let (failure, written) = match &answer {
        Err(_) => (Some("no answer in time".to_owned()), None),
        Ok(Err(e)) => (Some(e.to_string()), None),
        Ok(Ok(response)) => match app.judge(&due.visit, response) {
            Verdict::Good => (None, None),
            Verdict::Written(id) => (None, Some(id)),
            Verdict::Bad(reason) => (Some(reason), None),
        },
    };
    let mut state = shared.lock();
    match due.visit.text {
        Some(_) => state.writes_in_flight -= 1,
        None => state.reads_in_flight -= 1,
    }
    if let Some(phase) = state.phases.get_mut(due.phase) {
        phase.answered(wait, failure.as_deref(), written.is_some());
    }
    if let (Some(id), Some(text)) = (written, &due.visit.text) {
        state.ledger.enter(id.clone(), text);
        state.known.push(id);
    }
    state.records.push(Record {
        phase: due.phase,
        what: due.visit.what,
        method: due.visit.request.method,
        target: due.target,
        status,
        failure,
        wait_us: u64::try_from(wait.as_micros()).unwrap_or(u64::MAX),
    });
}

async fn exchange(pool: &Pool, due: &Due, host: &str, shared: &Shared) -> Result<Response, HttpError> {
    let kept = || {
        let mut pool = pool.borrow_mut();
        let idle = pool.entry(due.target).or_default();
        // A server may close what was idle for long at the very moment we send: don't come near that moment.
        while let Some((connection, since)) = idle.pop() {
            if since.elapsed() < MOST_IDLE && connection.reusable() {
                return Some(connection);
            }
        }
        None
    };
    let mut connection = match if due.fresh { None } else { kept() } {
        Some(connection) => connection,
        None => Connection::open(due.target).await?,
    };
    let mut answering = None;
    let begun = || answering = Some(Answering::begin(shared));
    let response = connection
        .send_and_notice(&due.visit.request, host, !due.fresh, begun)
        .await?;
    if !due.fresh && connection.reusable() {
        pool.borrow_mut()
            .entry(due.target)
            .or_default()
            .push((connection, Instant::now()));
    }
    Ok(response)
}

/// An answer that is being read.
struct Answering<'a>(&'a Shared);

impl Answering<'_> {
    fn begin(shared: &Shared) -> Answering<'_> {
        shared.answering.fetch_add(1, Ordering::Relaxed);
        Answering(shared)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

const MOST_IDLE: Duration = Duration::from_secs(2);
const MOST_PATIENCE: Duration = Duration::from_secs(120);
const LATE: Duration = Duration::from_millis(250);

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
