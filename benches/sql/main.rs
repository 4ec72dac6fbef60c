//! What the SQL proxy costs: throughput and processor time beside HAProxy in TCP mode, memory of idle clients, memory
//! for a slow reader. Run it with `script/bench sql`.

#![allow(clippy::print_stdout, reason = "its output is the result")]

mod load;
mod measure;
mod stand;

use std::process::ExitCode;
use std::time::Duration;

use pontoon_sql_tests::servers::Engine;
use pontoon_testkit::LabError;

const USAGE: &str = "script/bench sql throughput|cpu|idle|slow-reader [--mysql] [--prepared] [--rounds N] [--seconds N] [--clients N] [--mib N]";

/// What was asked for.
pub struct Wanted {
    what: String,
    engine: Engine,
    prepared: bool,
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
            rounds: 7,
            time: Duration::from_secs(10),
            clients: 10_000,
            mebibytes: 1024,
        };
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--mysql" => wanted.engine = Engine::Mysql,
                "--prepared" => wanted.prepared = true,
                "--rounds" => wanted.rounds = rest.next()?.parse().ok()?,
                "--seconds" => wanted.time = Duration::from_secs(rest.next()?.parse().ok()?),
                "--clients" => wanted.clients = rest.next()?.parse().ok()?,
                "--mib" => wanted.mebibytes = rest.next()?.parse().ok()?,
                _ => return None,
            }
        }
        Some(wanted)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(wanted) = Wanted::read(&arguments) else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let measured = runtime.block_on(async {
        match wanted.what.as_str() {
            "throughput" => measure::throughput(&wanted, None).await,
            "cpu" => measure::throughput(&wanted, Some(measure::RATE)).await,
            "idle" => measure::idle(&wanted).await,
            "slow-reader" => measure::slow_reader(&wanted).await,
            _ => {
                println!("{USAGE}");
                Ok(false)
            }
        }
    });
    match measured {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(LabError::Skip(skip)) => {
            println!("{skip}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
