//! `pontoon address status` and `pontoon address test`, for people.

use std::fmt::Write;

use pontoon_address::rehearsal::{Learner, Outcome};
use pontoon_agent::api::AskedAddress;
use pontoon_fleet::{Code, Refusal};

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
    text.push_str(&routing(standing));
    text
}

/// Who gives a provider orders, and what stands in the way.
fn routing(standing: &Standing) -> String {
    let mut text = String::new();
    let mut orders = standing.routing.iter().filter(|(_, report)| report.orders);
    // Writing to a String cannot fail.
    match (orders.next(), standing.routing.values().next()) {
        (Some((name, report)), _) => {
            let _ = writeln!(text, "{name} gives the orders ({})", report.method);
            for routed in &report.addresses {
                if let Some(trouble) = &routed.trouble {
                    let _ = writeln!(text, "{} is to be at {}: {trouble}", routed.address, routed.to);
                }
            }
        }
        (None, Some(report)) => {
            let _ = writeln!(
                text,
                "nobody gives the orders now ({}): addresses stay where they are",
                report.method
            );
        }
        (None, None) => {}
    }
    for (name, report) in &standing.routing {
        for trouble in &report.trouble {
            let _ = writeln!(text, "{name}: {trouble}");
        }
    }
    text
}

/// What a provider said of every address.
pub fn asked(asked: &[AskedAddress], paint: Paint) -> String {
    let mut text = String::new();
    for one in asked {
        let found = match (&one.at, &one.trouble) {
            (_, Some(trouble)) => trouble.clone(),
            (Some(at), None) => at.clone(),
            (None, None) => "no answer".to_owned(),
        };
        let line = format!("{} of {}: {found} ({} ms)", one.address, one.home, one.took_ms);
        let line = if one.fleet { line } else { paint.warn(&line) };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Why this server could not move an address; `None` when it could move all.
pub fn unanswered(asked: &[AskedAddress]) -> Option<Refusal> {
    let mut bad = asked.iter().filter(|one| !one.fleet).peekable();
    bad.peek()?;
    let title = "the provider does not say of every address that a server of the fleet has it";
    let mut refusal = Refusal::new(Code::A004, title);
    for one in bad {
        let why = one
            .trouble
            .clone()
            .or_else(|| Some(format!("it is at {}", one.at.as_ref()?)));
        refusal = refusal.because(format!("{}: {}", one.address, why.unwrap_or_default()));
    }
    Some(refusal.next("see where they should be", "pontoon address status"))
}

/// What a rehearsal came to: a line for each who had to learn.
pub fn rehearsal(outcome: &Outcome, paint: Paint) -> String {
    let addresses: Vec<String> = outcome.addresses.iter().map(ToString::to_string).collect();
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} took {} of {}",
        outcome.at,
        addresses.join(" "),
        outcome.home
    );
    let mut line = |what: String, after: Option<u64>, missing: &str| {
        let line = match after {
            Some(ms) => format!("  {what}: {ms} ms"),
            None => paint.warn(&format!("  {what}: {missing}")),
        };
        let _ = writeln!(text, "{line}");
    };
    line(
        format!("{} let go", outcome.home),
        outcome.let_go_ms,
        "not heard of",
    );
    match &outcome.gateway {
        Some(gateway) => line(
            format!("the gateway {} sends here", gateway.ip),
            gateway.learned_ms,
            NEVER,
        ),
        None => line("no gateway is known".to_owned(), None, "set ip.gateway"),
    }
    for neighbour in &outcome.neighbours {
        line(
            format!("{} sends here", neighbour.ip),
            neighbour.learned_ms,
            NEVER,
        );
    }
    line(
        format!("at {} again, after the hand-over", outcome.home),
        outcome.home_again_ms,
        "not yet",
    );
    text
}

/// Who did not learn in a rehearsal that was not good.
pub fn unlearned(outcome: &Outcome) -> Refusal {
    let title = format!(
        "a takeover of the addresses of {} by {} would not reach everybody",
        outcome.home, outcome.at
    );
    let mut refusal = Refusal::new(Code::A003, title);
    let missing = |learner: &&Learner| learner.learned_ms.is_none();
    let learners = outcome.gateway.iter().chain(&outcome.neighbours);
    for learner in learners.filter(missing) {
        refusal = refusal.because(format!("{} {NEVER}", learner.ip));
    }
    if outcome.let_go_ms.is_none() {
        refusal = refusal.because(format!("{} was not heard to let go", outcome.home));
    }
    if outcome.home_again_ms.is_none() {
        refusal = refusal.because(format!("{} was not heard to have them again", outcome.home));
    }
    refusal.next("see where they are", "pontoon address status")
}

const NEVER: &str = "sent nothing here while the rehearsal ran";
