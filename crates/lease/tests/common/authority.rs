//! An authority for etcd over TLS.

use std::path::{Path, PathBuf};

use pontoon_config::ClientCertificate;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, date_time_ymd,
};

use super::stores::{Running, etcd_with};

/// An authority and what it signs, as files.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let file = dir.join(format!("{name}.pem"));
        std::fs::write(&file, self.0.pem()).unwrap();
        file
    }

    /// For `host`, as a server and as a client: etcd's gateway asks etcd itself, with etcd's own certificate.
    pub fn sign(&self, dir: &Path, name: &str, host: &str, ended: bool) -> ClientCertificate {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        // With users, etcd's gateway takes no client certificate with a common name.
        params.distinguished_name = DistinguishedName::new();
        if name == "named" {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if ended {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let key = KeyPair::generate().unwrap();
        let files = ClientCertificate {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        };
        std::fs::write(&files.certificate, params.signed_by(&key, &self.0).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

/// etcd that shows `server` and wants certificates of `authority`.
pub fn etcd(authority: &Path, server: &ClientCertificate) -> Option<Running> {
    etcd_with("https", |_, command| {
        command.arg("--cert-file").arg(&server.certificate);
        command.arg("--key-file").arg(&server.key);
        command
            .arg("--client-cert-auth")
            .arg("--trusted-ca-file")
            .arg(authority);
    })
}
