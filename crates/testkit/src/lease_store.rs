//! Lease stores in a server of the lab: etcd, and an S3-compatible store (moto). Where a fleet keeps who is primary.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::demo_app::Uploads;
use crate::process::{Process, Spawn};
use crate::server::Server;
use crate::wait::{find_program, wait_until};
use crate::{LabError, Skip};

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// etcd, Debian's package.
    Etcd,
    /// moto, which speaks S3.
    S3,
}

/// A store that runs.
#[derive(Clone, Debug)]
pub struct LabStore {
    kind: StoreKind,
    server: Server,
    process: Process,
}

/// The bucket of [`StoreKind::S3`].
const BUCKET: &str = "lease-test";

/// Where the keys of [`StoreKind::S3`] are on each server of the fleet. It takes any.
const KEYS: &str = "/etc/pontoon/s3";

impl StoreKind {
    /// Whether it can be had here.
    ///
    /// # Errors
    /// [`Skip`] says how to get it.
    pub fn available(self) -> Result<(), Skip> {
        self.program().map(drop)
    }

    fn program(self) -> Result<PathBuf, Skip> {
        let (name, place) = match self {
            StoreKind::Etcd => ("etcd", "etcd/usr/bin"),
            StoreKind::S3 => ("moto_server", "moto/bin"),
        };
        // Where script/get-stores puts them; a checkout that is gone has none.
        let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/stores");
        let unpacked = unpacked.join(place).join(name);
        if unpacked.is_file() {
            return Ok(unpacked);
        }
        find_program(name).ok_or_else(|| Skip(format!("{name} is not here: script/get-stores")))
    }

    /// Starts it on `server` and waits until it answers there.
    ///
    /// # Errors
    /// [`LabError::Skip`] when there is none; or when it does not answer within a minute.
    pub async fn start(self, server: &Server) -> Result<LabStore, LabError> {
        let program = self.program()?.display().to_string();
        let (own, peers) = (
            format!("http://{}:2379", server.private()),
            "http://127.0.0.1:2380".to_owned(),
        );
        let (spawn, url) = match self {
            // In memory, like everything below /run: a store that waits for a busy disk says nothing about the fleet.
            StoreKind::Etcd => (
                Spawn::new(program, "etcd").args([
                    "--data-dir",
                    "/run/etcd",
                    "--listen-client-urls",
                    &own,
                    "--advertise-client-urls",
                    &own,
                    "--listen-peer-urls",
                    &peers,
                    "--initial-advertise-peer-urls",
                    &peers,
                    "--initial-cluster",
                    &format!("default={peers}"),
                ]),
                format!("{own}/health"),
            ),
            StoreKind::S3 => (
                Spawn::new(program, "moto").args(["-H", "0.0.0.0", "-p", "5000"]),
                format!("http://{}:5000/{BUCKET}", server.private()),
            ),
        };
        let process = server.spawn(spawn).await?;
        let method = match self {
            StoreKind::Etcd => "GET",
            StoreKind::S3 => "PUT", // makes the bucket
        };
        wait_until("the lease store", Duration::from_secs(60), || async {
            server.exec("curl", &["-sf", "-X", method, &url]).await.ok()
        })
        .await?;
        Ok(LabStore {
            kind: self,
            server: server.clone(),
            process,
        })
    }
}

impl LabStore {
    /// The server that it runs on.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// `[lease]` of `fleet.toml`, with the shortest lease that is taken.
    pub fn table(&self) -> String {
        let host = self.server.private();
        match self.kind {
            StoreKind::Etcd => format!("[lease]\nstore = \"etcd\"\nendpoints = [\"{host}:2379\"]\n"),
            StoreKind::S3 => format!(
                "[lease]\nstore = \"s3\"\nbucket = \"{BUCKET}\"\nendpoint = \"http://{host}:5000\"\n\
                 credentials = {{ file = \"{KEYS}\" }}\nttl = \"6s\"\n"
            ),
        }
    }

    /// `[assets]` of `fleet.toml` for what an application keeps in its folder; nothing when it is no bucket.
    pub fn uploads_table(&self, uploads: Uploads) -> Option<String> {
        let (host, Uploads { folder, url }) = (self.server.private(), uploads);
        (self.kind == StoreKind::S3).then(|| {
            format!(
                "[assets]\nlocal = \"{folder}\"\nurl = \"{url}\"\nbucket = \"{BUCKET}\"\n\
                 endpoint = \"http://{host}:5000\"\ncredentials = {{ file = \"{KEYS}\" }}\n"
            )
        })
    }

    /// The URL of what the bucket has under a key.
    pub fn object_url(&self, key: &str) -> String {
        format!("http://{}:5000/{BUCKET}/{key}", self.server.private())
    }

    /// Puts what a server of the fleet needs for it where [`table`](LabStore::table) says.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn hand_keys_to(&self, server: &Server) -> Result<(), LabError> {
        if self.kind == StoreKind::S3 {
            let path = server.path(KEYS)?;
            let keys = "access_key_id = lab\nsecret_access_key = lab\nregion = us-east-1\n";
            std::fs::write(path, keys).map_err(LabError::io("the keys of the lease store"))?;
        }
        Ok(())
    }
}
