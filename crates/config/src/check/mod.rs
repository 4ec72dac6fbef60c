//! From what was typed to what is meant: [`Config::parse`].

mod cache;
mod compress;
mod dispatch;
mod dns;
mod edge;
mod front;
mod kept_answers;
mod limits;
mod pages;
mod ports;
mod proofs;
mod servers;
mod sources;
mod tiers;
mod values;

use std::net::IpAddr;
use std::ops::Range;

use pontoon_fleet::{Code, Engine, Role};
use serde::Deserialize;
use toml::de::DeTable;

use crate::model::{AddressMethod, Db, Dns, Durability, Failover, LeaseStore, Places};
use crate::raw::{self, At, File};
use crate::{Config, ConfigError, Overrides, shape};

impl Config {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// Every mistake found, in the order of the file; never an empty list.
    pub fn parse(text: &str) -> Result<Config, Vec<ConfigError>> {
        Config::parse_with(text, &Overrides::default())
    }

    /// Reads a configuration, lets the overrides have the last word, and checks the result.
    ///
    /// # Errors
    /// Every mistake found; those of an override say so. Never an empty list.
    pub fn parse_with(text: &str, overrides: &Overrides) -> Result<Config, Vec<ConfigError>> {
        let all = overrides.append_to(text);
        let finish = |errors: Vec<ConfigError>| finish(errors, overrides, text.len());
        let (root, syntax) = DeTable::parse_recoverable(text);
        if !syntax.is_empty() {
            return Err(finish(
                syntax
                    .iter()
                    .take(MOST_SYNTAX_ERRORS)
                    .map(|error| syntax_error(error, text))
                    .collect(),
            ));
        }
        let root_span = root.span();
        let mut root = root.into_inner();
        let mut errors = overrides.apply(&mut root, &all, text.len());
        if let Some(error) = version_error(&root) {
            // Another language: its keys would all look wrong.
            return Err(finish(vec![error]));
        }
        let shape = shape::check(&mut root, &all, text.len() + 1);
        errors.extend(shape.errors);
        if !shape.readable {
            return Err(finish(errors));
        }
        let file = match File::deserialize(toml::Deserializer::from(toml::Spanned::new(root_span, root))) {
            Ok(file) => file,
            Err(error) => {
                errors.push(ConfigError::new(
                    Code::C002,
                    error.message().to_owned(),
                    error.span().unwrap_or(0..0),
                ));
                return Err(finish(errors));
            }
        };
        let mut check = Check { errors, text: &all };
        let config = check.file(&file);
        let mut places = Places(shape.places);
        for place in places.0.values_mut() {
            let (value, origin) = overrides.locate(place.value.clone(), text.len());
            place.key = overrides.locate(place.key.clone(), text.len()).0;
            place.value = value;
            place.origin = origin;
        }
        match config {
            Some(config) if check.errors.is_empty() => Ok(Config { places, ..config }),
            _ => Err(finish(check.errors)),
        }
    }
}

/// Collects mistakes while values are read.
pub(crate) struct Check<'t> {
    pub errors: Vec<ConfigError>,
    /// The file and the overrides.
    pub text: &'t str,
}

impl Check<'_> {
    pub(crate) fn wrong(&mut self, code: Code, message: impl Into<String>, span: Range<usize>, hint: &str) {
        let error = ConfigError::new(code, message, span);
        self.errors
            .push(if hint.is_empty() { error } else { error.hint(hint) });
    }

    fn file(&mut self, file: &File) -> Option<Config> {
        let fleet = self.fleet(&file.fleet);
        let servers = self.servers(file);
        let edge = self.edge(file.edge.as_ref(), &file.fleet);
        let app = file.app.as_ref().map(|app| self.app(app));
        let db = file.db.as_ref().map(|db| self.db(db));
        let lease = file.lease.as_ref().map(|lease| self.lease(lease));
        let cache = file.cache.as_ref().map(|cache| self.cache(cache));
        let assets = file.assets.as_ref().map(|assets| self.assets(assets));
        let ip = file.ip.as_ref().map(|ip| self.ip(ip));
        let dns = file.dns.as_ref().map(|dns| self.dns(dns, &file.fleet));
        let capacity = file.capacity.as_ref().map(|capacity| self.capacity(capacity));
        let config = Config {
            fleet: fleet?,
            servers: servers?,
            edge: edge?,
            app: all_or_nothing(app)?,
            db: all_or_nothing(db)?,
            lease: all_or_nothing(lease)?,
            cache: all_or_nothing(cache)?,
            assets: all_or_nothing(assets)?,
            ip: all_or_nothing(ip)?,
            dns: all_or_nothing(dns)?,
            capacity: all_or_nothing(capacity)?,
            places: Places::default(),
        };
        self.contradictions(&config, file);
        self.ports(&config, file);
        Some(config)
    }

    /// What is right on its own and wrong together.
    fn contradictions(&mut self, config: &Config, file: &File) {
        let first_server = file.server.first().map_or(0..0, At::span);
        let first_server = self.first_line(first_server);
        let has = |role| config.with_role(role).next().is_some();
        if config.app.is_some() && !(has(Role::App) && has(Role::Edge)) {
            let missing = if has(Role::App) { "edge" } else { "app" };
            let message = format!("there is an [app], and no server has the role {missing:?}");
            self.wrong(
                Code::C006,
                message,
                first_server.clone(),
                "without `roles` a server has all of them",
            );
        }
        if let (Some(db), Some(typed)) = (&config.db, &file.db) {
            if db.is_ours() && !has(Role::Db) {
                let message = "there is a [db], and no server has the role \"db\"";
                self.wrong(
                    Code::C006,
                    message,
                    first_server.clone(),
                    "an outside database is engine = \"external\"",
                );
            }
            let several = config.with_role(Role::Db).count() > 1;
            if db.failover == Some(Failover::Auto) && several && config.lease_store() == LeaseStore::Single {
                let span = typed.get().failover.as_ref().map_or(typed.span(), At::span);
                let message = "`db.failover` is \"auto\", and the lease is kept on a single server";
                self.wrong(Code::C006, message, span, "add [lease] with store = \"s3\" or \"etcd\": both servers must be able to ask it who is primary");
            }
            self.quorum(config, db, typed.get());
            self.delays(config, file);
            if db.failover == Some(Failover::Auto) && several {
                self.store_beside_a_database(config, file);
            }
            if db.engine == Engine::External && !db.proxy {
                let span = typed.get().proxy.as_ref().map_or(typed.span(), At::span);
                let message = "`db.proxy` is off and the engine is \"external\": then there is nothing to do";
                self.wrong(Code::C006, message, span, "leave [db] out");
            }
        }
        self.sources(config, file);
        self.edges_listen(config, file);
        self.proved_in_the_dns(config, file);
        self.routed(config, file);
        let edges: Vec<_> = config.with_role(Role::Edge).collect();
        if !edges.is_empty() && edges.iter().all(|server| server.standby) {
            let message = "every edge is a standby: no visitor would be served";
            self.wrong(
                Code::C006,
                message,
                first_server.clone(),
                "one edge at least must not be",
            );
        }
        if config.cache.is_some() && !has(Role::Cache) {
            let message = "there is a [cache], and no server has the role \"cache\"";
            self.wrong(Code::C006, message, first_server.clone(), "");
        }
        let elsewhere = |dns: &Dns| dns.update.is_some() || dns.hook.is_some();
        if config.dns.as_ref().is_some_and(|dns| !elsewhere(dns)) && !has(Role::Dns) {
            self.wrong(
                Code::C006,
                "there is a [dns], and no server has the role \"dns\"",
                first_server,
                "where others answer for the zone, tell them with [dns.update] or [dns.hook]",
            );
        }
    }

    /// A provider's interface takes orders from anybody with the token: of two servers one must have the right to give them,
    /// and it must know what the provider calls each.
    fn routed(&mut self, config: &Config, file: &File) {
        let (Some(ip), Some(typed)) = (config.routing(), &file.ip) else {
            return;
        };
        let method = typed.get().method.span();
        if config.lease_store() == LeaseStore::Single {
            let message = "addresses that a provider moves need a lease that servers share";
            let hint = "add [lease] with store = \"s3\" or \"etcd\": it says which server gives the orders";
            self.wrong(Code::C006, message, method.clone(), hint);
        }
        let targets = ip.hosted.as_ref().map(|hosted| &hosted.targets);
        let place = typed.get().targets.as_ref().map_or(method, At::span);
        let place = self.first_line(place);
        for server in targets.into_iter().flat_map(|targets| targets.keys()) {
            if config.server(server).is_none() {
                let message = format!("`ip.targets.{server}`: there is no such server");
                self.wrong(Code::C006, message, place.clone(), "leave it out");
            }
        }
        let named =
            |server: &&crate::model::Server| !targets.is_some_and(|all| all.contains_key(&server.name));
        let needed = !matches!(ip.method, AddressMethod::Exec(_));
        for server in config.with_role(Role::Edge).filter(|_| needed).filter(named) {
            let message = format!(
                "`ip.targets.{}` is missing: what does the provider call it?",
                server.name
            );
            self.wrong(
                Code::C003,
                message,
                place.clone(),
                "its number, name or main address there",
            );
        }
    }

    /// Each edge has an address to listen on.
    fn edges_listen(&mut self, config: &Config, file: &File) {
        let Some(edge) = &file.edge else { return };
        let tls = edge.tls.as_ref().and_then(|tls| tls.get().listen.as_ref());
        for server in config.with_role(Role::Edge) {
            let doors = [
                ("edge.listen", edge.listen.as_ref(), config.edge_listen(server)),
                ("edge.tls.listen", tls, config.https_listen(server)),
            ];
            for (key, typed, listen) in doors {
                let Some(typed) = typed.filter(|_| listen.is_empty()) else {
                    continue;
                };
                let message = format!(
                    "the edge of {} would listen nowhere: all of `{key}` are other servers' addresses",
                    server.name
                );
                self.wrong(Code::C006, message, typed.span(), "add one of its addresses");
            }
        }
    }

    /// A quorum is of three or more, and the engine must be able to wait for so many.
    /// A delayed copy counts for nothing: without it there must be what the fleet needs.
    fn delays(&mut self, config: &Config, file: &File) {
        let spans = file
            .server
            .iter()
            .filter_map(|server| server.get().delay.as_ref());
        let Some(span) = spans.map(At::span).next() else {
            return;
        };
        let count = config
            .with_role(Role::Db)
            .filter(|server| server.delay.is_none())
            .count();
        let shared = config.lease_store() != LeaseStore::Single;
        if count == 0 {
            let message = "every copy of the database is delayed: none could be the primary";
            self.wrong(Code::C006, message, span, "a delayed copy is one beside others");
        } else if shared && count < 2 {
            let message = "the delayed copy is the only one beside the primary: nobody could take over";
            self.wrong(
                Code::C006,
                message,
                span,
                "a delayed copy never becomes the primary: have two others with the role \"db\"",
            );
        }
    }

    fn quorum(&mut self, config: &Config, db: &Db, typed: &raw::Db) {
        let Some(durability) = typed.durability.as_ref() else {
            return;
        };
        if db.durability != Some(Durability::Quorum) {
            return;
        }
        let databases = config
            .with_role(Role::Db)
            .filter(|server| server.delay.is_none())
            .count();
        if databases < 3 {
            let message =
                format!("`db.durability` is \"quorum\" with {databases} database servers: it needs three");
            let hint = "with two, \"two-copies\" loses nothing either";
            return self.wrong(Code::C006, message, durability.span(), hint);
        }
        let Some(acks) = typed.acks.as_ref() else { return };
        if usize::from(db.acks) >= databases {
            let message = format!(
                "`db.acks` is {acks}, and there are {} replicas at the most",
                databases - 1
            );
            self.wrong(Code::C006, message, acks.span(), "");
        } else if db.engine == Engine::Mariadb && db.acks > 1 {
            let message =
                format!("`db.acks` is {acks}, and MariaDB waits for one replica whatever it is told");
            self.wrong(
                Code::C006,
                message,
                acks.span(),
                "leave it out; MySQL can wait for more",
            );
        }
    }

    /// A lease store that dies with a database server decides nothing when that server dies.
    fn store_beside_a_database(&mut self, config: &Config, file: &File) {
        let Some(typed) = &file.lease else { return };
        let (hosts, place) = match config.lease_store() {
            LeaseStore::S3 {
                endpoint: Some(endpoint),
                ..
            } => (vec![endpoint], typed.get().endpoint.as_ref().map(At::span)),
            LeaseStore::Etcd { endpoints, .. } => (endpoints, typed.get().endpoints.as_ref().map(At::span)),
            _ => return,
        };
        let hosts: Vec<Option<IpAddr>> = hosts.iter().map(|text| host_of(text)).collect();
        let place = place.unwrap_or_else(|| typed.span());
        if hosts.iter().flatten().any(IpAddr::is_loopback) {
            let message = "the lease store is at a loopback address: each server would ask another one";
            let hint = "write the address at which every server reaches the same store";
            return self.wrong(Code::C006, message, place, hint);
        }
        for server in config.with_role(Role::Db) {
            let there = hosts
                .iter()
                .flatten()
                .filter(|host| server.has_address(**host))
                .count();
            let left = hosts.len() - there;
            if there > 0 && left * 2 <= hosts.len() {
                let message = format!(
                    "the lease store dies with {}: then nobody may take over from its database",
                    server.name
                );
                let hint = "an object store of a provider, or etcd with most of its members on other servers";
                return self.wrong(Code::C006, message, place, hint);
            }
        }
    }

    pub(crate) fn first_line(&self, span: Range<usize>) -> Range<usize> {
        let line = self
            .text
            .get(span.clone())
            .and_then(|part| part.lines().next())
            .map_or(0, str::len);
        span.start..span.start + line
    }
}

/// The address in `HOST:PORT` or a URL; `None` for a name, which may mean anything.
fn host_of(text: &str) -> Option<IpAddr> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    if authority.starts_with("localhost") {
        return Some(IpAddr::from([127, 0, 0, 1]));
    }
    let bare = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let host = match bare {
        Some((inside, _)) => inside,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host.parse().ok()
}

/// A table that is there and wrong spoils the whole; one that is not there does not.
fn all_or_nothing<T>(part: Option<Option<T>>) -> Option<Option<T>> {
    match part {
        None => Some(None),
        Some(part) => part.map(Some),
    }
}

fn version_error(root: &DeTable<'_>) -> Option<ConfigError> {
    let version = root.get("version")?;
    let number = version.get_ref().as_integer()?;
    if i64::from_str_radix(number.as_str(), number.radix()) == Ok(1) {
        return None;
    }
    let message = format!("configuration language version {number} is not known");
    Some(ConfigError::new(Code::C008, message, version.span()).hint("this program speaks version 1"))
}

fn syntax_error(error: &toml::de::Error, text: &str) -> ConfigError {
    let span = error.span().unwrap_or(text.len()..text.len());
    let message = error.message().lines().next().unwrap_or_default().trim();
    ConfigError::new(
        Code::C001,
        if message.is_empty() {
            "this is not TOML"
        } else {
            message
        },
        span,
    )
}

/// Sorts by place, drops what was said twice, and tells overrides from the file.
fn finish(mut errors: Vec<ConfigError>, overrides: &Overrides, file_len: usize) -> Vec<ConfigError> {
    errors.sort_by_key(|error| error.span.clone().map(|span| (span.start, span.end)));
    errors.dedup();
    // Whatever else is wrong about a secret, its place must not be drawn uncovered.
    let secrets: Vec<_> = errors
        .iter()
        .filter(|error| error.code == Code::C007)
        .filter_map(|e| e.span.clone())
        .collect();
    errors.retain(|error| {
        let overlaps = |span: &Range<usize>| {
            secrets
                .iter()
                .any(|secret| secret.start < span.end && span.start < secret.end)
        };
        error.code == Code::C007 || !error.span.as_ref().is_some_and(overlaps)
    });
    for error in &mut errors {
        if let Some(span) = error.span.take() {
            let (span, origin) = overrides.locate(span, file_len);
            error.span = Some(span);
            error.origin = origin;
        }
    }
    errors
}

/// One missing bracket makes everything behind it wrong: the first few say enough.
const MOST_SYNTAX_ERRORS: usize = 5;
