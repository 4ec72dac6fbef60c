//! What is wrong with uploads. Pure.

use pontoon_fleet::{AssetsReport, Role, ServerState, Tier, TierDetail};

use crate::api::{Health, Problem};
use crate::status::StatusInputs;

/// A file that another server has and that is not here after so long is a problem.
const LATE_MS: u64 = 60_000;

/// Adds what is wrong.
pub(crate) fn uploads(inputs: &StatusInputs<'_>, problems: &mut Vec<Problem>) {
    if inputs.view.assets.is_none() {
        return;
    }
    let mut add = |what: String, done: &str, next: &str| {
        problems.push(Problem {
            health: Health::Degraded,
            what,
            done: Some(done.to_owned()),
            next: vec![next.to_owned()],
        });
    };
    for server in inputs.view.with_role(Role::App) {
        if server.state == ServerState::Unreachable {
            continue;
        }
        let name = &server.name;
        let heard = inputs.reports.get(name);
        let detail = heard.and_then(|heard| Some(&heard.report.tier(Tier::Assets)?.detail));
        let Some(TierDetail::Assets(report)) = detail else {
            add(
                format!("the uploads on {name} are not looked after: its assets process does not report"),
                "the agent there starts it again by itself; the application goes on with the files it has",
                "pontoon events",
            );
            continue;
        };
        for (what, done, next) in found(report) {
            add(format!("uploads on {name}: {what}"), done, next);
        }
    }
}

fn found(report: &AssetsReport) -> Vec<(String, &'static str, &'static str)> {
    let mut found = Vec::new();
    if report.held_deletions > 0 {
        found.push((
            format!("{} files vanished in a short time", report.held_deletions),
            "no other server deletes them, and the bucket does not either, before you say so",
            "pontoon assets deletions",
        ));
    }
    if report.oldest_wanted_ms > LATE_MS {
        found.push((
            format!(
                "{} files of other servers are not here, the oldest since {} s",
                report.wanted,
                report.oldest_wanted_ms / 1000
            ),
            "they are asked for again and again",
            "pontoon assets status",
        ));
    }
    for trouble in &report.trouble {
        found.push((
            trouble.clone(),
            "it is tried again by itself",
            "pontoon assets status",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_late_or_broken_is_said_and_nothing_else() {
        let mut report = AssetsReport {
            wanted: 3,
            oldest_wanted_ms: 900,
            owed_to_bucket: 7,
            skipped: 2,
            ..AssetsReport::default()
        };
        assert!(found(&report).is_empty());
        report.held_deletions = 51;
        report.oldest_wanted_ms = LATE_MS + 1;
        report.trouble.push("the bucket does not answer".to_owned());
        let said = found(&report);
        assert_eq!(said.len(), 3);
        assert!(said[0].0.contains("51 files") && said[0].2 == "pontoon assets deletions");
    }
}
