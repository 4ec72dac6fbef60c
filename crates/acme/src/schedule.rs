//! What is due when. Pure: time and chance are arguments.

use std::time::Duration;

use pontoon_fleet::{Challenge, UnixMillis};

use crate::authority::{Failure, FailureKind, Place};
use crate::book::Entry;

/// What is asked for, as a text: when it changes, what went wrong before counts no more.
pub fn asked(place: &Place, name: &str) -> String {
    let ca = place.ca.as_deref().map(|path| path.display().to_string());
    let how = match place.challenge {
        Challenge::Http01 => "",
        Challenge::Dns01 => " dns-01",
    };
    format!(
        "{name} {} {} {}{how}",
        place.directory,
        place.email.as_deref().unwrap_or("-"),
        ca.as_deref().unwrap_or("-"),
    )
}

/// From when on `name` is to be ordered of `place`.
pub fn due(entry: Option<&Entry>, place: &Place, name: &str) -> UnixMillis {
    let Some(entry) = entry else { return UnixMillis(0) };
    let issued = entry.issued.as_ref().map(|issued| &issued.value);
    let (attempted, attempt) = match &entry.attempt {
        Some(attempt) if attempt.value.asked == asked(place, name) => (attempt.at, Some(&attempt.value)),
        _ => (UnixMillis(0), None),
    };
    let answered = attempted.max(issued.map_or(UnixMillis(0), |issued| issued.obtained));
    // An operator does not wait for what a machine has to.
    if entry.wanted.is_some_and(|wanted| wanted > answered) {
        return UnixMillis(0);
    }
    let not_before = attempt
        .filter(|attempt| attempt.failures > 0)
        .map_or(UnixMillis(0), |attempt| attempt.next);
    let wanted = issued
        .filter(|issued| issued.directory == place.directory)
        .map_or(UnixMillis(0), |issued| issued.renew_at);
    wanted.max(not_before)
}

/// When a certificate is to be renewed: at two thirds of its life, or up to a twentieth of it earlier, so that a fleet's
/// certificates, and those of all fleets that began on one day, do not come at once. `chance` is a random number.
pub fn renewal(not_before: UnixMillis, not_after: UnixMillis, chance: u16) -> UnixMillis {
    let life = u64::try_from(not_after.since(not_before).as_millis()).unwrap_or(u64::MAX);
    let earlier = (life / 20 / u64::from(u16::MAX)).saturating_mul(u64::from(chance));
    UnixMillis(
        not_before
            .0
            .saturating_add((life / 3 * 2).saturating_sub(earlier)),
    )
}

/// How long to wait after the `failures`-th failure in a row; a quarter longer at the most, by `chance`.
///
/// An authority that does not answer is asked again soon. One that says no costs one of the few failures that it allows
/// (Let's Encrypt: five an hour for a name), so what may be mended by then is tried after minutes and then seldom.
pub fn back_off(failure: &Failure, failures: u32, chance: u16) -> Duration {
    const MINUTE: u64 = 60;
    let steps: &[u64] = match failure.kind {
        FailureKind::Unreachable | FailureKind::Unproved => {
            &[MINUTE, 2 * MINUTE, 5 * MINUTE, 15 * MINUTE, 60 * MINUTE]
        }
        FailureKind::Refused => &[5 * MINUTE, 20 * MINUTE, 60 * MINUTE, 240 * MINUTE, 720 * MINUTE],
        FailureKind::Limited => &[60 * MINUTE, 180 * MINUTE, 720 * MINUTE],
    };
    let step = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
    let seconds = steps.get(step).or(steps.last()).copied().unwrap_or(MINUTE);
    let wait = Duration::from_secs(seconds).max(failure.retry_after.unwrap_or_default().min(LONGEST));
    wait + wait / 4 * u32::from(chance) / u32::from(u16::MAX)
}

/// An authority that asks for more patience is asked again nevertheless.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
