//! Waiting for the next command: until the client speaks, has been silent for too long, or has lost the connection that
//! its session cannot do without.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pontoon_mysql_wire::{ErrorPacket, SqlState};
use pontoon_sql_class::Engine;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::Session;
use crate::exchange::buffers::with_scratch;
use crate::exchange::{read_more, send};
use crate::peer::Peer;
use crate::pool::Connection;

/// When the client has been silent for too long. One timer serves all commands of a session: it is set anew only when
/// it has ended, or when the session's limit has become shorter.
#[derive(Debug, Default)]
pub(super) struct Idle {
    timer: Option<Pin<Box<Sleep>>>,
    since: Option<Instant>,
    limit: Duration,
}

/// What ended the waiting.
enum Heard {
    /// The client: so many bytes, 0 at its end.
    Client(io::Result<usize>),
    /// Nobody, for longer than `wait_timeout`.
    Nothing,
    /// The connection that the session holds: what it said before its end.
    Database(Vec<u8>),
}

impl Session {
    /// Reads more of what the client sends; false when the session ends.
    pub(super) async fn hear(&mut self) -> bool {
        self.idle.limit = self.wait_timeout();
        if self.inbound.is_empty() {
            self.idle.since = Some(Instant::now());
        }
        let pinned = self.is_pinned();
        let mut watched = self.held.as_deref_mut();
        let heard = {
            let read = read_more(&mut self.client, &mut self.inbound, &self.link);
            let mut read = std::pin::pin!(read);
            let idle = &mut self.idle;
            poll_fn(|cx| {
                if let Poll::Ready(read) = read.as_mut().poll(cx) {
                    return Poll::Ready(Heard::Client(read));
                }
                if let Some(held) = watched.as_mut()
                    && let Poll::Ready(said) = poll_last_words(cx, held)
                {
                    // An open transaction is lost without a word when its server is: the next command is told so.
                    if pinned || !said.is_empty() {
                        return Poll::Ready(Heard::Database(said));
                    }
                    watched = None;
                }
                idle.poll(cx).map(|()| Heard::Nothing)
            })
            .await
        };
        match heard {
            Heard::Client(read) => matches!(read, Ok(1..)),
            Heard::Nothing => {
                if self.facts.engine == Engine::MySql {
                    let error =
                        ErrorPacket::new(CLIENT_INTERACTION_TIMEOUT, SqlState::GENERAL, SILENT_TOO_LONG);
                    super::say::error_to(&mut self.client, &self.link, 0, &error, self.capabilities).await;
                }
                false
            }
            Heard::Database(said) => {
                let _ = send(&mut self.client, &said, &self.link).await;
                false
            }
        }
    }

    /// How long the session may be silent: `wait_timeout`, as it has set it or as it found it.
    fn wait_timeout(&self) -> Duration {
        let set = self.state.variable("wait_timeout");
        let seconds = set.and_then(|value| std::str::from_utf8(value).ok()?.trim_matches('\'').parse().ok());
        seconds.map_or(self.facts.wait_timeout, Duration::from_secs)
    }
}

impl Idle {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.since.and_then(|since| since.checked_add(self.limit)) else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if until < timer.deadline() {
            timer.as_mut().reset(until);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if until <= timer.deadline() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    }
}

/// What a database says out of turn before it closes, or nothing when it just closes; pending while it is silent.
fn poll_last_words(cx: &mut Context<'_>, held: &mut Connection) -> Poll<Vec<u8>> {
    if held.link.ended().is_some() {
        return Poll::Ready(Vec::new());
    }
    held.link.wake_me(cx);
    read_now(cx, &mut held.backend.peer)
}

fn read_now(cx: &mut Context<'_>, peer: &mut Peer) -> Poll<Vec<u8>> {
    with_scratch(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        match Pin::new(peer).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(buffer.filled().to_vec()),
            Poll::Ready(Err(_)) => Poll::Ready(Vec::new()),
        }
    })
}

/// `ER_CLIENT_INTERACTION_TIMEOUT` (MySQL 8.0.24).
const CLIENT_INTERACTION_TIMEOUT: u16 = 4031;
const SILENT_TOO_LONG: &str = "The client was disconnected by the server because of inactivity. See wait_timeout and \
                               interactive_timeout for configuring this behavior.";
