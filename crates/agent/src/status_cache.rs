//! What is wrong with the cache. Pure.

use std::collections::BTreeMap;

use pontoon_fleet::{Role, ServerName, ServerState};

use crate::api::{Health, Problem};
use crate::cache::report;
use crate::status::StatusInputs;

/// Adds what is wrong.
pub(crate) fn cache(inputs: &StatusInputs<'_>, problems: &mut Vec<Problem>) {
    let Some(cache) = &inputs.view.cache else { return };
    let mut add = |what: String, done: &str, next: &str| {
        problems.push(Problem {
            health: Health::Degraded,
            what,
            done: Some(done.to_owned()),
            next: vec![next.to_owned()],
        });
    };
    if cache.list.as_ref().is_none_or(|list| !list.open) {
        add(
            "the list of cache servers changes: nothing is cached at the moment".to_owned(),
            "it is served as soon as every server has let go of the list before it",
            "pontoon status",
        );
    }
    let mut silent: BTreeMap<&ServerName, (&str, usize)> = BTreeMap::new();
    for server in &inputs.view.servers {
        let runs = server.roles.contains(&Role::App) || server.roles.contains(&Role::Cache);
        if !runs || server.state == ServerState::Unreachable {
            continue;
        }
        let name = &server.name;
        let Some(report) = inputs.reports.get(name).and_then(|heard| report(&heard.report)) else {
            let done = format!("the agent on {name} starts it again by itself");
            add(
                format!("the cache proxy on {name} does not report"),
                &done,
                "pontoon events",
            );
            continue;
        };
        if let Some(why) = &report.trouble {
            let what = format!("the cache server {name} serves nobody: {why}");
            add(
                what,
                "its keys are not cached; the others are",
                "pontoon explain K001",
            );
        }
        for address in &report.not_listening {
            let what = format!("the cache proxy on {name} cannot listen: {address}");
            add(what, "it tries again ten times a second", "ss -lntp");
        }
        for seen in &report.servers {
            if let Some(why) = &seen.trouble {
                silent.entry(&seen.server).or_insert((why, 0)).1 += 1;
            }
        }
    }
    for (server, (why, count)) in silent {
        let proxies = if count == 1 {
            "1 proxy".to_owned()
        } else {
            format!("{count} proxies")
        };
        let what = format!("the cache server {server} does not answer {proxies}: {why}");
        add(what, "its keys are not cached; the others are", "pontoon events");
    }
}
