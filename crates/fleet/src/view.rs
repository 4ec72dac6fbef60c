//! The [`FleetView`]: one immutable value that says what the fleet is and who does what in it.
//!
//! Agents make it, publish it on a Unix socket and on disk, and tiers obey it. A tier never asks another tier.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::millis;
use crate::{
    AssetsView, CacheView, Dispatch, EdgeAnswers, EdgeFront, EdgeLimits, Engine, Epoch, FleetName, Proofs,
    Revision, Role, ServerName, UnixMillis,
};

/// What the fleet is, as one agent sees it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetView {
    /// The fleet's name.
    pub fleet: FleetName,
    /// The configuration that is active.
    pub revision: Revision,
    /// Counts changes of the primary. A connection of an older epoch is closed.
    pub epoch: Epoch,
    /// Grows with each view that this agent publishes; says which of two views is the newer.
    pub serial: u64,
    /// Every server of the configuration, in its order.
    pub servers: Vec<ServerView>,
    /// The application; `None` when the configuration has none.
    pub app: Option<AppView>,
    /// The database; `None` when the configuration has none.
    pub sql: Option<SqlView>,
    /// HTTPS for visitors; `None` when the configuration has none.
    #[serde(default)]
    pub https: Option<HttpsView>,
    /// What edges allow their visitors.
    #[serde(default)]
    pub limits: EdgeLimits,
    /// What edges believe of proxies before them, and what they add.
    #[serde(default)]
    pub front: EdgeFront,
    /// What edges answer themselves.
    #[serde(default)]
    pub answers: EdgeAnswers,
    /// The zone; `None` when the configuration has none.
    #[serde(default)]
    pub dns: Option<DnsView>,
    /// Every public address of an edge, and whether visitors are served there.
    #[serde(default)]
    pub addresses: Vec<AddressView>,
    /// When that last changed, as far as the agents have told each other.
    #[serde(default)]
    pub addresses_changed: UnixMillis,
    /// Uploads that every application server has; `None` when the configuration has none.
    #[serde(default)]
    pub assets: Option<AssetsView>,
    /// The cache; `None` when the configuration has none.
    #[serde(default)]
    pub cache: Option<CacheView>,
    /// How public addresses move; `None` when they do not.
    #[serde(default)]
    pub takeover: Option<TakeoverView>,
    /// Whether a provider moves addresses to edges, which so listen on those that are not theirs yet.
    #[serde(default)]
    pub routed: bool,
}

impl FleetView {
    /// The server of that name.
    pub fn server(&self, name: &ServerName) -> Option<&ServerView> {
        self.servers.iter().find(|server| &server.name == name)
    }

    /// The servers that have `role`, in the configuration's order.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &ServerView> {
        self.servers
            .iter()
            .filter(move |server| server.roles.contains(&role))
    }
}

/// The zone that the servers with the role `dns` answer for. What is in it follows from this, the addresses of the
/// view, and the zone file: so every server answers the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsView {
    /// Its name.
    pub zone: String,
    /// The file with its records, the same on every server; `None`: made from the configuration alone.
    pub file: Option<PathBuf>,
    /// The names that stand for the edges.
    pub names: Vec<String>,
    /// How long others may remember an address, in seconds.
    pub ttl_seconds: u32,
    /// How long while not all addresses are up, in seconds.
    pub ttl_degraded_seconds: u32,
    /// Where the name servers listen, UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Other name servers that fetch the zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<TransferView>,
    /// How it is signed; `None`: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dnssec: Option<DnssecView>,
    /// What authorities look for in it.
    #[serde(default, skip_serializing_if = "Proofs::is_empty")]
    pub proofs: Proofs,
}

/// How the zone is signed (DNSSEC). The key is a file of each server, see `Paths::dnssec_key_file`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnssecView {
    /// For how long signatures are good.
    pub lifetime_seconds: u32,
}

/// Other name servers that fetch the zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferView {
    /// The file with the keys (TSIG) that they have too.
    pub key_file: PathBuf,
    /// Where they are told of changes.
    pub to: Vec<SocketAddr>,
    /// The addresses from which they fetch it.
    pub from: Vec<IpAddr>,
}

/// A public address of an edge: whether a visitor who uses it is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressView {
    /// The address.
    pub address: IpAddr,
    /// Whose it is by the configuration.
    pub home: ServerName,
    /// Who has it now, as far as the agents know; `None`: nobody.
    pub holder: Option<ServerName>,
    /// Whether visitors are served there.
    pub state: AddressState,
    /// Why, in a few words.
    pub reason: String,
    /// How often it is answered, beside the others; 0: only when all others are gone.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
}

fn is_one(weight: &u32) -> bool {
    *weight == 1
}

/// Whether visitors are served at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressState {
    /// They are, by its own server or by the one that took it over.
    Up,
    /// It is about to be taken over: for the moment it stays published.
    Moving,
    /// Nobody serves there.
    Down,
    /// An operator took its server out.
    Draining,
    /// It belongs to an edge that waits until another is lost.
    Standby,
}

impl AddressState {
    /// Whether others are sent there.
    pub fn is_published(self) -> bool {
        matches!(self, AddressState::Up | AddressState::Moving)
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            AddressState::Up => "up",
            AddressState::Moving => "moving",
            AddressState::Down => "down",
            AddressState::Draining => "draining",
            AddressState::Standby => "standby",
        }
    }
}

/// How the public addresses of a lost server move to a live one. Those of the edges do, all of a server together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeoverView {
    /// Heartbeats each 50 ms in place of 100.
    pub fast: bool,
    /// How long a server must have been well before its addresses go home.
    #[serde(with = "millis")]
    pub home_after: Duration,
    /// The router to ask; `None` for that of the default route.
    pub gateway: Option<IpAddr>,
    /// The network interface of the public addresses; `None` for the one in whose network they are.
    pub interface: Option<String>,
}

/// One server of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// Its name.
    pub name: ServerName,
    /// Its address inside the fleet.
    pub private: IpAddr,
    /// The addresses that visitors reach it at.
    pub public: Vec<IpAddr>,
    /// What it does.
    pub roles: BTreeSet<Role>,
    /// Where it stands (a data centre's zone), when the configuration says.
    pub zone: Option<String>,
    /// Whether it takes no traffic until another edge is lost.
    pub standby: bool,
    /// Whether it can be used.
    pub state: ServerState,
    /// The ports of its fleet-internal listeners, all on `private`, all mutual TLS.
    pub ports: Ports,
    /// Where its edge listens for visitors (plain HTTP).
    pub edge_listen: Vec<SocketAddr>,
    /// Its application's share of the requests, beside those of the others.
    #[serde(default = "one")]
    pub weight: u32,
    /// Which mark took it out ([`DrainMark::at`](crate::DrainMark::at)); `None` while it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_at: Option<UnixMillis>,
}

fn one() -> u32 {
    1
}

impl ServerView {
    /// Where its edge takes requests for its own application from other edges (mutual TLS).
    pub fn edge_relay(&self) -> SocketAddr {
        SocketAddr::new(self.private, self.ports.edge_relay)
    }

    /// Where its SQL proxy takes connections for its own database from other SQL proxies (mutual TLS).
    pub fn sql_relay(&self) -> SocketAddr {
        SocketAddr::new(self.private, self.ports.sql_relay)
    }

    /// Where its assets process answers those of other servers (mutual TLS).
    pub fn assets(&self) -> SocketAddr {
        SocketAddr::new(self.private, self.ports.assets)
    }

    /// Where its cache proxy takes connections for its own memcached from other cache proxies (mutual TLS).
    pub fn cache_relay(&self) -> SocketAddr {
        SocketAddr::new(self.private, self.ports.cache_relay)
    }

    /// Where its agent answers the other agents (mutual TLS).
    pub fn agent(&self) -> SocketAddr {
        SocketAddr::new(self.private, self.ports.agent)
    }
}

/// Whether a server can be used, as far as the agents know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// Its agent answers.
    Up,
    /// An operator took it out: no new requests go to its application.
    Draining,
    /// Its agent does not answer. Tiers go by their own health checks: an agent's death is not a server's (P5).
    Unreachable,
}

/// Ports of the fleet-internal listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The agent.
    pub agent: u16,
    /// The edge, for other edges.
    pub edge_relay: u16,
    /// The SQL proxy, for other SQL proxies.
    pub sql_relay: u16,
    /// The cache proxy, for other cache proxies.
    #[serde(default)]
    pub cache_relay: u16,
    /// The assets process, for those of other servers; 0 from an agent that knew of none.
    #[serde(default)]
    pub assets: u16,
}

impl Ports {
    /// The ports that follow from the fleet's base port: it, and the next four.
    pub fn from_base(base: u16) -> Ports {
        Ports {
            agent: base,
            edge_relay: base.saturating_add(1),
            sql_relay: base.saturating_add(2),
            cache_relay: base.saturating_add(3),
            assets: base.saturating_add(4),
        }
    }
}

/// The application that runs on every server with the role `app`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppView {
    /// Where it listens on its own server. A loopback address is reached from other servers through that
    /// server's edge relay; any other is dialled at the server's private address and this port.
    pub upstream: SocketAddr,
    /// What it speaks.
    #[serde(default)]
    pub protocol: AppProtocol,
    /// Which server gets a request.
    #[serde(default)]
    pub balance: BalanceRule,
    /// How to tell that it works.
    pub health: HealthCheck,
    /// When a request may be tried on another server.
    pub retries: RetryPolicy,
    /// How long a draining server may finish what it began.
    #[serde(with = "millis")]
    pub drain: Duration,
    /// How requests are dispatched otherwise.
    #[serde(default)]
    pub dispatch: Dispatch,
}

/// Which application server gets a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BalanceRule {
    /// Of two picked at random, the one where the wait is likely to be shorter: requests under way, times how long
    /// they took lately (an exponentially weighted moving average).
    #[default]
    Ewma,
    /// The one with the fewest requests under way.
    LeastConnections,
    /// Servers take turns.
    RoundRobin,
    /// Requests that are alike by [`crate::HashKey`] go to the same server, and few change theirs when a server comes or goes.
    Hash,
}

impl BalanceRule {
    /// All of them.
    pub const ALL: [BalanceRule; 4] = [
        BalanceRule::Ewma,
        BalanceRule::LeastConnections,
        BalanceRule::RoundRobin,
        BalanceRule::Hash,
    ];

    /// As the configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            BalanceRule::Ewma => "ewma",
            BalanceRule::LeastConnections => "least-connections",
            BalanceRule::RoundRobin => "round-robin",
            BalanceRule::Hash => "hash",
        }
    }
}

/// What an application speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppProtocol {
    /// HTTP/1.1 (RFC 9112).
    #[default]
    #[serde(rename = "http/1.1")]
    Http1,
    /// HTTP/2 without TLS, known beforehand (RFC 9113 section 3.3). What gRPC servers speak.
    #[serde(rename = "h2c")]
    H2c,
}

impl AppProtocol {
    /// As the configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            AppProtocol::Http1 => "http/1.1",
            AppProtocol::H2c => "h2c",
        }
    }
}

/// An active health check over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The path asked for; `None` checks only that a TCP connection is accepted.
    pub path: Option<String>,
    /// The status that means healthy; `None` accepts 200 to 399.
    pub expect: Option<u16>,
    /// Between two checks.
    #[serde(with = "millis")]
    pub interval: Duration,
    /// How long one check may take.
    #[serde(with = "millis")]
    pub timeout: Duration,
    /// Failed checks in a row after which a server is out.
    pub fall: u32,
    /// Good checks in a row after which it is in again.
    pub rise: u32,
}

/// When a request may be tried once more, on another server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Methods that may be repeated when the connection was closed before a byte of the answer came. A
    /// connection that could not be made is always tried elsewhere: the request was never sent.
    pub methods: Vec<String>,
    /// Tries beyond the first.
    pub max: u32,
    /// Retries allowed as thousandths of a percent of the requests.
    pub budget: u32,
}

/// HTTPS for visitors, the same on every edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpsView {
    /// Where the edge of each server listens for it.
    pub listen: BTreeMap<ServerName, Vec<SocketAddr>>,
    /// Certificates from files, which are on every server with an edge. A client that names no host, or one that is in
    /// none of them, gets the first.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Whether plain HTTP is answered with a redirect to HTTPS.
    pub redirect: bool,
    /// How long browsers may remember that there is HTTPS only, in seconds (RFC 6797); `None`: nothing is said.
    pub hsts_seconds: Option<u64>,
    /// The thumbprint of the key of the fleet's account with an authority (RFC 7638): every edge answers every
    /// HTTP-01 challenge with it (RFC 8555 section 8.3). `None` without ACME, or before there is a key.
    #[serde(default)]
    pub acme_thumbprint: Option<String>,
}

/// Where a certificate for visitors is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CertificateFiles {
    /// The certificate and those of the authorities between it and a root, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authority's word that it is not revoked (OCSP response, DER), when somebody fetches one.
    pub ocsp: Option<PathBuf>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246), with forward secrecy and authenticated encryption only.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    V1_3,
}

impl TlsVersion {
    /// As the configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            TlsVersion::V1_2 => "1.2",
            TlsVersion::V1_3 => "1.3",
        }
    }
}

/// The database and how the application reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlView {
    /// The engine.
    pub engine: Engine,
    /// Where every SQL proxy listens: what the application already dials.
    pub listen: Vec<ListenAddress>,
    /// Where a database server listens on its own server, over TCP on loopback.
    pub backend_tcp: SocketAddr,
    /// Where it listens on its own server as a Unix socket, when `listen` has one.
    pub backend_socket: Option<PathBuf>,
    /// The server whose database takes the writes; `None` while nobody may.
    pub primary: Option<ServerName>,
    /// Every database server.
    pub servers: Vec<DatabaseServerView>,
    /// How long a new connection waits for a primary before it is refused.
    #[serde(with = "millis")]
    pub hold_writes: Duration,
    /// How reads are spread over the database servers; `None` when the configuration does not say.
    #[serde(default)]
    pub reads: Option<ReadsView>,
    /// No write may be sent to the primary after this moment, by the clock of the machine that the view is for. `None`
    /// where a primary that was replaced gets no acknowledgement anyway.
    #[serde(default)]
    pub write_until: Option<BootMoment>,
    /// The primary is about to hand over: until this moment, or until another epoch, no statement and no transaction is
    /// begun. What is under way goes on.
    #[serde(default)]
    pub holding: Option<BootMoment>,
}

/// A moment of a machine's clock that goes on in suspend (`CLOCK_BOOTTIME`), within one start of that machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootMoment {
    /// Which start of which machine (`/proc/sys/kernel/random/boot_id`). A view that outlived it says nothing.
    pub boot: String,
    /// Milliseconds since it.
    pub ms: u64,
}

impl BootMoment {
    /// How long it is until then, at `now` of the start `boot`. Zero when it is over, or of another start.
    pub fn left(&self, boot: &str, now: Duration) -> Duration {
        match self.boot == boot && !boot.is_empty() {
            true => Duration::from_millis(self.ms).saturating_sub(now),
            false => Duration::ZERO,
        }
    }
}

impl SqlView {
    /// How reads are spread, when there is somebody to spread them to.
    pub fn spread(&self) -> Option<&ReadsView> {
        let reads = self.reads.as_ref().filter(|reads| reads.split)?;
        (self.servers.len() > 1 && self.engine != Engine::External).then_some(reads)
    }
}

/// How reads are spread over the database servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadsView {
    /// Whether replicas answer reads.
    pub split: bool,
    /// A replica that is known to be further behind, or of which nothing is known for so long, answers no reads.
    #[serde(with = "millis")]
    pub max_lag: Duration,
    /// Who sees a write at once.
    pub after_write: AfterWrite,
    /// The newest floor that a server of the fleet reported, `EPOCH@POSITION`. For those who wrote through one server
    /// and read through another without a cookie: best effort, a second or two old.
    #[serde(default)]
    pub heard: Option<String>,
}

/// Who sees a write at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterWrite {
    /// Whoever wrote: in the same connection, in any other through the same server, and through another server when
    /// the edge's cookie comes along.
    #[default]
    Session,
    /// Everybody, through any server.
    FleetWide,
}

/// One database server, as last reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseServerView {
    /// On which server.
    pub server: ServerName,
    /// Behind the primary, in milliseconds; `None` when unknown.
    pub lag_ms: Option<u64>,
    /// Its GTID position as text; `None` when unknown.
    pub position: Option<String>,
}

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenAddress {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl std::str::FromStr for ListenAddress {
    type Err = String;

    /// `127.0.0.1:3306`, `[::1]:3306` or an absolute path.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            // The kernel's sun_path holds 108 bytes with the closing NUL (unix(7)).
            if text.len() > 107 {
                return Err(format!(
                    "{text:?} is too long for a Unix socket: 107 bytes at most"
                ));
            }
            if text.contains('\0') {
                return Err(format!("{text:?} has a NUL byte in it"));
            }
            return Ok(ListenAddress::Unix(PathBuf::from(text)));
        }
        text.parse()
            .map(ListenAddress::Tcp)
            .map_err(|_| format!("{text:?} is neither ADDRESS:PORT nor the absolute path of a Unix socket"))
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => path.display().fmt(f),
        }
    }
}
