//! What makes a copy whole.

use pontoon_fleet::{Engine, UnixMillis};
use pontoon_helper::Setting;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;

/// The version of manifests that this program writes. It reads no newer one.
pub(crate) const VERSION: u32 = 1;

/// A whole copy: the object that is written last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this text.
    pub version: u32,
    /// Its name.
    pub id: String,
    /// The fleet.
    pub fleet: String,
    /// The server that it was taken from.
    pub server: String,
    /// Whether that one was the primary.
    pub primary: bool,
    /// The engine.
    pub engine: Engine,
    /// The engine's version, such as `10.11.19`: the copy is restored with one of the same series.
    pub engine_version: String,
    /// How the stream is packed.
    pub format: Format,
    /// When it was begun.
    pub begun: UnixMillis,
    /// When the tool had ended; the copy is the database at a moment between the two.
    pub ended: UnixMillis,
    /// What is in it: a GTID position (MariaDB: exactly; MySQL: this and perhaps more, its server knows).
    pub position: String,
    /// Settings that a server needs as they were to read its files.
    pub settings: Vec<Setting>,
    /// The stream's length.
    pub bytes: u64,
    /// The stream's sha256, in hexadecimal.
    pub sha256: String,
    /// The stream's parts in their order, as they are fetched and compared.
    pub parts: Vec<Part>,
}

/// How a copy's stream is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// By mariadb-backup, unpacked by mbstream, and then to be prepared.
    Mbstream,
    /// By tar, of what MySQL's CLONE wrote.
    Tar,
}

/// A part of a copy's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its length.
    pub bytes: u64,
    /// Its sha256, in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// The folder of all copies.
    pub(crate) const FOLDER: &str = "copies";

    /// The stream's object.
    pub(crate) fn data(id: &str) -> String {
        format!("{}/{id}/data", Self::FOLDER)
    }

    /// The manifest's own object.
    pub(crate) fn object(id: &str) -> String {
        format!("{}/{id}/manifest.json", Self::FOLDER)
    }

    /// What is wrong with it; `None` when it can be used.
    pub(crate) fn flaw(&self) -> Option<String> {
        if self.version != VERSION {
            return Some(format!(
                "it is of version {}, and this program reads {VERSION}",
                self.version
            ));
        }
        let sum: u64 = self.parts.iter().map(|part| part.bytes).sum();
        (sum != self.bytes || self.bytes == 0)
            .then(|| format!("its parts have {sum} bytes and it says {}", self.bytes))
    }
}

/// The name of a copy that is begun now: sorts by time.
pub fn new_id(now: UnixMillis, server: &str) -> String {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let seconds = i64::try_from(now.0 / 1000).unwrap_or(0);
    let stamp = OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&format).ok())
        .unwrap_or_else(|| "unknown".to_owned());
    format!("{stamp}-{server}")
}
