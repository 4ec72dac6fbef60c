//! Whether a store takes one winner: asked by racing, because documentation and headers say less than races do.

use std::time::{Duration, Instant};

use futures::future::join_all;
use pontoon_fleet::{Code, Refusal};
use serde::Serialize;

use crate::Version;
use crate::cell::{Cell, CellError, Put};

/// How hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// How many race each time.
    pub writers: usize,
    /// How often; each round has one race to create and one to replace.
    pub rounds: usize,
}

impl Default for Effort {
    /// 4 writers, 50 rounds.
    fn default() -> Effort {
        Effort {
            writers: 4,
            rounds: 50,
        }
    }
}

/// What a store did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which store.
    pub place: String,
    /// How many raced each time.
    pub writers: usize,
    /// Rounds that were run.
    pub rounds: usize,
    /// Races to create with more than one winner.
    pub create_several_winners: usize,
    /// Races to replace with more than one winner.
    pub update_several_winners: usize,
    /// Writes that were taken although their condition did not hold, each alone on the field.
    pub stale_taken: usize,
    /// Races whose only winner was not there afterwards.
    pub lost: usize,
    /// Writes that were refused and were there all the same.
    pub refused_and_taken: usize,
    /// Requests without an answer, while others were answered.
    pub unanswered: usize,
    /// The middle and the slowest but 1 % of the requests, in milliseconds.
    pub request_p50_ms: u64,
    /// See `request_p50_ms`.
    pub request_p99_ms: u64,
    /// The first thing that went wrong, in full.
    pub evidence: Option<String>,
}

impl Report {
    /// Whether a lease may be kept there.
    ///
    /// # Errors
    /// [`Code::F005`] when two won, [`Code::F006`] when conditions do not count or writes are lost.
    pub fn verdict(&self) -> Result<(), Refusal> {
        let (create, update) = (self.create_several_winners, self.update_several_winners);
        let refuse = |code, what: &str| {
            let mut refusal = Refusal::new(code, format!("{what}: {}", self.place)).because(format!(
                "{} rounds of {} writers: several winners in {create} races to create and {update} to replace; {} stale \
                 writes taken; {} winners lost",
                self.rounds, self.writers, self.stale_taken, self.lost
            ));
            if let Some(evidence) = &self.evidence {
                refusal = refusal.because(evidence.clone());
            }
            refusal.next(
                "etcd passes; any other store must be asked",
                "pontoon lease probe URL",
            )
        };
        if self.stale_taken > 0 || self.lost > 0 {
            return Err(refuse(
                Code::F006,
                "the store does not keep the conditions of writes",
            ));
        }
        if create + update > 0 {
            return Err(refuse(Code::F005, "the store lets two writers win"));
        }
        Ok(())
    }
}

/// Races in objects beside `cell`, which it removes again. `names` must be new each time: it is part of their names.
///
/// # Errors
/// [`Code::N002`] when the store does not answer, or refuses to be asked.
pub async fn probe(cell: &dyn Cell, name: &str, effort: Effort) -> Result<Report, Refusal> {
    let mut report = Report {
        place: cell.place(),
        writers: effort.writers,
        ..Report::default()
    };
    let mut times = Vec::new();
    for round in 0..effort.rounds {
        let object = cell.beside(&format!("probe-{name}-{round}"));
        let outcome = one_round(&*object, round, effort.writers, &mut report, &mut times).await;
        // What is left behind is small and named; a store that does not answer is told of below.
        let _ = object.remove().await;
        outcome.map_err(|error| silent(cell, &error, round))?;
        report.rounds += 1;
    }
    times.sort_unstable();
    let at = |share: usize| {
        times
            .get(times.len().saturating_sub(1) * share / 100)
            .copied()
            .unwrap_or_default()
    };
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    (report.request_p50_ms, report.request_p99_ms) = (ms(at(50)), ms(at(99)));
    Ok(report)
}

fn silent(cell: &dyn Cell, error: &CellError, round: usize) -> Refusal {
    Refusal::new(
        Code::N002,
        format!("the lease store cannot be probed: {}", cell.place()),
    )
    .because(error.to_string())
    .because(format!("after {round} whole rounds"))
}

async fn one_round(
    object: &dyn Cell,
    round: usize,
    writers: usize,
    report: &mut Report,
    times: &mut Vec<Duration>,
) -> Result<(), CellError> {
    if object.get().await?.is_some() {
        return Err(CellError::Rejected(
            "the name is taken by another object".to_owned(),
        ));
    }
    let (created, winners) = race(object, None, "create", round, writers, report, times).await?;
    report.create_several_winners += usize::from(winners > 1);
    let (_, winners) = race(object, Some(&created), "replace", round, writers, report, times).await?;
    report.update_several_winners += usize::from(winners > 1);
    // Nobody else is there now, so a store that takes these does not look at the condition.
    for (stale, what) in [(Some(&created), "an old version"), (None, "no version")] {
        let body = format!("stale {round} {what}");
        let taken = match object.put(stale, body.clone().into_bytes()).await {
            Ok(Put::Taken(_)) => true,
            Ok(Put::Refused) => false,
            Err(error @ (CellError::NotSent(_) | CellError::Rejected(_))) => return Err(error),
            Err(CellError::Doubt(_)) => object
                .get()
                .await?
                .is_some_and(|(there, _)| there == body.as_bytes()),
        };
        if taken {
            report.stale_taken += 1;
            report
                .evidence
                .get_or_insert_with(|| format!("round {round}: a write that expected {what} was taken"));
        }
    }
    Ok(())
}

/// All write at once with one condition. Gives the version that is there afterwards, and how many were told that they won.
async fn race(
    object: &dyn Cell,
    expected: Option<&Version>,
    what: &str,
    round: usize,
    writers: usize,
    report: &mut Report,
    times: &mut Vec<Duration>,
) -> Result<(Version, usize), CellError> {
    // Bodies differ, so that their ETags do.
    let body = |writer: usize| format!("{what} {round} by {writer}").into_bytes();
    let answers = join_all((0..writers).map(|writer| async move {
        let begun = Instant::now();
        (object.put(expected, body(writer)).await, begun.elapsed())
    }))
    .await;
    let mut winners = Vec::new();
    let mut doubts = Vec::new();
    for (writer, (answer, time)) in answers.into_iter().enumerate() {
        times.push(time);
        match answer {
            Ok(Put::Taken(_)) => winners.push(writer),
            Ok(Put::Refused) => {}
            Err(CellError::Doubt(_)) => doubts.push(writer),
            Err(error) => return Err(error),
        }
    }
    report.unanswered += doubts.len();
    let found = object.get().await?;
    let there = found
        .as_ref()
        .and_then(|(bytes, _)| (0..writers).find(|writer| body(*writer) == *bytes));
    let kept = there.is_some_and(|writer| winners.contains(&writer) || doubts.contains(&writer));
    if winners.len() > 1 {
        report.evidence.get_or_insert_with(|| {
            format!("round {round}, {what}: writers {winners:?} of {writers} were all told that they won, and {there:?} is there")
        });
    }
    if let Some(writer) = there.filter(|_| !kept) {
        report.refused_and_taken += 1;
        if winners.is_empty() {
            winners.push(writer);
        }
    }
    if !winners.is_empty()
        && there.is_none_or(|writer| !winners.contains(&writer) && !doubts.contains(&writer))
    {
        report.lost += 1;
        report
            .evidence
            .get_or_insert_with(|| format!("round {round}, {what}: {winners:?} won, and {there:?} is there"));
    }
    match found {
        Some((_, version)) => Ok((version, winners.len())),
        None => Err(CellError::Doubt(match doubts.is_empty() {
            true => format!("round {round}, {what}: nothing is there, although {winners:?} won"),
            false => format!(
                "round {round}, {what}: nothing is there, and {} requests had no answer",
                doubts.len()
            ),
        })),
    }
}
