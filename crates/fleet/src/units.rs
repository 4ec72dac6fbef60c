//! Units in strings: `"250ms"`, `"10s"`, `"64MiB"`, `"20%"`. One parser and one printer for each, used by the
//! configuration, the command line and every page; and serde helpers that carry a [`Duration`] as milliseconds.

use std::time::Duration;

/// Reads a duration such as `250ms`, `10s`, `5m`, `1h`, `30d`. A number without a unit is refused.
///
/// # Errors
/// A sentence that says what is wrong with `text`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_number(text)?;
    let nanos_per_unit: u64 = match unit {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        "" => return Err(format!("{text:?} has no unit: write \"{text}s\" or \"{text}ms\"")),
        other => {
            return Err(format!(
                "{other:?} is not a unit of time: use us, ms, s, m, h or d"
            ));
        }
    };
    Ok(Duration::from_nanos(
        scale(number, nanos_per_unit).ok_or_else(|| format!("{text:?} is too long"))?,
    ))
}

/// Prints a duration so that [`parse_duration`] reads the same value back.
pub fn format_duration(span: Duration) -> String {
    let nanos = span.as_nanos();
    for (unit, size) in [
        ("d", 86_400_000_000_000u128),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
    ] {
        if nanos != 0 && nanos.is_multiple_of(size) {
            return format!("{}{unit}", nanos / size);
        }
    }
    if nanos == 0 {
        return "0s".to_owned();
    }
    format!("{}us", nanos / 1_000)
}

/// Reads a size such as `512MiB`, `1GiB`, `64KiB`, `10MB`, `100B`. A number without a unit is refused.
///
/// # Errors
/// A sentence that says what is wrong with `text`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split_number(text)?;
    let size: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "" => {
            return Err(format!(
                "{text:?} has no unit: write \"{text}MiB\" or \"{text}B\""
            ));
        }
        other => {
            return Err(format!(
                "{other:?} is not a unit of size: use B, KiB, MiB, GiB, TiB, KB, MB, GB or TB"
            ));
        }
    };
    scale(number, size).ok_or_else(|| format!("{text:?} is too large"))
}

/// Prints a size so that [`parse_bytes`] reads the same value back.
pub fn format_bytes(bytes: u64) -> String {
    for (unit, size) in [
        ("TiB", 1u64 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ] {
        if bytes != 0 && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

/// A size for people: one decimal, binary units (`1.2 GiB`).
pub fn human_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// Reads a share such as `20%` or `0.1%`, as thousandths of a percent (so that it can be compared exactly).
///
/// # Errors
/// A sentence that says what is wrong with `text`.
pub fn parse_share(text: &str) -> Result<u32, String> {
    let Some(number) = text.strip_suffix('%') else {
        return Err(format!("{text:?} is not a share: write it as \"20%\""));
    };
    let (number, rest) = split_number(number)?;
    if !rest.is_empty() {
        return Err(format!("{text:?} is not a share: write it as \"20%\""));
    }
    match scale(number, 1_000) {
        Some(value) if value <= 100_000 => Ok(value as u32),
        _ => Err(format!("{text:?} is more than 100%")),
    }
}

/// Prints thousandths of a percent so that [`parse_share`] reads the same value back.
pub fn format_share(thousandths: u32) -> String {
    let (whole, part) = (thousandths / 1_000, thousandths % 1_000);
    if part == 0 {
        return format!("{whole}%");
    }
    format!("{whole}.{}%", format!("{part:03}").trim_end_matches('0'))
}

/// A decimal number as its digits and how many of them stand behind the point.
type Decimal = (u64, u32);

fn split_number(text: &str) -> Result<(Decimal, &str), String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{part}");
    if whole.is_empty() || part.contains('.') || part.len() > 9 || (number.contains('.') && part.is_empty()) {
        return Err(format!("{text:?} does not begin with a number"));
    }
    let value = digits
        .parse()
        .map_err(|_| format!("{text:?} is too large a number"))?;
    Ok(((value, part.len() as u32), unit.trim_start_matches(' ')))
}

/// `decimal × size`, exactly or not at all.
fn scale((digits, decimals): Decimal, size: u64) -> Option<u64> {
    let product = u128::from(digits) * u128::from(size);
    let divisor = 10u128.pow(decimals);
    if !product.is_multiple_of(divisor) {
        return None;
    }
    u64::try_from(product / divisor).ok()
}

/// Carries a [`Duration`] as whole milliseconds: `#[serde(with = "pontoon_fleet::units::millis")]`.
pub mod millis {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes whole milliseconds.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads whole milliseconds.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Ok(Duration::from_millis(u64::deserialize(deserializer)?))
    }
}

/// As [`millis`], for a [`Duration`] that may be missing.
pub mod optional_millis {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes whole milliseconds, or nothing.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = span.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        millis.serialize(serializer)
    }

    /// Reads whole milliseconds, or nothing.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_come_back_as_they_were() {
        for text in ["250ms", "1s", "10s", "5m", "1h", "30d", "1500ms", "10us"] {
            let span = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&format_duration(span)).unwrap(), span, "{text}");
        }
        assert_eq!(parse_duration("1.5s").unwrap(), Duration::from_millis(1500));
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        assert!(parse_duration("10").unwrap_err().contains("no unit"));
        assert!(parse_bytes("512").unwrap_err().contains("no unit"));
        assert!(parse_share("20").is_err());
    }

    #[test]
    fn nonsense_is_refused_without_a_panic() {
        for bad in [
            "",
            "s",
            ".5s",
            "1..2s",
            "-1s",
            "1e9s",
            "99999999999999999999s",
            "9999999999999d",
            "1.s",
            "é",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
            assert!(parse_bytes(bad).is_err(), "{bad}");
            assert!(parse_share(bad).is_err(), "{bad}");
        }
        assert!(parse_share("101%").is_err());
    }

    #[test]
    fn sizes_and_shares_come_back_as_they_were() {
        for text in ["512MiB", "1GiB", "100B", "10MB", "1.5KiB"] {
            let bytes = parse_bytes(text).unwrap();
            assert_eq!(parse_bytes(&format_bytes(bytes)).unwrap(), bytes);
        }
        for text in ["20%", "0.1%", "0.125%", "100%", "0%"] {
            assert_eq!(format_share(parse_share(text).unwrap()), text);
        }
    }
}
