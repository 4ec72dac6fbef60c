//! Real database servers: MariaDB and MySQL, in a server of the lab or, for tests that need no fleet, on loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder};
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::app::Later;
use crate::datadirs::Fresh;
use crate::proc::ProcessId;
use crate::process::{Process, Spawn, log_tail};
use crate::server::{Bind, Server, TMPDIR};
use crate::wait::{find_program, wait_until};
use crate::{LabError, Skip};

/// How a database server differs from what its package starts.
#[derive(Clone, Debug)]
pub struct DatabaseOptions {
    /// The TCP port, on loopback.
    pub port: u16,
    /// Lines of its option file's server section, such as `log_bin`.
    pub config: Vec<String>,
}

impl Default for DatabaseOptions {
    fn default() -> DatabaseOptions {
        DatabaseOptions {
            port: 3306,
            config: Vec::new(),
        }
    }
}

/// The database of a lab's server, whichever engine it is.
pub trait LabDatabase: Send + Sync {
    /// A connection as `root` through the database's own socket.
    ///
    /// # Errors
    /// When it cannot be made.
    fn root(&self) -> Later<'_, Result<Conn, LabError>>;

    /// Makes a database and a user who owns it and comes from `localhost`.
    ///
    /// # Errors
    /// When the database refuses.
    fn create_database<'a>(
        &'a self,
        name: &'a str,
        user: &'a str,
        password: &'a str,
    ) -> Later<'a, Result<(), LabError>> {
        Box::pin(async move {
            let mut conn = self.root().await?;
            for statement in [
                format!("CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4"),
                format!("CREATE USER IF NOT EXISTS '{user}'@'localhost' IDENTIFIED BY '{password}'"),
                format!("GRANT ALL ON `{name}`.* TO '{user}'@'localhost'"),
            ] {
                conn.query_drop(&statement)
                    .await
                    .map_err(LabError::database(statement))?;
            }
            Ok(())
        })
    }
}

/// A MariaDB server as a fresh Debian runs it: data in `/var/lib/mysql`, socket `/run/mysqld/mysqld.sock`, TCP on
/// loopback, and `root` by the Unix socket only.
#[derive(Debug)]
pub struct Mariadb {
    server: Server,
    pid: ProcessId,
}

impl Mariadb {
    /// Whether MariaDB can be had here.
    ///
    /// # Errors
    /// [`Skip`] names what is missing.
    pub fn available() -> Result<(), Skip> {
        for program in ["mariadbd", "mariadb-install-db"] {
            if find_program(program).is_none() {
                return Err(Skip(format!(
                    "`{program}` is not installed (Debian package mariadb-server-core)"
                )));
            }
        }
        Ok(())
    }

    /// What a server of the lab needs to see of another MariaDB than the installed one: the folder that
    /// [`VERSION_VARIABLE`] names, as `script/get-sid mariadb` makes it. Its programs stand in for those that are
    /// installed, for whoever starts them.
    ///
    /// # Errors
    /// [`Skip`] when the folder is named and has no server in it.
    pub fn binds() -> Result<Vec<Bind>, Skip> {
        let Some(folder) = std::env::var_os(VERSION_VARIABLE) else {
            return Ok(Vec::new());
        };
        let bin = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(folder)
            .join("bin");
        let programs = [
            "mariadbd",
            "mariadb-install-db",
            "mariadb-backup",
            "mbstream",
            "mariadb",
        ];
        let binds = programs.into_iter().map(|name| {
            let host = bin.join(name);
            let server = find_program(name).filter(|_| host.is_file());
            let missing = || {
                Skip(format!(
                    "{} is not there, or `{name}` is not installed",
                    host.display()
                ))
            };
            let server = server.ok_or_else(missing)?;
            Ok(Bind { host, server })
        });
        binds.collect()
    }

    /// Starts MariaDB in `server`, with a fresh data folder when there is none, and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed, or does not answer within a minute.
    pub async fn start(server: &Server, options: &DatabaseOptions) -> Result<Mariadb, LabError> {
        Mariadb::available()?;
        write_options(server, options)?;
        let data = server.dir().join("var-lib/mysql");
        if !data.join("mysql").exists() {
            Mariadb::fresh(options)?.fill_soon(data).await?;
        }
        let process = server.spawn(Spawn::new("mariadbd", "mariadbd")).await?;
        wait_answering(server, &process).await?;
        Ok(Mariadb {
            server: server.clone(),
            pid: process.id(),
        })
    }

    /// Of the programs that a server of the lab sees: see [`binds`](Mariadb::binds).
    fn fresh(options: &DatabaseOptions) -> Result<Fresh, Skip> {
        let binds = Mariadb::binds()?;
        let seen = |name: &str| {
            let bound = binds.iter().find(|bind| bind.host.ends_with(name));
            bound.map_or_else(|| program(name), |bind| Ok(bind.host.clone()))
        };
        let (server, maker) = (seen("mariadbd")?, seen("mariadb-install-db")?);
        Ok(Fresh::mariadb_of(server, maker, true, &options.config))
    }

    /// The process, as the caller sees it. It changes when somebody restarts the database.
    pub fn process(&self) -> ProcessId {
        self.pid
    }

    /// A connection as `root` through the database's own socket.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn root(&self) -> Result<Conn, LabError> {
        connect_root(&self.server.path(SOCKET)?).await
    }
}

impl LabDatabase for Mariadb {
    fn root(&self) -> Later<'_, Result<Conn, LabError>> {
        Box::pin(Mariadb::root(self))
    }
}

/// Waits until the database that runs as `process` lets `root` in at [`SOCKET`].
pub(crate) async fn wait_answering(server: &Server, process: &Process) -> Result<(), LabError> {
    wait_until("an answer of the database", Duration::from_secs(60), || async {
        match process.check_alive() {
            Ok(()) => connect_root(&server.path(SOCKET).ok()?)
                .await
                .ok()
                .map(|_| Ok(())),
            Err(ended) => Some(Err(ended)),
        }
    })
    .await?
}

/// A connection as `root` through a Unix socket of a database (see [`Server::path`]), without a password.
///
/// # Errors
/// When it cannot be made within 30 s.
pub async fn connect_root(socket: &Path) -> Result<Conn, LabError> {
    let what = format!("root at {}", socket.display());
    let options = OptsBuilder::default()
        .socket(Some(socket.to_string_lossy()))
        .user(Some("root"));
    let limit = Duration::from_secs(30);
    let late = |_| LabError::Timeout {
        what: what.clone(),
        after: limit,
    };
    timeout(limit, Conn::new(options))
        .await
        .map_err(late)?
        .map_err(LabError::database(what.clone()))
}

/// Asks a database one thing.
///
/// # Errors
/// When it refuses.
pub async fn rows<R: FromRow + Send + 'static>(conn: &mut Conn, query: &str) -> Result<Vec<R>, LabError> {
    conn.query(query).await.map_err(LabError::database(query))
}

/// Debian's option files as they are, and one of ours after them.
fn write_options(server: &Server, options: &DatabaseOptions) -> Result<(), LabError> {
    let etc = server.dir().join("etc/mysql");
    let folder = etc.join("mariadb.conf.d");
    let write = |path: PathBuf, text: String| fs::write(path, text).map_err(LabError::io("option file"));
    fs::create_dir_all(&folder).map_err(LabError::io("option file"))?;
    if fs::symlink_metadata(etc.join("my.cnf")).is_err() {
        // Only the programs are installed, without the package that brings the option files.
        write(
            etc.join("my.cnf"),
            "!includedir /etc/mysql/mariadb.conf.d/\n".to_owned(),
        )?;
    }
    if std::env::var_os(VERSION_VARIABLE).is_some() {
        // Of plugins that are installed beside the installed server, and not beside this one.
        for name in ["bzip2", "lz4", "lzma", "lzo", "snappy"] {
            let _ = fs::remove_file(folder.join(format!("provider_{name}.cnf")));
        }
    }
    if !folder.join("50-server.cnf").exists() {
        let server = "[mariadbd]\npid-file = /run/mysqld/mysqld.pid\nbind-address = 127.0.0.1\n";
        write(folder.join("50-server.cnf"), server.to_owned())?;
    }
    let mut lines = format!(
        "[mariadbd]\nuser = root\ndatadir = /var/lib/mysql\nport = {}\ntmpdir = {TMPDIR}\ninnodb_buffer_pool_size = 64M\n",
        options.port
    );
    for line in &options.config {
        lines.push_str(line);
        lines.push('\n');
    }
    write(folder.join("90-lab.cnf"), lines)
}

/// A database server on loopback with its data in a folder of the caller: for tests that need no fleet. It dies when
/// this value is dropped, and with the thread that started it.
#[derive(Debug)]
pub struct Standalone {
    child: Child,
    socket: PathBuf,
    port: u16,
}

impl Standalone {
    /// Starts MariaDB below `dir`.
    ///
    /// # Errors
    /// When it is not installed, or does not answer within a minute.
    pub async fn mariadb(dir: &Path, options: &DatabaseOptions) -> Result<Standalone, LabError> {
        Mariadb::available()?;
        let data = dir.join("data");
        if !data.join("mysql").exists() {
            Fresh::mariadb(false, &options.config)?.fill_soon(data).await?;
        }
        Standalone::start(&program("mariadbd")?, "mariadbd", dir, options).await
    }

    /// Starts MySQL below `dir`: the one that `script/get-sid` unpacked, or one that is installed.
    ///
    /// # Errors
    /// [`LabError::Skip`] when there is none; or when it does not answer within a minute.
    pub async fn mysql(dir: &Path, options: &DatabaseOptions) -> Result<Standalone, LabError> {
        let mysqld = mysqld()?;
        let data = dir.join("data");
        if !data.exists() {
            Fresh::mysql(&options.config)?.fill_soon(data).await?;
        }
        Standalone::start(&mysqld, "mysqld", dir, options).await
    }

    async fn start(
        mysqld: &Path,
        section: &str,
        dir: &Path,
        options: &DatabaseOptions,
    ) -> Result<Standalone, LabError> {
        let at = |name: &str| dir.join(name).display().to_string();
        let mut lines = format!(
            "[{section}]\nuser = root\ndatadir = {}\nsocket = {}\npid-file = {}\ntmpdir = {}\nport = {}\n\
             bind-address = 127.0.0.1\ninnodb_buffer_pool_size = 64M\n",
            at("data"),
            at("mysqld.sock"),
            at("mysqld.pid"),
            make_tmpdir(dir)?,
            options.port
        );
        for line in &options.config {
            lines.push_str(line);
            lines.push('\n');
        }
        fs::write(dir.join("my.cnf"), lines).map_err(LabError::io("option file"))?;
        let log = dir.join("mysqld.log");
        let out = fs::File::create(&log).map_err(LabError::io("log file"))?;
        let err = out.try_clone().map_err(LabError::io("log file"))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(mysqld)
            .arg(format!("--defaults-file={}", at("my.cnf")));
        command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true);
        let child = command.spawn().map_err(LabError::io(section))?;
        let mut standalone = Standalone {
            child,
            socket: dir.join("mysqld.sock"),
            port: options.port,
        };
        wait_until(
            &format!("an answer of {section}"),
            Duration::from_secs(60),
            || {
                let ended = standalone.child.try_wait().is_ok_and(|status| status.is_some());
                let (socket, log) = (standalone.socket.clone(), log.clone());
                async move {
                    if ended {
                        let tail = log_tail(&log);
                        return Some(Err(LabError::Ended {
                            program: section.to_owned(),
                            log,
                            tail,
                        }));
                    }
                    connect_root(&socket).await.ok().map(|_| Ok(()))
                }
            },
        )
        .await??;
        Ok(standalone)
    }

    /// Its Unix socket; `root` needs no password.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection as `root`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn root(&self) -> Result<Conn, LabError> {
        connect_root(&self.socket).await
    }

    /// The process.
    pub fn process(&self) -> Option<ProcessId> {
        ProcessId::of(self.child.id()? as i32)
    }

    /// Ends it in good order.
    ///
    /// # Errors
    /// When it has not ended within half a minute.
    pub async fn stop(mut self) -> Result<(), LabError> {
        if let Some(process) = self.process() {
            process.signal(Signal::TERM)?;
        }
        let limit = Duration::from_secs(30);
        let late = |_| LabError::Timeout {
            what: "end of the database".to_owned(),
            after: limit,
        };
        timeout(limit, self.child.wait())
            .await
            .map_err(late)?
            .map_err(LabError::io("end of the database"))
            .map(drop)
    }
}

/// MySQL's server program: `PONTOON_TEST_MYSQLD`, or `.cache/mysql/bin/mysqld` of this checkout (made by
/// `script/get-sid`), or one that is installed and is not MariaDB's.
///
/// # Errors
/// [`Skip`] when there is none.
pub fn mysqld() -> Result<PathBuf, Skip> {
    let named = std::env::var_os("PONTOON_TEST_MYSQLD").map(PathBuf::from);
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/mysql/bin/mysqld");
    let installed = find_program("mysqld").filter(|path| {
        // MariaDB installs a link of that name.
        fs::canonicalize(path).is_ok_and(|real| real.file_name().is_some_and(|name| name == "mysqld"))
    });
    [named, Some(checkout), installed]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Skip("MySQL is not here: script/get-sid mysql fetches it into .cache/mysql".to_owned())
        })
}

/// The processes of the database on `server`.
pub fn databases(server: &Server) -> Vec<ProcessId> {
    let is_one = |id: &ProcessId| {
        // MySQL of script/get-sid is run by a loader of its own, which comes first.
        let line = std::fs::read(format!("/proc/{}/cmdline", id.pid)).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.any(|word| word.ends_with(b"mariadbd") || word.ends_with(b"/mysqld"))
    };
    server.processes().into_iter().filter(is_one).collect()
}

fn make_tmpdir(dir: &Path) -> Result<String, LabError> {
    let tmpdir = dir.join("tmp");
    fs::create_dir_all(&tmpdir).map_err(LabError::io("folder for temporary files"))?;
    Ok(tmpdir.display().to_string())
}

pub(crate) fn program(name: &str) -> Result<PathBuf, Skip> {
    find_program(name).ok_or_else(|| Skip(format!("`{name}` is not installed")))
}

/// Names a folder with another MariaDB: see [`Mariadb::binds`].
pub const VERSION_VARIABLE: &str = "PONTOON_TEST_MARIADB";

/// Where Debian's MariaDB listens.
pub const SOCKET: &str = "/run/mysqld/mysqld.sock";
