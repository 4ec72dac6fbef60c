//! What was typed: the configuration language, defined once. Serde reads with these types, schemars prints
//! them as JSON schema, and `shape.rs` walks that schema.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use pontoon_fleet::{Engine, Role};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

use crate::model::{AfterWrite, CopyMethod, Durability, Failover, WhenAlone};

/// The JSON schema of `fleet.toml` (draft 2020-12), for editors and for `pontoon schema`.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(File).to_value();
    if let Some(object) = schema.as_object_mut() {
        object.insert("title".to_owned(), "Pontoon's fleet.toml".into());
    }
    schema
}

/// A value and where it stood.
#[derive(Clone, Debug)]
pub(crate) struct At<T>(toml::Spanned<T>);

impl<T> At<T> {
    pub(crate) fn span(&self) -> Range<usize> {
        self.0.span()
    }

    pub(crate) fn get(&self) -> &T {
        self.0.get_ref()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        toml::Spanned::deserialize(deserializer).map(At)
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }

    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: fmt::Display> fmt::Display for At<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

pub(crate) type Text = At<String>;

/// The configuration of a fleet, the same on every server.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The configuration language's version: 1.
    #[expect(
        dead_code,
        reason = "`check::version_error` reads it from the tree, before the rest is looked at"
    )]
    pub version: At<i64>,
    /// What concerns the whole fleet.
    pub fleet: Fleet,
    /// The servers, one `[[server]]` each.
    pub server: Vec<At<Server>>,
    /// What several servers share.
    pub defaults: Option<Defaults>,
    /// Where visitors arrive.
    pub edge: Option<Edge>,
    /// The application that runs on every server with the role `app`.
    pub app: Option<App>,
    /// The database.
    pub db: Option<At<Db>>,
    /// Who may be primary.
    pub lease: Option<At<Lease>>,
    /// The cache on every server with the role `cache`.
    pub cache: Option<Cache>,
    /// Uploads, kept in an object store.
    pub assets: Option<Assets>,
    /// Addresses that move from a lost server to a live one.
    pub ip: Option<At<Ip>>,
    /// DNS for the fleet's zone.
    pub dns: Option<Dns>,
    /// Measured limits, and when to warn.
    pub capacity: Option<Capacity>,
}

/// What concerns the whole fleet.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fleet {
    /// The fleet's name: a-z, 0-9 and '-'.
    pub name: Text,
    /// The names that visitors use; omitted: whatever they ask for.
    pub domains: Option<Vec<Text>>,
    /// The first of three ports between the servers, all mutual TLS. Default 7400.
    pub port: Option<At<i64>>,
}

/// One server of the fleet.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    /// The server's name: a-z, 0-9 and '-'.
    pub name: Text,
    /// Its address inside the fleet.
    pub private: Text,
    /// The addresses that visitors reach it at.
    pub public: Option<Vec<Text>>,
    /// What it does; omitted: everything.
    #[schemars(with = "Option<Vec<Role>>")]
    pub roles: Option<At<Vec<At<Role>>>>,
    /// Where it stands, such as a data centre's name.
    pub zone: Option<Text>,
    /// Whether its edge takes no traffic until another edge is lost. Default false.
    pub standby: Option<At<bool>>,
    /// Its application's share of the requests, beside those of the others. Default 1.
    pub weight: Option<At<i64>>,
    /// How often its public addresses are answered by DNS, beside those of the others. Default 1.
    pub dns_weight: Option<At<i64>>,
    /// How far its copy of the database stays behind the primary on purpose. Default: not at all.
    pub delay: Option<Text>,
    /// The replica that its copy of the database follows, instead of the primary. Default: none.
    pub source: Option<Text>,
}

/// What several parts share.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Defaults {
    /// What all servers share.
    pub server: Option<ServerDefaults>,
}

/// What all servers share unless they say otherwise.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerDefaults {
    /// What they do.
    #[schemars(with = "Option<Vec<Role>>")]
    pub roles: Option<At<Vec<At<Role>>>>,
    /// Where they stand.
    pub zone: Option<Text>,
    /// Whether their edges wait until another edge is lost.
    pub standby: Option<At<bool>>,
}

/// Where visitors arrive.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edge {
    /// Addresses with port. Default: port 80 of each server's public addresses.
    pub listen: Option<At<Vec<Text>>>,
    /// HTTPS for visitors.
    pub tls: Option<At<Tls>>,
    /// Which answers are compressed, and how. Default: none.
    pub compress: Option<At<Compress>>,
    /// Which answers are kept for a while, and how long. Default: none.
    pub cache: Option<At<KeptAnswers>>,
    /// Files of pages for what the edge answers itself, by status ("503"), class ("4xx", "5xx") or "maintenance", at the
    /// same place on every server with an edge. Default: plain text.
    pub errors: Option<At<BTreeMap<String, Text>>>,
    /// What visitors are allowed.
    pub limits: Option<Limits>,
    /// Networks of proxies before the edge, such as a CDN's, whose word on who a visitor is counts. Default: none.
    pub trusted_proxies: Option<At<Vec<Text>>>,
    /// Whether connections from trusted proxies begin with a header of the PROXY protocol. Default false.
    pub proxy_protocol: Option<At<bool>>,
    /// Whether each request gets an id (`X-Request-Id`), unless a trusted proxy gave it one. Default false.
    pub request_id: Option<At<bool>>,
    /// Whether each request is part of a trace (`traceparent`), its own or a new one. Default false.
    pub traceparent: Option<At<bool>>,
    /// Whether answers say how long they took, and where (`Server-Timing`). Default false.
    pub server_timing: Option<At<bool>>,
}

/// Which answers are compressed, and how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Compress {
    /// "zstd", "br" and "gzip"; of those that a visitor likes as much the first is taken. Default: these, so.
    pub codings: Option<At<Vec<Text>>>,
    /// Media types such as "application/json"; "text/*" for all of a kind. Default: texts, scripts, JSON, XML, SVG.
    pub types: Option<At<Vec<Text>>>,
    /// An answer that says it has fewer bytes stays as it is. Default "1KiB".
    pub min: Option<Text>,
}

/// Which answers are kept for a while, and how long.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptAnswers {
    /// The most memory on each edge. Default "64MiB".
    pub memory: Option<Text>,
    /// An answer with more bytes is not kept. Default "1MiB".
    pub largest: Option<Text>,
    /// What the paths begin with whose answers are kept. Default ["/"].
    pub paths: Option<At<Vec<Text>>>,
    /// Nothing is kept for longer, up to "1d". Default "1h".
    pub longest: Option<Text>,
    /// How long an answer is kept that does not say so itself. Default "0s": not at all.
    pub unsaid: Option<Text>,
    /// For how long an answer that is over, and does not say so itself, is shown while a new one is asked for. Default "0s".
    pub stale_while_revalidate: Option<Text>,
    /// For how long an answer that is over, and does not say so itself, is shown in place of an error. Default "0s".
    pub stale_if_error: Option<Text>,
    /// Beginnings of the names of cookies whose visitors the application knows. Default: those of WordPress, and PHPSESSID.
    pub bypass_cookies: Option<At<Vec<Text>>>,
}

/// What visitors are allowed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// The most bytes of a request line; more is answered with 414. Default "8KiB".
    pub request_line: Option<Text>,
    /// The most bytes of a request's head; more is answered with 431. Default "32KiB".
    pub head: Option<Text>,
    /// The most header fields; more are answered with 431. Default 128.
    pub fields: Option<At<i64>>,
    /// The most bytes of a request's body; more is answered with 413. Default: no limit.
    pub body: Option<Text>,
    /// How long a head may take from its first byte to its last; then 408. Default "10s".
    pub head_timeout: Option<Text>,
    /// The longest pause within a body; then 408. Default "30s".
    pub body_timeout: Option<Text>,
    /// The fewest bytes a second of a body, on average and after `body_timeout`; else 408. "0B": as slow as it likes.
    /// Default "512B".
    pub body_rate: Option<Text>,
    /// How long a kept connection may wait for its next request. Default "75s".
    pub idle_timeout: Option<Text>,
    /// How long a visitor may take nothing of an answer. Default "30s".
    pub write_timeout: Option<Text>,
    /// What one client may do; more is answered with 429. Default: no limits.
    pub client: Option<Client>,
}

/// What one client may do.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Client {
    /// Requests under way at the same time. Default: no limit.
    pub requests: Option<At<i64>>,
    /// Requests a second. Default: no limit.
    pub rate: Option<At<i64>>,
    /// Requests that may come at once after a pause. Default: those of a second.
    pub burst: Option<At<i64>>,
    /// Bits of an IPv4 address that make a client. Default 32.
    pub prefix_v4: Option<At<i64>>,
    /// Bits of an IPv6 address that make a client. Default 64.
    pub prefix_v6: Option<At<i64>>,
    /// Networks for which none of this holds, such as "198.51.100.0/24".
    pub exempt: Option<Vec<Text>>,
}

/// HTTPS for visitors.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// Addresses with port. Default: port 443 of each server's public addresses.
    pub listen: Option<At<Vec<Text>>>,
    /// Certificates from files. A visitor gets the one that has the name that it asks for, otherwise the first.
    pub certificates: Option<At<Vec<At<Certificate>>>>,
    /// Certificates from an authority (ACME), which one server orders and all serve.
    pub acme: Option<At<Acme>>,
    /// The oldest version of TLS that is spoken: "1.2" or "1.3". Default "1.2".
    pub min_version: Option<Text>,
    /// Whether plain HTTP is answered with a redirect to HTTPS. Default true.
    pub redirect: Option<At<bool>>,
    /// How long browsers may remember that the site is served over HTTPS only, such as "365d". Default: nothing is said.
    pub hsts: Option<Text>,
}

/// Certificates from an authority that speaks ACME (RFC 8555).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Acme {
    /// The names, each of which gets a certificate of its own. Default: fleet.domains.
    pub names: Option<At<Vec<Text>>>,
    /// Whom the authority writes to about certificates that are about to end.
    pub email: Option<Text>,
    /// The authority's directory. Default: Let's Encrypt.
    pub directory: Option<Text>,
    /// The authorities that the directory's own server is trusted by, PEM. Default: those that the machine trusts.
    pub ca: Option<Text>,
    /// How the names are proved: "http-01", a file on the edges, or "dns-01", records in the zone. Default "http-01".
    pub challenge: Option<Text>,
}

/// A certificate for visitors, from files that are on every server with an edge.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificate {
    /// The certificate, followed by those of the authorities between it and a root, PEM.
    pub certificate: Text,
    /// Its private key, PEM.
    pub key: Text,
    /// An OCSP response (DER) that goes out with it.
    pub ocsp: Option<Text>,
}

/// The application.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct App {
    /// Where it already listens, on its own server.
    pub upstream: Text,
    /// What it speaks: "http/1.1", or "h2c" for HTTP/2 without TLS, as gRPC servers do. Default "http/1.1".
    pub protocol: Option<Text>,
    /// Which server gets a request: "ewma" for the one where the wait is likely to be the shortest,
    /// "least-connections", "round-robin", or "hash" for always the same one by `hash_key`. Default "ewma".
    pub balance: Option<Text>,
    /// By what "hash" tells requests apart: "address", "target", "field:NAME" or "cookie:NAME". Default "address".
    pub hash_key: Option<Text>,
    /// With what header of the PROXY protocol connections to it begin: "v1" or "v2". Default: with none.
    pub proxy_protocol: Option<Text>,
    /// The name of a cookie by which a visitor stays with a server. Default: visitors do not.
    pub sticky_cookie: Option<Text>,
    /// How long a server that came into service takes to its full share. Default "0s".
    pub slow_start: Option<Text>,
    /// When fewer than this share of the servers are in service, all of them get requests. Default "0%": only when none is.
    pub panic: Option<Text>,
    /// When a server whose answers are bad is left out for a while. Default: never.
    pub outliers: Option<Outliers>,
    /// Which servers an edge asks first: "any", "local" (its own, then those in its zone) or "zone". Default "any".
    pub prefer: Option<Text>,
    /// The most requests that one edge has under way on one server. Default: as many as come.
    pub max_in_flight: Option<At<i64>>,
    /// Who waits while every server has as many.
    pub queue: Option<AppQueue>,
    /// How long a server may be silent before and within an answer; then 504. Default "60s".
    pub answer_timeout: Option<Text>,
    /// What is otherwise for some paths.
    pub routes: Option<Vec<At<AppRoute>>>,
    /// How to tell that it works.
    pub health: Option<Health>,
    /// When a request may be tried on another server.
    pub retries: Option<Retries>,
    /// How long a draining server may finish what it began. Default "10s".
    pub drain: Option<Text>,
}

/// When a server whose answers are bad is left out, though its checks are good.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outliers {
    /// So many bad answers in a row: none at all, or a status of 500 and above. Default 5.
    pub failures: Option<At<i64>>,
    /// For how long the first time; each time in a row for so much longer. Default "10s".
    pub eject: Option<Text>,
    /// Never for longer than this. Default "5m".
    pub max_eject: Option<Text>,
    /// The largest share of the servers that may be left out so. Default "50%".
    pub max_share: Option<Text>,
}

/// Who waits while every server has as many requests as it may.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppQueue {
    /// The most requests that wait on one edge; more are answered with 503. Default 1024.
    pub size: Option<At<i64>>,
    /// How long one waits; then 503. Default "5s".
    pub wait: Option<Text>,
}

/// What is otherwise for paths that begin with something.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppRoute {
    /// What they begin with. Of those that match a request the longest counts.
    pub path: Text,
    /// How long a server may be silent.
    pub answer_timeout: Option<Text>,
    /// The most bytes of a request's body.
    pub body: Option<Text>,
}

/// A health check over HTTP.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Health {
    /// The path asked for; omitted: only a TCP connection is made.
    pub path: Option<Text>,
    /// The status that means healthy; omitted: 200 to 399.
    pub expect: Option<At<i64>>,
    /// Between two checks. Default "1s".
    pub interval: Option<Text>,
    /// How long one check may take. Default "1s".
    pub timeout: Option<Text>,
    /// Failed checks in a row after which a server is out. Default 2.
    pub fall: Option<At<i64>>,
    /// Good checks in a row after which it is in again. Default 2.
    pub rise: Option<At<i64>>,
}

/// Retries on another server.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retries {
    /// Methods that may be repeated. Default GET and HEAD.
    pub methods: Option<Vec<Text>>,
    /// Tries beyond the first. Default 1.
    pub max: Option<At<i64>>,
    /// Retries allowed as a share of the requests. Default "20%".
    pub budget: Option<Text>,
}

/// The database.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Db {
    /// Which kind.
    #[schemars(with = "Engine")]
    pub engine: At<Engine>,
    /// Where an external database is, "HOST:PORT"; only with engine = "external".
    pub address: Option<Text>,
    /// Whether the SQL proxy stands in front of the database. Default true.
    pub proxy: Option<At<bool>>,
    /// What the application already dials: "ADDRESS:PORT" or the path of a Unix socket. The SQL proxy listens there.
    pub listen: Option<At<Vec<Text>>>,
    /// The port that the real server moves to. Default 3307 (3306 without the SQL proxy).
    pub server_port: Option<At<i64>>,
    /// The Unix socket that the real server moves to. Default: the first socket in `listen`, with "-server" before ".sock".
    pub server_socket: Option<Text>,
    /// A port on each database server's private address where load balancers ask, over plain HTTP, GET /primary and
    /// GET /replica?max_lag=1s. Default: none.
    pub health_port: Option<At<i64>>,
    /// Who promotes a replica when the primary is lost.
    #[schemars(with = "Option<Failover>")]
    pub failover: Option<At<Failover>>,
    /// When a commit is acknowledged.
    #[schemars(with = "Option<Durability>")]
    pub durability: Option<At<Durability>>,
    /// How many replicas acknowledge a commit with durability = "quorum". Default 1.
    pub acks: Option<At<i64>>,
    /// With durability = "one-copy" and failover = "auto": a replica further behind is not promoted. Default "2s".
    pub max_lag: Option<Text>,
    /// A replica that has transactions which the primary lacks is copied anew by itself, at most once in this time; what was
    /// there is kept under another name. Default: an operator does it.
    pub auto_reclone: Option<Text>,
    /// How a new replica gets its copy: of the primary's files where that is possible and else as a dump ("auto"), of the
    /// files only ("physical"), as a dump only ("logical"). Default "auto".
    #[schemars(with = "Option<CopyMethod>")]
    pub copy: Option<At<CopyMethod>>,
    /// What a primary without a replica does.
    #[schemars(with = "Option<WhenAlone>")]
    pub when_alone: Option<At<WhenAlone>>,
    /// Whether replicas answer reads.
    pub reads: Option<Reads>,
    /// How long a new connection waits for a primary before it is refused. Default "10s".
    pub hold_writes: Option<Text>,
    /// Copies of the database in an object store.
    pub backup: Option<At<Backup>>,
}

/// Copies of the database in an object store.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backup {
    /// The bucket.
    pub bucket: Text,
    /// What the names of the objects begin with. Default: the fleet's name.
    pub prefix: Option<Text>,
    /// The object store's URL. Default: that of the lease.
    pub endpoint: Option<Text>,
    /// Where the keys are. Default: those of the lease.
    pub credentials: Option<At<Secret>>,
    /// How often a whole copy is made. Default "1d".
    pub every: Option<Text>,
    /// For how long any moment can be restored. Default "14d".
    pub keep: Option<Text>,
    /// How often the growing binary log is archived. Default "5s".
    pub archive_every: Option<Text>,
    /// The most bytes a second that a copy may take, such as "50MiB". Default: no limit.
    pub rate: Option<Text>,
}

/// Reads on replicas.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reads {
    /// Whether reads go to replicas. Default false.
    pub split: Option<At<bool>>,
    /// A replica further behind answers no reads. Default "1s".
    pub max_lag: Option<Text>,
    /// Who sees a write at once. Default "session".
    #[schemars(with = "Option<AfterWrite>")]
    pub after_write: Option<At<AfterWrite>>,
}

/// Where the lease is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StoreKind {
    Single,
    S3,
    Etcd,
}

/// Who may be primary.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lease {
    /// Where the lease is kept: a file on one server, an object store, or etcd.
    #[schemars(with = "StoreKind")]
    pub store: At<StoreKind>,
    /// The object store's bucket.
    pub bucket: Option<Text>,
    /// The object store's URL.
    pub endpoint: Option<Text>,
    /// The members of an etcd cluster.
    pub endpoints: Option<At<Vec<Text>>>,
    /// The authorities that signed etcd's certificates, PEM. Default: those that the machine trusts.
    pub ca: Option<Text>,
    /// The certificate that etcd is shown, followed by those of the authorities between it and a root, PEM.
    pub certificate: Option<Text>,
    /// Its private key, PEM, without a password.
    pub key: Option<Text>,
    /// Where the keys are; never the keys themselves.
    pub credentials: Option<At<Secret>>,
    /// How long a lease holds without being renewed. Default "15s" with store = "s3", otherwise "6s".
    pub ttl: Option<Text>,
}

/// Where a secret is: exactly one of the three. Never the secret itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Secret {
    /// The name of a systemd credential.
    pub credential: Option<Text>,
    /// The absolute path of a file.
    pub file: Option<Text>,
    /// The name of an environment variable.
    pub env: Option<Text>,
}

/// The cache.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cache {
    /// What the application already dials: an address and port. Default "127.0.0.1:11211".
    pub listen: Option<Text>,
    /// A Unix socket that the application dials beside it.
    pub socket: Option<Text>,
    /// Memory on each server with the role, such as "512MiB".
    pub memory: Text,
    /// How keys are spread: "ketama" (as libmemcached's ketama_weighted), "twemproxy" or "rendezvous". Default "ketama".
    pub placement: Option<Text>,
    /// What stands for each server in the ring, by its name: what the application's own list of servers said.
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, Text>,
    /// Keys that begin so are filled by one client, for which the others wait up to 100 ms.
    pub fill_once: Option<Vec<Text>>,
    /// How many servers hold each item. Default 1.
    pub copies: Option<At<i64>>,
}

/// Uploads.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Assets {
    /// The folder that the application writes uploads to.
    pub local: Text,
    /// The path that visitors read them under.
    pub url: Text,
    /// Whether the edge hands them out itself. Default: false.
    pub serve: Option<At<bool>>,
    /// Paths below `url` that the application hands out all the same.
    pub private: Option<Vec<Text>>,
    /// The bucket.
    pub bucket: Text,
    /// The object store's URL. Default: that of the lease.
    pub endpoint: Option<Text>,
    /// Where the keys are. Default: those of the lease.
    pub credentials: Option<At<Secret>>,
}

/// How an address moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum IpMethod {
    Arp,
    Exec,
    HetznerCloud,
    HetznerRobot,
    #[serde(rename = "digitalocean")]
    DigitalOcean,
    Ovh,
    None,
}

/// Addresses that move.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ip {
    /// How: announced on the local network, by a provider's interface, by a program of yours, or not at all.
    #[schemars(with = "IpMethod")]
    pub method: At<IpMethod>,
    /// The program, with method = "exec".
    pub exec: Option<Text>,
    /// How long a move may take, where a provider moves them. Default "3m".
    pub timeout: Option<Text>,
    /// Where the provider's token or password is.
    pub credentials: Option<At<Secret>>,
    /// The URL of the provider's interface. Default: the provider's usual one.
    pub endpoint: Option<Text>,
    /// What the provider calls each server.
    pub targets: Option<At<BTreeMap<String, Text>>>,
    /// Whether servers are watched twice as closely: their addresses move within 0.2 s in place of 0.5 s.
    pub fast: Option<At<bool>>,
    /// How long a server must have been well before its addresses go home. Default "60s".
    pub home_after: Option<Text>,
    /// The router of the public network, which is asked whose an address is. Default: that of the default route.
    pub gateway: Option<Text>,
    /// The network interface of the public addresses. Default: the one in whose network they are.
    pub interface: Option<Text>,
}

/// DNS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dns {
    /// The zone that is answered for.
    pub zone: Text,
    /// Its records, a zone file at the same place on every server. Default: a zone of the names below and nothing else.
    pub file: Option<Text>,
    /// The names that stand for the edges' public addresses. Default: those of fleet.domains that are in the zone.
    pub names: Option<At<Vec<Text>>>,
    /// How long others may remember an address. Default "60s".
    pub ttl: Option<Text>,
    /// Addresses with port, UDP and TCP. Default: port 53 of all addresses.
    pub listen: Option<At<Vec<Text>>>,
    /// Other name servers that fetch the zone.
    pub transfer: Option<DnsTransfer>,
    /// Signs the zone (DNSSEC).
    pub dnssec: Option<Dnssec>,
    /// A name server elsewhere that is told of the names' addresses.
    pub update: Option<DnsUpdate>,
    /// A program that tells another name server of them.
    pub hook: Option<DnsHook>,
}

/// How the zone is signed (DNSSEC).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dnssec {
    /// For how long signatures are good. Default "14d".
    pub lifetime: Option<Text>,
}

/// A name server elsewhere that is told of the names' addresses by dynamic updates.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsUpdate {
    /// The zone's primary, with a port if it is not 53.
    pub server: Text,
    /// The file with the key that it has too, as tsig-keygen prints it, at the same place on every server.
    pub key_file: Text,
}

/// A program that tells another name server of the names' addresses.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsHook {
    /// The program, at the same place on every server.
    pub exec: Text,
    /// For how long it may run. Default "30s".
    pub timeout: Option<Text>,
}

/// Other name servers that fetch the zone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsTransfer {
    /// The file with the keys that they have too, as tsig-keygen prints it, at the same place on every server.
    pub key_file: Text,
    /// Where they are told of changes: addresses, with a port if it is not 53.
    pub to: At<Vec<Text>>,
    /// The addresses from which they fetch the zone. Default: those of to.
    pub from: Option<At<Vec<Text>>>,
}

/// Measured limits.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Capacity {
    /// What a good request is.
    pub objective: Objective,
    /// From this share of the measured limit a warning is given. Default "70%".
    pub warn_at: Option<Text>,
}

/// What a good request is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Objective {
    /// 99 of 100 requests must be answered within this.
    pub p99: Text,
    /// Failed requests allowed. Default "0.1%".
    pub errors: Option<Text>,
}
