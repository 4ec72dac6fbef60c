//! The OPT record (RFC 6891) and the options in it that are understood: cookies (RFC 7873) and NSID (RFC 5001).

use crate::cookie::ServerCookie;
use crate::rr::rtype;

const NSID: u16 = 3;
const COOKIE: u16 = 10;

/// Flags: of the sixteen the upper eight.
const DO: u8 = 0x80;
const CO: u8 = 0x40;

/// What the asker's OPT record says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Edns<'a> {
    /// The largest UDP message that the asker takes, in bytes.
    pub(crate) size: u16,
    pub(crate) version: u8,
    /// DNSSEC records are wanted.
    pub(crate) dnssec: bool,
    /// And a compact proof that there is no name may come with NXDOMAIN (RFC 9824 section 5.1).
    pub(crate) compact: bool,
    pub(crate) nsid: bool,
    /// The client's cookie and, when it has one already, the server's.
    pub(crate) cookie: Option<([u8; 8], &'a [u8])>,
}

impl<'a> Edns<'a> {
    /// Reads an OPT record from its class, TTL and data. `None` when it is malformed.
    pub(crate) fn parse(class: u16, ttl: u32, mut data: &'a [u8]) -> Option<Edns<'a>> {
        let [_, version, flags, _] = ttl.to_be_bytes();
        let mut edns = Edns {
            size: class.max(512),
            version,
            dnssec: flags & DO != 0,
            compact: flags & DO != 0 && flags & CO != 0,
            ..Edns::default()
        };
        while !data.is_empty() {
            let (head, rest) = data.split_first_chunk::<4>()?;
            let code = u16::from_be_bytes([head[0], head[1]]);
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let (option, rest) = rest.split_at_checked(length)?;
            data = rest;
            match code {
                NSID => edns.nsid = true,
                COOKIE => {
                    let (client, server) = option.split_first_chunk::<8>()?;
                    // RFC 7873 section 5.2.2: 8 bytes, or 16 to 40.
                    if !(server.is_empty() || (8..=32).contains(&server.len())) {
                        return None;
                    }
                    edns.cookie = edns.cookie.or(Some((*client, server)));
                }
                _ => {}
            }
        }
        Some(edns)
    }
}

/// Appends the answer's OPT record. `code` is the whole response code, of which its upper bits stand here.
pub(crate) fn write(
    out: &mut Vec<u8>,
    asked: &Edns<'_>,
    code: u16,
    cookie: Option<([u8; 8], ServerCookie)>,
    nsid: &[u8],
) {
    let nsid = match asked.nsid && asked.version == 0 {
        true => nsid.get(..nsid.len().min(255)).unwrap_or_default(),
        false => &[],
    };
    let length = cookie.map_or(0, |_| 28) + if nsid.is_empty() { 0 } else { 4 + nsid.len() };
    let [_, upper] = (code >> 4).to_be_bytes();
    out.push(0);
    out.extend_from_slice(&rtype::OPT.to_be_bytes());
    out.extend_from_slice(&crate::UDP_LIMIT.to_be_bytes());
    let flags = if asked.dnssec { DO } else { 0 } | if asked.compact { CO } else { 0 };
    out.extend_from_slice(&[upper, 0, flags, 0]);
    out.extend_from_slice(&(length as u16).to_be_bytes());
    if let Some((client, server)) = cookie {
        out.extend_from_slice(&[0, COOKIE as u8, 0, 24]);
        out.extend_from_slice(&client);
        out.extend_from_slice(&server);
    }
    if !nsid.is_empty() {
        out.extend_from_slice(&[0, NSID as u8, 0, nsid.len() as u8]);
        out.extend_from_slice(nsid);
    }
}
