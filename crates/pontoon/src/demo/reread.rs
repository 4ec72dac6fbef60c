//! Every acknowledged write read back: through the edge of each server, and from the database of each.

use std::time::Duration;

use anyhow::Context as _;
use pontoon_testkit::{Ledger, Reread, Server};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::stage::{Stage, door};

/// The ledger against one place.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    /// Which: `edge of a`.
    pub place: String,
    /// What was found; `None` when the place could not be read.
    #[serde(flatten)]
    pub reread: Option<Reread>,
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

impl Place {
    /// Whether every acknowledged write is there.
    pub fn complete(&self) -> bool {
        self.reread.as_ref().is_some_and(Reread::complete)
    }
}

/// Reads all four places.
pub async fn everywhere(stage: &Stage, ledger: &Ledger) -> Vec<Place> {
    let mut places = Vec::new();
    for server in [&stage.a, &stage.b] {
        let read = async { Ok(ledger.compare(&stage.app.read_back(door(server)).await?)) };
        places.push(place(format!("through the edge of {}", server.name()), read).await);
    }
    for server in [&stage.a, &stage.b] {
        let read = from_database(stage, server, ledger);
        places.push(place(format!("in the database of {}", server.name()), read).await);
    }
    places
}

/// A replica may be a moment behind: it gets a few seconds to have everything.
async fn from_database(stage: &Stage, server: &Server, ledger: &Ledger) -> anyhow::Result<Reread> {
    let socket = stage.database_socket(server)?;
    let deadline = Instant::now() + CATCH_UP;
    loop {
        let reread = ledger.compare(&stage.app.read_database(&socket).await?);
        if reread.complete() || Instant::now() >= deadline {
            return Ok(reread);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn place(place: String, read: impl Future<Output = anyhow::Result<Reread>>) -> Place {
    let read = timeout(LIMIT, read)
        .await
        .context("it took too long")
        .and_then(|read| read);
    let (reread, unreadable) = match read {
        Ok(reread) => (Some(reread), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    Place {
        place,
        reread,
        unreadable,
    }
}

const CATCH_UP: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);
