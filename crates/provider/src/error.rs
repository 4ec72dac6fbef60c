//! Why an address did not move, and when to try again.

use std::net::IpAddr;
use std::time::Duration;

use pontoon_fleet::ServerName;

/// Why an address is not where it should be. None of the texts has a secret in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// The client cannot be made at all.
    #[error("{0}")]
    Unusable(String),
    /// Token or password cannot be read, or whoever may read them is too many.
    #[error("the provider's credentials cannot be used: {0}")]
    Credentials(String),
    /// The configuration does not say what the provider calls the server.
    #[error("ip.targets does not say what the provider calls {0}")]
    NoTarget(ServerName),
    /// 401 or 403.
    #[error("{place} does not accept the credentials: {said}")]
    Denied {
        /// Who was asked.
        place: String,
        /// What it said.
        said: String,
    },
    /// 404: the address or the server is not known there, or is not this account's.
    #[error("{place} does not know this address or this server: {said}")]
    Unknown {
        /// Who was asked.
        place: String,
        /// What it said.
        said: String,
    },
    /// 409, 422 or 423: something else is being done with the address.
    #[error("{place} does not move the address now: {said}")]
    Locked {
        /// Who was asked.
        place: String,
        /// What it said.
        said: String,
    },
    /// 429, and what Hetzner Robot says instead.
    #[error("{place} takes no more requests for {} s", after.as_secs())]
    Limited {
        /// Who was asked.
        place: String,
        /// For how long, in its own words or by default.
        after: Duration,
    },
    /// Another 4xx: the request was wrong.
    #[error("{place} refuses: {said}")]
    Refused {
        /// Who was asked.
        place: String,
        /// What it said.
        said: String,
    },
    /// 5xx. It may have been done.
    #[error("{place} failed: {said}")]
    Failed {
        /// Who was asked.
        place: String,
        /// What it said.
        said: String,
    },
    /// No answer. It may have been done.
    #[error("{0}")]
    Unanswered(String),
    /// An answer that is none.
    #[error("{place} answers what cannot be understood: {why}")]
    Nonsense {
        /// Who was asked.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// It was said to be done, and is not.
    #[error("the provider took the request, and {ip} is still at {found}, not at {wanted}")]
    Untrue {
        /// Which address.
        ip: IpAddr,
        /// Where it should be.
        wanted: ServerName,
        /// Where it is.
        found: String,
    },
    /// All of it took longer than `ip.timeout`.
    #[error("nothing came of it within {} s (ip.timeout)", .0.as_secs())]
    Late(Duration),
    /// The operator's program.
    #[error("{program}: {why}")]
    Program {
        /// Which.
        program: String,
        /// How it ended, and its last words.
        why: String,
        /// It says that the same may succeed a little later (exit status 75).
        later: bool,
    },
}

impl MoveError {
    /// Whether what was asked for may have been done.
    pub(crate) fn is_doubt(&self) -> bool {
        matches!(
            self,
            MoveError::Failed { .. } | MoveError::Unanswered(_) | MoveError::Nonsense { .. }
        )
    }

    /// How long to wait before the same is tried again, after so many failures in a row (at least one).
    pub fn patience(&self, failures: u32) -> Duration {
        match self {
            MoveError::Limited { after, .. } => (*after).clamp(Duration::from_secs(1), LONGEST_LIMIT),
            // Hetzner Robot shuts an address out for ten minutes after three wrong passwords.
            MoveError::Denied { .. } => DENIED,
            MoveError::Locked { .. } | MoveError::Program { later: true, .. } => SOON,
            _ => (SOON * 2u32.saturating_pow(failures.saturating_sub(1).min(10))).min(LONGEST),
        }
    }
}

/// What is being moved just now, or was not answered for.
const SOON: Duration = Duration::from_secs(2);

/// Failures in a row.
const LONGEST: Duration = Duration::from_secs(60);

/// Between two tries with credentials that were not accepted.
const DENIED: Duration = Duration::from_secs(300);

/// Whatever a provider says: somebody waits for the address.
const LONGEST_LIMIT: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_failures_follows_the_provider_and_has_an_end() {
        let failed = MoveError::Unanswered("x".into());
        let waits: Vec<u64> = (1..8).map(|n| failed.patience(n).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(failed.patience(u32::MAX), LONGEST);
        let limited = |secs| MoveError::Limited {
            place: "x".into(),
            after: Duration::from_secs(secs),
        };
        assert_eq!(limited(17).patience(9), Duration::from_secs(17));
        assert_eq!(limited(0).patience(1), Duration::from_secs(1));
        assert_eq!(limited(86_400).patience(1), LONGEST_LIMIT);
        let denied = MoveError::Denied {
            place: "x".into(),
            said: "y".into(),
        };
        assert!(denied.patience(1) * 3 > Duration::from_secs(600));
    }
}
