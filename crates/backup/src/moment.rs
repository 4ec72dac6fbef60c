//! Up to where a database is restored.

use std::str::FromStr;

use time::{Date, Month, PrimitiveDateTime, Time};

/// Up to where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Moment {
    /// Everything that there is.
    #[default]
    Latest,
    /// What was committed before this second (since 1970), by the clock of the server that wrote it.
    Before(u32),
    /// This transaction and what was committed before it.
    Through(String),
}

impl FromStr for Moment {
    type Err = String;

    /// Reads a time as people write it: `2026-11-23 06:40`, `2026-11-23T06:40:00Z`, in UTC.
    fn from_str(text: &str) -> Result<Moment, String> {
        let wrong = || format!("{text:?} is not a moment: write 2026-11-23 06:40:00, in UTC");
        let plain = text.trim().trim_end_matches(['Z', 'z']);
        let (date, clock) = plain.split_once(['T', 't', ' ']).unwrap_or((plain, "00:00"));
        let numbers = |text: &str, by: char| -> Option<Vec<u16>> {
            text.split(by)
                .map(|word| {
                    let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
                    digits.then(|| word.parse().ok()).flatten()
                })
                .collect()
        };
        let at = || -> Option<i64> {
            let date = numbers(date, '-')?;
            let clock = numbers(clock, ':')?;
            let [year, month, day] = date[..] else { return None };
            let (hour, minute, second) = match clock[..] {
                [hour, minute] => (hour, minute, 0),
                [hour, minute, second] => (hour, minute, second),
                _ => return None,
            };
            let small = |number: u16| u8::try_from(number).ok();
            let month = Month::try_from(small(month)?).ok()?;
            let date = Date::from_calendar_date(i32::from(year), month, small(day)?).ok()?;
            let clock = Time::from_hms(small(hour)?, small(minute)?, small(second)?).ok()?;
            Some(PrimitiveDateTime::new(date, clock).assume_utc().unix_timestamp())
        };
        at().and_then(|seconds| u32::try_from(seconds).ok())
            .map(Moment::Before)
            .ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let at = Moment::Before(1_795_416_000);
        for text in [
            "2026-11-23 06:40",
            "2026-11-23T06:40:00Z",
            "2026-11-23 06:40:00",
            " 2026-11-23t06:40:00z ",
        ] {
            assert_eq!(text.parse::<Moment>().as_ref(), Ok(&at), "{text}");
        }
        assert_eq!("1970-01-02".parse(), Ok(Moment::Before(86_400)));
        for bad in [
            "",
            "now",
            "2026-13-01",
            "2026-02-30",
            "2026-11-23 25:00",
            "2026-11-23 6",
            "23.11.2026",
            "2026-11-23 06:40:00+02:00",
            "1969-12-31 23:59:59",
            "2026-11-23 06:40:00:00",
            "2200-01-01",
        ] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }
}
