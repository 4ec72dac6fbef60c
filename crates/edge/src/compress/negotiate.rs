//! What a visitor accepts (RFC 9110 section 12.5.3).

use pontoon_fleet::{Coding, Compress};

use crate::http1::head::Fields;

/// More members than any client sends; what follows them is not looked at.
const MOST: usize = 32;

/// What a visitor whose request has the head `head` gets, of what `rules` offer; `None`: the answer as it is.
pub fn accepted(rules: &Compress, head: &[u8]) -> Option<Coding> {
    let (_, fields) = Fields::parse(head).ok()?;
    let accepted = fields
        .iter()
        .filter(|(_, name, _)| name.eq_ignore_ascii_case(b"accept-encoding"))
        .flat_map(|(_, _, value)| value.split(|byte| *byte == b','));
    choose(&rules.codings, accepted)
}

/// The coding that is liked most; of those that are liked as much the first that is offered.
fn choose<'v>(offered: &[Coding], accepted: impl Iterator<Item = &'v [u8]>) -> Option<Coding> {
    let mut named: [Option<u16>; Coding::ALL.len()] = [None; Coding::ALL.len()];
    let mut any = None;
    let mut identity = None;
    for member in accepted.take(MOST) {
        let mut parts = member.split(|byte| *byte == b';');
        let name = parts.next().unwrap_or_default().trim_ascii();
        let Some(quality) = quality(parts) else {
            continue;
        };
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if is("*") {
            any = any.or(Some(quality));
        } else if is("identity") {
            identity = identity.or(Some(quality));
        }
        for (index, coding) in Coding::ALL.iter().enumerate() {
            // RFC 9110 section 8.4.1.3: x-gzip is gzip.
            if is(coding.as_str()) || (*coding == Coding::Gzip && is("x-gzip")) {
                named[index] = named[index].or(Some(quality));
            }
        }
    }
    let liked = offered.iter().filter_map(|coding| {
        let index = Coding::ALL.iter().position(|one| one == coding)?;
        Some((*coding, named[index].or(any).filter(|quality| *quality > 0)?))
    });
    // The first of the best: `max_by_key` gives the last.
    let best = liked.reduce(|best, other| if other.1 > best.1 { other } else { best })?;
    // Who would rather have it as it is gets it so.
    (best.1 >= identity.unwrap_or(0)).then_some(best.0)
}

/// A weight in thousandths (RFC 9110 section 12.4.2); `None` for one that is none: what it is of does not count then.
fn quality<'v>(parameters: impl Iterator<Item = &'v [u8]>) -> Option<u16> {
    let mut quality = 1000;
    for parameter in parameters {
        let mut sides = parameter.splitn(2, |byte| *byte == b'=');
        let name = sides.next().unwrap_or_default().trim_ascii();
        if !name.eq_ignore_ascii_case(b"q") {
            continue;
        }
        let value = sides.next()?.trim_ascii();
        let (whole, rest) = value.split_first()?;
        let digits = match rest {
            [] | [b'.'] => &[][..],
            [b'.', digits @ ..] if digits.len() <= 3 => digits,
            _ => return None,
        };
        let mut thousandths = match whole {
            b'0' => 0,
            b'1' => 1000,
            _ => return None,
        };
        for (place, digit) in [100, 10, 1].into_iter().zip(digits) {
            if !digit.is_ascii_digit() {
                return None;
            }
            thousandths += place * u16::from(digit - b'0');
        }
        if thousandths > 1000 {
            return None;
        }
        quality = thousandths;
    }
    Some(quality)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coding_that_is_liked_most_is_taken() {
        use Coding::{Br, Gzip, Zstd};
        let choose = |value: &str| choose(&Coding::ALL, value.as_bytes().split(|byte| *byte == b','));
        for (value, coding) in [
            ("", None),
            ("gzip, deflate, br, zstd", Some(Zstd)),
            ("gzip, deflate, br", Some(Br)),
            ("GZIP", Some(Gzip)),
            ("x-gzip", Some(Gzip)),
            ("gzip;q=1.0, br;q=0.9", Some(Gzip)),
            ("gzip;q=0.5, br;q=0.5", Some(Br)),
            ("gzip;q=0", None),
            ("gzip;q=0.000, *", Some(Zstd)),
            ("*;q=0", None),
            ("*", Some(Zstd)),
            ("*;q=0, gzip", Some(Gzip)),
            ("identity", None),
            ("identity;q=1, gzip;q=0.5", None),
            ("identity;q=0.5, gzip", Some(Gzip)),
            ("deflate", None),
            ("gzip;q=2", None),
            ("gzip;q=1.001", None),
            ("gzip;q=0.1234", None),
            ("gzip;q=", None),
            ("gzip;q", None),
            ("gzip;q=-1", None),
            ("gzip;q=a", None),
            (" gzip ; q=0.2 ; x=y", Some(Gzip)),
            ("gzip;q=0, gzip", None),
            (";;;,,,q=1,\u{ff}", None),
        ] {
            assert_eq!(choose(value), coding, "{value:?}");
        }
        let many = "x,".repeat(10_000) + "gzip";
        assert_eq!(choose(&many), None, "nobody sends so many");
    }
}
