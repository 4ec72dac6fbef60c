//! No two listeners of one server at the same place.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;

use pontoon_fleet::{Code, ListenAddress, Role};

use super::Check;
use crate::raw::{At, File};
use crate::{Config, model::Server};

/// A place where something listens, and which key says so.
struct Listener {
    key: &'static str,
    at: SocketAddr,
    span: Option<Range<usize>>,
}

impl Check<'_> {
    pub(super) fn ports(&mut self, config: &Config, file: &File) {
        let mut said = BTreeSet::new();
        for server in &config.servers {
            let listeners = listeners(config, file, server);
            for (index, one) in listeners.iter().enumerate() {
                for other in listeners
                    .iter()
                    .skip(index + 1)
                    .filter(|other| overlap(one.at, other.at))
                {
                    if !said.insert((one.key, other.key, one.at.port())) {
                        continue;
                    }
                    let message = if one.key == other.key {
                        format!("`{}` has {} and {}, which overlap", one.key, one.at, other.at)
                    } else {
                        format!(
                            "`{}` and `{}` both want port {} on {}",
                            one.key,
                            other.key,
                            one.at.port(),
                            server.name
                        )
                    };
                    let span = other.span.clone().or(one.span.clone()).unwrap_or(0..0);
                    self.wrong(Code::C005, message, span, "give one of them another port");
                }
            }
        }
    }
}

fn listeners(config: &Config, file: &File, server: &Server) -> Vec<Listener> {
    let mut found = Vec::new();
    let mut add = |key, at, span| found.push(Listener { key, at, span });
    let fleet_port = file.fleet.port.as_ref().map(At::span);
    let ports = config.ports();
    for port in [ports.agent, ports.edge_relay, ports.sql_relay] {
        add(
            "fleet.port",
            SocketAddr::new(server.private, port),
            fleet_port.clone(),
        );
    }
    if config.runs_cache(server) {
        let at = SocketAddr::new(server.private, ports.cache_relay);
        add("fleet.port", at, fleet_port.clone());
    }
    let edge_listen = file
        .edge
        .as_ref()
        .and_then(|edge| edge.listen.as_ref())
        .map(At::span);
    for at in config.edge_listen(server) {
        add("edge.listen", at, edge_listen.clone());
    }
    let tls = file.edge.as_ref().and_then(|edge| edge.tls.as_ref());
    let tls_listen = tls.map(|tls| tls.get().listen.as_ref().map_or(tls.span(), At::span));
    for at in config.https_listen(server) {
        add("edge.tls.listen", at, tls_listen.clone());
    }
    if let (Some(app), Some(typed)) = (&config.app, &file.app)
        && server.roles.contains(&Role::App)
    {
        add("app.upstream", app.upstream, Some(typed.upstream.span()));
    }
    if let (Some(db), Some(typed)) = (&config.db, &file.db) {
        let span = typed.get().listen.as_ref().map(At::span);
        for listen in config.sql_listen(server) {
            if let ListenAddress::Tcp(at) = listen {
                add("db.listen", *at, span.clone());
            }
        }
        if config.runs_database(server) {
            let span = typed.get().server_port.as_ref().map(At::span).or(span);
            // On loopback for its own SQL proxy and on the private address for its replicas.
            add(
                "db.server_port",
                SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), db.server_port),
                span,
            );
            if let Some(port) = db.health_port {
                let span = typed.get().health_port.as_ref().map(At::span);
                add("db.health_port", SocketAddr::new(server.private, port), span);
            }
        }
    }
    if let (Some(cache), Some(typed)) = (&config.cache, &file.cache)
        && (server.roles.contains(&Role::App) || server.roles.contains(&Role::Cache))
    {
        add("cache.listen", cache.listen, typed.listen.as_ref().map(At::span));
    }
    found
}

/// Whether two listeners cannot both be. `[::]` takes IPv4 too unless it is told not to, so it is counted as all.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}
