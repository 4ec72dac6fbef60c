//! `[fleet]`, `[[server]]` and `[defaults.server]`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use pontoon_fleet::{Code, Role, ServerName};

use super::Check;
use crate::model::{Fleet, Server};
use crate::raw::{self, At, File, ServerDefaults};

impl Check<'_> {
    pub(super) fn fleet(&mut self, fleet: &raw::Fleet) -> Option<Fleet> {
        let name = self.read("fleet.name", &fleet.name);
        let domains: Vec<_> = fleet
            .domains
            .iter()
            .flatten()
            .map(|domain| self.host("fleet.domains", domain, true))
            .collect();
        let mut seen = BTreeSet::new();
        for domain in fleet.domains.iter().flatten() {
            if !seen.insert(domain.get()) {
                self.wrong(
                    Code::C005,
                    format!("the domain {:?} stands twice", domain.get()),
                    domain.span(),
                    "",
                );
            }
        }
        let port = self.number("fleet.port", fleet.port.as_ref(), DEFAULT_PORT, 1..=65531);
        Some(Fleet {
            name: name?,
            domains: domains.into_iter().collect::<Option<_>>()?,
            port: port?,
        })
    }

    pub(super) fn servers(&mut self, file: &File) -> Option<Vec<Server>> {
        if file.server.is_empty() {
            self.wrong(
                Code::C003,
                "`server` is empty",
                0..0,
                "add a [[server]] with a name and a private address",
            );
            return None;
        }
        let defaults = file
            .defaults
            .as_ref()
            .and_then(|defaults| defaults.server.as_ref());
        let servers: Vec<_> = file
            .server
            .iter()
            .map(|server| self.server(server.get(), defaults))
            .collect();
        self.duplicate_names(file);
        self.duplicate_addresses(file);
        servers.into_iter().collect()
    }

    fn server(&mut self, typed: &raw::Server, defaults: Option<&ServerDefaults>) -> Option<Server> {
        let name = self.read::<ServerName>("server.name", &typed.name);
        let path = |key: &str| format!("server.{}.{key}", typed.name);
        let private = self.address(&path("private"), &typed.private);
        let public: Vec<_> = typed
            .public
            .iter()
            .flatten()
            .map(|address| self.address(&path("public"), address))
            .collect();
        let roles = typed
            .roles
            .as_ref()
            .or(defaults.and_then(|defaults| defaults.roles.as_ref()));
        let roles = match roles {
            Some(roles) => self.roles(&path("roles"), roles),
            None => Some(Role::ALL.into()),
        };
        let zone = typed
            .zone
            .as_ref()
            .or(defaults.and_then(|defaults| defaults.zone.as_ref()));
        let zone_is_good = zone.is_none_or(|zone| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let good = (1..=63).contains(&zone.get().len()) && zone.get().chars().all(plain);
            if !good {
                self.bad(
                    &path("zone"),
                    zone,
                    "is not a zone's name: letters, digits, '-', '_' and '.'",
                );
            }
            good
        });
        let weight = self.number("server.weight", typed.weight.as_ref(), 1, 1..=100);
        let dns_weight = self.number("server.dns_weight", typed.dns_weight.as_ref(), 1, 0..=10);
        let own_standby = typed.standby.as_ref();
        let standby = own_standby.or(defaults.and_then(|defaults| defaults.standby.as_ref()));
        let delay = match &typed.delay {
            Some(delay) => {
                let span = SECOND..=30 * DAY;
                let read = self.duration(&path("delay"), Some(delay), SECOND, span)?;
                if read.subsec_nanos() != 0 {
                    return self.none(&path("delay"), delay, "is not a number of whole seconds");
                }
                Some(read)
            }
            None => None,
        };
        let source = match &typed.source {
            Some(source) => Some(self.read::<ServerName>(&path("source"), source)?),
            None => None,
        };
        let roles = roles?;
        if let (Some(delay), false) = (&typed.delay, roles.contains(&Role::Db)) {
            let message = format!("{} has a delay without the role \"db\"", typed.name);
            self.wrong(
                Code::C006,
                message,
                delay.span(),
                "it is for copies of the database",
            );
        }
        if let Some(span) = own_standby.filter(|standby| *standby.get()).map(At::span)
            && !roles.contains(&Role::Edge)
        {
            let message = format!("{} is a standby without the role \"edge\"", typed.name);
            self.wrong(Code::C006, message, span, "only an edge can stand by");
        }
        Some(Server {
            name: name?,
            private: private?,
            public: public.into_iter().collect::<Option<_>>()?,
            standby: standby.is_some_and(|standby| *standby.get()) && roles.contains(&Role::Edge),
            weight: weight?,
            dns_weight: dns_weight?,
            delay,
            source,
            roles,
            zone: zone.filter(|_| zone_is_good).map(|zone| zone.get().clone()),
        })
    }

    fn roles(&mut self, path: &str, typed: &At<Vec<At<Role>>>) -> Option<BTreeSet<Role>> {
        let mut roles = BTreeSet::new();
        for role in typed.get() {
            if !roles.insert(*role.get()) {
                self.wrong(
                    Code::C005,
                    format!("`{path}` has {:?} twice", role.get().as_str()),
                    role.span(),
                    "",
                );
            }
        }
        if roles.is_empty() {
            let message = format!("`{path}` is empty: the server would do nothing");
            self.wrong(
                Code::C006,
                message,
                typed.span(),
                "leave `roles` out for all of them",
            );
            return None;
        }
        Some(roles)
    }

    fn duplicate_names(&mut self, file: &File) {
        let mut seen = BTreeSet::new();
        for server in &file.server {
            let name = &server.get().name;
            if !seen.insert(name.get()) {
                self.wrong(
                    Code::C005,
                    format!("two servers are named {:?}", name.get()),
                    name.span(),
                    "",
                );
            }
        }
    }

    /// An address belongs to one server. A server may have the same one inside and outside.
    fn duplicate_addresses(&mut self, file: &File) {
        let mut owners: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (index, server) in file.server.iter().enumerate() {
            let mut own = BTreeSet::new();
            for (is_private, text) in std::iter::once((true, &server.get().private))
                .chain(server.get().public.iter().flatten().map(|text| (false, text)))
            {
                let Ok(address) = text.get().parse::<IpAddr>() else {
                    continue;
                };
                let owner = *owners.entry(address).or_insert(index);
                if owner != index {
                    let first = file
                        .server
                        .get(owner)
                        .map_or("another", |server| server.get().name.get());
                    let message = format!("{address} is the address of {first} and of {}", server.get().name);
                    self.wrong(Code::C005, message, text.span(), "each server has its own");
                } else if !is_private && !own.insert(address) {
                    self.wrong(Code::C005, format!("{address} stands twice"), text.span(), "");
                }
            }
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// The agent; the edge relay and the SQL relay have the next two.
const DEFAULT_PORT: u16 = 7400;
