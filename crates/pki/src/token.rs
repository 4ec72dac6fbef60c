//! Join tokens: how a new machine proves that an operator sent it, and how it knows the fleet that it joins.
//!
//! `pon1.PIN.ID.SECRET`: the pin of the fleet's authority, which the joiner checks before it says anything; the id,
//! which is no secret; and 160 random bits, of which the fleet keeps only the hash.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use pontoon_fleet::{Code, Refusal, Role, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::error::PkiError;
use crate::text::{Pin, decode, encode, sha256};

/// How long a token is good unless said otherwise: one hour.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(3_600);

/// How long a token that has expired is remembered, so that its late user hears "expired" and not "unknown".
const REMEMBERED: Duration = Duration::from_secs(7 * 86_400);

/// Which form of token this is; another form gets another word.
const FORM: &str = "pon1";

const ID_BYTES: usize = 5;
const SECRET_BYTES: usize = 20;

/// A join token. Its `Debug` has no secret in it; its `Display` is the whole token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The fleet.
    pub pin: Pin,
    /// Which of the fleet's tokens.
    pub id: String,
    /// What only the joiner and the operator know.
    pub secret: String,
}

/// Text that is not a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: {0}")]
pub struct NotAToken(&'static str);

impl From<NotAToken> for Refusal {
    fn from(error: NotAToken) -> Refusal {
        Refusal::new(Code::J002, "the token is not a join token")
            .because(error.0)
            .next("make a new one, on a server of the fleet", "pontoon token new")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FORM}.{}.{}.{}", self.pin, self.id, self.secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({FORM}.{}.{}.…)", self.pin, self.id)
    }
}

impl FromStr for Token {
    type Err = NotAToken;

    /// Spaces around it are forgiven, upper case too: terminals and chats do that to text.
    fn from_str(text: &str) -> Result<Token, NotAToken> {
        let text = text.trim().to_ascii_lowercase();
        let mut parts = text.split('.');
        let (Some(form), Some(pin), Some(id), Some(secret), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(NotAToken("it has not four parts with dots between them"));
        };
        if form != FORM {
            return Err(NotAToken("it does not begin with pon1"));
        }
        let pin = pin
            .parse()
            .map_err(|_| NotAToken("its second part is not a pin: it is cut off or mistyped"))?;
        decode::<ID_BYTES>(id).ok_or(NotAToken(
            "its third part is not an id: it is cut off or mistyped",
        ))?;
        decode::<SECRET_BYTES>(secret).ok_or(NotAToken(
            "its last part is not a secret: it is cut off or mistyped",
        ))?;
        Ok(Token {
            pin,
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }
}

/// Why a token was not redeemed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No token of that id was issued here.
    #[error("no token of that id was issued here")]
    Unknown,
    /// Its hour is over.
    #[error("the token has expired")]
    Expired,
    /// The id is right and the secret is not: mistyped, or forged.
    #[error("the token's secret is wrong")]
    WrongSecret,
    /// Another machine used it.
    #[error("the token was used by another machine")]
    UsedByAnother,
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Refusal {
        Refusal::new(Code::J001, "the token was refused")
            .because(error.to_string())
            .next("make a new one, on a server of the fleet", "pontoon token new")
    }
}

/// The tokens that a server issued. A plain value: the caller writes it to disk before it acts on what it answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBook {
    tokens: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// SHA-256 of the secret, base32. A slow hash would add nothing: nobody guesses 160 random bits.
    secret_sha256: String,
    expires: UnixMillis,
    /// The fingerprint of the key that used it first.
    used_by: Option<String>,
    /// The roles that a server may join with; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    roles: Option<BTreeSet<Role>>,
}

impl TokenBook {
    /// Issues a token for the fleet `pin` that lets a server join with any of `roles` (`None`: all). Write the book
    /// before showing the token.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub fn issue(
        &mut self,
        pin: Pin,
        now: UnixMillis,
        ttl: Duration,
        roles: Option<BTreeSet<Role>>,
    ) -> Result<Token, PkiError> {
        self.prune(now);
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        aws_lc_rs::rand::fill(&mut secret)?;
        // 40 bits collide once in a fleet's life if at all; a collision would replace a token that is in use.
        loop {
            aws_lc_rs::rand::fill(&mut id)?;
            if !self.tokens.contains_key(&encode(&id)) {
                break;
            }
        }
        let token = Token {
            pin,
            id: encode(&id),
            secret: encode(&secret),
        };
        let entry = Entry {
            secret_sha256: encode(&sha256(&secret)),
            expires: now.plus(ttl),
            used_by: None,
            roles,
        };
        self.tokens.insert(token.id.clone(), entry);
        Ok(token)
    }

    /// Redeems a token for the joiner whose key has the fingerprint `joiner`
    /// ([`csr_fingerprint`](crate::csr_fingerprint)). The first redemption binds it: the same joiner may repeat it
    /// until it expires, since a join can be interrupted; nobody else can. When this is `Ok`, write the book before
    /// answering. When it is an error, nothing has changed.
    ///
    /// # Errors
    /// Every [`TokenError`]. Of a wrong secret no more is told than that.
    pub fn redeem(
        &mut self,
        id: &str,
        secret: &str,
        joiner: &str,
        now: UnixMillis,
    ) -> Result<(), TokenError> {
        let entry = self.tokens.get_mut(id).ok_or(TokenError::Unknown)?;
        let secret = decode::<SECRET_BYTES>(secret).ok_or(TokenError::WrongSecret)?;
        let known = decode::<32>(&entry.secret_sha256).ok_or(TokenError::WrongSecret)?;
        verify_slices_are_equal(&sha256(&secret), &known).map_err(|_| TokenError::WrongSecret)?;
        if now >= entry.expires {
            return Err(TokenError::Expired);
        }
        match &entry.used_by {
            Some(first) if first != joiner => Err(TokenError::UsedByAnother),
            Some(_) => Ok(()),
            None => {
                entry.used_by = Some(joiner.to_owned());
                Ok(())
            }
        }
    }

    /// Whether the token of that id, which was redeemed, lets its server have `role`.
    pub fn allows(&self, id: &str, role: Role) -> bool {
        self.tokens
            .get(id)
            .is_some_and(|entry| entry.roles.as_ref().is_none_or(|roles| roles.contains(&role)))
    }

    /// Forgets tokens that expired a week ago.
    pub fn prune(&mut self, now: UnixMillis) {
        self.tokens
            .retain(|_, entry| now < entry.expires.plus(REMEMBERED));
    }

    /// Tokens that could still be used for the first time: id and end.
    pub fn open(&self, now: UnixMillis) -> impl Iterator<Item = (&str, UnixMillis)> {
        let is_open = move |entry: &Entry| entry.used_by.is_none() && now < entry.expires;
        self.tokens
            .iter()
            .filter(move |(_, entry)| is_open(entry))
            .map(|(id, entry)| (id.as_str(), entry.expires))
    }

    /// Takes a token back; says whether there was one.
    pub fn revoke(&mut self, id: &str) -> bool {
        self.tokens.remove(id).is_some()
    }
}
