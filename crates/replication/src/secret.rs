//! Passwords that nobody types: made here, kept in files that only the agent reads.

use std::io::Read;
use std::path::Path;

use pontoon_fleet::{Code, Refusal};
use pontoon_rt::files::{self, FileError};

/// A new password: 32 letters and digits, 190 bits.
pub(crate) fn new_password() -> Result<String, Refusal> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789Az";
    Ok(random::<32>()?
        .iter()
        .map(|byte| LETTERS[usize::from(byte % 64)] as char)
        .collect())
}

/// A new replication id. With 32 random bits two of fifty servers share one once in three million fleets.
pub fn new_server_id() -> Result<u32, Refusal> {
    Ok(u32::from_ne_bytes(random::<4>()?).max(2))
}

/// A password that follows from another one and does not tell it.
pub(crate) fn derived(from: &str, purpose: &str) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("pontoon {purpose} 1\n{from}"));
    // A replica's password for its source has 32 characters at most (MySQL manual, "CHANGE REPLICATION SOURCE TO").
    let digits: String = digest[..14].iter().map(|byte| format!("{byte:02x}")).collect();
    // What password policies want to see, after 112 bits of what they should.
    format!("{digits}Aa1")
}

/// The password in `path`, made at the first call.
pub(crate) fn kept_password(path: &Path) -> Result<String, Refusal> {
    if let Some(bytes) = files::read_limited(path, 4096)? {
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        if text.len() >= 16 && text.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Ok(text);
        }
        return Err(Refusal::new(
            Code::N006,
            format!("{} does not hold a password", path.display()),
        ));
    }
    let password = new_password()?;
    files::write_atomic(path, password.as_bytes(), 0o600)?;
    Ok(password)
}

fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; N];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| FileError::new(path, "read", error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let first = kept_password(&path).unwrap();
        assert_eq!(kept_password(&path).unwrap(), first);
        assert_eq!(first.len(), 32);
        assert_ne!(first, new_password().unwrap());
        std::fs::write(&path, "x'; DROP").unwrap();
        assert!(kept_password(&path).is_err());
    }
}
