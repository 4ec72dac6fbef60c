//! The measurements. Peers take turns within each round, so that whatever else the machine does hits both alike, and
//! what is compared is the median of the rounds' own ratios.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use pontoon_benches::machine::{describe, median};
use pontoon_mysql_wire::{Command, encode_packet};
use pontoon_sql_tests::client::Client;
use pontoon_testkit::LabError;
use tokio::time::sleep;

use crate::Wanted;
use crate::fleet::{Mode, pontoon};
use crate::load::{Load, login, run};
use crate::peers::{haproxy, router};
use crate::quota::Quota;
use crate::stand::{Cores, Proxy, database};

/// Queries a second at which processor time is compared.
pub const RATE: f64 = 1500.0;
/// Connections at full load, and at [`RATE`].
const CONNECTIONS: usize = 64;
const CONNECTIONS_AT_RATE: usize = 8;
/// Database servers that reads are spread over, and what each may take of a core.
const SERVERS: usize = 3;
const QUOTA_PERCENT: u32 = 30;
/// What is promised: throughput beside HAProxy's, beside MySQL Router's, with [`SERVERS`] beside one; processor time
/// beside HAProxy's, KiB for an idle client, KiB for a slow reader.
const LEAST_THROUGHPUT: f64 = 0.95;
const LEAST_BESIDE_ROUTER: f64 = 1.8;
const LEAST_SCALE: f64 = 2.5;
const MOST_CPU: f64 = 65.0 / 61.0;
const MOST_IDLE_KIB: f64 = 40.0;
const MOST_SLOW_KIB: i64 = 1024;
/// Nobody reads for so long.
const PAUSE: Duration = Duration::from_secs(5);

/// What Pontoon's proxy is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// HAProxy in TCP mode, which passes bytes to the primary.
    Haproxy,
    /// MySQL Router, which spreads reads as Pontoon does.
    Router,
}

/// Throughput, or at a fixed rate processor time, of the proxy beside a peer, and of neither for comparison.
pub async fn compare(wanted: &Wanted, peer: Peer, rate: Option<f64>) -> Result<bool, LabError> {
    let dir = tempfile::tempdir().map_err(LabError::io("folder"))?;
    let cores = Cores::of_this_machine();
    let mut pair = database(wanted.engine, 1, dir.path(), &cores).await?;
    let mode = match peer {
        Peer::Haproxy => wanted.mode,
        Peer::Router => Mode::Spread(2),
    };
    let fleet = pontoon(mode, &pair, dir.path(), &cores).await?;
    let other = match peer {
        Peer::Haproxy => haproxy(&pair, dir.path(), &cores).await?,
        Peer::Router => router(&mut pair, dir.path(), &cores).await?,
    };
    let proxies = [&fleet.proxy, &other];
    println!("{}; {mode:?}", machine(wanted, &cores));
    let direct = std::net::SocketAddr::from(([127, 0, 0, 1], pair.primary.port()));
    let (mut ratios, mut cpu_ratios) = (Vec::new(), Vec::new());
    for round in 0..=wanted.rounds {
        let said = take_turns(wanted, &proxies, round, rate, &cores).await?;
        let load = load_of(wanted, direct, rate, &cores);
        let bare = tokio::task::spawn_blocking(move || run(&load))
            .await
            .map_err(|error| LabError::Unknown(error.to_string()))?;
        let [ours, theirs] = &said[..] else {
            return Err(LabError::Unknown("a proxy was not measured".to_owned()));
        };
        println!(
            "round {round}: {ours} | {theirs} | direct {:.0} q/s p99 {} µs{}",
            bare.per_second(),
            bare.percentile(0.99),
            warm_up(round),
        );
        if round > 0 {
            ratios.push(ours.per_second / theirs.per_second);
            cpu_ratios.push(ours.cpu_us / theirs.cpu_us);
        }
    }
    let (throughput, cpu) = (median(&mut ratios), median(&mut cpu_ratios));
    println!(
        "median of the rounds' ratios to {}: throughput {throughput:.3}, CPU for a query {cpu:.3}",
        other.name
    );
    Ok(match (peer, rate) {
        (Peer::Router, _) => throughput >= LEAST_BESIDE_ROUTER,
        (Peer::Haproxy, None) => throughput >= LEAST_THROUGHPUT,
        (Peer::Haproxy, Some(_)) => cpu <= MOST_CPU,
    })
}

/// Reads from one database server and from three, each with a quota of processor time.
pub async fn scale(wanted: &Wanted) -> Result<bool, LabError> {
    let dir = tempfile::tempdir().map_err(LabError::io("folder"))?;
    let cores = Cores::of_this_machine();
    let pair = database(wanted.engine, SERVERS - 1, dir.path(), &cores).await?;
    let fleets = [
        pontoon(Mode::Spread(SERVERS), &pair, dir.path(), &cores).await?,
        pontoon(Mode::Sessions, &pair, dir.path(), &cores).await?,
    ];
    let mut quotas = Vec::new();
    for process in pair.servers().filter_map(|server| server.process()) {
        quotas.push(Quota::of(process.pid, QUOTA_PERCENT)?);
    }
    let proxies = fleets.each_ref().map(|fleet| &fleet.proxy);
    println!(
        "{}; {QUOTA_PERCENT} % of a core for each database server",
        machine(wanted, &cores)
    );
    let mut ratios = Vec::new();
    for round in 0..=wanted.rounds {
        let said = take_turns(wanted, &proxies, round, None, &cores).await?;
        let [many, one] = &said[..] else {
            return Err(LabError::Unknown("a fleet was not measured".to_owned()));
        };
        println!(
            "round {round}: {SERVERS} servers {:.0} q/s p99 {} µs | 1 server {:.0} q/s p99 {} µs{}",
            many.per_second,
            many.p99,
            one.per_second,
            one.p99,
            warm_up(round)
        );
        if round > 0 {
            ratios.push(many.per_second / one.per_second);
        }
    }
    let ratio = median(&mut ratios);
    println!("median of the rounds' ratios of {SERVERS} servers to 1: {ratio:.3}");
    Ok(ratio >= LEAST_SCALE)
}

fn warm_up(round: usize) -> &'static str {
    if round == 0 { " (not counted)" } else { "" }
}

/// Measures each proxy once; the order turns round from round to round. The answers are in the order of `proxies`.
async fn take_turns(
    wanted: &Wanted,
    proxies: &[&Proxy],
    round: usize,
    rate: Option<f64>,
    cores: &Cores,
) -> Result<Vec<One>, LabError> {
    let mut said = Vec::new();
    for turn in 0..proxies.len() {
        let index = (turn + round) % proxies.len();
        let one = measure_one(wanted, proxies[index], rate, cores).await?;
        said.push((index, one));
    }
    said.sort_by_key(|(index, _)| *index);
    Ok(said.into_iter().map(|(_, one)| one).collect())
}

struct One {
    name: &'static str,
    per_second: f64,
    cpu_us: f64,
    p99: u32,
}

impl std::fmt::Display for One {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let One {
            name,
            per_second,
            cpu_us,
            p99,
        } = self;
        write!(
            f,
            "{name} {per_second:.0} q/s {cpu_us:.1} µs CPU/query p99 {p99} µs"
        )
    }
}

fn load_of(wanted: &Wanted, to: std::net::SocketAddr, rate: Option<f64>, cores: &Cores) -> Load {
    Load {
        to,
        connections: if rate.is_some() {
            CONNECTIONS_AT_RATE
        } else {
            CONNECTIONS
        },
        prepared: wanted.prepared,
        rate,
        time: wanted.time,
        cores: cores.load.clone(),
    }
}

async fn measure_one(
    wanted: &Wanted,
    proxy: &Proxy,
    rate: Option<f64>,
    cores: &Cores,
) -> Result<One, LabError> {
    let load = load_of(wanted, proxy.address, rate, cores);
    let before = proxy.used()?;
    let done = tokio::task::spawn_blocking(move || run(&load))
        .await
        .map_err(|error| LabError::Unknown(error.to_string()))?;
    let after = proxy.used()?;
    if let Some(failed) = &done.failed {
        return Err(LabError::Unknown(format!("through {}: {failed}", proxy.name)));
    }
    Ok(One {
        name: proxy.name,
        per_second: done.per_second(),
        cpu_us: (after.cpu() - before.cpu()).as_secs_f64() * 1e6 / done.queries.max(1) as f64,
        p99: done.percentile(0.99),
    })
}

/// Memory for each client that is logged in and says nothing.
pub async fn idle(wanted: &Wanted) -> Result<bool, LabError> {
    pontoon_rt::process::raise_open_files();
    let dir = tempfile::tempdir().map_err(LabError::io("folder"))?;
    let cores = Cores::of_this_machine();
    let pair = database(wanted.engine, 1, dir.path(), &cores).await?;
    let fleet = pontoon(wanted.mode, &pair, dir.path(), &cores).await?;
    let proxy = &fleet.proxy;
    println!("{}; {:?}", machine(wanted, &cores), wanted.mode);
    let failed = |error: pontoon_sql_tests::client::Fault| LabError::Unknown(error.to_string());
    // What the first clients make it allocate is not theirs.
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..50 {
        clients.push(login(proxy.address).map_err(failed)?);
    }
    sleep(Duration::from_secs(1)).await;
    let before = proxy.used()?;
    for _ in 0..wanted.clients {
        let mut client = login(proxy.address).map_err(failed)?;
        client.send(&[Command::Ping.to_byte()]).map_err(failed)?;
        client.packet().map_err(failed)?;
        clients.push(client);
    }
    sleep(Duration::from_secs(3)).await;
    let after = proxy.used()?;
    let kib = after.resident_kib.saturating_sub(before.resident_kib) as f64 / wanted.clients as f64;
    let quiet = proxy.used()?;
    sleep(Duration::from_secs(5)).await;
    let busy = (proxy.used()?.cpu() - quiet.cpu()).as_secs_f64() / 5.0;
    println!(
        "{} idle clients: {kib:.1} KiB each ({} to {} KiB), {:.1} % of a core",
        wanted.clients,
        before.resident_kib,
        after.resident_kib,
        busy * 100.0
    );
    Ok(kib <= MOST_IDLE_KIB)
}

/// Memory for a client that asks for much and does not read.
pub async fn slow_reader(wanted: &Wanted) -> Result<bool, LabError> {
    let dir = tempfile::tempdir().map_err(LabError::io("folder"))?;
    let cores = Cores::of_this_machine();
    let pair = database(wanted.engine, 1, dir.path(), &cores).await?;
    let fleet = pontoon(wanted.mode, &pair, dir.path(), &cores).await?;
    let proxy = &fleet.proxy;
    println!("{}; {:?}", machine(wanted, &cores), wanted.mode);
    let failed = |error: pontoon_sql_tests::client::Fault| LabError::Unknown(error.to_string());
    let mut stream = login(proxy.address).and_then(Client::into_tcp).map_err(failed)?;
    let before = proxy.used()?;
    let sql = format!(
        "SELECT REPEAT('x', 1048576) FROM bench WHERE id <= {}",
        wanted.mebibytes
    );
    let mut query = Vec::new();
    encode_packet(
        &mut query,
        0,
        &[&[Command::Query.to_byte()][..], sql.as_bytes()].concat(),
    );
    std::io::Write::write_all(&mut stream, &query).map_err(LabError::io("query"))?;
    let mut most = 0;
    for _ in 0..10 {
        read(&mut stream, 1 << 20)?;
        sleep(PAUSE / 10).await;
        most = most.max(proxy.used()?.resident_kib);
    }
    let extra = most as i64 - before.resident_kib as i64;
    let rest = tokio::task::spawn_blocking(move || read_all(&mut stream))
        .await
        .map_err(|error| LabError::Unknown(error.to_string()))??;
    let total = rest + 10 * (1 << 20);
    println!(
        "a reader that pauses in {} MiB: {extra} KiB more; {total} bytes came",
        wanted.mebibytes
    );
    Ok(extra <= MOST_SLOW_KIB && total > wanted.mebibytes << 20)
}

fn read(stream: &mut TcpStream, count: usize) -> Result<(), LabError> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).map_err(LabError::io("result"))
}

/// Reads until a quarter of a second brings nothing more.
fn read_all(stream: &mut TcpStream) -> Result<u64, LabError> {
    let mut bytes = vec![0; 1 << 20];
    let mut total = 0;
    let quiet = Duration::from_secs(2);
    stream
        .set_read_timeout(Some(quiet))
        .map_err(LabError::io("result"))?;
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(total),
            Ok(count) => total += count as u64,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                return Ok(total);
            }
            Err(error) => return Err(LabError::io("result")(error)),
        }
    }
}

fn machine(wanted: &Wanted, cores: &Cores) -> String {
    let pinned = match cores.proxy.is_empty() {
        true => "nothing pinned".to_owned(),
        false => format!(
            "databases on cores {:?}, proxy on {:?}, load on {:?}",
            cores.databases, cores.proxy, cores.load
        ),
    };
    format!(
        "{}; {pinned}; {}, {}",
        describe(),
        wanted.engine.tag(),
        if wanted.prepared {
            "prepared statements"
        } else {
            "text protocol"
        }
    )
}
