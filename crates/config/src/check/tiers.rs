//! Everything that is neither a server nor its edge: application, database, lease, uploads, addresses, DNS, capacity.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_fleet::{AppProtocol, BalanceRule, Code, Engine, HealthCheck, ListenAddress, RetryPolicy};

use super::Check;
use crate::model::{
    AddressMethod, Addresses, AfterWrite, App, Assets, Backup, Capacity, ClientCertificate, Db, Durability,
    EtcdTls, Hosted, Lease, LeaseStore, Reads,
};
use crate::raw::{self, At, IpMethod, StoreKind, Text};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// The primary is asked a few times a second: how far a replica is behind is not known better than that.
const LEAST_MAX_LAG: Duration = Duration::from_millis(250);

impl Check<'_> {
    pub(super) fn app(&mut self, app: &raw::App) -> Option<App> {
        let upstream = self.socket("app.upstream", &app.upstream);
        let protocol = match app.protocol.as_ref().map(|text| text.get().as_str()) {
            None | Some("http/1.1") => Some(AppProtocol::Http1),
            Some("h2c") => Some(AppProtocol::H2c),
            Some(_) => None,
        };
        if let (None, Some(text)) = (protocol, &app.protocol) {
            self.bad("app.protocol", text, "is neither \"http/1.1\" nor \"h2c\"");
        }
        let balance = match &app.balance {
            None => Some(BalanceRule::default()),
            Some(text) => {
                let rule = BalanceRule::ALL
                    .into_iter()
                    .find(|rule| rule.as_str() == text.get());
                if rule.is_none() {
                    self.bad(
                        "app.balance",
                        text,
                        "is none of \"ewma\", \"least-connections\", \"round-robin\", \"hash\"",
                    );
                }
                rule
            }
        };
        let health = self.health(app.health.as_ref());
        let retries = self.retries(app.retries.as_ref());
        let drain = self.duration(
            "app.drain",
            app.drain.as_ref(),
            10 * SECOND,
            Duration::ZERO..=HOUR,
        );
        let dispatch = self.dispatch(app);
        if upstream.is_some_and(|upstream| upstream.ip().is_multicast()) {
            self.bad("app.upstream", &app.upstream, "is a multicast address");
            return None;
        }
        Some(App {
            upstream: upstream?,
            protocol: protocol?,
            balance: balance?,
            health: health?,
            retries: retries?,
            drain: drain?,
            dispatch: dispatch?,
        })
    }

    fn health(&mut self, health: Option<&raw::Health>) -> Option<HealthCheck> {
        let get = |f: fn(&raw::Health) -> Option<&Text>| health.and_then(f);
        let path = get(|h| h.path.as_ref()).map(|path| self.url_path("app.health.path", path));
        let expect = health.and_then(|h| h.expect.as_ref());
        let expect_status =
            expect.map(|status| self.number("app.health.expect", Some(status), 200, 100..=599));
        let interval = self.duration(
            "app.health.interval",
            get(|h| h.interval.as_ref()),
            SECOND,
            10 * MS..=HOUR,
        );
        let timeout = self.duration(
            "app.health.timeout",
            get(|h| h.timeout.as_ref()),
            SECOND,
            10 * MS..=HOUR,
        );
        let fall = self.number(
            "app.health.fall",
            health.and_then(|h| h.fall.as_ref()),
            2,
            1..=100,
        );
        let rise = self.number(
            "app.health.rise",
            health.and_then(|h| h.rise.as_ref()),
            2,
            1..=100,
        );
        if let (Some(expect), None) = (expect, &path) {
            let message = "`app.health.expect` without a `path`: only a TCP connection would be made";
            self.wrong(Code::C006, message, expect.span(), "add path = \"/\"");
        }
        let path = match path {
            Some(path) => Some(path?),
            None => None,
        };
        let expect = match expect_status {
            Some(status) => Some(status?),
            None => None,
        };
        Some(HealthCheck {
            path,
            expect,
            interval: interval?,
            timeout: timeout?,
            fall: fall?,
            rise: rise?,
        })
    }

    fn retries(&mut self, retries: Option<&raw::Retries>) -> Option<RetryPolicy> {
        let mut methods = vec!["GET".to_owned(), "HEAD".to_owned()];
        if let Some(typed) = retries.and_then(|retries| retries.methods.as_ref()) {
            methods.clear();
            for method in typed {
                // RFC 9110 section 9.2.2: what may be repeated without asking is idempotent.
                if !["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"].contains(&method.get().as_str()) {
                    let message = format!(
                        "`app.retries.methods`: {:?} cannot be repeated safely",
                        method.get()
                    );
                    self.wrong(
                        Code::C002,
                        message,
                        method.span(),
                        "use GET, HEAD, OPTIONS, TRACE, PUT or DELETE",
                    );
                } else if methods.contains(method.get()) {
                    let message = format!("`app.retries.methods` has {:?} twice", method.get());
                    self.wrong(Code::C005, message, method.span(), "");
                }
                methods.push(method.get().clone());
            }
        }
        let max = self.number("app.retries.max", retries.and_then(|r| r.max.as_ref()), 1, 0..=10);
        let budget = self.share(
            "app.retries.budget",
            retries.and_then(|r| r.budget.as_ref()),
            20_000,
        );
        Some(RetryPolicy {
            methods,
            max: max?,
            budget: budget?,
        })
    }

    pub(super) fn db(&mut self, typed: &At<raw::Db>) -> Option<Db> {
        let span = self.first_line(typed.span());
        let typed = typed.get();
        let engine = *typed.engine.get();
        let proxy = typed.proxy.as_ref().is_none_or(|proxy| *proxy.get());
        let address = match (engine, &typed.address) {
            (Engine::External, Some(address)) => self.host_port("db.address", address).map(Some),
            (Engine::External, None) => {
                let hint = "say where it is: address = \"HOST:PORT\"";
                self.wrong(Code::C003, "`db.address` is missing", typed.engine.span(), hint);
                None
            }
            (_, Some(address)) => {
                let message = format!(
                    "`db.address` is only for engine = \"external\", and it is {:?}",
                    engine.as_str()
                );
                self.wrong(Code::C006, message, address.span(), "leave it out");
                None
            }
            (_, None) => Some(None),
        };
        let listen = self.db_listen(typed, proxy, span);
        let default_port = if proxy { 3307 } else { 3306 };
        let server_port = self.number(
            "db.server_port",
            typed.server_port.as_ref(),
            default_port,
            1..=65535,
        );
        let health_port = match &typed.health_port {
            Some(port) => self.number("db.health_port", Some(port), 0, 1..=65535).map(Some),
            None => Some(None),
        };
        let reads = match &typed.reads {
            Some(reads) => self.reads(reads, proxy).map(Some),
            None => Some(None),
        };
        let hold_writes = self.duration(
            "db.hold_writes",
            typed.hold_writes.as_ref(),
            10 * SECOND,
            Duration::ZERO..=HOUR,
        );
        let backup = match &typed.backup {
            Some(backup) => self.backup(backup, engine).map(Some),
            None => Some(None),
        };
        let durability = typed.durability.as_ref().map(|value| *value.get());
        let (acks, max_lag) = self.worth(typed, durability);
        let auto_reclone = match &typed.auto_reclone {
            Some(_) => self
                .duration(
                    "db.auto_reclone",
                    typed.auto_reclone.as_ref(),
                    DAY,
                    HOUR / 6..=30 * DAY,
                )
                .map(Some),
            None => Some(None),
        };
        let listen = listen?;
        let server_socket = self.server_socket(typed.server_socket.as_ref(), &listen);
        Some(Db {
            engine,
            address: address?,
            proxy,
            listen,
            server_port: server_port?,
            server_socket: server_socket?,
            health_port: health_port?,
            failover: typed.failover.as_ref().map(|value| *value.get()),
            durability,
            acks: acks?,
            max_lag: max_lag?,
            auto_reclone: auto_reclone?,
            copy: typed.copy.as_ref().map(|value| *value.get()),
            when_alone: typed.when_alone.as_ref().map(|value| *value.get()),
            reads: reads?,
            hold_writes: hold_writes?,
            backup: backup?,
        })
    }

    fn backup(&mut self, typed: &At<raw::Backup>, engine: Engine) -> Option<Backup> {
        let span = self.first_line(typed.span());
        let typed = typed.get();
        if engine == Engine::External {
            let message =
                "`db.backup` is for databases that Pontoon looks after, and this one is \"external\"";
            self.wrong(
                Code::C006,
                message,
                span,
                "whoever runs that database backs it up",
            );
            return None;
        }
        let bucket = self.bucket("db.backup.bucket", &typed.bucket);
        let prefix = match &typed.prefix {
            Some(prefix) if !is_prefix(prefix.get()) => self.none(
                "db.backup.prefix",
                prefix,
                "must be words of letters, digits, '.', '-' and '_', with '/' between them",
            ),
            Some(prefix) => Some(Some(prefix.get().clone())),
            None => Some(None),
        };
        let endpoint = match &typed.endpoint {
            Some(endpoint) => self.url("db.backup.endpoint", endpoint).map(Some),
            None => Some(None),
        };
        let credentials = match &typed.credentials {
            Some(secret) => self.credentials("db.backup.credentials", secret).map(Some),
            None => Some(None),
        };
        let every = self.duration(
            "db.backup.every",
            typed.every.as_ref(),
            DAY,
            60 * SECOND..=30 * DAY,
        );
        let keep = self.duration("db.backup.keep", typed.keep.as_ref(), 14 * DAY, HOUR..=3650 * DAY);
        let archive_every = self.duration(
            "db.backup.archive_every",
            typed.archive_every.as_ref(),
            5 * SECOND,
            SECOND..=HOUR,
        );
        let rate = match &typed.rate {
            Some(rate) => self.bytes("db.backup.rate", rate, 64 << 10).map(Some),
            None => Some(None),
        };
        Some(Backup {
            bucket: bucket?,
            prefix: prefix?,
            endpoint: endpoint?,
            credentials: credentials?,
            every: every?,
            keep: keep?,
            archive_every: archive_every?,
            rate: rate?,
        })
    }

    /// What belongs to one kind of durability only.
    fn worth(&mut self, typed: &raw::Db, durability: Option<Durability>) -> (Option<u8>, Option<Duration>) {
        if let Some(acks) = typed
            .acks
            .as_ref()
            .filter(|_| durability != Some(Durability::Quorum))
        {
            let message = "`db.acks` is only for durability = \"quorum\"";
            self.wrong(Code::C006, message, acks.span(), "with \"two-copies\" it is one");
        }
        if let Some(max_lag) = typed
            .max_lag
            .as_ref()
            .filter(|_| durability != Some(Durability::OneCopy))
        {
            let message = "`db.max_lag` is only for durability = \"one-copy\"";
            let hint =
                "otherwise nothing is lost however far behind a replica is; for reads it is db.reads.max_lag";
            self.wrong(Code::C006, message, max_lag.span(), hint);
        }
        (
            self.number("db.acks", typed.acks.as_ref(), 1, 1..=16),
            self.duration("db.max_lag", typed.max_lag.as_ref(), 2 * SECOND, 100 * MS..=HOUR),
        )
    }

    fn db_listen(
        &mut self,
        typed: &raw::Db,
        proxy: bool,
        db: std::ops::Range<usize>,
    ) -> Option<Vec<ListenAddress>> {
        let Some(listen) = typed.listen.as_ref().filter(|listen| !listen.get().is_empty()) else {
            if !proxy {
                return Some(Vec::new());
            }
            let span = typed.listen.as_ref().map_or(db, At::span);
            let hint = "say what the application already dials, such as [\"127.0.0.1:3306\"]";
            self.wrong(Code::C003, "`db.listen` is missing", span, hint);
            return None;
        };
        if !proxy {
            let message = "`db.listen` is where the SQL proxy listens, and `db.proxy` is off";
            self.wrong(Code::C006, message, listen.span(), "leave one of them out");
            return None;
        }
        let mut seen = BTreeSet::new();
        let mut good = true;
        for text in listen.get() {
            let address = match self.read::<ListenAddress>("db.listen", text) {
                Some(ListenAddress::Tcp(address)) if address.port() == 0 => {
                    self.none("db.listen", text, "port 0 is none")
                }
                Some(ListenAddress::Unix(_)) => self.path("db.listen", text).map(ListenAddress::Unix),
                other => other,
            };
            match address {
                Some(address) if seen.contains(&address) => {
                    self.wrong(
                        Code::C005,
                        format!("`db.listen` has {address} twice"),
                        text.span(),
                        "",
                    );
                    good = false;
                }
                Some(address) => {
                    seen.insert(address);
                }
                None => good = false,
            }
        }
        good.then(|| {
            listen
                .get()
                .iter()
                .filter_map(|text| text.get().parse().ok())
                .collect()
        })
    }

    fn server_socket(&mut self, typed: Option<&Text>, listen: &[ListenAddress]) -> Option<Option<PathBuf>> {
        let Some(text) = typed else {
            let first = listen.iter().find_map(|listen| match listen {
                ListenAddress::Unix(path) => Some(beside(path)),
                ListenAddress::Tcp(_) => None,
            });
            return Some(first);
        };
        let path = self.path("db.server_socket", text)?;
        if text.get().len() > 107 {
            return self.none(
                "db.server_socket",
                text,
                "is too long for a Unix socket: 107 bytes at most",
            );
        }
        if listen.contains(&ListenAddress::Unix(path.clone())) {
            let message = "`db.server_socket` is also in `db.listen`: the SQL proxy and the database cannot both have it";
            self.wrong(
                Code::C005,
                message,
                text.span(),
                "the database moves to another path",
            );
            return None;
        }
        Some(Some(path))
    }

    fn reads(&mut self, reads: &raw::Reads, proxy: bool) -> Option<Reads> {
        if let Some(split) = reads.split.as_ref().filter(|split| *split.get() && !proxy) {
            let message = "`db.reads.split` is done by the SQL proxy, and `db.proxy` is off";
            let hint = "leave one of them out; your own proxy can ask at `db.health_port` which replica to read from";
            self.wrong(Code::C006, message, split.span(), hint);
            return None;
        }
        let max_lag = self.duration(
            "db.reads.max_lag",
            reads.max_lag.as_ref(),
            SECOND,
            LEAST_MAX_LAG..=HOUR,
        );
        Some(Reads {
            split: reads.split.as_ref().is_some_and(|split| *split.get()),
            max_lag: max_lag?,
            after_write: reads
                .after_write
                .as_ref()
                .map_or(AfterWrite::Session, |value| *value.get()),
        })
    }

    pub(super) fn lease(&mut self, typed: &At<raw::Lease>) -> Option<Lease> {
        let span = self.first_line(typed.span());
        let typed = typed.get();
        let kind = *typed.store.get();
        let misplaced = |check: &mut Self, key: &str, place: Option<std::ops::Range<usize>>, only: &str| {
            if let Some(place) = place {
                let message = format!("`lease.{key}` is only for store = {only}");
                check.wrong(Code::C006, message, place, "leave it out");
            }
        };
        if kind != StoreKind::S3 {
            misplaced(self, "bucket", typed.bucket.as_ref().map(At::span), "\"s3\"");
            misplaced(self, "endpoint", typed.endpoint.as_ref().map(At::span), "\"s3\"");
        }
        if kind != StoreKind::Etcd {
            misplaced(
                self,
                "endpoints",
                typed.endpoints.as_ref().map(At::span),
                "\"etcd\"",
            );
            for (key, text) in [
                ("ca", &typed.ca),
                ("certificate", &typed.certificate),
                ("key", &typed.key),
            ] {
                misplaced(self, key, text.as_ref().map(At::span), "\"etcd\"");
            }
        }
        if kind == StoreKind::Single {
            misplaced(
                self,
                "credentials",
                typed.credentials.as_ref().map(At::span),
                "\"s3\" and \"etcd\"",
            );
        }
        let credentials = match &typed.credentials {
            Some(secret) => self.credentials("lease.credentials", secret).map(Some),
            None => Some(None),
        };
        let store = match kind {
            StoreKind::Single => Some(LeaseStore::Single),
            StoreKind::S3 => {
                if typed.bucket.is_none() {
                    self.wrong(
                        Code::C003,
                        "`lease.bucket` is missing",
                        span,
                        "store = \"s3\" needs one",
                    );
                }
                let bucket = typed
                    .bucket
                    .as_ref()
                    .and_then(|bucket| self.bucket("lease.bucket", bucket));
                let endpoint = match &typed.endpoint {
                    Some(endpoint) => self.url("lease.endpoint", endpoint).map(Some),
                    None => Some(None),
                };
                match (bucket, endpoint, credentials) {
                    (Some(bucket), Some(endpoint), Some(credentials)) => Some(LeaseStore::S3 {
                        bucket,
                        endpoint,
                        credentials,
                    }),
                    _ => None,
                }
            }
            StoreKind::Etcd => {
                let tls = self.etcd_tls(typed);
                let members = typed
                    .endpoints
                    .as_ref()
                    .filter(|endpoints| !endpoints.get().is_empty());
                let Some(members) = members else {
                    let hint = "store = \"etcd\" needs them: [\"10.0.0.11:2379\", …]";
                    self.wrong(Code::C003, "`lease.endpoints` is missing", span, hint);
                    return None;
                };
                let mut endpoints = Vec::new();
                for text in members.get() {
                    let endpoint = if text.get().contains("://") {
                        self.url("lease.endpoints", text)
                    } else {
                        self.host_port("lease.endpoints", text)
                    };
                    endpoints.push(endpoint);
                }
                match (
                    endpoints.into_iter().collect::<Option<Vec<_>>>(),
                    credentials,
                    tls,
                ) {
                    (Some(endpoints), Some(credentials), Some(tls)) => Some(LeaseStore::Etcd {
                        endpoints,
                        credentials,
                        tls,
                    }),
                    _ => None,
                }
            }
        };
        // Fencing, a margin and two requests must fit in (`Timing::check`).
        let (usual, least) = match kind {
            StoreKind::S3 => (15, 6),
            StoreKind::Etcd => (6, 3),
            StoreKind::Single => (6, 1),
        };
        let ttl = self.duration(
            "lease.ttl",
            typed.ttl.as_ref(),
            usual * SECOND,
            least * SECOND..=HOUR,
        );
        Some(Lease {
            store: store?,
            ttl: ttl?,
        })
    }

    /// Files that nobody would read are a mistake: etcd would be reached without TLS.
    fn etcd_tls(&mut self, typed: &raw::Lease) -> Option<EtcdTls> {
        let of = |endpoint: &Text| endpoint.get().starts_with("https://");
        let https = typed
            .endpoints
            .as_ref()
            .is_none_or(|endpoints| endpoints.get().iter().all(of));
        let named = [&typed.ca, &typed.certificate, &typed.key];
        if let Some(text) = named.into_iter().flatten().next().filter(|_| !https) {
            let message = "certificates are for members that are reached over TLS, and not all of `lease.endpoints` are";
            let hint = "write each as \"https://HOST:PORT\"";
            self.wrong(Code::C006, message, text.span(), hint);
            return None;
        }
        let mut file = |key: &str, text: &Option<Text>| match text {
            Some(text) => self.path(&format!("lease.{key}"), text).map(Some),
            None => Some(None),
        };
        let ca = file("ca", &typed.ca);
        let certificate = file("certificate", &typed.certificate);
        let key = file("key", &typed.key);
        let client = match (certificate?, key?) {
            (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
            (None, None) => None,
            (only, _) => {
                let (is, missing, text) = match only {
                    Some(_) => ("certificate", "key", &typed.certificate),
                    None => ("key", "certificate", &typed.key),
                };
                let message = format!("`lease.{is}` is of no use without `lease.{missing}`");
                let span = text.as_ref().map(At::span).unwrap_or_default();
                self.wrong(Code::C006, message, span, "name both files, or neither");
                return None;
            }
        };
        Some(EtcdTls { ca: ca?, client })
    }

    pub(super) fn assets(&mut self, assets: &raw::Assets) -> Option<Assets> {
        let local = self.path("assets.local", &assets.local);
        let mut url = self.url_path("assets.url", &assets.url);
        if url.as_ref().is_some_and(|url| !url.ends_with('/')) {
            url = self.none("assets.url", &assets.url, "must end with /");
        }
        let mut private = Some(Vec::new());
        for typed in assets.private.iter().flatten() {
            let path = self.url_path("assets.private", typed);
            let below =
                |path: &String| url.as_ref().is_none_or(|url| path.starts_with(url)) && path.ends_with('/');
            let path = match path {
                Some(path) if !below(&path) => self.none(
                    "assets.private",
                    typed,
                    "must begin with assets.url and end with /",
                ),
                path => path,
            };
            private = private.zip(path).map(|(mut all, path)| {
                all.push(path);
                all
            });
        }
        let bucket = self.bucket("assets.bucket", &assets.bucket);
        let endpoint = match &assets.endpoint {
            Some(endpoint) => self.url("assets.endpoint", endpoint).map(Some),
            None => Some(None),
        };
        let credentials = match &assets.credentials {
            Some(secret) => self.credentials("assets.credentials", secret).map(Some),
            None => Some(None),
        };
        Some(Assets {
            local: local?,
            url: url?,
            serve: assets.serve.as_ref().is_some_and(|serve| *serve.get()),
            private: private?,
            bucket: bucket?,
            endpoint: endpoint?,
            credentials: credentials?,
        })
    }

    pub(super) fn ip(&mut self, typed: &At<raw::Ip>) -> Option<Addresses> {
        let ip = typed.get();
        let method = match (*ip.method.get(), &ip.exec) {
            (IpMethod::Arp, None) => AddressMethod::Arp,
            (IpMethod::None, None) => AddressMethod::None,
            (IpMethod::HetznerCloud, None) => AddressMethod::HetznerCloud,
            (IpMethod::HetznerRobot, None) => AddressMethod::HetznerRobot,
            (IpMethod::DigitalOcean, None) => AddressMethod::DigitalOcean,
            (IpMethod::Ovh, None) => AddressMethod::Ovh,
            (IpMethod::Exec, Some(program)) => AddressMethod::Exec(self.path("ip.exec", program)?),
            (IpMethod::Exec, None) => {
                let hint = "say which program: exec = \"/etc/pontoon/hooks/…\"";
                self.wrong(Code::C003, "`ip.exec` is missing", ip.method.span(), hint);
                return None;
            }
            (_, Some(program)) => {
                let message = "`ip.exec` is only for method = \"exec\"";
                self.wrong(
                    Code::C006,
                    message,
                    program.span(),
                    "leave it out, or set method = \"exec\"",
                );
                return None;
            }
        };
        let of_arp = method == AddressMethod::Arp;
        let of_provider = !matches!(method, AddressMethod::Arp | AddressMethod::None);
        let of_interface = of_provider && !matches!(method, AddressMethod::Exec(_));
        let moved = method != AddressMethod::None;
        for (key, place, allowed, only) in [
            ("fast", ip.fast.as_ref().map(At::span), of_arp, "method = \"arp\""),
            (
                "gateway",
                ip.gateway.as_ref().map(At::span),
                of_arp,
                "method = \"arp\"",
            ),
            (
                "interface",
                ip.interface.as_ref().map(At::span),
                of_arp,
                "method = \"arp\"",
            ),
            (
                "home_after",
                ip.home_after.as_ref().map(At::span),
                moved,
                "addresses that move",
            ),
            (
                "timeout",
                ip.timeout.as_ref().map(At::span),
                of_provider,
                "addresses that a provider moves",
            ),
            (
                "targets",
                ip.targets.as_ref().map(At::span),
                of_provider,
                "addresses that a provider moves",
            ),
            (
                "credentials",
                ip.credentials.as_ref().map(At::span),
                of_interface,
                "a provider's interface",
            ),
            (
                "endpoint",
                ip.endpoint.as_ref().map(At::span),
                of_interface,
                "a provider's interface",
            ),
        ] {
            if let Some(place) = place.filter(|_| !allowed) {
                self.wrong(
                    Code::C006,
                    format!("`ip.{key}` is only for {only}"),
                    place,
                    "leave it out",
                );
            }
        }
        let hosted = match of_provider {
            true => Some(self.hosted(ip, of_interface)?),
            false => None,
        };
        let home_after = self.duration(
            "ip.home_after",
            ip.home_after.as_ref(),
            60 * SECOND,
            SECOND..=HOUR,
        );
        let gateway = match &ip.gateway {
            Some(text) => {
                let gateway = self.address("ip.gateway", text)?;
                if !gateway.is_ipv4() {
                    return self.none("ip.gateway", text, "is not an IPv4 address");
                }
                Some(gateway)
            }
            None => None,
        };
        let interface = match &ip.interface {
            Some(text) => {
                // What the kernel allows (dev_valid_name).
                let name = text.get();
                let allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':');
                if name.is_empty() || name.len() > 15 || !name.chars().all(allowed) {
                    return self.none(
                        "ip.interface",
                        text,
                        "is not the name of a network interface, such as eth0",
                    );
                }
                Some(name.clone())
            }
            None => None,
        };
        Some(Addresses {
            method,
            fast: ip.fast.as_ref().is_some_and(|fast| *fast.get()),
            home_after: home_after?,
            gateway,
            interface,
            hosted,
        })
    }

    /// What a provider's interface needs, or a program.
    fn hosted(&mut self, ip: &raw::Ip, of_interface: bool) -> Option<Hosted> {
        let timeout = self.duration("ip.timeout", ip.timeout.as_ref(), 180 * SECOND, SECOND..=HOUR);
        let credentials = match &ip.credentials {
            Some(secret) => Some(self.credentials("ip.credentials", secret)?),
            None if of_interface => {
                let hint = "where is the token? credentials = { file = \"/etc/pontoon/provider.env\" }";
                self.wrong(Code::C003, "`ip.credentials` is missing", ip.method.span(), hint);
                return None;
            }
            None => None,
        };
        let endpoint = match &ip.endpoint {
            Some(endpoint) => {
                self.url("ip.endpoint", endpoint)?;
                Some(endpoint.get().clone())
            }
            None => None,
        };
        let mut targets = BTreeMap::new();
        for (server, target) in ip.targets.iter().flat_map(|targets| targets.get()) {
            let path = format!("ip.targets.{server}");
            let Ok(name) = server.parse() else {
                return self.none(&path, target, "is not for a server: its name is none");
            };
            // It goes into URLs and into a program's environment.
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
            let number = matches!(*ip.method.get(), IpMethod::HetznerCloud | IpMethod::DigitalOcean);
            let text = target.get();
            if text.is_empty() || text.len() > 255 || !text.chars().all(plain) {
                return self.none(&path, target, "is not a provider's name for a server");
            }
            if number && text.parse::<u64>().is_err() {
                return self.none(
                    &path,
                    target,
                    "is not a number, as this provider calls its servers",
                );
            }
            if *ip.method.get() == IpMethod::HetznerRobot && text.parse::<IpAddr>().is_err() {
                return self.none(&path, target, "is not the main address of a server");
            }
            if targets.insert(name, text.clone()).is_some()
                || targets.values().filter(|one| *one == text).count() > 1
            {
                return self.none(&path, target, "is another server's, too");
            }
        }
        Some(Hosted {
            timeout: timeout?,
            credentials,
            endpoint,
            targets,
        })
    }

    pub(super) fn capacity(&mut self, capacity: &raw::Capacity) -> Option<Capacity> {
        let p99 = self.duration(
            "capacity.objective.p99",
            Some(&capacity.objective.p99),
            SECOND,
            MS..=HOUR,
        );
        let errors = self.share(
            "capacity.objective.errors",
            capacity.objective.errors.as_ref(),
            100,
        );
        let warn_at = self.share("capacity.warn_at", capacity.warn_at.as_ref(), 70_000);
        Some(Capacity {
            p99: p99?,
            errors: errors?,
            warn_at: warn_at?,
        })
    }
}

/// `/run/mysqld/mysqld.sock` → `/run/mysqld/mysqld-server.sock`.
fn beside(path: &Path) -> PathBuf {
    let stem = path
        .file_stem()
        .map(|stem| stem.to_string_lossy())
        .unwrap_or_default();
    let end = path
        .extension()
        .map(|end| format!(".{}", end.to_string_lossy()))
        .unwrap_or_default();
    path.with_file_name(format!("{stem}-server{end}"))
}

/// Words with `/` between them: nothing that an object store or a URL would write in another way.
fn is_prefix(text: &str) -> bool {
    let is_word = |word: &str| {
        !matches!(word, "" | "." | "..")
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    };
    text.split('/').all(is_word)
}
