//! Asks another name server what it has: whether a proof has come to those who fetch the zone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use pontoon_zone::{Name, rtype};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::content;
use crate::notify::response_code;
use crate::shared;
use crate::update::message;

/// Whether `server` answers with this text at `name`.
///
/// # Errors
/// It cannot be asked: why, for people.
pub async fn has_text(server: SocketAddr, name: &Name, text: &str) -> Result<bool, String> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut query = message::query(name, rtype::TXT);
    // Nobody gains by guessing it: what is forged here costs an order at the most.
    let id = (shared::now() as u16).wrapping_mul(0x9E37).to_be_bytes();
    query[..2].copy_from_slice(&id);
    let exchange = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(server).await?;
        socket.send(&query).await?;
        let mut buffer = [0; 1232];
        loop {
            let count = socket.recv(&mut buffer).await?;
            let answer = buffer.get(..count).unwrap_or_default();
            if answer.get(..2) == Some(&id) && answer.get(2).is_some_and(|flags| flags & 0x80 != 0) {
                return std::io::Result::Ok(answer.to_vec());
            }
        }
    };
    let answer = timeout(PATIENCE, exchange)
        .await
        .map_err(|_| "it does not answer".to_owned())?
        .map_err(|error| error.to_string())?;
    let (flags, code) = (answer.get(2).copied(), answer.get(3).map(|code| code & 0x0F));
    match code {
        Some(0 | NXDOMAIN) if flags.is_some_and(|flags| flags & AUTHORITATIVE != 0) => {}
        Some(0 | NXDOMAIN) => return Err("it does not answer for the zone".to_owned()),
        code => return Err(format!("it says {}", response_code(code.unwrap_or_default()))),
    }
    let found = message::records(&answer, rtype::TXT).ok_or("its answer is malformed")?;
    let wanted = content::character_string(text);
    Ok(found.iter().any(|(data, _)| *data == wanted))
}

const PATIENCE: Duration = Duration::from_secs(2);
const AUTHORITATIVE: u8 = 0x04;
const NXDOMAIN: u8 = 3;
