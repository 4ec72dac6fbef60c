//! `pontoon address status`, for people.

use std::fmt::Write;

use crate::commands::address::Standing;
use crate::output::paint::Paint;

/// A line for each home, then what stands in the way of a takeover.
pub fn render(standing: &Standing, paint: Paint) -> String {
    let mut text = String::new();
    let wide = |longest: usize, word: &str| longest.max(word.chars().count());
    let width = standing
        .homes
        .iter()
        .fold(4, |longest, home| wide(longest, home.home.as_str()));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:width$}  {:10}  ADDRESSES", "HOME", "HELD BY");
    for home in &standing.homes {
        let holders: Vec<&str> = home.holders.iter().map(|holder| holder.as_str()).collect();
        let held = match holders.as_slice() {
            [] => "nobody".to_owned(),
            all => all.join(", "),
        };
        let addresses: Vec<String> = home.addresses.iter().map(ToString::to_string).collect();
        let moving = if home.moving { "  moving" } else { "" };
        let line = format!(
            "{:width$}  {held:10}  {}{moving}",
            home.home.as_str(),
            addresses.join(" ")
        );
        let well = holders == [home.home.as_str()];
        let line = if well { line } else { paint.warn(&line) };
        let _ = writeln!(text, "{line}");
    }
    for voice in &standing.servers {
        let name = &voice.server;
        let Some(report) = &voice.report else {
            let why = if voice.reachable {
                "its address process does not run"
            } else {
                "it does not answer"
            };
            let _ = writeln!(text, "{name}: {why}");
            continue;
        };
        for trouble in &report.trouble {
            let _ = writeln!(text, "{name}: {trouble}");
        }
        if !report.fit {
            let _ = writeln!(text, "{name}: its edge does not serve");
        }
        let others = standing
            .servers
            .iter()
            .filter(|other| other.server != *name && other.report.is_some());
        let unheard: Vec<&str> = others
            .filter(|other| !report.hears.contains(&other.server))
            .map(|other| other.server.as_str())
            .collect();
        if !unheard.is_empty() {
            let _ = writeln!(text, "{name}: does not hear {}", unheard.join(", "));
        }
        match (report.gateway, report.gateway_returns) {
            (None, _) => {
                let _ = writeln!(text, "{name}: no gateway is known: set ip.gateway");
            }
            (Some(gateway), false) => {
                let _ = writeln!(
                    text,
                    "{name}: the gateway {gateway} has not answered an echo request from an address that moves"
                );
            }
            (Some(_), true) => {}
        }
    }
    text
}
