//! The real name servers that ours is held against, each with the same zones on a port of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server; it ends with this value.
pub struct Server {
    pub name: &'static str,
    pub address: SocketAddr,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Name, program, and how it is started with zones in a folder.
type Kind = (
    &'static str,
    &'static str,
    fn(&Path, u16, &[String]) -> Vec<String>,
);

const KINDS: [Kind; 4] = [
    ("NSD", "nsd", nsd),
    ("Knot", "knotd", knot),
    ("BIND", "named", bind),
    ("PowerDNS", "pdns_server", powerdns),
];

/// All four, or the reason why not. `zones` are names; each one's file is `NAME.zone` in `folder`.
pub fn start(folder: &Path, zones: &[String]) -> Result<Vec<Server>, String> {
    let programs: Vec<PathBuf> = KINDS
        .iter()
        .map(|(_, program, _)| find(program).ok_or(format!("{program} is not there (script/get-dns)")))
        .collect::<Result<_, _>>()?;
    Ok(KINDS
        .iter()
        .zip(programs)
        .map(|(kind, program)| start_one(folder, zones, kind, &program))
        .collect())
}

fn find(program: &str) -> Option<PathBuf> {
    let cached = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../.cache/dns/bin")
        .join(program);
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    std::iter::once(cached)
        .chain(folders.map(|folder| Path::new(folder).join(program)))
        .find(|path| path.exists())
}

fn start_one(folder: &Path, zones: &[String], (name, _, configure): &Kind, program: &Path) -> Server {
    let own = folder.join(name);
    fs::create_dir_all(&own).unwrap();
    // Between finding a free port and taking it somebody else may take it.
    for _ in 0..5 {
        let port = free_port();
        let arguments = configure(&own, port, zones);
        let log = fs::File::create(own.join("log")).unwrap();
        let process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Server {
            name,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            process,
        };
        if answers(&mut server, zones.last().unwrap()) {
            return server;
        }
    }
    panic!(
        "{name} does not answer:\n{}",
        fs::read_to_string(own.join("log")).unwrap_or_default()
    );
}

fn free_port() -> u16 {
    pontoon_testkit::free_port().unwrap()
}

/// Waits until it answers for a zone.
fn answers(server: &mut Server, zone: &str) -> bool {
    let query = super::client::query(1, zone, 6, None);
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        if server.process.try_wait().unwrap().is_some() {
            return false;
        }
        if super::client::try_ask(server.address, &query, Duration::from_millis(200))
            .is_some_and(|response| response[3] & 15 == 0)
        {
            return true;
        }
    }
    false
}

fn write(path: &Path, text: String) -> String {
    fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn each(zones: &[String], entry: impl Fn(&str) -> String) -> String {
    zones.iter().map(|zone| entry(zone)).collect()
}

fn nsd(own: &Path, port: u16, zones: &[String]) -> Vec<String> {
    let at = own.display();
    let list = each(zones, |zone| {
        format!("zone:\n  name: {zone}\n  zonefile: {at}/../{zone}.zone\n")
    });
    let text = format!(
        "server:\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  zonesdir: \"{at}\"\n  database: \"\"\n  \
         pidfile: \"{at}/pid\"\n  xfrdfile: \"{at}/xfrd\"\n  xfrdir: \"{at}\"\n  zonelistfile: \"{at}/list\"\n  \
         rrl-ratelimit: 0\n  server-count: 1\nremote-control:\n  control-enable: no\n{list}"
    );
    let file = write(&own.join("conf"), text);
    ["-d", "-c", &file].map(str::to_owned).to_vec()
}

fn knot(own: &Path, port: u16, zones: &[String]) -> Vec<String> {
    let at = own.display();
    let list = each(zones, |zone| {
        format!("  - domain: {zone}\n    file: {at}/../{zone}.zone\n")
    });
    let text = format!(
        "server:\n  listen: 127.0.0.1@{port}\n  rundir: {at}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         database:\n  storage: {at}\n  journal-db-max-size: 16M\ntemplate:\n  - id: default\n    zonefile-sync: -1\n    \
         journal-content: none\nzone:\n{list}"
    );
    let file = write(&own.join("conf"), text);
    ["-c", &file].map(str::to_owned).to_vec()
}

fn bind(own: &Path, port: u16, zones: &[String]) -> Vec<String> {
    let at = own.display();
    let list = each(zones, |zone| {
        format!("zone \"{zone}\" {{ type master; file \"{at}/../{zone}.zone\"; }};\n")
    });
    let text = format!(
        "options {{ directory \"{at}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; \
         pid-file none; session-keyfile none; dnssec-validation no; empty-zones-enable no; notify no; \
         check-integrity no; check-names master ignore; minimal-responses yes; rrset-order {{ order none; }}; }};\n\
         controls {{ }};\n{list}"
    );
    let file = write(&own.join("conf"), text);
    ["-g", "-n", "1", "-c", &file].map(str::to_owned).to_vec()
}

fn powerdns(own: &Path, port: u16, zones: &[String]) -> Vec<String> {
    let at = own.display();
    let list = each(zones, |zone| {
        format!("zone \"{zone}\" {{ type native; file \"{at}/../{zone}.zone\"; }};\n")
    });
    write(&own.join("zones"), list);
    let text = format!(
        "launch=bind\nbind-config={at}/zones\nlocal-address=127.0.0.1\nlocal-port={port}\nsocket-dir={at}\ndaemon=no\n\
         guardian=no\ndname-processing=yes\ncache-ttl=0\nquery-cache-ttl=0\nnegquery-cache-ttl=0\nreceiver-threads=1\n\
         distributor-threads=1\nversion-string=anonymous\nsecurity-poll-suffix=\n"
    );
    write(&own.join("pdns.conf"), text);
    vec![format!("--config-dir={at}")]
}
