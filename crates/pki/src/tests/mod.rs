mod authority_and_identity;
mod handshakes;
mod tokens;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use pontoon_fleet::{FleetName, ServerName, UnixMillis};
use pontoon_rt::clock::{Clock, SystemClock};

use crate::{Authority, Identity, NewKey, SERVER_LIFETIME, SharedIdentity};

const DAY: Duration = Duration::from_secs(86_400);

fn fleet() -> FleetName {
    "notes".parse().unwrap()
}

fn server(name: &str) -> ServerName {
    name.parse().unwrap()
}

fn address() -> IpAddr {
    "198.51.100.7".parse().unwrap()
}

fn now() -> UnixMillis {
    SystemClock.unix()
}

fn days_ago(days: u32) -> UnixMillis {
    UnixMillis(now().0 - u64::try_from((DAY * days).as_millis()).unwrap())
}

/// An identity in `dir`, signed at `at`.
fn issue_at(authority: &Authority, name: &str, dir: &Path, at: UnixMillis) -> Identity {
    let (key, csr) = Identity::new_key_and_csr(&server(name), address()).unwrap();
    let pem = authority
        .sign_server(&csr, &server(name), address(), at, SERVER_LIFETIME)
        .unwrap();
    let identity = Identity::assemble(fleet(), &key, &pem, &authority.certificate_pem()).unwrap();
    identity.save(dir).unwrap();
    identity
}

/// A server of a fleet, with its directory.
struct Member {
    _dir: tempfile::TempDir,
    shared: SharedIdentity,
}

fn member_at(authority: &Authority, name: &str, at: UnixMillis) -> Member {
    let dir = tempfile::tempdir().unwrap();
    issue_at(authority, name, dir.path(), at);
    let shared = SharedIdentity::load(dir.path()).unwrap();
    Member { _dir: dir, shared }
}

fn member(authority: &Authority, name: &str) -> Member {
    member_at(authority, name, now())
}

fn new_csr(name: &str) -> (NewKey, String) {
    Identity::new_key_and_csr(&server(name), address()).unwrap()
}
