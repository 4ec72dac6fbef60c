//! What is said to a database until it lets a user in, packet by packet (MySQL: "Connection Phase").

use pontoon_mysql_wire::auth::AuthPacket;
use pontoon_mysql_wire::{
    Capabilities, ErrorPacket, Greeting, HandshakeResponse, OkPacket, ServerGreeting, SslRequest, WireError,
};

use super::dial::Opened;
use super::login::{Backend, Login, LoginError, SESSION_FLAGS};
use super::secure;
use crate::packets::{PacketError, Packets};
use crate::target::{Pin, Transport};

/// What every connection to a database has, whatever its client can do. `CLIENT_MYSQL` stands for it where the
/// server has it; a MariaDB would take it for a client without its extensions.
const ALWAYS: Capabilities = Capabilities(
    Capabilities::LONG_FLAG.0
        | Capabilities::PROTOCOL_41.0
        | Capabilities::TRANSACTIONS.0
        | Capabilities::SECURE_CONNECTION.0
        | Capabilities::MULTI_RESULTS.0
        | Capabilities::PLUGIN_AUTH.0
        | Capabilities::PLUGIN_AUTH_LENENC_DATA.0
        | Capabilities::SESSION_TRACK.0
        | Capabilities::DEPRECATE_EOF.0,
);

/// The longest packet that the proxy takes: the protocol's own limit.
const MAX_PACKET: u32 = 1 << 30;

/// What a database says while a user logs in.
#[derive(Debug)]
pub enum Said {
    /// The user is in; the OK packet's payload.
    Ok(Vec<u8>),
    /// The user is not.
    Refused(ErrorPacket),
    /// Another plugin is to be used.
    Switch {
        /// Its name.
        plugin: Vec<u8>,
        /// Its challenge.
        challenge: Vec<u8>,
        /// The whole payload.
        payload: Vec<u8>,
    },
    /// What a plugin says.
    More {
        /// Without its header.
        data: Vec<u8>,
        /// The whole payload.
        payload: Vec<u8>,
    },
}

/// A login under way.
#[derive(Debug)]
pub struct Conversation {
    packets: Packets,
    pin: Pin,
    transport: Transport,
    tls: bool,
    greeting: Greeting,
    capabilities: Capabilities,
}

impl Conversation {
    /// Reads the greeting, and goes over to TLS when the login wants it.
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn begin(opened: Opened, login: &Login<'_>) -> Result<Conversation, LoginError> {
        let Opened {
            peer,
            first,
            pin,
            transport,
        } = opened;
        let mut packets = Packets::new(peer, &first);
        let greeting = match ServerGreeting::parse(&packets.read().await?)? {
            ServerGreeting::Ready(greeting) => greeting,
            ServerGreeting::Refused(error) => return Err(LoginError::Refused(error)),
        };
        if !greeting.capabilities.has(ALWAYS) {
            return Err(LoginError::TooOld(greeting.version()));
        }
        let mut wanted = ALWAYS | (login.capabilities & SESSION_FLAGS);
        for (flag, asked) in [
            (Capabilities::CONNECT_WITH_DB, login.database.is_some()),
            (Capabilities::CONNECT_ATTRS, !login.attributes.is_empty()),
            (Capabilities::SSL, login.tls),
            (Capabilities::CLIENT_MYSQL, true),
        ] {
            if asked {
                wanted = wanted | flag;
            }
        }
        let capabilities = wanted & greeting.capabilities;
        if login.tls {
            packets = secure_by(packets, capabilities, login.collation).await?;
        }
        Ok(Conversation {
            packets,
            pin,
            transport,
            tls: login.tls,
            greeting,
            capabilities,
        })
    }

    /// Sends the login, with the first plugin's answer.
    ///
    /// # Errors
    /// [`LoginError::Io`].
    pub async fn introduce(
        &mut self,
        login: &Login<'_>,
        plugin: &[u8],
        answer: &[u8],
    ) -> Result<(), LoginError> {
        let response = HandshakeResponse {
            capabilities: self.capabilities,
            max_packet: MAX_PACKET,
            character_set: login.collation,
            user: login.user.to_vec(),
            auth_response: answer.to_vec(),
            database: login.database.map(<[u8]>::to_vec),
            auth_plugin: Some(plugin.to_vec()),
            attributes: login.attributes.to_vec(),
            zstd_level: None,
        };
        self.say(&response.to_payload()).await
    }

    /// Sends an answer as it is.
    ///
    /// # Errors
    /// [`LoginError::Io`].
    pub async fn say(&mut self, answer: &[u8]) -> Result<(), LoginError> {
        self.packets.write(answer).await.map_err(LoginError::Io)
    }

    /// What the database says next.
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn hear(&mut self) -> Result<Said, LoginError> {
        let payload = self.packets.read().await?;
        Ok(match AuthPacket::parse(&payload, false)? {
            AuthPacket::Ok => Said::Ok(payload),
            AuthPacket::Error => Said::Refused(ErrorPacket::parse(&payload)?),
            AuthPacket::Switch(switch) => Said::Switch {
                plugin: switch.plugin.to_vec(),
                challenge: switch.data.to_vec(),
                payload,
            },
            // Its answer would give the password away.
            AuthPacket::OldSwitch => return Err(LoginError::Plugin("mysql_old_password".to_owned())),
            AuthPacket::NextFactor(next) => {
                return Err(LoginError::Plugin(
                    String::from_utf8_lossy(next.plugin).into_owned(),
                ));
            }
            AuthPacket::More(data) | AuthPacket::Data(data) => Said::More {
                data: data.to_vec(),
                payload,
            },
        })
    }

    /// The server's greeting.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Whether the database itself sees a connection that nobody else can read: then it takes a password in plain
    /// text. TLS between proxies does not count, since the database does not know of it.
    pub fn is_secure(&self) -> bool {
        self.tls || self.transport == Transport::Unix
    }

    /// The connection of a user who is in.
    ///
    /// # Errors
    /// [`LoginError::Wire`] for an OK packet that is none, and for a server that goes on talking.
    pub fn finish(self, ok: Vec<u8>) -> Result<Backend, LoginError> {
        let status = OkPacket::parse(&ok, self.capabilities)?.status;
        let (peer, rest) = self.packets.into_parts();
        if !rest.is_empty() {
            return Err(LoginError::Wire(WireError::Malformed(
                "the database talks out of turn",
            )));
        }
        Ok(Backend {
            peer,
            pin: self.pin,
            transport: self.transport,
            tls: self.tls,
            capabilities: self.capabilities,
            thread_id: self.greeting.thread_id,
            greeting: self.greeting,
            status,
            ok,
        })
    }
}

async fn secure_by(
    mut packets: Packets,
    capabilities: Capabilities,
    character_set: u8,
) -> Result<Packets, LoginError> {
    if !capabilities.has(Capabilities::SSL) {
        return Err(LoginError::NoTls);
    }
    let request = SslRequest {
        capabilities,
        max_packet: MAX_PACKET,
        character_set,
    };
    packets
        .write(&request.to_payload())
        .await
        .map_err(LoginError::Io)?;
    packets
        .secure(secure::connect)
        .await
        .map_err(|error| match error {
            PacketError::Io(error) => LoginError::Tls(error),
            other => other.into(),
        })
}
