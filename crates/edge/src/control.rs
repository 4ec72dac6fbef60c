//! The control thread: follows the view, binds addresses, checks the application servers, reports to the agent.
//! Nothing here is on a request's path; when it is slow, requests are not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pontoon_certs::Tickets;
use pontoon_fleet::{EdgeReport, FleetView, Role, ServerName, Tier, TierDetail, TierReport, UpstreamReport};
use pontoon_rt::clock::{self, Clock};
use pontoon_rt::handover::{Asked, HandoverError, inherit, is_followed_by_systemd};
use pontoon_rt::listen::{self, ListenOptions};
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::threads;
use pontoon_rt::view::ViewClient;
use pontoon_telemetry::metrics::{self, EdgeMetrics, Registry};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use crate::access_log::{self, LogBuffer, Reopen, Writer};
use crate::dial::Identity;
use crate::floors::SharedKey;
use crate::handover::{
    self, HandingOver, Sockets, TakingOver, end_of, in_a_thread, next, not_handed_over, outcome,
};
use crate::health::Checker;
use crate::http1::reject::Reject;
use crate::https::Site;
use crate::options::{AccessLog, EdgeError, EdgeOptions};
use crate::pages::PageFiles;
use crate::queue::Queue;
use crate::state::EdgeState;
use crate::upstream::{Upstream, Upstreams};
use crate::worker::{AnswerClock, Command, Door, Idle, Shared, Worker};

/// Runs the edge until SIGTERM or SIGINT, then finishes what is begun and returns. A second signal cuts that short.
/// SIGHUP opens the access log anew.
///
/// # Errors
/// When the operating system refuses what the edge cannot do without. An address that cannot be bound is not an
/// error: it is reported, and tried again each second.
pub fn run(options: EdgeOptions) -> Result<(), EdgeError> {
    let reopen = Reopen::default();
    let asked = reopen.clone();
    let shutdown = Shutdown::from_signals_and(move || asked.ask()).map_err(system("signal handlers"))?;
    serve(options, shutdown, reopen)
}

/// As [`run`], until `shutdown` asks.
///
/// # Errors
/// As [`run`].
pub fn run_until(options: EdgeOptions, shutdown: Shutdown) -> Result<(), EdgeError> {
    serve(options, shutdown, Reopen::default())
}

fn serve(options: EdgeOptions, shutdown: Shutdown, reopen: Reopen) -> Result<(), EdgeError> {
    let taking_over = inherit()?.map(TakingOver::new).transpose()?;
    let files = pontoon_rt::process::raise_open_files();
    let count = threads::count(options.threads);
    let (upstreams, upstreams_seen) = watch::channel(Arc::new(Upstreams::none(&options.tuning)));
    let (health_changes, health_changes_seen) = watch::channel(0);
    let (https, https_seen) = watch::channel(None);
    let (pages, pages_seen) = watch::channel(Arc::default());
    let (acme_thumbprint, acme_thumbprint_seen) = watch::channel(None);
    // Each client connection may need a second one to an application.
    let by_files = usize::try_from(files.saturating_sub(200) / 2)
        .unwrap_or(usize::MAX)
        .max(16);
    let max_connections = match options.tuning.max_connections {
        0 => by_files,
        wanted => wanted.min(by_files),
    };
    let shared = Arc::new(Shared {
        tuning: options.tuning.clone(),
        upstreams: upstreams_seen,
        health_changes: health_changes_seen,
        identity: Identity::new(options.paths.identity_dir()),
        connections: AtomicUsize::new(0),
        max_connections,
        held: AtomicUsize::new(0),
        clients: Arc::default(),
        cache: Arc::default(),
        queue: Queue::default(),
        floor_socket: options.paths.floor_socket(),
        floor_key: Arc::new(SharedKey::new(options.paths.floor_key_file())),
        clock: AnswerClock::start(),
        https: https_seen,
        pages: pages_seen,
        acme_thumbprint: acme_thumbprint_seen,
    });
    let tickets = Tickets::new(options.paths.ticket_keys_file());
    let mut registry = Registry::new(&options.server, "edge", env!("CARGO_PKG_VERSION"));
    let metrics = EdgeMetrics::register(&mut registry, count, Reject::WORDS);
    let log_file = options.paths.log_file("edge-access");
    let AccessLog { format, to } = options.access_log;
    let log_writer =
        access_log::start(format, to, log_file, reopen).map_err(system("the access log's thread"))?;
    let log = log_writer.as_ref().map(|writer| writer.to.clone());

    let (commands, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    let receivers: Arc<Mutex<Vec<_>>> = Arc::new(Mutex::new(receivers.into_iter().map(Some).collect()));
    let serving = {
        let (shared, stats) = (Arc::clone(&shared), metrics.threads().to_vec());
        threads::per_core(count, move |index| {
            let log = log.clone().map(|to| LogBuffer::new(format, to));
            let receiver = receivers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_mut(index)
                .and_then(Option::take);
            let worker = Worker::new(index, Arc::clone(&shared), Arc::clone(&stats[index]), log);
            async move {
                if let Some(receiver) = receiver {
                    worker.run(receiver).await;
                }
            }
        })
        .map_err(system("the serving threads"))?
    };

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("the control thread's runtime"))?;
    let control = Control {
        server: options.server.clone(),
        checker: Checker::new(Arc::clone(&shared)),
        shared,
        metrics,
        commands,
        upstreams,
        health_changes,
        sockets: Sockets::new(),
        inherited: Sockets::new(),
        taking_over,
        not_listening: BTreeMap::new(),
        view: None,
        site: Site::new(tickets, https),
        pages: PageFiles::new(pages),
        acme_thumbprint,
    };
    let ended = LocalSet::new().block_on(&runtime, control.run(&options, registry, shutdown));
    let joined = serving.join();
    log_writer.into_iter().for_each(Writer::finish);
    joined?;
    Ok(ended?)
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> EdgeError {
    move |source| EdgeError::System { what, source }
}

struct Control {
    server: ServerName,
    shared: Arc<Shared>,
    metrics: EdgeMetrics,
    commands: Vec<mpsc::UnboundedSender<Command>>,
    upstreams: watch::Sender<Arc<Upstreams>>,
    health_changes: watch::Sender<u64>,
    checker: Checker,
    /// What is listened on: other handles of the threads' sockets, to be handed over one day. While one lives the socket
    /// does.
    sockets: Sockets,
    /// What a predecessor gave and is not listened on yet.
    inherited: Sockets,
    /// What a predecessor gave, until this process serves.
    taking_over: Option<TakingOver>,
    not_listening: BTreeMap<(Door, SocketAddr), String>,
    view: Option<Arc<FleetView>>,
    site: Site,
    pages: PageFiles,
    acme_thumbprint: watch::Sender<Option<Arc<str>>>,
}

/// What is left for what is begun when nobody listens any more.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// How long a drain may take when no view says.
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

impl Control {
    async fn run(
        mut self,
        options: &EdgeOptions,
        registry: Registry,
        shutdown: Shutdown,
    ) -> Result<(), HandoverError> {
        // The view goes on while requests are finished: its task ends when this does.
        let goes_on = Shutdown::new();
        // Sockets that there is one of, whoever serves.
        let is_asked = Shutdown::new();
        let client = ViewClient::start(&options.paths, Tier::Edge, goes_on.clone());
        let mut views = client.subscribe();
        views.mark_changed();
        let shared = Arc::clone(&self.shared);
        metrics::serve_with(
            &options.paths.run_dir.join("edge.sock"),
            registry,
            vec![metrics::json_page("/state", move |asks| {
                EdgeState::of(&shared, asks)
            })],
            is_asked.clone(),
        );
        if let Err(error) = self.take_over(&mut views, &shutdown).await {
            self.sockets.clear();
            self.drain(&client, &shutdown, Idle::Close, None).await;
            return Err(error);
        }
        let upgrade_socket = options.paths.upgrade_socket(Tier::Edge.as_str());
        let mut asked = options
            .successor
            .as_ref()
            .map(|_| pontoon_rt::handover::listen(&upgrade_socket, is_asked.clone()));
        let mut handing_over: Option<HandingOver> = None;
        let mut successor = None;
        let mut every_second = tokio::time::interval(Duration::from_secs(1));
        let mut views_end = false;
        loop {
            tokio::select! {
                changed = views.changed(), if !views_end => {
                    views_end = changed.is_err();
                    let view = views.borrow_and_update().clone();
                    if let Some(view) = view {
                        self.follow(view);
                        client.report(self.report());
                    }
                }
                _ = every_second.tick() => {
                    self.refresh_site();
                    self.bind_wanted();
                    if self.upstreams.borrow().floors.is_some() {
                        self.shared.floor_key.load();
                    }
                    client.report(self.report());
                    if self.commands.iter().any(mpsc::UnboundedSender::is_closed) {
                        tracing::error!("a serving thread ended before its time");
                        break;
                    }
                }
                Some(answer) = next(&mut asked), if handing_over.is_none() => {
                    handing_over = self.hand_over(options, answer);
                }
                result = outcome(&mut handing_over) => {
                    successor = handing_over.take().and_then(|handing_over| handing_over.settle(result));
                    if successor.is_some() {
                        break;
                    }
                }
                () = shutdown.requested() => break,
            }
        }
        // A successor opens them anew.
        is_asked.trigger();
        self.sockets.clear();
        let idle = match successor {
            Some(_) => Idle::Stay,
            None => Idle::Close,
        };
        self.drain(&client, &shutdown, idle, successor).await;
        goes_on.trigger();
        Ok(())
    }

    /// Serves in the place of the predecessor, if there is one, as soon as nothing is missing for it.
    async fn take_over(
        &mut self,
        views: &mut watch::Receiver<Option<Arc<FleetView>>>,
        shutdown: &Shutdown,
    ) -> Result<(), HandoverError> {
        let begun = Instant::now();
        while self.taking_over.is_some() {
            let view = match views.has_changed() {
                Ok(true) => views.borrow_and_update().clone(),
                Ok(false) | Err(_) => None,
            };
            if let Some(view) = view {
                self.follow(view);
            }
            let missing = self.missing(begun.elapsed());
            match (missing, self.taking_over.take()) {
                (None, Some(taking_over)) => {
                    self.inherited = taking_over.sockets;
                    self.bind_wanted();
                    let predecessor = taking_over.predecessor;
                    in_a_thread(move || predecessor.ready())?
                        .await
                        .map_err(|_| HandoverError::Abandoned)??;
                    tracing::info!("took over from the process before this one");
                    // What the view no longer wants.
                    self.inherited.clear();
                }
                (Some(reason), Some(taking_over)) if begun.elapsed() > handover::GIVE_UP => {
                    taking_over.predecessor.refuse(&reason);
                    return Err(HandoverError::Refused(reason));
                }
                (_, taking_over) => self.taking_over = taking_over,
            }
            tokio::select! {
                () = tokio::time::sleep(handover::LOOK_EVERY) => {}
                () = shutdown.requested() => return Err(HandoverError::Abandoned),
            }
        }
        Ok(())
    }

    /// What this process cannot do yet of what its predecessor does.
    fn missing(&self, waited: Duration) -> Option<String> {
        if self.view.is_none() {
            return Some("there is no view of the fleet".to_owned());
        }
        let wanted = self.wanted();
        let given = self.taking_over.iter().flat_map(|one| one.sockets.keys());
        for (door, address) in given.filter(|key| wanted.contains(key)) {
            if let Err(reason) = self.obstacle(*door) {
                return Some(format!("{address}: {reason}"));
            }
        }
        let upstreams = self.upstreams.borrow();
        let unseen = upstreams.servers.iter().find(|one| one.health.reason().is_none());
        unseen
            .filter(|_| waited < handover::FIRST_LOOK)
            .map(|one| format!("the application on {} was not looked at", one.server))
    }

    /// Begins to hand over to the installed version; `None` when that cannot even begin.
    fn hand_over(&self, options: &EdgeOptions, answer: Asked) -> Option<HandingOver> {
        let begin = || {
            let sockets = handover::named(&self.sockets)?;
            let spec = options.successor.clone().ok_or(HandoverError::Nonsense)?;
            let pid_file = options.paths.pid_file(Tier::Edge.as_str());
            tracing::info!(program = %spec.program.display(), "handing over");
            let hand_over =
                move || pontoon_rt::handover::hand_over(&spec, &sockets, &pid_file, handover::PATIENCE);
            Ok::<_, HandoverError>(in_a_thread(hand_over)?)
        };
        match begin() {
            Ok(outcome) => Some(HandingOver { outcome, answer }),
            Err(error) => {
                let _ = answer.send(Err(not_handed_over(&error)));
                None
            }
        }
    }

    /// Obeys a view.
    fn follow(&mut self, view: Arc<FleetView>) {
        let before = Arc::clone(&self.upstreams.borrow());
        let upstreams = Arc::new(Upstreams::of_view(
            &view,
            &self.server,
            &self.shared.tuning,
            &before,
            &self.health_changes,
            self.shared.clock,
        ));
        if upstreams.floors.is_some() {
            self.shared.floor_key.load();
        }
        let purged = self.shared.cache.obey(&upstreams.answers);
        self.metrics.cache_purged(purged);
        self.checker.follow(&upstreams);
        self.upstreams.send_replace(upstreams);
        // A server that is new or came back may be what a held request waits for.
        self.health_changes.send_modify(|count| *count += 1);
        self.view = Some(view);
        self.refresh_site();
        self.bind_wanted();
    }

    /// Looks at the files for visitors: certificates and pages.
    fn refresh_site(&mut self) {
        if let Some(view) = &self.view {
            self.pages.refresh(&view.answers.pages);
        }
        let https = self.view.as_ref().and_then(|view| view.https.as_ref());
        let thumbprint: Option<Arc<str>> = https
            .and_then(|https| https.acme_thumbprint.as_deref())
            .map(Arc::from);
        self.acme_thumbprint.send_if_modified(|known| {
            let changes = *known != thumbprint;
            *known = thumbprint;
            changes
        });
        let listen = https.and_then(|https| https.listen.get(&self.server));
        let port = listen.and_then(|listen| listen.first()).map(SocketAddr::port);
        // A server without an edge has nobody to show a certificate to.
        self.site
            .refresh(https.filter(|_| port.is_some()), port, clock::SystemClock.unix());
    }

    /// Binds what the view wants and is not bound, closes what it no longer wants.
    fn bind_wanted(&mut self) {
        let wanted = self.wanted();
        // The first time it binds with what the predecessor gave.
        if self.taking_over.is_some() {
            return;
        }
        let gone = self.sockets.keys().filter(|key| !wanted.contains(key));
        for (door, address) in gone.copied().collect::<Vec<_>>() {
            self.sockets.remove(&(door, address));
            self.tell(|| Command::Close(door, address));
        }
        self.not_listening.retain(|key, _| wanted.contains(key));
        for (door, address) in &wanted {
            if self.sockets.contains_key(&(*door, *address)) {
                continue;
            }
            match self.bind(*door, *address, &wanted) {
                Ok(()) => {
                    self.not_listening.remove(&(*door, *address));
                }
                Err(reason) => {
                    if self
                        .not_listening
                        .insert((*door, *address), reason.clone())
                        .as_ref()
                        != Some(&reason)
                    {
                        tracing::warn!(%address, reason, "cannot listen; trying again each second");
                    }
                }
            }
        }
    }

    fn wanted(&self) -> BTreeSet<(Door, SocketAddr)> {
        let Some(view) = &self.view else {
            return BTreeSet::new();
        };
        let Some(me) = view.server(&self.server) else {
            return BTreeSet::new();
        };
        let mut wanted = BTreeSet::new();
        if me.roles.contains(&Role::Edge) {
            wanted.extend(me.edge_listen.iter().map(|address| (Door::Http, *address)));
            let https = view.https.as_ref().and_then(|https| https.listen.get(&me.name));
            wanted.extend(https.into_iter().flatten().map(|address| (Door::Https, *address)));
        }
        if me.roles.contains(&Role::App) && view.app.is_some() {
            wanted.insert((Door::Relay, me.edge_relay()));
        }
        wanted
    }

    /// Why this door cannot be opened now.
    fn obstacle(&self, door: Door) -> Result<(), String> {
        match door {
            Door::Http => Ok(()),
            Door::Https => self.site.obstacle().map_or(Ok(()), Err),
            Door::Relay => self.shared.identity.configs().map(drop),
        }
    }

    /// One socket for each serving thread, all or none; those of the predecessor first, and each of them.
    fn bind(
        &mut self,
        door: Door,
        address: SocketAddr,
        wanted: &BTreeSet<(Door, SocketAddr)>,
    ) -> Result<(), String> {
        self.obstacle(door)?;
        // `[::]` takes IPv4 too, unless somebody else is to take it.
        let v4_is_wanted = wanted
            .iter()
            .any(|(_, other)| other.is_ipv4() && other.port() == address.port());
        let options = ListenOptions {
            reuse_port: true,
            // An address of another server is bound before it moves here.
            freebind: self
                .view
                .as_ref()
                .is_some_and(|view| view.takeover.is_some() || view.routed)
                && door != Door::Relay,
            v6only: v4_is_wanted,
        };
        let mut sockets = self.inherited.remove(&(door, address)).unwrap_or_default();
        let more = self.commands.len().saturating_sub(sockets.len());
        let bound: io::Result<Vec<TcpListener>> = (0..more).map(|_| listen::tcp(address, options)).collect();
        match bound {
            Ok(bound) => sockets.extend(bound),
            // It is listened on all the same.
            Err(error) if !sockets.is_empty() => {
                tracing::warn!(%address, %error, "some threads do not listen");
            }
            Err(error) => return Err(error.to_string()),
        }
        let handles: io::Result<Vec<TcpListener>> = sockets.iter().map(TcpListener::try_clone).collect();
        let handles = handles.map_err(|error| error.to_string())?;
        for (thread, socket) in self.commands.iter().cycle().zip(sockets) {
            // A thread that has ended is found out each second.
            let _ = thread.send(Command::Listen(door, address, socket));
        }
        self.sockets.insert((door, address), handles);
        Ok(())
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for thread in &self.commands {
            // A thread that has ended is found out each second.
            let _ = thread.send(command());
        }
    }

    /// Whether this edge can carry what visitors have seen: the view wants it, and there is the fleet's key.
    fn carries_floors(&self) -> bool {
        self.upstreams.borrow().floors.is_some() && self.shared.floor_key.is_known()
    }

    fn report(&self) -> TierReport {
        let upstreams = self.upstreams.borrow();
        let now = self.shared.clock.now();
        let serves = |upstream: &Upstream| upstream.health.is_healthy() && !upstream.health.is_left_out(now);
        let standing = upstreams.servers.iter();
        self.metrics
            .upstreams(standing.map(|upstream| (&upstream.server, serves(upstream))));
        let totals = self.metrics.totals();
        TierReport {
            pid: std::process::id(),
            view_serial: upstreams.serial,
            detail: TierDetail::Edge(EdgeReport {
                requests_total: totals.requests,
                failed_total: totals.failed,
                retried_total: totals.retried,
                in_flight: totals.in_flight,
                upstreams: upstreams
                    .servers
                    .iter()
                    .map(|upstream| UpstreamReport {
                        server: upstream.server.clone(),
                        healthy: serves(upstream),
                        reason: match upstream.health.is_left_out(now) {
                            true => Some("left out for a while: its answers were bad".to_owned()),
                            false => upstream.health.reason(),
                        },
                        in_flight: upstream.health.in_flight.load(Ordering::Relaxed),
                        drained_at: upstream.drained_at,
                    })
                    .collect(),
                carries_floors: self.carries_floors(),
                certificates: self.site.report(),
                pages_refused: self.pages.refused(),
                acme_thumbprint: self.acme_thumbprint.borrow().as_deref().map(str::to_owned),
                not_listening: self
                    .not_listening
                    .iter()
                    .map(|((door, address), reason)| match door {
                        Door::Http | Door::Https => format!("{address}: {reason}"),
                        Door::Relay => format!("{address} (relay): {reason}"),
                    })
                    .collect(),
            }),
        }
    }

    /// Takes no more connections, and waits until every thread has finished what it began. After a handover the reports
    /// are the successor's.
    async fn drain(
        &mut self,
        client: &ViewClient,
        shutdown: &Shutdown,
        idle: Idle,
        mut successor: Option<oneshot::Receiver<()>>,
    ) {
        let limit = self
            .upstreams
            .borrow()
            .app
            .as_ref()
            .map_or(DEFAULT_DRAIN, |app| app.drain);
        tracing::info!(?limit, "draining");
        self.tell(|| Command::Drain(limit, idle));
        let commands = self.commands.clone();
        let mut all_ended = std::pin::pin!(async move {
            for thread in &commands {
                thread.closed().await;
            }
        });
        let mut every_second = tokio::time::interval(Duration::from_secs(1));
        let mut hurried = false;
        loop {
            tokio::select! {
                () = &mut all_ended => return,
                () = shutdown.hurried(), if !hurried => {
                    hurried = true;
                    self.tell(|| Command::Drain(Duration::ZERO, idle));
                }
                // systemd starts another one when this process is gone, too, and not before: it is no child of systemd's.
                () = end_of(&mut successor), if is_followed_by_systemd() => {
                    successor = None;
                    tracing::error!("the process that took over has ended");
                    self.tell(|| Command::Drain(LAST_MOMENT, idle));
                }
                _ = every_second.tick(), if idle == Idle::Close => client.report(self.report()),
            }
        }
    }
}
