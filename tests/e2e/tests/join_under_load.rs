//! A server joins while its source is written to: nothing is lost, the two hold the same, and an operator on a terminal
//! sees a bar. The figures of a database of 1 GiB come from `script/bench join`.

#![allow(
    clippy::print_stderr,
    reason = "a test that fails should have said what it measured"
)]

use std::time::Duration;

use pontoon_e2e::fleet::{Engine, expect};
use pontoon_e2e::under_load::{Options, join};
use pontoon_testkit::{LabError, in_lab};

fn small(engine: Engine) -> Options {
    Options {
        engine,
        mebibytes: 64,
        rate: 100,
        before: Duration::from_secs(2),
        changes: false,
        config: Vec::new(),
    }
}

async fn check(lab: pontoon_testkit::Lab, options: Options) -> Result<(), LabError> {
    let report = join(lab, &options).await?;
    eprintln!("{report}\n{}", report.screen);
    expect(report.comparison.holds(), || {
        format!("lost or different: {:?}", report.comparison)
    })?;
    expect(report.failures.is_empty(), || {
        format!("writes failed: {:?}", report.failures)
    })?;
    expect(report.bar.frames > 0, || "no bar was shown".to_owned())?;
    // A crowded machine stalls everybody now and then: only what no scheduler explains fails the test.
    expect(report.during.worst_ms < 5_000.0, || {
        format!("a write waited for {:.0} ms", report.during.worst_ms)
    })
}

#[test]
fn mariadb_is_copied_while_it_is_written_to() -> Result<(), LabError> {
    let name = "mariadb_is_copied_while_it_is_written_to";
    in_lab(name, Duration::from_secs(180), |lab| {
        check(lab, small(Engine::Mariadb))
    })
}

#[test]
fn tables_may_be_made_altered_and_dropped_meanwhile() -> Result<(), LabError> {
    let name = "tables_may_be_made_altered_and_dropped_meanwhile";
    let options = Options {
        changes: true,
        ..small(Engine::Mariadb)
    };
    in_lab(name, Duration::from_secs(180), |lab| check(lab, options))
}

#[test]
fn mysql_is_cloned_while_it_is_written_to() -> Result<(), LabError> {
    let name = "mysql_is_cloned_while_it_is_written_to";
    in_lab(name, Duration::from_secs(240), |lab| {
        check(lab, small(Engine::Mysql))
    })
}
