//! A checked configuration as text: reading it again gives the same configuration.

use std::fmt::Write as _;
use std::time::Duration;

use pontoon_fleet::units::{format_bytes, format_duration, format_share};
use pontoon_fleet::{BalanceRule, ClientLimits, EdgeAnswers, EdgeFront, EdgeLimits, Prefer, ProxyProtocol};

use crate::Config;
use crate::model::{
    AddressMethod, AfterWrite, App, CopyMethod, Credentials, Db, Durability, Failover, LeaseStore, Server,
    Tls, WhenAlone,
};

impl Config {
    /// Prints it, every default spelled out except those that depend on the version (`db.failover` and the like).
    /// [`Config::parse`] of the result is equal to `self`.
    pub fn to_toml(&self) -> String {
        let mut out = String::from("version = 1\n");
        out.section("[fleet]");
        out.text("name", self.fleet.name.as_str());
        if !self.fleet.domains.is_empty() {
            out.list("domains", &self.fleet.domains);
        }
        out.raw("port", self.fleet.port);
        for server in &self.servers {
            print_server(&mut out, server);
        }
        if !self.edge.listen.is_empty() || self.edge.front != EdgeFront::default() {
            print_edge(&mut out, &self.edge);
        }
        if let Some(tls) = &self.edge.tls {
            print_tls(&mut out, tls);
        }
        print_answers(&mut out, &self.edge.answers);
        print_limits(&mut out, &self.edge.limits);
        if let Some(app) = &self.app {
            print_app(&mut out, app);
        }
        if let Some(db) = &self.db {
            print_db(&mut out, db);
        }
        self.print_later_tiers(&mut out);
        out
    }

    fn print_later_tiers(&self, out: &mut String) {
        if let Some(lease) = &self.lease {
            out.section("[lease]");
            match &lease.store {
                LeaseStore::Single => out.text("store", "single"),
                LeaseStore::S3 {
                    bucket,
                    endpoint,
                    credentials,
                } => {
                    out.text("store", "s3");
                    out.text("bucket", bucket);
                    out.optional("endpoint", endpoint.as_deref());
                    out.credentials(credentials.as_ref());
                }
                LeaseStore::Etcd {
                    endpoints,
                    credentials,
                    tls,
                } => {
                    out.text("store", "etcd");
                    out.list("endpoints", endpoints);
                    let client = tls.client.as_ref();
                    for (key, file) in [
                        ("ca", tls.ca.as_ref()),
                        ("certificate", client.map(|client| &client.certificate)),
                        ("key", client.map(|client| &client.key)),
                    ] {
                        out.optional(key, file.map(|file| file.to_string_lossy()).as_deref());
                    }
                    out.credentials(credentials.as_ref());
                }
            }
            out.text("ttl", &format_duration(lease.ttl));
        }
        if let Some(cache) = &self.cache {
            out.section("[cache]");
            out.text("listen", &cache.listen.to_string());
            if let Some(socket) = &cache.socket {
                out.text("socket", &socket.display().to_string());
            }
            out.text("memory", &format_bytes(cache.memory_bytes));
            out.text("placement", cache.placement.as_str());
            if !cache.fill_once.is_empty() {
                out.list("fill_once", &cache.fill_once);
            }
            out.raw("copies", cache.copies);
            if !cache.labels.is_empty() {
                out.section("[cache.labels]");
                for (server, label) in &cache.labels {
                    out.text(server.as_str(), label);
                }
            }
        }
        if let Some(assets) = &self.assets {
            out.section("[assets]");
            out.text("local", &assets.local.to_string_lossy());
            out.text("url", &assets.url);
            if assets.serve {
                out.raw("serve", "true");
            }
            if !assets.private.is_empty() {
                out.list("private", &assets.private);
            }
            out.text("bucket", &assets.bucket);
            out.optional("endpoint", assets.endpoint.as_deref());
            out.credentials(assets.credentials.as_ref());
        }
        if let Some(ip) = &self.ip {
            out.section("[ip]");
            out.text("method", ip.method.name());
            if let AddressMethod::Exec(program) = &ip.method {
                out.text("exec", &program.to_string_lossy());
            }
            if ip.method == AddressMethod::Arp {
                out.raw("fast", ip.fast);
                out.text("home_after", &format_duration(ip.home_after));
                out.optional(
                    "gateway",
                    ip.gateway.map(|gateway| gateway.to_string()).as_deref(),
                );
                out.optional("interface", ip.interface.as_deref());
            }
            if let Some(hosted) = &ip.hosted {
                out.text("home_after", &format_duration(ip.home_after));
                out.text("timeout", &format_duration(hosted.timeout));
                out.optional("endpoint", hosted.endpoint.as_deref());
                out.credentials(hosted.credentials.as_ref());
                if !hosted.targets.is_empty() {
                    out.section("[ip.targets]");
                    for (server, target) in &hosted.targets {
                        out.text(server.as_str(), target);
                    }
                }
            }
        }
        if let Some(dns) = &self.dns {
            out.section("[dns]");
            out.text("zone", &dns.zone);
            if let Some(file) = &dns.file {
                out.text("file", &file.to_string_lossy());
            }
            out.list("names", &dns.names);
            out.text("ttl", &format_duration(dns.ttl));
            if !dns.listen.is_empty() {
                out.list("listen", &dns.listen);
            }
            if let Some(transfer) = &dns.transfer {
                out.section("[dns.transfer]");
                out.text("key_file", &transfer.key_file.to_string_lossy());
                out.list("to", &transfer.to);
                out.list("from", &transfer.from);
            }
            if let Some(dnssec) = &dns.dnssec {
                out.section("[dns.dnssec]");
                out.text("lifetime", &format_duration(dnssec.lifetime));
            }
            if let Some(update) = &dns.update {
                out.section("[dns.update]");
                out.text("server", &update.server.to_string());
                out.text("key_file", &update.key_file.to_string_lossy());
            }
            if let Some(hook) = &dns.hook {
                out.section("[dns.hook]");
                out.text("exec", &hook.exec.to_string_lossy());
                out.text("timeout", &format_duration(hook.timeout));
            }
        }
        if let Some(capacity) = &self.capacity {
            out.section("[capacity]");
            let (p99, errors) = (format_duration(capacity.p99), format_share(capacity.errors));
            out.raw(
                "objective",
                format_args!("{{ p99 = {}, errors = {} }}", quoted(&p99), quoted(&errors)),
            );
            out.text("warn_at", &format_share(capacity.warn_at));
        }
    }
}

fn print_server(out: &mut String, server: &Server) {
    out.section("[[server]]");
    out.text("name", server.name.as_str());
    out.text("private", &server.private.to_string());
    if !server.public.is_empty() {
        out.list("public", &server.public);
    }
    out.list("roles", &server.roles);
    out.optional("zone", server.zone.as_deref());
    if server.standby {
        out.raw("standby", true);
    }
    if server.weight != 1 {
        out.raw("weight", server.weight);
    }
    if server.dns_weight != 1 {
        out.raw("dns_weight", server.dns_weight);
    }
    if let Some(delay) = server.delay {
        out.text("delay", &format_duration(delay));
    }
    if let Some(source) = &server.source {
        out.text("source", source.as_str());
    }
}

fn print_tls(out: &mut String, tls: &Tls) {
    out.section("[edge.tls]");
    if !tls.listen.is_empty() {
        out.list("listen", &tls.listen);
    }
    out.text("min_version", tls.min_version.as_str());
    out.raw("redirect", tls.redirect);
    if let Some(hsts) = tls.hsts {
        out.text("hsts", &format_duration(hsts));
    }
    if let Some(acme) = &tls.acme {
        out.section("[edge.tls.acme]");
        out.list("names", &acme.names);
        out.optional("email", acme.email.as_deref());
        out.text("directory", &acme.directory);
        out.text("challenge", acme.challenge.as_str());
        out.optional(
            "ca",
            acme.ca.as_deref().map(|path| path.to_string_lossy()).as_deref(),
        );
    }
    for files in &tls.certificates {
        out.section("[[edge.tls.certificates]]");
        out.text("certificate", &files.certificate.to_string_lossy());
        out.text("key", &files.key.to_string_lossy());
        out.optional(
            "ocsp",
            files
                .ocsp
                .as_deref()
                .map(|path| path.to_string_lossy())
                .as_deref(),
        );
    }
}

fn print_edge(out: &mut String, edge: &crate::model::Edge) {
    let front = &edge.front;
    out.section("[edge]");
    for (key, list) in [
        (
            "listen",
            edge.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ),
        (
            "trusted_proxies",
            front.trusted.iter().map(ToString::to_string).collect(),
        ),
    ] {
        if !list.is_empty() {
            out.list(key, &list);
        }
    }
    for (key, says) in [
        ("proxy_protocol", front.proxy_protocol),
        ("request_id", front.request_id),
        ("traceparent", front.traceparent),
        ("server_timing", front.server_timing),
    ] {
        if says {
            out.raw(key, says);
        }
    }
}

fn print_answers(out: &mut String, answers: &EdgeAnswers) {
    if !answers.pages.is_empty() {
        out.section("[edge.errors]");
    }
    for (used_for, file) in &answers.pages {
        out.text(used_for, &file.to_string_lossy());
    }
    if let Some(compress) = &answers.compress {
        out.section("[edge.compress]");
        out.list("codings", compress.codings.iter().map(|coding| coding.as_str()));
        out.list("types", &compress.types);
        out.text("min", &format_bytes(compress.min_bytes));
    }
    if let Some(cache) = &answers.cache {
        out.section("[edge.cache]");
        out.text("memory", &format_bytes(cache.memory));
        out.text("largest", &format_bytes(cache.largest));
        out.list("paths", &cache.paths);
        out.text("longest", &format_duration(cache.longest));
        out.text("unsaid", &format_duration(cache.unsaid));
        out.text(
            "stale_while_revalidate",
            &format_duration(cache.stale_while_revalidate),
        );
        out.text("stale_if_error", &format_duration(cache.stale_if_error));
        out.list("bypass_cookies", &cache.bypass_cookies);
    }
}

fn print_limits(out: &mut String, limits: &EdgeLimits) {
    if *limits == EdgeLimits::default() {
        return;
    }
    let size = |bytes: Option<u64>| bytes.map(format_bytes);
    let span = |span: Option<Duration>| span.map(format_duration);
    out.section("[edge.limits]");
    for (key, value) in [
        ("request_line", size(limits.request_line.map(u64::from))),
        ("head", size(limits.head.map(u64::from))),
        ("body", size(limits.body)),
        ("head_timeout", span(limits.head_timeout)),
        ("body_timeout", span(limits.body_timeout)),
        ("body_rate", size(limits.body_rate)),
        ("idle_timeout", span(limits.idle_timeout)),
        ("write_timeout", span(limits.write_timeout)),
    ] {
        out.optional(key, value.as_deref());
    }
    if let Some(fields) = limits.fields {
        out.raw("fields", fields);
    }
    let client = &limits.client;
    if *client == ClientLimits::default() {
        return;
    }
    out.section("[edge.limits.client]");
    if let Some(requests) = client.requests {
        out.raw("requests", requests);
    }
    if let Some(rate) = client.rate {
        out.raw("rate", rate);
        out.raw("burst", client.burst);
    }
    out.raw("prefix_v4", client.prefix_v4);
    out.raw("prefix_v6", client.prefix_v6);
    out.list("exempt", &client.exempt);
}

fn print_app(out: &mut String, app: &App) {
    out.section("[app]");
    out.text("upstream", &app.upstream.to_string());
    out.text("protocol", app.protocol.as_str());
    out.text("balance", app.balance.as_str());
    out.text("drain", &format_duration(app.drain));
    print_dispatch(out, app);
    let health = &app.health;
    out.section("[app.health]");
    out.optional("path", health.path.as_deref());
    if let Some(status) = health.expect {
        out.raw("expect", status);
    }
    out.text("interval", &format_duration(health.interval));
    out.text("timeout", &format_duration(health.timeout));
    out.raw("fall", health.fall);
    out.raw("rise", health.rise);
    out.section("[app.retries]");
    out.list("methods", &app.retries.methods);
    out.raw("max", app.retries.max);
    out.text("budget", &format_share(app.retries.budget));
}

fn print_dispatch(out: &mut String, app: &App) {
    let dispatch = &app.dispatch;
    if app.balance == BalanceRule::Hash {
        out.text("hash_key", &dispatch.key.to_string());
    }
    out.optional(
        "proxy_protocol",
        dispatch.proxy_protocol.map(ProxyProtocol::as_str),
    );
    out.optional("sticky_cookie", dispatch.sticky.as_deref());
    let prefer = Some(dispatch.prefer).filter(|prefer| *prefer != Prefer::Any);
    out.optional("prefer", prefer.map(Prefer::as_str));
    out.text("slow_start", &format_duration(dispatch.slow_start));
    out.text("panic", &format_share(dispatch.panic));
    let span = dispatch.answer_timeout.map(format_duration);
    out.optional("answer_timeout", span.as_deref());
    if let Some(most) = dispatch.max_in_flight {
        out.raw("max_in_flight", most);
        out.section("[app.queue]");
        out.raw("size", dispatch.queue.size);
        out.text("wait", &format_duration(dispatch.queue.wait));
    }
    if let Some(outliers) = &dispatch.outliers {
        out.section("[app.outliers]");
        out.raw("failures", outliers.failures);
        out.text("eject", &format_duration(outliers.eject));
        out.text("max_eject", &format_duration(outliers.max_eject));
        out.text("max_share", &format_share(outliers.max_share));
    }
    for route in &dispatch.routes {
        out.section("[[app.routes]]");
        out.text("path", &route.path);
        let span = route.answer_timeout.map(format_duration);
        out.optional("answer_timeout", span.as_deref());
        out.optional("body", route.body.map(format_bytes).as_deref());
    }
}

fn print_db(out: &mut String, db: &Db) {
    out.section("[db]");
    out.text("engine", db.engine.as_str());
    out.optional("address", db.address.as_deref());
    out.raw("proxy", db.proxy);
    if !db.listen.is_empty() {
        out.list("listen", &db.listen);
    }
    out.raw("server_port", db.server_port);
    out.optional(
        "server_socket",
        db.server_socket
            .as_deref()
            .map(|path| path.to_string_lossy())
            .as_deref(),
    );
    if let Some(port) = db.health_port {
        out.raw("health_port", port);
    }
    let failover = db.failover.map(|failover| match failover {
        Failover::Auto => "auto",
        Failover::Manual => "manual",
        Failover::Off => "off",
    });
    out.optional("failover", failover);
    let durability = db.durability.map(|durability| match durability {
        Durability::TwoCopies => "two-copies",
        Durability::Quorum => "quorum",
        Durability::OneCopy => "one-copy",
    });
    out.optional("durability", durability);
    match db.durability {
        Some(Durability::Quorum) => out.raw("acks", db.acks),
        Some(Durability::OneCopy) => out.text("max_lag", &format_duration(db.max_lag)),
        _ => {}
    }
    let auto_reclone = db.auto_reclone.map(format_duration);
    out.optional("auto_reclone", auto_reclone.as_deref());
    let copy = db.copy.map(|copy| match copy {
        CopyMethod::Auto => "auto",
        CopyMethod::Physical => "physical",
        CopyMethod::Logical => "logical",
    });
    out.optional("copy", copy);
    let when_alone = db.when_alone.map(|when_alone| match when_alone {
        WhenAlone::Continue => "continue",
        WhenAlone::Stop => "stop",
    });
    out.optional("when_alone", when_alone);
    out.text("hold_writes", &format_duration(db.hold_writes));
    if let Some(reads) = &db.reads {
        out.section("[db.reads]");
        out.raw("split", reads.split);
        out.text("max_lag", &format_duration(reads.max_lag));
        let after_write = match reads.after_write {
            AfterWrite::FleetWide => "fleet-wide",
            AfterWrite::Session => "session",
        };
        out.text("after_write", after_write);
    }
    if let Some(backup) = &db.backup {
        out.section("[db.backup]");
        out.text("bucket", &backup.bucket);
        out.optional("prefix", backup.prefix.as_deref());
        out.optional("endpoint", backup.endpoint.as_deref());
        out.credentials(backup.credentials.as_ref());
        out.text("every", &format_duration(backup.every));
        out.text("keep", &format_duration(backup.keep));
        out.text("archive_every", &format_duration(backup.archive_every));
        out.optional("rate", backup.rate.map(format_bytes).as_deref());
    }
}

/// A string as TOML writes it, quotes included.
pub(crate) fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

trait Print {
    fn section(&mut self, header: &str);
    fn raw(&mut self, key: &str, value: impl std::fmt::Display);
    fn text(&mut self, key: &str, value: &str);
    fn optional(&mut self, key: &str, value: Option<&str>);
    fn list<T: ToString>(&mut self, key: &str, items: impl IntoIterator<Item = T>);
    fn credentials(&mut self, credentials: Option<&Credentials>);
}

impl Print for String {
    fn section(&mut self, header: &str) {
        self.push('\n');
        self.push_str(header);
        self.push('\n');
    }

    fn raw(&mut self, key: &str, value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self, "{key} = {value}");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.raw(key, quoted(value));
    }

    fn optional(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn list<T: ToString>(&mut self, key: &str, items: impl IntoIterator<Item = T>) {
        let items: Vec<String> = items.into_iter().map(|item| quoted(&item.to_string())).collect();
        self.raw(key, format_args!("[{}]", items.join(", ")));
    }

    fn credentials(&mut self, credentials: Option<&Credentials>) {
        let (key, value) = match credentials {
            Some(Credentials::Systemd(name)) => ("credential", quoted(name)),
            Some(Credentials::File(path)) => ("file", quoted(&path.to_string_lossy())),
            Some(Credentials::Env(name)) => ("env", quoted(name)),
            None => return,
        };
        self.raw("credentials", format_args!("{{ {key} = {value} }}"));
    }
}
