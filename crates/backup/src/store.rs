//! The bucket, as far as copies need it.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use pontoon_fleet::{Code, Refusal, UnixMillis};
use pontoon_lease::{S3Settings, Secret};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::place::Place;

/// How long one request may take: a part of a copy over a slow line.
const PATIENCE: Duration = Duration::from_secs(120);

/// Repeats of a request that failed; every one that is made here may be repeated.
const RETRIES: usize = 4;

/// The longest answer: a part of a copy, or a list of names.
const ANSWER_BYTES: usize = 32 << 20;

/// A part of a bucket.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: String,
    shown: String,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// Its name below the prefix.
    pub name: String,
    /// By the store's clock.
    pub written: UnixMillis,
}

impl Store {
    /// The bucket of `place`; nothing is asked yet.
    ///
    /// # Errors
    /// [`Code::N006`] when the keys cannot be read, [`Code::C002`] when they or the place make no sense.
    pub fn open(place: &Place) -> Result<Store, Refusal> {
        let secret = place
            .credentials
            .as_ref()
            .map(Secret::read)
            .transpose()
            .map_err(|why| {
                Refusal::new(Code::N006, "the keys of the object store cannot be read").because(why)
            })?;
        let settings = S3Settings {
            bucket: place.bucket.clone(),
            key: String::new(),
            endpoint: place.endpoint.clone(),
            secret,
            patience: PATIENCE,
        };
        let objects = pontoon_lease::bucket(&settings, RETRIES, ANSWER_BYTES).map_err(|why| {
            Refusal::new(Code::C002, "the object store cannot be used as it is written").because(why)
        })?;
        let at = place.endpoint.as_deref().unwrap_or("AWS");
        Ok(Store {
            objects,
            prefix: place.prefix.clone(),
            shown: format!("s3://{}/{} at {at}", place.bucket, place.prefix),
        })
    }

    /// Objects below `prefix` of any store.
    pub fn of(objects: Arc<dyn ObjectStore>, prefix: &str) -> Store {
        Store {
            shown: format!("{objects} {prefix}"),
            objects,
            prefix: prefix.to_owned(),
        }
    }

    /// Where it is, for people.
    pub fn place(&self) -> &str {
        &self.shown
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.prefix))
    }

    fn failed(&self, name: &str, error: &Error) -> Refusal {
        let mut refusal = Refusal::new(Code::N002, "the object store refused or did not answer")
            .because(format!("{}: {name}", self.shown))
            .because(error.to_string());
        if matches!(
            error,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. }
        ) {
            refusal = refusal.next("see which keys are used", "pontoon check");
        }
        refusal
    }

    pub(crate) async fn put(&self, name: &str, bytes: impl Into<Bytes>) -> Result<(), Refusal> {
        let payload = PutPayload::from_bytes(bytes.into());
        let done = self.objects.put(&self.path(name), payload).await;
        done.map(drop).map_err(|error| self.failed(name, &error))
    }

    pub(crate) async fn put_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Refusal> {
        let bytes = serde_json::to_vec(value).map_err(|error| Refusal::new(Code::N007, error.to_string()))?;
        self.put(name, bytes).await
    }

    /// The object's bytes; `None` when there is none.
    pub(crate) async fn get(&self, name: &str) -> Result<Option<Bytes>, Refusal> {
        let found = match self.objects.get(&self.path(name)).await {
            Ok(found) => found,
            // A bucket that is not there is not an object that is not there.
            Err(Error::NotFound { source, .. }) if !source.to_string().contains("NoSuchBucket") => {
                return Ok(None);
            }
            Err(error) => return Err(self.failed(name, &error)),
        };
        if found.meta.size > ANSWER_BYTES as u64 {
            return Err(damaged(name, format!("it has {} bytes", found.meta.size)));
        }
        let bytes = found.bytes().await;
        bytes.map(Some).map_err(|error| self.failed(name, &error))
    }

    /// What is written there as JSON; `None` when there is no such object.
    pub(crate) async fn get_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let Some(bytes) = self.get(name).await? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| damaged(name, error))
    }

    pub(crate) async fn get_range(&self, name: &str, from: u64, bytes: u64) -> Result<Bytes, Refusal> {
        let part = self.objects.get_range(&self.path(name), from..from + bytes).await;
        part.map_err(|error| self.failed(name, &error))
    }

    /// All objects whose names begin with `folder/`, by name.
    pub(crate) async fn list(&self, folder: &str) -> Result<Vec<Object>, Refusal> {
        let below = format!("{}/", self.path("").as_ref().trim_end_matches('/'));
        let listed = self.objects.list(Some(&self.path(folder)));
        let found: Result<Vec<Object>, Error> = listed
            .map(|meta| {
                meta.map(|meta| Object {
                    name: meta
                        .location
                        .as_ref()
                        .strip_prefix(&below)
                        .unwrap_or_default()
                        .to_owned(),
                    written: UnixMillis(u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0)),
                })
            })
            .try_collect()
            .await;
        let mut found = found.map_err(|error| self.failed(folder, &error))?;
        found.retain(|object| !object.name.is_empty());
        found.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(found)
    }

    /// When it was written, by the store's clock.
    pub(crate) async fn written(&self, name: &str) -> Result<UnixMillis, Refusal> {
        let meta = self.objects.head(&self.path(name)).await;
        let meta = meta.map_err(|error| self.failed(name, &error))?;
        Ok(UnixMillis(
            u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0),
        ))
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<(), Refusal> {
        match self.objects.delete(&self.path(name)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    pub(crate) async fn begin_upload(&self, name: &str) -> Result<Box<dyn MultipartUpload>, Refusal> {
        let begun = self.objects.put_multipart(&self.path(name)).await;
        begun.map_err(|error| self.failed(name, &error))
    }
}

/// What is in the store is not what was put there.
pub(crate) fn damaged(name: &str, why: impl Display) -> Refusal {
    Refusal::new(Code::D021, "what is in the object store cannot be restored")
        .because(format!("{name}: {why}"))
        .next("see which copies there are", "pontoon db backups")
}
