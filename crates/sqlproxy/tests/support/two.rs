//! Two servers with a proxy each.

use std::net::SocketAddr;

use pontoon_fleet::{ListenAddress, Role};
use pontoon_pki::Authority;
use pontoon_rt::paths::Paths;
use tokio::net::{TcpStream, UnixStream};

use super::*;

/// Servers `a` and `b` with their views, which the test changes one by one.
pub struct Two {
    pub authority: Authority,
    pub a: Server,
    pub b: Server,
}

pub struct Server {
    pub proxy: Proxy,
    pub agent: Agent,
    pub view: View,
    pub address: SocketAddr,
    pub paths: Paths,
    pub dir: tempfile::TempDir,
}

impl Two {
    pub async fn start(backend: SocketAddr, change: impl Fn(&mut View)) -> Two {
        let authority = found_fleet();
        let ports = [free_port(), free_port()];
        let server = async |name: &'static str, private: &'static str| {
            let dir = tempfile::tempdir().unwrap();
            let paths = Paths::under(dir.path());
            identify(&authority, name, private, &paths);
            let address = SocketAddr::new(private.parse().unwrap(), free_port());
            let listen = [
                ListenAddress::Tcp(address),
                ListenAddress::Unix(dir.path().join("mysqld.sock")),
            ];
            let mut view = View::new(&listen, backend);
            view.roles = vec![Role::App, Role::Db];
            view.relay_ports = ports;
            change(&mut view);
            let agent = Agent::start(&paths).await;
            agent.publish(&view);
            let proxy = Proxy::start(name, &paths, limits());
            wait_listening(address).await;
            let relay = ports[usize::from(name == "b")];
            wait_listening(SocketAddr::new(private.parse().unwrap(), relay)).await;
            Server {
                proxy,
                agent,
                view,
                address,
                paths,
                dir,
            }
        };
        let (a, b) = (server("a", "127.0.0.1").await, server("b", "127.0.0.2").await);
        Two { authority, a, b }
    }

    pub fn relay(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.a.view.relay_ports[0]))
    }
}

impl Server {
    pub fn publish(&mut self, change: impl FnOnce(&mut View)) {
        change(&mut self.view);
        self.agent.publish(&self.view);
    }

    pub async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub async fn dial_socket(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("mysqld.sock"))
            .await
            .unwrap()
    }
}
