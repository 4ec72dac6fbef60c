//! How an agent reaches another: TCP, mutual TLS 1.3, one request a connection. Heartbeats keep theirs open.

use std::net::SocketAddr;
use std::time::Duration;

use pontoon_fleet::{Code, Refusal, ServerName};
use pontoon_pki::tls;
use pontoon_rt::http::{self, Call};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::core::Agent;

/// How long a connection with its handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Opens a connection to the agent of `server` and makes sure that it is that server.
pub(crate) async fn connect(
    agent: &Agent,
    server: &ServerName,
    address: SocketAddr,
) -> Result<tls::client::TlsStream<TcpStream>, Refusal> {
    let config = tls::client_config(&agent.member()?.identity)?;
    let tcp = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return Err(unreachable(server, address).because(error.to_string())),
        Err(_) => {
            let evidence = format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
            return Err(unreachable(server, address).because(evidence));
        }
    };
    let _ = tcp.set_nodelay(true); // a slow connection is still a connection
    Ok(tls::connect(&config, server, tcp, CONNECT_TIMEOUT).await?)
}

/// Asks the agent of `server` one thing.
pub(crate) async fn ask<I, T>(
    agent: &Agent,
    server: &ServerName,
    address: SocketAddr,
    call: &Call<'_>,
    input: Option<&I>,
) -> Result<T, Refusal>
where
    I: Serialize + ?Sized,
    T: DeserializeOwned,
{
    let stream = connect(agent, server, address).await?;
    Ok(http::call(stream, call, input).await?)
}

/// Where the agent of a server of the active configuration listens.
pub(crate) fn address_of(agent: &Agent, server: &ServerName) -> Result<SocketAddr, Refusal> {
    let active = agent.config()?;
    active
        .config
        .server(server)
        .map(|entry| SocketAddr::new(entry.private, active.config.ports().agent))
        .ok_or_else(|| no_such_server(server, &active.config))
}

/// F004 with the names that there are.
pub(crate) fn no_such_server(server: &ServerName, config: &pontoon_config::Config) -> Refusal {
    let names: Vec<_> = config.servers.iter().map(|entry| entry.name.as_str()).collect();
    Refusal::new(Code::F004, format!("there is no server {server} in the fleet"))
        .because(format!("the fleet has {}", names.join(", ")))
        .next("see them", "pontoon status")
}

fn unreachable(server: &ServerName, address: SocketAddr) -> Refusal {
    Refusal::new(
        Code::N002,
        format!("the agent on {server} does not answer at {address}"),
    )
    .next("see who answers", "pontoon status")
    .next(
        format!("look at it on {server}"),
        "systemctl status pontoon-agent",
    )
}
