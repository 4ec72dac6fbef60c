//! Whether a database server serves: it has said something to somebody who dialled it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::find;
use crate::node::DatabaseNode;
use crate::settings;

/// How long until it is looked again.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `pid`, a server that perhaps has just begun, greets; at most `patience`, and no longer than it lives.
///
/// MariaDB listens before it is ready, and in between it takes connections that nobody greets, runs the statements of
/// `init_file`, and **forgets a SIGTERM for good**: it never serves then and never ends. So this goes before a SIGTERM.
pub(crate) async fn wait(node: &DatabaseNode, pid: u32, patience: Duration) {
    let begun = Instant::now();
    while find::server_in(&node.datadir) == Some(pid) {
        let left = patience.saturating_sub(begun.elapsed());
        if left.is_zero() || says_something(node, pid, left).await {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A server that listens where nobody can dial it any more counts as one that does: its socket's file was removed.
async fn says_something(node: &DatabaseNode, pid: u32, patience: Duration) -> bool {
    let own = find::unix_sockets(pid);
    let listens = !own.is_empty();
    // Where it should be, in case this user may not see where it is.
    let sockets: Vec<PathBuf> = match listens {
        true => own,
        false => vec![settings::effective_socket(node)],
    };
    for socket in sockets {
        if let Ok(mut stream) = UnixStream::connect(&socket).await {
            // A greeting or an error packet. A connection of the kernel's queue gets it as soon as it can.
            let read = tokio::time::timeout(patience, stream.read_u8()).await;
            return matches!(read, Ok(Ok(_)));
        }
    }
    listens
}
