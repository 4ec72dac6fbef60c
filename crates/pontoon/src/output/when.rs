//! Moments and spans as people read them. Always UTC: servers stand in many zones.

use std::time::Duration;

use pontoon_fleet::UnixMillis;
use time::OffsetDateTime;

/// `12:04:31.2`
pub fn clock(at: UnixMillis) -> String {
    match moment(at) {
        Some(at) => {
            format!(
                "{:02}:{:02}:{:02}.{}",
                at.hour(),
                at.minute(),
                at.second(),
                at.millisecond() / 100
            )
        }
        None => "--:--:--.-".to_owned(),
    }
}

/// `2026-11-22 12:04:31.250`
pub fn date_clock(at: UnixMillis) -> String {
    match moment(at) {
        Some(at) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.millisecond()
        ),
        None => format!("{} ms", at.0),
    }
}

/// The one or two largest units: `14 s`, `3 min 20 s`, `2 h`, `5 d 3 h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (large, large_unit, small, small_unit) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3_600 => (seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => (seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => (seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    };
    if small == 0 {
        format!("{large} {large_unit}")
    } else {
        format!("{large} {large_unit} {small} {small_unit}")
    }
}

fn moment(at: UnixMillis) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_spans_read_well() {
        let at = UnixMillis(1_795_349_071_250);
        assert_eq!(date_clock(at), "2026-11-22 12:04:31.250");
        assert_eq!(clock(at), "12:04:31.2");
        assert_eq!(date_clock(UnixMillis(u64::MAX)), format!("{} ms", u64::MAX));
        for (seconds, text) in [
            (0, "0 s"),
            (14, "14 s"),
            (60, "1 min"),
            (200, "3 min 20 s"),
            (7200, "2 h"),
            (442_800, "5 d 3 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
