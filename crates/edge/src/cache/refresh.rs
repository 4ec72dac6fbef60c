//! Asks for a new answer while the visitor has gone on with the one before it.

use std::cell::Cell;
use std::rc::Rc;

use pontoon_telemetry::metrics::CacheEvent;
use tokio::time::Instant;

use super::fill::Fill;
use crate::connection::Client;
use crate::forward;
use crate::http1::request::Request;
use crate::io::{Deadline, Stream};
use crate::pipe::Pipe;
use crate::worker::{Route, Worker};

/// The most that one thread asks for at once; more stay as they are until somebody asks for them again.
const MOST: usize = 64;

/// How many are asked for at the moment.
pub type Refreshes = Rc<Cell<usize>>;

/// One of them, while it lives.
struct Counted(Refreshes);

impl Counted {
    fn one_of(refreshes: &Refreshes) -> Option<Counted> {
        (refreshes.get() < MOST).then(|| {
            refreshes.set(refreshes.get() + 1);
            Counted(Rc::clone(refreshes))
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Asks for what `request` with the head `head` asked for, and has `fill` keep it. Nobody sees the answer.
pub fn refresh(worker: &Rc<Worker>, request: &Request, head: &[u8], fill: Fill) {
    let Some(counted) = Counted::one_of(&worker.refreshes) else {
        return;
    };
    worker.stats.cache(CacheEvent::Refresh);
    let (worker, request, head) = (Rc::clone(worker), request.clone(), head.to_vec());
    tokio::task::spawn_local(async move {
        let _counted = counted;
        let mut client = Client {
            // Whatever is written to it is gone, and it says nothing.
            stream: Stream::Kept(Box::default()),
            buffer: worker.buffers.take(),
            deadline: Deadline::new(worker.upstreams().tuning.head_timeout),
            scratch: Vec::new(),
            now: Instant::now(),
        };
        let mut up = Pipe::new(head, request.length.into());
        Box::pin(forward::forward(
            &worker,
            &mut client,
            &request,
            &mut up,
            Route::Visitors,
            Some(fill),
        ))
        .await;
    });
}
