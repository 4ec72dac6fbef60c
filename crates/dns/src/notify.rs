//! Tells other name servers that the zone has changed (NOTIFY, RFC 1996): they come and fetch it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_zone::{Name, rtype};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::tsig::{Key, Signer};

/// The message for a change of the zone, signed.
pub(crate) fn message(zone: &Name, id: u16, key: &Key, now: u64) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    // Opcode 4, authoritative; one question.
    message.extend_from_slice(&[0x24, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(zone.wire());
    message.extend_from_slice(&rtype::SOA.to_be_bytes());
    message.extend_from_slice(&1u16.to_be_bytes());
    Signer::new(key).sign(&mut message, now);
    message
}

/// Who could not be told of the last change, and why.
pub(crate) type Deaf = Arc<Mutex<BTreeMap<SocketAddr, String>>>;

/// Sends it until `to` has answered, or five times. Who does not hear of it asks by itself when the SOA's refresh time is
/// over.
pub(crate) async fn tell(to: SocketAddr, message: Vec<u8>, deaf: Deaf) {
    let outcome = exchange(to, &message).await;
    let mut deaf = deaf.lock().unwrap_or_else(PoisonError::into_inner);
    match outcome {
        Ok(()) => {
            deaf.remove(&to);
        }
        Err(reason) => {
            if deaf.get(&to) != Some(&reason) {
                tracing::warn!(%to, reason, "another name server was not told that the zone has changed");
            }
            deaf.insert(to, reason);
        }
    }
}

async fn exchange(to: SocketAddr, message: &[u8]) -> Result<(), String> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))
        .await
        .map_err(|error| error.to_string())?;
    let mut buffer = [0; 512];
    let mut reason = "it does not answer".to_owned();
    for wait in TRIES {
        let one = async {
            socket.connect(to).await?;
            socket.send(message).await?;
            loop {
                let count = socket.recv(&mut buffer).await?;
                let answer = buffer.get(..count).unwrap_or_default();
                if answer.get(..2) == message.get(..2)
                    && answer.get(2).is_some_and(|flags| flags & 0xF8 == 0xA0)
                {
                    return std::io::Result::Ok(answer.get(3).map_or(0, |code| code & 0x0F));
                }
            }
        };
        match timeout(wait, one).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(code)) => return Err(format!("it says {}", response_code(code))),
            // Nobody listens there at this moment.
            Ok(Err(error)) => {
                reason = error.to_string();
                tokio::time::sleep(wait).await;
            }
            Err(_) => {}
        }
    }
    Err(reason)
}

/// The name of a response code, for people.
pub(crate) fn response_code(code: u8) -> String {
    let name = match code {
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH (a key that it does not know, or a clock that is wrong)",
        10 => "NOTZONE",
        _ => return format!("response code {code}"),
    };
    name.to_owned()
}

const TRIES: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
