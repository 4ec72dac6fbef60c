//! `pontoon measure`: how much a server bears.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use pontoon_capacity::models::Class;
use pontoon_capacity::{Objective, Verdict};
use pontoon_fleet::units::{parse_duration, parse_share};
use pontoon_fleet::{Code, Refusal};
use pontoon_measure::compare::{Written, compare};
use pontoon_measure::{Place, Plan, Report, Target, Wanted, page, run, selftest};
use pontoon_rt::clock::{Clock, SystemClock};
use pontoon_rt::files;
use serde_json::json;

use super::Context;
use crate::output::measure as output;

/// `pontoon measure`
#[derive(Debug, Subcommand)]
pub enum Measure {
    /// Send a load to one URL: at a rate, or to find the highest rate that keeps an objective
    Load(Load),
    /// Say whether the second of two written runs is worse than the first
    Compare(Compare),
    /// Hold the search for a limit against servers whose limit is known; prints error and coverage
    Selftest(Selftest),
}

impl Measure {
    /// Whether the answer is for machines.
    pub fn wants_json(&self) -> bool {
        match self {
            Measure::Load(args) => args.json,
            Measure::Compare(args) => args.json,
            Measure::Selftest(args) => args.json,
        }
    }
}

/// `pontoon measure load`
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub struct Load {
    /// What is asked for with GET, and nothing else: redirections are not followed
    #[arg(value_name = "URL")]
    pub url: String,
    /// Requests a second, as independent visitors come
    #[arg(
        long,
        value_name = "RATE",
        requires = "time",
        required_unless_present = "find"
    )]
    pub rate: Option<f64>,
    /// How long, as in 60s
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration, requires = "rate")]
    pub time: Option<Duration>,
    /// Search the highest rate that keeps the objective
    #[arg(long, conflicts_with = "rate")]
    pub find: bool,
    /// What is good: percentiles with a time, and a share of errors; a failed request is not in time either
    #[arg(long, value_name = "OBJECTIVE", default_value = "p99<300ms,errors<0.5%")]
    pub good: String,
    /// With --find: requests a second of the first trial
    #[arg(long, value_name = "RATE", default_value_t = 10.0)]
    pub first_rate: f64,
    /// With --find: no more than this is offered
    #[arg(long, value_name = "RATE", default_value_t = 20_000.0)]
    pub most_rate: f64,
    /// With --find: how long the search may take
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "8m")]
    pub most_time: Duration,
    /// With --find: end earlier when the interval is that narrow to each side
    #[arg(long, value_name = "SHARE", value_parser = parse_share, default_value = "3%")]
    pub narrow: u32,
    /// With --find: do not overload the target afterwards to see how it comes back
    #[arg(long)]
    pub no_recovery: bool,
    /// When a request is given up; by default 10s, with --find four times the longest time of the objective
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub patience: Option<Duration>,
    /// One more field of each request; may be repeated
    #[arg(long = "header", value_name = "FIELD: VALUE", value_parser = field)]
    pub fields: Vec<(String, String)>,
    /// Speak HTTP/2
    #[arg(long)]
    pub http2: bool,
    /// The authorities that signed the target's certificate, PEM; by default those that this machine trusts
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Where the dice begin: the same seed plans the same moments
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Write the whole result there, as JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write a page with plots there: one HTML file that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print the whole result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon measure compare`
#[derive(Debug, Args)]
pub struct Compare {
    /// What `pontoon measure load --out` wrote before
    #[arg(value_name = "FIRST")]
    pub first: PathBuf,
    /// What it wrote later
    #[arg(value_name = "SECOND")]
    pub second: PathBuf,
    /// Exit with 1 when the second is worse by more than this, and that is more than chance
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub fail_if_worse: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon measure selftest`
#[derive(Debug, Args)]
pub struct Selftest {
    /// Searches of each server in virtual time, some milliseconds each
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub runs: u64,
    /// Searches of each server over real connections on this machine, eight minutes each
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    pub real: u64,
    /// Where the dice begin
    #[arg(long, value_name = "N", default_value_t = 500_000)]
    pub seed: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const EXIT_STATUS: &str = "Exit status:\n  0  kept, or the limit was found\n  1  the objective was not kept\n  \
    2  invalid: the generator was the limit, or what was asked for cannot be\n  \
    3  stopped, because the target did not bear it\n  4  the limit was not reached";

/// Carries it out.
pub fn measure(context: &Context, command: Measure) -> anyhow::Result<u8> {
    match command {
        Measure::Load(args) => alone(load(context, args)),
        Measure::Compare(args) => compare_runs(context, &args),
        Measure::Selftest(args) => alone(check_itself(context, args)),
    }
}

/// On one thread: what runs beside must not delay what is due.
fn alone(command: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the asynchronous runtime could not be started")?;
    tokio::task::LocalSet::new().block_on(&runtime, command)
}

async fn load(context: &Context, args: Load) -> anyhow::Result<u8> {
    let screen = context.screen;
    let (objective, wanted) = wanted(&args)?;
    // Before minutes of load, not after them.
    for (name, file) in [("--out", &args.out), ("--html", &args.html)] {
        file.as_deref().map_or(Ok(()), |file| writable(name, file))?;
    }
    let place = Place::parse(&args.url)
        .map_err(|why| Refusal::new(Code::M002, "the URL cannot be measured").because(format!("it {why}")))?;
    let patience = args.patience.unwrap_or(match args.find {
        true => (objective.longest() * 4).max(Duration::from_secs(2)),
        false => Duration::from_secs(10).max(objective.longest() * 2),
    });
    if patience <= objective.longest() || patience > Duration::from_secs(600) {
        return Err(bad(
            "--patience",
            "is longer than every time of the objective, and at most 10m",
        )
        .into());
    }
    let plan = Plan {
        target: Target::find(place, args.fields, args.http2, args.ca.as_deref()).await?,
        objective,
        wanted,
        patience,
        seed: args.seed.unwrap_or_else(|| SystemClock.unix().0),
    };
    let live = screen.err_is_terminal && !args.json;
    let report = run(&plan, &mut |progress| {
        if live {
            screen.remark(&format!("\r{}\x1b[K", output::progress(&progress)));
        }
    })
    .await?;
    if live {
        screen.remark("\r\x1b[K");
    }
    if let Some(file) = &args.out {
        let text = serde_json::to_vec(&report)?;
        files::write_atomic(file, &text, 0o644).map_err(Refusal::from)?;
    }
    if let Some(file) = &args.html {
        files::write_atomic(file, page(&report).as_bytes(), 0o644).map_err(Refusal::from)?;
    }
    show(context, &report, args.json)
}

fn show(context: &Context, report: &Report, json: bool) -> anyhow::Result<u8> {
    match json {
        true => context.screen.json(report)?,
        false => context
            .screen
            .answer(&output::report(report, context.screen.out))?,
    }
    Ok(report.verdict.exit_status())
}

/// What was typed, checked before anything is sent.
fn wanted(args: &Load) -> Result<(Objective, Wanted), Refusal> {
    let objective: Objective =
        args.good
            .parse()
            .map_err(|why: pontoon_capacity::objective::BadObjective| {
                Refusal::new(Code::M001, "the objective cannot be read").because(format!("--good: {why}"))
            })?;
    let wanted = match (args.rate, args.time) {
        (Some(rate), Some(time)) => {
            a_rate("--rate", rate)?;
            if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&time) {
                return Err(bad("--for", "is from 1s to 1d"));
            }
            Wanted::Rate { rate, time }
        }
        _ => find(args, &objective)?,
    };
    Ok((objective, wanted))
}

fn find(args: &Load, objective: &Objective) -> Result<Wanted, Refusal> {
    if objective.longest().is_zero() {
        return Err(
            Refusal::new(Code::M001, "a search needs a time in its objective").because(format!(
                "--good {objective}: in overload answers come late before they fail"
            )),
        );
    }
    a_rate("--first-rate", args.first_rate)?;
    a_rate("--most-rate", args.most_rate)?;
    if args.first_rate > args.most_rate {
        return Err(bad("--first-rate", "is not above --most-rate"));
    }
    // Doubling and bisecting take half a minute, and fewer holds than a dozen tell next to nothing.
    let least = Duration::from_secs(60).max(objective.longest() * 200);
    if args.most_time < least || args.most_time > Duration::from_secs(86_400) {
        return Err(bad(
            "--most-time",
            &format!("is at least {least:?} with this objective, and at most 1d"),
        ));
    }
    if args.narrow == 0 {
        return Err(bad("--narrow", "is more than 0%"));
    }
    Ok(Wanted::Find {
        first: args.first_rate,
        most: args.most_rate,
        time: args.most_time,
        half_width: f64::from(args.narrow) / 100_000.0,
        recovery: !args.no_recovery,
    })
}

fn a_rate(name: &str, rate: f64) -> Result<(), Refusal> {
    match (0.1..=200_000.0).contains(&rate) {
        true => Ok(()),
        false => Err(bad(name, "is from 0.1 to 200000 requests a second")),
    }
}

fn bad(name: &str, rule: &str) -> Refusal {
    Refusal::new(Code::M004, "no such load can be made").because(format!("{name} {rule}"))
}

fn writable(name: &str, file: &std::path::Path) -> Result<(), Refusal> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => std::path::Path::new("."),
    };
    match folder.is_dir() && !file.is_dir() {
        true => Ok(()),
        false => Err(
            Refusal::new(Code::M005, "the result could not be written").because(format!(
                "{name} {}: that is no file in a folder that is there",
                file.display()
            )),
        ),
    }
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("is not FIELD: VALUE")?;
    let (name, value) = (name.trim(), value.trim());
    // RFC 9110, 5.1 and 5.5.
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err("has no name of a field before the colon".to_owned());
    }
    if value.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("has a control character in its value".to_owned());
    }
    let ours = [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "upgrade",
        "te",
    ];
    if ours.iter().any(|own| name.eq_ignore_ascii_case(own)) {
        return Err(format!("{name:?} is set by the generator"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn compare_runs(context: &Context, args: &Compare) -> anyhow::Result<u8> {
    let read = |file: &std::path::Path| {
        Written::read(file, |text| {
            serde_json::from_slice(text).map_err(|error| error.to_string())
        })
    };
    let found = compare(&read(&args.first)?, &read(&args.second)?)?;
    let verdict = args
        .fail_if_worse
        .map_or(Verdict::Pass, |share| found.verdict(f64::from(share) / 100_000.0));
    match args.json {
        true => context
            .screen
            .json(&json!({ "verdict": verdict, "comparison": found }))?,
        false => context
            .screen
            .answer(&output::comparison(&found, args.fail_if_worse, verdict))?,
    }
    Ok(verdict.exit_status())
}

async fn check_itself(context: &Context, args: Selftest) -> anyhow::Result<u8> {
    let mut virtually = Vec::new();
    let mut really = Vec::new();
    for class in Class::ALL {
        virtually.push(selftest::in_virtual_time(class, args.runs, args.seed));
        if args.real > 0 {
            really.push(selftest::over_connections(class, args.real, args.seed).await?);
        }
    }
    match args.json {
        true => context
            .screen
            .json(&json!({ "virtual_time": virtually, "connections": really }))?,
        false => context
            .screen
            .answer(&output::selftest(&virtually, &really, context.screen.out))?,
    }
    let good = virtually.iter().chain(&really).all(selftest::Judged::is_good);
    Ok(if good { 0 } else { Verdict::Threshold.exit_status() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_cannot_smuggle_another_one() {
        assert_eq!(field("X-A: b c"), Ok(("X-A".to_owned(), "b c".to_owned())));
        for wrong in [
            "X-A",
            ": b",
            "X A: b",
            "X-A: b\r\nHost: c",
            "Host: c",
            "transfer-encoding: chunked",
            "é: b",
        ] {
            assert!(field(wrong).is_err(), "{wrong:?}");
        }
    }
}
