//! A key in etcd, through its JSON gateway (etcd's manual, «gRPC gateway»): transactions that compare `mod_revision`.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode};
use pontoon_config::EtcdTls;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::cell::{Cell, CellError, Content, MAX_BYTES, Put};
use crate::http::{Client, Fault};
use crate::{Secret, Version};

/// Where the record is, and as whom.
#[derive(Clone, Debug)]
pub struct EtcdSettings {
    /// The members: `HOST:PORT` or URLs. Asked in this order until one takes a connection.
    pub endpoints: Vec<String>,
    /// The key.
    pub key: String,
    /// `user` and `password`; `None` means without authentication.
    pub secret: Option<Secret>,
    /// For members whose URL begins with `https://`.
    pub tls: EtcdTls,
    /// How long a request may take.
    pub patience: Duration,
}

/// The key.
#[derive(Clone, Debug)]
pub struct EtcdCell {
    client: Client,
    settings: EtcdSettings,
    /// etcd's word for who asks: to make one it computes for a tenth of a second, on purpose.
    token: Arc<Mutex<Option<String>>>,
}

impl EtcdCell {
    /// The key; nothing is asked yet.
    ///
    /// # Errors
    /// When the settings are no such thing, in words.
    pub fn new(settings: &EtcdSettings) -> Result<EtcdCell, String> {
        if settings.endpoints.is_empty() {
            return Err("no etcd member is named".to_owned());
        }
        if let Some(secret) = &settings.secret {
            secret.need("user")?;
            secret.need("password")?;
        }
        Ok(EtcdCell {
            client: Client::with_files(settings.patience, settings.tls.clone())?,
            settings: settings.clone(),
            token: Arc::default(),
        })
    }

    async fn ask(&self, path: &str, body: &Value) -> Result<Value, CellError> {
        let Some(secret) = &self.settings.secret else {
            return self.send(path, body, None).await;
        };
        let mut known = self.token.lock().await;
        if let Some(token) = known.clone() {
            drop(known);
            match self.send(path, body, Some(&token)).await {
                // It ends after five minutes, and with each change of users: refused before anything was done.
                Err(CellError::Rejected(why)) if is_stale(&why) => {}
                other => return other,
            }
            known = self.token.lock().await;
            // Another has asked for a new one meanwhile.
            if *known == Some(token) {
                *known = None;
            }
        }
        let token = match known.clone() {
            Some(token) => token,
            None => {
                let token = self.log_in(secret).await?;
                known.insert(token).clone()
            }
        };
        drop(known);
        self.send(path, body, Some(&token)).await
    }

    async fn log_in(&self, secret: &Secret) -> Result<String, CellError> {
        let need = |name| secret.need(name).map_err(CellError::Rejected);
        let login = json!({ "name": need("user")?, "password": need("password")? });
        let answer = match self.send("/v3/auth/authenticate", &login, None).await {
            // Nothing was asked for yet.
            Err(CellError::Doubt(why)) => return Err(CellError::NotSent(why)),
            other => other?,
        };
        let token = answer.get("token").and_then(Value::as_str).map(str::to_owned);
        token.ok_or_else(|| CellError::Rejected("etcd's answer has no token".to_owned()))
    }

    async fn send(&self, path: &str, body: &Value, token: Option<&str>) -> Result<Value, CellError> {
        let mut unreachable = Vec::new();
        for endpoint in &self.settings.endpoints {
            let base = if endpoint.contains("://") {
                endpoint.clone()
            } else {
                format!("http://{endpoint}")
            };
            let mut ask = Request::builder()
                .method(Method::POST)
                .uri(format!("{}{path}", base.trim_end_matches('/')))
                .header(CONTENT_TYPE, "application/json");
            if let Some(token) = token {
                ask = ask.header(AUTHORIZATION, token);
            }
            let ask = ask
                .body(body.to_string().into_bytes())
                .map_err(|error| CellError::NotSent(format!("{endpoint}: {error}")))?;
            let answer = match self.client.send(ask).await {
                Ok(answer) => answer,
                Err(fault @ Fault::NotSent(..)) => {
                    unreachable.push(fault.to_string());
                    continue;
                }
                Err(fault @ Fault::Lost(..)) => return Err(CellError::Doubt(fault.to_string())),
            };
            let status = answer.status();
            let text: String = String::from_utf8_lossy(answer.body()).chars().take(200).collect();
            let mut told = format!("{endpoint} answered {status}: {text}");
            if text.contains("CommonName of client") {
                told = format!(
                    "{}; with users etcd wants a client certificate without a common name",
                    told.trim_end()
                );
            }
            return match status {
                StatusCode::OK => serde_json::from_slice(answer.body()).map_err(|_| CellError::Doubt(told)),
                // Timed out inside, no leader, too many requests: it may have been proposed.
                status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    Err(CellError::Doubt(told))
                }
                _ => Err(CellError::Rejected(told)),
            };
        }
        Err(CellError::NotSent(unreachable.join("; ")))
    }

    async fn load(&self) -> Result<Content, CellError> {
        let answer = self
            .ask(
                "/v3/kv/range",
                &json!({ "key": STANDARD.encode(&self.settings.key) }),
            )
            .await?;
        let Some(found) = answer.get("kvs").and_then(|found| found.get(0)) else {
            // An answer of etcd has a header with its revision; what has none is not etcd's.
            return match revision(answer.get("header").and_then(|header| header.get("revision"))) {
                Some(_) => Ok(None),
                None => Err(CellError::Rejected(format!("that is not etcd: {answer:.100}"))),
            };
        };
        let strange = || CellError::Rejected("etcd's answer is not as its manual says".to_owned());
        let version = revision(found.get("mod_revision")).ok_or_else(strange)?;
        let value = found.get("value").and_then(Value::as_str).unwrap_or_default();
        let bytes = STANDARD.decode(value).map_err(|_| strange())?;
        if bytes.len() > MAX_BYTES {
            return Err(CellError::Rejected(format!(
                "a value of {} bytes is no lease",
                bytes.len()
            )));
        }
        Ok(Some((bytes, version)))
    }

    async fn write(&self, expected: Option<&Version>, body: Vec<u8>) -> Result<Put, CellError> {
        let key = STANDARD.encode(&self.settings.key);
        let expected = expected.map_or("0", Version::as_str);
        let transaction = json!({
            "compare": [{ "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": expected }],
            "success": [{ "request_put": { "key": key, "value": STANDARD.encode(body) } }],
        });
        let answer = self.ask("/v3/kv/txn", &transaction).await?;
        let done = answer.get("succeeded").and_then(Value::as_bool).unwrap_or(false);
        match revision(answer.get("header").and_then(|header| header.get("revision"))) {
            Some(version) if done => Ok(Put::Taken(version)),
            Some(_) => Ok(Put::Refused),
            None => Err(CellError::Doubt(
                "etcd's answer is not as its manual says".to_owned(),
            )),
        }
    }
}

impl Cell for EtcdCell {
    fn place(&self) -> String {
        format!(
            "etcd key {} at {}",
            self.settings.key,
            self.settings.endpoints.join(", ")
        )
    }

    fn get(&self) -> BoxFuture<'_, Result<Content, CellError>> {
        self.load().boxed()
    }

    fn put<'a>(
        &'a self,
        expected: Option<&'a Version>,
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<Put, CellError>> {
        self.write(expected, body).boxed()
    }

    fn beside(&self, name: &str) -> Box<dyn Cell> {
        let mut other = self.clone();
        other.settings.key = format!("{}-{name}", self.settings.key);
        Box::new(other)
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), CellError>> {
        async move {
            let key = json!({ "key": STANDARD.encode(&self.settings.key) });
            self.ask("/v3/kv/deleterange", &key).await.map(drop)
        }
        .boxed()
    }
}

/// What etcd says of a token that was good once (`server/etcdserver/api/v3rpc/rpctypes/error.go`).
fn is_stale(why: &str) -> bool {
    why.contains("invalid auth token") || why.contains("revision of auth store is old")
}

/// 64-bit numbers are strings in protobuf's JSON.
fn revision(value: Option<&Value>) -> Option<Version> {
    let text = value?.as_str()?;
    text.parse::<u64>().ok().map(|_| Version::new(text))
}
