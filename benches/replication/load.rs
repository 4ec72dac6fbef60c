//! The load: single-row transactions, as fast as they are acknowledged or at a fixed rate, and beats between them whose
//! arrival on the replica is watched for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use pontoon_testkit::LabError;
use pontoon_testkit::database::rows;
use tokio::task::{JoinHandle, LocalSet};

use crate::pairs::Pair;

const INSERT: &str = "INSERT INTO bench.entries (v) VALUES (REPEAT('x', 120))";

const BEAT: &str = "SELECT number FROM bench.beat";

/// How many write side by side at a fixed rate.
const LANES: u32 = 20;

/// Between two beats.
const EVERY: Duration = Duration::from_millis(20);

/// How long a replica may take to catch up after a load.
const CATCH_UP: Duration = Duration::from_secs(120);

/// Times in milliseconds, sorted.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<f64>);

impl Times {
    fn of(times: &[Duration]) -> Times {
        let mut all: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1_000.0).collect();
        all.sort_by(f64::total_cmp);
        Times(all)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time below which `share` of them are; NaN when there is none.
    pub fn percentile(&self, share: f64) -> f64 {
        let at = (self.0.len() as f64 * share) as usize;
        self.0.get(at).or(self.0.last()).copied().unwrap_or(f64::NAN)
    }
}

/// As fast as commits are acknowledged.
pub struct Flat {
    /// Commits a second.
    pub per_second: f64,
    /// From sending the statement to its acknowledgement.
    pub commits: Times,
}

/// At a fixed rate.
pub struct Paced {
    /// Commits a second: the rate, if the database keeps up.
    pub per_second: f64,
    /// From when a commit was due to its acknowledgement.
    pub commits: Times,
    /// From when a beat was sent to the primary until a reader of the replica sees it.
    pub lag: Times,
}

/// Writes over so many connections for that long.
///
/// # Errors
/// When a write fails.
pub async fn flat_out(pair: &Pair, connections: usize, time: Duration) -> Result<Flat, LabError> {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(pair.root_of_primary().await?);
    }
    let local = LocalSet::new();
    let begun = Instant::now();
    let writers: Vec<JoinHandle<Result<Vec<Duration>, LabError>>> = open
        .into_iter()
        .map(|mut conn| {
            local.spawn_local(async move {
                let mut took = Vec::new();
                while begun.elapsed() < time {
                    let sent = Instant::now();
                    conn.query_drop(INSERT)
                        .await
                        .map_err(LabError::database(INSERT))?;
                    took.push(sent.elapsed());
                }
                Ok(took)
            })
        })
        .collect();
    let took = local.run_until(all(writers)).await?;
    Ok(Flat {
        per_second: took.len() as f64 / begun.elapsed().as_secs_f64(),
        commits: Times::of(&took),
    })
}

/// Writes `rate` times a second for that long, and beats meanwhile.
///
/// # Errors
/// When a write fails, or a beat does not arrive within [`CATCH_UP`].
pub async fn paced(pair: &Pair, rate: u32, time: Duration) -> Result<Paced, LabError> {
    let (local, name) = (LocalSet::new(), pair.way.name());
    let gap = Duration::from_secs(1) * LANES / rate;
    let mut open = Vec::new();
    for _ in 0..LANES {
        open.push(pair.root_of_primary().await?);
    }
    let mut beats = pair.root_of_primary().await?;
    let mut replica = pair.root_of_replica().await?;
    let first: u64 = rows(&mut beats, BEAT).await?.first().copied().unwrap_or_default();
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for (lane, mut conn) in (0..LANES).zip(open) {
        tasks.push(local.spawn_local(async move {
            let mut took = Vec::new();
            let mut due = begun + gap * lane / LANES;
            while due < begun + time {
                tokio::time::sleep_until(due.into()).await;
                conn.query_drop(INSERT)
                    .await
                    .map_err(LabError::database(INSERT))?;
                took.push(due.elapsed());
                due += gap;
            }
            Ok(took)
        }));
    }
    // Beats on their way: number and when it was sent.
    let way: Rc<RefCell<VecDeque<(u64, Instant)>>> = Rc::default();
    let sending = Rc::new(Cell::new(true));
    let (sent, more) = (Rc::clone(&way), Rc::clone(&sending));
    let beating = local.spawn_local(async move {
        let mut due = begun;
        let mut number = first;
        let mut outcome = Ok(Vec::new());
        while due < begun + time && outcome.is_ok() {
            tokio::time::sleep_until(due.into()).await;
            due += EVERY;
            number += 1;
            sent.borrow_mut().push_back((number, Instant::now()));
            let beat = format!("UPDATE bench.beat SET number = {number}");
            outcome = outcome.and(
                beats
                    .query_drop(&beat)
                    .await
                    .map_err(LabError::database(beat))
                    .map(|()| Vec::new()),
            );
        }
        more.set(false);
        outcome
    });
    let watching = local.spawn_local(async move {
        let mut lag = Vec::new();
        while sending.get() || !way.borrow().is_empty() {
            let seen = rows(&mut replica, BEAT)
                .await?
                .first()
                .copied()
                .unwrap_or_default();
            {
                let mut way = way.borrow_mut();
                while way.front().is_some_and(|(number, _)| *number <= seen) {
                    lag.extend(way.pop_front().map(|(_, sent)| sent.elapsed()));
                }
            }
            if begun.elapsed() > time + CATCH_UP {
                return Err(LabError::Timeout {
                    what: format!("a beat on the replica, {name}"),
                    after: CATCH_UP,
                });
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        Ok(lag)
    });
    local
        .run_until(async {
            let took = all(tasks).await?;
            let wrote = begun.elapsed();
            all(vec![beating]).await?;
            let lag = all(vec![watching]).await?;
            Ok(Paced {
                per_second: took.len() as f64 / wrote.as_secs_f64(),
                commits: Times::of(&took),
                lag: Times::of(&lag),
            })
        })
        .await
}

/// Waits until the replica has everything that the primary has now.
///
/// # Errors
/// When it has not within [`CATCH_UP`].
pub async fn caught_up(pair: &Pair) -> Result<(), LabError> {
    let mut primary = pair.root_of_primary().await?;
    let beat = "UPDATE bench.beat SET number = number + 1";
    primary.query_drop(beat).await.map_err(LabError::database(beat))?;
    let last: Vec<u64> = rows(&mut primary, BEAT).await?;
    let mut replica = pair.root_of_replica().await?;
    let begun = Instant::now();
    while rows::<u64>(&mut replica, BEAT).await? != last {
        if begun.elapsed() > CATCH_UP {
            return Err(LabError::Timeout {
                what: format!("the replica, {}", pair.way.name()),
                after: CATCH_UP,
            });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn all(tasks: Vec<JoinHandle<Result<Vec<Duration>, LabError>>>) -> Result<Vec<Duration>, LabError> {
    let mut found = Vec::new();
    for task in tasks {
        let ended = task.await.map_err(|error| LabError::Unknown(error.to_string()))?;
        found.extend(ended?);
    }
    Ok(found)
}
