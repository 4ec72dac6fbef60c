//! The bucket: every file under its plain path, so that anybody can read it without Pontoon; what it was overwritten with or
//! deleted lies below `.pontoon/trash/` there.

use std::io::{Read as _, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use object_store::path::Path as Key;
use object_store::{
    Attribute, AttributeValue, Attributes, Error, GetOptions, ObjectStore, ObjectStoreExt as _,
    PutMultipartOptions, PutOptions, PutPayload,
};
use pontoon_config::Credentials;
use pontoon_fleet::{AssetsView, KeyPlace};
use pontoon_lease::{S3Settings, Secret};
use pontoon_mirror::{Content, Digest, Entry, Stamp, Version, media};
use sha2::{Digest as _, Sha256};

use crate::node::{Node, now_ms};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Repeats of a request that failed; then the path waits.
const RETRIES: usize = 2;
/// The longest answer that is read into memory.
const ANSWER_BYTES: usize = 32 << 20;
/// Above this, a file goes in parts of this size, so that it is never in memory as a whole.
const PART_BYTES: u64 = 16 << 20;
/// Where what was overwritten or deleted is kept, each under its path and the moment.
const TRASH: &str = ".pontoon/trash";

#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    pub(crate) store: Arc<dyn ObjectStore>,
}

/// How an upload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Done,
    /// The file is another one by now: look first.
    LookFirst,
}

impl Bucket {
    pub fn open(view: &AssetsView) -> Result<Bucket, String> {
        let from = view.keys.as_ref().map(|keys| match keys {
            KeyPlace::Credential(name) => Credentials::Systemd(name.clone()),
            KeyPlace::File(path) => Credentials::File(path.clone()),
            KeyPlace::Env(name) => Credentials::Env(name.clone()),
        });
        let settings = S3Settings {
            bucket: view.bucket.clone(),
            key: String::new(),
            endpoint: view.endpoint.clone(),
            secret: from.as_ref().map(Secret::read).transpose()?,
            patience: PATIENCE,
        };
        let store = pontoon_lease::bucket(&settings, RETRIES, ANSWER_BYTES)?;
        Ok(Bucket { store })
    }

    /// What the bucket says that it has of a path: the version, and the digest of what was sent. Never its ETag, which is no
    /// digest of an object that was sent in parts or is encrypted.
    pub async fn has(&self, path: &str) -> Result<Option<(Option<Version>, Option<Digest>)>, String> {
        let head = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        match self.store.get_opts(&key(path)?, head).await {
            Ok(found) => {
                let said = |name: &'static str| {
                    let value = found.attributes.get(&Attribute::Metadata(name.into()));
                    value.map(|value| value.as_ref().to_owned())
                };
                let digest = said("sha256").and_then(|text| text.parse().ok());
                Ok(Some((
                    said("version").and_then(|text| parse_version(&text)),
                    digest,
                )))
            }
            Err(Error::NotFound { source, .. }) if !source.to_string().contains("NoSuchBucket") => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Makes the bucket have `entry`, unless it has something newer.
    pub async fn send(&self, node: &Node, path: &str, entry: &Entry) -> Result<Sent, String> {
        let there = self.has(path).await?;
        let newer = there
            .as_ref()
            .and_then(|(version, _)| version.as_ref())
            .is_some_and(|version| *version >= entry.version);
        match entry.content() {
            _ if newer => Ok(Sent::Done),
            None if there.is_none() => Ok(Sent::Done),
            None => {
                self.put_aside(path).await?;
                match self.store.delete(&key(path)?).await {
                    Ok(()) | Err(Error::NotFound { .. }) => Ok(Sent::Done),
                    Err(error) => Err(error.to_string()),
                }
            }
            Some(content) => {
                if there.is_some_and(|(_, digest)| digest != Some(content.sha256)) {
                    self.put_aside(path).await?;
                }
                self.put(node, path, entry, content).await
            }
        }
    }

    async fn put_aside(&self, path: &str) -> Result<(), String> {
        let to = Key::parse(format!("{TRASH}/{path}/{}", now_ms())).map_err(|error| error.to_string())?;
        match self.store.copy(&key(path)?, &to).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn put(&self, node: &Node, path: &str, entry: &Entry, content: &Content) -> Result<Sent, String> {
        let Ok((mut file, stat)) = node.folder.open_file(path) else {
            return Ok(Sent::LookFirst);
        };
        // Hashed again on its way: what is sent is what the version says.
        let known = node.journal.print(path).map_err(|error| error.to_string())?;
        let is_it =
            |stat: &rustix::fs::Stat| known.is_some_and(|known| known.is_as(&crate::folder::print(stat)));
        if !is_it(&stat) {
            return Ok(Sent::LookFirst);
        }
        let attributes = attributes(path, entry, content);
        if content.size <= PART_BYTES {
            let mut bytes = Vec::new();
            let read = file.read_to_end(&mut bytes);
            if read.is_err() || Digest(Sha256::digest(&bytes).into()) != content.sha256 {
                return Ok(Sent::LookFirst);
            }
            let options = PutOptions {
                attributes,
                ..PutOptions::default()
            };
            let sent = self
                .store
                .put_opts(&key(path)?, PutPayload::from(bytes), options)
                .await;
            return sent.map(|_| Sent::Done).map_err(|error| error.to_string());
        }
        let options = PutMultipartOptions {
            attributes,
            ..PutMultipartOptions::default()
        };
        let begun = self.store.put_multipart_opts(&key(path)?, options).await;
        let mut upload = begun.map_err(|error| error.to_string())?;
        let (mut left, mut hasher) = (content.size, Sha256::new());
        while left > 0 {
            let mut part = vec![0; usize::try_from(left.min(PART_BYTES)).unwrap_or(0)];
            if file.read_exact(&mut part).is_err() {
                let _ = upload.abort().await;
                return Ok(Sent::LookFirst);
            }
            left -= part.len() as u64;
            hasher.update(&part);
            if let Err(error) = upload.put_part(PutPayload::from(part)).await {
                let _ = upload.abort().await;
                return Err(error.to_string());
            }
        }
        if Digest(hasher.finalize().into()) != content.sha256 {
            let _ = upload.abort().await;
            return Ok(Sent::LookFirst);
        }
        upload
            .complete()
            .await
            .map(|_| Sent::Done)
            .map_err(|error| error.to_string())
    }

    /// The object's bytes into `to`. `false`: there is none.
    pub async fn fetch(&self, path: &str, to: &mut (impl Write + Send)) -> Result<bool, String> {
        self.fetch_key(&key(path)?, to).await
    }

    async fn fetch_key(&self, key: &Key, to: &mut (impl Write + Send)) -> Result<bool, String> {
        let meta = match self.store.head(key).await {
            Ok(meta) => meta,
            Err(Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        let mut at = 0;
        while at < meta.size {
            let end = meta.size.min(at + PART_BYTES);
            let part: Bytes = self
                .store
                .get_range(key, at..end)
                .await
                .map_err(|error| error.to_string())?;
            to.write_all(&part).map_err(|error| error.to_string())?;
            at = end;
        }
        Ok(true)
    }

    /// The latest of a path that was put aside, into `to`. `false`: there is none.
    pub async fn fetch_trash(&self, path: &str, to: &mut (impl Write + Send)) -> Result<bool, String> {
        let below = Key::parse(format!("{TRASH}/{path}")).map_err(|error| error.to_string())?;
        let found: Vec<_> = self.store.list(Some(&below)).collect().await;
        let mut last: Option<Key> = None;
        for meta in found {
            let location = meta.map_err(|error| error.to_string())?.location;
            let direct = location.as_ref().strip_prefix(below.as_ref()).unwrap_or_default();
            let direct = direct.trim_start_matches('/');
            if direct.parse::<u64>().is_ok() && last.as_ref().is_none_or(|last| *last < location) {
                last = Some(location);
            }
        }
        match last {
            Some(key) => self.fetch_key(&key, to).await,
            None => Ok(false),
        }
    }

    /// Removes what was put aside before `until_ms`. Gives how much. Repeated, and by several servers, it does no harm.
    pub async fn purge_trash(&self, until_ms: u64) -> Result<u64, String> {
        let mut listed = self.store.list(Some(&Key::from(TRASH)));
        let mut removed = 0;
        while let Some(meta) = listed.next().await {
            let location = meta.map_err(|error| error.to_string())?.location;
            let moment = location.filename().and_then(|name| name.parse::<u64>().ok());
            if moment.is_some_and(|moment| moment < until_ms) {
                match self.store.delete(&location).await {
                    Ok(()) | Err(Error::NotFound { .. }) => removed += 1,
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        Ok(removed)
    }
}

fn key(path: &str) -> Result<Key, String> {
    Key::parse(path).map_err(|error| error.to_string())
}

fn attributes(path: &str, entry: &Entry, content: &Content) -> Attributes {
    let version = format!(
        "{}.{}.{}",
        entry.version.stamp.ms, entry.version.stamp.count, entry.version.server
    );
    let said = [
        ("sha256", content.sha256.to_string()),
        ("version", version),
        ("mtime", content.mtime_ms.to_string()),
        ("mode", format!("{:o}", content.mode)),
    ];
    let mut attributes = Attributes::new();
    for (name, value) in said {
        attributes.insert(Attribute::Metadata(name.into()), AttributeValue::from(value));
    }
    attributes.insert(
        Attribute::ContentType,
        AttributeValue::from(media::content_type(path).unwrap_or(media::BYTES)),
    );
    attributes
}

fn parse_version(text: &str) -> Option<Version> {
    let mut parts = text.splitn(3, '.');
    let ms = parts.next()?.parse().ok()?;
    let count = parts.next()?.parse().ok()?;
    Some(Version {
        stamp: Stamp { ms, count },
        server: parts.next()?.parse().ok()?,
    })
}
