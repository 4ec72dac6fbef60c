//! Tokens and passwords: from where the configuration points, read at each call, so that a new one needs no restart.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use pontoon_config::Credentials;
use pontoon_lease::Secret;

use crate::MoveError;

/// Reads them. A file that everybody may read, or that others than its owner may write, is refused: whoever has the token
/// has the servers.
pub(crate) fn read(from: &Option<Credentials>) -> Result<Secret, MoveError> {
    let Some(from) = from else {
        return Err(MoveError::Credentials("ip.credentials is missing".to_owned()));
    };
    if let Credentials::File(path) = from {
        let mode = fs::metadata(path)
            .map_err(|error| MoveError::Credentials(format!("{}: {error}", path.display())))?
            .permissions()
            .mode();
        if mode & TOO_OPEN != 0 {
            return Err(MoveError::Credentials(format!(
                "{} has mode {:03o}, so that others can read or change it: chmod 640",
                path.display(),
                mode & 0o777
            )));
        }
    }
    Secret::read(from).map_err(MoveError::Credentials)
}

/// Anything for everybody, and writing for the group.
const TOO_OPEN: u32 = 0o027;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_others_read_is_refused_and_its_secret_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "token = hunter2\n").unwrap();
        let from = Some(Credentials::File(path.clone()));
        for (mode, good) in [
            (0o600, true),
            (0o640, true),
            (0o400, true),
            (0o644, false),
            (0o660, false),
            (0o602, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match read(&from) {
                Ok(secret) => assert!(good && secret.need("token") == Ok("hunter2"), "{mode:o}"),
                Err(error) => assert!(
                    !good && !error.to_string().contains("hunter2"),
                    "{mode:o} {error}"
                ),
            }
        }
        assert!(read(&None).is_err());
        let missing = Some(Credentials::File(dir.path().join("none")));
        assert!(read(&missing).unwrap_err().to_string().contains("none"));
    }
}
