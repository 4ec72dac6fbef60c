//! The joiner's side: from a token to a member with a replica. What is done is on disk after each step, so that a join
//! which was killed anywhere is repeated with the same command and goes on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_config::Config;
use pontoon_decide::facts::ServerFacts;
use pontoon_fleet::{Code, EventKind, FleetName, Refusal, Role, ServerName, units};
use pontoon_helper::Node;
use pontoon_pki::{Identity, IdentityFiles, NewKey, Token, tls};
use pontoon_replication::{CloneProgress, CloneStep, Database, Method, SourceTicket};
use pontoon_rt::files;
use pontoon_rt::http::{self, Call};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;

use crate::api::{JoinRequest, Progress};
use crate::core::{Agent, Membership, activated, parse};
use crate::peer::{Done, Hello, Welcome};
use crate::reporter::Reporter;
use crate::store::JoinRecord;
use crate::{adopted, apply, carry_out, detect, dial, load_membership, observe};

/// How long a connection with its handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a fresh replica may take to have what its source has.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(600);
/// Between two words about it.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How long the agent of the source may be away meanwhile.
const SOURCE_PATIENCE: Duration = Duration::from_secs(20);

/// A replica that is no further behind than this has caught up.
const CAUGHT_UP_MS: u64 = 1_000;

/// Joins, or goes on with a join that was interrupted.
pub(crate) async fn join(
    agent: &Arc<Agent>,
    request: JoinRequest,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let _changing = match agent.changing.try_lock() {
        Ok(changing) => changing,
        Err(_) => {
            // Ctrl-C ended the looking at a join, not the join.
            reporter
                .step(&request.name, "waiting for what this agent is doing already")
                .await;
            agent.changing.lock().await
        }
    };
    let record = match agent.store.join()? {
        Some(record) if agent.membership().is_some() => {
            refuse_another_fleet(&record, &request)?;
            JoinRecord {
                copy: record.copy || request.copy,
                ..record
            }
        }
        _ => {
            if let Some(membership) = agent.membership() {
                if let Some(done) = joined_already(agent, &membership, &request) {
                    return Ok(done);
                }
                return Err(Refusal::new(
                    Code::J006,
                    format!("{} already belongs to a fleet", membership.me),
                )
                .because(format!("its fleet is {}", membership.identity.current().fleet()))
                .next("see it", "pontoon status")
                .next("to give it up", "pontoon leave"));
            }
            become_joiner(agent, &request, reporter).await?
        }
    };
    let record = copy_database(agent, record, reporter).await?;
    become_member(agent, &record, reporter).await
}

/// The answer to a join that is complete and repeated, such as after Ctrl-C: not a refusal.
fn joined_already(agent: &Agent, membership: &Membership, request: &JoinRequest) -> Option<String> {
    let token: Token = request.token.parse().ok()?;
    let identity = membership.identity.current();
    let active = agent.active()?;
    let is_same = request.name == membership.me && identity.pin().ok()? == token.pin;
    active.config.server(&membership.me).filter(|_| is_same)?;
    Some(format!(
        "{} is a member of fleet {} already, at revision {}",
        membership.me,
        identity.fleet(),
        active.committed.revision
    ))
}

/// Hello and welcome: afterwards this server has a certificate and knows the fleet's configuration.
async fn become_joiner(
    agent: &Arc<Agent>,
    request: &JoinRequest,
    reporter: &Reporter,
) -> Result<JoinRecord, Refusal> {
    let me = request.name.clone();
    let token: Token = request.token.parse().map_err(|error| {
        Refusal::new(Code::J002, "this is not a join token")
            .because(format!("{error}"))
            .next("make one, on a server of the fleet", "pontoon token new")
    })?;
    reporter.step(&me, "verifying the fleet's identity").await;
    let tcp = connect(request.address).await?;
    let own_address = tcp
        .local_addr()
        .map_err(|error| unreachable(request.address).because(error.to_string()))?
        .ip();
    let private = request.private.unwrap_or(own_address);
    let (stream, host, authority) =
        tls::connect_pinned(token.pin, request.address.ip(), tcp, CONNECT_TIMEOUT).await?;
    reporter
        .done(&me, "fleet identity verified (CA pin matches)")
        .await;

    let roles = request.roles.clone().unwrap_or_else(|| Role::ALL.to_vec());
    let facts = own_facts(agent, roles.contains(&Role::Db)).await?;
    let dir = agent.paths.identity_dir();
    let key = NewKey::pending(&dir)?;
    let hello = Hello {
        id: token.id.clone(),
        secret: token.secret.clone(),
        csr: key.csr(&me, private)?,
        name: me.clone(),
        private,
        public: request.public.clone(),
        roles: request.roles.clone(),
        facts,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let call = Call::post(host.as_str(), "/p/v1/join/hello").timeout(Duration::from_secs(20));
    let welcome: Welcome = http::call(stream, &call, Some(&hello)).await?;
    let record = JoinRecord {
        address: request.address,
        host,
        name: me.clone(),
        private,
        needs_database: welcome.source.is_some(),
        copy: request.copy,
        database_done: false,
    };
    keep(agent, &record, &key, welcome, &authority)?;
    reporter
        .done(&me, &format!("certificate issued for {me} (30 d)"))
        .await;
    Ok(record)
}

/// Writes everything that the welcome brought; the identity last, since it is what makes this server a joiner.
fn keep(
    agent: &Agent,
    record: &JoinRecord,
    key: &NewKey,
    welcome: Welcome,
    authority: &str,
) -> Result<(), Refusal> {
    if welcome.authority.trim() != authority.trim() {
        return Err(Refusal::new(
            Code::J003,
            "the fleet's answer names another authority than its certificate",
        ));
    }
    let config = parse(&welcome.config.text)?;
    let fleet: FleetName = config.fleet.name.clone();
    let dir = agent.paths.identity_dir();
    let identity = Identity::assemble(fleet, key, &welcome.certificate, authority)?;
    if let Some(secret) = &welcome.database_secret {
        files::write_atomic(
            &agent.paths.state_dir.join("database.secret"),
            secret.as_bytes(),
            0o600,
        )?;
    }
    match &welcome.sql_account {
        Some(account) => account.save(&agent.paths)?,
        None => files::remove_optional(&agent.paths.sql_account_file())?,
    }
    let ca_key = IdentityFiles::in_dir(&dir).ca_key;
    match &welcome.authority_key {
        Some(key) => files::write_atomic(&ca_key, key.as_bytes(), 0o600)?,
        // What an attempt at another fleet left would stand in the way of each renewal.
        None => files::remove_optional(&ca_key)?,
    }
    agent.store.save_keeper(&welcome.keeper)?;
    agent.store.save_active(&welcome.config)?;
    agent
        .store
        .keep_text(welcome.config.revision, &welcome.config.text)?;
    agent.store.save_drains(&welcome.drains)?;
    agent.store.save_join(record)?;
    identity.save(&dir)?;
    let mut known = agent.known();
    known.active = Some(activated(welcome.config)?);
    known.drains = welcome.drains;
    drop(known);
    if let Some(lease) = &welcome.lease {
        agent.learn_lease(lease);
    }
    agent.name_events_after(&record.name);
    agent.set_membership(load_membership(&agent.paths)?);
    Ok(())
}

/// Copies the primary's database and follows it.
async fn copy_database(
    agent: &Arc<Agent>,
    record: JoinRecord,
    reporter: &Reporter,
) -> Result<JoinRecord, Refusal> {
    if !record.needs_database || record.database_done {
        return Ok(record);
    }
    let me = record.name.clone();
    let active = agent.config()?;
    let db = active
        .config
        .db
        .as_ref()
        .ok_or_else(|| Refusal::new(Code::N005, "the fleet's configuration has no [db]"))?;
    let database = carry_out::open_database(agent, db).await?;
    let (source, address, mut ticket) = ticket(agent, &record, &active.config, &database).await?;
    if database.node().follows.is_some() && !record.copy {
        let wanted = carry_out::wanted_at(agent, db, record.private, true)?;
        let adopting = adopted::Adopting {
            database: &database,
            source: &source,
            address,
            ticket: &ticket,
        };
        if adopting.run(agent, &wanted, reporter).await? {
            agent.record(EventKind::ReplicationStarted { source });
            return database_is_there(agent, record);
        }
    }
    // A copy that was begun is gone on with, whatever the repeated command says.
    let record = JoinRecord { copy: true, ..record };
    agent.store.save_join(&record)?;
    agent.store.save_inherited(&ticket.inherited)?;
    let wanted = carry_out::wanted_at(agent, db, record.private, true)?;
    if let Some(words) = ticket.words() {
        reporter.note(words).await;
    }

    let total = units::human_bytes(ticket.expected_bytes);
    reporter
        .step(
            &me,
            &format!("copying database from {source} ({total}; {source} is not locked)"),
        )
        .await;
    let mut last = CloneStep::Copying;
    let mut progress = |now: CloneProgress| {
        if now.step != last {
            last = now.step;
            let text = now.step.as_str().to_owned();
            reporter.say_if_room(Progress::Step {
                server: me.clone(),
                text,
            });
        } else if now.step == CloneStep::Copying {
            reporter.say_if_room(Progress::Bytes {
                done: now.bytes,
                total: Some(now.total),
            });
        }
    };
    let open = || backup_stream(agent, &source, address, ticket.method);
    // By its full name: an Arc has a `clone_from` of its own.
    let copied = Database::clone_from(&database, &ticket, &wanted, open, &mut progress).await;
    if let Err(refusal) = copied {
        if refusal.code != Code::D007 || ticket.method == Method::Dump {
            return Err(refusal);
        }
        // It was found out only now that this server cannot take files: asked again, the primary knows.
        ticket = self::ticket(agent, &record, &active.config, &database).await?.2;
        if ticket.method != Method::Dump {
            return Err(refusal);
        }
        if let Some(words) = ticket.words() {
            reporter.note(words).await;
        }
        let open = || backup_stream(agent, &source, address, ticket.method);
        Database::clone_from(&database, &ticket, &wanted, open, &mut progress).await?;
    }
    wait_until_caught_up(agent, &database, (&source, address), reporter).await?;
    agent.record(EventKind::ReplicationStarted { source });
    database_is_there(agent, record)
}

fn database_is_there(agent: &Agent, record: JoinRecord) -> Result<JoinRecord, Refusal> {
    let record = JoinRecord {
        database_done: true,
        ..record
    };
    agent.store.save_join(&record)?;
    Ok(record)
}

/// Asks the primary's server for a ticket. It may hear of a joiner only with the next heartbeat of the server that
/// admitted it: so a refusal for not being known is asked again for a while.
async fn ticket(
    agent: &Arc<Agent>,
    record: &JoinRecord,
    config: &Config,
    database: &Database,
) -> Result<(ServerName, SocketAddr, SourceTicket), Refusal> {
    let means = database.means().await;
    let started = Instant::now();
    // The host first: it admitted us, and with two servers it is the primary. It names the primary otherwise.
    let mut candidates: Vec<ServerName> = vec![record.host.clone()];
    candidates.extend(
        config
            .with_role(Role::Db)
            .map(|server| server.name.clone())
            .filter(|name| *name != record.host),
    );
    loop {
        let mut refused = Refusal::new(Code::F001, "no server of the fleet has the primary database");
        for name in &candidates {
            let address = dial::address_of(agent, name)?;
            let call = Call::post(name.as_str(), "/p/v1/join/source").timeout(Duration::from_secs(60));
            match dial::ask::<_, SourceTicket>(agent, name, address, &call, Some(&means)).await {
                Ok(ticket) => return Ok((name.clone(), address, ticket)),
                // Somebody else is the primary: the next one may be.
                Err(refusal) if refusal.code == Code::F001 => {}
                Err(refusal) => refused = refusal,
            }
        }
        let may_pass = matches!(refused.code, Code::J005 | Code::F001 | Code::N002);
        if !may_pass || started.elapsed() > Duration::from_secs(10) {
            return Err(refused);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

pub(crate) async fn backup_stream(
    agent: &Arc<Agent>,
    source: &ServerName,
    address: SocketAddr,
    method: Method,
) -> Result<impl AsyncRead + Unpin + Send + use<>, Refusal> {
    let stream = dial::connect(agent, source, address).await?;
    let path = match method {
        Method::Dump => "/p/v1/join/dump",
        Method::Stream | Method::Clone => "/p/v1/join/backup",
    };
    let request = Call::get(source.as_str(), path).request(http::empty())?;
    let answer = http::request(stream, request).await?;
    let status = answer.status();
    if !status.is_success() {
        let bytes = http::read_body(answer.into_body(), 1 << 20).await?;
        return Err(serde_json::from_slice::<Refusal>(&bytes).unwrap_or_else(|_| {
            Refusal::new(
                Code::D003,
                format!("{source} answered the request for a copy with {status}"),
            )
        }));
    }
    Ok(http::body_reader(answer.into_body()))
}

/// A replica tells its lag by what the agent of its source writes there. Without that agent there is nothing to wait for.
pub(crate) async fn wait_until_caught_up(
    agent: &Agent,
    database: &Database,
    (source, address): (&ServerName, SocketAddr),
    reporter: &Reporter,
) -> Result<(), Refusal> {
    let me = &agent.member()?.me;
    let started = Instant::now();
    let (mut told, mut heard) = (started, started);
    loop {
        let report = database.report().await;
        if let (Some(lag), None) = (report.lag_ms, &report.error)
            && lag <= CAUGHT_UP_MS
        {
            reporter
                .done(me, &format!("replica, lag {:.1} s", lag as f64 / 1000.0))
                .await;
            return Ok(());
        }
        if started.elapsed() > CATCH_UP_PATIENCE {
            return Err(Refusal::new(Code::D004, "the replica did not catch up")
                .because(
                    report
                        .error
                        .unwrap_or_else(|| format!("lag {:?} ms", report.lag_ms)),
                )
                .next("wait for it and go on", "pontoon join …"));
        }
        if told.elapsed() > TELL_EVERY {
            let lag = report
                .lag_ms
                .map(|lag| format!(", lag {:.1} s", lag as f64 / 1000.0));
            let text = format!("catching up{}", lag.unwrap_or_default());
            reporter.step(me, text).await;
            match dial::connect(agent, source, address).await {
                Ok(_) => heard = Instant::now(),
                Err(refusal) if heard.elapsed() > SOURCE_PATIENCE => {
                    return Err(refusal.next(format!("when the agent of {source} is back"), "pontoon join …"));
                }
                Err(_) => {}
            }
            told = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The last step: the configuration of every server gets this one in it.
async fn become_member(
    agent: &Arc<Agent>,
    record: &JoinRecord,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let me = record.name.clone();
    reporter.step(&me, "becoming a member").await;
    let address = record.address;
    let call = Call::post(record.host.as_str(), "/p/v1/join/finish").timeout(Duration::from_secs(60));
    let done_at: Done = dial::ask(agent, &record.host, address, &call, Some(&())).await?;
    let started = Instant::now();
    let config = loop {
        let active = agent.config()?;
        if active.config.server(&me).is_some() && active.committed.revision >= done_at.revision {
            break active.config;
        }
        if started.elapsed() > Duration::from_secs(30) {
            return Err(Refusal::new(
                Code::N002,
                "the fleet took this server in, and its word has not come",
            )
            .because(format!("revision {} was expected", done_at.revision))
            .next("ask again", "pontoon join …"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // From here on `carry_out` does the rest; nothing of the join has to be remembered.
    agent.store.join_is_complete()?;
    agent.to_carry_out.notify_one();
    let settled = apply::wait_until_settled(agent, &config, done_at.revision, reporter);
    // It needs the lock that this join holds: so it is done here.
    let carried = carry_out::once(agent);
    let (settled, ()) = tokio::join!(settled, carried);
    settled?;
    Ok(format!(
        "{me} is a member of fleet {} since revision {}",
        config.fleet.name, done_at.revision
    ))
}

/// What this machine is, and how its database is run: as `pontoon join` wrote it down, or, when this agent is root, as
/// found out here.
async fn own_facts(agent: &Agent, with_database: bool) -> Result<ServerFacts, Refusal> {
    let node_file = agent.paths.node_file();
    let is_root = rustix::process::geteuid().is_root();
    if is_root && with_database && Node::load(&node_file)?.database.is_none() {
        match pontoon_replication::detect().await {
            Ok(detected) => Node {
                database: Some(detected.joiner()),
            }
            .save(&node_file)?,
            Err(refusal) if refusal.code == Code::D009 => tracing::info!(%refusal, "no database here"),
            Err(refusal) => return Err(refusal),
        }
    }
    let database = if with_database {
        observe::database_facts(agent).await?
    } else {
        None
    };
    Ok(detect::facts(database, None).await)
}

fn refuse_another_fleet(record: &JoinRecord, request: &JoinRequest) -> Result<(), Refusal> {
    if record.address == request.address && record.name == request.name {
        return Ok(());
    }
    Err(
        Refusal::new(Code::J006, "another join of this machine is not complete")
            .because(format!("it joins as {} through {}", record.name, record.address))
            .next(
                "go on with it",
                format!("pontoon join {} TOKEN --name {}", record.address, record.name),
            )
            .next("or give it up", "pontoon leave"),
    )
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Refusal> {
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => Ok(tcp),
        Ok(Err(error)) => Err(unreachable(address).because(error.to_string())),
        Err(_) => {
            Err(unreachable(address).because(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())))
        }
    }
}

fn unreachable(address: SocketAddr) -> Refusal {
    let host: IpAddr = address.ip();
    Refusal::new(Code::N002, format!("no agent answers at {address}"))
        .next("on the server whose address this is", "pontoon status")
        .next("is it reachable from here?", format!("ping {host}"))
}
