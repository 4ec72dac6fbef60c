//! The threads of a proxy: each serves every door that it is handed, and ends when the doors have ended and what came in
//! through them too.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::doors::{Listener, ThreadDoor, accept_all};
use crate::threads::{self, ThreadError, Threads};

/// Why a proxy could not run. Nothing that a peer does ends it.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No signal handlers.
    #[error("signals cannot be handled: {0}")]
    Signals(#[source] io::Error),
    /// No runtime.
    #[error("no runtime: {0}")]
    Runtime(#[source] io::Error),
    /// A thread could not be started.
    #[error("a serving thread could not be started: {0}")]
    Threads(#[source] io::Error),
    /// A thread ended in a bug.
    #[error("a serving thread failed: {0}")]
    Thread(#[from] ThreadError),
}

/// A connection that came in.
#[derive(Debug)]
pub enum Incoming {
    /// Of an application, over TCP.
    Tcp(TcpStream),
    /// Of an application, over the Unix socket.
    Unix(UnixStream),
    /// Of another proxy.
    Relay(TcpStream),
}

/// When connections that are still open have to end.
#[derive(Clone, Debug)]
pub struct Closing {
    /// They are to close now.
    pub token: CancellationToken,
    /// How long they may take to notice.
    pub limit: Duration,
}

/// Starts `count` threads (0 for one a core). `make` makes what a thread has of its own, within its runtime; `serve` has a
/// task for each connection. The senders are for [`Doors`](crate::doors::Doors).
///
/// # Errors
/// [`ServeError::Threads`].
pub fn on_threads<T, M, S, F>(
    count: usize,
    closing: &Closing,
    make: M,
    serve: S,
) -> Result<(Threads<()>, Vec<UnboundedSender<ThreadDoor>>), ServeError>
where
    T: 'static,
    M: Fn() -> Rc<T> + Clone + Send + 'static,
    S: Fn(Rc<T>, Incoming) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let count = threads::count(count);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| unbounded_channel()).unzip();
    let slots: Arc<[Mutex<Option<_>>]> = receivers
        .into_iter()
        .map(|receiver| Mutex::new(Some(receiver)))
        .collect();
    let closing = closing.clone();
    let threads = threads::per_core(count, move |index| {
        let doors = slots.get(index).and_then(|slot| slot.lock().ok()?.take());
        let (make, serve, closing) = (make.clone(), serve.clone(), closing.clone());
        async move {
            if let Some(doors) = doors {
                serve_thread(doors, &closing, make(), serve).await;
            }
        }
    });
    Ok((threads.map_err(ServeError::Threads)?, senders))
}

async fn serve_thread<T, S, F>(
    mut doors: UnboundedReceiver<ThreadDoor>,
    closing: &Closing,
    thread: Rc<T>,
    serve: S,
) where
    T: 'static,
    S: Fn(Rc<T>, Incoming) -> F + Clone + 'static,
    F: Future<Output = ()> + 'static,
{
    let tasks = TaskTracker::new();
    while let Some(ThreadDoor { listener, stop }) = doors.recv().await {
        let (thread, serve, each) = (Rc::clone(&thread), serve.clone(), tasks.clone());
        tasks.spawn_local(async move {
            let spawn = |incoming| drop(each.spawn_local(serve(Rc::clone(&thread), incoming)));
            if let Err(error) = accept(listener, &stop, spawn).await {
                tracing::error!(%error, "a listening socket failed");
            }
        });
    }
    tasks.close();
    tokio::select! {
        () = tasks.wait() => {}
        () = async {
            closing.token.cancelled().await;
            tokio::time::sleep(closing.limit).await;
        } => tracing::warn!(open = tasks.len(), "connections did not end in time"),
    }
}

async fn accept(listener: Listener, stop: &CancellationToken, spawn: impl Fn(Incoming)) -> io::Result<()> {
    match listener {
        Listener::ClientTcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            accept_all(
                stop,
                || listener.accept(),
                |(stream, _)| spawn(Incoming::Tcp(stream)),
            )
            .await;
        }
        Listener::ClientUnix(listener) => {
            let listener = UnixListener::from_std(listener)?;
            accept_all(
                stop,
                || listener.accept(),
                |(stream, _)| spawn(Incoming::Unix(stream)),
            )
            .await;
        }
        Listener::Relay(listener) => {
            let listener = TcpListener::from_std(listener)?;
            accept_all(
                stop,
                || listener.accept(),
                |(stream, _)| spawn(Incoming::Relay(stream)),
            )
            .await;
        }
    }
    Ok(())
}
