//! What an edge would do with a request at this moment, for whoever asks on its socket: shown, never obeyed.

use std::sync::atomic::Ordering;

use pontoon_balance::Standing;
use pontoon_fleet::{BalanceRule, ClientLimits, Dispatch, Maintenance, ServerName, UnixMillis};
use pontoon_rt::clock::{Clock, SystemClock};
use serde::{Deserialize, Serialize};

use crate::cache::CacheState;
use crate::upstream::{Upstream, Way};
use crate::worker::Shared;

/// An edge at this moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EdgeState {
    /// The view that it obeys.
    pub serial: u64,
    /// The rule that chooses; `None` without an application.
    pub balance: Option<BalanceRule>,
    /// How requests are dispatched otherwise.
    pub dispatch: Dispatch,
    /// The most bytes of a body, where no path says otherwise.
    pub body: Option<u64>,
    /// How long a server may be silent, in milliseconds, where nothing says otherwise.
    pub answer_timeout_ms: u64,
    /// What one client may do.
    pub client: ClientLimits,
    /// The port of HTTPS that visitors of plain HTTP are sent to.
    pub redirect_port: Option<u16>,
    /// What visitors get in place of the application.
    #[serde(default)]
    pub maintenance: Option<Maintenance>,
    /// By this edge's clock.
    #[serde(default)]
    pub now: UnixMillis,
    /// What it keeps of the application's answers; `None`: nothing.
    #[serde(default)]
    pub cache: Option<CacheState>,
    /// Requests that wait for a server to have room.
    pub waiting: usize,
    /// Requests that are held because no server can be reached.
    pub held: usize,
    /// The application's servers, in the view's order.
    pub servers: Vec<ServerState>,
}

/// One application server as the edge has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerState {
    /// On which server.
    pub server: ServerName,
    /// The number that stands for its name.
    pub id: u64,
    /// How it is reached.
    pub way: String,
    /// How far it is, where that counts (`app.prefer`): who is nearer is asked first.
    #[serde(default)]
    pub far: u8,
    /// How it stands.
    pub stands: Stands,
    /// What its checks saw last.
    pub reason: Option<String>,
    /// For how many milliseconds it is still left out for its bad answers.
    pub left_out_ms: u64,
    /// Requests of this edge under way there.
    pub in_flight: u64,
    /// It has as many as it may.
    pub full: bool,
    /// How long its answers took lately, in milliseconds; 0 when none came lately.
    pub answers_ms: f32,
    /// Its share beside those of the others, now.
    pub share: f32,
    /// Its share when it has been in service for long enough.
    pub weight: f32,
}

/// How a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stands {
    /// Its checks are good, and nobody took it out.
    InService,
    /// Its checks fail, or a connection to it could not be made.
    Unhealthy,
    /// Its checks are good and its answers were not.
    LeftOut,
    /// An operator took it out.
    Drained,
}

impl EdgeState {
    /// Of the process that shares this; `question` is about a request, or empty.
    pub(crate) fn of(shared: &Shared, question: &str) -> EdgeState {
        let upstreams = shared.upstreams.borrow().clone();
        let app = upstreams.app.as_ref();
        let dispatch = app.map(|app| app.dispatch.clone()).unwrap_or_default();
        let now = shared.clock.now();
        let servers = upstreams.servers.iter();
        let servers = servers
            .map(|server| ServerState::of(server, &dispatch, now))
            .collect();
        EdgeState {
            serial: upstreams.serial,
            balance: app.map(|app| app.balance),
            body: upstreams.tuning.body,
            answer_timeout_ms: u64::try_from(upstreams.tuning.answer_timeout.as_millis()).unwrap_or(u64::MAX),
            client: upstreams.client.clone(),
            redirect_port: shared.https.borrow().as_ref().and_then(|https| https.redirect),
            maintenance: upstreams.answers.maintenance.clone(),
            now: SystemClock.unix(),
            cache: upstreams
                .answers
                .cache
                .as_ref()
                .map(|rules| CacheState::of(&shared.cache, rules, question, now)),
            waiting: shared.queue.len(),
            held: shared.held.load(Ordering::Relaxed),
            servers,
            dispatch,
        }
    }
}

impl ServerState {
    fn of(upstream: &Upstream, dispatch: &Dispatch, now: u64) -> ServerState {
        let known = upstream.for_choice(dispatch, now);
        ServerState {
            server: upstream.server.clone(),
            id: upstream.id,
            far: upstream.far,
            way: match upstream.way {
                Way::Direct(address) => address.to_string(),
                Way::Relay(address) => format!("its relay, {address}"),
            },
            stands: match known.standing {
                Standing::InService => Stands::InService,
                Standing::Unhealthy => Stands::Unhealthy,
                Standing::Ejected => Stands::LeftOut,
                Standing::Draining => Stands::Drained,
            },
            reason: upstream.health.reason(),
            left_out_ms: upstream.health.left_out_for(now),
            in_flight: known.in_flight,
            full: known.full,
            answers_ms: known.latency.at(now as u32) / 1000.0,
            share: known.weight,
            weight: upstream.weight,
        }
    }
}
