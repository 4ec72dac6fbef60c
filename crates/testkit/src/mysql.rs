//! MySQL in a server of the lab, set up as MySQL's own Debian package does it.

use std::fs;
use std::path::Path;

use mysql_async::Conn;

use crate::app::Later;
use crate::database::{DatabaseOptions, LabDatabase, SOCKET, connect_root, mysqld, wait_answering};
use crate::datadirs::Fresh;
use crate::proc::ProcessId;
use crate::process::Spawn;
use crate::server::{Server, TMPDIR};
use crate::{LabError, Skip};

/// A MySQL server: data in `/var/lib/mysql`, socket `/run/mysqld/mysqld.sock`, TCP on loopback, and `root` without a
/// password.
#[derive(Debug)]
pub struct Mysql {
    server: Server,
    pid: ProcessId,
}

impl Mysql {
    /// Whether MySQL can be had here.
    ///
    /// # Errors
    /// [`Skip`] says how to get it.
    pub fn available() -> Result<(), Skip> {
        mysqld().map(drop)
    }

    /// Starts MySQL in `server`, with a fresh data folder when there is none, and waits until it answers.
    ///
    /// # Errors
    /// [`LabError::Skip`] when there is none; or when it does not answer within a minute.
    pub async fn start(server: &Server, options: &DatabaseOptions) -> Result<Mysql, LabError> {
        let mysqld = mysqld()?;
        write_options(&server.dir().join("etc/mysql"), options)?;
        let data = server.dir().join("var-lib/mysql");
        if !data.join("mysql").exists() {
            Fresh::mysql(&options.config)?.fill_soon(data).await?;
        }
        let process = server
            .spawn(Spawn::new(mysqld.display().to_string(), "mysqld"))
            .await?;
        wait_answering(server, &process).await?;
        Ok(Mysql {
            server: server.clone(),
            pid: process.id(),
        })
    }

    /// The process, as the caller sees it. It changes when somebody restarts the database.
    pub fn process(&self) -> ProcessId {
        self.pid
    }
}

impl LabDatabase for Mysql {
    fn root(&self) -> Later<'_, Result<Conn, LabError>> {
        Box::pin(async { connect_root(&self.server.path(SOCKET)?).await })
    }
}

/// The option files are MySQL's own: the host's may be MariaDB's, with options that MySQL refuses.
fn write_options(etc: &Path, options: &DatabaseOptions) -> Result<(), LabError> {
    let failed = || LabError::io("option file");
    let folder = etc.join("mysql.conf.d");
    fs::create_dir_all(&folder).map_err(failed())?;
    let main = etc.join("my.cnf");
    if fs::symlink_metadata(&main).is_ok() {
        fs::remove_file(&main).map_err(failed())?;
    }
    fs::write(main, "!includedir /etc/mysql/mysql.conf.d/\n").map_err(failed())?;
    let mut lines = format!(
        "[mysqld]\nuser = root\ndatadir = /var/lib/mysql\nsocket = {SOCKET}\npid-file = /run/mysqld/mysqld.pid\n\
         bind-address = 127.0.0.1\nport = {}\ntmpdir = {TMPDIR}\ninnodb_buffer_pool_size = 64M\n",
        options.port
    );
    for line in &options.config {
        lines.push_str(line);
        lines.push('\n');
    }
    fs::write(folder.join("mysqld.cnf"), lines).map_err(failed())
}
