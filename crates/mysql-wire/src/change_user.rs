//! COM_CHANGE_USER (MySQL: "COM_CHANGE_USER"; MariaDB: "COM_CHANGE_USER").

use crate::handshake_response::{Attributes, encode_attributes, name, parse_attributes};
use crate::{Capabilities, Command, Reader, WireError, write};

/// A login on a connection that has one already. What the handshake agreed on stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeUser {
    /// The user's name, in the client's character set.
    pub user: Vec<u8>,
    /// The answer to the challenge of the greeting, or of the latest AuthSwitchRequest.
    pub auth_response: Vec<u8>,
    /// The default database; empty for none.
    pub database: Vec<u8>,
    /// The collation's number. Very old clients leave it and everything behind it out.
    pub character_set: Option<u16>,
    /// The client's authentication plugin, when it named one.
    pub auth_plugin: Option<Vec<u8>>,
    /// Connection attributes.
    pub attributes: Attributes,
}

impl ChangeUser {
    /// Reads a command's payload, its first byte included. `agreed` are the connection's capabilities.
    ///
    /// # Errors
    /// [`WireError`] when it is not a COM_CHANGE_USER.
    pub fn parse(payload: &[u8], agreed: Capabilities) -> Result<ChangeUser, WireError> {
        let mut reader = Reader::new(payload);
        if reader.u8("the command")? != Command::ChangeUser.to_byte() {
            return Err(WireError::Malformed("not a COM_CHANGE_USER"));
        }
        let user = reader.nul_bytes("the user")?.to_vec();
        let auth_response = if agreed.has(Capabilities::SECURE_CONNECTION) {
            // One byte of length, also with `PLUGIN_AUTH_LENENC_DATA`.
            let len = reader.u8("the authentication data")?;
            reader.bytes(usize::from(len), "the authentication data")?
        } else {
            reader.nul_bytes("the authentication data")?
        }
        .to_vec();
        let database = name(&mut reader)?.to_vec();
        let mut login = ChangeUser {
            user,
            auth_response,
            database,
            character_set: None,
            auth_plugin: None,
            attributes: Vec::new(),
        };
        if reader.is_empty() {
            return Ok(login);
        }
        login.character_set = Some(reader.u16("the character set")?);
        if agreed.has(Capabilities::PLUGIN_AUTH) && !reader.is_empty() {
            login.auth_plugin = Some(name(&mut reader)?.to_vec());
        }
        if agreed.has(Capabilities::CONNECT_ATTRS) && !reader.is_empty() {
            login.attributes = parse_attributes(&mut reader)?;
        }
        Ok(login)
    }

    /// The payload to send, its first byte included. Fields that `agreed` has no place for are left out.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] when the authentication data is longer than 255 bytes, which this command cannot carry.
    pub fn to_payload(&self, agreed: Capabilities) -> Result<Vec<u8>, WireError> {
        let mut out = vec![Command::ChangeUser.to_byte()];
        write::nul_bytes(&mut out, &self.user);
        if agreed.has(Capabilities::SECURE_CONNECTION) {
            let limit = usize::from(u8::MAX);
            let len = u8::try_from(self.auth_response.len()).map_err(|_| WireError::TooLarge { limit })?;
            out.push(len);
            out.extend_from_slice(&self.auth_response);
        } else {
            write::nul_bytes(&mut out, &self.auth_response);
        }
        write::nul_bytes(&mut out, &self.database);
        let Some(character_set) = self.character_set else {
            return Ok(out);
        };
        write::u16(&mut out, character_set);
        let attributes = agreed.has(Capabilities::CONNECT_ATTRS) && !self.attributes.is_empty();
        if agreed.has(Capabilities::PLUGIN_AUTH) && (self.auth_plugin.is_some() || attributes) {
            write::nul_bytes(&mut out, self.auth_plugin.as_deref().unwrap_or_default());
        }
        if attributes {
            write::lenenc_bytes(&mut out, &encode_attributes(&self.attributes));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usual() -> Capabilities {
        Capabilities::PROTOCOL_41
            | Capabilities::SECURE_CONNECTION
            | Capabilities::PLUGIN_AUTH
            | Capabilities::CONNECT_ATTRS
    }

    #[test]
    fn a_short_one_of_an_old_client_is_read() {
        let login = ChangeUser::parse(b"\x11root\0\0shop\0", usual()).unwrap();
        assert_eq!(
            (&login.user[..], &login.database[..]),
            (&b"root"[..], &b"shop"[..])
        );
        assert_eq!((login.character_set, login.auth_plugin), (None, None));
        assert!(login.auth_response.is_empty());
    }

    #[test]
    fn cut_and_lying_ones_are_errors() {
        for bad in [
            &b""[..],
            b"\x03root\0\0\0",
            b"\x11root",
            b"\x11root\0",
            b"\x11root\0\x14short",
            b"\x11root\0\0\0\x21",
            b"\x11root\0\0\0\x21\0x\0\xfc\xff\xff",
        ] {
            assert!(ChangeUser::parse(bad, usual()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn authentication_data_that_has_no_place_is_refused() {
        let mut login = ChangeUser::parse(b"\x11root\0\0\0", usual()).unwrap();
        login.auth_response = vec![1; 256];
        assert_eq!(login.to_payload(usual()), Err(WireError::TooLarge { limit: 255 }));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_without_a_panic(mut bytes: Vec<u8>, bits: u64) {
            bytes.insert(0, 0x11);
            let _ = ChangeUser::parse(&bytes, Capabilities(bits));
        }

        #[test]
        fn a_change_of_user_comes_back(
            user in "[a-z]{0,80}", auth in prop::collection::vec(any::<u8>(), 0..256), database in "[a-z]{0,64}",
            character_set: u16, plugin in "[a-z_]{1,30}", attributes in prop::collection::vec(("[a-z]{0,20}", "[a-z]{0,300}"), 0..4),
        ) {
            let login = ChangeUser {
                user: user.into_bytes(), auth_response: auth, database: database.into_bytes(),
                character_set: Some(character_set), auth_plugin: Some(plugin.into_bytes()),
                attributes: attributes.into_iter().map(|(k, v)| (k.into_bytes(), v.into_bytes())).collect(),
            };
            prop_assert_eq!(ChangeUser::parse(&login.to_payload(usual()).unwrap(), usual()), Ok(login));
        }
    }
}
