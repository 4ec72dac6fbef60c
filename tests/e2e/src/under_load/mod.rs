//! A server joins while its source is written to: the data, the writers, the command on a terminal and the comparison
//! afterwards. `tests/join_under_load.rs` runs a small one; `script/bench join` the one that is measured.

mod data;
mod flat_out;
mod gate;
mod histories;
mod joined;
mod report;
mod terminal;
mod writers;

pub use data::{fill, size_bytes};
pub use flat_out::FlatOut;
pub use histories::Histories;
pub use joined::{Comparison, compare, database_socket, nothing_lost};
pub use report::{Machine, Report};
pub use terminal::{Screen, on_a_terminal};
pub use writers::{Changes, Ledger, Span, Writers};

use std::time::{Duration, Instant};

use pontoon_testkit::database::{connect_root, rows};
use pontoon_testkit::{DatabaseOptions, Lab, LabError, Server};

use crate::fleet::{Engine, Fleet, expect};

/// How much, how fast.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which database.
    pub engine: Engine,
    /// Size of the data in MiB, as files on disk.
    pub mebibytes: u64,
    /// Commits per second.
    pub rate: u32,
    /// How long the writers write before the join begins, so that there is something to compare with.
    pub before: Duration,
    /// Whether tables are made, altered and dropped meanwhile.
    pub changes: bool,
    /// Lines for the option files of both databases.
    pub config: Vec<String>,
}

/// Makes a fleet of one with data in it, lets a second server join under writes, and compares the two.
///
/// # Errors
/// When a step fails. That the servers differ or a write was slow is in the report, not an error.
pub async fn join(lab: Lab, options: &Options) -> Result<Report, LabError> {
    let database = DatabaseOptions {
        config: options.config.clone(),
        ..DatabaseOptions::default()
    };
    let fleet = Fleet::with(lab, options.engine, database).await?;
    let begun = Instant::now();
    fill(&fleet.a, options.mebibytes).await?;
    let filled = begun.elapsed();
    fleet.found().await?;
    let mebibytes = size_bytes(&fleet.a) >> 20;

    let writers = Writers::start(&fleet.a, options.rate).await?;
    let changes = match options.changes {
        true => Some(Changes::start(&fleet.a).await?),
        false => None,
    };
    fleet.prepare_joiner().await?;
    let token = fleet.token().await?;
    tokio::time::sleep(options.before).await;
    let quiet = writers.span();

    let command = fleet.join_command(&token);
    let screen = on_a_terminal(&fleet.b, &command).await?;
    let span = writers.span();
    // What was begun under the join may end after it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = writers.span();
    let slowest_change = match changes {
        Some(changes) => Some(changes.stop().await?),
        None => None,
    };
    let ledger = writers.stop().await;
    expect(screen.status == 0, || {
        format!("join ended with {}:\n{}", screen.status, screen.text())
    })?;
    let comparison = compare(&fleet.a, &fleet.b, options.engine, &ledger).await?;
    Ok(Report {
        machine: Machine::look(format!("{:?} {}", options.engine, version(&fleet.a).await?)),
        mebibytes,
        rate: options.rate,
        fill_seconds: filled.as_secs_f64(),
        join_seconds: screen.seconds,
        steps: screen.steps(),
        bar: screen.bar(),
        before: quiet.summary(),
        during: span.summary(),
        after: after.summary(),
        slow: span.slow(Duration::from_millis(250)),
        slowest_change_ms: slowest_change.map(|slowest| slowest.as_millis()),
        failures: ledger.failures.clone(),
        comparison,
        screen: screen.text(),
    })
}

async fn version(server: &Server) -> Result<String, LabError> {
    let mut root = connect_root(&database_socket(server)?).await?;
    let found: Vec<String> = rows(&mut root, "SELECT VERSION()").await?;
    Ok(found.concat())
}
