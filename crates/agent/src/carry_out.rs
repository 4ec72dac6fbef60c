//! Makes this server as its configuration says. It looks at what is and does what is missing, so that it can be killed
//! anywhere and begun again: at every start of the agent, and whenever a revision was activated.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_config::{Config, Db, Server};
use pontoon_fleet::{
    Code, Epoch, EventKind, LeaseRecord, ListenAddress, Refusal, Revision, Role, ServerName,
};
use pontoon_lease::{LeaseStore, Single, Swap};
use pontoon_replication::{Database, Place, Wanted};
use tokio::time::sleep;

use crate::core::{Active, Agent};
use crate::failover;

/// Between two looks whether a helper that did not answer is back.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) {
    let mut without_helper = false;
    loop {
        tokio::select! {
            () = agent.to_carry_out.notified() => {}
            () = helper_answers(&agent), if without_helper => {}
            () = agent.shutdown.requested() => return,
        }
        // A join or a leave that is under way does the same things in its own order.
        let _changing = agent.changing.lock().await;
        once(&agent).await;
        // Only what failed for want of the helper is tried again by itself: a database that does not start must not be
        // started over and over.
        without_helper = agent.known().trouble.is_some() && agent.helper().state().await.is_err();
    }
}

async fn helper_answers(agent: &Agent) {
    while agent.helper().state().await.is_err() {
        sleep(LOOK).await;
    }
}

/// One pass, with its result noted. The caller holds `changing`.
pub(crate) async fn once(agent: &Agent) {
    let Some(active) = agent.active() else { return };
    let revision = active.committed.revision;
    match carry_out(agent, &active).await {
        Ok(()) => settled(agent, revision),
        Err(refusal) => {
            tracing::error!(%refusal, %revision, "this server is not as configured");
            let (code, reason) = (refusal.code, refusal.to_string());
            agent.record(EventKind::RevisionRefused {
                revision,
                code,
                reason,
            });
            agent.known().trouble = Some(refusal);
        }
    }
    agent.changed.notify_one();
}

fn settled(agent: &Agent, revision: Revision) {
    let mut known = agent.known();
    known.settled = revision;
    known.trouble = None;
    drop(known);
    if let Err(refusal) = agent.store.save_settled(&revision) {
        tracing::error!(%refusal, "the revision is carried out and not noted");
    }
}

/// One pass. The tiers are not here: `supervise` starts them as soon as the configuration is active, and they take their
/// addresses when the database has left them.
async fn carry_out(agent: &Agent, active: &Active) -> Result<(), Refusal> {
    let me = agent.member()?.me;
    let Some(server) = active.config.server(&me) else {
        return Ok(());
    };
    let Some(db) = active
        .config
        .db
        .as_ref()
        .filter(|db| db.is_ours() && active.config.runs_database(server))
    else {
        return Ok(());
    };
    grant_first_lease(agent, &active.config).await?;
    let database = open_database(agent, db).await?;
    let known = agent.known().lease.clone();
    let replica = match known {
        Some(lease) => lease.leader != me,
        // The first record is written by the failover of the server whose database serves, once that is set up.
        None if failover::is_shared(&active.config) => {
            first_leader(&active.config, &agent.member()?.keeper).is_some_and(|first| first != me)
        }
        // Nobody may write before the lease says who: the agent that holds the store will tell.
        None => return Err(no_lease()),
    };
    let wanted = wanted(agent, db, server, replica)?;
    let before = database.helper().state().await?;
    let was_aside = before.settings_written;
    let moved = if failover::takes_part(&active.config, &me) {
        failover::at_rest(agent).await?;
        let settled = agent.known().settled >= active.committed.revision;
        if settled && was_aside && !database.answers().await {
            // It has its settings, and is down or was killed just now: what becomes of it is for failover to say.
            return Ok(());
        }
        // Down with settings of another revision, it may be a primary whose last writes nobody acknowledged: that is for
        // failover to say too, once this revision is settled.
        match was_aside {
            true => database.keep_aside(&wanted).await?,
            false => database.move_aside(&wanted).await?,
        }
    } else {
        database.move_aside(&wanted).await?
    };
    for note in &moved.notes {
        tracing::info!("{note}");
    }
    if !moved.interruption.is_zero() {
        agent.record(if was_aside {
            EventKind::DatabaseRestarted {
                reason: "it did not run, or not with the settings that it needs".to_owned(),
            }
        } else {
            let (from, to) = (
                format!("port {}", database.node().port),
                format!("port {}", db.server_port),
            );
            EventKind::DatabaseMoved { from, to }
        });
    }
    Ok(())
}

/// The database of this server, opened once.
pub(crate) async fn open_database(agent: &Agent, db: &Db) -> Result<Arc<Database>, Refusal> {
    let mut slot = agent.database.write().await;
    let place = place(db);
    let delay = own_delay(agent);
    if let Some(database) = slot.as_ref().filter(|database| database.place() == &place) {
        database.want_delay(delay);
        return Ok(database.clone());
    }
    let database = Database::open(&agent.paths, place)?.ok_or_else(|| {
        Refusal::new(
            Code::D009,
            "it is not known how the database of this server is run",
        )
        .because(format!("{} has no [database]", agent.paths.node_file().display()))
    })?;
    database.want_delay(delay);
    Ok(slot.insert(Arc::new(database)).clone())
}

/// By how many seconds the copy of this server stays behind on purpose.
fn own_delay(agent: &Agent) -> u64 {
    let (Some(membership), Some(active)) = (agent.membership(), agent.active()) else {
        return 0;
    };
    let server = active.config.server(&membership.me);
    server
        .and_then(|server| server.delay)
        .map_or(0, |delay| delay.as_secs())
}

/// Where the server goes so that the SQL proxy can have its old places.
fn place(db: &Db) -> Place {
    let moves_socket = db.proxy
        && db
            .listen
            .iter()
            .any(|address| matches!(address, ListenAddress::Unix(_)));
    let name = db
        .server_socket
        .as_ref()
        .filter(|_| moves_socket)
        .and_then(|path| path.file_name());
    Place {
        port: db.server_port,
        socket_name: name.map(|name| name.to_string_lossy().into_owned()),
    }
}

/// What the database of `server` shall be.
pub(crate) fn wanted(agent: &Agent, db: &Db, server: &Server, replica: bool) -> Result<Wanted, Refusal> {
    wanted_at(agent, db, server.private, replica)
}

/// The same for a server that is not in the configuration yet.
pub(crate) fn wanted_at(agent: &Agent, db: &Db, private: IpAddr, replica: bool) -> Result<Wanted, Refusal> {
    let failover = agent.has_shared_lease();
    Ok(Wanted {
        port: db.server_port,
        // From the first day, so that a second server can join without a restart of the first one's database.
        private: Some(private),
        replica,
        tls: true,
        by_position: false,
        failover,
        inherited: if replica {
            agent.store.inherited()?.unwrap_or_default()
        } else {
            Vec::new()
        },
    })
}

/// On the server that holds the lease store: the first record, once there is a database to lead.
pub(crate) async fn grant_first_lease(agent: &Agent, config: &Config) -> Result<(), Refusal> {
    let membership = agent.member()?;
    if membership.keeper != membership.me || failover::is_shared(config) {
        return Ok(());
    }
    let store = Single::new(agent.paths.lease_file());
    if let Some((record, _)) = store.read().await? {
        agent.learn_lease(&record);
        return Ok(());
    }
    // A store that was lost does not make another server primary: what was known goes back into it.
    let known = agent.known().lease.clone();
    let first = match known {
        Some(known) => known,
        None => LeaseRecord {
            epoch: Epoch(1),
            leader: first_leader(config, &membership.me).ok_or_else(no_lease)?,
        },
    };
    match store.compare_and_swap(None, &first).await? {
        Swap::Won(_) => agent.learn_lease(&first),
        Swap::Lost(Some((record, _))) => agent.learn_lease(&record),
        Swap::Lost(None) => return Err(no_lease()),
    }
    Ok(())
}

/// The founder if it has a database, otherwise the first server that has.
pub(crate) fn first_leader(config: &Config, founder: &ServerName) -> Option<ServerName> {
    let mut candidates = config
        .with_role(Role::Db)
        .filter(|server| config.runs_database(server) && server.delay.is_none());
    let own = config
        .server(founder)
        .filter(|server| config.runs_database(server));
    own.or_else(|| candidates.next())
        .map(|server| server.name.clone())
}

fn no_lease() -> Refusal {
    Refusal::new(Code::F001, "no server holds the lease: nobody may be primary")
        .because("the lease store is on the server that founded the fleet; it has not been heard of")
        .next("see who answers", "pontoon status")
}
