//! A copy of this server's database that goes to an object store.

use std::time::Duration;

use pontoon_fleet::{Code, Engine, Refusal};
use pontoon_helper::{BackupOptions, Setting};
use tokio::io::BufReader;
use tokio::net::UnixStream;

use crate::database::Database;

/// How long a CLONE may take.
const CLONE_PATIENCE: Duration = Duration::from_secs(86_400);

/// A copy whose stream has begun.
pub struct OpenBackup {
    /// Frames (`pontoon_helper::frame`), the last of which says that it is whole.
    pub stream: BufReader<UnixStream>,
    /// What is in it at the least: a GTID position.
    pub position: String,
    /// Settings that a server needs as they are here to read its files.
    pub settings: Vec<Setting>,
}

impl Database {
    /// Begins a copy of the running database: mariadb-backup's stream; for MySQL a CLONE on this server's disk, and then
    /// that as a stream. MySQL needs room for a second copy while it is made.
    ///
    /// # Errors
    /// [`Code::D003`] when the disk is too small for a CLONE or it fails, [`Code::D007`], [`Code::D008`].
    pub async fn open_backup(&self, options: &BackupOptions) -> Result<OpenBackup, Refusal> {
        let settings = self.shared_settings().await?;
        let position = self.position().await?;
        if self.node.engine == Engine::Mysql {
            self.install_clone_plugin().await?;
            let place = self.helper.make_cloning(self.data_bytes().await).await?;
            let statement = format!("CLONE LOCAL DATA DIRECTORY = '{}'", place.display());
            let mut session = self.control.session().await?;
            let cloned = session.query(&statement, CLONE_PATIENCE).await;
            cloned.map_err(|refusal| Refusal {
                code: Code::D003,
                ..refusal
            })?;
        }
        Ok(OpenBackup {
            stream: self.helper.backup(options).await?,
            position,
            settings,
        })
    }
}
