//! `pontoon init`: looks at this machine, founds a fleet and writes fleet.toml. Starts nothing, touches no database.

mod found;
mod room;
mod settle;

use std::time::Duration;

use pontoon_agent::detect::disk;
use pontoon_config::{Config, starter};
use pontoon_fleet::{Code, EventKind, Refusal, UnixMillis};
use pontoon_pki::{Authority, Identity, Pin, SERVER_LIFETIME};
use pontoon_rt::clock::{Clock, SystemClock};
use pontoon_rt::files;
use pontoon_rt::paths::Paths;
use pontoon_telemetry::events::EventLog;
use serde_json::json;

use super::{Context, machine};
use crate::args::Init;
use crate::output::init::{Founded, render};
use found::Found;
use settle::{Settled, settle};

/// Carries it out.
pub async fn init(context: &Context, args: Init) -> anyhow::Result<u8> {
    let paths = &context.paths;
    let now = SystemClock.unix();
    room::check(context, args.force).await?;
    let found = Found::look(&args).await?;
    let settled = settle(&found, &args)?;
    let text = starter(&settled.starter);
    // A file that this very program would refuse is never written.
    Config::parse(&text).map_err(|errors| {
        errors.iter().fold(
            Refusal::new(Code::N007, "what was found here does not make a configuration"),
            |refusal, error| refusal.because(error.to_string()),
        )
    })?;
    let moved = if args.force {
        room::make(paths, now)?
    } else {
        Vec::new()
    };
    room::end_idle_agent(paths).await?;
    machine::make_dirs(paths).await;
    let pin = establish(paths, &settled, &found, &text, now)?;
    let founded = Founded {
        machine: found.in_words(),
        fleet: settled.starter.fleet.clone(),
        server: settled.starter.server.clone(),
        pin: pin.to_string(),
        config: paths.config.clone(),
        lines: text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
            .count(),
        moved,
        notes: settled.notes,
    };
    if args.json {
        context.screen.json(&json!({
            "fleet": founded.fleet,
            "server": founded.server,
            "pin": founded.pin,
            "config": founded.config,
            "private": settled.starter.private,
            "public": settled.starter.public,
            "upstream": settled.starter.upstream,
            "health_path": settled.starter.health_path,
            "database": found.facts.database,
            "system": found.system,
            "moved": founded.moved.iter().map(|(from, to)| json!({ "from": from, "to": to })).collect::<Vec<_>>(),
            "notes": founded.notes,
        }))?;
    } else {
        context.screen.answer(&render(&founded, context.screen.out))?;
    }
    Ok(0)
}

/// Writes what makes this machine a fleet of one. When a step fails, what this very call wrote is taken back.
fn establish(
    paths: &Paths,
    settled: &Settled,
    found: &Found,
    text: &str,
    now: UnixMillis,
) -> Result<Pin, Refusal> {
    let (fleet, server, private) = (
        &settled.starter.fleet,
        &settled.starter.server,
        settled.starter.private,
    );
    let authority = Authority::create(fleet, now)?;
    let (key, csr) = Identity::new_key_and_csr(server, private)?;
    let certificate = authority.sign_server(&csr, server, private, now, SERVER_LIFETIME)?;
    let identity = Identity::assemble(fleet.clone(), &key, &certificate, &authority.certificate_pem())?;

    // The configuration first: it is what most often cannot be written (not root), and nothing is there yet.
    if let Some(dir) = paths.config.parent() {
        files::create_dir(dir, 0o755).map_err(|error| not_root(error.into()))?;
    }
    files::create_dir(&paths.state_dir, 0o750).map_err(|error| not_root(error.into()))?;
    let staged = paths
        .state_dir
        .join(format!("identity.new-{}", std::process::id()));
    files::write_atomic(&paths.config, text.as_bytes(), 0o644).map_err(|error| not_root(error.into()))?;
    let written = (|| {
        if let Some(database) = &found.node {
            machine::keep_database(paths, database)?;
        }
        authority.save(&staged)?;
        identity.save(&staged)?;
        disk::found(paths, server)?;
        for path in [&staged, &paths.keeper_file()] {
            machine::give_away(paths, path)?;
        }
        // One rename makes this machine a member; an empty directory in its place gives way (rename(2)).
        std::fs::rename(&staged, paths.identity_dir()).map_err(|error| {
            Refusal::new(
                Code::N006,
                format!("cannot create {}", paths.identity_dir().display()),
            )
            .because(error.to_string())
        })
    })();
    if let Err(refusal) = written {
        // Both were made by this call a moment ago and hold nothing of the operator's.
        let _ = std::fs::remove_dir_all(&staged);
        let _ = files::remove_optional(&paths.config);
        return Err(not_root(refusal));
    }
    let timeline = EventLog::open(&paths.events_file(), server.clone());
    timeline.record(EventKind::FleetFounded {
        fleet: fleet.to_string(),
    });
    // A fleet whose first line is missing is a fleet all the same.
    timeline.flush(Duration::from_secs(2));
    machine::give_away(paths, &paths.events_file())?;
    Ok(authority.pin())
}

fn not_root(refusal: Refusal) -> Refusal {
    if rustix::process::geteuid().is_root() {
        return refusal;
    }
    refusal
        .because("this is not root")
        .next("as root", "sudo pontoon init")
        .next(
            "only to try it",
            "pontoon init --config ./fleet.toml --state-dir ./state --run-dir ./run",
        )
}
