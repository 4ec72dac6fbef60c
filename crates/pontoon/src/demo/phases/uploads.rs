//! Uploads: what is uploaded through one server can be fetched through the other, and is kept in a bucket (`[assets]`).

use std::time::Duration;

use anyhow::{Context as _, bail};
use pontoon_testkit::app::Dice;
use pontoon_testkit::http::{Connection, Request, Response};
use pontoon_testkit::{LabStore, Server, StoreKind, Uploads, wait_until};
use tokio::time::{Instant, sleep, timeout};

use super::{Phase, Playing};
use crate::demo::stage::{Stage, door};

/// Where the bucket is: a program that speaks S3, on a machine of its own.
pub const STORE: StoreKind = StoreKind::S3;

/// `[assets]` in `fleet.toml`, and `pontoon apply`; then pictures are uploaded, also while the bucket is gone.
pub struct Uploaded;

impl Phase for Uploaded {
    fn name(&self) -> &'static str {
        "uploads"
    }

    fn title(&self) -> &'static str {
        "uploads are on both servers and in a bucket"
    }

    fn play<'a>(&'a self, stage: &'a mut Stage) -> Playing<'a> {
        Box::pin(async move {
            let uploads = stage.app.uploads().context("the application takes no uploads")?;
            let store = look_after(stage, uploads).await?;
            let mut author = Author {
                uploads,
                dice: Dice::new(stage.visitors.seed.wrapping_add(2)),
                pictures: 0,
                files: Vec::new(),
                late: 0,
                longest: Duration::ZERO,
            };
            for _ in 0..PICTURES {
                author.upload(stage).await?;
            }
            until_kept(stage, &author, &store).await?;
            let (pictures, files) = (author.pictures, author.files.len());
            stage.fact(format!(
                "pontoon apply with [assets]: {pictures} pictures uploaded in {}, {files} files with the smaller ones that it \
                 made, fetched through the other server: {}",
                stage.app.name(),
                author.found()
            ));
            store.server().link_down().await?;
            for _ in 0..PICTURES {
                author.upload(stage).await?;
            }
            let owed = owed(stage, &stage.a).await? + owed(stage, &stage.b).await?;
            if owed == 0 {
                bail!("the bucket is gone, and nothing is kept for it");
            }
            let back = stage.elapsed();
            store.server().link_up().await?;
            until_kept(stage, &author, &store).await?;
            let took = stage.elapsed().saturating_sub(back).as_secs_f64();
            stage.until_healthy().await?;
            let (more, all) = (author.pictures - pictures, author.files.len());
            stage.fact(format!(
                "while the bucket was gone {more} more were uploaded and fetched (of all files: {}); {took:.1} s after it was \
                 back it had all {all}, byte for byte",
                author.found()
            ));
            stage.caveat(
                "An upload is on the other server a moment later, not at the same time: who is faster than that is told there that \
                 there is no such file.",
            );
            stage.traffic(1).await
        })
    }
}

/// Starts the bucket and has Pontoon look after the application's uploads.
async fn look_after(stage: &mut Stage, uploads: Uploads) -> anyhow::Result<LabStore> {
    let a = stage.a.clone();
    let machine = stage.lab.add_server("o", Vec::new()).await?;
    let store = STORE.start(&machine).await?;
    for server in [&stage.a, &stage.b] {
        store.hand_keys_to(server)?;
    }
    // Any command lets the file follow what is active.
    stage.pontoon(&a, &["plan", "--json"]).await?;
    let file = a.path("/etc/pontoon/fleet.toml")?;
    let text = std::fs::read_to_string(&file)?;
    let table = store.uploads_table(uploads).context("the store has no bucket")?;
    std::fs::write(&file, format!("{text}\n{table}"))?;
    stage.pontoon(&a, &["apply", "--json"]).await?;
    stage.until_healthy().await?;
    Ok(store)
}

/// Who uploads, and what became of it.
struct Author {
    uploads: Uploads,
    dice: Dice,
    pictures: usize,
    /// The path of every file that was made, below the folder.
    files: Vec<String>,
    /// How often a file was not to be had at the first try, and the longest time until it was.
    late: usize,
    longest: Duration,
}

impl Author {
    /// Uploads a picture through one server, and fetches what became of it through the other.
    async fn upload(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let (one, other) = match self.pictures % 2 {
            0 => (&stage.a, &stage.b),
            _ => (&stage.b, &stage.a),
        };
        let sent = picture(&mut self.dice);
        self.pictures += 1;
        let request = stage
            .app
            .upload(&format!("picture-{}.gif", self.pictures), sent.clone());
        let request = request.context("the application takes no uploads")?;
        let answer = ask(stage, one, &request).await?;
        let acknowledged = Instant::now();
        let paths = stage.app.uploaded(&answer);
        if paths.is_empty() {
            let said: String = answer.text().chars().take(200).collect();
            bail!("an upload was answered with {}: {said}", answer.status);
        }
        for (index, path) in paths.iter().enumerate() {
            let within = path.strip_prefix(self.uploads.url);
            let within = within.with_context(|| format!("{path} is not below {}", self.uploads.url))?;
            let mut tries = 0;
            while !self
                .is_here(stage, other, path, within, (index == 0).then_some(&sent))
                .await?
            {
                tries += 1;
                if acknowledged.elapsed() > LIMIT {
                    bail!(
                        "{path}, uploaded through {}, is not the same through {}",
                        one.name(),
                        other.name()
                    );
                }
                sleep(BETWEEN).await;
            }
            if tries > 0 {
                self.late += 1;
                self.longest = self.longest.max(acknowledged.elapsed());
            }
            self.files.push(within.to_owned());
        }
        Ok(())
    }

    /// How the files were found through the other server.
    fn found(&self) -> String {
        match self.late {
            0 => "each at once, byte for byte the same".to_owned(),
            late => format!(
                "each byte for byte the same, all but {late} at once, those after {:.0} ms at the most",
                self.longest.as_secs_f64() * 1000.0
            ),
        }
    }

    /// Whether the file is the same on the disks of both servers, whichever application took the upload, and comes through
    /// the edge of `other` like that.
    async fn is_here(
        &self,
        stage: &Stage,
        other: &Server,
        path: &str,
        within: &str,
        sent: Option<&Vec<u8>>,
    ) -> anyhow::Result<bool> {
        let answer = ask(stage, other, &Request::get(path)).await?;
        let on = |server: &Server| {
            anyhow::Ok(std::fs::read(server.path(format!("{}/{within}", self.uploads.folder))?).ok())
        };
        let (on_a, on_b) = (on(&stage.a)?, on(&stage.b)?);
        let body = Some(&answer.body);
        Ok(answer.status == 200
            && on_a.as_ref() == body
            && on_b.as_ref() == body
            && sent.is_none_or(|sent| *sent == answer.body))
    }
}

/// Waits until the bucket has every file, compares each with that of `a`, byte for byte.
async fn until_kept(stage: &Stage, author: &Author, store: &LabStore) -> anyhow::Result<()> {
    let a = &stage.a;
    let compare = author.files.iter().map(|file| {
        format!(
            "curl -sf -m 10 -H '{SIGNED}' '{}' | cmp -s - '{}/{file}'",
            store.object_url(file),
            author.uploads.folder
        )
    });
    let compare = compare.collect::<Vec<_>>().join(" && ");
    wait_until("every file in the bucket", KEPT_WITHIN, || async {
        let owed = owed(stage, a).await.ok()? + owed(stage, &stage.b).await.ok()?;
        (owed == 0).then_some(())?;
        a.sh(&compare).await.ok()
    })
    .await?;
    Ok(())
}

/// How many changes the bucket lacks that happened on `server`.
async fn owed(stage: &Stage, server: &Server) -> anyhow::Result<u64> {
    let said = stage.pontoon(server, &["assets", "status", "--json"]).await?;
    let owed = said
        .iter()
        .find_map(|said| said["report"]["owed_to_bucket"].as_u64());
    owed.context("`pontoon assets status` does not say what the bucket lacks")
}

async fn ask(stage: &Stage, server: &Server, request: &Request) -> anyhow::Result<Response> {
    let exchange = async {
        let mut connection = Connection::open(door(server)).await?;
        connection.send(request, &stage.app.host(), false).await
    };
    let answer = timeout(LIMIT, exchange).await;
    Ok(
        answer
            .with_context(|| format!("{} did not answer within {} s", server.name(), LIMIT.as_secs()))??,
    )
}

/// A picture that no other is like: a GIF (GIF87a) of noise, not compressed. Its codes stay 8 bits wide because the table is
/// cleared before it grows.
fn picture(dice: &mut Dice) -> Vec<u8> {
    const CLEAR: u8 = 128;
    const END: u8 = 129;
    let mut gif = b"GIF87a".to_vec();
    gif.extend(WIDTH.to_le_bytes().into_iter().chain(HEIGHT.to_le_bytes()));
    gif.extend([0xf6, 0, 0]); // 128 colours
    gif.extend((0..128u8).flat_map(|colour| [colour * 2, 255 - colour, colour]));
    gif.extend([b',', 0, 0, 0, 0]);
    gif.extend(WIDTH.to_le_bytes().into_iter().chain(HEIGHT.to_le_bytes()));
    gif.extend([0, 7]); // codes below 128 are colours
    let mut codes = Vec::new();
    for pixel in 0..u32::from(WIDTH) * u32::from(HEIGHT) {
        if pixel % 100 == 0 {
            codes.push(CLEAR);
        }
        codes.extend(u8::try_from(dice.below(128)));
    }
    codes.push(END);
    for block in codes.chunks(255) {
        gif.extend(u8::try_from(block.len()));
        gif.extend(block);
    }
    gif.extend([0, b';']);
    gif
}

const WIDTH: u16 = 320;
const HEIGHT: u16 = 240;
/// So many before the bucket is gone, and so many while it is.
const PICTURES: usize = 4;
/// Between two tries to fetch what was not there.
const BETWEEN: Duration = Duration::from_millis(5);
const LIMIT: Duration = Duration::from_secs(30);
const KEPT_WITHIN: Duration = Duration::from_secs(60);
/// Enough for the object store of the lab, which checks no signature.
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_a_gif_and_no_two_are_the_same() {
        let mut dice = Dice::new(1);
        let (one, other) = (picture(&mut dice), picture(&mut dice));
        assert!(one.starts_with(b"GIF87a\x40\x01\xf0\x00") && one.ends_with(b"\0;"));
        assert_eq!(one.len(), other.len());
        assert_ne!(one, other);
    }
}
