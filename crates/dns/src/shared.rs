//! What all serving threads share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use pontoon_telemetry::metrics::DnsMetrics;
use pontoon_zone::{Asker, Name, RateLimiter, Settings, Snapshot, Transport, answer, rcode};

use crate::signing::Budget;
use crate::transfer::{self, History, Wanted};
use crate::tsig::Keys;

/// What all serving threads share.
pub(crate) struct Shared {
    current: RwLock<Arc<Snapshot>>,
    generation: AtomicU64,
    pub(crate) settings: Settings,
    pub(crate) limiter: RateLimiter,
    pub(crate) metrics: DnsMetrics,
    /// Signatures for answers over UDP, where who asks may be forged.
    pub(crate) udp_signatures: Budget,
    /// Those over TCP, which wait for their turn.
    pub(crate) tcp_signatures: Budget,
    transfer: Mutex<Arc<Transfer>>,
}

/// Signatures that are made for single answers in a second, over UDP and over TCP each.
const SIGNATURES_PER_SECOND: u32 = 1000;

/// What other name servers may fetch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transfer {
    pub(crate) keys: Arc<Keys>,
    /// Those who may; they need a key too.
    pub(crate) from: Vec<IpAddr>,
    pub(crate) history: History,
}

impl Shared {
    pub(crate) fn new(settings: Settings, limiter: RateLimiter, metrics: DnsMetrics) -> Shared {
        Shared {
            current: RwLock::default(),
            generation: AtomicU64::new(0),
            settings,
            limiter,
            metrics,
            udp_signatures: Budget::new(SIGNATURES_PER_SECOND),
            tcp_signatures: Budget::new(SIGNATURES_PER_SECOND),
            transfer: Mutex::default(),
        }
    }

    /// What other name servers may fetch now.
    pub(crate) fn transfer(&self) -> Arc<Transfer> {
        Arc::clone(&self.transfer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_transfer(&self, transfer: Transfer) {
        *self.transfer.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(transfer);
    }

    /// The answer to a query that is signed: of several messages perhaps, over TCP. The second value says that the
    /// signature was good.
    pub(crate) fn answer_signed(
        &self,
        snapshot: &Snapshot,
        asker: &Asker,
        packet: &[u8],
    ) -> (Vec<Vec<u8>>, bool) {
        let transfer = self.transfer();
        let now = u64::from(now());
        let opened = match transfer.keys.open(packet, now) {
            Ok(opened) => opened,
            Err(fault) => return (vec![fault.answer(packet, now)], false),
        };
        let tcp = matches!(asker.transport, Transport::Tcp);
        let may = transfer.from.contains(&asker.address);
        let ours = |zone: &Name| transfer.history.current().is_some_and(|own| own.apex() == zone);
        let mut messages = match Wanted::of(&opened.message, tcp) {
            Some((zone, wanted)) if may && ours(&zone) => {
                let made =
                    transfer::messages(&transfer.history, &opened.message, wanted, opened.key.overhead());
                self.metrics
                    .transferred(made.as_ref().map_or("refused", |(sent, _)| sent.as_str()));
                made.map_or_else(|| vec![failure(&opened.message)], |(_, messages)| messages)
            }
            wanted => {
                if wanted.is_some() {
                    self.metrics.transferred("refused");
                }
                let mut plain = Vec::new();
                answer(snapshot, &self.settings, asker, &opened.message, &mut plain);
                vec![plain]
            }
        };
        let mut signer = opened.signer();
        for message in messages.iter_mut().filter(|message| message.len() >= 12) {
            signer.sign(message, now);
        }
        (messages, true)
    }

    /// Puts another snapshot in the place of the one that is answered from.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn failure(query: &[u8]) -> Vec<u8> {
    let mut failure = transfer::head(query);
    failure[3] = rcode::SERVFAIL as u8;
    failure
}

/// A thread's own hold on the snapshot: it looks for another with one load.
pub(crate) struct Holder {
    snapshot: Arc<Snapshot>,
    generation: u64,
}

impl Holder {
    pub(crate) fn new(shared: &Shared) -> Holder {
        let generation = shared.generation.load(Ordering::Acquire);
        Holder {
            snapshot: shared.snapshot(),
            generation,
        }
    }

    pub(crate) fn get(&mut self, shared: &Shared) -> &Snapshot {
        let generation = shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            (self.snapshot, self.generation) = (shared.snapshot(), generation);
        }
        &self.snapshot
    }
}

/// Seconds of Unix time.
pub(crate) fn now() -> u32 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as u32)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use pontoon_telemetry::metrics::Registry;
    use pontoon_zone::{Rrset, Verdict, Zone, rtype};

    use super::*;

    /// The two states between which the addresses go to and fro: none that is answered may be between them.
    fn zones() -> [Zone; 2] {
        let apex: Name = "z".parse().unwrap();
        let base = "@ SOA a b 1 2 3 4 5\n@ NS n\n";
        let base = pontoon_zone::load(&apex, "test", base.as_bytes(), &mut |_| Err(String::new())).unwrap();
        [vec![1, 2, 3], vec![7]].map(|lasts: Vec<u8>| {
            let mut zone = base.clone();
            let data = lasts
                .into_iter()
                .map(|last| Box::from([192, 0, 2, last]))
                .collect();
            zone.replace(apex.clone(), rtype::A, Rrset { ttl: 20, data });
            zone
        })
    }

    #[test]
    fn ten_thousand_changes_are_never_seen_half() {
        let mut registry = Registry::new(&"a".parse().unwrap(), "dns", "test");
        let metrics = DnsMetrics::register(&mut registry);
        let shared = Shared::new(Settings::default(), RateLimiter::new(0, 0), metrics);
        let zones = zones();
        shared.publish(Snapshot::new(&zones[..1]));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let askers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut holder = Holder::new(&shared);
                        let (mut out, mut turn, mut seen) = (Vec::new(), 0u32, [0, 0]);
                        while !done.load(Ordering::Relaxed) || seen[0] == 0 {
                            turn = turn.wrapping_add(1);
                            let asker = Asker {
                                address: "192.0.2.9".parse().unwrap(),
                                transport: Transport::Udp,
                                now: 7,
                                turn,
                                may_sign: true,
                            };
                            let query = b"\0\x07\0\0\0\x01\0\0\0\0\0\0\x01z\0\0\x01\0\x01";
                            let outcome =
                                answer(holder.get(&shared), &shared.settings, &asker, query, &mut out);
                            assert_eq!(outcome.verdict, Verdict::Answer);
                            let records: Vec<&[u8]> = out[19..].chunks(16).collect();
                            let mut lasts: Vec<u8> = records.iter().map(|record| record[15]).collect();
                            lasts.sort_unstable();
                            match &lasts[..] {
                                [1, 2, 3] => seen[0] += 1,
                                [7] => seen[1] += 1,
                                other => panic!("half an answer: {other:?}"),
                            }
                        }
                        seen
                    })
                })
                .collect();
            for change in 1..=10_000 {
                let zone = &zones[change % 2];
                shared.publish(Snapshot::new(std::slice::from_ref(zone)));
            }
            done.store(true, Ordering::Relaxed);
            for asker in askers {
                let seen = asker.join().unwrap();
                assert!(seen[0] > 0, "{seen:?}");
            }
        });
    }
}
