//! The operator's door: the admin API of [`crate::api`] on `<run>/admin.sock`. Who may open it is decided by the
//! socket's permissions: root and group `pontoon`.

use std::sync::Arc;

use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use pontoon_fleet::{Code, Refusal};
use pontoon_rt::http::{self, Body};
use pontoon_rt::listen;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};

use crate::api::{
    ActiveConfig, ApplyRequest, BackupRequest, CheckRequest, DbOrder, DrainRequest, JoinRequest,
    LeaveRequest, MaintenanceRequest, PlanRequest, Progress, PurgeRequest, RejoinRequest, RenewCertRequest,
    ReseedRequest, TokenRequest, UnstickRequest,
};
use crate::core::Agent;
use crate::reporter::Reporter;
use crate::{
    acme, apply, backup, compare, db_status, drain, failover, host, joiner, leave, maintenance, observe,
    purge, reseed, routing, timeline, unstick,
};

/// The largest request: a configuration of many servers is a few kilobytes.
const MAX_REQUEST_BYTES: usize = 1 << 20;

/// Binds the socket and serves until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) -> Result<(), Refusal> {
    let path = agent.paths.admin_socket();
    let refuse = |error: std::io::Error| {
        Refusal::new(Code::N004, format!("cannot listen on {}", path.display())).because(error.to_string())
    };
    let listener = listen::unix(&path, 0o660)
        .and_then(UnixListener::from_std)
        .map_err(refuse)?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = agent.shutdown.requested() => return Ok(()),
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(agent.clone(), stream));
            }
            Err(error) => {
                tracing::warn!(%error, "an operator's connection was lost");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(agent: Arc<Agent>, stream: UnixStream) {
    let shutdown = agent.shutdown.clone();
    let served = http::serve(stream, shutdown, move |request| {
        let agent = agent.clone();
        async move {
            answer(agent, request)
                .await
                .unwrap_or_else(|refusal| http::refusal_response(&refusal))
        }
    })
    .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an operator's connection ended with an error");
    }
}

async fn answer(agent: Arc<Agent>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    match (request.method().clone(), path.as_str()) {
        (Method::GET, "/v1/status") => ok(&observe::status(&agent)),
        (Method::POST, "/v1/addresses/ask") => ok(&routing::ask(&agent).await?),
        (Method::GET, "/v1/certs") => ok(&acme::status(&agent)?),
        (Method::POST, "/v1/certs/renew") => {
            let wanted: RenewCertRequest = read(request).await?;
            Ok(stream(|reporter| async move {
                acme::renew(&agent, wanted, &reporter).await
            }))
        }
        (Method::GET, "/v1/db") => ok(&db_status::of(&agent).await),
        (Method::POST, "/v1/db") => {
            let wanted: DbOrder = read(request).await?;
            Ok(stream(|reporter| async move {
                failover::order(&agent, wanted, &reporter).await
            }))
        }
        (Method::POST, "/v1/db/check") => {
            let wanted: CheckRequest = read(request).await?;
            Ok(stream(|reporter| async move {
                compare::run(&agent, wanted, &reporter).await
            }))
        }
        (Method::POST, "/v1/db/unstick") => {
            let wanted: UnstickRequest = read(request).await?;
            Ok(stream(|reporter| async move {
                unstick::run(&agent, wanted, &reporter).await
            }))
        }
        (Method::POST, "/v1/db/reseed") => {
            let wanted: ReseedRequest = read(request).await?;
            Ok(stream(|reporter| async move {
                reseed::order(&agent, wanted, &reporter).await
            }))
        }
        (Method::POST, "/v1/db/rejoin") => {
            let wanted: RejoinRequest = read(request).await?;
            Ok(stream(|reporter| async move {
                reseed::rejoin(&agent, wanted.server, &reporter).await
            }))
        }
        (Method::GET, "/v1/db/backups") => ok(&backup::list(&agent).await?),
        (Method::POST, "/v1/db/backup") => {
            let wanted: BackupRequest = read(request).await?;
            Ok(stream(|reporter| async move {
                backup::order(&agent, wanted.on, &reporter).await
            }))
        }
        (Method::GET, "/v1/view") => ok(&crate::publish::view(&agent)),
        (Method::GET, "/v1/config") => {
            let active = agent.active();
            ok(&ActiveConfig {
                revision: agent.revision(),
                text: active.map_or_else(String::new, |active| active.committed.text),
            })
        }
        (Method::GET, "/v1/events") => ok(&timeline::of_the_fleet(&agent, count(&request)).await),
        (Method::POST, "/v1/plan") => {
            let wanted: PlanRequest = read(request).await?;
            ok(&apply::plan(&agent, &wanted.text).await?)
        }
        (Method::POST, "/v1/token") => {
            let wanted: TokenRequest = read(request).await?;
            ok(&host::issue_token(&agent, wanted.ttl, wanted.roles)?)
        }
        (Method::POST, "/v1/apply") => {
            let wanted: ApplyRequest = read(request).await?;
            Ok(stream(|reporter| async move {
                apply::apply(&agent, wanted, &reporter).await
            }))
        }
        (Method::POST, "/v1/join") => {
            let wanted: JoinRequest = read(request).await?;
            Ok(stream(|reporter| async move {
                joiner::join(&agent, wanted, &reporter).await
            }))
        }
        (Method::POST, "/v1/leave") => {
            let _: LeaveRequest = read(request).await?;
            Ok(stream(
                |reporter| async move { leave::leave(&agent, &reporter).await },
            ))
        }
        (Method::POST, "/v1/drain") => {
            let wanted: DrainRequest = read(request).await?;
            Ok(stream(|reporter| async move {
                drain::drain(&agent, wanted, &reporter).await
            }))
        }
        (Method::POST, "/v1/maintenance") => {
            let wanted: MaintenanceRequest = read(request).await?;
            ok(&maintenance::switch(&agent, &wanted)?)
        }
        (Method::POST, "/v1/purge") => {
            let wanted: PurgeRequest = read(request).await?;
            ok(&purge::purge(&agent, &wanted)?)
        }
        (method, path) => Err(Refusal::new(
            Code::N005,
            format!("this agent does not answer {method} {path}"),
        )
        .because(format!("it is Pontoon {}", env!("CARGO_PKG_VERSION")))),
    }
}

/// `?count=N`, 50 by default.
pub(crate) fn count(request: &Request<Incoming>) -> usize {
    request
        .uri()
        .query()
        .and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("count=")))
        .and_then(|count| count.parse().ok())
        .unwrap_or(50)
}

fn ok<T: Serialize>(value: &T) -> Result<Response<Body>, Refusal> {
    Ok(http::json_response(StatusCode::OK, value))
}

pub(crate) async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    Ok(http::read_json(request.into_body(), MAX_REQUEST_BYTES).await?)
}

/// Starts `work` in a task of its own and streams what it says as JSON lines. The work goes on when the operator's
/// terminal is closed.
fn stream<F, Fut>(work: F) -> Response<Body>
where
    F: FnOnce(Reporter) -> Fut,
    Fut: Future<Output = Result<String, Refusal>> + Send + 'static,
{
    let (reporter, receiver) = Reporter::new();
    let work = work(reporter.clone());
    tokio::spawn(async move {
        let last = match work.await {
            Ok(text) => Progress::Finished { text },
            Err(refusal) => Progress::Refused { refusal },
        };
        reporter.say(last).await;
    });
    let lines = futures::stream::unfold(receiver, |mut receiver| async move {
        let progress = receiver.recv().await?;
        let mut line = serde_json::to_vec(&progress).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, http::BoxError>(Frame::data(line.into())), receiver))
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(lines.boxed())))
}
