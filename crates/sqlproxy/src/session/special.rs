//! Commands about sessions: KILL, resets, another user.

use std::rc::Rc;

use pontoon_mysql_wire::reply::Expect;
use pontoon_mysql_wire::{Command, ErrorPacket, SqlState, encode_packet};
use pontoon_sql_class::{Effects, Kind, Verdict};

use super::registry::{Kill, parse_kill};
use super::route::Side;
use super::run::{What, Work, command_verdict};
use super::say::{KILL_DENIED, NO_SUCH_THREAD};
use super::{Flow, Session};
use crate::exchange::ask::{AskError, Question, Told};
use crate::pool::{Connection, Database, Identity, Left, Need, NoConnection, Thread};
use crate::session::state::State;

impl Session {
    /// KILL of a session of the proxy's; `None` when it is not one, and the statement is the database's to answer.
    pub(super) async fn kill(&mut self, sql: &[u8]) -> Option<Flow> {
        let kill = parse_kill(sql)?;
        self.kill_session(kill).await
    }

    /// COM_PROCESS_KILL.
    pub(super) async fn process_kill(&mut self, frame: &[u8], argument: &[u8]) -> Flow {
        let id = argument.first_chunk::<4>().map(|id| u32::from_le_bytes(*id));
        if let Some(id) = id {
            let kill = Kill {
                query: false,
                id: id.into(),
            };
            if let Some(flow) = Box::pin(self.kill_session(kill)).await {
                return flow;
            }
        }
        let work = Work {
            verdict: command_verdict(Kind::Kill, Effects::NONE),
            sql: None,
            expect: Expect::ResetOrPing,
            records: false,
            what: What::Frame(frame),
        };
        self.run(&work).await
    }

    async fn kill_session(&mut self, kill: Kill) -> Option<Flow> {
        let victim = self.thread.context.sessions.find(kill.id)?;
        let id = u32::try_from(kill.id).ok()?;
        if id == self.id {
            return Some(self.kill_oneself(kill.query).await);
        }
        // The database decides who may kill whom, so it is told to whenever there is something to be killed there.
        let mut ended = false;
        for _ in 0..RACES {
            let Some(aim) = victim.aim() else {
                break;
            };
            let sql = kill_statement(aim.thread_id, kill.query);
            match self.ask_beside(aim.server, sql.as_bytes()).await {
                Ok(_) => {
                    ended = true;
                    break;
                }
                // It has ended by itself meanwhile.
                Err(NoConnection::Refused(packet)) if packet.code == NO_SUCH_THREAD => {}
                Err(NoConnection::Refused(packet)) => {
                    let text = packet.text().replace(&aim.thread_id.to_string(), &id.to_string());
                    let packet = ErrorPacket {
                        message: text.into_bytes(),
                        ..packet
                    };
                    return Some(self.say_packet(&packet).await);
                }
                Err(other) => return Some(self.say_refusal(&other).await),
            }
        }
        if !ended && victim.user != self.identity.user && !self.may_kill_others().await {
            let text = format!("You are not owner of thread {id}");
            return Some(self.say_error(KILL_DENIED, SqlState::GENERAL, &text).await);
        }
        if !kill.query {
            victim.end(id);
        }
        Some(self.say_ok(1).await)
    }

    /// The database knows best what it says to that.
    async fn kill_oneself(&mut self, query: bool) -> Flow {
        let sql = match query {
            true => &b"KILL QUERY CONNECTION_ID()"[..],
            false => b"KILL CONNECTION_ID()",
        };
        let mut frame = Vec::new();
        encode_packet(&mut frame, 0, &[&[Command::Query.to_byte()], sql].concat());
        let work = Work {
            verdict: command_verdict(Kind::Kill, Effects::NONE),
            sql: None,
            expect: Expect::Simple,
            records: true,
            what: What::Frame(&frame),
        };
        let flow = self.run(&work).await;
        if query { flow } else { Flow::Close }
    }

    /// Whether the client's account may end what is another's, for a session that has nothing at any database.
    async fn may_kill_others(&mut self) -> bool {
        let Some(server) = self.primary_number() else {
            return false;
        };
        let told = self.ask_beside(server, MAY_KILL.as_bytes()).await;
        let row = told.ok().and_then(|told| told.row().ok());
        row.is_some_and(|row| matches!(row.first(), Some(Some(count)) if count != b"0"))
    }

    fn primary_number(&self) -> Option<usize> {
        let databases = self.thread.databases();
        databases.primary.as_ref().map(|primary| primary.server)
    }

    /// Asks a server something in the client's name, on a connection beside the session's: a bound session has but one.
    async fn ask_beside(&mut self, server: usize, sql: &[u8]) -> Result<Told, NoConnection> {
        if !self.bound {
            return ask_as(&self.thread, &self.identity, server, sql).await;
        }
        let held = self.held.as_mut().filter(|held| held.key.server == server);
        let Some(held) = held else {
            let text = "the session's only connection does not lead to the server in question";
            return Err(NoConnection::Failed(text.to_owned()));
        };
        let told = held.ask(&[Question::query(sql)]).await?;
        first(told)
    }

    /// Has what runs on a connection ended, because nobody waits for it any more.
    pub(super) fn kill_what_runs(&self, connection: &Connection) {
        let thread = Rc::clone(&self.thread);
        let identity = Rc::clone(&self.identity);
        let (server, thread_id) = (connection.key.server, connection.backend.thread_id);
        tokio::task::spawn_local(async move {
            let sql = kill_statement(thread_id, false);
            if let Err(error) = ask_as(&thread, &identity, server, sql.as_bytes()).await {
                tracing::debug!(
                    ?error,
                    "the statement of a client that is gone could not be ended"
                );
            }
        });
    }

    /// COM_RESET_CONNECTION.
    pub(super) async fn reset(&mut self, _frame: &[u8]) -> Flow {
        if self.bound {
            // What authentication led to stays; the server's own reset does the rest.
            let verdict = command_verdict(Kind::Admin, Effects::NONE);
            return match self.held.take() {
                Some(mut held) => match held.become_like(&Rc::clone(&self.state), true).await {
                    Ok(()) => self.after_reset(held, &verdict).await,
                    Err(_) => Flow::Close,
                },
                None => Flow::Close,
            };
        }
        self.clear_held().await;
        self.forget_everything();
        self.say_ok(1).await
    }

    /// Ends an open transaction, locks and temporary tables before the client hears that they have ended: if their
    /// connection were only closed, the database would get to it later.
    pub(super) async fn clear_held(&mut self) {
        let Some(mut held) = self.held.take() else {
            return;
        };
        let fresh = Rc::new(State::fresh(held.applied.database.as_deref()));
        if self.entry.rests() && !self.bound && held.become_like(&fresh, true).await.is_ok() {
            self.thread.leave(held, FREE);
        }
    }

    async fn after_reset(&mut self, mut held: Box<Connection>, _verdict: &Verdict) -> Flow {
        self.forget_everything();
        let fresh = Rc::clone(&self.state);
        let result = held.become_like(&fresh, false).await;
        self.keep_or_leave(held, false);
        match result {
            Ok(()) => self.say_ok(1).await,
            Err(_) => Flow::Close,
        }
    }

    /// COM_SET_OPTION: switches several statements in one on or off. Rare, and about one connection: the session stays
    /// with it.
    pub(super) async fn set_option(&mut self, frame: &[u8]) -> Flow {
        let work = Work {
            verdict: command_verdict(Kind::Admin, Effects::SETS_OPAQUE),
            sql: None,
            expect: Expect::ResetOrPing,
            records: true,
            what: What::Frame(frame),
        };
        self.run(&work).await
    }

    /// A connection to the primary for what has no answer, and so no place for an error.
    pub(super) async fn primary_silently(&mut self, verdict: &Verdict) -> Option<Box<Connection>> {
        let _ = verdict;
        if let Some(own) = self.claim(Side::Primary).await {
            return Some(own);
        }
        let need = Need {
            identity: &self.identity,
            replica: None,
            state: &self.state,
            login: self.login,
            urgent: false,
        };
        let mut connection = Box::pin(self.thread.acquire(&need, Some(&self.client)))
            .await
            .ok()?;
        let warned = connection.warned;
        connection.become_like(&self.state, warned).await.ok()?;
        Some(connection)
    }
}

fn kill_statement(thread_id: u32, query: bool) -> String {
    let what = if query { "QUERY" } else { "CONNECTION" };
    format!("KILL {what} {thread_id}")
}

/// Asks `server` something on any connection of `identity`.
async fn ask_as(
    thread: &Rc<Thread>,
    identity: &Rc<Identity>,
    server: usize,
    sql: &[u8],
) -> Result<Told, NoConnection> {
    let replica = thread.replica_by_number(server);
    let state = Rc::new(State::default());
    let need = Need {
        identity,
        replica: replica.as_ref(),
        state: &state,
        // What it is for is decided by the rights that the user has at this moment.
        login: thread.login(),
        urgent: true,
    };
    let mut connection = Box::pin(thread.acquire(&need, None)).await?;
    if connection.key.server != server {
        // Another is primary by now, and what ran there has ended.
        thread.leave(connection, FREE);
        let text = "No such thread";
        return Err(NoConnection::Refused(ErrorPacket::new(
            NO_SUCH_THREAD,
            SqlState::GENERAL,
            text,
        )));
    }
    match connection.ask(&[Question::query(sql)]).await {
        Ok(told) => {
            thread.leave(connection, FREE);
            first(told)
        }
        // The connection is still good: the answer was no more than an error. Nobody else is to see it.
        Err(AskError::Refused(packet)) => {
            connection.warned = true;
            thread.leave(connection, FREE);
            Err(NoConnection::Refused(packet))
        }
        Err(other) => Err(other.into()),
    }
}

fn first(told: Vec<Told>) -> Result<Told, NoConnection> {
    told.into_iter()
        .next()
        .ok_or_else(|| NoConnection::Failed("the database said nothing".to_owned()))
}

/// How often a session is looked for that goes from one connection to another.
const RACES: usize = 3;

/// Counts the rights by which an account may end what is another's (MySQL: «KILL Statement»; MariaDB: «CONNECTION
/// ADMIN»).
const MAY_KILL: &str = "SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE IN \
                        ('SUPER','CONNECTION_ADMIN','CONNECTION ADMIN') AND GRANTEE=CONCAT('''',\
                        SUBSTRING_INDEX(CURRENT_USER(),'@',1),'''@''',SUBSTRING_INDEX(CURRENT_USER(),'@',-1),'''')";

const FREE: Left = Left {
    free: true,
    precious: false,
};

impl Thread {
    /// The replica with that number, if it is one.
    fn replica_by_number(&self, server: usize) -> Option<Rc<Database>> {
        let databases = self.databases();
        let found = databases.replicas.iter().find(|replica| replica.server == server);
        found.map(Rc::clone)
    }
}
