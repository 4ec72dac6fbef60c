//! One serving thread: its listeners, its connections, its view of the application servers and its kept connections.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pontoon_balance::{Asked, Balancer, Rules, Verdict};
use pontoon_fleet::ServerName;
use pontoon_telemetry::metrics::{EdgeThread, TlsFailure};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::access_log::{LogBuffer, Record};
use crate::cache::{Cache, Refreshes};
use crate::clients::Clients;
use crate::connection;
use crate::dial::Identity;
use crate::floors::{FloorRule, Floors, SharedKey};
use crate::front::{self, Ids};
use crate::http1::request::Sender;
use crate::http2;
use crate::https::{self, Accepted, Https, Seen};
use crate::io::{BufferPool, Stream};
use crate::options::Tuning;
use crate::pages::Pages;
use crate::parking::{Parked, Parking};
use crate::queue::Queue;
use crate::upstream::{Pool, Present, RetryBudget, Upstream, Upstreams, Way};

/// What all threads share.
pub struct Shared {
    /// Times and sizes.
    pub tuning: Tuning,
    /// The application servers.
    pub upstreams: watch::Receiver<Arc<Upstreams>>,
    /// Counts changes of any server's health.
    pub health_changes: watch::Receiver<u64>,
    /// This server's identity.
    pub identity: Identity,
    /// Client connections open now.
    pub connections: AtomicUsize,
    /// The most of them.
    pub max_connections: usize,
    /// Requests that are held now.
    pub held: AtomicUsize,
    /// What each client has under way, while that is limited.
    pub clients: Arc<Clients>,
    /// Requests that wait for a server to have room.
    pub queue: Queue,
    /// Where the SQL proxy of this server is told and asked what readers must see.
    pub floor_socket: PathBuf,
    /// What the fleet's edges sign floors with.
    pub floor_key: Arc<SharedKey>,
    /// What answers are timed by.
    pub clock: AnswerClock,
    /// HTTPS for visitors, while there is a certificate.
    pub https: watch::Receiver<Option<Arc<Https>>>,
    /// What is kept of the application's answers.
    pub cache: Arc<Cache>,
    /// What is shown in place of the application.
    pub pages: watch::Receiver<Arc<Pages>>,
    /// What challenges of an authority are answered with; see [`crate::challenge`].
    pub acme_thumbprint: watch::Receiver<Option<Arc<str>>>,
}

/// Milliseconds that all threads share.
#[derive(Clone, Copy, Debug)]
pub struct AnswerClock(std::time::Instant);

impl AnswerClock {
    /// From now.
    pub fn start() -> AnswerClock {
        AnswerClock(std::time::Instant::now())
    }

    /// Milliseconds since it began.
    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// Milliseconds from its beginning to `moment`.
    pub fn at(&self, moment: Instant) -> u64 {
        let since = moment.into_std().saturating_duration_since(self.0);
        since.as_secs() * 1000 + u64::from(since.subsec_millis())
    }
}

/// What comes in at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Door {
    /// Visitors, over plain HTTP.
    Http,
    /// Visitors, over TLS.
    Https,
    /// Other edges, over mutual TLS.
    Relay,
}

/// Where requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Route {
    /// Visitors: their requests go to any application server.
    Visitors,
    /// Other edges: their requests go to this server's own application and nowhere else.
    Relay,
}

/// What the control thread tells a serving thread.
pub enum Command {
    /// Take connections from here.
    Listen(Door, SocketAddr, std::net::TcpListener),
    /// Take no more from here. Connections that were made go on.
    Close(Door, SocketAddr),
    /// Take no more connections, finish what is begun within this time, and end.
    Drain(Duration, Idle),
}

/// What becomes of a client's connection that has no request under way when draining begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// It is closed: the process is wanted out of the way.
    Close,
    /// It may carry one more request, whose answer says that it is the last, until the drain ends. So a successor gets
    /// the traffic without a client that sends in the moment of a close.
    Stay,
}

/// One serving thread.
pub struct Worker {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Buffers that are not in use.
    pub buffers: Rc<BufferPool>,
    /// Carries what visitors must see.
    pub floors: Floors,
    /// What this thread counts.
    pub stats: Arc<EdgeThread>,
    /// Ids of requests and traces.
    pub ids: Ids,
    /// No new requests on kept connections.
    pub draining: Cell<bool>,
    /// What becomes of those without a request then.
    pub idle: Cell<Idle>,
    /// Wakes idle connections when draining begins.
    pub drain_begins: Notify,
    open: Cell<usize>,
    closed: Notify,
    log: RefCell<Option<LogBuffer>>,
    fleet: RefCell<Fleet>,
    https: Seen,
    /// How many answers are asked for anew while visitors have the ones before them.
    pub refreshes: Refreshes,
    /// How many bodies are compressed at the moment.
    pub coders: Rc<Cell<usize>>,
    /// Connections to applications that speak HTTP/2.
    pub h2c: http2::Connections,
    /// Idle connections of visitors.
    pub parking: Parking<(Sender, Place)>,
}

struct Fleet {
    upstreams: watch::Receiver<Arc<Upstreams>>,
    now: Rc<Present>,
    pools: Vec<Pool>,
    local: Option<Pool>,
    balancer: Balancer,
    budget: RetryBudget,
}

/// A server chosen for a request, which counts as under way there until this is dropped.
pub struct Pick {
    /// Which.
    pub upstream: Arc<Upstream>,
    /// Its index in the view that it was chosen from.
    pub index: usize,
    worker: Rc<Worker>,
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.upstream.health.leave();
        self.worker.shared.queue.call();
    }
}

/// Where a request goes.
pub enum Chosen {
    /// To this server.
    Picked(Pick),
    /// Every server has as many as it may: it has to wait.
    Full,
    /// Nobody may get it.
    Nobody,
}

impl Worker {
    /// The thread with number `index`.
    pub fn new(
        index: usize,
        shared: Arc<Shared>,
        stats: Arc<EdgeThread>,
        log: Option<LogBuffer>,
    ) -> Rc<Worker> {
        let mut upstreams = shared.upstreams.clone();
        upstreams.mark_changed();
        let fleet = Fleet {
            upstreams,
            now: Rc::new(Present(Arc::new(Upstreams::none(&shared.tuning)))),
            pools: Vec::new(),
            local: None,
            balancer: Balancer::new(index),
            budget: RetryBudget::default(),
        };
        Rc::new(Worker {
            buffers: Rc::default(),
            floors: Floors::new(
                shared.floor_socket.clone(),
                Arc::clone(&shared.floor_key),
                Arc::clone(&stats),
            ),
            stats,
            ids: Ids::default(),
            draining: Cell::new(false),
            idle: Cell::new(Idle::Close),
            drain_begins: Notify::new(),
            open: Cell::new(0),
            closed: Notify::new(),
            log: RefCell::new(log),
            fleet: RefCell::new(fleet),
            https: Seen::new(shared.https.clone()),
            refreshes: Refreshes::default(),
            coders: Rc::default(),
            h2c: http2::Connections::default(),
            parking: Parking::new(),
            shared,
        })
    }

    /// Serves until it was told to drain and has.
    pub async fn run(self: Rc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut listeners: HashMap<(Door, SocketAddr), Vec<Listener>> = HashMap::new();
        let mut every_second = tokio::time::interval(Duration::from_secs(1));
        let parking = tokio::task::spawn_local(Rc::clone(&self).attend_parking());
        let (drain, idle) = loop {
            let command = tokio::select! {
                command = commands.recv() => command,
                _ = every_second.tick() => {
                    self.tidy();
                    continue;
                }
            };
            match command {
                Some(Command::Listen(door, address, listener)) => match TcpListener::from_std(listener) {
                    Ok(listener) => {
                        let listener = Rc::new(listener);
                        let task =
                            tokio::task::spawn_local(Rc::clone(&self).accept(Rc::clone(&listener), door));
                        listeners.entry((door, address)).or_default().push(Listener {
                            listener,
                            task: task.abort_handle(),
                        });
                    }
                    Err(error) => tracing::error!(%address, %error, "the listener cannot be used"),
                },
                Some(Command::Close(door, address)) => {
                    for listener in listeners.remove(&(door, address)).into_iter().flatten() {
                        self.close(door, listener).await;
                    }
                }
                Some(Command::Drain(limit, idle)) => break (limit, idle),
                // The control thread is gone: a bug there must not end service here.
                None => std::future::pending().await,
            }
        };
        for ((door, _), several) in listeners.drain() {
            for listener in several {
                self.close(door, listener).await;
            }
        }
        self.idle.set(idle);
        self.draining.set(true);
        self.drain_begins.notify_waiters();
        if idle == Idle::Close {
            self.parking.end_all();
        }
        let mut limit = Instant::now() + drain;
        while self.open.get() > 0 {
            tokio::select! {
                () = self.closed.notified() => {}
                _ = every_second.tick() => self.parking.end_overdue(Instant::now()),
                () = tokio::time::sleep_until(limit) => break,
                // Asked again, with less patience.
                Some(command) = commands.recv() => {
                    if let Command::Drain(drain, _) = command {
                        limit = limit.min(Instant::now() + drain);
                    }
                }
            }
        }
        parking.abort();
        self.parking.end_all();
        self.tidy();
    }

    /// Takes what still waits in the listener's queue, then closes it.
    async fn close(self: &Rc<Self>, door: Door, listener: Listener) {
        listener.task.abort();
        // The task lets go of the listener when it is next looked at; the queue is emptied after that, so that as
        // little as possible comes into it between here and the close.
        tokio::task::yield_now().await;
        for (stream, peer) in waiting(&listener.listener) {
            self.begin(stream, peer, door);
        }
    }

    async fn accept(self: Rc<Self>, listener: Rc<TcpListener>, door: Door) {
        loop {
            if self.shared.connections.load(Ordering::Relaxed) >= self.shared.max_connections {
                // Those beyond wait in the kernel's queue; timeouts free places.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
            match listener.accept().await {
                Ok((stream, peer)) => self.begin(stream, peer, door),
                Err(error) => {
                    // Out of files, most likely: trying again at once would only burn the processor.
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// HTTPS as it is now; `None` while there is none.
    pub fn https(&self) -> Option<Arc<Https>> {
        self.https.get()
    }

    /// What is shown in place of the application, as it is now.
    pub fn pages(&self) -> Arc<Pages> {
        Arc::clone(&self.shared.pages.borrow())
    }

    fn begin(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, door: Door) {
        let place = Place::take(self);
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if stream.set_nodelay(true).is_err() {
                return;
            }
            match door {
                Door::Http | Door::Https => {
                    let Ok(local) = stream.local_addr() else { return };
                    let (mut stream, mut way) = (stream, (peer, local));
                    if front::is_introduced(&worker.upstreams().front, peer.ip()) {
                        match Box::pin(front::introduced(&worker, &mut stream, way)).await {
                            Some(introduced) => way = introduced,
                            None => return,
                        }
                    }
                    let (peer, local) = way;
                    let secure = door == Door::Https;
                    let accepted = if secure {
                        Box::pin(https::accept(&worker, stream, peer)).await
                    } else {
                        Some(Accepted::Http1(Stream::Tcp(stream)))
                    };
                    let sender = Sender::Visitor {
                        peer: peer.ip(),
                        local,
                        secure,
                    };
                    match accepted {
                        Some(Accepted::Http1(stream)) => {
                            worker.visit(stream, sender, place, true).await;
                        }
                        Some(Accepted::Http2(tls)) => Box::pin(http2::serve(&worker, *tls, sender)).await,
                        None => {}
                    }
                }
                Door::Relay => {
                    if let Some((stream, name)) = Box::pin(worker.accept_edge(stream, peer)).await {
                        connection::serve(&worker, stream, Sender::Edge, Route::Relay, Some(name), true)
                            .await;
                    }
                }
            }
        });
    }

    /// Serves a visitor who speaks HTTP/1.1, until the connection ends or is parked.
    async fn visit(self: &Rc<Self>, stream: Stream, sender: Sender, place: Place, first: bool) {
        let served = connection::serve(self, stream, sender, Route::Visitors, None, first).await;
        let parked = served.and_then(|(stream, until)| {
            Some(Parked {
                stream: stream.into_std().ok()?,
                until,
                with: (sender, place),
            })
        });
        if let Some(parked) = parked {
            self.parking.put(parked);
        }
    }

    /// Serves those again who speak after they were parked.
    async fn attend_parking(self: Rc<Self>) {
        let Ok(Some(spoken)) = self.parking.watch() else {
            return;
        };
        while let Ok(mut ready) = spoken.readable().await {
            ready.clear_ready();
            loop {
                let back = self.parking.take();
                if back.is_empty() {
                    break;
                }
                for parked in back {
                    let Ok(stream) = TcpStream::from_std(parked.stream) else {
                        continue;
                    };
                    let (worker, (sender, place)) = (Rc::clone(&self), parked.with);
                    tokio::task::spawn_local(async move {
                        worker.visit(Stream::Tcp(stream), sender, place, false).await;
                    });
                }
            }
        }
    }

    /// The handshake with another edge: only a server of the present view that serves gets in.
    async fn accept_edge(&self, stream: TcpStream, peer: SocketAddr) -> Option<(Stream, ServerName)> {
        let (_, config) = self.shared.identity.configs().ok()?;
        let handshake = TlsAcceptor::from(config).accept(stream);
        let refused = |reason: &str| tracing::warn!(%peer, reason, "refused a connection to the relay");
        let tls = match tokio::time::timeout(self.upstreams().tuning.head_timeout, handshake).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                self.stats.tls_failed(TlsFailure::Protocol);
                refused(&error.to_string());
                return None;
            }
            Err(_) => {
                self.stats.tls_failed(TlsFailure::Timeout);
                refused("no handshake in time");
                return None;
            }
        };
        let certificate = tls
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())?;
        match pontoon_pki::tls::peer_server_name(certificate) {
            Ok(name) if self.admits(&name) => Some((Stream::Tls(Box::new(TlsStream::Server(tls))), name)),
            Ok(name) => {
                refused(&format!(
                    "{name} is no edge or application server of the fleet now"
                ));
                None
            }
            Err(error) => {
                self.stats.tls_failed(TlsFailure::Certificate);
                refused(&error.to_string());
                None
            }
        }
    }

    /// Whether the server `name` may use the relay, by the present view.
    pub fn admits(&self, name: &ServerName) -> bool {
        self.upstreams().callers.contains(name)
    }

    /// Whether connections should be given up after each answer because few places are left.
    pub fn is_crowded(&self) -> bool {
        let open = self.shared.connections.load(Ordering::Relaxed);
        open + self.shared.max_connections / 10 >= self.shared.max_connections
    }

    /// The application servers as the present view says.
    pub fn upstreams(&self) -> Rc<Present> {
        Rc::clone(&self.fleet.borrow_mut().refreshed().now)
    }

    /// How floors are carried, as the present view says.
    pub fn floor_rule(&self) -> Option<FloorRule> {
        self.fleet.borrow_mut().refreshed().now.floors
    }

    /// A request came in: the application servers as the present view says.
    pub fn pay_into_budget(&self) -> Rc<Present> {
        let mut fleet = self.fleet.borrow_mut();
        let now = Rc::clone(&fleet.refreshed().now);
        let share = now.app.as_ref().map_or(0, |app| app.retries.budget);
        fleet.budget.pay_in(share);
        now
    }

    /// Whether a request could be sent a second time, as far as the budget goes.
    pub fn has_budget(&self) -> bool {
        self.fleet.borrow().budget.has_one()
    }

    /// Whether a request may be sent a second time, as far as the budget goes; takes it out.
    pub fn take_from_budget(&self) -> bool {
        self.fleet.borrow_mut().budget.take()
    }

    /// The server that a request goes to, at `now` of the clock of all threads.
    pub fn choose(self: &Rc<Self>, route: Route, asked: &Asked<'_>, now: u64) -> Chosen {
        let mut fleet = self.fleet.borrow_mut();
        let fleet = fleet.refreshed();
        let picked = |upstream: &Arc<Upstream>, index: usize| {
            Chosen::Picked(Pick {
                upstream: Arc::clone(upstream),
                index,
                worker: Rc::clone(self),
            })
        };
        if route == Route::Relay {
            // Whoever sent it here has chosen, and counted.
            return match fleet.now.local.as_ref().filter(|_| asked.tried.is_empty()) {
                Some(upstream) if upstream.health.enter(None) => picked(upstream, 0),
                _ => Chosen::Nobody,
            };
        }
        let servers = &fleet.now.servers;
        let Some(app) = &fleet.now.app else {
            return Chosen::Nobody;
        };
        let dispatch = &app.dispatch;
        let rules = Rules {
            rule: app.balance,
            panic: dispatch.panic,
        };
        loop {
            let known = servers.iter().map(|server| server.for_choice(dispatch, now));
            let choice = match fleet.balancer.choose(rules, known, asked, now as u32) {
                Verdict::To(choice) => choice,
                Verdict::Full => return Chosen::Full,
                Verdict::Nobody => return Chosen::Nobody,
            };
            let upstream = &servers[choice.index];
            // Unless another thread took the last place in this moment.
            if upstream.health.enter(dispatch.max_in_flight) {
                return picked(upstream, choice.index);
            }
        }
    }

    /// A kept connection to `upstream`.
    pub fn take_kept(&self, upstream: &Arc<Upstream>, now: Instant) -> Option<Stream> {
        let max_idle = self.shared.tuning.pool_idle;
        self.fleet.borrow_mut().pool(upstream)?.take(now, max_idle)
    }

    /// Keeps a connection to `upstream`, unused from `now` on.
    pub fn keep(&self, upstream: &Arc<Upstream>, stream: Stream, now: Instant) {
        if let Some(pool) = self.fleet.borrow_mut().pool(upstream) {
            pool.put(stream, now);
        }
    }

    /// Logs one answered request.
    pub fn log(&self, record: &Record<'_>) {
        if let Some(log) = self.log.borrow_mut().as_mut() {
            self.stats.log_dropped(log.add(record));
        }
    }

    fn tidy(&self) {
        self.parking.end_overdue(Instant::now());
        let mut fleet = self.fleet.borrow_mut();
        let (max_idle, size) = (self.shared.tuning.pool_idle, self.shared.tuning.pool_size);
        let fleet = fleet.refreshed();
        fleet
            .pools
            .iter_mut()
            .chain(&mut fleet.local)
            .for_each(|pool| pool.tidy(max_idle, size));
        let now = &fleet.now;
        self.h2c.retain(|address| {
            let mut all = now.servers.iter().chain(&now.local);
            all.any(|one| one.h2c && one.way == Way::Direct(address) && one.health.is_healthy())
        });
        if let Some(log) = self.log.borrow_mut().as_mut() {
            self.stats.log_dropped(log.hand_over());
        }
    }
}

impl Fleet {
    /// Itself, after taking over a changed view. Kept connections to servers that stay are kept.
    fn refreshed(&mut self) -> &mut Fleet {
        if self.upstreams.has_changed().unwrap_or(false) {
            self.now = Rc::new(Present(Arc::clone(&self.upstreams.borrow_and_update())));
            let mut pools = std::mem::take(&mut self.pools);
            let mut local = self.local.take().into_iter().collect();
            self.pools = self
                .now
                .servers
                .iter()
                .map(|s| Pool::moved_to(Arc::clone(s), &mut pools))
                .collect();
            self.local = self
                .now
                .local
                .as_ref()
                .map(|s| Pool::moved_to(Arc::clone(s), &mut local));
        }
        self
    }

    fn pool(&mut self, upstream: &Arc<Upstream>) -> Option<&mut Pool> {
        self.pools
            .iter_mut()
            .chain(&mut self.local)
            .find(|pool| pool.is_for(upstream))
    }
}

/// The connections in the listener's queue at this moment, asked from the kernel: tokio says «nothing there» before it
/// has looked, and after 128 connections in one turn.
fn waiting(listener: &TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let queue = socket2::SockRef::from(listener);
    let mut taken = Vec::new();
    loop {
        match queue.accept() {
            Ok((stream, peer)) => {
                let stream = stream
                    .set_nonblocking(true)
                    .and_then(|()| TcpStream::from_std(stream.into()));
                taken.extend(stream.ok().zip(peer.as_socket()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return taken,
        }
    }
}

struct Listener {
    listener: Rc<TcpListener>,
    task: AbortHandle,
}

/// A client connection's place among the open ones.
pub struct Place(Rc<Worker>);

impl Place {
    fn take(worker: &Rc<Worker>) -> Place {
        worker.open.set(worker.open.get() + 1);
        worker.shared.connections.fetch_add(1, Ordering::Relaxed);
        worker.stats.connected();
        Place(Rc::clone(worker))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.stats.disconnected();
        if self.0.open.get() == 0 {
            self.0.closed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_is_emptied_before_its_listener_closes() {
        let listener = pontoon_rt::listen::tcp("127.0.0.1:0".parse().unwrap(), Default::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..300)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        let taken = waiting(&TcpListener::from_std(listener).unwrap());
        assert_eq!(taken.len(), clients.len());
    }
}
