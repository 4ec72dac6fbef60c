//! Which certificate a visitor is shown.

use std::collections::HashMap;
use std::sync::Arc;

use pontoon_certs::Loaded;
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Certificates by name. Several may have the same name: one with an RSA key beside one with an ECDSA key.
#[derive(Debug)]
pub struct Resolver {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows the first label.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For who names no host, or one that is in none of them.
    first: Vec<Arc<CertifiedKey>>,
}

impl Resolver {
    /// Of `certificates`, the most wanted first.
    pub fn new<'a>(certificates: impl IntoIterator<Item = &'a Loaded>) -> Resolver {
        let mut resolver = Resolver {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            first: Vec::new(),
        };
        for loaded in certificates {
            for name in &loaded.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut resolver.wildcard, rest),
                    None => (&mut resolver.exact, name.as_str()),
                };
                map.entry(name.to_owned())
                    .or_default()
                    .push(Arc::clone(&loaded.key));
            }
            resolver.first.push(Arc::clone(&loaded.key));
        }
        resolver
    }

    /// Those for `name`: the name itself before a wildcard, which stands for one label (RFC 9525 section 6.3).
    fn named(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let under = || {
            let (_, rest) = name.split_once('.')?;
            self.wildcard.get(rest)
        };
        self.exact.get(&name).or_else(under)
    }

    /// The first that the client can verify; where there is none, the first: its refusal then says why.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let candidates = name.and_then(|name| self.named(name)).unwrap_or(&self.first);
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        candidates.iter().find(fits).or(candidates.first()).cloned()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

#[cfg(test)]
mod tests {
    use pontoon_fleet::{CertificateFiles, UnixMillis};
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn loaded(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> Loaded {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let files = CertificateFiles {
            certificate: dir.path().join("c"),
            key: dir.path().join("k"),
            ocsp: None,
        };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        let loaded = pontoon_certs::load(&files).unwrap();
        assert!(loaded.not_after > UnixMillis(0));
        loaded
    }

    #[test]
    fn a_visitor_is_shown_the_certificate_of_the_name_it_asks_for() {
        let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
        let [site, shop, below] =
            [&["site.example"][..], &["shop.example"], &["*.site.example"]].map(|names| loaded(names, p256));
        let both = loaded(&["site.example"], &rcgen::PKCS_ED25519);
        let resolver = Resolver::new([&site, &shop, &below, &both]);
        let ecdsa = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let shown = |name: Option<&str>, schemes: &[SignatureScheme]| {
            let key = resolver.choose(name, schemes).unwrap();
            [
                ("site", &site),
                ("shop", &shop),
                ("below", &below),
                ("both", &both),
            ]
            .into_iter()
            .find(|(_, loaded)| Arc::ptr_eq(&loaded.key, &key))
            .unwrap()
            .0
        };
        assert_eq!(shown(Some("shop.example"), &ecdsa), "shop");
        assert_eq!(shown(Some("Shop.Example."), &ecdsa), "shop");
        assert_eq!(shown(Some("www.site.example"), &ecdsa), "below");
        assert_eq!(shown(Some("a.www.site.example"), &ecdsa), "site");
        assert_eq!(shown(Some("other.example"), &ecdsa), "site");
        assert_eq!(shown(None, &ecdsa), "site");
        assert_eq!(shown(Some("site.example"), &[SignatureScheme::ED25519]), "both");
    }
}
