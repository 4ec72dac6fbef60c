//! The server's first packet (MySQL: "Protocol::HandshakeV10"; MariaDB: "Connecting", Initial Handshake Packet).

use crate::{Capabilities, ErrorPacket, Reader, StatusFlags, WireError, write};

/// The initial handshake, protocol version 10, the only one that servers of this century send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The version as sent. MariaDB before 11.0 puts `5.5.5-` in front: see [`Greeting::version`].
    pub server_version: Vec<u8>,
    /// The session's number, as in `CONNECTION_ID()` and `KILL` (the low 32 bits of it).
    pub thread_id: u32,
    /// What the server can do.
    pub capabilities: Capabilities,
    /// The default collation's number.
    pub character_set: u8,
    /// The session's status.
    pub status: StatusFlags,
    /// The challenge for the authentication plugin, without the NUL that ends it on the wire. 20 bytes for all
    /// common plugins.
    pub auth_data: Vec<u8>,
    /// The default authentication plugin; empty when the server does not name one.
    pub auth_plugin: Vec<u8>,
}

/// What stands in place of the greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerGreeting {
    /// The server is ready.
    Ready(Greeting),
    /// The server will not talk: too many connections, host blocked, shutting down.
    Refused(ErrorPacket),
}

impl ServerGreeting {
    /// Reads the payload of a server's first packet.
    ///
    /// # Errors
    /// [`WireError`] when it is neither a greeting of protocol 10 nor an ERR packet.
    pub fn parse(payload: &[u8]) -> Result<ServerGreeting, WireError> {
        if payload.first() == Some(&ErrorPacket::HEADER) {
            return ErrorPacket::parse(payload).map(ServerGreeting::Refused);
        }
        Greeting::parse(payload).map(ServerGreeting::Ready)
    }
}

const PROTOCOL: u8 = 10;
/// The challenge's first part and the second's least length, in bytes.
const AUTH_DATA_1: usize = 8;
const AUTH_DATA_2_MIN: usize = 13;

impl Greeting {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`WireError`] when it is not a greeting of protocol 10.
    pub fn parse(payload: &[u8]) -> Result<Greeting, WireError> {
        let mut reader = Reader::new(payload);
        if reader.u8("the protocol version")? != PROTOCOL {
            return Err(WireError::Malformed("not a greeting of protocol 10"));
        }
        let server_version = reader.nul_bytes("the server version")?.to_vec();
        let thread_id = reader.u32("the thread id")?;
        let mut auth_data = reader.bytes(AUTH_DATA_1, "the challenge's first part")?.to_vec();
        reader.u8("the filler")?;
        let low = reader.u16("the lower capabilities")?;
        let character_set = reader.u8("the character set")?;
        let status = StatusFlags(reader.u16("the status")?);
        let high = reader.u16("the upper capabilities")?;
        let mut capabilities = Capabilities(u64::from(low) | u64::from(high) << 16);
        let auth_len = usize::from(reader.u8("the challenge's length")?);
        reader.bytes(6, "the reserved bytes")?;
        let extended = reader.u32("the reserved bytes")?;
        if !capabilities.has(Capabilities::CLIENT_MYSQL) {
            capabilities = capabilities | Capabilities(u64::from(extended) << 32);
        }
        if capabilities.has(Capabilities::SECURE_CONNECTION) || capabilities.has(Capabilities::PLUGIN_AUTH) {
            let len = auth_len.saturating_sub(AUTH_DATA_1).max(AUTH_DATA_2_MIN);
            let part = reader.bytes(len, "the challenge's second part")?;
            auth_data.extend_from_slice(part.strip_suffix(&[0]).unwrap_or(part));
        }
        let mut auth_plugin = Vec::new();
        if capabilities.has(Capabilities::PLUGIN_AUTH) {
            // Some servers leave out the closing NUL (MySQL bug 59453).
            let name = reader.rest();
            auth_plugin.extend(name.iter().take_while(|byte| **byte != 0));
        }
        Ok(Greeting {
            server_version,
            thread_id,
            capabilities,
            character_set,
            status,
            auth_data,
            auth_plugin,
        })
    }

    /// The payload to send. The challenge is padded with zeros or cut to what the format can carry, 8 to 255 bytes.
    pub fn to_payload(&self) -> Vec<u8> {
        let mut challenge = self.auth_data.clone();
        challenge.resize(challenge.len().clamp(AUTH_DATA_1 + AUTH_DATA_2_MIN - 1, 254), 0);
        let (first, second) = challenge.split_at(AUTH_DATA_1);
        let mut out = vec![PROTOCOL];
        write::nul_bytes(&mut out, &self.server_version);
        write::u32(&mut out, self.thread_id);
        out.extend_from_slice(first);
        out.push(0);
        let bits = self.capabilities.0;
        write::u16(&mut out, bits as u16);
        out.push(self.character_set);
        write::u16(&mut out, self.status.0);
        write::u16(&mut out, (bits >> 16) as u16);
        let named = self.capabilities.has(Capabilities::PLUGIN_AUTH);
        out.push(if named { challenge.len() as u8 + 1 } else { 0 });
        out.extend_from_slice(&[0; 6]);
        let mysql = self.capabilities.has(Capabilities::CLIENT_MYSQL);
        write::u32(&mut out, if mysql { 0 } else { (bits >> 32) as u32 });
        if named || self.capabilities.has(Capabilities::SECURE_CONNECTION) {
            out.extend_from_slice(if named {
                second
            } else {
                &second[..AUTH_DATA_2_MIN - 1]
            });
            out.push(0);
        }
        if named {
            write::nul_bytes(&mut out, &self.auth_plugin);
        }
        out
    }

    /// Whether the server is a MariaDB.
    pub fn is_mariadb(&self) -> bool {
        !self.capabilities.has(Capabilities::CLIENT_MYSQL)
            || self.server_version.windows(7).any(|part| part == b"MariaDB")
    }

    /// The version for people and for comparing, without MariaDB's `5.5.5-` (which is there because replicas
    /// older than 10.0 would not follow a source of version 10).
    pub fn version(&self) -> String {
        let mut version = &self.server_version[..];
        if self.is_mariadb() {
            version = version.strip_prefix(b"5.5.5-").unwrap_or(version);
        }
        String::from_utf8_lossy(version).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_code;
    use proptest::prelude::*;

    fn example() -> Greeting {
        Greeting {
            server_version: b"5.5.5-10.11.19-MariaDB-0+deb12u1".to_vec(),
            thread_id: 31,
            capabilities: Capabilities(0x1D_81FF_F7FE),
            character_set: 45,
            status: StatusFlags::AUTOCOMMIT,
            auth_data: b"abcdefghijklmnopqrst".to_vec(),
            auth_plugin: b"mysql_native_password".to_vec(),
        }
    }

    #[test]
    fn mariadb_10_11_and_mysql_9_greetings_are_read() {
        // MariaDB 10.11: flags without CLIENT_MYSQL, extended flags 0x1D.
        let mut bytes =
            b"\x0a5.5.5-10.11.19-MariaDB-0+deb12u1\0\x1f\0\0\0abcdefgh\0\xfe\xf7\x2d\x02\0\xff\x81\x15"
                .to_vec();
        bytes.extend_from_slice(b"\0\0\0\0\0\0\x1d\0\0\0ijklmnopqrst\0mysql_native_password\0");
        let greeting = Greeting::parse(&bytes).unwrap();
        assert_eq!(greeting, example());
        assert_eq!(greeting.to_payload(), bytes);
        assert!(greeting.is_mariadb());
        assert_eq!(greeting.version(), "10.11.19-MariaDB-0+deb12u1");
        assert!(
            greeting
                .capabilities
                .has(Capabilities::MARIADB_CACHE_METADATA | Capabilities::DEPRECATE_EOF)
        );

        let mut bytes = b"\x0a9.7.4\0\x08\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15".to_vec();
        bytes.extend_from_slice(b"\0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0caching_sha2_password\0");
        let greeting = Greeting::parse(&bytes).unwrap();
        assert!(!greeting.is_mariadb());
        assert_eq!(greeting.version(), "9.7.4");
        assert_eq!(greeting.auth_plugin, b"caching_sha2_password");
        assert_eq!(greeting.auth_data.len(), 20);
        assert_eq!(greeting.to_payload(), bytes);
    }

    #[test]
    fn every_cut_of_a_greeting_is_an_error_or_a_shorter_plugin_name() {
        let bytes = example().to_payload();
        let plugin = bytes.len() - b"mysql_native_password\0".len();
        for end in 0..plugin {
            assert!(Greeting::parse(&bytes[..end]).is_err(), "{end}");
        }
        for end in plugin..bytes.len() {
            assert!(Greeting::parse(&bytes[..end]).is_ok(), "{end}");
        }
    }

    #[test]
    fn an_error_in_place_of_the_greeting_is_told_apart() {
        let refused = ServerGreeting::parse(b"\xff\x69\x04Host '10.0.0.1' is blocked").unwrap();
        assert!(
            matches!(refused, ServerGreeting::Refused(error) if error.code == error_code::HOST_IS_BLOCKED)
        );
        for garbage in [
            &b""[..],
            b"\x09 old",
            b"SSH-2.0-OpenSSH_9.2",
            b"HTTP/1.1 400",
            b"\x0a",
        ] {
            assert!(ServerGreeting::parse(garbage).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_without_a_panic(mut bytes: Vec<u8>, ten: bool) {
            if ten && !bytes.is_empty() { bytes[0] = PROTOCOL; }
            let _ = ServerGreeting::parse(&bytes);
        }

        #[test]
        fn a_greeting_comes_back(
            version in "[0-9a-zA-Z.-]{0,40}", thread_id: u32, bits: u64, charset: u8, status: u16,
            auth in prop::collection::vec(1u8..=255, 20..21), plugin in "[a-z_]{1,30}",
        ) {
            let mut capabilities = Capabilities(bits & 0x3F_FFFF_FFFF) | Capabilities::PLUGIN_AUTH;
            if capabilities.has(Capabilities::CLIENT_MYSQL) {
                capabilities = capabilities & Capabilities(0xFFFF_FFFF);
            }
            let greeting = Greeting {
                server_version: version.into_bytes(), thread_id, capabilities, character_set: charset,
                status: StatusFlags(status), auth_data: auth, auth_plugin: plugin.into_bytes(),
            };
            prop_assert_eq!(Greeting::parse(&greeting.to_payload()), Ok(greeting));
        }
    }
}
