//! The client's answer to the greeting (MySQL: "Protocol::HandshakeResponse41" and "Protocol::SSLRequest"; MariaDB:
//! "Connecting", Handshake Response Packet).

use crate::{Capabilities, Reader, WireError, write};

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

impl SslRequest {
    /// The payload to send. [`Capabilities::SSL`] goes with it.
    pub fn to_payload(self) -> Vec<u8> {
        let capabilities = self.capabilities | Capabilities::SSL | Capabilities::PROTOCOL_41;
        self.write(capabilities)
    }

    fn write(self, capabilities: Capabilities) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        write::u32(&mut out, capabilities.0 as u32);
        write::u32(&mut out, self.max_packet);
        out.push(self.character_set);
        out.extend_from_slice(&[0; 19]);
        let mysql = capabilities.has(Capabilities::CLIENT_MYSQL);
        write::u32(&mut out, if mysql { 0 } else { (capabilities.0 >> 32) as u32 });
        out
    }
}

impl HandshakeResponse {
    /// The payload to send. The flags that say which fields follow are set by the fields that are there, whatever
    /// [`HandshakeResponse::capabilities`] has; compare [`HandshakeResponse::sent_capabilities`].
    pub fn to_payload(&self) -> Vec<u8> {
        let capabilities = self.sent_capabilities();
        let common = SslRequest {
            capabilities,
            max_packet: self.max_packet,
            character_set: self.character_set,
        };
        let mut out = common.write(capabilities);
        write::nul_bytes(&mut out, &self.user);
        // Up to 250 bytes the two forms are the same.
        write::lenenc_bytes(&mut out, &self.auth_response);
        if let Some(database) = &self.database {
            write::nul_bytes(&mut out, database);
        }
        if let Some(plugin) = &self.auth_plugin {
            write::nul_bytes(&mut out, plugin);
        }
        if !self.attributes.is_empty() {
            write::lenenc_bytes(&mut out, &encode_attributes(&self.attributes));
        }
        out.extend(self.zstd_level);
        out
    }

    /// The capabilities as [`HandshakeResponse::to_payload`] sends them.
    pub fn sent_capabilities(&self) -> Capabilities {
        let mut capabilities =
            self.capabilities | Capabilities::PROTOCOL_41 | Capabilities::SECURE_CONNECTION;
        let mut set = |flag, wanted| {
            capabilities = capabilities.without(flag);
            if wanted {
                capabilities = capabilities | flag;
            }
        };
        set(Capabilities::CONNECT_WITH_DB, self.database.is_some());
        set(Capabilities::PLUGIN_AUTH, self.auth_plugin.is_some());
        set(Capabilities::CONNECT_ATTRS, !self.attributes.is_empty());
        set(Capabilities::ZSTD_COMPRESSION, self.zstd_level.is_some());
        set(
            Capabilities::PLUGIN_AUTH_LENENC_DATA,
            self.auth_response.len() > 250 || self.capabilities.has(Capabilities::PLUGIN_AUTH_LENENC_DATA),
        );
        capabilities
    }

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
            attributes = parse_attributes(&mut reader)?;
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

/// Connection attributes, by name.
pub(crate) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

pub(crate) fn parse_attributes(reader: &mut Reader<'_>) -> Result<Attributes, WireError> {
    let mut attributes = Vec::new();
    let mut pairs = Reader::new(reader.lenenc_bytes("the attributes")?);
    while !pairs.is_empty() {
        let key = pairs.lenenc_bytes("an attribute's name")?.to_vec();
        attributes.push((key, pairs.lenenc_bytes("an attribute's value")?.to_vec()));
    }
    Ok(attributes)
}

pub(crate) fn encode_attributes(attributes: &Attributes) -> Vec<u8> {
    let mut pairs = Vec::new();
    for (key, value) in attributes {
        write::lenenc_bytes(&mut pairs, key);
        write::lenenc_bytes(&mut pairs, value);
    }
    pairs
}

/// A NUL-terminated name; as both servers do, one that ends with the packet is taken too.
pub(crate) fn name<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    if reader.remaining().contains(&0) {
        reader.nul_bytes("a name")
    } else {
        Ok(reader.rest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn an_ssl_request_comes_back() {
        let request = SslRequest {
            capabilities: usual() | Capabilities::SSL | Capabilities::MARIADB_PROGRESS,
            max_packet: 1 << 24,
            character_set: 45,
        };
        let payload = request.to_payload();
        assert_eq!(payload.len(), 32);
        assert_eq!(FirstReply::parse(&payload), Ok(FirstReply::Ssl(request)));
    }

    proptest! {
        #[test]
        fn a_handshake_response_comes_back(
            bits in 0u64..1 << 38, user in "[a-z]{0,80}", auth in prop::collection::vec(any::<u8>(), 0..400),
            database in prop::option::of("[a-z]{1,64}"), plugin in prop::option::of("[a-z_]{0,30}"),
            attributes in prop::collection::vec(("[a-z]{0,20}", "[a-z]{0,300}"), 0..4), zstd: Option<u8>,
        ) {
            let bytes = |text: String| text.into_bytes();
            let mut sent = HandshakeResponse {
                capabilities: Capabilities(bits), max_packet: 7, character_set: 33, user: bytes(user),
                auth_response: auth, database: database.map(bytes), auth_plugin: plugin.map(bytes),
                attributes: attributes.into_iter().map(|(k, v)| (bytes(k), bytes(v))).collect(),
                zstd_level: zstd,
            };
            let payload = sent.to_payload();
            sent.capabilities = sent.sent_capabilities();
            if sent.capabilities.has(Capabilities::CLIENT_MYSQL) {
                sent.capabilities = sent.capabilities & Capabilities(0xFFFF_FFFF);
            }
            prop_assert_eq!(FirstReply::parse(&payload), Ok(FirstReply::Login(sent)));
        }

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
