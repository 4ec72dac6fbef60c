//! HTTP/2: a few connections, a stream for each request (RFC 9113).

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;

use crate::http1::{Answer, USER_AGENT};
use crate::target::Target;

/// The connections of a run.
#[derive(Default)]
pub struct Connections(RefCell<Vec<Known>>);

#[derive(Clone)]
struct Known {
    sender: SendRequest<Bytes>,
    streams: Rc<Cell<usize>>,
}

/// A stream that is open.
struct Open(Rc<Cell<usize>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Connections {
    /// Asks once and reads the whole answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn ask(&self, target: &Target) -> io::Result<Answer> {
        let known = match self.free() {
            Some(known) => known,
            None => self.connect(target).await?,
        };
        known.streams.set(known.streams.get() + 1);
        let _open = Open(Rc::clone(&known.streams));
        let asked = ask(known.sender, target).await;
        if asked.is_err() {
            // It may be the connection: later requests take another.
            self.0
                .borrow_mut()
                .retain(|other| !Rc::ptr_eq(&other.streams, &known.streams));
        }
        asked
    }

    /// The connection with the fewest streams, if it has room.
    fn free(&self) -> Option<Known> {
        let all = self.0.borrow();
        let least = all.iter().min_by_key(|known| known.streams.get())?;
        (least.streams.get() < STREAMS || all.len() >= MOST_CONNECTIONS).then(|| least.clone())
    }

    async fn connect(&self, target: &Target) -> io::Result<Known> {
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(target.connect().await?)
            .await
            .map_err(io::Error::other)?;
        // It ends with its last sender or with the peer; requests on it hear of that themselves.
        tokio::task::spawn_local(async move { drop(connection.await) });
        let known = Known {
            sender,
            streams: Rc::default(),
        };
        self.0.borrow_mut().push(known.clone());
        Ok(known)
    }
}

async fn ask(sender: SendRequest<Bytes>, target: &Target) -> io::Result<Answer> {
    let mut request = Request::get(target.place.url());
    if !target
        .fields
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("user-agent"))
    {
        request = request.header("user-agent", USER_AGENT);
    }
    for (name, value) in &target.fields {
        request = request.header(name, value);
    }
    let request = request.body(()).map_err(io::Error::other)?;
    let mut sender = sender.ready().await.map_err(io::Error::other)?;
    let (answer, _) = sender.send_request(request, true).map_err(io::Error::other)?;
    let (head, mut body) = answer.await.map_err(io::Error::other)?.into_parts();
    while let Some(data) = body.data().await {
        let data = data.map_err(io::Error::other)?;
        body.flow_control()
            .release_capacity(data.len())
            .map_err(io::Error::other)?;
    }
    let location = head.headers.get("location").and_then(|value| value.to_str().ok());
    Ok(Answer {
        status: head.status.as_u16(),
        location: location.map(str::to_owned),
    })
}

/// Streams on a connection before another one is opened: below what servers allow by default (RFC 9113, 6.5.2).
const STREAMS: usize = 64;
const MOST_CONNECTIONS: usize = 64;
