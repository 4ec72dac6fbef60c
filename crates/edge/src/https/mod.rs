//! HTTPS for visitors: which certificate, which session, and what is said over plain HTTP instead.
//!
//! The control thread keeps the certificates ([`Site`]) and publishes what a handshake needs ([`Https`]); the serving
//! threads take the latest with each connection. Whoever is connected stays connected when a certificate changes.

mod handshake;
mod redirect;
mod resolver;
mod site;

use std::cell::RefCell;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::sync::watch;

pub use handshake::{Accepted, accept};
pub use redirect::location;
pub use site::{Site, Stamp, stamp};

/// What serving threads need for HTTPS.
#[derive(Debug)]
pub struct Https {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    /// Plain HTTP is answered with a redirect to this port.
    pub redirect: Option<u16>,
    /// The field that tells browsers to come over HTTPS only (RFC 6797), with its line end.
    pub hsts: Option<String>,
}

/// One thread's view of it.
#[derive(Debug)]
pub struct Seen {
    latest: RefCell<watch::Receiver<Option<Arc<Https>>>>,
    seen: RefCell<Option<Arc<Https>>>,
}

impl Seen {
    /// Of what the control thread publishes.
    pub fn new(mut latest: watch::Receiver<Option<Arc<Https>>>) -> Seen {
        latest.mark_changed();
        Seen {
            latest: RefCell::new(latest),
            seen: RefCell::new(None),
        }
    }

    /// As it is now; `None` while there is no HTTPS.
    pub fn get(&self) -> Option<Arc<Https>> {
        let mut latest = self.latest.borrow_mut();
        if latest.has_changed().unwrap_or(false) {
            self.seen.replace(latest.borrow_and_update().clone());
        }
        self.seen.borrow().clone()
    }
}
