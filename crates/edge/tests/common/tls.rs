//! Certificates, HTTPS in a view, and clients that are not ours.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use pontoon_fleet::{CertificateFiles, FleetView, HttpsView, TlsVersion};

use super::free_port;

/// Certificates in a directory, each its own authority.
pub struct Certificates(pub tempfile::TempDir);

impl Certificates {
    pub fn new() -> Certificates {
        Certificates(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    pub fn files(&self, name: &str) -> CertificateFiles {
        CertificateFiles {
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
            ocsp: None,
        }
    }

    /// A new pair for `hosts` in the files of `name`; also kept as `name.ca`, for clients to trust.
    pub fn issue(&self, name: &str, hosts: &[&str], days: i64) -> CertificateFiles {
        let key = rcgen::KeyPair::generate().unwrap();
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(hosts).unwrap();
        let now = std::time::SystemTime::now();
        params.not_before = (now - std::time::Duration::from_secs(400 * 86_400)).into();
        params.not_after = time::OffsetDateTime::from(now) + time::Duration::days(days);
        let certificate = params.self_signed(&key).unwrap();
        let files = self.files(name);
        // Whole or not at all, as tools that renew do it.
        for (path, text) in [
            (&files.key, key.serialize_pem()),
            (&files.certificate, certificate.pem()),
            (&self.path(&format!("{name}.ca")), certificate.pem()),
        ] {
            std::fs::write(path.with_extension("new"), text).unwrap();
            std::fs::rename(path.with_extension("new"), path).unwrap();
        }
        files
    }
}

pub fn with_https(mut view: FleetView, certificates: &[&CertificateFiles]) -> (FleetView, SocketAddr) {
    let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    view.https = Some(HttpsView {
        listen: BTreeMap::from([(view.servers[0].name.clone(), vec![at])]),
        certificates: certificates.iter().map(|files| (*files).clone()).collect(),
        min_version: TlsVersion::V1_2,
        redirect: true,
        hsts_seconds: Some(86_400),
        acme_thumbprint: Some("thumb".to_owned()),
    });
    (view, at)
}

/// Runs a client; `None`, said aloud, when it is not installed.
pub fn run(program: &str, arguments: &[&str], input: &[u8]) -> Option<Output> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("SKIPPED: {program} is not installed");
        return None;
    };
    let _ = child.stdin.take().unwrap().write_all(input);
    Some(child.wait_with_output().unwrap())
}

pub fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
