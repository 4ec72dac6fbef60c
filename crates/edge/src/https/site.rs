//! The certificates as the view names them and the files have them.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use pontoon_certs::{Loaded, Tickets};
use pontoon_fleet::{CertificateFiles, CertificateReport, HttpsView, TlsVersion, UnixMillis};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use tokio::sync::watch;

use super::Https;
use super::resolver::Resolver;

/// The control thread's side of HTTPS.
#[derive(Debug)]
pub struct Site {
    tickets: Arc<Tickets>,
    known: BTreeMap<CertificateFiles, Known>,
    view: Option<HttpsView>,
    publish: watch::Sender<Option<Arc<Https>>>,
}

/// One certificate: what its files were when they were last looked at, and what is served.
#[derive(Debug, Default)]
struct Known {
    seen: Option<[Option<Stamp>; 3]>,
    loaded: Option<Loaded>,
    refused: Option<String>,
}

/// Tells one state of a file from another: device, inode, length, times of content and of rights.
pub type Stamp = (u64, u64, u64, i64, i64, i64, i64);

impl Site {
    /// Without certificates yet. What it finds is published to `publish`.
    pub fn new(tickets: Tickets, publish: watch::Sender<Option<Arc<Https>>>) -> Site {
        Site {
            tickets: Arc::new(tickets),
            known: BTreeMap::new(),
            view: None,
            publish,
        }
    }

    /// Obeys `view` and looks at the files; to be called with each view and each second. `port` is where this server
    /// listens for HTTPS.
    pub fn refresh(&mut self, view: Option<&HttpsView>, port: Option<u16>, now: UnixMillis) {
        if view.is_some() {
            self.tickets.load(now);
        }
        let mut changed = self.view.as_ref() != view;
        self.view = view.cloned();
        let Some(view) = view else {
            self.known.clear();
            if changed {
                self.publish.send_replace(None);
            }
            return;
        };
        for files in &view.certificates {
            changed |= self.known.entry(files.clone()).or_default().look(files, now);
        }
        let served: Vec<&Loaded> = view
            .certificates
            .iter()
            .filter_map(|files| self.known.get(files)?.loaded.as_ref())
            .collect();
        // With none of the new ones usable, what is served stays.
        if !changed || served.is_empty() {
            return;
        }
        match config(Resolver::new(served), view.min_version, &self.tickets) {
            Ok(config) => {
                self.publish.send_replace(Some(Arc::new(Https {
                    config: Arc::new(config),
                    redirect: port.filter(|_| view.redirect),
                    hsts: view
                        .hsts_seconds
                        .map(|seconds| format!("Strict-Transport-Security: max-age={seconds}\r\n")),
                })));
                self.known.retain(|files, _| view.certificates.contains(files));
            }
            Err(error) => tracing::error!(%error, "the certificates cannot be served"),
        }
    }

    /// Why HTTPS cannot be served at all; `None` when it can.
    pub fn obstacle(&self) -> Option<String> {
        if self.publish.borrow().is_some() {
            return None;
        }
        let refused = self.known.values().find_map(|known| known.refused.clone());
        Some(match refused {
            Some(why) => format!("no certificate can be served: {why}"),
            None => "there is no certificate yet".to_owned(),
        })
    }

    /// For the report.
    pub fn report(&self) -> Vec<CertificateReport> {
        let wanted = self.view.iter().flat_map(|view| &view.certificates);
        wanted
            .filter_map(|files| {
                let known = self.known.get(files)?;
                let loaded = known.loaded.as_ref();
                Some(CertificateReport {
                    source: files.certificate.display().to_string(),
                    names: loaded.map_or_else(Vec::new, |loaded| loaded.names.clone()),
                    issuer: loaded.map_or_else(String::new, |loaded| loaded.issuer.clone()),
                    not_after: loaded.map(|loaded| loaded.not_after),
                    refused: known.refused.clone(),
                })
            })
            .collect()
    }
}

impl Known {
    /// Reads the files if they are others than before; says whether something else is to be served now.
    fn look(&mut self, files: &CertificateFiles, now: UnixMillis) -> bool {
        let ocsp = files.ocsp.as_deref().and_then(stamp);
        let found = [stamp(&files.certificate), stamp(&files.key), ocsp];
        if self.seen == Some(found) {
            return false;
        }
        self.seen = Some(found);
        let verdict = pontoon_certs::load(files)
            .map_err(|error| error.to_string())
            .and_then(|loaded| match &self.loaded {
                Some(served) if loaded.not_after <= now && served.not_after > now => {
                    Err(format!("{} has ended", files.certificate.display()))
                }
                _ => Ok(loaded),
            });
        let certificate = files.certificate.display();
        match verdict {
            Ok(loaded) => {
                tracing::info!(%certificate, names = %loaded.names.join(" "), "serves a certificate");
                (self.loaded, self.refused) = (Some(loaded), None);
                true
            }
            Err(why) => {
                if self.refused.as_ref() != Some(&why) {
                    tracing::warn!(%why, "a certificate cannot be served");
                }
                self.refused = Some(why);
                false
            }
        }
    }
}

/// What `path` is now; `None` when nothing is there.
pub fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((
        found.dev(),
        found.ino(),
        found.len(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec(),
    ))
}

/// The provider's ciphers are the sane ones: forward secrecy and authenticated encryption only. Renegotiation and early
/// data, which can be replayed, are not offered.
fn config(
    resolver: Resolver,
    min_version: TlsVersion,
    tickets: &Arc<Tickets>,
) -> Result<ServerConfig, rustls::Error> {
    let versions: &[_] = match min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::clone(tickets) as _;
    Ok(config)
}
