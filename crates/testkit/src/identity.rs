//! Identities of servers, as a fleet's authority would give them: for tests and measurements that run a tier by itself.

use std::net::IpAddr;
use std::time::SystemTime;

use pontoon_fleet::{FleetName, ServerName, UnixMillis};
use pontoon_pki::{Authority, Identity, SERVER_LIFETIME};
use pontoon_rt::paths::Paths;

use crate::LabError;

/// The authority of a new fleet.
///
/// # Errors
/// When `fleet` is no name, or keys cannot be made.
pub fn found_fleet(fleet: &str) -> Result<Authority, LabError> {
    let name: FleetName = fleet.parse().map_err(odd)?;
    Authority::create(&name, now()).map_err(odd)
}

/// Makes the folders of `paths` and puts an identity of `server` there, in the fleet of `authority`.
///
/// # Errors
/// When `server` is no name, or something cannot be written.
pub fn identify(authority: &Authority, server: &str, private: IpAddr, paths: &Paths) -> Result<(), LabError> {
    paths.create_dirs().map_err(odd)?;
    let name: ServerName = server.parse().map_err(odd)?;
    let (key, csr) = Identity::new_key_and_csr(&name, private).map_err(odd)?;
    let certificate = authority
        .sign_server(&csr, &name, private, now(), SERVER_LIFETIME)
        .map_err(odd)?;
    let fleet = authority.fleet().clone();
    let identity =
        Identity::assemble(fleet, &key, &certificate, &authority.certificate_pem()).map_err(odd)?;
    identity.save(&paths.identity_dir()).map_err(odd)
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixMillis(since.unwrap_or_default().as_millis() as u64)
}

fn odd(error: impl std::fmt::Display) -> LabError {
    LabError::Unknown(error.to_string())
}
