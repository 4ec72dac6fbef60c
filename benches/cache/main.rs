//! What the cache proxy does beside twemproxy: requests a second without and with pipelining, two threads beside one, and
//! the latency that it adds. Run it with `script/bench cache`.

#![allow(clippy::print_stdout, reason = "its output is the result")]

mod load;
mod measure;
mod peers;

use std::process::ExitCode;
use std::time::Duration;

use pontoon_benches::end;
use pontoon_testkit::LabError;

const USAGE: &str = "script/bench cache all|single|pipelined|two-threads|latency [--rounds N] [--seconds N]";

/// What was asked for.
pub struct Wanted {
    what: String,
    rounds: usize,
    time: Duration,
}

impl Wanted {
    fn read(arguments: &[String]) -> Option<Wanted> {
        let mut rest = arguments.iter();
        let mut wanted = Wanted {
            what: rest.next()?.clone(),
            rounds: 7,
            time: Duration::from_secs(2),
        };
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--rounds" => wanted.rounds = rest.next()?.parse().ok()?,
                "--seconds" => wanted.time = Duration::from_secs(rest.next()?.parse().ok()?),
                _ => return None,
            }
        }
        Some(wanted)
    }

    async fn measure(&self) -> Result<Option<bool>, LabError> {
        let asked = |name: &str| self.what == "all" || self.what == name;
        let mut good = None;
        let mut add = |one: bool| good = Some(good.unwrap_or(true) & one);
        if asked("single") {
            add(measure::throughput(self, "single", 1, 1.2).await?);
        }
        if asked("pipelined") {
            add(measure::throughput(self, "pipelined", 8, 1.5).await?);
        }
        if asked("two-threads") {
            add(measure::two_threads(self).await?);
        }
        if asked("latency") {
            add(measure::latency(self).await?);
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
        println!("SKIPPED: the proxy, memcached and the load need four cores");
        return ExitCode::SUCCESS;
    }
    end::after(wanted.measure(), USAGE)
}
