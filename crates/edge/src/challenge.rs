//! What an authority asks for to see that a name is ours (ACME, HTTP-01, RFC 8555 section 8.3).
//!
//! The answer is the token and the thumbprint of the fleet's account. The thumbprint is in the view, so every edge
//! answers every challenge, whichever server ordered, and whatever has happened to it since. Anybody may ask: the answer
//! is worth something only to who has the account's key.

use std::sync::Arc;

/// Where it asks.
const PREFIX: &[u8] = b"/.well-known/acme-challenge/";

/// Longer than any token. They have 22 characters at least (RFC 8555 section 8.3), and that is the authority's business.
const MAX_TOKEN: usize = 256;

/// The body of the answer to a request for `target`; `None` when it asks for something else.
pub fn body(method: &[u8], target: &[u8], thumbprint: impl FnOnce() -> Option<Arc<str>>) -> Option<String> {
    let token = target.strip_prefix(PREFIX)?;
    let base64url = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let asks = matches!(method, b"GET" | b"HEAD") && (1..=MAX_TOKEN).contains(&token.len());
    if !asks || !token.iter().all(base64url) {
        return None;
    }
    let token = std::str::from_utf8(token).ok()?;
    Some(format!("{token}.{}", thumbprint()?))
}

#[cfg(test)]
mod tests {
    use super::body;

    #[test]
    fn a_token_is_answered_with_the_thumbprint_and_nothing_else_is() {
        let ask =
            |method: &str, target: &str| body(method.as_bytes(), target.as_bytes(), || Some("thumb".into()));
        let at = "/.well-known/acme-challenge/";
        assert_eq!(
            ask("GET", &format!("{at}aZ0-_9")).as_deref(),
            Some("aZ0-_9.thumb")
        );
        assert!(ask("HEAD", &format!("{at}x")).is_some());
        for token in [
            "",
            "a/b",
            "a?b",
            "a%0d%0aX: y",
            "a.b",
            "<b>",
            "é",
            &"a".repeat(257),
        ] {
            assert_eq!(ask("GET", &format!("{at}{token}")), None, "{token}");
        }
        assert_eq!(ask("POST", &format!("{at}x")), None);
        assert_eq!(ask("GET", "/.well-known/security.txt"), None);
        assert_eq!(body(b"GET", format!("{at}x").as_bytes(), || None), None);
    }
}
