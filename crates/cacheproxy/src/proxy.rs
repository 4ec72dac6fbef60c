//! The process: threads that serve, and one place that follows the view, tends the guard, keeps the doors and reports.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pontoon_fleet::{CacheReport, FleetView, Role, ServerName, Tier, TierDetail, TierReport};
use pontoon_pki::FleetTls;
use pontoon_rt::doors::{Door, Doors, ThreadDoor};
use pontoon_rt::serve::{Closing, Incoming, ServeError, on_threads};
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::view::ViewClient;
use pontoon_telemetry::metrics::{self, CacheMetrics, Registry};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::CacheOptions;
use crate::client::{Outcome, serve_client};
use crate::context::{Context, Counted, Counters, Limits, Owed};
use crate::dial::Stream;
use crate::fills::Fills;
use crate::guard::{Guard, Keeper};
use crate::lane::{Job, Lane};
use crate::relay::serve_relay;
use crate::route::Table;

/// Between two looks at doors and guard.
const TICK: Duration = Duration::from_millis(100);
const REPORT_TICK: Duration = Duration::from_millis(500);
/// How long connections may take to notice that the process closes.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// See [`run_until`](crate::run_until).
pub fn run(options: &CacheOptions, limits: Limits, shutdown: &Shutdown) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    pontoon_rt::process::raise_open_files();
    let ended = Shutdown::new();
    runtime.block_on(async {
        let client = ViewClient::start(&options.paths, Tier::Cache, ended.clone());
        let first = Arc::new(Table::of(client.current().as_deref(), &options.server));
        let (table_sender, tables) = watch::channel(first);
        let socket = options.paths.memcached_socket();
        let mut registry = Registry::new(&options.server, "cache", env!("CARGO_PKG_VERSION"));
        let numbers = CacheMetrics::register(&mut registry);
        metrics::serve(&options.paths.run_dir.join("cache.sock"), registry, ended.clone());
        let context = Arc::new(Context {
            me: options.server.clone(),
            limits,
            views: client.subscribe(),
            tables,
            tls: FleetTls::new(options.paths.identity_dir()),
            guard: Guard::default(),
            socket: socket.clone(),
            counters: Counters::default(),
            metrics: numbers,
            owed: Owed::default(),
            fills: Fills::default(),
            standing: Mutex::default(),
            closing: CancellationToken::new(),
        });
        let closing = Closing {
            token: context.closing.clone(),
            limit: CLOSE_LIMIT,
        };
        let make = {
            let context = Arc::clone(&context);
            move || Thread::start(Arc::clone(&context))
        };
        let (threads, senders) = on_threads(options.threads, &closing, make, serve)?;
        let keeper = Keeper::new(
            options.server.clone(),
            options.paths.run_dir.join("cache-guard.json"),
            socket,
        );
        keep(&context, client, keeper, table_sender, senders, shutdown).await;
        ended.trigger();
        threads.join()?;
        Ok(())
    })
}

/// One serving thread's own: where keys belong as it knows it, and its lanes.
pub struct Thread {
    /// What all share.
    pub context: Arc<Context>,
    /// Requests that are not yet in the process's count: threads that counted in one place would wait for each other.
    pub requests: Cell<u64>,
    state: RefCell<State>,
}

struct State {
    table: Arc<Table>,
    /// By server, the binary one second.
    lanes: Vec<[Option<Rc<Lane>>; 2]>,
    /// Writes that wait for a list that is open, each with the key's home to be found then.
    parked: VecDeque<(Place, bool, Job, Instant)>,
}

enum Place {
    Key(Bytes),
    Index(usize),
}

impl Thread {
    fn start(context: Arc<Context>) -> Rc<Thread> {
        let table = context.tables.borrow().clone();
        let thread = Rc::new(Thread {
            context,
            requests: Cell::new(0),
            state: RefCell::new(State {
                table,
                lanes: Vec::new(),
                parked: VecDeque::new(),
            }),
        });
        tokio::task::spawn_local(Rc::clone(&thread).tend());
        thread
    }

    /// The number of the list that is served; 0 for none.
    pub fn list(&self) -> u64 {
        self.state.borrow().table.number
    }

    /// Whether one client fills `key` and the others wait.
    pub fn fills_once(&self, key: &[u8]) -> bool {
        let begins = |prefix: &String| key.starts_with(prefix.as_bytes());
        self.state.borrow().table.fill_once.iter().any(begins)
    }

    /// How many servers there are.
    pub fn servers(&self) -> usize {
        self.state.borrow().table.targets.len()
    }

    /// Has `job` done by the server of `key`.
    pub fn to_home(&self, key: &[u8], is_binary: bool, job: Job) {
        let home = self.state.borrow().table.home(key);
        self.give(|| Place::Key(Bytes::copy_from_slice(key)), home, is_binary, job);
    }

    /// Has `job` done by the server of that index.
    pub fn to(&self, index: usize, is_binary: bool, job: Job) {
        self.give(|| Place::Index(index), Some(index), is_binary, job);
    }

    fn give(&self, place: impl FnOnce() -> Place, home: Option<usize>, is_binary: bool, job: Job) {
        if let Some(lane) = home.and_then(|home| self.lane(home, is_binary)) {
            return lane.send(job);
        }
        if job.read {
            self.context.counters.missed.fetch_add(1, Relaxed);
            return job.reply.settle(Outcome::Missed);
        }
        let parked = (place(), is_binary, job, Instant::now());
        self.state.borrow_mut().parked.push_back(parked);
    }

    /// The lane to a server of the list; `None` while the list is closed.
    fn lane(&self, home: usize, is_binary: bool) -> Option<Rc<Lane>> {
        let mut state = self.state.borrow_mut();
        let State { table, lanes, .. } = &mut *state;
        let target = table.targets.get(home).filter(|_| table.open)?;
        if lanes.len() <= home {
            lanes.resize(home + 1, [None, None]);
        }
        let lane = lanes.get_mut(home)?.get_mut(usize::from(is_binary))?;
        let start = || Lane::start(&self.context, target, table.number, is_binary);
        Some(Rc::clone(lane.get_or_insert_with(start)))
    }

    /// Follows the table, and sends what waited for it, or gives it up.
    async fn tend(self: Rc<Thread>) {
        let mut tables = self.context.tables.clone();
        loop {
            let _ = timeout(TICK, tables.changed()).await;
            let counters = &self.context.counters;
            counters.requests.fetch_add(self.requests.take(), Relaxed);
            let table = tables.borrow_and_update().clone();
            let (old, parked) = {
                let mut state = self.state.borrow_mut();
                let old = if state.table.is_list_of(&table) {
                    Vec::new()
                } else {
                    std::mem::take(&mut state.lanes)
                };
                state.table = table;
                (old, std::mem::take(&mut state.parked))
            };
            for lane in old.iter().flatten().flatten() {
                lane.end();
            }
            for (place, is_binary, job, since) in parked {
                let is_open = self.state.borrow().table.open;
                if !is_open && since.elapsed() >= self.context.limits.patience {
                    self.context.counters.failed.fetch_add(1, Relaxed);
                    job.reply.settle(Outcome::Failed);
                } else if is_open {
                    match place {
                        Place::Key(key) => self.to_home(&key, is_binary, job),
                        Place::Index(index) => self.to(index, is_binary, job),
                    }
                } else {
                    self.state
                        .borrow_mut()
                        .parked
                        .push_back((place, is_binary, job, since));
                }
            }
        }
    }
}

async fn serve(thread: Rc<Thread>, incoming: Incoming) {
    match incoming {
        Incoming::Tcp(stream) => {
            let _ = stream.set_nodelay(true);
            serve_counted(thread, stream).await;
        }
        Incoming::Unix(stream) => serve_counted(thread, stream).await,
        Incoming::Relay(stream) => {
            let _ = stream.set_nodelay(true);
            serve_relay(&thread.context, stream).await;
        }
    }
}

async fn serve_counted(thread: Rc<Thread>, stream: impl Stream) {
    let counters = &thread.context.counters;
    counters.connections.fetch_add(1, Relaxed);
    if let Some(_place) = Counted::within(&counters.clients, thread.context.limits.max_clients) {
        serve_client(&thread, stream).await;
    }
}

/// The doors that `view` asks for on the server `me`; `None` without a view.
fn wanted(view: Option<&FleetView>, me: &ServerName) -> Option<Vec<Door>> {
    let view = view?;
    let (Some(cache), Some(server)) = (&view.cache, view.server(me)) else {
        return Some(Vec::new());
    };
    let mut doors = Vec::new();
    if server.roles.contains(&Role::App) {
        doors.extend(cache.listen.iter().cloned().map(Door::Client));
    }
    if server.roles.contains(&Role::Cache) {
        doors.push(Door::Relay(server.cache_relay()));
    }
    Some(doors)
}

/// Follows the view until `shutdown`, and leads through the end.
async fn keep(
    context: &Arc<Context>,
    client: ViewClient,
    mut keeper: Keeper,
    tables: watch::Sender<Arc<Table>>,
    threads: Vec<mpsc::UnboundedSender<ThreadDoor>>,
    shutdown: &Shutdown,
) {
    let mut doors = Doors::new(threads);
    let mut views = client.subscribe();
    let (mut tick, mut report_tick) = (interval(TICK), interval(REPORT_TICK));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    report_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = 0;
    loop {
        tokio::select! {
            _ = views.changed() => {}
            _ = tick.tick() => {}
            _ = report_tick.tick() => told = report(context, &client, &keeper, doors.not_listening()),
            () = shutdown.requested() => break,
        }
        let has_identity = context.tls.load();
        let view = views.borrow_and_update().clone();
        follow(context, &tables, view.as_deref());
        keeper.tend(&context.guard, view.as_deref()).await;
        doors.reconcile(wanted(view.as_deref(), &context.me), has_identity);
        if keeper.closed() > told {
            // Others wait for it.
            told = report(context, &client, &keeper, doors.not_listening());
        }
    }
    doors.close_all();
    let open = || context.counters.clients.load(Relaxed);
    let until = Instant::now() + context.limits.grace;
    tracing::info!(open = open(), "shutting down");
    while open() > 0 && Instant::now() < until {
        tokio::select! {
            () = tokio::time::sleep(TICK / 5) => {}
            () = shutdown.hurried() => break,
        }
        let view = views.borrow_and_update().clone();
        follow(context, &tables, view.as_deref());
        keeper.tend(&context.guard, view.as_deref()).await;
    }
    context.closing.cancel();
}

/// Gives the threads the table of `view`. No view is no news.
fn follow(context: &Context, tables: &watch::Sender<Arc<Table>>, view: Option<&FleetView>) {
    let Some(view) = view else { return };
    let table = Table::of(Some(view), &context.me);
    tables.send_if_modified(|now| {
        // A list that was left behind is not obeyed again.
        let is_news = **now != table && (table.number >= now.number || table.number == 0);
        if is_news {
            tracing::info!(
                list = table.number,
                open = table.open,
                servers = table.targets.len(),
                "cache servers"
            );
            *now = Arc::new(table);
        }
        is_news
    });
}

/// Tells the agent how things are; returns what it was told of the guard.
fn report(context: &Context, client: &ViewClient, keeper: &Keeper, not_listening: Vec<String>) -> u64 {
    let counters = &context.counters;
    let standing = context.standing.lock().unwrap_or_else(PoisonError::into_inner);
    let table = context.tables.borrow();
    let report = CacheReport {
        clients: counters.clients.load(Relaxed),
        connections_total: counters.connections.load(Relaxed),
        requests_total: counters.requests.load(Relaxed),
        missed_total: counters.missed.load(Relaxed),
        failed_total: counters.failed.load(Relaxed),
        waited_total: counters.waited.load(Relaxed),
        list: table.open.then_some(table.number),
        closed: keeper.closed(),
        servers: standing.values().cloned().collect(),
        trouble: keeper.trouble.clone(),
        not_listening,
    };
    context.metrics.set(&report);
    client.report(TierReport {
        pid: std::process::id(),
        view_serial: client.current().map_or(0, |view| view.serial),
        detail: TierDetail::Cache(report),
    });
    keeper.closed()
}
