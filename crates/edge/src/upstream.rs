//! The application servers as the view says they are, how each of them stands, and the connections kept to them.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_balance::outliers::Outlier;
use pontoon_balance::weights::{hash, ramp};
use pontoon_balance::{Latency, Standing};
use pontoon_fleet::{
    AppProtocol, AppView, ClientLimits, Dispatch, EdgeAnswers, EdgeFront, FleetView, Maintenance,
    ProxyProtocol, Role, ServerName, ServerState, ServerView, UnixMillis,
};
use pontoon_rt::clock::{Clock, SystemClock};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::floors::FloorRule;
use crate::io::Stream;
use crate::options::Tuning;
use crate::uploads::Uploads;
use crate::worker::AnswerClock;

/// How an application server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// Plain HTTP to the application itself.
    Direct(SocketAddr),
    /// Mutual TLS to the relay of its server's edge, because the application listens on loopback there.
    Relay(SocketAddr),
}

/// One application server.
#[derive(Debug)]
pub struct Upstream {
    /// On which server.
    pub server: ServerName,
    /// How it is reached.
    pub way: Way,
    /// The application speaks HTTP/2, without TLS.
    pub h2c: bool,
    /// On this server.
    pub here: bool,
    /// How far it is, where that counts (`app.prefer`).
    pub far: u8,
    /// A number that stands for its name, the same on every edge.
    pub id: u64,
    /// Its share beside those of the others.
    pub weight: f32,
    /// By which mark an operator took it out.
    pub drained_at: Option<UnixMillis>,
    /// How it stands; outlives changes of the view.
    pub health: Arc<Health>,
}

impl Upstream {
    /// What the choice needs to know, at `now` of the clock of all threads.
    pub fn for_choice(&self, dispatch: &Dispatch, now: u64) -> pontoon_balance::Server {
        let in_flight = self.health.in_flight.load(Ordering::Relaxed);
        pontoon_balance::Server {
            id: self.id,
            standing: self.standing(now),
            weight: self.share(dispatch, now),
            full: dispatch
                .max_in_flight
                .is_some_and(|most| in_flight >= u64::from(most)),
            in_flight,
            latency: self.health.latency(),
            far: self.far,
        }
    }

    /// Its weight, less while it has just come into service.
    pub fn share(&self, dispatch: &Dispatch, now: u64) -> f32 {
        let since = self.health.serves_since.load(Ordering::Relaxed);
        if dispatch.slow_start.is_zero() || since == 0 {
            return self.weight;
        }
        let slow_start = u64::try_from(dispatch.slow_start.as_millis()).unwrap_or(u64::MAX);
        self.weight * ramp(now.saturating_sub(since), slow_start)
    }

    /// How it stands at `now`.
    pub fn standing(&self, now: u64) -> Standing {
        match (self.drained_at.is_some(), self.health.is_healthy()) {
            (true, _) => Standing::Draining,
            (false, false) => Standing::Unhealthy,
            (false, true) if self.health.is_left_out(now) => Standing::Ejected,
            (false, true) => Standing::InService,
        }
    }

    fn is_same(&self, other: &Upstream) -> bool {
        self.server == other.server && self.way == other.way && self.h2c == other.h2c
    }
}

/// How one application server stands. Written by the checks and by failed connections, read by every thread.
#[derive(Debug)]
pub struct Health {
    healthy: AtomicBool,
    /// Requests on it now.
    pub in_flight: AtomicU64,
    /// How long it takes to answer, as of [`Latency::to_bits`].
    latency: AtomicU64,
    /// When it last came into service, by the clock of all threads; 0 for one that was there from the beginning.
    serves_since: AtomicU64,
    /// Until when it is left out for its bad answers.
    left_out_until: AtomicU64,
    /// The last answer was bad, or it was left out before: good ones are to be noted, too.
    suspect: AtomicBool,
    outlier: Mutex<Outlier>,
    clock: AnswerClock,
    reason: Mutex<Option<String>>,
    /// A connection could not be made: checked again at once.
    pub doubted: Notify,
    doubts: AtomicU64,
    changes: watch::Sender<u64>,
}

impl Health {
    fn new(changes: watch::Sender<u64>, clock: AnswerClock) -> Health {
        Health {
            // Until the first check, a server is believed to work: a refused connection says otherwise at once.
            healthy: AtomicBool::new(true),
            in_flight: AtomicU64::new(0),
            latency: AtomicU64::new(0),
            serves_since: AtomicU64::new(0),
            left_out_until: AtomicU64::new(0),
            suspect: AtomicBool::new(false),
            outlier: Mutex::default(),
            clock,
            reason: Mutex::new(None),
            doubted: Notify::new(),
            doubts: AtomicU64::new(0),
            changes,
        }
    }

    /// How long it takes to answer.
    pub fn latency(&self) -> Latency {
        Latency::from_bits(self.latency.load(Ordering::Relaxed))
    }

    /// The head of an answer with this status came after `took`, at `now` (milliseconds, the clock of all threads).
    pub fn answered(&self, status: u16, took: Duration, now: u32) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let before = self.latency();
        let after = match status {
            500.. => before.with_error(micros, now),
            _ => before.with(micros, now),
        };
        self.latency.store(after.to_bits(), Ordering::Relaxed);
    }

    /// A request that was sent got no answer, at `now`.
    pub fn failed(&self, now: u32) {
        let after = self.latency().with_failure(now);
        self.latency.store(after.to_bits(), Ordering::Relaxed);
    }

    /// It comes into service at `now`.
    fn serves_from(&self, now: u64) {
        self.serves_since.store(now.max(1), Ordering::Relaxed);
    }

    /// Whether it is left out for its bad answers.
    pub fn is_left_out(&self, now: u64) -> bool {
        now < self.left_out_until.load(Ordering::Relaxed)
    }

    /// For how many milliseconds it still is.
    pub fn left_out_for(&self, now: u64) -> u64 {
        self.left_out_until.load(Ordering::Relaxed).saturating_sub(now)
    }

    /// Takes a place for a request, of `most`; `false` when there is none left.
    pub fn enter(&self, most: Option<u32>) -> bool {
        let Some(most) = most else {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            return true;
        };
        let one_more = |count: u64| (count < u64::from(most)).then_some(count + 1);
        self.in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more)
            .is_ok()
    }

    /// Gives the place back.
    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Release);
    }

    /// Whether new requests go there.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Sets how it stands, and why. Says whether that is a change.
    pub fn set(&self, healthy: bool, reason: Option<String>) -> bool {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        let changed = self.healthy.swap(healthy, Ordering::Relaxed) != healthy;
        if changed && healthy {
            self.serves_from(self.clock.now());
        }
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
        changed
    }

    /// A connection could not be made: out at once, until a check succeeds.
    pub fn doubt(&self, server: &ServerName, reason: String) {
        if self.set(false, Some(reason.clone())) {
            tracing::warn!(upstream = %server, %reason, "application server is out: a connection failed");
        }
        self.doubts.fetch_add(1, Ordering::Relaxed);
        self.doubted.notify_one();
    }

    /// How often a connection could not be made.
    pub fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::Relaxed)
    }

    /// Why it is out, or what the last check saw.
    pub fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The application servers of one view.
#[derive(Debug)]
pub struct Upstreams {
    /// The view's serial.
    pub serial: u64,
    /// Times and sizes, as the configuration has them.
    pub tuning: Tuning,
    /// What one client may do.
    pub client: ClientLimits,
    /// What is believed of proxies before this one, and what is added.
    pub front: EdgeFront,
    /// What is answered in place of the application.
    pub answers: EdgeAnswers,
    /// Uploads that are handed out here; `None` when the application hands them out.
    pub uploads: Option<Arc<Uploads>>,
    /// The application; `None` when the view has none.
    pub app: Option<AppView>,
    /// Those that visitors' requests go to, in the view's order.
    pub servers: Vec<Arc<Upstream>>,
    /// This server's own, which its relay forwards to.
    pub local: Option<Arc<Upstream>>,
    /// How floors are carried; `None` when they need not be.
    pub floors: Option<FloorRule>,
    /// Who may use the relay: the servers that have requests to pass on, or applications to check.
    pub callers: Vec<ServerName>,
}

/// Who is left out is decided by one thread at a time, so that there are never too many.
static LEAVING_OUT: Mutex<()> = Mutex::new(());

impl Upstreams {
    /// With what header connections to the application itself begin.
    pub fn proxy_protocol(&self) -> Option<ProxyProtocol> {
        self.app.as_ref()?.dispatch.proxy_protocol
    }

    /// What a visitor from `peer` gets in place of the application now.
    pub fn maintenance(&self, peer: Option<IpAddr>) -> Option<&Maintenance> {
        let maintenance = self.answers.maintenance.as_ref()?;
        maintenance
            .meets(peer?, SystemClock.unix())
            .then_some(maintenance)
    }

    /// Whether a request with this method may be sent again.
    pub fn may_repeat(&self, method: &[u8]) -> bool {
        let policy = self.app.as_ref().map(|app| &app.retries);
        policy.is_some_and(|policy| policy.methods.iter().any(|allowed| allowed.as_bytes() == method))
    }

    /// `upstream` gave an answer that was good, or was bad or none, at `now` of the clock of all threads.
    pub fn judge(&self, upstream: &Upstream, good: bool, now: u64) {
        let Some(rules) = self.app.as_ref().and_then(|app| app.dispatch.outliers.as_ref()) else {
            return;
        };
        let health = &upstream.health;
        if good {
            if health.suspect.load(Ordering::Relaxed) {
                let mut outlier = health.outlier.lock().unwrap_or_else(PoisonError::into_inner);
                outlier.good(rules, now);
                health
                    .suspect
                    .store(*outlier != Outlier::default(), Ordering::Relaxed);
            }
            return;
        }
        let _one = LEAVING_OUT.lock().unwrap_or_else(PoisonError::into_inner);
        let others = self.servers.iter().filter(|server| server.drained_at.is_none());
        let out = others
            .clone()
            .filter(|server| server.health.is_left_out(now))
            .count();
        let mut outlier = health.outlier.lock().unwrap_or_else(PoisonError::into_inner);
        health.suspect.store(true, Ordering::Relaxed);
        if let Some(until) = outlier.bad(rules, now, out, others.count()) {
            health.left_out_until.store(until, Ordering::Relaxed);
            // Its share grows from there.
            health.serves_from(until);
            let seconds = (until - now) as f64 / 1000.0;
            tracing::warn!(upstream = %upstream.server, seconds, "application server is left out: its answers are bad");
        }
    }

    /// How long a server may be silent that was asked for `target`.
    pub fn answer_timeout(&self, target: &[u8]) -> Duration {
        let dispatch = self.app.as_ref().map(|app| &app.dispatch);
        let own = dispatch.and_then(|dispatch| {
            let route = dispatch.route(target).and_then(|route| route.answer_timeout);
            route.or(dispatch.answer_timeout)
        });
        own.unwrap_or(self.tuning.answer_timeout)
    }

    /// The most bytes of a body that goes to `target`.
    pub fn body_limit(&self, target: &[u8]) -> Option<u64> {
        let route = self.app.as_ref().and_then(|app| app.dispatch.route(target));
        route.and_then(|route| route.body).or(self.tuning.body)
    }

    /// None at all, before the first view.
    pub fn none(tuning: &Tuning) -> Upstreams {
        Upstreams {
            serial: 0,
            tuning: tuning.clone(),
            client: ClientLimits::default(),
            front: EdgeFront::default(),
            answers: EdgeAnswers::default(),
            uploads: None,
            app: None,
            servers: Vec::new(),
            local: None,
            floors: None,
            callers: Vec::new(),
        }
    }

    /// Those of `view`, as seen from server `me`. A server that was there before keeps its [`Health`].
    pub fn of_view(
        view: &FleetView,
        me: &ServerName,
        tuning: &Tuning,
        before: &Upstreams,
        changes: &watch::Sender<u64>,
        clock: AnswerClock,
    ) -> Upstreams {
        let calls =
            |server: &&ServerView| server.roles.contains(&Role::Edge) || server.roles.contains(&Role::App);
        let callers = view.servers.iter().filter(calls);
        let callers = callers.map(|server| server.name.clone()).collect();
        let tuning = tuning.under(&view.limits);
        let Some(app) = &view.app else {
            return Upstreams {
                serial: view.serial,
                callers,
                client: view.limits.client.clone(),
                front: view.front.clone(),
                answers: view.answers.clone(),
                ..Upstreams::none(&tuning)
            };
        };
        let floors = FloorRule::of(view);
        let zone = view.server(me).and_then(|server| server.zone.as_ref());
        let servers: Vec<Arc<Upstream>> = view
            .with_role(Role::App)
            .map(|server| {
                let mut upstream = Upstream {
                    server: server.name.clone(),
                    way: way(
                        app.upstream,
                        &server.name == me,
                        server.private,
                        server.edge_relay(),
                        floors.is_some(),
                    ),
                    h2c: app.protocol == AppProtocol::H2c,
                    here: &server.name == me,
                    far: app
                        .dispatch
                        .prefer
                        .distance(&server.name == me, zone.is_some() && server.zone.as_ref() == zone),
                    // Unreachable is the agents' word on each other, not on applications (P5).
                    drained_at: (server.state == ServerState::Draining)
                        .then(|| server.drained_at.unwrap_or_default()),
                    id: hash(server.name.as_str().as_bytes()),
                    weight: server.weight.max(1) as f32,
                    health: Arc::new(Health::new(changes.clone(), clock)),
                };
                match before.servers.iter().find(|known| known.is_same(&upstream)) {
                    Some(known) => {
                        upstream.health = Arc::clone(&known.health);
                        if known.drained_at.is_some() && upstream.drained_at.is_none() {
                            upstream.health.serves_from(clock.now());
                        }
                    }
                    // At the beginning all are alike, and nobody needs to be spared.
                    None if before.servers.is_empty() => {}
                    None => upstream.health.serves_from(clock.now()),
                }
                Arc::new(upstream)
            })
            .collect();
        let local = servers
            .iter()
            .find(|upstream| &upstream.server == me)
            .map(Arc::clone);
        Upstreams {
            serial: view.serial,
            tuning,
            client: view.limits.client.clone(),
            front: view.front.clone(),
            answers: view.answers.clone(),
            uploads: Uploads::of_view(view, me).map(Arc::new),
            app: Some(app.clone()),
            servers,
            local,
            floors,
            callers,
        }
    }
}

/// [`Upstreams`] for one thread, which counts its users without touching what all threads share.
#[derive(Debug)]
pub struct Present(pub Arc<Upstreams>);

impl Deref for Present {
    type Target = Upstreams;

    fn deref(&self) -> &Upstreams {
        &self.0
    }
}

/// `always_relay`: the edge there has something to do before its application gets a request.
fn way(upstream: SocketAddr, local: bool, private: IpAddr, relay: SocketAddr, always_relay: bool) -> Way {
    let loopback = |ip: IpAddr| match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    match (local, upstream.ip().is_unspecified(), upstream.ip().is_loopback()) {
        (true, true, _) => Way::Direct(SocketAddr::new(loopback(upstream.ip()), upstream.port())),
        (true, false, _) => Way::Direct(upstream),
        (false, _, loopback) if loopback || always_relay => Way::Relay(relay),
        (false, _, _) => Way::Direct(SocketAddr::new(private, upstream.port())),
    }
}

/// Unused connections of one thread to one application server, the latest used at the end.
pub struct Pool {
    /// To whom.
    pub upstream: Arc<Upstream>,
    idle: VecDeque<(Stream, Instant)>,
}

impl Pool {
    /// Without connections yet.
    pub fn new(upstream: Arc<Upstream>) -> Pool {
        Pool {
            upstream,
            idle: VecDeque::new(),
        }
    }

    /// For a changed view: the same connections if it is the same server.
    pub fn moved_to(upstream: Arc<Upstream>, pools: &mut Vec<Pool>) -> Pool {
        match pools.iter().position(|pool| pool.upstream.is_same(&upstream)) {
            Some(at) => Pool {
                upstream,
                idle: pools.swap_remove(at).idle,
            },
            None => Pool::new(upstream),
        }
    }

    /// A connection that is still open and quiet; the others found on the way are closed.
    pub fn take(&mut self, now: Instant, max_idle: Duration) -> Option<Stream> {
        while let Some((mut stream, since)) = self.idle.pop_back() {
            if now.saturating_duration_since(since) < max_idle && stream.is_quiet() {
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a connection for later. There were never more than requests at the same time, so their number follows
    /// the traffic by itself: upwards at once, and downwards by [`Pool::tidy`].
    pub fn put(&mut self, stream: Stream, now: Instant) {
        self.idle.push_back((stream, now));
    }

    /// Closes those that were unused for too long, and all of a server that is out. Those beyond `size` may be unused
    /// for a fifth of the time: they are from a peak, and for many applications each costs a process.
    pub fn tidy(&mut self, max_idle: Duration, size: usize) {
        if !self.upstream.health.is_healthy() {
            self.idle.clear();
        }
        while let Some((_, since)) = self.idle.front() {
            let surplus = self.idle.len() > size;
            let limit = if surplus { max_idle / SURPLUS_AGE } else { max_idle };
            if since.elapsed() < limit {
                break;
            }
            self.idle.pop_front();
        }
    }

    /// Whether it is for `upstream`.
    pub fn is_for(&self, upstream: &Arc<Upstream>) -> bool {
        Arc::ptr_eq(&self.upstream, upstream) || self.upstream.is_same(upstream)
    }
}

const SURPLUS_AGE: u32 = 5;

/// Retries that may be made: a share of the requests, and a few more so that a quiet site has some too.
#[derive(Debug)]
pub struct RetryBudget {
    /// In thousandths of a percent of a retry.
    tokens: u64,
}

const ONE_RETRY: u64 = 100_000;
const FLOOR: u64 = 10 * ONE_RETRY;
const CEILING: u64 = 100 * ONE_RETRY;

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget { tokens: FLOOR }
    }
}

impl RetryBudget {
    /// A request came: it pays in `share` thousandths of a percent of a retry.
    pub fn pay_in(&mut self, share: u32) {
        self.tokens = (self.tokens + u64::from(share)).min(CEILING);
    }

    /// Whether a retry may be made.
    pub fn has_one(&self) -> bool {
        self.tokens >= ONE_RETRY
    }

    /// Whether a retry may be made; takes it out.
    pub fn take(&mut self) -> bool {
        let enough = self.has_one();
        if enough {
            self.tokens -= ONE_RETRY;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_an_application() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (private, relay) = ("10.0.0.2".parse().unwrap(), address("10.0.0.2:7401"));
        let there = |upstream: &str| way(address(upstream), false, private, relay, false);
        let here = |upstream: &str| way(address(upstream), true, private, relay, true);
        assert_eq!(there("127.0.0.1:8080"), Way::Relay(relay));
        assert_eq!(there("[::1]:8080"), Way::Relay(relay));
        assert_eq!(there("0.0.0.0:8080"), Way::Direct(address("10.0.0.2:8080")));
        assert_eq!(there("172.17.0.2:80"), Way::Direct(address("10.0.0.2:80")));
        let floors = way(address("0.0.0.0:8080"), false, private, relay, true);
        assert_eq!(floors, Way::Relay(relay));
        assert_eq!(here("127.0.0.1:8080"), Way::Direct(address("127.0.0.1:8080")));
        assert_eq!(here("0.0.0.0:8080"), Way::Direct(address("127.0.0.1:8080")));
        assert_eq!(here("[::]:8080"), Way::Direct(address("[::1]:8080")));
        assert_eq!(here("172.17.0.2:80"), Way::Direct(address("172.17.0.2:80")));
    }

    #[tokio::test(start_paused = true)]
    async fn kept_connections_follow_the_traffic() {
        let (changes, _) = watch::channel(0);
        let upstream = Upstream {
            server: "a".parse().unwrap(),
            way: Way::Direct("127.0.0.1:80".parse().unwrap()),
            h2c: false,
            here: true,
            far: 0,
            id: 0,
            weight: 1.0,
            drained_at: None,
            health: Arc::new(Health::new(changes, AnswerClock::start())),
        };
        let mut pool = Pool::new(Arc::new(upstream));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for _ in 0..20 {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            pool.put(Stream::Tcp(stream), Instant::now());
        }
        let (max_idle, size) = (Duration::from_secs(15), 8);
        pool.tidy(max_idle, size);
        assert_eq!(pool.idle.len(), 20, "a peak is kept");
        tokio::time::advance(Duration::from_secs(4)).await;
        pool.tidy(max_idle, size);
        assert_eq!(pool.idle.len(), 8, "the peak is over");
        tokio::time::advance(Duration::from_secs(12)).await;
        pool.tidy(max_idle, size);
        assert_eq!(pool.idle.len(), 0);
    }

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let mut budget = RetryBudget::default();
        assert_eq!((0..100).filter(|_| budget.take()).count(), 10, "the floor");
        (0..100).for_each(|_| budget.pay_in(20_000));
        assert_eq!(
            (0..100).filter(|_| budget.take()).count(),
            20,
            "20 % of 100 requests"
        );
    }
}
