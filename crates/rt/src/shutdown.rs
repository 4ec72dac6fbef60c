//! One way to ask a process to end: SIGTERM, SIGINT or a call, seen by every task on every runtime.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Asked to end, or not yet. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Shutdown {
    level: Arc<watch::Sender<Level>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Running,
    Requested,
    Hurried,
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown::new()
    }
}

impl Shutdown {
    /// One that only [`trigger`](Shutdown::trigger) asks.
    pub fn new() -> Shutdown {
        Shutdown {
            level: Arc::new(watch::Sender::new(Level::Running)),
        }
    }

    /// One that SIGTERM and SIGINT ask too; a second signal says [`hurried`](Shutdown::hurried). SIGHUP does nothing: it asks
    /// a daemon to read its files anew, which these do by themselves, and would end the process. Works inside and outside
    /// a runtime: a small thread of its own waits for the signals.
    ///
    /// # Errors
    /// When the thread or the signal handlers cannot be set up.
    pub fn from_signals() -> io::Result<Shutdown> {
        Shutdown::by_signals(Some(|| tracing::info!("SIGHUP: there is nothing to open anew")))
    }

    /// As [`Shutdown::from_signals`] for a program that somebody looks at: SIGHUP ends it, because the terminal is gone.
    ///
    /// # Errors
    /// As there.
    pub fn from_signals_at_a_terminal() -> io::Result<Shutdown> {
        Shutdown::by_signals(None::<fn()>)
    }

    /// As [`Shutdown::from_signals`], and SIGHUP calls `on_hangup`.
    ///
    /// # Errors
    /// As there.
    pub fn from_signals_and(on_hangup: impl Fn() + Send + 'static) -> io::Result<Shutdown> {
        Shutdown::by_signals(Some(on_hangup))
    }

    fn by_signals(on_hangup: Option<impl Fn() + Send + 'static>) -> io::Result<Shutdown> {
        let shutdown = Shutdown::new();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let asked = shutdown.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                runtime.block_on(async move {
                    let handlers = || {
                        let hangup = on_hangup.as_ref().map(|_| signal(SignalKind::hangup()));
                        Ok((
                            signal(SignalKind::terminate())?,
                            signal(SignalKind::interrupt())?,
                            hangup.transpose()?,
                        ))
                    };
                    let (mut term, mut int, mut hangup) = match handlers() {
                        Ok(handlers) => handlers,
                        Err(error) => return drop(ready.send(Err(error))),
                    };
                    drop(ready.send(Ok(())));
                    loop {
                        tokio::select! {
                            _ = term.recv() => {}
                            _ = int.recv() => {}
                            () = next(&mut hangup) => {
                                on_hangup.iter().for_each(|call| call());
                                continue;
                            }
                        }
                        if asked.is_requested() {
                            asked.hurry();
                        } else {
                            asked.trigger();
                        }
                    }
                });
            })?;
        // The handlers stand when this returns: a signal that comes right after is not the default action.
        is_ready.recv().map_err(io::Error::other)??;
        Ok(shutdown)
    }

    /// Asks everything to end in its own good time.
    pub fn trigger(&self) {
        self.raise(Level::Requested);
    }

    /// Asks everything to end now, without draining.
    pub fn hurry(&self) {
        self.raise(Level::Hurried);
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        *self.level.borrow() >= Level::Requested
    }

    /// Waits until the end is asked for. Cancel safe.
    pub async fn requested(&self) {
        self.reached(Level::Requested).await;
    }

    /// Waits until there is no time to drain. Cancel safe.
    pub async fn hurried(&self) {
        self.reached(Level::Hurried).await;
    }

    fn raise(&self, to: Level) {
        self.level.send_if_modified(|level| {
            let raised = *level < to;
            *level = to.max(*level);
            raised
        });
    }

    async fn reached(&self, level: Level) {
        // `self` holds the sender: the wait cannot end in an error.
        let _ = self.level.subscribe().wait_for(|now| *now >= level).await;
    }
}

/// The next of these signals; never one that is not listened for.
async fn next(signals: &mut Option<Signal>) {
    match signals {
        Some(signals) => {
            signals.recv().await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_trigger_is_seen_by_those_who_wait_and_those_who_come_later() {
        let shutdown = Shutdown::new();
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.requested().await }
        });
        tokio::task::yield_now().await;
        assert!(!shutdown.is_requested());
        shutdown.trigger();
        waiting.await.unwrap();
        shutdown.requested().await;
        shutdown.hurry();
        shutdown.trigger();
        shutdown.hurried().await;
    }

    #[test]
    fn the_first_signal_asks_and_the_second_hurries() {
        use rustix::process::{Signal, getpid, kill_process};
        let (hung_up, hangups) = std::sync::mpsc::channel();
        let shutdown = Shutdown::from_signals_and(move || hung_up.send(()).unwrap()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let in_time = |what: std::pin::Pin<Box<dyn Future<Output = ()> + '_>>| {
            runtime.block_on(async {
                tokio::time::timeout(std::time::Duration::from_secs(10), what)
                    .await
                    .unwrap()
            });
        };
        // The handlers stand: this test process does not die of its own signals.
        for _ in 0..2 {
            kill_process(getpid(), Signal::HUP).unwrap();
            hangups.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
        }
        assert!(!shutdown.is_requested());
        kill_process(getpid(), Signal::TERM).unwrap();
        in_time(Box::pin(shutdown.requested()));
        kill_process(getpid(), Signal::INT).unwrap();
        in_time(Box::pin(shutdown.hurried()));
    }
}
