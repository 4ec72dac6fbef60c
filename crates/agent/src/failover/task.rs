//! The loop: one thing at a time goes in, what follows from it is done. What must not wait for anything (the database's
//! death, a killed database, an answer of the store) is heard while work goes on.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use pontoon_decide::failover::{
    Command, Event, Incarnation, Nonce, Notice, Outcome, Position, Record, Setup, State, Timing, Work,
};
use pontoon_fleet::{Code, Epoch, Refusal, ServerName};
use pontoon_lease::{LeaseError, LeaseStore, Swap};
use pontoon_replication::work::{BEAT, Facts, OnlyHere, Peers, Works};
use pontoon_rt::clock::Clock;
use pontoon_rt::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::desk::{Desk, Message, Posted};
use super::driver::{Action, Driver, Input, refused};
use super::remembered::Remembered;

/// Between two ticks: five of them fit into the shortest time between two renewals.
const TICK: Duration = Duration::from_millis(100);

/// Between two looks at the database.
const LOOK: Duration = Duration::from_millis(100);

/// Between two looks for replicas that were shut out.
const LET_BACK: Duration = Duration::from_secs(1);

/// How long one look may take before it counts as none.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);

/// How long what changes a setting of a running database may take. After it nobody knows what is so, and the database is
/// killed, which is always right and never nice.
const SETTING_PATIENCE: Duration = Duration::from_secs(60);

/// A lease store with the record of the protocol.
pub(crate) type Store = Arc<dyn LeaseStore<Record = Record>>;

/// What goes to the other servers and may get lost.
pub(crate) trait Line: Send + Sync {
    /// Asks a replica that should have stopped receiving for its position.
    fn ask(&self, to: ServerName, epoch: Epoch);

    /// Answers one that asked.
    fn answer(&self, to: ServerName, epoch: Epoch, incarnation: Incarnation, position: Position);

    /// Tells everybody who leads by the record that this server has just written.
    fn changed(&self, record: &Record);
}

/// What others are to know at once.
pub(crate) trait Audience: Send + Sync {
    /// The record was seen, for the first time or changed.
    fn record(&self, record: &Record);

    /// The operators are told.
    fn notice(&self, notice: &Notice);

    /// This server has transactions that the leader lacks.
    fn only_here(&self, what: &OnlyHere);

    /// What the node does has changed.
    fn state(&self, before: Option<State>, now: State, record: Option<&Record>);

    /// The store does not answer, or answers again.
    fn store(&self, error: Option<&str>);
}

/// Everything around one task.
#[derive(Clone)]
pub(crate) struct Outfit {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Store,
    pub(crate) works: Arc<dyn Works>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) line: Arc<dyn Line>,
    pub(crate) audience: Arc<dyn Audience>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) timing: Timing,
}

/// How a task ended.
#[derive(Debug)]
pub(crate) enum End {
    /// As it was asked to.
    Shutdown,
    /// To be begun anew with what is on the disk and the database as it is.
    Again(Option<Refusal>),
}

/// One life of a node.
pub(crate) struct Task {
    outfit: Outfit,
    driver: Driver,
    remembered: Remembered,
    request: Option<BoxFuture<'static, Input>>,
    work: Option<BoxFuture<'static, Worked>>,
    kill: Option<BoxFuture<'static, ()>>,
    /// Ends with the database's process.
    gone: Option<BoxFuture<'static, ()>>,
    look: Option<BoxFuture<'static, Option<Option<Facts>>>>,
    since: Duration,
    state: Option<State>,
    record: Option<Nonce>,
    store_answered: Option<Duration>,
    store_error: Option<String>,
    /// Why work did not succeed, as it was last logged: it is asked again several times a second.
    failure: Option<Refusal>,
}

/// How work ended, in the shell's eyes.
enum Worked {
    Outcome(Outcome),
    /// Nobody knows: the database is to be killed.
    Unclear,
}

impl Task {
    /// Looks at the database and begins.
    pub(crate) async fn begin(outfit: Outfit, setup: Setup, remembered: Remembered) -> Task {
        let found = outfit.works.standing().await;
        let driver = Driver::new(setup, remembered.durable(), found);
        let since = outfit.clock.now();
        Task {
            outfit,
            driver,
            remembered,
            request: None,
            work: None,
            kill: None,
            gone: None,
            look: None,
            since,
            state: None,
            record: None,
            store_answered: None,
            store_error: None,
            failure: None,
        }
    }

    /// Runs until it is asked to end, or must be begun anew.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Message>, shutdown: Shutdown) -> End {
        let tending = tend(self.outfit.clone());
        tokio::pin!(tending);
        let mut ticks = interval(TICK);
        let mut looks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if self.remembered.is_paused() {
            let paused = Input::Event(Event::Command(Command::Pause));
            if let Err(end) = self.step(paused).await {
                return end;
            }
        }
        if self.outfit.works.copy_ordered() {
            let again = Input::Event(Event::Command(Command::CopyAnew(true)));
            if let Err(end) = self.step(again).await {
                return end;
            }
        }
        loop {
            self.watch();
            let input = tokio::select! {
                biased;
                () = shutdown.requested() => {
                    self.abandon(None).await;
                    return End::Shutdown;
                }
                () = ready(&mut self.kill) => {
                    self.kill = None;
                    Input::Event(Event::Stopped)
                }
                () = ready(&mut self.gone) => {
                    let worked = self.work.take().is_some();
                    (self.gone, self.look) = (None, None);
                    // Work that was dropped must not start it again behind the node's back. Without any, and paused, it is
                    // an operator who stops it, and who may be starting it already.
                    if worked || !self.driver.is_paused() {
                        self.outfit.works.kill().await;
                    }
                    Input::Event(Event::Stopped)
                }
                worked = ready(&mut self.work) => {
                    self.work = None;
                    match self.ended(worked).await {
                        Some(input) => input,
                        None => continue,
                    }
                }
                input = ready(&mut self.request) => {
                    self.request = None;
                    self.note_store(&input);
                    input
                }
                facts = ready(&mut self.look) => {
                    self.look = None;
                    match facts {
                        Some(facts) => {
                            self.driver.note_disk(self.outfit.desk.disk_is_full());
                            Input::Looked(facts)
                        }
                        None => continue,
                    }
                }
                message = inbox.recv() => match message {
                    Some(Message::Event(event)) => Input::Event(event),
                    Some(Message::Command(command, answer)) => {
                        match self.command(command, answer).await {
                            Ok(()) => continue,
                            Err(end) => return end,
                        }
                    }
                    None => return End::Again(None),
                },
                _ = looks.tick(), if self.look.is_none() && self.kill.is_none() => {
                    let works = self.outfit.works.clone();
                    self.look = Some(async move {
                        timeout(LOOK_PATIENCE, works.standing()).await.ok()
                    }.boxed());
                    continue;
                }
                _ = ticks.tick() => Input::Event(Event::Tick),
                () = &mut tending => continue,
            };
            if let Err(end) = self.step(input).await {
                return end;
            }
        }
    }

    /// An operator's word is kept before it is obeyed.
    async fn command(
        &mut self,
        command: Command,
        answer: oneshot::Sender<Result<(), pontoon_decide::failover::Why>>,
    ) -> Result<(), End> {
        let paused = match command {
            Command::Pause => Some(true),
            Command::Resume => Some(false),
            _ => None,
        };
        if let Some(paused) = paused {
            self.remembered
                .keep_paused(paused)
                .map_err(|refusal| End::Again(Some(refusal)))?;
        }
        let copy = match command {
            Command::CopyAnew(yes) => Some(yes),
            // Who becomes the primary is not copied over.
            Command::Force { .. } => Some(false),
            _ => None,
        };
        if let Some(yes) = copy
            && let Err(refusal) = self.outfit.works.order_copy(yes).await
        {
            tracing::error!(%refusal, "an order to copy the database anew was not kept");
            let _ = answer.send(Err(pontoon_decide::failover::Why::Busy));
            return Ok(());
        }
        let actions = self.take(Input::Event(Event::Command(command)));
        if copy == Some(true) && refused(&actions).is_some() {
            let taken_back = self.outfit.works.order_copy(false).await;
            taken_back.map_err(|refusal| End::Again(Some(refusal)))?;
        }
        // Whoever asked may be gone.
        let _ = answer.send(refused(&actions).map_or(Ok(()), Err));
        self.act(actions).await
    }

    async fn step(&mut self, input: Input) -> Result<(), End> {
        let won = matches!(input, Input::Swapped(_, Ok(Swap::Won(_))));
        let before = self.driver.standing().record.filter(|_| won);
        let actions = self.take(input);
        if let Some(now) = self.driver.standing().record.filter(|_| won) {
            let same = before.is_some_and(|before| {
                before.epoch == now.epoch && before.released == now.released && before.sync == now.sync
            });
            if !same {
                self.outfit.line.changed(&now);
            }
        }
        self.act(actions).await
    }

    fn take(&mut self, input: Input) -> Vec<Action> {
        let now = self.outfit.clock.now();
        self.driver.take(input, now, &mut nonce)
    }

    /// Does what follows, in its order, and shows how things stand.
    async fn act(&mut self, actions: Vec<Action>) -> Result<(), End> {
        for action in actions {
            match action {
                Action::Keep(durable) => {
                    let mut remembered = self.remembered.clone();
                    let kept =
                        tokio::task::spawn_blocking(move || remembered.keep(durable).map(|()| remembered));
                    match kept.await {
                        Ok(Ok(remembered)) => self.remembered = remembered,
                        Ok(Err(refusal)) => return Err(self.abandon(Some(refusal)).await),
                        Err(_) => return Err(self.abandon(None).await),
                    }
                }
                Action::Read => self.request = Some(self.read()),
                Action::Swap(expected, record) => self.request = Some(self.swap(expected, record)),
                Action::Begin(work) => self.work = Some(self.carry_out(work)),
                Action::Kill => {
                    (self.work, self.gone, self.look) = (None, None, None);
                    let works = self.outfit.works.clone();
                    self.kill = Some(async move { works.kill().await }.boxed());
                }
                Action::Ask(to, epoch) => self.outfit.line.ask(to, epoch),
                Action::Answer(to, epoch, incarnation, position) => {
                    self.outfit.line.answer(to, epoch, incarnation, position);
                }
                Action::Tell(notice) => {
                    if let Notice::TakenBack(to) = &notice {
                        self.outfit.desk.gave_up(Some(did_not_take_over(to)));
                    }
                    self.outfit.audience.notice(&notice);
                }
                Action::Rethink => return Err(self.abandon(None).await),
            }
        }
        self.post();
        Ok(())
    }

    /// What was under way has no effect after this; only a database that runs goes on.
    async fn abandon(&mut self, why: Option<Refusal>) -> End {
        let harmless = matches!(self.driver.work(), Some(Work::CaughtUp(_)));
        if (self.work.take().is_some() && !harmless) || self.kill.is_some() {
            self.outfit.works.kill().await;
        }
        End::Again(why)
    }

    fn read(&self) -> BoxFuture<'static, Input> {
        let (store, patience) = (self.outfit.store.clone(), self.outfit.timing.request);
        async move {
            match timeout(patience, store.read()).await {
                Ok(answer) => Input::Read(answer),
                Err(_) => Input::Read(Err(silent(patience))),
            }
        }
        .boxed()
    }

    /// One that is in doubt is looked back at, so this may take two requests.
    fn swap(
        &self,
        expected: Option<pontoon_lease::Version>,
        record: Box<Record>,
    ) -> BoxFuture<'static, Input> {
        let (store, patience) = (self.outfit.store.clone(), self.outfit.timing.request * 2);
        async move {
            let asked = store.compare_and_swap(expected.as_ref(), &record);
            let answer = match timeout(patience, asked).await {
                Ok(answer) => answer,
                Err(_) => Err(silent(patience)),
            };
            Input::Swapped(record.nonce, answer)
        }
        .boxed()
    }

    fn carry_out(&self, work: Work) -> BoxFuture<'static, Worked> {
        let (works, peers) = (self.outfit.works.clone(), self.outfit.peers.clone());
        let peer = self.outfit.timing.peer;
        let patience = match &work {
            Work::CaughtUp(_) => Some((peer, Worked::Outcome(Outcome::Failed))),
            Work::Acknowledge(_) | Work::Open(_) | Work::Close(_) | Work::Resume => {
                Some((SETTING_PATIENCE, Worked::Unclear))
            }
            // As long as they take: recovery, applying, copying.
            Work::Recover
            | Work::Halt
            | Work::Drain(_)
            | Work::Gather(_)
            | Work::Rejoin(..)
            | Work::Follow(..)
            | Work::Through(..)
            | Work::Copy(..) => None,
        };
        let begins = matches!(work, Work::Recover | Work::Rejoin(..) | Work::Copy(..));
        async move {
            let carried = works.carry_out(work, &peers);
            let worked = match patience {
                None => Worked::Outcome(carried.await),
                Some((patience, late)) => match timeout(patience, carried).await {
                    Ok(outcome) => Worked::Outcome(outcome),
                    Err(_) => late,
                },
            };
            if begins && matches!(worked, Worked::Outcome(Outcome::Failed | Outcome::Diverged)) {
                // The node goes on as if it had never been started.
                works.kill().await;
            }
            worked
        }
        .boxed()
    }

    /// What ended work is for the node.
    async fn ended(&mut self, worked: Worked) -> Option<Input> {
        match worked {
            Worked::Outcome(outcome) => {
                let failed = matches!(outcome, Outcome::Failed | Outcome::Diverged);
                let failure = self.outfit.works.reason().filter(|_| failed);
                if let Some(refusal) = failure.as_ref().filter(|now| self.failure.as_ref() != Some(*now)) {
                    tracing::warn!(work = ?self.driver.work(), %refusal, "work on the database did not succeed; it is tried again");
                }
                if let Some(found) = self.outfit.works.only_here() {
                    self.outfit.audience.only_here(&found);
                }
                if matches!(self.driver.work(), Some(Work::Close(_))) {
                    self.outfit.desk.gave_up(failure.clone());
                }
                self.failure = failure;
                Some(Input::Event(Event::Worked(outcome)))
            }
            Worked::Unclear => {
                tracing::error!(work = ?self.driver.work(), "the database does not do what it is told; it is killed");
                self.gone = None;
                self.outfit.works.kill().await;
                Some(Input::Event(Event::Stopped))
            }
        }
    }

    /// Has its end noticed as soon as it comes.
    fn watch(&mut self) {
        match (self.driver.watches() && self.kill.is_none(), self.gone.is_some()) {
            (true, false) => {
                let works = self.outfit.works.clone();
                self.gone = Some(async move { works.stopped().await }.boxed());
            }
            (false, true) => self.gone = None,
            _ => {}
        }
    }

    fn note_store(&mut self, input: &Input) {
        let error = match input {
            Input::Read(Err(error)) | Input::Swapped(_, Err(error)) => Some(error.to_string()),
            _ => None,
        };
        match &error {
            None => self.store_answered = Some(self.outfit.clock.now()),
            Some(error) => tracing::debug!(%error, "the lease store"),
        }
        if error.is_some() != self.store_error.is_some() {
            self.outfit.audience.store(error.as_deref());
        }
        self.store_error = error;
    }

    fn post(&mut self) {
        let standing = self.driver.standing();
        if self.state != Some(standing.state) {
            let before = self.state.replace(standing.state);
            self.since = self.outfit.clock.now();
            self.outfit
                .audience
                .state(before, standing.state, standing.record.as_ref());
        }
        if let Some(record) = &standing.record
            && self.record != Some(record.nonce)
        {
            self.record = Some(record.nonce);
            self.outfit.audience.record(record);
        }
        self.outfit.desk.post(Posted {
            state: standing.state,
            since: self.since,
            record: standing.record,
            deadline: standing.deadline,
            durable: self.driver.durable(),
            peer_facts: self.driver.peer_facts(),
            facts: self.driver.facts().cloned(),
            work: self.driver.work().map(words),
            paused: self.driver.is_paused(),
            open: self.driver.is_open(),
            store_answered: self.store_answered,
            store_error: self.store_error.clone(),
        });
    }
}

/// Lets replicas in again that were shut out, and writes beats, while the database is open.
async fn tend(outfit: Outfit) {
    tokio::join!(beat(outfit.clone()), let_back(outfit));
}

async fn let_back(outfit: Outfit) {
    let mut ticks = interval(LET_BACK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if outfit.desk.posted().is_some_and(|posted| posted.open) {
            outfit.works.let_back(&outfit.peers).await;
        }
    }
}

/// One that hangs waits for a replica: it harms nobody.
async fn beat(outfit: Outfit) {
    let mut ticks = interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if outfit.desk.posted().is_some_and(|posted| posted.open)
            && let Err(refusal) = outfit.works.beat().await
        {
            tracing::debug!(%refusal, "no beat was written");
        }
    }
}

/// Waits for what is in the slot; for ever when nothing is.
async fn ready<F: Future + Unpin>(slot: &mut Option<F>) -> F::Output {
    match slot {
        Some(future) => future.await,
        None => pending().await,
    }
}

fn silent(patience: Duration) -> LeaseError {
    LeaseError::Doubt(format!("no answer within {} ms", patience.as_millis()))
}

/// For whoever asked for the hand-over.
fn did_not_take_over(server: &ServerName) -> Refusal {
    Refusal::new(Code::L002, format!("{server} did not take over"))
        .because("its database ended in the moment in which it became the primary")
        .next("when it follows again", "pontoon db status")
}

/// A number that was never used before.
fn nonce() -> Nonce {
    let mut random = [0; 16];
    // Fails only where the system gives no random numbers; then the time and the process differ at least.
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let nanoseconds = now.unwrap_or_default().as_nanos();
        return Nonce((nanoseconds << 32) | u128::from(std::process::id()));
    }
    Nonce(u128::from_le_bytes(random))
}

/// What is being done, for people.
fn words(work: &Work) -> String {
    match work {
        Work::Recover => "starting the database".to_owned(),
        Work::Acknowledge(_) => "setting who acknowledges commits".to_owned(),
        Work::CaughtUp(members) => {
            let names: Vec<_> = members.keys().map(ServerName::as_str).collect();
            format!("waiting until {} has everything", names.join(", "))
        }
        Work::Open(epoch) => format!("taking writes as the primary of epoch {epoch}"),
        Work::Close(to) => format!("handing over to {to}: waiting for what is under way"),
        Work::Drain(_) => "applying everything that was received".to_owned(),
        Work::Gather(_) => "asking the others whether they received more".to_owned(),
        Work::Halt => "stopping to receive".to_owned(),
        Work::Resume => "receiving again".to_owned(),
        Work::Rejoin(leader, _) => format!("rejoining behind {leader}"),
        Work::Follow(leader, _) => format!("beginning to follow {leader}"),
        Work::Through(source, _) => format!("going over to follow through {source}"),
        Work::Copy(leader, _) => format!("copying the database of {leader}"),
    }
}
