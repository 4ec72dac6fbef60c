//! The way from a request to one application server, and what is said on it beside the request.

use std::net::SocketAddr;
use std::sync::Arc;

use pontoon_balance::Standing;
use pontoon_fleet::ProxyProtocol;

use super::Attempt;
use crate::cookie;
use crate::dial;
use crate::floors::Leaving;
use crate::front;
use crate::http1::head::FLOOR_FIELD;
use crate::io::Stream;
use crate::stay;
use crate::upstream::{Upstream, Upstreams, Way};
use crate::worker::Route;

impl Attempt<'_> {
    /// Hands on what the visitor's cookie says: to the SQL proxy here before the application here gets the request, or
    /// to the relay that stands before the application elsewhere. Gives what is needed to tell afterwards whether
    /// this request wrote something.
    pub(super) async fn carry_floor(&mut self, upstream: &Upstream) -> Option<Leaving> {
        let rule = self.worker.floor_rule()?;
        let field = match &self.request.floor {
            Some(value) if !upstream.here && value.len() <= cookie::MAX_VALUE => {
                [FLOOR_FIELD.as_bytes(), b": ", value, b"\r\n"].concat()
            }
            _ => Vec::new(),
        };
        // Before the empty line.
        let at = self.request.head_length - 2;
        self.up.replace(at, self.floor_field, &field);
        self.floor_field = field.len();
        if !upstream.here {
            return None;
        }
        let floors = &self.worker.floors;
        if let Some(value) = self.request.floor.as_ref().filter(|_| !self.floor_told) {
            floors.arrive(value).await;
            self.floor_told = true;
        }
        let method = self.up.staged().get(..self.request.method_length);
        let reads = matches!(method, Some(b"GET" | b"HEAD" | b"OPTIONS"));
        (!reads).then(|| Leaving::new(floors.clone(), rule))
    }

    /// A connection to `upstream`, and whether it was used before.
    pub(super) async fn connect(&mut self, upstream: &Arc<Upstream>) -> Option<(Stream, bool)> {
        // What cannot be sent twice never goes on a kept connection to an application: it may be closed in this
        // very moment, and nobody could tell whether the request was seen. A relay keeps its side open for longer
        // than connections are kept here.
        // Nor where it would say whose connection it is: it was another visitor's.
        let may_use_kept = !self.fresh
            && (self.may_repeat || matches!(upstream.way, Way::Relay(_)))
            && self.introduces(upstream).is_none();
        if may_use_kept && let Some(stream) = self.worker.take_kept(upstream, self.client.now) {
            return Some((stream, true));
        }
        let shared = &self.worker.shared;
        let limit = shared.tuning.connect_timeout;
        let made = match upstream.way {
            // Streams of one connection: HTTP/2 says of each whether it was looked at before the connection ended.
            Way::Direct(address) if upstream.h2c => {
                dial::open(&self.worker.h2c, address, self.fresh, limit).await
            }
            _ => dial::dial(upstream, &shared.identity, limit)
                .await
                .map(|stream| (stream, false)),
        };
        let made = match (made, self.introduces(upstream)) {
            (Ok((mut stream, kept)), Some((version, address))) => {
                let head = self.up.staged();
                let header = front::introduction(version, self.request, head, address);
                dial::introduce(&mut stream, &header, limit)
                    .await
                    .map(|()| (stream, kept))
            }
            (made, _) => made,
        };
        match made {
            Ok(connection) => Some(connection),
            Err(error) => {
                if error.is_theirs {
                    upstream.health.doubt(&upstream.server, error.reason);
                } else {
                    tracing::warn!(upstream = %upstream.server, reason = %error.reason, "no connection could be made");
                }
                None
            }
        }
    }

    /// With what header a connection to `upstream` begins, and where it goes; `None` for no header.
    pub(super) fn introduces(&self, upstream: &Upstream) -> Option<(ProxyProtocol, SocketAddr)> {
        match (self.proxy_protocol, upstream.way) {
            (Some(version), Way::Direct(address)) if !upstream.h2c => Some((version, address)),
            _ => None,
        }
    }

    /// What makes the visitor come back to `upstream`, where that is wanted and it does not do so already.
    pub(super) fn stay_field(&self, upstreams: &Upstreams, upstream: &Upstream) -> Option<String> {
        let name = upstreams.app.as_ref()?.dispatch.sticky.as_deref()?;
        if self.route == Route::Relay || self.wish.server == Some(upstream.id) {
            return None;
        }
        // A server that is only full keeps its visitors: this request is an exception.
        let now = self.worker.shared.clock.now();
        let is_full = |server: &Arc<Upstream>| {
            self.wish.server == Some(server.id) && server.standing(now) == Standing::InService
        };
        if upstreams.servers.iter().any(is_full) && self.retries == 0 {
            return None;
        }
        Some(stay::set_cookie(name, upstream.id, self.request.secure))
    }
}
