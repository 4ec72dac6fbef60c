//! OVHcloud's additional addresses (API console, `/ip/{ip}` and `/ip/{ip}/move`). Servers are service names, such as
//! `ns123456.ip-198-51-100.eu`. A move is a task of the provider's, which takes up to a few minutes.

use std::fmt::Write;
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use http::{HeaderName, Method};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::api::{Api, Body, Proof};
use crate::{Assign, MoveError};

/// Europe; Canada and the United States have others (`ip.endpoint`).
pub(crate) const URL: &str = "https://eu.api.ovh.com/1.0";

#[derive(Debug)]
pub(crate) struct Ovh {
    api: Api,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "routedTo")]
    routed_to: Option<Routed>,
}

#[derive(Deserialize)]
struct Routed {
    #[serde(rename = "serviceName")]
    service_name: Option<String>,
}

impl Ovh {
    pub(crate) fn new(api: Api) -> Ovh {
        Ovh { api }
    }

    pub(crate) async fn find(&self, ip: IpAddr) -> Result<Option<String>, MoveError> {
        let path = format!("/ip/{}", block(ip));
        let proofs = self.signed(&Method::GET, &path, "").await?;
        let answer: Answer = self.api.ask(Method::GET, &path, proofs, Body::Empty).await?;
        Ok(answer.routed_to.and_then(|routed| routed.service_name))
    }

    pub(crate) async fn assign(&self, assign: Assign<'_>) -> Result<(), MoveError> {
        let path = format!("/ip/{}/move", block(assign.claim.ip));
        let body = json!({ "to": assign.target });
        let proofs = self.signed(&Method::POST, &path, &body.to_string()).await?;
        let _task: Value = self
            .api
            .ask(Method::POST, &path, proofs, Body::Json(body))
            .await?;
        Ok(())
    }

    /// Each request is signed with the provider's time («First steps with the API»): this machine's clock may be wrong.
    async fn signed(&self, method: &Method, path: &str, body: &str) -> Result<Vec<Proof>, MoveError> {
        let now: i64 = self
            .api
            .ask(Method::GET, "/auth/time", Vec::new(), Body::Empty)
            .await?;
        let secret = self.api.secret()?;
        let line = |name: &str| secret.need(name).map_err(MoveError::Credentials);
        let consumer = line("consumer_key")?;
        let url = self.api.url(path);
        let signature = signature(
            line("application_secret")?,
            consumer,
            &format!("{method}+{url}+{body}+{now}"),
        );
        let proof = |name: &'static str, value: &str| {
            (HeaderName::from_static(name), Zeroizing::new(value.to_owned()))
        };
        Ok(vec![
            proof("x-ovh-application", line("application_key")?),
            proof("x-ovh-consumer", consumer),
            proof("x-ovh-timestamp", &now.to_string()),
            proof("x-ovh-signature", &signature),
        ])
    }
}

fn signature(secret: &str, consumer: &str, rest: &str) -> String {
    let signed = Zeroizing::new(format!("{secret}+{consumer}+{rest}"));
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, signed.as_bytes());
    hash.as_ref().iter().fold("$1$".to_owned(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The provider knows blocks of addresses.
fn block(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{ip}%2F32"),
        IpAddr::V6(ip) => format!("{}%2F128", ip.to_string().replace(':', "%3A")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'S+C+GET+https://eu.api.ovh.com/1.0/ip/198.51.100.7%%2F32++1700000000' | sha1sum`
    #[test]
    fn requests_are_signed_as_the_provider_says() {
        let rest = format!("GET+{URL}/ip/{}++1700000000", block([198, 51, 100, 7].into()));
        assert_eq!(
            signature("S", "C", &rest),
            "$1$9909b2672a3904c4da1763fb47ac4e27d57a6ac1"
        );
        assert_eq!(block("2001:db8::1".parse().unwrap()), "2001%3Adb8%3A%3A1%2F128");
    }
}
