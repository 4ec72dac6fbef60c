//! The measurements. The proxies take turns within each round and their order turns round, so that whatever else the
//! machine does hits all alike; what is compared is the median of the rounds' own ratios.

use std::path::Path;
use std::time::Duration;

use pontoon_benches::machine::{describe, median};
use pontoon_benches::program::Proxy;
use pontoon_testkit::LabError;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::Wanted;
use crate::load::{self, Done, Load};
use crate::origin::Origin;
use crate::peers::{self, Setting};
use crate::workloads::Workload;

/// The cores: the proxy has the first, or the first two.
const ORIGIN_CORE: usize = 2;
const LOAD_CORE: usize = 3;
/// A figure counts when the proxy used this much of its cores: else something else was the limit, be it the load, the
/// origin or a neighbour.
const BUSY: f64 = 0.9;
/// The rate at which latencies are compared, as a share of what nginx can do.
const SHARE: f64 = 0.7;

struct Stand {
    proxies: Vec<Proxy>,
    origin: Origin,
    cores: usize,
}

impl Stand {
    /// `most`: connections at a time, where they are more than usual.
    async fn new(workload: &Workload, most: Option<usize>, dir: &Path) -> Result<Stand, LabError> {
        let origin = Origin::start(workload.bytes, ORIGIN_CORE).map_err(LabError::io("the origin"))?;
        let cores: Vec<usize> = (0..workload.cores).collect();
        let setting = Setting {
            origin: origin.address,
            cores: &cores,
            large: workload.bytes > 16 * 1024,
            over: workload.over,
            most: most.unwrap_or(9500),
            dir,
        };
        peers::certificate(dir)?;
        let proxies = vec![
            peers::pontoon(&setting).await?,
            peers::nginx(&setting).await?,
            peers::haproxy(&setting).await?,
        ];
        println!(
            "{}; proxy on {cores:?}, origin on {ORIGIN_CORE}, load on {LOAD_CORE}; {}; {}",
            describe(),
            peers::versions()?,
            workload.what
        );
        Ok(Stand {
            proxies,
            origin,
            cores: workload.cores,
        })
    }

    /// Loads each proxy once; the order turns round from round to round. The answers are in the order of the proxies.
    async fn take_turns(
        &self,
        wanted: &Wanted,
        workload: &Workload,
        rate: Option<f64>,
        round: usize,
    ) -> Result<Vec<One>, LabError> {
        let mut said = Vec::new();
        for turn in 0..self.proxies.len() {
            let index = (turn + round) % self.proxies.len();
            said.push((
                index,
                self.measure(wanted, workload, rate, &self.proxies[index]).await?,
            ));
        }
        said.sort_by_key(|(index, _)| *index);
        Ok(said.into_iter().map(|(_, one)| one).collect())
    }

    async fn measure(
        &self,
        wanted: &Wanted,
        workload: &Workload,
        rate: Option<f64>,
        proxy: &Proxy,
    ) -> Result<One, LabError> {
        let load = Load {
            to: proxy.address,
            connections: workload.connections,
            over: workload.over,
            closing: workload.closing,
            rate,
            warm_up: Duration::from_millis(500),
            time: wanted.time,
            core: LOAD_CORE,
        };
        let (before, origin, connections, requests) = (
            proxy.used()?,
            self.origin.busy().time(),
            self.origin.connections(),
            self.origin.requests(),
        );
        let done = tokio::task::spawn_blocking(move || load::run(&load)).await;
        let done = done.map_err(|error| LabError::Unknown(error.to_string()))?;
        let done = done.map_err(LabError::io("the load"))?;
        // All but `done` include the warm-up.
        let whole = done.took + Duration::from_millis(500);
        let of = |busy: Duration, time: Duration| busy.as_secs_f64() / time.as_secs_f64().max(1e-9);
        let used = proxy.used()?;
        let asked = self.origin.requests() - requests;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / asked.max(1) as f64;
        Ok(One {
            name: proxy.name,
            proxy: of(used.cpu() - before.cpu(), whole) / self.cores as f64,
            own: each(used.user - before.user),
            kernel: each(used.kernel - before.kernel),
            origin: of(self.origin.busy().time() - origin, whole),
            load: of(done.busy, done.took),
            connections: self.origin.connections() - connections,
            requests: asked,
            done,
        })
    }
}

/// One proxy in one round; shares of cores beside what the load saw.
struct One {
    name: &'static str,
    proxy: f64,
    /// Microseconds of the processor for each request: in the proxy's own code, and in the kernel.
    own: f64,
    kernel: f64,
    origin: f64,
    load: f64,
    connections: u64,
    requests: u64,
    done: Done,
}

impl One {
    /// Whether it was the proxy that set the pace.
    fn is_valid(&self) -> bool {
        self.done.failed == 0 && self.proxy >= BUSY
    }
}

impl std::fmt::Display for One {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {:.0}/s p99 {} µs, CPU a request {:.1} µs own {:.1} µs kernel (cores: proxy {:.2} origin {:.2} load {:.2}; {} of {} to the origin on new connections)",
            self.name,
            self.done.per_second(),
            self.done.percentile(0.99),
            self.own,
            self.kernel,
            self.proxy,
            self.origin,
            self.load,
            self.connections,
            self.requests,
        )?;
        match self.done.failed {
            0 => Ok(()),
            failed => write!(f, " {failed} FAILED"),
        }
    }
}

/// Throughput beside each peer.
///
/// # Errors
/// When something cannot be started.
pub async fn throughput(wanted: &Wanted, workload: &Workload) -> Result<bool, LabError> {
    let dir = tempfile::tempdir().map_err(LabError::io("folder"))?;
    let stand = Stand::new(workload, None, dir.path()).await?;
    let (mut nginx, mut haproxy, mut invalid) = (Vec::new(), Vec::new(), 0);
    // The first is not counted.
    for round in 0..=wanted.rounds {
        let said = stand.take_turns(wanted, workload, None, round).await?;
        print_round(round, &said, One::is_valid);
        let [ours, first, second] = &said[..] else {
            continue;
        };
        if round > 0 && !said.iter().all(One::is_valid) {
            invalid += 1;
        } else if round > 0 {
            nginx.push(ours.done.per_second() / first.done.per_second());
            haproxy.push(ours.done.per_second() / second.done.per_second());
        }
    }
    let good = verdict(invalid, wanted.rounds);
    let (nginx, haproxy) = (median(&mut nginx), median(&mut haproxy));
    let promise = match workload.haproxy {
        Some(least) => format!("{:.2} and {least:.2}", workload.nginx),
        None => format!("{:.2} and nothing", workload.nginx),
    };
    println!(
        "{}: medians of the rounds' ratios: {nginx:.2} × nginx, {haproxy:.2} × HAProxy (promised: {promise})",
        workload.name
    );
    Ok(good && nginx >= workload.nginx && haproxy >= workload.haproxy.unwrap_or(0.0))
}

fn print_round(round: usize, said: &[One], is_valid: impl Fn(&One) -> bool) {
    for one in said {
        println!(
            "round {round}{}: {one}{}",
            if round == 0 { " (not counted)" } else { "" },
            if is_valid(one) { "" } else { " INVALID" }
        );
    }
}

/// Whether enough rounds were good, said aloud if one was not.
fn verdict(invalid: usize, rounds: usize) -> bool {
    if invalid > 0 {
        println!(
            "{invalid} of {rounds} rounds are invalid and not counted: not the proxy was the limit, or requests failed"
        );
    }
    let valid = rounds.saturating_sub(invalid);
    if valid < LEAST_VALID {
        println!("{valid} valid rounds show nothing: {LEAST_VALID} are the least");
    }
    valid >= LEAST_VALID && invalid * 3 <= rounds
}

/// Rounds that must be good: the median of fewer is one round's luck.
const LEAST_VALID: usize = 3;

/// The slowest of a hundred at the same rate for all: 70 % of what nginx can do.
///
/// # Errors
/// When something cannot be started.
pub async fn latency(wanted: &Wanted, workload: &Workload) -> Result<bool, LabError> {
    let dir = tempfile::tempdir().map_err(LabError::io("folder"))?;
    let stand = Stand::new(workload, None, dir.path()).await?;
    let full = stand.take_turns(wanted, workload, None, 0).await?;
    print_round(0, &full, One::is_valid);
    let rate = full.get(1).map_or(0.0, |nginx| nginx.done.per_second()) * SHARE;
    println!("rate: {rate:.0}/s");
    let (mut nginx, mut haproxy, mut invalid) = (Vec::new(), Vec::new(), 0);
    for round in 1..=wanted.rounds {
        let said = stand.take_turns(wanted, workload, Some(rate), round).await?;
        let kept_up = |one: &One| one.done.failed == 0 && one.done.per_second() >= rate * 0.98;
        print_round(round, &said, kept_up);
        let [ours, first, second] = &said[..] else {
            continue;
        };
        if !said.iter().all(kept_up) {
            invalid += 1;
            continue;
        }
        let p99 = |one: &One| f64::from(one.done.percentile(0.99).max(1));
        nginx.push(p99(ours) / p99(first));
        haproxy.push(p99(ours) / p99(second));
    }
    let good = verdict(invalid, wanted.rounds);
    let (nginx, haproxy) = (median(&mut nginx), median(&mut haproxy));
    println!(
        "latency: medians of the rounds' ratios of p99: {nginx:.2} × nginx's, {haproxy:.2} × HAProxy's (promised: at most 1.00)"
    );
    Ok(good && nginx.max(haproxy) <= 1.0)
}

/// Memory for each connection that has asked once and says nothing more.
///
/// # Errors
/// When something cannot be started.
pub async fn idle(wanted: &Wanted, workload: &Workload) -> Result<bool, LabError> {
    // Each is a descriptor here and one there, and all three have a second one ready for the application.
    raise_open_files(wanted.connections * 2 + 3000);
    let files = pontoon_rt::process::raise_open_files();
    let most = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(2000) / 2;
    let count = wanted.connections.min(most);
    if count < wanted.connections {
        println!(
            "{} connections cannot be had here: {files} open files are allowed (ulimit -Hn); {count} in their place",
            wanted.connections
        );
    }
    let dir = tempfile::tempdir().map_err(LabError::io("folder"))?;
    let stand = Stand::new(workload, Some(count + 200), dir.path()).await?;
    let mut each = Vec::new();
    for proxy in &stand.proxies {
        let to = proxy.address;
        let open = |count: usize| async move {
            let opened = tokio::task::spawn_blocking(move || load::idle(to, count)).await;
            opened
                .map_err(|error| LabError::Unknown(error.to_string()))?
                .map_err(LabError::io("idle connections"))
        };
        // What the first make it allocate is not the others'.
        let first = open(100).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = proxy.used()?;
        let rest = open(count).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = proxy.used()?;
        let kib = after.resident_kib.saturating_sub(before.resident_kib) as f64 / count as f64;
        println!("{}: {count} idle connections, {kib:.2} KiB each", proxy.name);
        each.push(kib);
        drop((first, rest));
    }
    println!("idle: at most as much as nginx is promised");
    Ok(matches!(each[..], [ours, nginx, _] if ours <= nginx))
}

/// Has so many open files allowed, where this user may; the proxies inherit it.
fn raise_open_files(wanted: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = wanted as u64;
    if limit.maximum.is_some_and(|most| most < wanted) {
        (limit.current, limit.maximum) = (Some(wanted), Some(wanted));
        // Who may not has fewer connections, and is told.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_valid_rounds_are_no_result() {
        for (invalid, rounds, good) in [
            (0, 3, true),
            (3, 9, true),
            (4, 9, false),
            (1, 3, false),
            (0, 1, false),
            (2, 3, false),
            (0, 0, false),
        ] {
            assert_eq!(verdict(invalid, rounds), good, "{invalid} of {rounds}");
        }
    }
}
