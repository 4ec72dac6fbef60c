//! The acceptance line of rung 2: a server joins while a database of 1 GiB takes 200 commits a second. Which write
//! waited longest, and do the two servers hold the same? Run it with `script/bench join`.

#![allow(clippy::print_stdout, reason = "its output is the result")]

use std::process::ExitCode;
use std::time::Duration;

use pontoon_benches::end;
use pontoon_e2e::fleet::Engine;
use pontoon_e2e::under_load::{Options, join};
use pontoon_testkit::{EnterOptions, Entered, Inside, Lab, LabError, enter};

const USAGE: &str = "script/bench join [--mib N] [--rate N] [--runs N] [--mysql] [--changes] [--json]";

/// No run takes longer than this.
const LIMIT: Duration = Duration::from_secs(1800);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(wanted) = Wanted::read(&arguments) else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    end::with(measure(&arguments, &wanted).map(Some), USAGE)
}

/// What was asked for.
struct Wanted {
    options: Options,
    runs: u32,
    json: bool,
}

impl Wanted {
    fn read(arguments: &[String]) -> Option<Wanted> {
        let mut wanted = Wanted {
            options: Options {
                engine: Engine::Mariadb,
                mebibytes: 1024,
                rate: 200,
                before: Duration::from_secs(10),
                changes: false,
                // A small server's: a quarter of the data fits.
                config: vec!["innodb_buffer_pool_size = 256M".to_owned()],
            },
            runs: 3,
            json: false,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--mib" => wanted.options.mebibytes = rest.next()?.parse().ok()?,
                "--rate" => wanted.options.rate = rest.next()?.parse().ok()?,
                "--runs" => wanted.runs = rest.next()?.parse().ok()?,
                "--mysql" => wanted.options.engine = Engine::Mysql,
                "--changes" => wanted.options.changes = true,
                "--json" => wanted.json = true,
                _ => return None,
            }
        }
        Some(wanted)
    }
}

/// Each run has a lab of its own: a fresh disk, a fresh fleet.
fn measure(arguments: &[String], wanted: &Wanted) -> Result<bool, LabError> {
    let mut accepted = true;
    for run in 1..=wanted.runs {
        let options = EnterOptions {
            args: arguments.iter().map(Into::into).collect(),
            limit: Some(LIMIT),
            ..EnterOptions::default()
        };
        match enter(options)? {
            Entered::Inside(inside) => return measure_once(inside, wanted),
            Entered::Outside(outside) => {
                if !wanted.json {
                    println!("run {run} of {}", wanted.runs);
                }
                accepted &= outside.wait()?.success();
            }
        }
    }
    Ok(accepted)
}

fn measure_once(inside: Inside, wanted: &Wanted) -> Result<bool, LabError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(LabError::io("runtime"))?;
    let report = runtime.block_on(async { join(Lab::new(inside).await?, &wanted.options).await })?;
    if wanted.json {
        let line = serde_json::to_string(&report).map_err(|error| LabError::Unknown(error.to_string()))?;
        println!("{line}");
    } else {
        println!("{}\n{report}\n", report.screen);
    }
    Ok(report.is_accepted())
}
