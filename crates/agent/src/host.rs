//! The fleet's side of a join and of a leave: tokens, the welcome, the copy of the database, the change that makes a
//! joiner a member.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::{Response, StatusCode};
use pontoon_config::edit::{self, ServerEntry};
use pontoon_config::{Config, CopyMethod};
use pontoon_decide::change::Outcome;
use pontoon_fleet::{Code, Engine, EventKind, Refusal, Revision, Role, ServerName};
use pontoon_helper::BackupOptions;
use pontoon_pki::{Authority, IdentityFiles, SERVER_LIFETIME, csr_fingerprint};
use pontoon_replication::{Joiner, Means, Origin, OriginAsk, SourceTicket, SqlAccount, Wish};
use pontoon_rt::files;
use pontoon_rt::http::{self, Body};

use crate::api::TokenAnswer;
use crate::authorise::Peer;
use crate::core::{Active, Agent};
use crate::dial::no_such_server;
use crate::peer::{Done, Hello, Welcome};
use crate::store::PendingJoiner;
use crate::{carry_out, drain};

/// The longest life of a token.
const LONGEST_TTL: Duration = Duration::from_secs(7 * 86_400);

/// How long a join or a leave waits for another change to end; less than its caller's patience of 60 s.
const TURN_PATIENCE: Duration = Duration::from_secs(40);

/// How long a machine that said hello has its name for itself.
const NAME_HELD: Duration = Duration::from_secs(86_400);

/// Refused tokens that the timeline tells of in a minute.
const REFUSED_TOKENS_TOLD: u32 = 30;

/// Bytes of a backup that may wait between the helper and the network.
const BACKUP_BUFFER_BYTES: usize = 1 << 20;

/// Issues a token. It is on disk, hashed, before it is shown.
pub(crate) fn issue_token(
    agent: &Agent,
    ttl: Duration,
    roles: Option<BTreeSet<Role>>,
) -> Result<TokenAnswer, Refusal> {
    let authority = authority(agent)?;
    let _admitting = admitting(agent);
    agent.config()?; // a fleet without a configuration cannot be joined
    if ttl.is_zero() || ttl > LONGEST_TTL {
        return Err(Refusal::new(
            Code::C002,
            "a token lives more than nothing and at most a week",
        ));
    }
    if roles.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err(Refusal::new(Code::C002, "a token is for one role at least"));
    }
    let now = agent.clock.unix();
    let mut book = agent.store.tokens()?.unwrap_or_default();
    let token = book.issue(authority.pin(), now, ttl, roles)?;
    agent.store.save_tokens(&book)?;
    let expires = now.plus(ttl);
    agent.record(EventKind::TokenIssued {
        id: token.id.clone(),
        expires,
    });
    let address = agent
        .own_address()
        .ok_or_else(|| Refusal::new(Code::J007, "this server has no address yet"))?;
    Ok(TokenAnswer {
        token: token.to_string(),
        expires,
        address,
    })
}

/// Answers a joiner's first words. The token is looked at before anything else is said; it is bound to the joiner's key
/// once everything else is right, and that is on disk before the certificate leaves.
pub(crate) fn welcome(agent: &Agent, hello: Hello, from: SocketAddr) -> Result<Welcome, Refusal> {
    let authority = authority(agent)?;
    let fingerprint = csr_fingerprint(&hello.csr)?;
    let now = agent.clock.unix();
    // Keeps two joiners with one token, or with one name, apart.
    let _admitting = admitting(agent);
    let mut book = agent.store.tokens()?.unwrap_or_default();
    if let Err(error) = book.redeem(&hello.id, &hello.secret, &fingerprint, now) {
        let refused = EventKind::TokenRefused {
            id: hello
                .id
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .take(16)
                .collect(),
            reason: error.to_string(),
            from: from.ip().to_string(),
        };
        agent.record_seldom("tokens", REFUSED_TOKENS_TOLD, refused);
        return Err(error.into());
    }
    let active = agent.config()?;
    let joiner = PendingJoiner {
        private: hello.private,
        public: hello.public.clone(),
        roles: hello.roles.clone(),
        database: hello
            .facts
            .database
            .as_ref()
            .map(|database| (database.engine, database.version.clone())),
        key: fingerprint,
        since: now,
    };
    for role in joiner.roles() {
        if !book.allows(&hello.id, role) {
            return Err(
                Refusal::new(Code::J010, format!("the token does not allow the role {role}"))
                    .because(format!("{} asked for {}", hello.name, words(&joiner.roles())))
                    .next(
                        "join with the roles that `pontoon token new` printed",
                        "pontoon join … --roles …",
                    )
                    .next(
                        "or make another token, on a server of the fleet",
                        "pontoon token new",
                    ),
            );
        }
    }
    refuse_taken_name(agent, &active, &hello.name, &joiner)?;
    let text = text_with(&active, &hello.name, &joiner)?;
    let roles: BTreeSet<Role> = joiner.roles().into_iter().collect();
    let source = source_for(agent, &active, &roles, &hello)?;

    agent.store.save_tokens(&book)?;
    let joiners = {
        let mut known = agent.known();
        // One machine joins under one name, whatever it said before.
        known
            .joiners
            .retain(|_, other| other.key != joiner.key && other.is_current(now));
        known.joiners.insert(hello.name.clone(), joiner);
        known.joiners.clone()
    };
    agent.store.save_joiners(&joiners)?;
    tracing::info!(joiner = %hello.name, bytes = text.len(), "welcomed");
    agent.record(EventKind::JoinStep {
        joiner: hello.name.clone(),
        step: "certificate issued".to_owned(),
    });
    let certificate = authority.sign_server(&hello.csr, &hello.name, hello.private, now, SERVER_LIFETIME)?;
    let is_control = roles.contains(&Role::Db);
    let key_file = IdentityFiles::in_dir(&agent.paths.identity_dir()).ca_key;
    let database_secret = agent.paths.state_dir.join("database.secret");
    let (drains, lease) = {
        let known = agent.known();
        (known.drains.clone(), known.lease.clone())
    };
    Ok(Welcome {
        certificate,
        authority: authority.certificate_pem(),
        authority_key: if is_control { read_text(&key_file)? } else { None },
        database_secret: if is_control {
            read_text(&database_secret)?
        } else {
            None
        },
        sql_account: if is_control || roles.contains(&Role::App) {
            SqlAccount::load(&agent.paths)?
        } else {
            None
        },
        config: active.committed,
        keeper: agent.member()?.keeper,
        source,
        drains,
        lease,
    })
}

fn words(roles: &[Role]) -> String {
    let words: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    words.join(",")
}

/// Gives a joiner what it needs to copy and follow this server's database.
pub(crate) async fn source(
    agent: &Agent,
    peer: &Peer,
    means: Option<Means>,
) -> Result<SourceTicket, Refusal> {
    let (name, address, database) = joiner_of(agent, peer)?;
    let Some((engine, version)) = database else {
        return Err(Refusal::new(Code::D009, format!("{name} has no database server"))
            .because("none was found there when it said hello")
            .next(format!("install one on {name}; then there"), "pontoon join …"));
    };
    let (ours, own_address) = primary_here(agent).await?;
    let ticket = ours
        .prepare_source(
            &Joiner {
                server: name.clone(),
                address,
                engine,
                version,
                means: means.unwrap_or_default(),
            },
            own_address,
            wish(&agent.config()?.config),
        )
        .await?;
    agent.record(EventKind::JoinStep {
        joiner: name,
        step: "copies the database".to_owned(),
    });
    Ok(ticket)
}

/// How the configuration wants copies made.
fn wish(config: &Config) -> Wish {
    match config.db.as_ref().and_then(|db| db.copy).unwrap_or_default() {
        CopyMethod::Auto => Wish::Auto,
        CopyMethod::Physical => Wish::Physical,
        CopyMethod::Logical => Wish::Logical,
    }
}

/// Answers a joiner whose database follows this one already, by file and position.
pub(crate) async fn origin(agent: &Agent, peer: &Peer, ask: &OriginAsk) -> Result<Origin, Refusal> {
    joiner_of(agent, peer)?;
    let (database, _) = primary_here(agent).await?;
    database.origin(ask).await
}

/// Streams a copy of this server's database: its files, or a dump.
pub(crate) async fn backup(agent: &Agent, peer: &Peer, as_dump: bool) -> Result<Response<Body>, Refusal> {
    joiner_of(agent, peer)?;
    let (database, _) = primary_here(agent).await?;
    // A duplex, not a simplex: dropped at one end, it is broken at the other, so that the copy for a joiner that died
    // ends at once and the next one can begin.
    let (reader, mut writer) = tokio::io::duplex(BACKUP_BUFFER_BYTES);
    tokio::spawn(async move {
        let served = match as_dump {
            true => database.serve_dump(&mut writer, None).await,
            false => {
                database
                    .serve_backup(&mut writer, &BackupOptions::default())
                    .await
            }
        };
        if let Err(refusal) = served {
            tracing::error!(%refusal, "the copy for a joiner failed");
        }
    });
    let mut response = Response::new(http::reader_body(reader));
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

/// Makes a joiner a member: on every server, or on none.
pub(crate) async fn finish(agent: &Agent, peer: &Peer) -> Result<Done, Refusal> {
    let Some(name) = peer.name() else {
        return Err(Refusal::new(Code::J005, "a stranger cannot become a member"));
    };
    if !agent.is_control() {
        return Err(Refusal::new(Code::J005, "this server cannot admit others")
            .because("it does not steer the fleet"));
    }
    let revision = change(agent, |active| {
        if active.config.server(name).is_some() {
            return Ok(None); // finished before, and the answer was lost
        }
        let now = agent.clock.unix();
        let joiner = agent.known().joiner(name, now).cloned().ok_or_else(|| {
            Refusal::new(Code::J001, format!("{name} is not known as joining"))
                .next("begin again", "pontoon token new")
        })?;
        text_with(active, name, &joiner).map(Some)
    })
    .await?;
    forget_joiner(agent, name)?;
    // One of that name was drained when it left.
    drain::set_mark(agent, name, false, false)?;
    agent.record(EventKind::ServerJoined { joiner: name.clone() });
    Ok(Done { revision })
}

/// Takes a member out of the configuration, at its own wish.
pub(crate) async fn farewell(agent: &Agent, peer: &Peer) -> Result<Done, Refusal> {
    let Some(name) = peer.name() else {
        return Err(Refusal::new(Code::J005, "a stranger cannot leave"));
    };
    let active = agent.config()?;
    let Some(server) = active.config.server(name) else {
        let joiner = agent.known().joiners.get(name).cloned();
        if let Some(joiner) = joiner {
            forget_joiner(agent, name)?;
            agent.record(EventKind::JoinStep {
                joiner: name.clone(),
                step: "given up".to_owned(),
            });
            if joiner.database.is_some() {
                forget_account(agent, name, joiner.private).await;
            }
        }
        return Ok(Done {
            revision: active.committed.revision,
        });
    };
    let (address, has_database) = (server.private, active.config.runs_database(server));
    if agent
        .known()
        .lease
        .as_ref()
        .is_some_and(|lease| &lease.leader == name)
    {
        return Err(Refusal::new(
            Code::J008,
            format!("{name} cannot leave: its database is the primary"),
        )
        .because("the others follow it, and this version does not move the primary"));
    }
    let revision = change(agent, |active| {
        if active.config.server(name).is_none() {
            return Ok(None);
        }
        edit::remove_server(&active.committed.text, name)
            .map(Some)
            .map_err(|errors| wrong_text(&errors))
    })
    .await?;
    agent.record(EventKind::ServerLeft { leaver: name.clone() });
    if has_database {
        forget_account(agent, name, address).await;
    }
    Ok(Done { revision })
}

/// Takes the replication account of a server that went away out of the primary, if that is here.
async fn forget_account(agent: &Agent, name: &ServerName, address: IpAddr) {
    if let Ok((database, _)) = primary_here(agent).await
        && let Err(refusal) = database.forget_joiner(name, address).await
    {
        tracing::warn!(%refusal, "the replication account of a server that left stays");
    }
}

/// Changes the configuration to what `edit` makes of the active one; `None` is no change. Tries again while another
/// change is being made: nobody reads the refusal who could be asked to look and repeat. And that other change may be
/// this very one, begun by an attempt whose joiner was killed, which waits for its vote.
async fn change(
    agent: &Agent,
    edit: impl Fn(&Active) -> Result<Option<String>, Refusal>,
) -> Result<Revision, Refusal> {
    let started = Instant::now();
    loop {
        let active = agent.config()?;
        let Some(text) = edit(&active)? else {
            return Ok(active.committed.revision);
        };
        let refusal = match agent.changes.propose(text).await? {
            Outcome::Activated(revision) | Outcome::Unchanged(revision) => return Ok(revision),
            Outcome::Refused(refusal) | Outcome::Unknown(refusal) => refusal,
        };
        let may_pass = matches!(refusal.code, Code::P001 | Code::P005);
        if !may_pass || started.elapsed() > TURN_PATIENCE {
            return Err(refusal);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// The configuration with the joiner in it; J004 when its name or address is taken.
fn text_with(active: &Active, name: &ServerName, joiner: &PendingJoiner) -> Result<String, Refusal> {
    let entry = ServerEntry {
        name: name.clone(),
        private: joiner.private,
        public: joiner.public.clone(),
        roles: joiner.roles.clone().map(|roles| roles.into_iter().collect()),
        zone: None,
    };
    edit::add_server(&active.committed.text, &entry).map_err(|errors| {
        let wrong = wrong_text(&errors);
        if wrong.code != Code::C005 {
            return wrong;
        }
        let mut refusal = Refusal::new(
            Code::J004,
            format!("{name} at {} cannot be added", joiner.private),
        );
        refusal.evidence = wrong.evidence;
        refusal.next(
            "choose another name or address",
            "pontoon join … --name NAME --private ADDRESS",
        )
    })
}

fn wrong_text(errors: &[pontoon_config::ConfigError]) -> Refusal {
    let mut refusal = errors.first().map_or_else(
        || Refusal::new(Code::C006, "the configuration would be wrong"),
        |first| first.to_refusal(),
    );
    if refusal.evidence.is_empty() {
        refusal.evidence = errors.iter().map(|error| error.message.clone()).collect();
    }
    refusal
}

/// The server that a joiner with these roles copies the database from; `None` when it needs none.
fn source_for(
    agent: &Agent,
    active: &Active,
    roles: &BTreeSet<Role>,
    hello: &Hello,
) -> Result<Option<ServerName>, Refusal> {
    let Some(db) = active
        .config
        .db
        .as_ref()
        .filter(|db| db.is_ours() && roles.contains(&Role::Db))
    else {
        return Ok(None);
    };
    let missing = |what: String| {
        Refusal::new(Code::D009, format!("{} cannot have a replica", hello.name))
            .because(what)
            .next(
                format!("on {}", hello.name),
                "apt-get install mariadb-server mariadb-backup",
            )
            .next("or join without a database", "pontoon join … --roles edge,app")
    };
    match &hello.facts.database {
        None => return Err(missing("no database server was found there".to_owned())),
        Some(found) if found.engine != db.engine => {
            return Err(
                Refusal::new(Code::D002, format!("{} runs another database engine", hello.name)).because(
                    format!(
                        "found {} {}, the fleet has {}",
                        found.engine, found.version, db.engine
                    ),
                ),
            );
        }
        Some(_)
            if db.engine == Engine::Mariadb
                && !(hello.facts.tools.mariadb_backup && hello.facts.tools.mbstream)
                && (db.copy == Some(CopyMethod::Physical) || !hello.facts.tools.dump) =>
        {
            return Err(Refusal::new(
                Code::D007,
                format!("mariadb-backup is not installed on {}", hello.name),
            )
            .next("install it", "apt-get install mariadb-backup"));
        }
        Some(_) => {}
    }
    let leader = agent.known().lease.as_ref().map(|lease| lease.leader.clone());
    leader.map(Some).ok_or_else(|| {
        Refusal::new(
            Code::F001,
            "no server holds the lease: there is no primary to copy",
        )
    })
}

/// This server's database, if it is the primary.
async fn primary_here(agent: &Agent) -> Result<(Arc<pontoon_replication::Database>, IpAddr), Refusal> {
    let me = agent.member()?.me;
    let active = agent.config()?;
    let leader = agent.known().lease.as_ref().map(|lease| lease.leader.clone());
    if leader.as_ref() != Some(&me) {
        return Err(Refusal::new(Code::F001, format!("{me} is not the primary"))
            .because(leader.map_or_else(|| "nobody is".to_owned(), |leader| format!("{leader} is"))));
    }
    let server = active
        .config
        .server(&me)
        .ok_or_else(|| no_such_server(&me, &active.config))?;
    let db = active
        .config
        .db
        .as_ref()
        .ok_or_else(|| Refusal::new(Code::D009, "the fleet has no database"))?;
    Ok((carry_out::open_database(agent, db).await?, server.private))
}

/// Name, address, and engine and version of the database of a peer that may copy.
type Copier = (ServerName, IpAddr, Option<(Engine, String)>);

fn joiner_of(agent: &Agent, peer: &Peer) -> Result<Copier, Refusal> {
    let nobody = || Refusal::new(Code::J005, format!("{} is not joining", peer.label()));
    let name = peer.name().ok_or_else(nobody)?.clone();
    let now = agent.clock.unix();
    let known = agent.known();
    if let Some(joiner) = known.joiner(&name, now) {
        return Ok((name, joiner.private, joiner.database.clone()));
    }
    let address = known
        .active
        .as_ref()
        .and_then(|active| active.config.server(&name))
        .ok_or_else(nobody)?
        .private;
    let database = known
        .peers
        .get(&name)
        .and_then(|heard| heard.report.database.as_ref());
    let database = database.map(|database| (database.engine, database.version.clone()));
    Ok((name, address, database))
}

fn forget_joiner(agent: &Agent, name: &ServerName) -> Result<(), Refusal> {
    let _admitting = admitting(agent);
    let joiners = {
        let mut known = agent.known();
        known.joiners.remove(name);
        known.joiners.clone()
    };
    agent.store.save_joiners(&joiners)
}

/// J004 when a certificate with this name would make its holder somebody else: a member, or another machine that is
/// joining. What a member has said is never said again with a hello, since its join is on its own disk.
fn refuse_taken_name(
    agent: &Agent,
    active: &Active,
    name: &ServerName,
    joiner: &PendingJoiner,
) -> Result<(), Refusal> {
    let refuse = |why: String| {
        Refusal::new(Code::J004, format!("the name {name} is taken"))
            .because(why)
            .next("choose another", "pontoon join … --name NAME")
    };
    if active.config.server(name).is_some() {
        return Err(refuse(format!("{name} is a server of the fleet")));
    }
    let now = agent.clock.unix();
    match agent.known().joiner(name, now) {
        Some(other) if other.key != joiner.key && now.since(other.since) < NAME_HELD => Err(refuse(format!(
            "another machine, at {}, is joining under it",
            other.private
        ))
        .next("or give that join up, on that machine", "pontoon leave")),
        _ => Ok(()),
    }
}

fn admitting(agent: &Agent) -> MutexGuard<'_, ()> {
    agent.admitting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn authority(agent: &Agent) -> Result<Authority, Refusal> {
    let me = agent.member()?.me;
    Authority::load_optional(&agent.paths.identity_dir())?.ok_or_else(|| {
        Refusal::new(Code::J005, format!("{me} cannot admit servers"))
            .because("it does not hold the authority's key; servers with the role db do")
            .next("on one of those", "pontoon token new")
    })
}

fn read_text(path: &std::path::Path) -> Result<Option<String>, Refusal> {
    let bytes = files::read_limited(path, 1 << 16)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}
