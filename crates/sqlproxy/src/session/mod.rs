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

use std::rc::Rc;
use std::sync::Arc;

use pontoon_fleet::ServerName;
use pontoon_mysql_wire::reply::Hidden;
use pontoon_mysql_wire::{Capabilities, ChangeUser, StatusFlags};
use pontoon_sql_class::{Charset, SqlMode};

use crate::exchange::Link;
use crate::peer::Peer;
use crate::pool::connection::Facts;
use crate::pool::{Connection, Identity, LastInsertId, Left, NoConnection, Owner, Thread, Token};
use crate::statements::Statements;
use idle::Idle;
use registry::Entry;
use route::{Bonds, Side};
use state::State;

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
    /// The connection of a transaction, a pin or a statement's leftovers.
    held: Option<Box<Connection>>,
    left: [Option<Token>; 2],
    /// The replica that it read from last.
    replica: Option<ServerName>,
    bonds: Bonds,
    /// The connection of the last statement that found rows.
    found: Option<(Side, u64)>,
    /// Nothing is ever given back: the session's own authentication led to its connection.
    bound: bool,
    /// It has looked at what servers report, and its connection reports as if there were no proxy.
    untracked: bool,
    idle: Idle,
    statements: Statements,
    /// It wants to be another user; and the number that the answer begins with.
    change: Option<(ChangeUser, u8)>,
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
}

/// Serves a client that has logged in, to its end or until it wants to be another.
pub async fn serve(thread: Rc<Thread>, client: Client, link: Rc<Link>) -> Option<Change> {
    let id = client.id;
    let mut change = None;
    if let Some(mut session) = Session::begin(&thread, client, link).await {
        session.serve().await;
        if session.change.is_some() {
            session.clear_held().await;
        }
        session.end();
        if let Some((to, sequence)) = session.change.take() {
            let read = std::mem::take(&mut session.inbound);
            change = Some(Change {
                peer: session.client,
                read,
                sequence,
                to,
            });
        }
    }
    thread.context.sessions.leave(id);
    change
}

impl Session {
    /// Finds the client its first connection, which says what the session begins with, and lets it in. The database's
    /// own refusal is the client's.
    async fn begin(thread: &Rc<Thread>, client: Client, link: Rc<Link>) -> Option<Session> {
        let state = Rc::new(State::fresh(client.database.as_deref()));
        let mut peer = client.peer;
        let bound = client.bound.is_some();
        let first = match client.bound {
            Some(connection) => Ok(connection),
            None => {
                let need = crate::pool::Need {
                    identity: &client.identity,
                    replica: None,
                    state: &state,
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
        let mut connection = match first {
            Ok(connection) => connection,
            Err(error) => {
                if let Some(packet) = say::refusal(&error) {
                    say::error_to(&mut peer, &link, client.sequence, &packet, client.capabilities).await;
                }
                return None;
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
        let status = facts.status;
        let auto_is_null = facts.auto_is_null;
        let mut session = Session {
            thread: Rc::clone(thread),
            client: peer,
            id: client.id,
            link,
            entry,
            capabilities: client.capabilities,
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
            change: None,
        };
        session.keep_or_leave(connection, false);
        match session.say_ok(client.sequence).await {
            Flow::Next => Some(session),
            Flow::Close => {
                session.end();
                None
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
