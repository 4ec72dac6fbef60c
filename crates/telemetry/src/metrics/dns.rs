//! The name server's families. Each serving thread counts for itself, as in the edge.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Registry;

/// What a name server does, all its threads together. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DnsMetrics {
    threads: Threads,
    serial: Gauge,
    refused: Gauge,
    transfers: Family<[(&'static str, &'static str); 1], Counter>,
}

type Threads = Arc<Mutex<Vec<Arc<DnsThread>>>>;

/// What one thread counts. Only that thread adds, so nothing is contended.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct DnsThread {
    kinds: [AtomicU64; KINDS.len()],
    truncated: AtomicU64,
    limited: AtomicU64,
}

/// What becomes of queries, in the order of `pontoon_zone::Verdict`.
const KINDS: [&str; 6] = ["dropped", "answer", "no_data", "no_name", "referral", "error"];

impl DnsMetrics {
    /// Adds the families to `registry`.
    pub fn register(registry: &mut Registry) -> DnsMetrics {
        let threads = Threads::default();
        registry
            .inner
            .register_collector(Box::new(Sums(Arc::clone(&threads))));
        DnsMetrics {
            threads,
            serial: registry.add(
                "pontoon_dns_zone_serial",
                "The serial of the zone that is served",
                Gauge::default(),
            ),
            refused: registry.add(
                "pontoon_dns_zone_refused",
                "1 while the zone file, as it is now, is not served",
                Gauge::default(),
            ),
            transfers: registry.add(
                "pontoon_dns_transfers",
                "Requests of other name servers for the zone, by what they got",
                Family::default(),
            ),
        }
    }

    /// Counters for one more thread.
    pub fn thread(&self) -> Arc<DnsThread> {
        let thread = Arc::new(DnsThread::default());
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(Arc::clone(&thread));
        thread
    }

    /// Another name server asked for the zone, and got this: `whole`, `changes`, `serial` or `refused`.
    pub fn transferred(&self, what: &'static str) {
        self.transfers.get_or_create(&[("result", what)]).inc();
    }

    /// Queries that came, and responses that were limited.
    pub fn totals(&self) -> (u64, u64) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let queries = threads.iter().flat_map(|thread| &thread.kinds).map(read).sum();
        (queries, threads.iter().map(|thread| read(&thread.limited)).sum())
    }

    /// The zone that is served, and whether the file as it is now is not.
    pub fn zone(&self, serial: Option<u32>, refused: bool) {
        self.serial.set(serial.map_or(0, i64::from));
        self.refused.set(i64::from(refused));
    }
}

impl DnsThread {
    /// A query was answered, or not: which of the six kinds.
    pub fn answered(&self, kind: usize, truncated: bool) {
        if let Some(counter) = self.kinds.get(kind) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if truncated {
            self.truncated.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A response was cut down or not sent.
    pub fn limited(&self) {
        self.limited.fetch_add(1, Ordering::Relaxed);
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[derive(Debug)]
struct Sums(Threads);

impl Collector for Sums {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: &dyn Fn(&DnsThread) -> u64| threads.iter().map(|thread| of(thread)).sum::<u64>();
        let help = "Queries, by what became of them";
        let mut family = encoder.encode_descriptor("pontoon_dns_queries", help, None, MetricType::Counter)?;
        for (index, kind) in KINDS.iter().enumerate() {
            let count = sum(&|thread| thread.kinds.get(index).map_or(0, read));
            family
                .encode_family(&[("result", *kind)])?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        for (name, help, count) in [
            (
                "pontoon_dns_truncated",
                "Answers that did not fit into a datagram",
                sum(&|thread| read(&thread.truncated)),
            ),
            (
                "pontoon_dns_limited",
                "Responses cut down or not sent because a network had its share",
                sum(&|thread| read(&thread.limited)),
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }
}
