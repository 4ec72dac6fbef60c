//! Active checks: every application server is asked in turn whether it works. One checker a process, its verdicts
//! shared by all threads.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pontoon_decide::health::Damper;
use pontoon_fleet::{HealthCheck, ServerName};
use tokio::task::AbortHandle;

use crate::dial::{dial, introduce};
use crate::http1::head::{HeadLimits, Scanner};
use crate::http1::response::{self, Asked, RelayWord};
use crate::io::{BufferPool, Stream};
use crate::proxy_protocol::{self, Header};
use crate::upstream::{Upstream, Upstreams, Way};
use crate::worker::Shared;

/// The running checks. Must live within a `LocalSet`.
pub struct Checker {
    shared: Arc<Shared>,
    running: HashMap<(ServerName, Way), (HealthCheck, AbortHandle)>,
}

/// The pause between checks of a server that failed a connection: it is out until one succeeds.
const DOUBT_PAUSE: Duration = Duration::from_millis(200);

impl Checker {
    /// Without checks yet.
    pub fn new(shared: Arc<Shared>) -> Checker {
        Checker {
            shared,
            running: HashMap::new(),
        }
    }

    /// Checks the servers of `upstreams`, and no others.
    pub fn follow(&mut self, upstreams: &Upstreams) {
        let Some(app) = &upstreams.app else {
            self.running.drain().for_each(|(_, (_, task))| task.abort());
            return;
        };
        let wanted = |server: &ServerName, way: &Way| {
            upstreams
                .servers
                .iter()
                .any(|upstream| &upstream.server == server && &upstream.way == way)
        };
        self.running.retain(|(server, way), (check, task)| {
            let stays = *check == app.health && wanted(server, way);
            if !stays {
                task.abort();
            }
            stays
        });
        for upstream in &upstreams.servers {
            let key = (upstream.server.clone(), upstream.way);
            if !self.running.contains_key(&key) {
                let keep_checking = watch(Arc::clone(&self.shared), Arc::clone(upstream), app.health.clone());
                let task = tokio::task::spawn_local(keep_checking);
                self.running
                    .insert(key, (app.health.clone(), task.abort_handle()));
            }
        }
    }
}

async fn watch(shared: Arc<Shared>, upstream: Arc<Upstream>, settings: HealthCheck) {
    let health = &upstream.health;
    let mut damper = Damper::new(health.is_healthy(), settings.fall, settings.rise);
    let mut first = true;
    let mut doubts = health.doubts();
    let mut doubted = false;
    loop {
        let seen = check(&shared, &upstream, &settings).await;
        if health.doubts() != doubts {
            // A connection failed while this check was under way: only a check that began later counts.
            doubts = health.doubts();
            damper.force(false);
            doubted = true;
        } else if first || (doubted && seen.is_ok()) {
            // The first check is evidence where there was none; after a doubt, one success is what was waited for.
            damper.force(seen.is_ok());
            doubted = false;
        } else {
            damper.observe(seen.is_ok());
        }
        first = false;
        let reason = match &seen {
            Ok(seen) | Err(seen) => seen.clone(),
        };
        if health.set(damper.is_healthy(), Some(reason.clone())) {
            let (upstream, healthy) = (&upstream.server, damper.is_healthy());
            tracing::info!(%upstream, healthy, reason, "application server changed");
        }
        let pause = if doubted {
            settings.interval.min(DOUBT_PAUSE)
        } else {
            settings.interval
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = health.doubted.notified() => {
                doubts = health.doubts();
                damper.force(false);
                doubted = true;
                tokio::time::sleep(DOUBT_PAUSE.min(settings.interval)).await;
            }
        }
    }
}

/// One check: what was seen, good or bad.
async fn check(shared: &Shared, upstream: &Upstream, settings: &HealthCheck) -> Result<String, String> {
    let asked = async {
        let mut stream = dial(upstream, &shared.identity, settings.timeout)
            .await
            .map_err(|error| error.reason)?;
        let version = shared.upstreams.borrow().proxy_protocol();
        if let (Some(version), Way::Direct(_)) = (version, upstream.way) {
            let mut header = Vec::new();
            proxy_protocol::write(version, &Header::Local, &mut header);
            introduce(&mut stream, &header, settings.timeout)
                .await
                .map_err(|error| error.reason)?;
        }
        match (&settings.path, upstream.way) {
            (None, Way::Direct(_)) => Ok("accepts connections".to_owned()),
            // That the relay accepts connections says nothing of the application behind it: any answer of it does.
            (None, Way::Relay(_)) => ask(&mut stream, upstream, "/", &|_| true).await,
            (Some(path), _) => {
                let good = |status: u16| match settings.expect {
                    Some(expected) => status == expected,
                    None => (200..400).contains(&status),
                };
                ask(&mut stream, upstream, path, &good).await
            }
        }
    };
    match tokio::time::timeout(settings.timeout, asked).await {
        Ok(seen) => seen,
        Err(_) => Err(format!("no answer within {:?}", settings.timeout)),
    }
}

async fn ask(
    stream: &mut Stream,
    upstream: &Upstream,
    path: &str,
    good: &dyn Fn(u16) -> bool,
) -> Result<String, String> {
    let host = match upstream.way {
        Way::Direct(address) => address.to_string(),
        Way::Relay(_) => "localhost".to_owned(),
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pontoon-health\r\nConnection: close\r\n\r\n"
    );
    exchange(stream, request.as_bytes(), good)
        .await
        .map_err(|error| error.to_string())?
}

async fn exchange(
    stream: &mut Stream,
    request: &[u8],
    good: &dyn Fn(u16) -> bool,
) -> io::Result<Result<String, String>> {
    let mut at = 0;
    while at < request.len() {
        at += std::future::poll_fn(|cx| stream.poll_write(cx, &[IoSlice::new(&request[at..])])).await?;
    }
    std::future::poll_fn(|cx| stream.poll_flush(cx)).await?;
    let pool = Rc::new(BufferPool::default());
    let mut buffer = pool.take();
    let limits = HeadLimits::default();
    let mut scanner = Scanner::default();
    loop {
        let head = scanner.scan(buffer.filled(), &limits);
        match head {
            Err(reject) => return Ok(Err(format!("not an HTTP answer: {reject}"))),
            Ok(Some(extent)) => {
                let asked = Asked {
                    head: false,
                    upgrade: false,
                };
                let answer = match response::read(&buffer.filled()[extent.start..extent.end], &asked) {
                    Ok(parsed) => parsed.response,
                    Err(reject) => return Ok(Err(format!("not an HTTP answer: {reject}"))),
                };
                if answer.is_interim() {
                    buffer.consume(extent.end);
                    scanner = Scanner::default();
                    continue;
                }
                match answer.relay_word {
                    Some(RelayWord::NotSent) => {
                        return Ok(Err("its relay cannot reach the application".to_owned()));
                    }
                    Some(RelayWord::Closed) => return Ok(Err("closed without an answer".to_owned())),
                    None => {}
                }
                let seen = format!("HTTP {}", answer.status);
                return Ok(if good(answer.status) { Ok(seen) } else { Err(seen) });
            }
            Ok(None) => {}
        }
        if std::future::poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await? == 0 {
            return Ok(Err("closed without an answer".to_owned()));
        }
    }
}
