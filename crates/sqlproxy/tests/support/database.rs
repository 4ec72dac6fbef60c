//! A real MariaDB or MySQL with accounts of every kind.
#![allow(clippy::print_stdout)] // a skipped test says why

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder};
use pontoon_fleet::Epoch;
use pontoon_mysql_wire::ErrorPacket;
use pontoon_rt::paths::Paths;
use pontoon_sqlproxy::backend::{AttemptError, Opened, attempt};
use pontoon_sqlproxy::target::{Local, Pin, Primary, Transport, Way};
use pontoon_sqlproxy::tls::FleetTls;
use pontoon_testkit::{DatabaseOptions, LabError, Standalone, find_program};
use tokio::time::timeout;

use super::{SOON, found_fleet, free_port, identify};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Mariadb,
    Mysql,
}

pub struct Database {
    pub engine: Engine,
    pub server: Standalone,
    pub dir: tempfile::TempDir,
    /// Accounts by the plugin's name, all with the password `pw`, from `localhost` and `127.0.0.1`.
    pub plugins: Vec<&'static str>,
}

/// The names of the accounts are those of their plugins, without what is not a letter.
pub fn account(plugin: &str) -> &'static str {
    match plugin {
        "mysql_native_password" => "native",
        "caching_sha2_password" => "sha",
        "ed25519" => "edwards",
        "parsec" => "parsec",
        other => panic!("no account of {other}"),
    }
}

impl Database {
    /// `None`, with the reason printed, where the engine is missing.
    pub async fn start(engine: Engine) -> Option<Database> {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        identify(&found_fleet(), "db", "127.0.0.1", &paths);
        let files = pontoon_pki::IdentityFiles::in_dir(&paths.identity_dir());
        let mut config = vec![
            "skip_name_resolve".to_owned(),
            format!("ssl_cert = {}", files.cert.display()),
            format!("ssl_key = {}", files.key.display()),
        ];
        if engine == Engine::Mysql {
            config.push("mysqlx = OFF".to_owned());
        }
        let options = DatabaseOptions {
            port: free_port(),
            config,
        };
        let server = match engine {
            Engine::Mariadb => Standalone::mariadb(dir.path(), &options).await,
            Engine::Mysql => Standalone::mysql(dir.path(), &options).await,
        };
        let server = match server {
            Ok(server) => server,
            Err(LabError::Skip(reason)) => {
                println!("SKIPPED: {reason:?}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let mut database = Database {
            engine,
            server,
            dir,
            plugins: Vec::new(),
        };
        database.fill().await;
        Some(database)
    }

    async fn fill(&mut self) {
        let mut root = self.root().await;
        root.query_drop("CREATE DATABASE app").await.unwrap();
        root.query_drop("CREATE DATABASE secret").await.unwrap();
        root.query_drop("CREATE USER pontoon_sql@localhost IDENTIFIED BY 'own'")
            .await
            .unwrap();
        let table = match self.engine {
            Engine::Mariadb => "mysql.global_priv",
            Engine::Mysql => "mysql.user",
        };
        root.query_drop(format!("GRANT SELECT ON {table} TO pontoon_sql@localhost"))
            .await
            .unwrap();
        std::fs::write(self.account_file(), r#"{"user":"pontoon_sql","password":"own"}"#).unwrap();
        let kinds: &[(&str, Option<&str>)] = match self.engine {
            Engine::Mysql => &[("caching_sha2_password", None)],
            Engine::Mariadb => &[
                ("mysql_native_password", None),
                ("ed25519", Some("auth_ed25519")),
                ("parsec", Some("auth_parsec")),
                ("caching_sha2_password", Some("auth_mysql_sha2")),
            ],
        };
        for (plugin, library) in kinds {
            if let Some(library) = library
                && let Err(error) = root.query_drop(format!("INSTALL SONAME '{library}'")).await
            {
                println!("SKIPPED: {plugin}: {error}");
                continue;
            }
            let key = self.dir.path().join("data/private_key.pem");
            if self.engine == Engine::Mariadb && *plugin == "caching_sha2_password" && !key.is_file() {
                println!("SKIPPED: {plugin}: this MariaDB has made no RSA key for it");
                continue;
            }
            self.plugins.push(plugin);
            let name = account(plugin);
            self.create(&mut root, name, plugin, "pw", "").await;
            self.create(&mut root, &format!("{name}_empty"), plugin, "", "")
                .await;
            self.create(&mut root, &format!("{name}_tls"), plugin, "pw", "REQUIRE SSL")
                .await;
        }
    }

    /// An account of `localhost` and of `127.0.0.1`.
    pub async fn create(&self, root: &mut Conn, name: &str, plugin: &str, password: &str, more: &str) {
        for host in ["localhost", "127.0.0.1"] {
            let identified = match self.engine {
                Engine::Mariadb => format!("IDENTIFIED VIA {plugin} USING PASSWORD('{password}')"),
                Engine::Mysql => format!("IDENTIFIED WITH {plugin} BY '{password}'"),
            };
            for statement in [
                format!("CREATE USER '{name}'@'{host}' {identified} {more}"),
                format!("GRANT ALL ON app.* TO '{name}'@'{host}'"),
            ] {
                root.query_drop(statement).await.unwrap();
            }
        }
    }

    pub fn account_file(&self) -> PathBuf {
        self.dir.path().join("sql-account.json")
    }

    pub async fn root(&self) -> Conn {
        self.server.root().await.unwrap()
    }

    pub async fn execute(&self, statements: &[&str]) {
        let mut root = self.root().await;
        for statement in statements {
            root.query_drop(*statement).await.unwrap();
        }
    }

    pub fn tcp(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.server.port()))
    }

    pub fn socket(&self) -> PathBuf {
        self.server.socket().to_owned()
    }

    pub fn primary(&self) -> Primary {
        Primary {
            pin: Pin {
                server: "a".parse().unwrap(),
                epoch: Epoch(1),
            },
            way: Way::Local(Local {
                tcp: self.tcp(),
                socket: Some(self.socket()),
            }),
        }
    }

    pub async fn open(&self, transport: Transport) -> Opened {
        self.try_open(transport).await.unwrap()
    }

    pub async fn try_open(&self, transport: Transport) -> Result<Opened, AttemptError> {
        let tls = FleetTls::new(self.dir.path().join("none"));
        attempt(&self.primary(), transport, &tls, Duration::from_secs(5)).await
    }

    /// What the database itself says to a client that comes without the proxy.
    pub async fn says(
        &self,
        user: &str,
        password: &str,
        database: &str,
        transport: Transport,
    ) -> Result<(), Refused> {
        visit(user, password, database, &Road::of(self, transport))
            .await
            .map(drop)
    }
}

/// How a client comes.
#[derive(Clone, Debug)]
pub enum Road {
    Tcp(SocketAddr),
    Tls(SocketAddr),
    Unix(PathBuf),
}

impl Road {
    pub fn of(database: &Database, transport: Transport) -> Road {
        match transport {
            Transport::Tcp => Road::Tcp(database.tcp()),
            Transport::Unix => Road::Unix(database.socket()),
        }
    }
}

/// An error as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: u16,
    pub state: String,
    pub text: String,
}

impl From<ErrorPacket> for Refused {
    fn from(error: ErrorPacket) -> Refused {
        Refused {
            code: error.code,
            state: error
                .state
                .map(|state| state.as_str().to_owned())
                .unwrap_or_default(),
            text: error.text(),
        }
    }
}

/// What every client asks.
pub const WHO: &str = "SELECT CONCAT(CURRENT_USER(), '/', IFNULL(DATABASE(), ''))";

/// Comes with `mysql_async`, over a road without TLS, and asks [`WHO`].
pub async fn visit(user: &str, password: &str, schema: &str, road: &Road) -> Result<String, Refused> {
    let opts = OptsBuilder::default()
        .user(Some(user))
        .pass(Some(password).filter(|password| !password.is_empty()))
        .db_name(Some(schema).filter(|schema| !schema.is_empty()))
        .prefer_socket(false);
    let opts: Opts = match road {
        Road::Tcp(address) | Road::Tls(address) => {
            opts.ip_or_hostname("127.0.0.1").tcp_port(address.port()).into()
        }
        Road::Unix(path) => opts.socket(Some(path.to_string_lossy())).into(),
    };
    let ask = async {
        let mut conn = Conn::new(opts).await?;
        let found: Option<String> = conn.query_first(WHO).await?;
        conn.disconnect().await?;
        Ok(found.unwrap_or_default())
    };
    match timeout(SOON, ask).await.expect("no answer in time") {
        Ok(found) => Ok(found),
        Err(Error::Server(error)) => Err(Refused {
            code: error.code,
            state: error.state,
            text: error.message,
        }),
        Err(error) => panic!("{user} over {road:?}: {error}"),
    }
}

/// Comes with the engine's own command-line client and asks [`WHO`]; `None` without one.
pub async fn visit_as_c(
    engine: Engine,
    user: &str,
    password: &str,
    schema: &str,
    road: &Road,
) -> Option<Result<String, Refused>> {
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/mysql/bin/mysql");
    let program = match engine {
        Engine::Mariadb => find_program("mariadb"),
        Engine::Mysql => Some(cached).filter(|path| path.is_file()),
    };
    let Some(program) = program else {
        println!("SKIPPED: no command-line client of {engine:?}");
        return None;
    };
    // Programs that were unpacked have their plugins beside them.
    let plugins = program
        .parent()
        .unwrap()
        .join("../root/usr/lib/x86_64-linux-gnu/libmariadb3/plugin");
    let mut command = tokio::process::Command::new(program);
    command.args([
        "--no-defaults",
        "--batch",
        "--skip-column-names",
        &format!("--user={user}"),
        "-e",
        WHO,
    ]);
    command.arg(format!("--password={password}"));
    if engine == Engine::Mariadb && plugins.is_dir() {
        command.arg(format!("--plugin-dir={}", plugins.display()));
    }
    match road {
        Road::Unix(path) => command.arg(format!("--socket={}", path.display())),
        Road::Tcp(address) | Road::Tls(address) => {
            command.args(["--protocol=tcp", "-h127.0.0.1", &format!("-P{}", address.port())])
        }
    };
    let with_tls = matches!(road, Road::Tls(_));
    match (engine, with_tls) {
        (Engine::Mysql, true) => command.arg("--ssl-mode=REQUIRED"),
        (Engine::Mysql, false) => command.args(["--ssl-mode=DISABLED", "--get-server-public-key"]),
        (Engine::Mariadb, true) => command.args(["--ssl", "--skip-ssl-verify-server-cert"]),
        (Engine::Mariadb, false) => command.arg("--skip-ssl"),
    };
    if !schema.is_empty() {
        command.arg(schema);
    }
    let output = timeout(SOON, command.output())
        .await
        .expect("no answer in time")
        .unwrap();
    if output.status.success() {
        return Some(Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said.lines().find_map(|line| line.strip_prefix("ERROR "));
    let (code, rest) = line
        .and_then(|line| line.split_once(" ("))
        .unwrap_or_else(|| panic!("{said}"));
    let (state, text) = rest.split_once("): ").unwrap();
    Some(Err(Refused {
        code: code.parse().unwrap(),
        state: state.to_owned(),
        text: text.to_owned(),
    }))
}
