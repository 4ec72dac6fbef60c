//! The client's answer to the greeting (MySQL: "Protocol::HandshakeResponse41" and "Protocol::SSLRequest"; MariaDB:
//! "Connecting", Handshake Response Packet).

use crate::{Capabilities, Reader, WireError};

/// What a client sends after the greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstReply {
    /// It wants TLS now, and sends its handshake response inside.
    Ssl(SslRequest),
    /// It logs in.
    Login(HandshakeResponse),
}

/// The fields that an SSLRequest and a handshake response have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SslRequest {
    /// What the client can do.
    pub capabilities: Capabilities,
    /// The longest packet that it takes, in bytes.
    pub max_packet: u32,
    /// Its default collation's number.
    pub character_set: u8,
}

/// A login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeResponse {
    /// What the client can do.
    pub capabilities: Capabilities,
    /// The longest packet that it takes, in bytes.
    pub max_packet: u32,
    /// Its default collation's number.
    pub character_set: u8,
    /// The user's name, in the client's character set.
    pub user: Vec<u8>,
    /// The answer to the challenge, for the client's plugin.
    pub auth_response: Vec<u8>,
    /// The default database, when it named one.
    pub database: Option<Vec<u8>>,
    /// The client's authentication plugin, when it named one.
    pub auth_plugin: Option<Vec<u8>>,
    /// Connection attributes, such as `program_name`.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// The zstd level, when the client offers zstd.
    pub zstd_level: Option<u8>,
}

impl FirstReply {
    /// Reads the payload of a client's first packet.
    ///
    /// # Errors
    /// [`WireError`] when it is neither; also for the protocol of before MySQL 4.1, which no supported server takes.
    pub fn parse(payload: &[u8]) -> Result<FirstReply, WireError> {
        let mut reader = Reader::new(payload);
        // Two bytes first: in a HandshakeResponse320 they are all the flags there are.
        let low = reader.u16("the capabilities")?;
        if !Capabilities(u64::from(low)).has(Capabilities::PROTOCOL_41) {
            return Err(WireError::Malformed("a handshake response of before MySQL 4.1"));
        }
        let high = reader.u16("the capabilities")?;
        let mut capabilities = Capabilities(u64::from(low) | u64::from(high) << 16);
        let max_packet = reader.u32("the packet limit")?;
        let character_set = reader.u8("the character set")?;
        reader.bytes(19, "the reserved bytes")?;
        let extended = reader.u32("the reserved bytes")?;
        if !capabilities.has(Capabilities::CLIENT_MYSQL) {
            capabilities = capabilities | Capabilities(u64::from(extended) << 32);
        }
        let common = SslRequest {
            capabilities,
            max_packet,
            character_set,
        };
        if reader.is_empty() && capabilities.has(Capabilities::SSL) {
            return Ok(FirstReply::Ssl(common));
        }
        HandshakeResponse::parse_rest(common, reader).map(FirstReply::Login)
    }
}

impl HandshakeResponse {
    fn parse_rest(common: SslRequest, mut reader: Reader<'_>) -> Result<HandshakeResponse, WireError> {
        let SslRequest {
            capabilities,
            max_packet,
            character_set,
        } = common;
        let user = reader.nul_bytes("the user")?.to_vec();
        let auth_response = if capabilities.has(Capabilities::PLUGIN_AUTH_LENENC_DATA) {
            reader.lenenc_bytes("the authentication data")?
        } else if capabilities.has(Capabilities::SECURE_CONNECTION) {
            let len = reader.u8("the authentication data")?;
            reader.bytes(usize::from(len), "the authentication data")?
        } else {
            reader.nul_bytes("the authentication data")?
        }
        .to_vec();
        let mut database = None;
        if capabilities.has(Capabilities::CONNECT_WITH_DB) && !reader.is_empty() {
            database = Some(name(&mut reader)?.to_vec()).filter(|name| !name.is_empty());
        }
        let mut auth_plugin = None;
        if capabilities.has(Capabilities::PLUGIN_AUTH) && !reader.is_empty() {
            auth_plugin = Some(name(&mut reader)?.to_vec());
        }
        let mut attributes = Vec::new();
        if capabilities.has(Capabilities::CONNECT_ATTRS) && !reader.is_empty() {
            let mut pairs = Reader::new(reader.lenenc_bytes("the attributes")?);
            while !pairs.is_empty() {
                let key = pairs.lenenc_bytes("an attribute's name")?.to_vec();
                attributes.push((key, pairs.lenenc_bytes("an attribute's value")?.to_vec()));
            }
        }
        let mut zstd_level = None;
        if capabilities.has(Capabilities::ZSTD_COMPRESSION) && !reader.is_empty() {
            zstd_level = Some(reader.u8("the zstd level")?);
        }
        Ok(HandshakeResponse {
            capabilities,
            max_packet,
            character_set,
            user,
            auth_response,
            database,
            auth_plugin,
            attributes,
            zstd_level,
        })
    }
}

/// A NUL-terminated name; as both servers do, one that ends with the packet is taken too.
fn name<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    if reader.remaining().contains(&0) {
        reader.nul_bytes("a name")
    } else {
        Ok(reader.rest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write;
    use proptest::prelude::*;

    fn login(capabilities: Capabilities) -> Vec<u8> {
        let mut out = Vec::new();
        write::u32(&mut out, capabilities.0 as u32);
        write::u32(&mut out, 1 << 24);
        out.push(45);
        out.extend_from_slice(&[0; 19]);
        write::u32(&mut out, (capabilities.0 >> 32) as u32);
        write::nul_bytes(&mut out, b"wordpress");
        write::lenenc_bytes(&mut out, &[9; 20]);
        write::nul_bytes(&mut out, b"wp");
        write::nul_bytes(&mut out, b"mysql_native_password");
        let mut pairs = Vec::new();
        write::lenenc_bytes(&mut pairs, b"_pid");
        write::lenenc_bytes(&mut pairs, b"77");
        write::lenenc_bytes(&mut out, &pairs);
        out
    }

    fn usual() -> Capabilities {
        Capabilities::PROTOCOL_41
            | Capabilities::SECURE_CONNECTION
            | Capabilities::PLUGIN_AUTH
            | Capabilities::PLUGIN_AUTH_LENENC_DATA
            | Capabilities::CONNECT_WITH_DB
            | Capabilities::CONNECT_ATTRS
    }

    #[test]
    fn a_login_is_read() {
        let FirstReply::Login(login) = FirstReply::parse(&login(usual())).unwrap() else {
            panic!()
        };
        assert_eq!(
            (&login.user[..], login.database.as_deref()),
            (&b"wordpress"[..], Some(&b"wp"[..]))
        );
        assert_eq!(login.auth_plugin.as_deref(), Some(&b"mysql_native_password"[..]));
        assert_eq!(login.attributes, [(b"_pid".to_vec(), b"77".to_vec())]);
        assert_eq!(login.auth_response, [9; 20]);
    }

    #[test]
    fn an_ssl_request_is_told_from_a_login() {
        let capabilities = usual() | Capabilities::SSL;
        assert!(matches!(
            FirstReply::parse(&login(capabilities)[..32]),
            Ok(FirstReply::Ssl(_))
        ));
        assert!(matches!(
            FirstReply::parse(&login(capabilities)),
            Ok(FirstReply::Login(_))
        ));
        assert!(
            FirstReply::parse(&login(usual())[..32]).is_err(),
            "a login without a user"
        );
    }

    #[test]
    fn the_protocol_of_before_4_1_is_refused() {
        assert!(matches!(
            FirstReply::parse(b"\x85\x24\0\0\0old\0"),
            Err(WireError::Malformed(_))
        ));
    }

    #[test]
    fn mariadb_extended_flags_count_only_without_client_mysql() {
        let extended = Capabilities::MARIADB_STMT_BULK_OPERATIONS;
        let parse = |flags| match FirstReply::parse(&login(flags)).unwrap() {
            FirstReply::Login(login) => login.capabilities,
            FirstReply::Ssl(request) => request.capabilities,
        };
        assert!(parse(usual() | extended).has(extended));
        assert!(!parse(usual() | extended | Capabilities::CLIENT_MYSQL).has(extended));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_without_a_panic(bytes: Vec<u8>) {
            let _ = FirstReply::parse(&bytes);
        }

        #[test]
        fn a_damaged_login_parses_or_fails_without_a_panic(at in 0usize..120, value: u8, end in 0usize..120, bits: u32) {
            let mut bytes = login(Capabilities(u64::from(bits)) | usual());
            let len = bytes.len();
            bytes[at % len] = value;
            bytes.truncate(end.max(1));
            let _ = FirstReply::parse(&bytes);
        }
    }
}
