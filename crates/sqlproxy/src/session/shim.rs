//! DEV ONLY.
use std::rc::Rc;

use pontoon_mysql_wire::{Capabilities, FirstReply, Greeting, ServerGreeting, PacketDecoder};

use super::Client;
use crate::auth::Secret;
use crate::backend::SESSION_FLAGS;
use crate::hold;
use crate::packets::Packets;
use crate::peer::Peer;
use crate::pool::{Identity, Thread};
use crate::target::Transport;

pub async fn accept(thread: &Rc<Thread>, peer: Peer, transport: Transport, password: &str) -> Option<Client> {
    let opened = hold::open(&thread.context, Some(&peer), transport).await.ok()?;
    let mut decoder = PacketDecoder::new(10000);
    decoder.feed(&opened.first);
    let ServerGreeting::Ready(theirs) = ServerGreeting::parse(&decoder.next_packet().ok()??.payload).ok()? else {
        return None;
    };
    let id = thread.context.sessions.number();
    let mut out = Capabilities::SSL | Capabilities::COMPRESS | Capabilities::ZSTD_COMPRESSION;
    for flag in [Capabilities::QUERY_ATTRIBUTES, Capabilities::MARIADB_CACHE_METADATA, Capabilities::MARIADB_STMT_BULK_OPERATIONS, Capabilities::MARIADB_BULK_UNIT_RESULTS, Capabilities::OPTIONAL_RESULTSET_METADATA, Capabilities::MARIADB_PROGRESS] { out = out | flag; }
    let greeting = Greeting { thread_id: id, capabilities: theirs.capabilities.without(out), auth_plugin: b"mysql_native_password".to_vec(), ..theirs };
    drop(opened.peer);
    let mut packets = Packets::new(peer, &[]);
    packets.write(&greeting.to_payload()).await.ok()?;
    let FirstReply::Login(login) = FirstReply::parse(&packets.read().await.ok()?).ok()? else { return None };
    let secret = Secret::password(password.as_bytes());
    let identity = thread.identity(Identity {
        user: login.user.clone(),
        fingerprint: secret.fingerprint(),
        secret,
        flags: login.capabilities & SESSION_FLAGS & greeting.capabilities,
        collation: login.character_set,
        transport,
        tls: false,
    });
    let sequence = 2;
    let (peer, _) = packets.into_parts();
    Some(Client { peer, id, capabilities: login.capabilities & greeting.capabilities, identity, database: login.database, sequence, bound: None })
}
