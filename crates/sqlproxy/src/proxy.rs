//! The process: threads that serve, and one place that follows the view, keeps the doors and reports.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use pontoon_fleet::{HoldReport, Tier, TierDetail, TierReport};
use pontoon_rt::clock::{self, Clock, SystemClock};
use pontoon_rt::doors::{Doors, ThreadDoor};
use pontoon_rt::serve::{Closing, Incoming, ServeError, on_threads};
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::view::ViewClient;
use pontoon_telemetry::digests::Digests;
use pontoon_telemetry::metrics::{self, Registry, SqlMetrics};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::SqlOptions;
use crate::boundary::Boundary;
use crate::context::{Context, Gate, Limits, Sessions};
use crate::counters::{Counted, Counters};
use crate::doors::wanted;
use crate::floor::{self, Floors};
use crate::front::Keys;
use crate::passthrough::{refuse_for_number, serve_client};
use crate::peer::{Peer, tune};
use crate::pool::{Directory, Thread};
use crate::relay::serve_relay;
use crate::session;
use crate::session::registry::Registry as SessionRegistry;
use crate::target::{Follower, NoPrimary, Target, Transport};
use crate::tls::FleetTls;

/// Between two looks at the doors.
const DOOR_TICK: Duration = Duration::from_millis(500);
/// The same while an address is expected to become free, because the database moves aside: whoever dials in between
/// finds nobody.
const DOOR_HURRY: Duration = Duration::from_millis(10);
/// How long after a view the addresses that it asks for are expected to become free.
const EXPECTANT: Duration = Duration::from_secs(60);
const REPORT_TICK: Duration = Duration::from_secs(1);
/// Between two looks at what is under way while the primary is about to hand over.
const HOLD_TICK: Duration = Duration::from_millis(5);
/// How long sessions may take to notice that the process closes.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// See [`run_until`](crate::run_until).
pub fn run(options: &SqlOptions, mut limits: Limits, shutdown: &Shutdown) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    limits.resolve(pontoon_rt::process::raise_open_files());
    // The view is followed until the last session has ended, drained or not.
    let ended = Shutdown::new();
    runtime.block_on(async {
        let client = ViewClient::start(&options.paths, Tier::Sql, ended.clone());
        let mut follower = Follower::new(options.server.clone());
        let first = follower.follow(client.current().as_deref());
        let floors = Arc::new(Floors::default());
        floors.follow(client.current().as_deref(), &first);
        floor::serve(&floors, &options.paths, ended.clone());
        let mut registry = Registry::new(&options.server, "sql", env!("CARGO_PKG_VERSION"));
        let numbers = SqlMetrics::register(&mut registry);
        let digests = Arc::new(Digests::default());
        let pages = {
            let digests = Arc::clone(&digests);
            vec![metrics::json_page("/digests", move |_| digests.report())]
        };
        metrics::serve_with(
            &options.paths.run_dir.join("sql.sock"),
            registry,
            pages,
            ended.clone(),
        );
        let (target_sender, targets) = watch::channel(first);
        let context = Arc::new(Context {
            me: options.server.clone(),
            limits,
            views: client.subscribe(),
            targets,
            tls: FleetTls::new(options.paths.identity_dir()),
            floors: Arc::clone(&floors),
            account_file: options.paths.sql_account_file(),
            counters: Counters::default(),
            metrics: numbers,
            digests,
            gate: Gate::default(),
            directory: Directory::default(),
            sessions: SessionRegistry::default(),
            boundary: Boundary::default(),
            hidden: Arc::new(session::hidden()),
            closing: CancellationToken::new(),
            draining: false.into(),
        });
        tokio::spawn(floor::run(floors, Arc::clone(&context)));
        let closing = Closing {
            token: context.closing.clone(),
            limit: CLOSE_LIMIT,
        };
        let keys = Arc::new(Keys::generate());
        let make = {
            let context = Arc::clone(&context);
            move || {
                let thread = Thread::new(Arc::clone(&context), Arc::clone(&keys));
                tokio::task::spawn_local(Rc::clone(&thread).tend());
                thread
            }
        };
        let (threads, senders) = on_threads(options.threads, &closing, make, serve)?;
        let keeper = Keeper {
            context: Arc::clone(&context),
            client,
            follower,
            targets: target_sender,
            told: (0, 0),
            told_held: None,
        };
        keeper.keep(senders, shutdown).await;
        ended.trigger();
        threads.join()?;
        Ok(())
    })
}

async fn serve(thread: Rc<Thread>, incoming: Incoming) {
    match incoming {
        Incoming::Tcp(stream) => {
            tune(&stream);
            serve_any(&thread, Peer::Tcp(stream), Transport::Tcp).await;
        }
        Incoming::Unix(stream) => serve_any(&thread, Peer::Unix(stream), Transport::Unix).await,
        Incoming::Relay(stream) => {
            tune(&stream);
            serve_relay(&thread.context, stream).await;
        }
    }
}

/// Serves a client in a session of the proxy's own, or passes it through: while nothing needs sessions, or the proxy has
/// no account to learn from whom it may let in.
async fn serve_any(thread: &Rc<Thread>, peer: Peer, transport: Transport) {
    let context = &thread.context;
    let wanted = match context.limits.sessions {
        Sessions::WheneverPossible => true,
        Sessions::WhenSpread => context.is_spread(),
    };
    if !wanted || !context.account_file.exists() {
        return serve_client(context, peer, transport).await;
    }
    context.counters.connections.fetch_add(1, Relaxed);
    let Some(_place) = Counted::within(&context.counters.clients, context.limits.max_sessions) else {
        return refuse_for_number(context, context.limits.max_sessions, peer).await;
    };
    session::admit::admit(Rc::clone(thread), peer, transport).await;
}

/// Follows the view, keeps the doors, reports, and leads through the end.
struct Keeper {
    context: Arc<Context>,
    client: ViewClient,
    follower: Follower,
    targets: watch::Sender<Target>,
    /// Connections over the limit and connections closed for a new primary, as the log last said.
    told: (u64, u64),
    /// What is under way while the primary is about to hand over, as the agent was last told.
    told_held: Option<HoldReport>,
}

impl Keeper {
    async fn keep(mut self, threads: Vec<mpsc::UnboundedSender<ThreadDoor>>, shutdown: &Shutdown) {
        let mut doors = Doors::new(threads);
        let mut views = self.client.subscribe();
        let mut door_tick = interval(DOOR_TICK);
        let mut report_tick = interval(REPORT_TICK);
        door_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        report_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked_for = Instant::now();
        loop {
            let left = self.left();
            let hurry = !doors.not_listening().is_empty() && asked_for.elapsed() < EXPECTANT;
            tokio::select! {
                _ = views.changed() => {
                    let wanted = wanted(views.borrow().as_deref(), &self.context.me);
                    if doors.differ_from(wanted.as_deref()) {
                        asked_for = Instant::now();
                    }
                }
                () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {}
                _ = door_tick.tick() => {}
                () = tokio::time::sleep(DOOR_HURRY), if hurry => {}
                _ = report_tick.tick() => {
                    self.report(doors.not_listening());
                    continue;
                }
                () = tokio::time::sleep(HOLD_TICK), if self.context.boundary.is_held() => {
                    // Somebody waits for the end of what is under way.
                    if self.context.boundary.standing() != self.told_held {
                        self.report(doors.not_listening());
                    }
                    continue;
                }
                () = shutdown.requested() => break,
            }
            let has_identity = self.context.tls.load();
            // One view for both, or one that came a moment ago would be marked as seen and never obeyed; and nobody
            // finds a door open who is then told of no database.
            let view = views.borrow_and_update().clone();
            self.obey(view.as_deref());
            if doors.reconcile(wanted(view.as_deref(), &self.context.me), has_identity) {
                // The agent starts the edge when it knows.
                self.report(doors.not_listening());
            }
        }
        self.drain(doors, views, report_tick, shutdown).await;
    }

    fn obey(&mut self, view: Option<&pontoon_fleet::FleetView>) {
        let target = self
            .follower
            .follow(view)
            .overdue(clock::boot_id(), SystemClock.now());
        self.context.floors.follow(view, &target);
        let target = target.held(clock::boot_id(), SystemClock.now());
        // Before anybody can see the target: who passed the boundary before this is counted.
        self.context.boundary.hold(target.held_until_ms());
        self.targets.send_if_modified(|current| {
            if *current == target {
                return false;
            }
            if current.primary == target.primary
                && current.replicas == target.replicas
                && current.hold == target.hold
            {
                // A renewed lease is news to nobody but the one who watches its end.
                current.write_until = target.write_until;
                current.holding = target.holding;
                return false;
            }
            match &target.primary {
                Ok(primary) => {
                    tracing::info!(server = %primary.pin.server, epoch = %primary.pin.epoch, "the primary");
                }
                Err(reason @ NoPrimary::HandingOver(_)) => tracing::info!(%reason, "nothing new is begun"),
                Err(reason) => tracing::warn!(%reason, "no primary: new connections are held"),
            }
            *current = target;
            true
        });
    }

    /// How long it is until the primary may not be written to any more: no news is no leave to go on.
    fn left(&self) -> Option<Duration> {
        self.targets.borrow().left(clock::boot_id(), SystemClock.now())
    }

    fn report(&mut self, not_listening: Vec<String>) {
        let counters = &self.context.counters;
        let now = (counters.over_limit.load(Relaxed), counters.demoted.load(Relaxed));
        if now.0 > self.told.0 {
            let Limits {
                max_clients,
                max_sessions,
                ..
            } = self.context.limits;
            tracing::warn!(
                count = now.0 - self.told.0,
                max_clients,
                max_sessions,
                "connections were refused: over the limit"
            );
        }
        if now.1 > self.told.1 {
            tracing::warn!(
                count = now.1 - self.told.1,
                "connections were closed: the primary has changed"
            );
        }
        self.told = now;
        self.told_held = self.context.boundary.standing();
        self.client.report(TierReport {
            pid: std::process::id(),
            view_serial: self.client.current().map_or(0, |view| view.serial),
            detail: TierDetail::Sql(self.context.report(not_listening)),
        });
    }

    /// Takes nothing new, and gives what is open its time. The view is still obeyed: a connection to a primary that
    /// is replaced meanwhile is closed.
    async fn drain(
        mut self,
        doors: Doors,
        mut views: watch::Receiver<Option<Arc<pontoon_fleet::FleetView>>>,
        mut report_tick: tokio::time::Interval,
        shutdown: &Shutdown,
    ) {
        self.context.draining.store(true, Relaxed);
        doors.close_all();
        let grace = self.context.limits.grace;
        let counters = &Arc::clone(&self.context).counters;
        let open = || counters.clients.load(Relaxed) + counters.relayed.load(Relaxed);
        tracing::info!(open = open(), ?grace, "shutting down");
        let until = tokio::time::sleep(grace);
        tokio::pin!(until);
        let mut look = interval(Duration::from_millis(20));
        loop {
            tokio::select! {
                () = &mut until => break,
                () = shutdown.hurried() => break,
                _ = views.changed() => {}
                () = tokio::time::sleep(self.left().unwrap_or_default()), if self.left().is_some() => {}
                _ = report_tick.tick() => self.report(Vec::new()),
                _ = look.tick() => if open() == 0 { break },
            }
            let view = views.borrow().clone();
            self.obey(view.as_deref());
        }
        if open() > 0 {
            tracing::warn!(open = open(), "closing what is still open");
        }
        self.context.closing.cancel();
    }
}
