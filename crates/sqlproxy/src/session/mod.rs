//! A client's session: from an accepted client to routed, pooled statements.
//!
//! `route` says where a statement goes, `state` what a session has set, `registry` knows the sessions by number; these
//! are pure. `commands` takes what the client sends apart, `run` finds a connection and passes the answer on,
//! `record` notes what a statement did to the session, `idle` waits for the next command, `found` knows where found rows are, `prepared` is for prepared statements, `special` for the
//! commands about sessions, and `say` for the proxy's own answers.

pub mod admit;
mod commands;
mod found;
mod idle;
mod prepared;
mod reads;
mod record;
pub mod registry;
pub mod route;
mod run;
mod say;
mod special;
pub mod state;
mod stream;
mod tally;
mod tracks;
mod welcome;

use std::rc::Rc;
use std::sync::Arc;

use pontoon_mysql_wire::reply::Hidden;
use pontoon_mysql_wire::{Capabilities, ChangeUser, ErrorPacket, StatusFlags};
use pontoon_sql_class::{Charset, SqlMode};

use crate::boundary::Passed;
use crate::exchange::Link;
use crate::peer::Peer;
use crate::pool::connection::Facts;
use crate::pool::{Connection, Identity, LastInsertId, Left, NoConnection, Owner, Thread, Token};
use crate::statements::Statements;
use idle::Idle;
use registry::Entry;
use route::{Bonds, Side};
use state::State;
use welcome::Welcome;

/// What connections report to the proxy and clients did not ask for.
pub fn hidden() -> Hidden {
    let names = [
        "sql_mode",
        "foreign_key_checks",
        "unique_checks",
        "tx_isolation",
        "transaction_isolation",
        "last_gtid",
    ];
    Hidden {
        gtids: true,
        state_change: true,
        variables: names.map(|name| name.as_bytes().to_vec()).to_vec(),
        ..Hidden::default()
    }
}

/// A client that has logged in.
#[derive(Debug)]
pub struct Client {
    /// Its stream, with nothing read ahead.
    pub peer: Peer,
    /// Its number.
    pub id: u32,
    /// What it and the proxy agreed on.
    pub capabilities: Capabilities,
    /// Whose connections it uses.
    pub identity: Rc<Identity>,
    /// The default database.
    pub database: Option<Vec<u8>>,
    /// The sequence number of the packet that ends the login.
    pub sequence: u8,
    /// What was read ahead.
    pub read: Vec<u8>,
    /// The connection that its authentication led to, when that binds the session to it.
    pub bound: Option<Box<Connection>>,
    /// Which login it is, for its thread.
    pub login: u64,
    /// What vouches for the proxy's certificate: see [`Welcome::proof`].
    pub proof: Vec<u8>,
    /// How it came in.
    pub entrance: Entrance,
}

/// How a client came to its session.
#[derive(Clone, Debug)]
pub enum Entrance {
    /// By a login.
    Login,
    /// By COM_CHANGE_USER.
    Change,
    /// It is who it was before a COM_CHANGE_USER that was refused, with this of what it had set. It has been told.
    Refused(Rc<State>),
}

/// Whether the session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
enum Flow {
    /// With the next command.
    Next,
    /// No: the connection is closed.
    Close,
}

/// One client's session.
#[derive(Debug)]
struct Session {
    thread: Rc<Thread>,
    client: Peer,
    id: u32,
    link: Rc<Link>,
    entry: Arc<Entry>,
    capabilities: Capabilities,
    /// Which login it is: connections have the rights of that time, or later ones.
    login: u64,
    hidden: Arc<Hidden>,
    identity: Rc<Identity>,
    /// What the client sent and is not done with.
    inbound: Vec<u8>,
    state: Rc<State>,
    owner: Rc<Owner>,
    facts: Rc<Facts>,
    sql_mode: SqlMode,
    charset: Charset,
    serializable: bool,
    read_committed: bool,
    status: StatusFlags,
    /// Warnings and errors that the statement before left.
    conditions: u16,
    /// The connection of a transaction, a pin or a statement's leftovers.
    held: Option<Box<Connection>>,
    left: [Option<Token>; 2],
    /// The number of the replica that it read from last.
    replica: Option<usize>,
    bonds: Bonds,
    /// The connection of the last statement that found rows.
    found: Option<(Side, u64)>,
    /// Nothing is ever given back: the session's own authentication led to its connection.
    bound: bool,
    /// It has looked at what servers report, and its connection reports as if there were no proxy.
    untracked: bool,
    idle: Idle,
    statements: Statements,
    /// It has a statement or a transaction under way: a hand-over waits for it.
    passed: Option<Passed>,
    /// It wants to be another user; and the number that the answer begins with.
    change: Option<(ChangeUser, u8)>,
}

/// What comes after a session.
#[derive(Debug)]
pub enum Next {
    /// Its client wants to be another.
    Change(Change),
    /// It did not begin.
    Refused(Refused),
}

/// A client that wants to be another.
#[derive(Debug)]
pub struct Change {
    /// Its stream.
    pub peer: Peer,
    /// What was read ahead.
    pub read: Vec<u8>,
    /// What the answer begins with.
    pub sequence: u8,
    /// Whom it wants to be.
    pub to: ChangeUser,
    /// What it keeps of what it has set if it is refused; `None` when it cannot go on then.
    pub kept: Option<Rc<State>>,
}

/// A client that is not let in, and has not been told.
#[derive(Debug)]
pub struct Refused {
    /// Its stream.
    pub peer: Peer,
    /// What was read ahead.
    pub read: Vec<u8>,
    /// What the answer begins with.
    pub sequence: u8,
    /// What it is told.
    pub packet: ErrorPacket,
}

/// Serves a client that has logged in, to its end or until it wants to be another.
pub async fn serve(thread: Rc<Thread>, client: Client, link: Rc<Link>) -> Option<Next> {
    let id = client.id;
    match Session::begin(&thread, client, link).await {
        Ok(mut session) => {
            session.serve().await;
            if session.change.is_some() {
                session.clear_held().await;
            }
            session.end();
            // Before its client sees the end: nobody finds a session that is over.
            thread.context.sessions.leave(id);
            session.change.take().map(|(to, sequence)| {
                let kept = (!session.bound).then(|| Rc::new(session.state.after_refused_change()));
                Next::Change(Change {
                    peer: session.client,
                    read: session.inbound,
                    sequence,
                    to,
                    kept,
                })
            })
        }
        Err(refused) => {
            thread.context.sessions.leave(id);
            refused.map(Next::Refused)
        }
    }
}

impl Session {
    /// Finds the client its first connection, which says what the session begins with, and lets it in. The database's
    /// own refusal is the client's.
    async fn begin(thread: &Rc<Thread>, client: Client, link: Rc<Link>) -> Result<Session, Option<Refused>> {
        let state = match &client.entrance {
            Entrance::Refused(kept) => Rc::clone(kept),
            Entrance::Login | Entrance::Change => Rc::new(State::fresh(client.database.as_deref())),
        };
        let peer = client.peer;
        let bound = client.bound.is_some();
        let first = match client.bound {
            Some(connection) => Ok(connection),
            None => {
                let need = crate::pool::Need {
                    identity: &client.identity,
                    replica: None,
                    state: &state,
                    login: client.login,
                    urgent: false,
                };
                match Box::pin(thread.acquire(&need, Some(&peer))).await {
                    Ok(mut connection) => {
                        let warned = connection.warned;
                        match connection.become_like(&state, warned).await {
                            Ok(()) => Ok(connection),
                            Err(error) => Err(NoConnection::from(error)),
                        }
                    }
                    Err(error) => Err(error),
                }
            }
        };
        let welcome = Welcome {
            database: client.database.as_deref(),
            proof: &client.proof,
            again: matches!(client.entrance, Entrance::Change),
        };
        let welcomed = first.and_then(|connection| {
            let backend = &connection.backend;
            let said = welcome.after(&backend.ok, backend.capabilities, client.capabilities);
            let (ok, status) = said.map_err(|error| NoConnection::Failed(error.to_string()))?;
            Ok((connection, ok, status))
        });
        let told = matches!(client.entrance, Entrance::Refused(_));
        let (mut connection, ok, status) = match welcomed {
            Ok(welcomed) => welcomed,
            Err(error) => {
                let refused = |packet| Refused {
                    peer,
                    read: client.read,
                    sequence: client.sequence,
                    packet,
                };
                return Err(say::refusal(&error).filter(|_| !told).map(refused));
            }
        };
        let owner = Rc::new(Owner {
            last_insert_id: LastInsertId::Known(0).into(),
        });
        connection.owner = Some(Rc::clone(&owner));
        let facts = Rc::clone(&connection.facts);
        let entry = thread
            .context
            .sessions
            .enter(client.id, &client.identity.user, thread.ender());
        let auto_is_null = facts.auto_is_null;
        let mut session = Session {
            thread: Rc::clone(thread),
            client: peer,
            id: client.id,
            link,
            entry,
            capabilities: client.capabilities,
            login: client.login,
            hidden: Arc::clone(&thread.context.hidden),
            identity: client.identity,
            inbound: client.read,
            state,
            owner,
            sql_mode: facts.sql_mode,
            charset: facts.charset,
            serializable: facts.serializable,
            read_committed: false,
            facts,
            status,
            conditions: 0,
            held: None,
            left: [None, None],
            replica: None,
            bonds: Bonds {
                pinned: bound || auto_is_null,
                ..Bonds::default()
            },
            found: None,
            bound,
            untracked: false,
            idle: Idle::default(),
            statements: Statements::default(),
            passed: None,
            change: None,
        };
        session.keep_or_leave(connection, false);
        if told {
            return Ok(session);
        }
        match session.say_payload(client.sequence, &ok).await {
            Flow::Next => Ok(session),
            Flow::Close => {
                session.end();
                Err(None)
            }
        }
    }

    /// Keeps a connection that the session is bound to, and leaves any other where it can be taken.
    fn keep_or_leave(&mut self, connection: Box<Connection>, precious: bool) {
        if self.must_hold() {
            self.entry
                .uses(connection.key.server, connection.backend.thread_id);
            self.held = Some(connection);
            return;
        }
        if !self.entry.rests() {
            // Somebody is about to end what ran on it. Until the next command it can hit nobody else.
            self.held = Some(connection);
            return;
        }
        self.leave_own(connection, precious);
    }

    /// Leaves a connection beside the one that is held, if one is.
    fn leave_own(&mut self, connection: Box<Connection>, precious: bool) {
        let side = connection.key.side;
        let left = Left {
            free: false,
            precious,
        };
        self.left[at(side)] = self.thread.leave(connection, left);
    }

    /// Whether the next command has to run on the connection that ran the one before.
    fn must_hold(&self) -> bool {
        self.is_pinned() || self.bonds.transaction.is_some()
    }

    /// Takes the connection that the session left on that side, if it is still there.
    async fn claim(&mut self, side: Side) -> Option<Box<Connection>> {
        let token = self.left[at(side)].take()?;
        self.thread.claim(token).await
    }

    /// Gives everything back.
    fn end(&mut self) {
        self.entry.rests();
        // An open transaction, locks, temporary tables: they end with the connection.
        self.held = None;
        for token in self.left.iter_mut().filter_map(Option::take) {
            self.thread.set_free(token);
        }
    }
}

fn at(side: Side) -> usize {
    match side {
        Side::Primary => 0,
        Side::Replica => 1,
    }
}
