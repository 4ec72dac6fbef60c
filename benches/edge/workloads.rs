//! What is asked of the proxies, and what is promised of each.

use crate::wire::Over;

/// One workload.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// As it is typed.
    pub name: &'static str,
    /// In words.
    pub what: &'static str,
    /// Bytes of an answer's body.
    pub bytes: usize,
    /// Connections at a time.
    pub connections: usize,
    /// Cores of the proxy.
    pub cores: usize,
    /// How visitors speak.
    pub over: Over,
    /// A new connection for each request.
    pub closing: bool,
    /// The least throughput beside nginx, as a ratio.
    pub nginx: f64,
    /// And beside HAProxy; `None` when nothing is promised.
    pub haproxy: Option<f64>,
}

/// Every workload that is measured by its throughput.
pub const ALL: &[Workload] = &[
    Workload {
        name: "small",
        what: "1 KB, 64 kept connections, one core",
        bytes: 1024,
        connections: 64,
        cores: 1,
        over: Over::Plain,
        closing: false,
        nginx: 1.3,
        haproxy: Some(1.3),
    },
    Workload {
        name: "two-cores",
        what: "1 KB, 64 kept connections, two cores",
        bytes: 1024,
        connections: 64,
        cores: 2,
        over: Over::Plain,
        closing: false,
        nginx: 1.15,
        haproxy: Some(1.15),
    },
    Workload {
        name: "many",
        what: "1 KB, 1,000 kept connections, one core",
        bytes: 1024,
        connections: 1000,
        cores: 1,
        over: Over::Plain,
        closing: false,
        nginx: 1.4,
        haproxy: Some(1.4),
    },
    Workload {
        name: "closing",
        what: "1 KB, 64 at a time, a new connection for each request, one core",
        bytes: 1024,
        connections: 64,
        cores: 1,
        over: Over::Plain,
        closing: true,
        nginx: 1.2,
        haproxy: Some(1.2),
    },
    Workload {
        name: "large",
        what: "64 KB, 64 kept connections, one core",
        bytes: 64 * 1024,
        connections: 64,
        cores: 1,
        over: Over::Plain,
        closing: false,
        nginx: 1.1,
        haproxy: Some(1.1),
    },
    Workload {
        name: "tls",
        what: "1 KB over TLS 1.3, 64 kept connections, one core",
        bytes: 1024,
        connections: 64,
        cores: 1,
        over: Over::Tls,
        closing: false,
        nginx: 1.1,
        haproxy: Some(1.1),
    },
    Workload {
        name: "handshakes",
        what: "1 KB over TLS 1.3, 64 at a time, a new connection with a whole handshake for each request, one core",
        bytes: 1024,
        connections: 64,
        cores: 1,
        over: Over::Tls,
        closing: true,
        nginx: 1.0,
        haproxy: Some(1.0),
    },
    Workload {
        name: "http2",
        what: "1 KB over HTTP/2, 8 kept connections with 8 requests at a time on each, one core",
        bytes: 1024,
        connections: 64,
        cores: 1,
        over: Over::Http2,
        closing: false,
        nginx: 1.2,
        haproxy: None,
    },
];
