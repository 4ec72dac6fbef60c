//! An object store that speaks S3: `If-None-Match: *` and `If-Match: ETAG`.
//!
//! `object_store` signs and reads; the requests go through [`Client`], once each: its own retries would turn a write that
//! succeeded into one that failed its condition.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::Request;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpService,
};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig, UpdateVersion};

use crate::cell::{Cell, CellError, Content, MAX_BYTES, Put};
use crate::http::{Client, Fault, chain};
use crate::{Secret, Version};

/// Where the record is, and with which keys.
#[derive(Clone, Debug)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// The object.
    pub key: String,
    /// The store's URL; `None` means AWS.
    pub endpoint: Option<String>,
    /// `access_key_id`, `secret_access_key`, and perhaps `session_token` and `region`; `None` means the environment's
    /// (`AWS_ACCESS_KEY_ID` and so on) or the machine's own role.
    pub secret: Option<Secret>,
    /// How long a request may take.
    pub patience: Duration,
}

/// The object.
#[derive(Clone, Debug)]
pub struct S3Cell {
    store: Arc<AmazonS3>,
    bucket: String,
    key: String,
    endpoint: String,
    /// Ceph RGW 16 compares the header with its ETag without quotes (fixed in 17).
    bare_etags: Arc<AtomicBool>,
}

impl S3Cell {
    /// The object; nothing is asked yet.
    ///
    /// # Errors
    /// When the settings are no such thing, in words.
    pub fn new(settings: &S3Settings) -> Result<S3Cell, String> {
        let connector = Connector {
            client: Client::new(settings.patience)?,
        };
        Ok(S3Cell {
            store: Arc::new(connect(settings, connector, 0)?),
            bucket: settings.bucket.clone(),
            key: settings.key.clone(),
            endpoint: settings.endpoint.clone().unwrap_or_else(|| "AWS".to_owned()),
            bare_etags: Arc::new(AtomicBool::new(false)),
        })
    }

    async fn load(&self) -> Result<Content, CellError> {
        let found = match self.store.get(&Path::from(self.key.as_str())).await {
            Ok(found) => found,
            // A bucket that is not there is not an object that is not there.
            Err(Error::NotFound { source, .. }) if source.to_string().contains("NoSuchBucket") => {
                return Err(CellError::Rejected(format!("there is no bucket {}", self.bucket)));
            }
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(sorted(&error)),
        };
        let version = found.meta.e_tag.clone().map(Version::new);
        if found.meta.size > MAX_BYTES as u64 {
            return Err(CellError::Rejected(format!(
                "an object of {} bytes is no lease",
                found.meta.size
            )));
        }
        let bytes = found.bytes().await.map_err(|error| sorted(&error))?;
        let version = version.ok_or_else(|| CellError::Rejected("the store gives no ETag".to_owned()))?;
        Ok(Some((bytes.to_vec(), version)))
    }

    async fn write(&self, expected: Option<&Version>, body: &[u8]) -> Result<Put, CellError> {
        let mode = expected.map_or(PutMode::Create, |version| {
            // Here and not on the way out: `If-Match` is among the headers that are signed.
            let tag = match self.bare_etags.load(Ordering::Relaxed) {
                true => version.as_str().trim_matches('"'),
                false => version.as_str(),
            };
            PutMode::Update(UpdateVersion {
                e_tag: Some(tag.to_owned()),
                version: None,
            })
        });
        let key = Path::from(self.key.as_str());
        match self
            .store
            .put_opts(&key, body.to_vec().into(), PutOptions::from(mode))
            .await
        {
            Ok(done) => match done.e_tag {
                Some(tag) => Ok(Put::Taken(Version::new(tag))),
                None => Err(CellError::Doubt(
                    "the store took the object and gives no ETag".to_owned(),
                )),
            },
            Err(Error::Precondition { .. }) => Ok(Put::Refused),
            // 412 to a create is told as this, and 409 to an update, which says nothing of how it ended.
            Err(Error::AlreadyExists { .. }) if expected.is_none() => Ok(Put::Refused),
            Err(error) => Err(sorted(&error)),
        }
    }

    async fn write_either_way(&self, expected: Option<&Version>, body: Vec<u8>) -> Result<Put, CellError> {
        let answer = self.write(expected, &body).await?;
        let (Some(expected), Put::Refused) = (expected, &answer) else {
            return Ok(answer);
        };
        if self.bare_etags.load(Ordering::Relaxed) {
            return Ok(answer);
        }
        // Refused, and the object is the one that was expected: the condition was not understood.
        let same = matches!(self.load().await?, Some((_, version)) if version == *expected);
        if !same {
            return Ok(answer);
        }
        self.bare_etags.store(true, Ordering::Relaxed);
        let again = self.write(Some(expected), &body).await;
        if !matches!(again, Ok(Put::Taken(_))) {
            self.bare_etags.store(false, Ordering::Relaxed);
        }
        again
    }
}

impl Cell for S3Cell {
    fn place(&self) -> String {
        format!("s3://{}/{} at {}", self.bucket, self.key, self.endpoint)
    }

    fn get(&self) -> BoxFuture<'_, Result<Content, CellError>> {
        self.load().boxed()
    }

    fn put<'a>(
        &'a self,
        expected: Option<&'a Version>,
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<Put, CellError>> {
        self.write_either_way(expected, body).boxed()
    }

    fn beside(&self, name: &str) -> Box<dyn Cell> {
        Box::new(S3Cell {
            key: format!("{}-{name}", self.key),
            ..self.clone()
        })
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), CellError>> {
        async move {
            let key = Path::from(self.key.as_str());
            self.store.delete(&key).await.map_err(|error| sorted(&error))
        }
        .boxed()
    }
}

/// A bucket for what is large and may be written twice, such as copies of a database: requests are tried `retries` times
/// more, and answers may have `limit` bytes. Not for a lease.
///
/// # Errors
/// When the settings are no such thing, in words.
pub fn bucket(settings: &S3Settings, retries: usize, limit: usize) -> Result<Arc<AmazonS3>, String> {
    let connector = Connector {
        client: Client::new(settings.patience)?.reading_up_to(limit),
    };
    connect(settings, connector, retries).map(Arc::new)
}

fn connect(settings: &S3Settings, connector: Connector, max_retries: usize) -> Result<AmazonS3, String> {
    // Its environment is read only where no secret was named.
    let mut builder = match &settings.secret {
        Some(_) => AmazonS3Builder::new(),
        None => AmazonS3Builder::from_env(),
    };
    builder = builder
        .with_bucket_name(&settings.bucket)
        .with_http_connector(connector)
        .with_retry(RetryConfig {
            max_retries,
            ..RetryConfig::default()
        });
    if let Some(endpoint) = &settings.endpoint {
        builder = builder
            .with_endpoint(endpoint)
            .with_allow_http(endpoint.starts_with("http://"));
    }
    if let Some(secret) = &settings.secret {
        builder = builder
            .with_access_key_id(secret.need("access_key_id")?)
            .with_secret_access_key(secret.need("secret_access_key")?);
        if let Some(token) = secret.get("session_token") {
            builder = builder.with_token(token);
        }
        if let Some(region) = secret.get("region") {
            builder = builder.with_region(region);
        }
    }
    builder.build().map_err(|error| chain(&error))
}

/// What an error says about whether the request was carried out.
fn sorted(error: &Error) -> CellError {
    let text = chain(error);
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(inner) = cause {
        if let Some(http) = inner.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Connect => CellError::NotSent(text),
                _ => CellError::Doubt(text),
            };
        }
        cause = inner.source();
    }
    match error {
        Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::NotFound { .. }
        | Error::NotImplemented { .. }
        | Error::NotSupported { .. }
        | Error::InvalidPath { .. } => CellError::Rejected(text),
        _ => CellError::Doubt(text),
    }
}

#[derive(Clone, Debug)]
struct Connector {
    client: Client,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Connector {
    async fn call(&self, ask: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (head, body) = ask.into_parts();
        let body = http_body_util::BodyExt::collect(body).await?.to_bytes().to_vec();
        let answer = self
            .client
            .send(Request::from_parts(head, body))
            .await
            .map_err(|fault| {
                let kind = match fault {
                    Fault::NotSent(..) => HttpErrorKind::Connect,
                    Fault::Lost(..) => HttpErrorKind::Timeout,
                };
                HttpError::new(kind, fault)
            })?;
        let (head, body) = answer.into_parts();
        Ok(HttpResponse::from_parts(head, body.into()))
    }
}
