//! Commands about sessions: KILL, resets, another user.

use std::rc::Rc;

use pontoon_mysql_wire::SqlState;
use pontoon_mysql_wire::reply::Expect;
use pontoon_sql_class::{Effects, Kind, Verdict};

use super::registry::{Kill, parse_kill};
use super::route::Side;
use super::run::{What, Work, command_verdict};
use super::say::KILL_DENIED;
use super::{Flow, Session};
use crate::exchange::ask::{AskError, Question};
use crate::pool::{Connection, Database, Identity, Left, Need, NoConnection, Thread};
use crate::session::state::State;

/// `ER_QUERY_INTERRUPTED`.
const INTERRUPTED: u16 = 1317;

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
        if kill.id == u64::from(self.id) {
            let state = SqlState::new(*b"70100").unwrap_or(SqlState::GENERAL);
            let flow = self
                .say_error(INTERRUPTED, state, "Query execution was interrupted")
                .await;
            return Some(if kill.query { flow } else { Flow::Close });
        }
        let id = u32::try_from(kill.id).ok()?;
        let allowed = match victim.running() {
            // The database decides who may kill whom.
            Some((server, thread_id)) => {
                let killed = kill_on(&self.thread, &self.identity, server, thread_id, kill.query).await;
                match killed {
                    Ok(()) => true,
                    Err(NoConnection::Refused(packet)) => return Some(self.say_packet(&packet).await),
                    Err(other) => return Some(self.say_refusal(&other).await),
                }
            }
            // Nothing of it is at any database: nobody but its own user is known to be allowed.
            None => victim.user == self.identity.user,
        };
        if !allowed {
            let text = format!("You are not owner of thread {id}");
            return Some(self.say_error(KILL_DENIED, SqlState::GENERAL, &text).await);
        }
        if !kill.query {
            victim.end(id);
        }
        Some(self.say_ok(1).await)
    }

    /// Has what runs on a connection ended, because nobody waits for it any more.
    pub(super) fn kill_what_runs(&self, connection: &Connection) {
        let thread = Rc::clone(&self.thread);
        let identity = Rc::clone(&self.identity);
        let (server, thread_id) = (connection.key.server, connection.backend.thread_id);
        tokio::task::spawn_local(async move {
            if let Err(error) = kill_on(&thread, &identity, server, thread_id, false).await {
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
        // An open transaction, locks and temporary tables end with their connection.
        self.held = None;
        self.entry.rests();
        self.forget_everything();
        self.say_ok(1).await
    }

    async fn after_reset(&mut self, mut held: Box<Connection>, _verdict: &Verdict) -> Flow {
        self.forget_everything();
        let fresh = Rc::clone(&self.state);
        let result = held.become_like(&fresh, false).await;
        self.status = held.backend.status;
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
        };
        let mut connection = Box::pin(self.thread.acquire(&need, Some(&self.client)))
            .await
            .ok()?;
        let warned = connection.warned;
        connection.become_like(&self.state, warned).await.ok()?;
        Some(connection)
    }
}

/// Ends a connection of `server`, or what it runs, by a second login of the same user.
async fn kill_on(
    thread: &Rc<Thread>,
    identity: &Rc<Identity>,
    server: usize,
    thread_id: u32,
    query: bool,
) -> Result<(), NoConnection> {
    let replica = thread.replica_by_number(server);
    let state = Rc::new(State::default());
    let need = Need {
        identity,
        replica: replica.as_ref(),
        state: &state,
    };
    let mut connection = Box::pin(thread.acquire(&need, None)).await?;
    if connection.key.server != server {
        // Another is primary by now, and what ran there has ended.
        thread.leave(connection, FREE);
        return Ok(());
    }
    let what = if query { "QUERY" } else { "CONNECTION" };
    let sql = format!("KILL {what} {thread_id}");
    match connection.ask(&[Question::query(sql.as_bytes())]).await {
        Ok(_) => {
            thread.leave(connection, FREE);
            Ok(())
        }
        // The connection is still good: the answer was no more than an error.
        Err(AskError::Refused(packet)) => {
            thread.leave(connection, FREE);
            // It has ended by itself meanwhile.
            if packet.code == super::say::NO_SUCH_THREAD {
                Ok(())
            } else {
                Err(NoConnection::Refused(packet))
            }
        }
        Err(other) => Err(other.into()),
    }
}

const FREE: Left = Left {
    free: true,
    precious: false,
};

impl Thread {
    /// The replica with that number, if it is one.
    fn replica_by_number(&self, server: usize) -> Option<Database> {
        let target = self.context.targets.borrow().clone();
        target.replicas.into_iter().find_map(|replica| {
            let (number, _) = self.context.directory.find(&replica.pin.server);
            (number == server).then_some(Database {
                side: Side::Replica,
                pin: replica.pin,
                way: replica.way,
            })
        })
    }
}
