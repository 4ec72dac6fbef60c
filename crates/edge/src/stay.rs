//! What of a request decides where it goes: the cookie by which a visitor stays with a server, and what equal requests
//! have in common.

use std::net::IpAddr;

use pontoon_balance::weights::hash;
use pontoon_fleet::{BalanceRule, HashKey};

use crate::http1::head::{Fields, Known};
use crate::http1::request::Request;
use crate::upstream::Upstreams;

/// Where a request would go by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// The server that the visitor stays with.
    pub server: Option<u64>,
    /// What it has in common with others, where that decides.
    pub key: u64,
}

impl Wish {
    /// Of `request`, with the head `head`.
    pub fn of(upstreams: &Upstreams, head: &[u8], request: &Request) -> Wish {
        let Some(app) = &upstreams.app else {
            return Wish::default();
        };
        let sticky = app.dispatch.sticky.as_deref();
        Wish {
            server: sticky.and_then(|name| server(head, name)),
            key: match app.balance {
                BalanceRule::Hash => key(&app.dispatch.key, head, request),
                _ => 0,
            },
        }
    }
}

/// The server that the cookie `name` in `head` says, as [`set_cookie`] wrote it.
fn server(head: &[u8], name: &str) -> Option<u64> {
    id(cookie(head, name)?)
}

/// The server that the value of a cookie stands for.
pub fn id(value: &[u8]) -> Option<u64> {
    let written_here = value.len() == 16 && value.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(value).ok().filter(|_| written_here)?;
    u64::from_str_radix(digits, 16).ok()
}

/// The field that makes a visitor come back to the server `id` (RFC 6265 section 4.1), for as long as its browser runs.
/// What stands in it is no name: visitors need not know how servers are called.
pub fn set_cookie(name: &str, id: u64, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("Set-Cookie: {name}={id:016x}; Path=/; HttpOnly; SameSite=Lax{secure}\r\n")
}

/// What stands for the requests that are alike by `key`; `head` is the head of `request`.
fn key(key: &HashKey, head: &[u8], request: &Request) -> u64 {
    let value = match key {
        HashKey::Address => None,
        HashKey::Target => head.get(request.target.clone()),
        HashKey::Field(name) => field(head, name),
        HashKey::Cookie(name) => cookie(head, name),
    };
    match (value, request.peer) {
        (Some(value), _) => hash(value),
        (None, Some(IpAddr::V4(address))) => hash(&address.octets()),
        (None, Some(IpAddr::V6(address))) => hash(&address.octets()),
        (None, None) => hash(b""),
    }
}

/// The value of the field `wanted` of a head.
pub fn field<'h>(head: &'h [u8], wanted: &str) -> Option<&'h [u8]> {
    let (_, fields) = Fields::parse(head).ok()?;
    let found = fields
        .iter()
        .find(|(_, name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()));
    found.map(|(_, _, value)| value)
}

fn cookie<'h>(head: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let (_, fields) = Fields::parse(head).ok()?;
    let cookies = fields.iter().filter(|(known, ..)| *known == Known::Cookie);
    let mut crumbs = cookies.flat_map(|(_, _, value)| value.split(|byte| *byte == b';'));
    crumbs.find_map(|crumb| {
        crumb
            .trim_ascii()
            .strip_prefix(name.as_bytes())?
            .strip_prefix(b"=")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::request::{self, Sender};

    fn head(fields: &str) -> (Vec<u8>, Request) {
        let text = format!("GET /a?b HTTP/1.1\r\nHost: t\r\n{fields}\r\n");
        let sender = Sender::Visitor {
            peer: "::ffff:203.0.113.1".parse().unwrap(),
            local: "127.0.0.1:80".parse().unwrap(),
            secure: false,
        };
        let mut out = Vec::new();
        let request = request::read(text.as_bytes(), &sender, &mut out).unwrap();
        (out, request)
    }

    #[test]
    fn what_was_given_comes_back() {
        let set = set_cookie("stay", 0xAB, true);
        assert_eq!(
            set,
            "Set-Cookie: stay=00000000000000ab; Path=/; HttpOnly; SameSite=Lax; Secure\r\n"
        );
        let server = |fields: &str| server(&head(fields).0, "stay");
        assert_eq!(server("Cookie: a=b; stay=00000000000000ab; c=d\r\n"), Some(0xAB));
        assert_eq!(
            server("Cookie: a=b\r\nCookie: stay=00000000000000ab\r\n"),
            Some(0xAB)
        );
        for other in [
            "",
            "Cookie: stay=\r\n",
            "Cookie: stay=ab\r\n",
            "Cookie: stay=+0000000000000ab\r\n",
            "Cookie: stay=000000000000000000ab\r\n",
            "Cookie: mystay=00000000000000ab\r\n",
            "X: stay=00000000000000ab\r\n",
        ] {
            assert_eq!(server(other), None, "{other}");
        }
    }

    #[test]
    fn keys_tell_requests_apart_by_what_was_configured() {
        let of = |text: &str, fields: &str| {
            let (head, request) = head(fields);
            key(&text.parse().unwrap(), &head, &request)
        };
        assert_eq!(of("address", ""), hash(&[203, 0, 113, 1]));
        assert_eq!(of("target", ""), hash(b"/a?b"));
        assert_eq!(of("field:x-user", "X-User: 7\r\n"), hash(b"7"));
        assert_eq!(
            of("field:x-user", ""),
            of("address", ""),
            "without it, the address"
        );
        assert_eq!(of("cookie:s", "Cookie: s=9\r\n"), hash(b"9"));
    }
}
