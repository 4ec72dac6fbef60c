//! How long a server takes to answer: an average in which a moment counts the less the longer ago it was.
//!
//! A plain average, and not the *peak* one of Finagle and Linkerd, which jumps to every slow answer: on web sites a
//! page may take a hundred times as long as another on the same server, and who jumps at each of them sends the others
//! away for nothing. `tests/policies.rs` plays this one beside the other rules.

/// Weight of what was before falls to 1/e in this time, milliseconds.
const FADES_IN: f32 = 10_000.0;

/// What a failure counts as, microseconds: longer than usual pages take.
const FAILURE: f32 = 2_000_000.0;

/// The average, as of some moment. Fits into 64 bits, so that threads may share one without a lock; of two that write
/// at the same time one is lost, which an average can bear.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Microseconds.
    average: f32,
    /// When that was, in milliseconds of a clock that all users of this value share.
    at: u32,
}

impl Latency {
    /// From [`Latency::to_bits`].
    pub fn from_bits(bits: u64) -> Latency {
        let [average, at] = [bits >> 32, bits & u64::from(u32::MAX)].map(|half| half as u32);
        Latency {
            average: f32::from_bits(average),
            at,
        }
    }

    /// For an atomic. Never measured is 0.
    pub fn to_bits(self) -> u64 {
        u64::from(self.average.to_bits()) << 32 | u64::from(self.at)
    }

    /// An answer took `micros`, at `now` (milliseconds, may wrap round).
    #[must_use]
    pub fn with(self, micros: u32, now: u32) -> Latency {
        let micros = micros.max(1) as f32;
        let average = if self.average > 0.0 {
            let old = self.fades(now);
            self.average * old + micros * (1.0 - old)
        } else {
            micros
        };
        Latency { average, at: now }
    }

    /// An answer took `micros` and was an error of the server: a server that fails fast is not a fast one.
    #[must_use]
    pub fn with_error(self, micros: u32, now: u32) -> Latency {
        self.with(micros.max(self.average as u32), now)
    }

    /// There was no answer: the server closed, was silent, or said something that is none. Counts at once, and not as
    /// one of many: or it would look like the fastest of all, and be asked first by everybody.
    #[must_use]
    pub fn with_failure(self, now: u32) -> Latency {
        Latency {
            average: self.at(now).max(FAILURE),
            at: now,
        }
    }

    /// The average at `now`, microseconds. It sinks while nothing is measured, so that a server that was slow is tried
    /// again.
    pub fn at(self, now: u32) -> f32 {
        self.average * self.fades(now)
    }

    fn fades(self, now: u32) -> f32 {
        // Another thread may have written it a moment after this one looked at the clock.
        let passed = now.wrapping_sub(self.at);
        let passed = if passed > u32::MAX / 2 { 0 } else { passed };
        (-(passed as f32) / FADES_IN).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_is_the_average() {
        assert_eq!(Latency::default().with(5_000, 7).at(7), 5_000.0);
    }

    #[test]
    fn what_was_long_ago_counts_less() {
        let mut latency = Latency::default().with(1_000_000, 0);
        for second in 1..=60 {
            latency = latency.with(10_000, second * 1_000);
        }
        let now = latency.at(60_000);
        assert!((10_000.0..15_000.0).contains(&now), "{now}");
    }

    #[test]
    fn it_sinks_while_nothing_is_measured() {
        let latency = Latency::default().with(900_000, 0);
        assert!(latency.at(10_000) < 400_000.0);
        assert!(latency.at(60_000) < 3_000.0);
    }

    #[test]
    fn a_server_that_fails_fast_is_not_fast() {
        let before = Latency::default().with(50_000, 0);
        assert!(before.with_error(100, 5_000).at(5_000) >= 49_999.0);
        assert!(before.with(100, 5_000).at(5_000) < 35_000.0);
    }

    #[test]
    fn a_failure_is_not_forgotten_over_the_next_good_answer() {
        let latency = Latency::default().with_failure(0).with(100, 10);
        assert!(latency.at(10) > 1_900_000.0);
        let healed = (1..=60).fold(latency, |latency, second| latency.with(10_000, second * 1_000));
        assert!(healed.at(60_000) < 20_000.0);
    }

    #[test]
    fn a_clock_that_wraps_round_or_lags_a_little_does_no_harm() {
        let latency = Latency::default().with(1_000, u32::MAX - 5);
        assert!((latency.at(10) - 1_000.0).abs() < 5.0);
        let latency = Latency::default().with(1_000, 100);
        assert_eq!(latency.at(90), 1_000.0);
    }

    #[test]
    fn it_survives_an_atomic() {
        let latency = Latency::default().with(123_456, 789);
        assert_eq!(Latency::from_bits(latency.to_bits()), latency);
        assert_eq!(Latency::default().to_bits(), 0);
    }
}
