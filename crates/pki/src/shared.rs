//! An identity that long-running processes share, and that follows its files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureScheme, crypto::CryptoProvider};

use crate::error::PkiError;
use crate::identity::{Identity, IdentityFiles};
use crate::tls;

/// How often the files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The identity of a directory, as it is now. A renewed certificate is used by the next handshake, without a restart;
/// files that cannot be used are reported and the last good identity stays. Cheap to clone.
#[derive(Clone)]
pub struct SharedIdentity {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    state: Mutex<State>,
}

struct State {
    identity: Arc<Identity>,
    certified: Arc<CertifiedKey>,
    stamp: Stamp,
    looked: Instant,
}

/// What changes when a file is replaced: inode, size and time of change.
type Stamp = Option<[(u64, u64, SystemTime); 2]>;

impl SharedIdentity {
    /// Reads the identity of `dir` and follows it.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn load(dir: &Path) -> Result<SharedIdentity, PkiError> {
        let stamp = stamp(dir);
        let identity = Identity::load(dir)?;
        let certified = Arc::new(certified_key(&identity, &tls::provider())?);
        let state = State {
            identity: Arc::new(identity),
            certified,
            stamp,
            looked: Instant::now(),
        };
        Ok(SharedIdentity {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                state: Mutex::new(state),
            }),
        })
    }

    /// The identity now. Looks at the files, once a second at most.
    pub fn current(&self) -> Arc<Identity> {
        self.refreshed(LOOK_EVERY).0
    }

    /// Looks at the files at once: for whoever has just replaced them.
    pub fn reload(&self) -> Arc<Identity> {
        self.refreshed(Duration::ZERO).0
    }

    fn refreshed(&self, every: Duration) -> (Arc<Identity>, Arc<CertifiedKey>) {
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= every {
            state.looked = Instant::now();
            let stamp = stamp(&self.inner.dir);
            if stamp != state.stamp {
                match Identity::load(&self.inner.dir).and_then(|identity| {
                    let certified = certified_key(&identity, &tls::provider())?;
                    Ok((identity, certified))
                }) {
                    Ok((identity, certified)) => {
                        state.identity = Arc::new(identity);
                        state.certified = Arc::new(certified);
                        state.stamp = stamp;
                    }
                    // The stamp stays as it was: the next look tries again.
                    Err(error) => {
                        tracing::error!(%error, "the renewed identity is not usable: keeping the last")
                    }
                }
            }
        }
        (Arc::clone(&state.identity), Arc::clone(&state.certified))
    }
}

impl fmt::Debug for SharedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedIdentity")
            .field("dir", &self.inner.dir)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for SharedIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.refreshed(LOOK_EVERY).1)
    }
}

impl ResolvesClientCert for SharedIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.refreshed(LOOK_EVERY).1)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified_key(identity: &Identity, provider: &CryptoProvider) -> Result<CertifiedKey, PkiError> {
    Ok(CertifiedKey::from_der(
        identity.chain(),
        identity.key()?,
        provider,
    )?)
}

fn stamp(dir: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let files = IdentityFiles::in_dir(dir);
    let of = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.ino(), metadata.len(), metadata.modified().ok()?))
    };
    Some([of(&files.cert)?, of(&files.key)?])
}
