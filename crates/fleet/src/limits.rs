//! What an edge allows its visitors, and networks written as `ADDRESS/LENGTH`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::optional_millis;

/// What an edge allows its visitors. `None` where the edge's own default holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeLimits {
    /// The most bytes of a request line.
    pub request_line: Option<u32>,
    /// The most bytes of a whole head.
    pub head: Option<u32>,
    /// The most header fields.
    pub fields: Option<u32>,
    /// The most bytes of a request's body; `None`: as many as there are.
    pub body: Option<u64>,
    /// From the first byte of a head to its last.
    #[serde(with = "optional_millis")]
    pub head_timeout: Option<Duration>,
    /// The longest pause within a body.
    #[serde(with = "optional_millis")]
    pub body_timeout: Option<Duration>,
    /// The fewest bytes a second of a body, on average; 0: as slow as it likes.
    pub body_rate: Option<u64>,
    /// How long a kept connection may wait for its next request.
    #[serde(with = "optional_millis")]
    pub idle_timeout: Option<Duration>,
    /// How long a visitor may take nothing of an answer.
    #[serde(with = "optional_millis")]
    pub write_timeout: Option<Duration>,
    /// What one client may do.
    pub client: ClientLimits,
}

/// What one client may do. A client is a network: a single address with IPv4, unless configured otherwise, and what one
/// household gets with IPv6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientLimits {
    /// Requests under way at the same time; `None`: as many as it likes.
    pub requests: Option<u32>,
    /// Requests a second; `None`: as many as it likes.
    pub rate: Option<u32>,
    /// Requests that may come at once, after a pause.
    pub burst: u32,
    /// Bits of an IPv4 address that make a client.
    pub prefix_v4: u8,
    /// Bits of an IPv6 address that make a client.
    pub prefix_v6: u8,
    /// Networks for which none of this holds.
    pub exempt: Vec<IpPrefix>,
}

impl Default for ClientLimits {
    fn default() -> ClientLimits {
        ClientLimits {
            requests: None,
            rate: None,
            burst: 0,
            prefix_v4: 32,
            prefix_v6: 64,
            exempt: Vec::new(),
        }
    }
}

/// A network: the addresses that begin with the same bits (RFC 4632 section 3.1, RFC 4291 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

impl IpPrefix {
    /// The network of `address` with `length` bits; more than there are count as all.
    pub fn of(address: IpAddr, length: u8) -> IpPrefix {
        let (address, most) = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
                (IpAddr::V4((v4.to_bits() & mask).into()), 32)
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(length.min(128)))
                    .unwrap_or(0);
                (IpAddr::V6((v6.to_bits() & mask).into()), 128)
            }
        };
        IpPrefix {
            address,
            length: length.min(most),
        }
    }

    /// Whether `address` is in it. An IPv4 address that is written as an IPv6 one counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && IpPrefix::of(address, self.length) == *self
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for IpPrefix {
    type Err = String;

    /// `ADDRESS/LENGTH`, or an address alone. Bits beyond the length are a mistake: which network is meant?
    fn from_str(text: &str) -> Result<IpPrefix, String> {
        let wrong = || "is not a network such as 198.51.100.0/24 or 2001:db8::/32".to_owned();
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => most,
            Some(digits) if digits.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse::<u8>().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
        };
        if length > most {
            return Err(wrong());
        }
        let network = IpPrefix::of(address, length);
        if network.address != address {
            return Err(format!("has bits beyond its length: {network} is meant, perhaps"));
        }
        Ok(network)
    }
}

impl TryFrom<String> for IpPrefix {
    type Error = String;

    fn try_from(text: String) -> Result<IpPrefix, String> {
        text.parse()
    }
}

impl From<IpPrefix> for String {
    fn from(network: IpPrefix) -> String {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_they_say() {
        let inside = |network: &str, address: &str| {
            let network: IpPrefix = network.parse().unwrap();
            assert_eq!(network.to_string().parse::<IpPrefix>().unwrap(), network);
            network.contains(address.parse().unwrap())
        };
        assert!(inside("198.51.100.0/24", "198.51.100.77"));
        assert!(inside("198.51.100.0/24", "::ffff:198.51.100.77"));
        assert!(!inside("198.51.100.0/24", "198.51.101.1"));
        assert!(inside("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!inside("2001:db8::/32", "2001:db9::1"));
        assert!(inside("0.0.0.0/0", "203.0.113.1"));
        assert!(!inside("0.0.0.0/0", "2001:db8::1"));
        assert!(inside("203.0.113.9", "203.0.113.9"));
        assert!(!inside("203.0.113.9", "203.0.113.8"));
        assert!(inside("::/0", "2001:db8::1"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "a/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.1/8",
            "::1/129",
            "10.0.0.0/8/8",
        ] {
            assert!(text.parse::<IpPrefix>().is_err(), "{text}");
        }
    }
}
