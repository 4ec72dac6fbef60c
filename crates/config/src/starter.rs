//! The first `fleet.toml`, for one server, from what was detected.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use pontoon_fleet::{Engine, FleetName, ListenAddress, ServerName};

use crate::print::quoted;

/// What `pontoon init` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starter {
    /// The fleet's name.
    pub fleet: FleetName,
    /// The names that visitors use; may be empty.
    pub domains: Vec<String>,
    /// This server's name.
    pub server: ServerName,
    /// Its address inside the fleet.
    pub private: IpAddr,
    /// The addresses that visitors reach it at; may be empty.
    pub public: Vec<IpAddr>,
    /// Where the application listens; `None` leaves `[app]` out.
    pub upstream: Option<SocketAddr>,
    /// The path that tells whether it works; `None` checks only that it takes connections.
    pub health_path: Option<String>,
    /// The database; `None` leaves `[db]` out.
    pub db: Option<StarterDb>,
}

/// The database that `pontoon init` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StarterDb {
    /// The engine.
    pub engine: Engine,
    /// Where it listens now: the SQL proxy will.
    pub listen: Vec<ListenAddress>,
    /// Where it moves to.
    pub server_port: u16,
}

/// The file: 14 lines that are not comments, at most. [`crate::Config::parse`] accepts it when the facts are sound.
pub fn starter(facts: &Starter) -> String {
    let list = |items: Vec<String>| {
        items
            .iter()
            .map(|item| quoted(item))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut out = String::from(
        "# Pontoon: the whole fleet, the same file on every server. `pontoon schema` has every key.\n",
    );
    // Writing to a String cannot fail.
    // An unusual port takes a line; the header of [fleet] gives one, so that it stays at fourteen.
    let usual_port = facts.db.as_ref().is_none_or(|db| db.server_port == USUAL_PORT);
    let (header, key) = if usual_port {
        ("\n[fleet]\n", "")
    } else {
        ("", "fleet.")
    };
    let _ = writeln!(
        out,
        "version = 1\n{header}{key}name    = {}",
        quoted(facts.fleet.as_str())
    );
    if !facts.domains.is_empty() {
        let _ = writeln!(out, "{key}domains = [{}]", list(facts.domains.clone()));
    }
    let _ = write!(
        out,
        "\n[[server]]\nname    = {}\nprivate = ",
        quoted(facts.server.as_str())
    );
    let _ = writeln!(out, "{}", quoted(&facts.private.to_string()));
    if !facts.public.is_empty() {
        let _ = writeln!(
            out,
            "public  = [{}]",
            list(facts.public.iter().map(ToString::to_string).collect())
        );
    }
    if let Some(upstream) = facts.upstream {
        let _ = write!(out, "\n[app]\nupstream = {}", quoted(&upstream.to_string()));
        out.push_str("   # where your application listens\n");
        if let Some(path) = &facts.health_path {
            let _ = writeln!(out, "health   = {{ path = {} }}", quoted(path));
        }
    }
    if let Some(db) = &facts.db {
        let listen = list(db.listen.iter().map(ToString::to_string).collect());
        let _ = write!(out, "\n[db]\nengine = {}\n", quoted(db.engine.as_str()));
        let _ = writeln!(
            out,
            "listen = [{listen}]   # what the application dials; the database moves aside"
        );
        if !usual_port {
            let _ = writeln!(out, "server_port = {}", db.server_port);
        }
    }
    out
}

/// The default of `db.server_port`, which needs no line.
const USUAL_PORT: u16 = 3307;
