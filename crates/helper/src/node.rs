//! The node file's `[database]` table: how the database of this machine is run. Written by root at `init` and `join`,
//! read by the helper at every verb, so that no caller can name a path.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pontoon_fleet::{Code, Engine, Refusal};
use pontoon_rt::files;
use serde::{Deserialize, Serialize};

use crate::foreign;

/// Larger than any node file.
const LARGEST: u64 = 1 << 20;

/// What this crate knows of the node file; other tables of the file are left as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The database of this machine; `None` when it has none.
    pub database: Option<DatabaseNode>,
}

/// How the database of this machine is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseNode {
    /// The engine.
    pub engine: Engine,
    /// Its version when it was last looked at, such as `10.11.19`.
    pub version: String,
    /// What runs the server's program: its path, or a dynamic loader with its arguments and then the path.
    pub program: Vec<String>,
    /// The system user that the database runs as; it owns the data directory.
    pub user: String,
    /// The data directory, without symbolic links.
    pub datadir: PathBuf,
    /// The Unix socket that the user's own configuration names.
    pub socket: PathBuf,
    /// The TCP port that the user's own configuration names.
    pub port: u16,
    /// The server's id in replication: never 0, never used twice in a fleet, a new one for each copy.
    pub server_id: u32,
    /// Whether the user's own configuration has a binary log; then its name and place stay as they are.
    pub own_log_bin: bool,
    /// Whom it followed, by file and position, when Pontoon found it: its relay log keeps its name then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
    /// A directory of Pontoon's own that the database's user can read: TLS files, the start-up statements.
    pub files: PathBuf,
    /// How it is started and stopped.
    pub run: Run,
}

/// How the database is started and stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Run {
    /// A systemd unit; Pontoon's settings are a file in the database's own configuration directory.
    Systemd {
        /// Such as `mariadb.service`.
        unit: String,
        /// Such as `/etc/mysql/mariadb.conf.d/99-pontoon.cnf`.
        dropin: PathBuf,
    },
    /// A process that the helper starts detached, for machines without systemd.
    Process {
        /// The arguments after the program, as the user started it.
        argv: Vec<String>,
        /// Where its output goes.
        log: PathBuf,
    },
}

impl DatabaseNode {
    /// Where a copy of another server's data arrives: beside the data directory, on the same file system.
    pub fn incoming(&self) -> PathBuf {
        suffixed(&self.datadir, "pontoon-incoming")
    }

    /// The file of Pontoon's settings.
    pub fn settings_file(&self) -> PathBuf {
        match &self.run {
            Run::Systemd { dropin, .. } => dropin.clone(),
            Run::Process { .. } => self.files.join("server.cnf"),
        }
    }

    /// Whether two descriptions are of the same engine.
    pub fn is_mariadb(&self) -> bool {
        self.engine == Engine::Mariadb
    }

    fn check(&self) -> Result<(), String> {
        if self.engine == Engine::External {
            return Err("an external database is not run on this machine".to_owned());
        }
        let mut paths = vec![&self.datadir, &self.socket, &self.files];
        match &self.run {
            Run::Systemd { unit, dropin } => {
                if !unit.ends_with(".service") || unit.starts_with('-') || unit.contains(['/', '\0', ' ']) {
                    return Err(format!("{unit:?} is not the name of a service unit"));
                }
                paths.push(dropin);
            }
            Run::Process { log, .. } => paths.push(log),
        }
        for path in paths {
            if !path.is_absolute() || path.components().count() < 2 {
                return Err(format!("{} is not an absolute path", path.display()));
            }
            if path.to_string_lossy().contains(['\n', '\0', '"', '\'', '#']) {
                return Err(format!(
                    "{} has characters that a my.cnf cannot hold",
                    path.display()
                ));
            }
        }
        match self.program.first() {
            Some(program) if program.starts_with('/') => {}
            _ => return Err("`program` does not begin with an absolute path".to_owned()),
        }
        if self.server_id == 0 {
            return Err("server_id is 0".to_owned());
        }
        if self.user.is_empty() {
            return Err("`user` is empty".to_owned());
        }
        Ok(())
    }
}

impl Node {
    /// Reads the node file; one that is not there has no database.
    ///
    /// # Errors
    /// [`Code::N006`] when it cannot be read, [`Code::N003`] when somebody else than root (or this process's own
    /// user) could have written it or when it makes no sense.
    pub fn load(path: &Path) -> Result<Node, Refusal> {
        // Opened once: the agent owns the directory and could swap the file between a look at it and the reading.
        let Some((bytes, metadata)) = foreign::read(path, LARGEST)? else {
            return Ok(Node::default());
        };
        let me = rustix::process::geteuid().as_raw();
        if me == 0 && (metadata.uid() != 0 || metadata.mode() & 0o022 != 0) {
            return Err(bad(
                path,
                "it must be a file that only root can write (chown root, chmod 644)".to_owned(),
            ));
        }
        let text = String::from_utf8(bytes).map_err(|error| bad(path, error.to_string()))?;
        Node::parse(&text).map_err(|error| bad(path, error))
    }

    /// Reads a node file's text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Node, String> {
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        let database = match table.remove("database") {
            None => None,
            Some(value) => {
                let database: DatabaseNode = value
                    .try_into()
                    .map_err(|error: toml::de::Error| error.to_string())?;
                database.check()?;
                Some(database)
            }
        };
        Ok(Node { database })
    }

    /// Puts the `[database]` table into the node file, atomically; other tables stay. Mode 0644: nothing secret is in
    /// it, and the agent reads it.
    ///
    /// # Errors
    /// [`Code::N006`], or [`Code::N003`] when the present file or this value makes no sense.
    pub fn save(&self, path: &Path) -> Result<(), Refusal> {
        let text = match foreign::read(path, LARGEST)? {
            Some((bytes, _)) => String::from_utf8(bytes).map_err(|error| bad(path, error.to_string()))?,
            None => String::new(),
        };
        let mut table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| bad(path, error.to_string()))?;
        match &self.database {
            None => drop(table.remove("database")),
            Some(database) => {
                database.check().map_err(|error| bad(path, error))?;
                let value = toml::Value::try_from(database).map_err(|error| bad(path, error.to_string()))?;
                table.insert("database".to_owned(), value);
            }
        }
        let text = toml::to_string(&table).map_err(|error| bad(path, error.to_string()))?;
        files::write_atomic(path, text.as_bytes(), 0o644)?;
        Ok(())
    }
}

/// `DIR` → `DIR.SUFFIX`.
pub(crate) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn bad(path: &Path, why: String) -> Refusal {
    Refusal::new(
        Code::N003,
        format!("the node file {} cannot be used", path.display()),
    )
    .because(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn node() -> DatabaseNode {
        DatabaseNode {
            engine: Engine::Mariadb,
            version: "10.11.19".to_owned(),
            program: vec!["/usr/sbin/mariadbd".to_owned()],
            user: "mysql".to_owned(),
            datadir: "/var/lib/mysql".into(),
            socket: "/run/mysqld/mysqld.sock".into(),
            port: 3306,
            server_id: 7,
            own_log_bin: false,
            follows: None,
            files: "/etc/mysql/pontoon".into(),
            run: Run::Systemd {
                unit: "mariadb.service".to_owned(),
                dropin: "/etc/mysql/mariadb.conf.d/99-pontoon.cnf".into(),
            },
        }
    }

    #[test]
    fn saving_keeps_what_others_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, "name = \"a\"\n[other]\nkey = 1\n").unwrap();
        let wanted = Node {
            database: Some(node()),
        };
        wanted.save(&path).unwrap();
        assert_eq!(Node::load(&path).unwrap(), wanted);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("name = \"a\"") && text.contains("[other]"),
            "{text}"
        );
    }

    #[test]
    fn a_node_file_that_makes_no_sense_is_refused() {
        let good = toml::to_string(&toml::Table::from_iter([(
            "database".to_owned(),
            toml::Value::try_from(node()).unwrap(),
        )]))
        .unwrap();
        Node::parse(&good).unwrap();
        for (from, to) in [
            ("/var/lib/mysql\"", "relative\""),
            ("/var/lib/mysql\"", "/var/lib/my\\nsql\""),
            ("mariadb.service", "../x.service"),
            ("mariadb.service", "--help.service"),
            ("server_id = 7", "server_id = 0"),
            ("\"/usr/sbin/mariadbd\"", "\"mariadbd\""),
            ("engine = \"mariadb\"", "engine = \"external\""),
            ("engine = \"mariadb\"", "engin = \"mariadb\""),
        ] {
            assert!(good.contains(from), "{from} in {good}");
            assert!(Node::parse(&good.replace(from, to)).is_err(), "{to}");
        }
        assert!(Node::parse("database = 3").is_err());
        assert!(Node::parse("[[[").is_err());
    }

    #[test]
    fn a_node_file_that_others_can_write_is_refused_by_root() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        Node {
            database: Some(node()),
        }
        .save(&path)
        .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let read = Node::load(&path);
        if rustix::process::geteuid().as_raw() == 0 {
            assert_eq!(read.unwrap_err().code, Code::N003);
        } else {
            read.unwrap();
        }
    }

    #[test]
    fn a_node_file_that_is_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (real, path) = (dir.path().join("real.toml"), dir.path().join("node.toml"));
        let node = Node {
            database: Some(node()),
        };
        node.save(&real).unwrap();
        std::os::unix::fs::symlink(&real, &path).unwrap();
        assert_eq!(Node::load(&path).unwrap_err().code, Code::N006);
    }
}
