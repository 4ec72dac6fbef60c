//! Authentication: the packets between the greeting and the first command, and the arithmetic of the two plugins whose
//! passwords a proxy can learn from what the server stores ([`native`], [`sha2`]).
//!
//! Sources: MySQL: "Authentication Method Mismatch", "Protocol::AuthSwitchRequest", "Protocol::AuthMoreData"; MariaDB:
//! "Connection" (Authentication Switch Request, Authentication Plugins).

pub mod native;
pub mod sha2;

use crate::{OkPacket, WireError, error_packet::ErrorPacket, write};

/// The length of the challenge of the plugins with hashes, in bytes, without the NUL that ends it on the wire.
pub const CHALLENGE_LEN: usize = 20;

/// The length of the challenge of MariaDB's plugins with signatures, in bytes. It is random, and no NUL follows.
pub const SIGNED_CHALLENGE_LEN: usize = 32;

/// The plugin names that Pontoon knows.
pub mod plugin {
    /// SHA-1, stored as `*` and 40 hexadecimal digits: see [`native`](super::native).
    pub const NATIVE: &[u8] = b"mysql_native_password";
    /// SHA-256 with a cache in the server: see [`sha2`](super::sha2).
    pub const CACHING_SHA2: &[u8] = b"caching_sha2_password";
    /// MySQL: the same without a cache.
    pub const SHA256: &[u8] = b"sha256_password";
    /// The password in clear, NUL at the end; only over TLS or a Unix socket.
    pub const CLEAR: &[u8] = b"mysql_clear_password";
    /// MariaDB: Ed25519 signatures.
    pub const ED25519: &[u8] = b"client_ed25519";
    /// MariaDB: Ed25519 with a salted key derivation.
    pub const PARSEC: &[u8] = b"parsec";
}

/// A packet of the server between the handshake response and its final OK or ERR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthPacket<'a> {
    /// The client is in: an OK packet.
    Ok,
    /// The client is refused: an ERR packet.
    Error,
    /// Another plugin, with another challenge.
    Switch(AuthSwitchRequest<'a>),
    /// The password exchange of before MySQL 4.1, which nobody should answer: its reply gives the password away.
    OldSwitch,
    /// Data for the plugin, without its header.
    More(&'a [u8]),
    /// MySQL: the next factor's plugin and challenge.
    NextFactor(AuthSwitchRequest<'a>),
    /// Data for the plugin without a header, which MariaDB sends when it cannot be taken for something else.
    Data(&'a [u8]),
}

impl<'a> AuthPacket<'a> {
    /// The first byte of data for the plugin.
    pub const MORE: u8 = 0x01;

    /// The first byte of MySQL's AuthNextFactor.
    const NEXT_FACTOR: u8 = 0x02;

    /// Reads a payload. A packet that begins with `0x02` is AuthNextFactor only with `factors`
    /// (`MULTI_FACTOR_AUTHENTICATION` agreed): MariaDB's `dialog` plugin begins its questions so.
    ///
    /// # Errors
    /// [`WireError`] when it is empty, or a request that ends too early.
    pub fn parse(payload: &'a [u8], factors: bool) -> Result<AuthPacket<'a>, WireError> {
        let Some((first, rest)) = payload.split_first() else {
            return Err(WireError::Truncated("an authentication packet"));
        };
        Ok(match *first {
            OkPacket::HEADER => AuthPacket::Ok,
            ErrorPacket::HEADER => AuthPacket::Error,
            AuthSwitchRequest::HEADER if rest.is_empty() => AuthPacket::OldSwitch,
            AuthSwitchRequest::HEADER => AuthPacket::Switch(AuthSwitchRequest::parse_rest(rest)?),
            AuthPacket::MORE => AuthPacket::More(rest),
            AuthPacket::NEXT_FACTOR if factors => {
                AuthPacket::NextFactor(AuthSwitchRequest::parse_rest(rest)?)
            }
            _ => AuthPacket::Data(payload),
        })
    }
}

/// A payload with data for the client's plugin.
pub fn auth_more_data(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + 1);
    out.push(AuthPacket::MORE);
    out.extend_from_slice(data);
    out
}

/// The server's request to use another plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthSwitchRequest<'a> {
    /// The plugin's name.
    pub plugin: &'a [u8],
    /// The challenge, without the NUL that may end it on the wire.
    pub data: &'a [u8],
}

impl<'a> AuthSwitchRequest<'a> {
    /// The first byte of the payload.
    pub const HEADER: u8 = 0xFE;

    /// Reads a payload.
    ///
    /// # Errors
    /// [`WireError`] when it is not such a request; also for the one of before MySQL 4.1, which names no plugin.
    pub fn parse(payload: &'a [u8]) -> Result<AuthSwitchRequest<'a>, WireError> {
        match payload.split_first() {
            Some((&AuthSwitchRequest::HEADER, rest)) if !rest.is_empty() => {
                AuthSwitchRequest::parse_rest(rest)
            }
            _ => Err(WireError::Malformed("not an authentication switch request")),
        }
    }

    fn parse_rest(rest: &'a [u8]) -> Result<AuthSwitchRequest<'a>, WireError> {
        let mut reader = crate::Reader::new(rest);
        let plugin = reader.nul_bytes("the plugin's name")?;
        let data = reader.rest();
        // A challenge of the full length may end with a zero of its own only if no NUL follows.
        let data = match data.strip_suffix(&[0]) {
            Some(challenge) if ![CHALLENGE_LEN, SIGNED_CHALLENGE_LEN].contains(&data.len()) => challenge,
            _ => data,
        };
        Ok(AuthSwitchRequest { plugin, data })
    }

    /// The payload to send, with a NUL behind the challenge as both servers send it.
    pub fn to_payload(&self) -> Vec<u8> {
        let mut out = vec![AuthSwitchRequest::HEADER];
        write::nul_bytes(&mut out, self.plugin);
        out.extend_from_slice(self.data);
        out.push(0);
        out
    }
}

/// Whether two secrets are equal, in a time that depends on their length only.
fn same<const N: usize>(one: &[u8; N], other: &[u8; N]) -> bool {
    let difference = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(difference) == 0
}

fn xor<const N: usize>(mut one: [u8; N], other: &[u8]) -> [u8; N] {
    for (a, b) in one.iter_mut().zip(other) {
        *a ^= b;
    }
    one
}

/// The part of a challenge that plugins reckon with.
fn nonce(challenge: &[u8]) -> &[u8] {
    challenge.get(..CHALLENGE_LEN).unwrap_or(challenge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packets_are_told_apart() {
        let parse = |payload| AuthPacket::parse(payload, false);
        assert_eq!(parse(b"\0\0\0\x02\0\0\0"), Ok(AuthPacket::Ok));
        assert_eq!(parse(b"\xff\x15\x04#28000no"), Ok(AuthPacket::Error));
        assert_eq!(parse(b"\xfe"), Ok(AuthPacket::OldSwitch));
        assert_eq!(parse(b"\x01\x04"), Ok(AuthPacket::More(b"\x04")));
        assert_eq!(parse(b"\x04Password: "), Ok(AuthPacket::Data(b"\x04Password: ")));
        assert_eq!(parse(b"\x02PIN: "), Ok(AuthPacket::Data(b"\x02PIN: ")));
        assert!(matches!(
            AuthPacket::parse(b"\x02webauthn\0x", true),
            Ok(AuthPacket::NextFactor(AuthSwitchRequest {
                plugin: b"webauthn",
                data: b"x"
            }))
        ));
        for bad in [&b""[..], b"\xfeno end"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(AuthSwitchRequest::parse(b"\xfe").is_err());
        assert!(AuthSwitchRequest::parse(b"\x01x\0").is_err());
    }

    #[test]
    fn the_challenge_loses_the_nul_behind_it_and_no_zero_of_its_own() {
        let captured = b"\xfemysql_native_password\0abcdefghijklmnopqrst\0";
        let switch = AuthSwitchRequest::parse(captured).unwrap();
        assert_eq!(
            (switch.plugin, switch.data),
            (plugin::NATIVE, &b"abcdefghijklmnopqrst"[..])
        );
        assert_eq!(switch.to_payload(), captured);
        let switch = AuthSwitchRequest::parse(b"\xfex\0abcdefghijklmnopqrs\0").unwrap();
        assert_eq!(switch.data, b"abcdefghijklmnopqrs\0");
        let switch =
            AuthSwitchRequest::parse(b"\xfeclient_ed25519\0abcdefghijklmnopqrstuvwxyz012345").unwrap();
        assert_eq!(switch.data.len(), 32);
        // One in 256 of MariaDB's own challenges ends so.
        let switch =
            AuthSwitchRequest::parse(b"\xfeclient_ed25519\0abcdefghijklmnopqrstuvwxyz01234\0").unwrap();
        assert_eq!(switch.data.len(), 32);
        assert_eq!(auth_more_data(b"\x03"), b"\x01\x03");
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_without_a_panic(bytes: Vec<u8>, factors: bool) {
            let _ = AuthPacket::parse(&bytes, factors);
            let _ = AuthSwitchRequest::parse(&bytes);
        }

        #[test]
        fn a_switch_comes_back(plugin in "[a-z_0-9]{1,30}", data in prop::collection::vec(1u8.., 0..40)) {
            // 19 bytes and a NUL would be a challenge of 20, 31 one of 32; no plugin has such a one.
            prop_assume!(![CHALLENGE_LEN - 1, SIGNED_CHALLENGE_LEN - 1].contains(&data.len()));
            let switch = AuthSwitchRequest { plugin: plugin.as_bytes(), data: &data };
            let payload = switch.to_payload();
            prop_assert_eq!(AuthSwitchRequest::parse(&payload), Ok(switch));
        }
    }
}
