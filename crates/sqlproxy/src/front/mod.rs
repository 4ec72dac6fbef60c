//! The client's side of a login: greeting, TLS, and who the client says it is (MySQL: "Connection Phase").

mod keys;

use std::io;
use std::time::Duration;

use pontoon_mysql_wire::auth::{AuthSwitchRequest, auth_more_data};
use pontoon_mysql_wire::{
    Capabilities, ChangeUser, ErrorPacket, FirstReply, Greeting, HandshakeResponse, SqlState, WireError,
};
use tokio::time::{Instant, timeout_at};

pub use keys::Keys;

use crate::backend::SESSION_FLAGS;
use crate::packets::{PacketError, Packets};
use crate::peer::Peer;
use crate::target::Transport;

/// What the proxy can do for a client, when the database can.
pub const OFFERED: Capabilities = Capabilities(
    SESSION_FLAGS.0
        | Capabilities::CLIENT_MYSQL.0
        | Capabilities::LONG_FLAG.0
        | Capabilities::CONNECT_WITH_DB.0
        | Capabilities::PROTOCOL_41.0
        | Capabilities::SSL.0
        | Capabilities::IGNORE_SIGPIPE.0
        | Capabilities::TRANSACTIONS.0
        | Capabilities::RESERVED.0
        | Capabilities::SECURE_CONNECTION.0
        | Capabilities::MULTI_RESULTS.0
        | Capabilities::PLUGIN_AUTH.0
        | Capabilities::CONNECT_ATTRS.0
        | Capabilities::PLUGIN_AUTH_LENENC_DATA.0
        | Capabilities::SESSION_TRACK.0
        | Capabilities::DEPRECATE_EOF.0
        | Capabilities::REMEMBER_OPTIONS.0
        | Capabilities::SSL_VERIFY_SERVER_CERT.0,
);

/// How long a client may take from its greeting to its login: the servers' own `connect_timeout`.
pub const LOGIN_LIMIT: Duration = Duration::from_secs(10);

/// Length of the proxy's challenge, in bytes.
pub const CHALLENGE_LEN: usize = pontoon_mysql_wire::auth::CHALLENGE_LEN;

/// Why a client did not get to a login.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// It closed, broke off, or spoke what is not the protocol.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// It was silent or slow for longer than [`LOGIN_LIMIT`].
    #[error("the client took too long to log in")]
    Silent,
    /// The proxy has no randomness, or no certificate: what a client cannot help.
    #[error("the proxy cannot greet: {0}")]
    Own(&'static str),
}

impl From<WireError> for FrontError {
    fn from(error: WireError) -> FrontError {
        FrontError::Packet(PacketError::Wire(error))
    }
}

impl From<io::Error> for FrontError {
    fn from(error: io::Error) -> FrontError {
        FrontError::Packet(PacketError::Io(error))
    }
}

impl FrontError {
    /// What the client is told, in the servers' own words; `None` for who does not listen any more.
    pub fn to_packet(&self) -> Option<ErrorPacket> {
        // ER_HANDSHAKE_ERROR, ER_NET_PACKETS_OUT_OF_ORDER.
        let (code, text) = match self {
            FrontError::Packet(PacketError::Wire(WireError::OutOfOrder { .. })) => {
                (1156, "Got packets out of order")
            }
            FrontError::Packet(PacketError::Wire(_)) => (1043, "Bad handshake"),
            FrontError::Own(text) => (pontoon_mysql_wire::error_code::UNKNOWN_ERROR, *text),
            FrontError::Packet(PacketError::Closed | PacketError::Io(_)) | FrontError::Silent => return None,
        };
        Some(ErrorPacket::new(code, SqlState::LINK_FAILURE, text))
    }
}

/// Who a client says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The user's name.
    pub user: Vec<u8>,
    /// The default database.
    pub database: Option<Vec<u8>>,
    /// The answer to the challenge, for its plugin.
    pub answer: Vec<u8>,
    /// The client's plugin, when it named one.
    pub plugin: Option<Vec<u8>>,
    /// The number of its collation.
    pub collation: u8,
    /// Connection attributes.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl From<HandshakeResponse> for Attempt {
    fn from(login: HandshakeResponse) -> Attempt {
        Attempt {
            user: login.user,
            database: login.database,
            answer: login.auth_response,
            plugin: login.auth_plugin,
            collation: login.character_set,
            attributes: login.attributes,
        }
    }
}

impl Attempt {
    /// What a COM_CHANGE_USER says; `collation` is the one before it, for clients that leave it out or have one
    /// whose number a login cannot carry.
    pub fn of_change(change: ChangeUser, collation: u8) -> Attempt {
        Attempt {
            user: change.user,
            database: Some(change.database).filter(|name| !name.is_empty()),
            answer: change.auth_response,
            plugin: change.auth_plugin,
            collation: change
                .character_set
                .and_then(|number| u8::try_from(number).ok())
                .unwrap_or(collation),
            attributes: change.attributes,
        }
    }
}

/// A client on its way in.
#[derive(Debug)]
pub struct Front {
    packets: Packets,
    transport: Transport,
    tls: bool,
    challenge: [u8; CHALLENGE_LEN],
    capabilities: Capabilities,
    /// The client was asked for another plugin. Clients take that once.
    switched: bool,
    deadline: Instant,
}

impl Front {
    /// Greets as session `id` of a server like `model`, and reads who the client says it is.
    ///
    /// # Errors
    /// [`FrontError`], with what may still be said to the client.
    pub async fn greet(
        peer: Peer,
        transport: Transport,
        id: u32,
        model: &Greeting,
        keys: &Keys,
    ) -> Result<(Front, Attempt), (FrontError, Option<Box<Front>>)> {
        let challenge = keys.challenge();
        let mut front = Front {
            packets: Packets::new(peer, &[]),
            transport,
            tls: false,
            challenge: challenge.unwrap_or_default(),
            capabilities: Capabilities::default(),
            switched: false,
            deadline: Instant::now() + LOGIN_LIMIT,
        };
        if challenge.is_none() {
            return Err((
                FrontError::Own("Pontoon has no random numbers"),
                Some(Box::new(front)),
            ));
        }
        let mut offered = model.capabilities & OFFERED;
        if keys.has_tls() {
            offered = offered | Capabilities::SSL;
        } else {
            offered = offered.without(Capabilities::SSL);
        }
        let greeting = Greeting {
            thread_id: id,
            capabilities: offered,
            auth_data: front.challenge.to_vec(),
            ..model.clone()
        };
        if let Err(error) = front.say(&greeting.to_payload()).await {
            return Err((error, None));
        }
        front.capabilities = Capabilities::PROTOCOL_41;
        let payload = match front.hear().await {
            Ok(payload) => payload,
            Err(error) => return Err((error, Some(Box::new(front)))),
        };
        let login = match FirstReply::parse(&payload) {
            Ok(FirstReply::Login(login)) => login,
            Ok(FirstReply::Ssl(_)) if keys.has_tls() => match front.secure(keys).await {
                Ok((secured, login)) => {
                    front = secured;
                    login
                }
                Err(error) => return Err((error, None)),
            },
            Ok(FirstReply::Ssl(_)) => {
                let error = WireError::Malformed("TLS that was not offered").into();
                return Err((error, Some(Box::new(front))));
            }
            Err(error) => return Err((error.into(), Some(Box::new(front)))),
        };
        front.capabilities = login.capabilities & offered;
        Ok((front, login.into()))
    }

    async fn secure(self, keys: &Keys) -> Result<(Front, HandshakeResponse), FrontError> {
        let deadline = self.deadline;
        let handshake = Box::pin(self.packets.secure(|peer| keys.accept(peer)));
        let packets = timeout_at(deadline, handshake)
            .await
            .map_err(|_| FrontError::Silent)??;
        let mut front = Front {
            packets,
            tls: true,
            ..self
        };
        match FirstReply::parse(&front.hear().await?)? {
            FirstReply::Login(login) => Ok((front, login)),
            FirstReply::Ssl(_) => Err(WireError::Malformed("TLS within TLS").into()),
        }
    }

    /// A client that has logged in before and sent a COM_CHANGE_USER, whose answer begins with `sequence`.
    pub fn again(
        peer: Peer,
        read: &[u8],
        transport: Transport,
        challenge: [u8; CHALLENGE_LEN],
        capabilities: Capabilities,
        sequence: u8,
    ) -> Front {
        let tls = matches!(peer, Peer::Within(_));
        Front {
            packets: Packets::at(peer, read, sequence),
            transport,
            tls,
            challenge,
            capabilities,
            switched: false,
            deadline: Instant::now() + LOGIN_LIMIT,
        }
    }

    /// Sends a payload as it is.
    ///
    /// # Errors
    /// [`FrontError`].
    pub async fn say(&mut self, payload: &[u8]) -> Result<(), FrontError> {
        timeout_at(self.deadline, self.packets.write(payload))
            .await
            .map_err(|_| FrontError::Silent)?
            .map_err(FrontError::from)
    }

    /// What the client says next.
    ///
    /// # Errors
    /// [`FrontError`].
    pub async fn hear(&mut self) -> Result<Vec<u8>, FrontError> {
        timeout_at(self.deadline, self.packets.read())
            .await
            .map_err(|_| FrontError::Silent)?
            .map_err(FrontError::from)
    }

    /// Whether the client can be asked for another plugin's answer.
    pub fn can_switch(&self) -> bool {
        !self.switched && self.capabilities.has(Capabilities::PLUGIN_AUTH)
    }

    /// Asks for another plugin's answer to the challenge of the greeting.
    ///
    /// # Errors
    /// [`FrontError`].
    pub async fn switch(&mut self, plugin: &[u8]) -> Result<Vec<u8>, FrontError> {
        let challenge = self.challenge;
        let request = AuthSwitchRequest {
            plugin,
            data: &challenge,
        };
        self.switch_as(&request.to_payload()).await
    }

    /// Passes a database's own request for another plugin's answer on.
    ///
    /// # Errors
    /// [`FrontError`].
    pub async fn switch_as(&mut self, payload: &[u8]) -> Result<Vec<u8>, FrontError> {
        self.switched = true;
        self.say(payload).await?;
        self.hear().await
    }

    /// Says something of the plugin.
    ///
    /// # Errors
    /// [`FrontError`].
    pub async fn more(&mut self, data: &[u8]) -> Result<(), FrontError> {
        self.say(&auth_more_data(data)).await
    }

    /// Says why the client is not let in. Who does not listen is not waited for.
    pub async fn refuse(&mut self, error: &ErrorPacket) {
        let payload = error.to_payload(self.capabilities);
        let soon = Instant::now() + Duration::from_millis(500);
        let _ = timeout_at(soon, self.packets.write(&payload)).await;
    }

    /// Gives the client time from now: what took so long was not its doing.
    pub fn extend(&mut self) {
        self.deadline = Instant::now() + LOGIN_LIMIT;
    }

    /// How the client came.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Whether it came with TLS.
    pub fn has_tls(&self) -> bool {
        self.tls
    }

    /// Whether nobody else can read what it says: then it sends its password in plain text.
    pub fn is_secure(&self) -> bool {
        self.tls || self.transport == Transport::Unix
    }

    /// The challenge that it was greeted with.
    pub fn challenge(&self) -> [u8; CHALLENGE_LEN] {
        self.challenge
    }

    /// What the client and the proxy agreed on.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The stream, the number of the packet that ends the login, and what was read ahead.
    pub fn into_parts(self) -> (Peer, u8, Vec<u8>) {
        let sequence = self.packets.sequence();
        let (peer, rest) = self.packets.into_parts();
        (peer, sequence, rest)
    }
}
