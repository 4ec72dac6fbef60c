//! The engine's own programs on this machine, and who they run as.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use pontoon_fleet::{Code, Engine, Refusal};
use pontoon_rt::files::FileError;
use tokio::process::Command;

use super::{Wanted, word};
use crate::manifest::{Format, Manifest};

/// Who owns a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// The user of that name.
    fn named(name: &str) -> Option<Owner> {
        let text = std::fs::read_to_string("/etc/passwd").ok()?;
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then_some(())?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Owner { uid, gid })
        })
    }

    fn of(wanted: &Wanted) -> Result<Owner, Refusal> {
        let me = Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        if me.uid != 0 {
            return Ok(me);
        }
        if let Some(name) = &wanted.owner {
            return Owner::named(name).ok_or_else(|| {
                Refusal::new(Code::C002, format!("there is no user {name:?} on this machine"))
            });
        }
        if let Ok(there) = std::fs::metadata(&wanted.dir) {
            return Ok(Owner {
                uid: there.uid(),
                gid: there.gid(),
            });
        }
        let of_node = wanted.node.as_ref().and_then(|node| Owner::named(&node.user));
        Ok(of_node.or_else(|| Owner::named("mysql")).unwrap_or(me))
    }

    /// Servers do not run as root unless they are told to.
    pub(crate) fn is_root(self) -> bool {
        self.uid == 0
    }

    /// Makes a file or directory theirs. Only root can.
    pub(crate) fn give(self, path: &Path) -> Result<(), Refusal> {
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
                .map_err(|error| FileError::new(path, "give away", error))?;
        }
        Ok(())
    }
}

/// The programs.
pub(crate) struct Tools {
    engine: Engine,
    /// What runs the server: its path, or a dynamic loader with its arguments and then the path.
    server: Vec<String>,
    owner: Owner,
}

impl Tools {
    pub(crate) async fn find(copy: &Manifest, wanted: &Wanted) -> Result<Tools, Refusal> {
        let engine = copy.engine;
        let node = wanted.node.as_ref().filter(|node| node.engine == engine);
        let server = match (&wanted.program, node) {
            (Some(program), _) => vec![program.display().to_string()],
            (None, Some(node)) => node.program.clone(),
            (None, None) => {
                let name = word(engine, "mariadbd", "mysqld");
                let found = in_path(name).ok_or_else(|| missing(name, engine))?;
                vec![found.display().to_string()]
            }
        };
        let tools = Tools {
            engine,
            server,
            owner: Owner::of(wanted)?,
        };
        tools.check_version(copy).await?;
        if copy.format == Format::Mbstream {
            for tool in ["mbstream", "mariadb-backup"] {
                in_path(tool).ok_or_else(|| missing(tool, engine))?;
            }
        }
        for tool in [
            word(engine, "mariadb", "mysql"),
            word(engine, "mariadb-binlog", "mysqlbinlog"),
        ] {
            tools.beside(tool).ok_or_else(|| missing(tool, engine))?;
        }
        Ok(tools)
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// A physical copy is read by the series of the server that wrote it.
    async fn check_version(&self, copy: &Manifest) -> Result<(), Refusal> {
        let mut command = self.server_command();
        command.arg("--no-defaults").arg("--version").stdin(Stdio::null());
        let said = command
            .output()
            .await
            .map_err(|error| missing(&self.server.join(" "), self.engine).because(error.to_string()))?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let mut words = said.split_whitespace().skip_while(|word| *word != "Ver");
        let version = words.nth(1).unwrap_or_default();
        let series = |version: &str| version.split('.').take(2).collect::<Vec<_>>().join(".");
        let is_mariadb = said.contains("MariaDB");
        if is_mariadb == (self.engine == Engine::Mariadb) && series(version) == series(&copy.engine_version) {
            return Ok(());
        }
        Err(Refusal::new(
            Code::D002,
            format!("the copy is of {} {}", self.engine.as_str(), copy.engine_version),
        )
        .because(format!("the server here says: {}", said.trim()))
        .because("a physical copy is read by a server of the same series")
        .next(
            "install that series, or name its program",
            "pontoon db restore --server-program /usr/sbin/mariadbd",
        ))
    }

    pub(crate) fn server_command(&self) -> Command {
        self.command(self.server.clone())
    }

    /// A program that comes with the server.
    pub(crate) fn tool(&self, name: &str) -> Command {
        self.command(self.beside(name).unwrap_or_else(|| vec![name.to_owned()]))
    }

    fn beside(&self, name: &str) -> Option<Vec<String>> {
        let (program, loader) = self.server.split_last()?;
        let dir = Path::new(program).parent()?;
        let near = [dir.join(name), dir.join("../bin").join(name)];
        let found = near.into_iter().find(|path| path.is_file());
        match (found, loader.is_empty()) {
            (Some(path), _) => {
                let mut words = loader.to_vec();
                words.push(path.display().to_string());
                Some(words)
            }
            (None, _) => in_path(name).map(|path| vec![path.display().to_string()]),
        }
    }

    fn command(&self, words: Vec<String>) -> Command {
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).kill_on_drop(true);
        if rustix::process::geteuid().is_root() && self.owner.uid != 0 {
            command.uid(self.owner.uid).gid(self.owner.gid);
        }
        command
    }

    /// Unpacks a stream, which is to be written to its input.
    pub(crate) fn unpack(&self, copy: &Manifest, data: &Path) -> Command {
        let words = match copy.format {
            Format::Mbstream => vec!["mbstream".to_owned(), "-x".to_owned(), "-C".to_owned()],
            Format::Tar => vec![
                "tar".to_owned(),
                "--extract".to_owned(),
                "--sparse".to_owned(),
                "--no-same-owner".to_owned(),
                "--file=-".to_owned(),
                "--directory".to_owned(),
            ],
        };
        let mut command = self.command(words);
        command.arg(data).current_dir(data);
        command
    }

    /// Makes an unpacked copy consistent. Returns its position where that is known before a server runs on it.
    pub(crate) async fn prepare(&self, copy: &Manifest, data: &Path) -> Result<Option<String>, Refusal> {
        if copy.format == Format::Tar {
            return Ok(None);
        }
        let mut command = self.command(vec!["mariadb-backup".to_owned()]);
        command
            .args(["--no-defaults", "--prepare"])
            .arg(format!("--target-dir={}", data.display()))
            // Not /tmp: the tool starts a server inside, and a starting MariaDB removes #sql files of others from there.
            .arg(format!("--tmpdir={}", data.display()))
            .current_dir(data)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let output = command
            .output()
            .await
            .map_err(|error| missing("mariadb-backup", self.engine).because(error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !said.trim_end().ends_with("completed OK!") {
            let mut refusal =
                Refusal::new(Code::D003, "the copy could not be prepared").because(output.status.to_string());
            let lines: Vec<&str> = said.lines().rev().take(8).collect();
            refusal
                .evidence
                .extend(lines.into_iter().rev().map(str::to_owned));
            return Err(refusal);
        }
        Ok(Some(copy.position.clone()))
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs =
        std::env::split_paths(&path).chain(["/usr/sbin", "/usr/bin", "/usr/local/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn missing(tool: &str, engine: Engine) -> Refusal {
    let packages = word(engine, "mariadb-server mariadb-backup", "mysql-server");
    Refusal::new(Code::D007, format!("{tool} is not on this machine"))
        .next("install it", format!("apt-get install {packages}"))
}
