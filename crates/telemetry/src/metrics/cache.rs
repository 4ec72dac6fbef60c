//! The cache proxy's families.

use std::collections::BTreeMap;

use pontoon_fleet::CacheReport;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::{Members, Registry};

/// What a cache proxy does: its report, as numbers.
#[derive(Debug)]
pub struct CacheMetrics {
    clients: Gauge,
    connections: Counter,
    requests: Counter,
    missed: Counter,
    failed: Counter,
    waited: Counter,
    list: Gauge,
    up: Members<[(&'static str, String); 1]>,
}

impl CacheMetrics {
    /// Adds the families to `registry`.
    pub fn register(registry: &mut Registry) -> CacheMetrics {
        CacheMetrics {
            clients: registry.add(
                "pontoon_cache_clients",
                "Client connections open now",
                Gauge::default(),
            ),
            connections: registry.add(
                "pontoon_cache_connections",
                "Client connections taken",
                Counter::default(),
            ),
            requests: registry.add("pontoon_cache_requests", "Requests", Counter::default()),
            missed: registry.add(
                "pontoon_cache_reads_missed",
                "Reads that found nothing because their server did not answer",
                Counter::default(),
            ),
            failed: registry.add(
                "pontoon_cache_writes_failed",
                "Writes that failed because their server did not answer",
                Counter::default(),
            ),
            waited: registry.add(
                "pontoon_cache_reads_waited",
                "Reads that waited for another client to fill the key",
                Counter::default(),
            ),
            list: registry.add(
                "pontoon_cache_list",
                "The number of the list of cache servers that is served; 0 while none is",
                Gauge::default(),
            ),
            up: Members::add(
                registry,
                "pontoon_cache_server_up",
                "Whether the cache server answers",
            ),
        }
    }

    /// The numbers of `report`.
    pub fn set(&self, report: &CacheReport) {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.clients.set(signed(report.clients));
        self.list.set(signed(report.list.unwrap_or_default()));
        for (counter, total) in [
            (&self.connections, report.connections_total),
            (&self.requests, report.requests_total),
            (&self.missed, report.missed_total),
            (&self.failed, report.failed_total),
            (&self.waited, report.waited_total),
        ] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        let up = report.servers.iter().map(|one| {
            let label = [("server", one.server.to_string())];
            (label, i64::from(one.trouble.is_none()))
        });
        self.up.set(up.collect::<BTreeMap<_, _>>());
    }
}
