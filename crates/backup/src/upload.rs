//! A copy on its way into the store: part after part, and the manifest last.

use std::collections::VecDeque;
use std::time::Duration;

use object_store::{MultipartUpload, PutPayload, UploadPart};
use pontoon_fleet::{Code, Engine, Refusal, UnixMillis};
use pontoon_helper::Setting;
use pontoon_helper::frame::{self, Frame, Progress};
use sha2::{Digest, Sha256};
use tokio::io::AsyncRead;

use crate::manifest::{Format, Manifest, Part, VERSION};
use crate::store::Store;

/// The least size of a part. Small enough that two of them are no burden, and 10,000 of them, which is what a store takes,
/// are 156 GiB; larger copies have larger parts.
const PART_BYTES: usize = 16 << 20;

/// The parts that a store takes, with a reserve for an estimate that was too small.
const MOST_PARTS: u64 = 5_000;

/// Parts that are on their way at a time.
const AT_A_TIME: usize = 2;

/// A source that sends nothing for this long is gone; one that lives sends its progress every second.
const SOURCE_PATIENCE: Duration = Duration::from_secs(60);

/// What is known of a copy before its stream comes.
#[derive(Clone, Debug)]
pub struct About {
    /// Its name ([`crate::new_id`]).
    pub id: String,
    /// The fleet.
    pub fleet: String,
    /// The server that it is taken from.
    pub server: String,
    /// Whether that one is the primary.
    pub primary: bool,
    /// The engine.
    pub engine: Engine,
    /// The engine's version.
    pub engine_version: String,
    /// When it was begun.
    pub begun: UnixMillis,
    /// Settings that a server needs as they were to read its files.
    pub settings: Vec<Setting>,
    /// What is in it at the least; the stream's last frame may say it exactly.
    pub position: String,
}

/// Sends a stream of frames into the store. `now` is asked for the time when the stream has ended.
///
/// # Errors
/// [`Code::D020`], and no manifest was written: what is there is no copy. The source's own refusal when it failed.
pub async fn upload<R: AsyncRead + Unpin>(
    store: &Store,
    about: About,
    from: &mut R,
    now: impl Fn() -> UnixMillis,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Manifest, Refusal> {
    let name = Manifest::data(&about.id);
    let mut sending = Sending {
        upload: store.begin_upload(&name).await.map_err(as_failed)?,
        under_way: VecDeque::new(),
        parts: Vec::new(),
    };
    let whole = match read(&mut sending, from, progress).await {
        Ok(whole) => whole,
        Err(refusal) => {
            // Best effort: the store forgets it by its own rules otherwise.
            let _ = sending.upload.abort().await;
            return Err(refusal);
        }
    };
    let ended = now();
    let completed = sending.upload.complete().await;
    completed.map_err(|error| failed("the store did not take the whole").because(error.to_string()))?;
    let manifest = Manifest {
        version: VERSION,
        format: match about.engine {
            Engine::Mysql => Format::Tar,
            _ => Format::Mbstream,
        },
        id: about.id,
        fleet: about.fleet,
        server: about.server,
        primary: about.primary,
        engine: about.engine,
        engine_version: about.engine_version,
        begun: about.begun,
        ended,
        position: whole.position.unwrap_or(about.position),
        settings: about.settings,
        bytes: whole.bytes,
        sha256: whole.sha256,
        parts: sending.parts,
    };
    if let Some(flaw) = manifest.flaw() {
        return Err(failed("the copy does not add up").because(flaw));
    }
    store
        .put_json(&Manifest::object(&manifest.id), &manifest)
        .await
        .map_err(as_failed)?;
    Ok(manifest)
}

struct Sending {
    upload: Box<dyn MultipartUpload>,
    under_way: VecDeque<tokio::task::JoinHandle<object_store::Result<()>>>,
    parts: Vec<Part>,
}

impl Sending {
    async fn part(&mut self, bytes: Vec<u8>) -> Result<(), Refusal> {
        while self.under_way.len() >= AT_A_TIME {
            self.landed().await?;
        }
        self.parts.push(Part {
            bytes: bytes.len() as u64,
            sha256: hex(&Sha256::digest(&bytes)),
        });
        let part: UploadPart = self.upload.put_part(PutPayload::from(bytes));
        self.under_way.push_back(tokio::spawn(part));
        Ok(())
    }

    async fn landed(&mut self) -> Result<(), Refusal> {
        let Some(first) = self.under_way.pop_front() else {
            return Ok(());
        };
        match first.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed("the store did not take a part").because(error.to_string())),
            Err(error) => Err(failed("a part was not sent").because(error.to_string())),
        }
    }
}

async fn read<R: AsyncRead + Unpin>(
    sending: &mut Sending,
    from: &mut R,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<frame::End, Refusal> {
    let (mut digest, mut bytes) = (Sha256::new(), 0u64);
    let (mut buffer, mut part_bytes) = (Vec::new(), PART_BYTES);
    loop {
        let read = tokio::time::timeout(SOURCE_PATIENCE, frame::read(from)).await;
        let read = read.unwrap_or_else(|_| Err(std::io::Error::other("nothing comes any more")));
        let read = read.map_err(|error| {
            failed("the copy ended before its tool said that it was complete").because(error.to_string())
        })?;
        match read {
            Frame::Data(data) => {
                digest.update(&data);
                bytes += data.len() as u64;
                buffer.extend_from_slice(&data);
                if buffer.len() >= part_bytes {
                    let next = Vec::with_capacity(part_bytes);
                    sending.part(std::mem::replace(&mut buffer, next)).await?;
                }
            }
            Frame::Progress(now) => {
                // Parts may not differ in size but for the last, so this holds from the first one on.
                if sending.parts.is_empty() {
                    part_bytes = part_bytes.max(usize::try_from(now.total / MOST_PARTS).unwrap_or(0));
                }
                progress(Progress {
                    bytes,
                    total: now.total.max(bytes),
                });
            }
            Frame::Failed(refusal) => return Err(refusal),
            Frame::End(end) => {
                if end.bytes != bytes || end.sha256 != hex(&digest.finalize()) {
                    return Err(
                        failed("what came is not what was sent").because(format!("{bytes} bytes came"))
                    );
                }
                if !buffer.is_empty() {
                    sending.part(buffer).await?;
                }
                while !sending.under_way.is_empty() {
                    sending.landed().await?;
                }
                return Ok(end);
            }
        }
    }
}

fn failed(why: &str) -> Refusal {
    Refusal::new(Code::D020, "the copy in the object store could not be made").because(why)
}

fn as_failed(refusal: Refusal) -> Refusal {
    let mut failed =
        Refusal::new(Code::D020, "the copy in the object store could not be made").because(refusal.what);
    failed.evidence.extend(refusal.evidence);
    failed.next.extend(refusal.next);
    failed
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
