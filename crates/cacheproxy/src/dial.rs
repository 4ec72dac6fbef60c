//! From here to a memcached: the one of this server, or another's through its proxy's relay.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::context::Context;
use crate::guard::Pass;
use crate::memcached;
use crate::preface::{Answer, REPLY_LEN, preface};
use crate::route::Target;

/// A stream to a memcached.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// How a memcached is reached.
pub enum Link {
    /// By its socket.
    Local(UnixStream),
    /// Through another server's relay.
    Relay(Pin<Box<dyn Stream>>),
}

/// A connection that a lane speaks over.
pub struct Connection<'a> {
    /// The bytes.
    pub stream: Link,
    /// The guard's leave, for this server's own memcached; another's is with its relay.
    pub pass: Option<Pass<'a>>,
}

/// Connects to `target` under the list `list`, within `limit`.
///
/// # Errors
/// Why not, for people.
pub async fn dial<'a>(
    context: &'a Context,
    target: &Target,
    list: u64,
    limit: Duration,
) -> Result<Connection<'a>, String> {
    let dialled = async {
        match target.relay {
            None => local(context, list).await,
            Some(relay) => {
                let tcp = TcpStream::connect(relay)
                    .await
                    .map_err(|error| error.to_string())?;
                let _ = tcp.set_nodelay(true);
                let tls = context.tls.connect(&target.server, tcp, limit).await;
                let mut stream = tls.map_err(|error| error.to_string())?;
                let talk = async {
                    stream.write_all(&preface(list)).await?;
                    stream.flush().await?;
                    let mut reply = [0; REPLY_LEN];
                    stream.read_exact(&mut reply).await?;
                    io::Result::Ok(reply)
                };
                let reply = talk.await.map_err(|error| error.to_string())?;
                match Answer::parse(reply) {
                    Some(Answer::Accepted) => Ok(Connection {
                        stream: Link::Relay(Box::pin(stream)),
                        pass: None,
                    }),
                    Some(answer) => Err(answer.why().to_owned()),
                    None => Err(Answer::BadPreface.why().to_owned()),
                }
            }
        }
    };
    timeout(limit, dialled)
        .await
        .unwrap_or_else(|_| Err("it does not answer".to_owned()))
}

async fn local(context: &Context, list: u64) -> Result<Connection<'_>, String> {
    let pass = context
        .guard
        .admit(list)
        .ok_or_else(|| Answer::OtherList.why().to_owned())?;
    let (stream, pid) = memcached::connect(&context.socket)
        .await
        .map_err(|error| error.to_string())?;
    if pid != pass.serving.pid {
        return Err("its memcached was started anew".to_owned());
    }
    Ok(Connection {
        stream: Link::Local(stream),
        pass: Some(pass),
    })
}

/// Closes a connection to memcached so that nothing of it can be carried out later: says that no more comes, and waits
/// until memcached has closed it too. A memcached that hangs does so when it goes on, or ends.
pub async fn close(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let _ = stream.shutdown().await;
    let mut rest = [0; 4096];
    while matches!(stream.read(&mut rest).await, Ok(1..)) {}
}
