//! Letting a client in, or not (MySQL: "Connection Phase"). What decides is always the primary: by the hash that it
//! stores, by taking the client's password, or by asking the client itself. A refusal is in its own words.

use pontoon_mysql_wire::auth::{native, plugin, sha2};
use pontoon_mysql_wire::{Capabilities, ErrorPacket, SqlState};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use zeroize::{Zeroize, Zeroizing};

use super::Secret;
use super::accounts::{Known, Method};
use super::directory::{Dial, Directory};
use super::known::Proven;
use crate::backend::{Backend, Conversation, Login, LoginError, Said, login};
use crate::front::{Attempt, Front, FrontError, Keys};
use crate::target::Transport;

/// How long a database may take to judge a login.
const PATIENCE: Duration = Duration::from_secs(10);

/// What authentication needs to know of its surroundings.
#[derive(Debug)]
pub struct Doorkeeper<'a, D> {
    /// The accounts.
    pub directory: &'a Directory,
    /// The passwords that were proven.
    pub proven: &'a Proven,
    /// The proxy's own keys.
    pub keys: &'a Keys,
    /// The way to the primary.
    pub dial: &'a D,
}

/// A client that may come in. It has not been told yet: its first connection decides on its default database.
#[derive(Debug)]
pub struct Authenticated {
    /// The user's name.
    pub user: Vec<u8>,
    /// What connections for it are logged in with. Of no use for a session that is bound.
    pub secret: Secret,
    /// Whether connections for it need TLS.
    pub tls: bool,
    /// The default database.
    pub database: Option<Vec<u8>>,
    /// What the client and the proxy agreed on.
    pub capabilities: Capabilities,
    /// The number of the client's collation.
    pub collation: u8,
    /// Connection attributes.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// What vouches for the proxy's certificate, in the text of the OK packet of a MariaDB that does so
    /// ([`Keys::vouch`]); empty when it cannot be said.
    pub proof: Vec<u8>,
    /// The connection that proved the client, with its database chosen: as good as any of its user's.
    pub fresh: Option<Box<Backend>>,
    /// The connection that the session is bound to: nobody but the client itself could log in again.
    pub bound: Option<Box<Backend>>,
}

/// Why a client may not come in.
#[derive(Debug)]
pub enum NotAuthenticated {
    /// This is to be said to it.
    Refused(ErrorPacket),
    /// It did not keep to the protocol, or is gone: see [`FrontError::to_packet`].
    Front(FrontError),
}

impl From<FrontError> for NotAuthenticated {
    fn from(error: FrontError) -> NotAuthenticated {
        NotAuthenticated::Front(error)
    }
}

impl From<LoginError> for NotAuthenticated {
    fn from(error: LoginError) -> NotAuthenticated {
        NotAuthenticated::Refused(match error {
            LoginError::Refused(packet) => packet,
            other => ErrorPacket::new(
                pontoon_mysql_wire::error_code::UNKNOWN_ERROR,
                SqlState::GENERAL,
                &format!("Pontoon: {other}"),
            ),
        })
    }
}

/// How a client has proven itself.
struct Proof {
    secret: Secret,
    fresh: Option<Box<Backend>>,
    bound: Option<Box<Backend>>,
}

/// Finds out whether the client is who it says it is. Also serves COM_CHANGE_USER.
///
/// # Errors
/// [`NotAuthenticated`].
pub async fn authenticate<D: Dial>(
    front: &mut Front,
    attempt: Attempt,
    door: &Doorkeeper<'_, D>,
) -> Result<Authenticated, NotAuthenticated> {
    let model = door
        .directory
        .model(door.dial, front.transport())
        .await
        .map_err(NotAuthenticated::Refused)?;
    let accounts = door.directory.accounts(&attempt.user, door.dial).await;
    let known =
        accounts.map(|accounts| Known::of(&attempt.user, &accounts, front.transport(), &model.auth_plugin));
    let demanded = door.directory.demands_tls() || known.as_ref().is_some_and(|known| known.tls);
    let tls = demanded && front.transport() == Transport::Tcp;
    // An account that demands TLS is not for a client without: the database says so itself.
    let cleartext = tls && !front.has_tls();
    front.extend();
    let proof = match &known {
        Some(known) if !cleartext => match &known.method {
            Method::Native { hashes, empty } => by_hash(front, &attempt, door, hashes, *empty).await?,
            Method::Password => by_password(front, &attempt, door, known, tls).await?,
            Method::Relayed => relayed(front, &attempt, door).await?,
        },
        _ => relayed(front, &attempt, door).await?,
    };
    let vouched = match &proof.secret {
        Secret::Sha1(hash) if model.is_mariadb() => {
            door.keys.vouch(&native::stored(hash), &front.challenge())
        }
        _ => Vec::new(),
    };
    Ok(Authenticated {
        user: attempt.user,
        secret: proof.secret,
        tls,
        database: attempt.database,
        capabilities: front.capabilities(),
        collation: attempt.collation,
        attributes: attempt.attributes,
        proof: vouched,
        fresh: proof.fresh,
        bound: proof.bound,
    })
}

/// The client's answer for a plugin, asked for if it answered for another.
async fn answer_for(front: &mut Front, attempt: &Attempt, name: &[u8]) -> Result<Vec<u8>, FrontError> {
    // A client that names no plugin has answered for the one of before there were names.
    let theirs = attempt.plugin.as_deref().unwrap_or(plugin::NATIVE);
    if theirs == name || !front.can_switch() {
        return Ok(attempt.answer.clone());
    }
    front.switch(name).await
}

async fn by_hash<D: Dial>(
    front: &mut Front,
    attempt: &Attempt,
    door: &Doorkeeper<'_, D>,
    hashes: &[[u8; native::LEN]],
    empty: bool,
) -> Result<Proof, NotAuthenticated> {
    let answer = answer_for(front, attempt, plugin::NATIVE).await?;
    let challenge = front.challenge();
    let recovered = hashes
        .iter()
        .filter_map(|stored| native::recover(&answer, &challenge, stored))
        .next();
    let secret = match recovered {
        Some(hash) => Secret::Sha1(hash),
        None if empty && answer.is_empty() => Secret::Empty,
        // Perhaps it changed just now; perhaps there is another way in. The database knows, and says so.
        None => return relayed(front, attempt, door).await,
    };
    Ok(Proof {
        secret,
        fresh: None,
        bound: None,
    })
}

/// `caching_sha2_password`, whatever the account's own plugin is.
async fn by_password<D: Dial>(
    front: &mut Front,
    attempt: &Attempt,
    door: &Doorkeeper<'_, D>,
    known: &Known,
    tls: bool,
) -> Result<Proof, NotAuthenticated> {
    let answer = answer_for(front, attempt, plugin::CACHING_SHA2).await?;
    let challenge = front.challenge();
    let secret = if matches!(answer.as_slice(), [] | [0]) {
        Secret::Empty
    } else {
        if let Some(secret) = door.proven.get(&known.version)
            && let Secret::Plain(password) = &secret
            && sha2::verify(&answer, &challenge, &sha2::cached(password))
        {
            front.more(&[sha2::FAST_OK]).await?;
            return Ok(Proof {
                secret,
                fresh: None,
                bound: None,
            });
        }
        front.more(&[sha2::FULL]).await?;
        Secret::Plain(hear_password(front, door.keys).await?)
    };
    let opened = door
        .dial
        .open(front.transport())
        .await
        .map_err(NotAuthenticated::Refused)?;
    let who = Login {
        user: &attempt.user,
        secret: &secret,
        database: attempt.database.as_deref(),
        capabilities: front.capabilities(),
        collation: attempt.collation,
        attributes: &[],
        tls,
    };
    match login(opened, &who, PATIENCE).await {
        Ok(backend) => {
            if matches!(secret, Secret::Plain(_)) {
                door.proven.put(known.version, secret.clone());
            }
            Ok(Proof {
                secret,
                fresh: Some(Box::new(backend)),
                bound: None,
            })
        }
        // The account is of a plugin that the proxy cannot answer after all.
        Err(LoginError::Plugin(_)) => relayed(front, attempt, door).await,
        Err(error) => Err(error.into()),
    }
}

/// The password itself: in plain text where nobody listens, otherwise under the proxy's RSA key. One that cannot be
/// deciphered is a wrong one.
async fn hear_password(front: &mut Front, keys: &Keys) -> Result<Zeroizing<Vec<u8>>, FrontError> {
    let mut said = Zeroizing::new(front.hear().await?);
    if front.is_secure() {
        if said.last() == Some(&0) {
            said.pop();
        }
        return Ok(said);
    }
    if said.as_slice() == [sha2::REQUEST_KEY] {
        let pem = keys
            .rsa
            .public_pem()
            .ok_or(FrontError::Own("Pontoon has no RSA key"))?;
        front.more(pem).await?;
        said = Zeroizing::new(front.hear().await?);
    }
    let challenge = front.challenge();
    Ok(keys.rsa.decrypt(&challenge, &said).unwrap_or(said))
}

/// Lets the database ask the client itself: it is told of a plugin that no account has, so that it begins anew with
/// the account's own and a challenge of its own, and everything is passed on. The connection is the session's from
/// then on.
async fn relayed<D: Dial>(
    front: &mut Front,
    attempt: &Attempt,
    door: &Doorkeeper<'_, D>,
) -> Result<Proof, NotAuthenticated> {
    if !front.can_switch() {
        return Err(refused(front, attempt, door).await);
    }
    let opened = door
        .dial
        .open(front.transport())
        .await
        .map_err(NotAuthenticated::Refused)?;
    let who = Login {
        user: &attempt.user,
        secret: &Secret::Empty,
        database: attempt.database.as_deref(),
        capabilities: front.capabilities(),
        collation: attempt.collation,
        attributes: &attempt.attributes,
        // Some plugins give the password away, and ask whether somebody listens first.
        tls: front.has_tls() && front.transport() == Transport::Tcp,
    };
    let deadline = Instant::now() + PATIENCE;
    let late = |_| NotAuthenticated::from(LoginError::Silent);
    let begun = async {
        let mut conversation = Conversation::begin(opened, &who).await?;
        conversation.introduce(&who, NOBODYS_PLUGIN, &[]).await?;
        Ok::<_, LoginError>(conversation)
    };
    let mut conversation = match timeout_at(deadline, Box::pin(begun)).await.map_err(late)? {
        Err(LoginError::NoTls) => return Err(NotAuthenticated::Refused(denied(front, attempt))),
        other => other?,
    };
    let mut asked = false;
    for _ in 0..MAX_ROUNDS {
        let said = timeout_at(deadline, conversation.hear()).await.map_err(late)??;
        let mut answer = match said {
            // The database took the proxy for the client by something else than what the client says: the system user
            // at the far end of the socket.
            Said::Ok(_) if !asked => return Err(NotAuthenticated::Refused(denied(front, attempt))),
            Said::Ok(ok) => {
                return Ok(Proof {
                    secret: Secret::Empty,
                    fresh: None,
                    bound: Some(Box::new(conversation.finish(ok)?)),
                });
            }
            Said::Refused(error) => return Err(NotAuthenticated::Refused(error)),
            Said::Switch { .. } if asked => return Err(NotAuthenticated::Refused(denied(front, attempt))),
            Said::Switch { payload, .. } => {
                asked = true;
                front.switch_as(&payload).await?
            }
            Said::More { data, payload } => {
                front.say(&payload).await?;
                if data == [sha2::FAST_OK] {
                    continue; // the OK follows by itself
                }
                front.hear().await?
            }
        };
        let sent = timeout_at(deadline, conversation.say(&answer))
            .await
            .map_err(late);
        answer.zeroize();
        sent??;
    }
    Err(NotAuthenticated::Refused(denied(front, attempt)))
}

/// The database's own refusal, for a client that cannot be asked once more: a login with a token that is wrong.
async fn refused<D: Dial>(front: &Front, attempt: &Attempt, door: &Doorkeeper<'_, D>) -> NotAuthenticated {
    let wrong = match door.keys.challenge() {
        Some(random) if !attempt.answer.is_empty() => Secret::password(&random),
        _ => Secret::Empty,
    };
    let opened = match door.dial.open(front.transport()).await {
        Ok(opened) => opened,
        Err(packet) => return NotAuthenticated::Refused(packet),
    };
    let who = Login {
        user: &attempt.user,
        secret: &wrong,
        database: None,
        capabilities: front.capabilities(),
        collation: attempt.collation,
        attributes: &[],
        tls: false,
    };
    match login(opened, &who, PATIENCE).await {
        Err(LoginError::Refused(packet)) => NotAuthenticated::Refused(packet),
        // Also when it lets in whoever comes: the client has proven nothing.
        _ => NotAuthenticated::Refused(denied(front, attempt)),
    }
}

/// A plugin that is nobody's.
const NOBODYS_PLUGIN: &[u8] = b"pontoon_relayed_login";

/// More questions than any plugin asks.
const MAX_ROUNDS: usize = 64;

/// What both servers say (`ER_ACCESS_DENIED_ERROR`).
fn denied(front: &Front, attempt: &Attempt) -> ErrorPacket {
    let host = match front.transport() {
        Transport::Unix => "localhost",
        Transport::Tcp => "127.0.0.1",
    };
    let used = if attempt.answer.is_empty() { "NO" } else { "YES" };
    let user = String::from_utf8_lossy(&attempt.user);
    let state = SqlState::new(*b"28000").unwrap_or(SqlState::GENERAL);
    ErrorPacket::new(
        1045,
        state,
        &format!("Access denied for user '{user}'@'{host}' (using password: {used})"),
    )
}
