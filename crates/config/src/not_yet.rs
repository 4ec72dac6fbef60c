//! The language is larger than what this version does. This file is the difference.

use std::ops::Range;

use pontoon_fleet::{Code, Engine, Refusal, Role};

use crate::model::{AddressMethod, Durability, LeaseStore, WhenAlone};
use crate::{Config, ConfigError, Origin};

/// Something that the configuration asks for and this version does not do. What is left at its default is never
/// among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotYet {
    /// The key that asks for it.
    pub path: String,
    /// What is not done, in one sentence without a full stop.
    pub what: String,
    /// Where it stands (in the override's text when `origin` is there).
    pub span: Option<Range<usize>>,
    /// The override that it came from.
    pub origin: Option<Origin>,
}

/// Everything in `config` that this version does not do.
pub fn not_yet(config: &Config) -> Vec<NotYet> {
    let mut found = Vec::new();
    let mut add = |path: &str, what: &str| {
        let place = config.places.0.get(path);
        found.push(NotYet {
            path: path.to_owned(),
            what: what.to_owned(),
            span: place.map(|place| {
                if place.origin.is_some() || place.key.is_empty() {
                    place.value.clone()
                } else {
                    place.key.clone()
                }
            }),
            origin: place.and_then(|place| place.origin.clone()),
        });
    };
    let moves = config.takeover().or(config.routing()).is_some();
    for server in config.servers.iter().filter(|server| server.standby && !moves) {
        add(
            &format!("server.{}.standby", server.name),
            "an edge that waits until another is lost",
        );
    }
    if let Some(db) = &config.db {
        if db.engine == Engine::External {
            add("db.engine", "a database that somebody else runs");
        }
        let shared = config.lease_store() != LeaseStore::Single;
        match db.durability {
            Some(Durability::TwoCopies | Durability::Quorum) if !shared => add(
                "db.durability",
                "acknowledging a commit only once a replica has it, while the lease is kept on a single server",
            ),
            _ => {}
        }
        if db.when_alone == Some(WhenAlone::Stop) {
            add("db.when_alone", "stopping writes when no replica is left");
        }
    }
    if config.cache.as_ref().is_some_and(|cache| cache.copies > 1) {
        add("cache.copies", "keeping cached items on more than one server");
    }
    if config.assets.is_some() {
        add("assets", "keeping uploads in an object store");
    }
    match config.ip.as_ref().map(|ip| &ip.method) {
        // The gateway is asked over IPv4 whose an address is.
        Some(AddressMethod::Arp) => {
            let only_v6 = |server: &&crate::model::Server| {
                !server.public.is_empty() && !server.public.iter().any(std::net::IpAddr::is_ipv4)
            };
            for server in config.with_role(Role::Edge).filter(only_v6) {
                let path = format!("server.{}.public", server.name);
                add(
                    &path,
                    "taking over the addresses of a server that has none of IPv4",
                );
            }
        }
        Some(AddressMethod::Ovh) => {
            let moves = |server: &&crate::model::Server| server.public.iter().any(std::net::IpAddr::is_ipv6);
            for server in config.with_role(Role::Edge).filter(moves) {
                let path = format!("server.{}.public", server.name);
                add(&path, "having OVHcloud move addresses of IPv6");
            }
        }
        Some(_) | None => {}
    }
    if config.capacity.is_some() {
        add("capacity", "measuring limits");
    }
    found
}

impl NotYet {
    /// For [`crate::render`].
    pub fn to_error(&self) -> ConfigError {
        ConfigError {
            code: Code::C010,
            message: format!("this version does not do it yet: {}", self.what),
            span: self.span.clone(),
            hint: Some("correct, and refused by `apply` until a version does it".to_owned()),
            origin: self.origin.clone(),
        }
    }

    /// For `apply` and `plan`.
    pub fn to_refusal(&self) -> Refusal {
        Refusal::new(
            Code::C010,
            format!("`{}`: this version does not do it yet: {}", self.path, self.what),
        )
        .next("see all of them, with their places", "pontoon check")
    }
}
