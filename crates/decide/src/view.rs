//! From configuration and observations to the [`FleetView`].

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use pontoon_config::{App, Config, Credentials, Db, Dns, Tls};
use pontoon_fleet::{
    AfterWrite, AppView, AssetsView, BootMoment, CacheList, CacheView, CertificateFiles, DatabaseServerView,
    DnsView, DnssecView, DrainBook, EdgeAnswers, Engine, Epoch, FleetView, HttpsView, KeyPlace, LeaseRecord,
    ListenAddress, Maintenance, Proofs, ReadsView, Revision, Role, ServerName, ServerReport, ServerState,
    ServerView, SqlView, TakeoverView, Tier, TierDetail, TransferView,
};
use pontoon_gtid::{Dialect, Floor};

use crate::addresses::Addresses;

/// The latest report of a server, and how long ago it came in by the receiver's own clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// What it said.
    pub report: ServerReport,
    /// How long ago.
    pub age: Duration,
}

/// Everything a view is made of.
#[derive(Clone, Copy, Debug)]
pub struct ViewInputs<'a> {
    /// The configuration that is active.
    pub config: &'a Config,
    /// Its revision.
    pub revision: Revision,
    /// The highest epoch this agent has ever seen. An older lease names nobody.
    pub epoch: Epoch,
    /// Of the view to be made.
    pub serial: u64,
    /// Who makes it.
    pub me: &'a ServerName,
    /// What the servers said, this one included.
    pub reports: &'a BTreeMap<ServerName, Observed>,
    /// Who is drained.
    pub drains: &'a DrainBook,
    /// What visitors get in place of the application.
    pub maintenance: Option<&'a Maintenance>,
    /// The lease as last read.
    pub lease: Option<&'a LeaseRecord>,
    /// A server whose report is older is unreachable.
    pub unreachable_after: Duration,
    /// The edges' public addresses, as decided.
    pub addresses: &'a Addresses,
    /// No write after this moment, where the lease is limited in time.
    pub write_until: Option<&'a BootMoment>,
    /// This server's database does not take writes; if it is the lease's leader, not yet.
    pub opening: bool,
    /// The leader of this epoch is about to hand over: nothing new is begun until that moment.
    pub holding: Option<(Epoch, &'a BootMoment)>,
    /// What authorities issued for the names of `[edge.tls.acme]`.
    pub issued: &'a Issued,
    /// The cache servers, as the keeper said last.
    pub cache: Option<&'a CacheList>,
}

/// Certificates of authorities, as this server has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issued {
    /// Their files, in the order of the configuration's names.
    pub certificates: Vec<CertificateFiles>,
    /// What edges answer challenges with; see [`HttpsView::acme_thumbprint`].
    pub thumbprint: Option<String>,
    /// What the zone holds for them.
    pub proofs: Proofs,
}

/// Makes the view. What it rests on:
///
/// * every server of the configuration is in it, whether it answers or not: unreachable is not removed;
/// * the primary comes from the lease and from nothing else: a database that says it is primary is not believed,
///   and a primary whose agent is silent stays the primary (an agent's death is not a database's, P5);
/// * a lease of an older epoch, or one whose leader has no database, names nobody (P2);
/// * a new leader names itself only once its database takes writes. Others name it from the lease alone, and its relay
///   refuses them until then;
/// * drained outranks unreachable: a server that an operator took out gets no request while its agent is down.
pub fn compose(inputs: &ViewInputs<'_>) -> FleetView {
    let config = inputs.config;
    let epoch = inputs
        .lease
        .map_or(inputs.epoch, |lease| lease.epoch.max(inputs.epoch));
    FleetView {
        fleet: config.fleet.name.clone(),
        revision: inputs.revision,
        epoch,
        serial: inputs.serial,
        servers: config
            .servers
            .iter()
            .map(|server| ServerView {
                name: server.name.clone(),
                private: server.private,
                public: server.public.clone(),
                roles: server.roles.clone(),
                zone: server.zone.clone(),
                standby: server.standby,
                state: state(inputs, &server.name),
                ports: config.ports(),
                edge_listen: config.edge_listen(server),
                weight: server.weight,
                drained_at: inputs.drains.drained_at(&server.name),
            })
            .collect(),
        app: config.app.as_ref().map(app_view),
        sql: config
            .db
            .as_ref()
            .filter(|db| db.proxy && db.is_ours())
            .map(|db| sql_view(inputs, db, epoch)),
        https: config.edge.tls.as_ref().map(|tls| https_view(inputs, tls)),
        limits: config.edge.limits.clone(),
        front: config.edge.front.clone(),
        answers: EdgeAnswers {
            maintenance: inputs.maintenance.cloned(),
            ..config.edge.answers.clone()
        },
        dns: config.dns.as_ref().map(|dns| DnsView {
            proofs: inputs.issued.proofs.clone(),
            ..dns_view(dns)
        }),
        addresses: inputs.addresses.views().to_vec(),
        addresses_changed: inputs.addresses.changed(),
        assets: assets_view(config),
        takeover: config.takeover().map(|ip| TakeoverView {
            fast: ip.fast,
            home_after: ip.home_after,
            gateway: ip.gateway,
            interface: ip.interface.clone(),
        }),
        routed: config.routing().is_some(),
        cache: config.cache.as_ref().map(|cache| CacheView {
            listen: std::iter::once(ListenAddress::Tcp(cache.listen))
                .chain(cache.socket.clone().map(ListenAddress::Unix))
                .collect(),
            memory_bytes: cache.memory_bytes,
            fill_once: cache.fill_once.clone(),
            list: inputs.cache.cloned(),
        }),
    }
}

fn https_view(inputs: &ViewInputs<'_>, tls: &Tls) -> HttpsView {
    let config = inputs.config;
    let edges = config.with_role(Role::Edge);
    // An operator's own come first: they are there whatever an authority does.
    let mut certificates = tls.certificates.clone();
    certificates.extend(inputs.issued.certificates.iter().cloned());
    HttpsView {
        listen: edges
            .map(|server| (server.name.clone(), config.https_listen(server)))
            .collect(),
        certificates,
        min_version: tls.min_version,
        redirect: tls.redirect,
        hsts_seconds: tls.hsts.map(|span| span.as_secs()),
        acme_thumbprint: tls.acme.as_ref().and(inputs.issued.thumbprint.clone()),
    }
}

fn state(inputs: &ViewInputs<'_>, server: &ServerName) -> ServerState {
    if inputs.drains.drained_at(server).is_some() {
        ServerState::Draining
    } else if server == inputs.me || fresh(inputs, server).is_some() {
        ServerState::Up
    } else {
        ServerState::Unreachable
    }
}

/// The server's report, unless it is missing, too old, or another server's.
fn fresh<'a>(inputs: &ViewInputs<'a>, server: &ServerName) -> Option<&'a ServerReport> {
    let observed = inputs.reports.get(server)?;
    let fresh = observed.age <= inputs.unreachable_after && &observed.report.server == server;
    fresh.then_some(&observed.report)
}

fn app_view(app: &App) -> AppView {
    AppView {
        upstream: app.upstream,
        protocol: app.protocol,
        balance: app.balance,
        health: app.health.clone(),
        retries: app.retries.clone(),
        drain: app.drain,
        dispatch: app.dispatch.clone(),
    }
}

/// While not all addresses are up others may remember them only for so long: what is not up may be soon, and what is up
/// may follow.
const DEGRADED_TTL_SECONDS: u32 = 20;

/// What the configuration says of uploads.
fn assets_view(config: &Config) -> Option<AssetsView> {
    let (assets, endpoint, credentials) = config.assets_store()?;
    Some(AssetsView {
        local: assets.local.clone(),
        url: assets.url.clone(),
        serve: assets.serve,
        private: assets.private.clone(),
        bucket: assets.bucket.clone(),
        endpoint,
        keys: credentials.map(|credentials| match credentials {
            Credentials::Systemd(name) => KeyPlace::Credential(name),
            Credentials::File(path) => KeyPlace::File(path),
            Credentials::Env(name) => KeyPlace::Env(name),
        }),
    })
}

/// What the configuration says of DNS. What authorities look for there is not in it.
pub fn dns_view(dns: &Dns) -> DnsView {
    let ttl_seconds = u32::try_from(dns.ttl.as_secs()).unwrap_or(u32::MAX);
    DnsView {
        zone: dns.zone.clone(),
        file: dns.file.clone(),
        names: dns.names.clone(),
        ttl_seconds,
        ttl_degraded_seconds: ttl_seconds.min(DEGRADED_TTL_SECONDS),
        listen: dns.listeners(),
        transfer: dns.transfer.as_ref().map(|transfer| TransferView {
            key_file: transfer.key_file.clone(),
            to: transfer.to.clone(),
            from: transfer.from.clone(),
        }),
        dnssec: dns.dnssec.as_ref().map(|dnssec| DnssecView {
            lifetime_seconds: u32::try_from(dnssec.lifetime.as_secs()).unwrap_or(u32::MAX),
        }),
        proofs: Proofs::default(),
    }
}

fn sql_view(inputs: &ViewInputs<'_>, db: &Db, epoch: Epoch) -> SqlView {
    let config = inputs.config;
    let leader = inputs
        .lease
        .filter(|lease| lease.epoch == epoch)
        .map(|lease| &lease.leader);
    let primary = leader
        .filter(|leader| {
            config
                .server(leader)
                .is_some_and(|server| server.roles.contains(&Role::Db))
        })
        .filter(|leader| !(inputs.opening && *leader == inputs.me))
        .cloned();
    let servers = config
        .with_role(Role::Db)
        // Nobody reads what is old on purpose.
        .filter(|server| server.delay.is_none() || Some(&server.name) == leader)
        .map(|server| {
            let database = fresh(inputs, &server.name).and_then(|report| report.database.as_ref());
            DatabaseServerView {
                server: server.name.clone(),
                lag_ms: database.and_then(|database| database.lag_ms),
                position: database
                    .map(|database| database.position.clone())
                    .filter(|text| !text.is_empty()),
            }
        })
        .collect();
    SqlView {
        engine: db.engine,
        listen: db.listen.clone(),
        backend_tcp: SocketAddr::from((Ipv4Addr::LOCALHOST, db.server_port)),
        backend_socket: db.server_socket.clone(),
        primary,
        servers,
        hold_writes: db.hold_writes,
        write_until: inputs.write_until.cloned(),
        holding: inputs
            .holding
            .filter(|(held, _)| *held == epoch)
            .map(|(_, until)| until.clone()),
        reads: db.reads.map(|reads| ReadsView {
            split: reads.split,
            max_lag: reads.max_lag,
            after_write: match reads.after_write {
                pontoon_config::AfterWrite::Session if everybody_tells(inputs) => AfterWrite::Session,
                pontoon_config::AfterWrite::Session | pontoon_config::AfterWrite::FleetWide => {
                    AfterWrite::FleetWide
                }
            },
            heard: reads.split.then(|| heard(inputs, db, epoch)).flatten(),
        }),
    }
}

/// Whether every other server with the application says that it spreads reads too, and so tells what is written through
/// it. Until then, while a change of the configuration is on its way, everybody asks the primary: a write through a
/// server that passes it through would be seen by nobody else. What a server said last counts, however long ago: a
/// dead agent does not change what the tiers do (P5).
fn everybody_tells(inputs: &ViewInputs<'_>) -> bool {
    let config = inputs.config;
    let mut others = config
        .with_role(Role::App)
        .filter(|server| &server.name != inputs.me);
    others.all(|server| {
        let observed = inputs.reports.get(&server.name);
        let report = observed
            .map(|observed| &observed.report)
            .filter(|report| report.server == server.name);
        let tier = |tier| {
            report
                .and_then(|report| report.tier(tier))
                .map(|report| &report.detail)
        };
        let watches = matches!(tier(Tier::Sql), Some(TierDetail::Sql(sql)) if sql.spread.is_some());
        let carries = matches!(tier(Tier::Edge), Some(TierDetail::Edge(edge)) if edge.carries_floors);
        watches && (carries || config.app.is_none())
    })
}

/// What the other servers' SQL proxies reported as their floors, in one. Floors of an older epoch say nothing: what is
/// left of their writes is in the new primary's beginning. This server's proxy knows its own better.
fn heard(inputs: &ViewInputs<'_>, db: &Db, epoch: Epoch) -> Option<String> {
    let dialect = match db.engine {
        Engine::Mariadb => Dialect::MariaDb,
        Engine::Mysql => Dialect::MySql,
        Engine::External => return None,
    };
    let others = inputs.config.servers.iter().map(|server| &server.name);
    let mut newest: Option<Floor> = None;
    for server in others.filter(|name| *name != inputs.me) {
        let tier = fresh(inputs, server).and_then(|report| report.tier(Tier::Sql));
        let Some(TierDetail::Sql(sql)) = tier.map(|tier| &tier.detail) else {
            continue;
        };
        let floor = sql
            .floor
            .as_deref()
            .and_then(|text| Floor::parse(dialect, text).ok());
        let Some(floor) = floor.filter(|floor| floor.epoch == epoch) else {
            continue;
        };
        match &mut newest {
            Some(newest) => newest.merge(&floor),
            None => newest = Some(floor),
        }
    }
    newest.map(|floor| floor.to_string())
}
