//! The timeline, a line each.

use pontoon_fleet::{Event, Severity};

use super::paint::{Paint, harmless};
use super::when;

/// `2026-11-22 12:04:31.250  b  a stopped answering: connection refused`
pub fn line(event: &Event, paint: Paint) -> String {
    let what = harmless(&event.kind.to_string());
    let what = match event.kind.severity() {
        Severity::Info => what,
        Severity::Warning => paint.warn(&what),
        Severity::Error => paint.bad(&what),
    };
    format!(
        "{}  {:<8}  {what}\n",
        paint.faint(&when::date_clock(event.at)),
        event.server
    )
}
