//! What is asked of the proxies, and what is promised of each.

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
    /// A new connection for each request.
    pub closing: bool,
    /// The least throughput beside each peer, as a ratio.
    pub least: f64,
}

/// Every workload that is measured by its throughput.
pub const ALL: &[Workload] = &[
    Workload {
        name: "small",
        what: "1 KB, 64 kept connections, one core",
        bytes: 1024,
        connections: 64,
        cores: 1,
        closing: false,
        least: 1.3,
    },
    Workload {
        name: "two-cores",
        what: "1 KB, 64 kept connections, two cores",
        bytes: 1024,
        connections: 64,
        cores: 2,
        closing: false,
        least: 1.15,
    },
    Workload {
        name: "many",
        what: "1 KB, 1,000 kept connections, one core",
        bytes: 1024,
        connections: 1000,
        cores: 1,
        closing: false,
        least: 1.4,
    },
    Workload {
        name: "closing",
        what: "1 KB, 64 at a time, a new connection for each request, one core",
        bytes: 1024,
        connections: 64,
        cores: 1,
        closing: true,
        least: 1.2,
    },
    Workload {
        name: "large",
        what: "64 KB, 64 kept connections, one core",
        bytes: 64 * 1024,
        connections: 64,
        cores: 1,
        closing: false,
        least: 1.1,
    },
];
