//! The source's side of a logical copy: what mariadb-dump or mysqldump says, then the accounts, in frames whose last one
//! can be trusted. For where files cannot be copied: another release series, a missing tool.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::{Code, Refusal};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backup::{CHUNK, Pace, Spool, Words, hex, in_time, listen};
use crate::frame::{self, End, Frame, Progress};
use crate::node::DatabaseNode;
use crate::programs;
use crate::protocol::DumpOptions;
use crate::settings;
use crate::unit::User;

/// How long the receiver may take nothing: it makes indexes of what it was given. The dump holds no lock meanwhile.
const RECEIVER_PATIENCE: Duration = Duration::from_secs(600);

/// Chunks that wait for the receiver.
const QUEUE: usize = 16;

/// What `CONVERT_TZ` needs, and no statement of the dump makes.
const TIME_ZONES: [&str; 5] = [
    "time_zone",
    "time_zone_leap_second",
    "time_zone_name",
    "time_zone_transition",
    "time_zone_transition_type",
];

/// A dump that can begin.
pub(crate) struct Dump {
    parts: Vec<Part>,
    bytes_per_second: Option<u64>,
    total: u64,
}

enum Part {
    Tool(Box<Command>),
    Text(String),
}

/// Makes it ready. What can be said no to is said here, before the first frame.
pub(crate) fn start(node: &DatabaseNode, options: &DumpOptions) -> Result<Dump, Refusal> {
    let user = User::of(node)?;
    if settings::admin_file(node).symlink_metadata().is_err() {
        return Err(
            Refusal::new(Code::N003, "the database has no administration account yet")
                .because("Pontoon's settings were not written")
                .next("move the database aside first", "pontoon apply"),
        );
    }
    let mut parts = Vec::new();
    if !options.databases.is_empty() {
        let mut data = tool(node, &user)?;
        data.args(["--routines", "--events", "--triggers"]);
        match (node.is_mariadb(), options.history) {
            (true, true) => data.args(["--master-data=1", "--gtid", "--dump-history"]),
            (true, false) => data.args(["--master-data=1", "--gtid"]),
            // With its lock for the moment in which it takes its snapshot, or the position would not be that of the snapshot.
            (false, _) => data.args(["--source-data=2", "--set-gtid-purged=ON"]),
        };
        data.arg("--databases").args(&options.databases);
        parts.push(Part::Tool(Box::new(data)));
    }
    let mut zones = tool(node, &user)?;
    zones.args([
        "--no-create-info",
        "--skip-triggers",
        "--skip-add-locks",
        "--replace",
    ]);
    if !node.is_mariadb() {
        zones.arg("--set-gtid-purged=OFF");
    }
    zones.arg("mysql").args(TIME_ZONES);
    parts.push(Part::Text("\nUSE mysql;\n".to_owned()));
    parts.push(Part::Tool(Box::new(zones)));
    let mut accounts = String::from("\n");
    for statement in &options.accounts {
        accounts.push_str(statement);
        accounts.push_str(";\n");
    }
    parts.push(Part::Text(accounts));
    Ok(Dump {
        parts,
        bytes_per_second: options.bytes_per_second,
        total: options.expected_bytes,
    })
}

/// The tool, with what every call of it needs.
fn tool(node: &DatabaseNode, user: &User) -> Result<Command, Refusal> {
    let name = if node.is_mariadb() {
        "mariadb-dump"
    } else {
        "mysqldump"
    };
    let mut command = programs::command(node, name, user)?;
    command
        .arg(format!(
            "--defaults-file={}",
            settings::admin_file(node).display()
        ))
        .arg(format!("--socket={}", settings::effective_socket(node).display()))
        .args([
            "--single-transaction",
            "--quick",
            "--hex-blob",
            "--default-character-set=utf8mb4",
            "--max-allowed-packet=1G",
        ])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

impl Dump {
    /// Sends the whole stream; the last frame says how it went.
    ///
    /// # Errors
    /// Only the receiver's: it is gone, and the dump is ended with it.
    pub(crate) async fn send<W: AsyncWrite + Unpin>(self, to: &mut W) -> std::io::Result<()> {
        let total = self.total;
        let (queue, mut queued) = tokio::sync::mpsc::channel(QUEUE);
        let reading: Abort<Result<(), Refusal>> = Abort(tokio::spawn(read_all(
            self.parts,
            queue,
            Pace::new(self.bytes_per_second),
        )));
        let (mut digest, mut bytes) = (Sha256::new(), 0u64);
        let mut told: Option<Instant> = None;
        loop {
            let chunk: Vec<u8> = match tokio::time::timeout(Duration::from_secs(1), queued.recv()).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                // Nothing to send yet: the receiver hears that we are there.
                Err(_) => Vec::new(),
            };
            if !chunk.is_empty() {
                digest.update(&chunk);
                bytes += chunk.len() as u64;
                in_time(RECEIVER_PATIENCE, frame::write_data(to, &chunk)).await?;
            }
            if chunk.is_empty() || told.is_none_or(|told| told.elapsed() > Duration::from_millis(200)) {
                told = Some(Instant::now());
                let now = Frame::Progress(Progress {
                    bytes,
                    total: total.max(bytes),
                });
                in_time(RECEIVER_PATIENCE, frame::write(to, &now)).await?;
            }
        }
        let last = match reading.ended().await {
            Ok(()) => Frame::End(End {
                bytes,
                sha256: hex(&digest.finalize()),
                position: None,
            }),
            Err(refusal) => Frame::Failed(refusal),
        };
        frame::write(to, &last).await?;
        to.flush().await
    }
}

/// A task that ends with this value.
struct Abort<T>(JoinHandle<T>);

impl Abort<Result<(), Refusal>> {
    async fn ended(mut self) -> Result<(), Refusal> {
        (&mut self.0)
            .await
            .unwrap_or_else(|error| Err(Refusal::new(Code::N007, error.to_string())))
    }
}

impl<T> Drop for Abort<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read_all(parts: Vec<Part>, queue: Sender<Vec<u8>>, mut pace: Pace) -> Result<(), Refusal> {
    let gone = || Refusal::new(Code::N002, "the receiver is gone");
    for part in parts {
        match part {
            Part::Text(text) => {
                for piece in text.as_bytes().chunks(CHUNK) {
                    queue.send(piece.to_vec()).await.map_err(|_| gone())?;
                }
            }
            Part::Tool(command) => run_tool(*command, &queue, &mut pace).await?,
        }
    }
    Ok(())
}

async fn run_tool(mut command: Command, queue: &Sender<Vec<u8>>, pace: &mut Pace) -> Result<(), Refusal> {
    let failed = |why: String| Refusal::new(Code::D003, "the dump failed on the source").because(why);
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let (Some(mut output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(failed("it has no output".to_owned()));
    };
    let words = tokio::spawn(listen(BufReader::new(errors), Arc::new(Spool::default())));
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = (&mut output).take(CHUNK as u64).read_buf(&mut chunk).await;
        let count = read.map_err(|error| failed(error.to_string()))?;
        if count == 0 {
            break;
        }
        if queue.send(chunk).await.is_err() {
            return Err(Refusal::new(Code::N002, "the receiver is gone"));
        }
        pace.after(count as u64).await;
    }
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let words: Words = words.await.unwrap_or_default();
    let mut refusal = failed(status.to_string());
    refusal.evidence.extend(words.last);
    Err(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(script: &str, accounts: &str) -> (Vec<u8>, Frame) {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let dump = Dump {
            parts: vec![Part::Tool(Box::new(command)), Part::Text(accounts.to_owned())],
            bytes_per_second: None,
            total: 0,
        };
        let mut wire = Vec::new();
        dump.send(&mut wire).await.unwrap();
        let (mut data, mut reader) = (Vec::new(), wire.as_slice());
        loop {
            match frame::read(&mut reader).await.unwrap() {
                Frame::Data(bytes) => data.extend_from_slice(&bytes),
                Frame::Progress(_) => {}
                last => return (data, last),
            }
        }
    }

    #[tokio::test]
    async fn what_the_tool_says_comes_before_the_accounts_and_its_end_is_told() {
        let (data, last) = sent("printf 'CREATE'", "GRANT").await;
        assert_eq!(data, b"CREATEGRANT");
        assert!(matches!(last, Frame::End(End { bytes: 11, .. })), "{last:?}");
    }

    #[tokio::test]
    async fn a_tool_that_fails_in_the_middle_is_no_copy_and_its_words_are_told() {
        let (_, last) = sent(
            "printf 'CREATE'; echo 'table definition has changed' >&2; exit 2",
            "GRANT",
        )
        .await;
        let Frame::Failed(refusal) = last else {
            panic!("{last:?}")
        };
        assert_eq!(refusal.code, Code::D003);
        assert!(
            refusal.evidence.iter().any(|line| line.contains("definition")),
            "{refusal:?}"
        );
    }
}
