//! The proxy's own connection to the primary, on which it reads accounts.

use std::path::Path;
use std::time::Duration;

use pontoon_mysql_wire::{Capabilities, Command, ErrorPacket, Greeting, Reader, Reply, WireError};
use serde::Deserialize;
use tokio::time::timeout;

use super::Secret;
use super::accounts::Account;
use crate::backend::{Backend, Opened};
use crate::backend::{Login, LoginError, login};
use crate::packets::{PacketError, Packets};
use crate::target::Pin;

/// How long the login and each question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// More rows than anybody has accounts of a few names.
const MAX_ROWS: usize = 100_000;

/// utf8mb4_general_ci, which both servers have.
const UTF8MB4: u8 = 45;

/// The account by which the proxy learns of others, as the agent writes it for it.
#[derive(Clone, Deserialize)]
pub struct OwnAccount {
    user: String,
    password: String,
}

impl OwnAccount {
    /// Reads the file; `None` without one that makes sense.
    pub fn read(path: &Path) -> Option<OwnAccount> {
        let bytes = std::fs::read(path).ok()?;
        match serde_json::from_slice(&bytes) {
            Ok(account) => Some(account),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "not an account");
                None
            }
        }
    }
}

impl std::fmt::Debug for OwnAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnAccount({}, …)", self.user)
    }
}

/// Why accounts could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The proxy could not log in.
    #[error("the proxy's own account: {0}")]
    Login(#[from] LoginError),
    /// The database refused the question.
    #[error("the accounts cannot be read: {0}")]
    Refused(ErrorPacket),
    /// The connection broke.
    #[error("the connection to the accounts: {0}")]
    Packet(#[from] PacketError),
    /// No answer.
    #[error("the database does not say which accounts it has")]
    Silent,
}

impl From<WireError> for ControlError {
    fn from(error: WireError) -> ControlError {
        ControlError::Packet(PacketError::Wire(error))
    }
}

/// The connection.
#[derive(Debug)]
pub struct Control {
    packets: Option<Packets>,
    capabilities: Capabilities,
    pin: Pin,
    greeting: Greeting,
    demands_tls: bool,
}

impl Control {
    /// Logs in.
    ///
    /// # Errors
    /// [`ControlError::Login`].
    pub async fn connect(opened: Opened, account: &OwnAccount) -> Result<Control, ControlError> {
        let secret = Secret::password(account.password.as_bytes());
        let who = Login {
            user: account.user.as_bytes(),
            secret: &secret,
            database: None,
            capabilities: Capabilities::default(),
            collation: UTF8MB4,
            attributes: &[],
            tls: false,
        };
        let Backend {
            peer,
            capabilities,
            pin,
            greeting,
            ..
        } = login(opened, &who, PATIENCE).await?;
        let mut control = Control {
            packets: Some(Packets::new(peer, &[])),
            capabilities,
            pin,
            greeting,
            demands_tls: false,
        };
        let asked = timeout(
            PATIENCE,
            control.query("SELECT @@global.require_secure_transport"),
        )
        .await;
        let rows = asked.unwrap_or(Err(ControlError::Silent))?;
        let value = rows.first().and_then(|row| row.first()?.as_deref());
        control.demands_tls = value == Some(b"1");
        Ok(control)
    }

    /// What the connection is bound to.
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// Whether the database takes nobody over TCP without TLS.
    pub fn demands_tls(&self) -> bool {
        self.demands_tls
    }

    /// How the database greets.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// The accounts of these users, each with its user's name.
    ///
    /// # Errors
    /// [`ControlError`]; the connection is of use only after [`ControlError::Refused`].
    pub async fn accounts(&mut self, users: &[&[u8]]) -> Result<Vec<(Vec<u8>, Account)>, ControlError> {
        let mariadb = self.greeting.is_mariadb();
        // Numbers, so that no name can be more than a name.
        let names = users
            .iter()
            .map(|name| match name {
                [] => "''".to_owned(),
                name => format!("_utf8mb4 0x{}", hex(name)),
            })
            .collect::<Vec<_>>()
            .join(",");
        let query = if mariadb {
            format!("SELECT User, Host, Priv FROM mysql.global_priv WHERE User IN ({names})")
        } else {
            format!(
                "SELECT User, Host, plugin, authentication_string, password_expired, account_locked, ssl_type, \
                 password_lifetime, User_attributes->'$.Multi_factor_authentication', \
                 max_questions + max_updates + max_connections + max_user_connections FROM mysql.user WHERE User IN ({names})"
            )
        };
        let rows = timeout(PATIENCE, self.query(&query))
            .await
            .unwrap_or(Err(ControlError::Silent))?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let field = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
                let account = if mariadb {
                    Account::of_mariadb(field(1), field(2))?
                } else {
                    Account {
                        host: field(1).to_vec(),
                        ways: vec![(field(2).to_vec(), field(3).to_vec())],
                        special: field(4) == b"Y"
                            || field(5) == b"Y"
                            || !matches!(field(7), b"" | b"0")
                            || row.get(8).is_some_and(Option::is_some)
                            || field(9) != b"0",
                        tls: !field(6).is_empty(),
                    }
                };
                Some((field(0).to_vec(), account))
            })
            .collect())
    }

    async fn query(&mut self, query: &str) -> Result<Vec<Vec<Option<Vec<u8>>>>, ControlError> {
        // Taken until the answer is whole: a question that is given up leaves half an answer behind.
        let (peer, rest) = self.packets.take().ok_or(PacketError::Closed)?.into_parts();
        let mut packets = Packets::new(peer, &rest);
        let payload = [&[Command::Query.to_byte()], query.as_bytes()].concat();
        packets.write(&payload).await.map_err(PacketError::Io)?;
        let first = packets.read().await?;
        if Reply::first(&first, self.capabilities) == Reply::Error {
            self.packets = Some(packets);
            return Err(ControlError::Refused(ErrorPacket::parse(&first)?));
        }
        let columns = Reader::new(&first).lenenc("the number of columns")?;
        if columns == 0 || columns > 64 {
            return Err(WireError::Malformed("not the columns that were asked for").into());
        }
        for _ in 0..columns {
            packets.read().await?;
        }
        let mut rows = Vec::new();
        loop {
            let row = packets.read().await?;
            match Reply::in_rows(&row, row.len(), self.capabilities) {
                Reply::OkEof => break,
                Reply::Error => return Err(ControlError::Refused(ErrorPacket::parse(&row)?)),
                _ if rows.len() >= MAX_ROWS => {
                    return Err(WireError::TooLarge { limit: MAX_ROWS }.into());
                }
                _ => rows.push(fields(&row, columns as usize)?),
            }
        }
        self.packets = Some(packets);
        Ok(rows)
    }
}

fn fields(row: &[u8], columns: usize) -> Result<Vec<Option<Vec<u8>>>, WireError> {
    const NULL: u8 = 0xFB;
    let mut reader = Reader::new(row);
    (0..columns)
        .map(|_| {
            if reader.remaining().first() == Some(&NULL) {
                reader.u8("a NULL")?;
                return Ok(None);
            }
            reader.lenenc_bytes("a field").map(|field| Some(field.to_vec()))
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
