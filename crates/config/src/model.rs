//! What a configuration means: checked, typed, defaults filled in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use pontoon_fleet::{
    AppProtocol, BalanceRule, CachePlacement, CertificateFiles, Challenge, Dispatch, EdgeAnswers, EdgeFront,
    EdgeLimits, Engine, FleetName, HealthCheck, ListenAddress, Ports, RetryPolicy, Role, ServerName,
    TlsVersion,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// A checked configuration. Two are equal when they mean the same; where things stood in the text is not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What concerns the whole fleet.
    pub fleet: Fleet,
    /// Every server, in the order of the file. Never empty; names and private addresses are unique.
    pub servers: Vec<Server>,
    /// Where visitors arrive.
    pub edge: Edge,
    /// The application; `None` when the fleet has none.
    pub app: Option<App>,
    /// The database; `None` when the fleet has none.
    pub db: Option<Db>,
    /// Who may be primary; `None` means [`LeaseStore::Single`], see [`Config::lease_store`].
    pub lease: Option<Lease>,
    /// The cache.
    pub cache: Option<Cache>,
    /// Uploads.
    pub assets: Option<Assets>,
    /// Addresses that move between servers.
    pub ip: Option<Addresses>,
    /// DNS.
    pub dns: Option<Dns>,
    /// Measured limits and when to warn.
    pub capacity: Option<Capacity>,
    /// Where each key stood in the text.
    pub places: Places,
}

/// `[fleet]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// The fleet's name.
    pub name: FleetName,
    /// The names that visitors use; empty means whatever they ask for.
    pub domains: Vec<String>,
    /// The first of five ports between the servers, see [`Ports::from_base`].
    pub port: u16,
}

/// One `[[server]]`, with `[defaults.server]` applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: ServerName,
    /// Its address inside the fleet.
    pub private: IpAddr,
    /// The addresses that visitors reach it at.
    pub public: Vec<IpAddr>,
    /// What it does; never empty.
    pub roles: BTreeSet<Role>,
    /// Where it stands.
    pub zone: Option<String>,
    /// Whether its edge takes no traffic until another edge is lost.
    pub standby: bool,
    /// Its application's share of the requests, beside those of the others.
    pub weight: u32,
    /// How often its public addresses are answered by DNS, beside those of the others; 0: when all others are gone.
    pub dns_weight: u32,
    /// How far its copy of the database stays behind the primary on purpose.
    pub delay: Option<Duration>,
    /// The replica that its copy of the database follows, while that one follows the primary.
    pub source: Option<ServerName>,
}

/// `[edge]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// As configured; empty means the default, see [`Config::edge_listen`].
    pub listen: Vec<SocketAddr>,
    /// HTTPS; `None` when visitors are served over plain HTTP only.
    pub tls: Option<Tls>,
    /// What visitors are allowed.
    pub limits: EdgeLimits,
    /// What is believed of proxies before it, and what it adds.
    pub front: EdgeFront,
    /// What it answers itself.
    pub answers: EdgeAnswers,
}

/// `[edge.tls]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// As configured; empty means the default, see [`Config::https_listen`].
    pub listen: Vec<SocketAddr>,
    /// Certificates from files; not empty, unless there is `acme`.
    pub certificates: Vec<CertificateFiles>,
    /// Certificates from an authority.
    pub acme: Option<Acme>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Whether plain HTTP is answered with a redirect to HTTPS.
    pub redirect: bool,
    /// How long browsers may remember that there is HTTPS only; whole seconds.
    pub hsts: Option<Duration>,
}

/// `[edge.tls.acme]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// Each gets a certificate of its own; never empty.
    pub names: Vec<String>,
    /// Whom the authority writes to.
    pub email: Option<String>,
    /// The URL of the authority's directory (RFC 8555 section 7.1.1).
    pub directory: String,
    /// The authorities that the directory's own server is trusted by; `None` for the machine's.
    pub ca: Option<PathBuf>,
    /// How the names are proved.
    pub challenge: Challenge,
}

/// `[app]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Where it listens on its own server.
    pub upstream: SocketAddr,
    /// What it speaks.
    pub protocol: AppProtocol,
    /// Which server gets a request.
    pub balance: BalanceRule,
    /// How to tell that it works.
    pub health: HealthCheck,
    /// When a request may be tried on another server.
    pub retries: RetryPolicy,
    /// How long a draining server may finish what it began.
    pub drain: Duration,
    /// How requests are dispatched otherwise.
    pub dispatch: Dispatch,
}

/// `[db]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Db {
    /// The engine.
    pub engine: Engine,
    /// Where an external database is, `HOST:PORT`; present exactly when `engine` is `external`.
    pub address: Option<String>,
    /// Whether Pontoon's SQL proxy stands in front of the database.
    pub proxy: bool,
    /// Where the SQL proxy listens: what the application already dials. Empty exactly when `proxy` is off.
    pub listen: Vec<ListenAddress>,
    /// The port that the database server itself listens on.
    pub server_port: u16,
    /// The Unix socket of the database server itself. `None`: it stays where it is.
    pub server_socket: Option<PathBuf>,
    /// Where load balancers of others ask which database server is what, on the private address (plain HTTP).
    pub health_port: Option<u16>,
    /// Who promotes a replica. Omitted means the best that this version does: `manual`.
    pub failover: Option<Failover>,
    /// When a commit is acknowledged. Omitted means `two-copies` with a lease store that servers share, and `one-copy`
    /// with `single`.
    pub durability: Option<Durability>,
    /// How many replicas acknowledge a commit with [`Durability::Quorum`].
    pub acks: u8,
    /// With [`Durability::OneCopy`]: a replica further behind is not promoted by itself.
    pub max_lag: Duration,
    /// A replica that diverged is copied anew by itself, at most once in this time.
    pub auto_reclone: Option<Duration>,
    /// How a new replica gets its copy. Omitted means [`CopyMethod::Auto`].
    pub copy: Option<CopyMethod>,
    /// What a primary without a replica does.
    pub when_alone: Option<WhenAlone>,
    /// Whether replicas answer reads.
    pub reads: Option<Reads>,
    /// How long a new connection waits for a primary before it is refused.
    pub hold_writes: Duration,
    /// Copies in an object store.
    pub backup: Option<Backup>,
}

/// `[db.backup]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The bucket.
    pub bucket: String,
    /// What the names of the objects begin with; `None` means the fleet's name.
    pub prefix: Option<String>,
    /// The store's URL; `None` means that of the lease store, or AWS.
    pub endpoint: Option<String>,
    /// Where the keys are; `None` means those of the lease store, or the machine's own role.
    pub credentials: Option<Credentials>,
    /// How often a whole copy is made.
    pub every: Duration,
    /// For how long any moment can be restored.
    pub keep: Duration,
    /// How often the growing binary log is archived.
    pub archive_every: Duration,
    /// The most bytes a second that a copy may take.
    pub rate: Option<u64>,
}

/// `db.failover`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Failover {
    /// Pontoon promotes a replica by itself when the primary is lost.
    Auto,
    /// An operator does, with a command.
    Manual,
    /// Nobody does.
    Off,
}

/// `db.durability`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// A commit is acknowledged once a replica has it (semi-synchronous), and only that replica is promoted: no
    /// acknowledged write is lost, whatever the clocks say.
    TwoCopies,
    /// With three database servers or more: once `acks` of them have it; promotion needs so many that one of those is
    /// among them.
    Quorum,
    /// A commit is acknowledged once the primary has it (asynchronous): a promotion may lose what the replica had not
    /// received yet.
    OneCopy,
}

/// `db.copy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CopyMethod {
    /// Of the files where that is possible, else as a dump.
    #[default]
    Auto,
    /// Of the files (mariadb-backup, MySQL's CLONE), or not at all.
    Physical,
    /// As a dump (mariadb-dump, mysqldump).
    Logical,
}

/// `db.when_alone`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenAlone {
    /// A primary that has lost its replicas goes on, and the fleet shows as degraded.
    Continue,
    /// It stops acknowledging writes.
    Stop,
}

/// `db.reads`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    /// Whether reads go to replicas.
    pub split: bool,
    /// A replica further behind answers no reads.
    pub max_lag: Duration,
    /// Who sees a write at once.
    pub after_write: AfterWrite,
}

/// `db.reads.after_write`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AfterWrite {
    /// Whoever wrote sees it: in the same connection, in any other through the same server, and through another
    /// server when the request comes by Pontoon's edges.
    #[serde(alias = "connection")]
    Session,
    /// A read through any server sees every write acknowledged before it.
    FleetWide,
}

/// `[lease]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Where the record is kept.
    pub store: LeaseStore,
    /// How long a lease holds without being renewed.
    pub ttl: Duration,
}

/// `lease.store` and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseStore {
    /// A file on one server: the primary never changes by itself.
    Single,
    /// Conditional writes to an object store.
    S3 {
        /// The bucket.
        bucket: String,
        /// Its URL; `None` means AWS.
        endpoint: Option<String>,
        /// Where the keys are; `None` means the machine's own role.
        credentials: Option<Credentials>,
    },
    /// An etcd cluster.
    Etcd {
        /// `HOST:PORT` or URLs.
        endpoints: Vec<String>,
        /// Where user and password are.
        credentials: Option<Credentials>,
        /// For members whose URL begins with `https://`.
        tls: EtcdTls,
    },
}

/// Files for TLS with etcd: absolute paths, the same on every server with the role `db`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// The authorities that are believed, PEM; `None` means those of the machine.
    pub ca: Option<PathBuf>,
    /// What is shown to etcd; `None` means nothing.
    pub client: Option<ClientCertificate>,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, followed by those of the authorities between it and a root.
    pub certificate: PathBuf,
    /// Its key, without a password.
    pub key: PathBuf,
}

/// Where a secret is, never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A systemd credential's name (systemd.exec(5), `LoadCredential=`).
    Systemd(String),
    /// A file's absolute path.
    File(PathBuf),
    /// An environment variable's name.
    Env(String),
}

/// `[cache]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Where the cache proxy listens: what the application already dials.
    pub listen: SocketAddr,
    /// A Unix socket that the application dials beside it.
    pub socket: Option<PathBuf>,
    /// Memory in bytes on each server with the role.
    pub memory_bytes: u64,
    /// How keys are spread.
    pub placement: CachePlacement,
    /// What stands for a server in the ring, where it is not its name.
    pub labels: BTreeMap<ServerName, String>,
    /// Keys that begin so are filled by one client, for which the others wait a moment.
    pub fill_once: Vec<String>,
    /// How many servers hold each item.
    pub copies: u32,
}

/// `[assets]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assets {
    /// The folder that the application writes uploads to.
    pub local: PathBuf,
    /// The path that visitors read them under; begins and ends with `/`.
    pub url: String,
    /// Whether the edge hands them out itself.
    pub serve: bool,
    /// Paths below `url` that the application hands out all the same; each begins with `url` and ends with `/`.
    pub private: Vec<String>,
    /// The bucket.
    pub bucket: String,
    /// Its URL; `None` means that of the lease store, or AWS.
    pub endpoint: Option<String>,
    /// Where the keys are; `None` means those of the lease store.
    pub credentials: Option<Credentials>,
}

/// `[ip]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// How the addresses of a lost server move.
    pub method: AddressMethod,
    /// Heartbeats each 50 ms in place of 100.
    pub fast: bool,
    /// How long a server must have been well before its addresses go home.
    pub home_after: Duration,
    /// The router of the public network; `None` for that of the default route.
    pub gateway: Option<IpAddr>,
    /// The network interface of the public addresses; `None` for the one in whose network they are.
    pub interface: Option<String>,
    /// What the provider's interface needs; `None` where none is asked.
    pub hosted: Option<Hosted>,
}

/// `[ip]` where a provider moves the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosted {
    /// How long a move may take.
    pub timeout: Duration,
    /// Where token or password are.
    pub credentials: Option<Credentials>,
    /// The interface's URL; `None` for the provider's usual one.
    pub endpoint: Option<String>,
    /// What the provider calls each server.
    pub targets: BTreeMap<ServerName, String>,
}

/// `ip.method` and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressMethod {
    /// The live server takes the address and announces it on the local network.
    Arp,
    /// A program is called, for a provider's API.
    Exec(PathBuf),
    /// Hetzner Cloud's floating addresses.
    HetznerCloud,
    /// Hetzner Robot's failover addresses.
    HetznerRobot,
    /// DigitalOcean's reserved addresses.
    DigitalOcean,
    /// OVHcloud's additional addresses.
    Ovh,
    /// They do not.
    None,
}

impl AddressMethod {
    /// As it is written.
    pub fn name(&self) -> &'static str {
        match self {
            AddressMethod::Arp => "arp",
            AddressMethod::Exec(_) => "exec",
            AddressMethod::HetznerCloud => "hetzner-cloud",
            AddressMethod::HetznerRobot => "hetzner-robot",
            AddressMethod::DigitalOcean => "digitalocean",
            AddressMethod::Ovh => "ovh",
            AddressMethod::None => "none",
        }
    }
}

/// `[dns]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The zone that is answered for.
    pub zone: String,
    /// Its records; `None`: a zone of `names` and nothing else.
    pub file: Option<PathBuf>,
    /// The names that stand for the edges' public addresses.
    pub names: Vec<String>,
    /// How long others may remember an address.
    pub ttl: Duration,
    /// Where the name servers listen; empty means port 53 of all addresses.
    pub listen: Vec<SocketAddr>,
    /// Other name servers that fetch the zone.
    pub transfer: Option<DnsTransfer>,
    /// How it is signed; `None`: it is not.
    pub dnssec: Option<Dnssec>,
    /// A name server elsewhere that is told of the names' addresses.
    pub update: Option<DnsUpdate>,
    /// A program that tells another one.
    pub hook: Option<DnsHook>,
}

/// `[dns] dnssec`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dnssec {
    /// For how long signatures are good.
    pub lifetime: Duration,
}

/// `[dns] update`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsUpdate {
    /// The zone's primary.
    pub server: SocketAddr,
    /// The file with the key that it has too.
    pub key_file: PathBuf,
}

/// `[dns] hook`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsHook {
    /// The program.
    pub exec: PathBuf,
    /// For how long it may run.
    pub timeout: Duration,
}

/// `[dns] transfer`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsTransfer {
    /// The file with the keys that they have too.
    pub key_file: PathBuf,
    /// Where they are told of changes.
    pub to: Vec<SocketAddr>,
    /// From where they may fetch it.
    pub from: Vec<IpAddr>,
}

impl Dns {
    /// Whether a name, or that of a wildcard, is in the zone.
    pub fn holds(&self, name: &str) -> bool {
        let name = name.strip_prefix("*.").unwrap_or(name);
        name.strip_suffix(self.zone.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// Where the name servers listen.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        if !self.listen.is_empty() {
            return self.listen.clone();
        }
        let all: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        all.map(|ip| SocketAddr::new(ip, 53)).to_vec()
    }
}

/// `[capacity]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// 99 of 100 requests must be answered within this.
    pub p99: Duration,
    /// Failed requests allowed, in thousandths of a percent.
    pub errors: u32,
    /// From this share of the measured limit a warning is given, in thousandths of a percent.
    pub warn_at: u32,
}

impl Config {
    /// The server of that name.
    pub fn server(&self, name: &ServerName) -> Option<&Server> {
        self.servers.iter().find(|server| &server.name == name)
    }

    /// The names of all servers.
    pub fn members(&self) -> BTreeSet<ServerName> {
        self.servers.iter().map(|server| server.name.clone()).collect()
    }

    /// The servers that have `role`, in the file's order.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Server> {
        self.servers
            .iter()
            .filter(move |server| server.roles.contains(&role))
    }

    /// The ports of the fleet-internal listeners.
    pub fn ports(&self) -> Ports {
        Ports::from_base(self.fleet.port)
    }

    /// Where the lease is kept, with the default applied.
    pub fn lease_store(&self) -> LeaseStore {
        self.lease
            .as_ref()
            .map_or(LeaseStore::Single, |lease| lease.store.clone())
    }

    /// How addresses move, when Pontoon's own tier moves them: not at all in a fleet of one.
    pub fn takeover(&self) -> Option<&Addresses> {
        let ip = self.ip.as_ref().filter(|ip| ip.method == AddressMethod::Arp);
        ip.filter(|_| self.servers.len() > 1)
    }

    /// How addresses move, when a provider moves them: not at all in a fleet of one.
    pub fn routing(&self) -> Option<&Addresses> {
        let ip = self.ip.as_ref().filter(|ip| ip.hosted.is_some());
        ip.filter(|_| self.servers.len() > 1)
    }

    /// Where `server`'s edge listens for visitors. An address in `edge.listen` that is another server's is not
    /// for this one, unless addresses move. The default is port 80 of its public addresses, and where addresses move of
    /// those of every edge; without any, port 80 of all addresses.
    /// Empty without the role `edge`.
    pub fn edge_listen(&self, server: &Server) -> Vec<SocketAddr> {
        self.visitors_listen(server, &self.edge.listen, 80)
    }

    /// Where `server`'s edge listens for HTTPS, by the same rules with port 443. Empty without `[edge.tls]`.
    pub fn https_listen(&self, server: &Server) -> Vec<SocketAddr> {
        self.edge
            .tls
            .as_ref()
            .map_or_else(Vec::new, |tls| self.visitors_listen(server, &tls.listen, 443))
    }

    fn visitors_listen(&self, server: &Server, listen: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
        if !server.roles.contains(&Role::Edge) {
            return Vec::new();
        }
        let moves = self.takeover().or(self.routing()).is_some();
        if !listen.is_empty() {
            let of_another = |ip: IpAddr| {
                !moves
                    && self
                        .servers
                        .iter()
                        .any(|other| other.name != server.name && other.has_address(ip))
            };
            return listen
                .iter()
                .copied()
                .filter(|listen| server.has_address(listen.ip()) || !of_another(listen.ip()))
                .collect();
        }
        if server.public.is_empty() {
            return vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)];
        }
        let servers = self.with_role(Role::Edge);
        let here = servers.filter(|other| moves || other.name == server.name);
        let mut all: Vec<SocketAddr> = Vec::new();
        for ip in here.flat_map(|other| &other.public) {
            let address = SocketAddr::new(*ip, port);
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    /// Whether `server` runs an edge process: for visitors, or to hand its loopback application to the edges of
    /// other servers.
    pub fn runs_edge(&self, server: &Server) -> bool {
        self.app.as_ref().is_some_and(|app| {
            server.roles.contains(&Role::Edge)
                || (server.roles.contains(&Role::App) && app.upstream.ip().is_loopback())
        })
    }

    /// Whether `server` runs an SQL proxy: for its application, or to hand its database to the SQL proxies of
    /// other servers.
    pub fn runs_sql(&self, server: &Server) -> bool {
        self.db.as_ref().is_some_and(|db| {
            db.proxy
                && (server.roles.contains(&Role::App) || (server.roles.contains(&Role::Db) && db.is_ours()))
        })
    }

    /// Whether `server` runs a cache proxy: for its application, or before its memcached.
    pub fn runs_cache(&self, server: &Server) -> bool {
        self.cache.is_some() && (server.roles.contains(&Role::App) || server.roles.contains(&Role::Cache))
    }

    /// Whether `server` runs memcached.
    pub fn runs_memcached(&self, server: &Server) -> bool {
        self.cache.is_some() && server.roles.contains(&Role::Cache)
    }

    /// Whether `server` runs a name server.
    pub fn runs_dns(&self, server: &Server) -> bool {
        self.dns.is_some() && server.roles.contains(&Role::Dns)
    }

    /// Whether `server` keeps uploads: where the application writes and reads them.
    pub fn runs_assets(&self, server: &Server) -> bool {
        self.assets.is_some() && server.roles.contains(&Role::App)
    }

    /// The object store of the uploads: what `[assets]` leaves out is the lease store's when that is an object store too.
    pub fn assets_store(&self) -> Option<(&Assets, Option<String>, Option<Credentials>)> {
        let assets = self.assets.as_ref()?;
        let (endpoint, credentials) = match self.lease_store() {
            LeaseStore::S3 {
                endpoint,
                credentials,
                ..
            } => (endpoint, credentials),
            _ => (None, None),
        };
        let endpoint = assets.endpoint.clone().or(endpoint);
        Some((assets, endpoint, assets.credentials.clone().or(credentials)))
    }

    /// Where `server`'s SQL proxy listens for applications: everywhere in `db.listen` on servers with the role
    /// `app`, nowhere on others (their SQL proxy only takes connections from other SQL proxies).
    pub fn sql_listen(&self, server: &Server) -> &[ListenAddress] {
        match &self.db {
            Some(db) if db.proxy && server.roles.contains(&Role::App) => &db.listen,
            _ => &[],
        }
    }

    /// Whether `server` runs a database server that Pontoon looks after.
    pub fn runs_database(&self, server: &Server) -> bool {
        self.db
            .as_ref()
            .is_some_and(|db| db.is_ours() && server.roles.contains(&Role::Db))
    }
}

impl Server {
    /// Whether `ip` is one of its addresses.
    pub fn has_address(&self, ip: IpAddr) -> bool {
        self.private == ip || self.public.contains(&ip)
    }
}

impl Db {
    /// Whether Pontoon looks after the database servers (rather than only forwarding to one).
    pub fn is_ours(&self) -> bool {
        self.engine != Engine::External
    }

    /// The first TCP address that the application dials.
    pub fn listen_tcp(&self) -> Option<SocketAddr> {
        self.listen.iter().find_map(|listen| match listen {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        })
    }

    /// The first Unix socket that the application dials.
    pub fn listen_unix(&self) -> Option<&PathBuf> {
        self.listen.iter().find_map(|listen| match listen {
            ListenAddress::Unix(path) => Some(path),
            ListenAddress::Tcp(_) => None,
        })
    }
}

/// Where the keys of a configuration stood, by key path (`db.reads.split`, `server.b.standby`).
#[derive(Clone, Debug, Default)]
pub struct Places(pub BTreeMap<String, Place>);

/// Where one key stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The key, in bytes.
    pub key: Range<usize>,
    /// The value, in bytes.
    pub value: Range<usize>,
    /// The override that it came from (the ranges are then within its text).
    pub origin: Option<crate::Origin>,
}

impl PartialEq for Places {
    /// Always: places are where things stood, not what they mean.
    fn eq(&self, _: &Places) -> bool {
        true
    }
}

impl Eq for Places {}
