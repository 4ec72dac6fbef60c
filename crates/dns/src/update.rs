//! Gives the addresses of names to a name server elsewhere (dynamic update, RFC 2136): only those names' addresses,
//! signed, and only what is not so already.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pontoon_fleet::AddressView;
use pontoon_zone::{Name, rtype};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::content;
use crate::notify::response_code;
use crate::shared;
use crate::transfer::{CLASS_IN, counts};
use crate::tsig::{Key, Keys, Signer, name_end};

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
    for some in different.chunks(SETS_AT_ONCE) {
        line.update(wanted, some).await?;
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
        let mut query = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0].to_vec();
        query.extend_from_slice(name.wire());
        query.extend_from_slice(&rtype.to_be_bytes());
        query.extend_from_slice(&CLASS_IN.to_be_bytes());
        let answer = self.ask(query).await?;
        match answer.get(3).map(|code| code & 0x0F) {
            Some(0 | NXDOMAIN) => {}
            code => {
                let said = response_code(code.unwrap_or_default());
                return Err(format!("asked for {name} it says {said}"));
            }
        }
        let mut found = addresses(&answer, *rtype).ok_or("its answer is malformed")?;
        found.sort_unstable();
        let same_times = found.iter().all(|(_, lasts)| *lasts == ttl);
        Ok(same_times && found.iter().map(|(address, _)| address).eq(wanted))
    }

    /// Puts these sets in the place of what the names have.
    async fn update(&mut self, wanted: &Wanted, sets: &[(&(Name, u16), &Vec<IpAddr>)]) -> Result<(), String> {
        let mut message = [0, 0, UPDATE, 0, 0, 1, 0, 0, 0, 0, 0, 0].to_vec();
        message.extend_from_slice(wanted.zone.wire());
        message.extend_from_slice(&rtype::SOA.to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        let mut count = 0u16;
        for ((name, rtype), addresses) in sets {
            let mut record = |class: u16, ttl: u32, data: &[u8]| {
                message.extend_from_slice(name.wire());
                message.extend_from_slice(&rtype.to_be_bytes());
                message.extend_from_slice(&class.to_be_bytes());
                message.extend_from_slice(&ttl.to_be_bytes());
                message.extend_from_slice(&(data.len() as u16).to_be_bytes());
                message.extend_from_slice(data);
                count += 1;
            };
            // All that is there goes first (section 2.5.2), in the same message: nobody sees the name without addresses.
            record(CLASS_ANY, 0, &[]);
            for address in *addresses {
                match address {
                    IpAddr::V4(address) => record(CLASS_IN, wanted.ttl, &address.octets()),
                    IpAddr::V6(address) => record(CLASS_IN, wanted.ttl, &address.octets()),
                }
            }
        }
        message[8..10].copy_from_slice(&count.to_be_bytes());
        let answer = self.ask(message).await?;
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

/// The addresses of this type in the answer section, with their TTLs.
fn addresses(message: &[u8], rtype: u16) -> Option<Vec<(IpAddr, u32)>> {
    let word = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let [questions, answers, ..] = counts(message)?;
    let mut at = 12;
    for _ in 0..questions {
        at = name_end(message, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        let end = name_end(message, at)?;
        let data = message.get(end + 10..end + 10 + usize::from(word(end + 8)?))?;
        let ttl = u32::from(word(end + 4)?) << 16 | u32::from(word(end + 6)?);
        if word(end)? == rtype {
            let address = match data.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(data).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(data).ok()?),
            };
            found.push((address, ttl));
        } else {
            // An alias: the addresses that follow are another name's.
            return Some(vec![(IpAddr::from([0, 0, 0, 0]), 0)]);
        }
        at = end + 10 + data.len();
    }
    Some(found)
}

/// How long a connection, and each answer, is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Sets in one message: with a hundred addresses each they fit.
const SETS_AT_ONCE: usize = 20;
const UPDATE: u8 = 5 << 3;
const CLASS_ANY: u16 = 255;
const NXDOMAIN: u8 = 3;
