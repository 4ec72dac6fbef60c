//! What replication costs and how far it is behind: two servers as Pontoon sets them up, with two copies of each commit
//! and with one, beside two that follow the classic recipe. Run it with `script/bench replication`.

#![allow(clippy::print_stdout, reason = "its output is the result")]

mod load;
mod measure;
mod pairs;

use std::process::ExitCode;
use std::time::Duration;

use pontoon_e2e::fleet::Engine;
use pontoon_testkit::{EnterOptions, Entered, Lab, LabError, enter};

const USAGE: &str =
    "script/bench replication [--mariadb|--mysql] [--rounds N] [--seconds N] [--connections N] [--rate N]";

/// No engine takes longer than this.
const LIMIT: Duration = Duration::from_secs(3600);

/// What was asked for.
pub struct Wanted {
    /// The only engine; `None` means both, one after the other.
    engine: Option<Engine>,
    rounds: usize,
    time: Duration,
    connections: usize,
    rate: u32,
}

impl Wanted {
    fn read(arguments: &[String]) -> Option<Wanted> {
        let mut wanted = Wanted {
            engine: None,
            rounds: 5,
            time: Duration::from_secs(10),
            connections: 16,
            rate: 1_000,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--mariadb" => wanted.engine = Some(Engine::Mariadb),
                "--mysql" => wanted.engine = Some(Engine::Mysql),
                "--rounds" => wanted.rounds = rest.next()?.parse().ok()?,
                "--seconds" => wanted.time = Duration::from_secs(rest.next()?.parse().ok()?),
                "--connections" => wanted.connections = rest.next()?.parse().ok()?,
                "--rate" => wanted.rate = rest.next()?.parse().ok()?,
                _ => return None,
            }
        }
        let possible =
            wanted.rounds > 0 && !wanted.time.is_zero() && wanted.connections > 0 && wanted.rate > 0;
        possible.then_some(wanted)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(wanted) = Wanted::read(&arguments) else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    let engines = match wanted.engine {
        Some(engine) => vec![engine],
        None => vec![Engine::Mariadb, Engine::Mysql],
    };
    let mut kept = true;
    for engine in engines {
        match one_engine(&arguments, &wanted, engine) {
            Ok(promise) => kept &= promise,
            Err(LabError::Skip(skip)) => println!("{skip}"),
            Err(error) => {
                println!("error: {error}");
                kept = false;
            }
        }
    }
    if kept {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// In a lab of its own, entered by this program run again.
fn one_engine(arguments: &[String], wanted: &Wanted, engine: Engine) -> Result<bool, LabError> {
    engine.available()?;
    let only = match engine {
        Engine::Mariadb => "--mariadb",
        Engine::Mysql => "--mysql",
    };
    let options = EnterOptions {
        args: arguments
            .iter()
            .map(String::as_str)
            .chain([only])
            .map(Into::into)
            .collect(),
        limit: Some(LIMIT),
        ..EnterOptions::default()
    };
    match enter(options)? {
        Entered::Outside(outside) => Ok(outside.wait()?.success()),
        Entered::Inside(inside) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(LabError::io("runtime"))?;
            runtime.block_on(async { measure::measure(Lab::new(inside).await?, wanted, engine).await })
        }
    }
}
