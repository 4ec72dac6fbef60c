//! Passwords that were proven, for as long as the accounts that they were proven for stay as they were: what MySQL's
//! own cache is to `caching_sha2_password`. In memory only, overwritten when dropped.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::Secret;

/// When there are more, all are forgotten: clients then send their passwords once more.
const MAX_PROVEN: usize = 4096;

/// The passwords of a process, by the version of the accounts.
#[derive(Debug, Default)]
pub struct Proven(Mutex<HashMap<[u8; 32], Secret>>);

impl Proven {
    /// The password that was proven for these accounts.
    pub fn get(&self, version: &[u8; 32]) -> Option<Secret> {
        let proven = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        proven.get(version).cloned()
    }

    /// Notes a password that a database has taken.
    pub fn put(&self, version: [u8; 32], secret: Secret) {
        let mut proven = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if proven.len() >= MAX_PROVEN {
            proven.clear();
        }
        proven.insert(version, secret);
    }

    /// Forgets a password that a database does not take any more.
    pub fn forget(&self, version: &[u8; 32]) {
        let mut proven = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        proven.remove(version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded() {
        let proven = Proven::default();
        for number in 0..=MAX_PROVEN {
            let mut version = [0; 32];
            version[..8].copy_from_slice(&number.to_le_bytes());
            proven.put(version, Secret::password(b"pw"));
        }
        let kept = proven.0.lock().unwrap().len();
        assert_eq!(kept, 1);
    }
}
