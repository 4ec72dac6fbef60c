//! What stands before the edge, and what it tells of requests.

use pontoon_fleet::{Code, EdgeFront, IpPrefix, ProxyProtocol};

use super::Check;
use crate::raw::{self, At};

impl Check<'_> {
    pub(super) fn front(&mut self, edge: &raw::Edge) -> Option<EdgeFront> {
        let typed = edge.trusted_proxies.as_ref();
        let trusted: Vec<Option<IpPrefix>> = typed
            .map_or(&[][..], |list| list.get())
            .iter()
            .map(|text| self.read("edge.trusted_proxies", text))
            .collect();
        let says = |flag: &Option<At<bool>>| flag.as_ref().is_some_and(|flag| *flag.get());
        if let Some(flag) = edge.proxy_protocol.as_ref().filter(|flag| *flag.get())
            && trusted.is_empty()
        {
            let message =
                "`edge.proxy_protocol` without `edge.trusted_proxies`: whose headers are to be believed?";
            self.wrong(
                Code::C006,
                message,
                flag.span(),
                "add trusted_proxies = [\"198.51.100.0/24\"]",
            );
        }
        Some(EdgeFront {
            trusted: trusted.into_iter().collect::<Option<_>>()?,
            proxy_protocol: says(&edge.proxy_protocol),
            request_id: says(&edge.request_id),
            traceparent: says(&edge.traceparent),
            server_timing: says(&edge.server_timing),
        })
    }

    /// `app.proxy_protocol`
    pub(super) fn proxy_protocol(&mut self, app: &raw::App) -> Option<Option<ProxyProtocol>> {
        let Some(text) = &app.proxy_protocol else {
            return Some(None);
        };
        if app
            .protocol
            .as_ref()
            .is_some_and(|protocol| protocol.get() == "h2c")
        {
            let message =
                "`app.proxy_protocol` with `protocol = \"h2c\"`: one connection carries many visitors";
            self.wrong(
                Code::C006,
                message,
                text.span(),
                "leave it out: X-Forwarded-For says who it is",
            );
            return None;
        }
        match text.get().as_str() {
            "v1" => Some(Some(ProxyProtocol::V1)),
            "v2" => Some(Some(ProxyProtocol::V2)),
            _ => {
                self.bad("app.proxy_protocol", text, "is neither \"v1\" nor \"v2\"");
                None
            }
        }
    }
}
