//! The control thread: follows the view, binds addresses, checks the application servers, reports to the agent.
//! Nothing here is on a request's path; when it is slow, requests are not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_certs::Tickets;
use pontoon_fleet::{EdgeReport, FleetView, Role, ServerName, Tier, TierDetail, TierReport, UpstreamReport};
use pontoon_rt::clock::{self, Clock};
use pontoon_rt::listen::{self, ListenOptions};
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::threads;
use pontoon_rt::view::ViewClient;
use pontoon_telemetry::metrics::{self, EdgeMetrics, Registry};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::access_log::{self, LogBuffer};
use crate::dial::Identity;
use crate::floors::SharedKey;
use crate::health::Checker;
use crate::http1::reject::Reject;
use crate::https::Site;
use crate::options::{EdgeError, EdgeOptions};
use crate::queue::Queue;
use crate::state::EdgeState;
use crate::upstream::{Upstream, Upstreams};
use crate::worker::{AnswerClock, Command, Door, Shared, Worker};

/// Runs the edge until SIGTERM or SIGINT, then finishes what is begun and returns. A second signal cuts that short.
///
/// # Errors
/// When the operating system refuses what the edge cannot do without. An address that cannot be bound is not an
/// error: it is reported, and tried again each second.
pub fn run(options: EdgeOptions) -> Result<(), EdgeError> {
    let shutdown = Shutdown::from_signals().map_err(system("signal handlers"))?;
    run_until(options, shutdown)
}

/// As [`run`], until `shutdown` asks.
///
/// # Errors
/// As [`run`].
pub fn run_until(options: EdgeOptions, shutdown: Shutdown) -> Result<(), EdgeError> {
    let files = pontoon_rt::process::raise_open_files();
    let count = threads::count(options.threads);
    let (upstreams, upstreams_seen) = watch::channel(Arc::new(Upstreams::none(&options.tuning)));
    let (health_changes, health_changes_seen) = watch::channel(0);
    let (https, https_seen) = watch::channel(None);
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
        queue: Queue::default(),
        floor_socket: options.paths.floor_socket(),
        floor_key: Arc::new(SharedKey::new(options.paths.floor_key_file())),
        clock: AnswerClock::start(),
        https: https_seen,
        acme_thumbprint: acme_thumbprint_seen,
    });
    let tickets = Tickets::new(options.paths.ticket_keys_file());
    let mut registry = Registry::new(&options.server, "edge", env!("CARGO_PKG_VERSION"));
    let metrics = EdgeMetrics::register(&mut registry, count, Reject::WORDS);
    let log_file = options.paths.log_file("edge-access");
    let log = access_log::start(options.access_log.format, options.access_log.to, log_file)
        .map_err(system("the access log's thread"))?;

    let (commands, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    let receivers: Arc<Mutex<Vec<_>>> = Arc::new(Mutex::new(receivers.into_iter().map(Some).collect()));
    let serving = {
        let (shared, stats) = (Arc::clone(&shared), metrics.threads().to_vec());
        let format = options.access_log.format;
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
        listening: BTreeSet::new(),
        not_listening: BTreeMap::new(),
        view: None,
        site: Site::new(tickets, https),
        acme_thumbprint,
    };
    LocalSet::new().block_on(&runtime, control.run(&options, registry, shutdown));
    serving.join()?;
    Ok(())
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
    listening: BTreeSet<(Door, SocketAddr)>,
    not_listening: BTreeMap<(Door, SocketAddr), String>,
    view: Option<Arc<FleetView>>,
    site: Site,
    acme_thumbprint: watch::Sender<Option<Arc<str>>>,
}

/// How long a drain may take when no view says.
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

impl Control {
    async fn run(mut self, options: &EdgeOptions, registry: Registry, shutdown: Shutdown) {
        // The view goes on while requests are finished: its task ends when this does.
        let goes_on = Shutdown::new();
        let client = ViewClient::start(&options.paths, Tier::Edge, goes_on.clone());
        let mut views = client.subscribe();
        views.mark_changed();
        let shared = Arc::clone(&self.shared);
        metrics::serve_with(
            &options.paths.run_dir.join("edge.sock"),
            registry,
            vec![metrics::json_page("/state", move || EdgeState::of(&shared))],
            goes_on.clone(),
        );
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
                () = shutdown.requested() => break,
            }
        }
        self.drain(&client, &shutdown).await;
        goes_on.trigger();
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
        self.checker.follow(&upstreams);
        self.upstreams.send_replace(upstreams);
        // A server that is new or came back may be what a held request waits for.
        self.health_changes.send_modify(|count| *count += 1);
        self.view = Some(view);
        self.refresh_site();
        self.bind_wanted();
    }

    /// Looks at the certificates for visitors.
    fn refresh_site(&mut self) {
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
        let gone: Vec<_> = self.listening.difference(&wanted).copied().collect();
        for (door, address) in gone {
            self.tell(|| Some(Command::Close(door, address)));
            self.listening.remove(&(door, address));
        }
        self.not_listening.retain(|key, _| wanted.contains(key));
        for (door, address) in &wanted {
            if self.listening.contains(&(*door, *address)) {
                continue;
            }
            match self.bind(*door, *address, &wanted) {
                Ok(()) => {
                    self.not_listening.remove(&(*door, *address));
                    self.listening.insert((*door, *address));
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

    /// One socket for each serving thread, all or none.
    fn bind(
        &self,
        door: Door,
        address: SocketAddr,
        wanted: &BTreeSet<(Door, SocketAddr)>,
    ) -> Result<(), String> {
        match door {
            Door::Http => {}
            Door::Https => self.site.obstacle().map_or(Ok(()), Err)?,
            Door::Relay => self.shared.identity.configs().map(drop)?,
        }
        // `[::]` takes IPv4 too, unless somebody else is to take it.
        let v4_is_wanted = wanted
            .iter()
            .any(|(_, other)| other.is_ipv4() && other.port() == address.port());
        let options = ListenOptions {
            reuse_port: true,
            // An address of another server is bound before it moves here.
            freebind: self.view.as_ref().is_some_and(|view| view.takeover.is_some()) && door != Door::Relay,
            v6only: v4_is_wanted,
        };
        let sockets: io::Result<Vec<TcpListener>> = self
            .commands
            .iter()
            .map(|_| listen::tcp(address, options))
            .collect();
        let mut sockets = sockets.map_err(|error| error.to_string())?;
        self.tell(|| sockets.pop().map(|socket| Command::Listen(door, address, socket)));
        Ok(())
    }

    fn tell(&self, mut command: impl FnMut() -> Option<Command>) {
        for thread in &self.commands {
            if let Some(command) = command() {
                // A thread that has ended is found out each second.
                let _ = thread.send(command);
            }
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
                    })
                    .collect(),
                carries_floors: self.carries_floors(),
                certificates: self.site.report(),
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

    /// Takes no more connections, and waits until every thread has finished what it began.
    async fn drain(&mut self, client: &ViewClient, shutdown: &Shutdown) {
        let limit = self
            .upstreams
            .borrow()
            .app
            .as_ref()
            .map_or(DEFAULT_DRAIN, |app| app.drain);
        tracing::info!(?limit, "draining");
        self.tell(|| Some(Command::Drain(limit)));
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
                    self.tell(|| Some(Command::Drain(Duration::ZERO)));
                }
                _ = every_second.tick() => client.report(self.report()),
            }
        }
    }
}
