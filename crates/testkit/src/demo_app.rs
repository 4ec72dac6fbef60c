//! An application that the lab can install and run on its servers.

use std::net::SocketAddr;

use crate::app::{Later, Visited};
use crate::database::LabDatabase;
use crate::http::{Request, Response};
use crate::process::Process;
use crate::server::Server;
use crate::{LabError, Skip};

/// An application of the demo. In order: [`available`](DemoApp::available), [`create_database`](DemoApp::create_database)
/// once, [`prepare`](DemoApp::prepare) and [`start`](DemoApp::start) on each server,
/// [`install`](DemoApp::install) once through any of them.
pub trait DemoApp: Visited {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Whether it can be had here.
    ///
    /// # Errors
    /// [`Skip`] names what is missing.
    fn available(&self) -> Result<(), Skip>;

    /// Requests per second that a machine with so many cores carries with room for all the rest of a demo.
    fn rate(&self, cores: usize) -> f64;

    /// The path that answers 200 while the application runs. It does not ask the database: a database that restarts
    /// must not take every application server out of service.
    fn health_path(&self) -> &'static str;

    /// Makes its database and its user.
    fn create_database<'a>(&'a self, database: &'a dyn LabDatabase) -> Later<'a, Result<(), LabError>>;

    /// Puts its files and its configuration on a server; also after the server was switched off and on.
    fn prepare<'a>(&'a self, server: &'a Server) -> Later<'a, Result<(), LabError>>;

    /// Starts it on a server and waits until it listens. It dials the database as `localhost`: the Unix socket.
    fn start<'a>(&'a self, server: &'a Server, listen: SocketAddr) -> Later<'a, Result<Process, LabError>>;

    /// Installs the site through the application at `address` and sets it up for visitors.
    fn install<'a>(
        &'a self,
        address: SocketAddr,
        database: &'a dyn LabDatabase,
    ) -> Later<'a, Result<(), LabError>>;

    /// Where it keeps uploads, if it takes any.
    fn uploads(&self) -> Option<Uploads> {
        None
    }

    /// An upload of a picture by its author, once it is installed; nothing when it takes none.
    fn upload(&self, _name: &str, _picture: Vec<u8>) -> Option<Request> {
        None
    }

    /// The paths of the files that an upload has made, the picture itself first; nothing when it was not taken.
    fn uploaded(&self, _response: &Response) -> Vec<String> {
        Vec::new()
    }
}

/// Where an application keeps uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uploads {
    /// The folder, on each server.
    pub folder: &'static str,
    /// The path that visitors read them under; begins and ends with `/`.
    pub url: &'static str,
}

/// Waits until something listens on `listen` inside `server`, while `process` runs.
pub(crate) async fn wait_listening(
    server: &Server,
    process: &Process,
    listen: SocketAddr,
) -> Result<(), LabError> {
    let port = format!("sport = :{}", listen.port());
    let limit = std::time::Duration::from_secs(20);
    crate::wait_until(
        &format!("a listener on port {}", listen.port()),
        limit,
        || async {
            if let Err(e) = process.check_alive() {
                return Some(Err(e));
            }
            let sockets = server.exec("ss", &["-Hltn", &port]).await.unwrap_or_default();
            (!sockets.trim().is_empty()).then_some(Ok(()))
        },
    )
    .await?
}
