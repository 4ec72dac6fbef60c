//! The stream of a copy, part by part; nothing is unpacked whose digest was not compared.

use std::path::Path;
use std::process::Stdio;

use pontoon_fleet::{Code, Refusal};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Step;
use super::tools::Tools;
use crate::archive::Index;
use crate::manifest::Manifest;
use crate::store::{Store, damaged};
use crate::upload::hex;

/// The most that is asked for at once.
const PIECE: u64 = 8 << 20;

pub(crate) async fn copy(
    store: &Store,
    copy: &Manifest,
    tools: &Tools,
    data: &Path,
    report: &mut (dyn FnMut(Step) + Send),
) -> Result<(), Refusal> {
    let failed = |why: String| Refusal::new(Code::D003, "the copy could not be unpacked").because(why);
    let mut child = tools
        .unpack(copy, data)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let (Some(mut input), Some(mut errors)) = (child.stdin.take(), child.stderr.take()) else {
        return Err(failed("it has no input".to_owned()));
    };
    let words = tokio::spawn(async move {
        let mut said = Vec::new();
        let _ = errors.read_to_end(&mut said).await;
        said
    });
    let name = Manifest::data(&copy.id);
    let (mut whole, mut from) = (Sha256::new(), 0);
    let mut broken = None;
    'parts: for (number, part) in copy.parts.iter().enumerate() {
        let mut bytes = Vec::with_capacity(usize::try_from(part.bytes).unwrap_or(0));
        while (bytes.len() as u64) < part.bytes {
            let piece = PIECE.min(part.bytes - bytes.len() as u64);
            let got = store.get_range(&name, from + bytes.len() as u64, piece).await?;
            if got.is_empty() {
                return Err(damaged(&name, "it is shorter than its manifest says"));
            }
            bytes.extend_from_slice(&got);
        }
        if hex(&Sha256::digest(&bytes)) != part.sha256 {
            return Err(damaged(&name, format!("part {number} is not what was written")));
        }
        whole.update(&bytes);
        from += part.bytes;
        if let Err(error) = input.write_all(&bytes).await {
            // It ended early, for a reason of its own: a full disk, most likely.
            broken = Some(error.to_string());
            break 'parts;
        }
        report(Step::Bytes(from, copy.bytes));
    }
    drop(input);
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    let said = words.await.unwrap_or_default();
    if broken.is_some() || !status.success() {
        let mut refusal = failed(broken.unwrap_or_else(|| status.to_string()));
        let said = String::from_utf8_lossy(&said).into_owned();
        refusal.evidence.extend(said.lines().take(8).map(str::to_owned));
        return Err(refusal);
    }
    // mbstream leaves with 0 whatever came: the digest of the whole is what counts.
    if hex(&whole.finalize()) != copy.sha256 {
        return Err(damaged(&name, "its parts together are not what was written"));
    }
    Ok(())
}

/// An archived file, written to `to`.
pub(crate) async fn binlog(store: &Store, index: &Index, to: &Path) -> Result<(), Refusal> {
    let wrong = |error: std::io::Error| Refusal::from(pontoon_rt::files::FileError::new(to, "write", error));
    let mut file = tokio::fs::File::create(to).await.map_err(wrong)?;
    for (number, block) in index.blocks.iter().enumerate() {
        let name = index.block(number);
        let bytes = store
            .get(&name)
            .await?
            .ok_or_else(|| damaged(&name, "it is not there"))?;
        // A block that grew since its index was read is longer now, and begins as it did.
        let bytes = usize::try_from(block.bytes)
            .ok()
            .and_then(|count| bytes.get(..count));
        let bytes = bytes.filter(|bytes| hex(&Sha256::digest(bytes)) == block.sha256);
        let bytes = bytes.ok_or_else(|| damaged(&name, "it is not what was written"))?;
        file.write_all(bytes).await.map_err(wrong)?;
    }
    file.flush().await.map_err(wrong)
}
