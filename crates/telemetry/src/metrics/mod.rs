//! Numbers for Prometheus: the names, their labels, and the text.
//!
//! Base units (seconds, bytes), `_total` counters, bounded labels only. What a request or a connection touches is an
//! atomic: no lock stands in the hot path.

mod agent;
mod cache;
mod dns;
mod edge;
mod histogram;
mod serve;
mod sql;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use pontoon_fleet::ServerName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;

pub use agent::AgentMetrics;
pub use cache::CacheMetrics;
pub use dns::{DnsMetrics, DnsThread};
pub use edge::{CacheEvent, EdgeMetrics, EdgeThread, EdgeTotals, FloorEvent, Open, RetryReason, TlsFailure};
pub use histogram::AtomicHistogram;
pub use serve::{Page, json_page, serve, serve_with};
pub use sql::{ConnectionState, Diverted, Placed, Queued, Route, Sender, SqlMetrics, Verb};

/// The `Content-Type` of [`Registry::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of one process.
#[derive(Debug)]
pub struct Registry {
    inner: prometheus_client::registry::Registry,
}

impl Registry {
    /// A registry with `pontoon_build_info` in it.
    pub fn new(server: &ServerName, process: &str, version: &str) -> Registry {
        let mut inner = prometheus_client::registry::Registry::default();
        let labels = vec![
            ("version", version.to_owned()),
            ("process", process.to_owned()),
            ("server", server.to_string()),
        ];
        inner.register("pontoon_build", "What runs", Info::new(labels));
        Registry { inner }
    }

    /// The numbers now, in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.inner) {
            tracing::error!(%error, "the metrics have no text form");
        }
        text
    }

    fn add<M>(&mut self, name: &str, help: &str, metric: M) -> M
    where
        M: prometheus_client::registry::Metric + Clone,
    {
        self.inner.register(name, help, metric.clone());
        metric
    }
}

/// A counter for each of a fixed set of label values, looked up without a lock.
#[derive(Clone, Debug)]
struct FixedCounters<const N: usize> {
    counters: [Counter; N],
}

type OneLabel = [(&'static str, &'static str); 1];

impl<const N: usize> FixedCounters<N> {
    fn add(
        registry: &mut Registry,
        name: &str,
        help: &str,
        label: &'static str,
        values: [&'static str; N],
    ) -> Self {
        let family = registry.add(name, help, Family::<OneLabel, Counter>::default());
        FixedCounters {
            counters: values.map(|value| family.get_or_create_owned(&[(label, value)])),
        }
    }

    fn count(&self, index: usize) {
        if let Some(counter) = self.counters.get(index) {
            counter.inc();
        }
    }
}

/// Gauges by label whose members come and go: what is not in the latest observation is no longer shown.
#[derive(Debug)]
struct Members<L: Clone + std::hash::Hash + Eq + Ord> {
    family: Family<L, Gauge>,
    shown: Mutex<BTreeMap<L, i64>>,
}

impl<L> Members<L>
where
    L: EncodeLabelSet + Clone + std::fmt::Debug + std::hash::Hash + Eq + Ord + Send + Sync + 'static,
{
    fn add(registry: &mut Registry, name: &str, help: &str) -> Members<L> {
        let family = registry.add(name, help, Family::<L, Gauge>::default());
        Members {
            family,
            shown: Mutex::new(BTreeMap::new()),
        }
    }

    fn set(&self, now: BTreeMap<L, i64>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.keys().filter(|label| !now.contains_key(*label)) {
            self.family.remove(gone);
        }
        for (label, value) in &now {
            self.family.get_or_create(label).set(*value);
        }
        *shown = now;
    }
}

#[cfg(test)]
mod tests;
