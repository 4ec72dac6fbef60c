//! Finds the database server that runs on this machine, and how.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pontoon_fleet::units::human_bytes;
use pontoon_fleet::{Code, Engine, Refusal};
use pontoon_helper::find::{self, ServerProcess};
use pontoon_helper::{DatabaseNode, Run};
use tokio::process::Command;

use crate::recipe::Recipe;
use crate::secret;
use crate::version::Version;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detected {
    /// How to run it: what goes into the node file.
    pub node: DatabaseNode,
    /// Its process.
    pub pid: u32,
    /// How many schemas it has that are not its own.
    pub schemas: usize,
    /// The size of its data directory.
    pub bytes: u64,
    /// What was set up by hand.
    pub recipe: Recipe,
}

impl Detected {
    /// How to run it as a server that joins. One that follows another already keeps the names of what it received, and
    /// begins a binary log of its own: what it wrote into the one before is in no order with what it receives.
    pub fn joiner(self) -> DatabaseNode {
        let follows = self.recipe.follows;
        DatabaseNode {
            own_log_bin: self.node.own_log_bin && follows.is_none(),
            follows,
            ..self.node
        }
    }

    /// One line for `init`: `MariaDB 10.11.19 (3 databases, 1.2 GiB) on /run/mysqld/mysqld.sock`.
    pub fn summary(&self) -> String {
        let engine = if self.node.is_mariadb() {
            "MariaDB"
        } else {
            "MySQL"
        };
        let plural = if self.schemas == 1 { "" } else { "s" };
        format!(
            "{engine} {} ({} database{plural}, {}) on {}",
            self.node.version,
            self.schemas,
            human_bytes(self.bytes),
            self.node.socket.display()
        )
    }
}

/// Finds the one running database server of this machine. Looks only; changes nothing.
///
/// # Errors
/// [`Code::D009`] when none runs, or several, or it cannot be told how it is started; [`Code::D001`] when its version
/// is not supported.
pub async fn detect() -> Result<Detected, Refusal> {
    // Those of other network namespaces (containers on this machine) are not this machine's.
    let here = std::fs::read_link("/proc/self/ns/net").ok();
    let servers: Vec<ServerProcess> = find::servers()
        .into_iter()
        .filter(|server| std::fs::read_link(format!("/proc/{}/ns/net", server.pid)).ok() == here)
        .collect();
    match servers.as_slice() {
        [] => Err(Refusal::new(Code::D009, "no database server was found")
            .because("no process of this machine is a mariadbd or mysqld")
            .next("install one", "apt-get install mariadb-server mariadb-backup")
            .next("or start the one that is there", "systemctl start mariadb")),
        [server] => describe(server).await,
        several => {
            let mut refusal = Refusal::new(
                Code::D009,
                "several database servers run: it cannot be told which one is meant",
            );
            for server in several {
                refusal = refusal.because(format!("process {} in {}", server.pid, server.cwd.display()));
            }
            Err(refusal.next("stop those that are not the application's", "systemctl stop …"))
        }
    }
}

/// Describes one running server.
///
/// # Errors
/// [`Code::D009`], [`Code::D001`].
pub async fn describe(server: &ServerProcess) -> Result<Detected, Refusal> {
    let unknown = |why: String| {
        Refusal::new(Code::D009, "it cannot be told how the database is started")
            .because(format!("process {}: {why}", server.pid))
    };
    let environment = std::fs::read(format!("/proc/{}/environ", server.pid)).unwrap_or_default();
    if let Some(sockets) = passed_sockets(&environment) {
        // With them systemd would go on listening at the old addresses, and start the database for whoever dials.
        return Err(Refusal::new(
            Code::D009,
            "systemd listens for the database: the database cannot be moved aside",
        )
        .because(format!(
            "process {} was given its sockets (sd_listen_fds(3))",
            server.pid
        ))
        .next(
            "let it listen itself; it restarts once",
            format!(
                "systemctl disable --now {} && systemctl restart mariadb",
                sockets.join(" ")
            ),
        ));
    }
    let banner = output(&server.program, &["--version".to_owned()])
        .await
        .map_err(|error| unknown(format!("{} --version: {error}", server.program.join(" "))))?;
    let (engine, version) = Version::of_banner(&banner)
        .ok_or_else(|| unknown(format!("its version cannot be read: {banner:?}")))?;
    version.check_supported(engine)?;

    // The option files as the server itself reads them, then its command line: the later wins.
    let mut printing: Vec<String> = server
        .argv
        .iter()
        .filter(|word| word.starts_with("--defaults-") || *word == "--no-defaults")
        .cloned()
        .collect();
    printing.push("--print-defaults".to_owned());
    let from_files = output(&server.program, &printing).await.unwrap_or_default();
    let mut words: Vec<String> = from_files
        .lines()
        .last()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    words.extend(server.argv.iter().cloned());
    let options = Options(words);

    let datadir = std::fs::canonicalize(&server.cwd).unwrap_or_else(|_| server.cwd.clone());
    if !datadir.is_dir() {
        return Err(unknown(
            "its data directory cannot be seen: is this root?".to_owned(),
        ));
    }
    let port = options
        .get("port")
        .and_then(|text| text.parse().ok())
        .unwrap_or(3306);
    // What no option says is compiled in, and builds differ (Debian's MariaDB 11.8: /run/mariadbd): it is where the
    // process listens.
    let socket = options
        .get("socket")
        .map(PathBuf::from)
        .or_else(|| find::unix_sockets(server.pid).into_iter().next())
        .unwrap_or_else(|| default_socket(engine));
    let socket = if socket.is_absolute() {
        socket
    } else {
        datadir.join(socket)
    };
    let own_log_bin = !options.has("skip_log_bin")
        && !options.has("disable_log_bin")
        && (options.has("log_bin") || engine == Engine::Mysql);
    let own_id = options
        .get("server_id")
        .and_then(|text| text.parse::<u32>().ok())
        .filter(|id| *id > 1);
    let server_id = match own_id {
        Some(id) => id,
        None => secret::new_server_id()?,
    };
    let (run, files) = how_it_is_run(server, engine, &datadir).await;
    let (schemas, bytes) = measure(&datadir);
    let node = DatabaseNode {
        engine,
        version: version.to_string(),
        program: server.program.clone(),
        user: user_name(server.uid).ok_or_else(|| unknown(format!("its user {} has no name", server.uid)))?,
        datadir,
        socket,
        port,
        server_id,
        own_log_bin,
        follows: None,
        files,
        run,
    };
    Ok(Detected {
        recipe: Recipe::find(engine, &options.0, &node.datadir),
        node,
        pid: server.pid,
        schemas,
        bytes,
    })
}

/// The units of the sockets that systemd passed, from an environment (proc_pid_environ(5)); None when it passed none.
/// A descriptor's name is that of its socket unit unless the unit says otherwise (sd_listen_fds_with_names(3)).
fn passed_sockets(environment: &[u8]) -> Option<Vec<&str>> {
    let variable = |name: &[u8]| {
        environment
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(name)?.strip_prefix(b"="))
    };
    variable(b"LISTEN_FDS").filter(|count| *count != b"0")?;
    let names = std::str::from_utf8(variable(b"LISTEN_FDNAMES").unwrap_or_default()).unwrap_or_default();
    let is_unit = |name: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
        name.ends_with(".socket") && !name.starts_with('-') && name.bytes().all(plain)
    };
    let units: BTreeSet<&str> = names.split(':').filter(is_unit).collect();
    // As MariaDB's own packages call it.
    Some(if units.is_empty() {
        vec!["mariadb.socket"]
    } else {
        units.into_iter().collect()
    })
}

/// Options as given: `--name=value`, `--name value`, `-P value`.
struct Options(Vec<String>);

impl Options {
    fn get(&self, name: &str) -> Option<String> {
        let short = match name {
            "port" => Some("-P"),
            "socket" => Some("-S"),
            _ => None,
        };
        let mut found = None;
        for (at, word) in self.0.iter().enumerate() {
            let next = || self.0.get(at + 1).filter(|next| !next.starts_with('-')).cloned();
            if let Some(short) = short
                && let Some(rest) = word.strip_prefix(short)
            {
                found = if rest.is_empty() {
                    next()
                } else {
                    Some(rest.to_owned())
                };
            } else if option_name(word).as_deref() == Some(name) {
                found = match word.split_once('=') {
                    Some((_, value)) => Some(value.to_owned()),
                    None => next(),
                };
            }
        }
        found
    }

    fn has(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|word| option_name(word).as_deref() == Some(name))
    }
}

fn option_name(word: &str) -> Option<String> {
    let name = word.strip_prefix("--")?.split('=').next()?.replace('-', "_");
    Some(name.strip_prefix("loose_").unwrap_or(&name).to_owned())
}

fn default_socket(engine: Engine) -> PathBuf {
    // Debian's builds of both; MySQL's own packages for other systems use /tmp or /var/lib/mysql.
    match engine {
        Engine::Mysql if Path::new("/var/run/mysqld").is_dir() => "/var/run/mysqld/mysqld.sock".into(),
        Engine::Mysql => "/tmp/mysql.sock".into(),
        _ => "/run/mysqld/mysqld.sock".into(),
    }
}

/// A systemd unit when systemd says that this process is the unit's main one; a process otherwise.
async fn how_it_is_run(server: &ServerProcess, engine: Engine, datadir: &Path) -> (Run, PathBuf) {
    let unit = server
        .cgroup
        .rsplit('/')
        .next()
        .filter(|name| name.ends_with(".service"))
        .map(str::to_owned);
    if let Some(unit) = unit {
        let asked = output(
            &["systemctl".to_owned()],
            &[
                "show".to_owned(),
                "--property=MainPID".to_owned(),
                "--value".to_owned(),
                unit.clone(),
            ],
        )
        .await;
        if asked.is_ok_and(|pid| pid.trim() == server.pid.to_string()) {
            let dir = match engine {
                Engine::Mariadb => ["/etc/mysql/mariadb.conf.d", "/etc/my.cnf.d"],
                _ => ["/etc/mysql/mysql.conf.d", "/etc/my.cnf.d"],
            };
            let dir = dir
                .into_iter()
                .find(|dir| Path::new(dir).is_dir())
                .unwrap_or("/etc/mysql/conf.d");
            let dropin = Path::new(dir).join("99-pontoon.cnf");
            return (Run::Systemd { unit, dropin }, PathBuf::from("/etc/mysql/pontoon"));
        }
    }
    let beside = |suffix: &str| {
        let mut name = datadir.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    (
        Run::Process {
            argv: server.argv.clone(),
            log: beside(".pontoon.log"),
        },
        beside(".pontoon"),
    )
}

async fn output(program: &[String], arguments: &[String]) -> std::io::Result<String> {
    let (first, rest) = program
        .split_first()
        .ok_or_else(|| std::io::Error::other("no program"))?;
    let running = Command::new(first)
        .args(rest)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(10), running)
        .await
        .map_err(|_| std::io::Error::other("no answer within 10 s"))??;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn user_name(uid: u32) -> Option<String> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Schemas are directories of the data directory.
fn measure(datadir: &Path) -> (usize, u64) {
    fn size(dir: &Path, depth: u32) -> u64 {
        let Ok(entries) = std::fs::read_dir(dir) else {
            return 0;
        };
        entries
            .flatten()
            .map(|entry| match entry.metadata() {
                Ok(metadata) if metadata.is_dir() && depth < 3 => size(&entry.path(), depth + 1),
                Ok(metadata) => metadata.len(),
                Err(_) => 0,
            })
            .sum()
    }
    let schemas = std::fs::read_dir(datadir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            !name.starts_with('#')
                && !matches!(
                    name.as_ref(),
                    "mysql" | "sys" | "performance_schema" | "information_schema" | "pontoon"
                )
        })
        .count();
    (schemas, size(datadir, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_systemd_passed_are_seen() {
        let sockets = |environment: &str| passed_sockets(environment.as_bytes()).map(|units| units.join(" "));
        let mariadb = Some("mariadb.socket".to_owned());
        assert_eq!(sockets("LANG=C\0LISTEN_FDS=4\0LISTEN_PID=42\0"), mariadb);
        assert_eq!(
            sockets("LISTEN_FDS=2\0LISTEN_FDNAMES=mariadb.socket:mariadb.socket\0"),
            mariadb
        );
        let both =
            sockets("LISTEN_FDS=3\0LISTEN_FDNAMES=mariadb.socket:mariadb.socket:mariadb-extra.socket\0");
        assert_eq!(both, Some("mariadb-extra.socket mariadb.socket".to_owned()));
        for named_otherwise in ["LISTEN_FDNAMES=sql", "LISTEN_FDNAMES=x;reboot.socket:-H.socket"] {
            assert_eq!(sockets(&format!("LISTEN_FDS=1\0{named_otherwise}\0")), mariadb);
        }
        for none in ["", "LANG=C\0", "LISTEN_FDS=0\0", "NOTE=LISTEN_FDS=4\0"] {
            assert!(passed_sockets(none.as_bytes()).is_none(), "{none}");
        }
    }

    #[test]
    fn the_last_word_on_an_option_wins_in_every_spelling() {
        let options = Options(
            "--port=1 --socket=/a --port 2 -P3 --skip-log-bin -S /b --loose-server-id=9"
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
        );
        assert_eq!(options.get("port").as_deref(), Some("3"));
        assert_eq!(options.get("socket").as_deref(), Some("/b"));
        assert_eq!(options.get("server_id").as_deref(), Some("9"));
        assert!(options.has("skip_log_bin") && !options.has("log_bin"));
    }
}
