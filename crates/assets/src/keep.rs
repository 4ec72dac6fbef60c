//! What is done from time to time: deletions are judged, and what was kept long enough is dropped, here and in the bucket.

use std::time::Duration;

use pontoon_fleet::ServerName;

use crate::fetch::Tools;
use crate::node::now_ms;

/// Between two looks at deletions.
const JUDGED: Duration = Duration::from_millis(250);
/// Between two looks at what was kept.
const PURGED: Duration = Duration::from_secs(3600);
/// Between two at what is kept in the bucket, which has to be listed for it.
const BUCKET_PURGED: Duration = Duration::from_secs(24 * 3600);

/// Judges deletions until the end.
pub(crate) async fn judge(tools: Tools) {
    while !tools.shutdown.is_requested() {
        let judged = tools.blocking(|node| node.judge(now_ms())).await;
        tools.node.trouble("deletions", judged.err());
        tools.pause(JUDGED).await;
    }
}

/// Drops what is older than `keep`, until the end: the trash, tombstones, and the trash of the bucket.
pub(crate) async fn purge(tools: Tools, keep: Duration) {
    let mut bucket_due = tokio::time::Instant::now();
    while !tools.shutdown.is_requested() {
        let until_ms = now_ms().saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
        let others: Vec<ServerName> = tools.others().into_iter().map(|server| server.name).collect();
        let purged = tools.blocking(move |node| Ok(node.folder.purge(until_ms))).await;
        let why = match purged {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error),
        };
        tools.node.trouble(
            "trash",
            why.map(|why| format!("the trash cannot be emptied: {why}")),
        );
        // One server lists the bucket, and without others this one does.
        let is_first = others.iter().all(|other| tools.node.me < *other);
        let forgotten = tools.blocking(move |node| node.forget(until_ms, &others)).await;
        match forgotten {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "old tombstones were forgotten"),
            Err(error) => tracing::warn!(error, "old tombstones stay"),
        }
        if is_first && bucket_due <= tokio::time::Instant::now() {
            let removed = match tools.bucket() {
                Ok(bucket) => bucket.purge_trash(until_ms).await,
                Err(error) => Err(error),
            };
            match removed {
                Ok(_) => bucket_due += BUCKET_PURGED,
                Err(error) => tracing::warn!(error, "the bucket's trash was not emptied"),
            }
        }
        tools.pause(PURGED).await;
    }
}
