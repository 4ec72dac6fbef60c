//! Gives the addresses of names to a name server elsewhere (dynamic update, RFC 2136): only those names' addresses,
//! signed, and only what is not so already.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pontoon_fleet::AddressView;
use pontoon_zone::Name;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::content;
use crate::notify::response_code;
use crate::shared;
use crate::tsig::{Key, Keys, Signer};

mod message;

/// The addresses that names shall have elsewhere, and for how long others may remember them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The zone that the names are in.
    pub zone: Name,
    /// In seconds.
    pub ttl: u32,
    /// By name and type (A or AAAA). Of a type of which the fleet has no address the names have none.
    pub sets: BTreeMap<(Name, u16), Vec<IpAddr>>,
}

impl Wanted {
    /// What follows from the state of the fleet's addresses. `ttls` are the usual one and the one while not all are up.
    ///
    /// # Errors
    /// A name that is none.
    pub fn new(
        zone: &str,
        names: &[String],
        addresses: &[AddressView],
        ttls: (u32, u32),
    ) -> Result<Wanted, String> {
        let parse = |text: &str| text.parse::<Name>().map_err(|error| error.to_string());
        let mut sets = BTreeMap::new();
        for text in names {
            let name = parse(text)?;
            for (rtype, mut addresses) in content::published(addresses) {
                addresses.sort_unstable();
                sets.insert((name.clone(), rtype), addresses);
            }
        }
        Ok(Wanted {
            zone: parse(zone)?,
            ttl: content::ttl(addresses, ttls),
            sets,
        })
    }
}

/// Makes what `server` answers for the names what is wanted; gives the number of sets that had to be changed.
///
/// # Errors
/// Why it did not become so, for people. Some of the names may have been changed.
pub async fn push(server: SocketAddr, keys: &Keys, wanted: &Wanted) -> Result<usize, String> {
    let key = keys.first().ok_or("there is no key")?;
    let connecting = TcpStream::connect(server);
    let stream = timeout(PATIENCE, connecting)
        .await
        .map_err(|_| "it does not take connections".to_owned())?
        .map_err(|error| error.to_string())?;
    let mut line = Line {
        stream,
        key,
        id: shared::now() as u16,
    };
    let mut different = Vec::new();
    for (place, addresses) in &wanted.sets {
        if !line.has(place, addresses, wanted.ttl).await? {
            different.push((place, addresses));
        }
    }
    for update in message::updates(&wanted.zone, wanted.ttl, &different) {
        line.update(update).await?;
    }
    for (place, addresses) in &different {
        // A server ignores addresses for a name that has an alias (RFC 2136 section 3.4.2.2), without saying so.
        if !line.has(place, addresses, wanted.ttl).await? {
            return Err(format!(
                "it took the addresses of {} and does not answer them: does the name have a CNAME there?",
                place.0
            ));
        }
    }
    Ok(different.len())
}

/// A connection to the server.
struct Line<'a> {
    stream: TcpStream,
    key: &'a Key,
    id: u16,
}

impl Line<'_> {
    /// Whether the server has just these addresses at the name.
    async fn has(
        &mut self,
        (name, rtype): &(Name, u16),
        wanted: &[IpAddr],
        ttl: u32,
    ) -> Result<bool, String> {
        let answer = self.ask(message::query(name, *rtype)).await?;
        match answer.get(3).map(|code| code & 0x0F) {
            Some(0 | NXDOMAIN) => {}
            code => {
                let said = response_code(code.unwrap_or_default());
                return Err(format!("asked for {name} it says {said}"));
            }
        }
        let mut found = message::addresses(&answer, *rtype).ok_or("its answer is malformed")?;
        found.sort_unstable();
        let same_times = found.iter().all(|(_, lasts)| *lasts == ttl);
        Ok(same_times && found.iter().map(|(address, _)| address).eq(wanted))
    }

    /// Sends an update.
    async fn update(&mut self, update: Vec<u8>) -> Result<(), String> {
        let answer = self.ask(update).await?;
        match answer.get(3).map_or(0, |code| code & 0x0F) {
            0 => Ok(()),
            code => Err(format!("it refuses the update: {}", response_code(code))),
        }
    }

    /// Sends a message, signed, and gives the answer, whose signature was good.
    async fn ask(&mut self, mut message: Vec<u8>) -> Result<Vec<u8>, String> {
        self.id = self.id.wrapping_mul(0x6255).wrapping_add(0x3619);
        message[..2].copy_from_slice(&self.id.to_be_bytes());
        let mut signer = Signer::new(self.key);
        signer.sign(&mut message, u64::from(shared::now()));
        let exchange = async {
            let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            self.stream.write_all(&length.to_be_bytes()).await?;
            self.stream.write_all(&message).await?;
            let mut answer = vec![0; usize::from(self.stream.read_u16().await?)];
            self.stream.read_exact(&mut answer).await?;
            io::Result::Ok(answer)
        };
        let answer = timeout(PATIENCE, exchange)
            .await
            .map_err(|_| "it does not answer".to_owned())?
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => "it closes the connection".to_owned(),
                _ => error.to_string(),
            })?;
        if answer.get(..2) != message.get(..2) || answer.get(2).is_none_or(|flags| flags & 0x80 == 0) {
            return Err("its answer is to another question".to_owned());
        }
        signer.verify(&answer, u64::from(shared::now())).map_err(|why| {
            match answer.get(3).map_or(0, |code| code & 0x0F) {
                0 => why,
                code => format!("it says {} ({why})", response_code(code)),
            }
        })
    }
}

/// How long a connection, and each answer, is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const NXDOMAIN: u8 = 3;
