//! What the edge does beside nginx and HAProxy: requests a second, latency at a given rate, memory of idle connections.
//! Run it with `script/bench edge`.

#![allow(clippy::print_stdout, reason = "its output is the result")]

mod load;
mod measure;
mod origin;
mod peers;
mod streams;
mod wire;
mod workloads;

use std::process::ExitCode;
use std::time::Duration;

use pontoon_benches::{busy, end};
use pontoon_testkit::LabError;

const USAGE: &str = "script/bench edge all|small|two-cores|many|closing|large|tls|handshakes|http2|latency|idle [--rounds N] [--seconds N] [--connections N]";

/// What was asked for.
pub struct Wanted {
    what: String,
    rounds: usize,
    time: Duration,
    connections: usize,
}

impl Wanted {
    fn read(arguments: &[String]) -> Option<Wanted> {
        let mut rest = arguments.iter();
        let mut wanted = Wanted {
            what: rest.next()?.clone(),
            rounds: 9,
            time: Duration::from_secs(3),
            connections: 50_000,
        };
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--rounds" => wanted.rounds = rest.next()?.parse().ok()?,
                "--seconds" => wanted.time = Duration::from_secs(rest.next()?.parse().ok()?),
                "--connections" => wanted.connections = rest.next()?.parse().ok()?,
                _ => return None,
            }
        }
        Some(wanted)
    }

    async fn measure(&self) -> Result<Option<bool>, LabError> {
        let small = workloads::ALL.iter().find(|one| one.name == "small");
        let mut good = None;
        for workload in workloads::ALL {
            if self.what == "all" || self.what == workload.name {
                good = Some(measure::throughput(self, workload).await? & good.unwrap_or(true));
            }
        }
        let Some(small) = small else { return Ok(good) };
        if self.what == "all" || self.what == "latency" {
            good = Some(measure::latency(self, small).await? & good.unwrap_or(true));
        }
        if self.what == "all" || self.what == "idle" {
            good = Some(measure::idle(self, small).await? & good.unwrap_or(true));
        }
        Ok(good)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(wanted) = Wanted::read(&arguments) else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    if std::thread::available_parallelism().map_or(1, usize::from) < 4 {
        println!("SKIPPED: the proxy, the origin and the load need four cores");
        return ExitCode::SUCCESS;
    }
    end::after(wanted.measure(), USAGE)
}
