//! Minutes of a fleet at work on a busy machine, whose agents hear each other and the lease store badly: nobody takes over,
//! and nothing is lost. `script/soak` plays it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pontoon_e2e::fleet::{Engine, Fleet, Standing, expect, in_sync, standing, tell};
use pontoon_e2e::under_load::{Writers, compare, fill};
use pontoon_testkit::database::databases;
use pontoon_testkit::{DatabaseOptions, Lab, LabError, Lost, StoreKind, in_lab};

/// Writes a second through each server.
const RATE: u32 = 25;

/// How many packets of a hundred are lost, of what agents say to each other and to the lease store.
const LOST_PERCENT: u8 = 20;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

#[test]
fn mariadb_fleets_on_a_bad_network_and_a_busy_machine_keep_their_primary() -> Result<(), LabError> {
    let Some(length) = length() else { return Ok(()) };
    in_lab(
        "mariadb_fleets_on_a_bad_network_and_a_busy_machine_keep_their_primary",
        length + Duration::from_secs(600),
        async move |lab| soak(lab, Engine::Mariadb, length).await,
    )
}

#[test]
fn mysql_fleets_on_a_bad_network_and_a_busy_machine_keep_their_primary() -> Result<(), LabError> {
    let Some(length) = length() else { return Ok(()) };
    in_lab(
        "mysql_fleets_on_a_bad_network_and_a_busy_machine_keep_their_primary",
        length + Duration::from_secs(600),
        async move |lab| soak(lab, Engine::Mysql, length).await,
    )
}

/// How long, when it is asked for.
fn length() -> Option<Duration> {
    let minutes: Option<u64> = std::env::var("PONTOON_SOAK_FLEET_MINUTES")
        .ok()
        .and_then(|text| text.parse().ok());
    if minutes.is_none() {
        tell("SKIPPED: a fleet is soaked by script/soak only");
    }
    minutes.map(|minutes| Duration::from_secs(60 * minutes))
}

async fn soak(lab: Lab, engine: Engine, length: Duration) -> Result<(), LabError> {
    StoreKind::Etcd.available()?;
    pontoon_testkit::filter::available()?;
    let mut fleet = Fleet::with(lab, engine, DatabaseOptions::default()).await?;
    fill(&fleet.a, 1).await?;
    fleet.found().await?;
    fleet.join().await?;
    let _store = fleet.share_lease(StoreKind::Etcd).await?;
    let writers = [
        Writers::start_as(0, &fleet.a, RATE).await?,
        Writers::start_as(1, &fleet.b, RATE).await?,
    ];
    let before = in_sync(&[&fleet.a, &fleet.b]).await?;
    let outcome = badly_heard(&fleet, &before, length).await;
    fleet.explain(outcome).await?;
    let pauses = writers.each_ref().map(|writers| writers.span().longest_gap());
    let [through_a, through_b] = writers;
    let ledger = through_a.stop().await.and(through_b.stop().await);
    in_sync(&[&fleet.a, &fleet.b]).await?;
    let comparison = compare(&fleet.a, &fleet.b, fleet.engine, &ledger).await?;
    tell(&format!(
        "{engine:?}: {} min, {LOST_PERCENT} % of the heartbeats lost, {} writes acknowledged; longest time without one: {:.1} s; \
         failed: {:?}",
        length.as_secs() / 60,
        comparison.acknowledged,
        pauses.into_iter().max().unwrap_or_default().as_secs_f64(),
        ledger.failures
    ));
    expect(comparison.holds() && comparison.acknowledged > 0, || {
        format!("lost or different: {comparison:?}")
    })
}

/// The network loses packets and the machine has more to do than it can, for so long. The primary stays.
async fn badly_heard(fleet: &Fleet, before: &Standing, length: Duration) -> Result<(), LabError> {
    let _busy = Busy::start();
    for server in [&fleet.a, &fleet.b] {
        server.lose(&heartbeats()).await?;
    }
    let processes = databases(&fleet.a);
    let (begun, mut unanswered, mut alone) = (Instant::now(), 0_u32, 0_u32);
    while begun.elapsed() < length {
        tokio::time::sleep(LOOK).await;
        for server in [&fleet.a, &fleet.b] {
            // One that takes too long to answer is asked again.
            let Ok(now) = standing(server).await else {
                unanswered += 1;
                continue;
            };
            alone += u32::from(now.in_sync.is_empty());
            let stayed = now.epoch == before.epoch && now.leader == before.leader;
            expect(stayed, || {
                format!("taken over: {before:?}, after {:?}: {now:?}", begun.elapsed())
            })?;
        }
    }
    expect(databases(&fleet.a) == processes, || {
        "the primary's database was ended".to_owned()
    })?;
    tell(&format!(
        "0 failovers; looks that were not answered: {unanswered}, at which no replica was in sync: {alone}"
    ));
    for server in [&fleet.a, &fleet.b] {
        server.lose(&[]).await?;
    }
    Ok(())
}

/// What agents hear of each other, and of the store.
fn heartbeats() -> Vec<Lost> {
    [
        "tcp dport 7400",
        "tcp sport 7400",
        "udp dport 7400",
        "tcp sport 2379",
    ]
    .into_iter()
    .map(|packets| Lost::received(packets).some(LOST_PERCENT))
    .collect()
}

/// As many threads that compute as there are cores, until it is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start() -> Busy {
        let stop = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..cores {
            let stopped = stop.clone();
            std::thread::spawn(move || {
                let mut sum = 0_u64;
                while !stopped.load(Ordering::Relaxed) {
                    sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
                }
            });
        }
        Busy(stop)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
