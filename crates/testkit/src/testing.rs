//! Tests in a lab: an ordinary `#[test]` that runs itself again in private namespaces.
//!
//! ```no_run
//! # use pontoon_testkit::{LabError, in_lab};
//! # use std::time::Duration;
//! #[test]
//! fn two_servers_see_each_other() -> Result<(), LabError> {
//!     in_lab("two_servers_see_each_other", Duration::from_secs(30), |mut lab| async move {
//!         let a = lab.add_server("a", vec![]).await?;
//!         let b = lab.add_server("b", vec![]).await?;
//!         a.exec("ip", &["route", "get", &b.private().to_string()]).await?;
//!         Ok(())
//!     })
//! }
//! ```

use std::fs;
use std::future::Future;
use std::io::Write;
use std::time::Duration;

use crate::enter::{EnterOptions, Entered, Inside, enter};
use crate::lab::Lab;
use crate::{LabError, Skip};

/// Runs `body` in a lab of its own. `name` is the name of the calling test as the test harness knows it (with its
/// modules); a wrong one is noticed. What cannot be had here is printed as `SKIPPED: reason` and passes.
///
/// # Errors
/// When `body` fails or takes longer than `limit`.
pub fn in_lab<F, B>(name: &str, limit: Duration, body: F) -> Result<(), LabError>
where
    F: FnOnce(Lab) -> B,
    B: Future<Output = Result<(), LabError>>,
{
    let args = [
        name,
        "--exact",
        "--nocapture",
        "--test-threads=1",
        "--include-ignored",
    ];
    let limit_outside = Some(limit + Duration::from_secs(10));
    let options = EnterOptions {
        args: args.map(Into::into).into(),
        limit: limit_outside,
        ..EnterOptions::default()
    };
    let outside = match enter(options) {
        Ok(Entered::Inside(inside)) => return run_inside(inside, limit, body),
        Ok(Entered::Outside(outside)) => outside,
        Err(LabError::Skip(skip)) => {
            say(&skip);
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    // The verdict is a file, not the exit status alone: a harness that found no such test is content too.
    let verdict_file =
        fs::File::create_new(outside.workdir().join(VERDICT_FILE)).map_err(LabError::io("verdict"))?;
    let status = outside.wait()?;
    let passed = verdict_file.metadata().map_err(LabError::io("verdict"))?.len() > 0;
    match (status.success(), passed) {
        (true, true) => Ok(()),
        (true, false) => Err(LabError::Unknown(format!(
            "there is no test {name:?} in this program"
        ))),
        (false, _) => Err(LabError::App(format!(
            "test {name:?} failed in the lab ({status}); see above"
        ))),
    }
}

/// Prints why something was skipped where the test harness does not swallow it.
pub fn say(skip: &Skip) {
    let _ = writeln!(std::io::stdout(), "{skip}");
}

fn run_inside<F, B>(inside: Inside, limit: Duration, body: F) -> Result<(), LabError>
where
    F: FnOnce(Lab) -> B,
    B: Future<Output = Result<(), LabError>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.map_err(LabError::io("runtime"))?;
    let verdict = inside.workdir().join(VERDICT_FILE);
    let result = runtime.block_on(async {
        let lab = Lab::new(inside).await?;
        tokio::time::timeout(limit, body(lab))
            .await
            .map_err(|_| LabError::Timeout {
                what: "the test".to_owned(),
                after: limit,
            })?
    });
    runtime.shutdown_background();
    match result {
        Ok(()) => {}
        Err(LabError::Skip(skip)) => say(&skip),
        Err(e) => return Err(e),
    }
    fs::write(verdict, "ran\n").map_err(LabError::io("verdict"))
}

const VERDICT_FILE: &str = "verdict";
