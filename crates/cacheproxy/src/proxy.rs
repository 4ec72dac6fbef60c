//! The process: threads that serve, and one place that follows the view, tends the guard, keeps the doors and reports.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_fleet::{CacheReport, FleetView, Role, ServerName, Tier, TierDetail, TierReport};
use pontoon_pki::FleetTls;
use pontoon_rt::doors::{Door, Doors, Listener, ThreadDoor, accept_all};
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::threads;
use pontoon_rt::view::ViewClient;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::{Outcome, serve_client};
use crate::context::{Context, Counted, Counters, Limits, Owed};
use crate::dial::Stream;
use crate::guard::{Guard, Keeper};
use crate::lane::{Job, Lane};
use crate::relay::serve_relay;
use crate::route::Table;
use crate::{CacheOptions, CacheProxyError};

/// Between two looks at doors and guard.
const TICK: Duration = Duration::from_millis(100);
const REPORT_TICK: Duration = Duration::from_millis(500);
/// How long connections may take to notice that the process closes.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// See [`run_until`](crate::run_until).
pub fn run(options: &CacheOptions, limits: Limits, shutdown: &Shutdown) -> Result<(), CacheProxyError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CacheProxyError::Runtime)?;
    pontoon_rt::process::raise_open_files();
    let ended = Shutdown::new();
    runtime.block_on(async {
        let client = ViewClient::start(&options.paths, Tier::Cache, ended.clone());
        let first = Arc::new(Table::of(client.current().as_deref(), &options.server));
        let (table_sender, tables) = watch::channel(first);
        let socket = options.paths.memcached_socket();
        let context = Arc::new(Context {
            me: options.server.clone(),
            limits,
            views: client.subscribe(),
            tables,
            tls: FleetTls::new(options.paths.identity_dir()),
            guard: Guard::default(),
            socket: socket.clone(),
            counters: Counters::default(),
            owed: Owed::default(),
            standing: Mutex::default(),
            closing: CancellationToken::new(),
        });
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads::count(options.threads))
            .map(|_| mpsc::unbounded_channel())
            .unzip();
        let threads = start_threads(&context, receivers).map_err(CacheProxyError::Threads)?;
        let keeper = Keeper::new(
            options.server.clone(),
            options.paths.run_dir.join("cache-guard.json"),
            socket,
        );
        keep(&context, client, keeper, table_sender, senders, shutdown).await;
        ended.trigger();
        threads
            .join()
            .map_err(|error| CacheProxyError::Threads(io::Error::other(error)))?;
        Ok(())
    })
}

fn start_threads(
    context: &Arc<Context>,
    receivers: Vec<mpsc::UnboundedReceiver<ThreadDoor>>,
) -> io::Result<threads::Threads<()>> {
    let count = receivers.len();
    let slots: Arc<[Mutex<Option<_>>]> = receivers
        .into_iter()
        .map(|receiver| Mutex::new(Some(receiver)))
        .collect();
    let context = Arc::clone(context);
    threads::per_core(count, move |index| {
        let doors = slots.get(index).and_then(|slot| slot.lock().ok()?.take());
        let context = Arc::clone(&context);
        async move {
            if let Some(doors) = doors {
                serve_thread(context, doors).await;
            }
        }
    })
}

/// One serving thread's own: where keys belong as it knows it, and its lanes.
pub struct Thread {
    /// What all share.
    pub context: Arc<Context>,
    state: RefCell<State>,
}

struct State {
    table: Arc<Table>,
    lanes: HashMap<(usize, bool), Rc<Lane>>,
    /// Writes that wait for a list that is open, each with the key's home to be found then.
    parked: VecDeque<(Place, bool, Job, Instant)>,
}

enum Place {
    Key(bytes::Bytes),
    Index(usize),
}

impl Thread {
    fn new(context: Arc<Context>) -> Rc<Thread> {
        let table = context.tables.borrow().clone();
        Rc::new(Thread {
            context,
            state: RefCell::new(State {
                table,
                lanes: HashMap::new(),
                parked: VecDeque::new(),
            }),
        })
    }

    /// The number of the list that is served; 0 for none.
    pub fn list(&self) -> u64 {
        self.state.borrow().table.number
    }

    /// How many servers there are.
    pub fn servers(&self) -> usize {
        self.state.borrow().table.targets.len()
    }

    /// Has `job` done by the server of `key`.
    pub fn to_home(&self, key: &bytes::Bytes, is_binary: bool, job: Job) {
        let home = self.state.borrow().table.home(key);
        self.give(Place::Key(key.clone()), home, is_binary, job);
    }

    /// Has `job` done by the server of that index.
    pub fn to(&self, index: usize, is_binary: bool, job: Job) {
        self.give(Place::Index(index), Some(index), is_binary, job);
    }

    fn give(&self, place: Place, home: Option<usize>, is_binary: bool, job: Job) {
        let mut state = self.state.borrow_mut();
        let table = Arc::clone(&state.table);
        let target = home
            .filter(|_| table.open)
            .and_then(|home| Some((home, table.targets.get(home)?)));
        if let Some((home, target)) = target {
            let lane = state
                .lanes
                .entry((home, is_binary))
                .or_insert_with(|| Lane::start(&self.context, target, table.number, is_binary));
            let lane = Rc::clone(lane);
            drop(state);
            return lane.send(job);
        }
        if job.read {
            drop(state);
            self.context.counters.missed.fetch_add(1, Relaxed);
            return job.reply.settle(Outcome::Missed);
        }
        state.parked.push_back((place, is_binary, job, Instant::now()));
    }

    /// Follows the table, and sends what waited for it, or gives it up.
    async fn tend(self: Rc<Thread>) {
        let mut tables = self.context.tables.clone();
        loop {
            let _ = timeout(TICK, tables.changed()).await;
            let table = tables.borrow_and_update().clone();
            let (old, parked) = {
                let mut state = self.state.borrow_mut();
                let old = if state.table == table {
                    HashMap::new()
                } else {
                    std::mem::take(&mut state.lanes)
                };
                state.table = table;
                (old, std::mem::take(&mut state.parked))
            };
            for lane in old.values() {
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

async fn serve_thread(context: Arc<Context>, mut doors: mpsc::UnboundedReceiver<ThreadDoor>) {
    let tasks = TaskTracker::new();
    let thread = Thread::new(Arc::clone(&context));
    tokio::task::spawn_local(Rc::clone(&thread).tend());
    while let Some(ThreadDoor { listener, stop }) = doors.recv().await {
        let served = serve_door(Rc::clone(&thread), listener, stop, tasks.clone());
        tasks.spawn_local(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "a listening socket failed");
            }
        });
    }
    tasks.close();
    tokio::select! {
        () = tasks.wait() => {}
        () = async {
            context.closing.cancelled().await;
            tokio::time::sleep(CLOSE_LIMIT).await;
        } => tracing::warn!(open = tasks.len(), "connections did not end in time"),
    }
}

async fn serve_door(
    thread: Rc<Thread>,
    listener: Listener,
    stop: CancellationToken,
    tasks: TaskTracker,
) -> io::Result<()> {
    match listener {
        Listener::ClientTcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            let serve = |(stream, _): (tokio::net::TcpStream, _)| {
                let _ = stream.set_nodelay(true);
                tasks.spawn_local(serve_counted(Rc::clone(&thread), stream));
            };
            accept_all(&stop, || listener.accept(), serve).await;
        }
        Listener::ClientUnix(listener) => {
            let listener = UnixListener::from_std(listener)?;
            let serve = |(stream, _)| drop(tasks.spawn_local(serve_counted(Rc::clone(&thread), stream)));
            accept_all(&stop, || listener.accept(), serve).await;
        }
        Listener::Relay(listener) => {
            let listener = TcpListener::from_std(listener)?;
            let serve = |(stream, _): (tokio::net::TcpStream, _)| {
                let _ = stream.set_nodelay(true);
                let context = Arc::clone(&thread.context);
                tasks.spawn_local(async move { serve_relay(&context, stream).await });
            };
            accept_all(&stop, || listener.accept(), serve).await;
        }
    }
    Ok(())
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
        list: table.open.then_some(table.number),
        closed: keeper.closed(),
        servers: standing.values().cloned().collect(),
        trouble: keeper.trouble.clone(),
        not_listening,
    };
    client.report(TierReport {
        pid: std::process::id(),
        view_serial: client.current().map_or(0, |view| view.serial),
        detail: TierDetail::Cache(report),
    });
    keeper.closed()
}
