//! The outside of an OCSP response (RFC 6960 section 4.2.1): whether it is one, and says something.

/// Looks whether `response` is a successful OCSP response. Its signature is for the client to check.
pub(crate) fn check(response: &[u8]) -> Result<(), &'static str> {
    const NOT_ONE: &str = "it is not an OCSP response (DER)";
    let (tag, inside, rest) = element(response).ok_or(NOT_ONE)?;
    if tag != SEQUENCE || !rest.is_empty() {
        return Err(NOT_ONE);
    }
    let (tag, status, rest) = element(inside).ok_or(NOT_ONE)?;
    match (tag, status) {
        (ENUMERATED, [0]) => {}
        (ENUMERATED, [_]) => return Err("the OCSP responder refused to answer"),
        _ => return Err(NOT_ONE),
    }
    match element(rest) {
        Some((RESPONSE_BYTES, bytes, [])) if !bytes.is_empty() => Ok(()),
        _ => Err(NOT_ONE),
    }
}

const SEQUENCE: u8 = 0x30;
const ENUMERATED: u8 = 0x0a;
const RESPONSE_BYTES: u8 = 0xa0;

/// The first DER element: its tag, its content, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if !(1..=3).contains(&count) {
            return None;
        }
        let (digits, rest) = rest.split_at_checked(count)?;
        let length = digits
            .iter()
            .fold(0, |length, digit| length << 8 | usize::from(*digit));
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn only_a_successful_response_is_one() {
        let good = [0x30, 0x07, 0x0a, 0x01, 0x00, 0xa0, 0x02, 0x30, 0x00];
        assert_eq!(check(&good), Ok(()));
        assert!(
            check(&[0x30, 0x03, 0x0a, 0x01, 0x06])
                .unwrap_err()
                .contains("refused")
        );
        for length in 0..good.len() {
            assert!(check(&good[..length]).is_err());
        }
        assert!(check(&[&good[..], b"x"].concat()).is_err());
        assert!(check(b"-----BEGIN").is_err());
        assert!(check(&[0x30, 0x84, 255, 255, 255, 255]).is_err());
    }
}
