//! Logging in to a database in a client's place.

use std::io;
use std::time::Duration;

use pontoon_mysql_wire::auth::{CHALLENGE_LEN, SIGNED_CHALLENGE_LEN, native, plugin, sha2};
use pontoon_mysql_wire::{Capabilities, ErrorPacket, Greeting, StatusFlags, WireError};
use tokio::time::timeout;

use super::conversation::{Conversation, Said};
use super::dial::Opened;
use crate::auth::{Secret, rsa, signature};
use crate::packets::PacketError;
use crate::peer::Peer;
use crate::target::{Pin, Transport};

/// What a client says that changes what its statements mean or how they are answered: a connection to a database
/// serves only clients that agree on them.
pub const SESSION_FLAGS: Capabilities = Capabilities(
    Capabilities::FOUND_ROWS.0
        | Capabilities::NO_SCHEMA.0
        | Capabilities::ODBC.0
        | Capabilities::LOCAL_FILES.0
        | Capabilities::IGNORE_SPACE.0
        | Capabilities::INTERACTIVE.0
        | Capabilities::MULTI_STATEMENTS.0
        | Capabilities::PS_MULTI_RESULTS.0
        | Capabilities::CAN_HANDLE_EXPIRED_PASSWORDS.0
        | Capabilities::MARIADB_EXTENDED_METADATA.0,
);

/// Who logs in, and how.
#[derive(Clone, Debug)]
pub struct Login<'a> {
    /// The user's name.
    pub user: &'a [u8],
    /// What proves it.
    pub secret: &'a Secret,
    /// The default database.
    pub database: Option<&'a [u8]>,
    /// What the client can do; of it [`SESSION_FLAGS`] count.
    pub capabilities: Capabilities,
    /// The number of the client's collation.
    pub collation: u8,
    /// Connection attributes, for a connection that serves one client only.
    pub attributes: &'a [(Vec<u8>, Vec<u8>)],
    /// Whether the account demands TLS of the connection to the database.
    pub tls: bool,
}

/// A connection to a database, logged in, with nothing asked.
#[derive(Debug)]
pub struct Backend {
    /// The stream, at the beginning of the command phase.
    pub peer: Peer,
    /// What the connection is bound to.
    pub pin: Pin,
    /// How the database sees it.
    pub transport: Transport,
    /// Whether there is TLS up to the database itself.
    pub tls: bool,
    /// What both sides agreed on.
    pub capabilities: Capabilities,
    /// The database's own number of the session (the low 32 bits of `CONNECTION_ID()`).
    pub thread_id: u32,
    /// The database's greeting.
    pub greeting: Greeting,
    /// The session's status after the login.
    pub status: StatusFlags,
    /// The OK packet that ended the login: it may carry session state.
    pub ok: Vec<u8>,
}

/// Why a login did not end with a connection.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The database says no, in words that are the client's to hear.
    #[error("the database refused: {0}")]
    Refused(ErrorPacket),
    /// It demands an authentication plugin for which this secret is of no use.
    #[error("the database demands authentication by {0}")]
    Plugin(String),
    /// It wants the password encrypted, and its key cannot be used.
    #[error("the database's RSA key cannot be used")]
    Key,
    /// The account demands TLS, and the database has none.
    #[error("the account demands TLS, which the database does not offer")]
    NoTls,
    /// The TLS handshake failed.
    #[error("no TLS with the database: {0}")]
    Tls(#[source] io::Error),
    /// A server of before MySQL 5.7.5 or MariaDB 10.2.
    #[error("the database is too old: {0}")]
    TooOld(String),
    /// It said something that is not the protocol.
    #[error("the database broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// The connection broke.
    #[error("the connection to the database broke: {0}")]
    Io(#[source] io::Error),
    /// It closed the connection.
    #[error("the database closed the connection before the login was done")]
    Closed,
    /// It did not answer in time.
    #[error("the database did not answer the login in time")]
    Silent,
}

impl From<PacketError> for LoginError {
    fn from(error: PacketError) -> LoginError {
        match error {
            PacketError::Closed => LoginError::Closed,
            PacketError::Io(error) => LoginError::Io(error),
            PacketError::Wire(error) => LoginError::Wire(error),
        }
    }
}

/// `sha256_password`: the client wants the server's RSA key.
const SHA256_REQUEST_KEY: u8 = 0x01;

/// More rounds than any plugin has.
const MAX_ROUNDS: usize = 8;

/// Logs in over a connection that has greeted, within `limit`.
///
/// # Errors
/// [`LoginError`]; the connection is closed.
pub async fn login(opened: Opened, login: &Login<'_>, limit: Duration) -> Result<Backend, LoginError> {
    timeout(limit, Box::pin(converse(opened, login)))
        .await
        .unwrap_or(Err(LoginError::Silent))
}

async fn converse(opened: Opened, login: &Login<'_>) -> Result<Backend, LoginError> {
    let mut conversation = Conversation::begin(opened, login).await?;
    let secure = conversation.is_secure();
    let nonce = conversation.greeting().auth_data.clone();
    // The server's default is the account's most often. SHA1 of a password is of use for one plugin only.
    let name = match login.secret {
        Secret::Empty | Secret::Plain(_) if conversation.greeting().auth_plugin == plugin::CACHING_SHA2 => {
            plugin::CACHING_SHA2
        }
        _ => plugin::NATIVE,
    };
    let (mut answering, first) = Answering::begin(name, &nonce, login.secret, secure)?;
    conversation.introduce(login, name, &first).await?;
    for _ in 0..MAX_ROUNDS {
        match conversation.hear().await? {
            Said::Ok(ok) => return conversation.finish(ok),
            Said::Refused(error) => return Err(LoginError::Refused(error)),
            Said::Switch {
                plugin, challenge, ..
            } => {
                let (next, answer) = Answering::begin(&plugin, &challenge, login.secret, secure)?;
                answering = next;
                conversation.say(&answer).await?;
            }
            Said::More { data, .. } => {
                if let Some(answer) = answering.more(&data, login.secret, secure)? {
                    conversation.say(&answer).await?;
                }
            }
        }
    }
    Err(LoginError::Wire(WireError::Malformed("a login without end")))
}

/// The client's side of one plugin.
enum Answering {
    /// Everything has been said.
    Done,
    /// `caching_sha2_password` with this challenge, which the server may take or not.
    Sha2 { nonce: Vec<u8> },
    /// The server's key was asked for.
    Key { nonce: Vec<u8> },
    /// `parsec` with this challenge.
    Parsec { nonce: Vec<u8> },
}

impl Answering {
    fn begin(
        name: &[u8],
        challenge: &[u8],
        secret: &Secret,
        secure: bool,
    ) -> Result<(Answering, Vec<u8>), LoginError> {
        let refused = || LoginError::Plugin(String::from_utf8_lossy(name).into_owned());
        let nonce = |len| {
            challenge
                .get(..len)
                .ok_or(LoginError::Wire(WireError::Truncated("the challenge")))
        };
        let password: Option<&[u8]> = match secret {
            Secret::Empty => Some(&[]),
            Secret::Sha1(_) => None,
            Secret::Plain(password) => Some(password),
        };
        match (name, password) {
            (plugin::NATIVE, _) => {
                let answer = match secret.sha1() {
                    None => Vec::new(),
                    Some(hash) => native::answer(&hash, nonce(CHALLENGE_LEN)?).to_vec(),
                };
                Ok((Answering::Done, answer))
            }
            (plugin::CACHING_SHA2, Some([])) => Ok((Answering::Done, Vec::new())),
            (plugin::CACHING_SHA2, Some(password)) => {
                let nonce = nonce(CHALLENGE_LEN)?.to_vec();
                let answer = sha2::answer(password, &nonce).to_vec();
                Ok((Answering::Sha2 { nonce }, answer))
            }
            (plugin::SHA256, Some([])) => Ok((Answering::Done, vec![0])),
            (plugin::SHA256, Some(password)) if secure => Ok((Answering::Done, with_nul(password))),
            (plugin::SHA256, Some(_)) => {
                let nonce = nonce(CHALLENGE_LEN)?.to_vec();
                Ok((Answering::Key { nonce }, vec![SHA256_REQUEST_KEY]))
            }
            (plugin::ED25519, Some(password)) => {
                let nonce = nonce(SIGNED_CHALLENGE_LEN)?;
                Ok((Answering::Done, signature::ed25519(nonce, password).to_vec()))
            }
            (plugin::PARSEC, Some(_)) => {
                let nonce = nonce(SIGNED_CHALLENGE_LEN)?.to_vec();
                // An empty packet asks for the salt.
                Ok((Answering::Parsec { nonce }, Vec::new()))
            }
            _ => Err(refused()),
        }
    }

    /// What to say to what the plugin says; `None` for nothing.
    fn more(&mut self, data: &[u8], secret: &Secret, secure: bool) -> Result<Option<Vec<u8>>, LoginError> {
        let unexpected = || LoginError::Wire(WireError::Malformed("the plugin says what it cannot say"));
        let password: &[u8] = match secret {
            Secret::Plain(password) => password,
            Secret::Empty => &[],
            Secret::Sha1(_) => return Err(unexpected()),
        };
        let answer = match std::mem::replace(self, Answering::Done) {
            Answering::Sha2 { .. } if data == [sha2::FAST_OK] => None,
            Answering::Sha2 { .. } if data == [sha2::FULL] && secure => Some(with_nul(password)),
            Answering::Sha2 { nonce } if data == [sha2::FULL] => {
                *self = Answering::Key { nonce };
                Some(vec![sha2::REQUEST_KEY])
            }
            Answering::Key { nonce } => Some(rsa::encrypt(data, &nonce, password).ok_or(LoginError::Key)?),
            Answering::Parsec { nonce } => {
                Some(signature::parsec(&nonce, data, password).ok_or_else(unexpected)?)
            }
            Answering::Sha2 { .. } | Answering::Done => return Err(unexpected()),
        };
        Ok(answer)
    }
}

fn with_nul(password: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(password.len() + 1);
    text.extend_from_slice(password);
    text.push(0);
    text
}
