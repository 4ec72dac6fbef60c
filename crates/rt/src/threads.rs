//! One thread and one single-threaded runtime a core: what is accepted on a thread stays there, without locks.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::thread::JoinHandle;

use tokio::runtime::LocalOptions;

/// A thread that did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// It panicked: a bug.
    #[error("thread {0} panicked")]
    Panicked(usize),
    /// Its runtime could not be made.
    #[error("thread {0} has no runtime: {1}")]
    Runtime(usize, #[source] io::Error),
}

/// Running threads; [`join`](Threads::join) waits for all of them.
#[derive(Debug)]
pub struct Threads<T> {
    handles: Vec<JoinHandle<io::Result<T>>>,
}

/// The number of threads for `wanted`: itself, or one a core when it is 0.
pub fn count(wanted: usize) -> usize {
    match wanted {
        0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        n => n,
    }
}

/// Runs `f(0)`, `f(1)`, … each on its own thread, inside a runtime of that thread alone, so that neither the futures nor
/// what they spawn (`tokio::task::spawn_local`) need be `Send`. `n == 0` means one a core.
///
/// # Errors
/// When a thread cannot be started. Those already started go on until `f` ends.
pub fn per_core<T, F, Fut>(n: usize, f: F) -> io::Result<Threads<T>>
where
    T: Send + 'static,
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = T>,
{
    let handles = (0..count(n))
        .map(|index| {
            let f = f.clone();
            std::thread::Builder::new()
                .name(format!("core-{index}"))
                .spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build_local(LocalOptions::default())?;
                    Ok(runtime.block_on(f(index)))
                })
        })
        .collect::<io::Result<Vec<_>>>()?;
    Ok(Threads { handles })
}

impl<T> Threads<T> {
    /// Waits for every thread (blocking) and returns what each made, in order.
    ///
    /// # Errors
    /// The first thread that panicked or had no runtime; the others have ended too by then.
    pub fn join(self) -> Result<Vec<T>, ThreadError> {
        let ended: Vec<_> = self.handles.into_iter().map(JoinHandle::join).collect();
        ended
            .into_iter()
            .enumerate()
            .map(|(index, result)| match result {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(ThreadError::Runtime(index, error)),
                Err(_) => Err(ThreadError::Panicked(index)),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn every_thread_runs_local_futures_and_a_panic_is_an_error() {
        let made = per_core(3, |index| async move {
            let rc = Rc::new(index);
            tokio::task::spawn_local({
                let rc = Rc::clone(&rc);
                async move { *rc * 2 }
            })
            .await
            .unwrap()
        });
        assert_eq!(made.unwrap().join().unwrap(), [0, 2, 4]);
        // Not `panic!`: its message and backtrace would look like a failure in the output of the tests.
        let failed = per_core(2, |index| async move {
            if index == 1 {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
        });
        assert!(matches!(failed.unwrap().join(), Err(ThreadError::Panicked(1))));
    }
}
