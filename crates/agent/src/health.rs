//! Which database server is what, for load balancers that are not ours (P10): `GET /primary` and
//! `GET /replica?max_lag=1s` over plain HTTP on the private address, at `db.health_port`.
//!
//! 200 is yes and 503 is no; the body says why as JSON. GET, HEAD and OPTIONS (HAProxy's `option httpchk` without a method)
//! are answered alike. Nothing is told that a neighbour on the private network could not find out by asking the database.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hyper::{Method, Request, Response, StatusCode};
use pontoon_fleet::{DatabaseReport, DatabaseRole, ServerName, units};
use pontoon_rt::http::{self, Body};
use pontoon_rt::listen::{self, ListenOptions};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::core::Agent;

/// Between two looks at whether the configuration asks for another address.
const LOOK: Duration = Duration::from_secs(1);
/// Connections at a time: a handful of load balancers keep one each.
const MAX_CONNECTIONS: usize = 64;
/// How long one may stay; whoever keeps a connection for its checks makes another.
const LONGEST: Duration = Duration::from_secs(600);

/// Runs until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) {
    loop {
        if let Some(address) = wanted(&agent) {
            serve_on(&agent, address).await;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = agent.shutdown.requested() => return,
        }
    }
}

/// Where to listen by the active configuration.
fn wanted(agent: &Agent) -> Option<SocketAddr> {
    let me = agent.membership()?.me;
    let config = agent.active()?.config;
    let server = config.server(&me).filter(|server| config.runs_database(server))?;
    let port = config.db.as_ref()?.health_port?;
    Some(SocketAddr::new(server.private, port))
}

/// Returns when the address cannot be bound, is no longer wanted, or the agent ends.
async fn serve_on(agent: &Arc<Agent>, address: SocketAddr) {
    let options = ListenOptions {
        freebind: true,
        ..ListenOptions::default()
    };
    let listener = match listen::tcp(address, options).and_then(TcpListener::from_std) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%address, %error, "cannot listen for health checks of the database; trying again");
            return;
        }
    };
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut look = tokio::time::interval(LOOK);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = look.tick() => {
                if wanted(agent) != Some(address) { return }
                continue;
            }
            () = agent.shutdown.requested() => return,
        };
        let Ok((tcp, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Over the limit the connection closes: the check fails rather than waits.
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            let agent = agent.clone();
            tokio::spawn(async move {
                let _ = tokio::time::timeout(LONGEST, connection(agent, tcp)).await;
                drop(slot);
            });
        }
    }
}

async fn connection(agent: Arc<Agent>, tcp: TcpStream) {
    let shutdown = agent.shutdown.clone();
    let served = http::serve(tcp, shutdown, move |request: Request<_>| {
        let (status, answer) = answer(
            request.method(),
            request.uri().path(),
            request.uri().query(),
            &standing(&agent),
        );
        let response: Response<Body> = http::json_response(status, &answer);
        async move { response }.boxed()
    });
    if let Err(error) = served.await {
        tracing::debug!(%error, "a health check's connection ended with an error");
    }
}

/// What this server knows of its database.
struct Standing {
    me: Option<ServerName>,
    leader: Option<ServerName>,
    epoch: Option<u64>,
    drained: bool,
    delayed: bool,
    database: Option<DatabaseReport>,
}

fn standing(agent: &Agent) -> Standing {
    let me = agent.membership().map(|membership| membership.me);
    let active = agent.active();
    let server = me.as_ref().and_then(|me| active.as_ref()?.config.server(me));
    let delayed = server.is_some_and(|server| server.delay.is_some());
    let known = agent.known();
    Standing {
        delayed,
        leader: known.lease.as_ref().map(|lease| lease.leader.clone()),
        epoch: known.lease.as_ref().map(|lease| lease.epoch.0),
        drained: me.as_ref().is_some_and(|me| known.drains.is_drained_whole(me)),
        database: known.database.clone(),
        me,
    }
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Answer {
    server: Option<ServerName>,
    role: Option<DatabaseRole>,
    lag_ms: Option<u64>,
    epoch: Option<u64>,
    /// Why not; absent with 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
}

fn answer(method: &Method, path: &str, query: Option<&str>, standing: &Standing) -> (StatusCode, Answer) {
    let verdict = if ![Method::GET, Method::HEAD, Method::OPTIONS].contains(method) {
        Err((
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET, HEAD and OPTIONS".to_owned(),
        ))
    } else {
        match path {
            "/primary" => is_primary(standing).map_err(unavailable),
            "/replica" => match max_lag(query) {
                Ok(max_lag) => is_replica(standing, max_lag).map_err(unavailable),
                Err(wrong) => Err((StatusCode::BAD_REQUEST, wrong)),
            },
            _ => Err((
                StatusCode::NOT_FOUND,
                "there are /primary and /replica?max_lag=1s".to_owned(),
            )),
        }
    };
    let (status, because) = match verdict {
        Ok(()) => (StatusCode::OK, None),
        Err((status, because)) => (status, Some(because)),
    };
    let database = standing.database.as_ref();
    let answer = Answer {
        server: standing.me.clone(),
        role: database.map(|database| database.role),
        lag_ms: database.and_then(|database| database.lag_ms),
        epoch: standing.epoch,
        because,
    };
    (status, answer)
}

fn unavailable(because: String) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, because)
}

/// The lease says so and the database takes writes: either alone could be out of date.
fn is_primary(standing: &Standing) -> Result<(), String> {
    match (&standing.leader, &standing.me) {
        (Some(leader), Some(me)) if leader == me => {}
        (Some(leader), _) => return Err(format!("the lease is with {leader}")),
        (None, _) => return Err("no lease is known".to_owned()),
    }
    let database = reported(standing)?;
    match database.role {
        DatabaseRole::Primary if !database.read_only => Ok(()),
        DatabaseRole::Primary => Err("the database is read-only".to_owned()),
        other => Err(format!("the database is {}", word(other))),
    }
}

fn is_replica(standing: &Standing, max_lag: Option<Duration>) -> Result<(), String> {
    if standing.drained {
        return Err("the server is drained".to_owned());
    }
    if standing.delayed {
        return Err("the copy is delayed on purpose".to_owned());
    }
    let database = reported(standing)?;
    if database.role != DatabaseRole::Replica {
        return Err(format!("the database is {}", word(database.role)));
    }
    if let Some(error) = &database.error {
        return Err(error.clone());
    }
    let Some(lag) = database.lag_ms else {
        return Err("its lag is not known".to_owned());
    };
    match max_lag {
        Some(max_lag) if u128::from(lag) > max_lag.as_millis() => Err(format!("it is {lag} ms behind")),
        _ => Ok(()),
    }
}

fn reported(standing: &Standing) -> Result<&DatabaseReport, String> {
    standing
        .database
        .as_ref()
        .ok_or_else(|| "the database has not been looked at yet".to_owned())
}

fn max_lag(query: Option<&str>) -> Result<Option<Duration>, String> {
    let Some(query) = query.filter(|query| !query.is_empty()) else {
        return Ok(None);
    };
    match query.split_once('=') {
        Some(("max_lag", text)) => units::parse_duration(text).map(Some),
        _ => Err("the one parameter is max_lag, as in max_lag=1s".to_owned()),
    }
}

fn word(role: DatabaseRole) -> &'static str {
    match role {
        DatabaseRole::Primary => "a primary",
        DatabaseRole::Replica => "a replica",
        DatabaseRole::Standalone => "neither primary nor replica",
        DatabaseRole::Down => "down",
    }
}

#[cfg(test)]
mod tests {
    use pontoon_fleet::Engine;

    use super::*;

    fn standing(role: DatabaseRole, leader: &str) -> Standing {
        Standing {
            me: Some("a".parse().unwrap()),
            leader: Some(leader.parse().unwrap()),
            epoch: Some(3),
            drained: false,
            delayed: false,
            database: Some(DatabaseReport {
                engine: Engine::Mariadb,
                version: "10.11".to_owned(),
                role,
                read_only: role != DatabaseRole::Primary,
                position: String::new(),
                lag_ms: (role == DatabaseRole::Replica).then_some(700),
                error: None,
            }),
        }
    }

    fn ask(path: &str, standing: &Standing) -> u16 {
        let (path, query) = path
            .split_once('?')
            .map_or((path, None), |(path, query)| (path, Some(query)));
        answer(&Method::GET, path, query, standing).0.as_u16()
    }

    #[test]
    fn a_primary_needs_the_lease_and_a_database_that_takes_writes() {
        let primary = standing(DatabaseRole::Primary, "a");
        assert_eq!((ask("/primary", &primary), ask("/replica", &primary)), (200, 503));
        assert_eq!(ask("/primary", &standing(DatabaseRole::Primary, "b")), 503);
        assert_eq!(ask("/primary", &standing(DatabaseRole::Replica, "a")), 503);
        assert_eq!(ask("/primary", &standing(DatabaseRole::Down, "a")), 503);
        let mut read_only = standing(DatabaseRole::Primary, "a");
        read_only.database.as_mut().unwrap().read_only = true;
        assert_eq!(ask("/primary", &read_only), 503);
        let unknown = Standing {
            database: None,
            ..primary
        };
        assert_eq!((ask("/primary", &unknown), ask("/replica", &unknown)), (503, 503));
    }

    #[test]
    fn a_replica_is_as_fresh_as_asked() {
        let replica = standing(DatabaseRole::Replica, "b");
        for (path, status) in [
            ("/replica", 200),
            ("/replica?max_lag=1s", 200),
            ("/replica?max_lag=700ms", 200),
            ("/replica?max_lag=699ms", 503),
            ("/replica?max_lag=0s", 503),
            ("/primary", 503),
            ("/replica?max_lag=1", 400),
            ("/replica?max_lag=", 400),
            ("/replica?lag=1s", 400),
            ("/replica?max_lag=1s&x=1", 400),
            ("/", 404),
            ("/../primary", 404),
        ] {
            assert_eq!(ask(path, &replica), status, "{path}");
        }
        let mut stopped = standing(DatabaseRole::Replica, "b");
        stopped.database.as_mut().unwrap().error = Some("Duplicate entry".to_owned());
        assert_eq!(ask("/replica", &stopped), 503);
        let mut unknown = standing(DatabaseRole::Replica, "b");
        unknown.database.as_mut().unwrap().lag_ms = None;
        assert_eq!(ask("/replica", &unknown), 503);
        let drained = Standing {
            drained: true,
            ..standing(DatabaseRole::Replica, "b")
        };
        assert_eq!(ask("/replica", &drained), 503);
    }

    #[test]
    fn other_methods_are_refused() {
        let primary = standing(DatabaseRole::Primary, "a");
        for (method, status) in [
            (Method::HEAD, 200),
            (Method::OPTIONS, 200),
            (Method::POST, 405),
            (Method::DELETE, 405),
        ] {
            assert_eq!(
                answer(&method, "/primary", None, &primary).0.as_u16(),
                status,
                "{method}"
            );
        }
    }
}
