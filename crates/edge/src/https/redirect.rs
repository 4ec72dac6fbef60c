//! Where a visitor who came over plain HTTP is sent.

/// The field that sends a request for `target` at `host` to HTTPS at `port`.
pub fn location(host: &[u8], target: &[u8], port: u16) -> Vec<u8> {
    let mut field = b"Location: https://".to_vec();
    field.extend_from_slice(without_port(host));
    if port != 443 {
        field.extend_from_slice(format!(":{port}").as_bytes());
    }
    // `OPTIONS *` has no path.
    field.extend_from_slice(if target == b"*" { b"/" } else { target });
    field.extend_from_slice(b"\r\n");
    field
}

fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|byte| *byte == b':') {
        // A colon within brackets is part of an IPv6 address.
        Some(colon) if host[colon..].iter().all(|byte| *byte != b']') => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::location;

    #[test]
    fn the_same_place_over_https() {
        let to = |host: &str, target: &str, port| {
            String::from_utf8(location(host.as_bytes(), target.as_bytes(), port)).unwrap()
        };
        assert_eq!(
            to("a.example", "/x?y=1", 443),
            "Location: https://a.example/x?y=1\r\n"
        );
        assert_eq!(to("a.example:80", "/", 443), "Location: https://a.example/\r\n");
        assert_eq!(
            to("[2001:db8::1]", "/", 443),
            "Location: https://[2001:db8::1]/\r\n"
        );
        assert_eq!(
            to("[2001:db8::1]:8080", "/", 8443),
            "Location: https://[2001:db8::1]:8443/\r\n"
        );
        assert_eq!(to("a.example", "*", 443), "Location: https://a.example/\r\n");
    }
}
