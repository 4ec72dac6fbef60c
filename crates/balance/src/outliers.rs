//! Servers whose checks are good and whose answers are not: left out for a while, never too many of them.

use pontoon_fleet::OutlierRules;

/// What is known of one server's answers. Times are milliseconds of one clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outlier {
    /// Bad answers since the last good one.
    failures: u32,
    /// Times that it was left out, without a good while between.
    times: u32,
    /// When it comes back, or came back.
    until: u64,
}

impl Outlier {
    /// An answer was good.
    pub fn good(&mut self, rules: &OutlierRules, now: u64) {
        self.failures = 0;
        // As long as it was out last: that is a good while.
        if now >= self.until + span(rules, self.times) {
            self.times = 0;
        }
    }

    /// An answer was bad. `out` of `servers` are left out already. Says until when it is left out from now on, if it is.
    pub fn bad(&mut self, rules: &OutlierRules, now: u64, out: usize, servers: usize) -> Option<u64> {
        // What was begun before it was left out, and ends after, says nothing new.
        if now < self.until {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        let allowed = (out as u64 + 1) * 100_000 <= u64::from(rules.max_share) * servers as u64;
        if self.failures < rules.failures || !allowed || out + 1 >= servers {
            return None;
        }
        self.failures = 0;
        self.times = self.times.saturating_add(1);
        self.until = now + span(rules, self.times);
        Some(self.until)
    }
}

/// For how long the `times`th time in a row.
fn span(rules: &OutlierRules, times: u32) -> u64 {
    let span = rules.eject.saturating_mul(times).min(rules.max_eject);
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bad answer of many, one a second from `from` on, that leaves it out.
    fn fails(outlier: &mut Outlier, from: u64, out: usize, servers: usize) -> Option<(u64, u64)> {
        let rules = OutlierRules::default();
        (0..20)
            .map(|n| from + n * 1000)
            .find_map(|now| outlier.bad(&rules, now, out, servers).map(|until| (now, until)))
    }

    #[test]
    fn bad_answers_in_a_row_and_no_others() {
        let (mut outlier, rules) = (Outlier::default(), OutlierRules::default());
        for second in 0..100 {
            assert_eq!(outlier.bad(&rules, second * 1000, 0, 2), None);
            if second % 4 == 3 {
                outlier.good(&rules, second * 1000);
            }
        }
        assert_eq!(fails(&mut Outlier::default(), 0, 0, 2), Some((4000, 14_000)));
    }

    #[test]
    fn longer_each_time_and_forgiven_after_a_good_while() {
        let (mut outlier, rules) = (Outlier::default(), OutlierRules::default());
        assert_eq!(fails(&mut outlier, 0, 0, 2), Some((4000, 14_000)));
        assert_eq!(fails(&mut outlier, 14_000, 0, 2), Some((18_000, 38_000)));
        outlier.good(&rules, 40_000);
        assert_eq!(fails(&mut outlier, 41_000, 0, 2), Some((45_000, 75_000)));
        outlier.good(&rules, 75_000 + 30_000);
        assert_eq!(fails(&mut outlier, 200_000, 0, 2), Some((204_000, 214_000)));
        let mut outlier = Outlier::default();
        let mut now = 0;
        for _ in 0..60 {
            now = fails(&mut outlier, now, 0, 2).unwrap().1;
        }
        let (begun, until) = fails(&mut outlier, now, 0, 2).unwrap();
        assert_eq!(until - begun, 300_000, "never longer");
    }

    #[test]
    fn never_too_many_and_never_the_last() {
        assert!(fails(&mut Outlier::default(), 0, 0, 1).is_none());
        assert!(fails(&mut Outlier::default(), 0, 1, 2).is_none());
        assert!(
            fails(&mut Outlier::default(), 0, 1, 3).is_none(),
            "a third is left out already"
        );
        assert!(fails(&mut Outlier::default(), 0, 1, 4).is_some());
    }

    #[test]
    fn answers_that_come_late_do_not_leave_it_out_for_longer() {
        let (mut outlier, rules) = (Outlier::default(), OutlierRules::default());
        let (begun, until) = fails(&mut outlier, 0, 0, 2).unwrap();
        assert!(
            (begun + 1..until)
                .step_by(100)
                .all(|now| outlier.bad(&rules, now, 0, 2).is_none())
        );
        assert_eq!(outlier.bad(&rules, until, 0, 2), None, "counted from one again");
    }
}
