//! What stands before the edges, and what they tell of a request to those behind them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::IpPrefix;

/// What an edge believes of proxies before it, and what it adds to requests and answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeFront {
    /// Proxies whose word on who a visitor is counts.
    pub trusted: Vec<IpPrefix>,
    /// Their connections begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Each request gets an id (`X-Request-Id`), unless a trusted proxy gave it one.
    pub request_id: bool,
    /// Each request is part of a trace (`traceparent`, W3C Trace Context), its own or a new one.
    pub traceparent: bool,
    /// Answers say how long they took, and where (`Server-Timing`, W3C Server Timing).
    pub server_timing: bool,
}

impl EdgeFront {
    /// Whether the word of `address` on who a visitor is counts.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }
}

/// The versions of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyProtocol {
    /// As the configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            ProxyProtocol::V1 => "v1",
            ProxyProtocol::V2 => "v2",
        }
    }
}
