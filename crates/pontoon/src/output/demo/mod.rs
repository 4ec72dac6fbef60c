//! What `pontoon demo` shows: how it goes, its report, and the ways in when it stays.

mod show;
mod text;

#[cfg(test)]
pub mod samples;

pub use show::Show;
pub use text::{Way, report_text, stay_text};
