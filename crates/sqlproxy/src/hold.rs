//! Holding a new connection until a database greets it, or until the fleet's patience ends.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::backend::{AttemptError, Opened, attempt};
use crate::context::Context;
use crate::counters::Counted;
use crate::peer::Peer;
use crate::target::{NoPrimary, Primary, Target, Transport};

/// Between two attempts of one connection: the first pause, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// However often an attempt met silence, the next waits no longer than this.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(30);

/// Why a held connection got no database.
#[derive(Debug)]
pub enum NotOpened {
    /// The client closed.
    ClientGone,
    /// Time was up.
    TimedOut {
        /// How long the client had waited.
        waited: Duration,
        /// What stood in the way last.
        obstacle: Obstacle,
    },
}

/// What stands in the way of a connection.
#[derive(Debug)]
pub enum Obstacle {
    /// Nobody is primary.
    NoPrimary(NoPrimary),
    /// The primary's database did not greet.
    Attempt(AttemptError),
    /// Others are trying, and this connection's turn did not come.
    Waiting,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::NoPrimary(reason) => reason.fmt(f),
            Obstacle::Attempt(error) => error.fmt(f),
            Obstacle::Waiting => write!(f, "the database does not answer"),
        }
    }
}

/// Whether a connection is for something that has begun already, so that a primary that is about to hand over waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// A hand-over waits.
    Yes,
    /// It is new: it waits for the next primary.
    No,
}

/// Finds `client` a database that greets. Waits as long as the view's `hold_writes` says.
///
/// # Errors
/// [`NotOpened`].
pub async fn open(
    context: &Context,
    client: Option<&Peer>,
    transport: Transport,
    begun: Begun,
) -> Result<Opened, NotOpened> {
    let _held = (Counted::new(&context.counters.held), context.metrics.hold());
    let began = Instant::now();
    let opened = tokio::select! {
        opened = try_until_deadline(context, transport, began, begun) => opened,
        () = async {
            match client {
                Some(client) => client.gone().await,
                None => std::future::pending().await,
            }
        } => Err(NotOpened::ClientGone),
    };
    context.counters.waited(began.elapsed());
    opened
}

async fn try_until_deadline(
    context: &Context,
    transport: Transport,
    began: Instant,
    begun: Begun,
) -> Result<Opened, NotOpened> {
    let mut targets = context.targets.clone();
    let deadline = began + targets.borrow().hold;
    let mut pause = BACKOFF.0;
    let mut limit = context.limits.first_attempt;
    loop {
        let target = targets.borrow_and_update().clone();
        let primary = match begun {
            Begun::Yes => target.serving().cloned().map_err(Clone::clone),
            Begun::No => target.primary,
        };
        let obstacle = match primary {
            Err(reason) => Obstacle::NoPrimary(reason),
            Ok(primary) => {
                // An attempt never outlives the hold, but even without a hold there is one.
                let left = deadline.saturating_duration_since(Instant::now());
                let limit_now = if left.is_zero() { limit } else { limit.min(left) };
                // A primary that is dead greets nobody, however long it is waited for: the next one may be there already.
                let mut news = context.targets.clone();
                let replaced = news.wait_for(|target| !target.permits(&primary.pin));
                let tried = tokio::select! {
                    tried = try_once(context, &primary, transport, limit_now, deadline) => Some(tried),
                    Ok(_) = replaced => None,
                };
                match tried {
                    Some(Ok(opened)) if targets.borrow().permits(&opened.pin) => return Ok(opened),
                    // The primary changed before or while its database greeted: nothing was said to it yet.
                    None | Some(Ok(_)) => {
                        (pause, limit) = (BACKOFF.0, context.limits.first_attempt);
                        continue;
                    }
                    Some(Err(obstacle)) => obstacle,
                }
            }
        };
        if Instant::now() >= deadline {
            return Err(NotOpened::TimedOut {
                waited: began.elapsed(),
                obstacle,
            });
        }
        let patience = match obstacle {
            Obstacle::NoPrimary(_) => deadline,
            _ => deadline.min(Instant::now() + pause),
        };
        let slow = matches!(obstacle, Obstacle::Attempt(AttemptError::Silent));
        if wait_for_news(&mut targets, patience).await {
            (pause, limit) = (BACKOFF.0, context.limits.first_attempt);
            continue;
        }
        pause = (pause * 2).min(BACKOFF.1);
        if slow {
            limit = limit.saturating_mul(2).min(LONGEST_ATTEMPT);
        }
    }
}

/// One attempt; while the database is known not to answer, only when it is this connection's turn.
async fn try_once(
    context: &Context,
    primary: &Primary,
    transport: Transport,
    limit: Duration,
    deadline: Instant,
) -> Result<Opened, Obstacle> {
    let gate = &context.gate;
    let mut _turn = None;
    if gate.closed.load(Relaxed) {
        _turn = match timeout_at(deadline, gate.tries.acquire()).await {
            Ok(Ok(turn)) => Some(turn),
            _ => return Err(Obstacle::Waiting),
        };
    }
    let result = attempt(primary, transport, &context.tls, limit).await;
    gate.closed.store(result.is_err(), Relaxed);
    if let Err(error) = &result {
        tracing::debug!(server = %primary.pin.server, epoch = %primary.pin.epoch, %error, "an attempt failed");
    }
    result.map_err(Obstacle::Attempt)
}

/// Waits for another target, but not beyond `until`; says whether there is one.
async fn wait_for_news(targets: &mut watch::Receiver<Target>, until: Instant) -> bool {
    match timeout_at(until, targets.changed()).await {
        Ok(Ok(())) => true,
        // The sender is gone only when the process ends: do not spin until then.
        Ok(Err(_)) => {
            tokio::time::sleep_until(until).await;
            false
        }
        Err(_) => false,
    }
}
