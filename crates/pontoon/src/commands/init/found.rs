//! What `pontoon init` finds on this machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use pontoon_agent::detect::addresses::{self, Address};
use pontoon_agent::detect::database::{detect, facts_of_detected};
use pontoon_agent::detect::listeners;
use pontoon_agent::detect::system::System;
use pontoon_agent::detect::{facts, http};
use pontoon_decide::{DatabaseFacts, ServerFacts};
use pontoon_fleet::units::human_bytes;
use pontoon_fleet::{Code, Engine, Refusal};
use pontoon_helper::DatabaseNode;

use crate::args::Init;

/// The machine.
#[derive(Debug)]
pub struct Found {
    /// System and host name.
    pub system: System,
    /// Its addresses, with their interfaces.
    pub addresses: Vec<Address>,
    /// What a plan needs to know, the database among it.
    pub facts: ServerFacts,
    /// How the database is run, for the node file.
    pub node: Option<DatabaseNode>,
    /// Why a database that runs is left out.
    pub unsupported: Option<String>,
    /// What was set up by hand before, and what to know about it.
    pub recipe: Vec<String>,
    /// The program on port 80, or what it calls itself.
    pub port_80: Option<String>,
    /// Where the application answers: as typed, or as found.
    pub upstream: Option<SocketAddr>,
    /// Whether it does.
    pub upstream_answers: bool,
    /// Others that speak HTTP.
    pub also_http: Vec<SocketAddr>,
    /// The path that tells whether it works.
    pub health_path: Option<&'static str>,
}

impl Found {
    /// Looks.
    pub async fn look(args: &Init) -> Result<Found, Refusal> {
        let root = Path::new("/");
        let (system, addresses) = (System::look(root), addresses::look(root));
        let (detected, unsupported) = match detect().await {
            Ok(detected) => (detected, None),
            // Too old to be replicated is no reason not to have an edge.
            Err(refusal) if refusal.code == Code::D001 => (None, Some(refusal.to_string())),
            Err(refusal) => return Err(refusal),
        };
        let recipe = detected
            .as_ref()
            .map(|detected| detected.recipe.notes())
            .unwrap_or_default();
        let mut facts = facts(None, args.upstream).await;
        facts.database = detected
            .as_ref()
            .map(|detected| facts_of_detected(detected, &facts.listeners));
        let tcp = listeners::tcp(&facts.listeners);
        let host = args
            .domains
            .first()
            .cloned()
            .unwrap_or_else(|| "localhost".to_owned());

        let local_80 = tcp.iter().find(|listener| listener.address.port() == 80);
        let port_80 = match local_80 {
            None => None,
            Some(listener) => match &listener.program {
                Some(program) => Some(program.clone()),
                // Another user's process: its answer says what it is.
                None => http::get(listener.local(), &host, "/")
                    .await
                    .and_then(|answer| answer.server),
            },
        };
        let besides: Vec<u16> = facts
            .database
            .iter()
            .filter_map(|database| database.port)
            .collect();
        let answering = http::answering(&http::candidates(&tcp, &besides), &host).await;
        let upstream = args.upstream.or_else(|| answering.first().copied());
        let upstream_answers = match args.upstream {
            Some(upstream) => http::get(reachable(upstream), &host, "/").await.is_some(),
            None => upstream.is_some(),
        };
        let health_path = match upstream {
            Some(upstream) if upstream_answers && args.health.is_none() => {
                http::find_health_path(reachable(upstream), &host).await
            }
            _ => None,
        };
        let also_http = answering
            .into_iter()
            .filter(|address| Some(*address) != upstream)
            .take(1)
            .collect();
        let also_http = if args.upstream.is_some() {
            Vec::new()
        } else {
            also_http
        };
        let node = detected.map(|detected| detected.node);
        Ok(Found {
            system,
            addresses,
            facts,
            node,
            unsupported,
            recipe,
            port_80,
            upstream,
            upstream_answers,
            also_http,
            health_path,
        })
    }

    /// In one line.
    pub fn in_words(&self) -> String {
        let cores = if self.system.cores == 1 {
            "1 core".to_owned()
        } else {
            format!("{} cores", self.system.cores)
        };
        let mut parts = vec![format!(
            "{}, {cores}, {}",
            self.system.name,
            human_bytes(self.system.memory_bytes)
        )];
        if let Some(database) = &self.facts.database {
            parts.push(database_in_words(database));
        }
        if let Some(program) = &self.port_80 {
            parts.push(format!("{program} on :80"));
        }
        if let (Some(upstream), true) = (self.upstream, self.upstream_answers) {
            parts.push(format!("app answers on {upstream}"));
        }
        parts.join("; ")
    }
}

fn database_in_words(database: &DatabaseFacts) -> String {
    let engine = match database.engine {
        Engine::Mariadb => "MariaDB",
        Engine::Mysql => "MySQL",
        Engine::External => "database",
    };
    // `10.11.6-MariaDB-0+deb12u1` → `10.11`: the series is what people know.
    let series: Vec<&str> = database.version.split(['.', '-']).take(2).collect();
    let count = if database.databases == 1 {
        "1 database".to_owned()
    } else {
        format!("{} databases", database.databases)
    };
    let place = match (&database.socket, database.port) {
        (Some(socket), _) => format!(" on {}", socket.display()),
        (None, Some(port)) => format!(" on port {port}"),
        (None, None) => String::new(),
    };
    format!(
        "{engine} {} ({count}, {}){place}",
        series.join("."),
        human_bytes(database.size_bytes)
    )
}

fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
    } else {
        address
    }
}
