//! From what was found and what was typed to the first configuration. Pure: every guess is a note.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use pontoon_agent::detect::addresses;
use pontoon_agent::detect::listeners::{self, Listener};
use pontoon_config::{Starter, StarterDb};
use pontoon_decide::DatabaseFacts;
use pontoon_fleet::{Code, FleetName, ListenAddress, Refusal};

use super::found::Found;
use crate::args::Init;

/// What will be written.
#[derive(Debug)]
pub struct Settled {
    /// For the configuration.
    pub starter: Starter,
    /// What was assumed, and what the operator has to see to.
    pub notes: Vec<String>,
}

/// Decides.
pub fn settle(found: &Found, args: &Init) -> Result<Settled, Refusal> {
    let mut notes = Vec::new();
    let server = match &args.name {
        Some(name) => name.clone(),
        None => found.system.server_name().ok_or_else(|| {
            Refusal::new(Code::C003, "this machine's host name is no name for a server")
                .next("choose one", "pontoon init --name a")
        })?,
    };
    let fleet = match &args.fleet {
        Some(fleet) => fleet.clone(),
        None => fleet_of(&args.domains)
            .or_else(|| server.as_str().parse().ok())
            .ok_or_else(|| {
                Refusal::new(Code::C003, "the fleet needs a name")
                    .next("choose one", "pontoon init --fleet NAME")
            })?,
    };
    let choice = addresses::choose(&found.addresses);
    let private = args.private.or(choice.private).ok_or_else(|| {
        Refusal::new(
            Code::C003,
            "no address was found at which other servers could reach this one",
        )
        .because("only loopback, link-local and container addresses are here")
        .next("say which", "pontoon init --private ADDRESS")
    })?;
    let public = if args.public.is_empty() {
        choice.public
    } else {
        args.public.clone()
    };
    if args.private.is_none() && args.public.is_empty() {
        if public == [private] && addresses::is_private(private) {
            notes.push(format!(
                "visitors are expected at {private}; if they arrive at another address, set `public`"
            ));
        } else if !addresses::is_private(private) {
            notes.push(format!(
                "{private} is for visitors and for fleet traffic: there is no private network here"
            ));
        }
    }
    let tcp = listeners::tcp(&found.facts.listeners);
    let upstream = application(found, args, &tcp, &public, &mut notes);
    let db = found
        .facts
        .database
        .as_ref()
        .map(|database| database_entry(database, &tcp, &mut notes));
    notes.extend(found.recipe.iter().cloned());
    if db.is_none() {
        notes.push(match &found.unsupported {
            Some(why) => format!("{why}: the configuration has no [db]"),
            None => "no running MariaDB or MySQL was found: the configuration has no [db]".to_owned(),
        });
    }
    let starter = Starter {
        fleet,
        domains: args.domains.clone(),
        server,
        private,
        public,
        upstream: Some(upstream),
        health_path: args
            .health
            .clone()
            .or_else(|| found.health_path.map(str::to_owned)),
        db,
    };
    Ok(Settled { starter, notes })
}

/// `www.notes.example.com` → `notes`.
fn fleet_of(domains: &[String]) -> Option<FleetName> {
    let domain = domains.first()?.to_ascii_lowercase();
    domain
        .split('.')
        .find(|label| !matches!(*label, "www" | "*" | ""))?
        .parse()
        .ok()
}

fn application(
    found: &Found,
    args: &Init,
    tcp: &[Listener],
    public: &[IpAddr],
    notes: &mut Vec<String>,
) -> SocketAddr {
    let visitors = public
        .first()
        .copied()
        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let on_80 = tcp
        .iter()
        .find(|listener| listener.covers(SocketAddr::new(visitors, 80)));
    let web_server = || found.port_80.clone().unwrap_or_else(|| "a web server".to_owned());
    let upstream = args.upstream.or(found.upstream).unwrap_or(ASSUMED_UPSTREAM);
    if let Some(other) = found.also_http.first() {
        notes.push(format!(
            "{other} speaks HTTP too; if that is the application: --upstream {other}"
        ));
    }
    match (args.upstream.is_some() || found.upstream.is_some(), on_80) {
        (true, None) => {}
        (true, Some(_)) => {
            notes.push(format!("the edge will take port 80: {} must release it before `pontoon apply`", web_server()));
        }
        (false, Some(_)) => notes.push(format!(
            "only {} on port 80 answers. The edge takes port 80, so let the application listen on {upstream} instead \
             {}before `pontoon apply`",
            web_server(),
            how_to_move(&web_server()),
        )),
        (false, None) => {
            notes.push(format!("nothing here speaks HTTP: `upstream = \"{upstream}\"` is only an assumption"));
        }
    }
    if args.upstream.is_some() && !found.upstream_answers {
        notes.push(format!("nothing answers on {upstream} now"));
    } else if found.upstream_answers && found.health_path.is_none() && args.health.is_none() {
        notes.push(format!(
            "no page of {upstream} answers with success: only whether it takes connections is checked until `health` is set"
        ));
    }
    upstream
}

fn how_to_move(web_server: &str) -> &'static str {
    if web_server.contains("nginx") {
        "(`listen 127.0.0.1:8080;` in /etc/nginx/sites-enabled) "
    } else if web_server.contains("apache") {
        "(`Listen 127.0.0.1:8080` in /etc/apache2/ports.conf, and the same port in <VirtualHost>) "
    } else {
        ""
    }
}

fn database_entry(database: &DatabaseFacts, tcp: &[Listener], notes: &mut Vec<String>) -> StarterDb {
    let mut listen = Vec::new();
    if let Some(port) = database.port {
        listen.push(ListenAddress::Tcp(SocketAddr::new(
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            port,
        )));
        let elsewhere = tcp
            .iter()
            .find(|listener| listener.address.port() == port && !listener.address.ip().is_loopback());
        if let Some(listener) = elsewhere {
            notes.push(format!(
                "the database listens on {}; in front of it only 127.0.0.1:{port} is kept: add to `listen` what other \
                 machines dial",
                listener.address
            ));
        }
    }
    listen.extend(database.socket.clone().map(ListenAddress::Unix));
    let taken = |port: u16| tcp.iter().any(|listener| listener.address.port() == port);
    let server_port = (3307..3400)
        .find(|port| Some(*port) != database.port && !taken(*port))
        .unwrap_or(3307);
    StarterDb {
        engine: database.engine,
        listen,
        server_port,
    }
}

const ASSUMED_UPSTREAM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
