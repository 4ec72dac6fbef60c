//! Gives this server back: tiers stop, the database returns to its old place, what made it a member is renamed aside.
//! Nothing of the user's is deleted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pontoon_config::Server;
use pontoon_fleet::{Code, EventKind, Refusal, Role, ServerName};
use pontoon_pki::IdentityFiles;
use pontoon_rt::files;
use pontoon_rt::http::Call;

use crate::authorise::is_control;
use crate::core::{Active, Agent};
use crate::peer::Done;
use crate::reporter::Reporter;
use crate::{carry_out, dial, drain, failover, supervise};

/// Leaves the fleet. Repeatable: what is already done is skipped.
pub(crate) async fn leave(agent: &Arc<Agent>, reporter: &Reporter) -> Result<String, Refusal> {
    let _changing = agent.changing.lock().await;
    let me = agent.member()?.me;
    let active = agent.active();
    if let Some(active) = &active {
        say_goodbye(agent, active, &me, reporter).await?;
    }

    reporter.step(&me, "stopping edge and SQL proxy").await;
    // Without an active configuration `supervise` wants no tier, and ends them.
    agent.known().active = None;
    agent.changed.notify_one();
    supervise::wait_until_stopped(agent).await?;
    failover::at_end(agent).await?;

    let db = active
        .as_ref()
        .and_then(|active| active.config.db.clone())
        .filter(|db| db.is_ours());
    if let Some(db) = db
        && let Ok(database) = carry_out::open_database(agent, &db).await
    {
        reporter.step(&me, "moving the database back").await;
        let moved = database.move_back().await?;
        *agent.database.write().await = None;
        let node = database.node();
        agent.record(EventKind::DatabaseMoved {
            from: format!("port {}", db.server_port),
            to: format!("port {}", node.port),
        });
        reporter
            .done(
                &me,
                &format!("database on port {} and {}", node.port, node.socket.display()),
            )
            .await;
        if let Some(moved) = moved {
            let text = format!("{} was renamed to {}", moved.from.display(), moved.to.display());
            reporter.note(text).await;
        }
    }

    agent.record(EventKind::ServerLeft { leaver: me.clone() });
    let suffix = format!("left-{}", agent.clock.unix().0 / 1000);
    let aside = agent.store.set_aside(&suffix)?;
    for (from, to) in &aside {
        reporter
            .note(format!("{} was renamed to {}", from.display(), to.display()))
            .await;
    }
    // Its password opens what the fleet's databases say of their users. A file of Pontoon's, not of the user's.
    files::remove_optional(&agent.paths.sql_account_file())?;
    if active.is_some_and(|active| active.config.servers.iter().any(|server| server.name != me)) {
        // The fleet goes on without this machine, which must not be able to make servers of it any more.
        let dir = agent.paths.state_dir.join(format!("identity.{suffix}"));
        files::remove_optional(&IdentityFiles::in_dir(&dir).ca_key)?;
        // Nor pass itself off as one to visitors.
        forget_visitors_keys(&aside)?;
    }
    agent.forget_everything();
    agent.set_membership(None);
    Ok(format!("{me} belongs to no fleet any more"))
}

/// Deletes the keys of visitors' certificates that an authority issued, and the one that signs the zone: files of Pontoon's, which the fleet still has.
fn forget_visitors_keys(aside: &[(PathBuf, PathBuf)]) -> Result<(), Refusal> {
    let was = |name: &str| {
        let is = move |(from, _): &&(PathBuf, PathBuf)| from.ends_with(name);
        aside.iter().find(is).map(|(_, to)| to.as_path())
    };
    for file in ["acme.json", "dnssec.key"] {
        if let Some(file) = was(file) {
            files::remove_optional(file)?;
        }
    }
    let failed = |dir: &Path| {
        let dir = dir.display().to_string();
        move |error: std::io::Error| {
            Refusal::new(Code::N006, format!("cannot delete {dir}")).because(error.to_string())
        }
    };
    match was("tls") {
        Some(dir) => std::fs::remove_dir_all(dir).map_err(failed(dir)),
        None => Ok(()),
    }
}

/// Lets the others take this server out of their configuration, unless it is the only one.
async fn say_goodbye(
    agent: &Arc<Agent>,
    active: &Active,
    me: &ServerName,
    reporter: &Reporter,
) -> Result<(), Refusal> {
    if active.config.server(me).is_none() {
        // Never became a member, or the others know already. Who admitted us should forget that we wanted to.
        if let Some(join) = agent.store.join()? {
            let call = Call::post(join.host.as_str(), "/p/v1/leave").timeout(Duration::from_secs(20));
            if let Err(refusal) =
                dial::ask::<_, Done>(agent, &join.host, join.address, &call, Some(&())).await
            {
                let text = format!("{} was not told that the join is given up: {refusal}", join.host);
                reporter.note(text).await;
            }
        }
        return Ok(());
    }
    let others: Vec<_> = active
        .config
        .servers
        .iter()
        .filter(|server| &server.name != me)
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    let membership = agent.member()?;
    if membership.keeper == *me {
        return Err(Refusal::new(
            Code::J008,
            format!("{me} cannot leave: it keeps the lease of the fleet"),
        )
        .because("the lease store `single` is on the server that founded the fleet")
        .next("let the others leave first; on each of them", "pontoon leave"));
    }
    let leads = agent
        .known()
        .lease
        .as_ref()
        .is_some_and(|lease| lease.leader == *me);
    if leads && others.iter().any(|server| server.roles.contains(&Role::Db)) {
        return Err(Refusal::new(
            Code::J008,
            format!("{me} cannot leave: its database is the primary"),
        )
        .because("the others follow it"));
    }
    let drained = drain::before_leaving(agent, me, reporter).await?;
    failover::step_out(agent, active, me, reporter).await;
    let told = tell_a_control_server(agent, me, &others, reporter).await;
    if told.is_err() {
        failover::step_back(agent).await;
        if drained {
            drain::set_mark(agent, me, false, false)?;
        }
    }
    told
}

async fn tell_a_control_server(
    agent: &Arc<Agent>,
    me: &ServerName,
    others: &[&Server],
    reporter: &Reporter,
) -> Result<(), Refusal> {
    reporter.step(me, "telling the other servers").await;
    let mut last = Refusal::new(Code::P004, "no control server of the fleet answers");
    for server in others {
        if !is_control(&server.roles.iter().copied().collect::<Vec<_>>()) {
            continue;
        }
        let address = dial::address_of(agent, &server.name)?;
        let call = Call::post(server.name.as_str(), "/p/v1/leave").timeout(Duration::from_secs(60));
        match dial::ask::<_, Done>(agent, &server.name, address, &call, Some(&())).await {
            Ok(gone) => {
                reporter
                    .done(
                        me,
                        &format!("not in the configuration since revision {}", gone.revision),
                    )
                    .await;
                return Ok(());
            }
            // A leave that was killed after this step is repeated: members may leave, so we are none any more.
            Err(refusal) if refusal.code == Code::J005 => return Ok(()),
            Err(refusal) => last = refusal,
        }
    }
    Err(last)
}
