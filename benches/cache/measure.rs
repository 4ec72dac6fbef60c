//! The measurements. The proxies take turns within each round and their order turns round, so that whatever else the
//! machine does hits all alike; what is compared is the median of the rounds' own ratios, the first round not counted.

use std::time::Duration;

use pontoon_benches::machine::{describe, median};
use pontoon_benches::program::Proxy;
use pontoon_testkit::LabError;

use crate::Wanted;
use crate::load::{self, Done, Load};
use crate::peers::Stand;

const LOAD_CORE: usize = 3;
const CONNECTIONS: usize = 64;
/// A figure counts when the proxy used this much of its cores: else something else was the limit.
const BUSY: f64 = 0.9;
/// Requests a second at which latencies are compared: few enough that nobody queues.
const RATE: f64 = 5000.0;
/// The median of fewer rounds is one round's luck.
const LEAST_VALID: usize = 3;

/// One proxy in one round.
struct One {
    name: &'static str,
    done: Done,
    /// Of its cores.
    share: f64,
    /// Processor time for a request, in microseconds.
    each: f64,
}

async fn ask(proxy: &Proxy, load: &Load, cores: usize) -> Result<One, LabError> {
    let before = proxy.used()?;
    let (to, load) = (proxy.address, load.clone());
    let load = Load { to, ..load };
    let done = tokio::task::spawn_blocking(move || load::run(&load)).await;
    let done = done.map_err(|error| LabError::Unknown(error.to_string()))?;
    let done = done.map_err(LabError::io(proxy.name))?;
    let cpu = (proxy.used()?.cpu() - before.cpu()).as_secs_f64();
    let whole = (done.took + load::WARM_UP).as_secs_f64();
    let one = One {
        name: proxy.name,
        share: cpu / whole / cores as f64,
        each: cpu * 1e6 / done.all.max(1) as f64,
        done,
    };
    println!(
        "  {}: {:.0}/s, p50 {} µs p99 {} µs, CPU a request {:.2} µs (its cores {:.2}, the load's {:.2})",
        one.name,
        one.done.per_second(),
        one.done.percentile(0.5),
        one.done.percentile(0.99),
        one.each,
        one.share,
        one.done.busy.as_secs_f64() / one.done.took.as_secs_f64(),
    );
    Ok(one)
}

/// Asks both, in turns; the answers are in their order.
async fn both(proxies: &[(&Proxy, usize); 2], load: &Load, round: usize) -> Result<[One; 2], LabError> {
    println!("round {round}{}", if round == 0 { " (not counted)" } else { "" });
    let of = |index: usize| ask(proxies[index].0, load, proxies[index].1);
    if round.is_multiple_of(2) {
        let first = of(0).await?;
        Ok([first, of(1).await?])
    } else {
        let second = of(1).await?;
        Ok([of(0).await?, second])
    }
}

fn load(depth: usize, rate: Option<f64>, time: Duration) -> Load {
    Load {
        to: ([127, 0, 0, 1], 0).into(),
        connections: CONNECTIONS,
        depth,
        rate,
        time,
        core: LOAD_CORE,
    }
}

fn verdict(name: &str, ratios: &mut [f64], invalid: usize, promise: impl Fn(f64) -> (bool, String)) -> bool {
    if invalid > 0 {
        println!("{name}: {invalid} rounds are invalid and not counted: not the proxy was the limit");
    }
    let enough = ratios.len() >= LEAST_VALID;
    let median = median(ratios);
    let (kept, words) = promise(median);
    println!(
        "{name}: median of {} rounds' ratios: {median:.2} ({words})",
        ratios.len()
    );
    enough && kept
}

/// Requests a second beside twemproxy, one core each.
///
/// # Errors
/// When something cannot be started.
pub async fn throughput(wanted: &Wanted, name: &str, depth: usize, least: f64) -> Result<bool, LabError> {
    let stand = Stand::new(&[1, 2]).await?;
    let (ours, theirs) = (stand.pontoon(&[0]).await?, stand.twemproxy(0).await?);
    println!(
        "{name}: {}; {CONNECTIONS} connections, {depth} requests at a time",
        describe()
    );
    let (mut ratios, mut cpu, mut invalid) = (Vec::new(), Vec::new(), 0);
    for round in 0..=wanted.rounds {
        let load = load(depth, None, wanted.time);
        let [ours, theirs] = both(&[(&ours, 1), (&theirs, 1)], &load, round).await?;
        if round == 0 {
            continue;
        }
        cpu.push(ours.each / theirs.each);
        // Where ours is held up by memcached or the load, the ratio is too small and not too large.
        if theirs.share < BUSY {
            invalid += 1;
        } else {
            ratios.push(ours.done.per_second() / theirs.done.per_second());
        }
    }
    println!("{name}: CPU a request {:.2} × twemproxy's", median(&mut cpu));
    Ok(verdict(name, &mut ratios, invalid, |ratio| {
        (ratio >= least, format!("promised: at least {least:.2}"))
    }))
}

/// Two threads on two cores beside one on one.
///
/// # Errors
/// When something cannot be started.
pub async fn two_threads(wanted: &Wanted) -> Result<bool, LabError> {
    let stand = Stand::new(&[2]).await?;
    let (one, two) = (stand.pontoon(&[0]).await?, stand.pontoon(&[0, 1]).await?);
    println!(
        "two-threads: {}; {CONNECTIONS} connections, one request at a time",
        describe()
    );
    let (mut ratios, mut cpu, mut invalid) = (Vec::new(), Vec::new(), 0);
    for round in 0..=wanted.rounds {
        let load = load(1, None, wanted.time);
        let [two, one] = both(&[(&two, 2), (&one, 1)], &load, round).await?;
        if round == 0 {
            continue;
        }
        cpu.push(two.each / one.each);
        if one.share < BUSY || two.share < BUSY {
            invalid += 1;
        } else {
            ratios.push(two.done.per_second() / one.done.per_second());
        }
    }
    let cpu = median(&mut cpu);
    println!(
        "two-threads: CPU a request {cpu:.2} × that of one thread, so that two cores that are busy do {:.2} × as much",
        2.0 / cpu
    );
    Ok(verdict("two-threads", &mut ratios, invalid, |ratio| {
        (ratio >= 1.8, "promised: at least 1.80".to_owned())
    }))
}

/// The latency in the middle at a rate that both can do.
///
/// # Errors
/// When something cannot be started.
pub async fn latency(wanted: &Wanted) -> Result<bool, LabError> {
    let stand = Stand::new(&[1, 2]).await?;
    let (ours, theirs) = (stand.pontoon(&[0]).await?, stand.twemproxy(0).await?);
    println!("latency: {}; {RATE:.0} requests a second", describe());
    let mut ratios = Vec::new();
    for round in 0..=wanted.rounds {
        let load = load(1, Some(RATE), wanted.time);
        let [ours, theirs] = both(&[(&ours, 1), (&theirs, 1)], &load, round).await?;
        if round > 0 {
            ratios.push(
                f64::from(ours.done.percentile(0.5).max(1)) / f64::from(theirs.done.percentile(0.5).max(1)),
            );
        }
    }
    Ok(verdict("latency", &mut ratios, 0, |ratio| {
        (ratio <= 1.0, "p50, promised: at most 1.00".to_owned())
    }))
}
