//! What the SQL proxy costs and brings: throughput and processor time beside HAProxy in TCP mode and MySQL Router,
//! reads from three database servers beside one, memory of idle clients, memory for a slow reader. Run it with
//! `script/bench sql`.

#![allow(clippy::print_stdout, reason = "its output is the result")]

mod fleet;
mod load;
mod measure;
mod peers;
mod quota;
mod stand;

use std::process::ExitCode;
use std::time::Duration;

use pontoon_benches::end;
use pontoon_sql_tests::servers::Engine;
use pontoon_testkit::LabError;

use crate::fleet::Mode;
use crate::measure::Peer;

const USAGE: &str = "script/bench sql throughput|cpu|router|scale|idle|slow-reader [--mysql] [--prepared] [--sessions] [--rounds N] [--seconds N] [--clients N] [--mib N]";

/// What was asked for.
pub struct Wanted {
    what: String,
    engine: Engine,
    prepared: bool,
    mode: Mode,
    rounds: usize,
    time: Duration,
    clients: usize,
    mebibytes: u64,
}

impl Wanted {
    fn read(arguments: &[String]) -> Option<Wanted> {
        let mut rest = arguments.iter();
        let mut wanted = Wanted {
            what: rest.next()?.clone(),
            engine: Engine::Mariadb,
            prepared: false,
            mode: Mode::Through,
            rounds: 7,
            time: Duration::from_secs(10),
            clients: 10_000,
            mebibytes: 1024,
        };
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--mysql" => wanted.engine = Engine::Mysql,
                "--prepared" => wanted.prepared = true,
                "--sessions" => wanted.mode = Mode::Sessions,
                "--rounds" => wanted.rounds = rest.next()?.parse().ok()?,
                "--seconds" => wanted.time = Duration::from_secs(rest.next()?.parse().ok()?),
                "--clients" => wanted.clients = rest.next()?.parse().ok()?,
                "--mib" => wanted.mebibytes = rest.next()?.parse().ok()?,
                _ => return None,
            }
        }
        Some(wanted)
    }

    /// `None` when nothing has that name.
    async fn measure(&self) -> Result<Option<bool>, LabError> {
        match self.what.as_str() {
            "throughput" => measure::compare(self, Peer::Haproxy, None).await,
            "cpu" => measure::compare(self, Peer::Haproxy, Some(measure::RATE)).await,
            "router" => measure::compare(self, Peer::Router, None).await,
            "scale" => measure::scale(self).await,
            "idle" => measure::idle(self).await,
            "slow-reader" => measure::slow_reader(self).await,
            _ => return Ok(None),
        }
        .map(Some)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(mut wanted) = Wanted::read(&arguments) else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    if wanted.what == "router" {
        // It knows no other.
        wanted.engine = Engine::Mysql;
    }
    end::after(wanted.measure(), USAGE)
}
