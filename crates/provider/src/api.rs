//! What the providers' interfaces have in common: one request, its answer as JSON, and what the status means.

use std::time::{Duration, SystemTime};

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use pontoon_config::Credentials;
use pontoon_lease::Secret;
use pontoon_lease::http::Client;
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{MoveError, secret};

/// Where the interface is, and how one asks.
#[derive(Debug)]
pub(crate) struct Api {
    client: Client,
    /// Without a slash at its end.
    url: String,
    credentials: Option<Credentials>,
}

/// A request's body.
pub(crate) enum Body {
    Empty,
    Json(Value),
    Form(String),
}

/// A header that says who asks: its name and what it says.
pub(crate) type Proof = (http::HeaderName, Zeroizing<String>);

impl Api {
    pub(crate) fn new(url: &str, credentials: &Option<Credentials>) -> Result<Api, MoveError> {
        let files = Default::default();
        Ok(Api {
            client: Client::with_files(REQUEST, files).map_err(MoveError::Unusable)?,
            url: url.trim_end_matches('/').to_owned(),
            credentials: credentials.clone(),
        })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub(crate) fn secret(&self) -> Result<Secret, MoveError> {
        secret::read(&self.credentials)
    }

    /// Its host, for people.
    fn place(&self) -> String {
        let rest = self.url.split("://").nth(1).unwrap_or(&self.url);
        rest.split('/').next().unwrap_or(rest).to_owned()
    }

    /// `Authorization: Bearer` with the line `token` of the credentials.
    pub(crate) fn bearer(&self) -> Result<Vec<Proof>, MoveError> {
        let secret = self.secret()?;
        let token = secret.need("token").map_err(MoveError::Credentials)?;
        Ok(vec![(AUTHORIZATION, Zeroizing::new(format!("Bearer {token}")))])
    }

    /// Asks, and reads the answer.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        proofs: Vec<Proof>,
        body: Body,
    ) -> Result<T, MoveError> {
        let answer = self.send(method, path, proofs, body).await?;
        let found = self.sorted(&answer)?;
        serde_json::from_value(found).map_err(|error| self.nonsense(error.to_string()))
    }

    /// Asks, when nothing of the answer matters but that it was taken.
    pub(crate) async fn tell(
        &self,
        method: Method,
        path: &str,
        proofs: Vec<Proof>,
        body: Body,
    ) -> Result<(), MoveError> {
        let answer = self.send(method, path, proofs, body).await?;
        self.sorted(&answer).map(drop)
    }

    pub(crate) fn nonsense(&self, why: String) -> MoveError {
        MoveError::Nonsense {
            place: self.place(),
            why,
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        proofs: Vec<Proof>,
        body: Body,
    ) -> Result<Response<Vec<u8>>, MoveError> {
        let (kind, bytes) = match body {
            Body::Empty => (None, Vec::new()),
            Body::Json(value) => (Some("application/json"), value.to_string().into_bytes()),
            Body::Form(text) => (Some("application/x-www-form-urlencoded"), text.into_bytes()),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(self.url(path))
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("pontoon/", env!("CARGO_PKG_VERSION")));
        if let Some(kind) = kind {
            request = request.header(CONTENT_TYPE, kind);
        }
        for (name, value) in proofs {
            let mut value = http::HeaderValue::from_str(&value)
                .map_err(|_| MoveError::Credentials("a character that HTTP does not allow".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        let request = request
            .body(bytes)
            .map_err(|error| MoveError::Unusable(error.to_string()))?;
        self.client
            .send(request)
            .await
            .map_err(|fault| MoveError::Unanswered(fault.to_string()))
    }

    /// What an answer means. Hetzner Robot says 403 where others say 429.
    fn sorted(&self, answer: &Response<Vec<u8>>) -> Result<Value, MoveError> {
        let status = answer.status();
        let read: Result<Value, _> = serde_json::from_slice(answer.body());
        if status.is_success() {
            return match (read, answer.body().is_empty()) {
                (Ok(value), _) => Ok(value),
                (Err(_), true) => Ok(Value::Null),
                (Err(error), false) => Err(self.nonsense(error.to_string())),
            };
        }
        let (code, said) = words(status, read.ok().as_ref(), answer.body());
        let place = self.place();
        let limited =
            status == StatusCode::TOO_MANY_REQUESTS || code.eq_ignore_ascii_case("rate_limit_exceeded");
        Err(match status {
            _ if limited => MoveError::Limited {
                place,
                after: wait(answer.headers(), SystemTime::now()),
            },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => MoveError::Denied { place, said },
            StatusCode::NOT_FOUND => MoveError::Unknown { place, said },
            StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::LOCKED => {
                MoveError::Locked { place, said }
            }
            _ if status.is_client_error() => MoveError::Refused { place, said },
            _ if status.is_server_error() => MoveError::Failed { place, said },
            _ => MoveError::Nonsense {
                place,
                why: format!("status {status}"),
            },
        })
    }
}

/// A code and a sentence, wherever the provider has put them.
fn words(status: StatusCode, answer: Option<&Value>, bytes: &[u8]) -> (String, String) {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(clean);
    let inner = answer.map(|answer| {
        answer
            .get("error")
            .filter(|error| error.is_object())
            .unwrap_or(answer)
    });
    let field = |name: &str| text(inner.and_then(|inner| inner.get(name)));
    let code = field("code").or_else(|| field("id")).or_else(|| field("class"));
    let message = field("message").or_else(|| match answer {
        None => Some(clean(&String::from_utf8_lossy(bytes))).filter(|text| !text.is_empty()),
        Some(_) => None,
    });
    let said: Vec<String> = [Some(status.as_u16().to_string()), code.clone(), message]
        .into_iter()
        .flatten()
        .collect();
    (code.unwrap_or_default(), said.join(" "))
}

/// At most 200 characters of what somebody said, without control characters: it goes into logs and onto screens.
pub(crate) fn clean(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(200).map(plain).collect()
}

/// `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3), else the moment in `RateLimit-Reset` (Hetzner Cloud and
/// DigitalOcean: Unix time), else a minute.
fn wait(headers: &HeaderMap, now: SystemTime) -> Duration {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    };
    let since = |at: SystemTime| at.duration_since(now).unwrap_or_default();
    let retry = text(RETRY_AFTER.as_str()).and_then(|text| {
        let seconds = text.parse().map(Duration::from_secs).ok();
        seconds.or_else(|| httpdate::parse_http_date(text).ok().map(since))
    });
    let reset = || {
        let at: u64 = text("ratelimit-reset")?.parse().ok()?;
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(at))
            .map(since)
    };
    retry.or_else(reset).unwrap_or(LIMITED)
}

/// How long one request may take. Hetzner Robot answers when the switch is done, after up to two minutes.
const REQUEST: Duration = Duration::from_secs(120);

/// How long a provider that says «too many» and no more is left alone.
const LIMITED: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_to_wait_is_read_in_all_three_forms_and_nonsense_is_a_minute() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (name, value, seconds) in [
            ("retry-after", "17", 17),
            ("retry-after", "Tue, 14 Nov 2023 22:13:30 GMT", 10),
            ("retry-after", "Thu, 14 Nov 2013 22:13:30 GMT", 0),
            ("retry-after", "soon", 60),
            ("retry-after", "-1", 60),
            ("ratelimit-reset", "1700000042", 42),
            ("ratelimit-reset", "18446744073709551615", 60),
            ("ratelimit-reset", "", 60),
            ("x", "y", 60),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(wait(&headers, now).as_secs(), seconds, "{name}: {value}");
        }
    }

    #[test]
    fn what_a_provider_says_is_found_where_it_puts_it_and_cut() {
        for (body, code, said) in [
            (
                r#"{"error":{"code":"locked","message":"busy"}}"#,
                "locked",
                "409 locked busy",
            ),
            (
                r#"{"id":"unprocessable_entity","message":"pending event"}"#,
                "unprocessable_entity",
                "409 unprocessable_entity pending event",
            ),
            (
                r#"{"class":"Client::Conflict","message":"task"}"#,
                "Client::Conflict",
                "409 Client::Conflict task",
            ),
            ("<html>\n", "", "409 <html>"),
            ("", "", "409"),
            (r#"{"error":7}"#, "", "409"),
        ] {
            let read = serde_json::from_slice(body.as_bytes()).ok();
            let found = words(StatusCode::CONFLICT, read.as_ref(), body.as_bytes());
            assert_eq!(found, (code.to_owned(), said.to_owned()), "{body}");
        }
        let long = "x\u{1b}[31m".repeat(1000);
        let (_, said) = words(StatusCode::CONFLICT, None, long.as_bytes());
        assert!(said.len() < 300 && !said.contains('\u{1b}'));
    }
}
