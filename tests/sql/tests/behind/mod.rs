//! A primary on server `a` and its replica on server `b`, with a proxy before each.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pontoon_fleet::{AfterWrite, ListenAddress, ReadsView, Role};
use pontoon_pki::Authority;
use pontoon_rt::paths::Paths;
use pontoon_sql_tests::client::Road;
use pontoon_sql_tests::play::Stage;
use pontoon_sql_tests::servers::{Engine, PROXY_ACCOUNT, Pair};
use pontoon_sqlproxy::{Limits, Sessions};
use pontoon_testkit::LabError;

use crate::support::{Agent, Proxy, View, found_fleet, free_port, identify, limits, wait_listening};

/// Whether clients have sessions of the proxy's own, and read from the replica; otherwise they are passed through.
pub fn in_sessions() -> bool {
    std::env::var_os("PONTOON_SQL_SESSIONS").is_some()
}

/// Databases and proxies; they end with this value.
pub struct Behind {
    pub pair: Pair,
    pub proxies: [Server; 2],
    _dir: tempfile::TempDir,
}

/// One server's proxy.
pub struct Server {
    pub address: SocketAddr,
    pub socket: std::path::PathBuf,
    _agent: Agent,
    _proxy: Proxy,
}

impl Behind {
    /// `None`, and said so, when the database cannot be had here.
    pub async fn start(engine: Engine) -> Option<Behind> {
        let dir = tempfile::tempdir().unwrap();
        let pair = match Pair::start(engine, dir.path()).await {
            Ok(pair) => pair,
            Err(LabError::Skip(reason)) => {
                println!("{reason}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let authority = found_fleet();
        let relays = [free_port(), free_port()];
        let a = Server::start("a", engine, &authority, &pair, relays, dir.path()).await;
        let b = Server::start("b", engine, &authority, &pair, relays, dir.path()).await;
        Some(Behind {
            pair,
            proxies: [a, b],
            _dir: dir,
        })
    }

    /// The doors of the proxy beside the primary, and of the one beside the replica.
    pub fn stages(&self) -> Vec<Stage> {
        self.proxies
            .iter()
            .map(|server| Stage {
                tcp: Road::Tcp(server.address),
                unix: Road::Unix(server.socket.clone()),
            })
            .collect()
    }
}

impl Server {
    async fn start(
        name: &'static str,
        engine: Engine,
        authority: &Authority,
        pair: &Pair,
        relays: [u16; 2],
        dir: &Path,
    ) -> Server {
        let (private, own) = match name {
            "a" => ("127.0.0.1", &pair.primary),
            _ => ("127.0.0.2", &pair.replica),
        };
        let home = dir.join(name);
        let paths = Paths::under(&home);
        identify(authority, name, private, &paths);
        let (user, password) = PROXY_ACCOUNT;
        let account = format!("{{\"user\":\"{user}\",\"password\":\"{password}\"}}");
        std::fs::write(paths.state_dir.join("sql-account.json"), account).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let socket = home.join("mysqld.sock");
        let listen = [ListenAddress::Tcp(address), ListenAddress::Unix(socket.clone())];
        let mut view = View::new(&listen, SocketAddr::from(([127, 0, 0, 1], own.port())));
        view.backend_socket = Some(own.socket().to_owned());
        view.roles = vec![Role::App, Role::Db];
        view.relay_ports = relays;
        view.engine = match engine {
            Engine::Mariadb => pontoon_fleet::Engine::Mariadb,
            Engine::Mysql => pontoon_fleet::Engine::Mysql,
        };
        let mut sessions = Sessions::WhenSpread;
        if in_sessions() {
            sessions = Sessions::WheneverPossible;
            view.databases = vec!["a", "b"];
            view.reads = Some(ReadsView {
                split: true,
                max_lag: Duration::from_secs(5),
                after_write: AfterWrite::Session,
                heard: None,
            });
        }
        let agent = Agent::start(&paths).await;
        agent.publish(&view);
        let limits = Limits { sessions, ..limits() };
        let proxy = Proxy::start(name, &paths, limits);
        wait_listening(address).await;
        let relay = relays[usize::from(name == "b")];
        wait_listening(SocketAddr::new(private.parse().unwrap(), relay)).await;
        Server {
            address,
            socket,
            _agent: agent,
            _proxy: proxy,
        }
    }
}
