//! How a measurement ends: what it says, and its exit code.
#![allow(clippy::print_stdout, reason = "its output is the result")]

use std::process::ExitCode;

use pontoon_testkit::LabError;

/// The exit code of what was measured: 0 when the promise is kept or what it needs is not there, 1 when it is not kept, and
/// 2 with `usage` when nothing has the name that was asked for.
pub fn with(measured: Result<Option<bool>, LabError>, usage: &str) -> ExitCode {
    match measured {
        Ok(Some(true)) => ExitCode::SUCCESS,
        Ok(Some(false)) => ExitCode::FAILURE,
        Ok(None) => {
            println!("{usage}");
            ExitCode::from(2)
        }
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

/// Measures on one thread, and ends [`with`] what came of it.
pub fn after(measuring: impl Future<Output = Result<Option<bool>, LabError>>, usage: &str) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => with(runtime.block_on(measuring), usage),
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
