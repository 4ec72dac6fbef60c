//! The source's side of a copy: mariadb-backup's stream, or that of tar over what MySQL's CLONE wrote, in frames whose
//! last one can be trusted.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pontoon_fleet::{Code, Refusal};
use pontoon_rt::files;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::frame::{self, End, Frame, Progress};
use crate::node::{DatabaseNode, Run};
use crate::protocol::BackupOptions;
use crate::unit::User;
use crate::{dirs, settings};

const MARIADB_TOOL: &str = "mariadb-backup";

/// How much is read at once; also the payload of a frame.
pub(crate) const CHUNK: usize = 256 * 1024;

/// A backup that runs.
pub(crate) struct Backup {
    tool: &'static str,
    child: Child,
    /// Whether its messages must end with its word that it is done.
    must_say_so: bool,
    total: u64,
    bytes_per_second: Option<u64>,
    scratch: std::path::PathBuf,
}

/// Starts the tool. What can be said no to is said here, before the first frame.
pub(crate) fn start(node: &DatabaseNode, options: &BackupOptions) -> Result<Backup, Refusal> {
    if !node.is_mariadb() {
        return start_tar(node, options);
    }
    if settings::admin_file(node).symlink_metadata().is_err() {
        return Err(
            Refusal::new(Code::N003, "the database has no administration account yet")
                .because("Pontoon's settings were not written")
                .next("move the database aside first", "pontoon apply"),
        );
    }
    let user = User::of(node)?;
    let defaults = node.files.join("backup.cnf");
    files::write_atomic(&defaults, defaults_text(node).as_bytes(), 0o640)?;
    user.own(&defaults)?;
    let scratch = node.files.join("backup-scratch");
    let _ = std::fs::remove_dir_all(&scratch);
    files::create_dir(&scratch, 0o700)?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&scratch, Some(user.uid), Some(user.gid))
            .map_err(|error| files::FileError::new(&scratch, "give away", error))?;
    }
    let mut command = Command::new(MARIADB_TOOL);
    command
        .arg(format!("--defaults-file={}", defaults.display()))
        // Under its locks the tool waits for its redo log thread, which looks once a second by default: the one second
        // for which commits on the source stood still. Every 20 ms, they stand still for about 50.
        .args(["--backup", "--stream=mbstream", "--log-copy-interval=20"])
        .arg(format!("--target-dir={}", scratch.display()))
        .arg(format!("--socket={}", settings::effective_socket(node).display()))
        .current_dir(&scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    user.run_as(&mut command);
    let child = command
        .spawn()
        .map_err(|error| tool_missing(MARIADB_TOOL, &error))?;
    Ok(Backup {
        tool: MARIADB_TOOL,
        child,
        must_say_so: true,
        total: size_of(node),
        bytes_per_second: options.bytes_per_second,
        scratch,
    })
}

/// MySQL: the files that its CLONE wrote into the place of [`dirs::make_cloning`], without what a server starts itself.
fn start_tar(node: &DatabaseNode, options: &BackupOptions) -> Result<Backup, Refusal> {
    let (scratch, data) = dirs::cloning(node)?;
    let mut command = Command::new("tar");
    command
        .args([
            "--create",
            "--sparse",
            "--numeric-owner",
            "--exclude=./auto.cnf",
            "--file=-",
        ])
        .arg("--directory")
        .arg(&data)
        .arg(".")
        .current_dir(&scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    User::of(node)?.run_as(&mut command);
    let child = command.spawn().map_err(|error| tool_missing("tar", &error))?;
    Ok(Backup {
        tool: "tar",
        child,
        must_say_so: false,
        total: size_in(&data),
        bytes_per_second: options.bytes_per_second,
        scratch,
    })
}

impl Backup {
    /// Sends the whole stream; the last frame says how it went.
    ///
    /// While the tool holds its locks, commits on the source wait for it, so it must never wait for the network: what
    /// the receiver does not take at once is kept in memory, and a receiver so slow that this is not enough ends the
    /// backup, not the service.
    ///
    /// # Errors
    /// Only the receiver's: it is gone, and the backup is ended with it.
    pub(crate) async fn send<W: AsyncWrite + Unpin>(mut self, to: &mut W) -> std::io::Result<()> {
        let broken = || std::io::Error::other("the backup tool has no output");
        let output = self.child.stdout.take().ok_or_else(broken)?;
        let errors = self.child.stderr.take().ok_or_else(broken)?;
        let spool = Arc::new(Spool::default());
        let words = tokio::spawn(listen(BufReader::new(errors), spool.clone()));
        let (queue, mut queued) = tokio::sync::mpsc::unbounded_channel();
        let reading = tokio::spawn(
            spool
                .clone()
                .fill(output, queue, Pace::new(self.bytes_per_second)),
        );

        let (mut digest, mut bytes) = (Sha256::new(), 0u64);
        let mut reported = Instant::now();
        frame::write(
            to,
            &Frame::Progress(Progress {
                bytes,
                total: self.total,
            }),
        )
        .await?;
        loop {
            let chunk: Vec<u8> = match tokio::time::timeout(Duration::from_secs(1), queued.recv()).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                // Nothing to send, while the tool waits for a lock: the receiver hears that we are there.
                Err(_) => Vec::new(),
            };
            digest.update(&chunk);
            bytes += chunk.len() as u64;
            if !chunk.is_empty() {
                in_time(RECEIVER_PATIENCE, frame::write_data(to, &chunk)).await?;
                spool.taken(chunk.len() as u64);
            }
            if chunk.is_empty() || reported.elapsed() > Duration::from_millis(200) {
                reported = Instant::now();
                let now = Frame::Progress(Progress {
                    bytes,
                    total: self.total.max(bytes),
                });
                in_time(RECEIVER_PATIENCE, frame::write(to, &now)).await?;
            }
        }
        let read = reading
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)));
        if read.is_err() {
            self.child.start_kill()?;
        }
        let status = self.child.wait().await?;
        let words = words.await.unwrap_or_default();
        let last = match read {
            Ok(()) if status.success() && (words.completed || !self.must_say_so) => Frame::End(End {
                bytes,
                sha256: hex(&digest.finalize()),
                position: words.position,
            }),
            Ok(()) => {
                let mut refusal = Refusal::new(
                    Code::D003,
                    format!("{} failed on the source ({status})", self.tool),
                );
                refusal.evidence.extend(words.last);
                Frame::Failed(refusal)
            }
            Err(error) => Frame::Failed(
                Refusal::new(Code::D003, "the copy was ended to keep the source writable")
                    .because(error.to_string()),
            ),
        };
        let _ = std::fs::remove_dir_all(&self.scratch);
        frame::write(to, &last).await?;
        to.flush().await
    }
}

/// A receiver that takes nothing for this long is gone, whatever its connection says.
const RECEIVER_PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn in_time(
    patience: Duration,
    write: impl Future<Output = std::io::Result<()>>,
) -> std::io::Result<()> {
    tokio::time::timeout(patience, write).await.unwrap_or_else(|_| {
        Err(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            "the receiver takes nothing any more",
        ))
    })
}

/// How much may wait for the receiver while tables are copied.
const SPOOL: u64 = 8 << 20;

/// How much may wait for it while the source's commits wait for the tool.
const SPOOL_LOCKED: u64 = 256 << 20;

/// How long the tool may be held up under its locks.
const HELD_UP: Duration = Duration::from_millis(500);

/// What was read and not yet sent.
#[derive(Default)]
pub(crate) struct Spool {
    bytes: AtomicU64,
    locked: AtomicBool,
    room: Notify,
}

impl Spool {
    /// Reads the tool's output into the queue.
    async fn fill<R: AsyncRead + Unpin>(
        self: Arc<Spool>,
        mut output: R,
        queue: UnboundedSender<Vec<u8>>,
        mut pace: Pace,
    ) -> std::io::Result<()> {
        loop {
            self.wait_for_room().await?;
            let mut chunk = Vec::with_capacity(CHUNK);
            let count = (&mut output).take(CHUNK as u64).read_buf(&mut chunk).await? as u64;
            if count == 0 {
                return Ok(());
            }
            self.bytes.fetch_add(count, Ordering::Relaxed);
            if queue.send(chunk).is_err() {
                return Err(std::io::Error::other("the receiver is gone"));
            }
            if !self.is_locked() {
                tokio::select! {
                    () = pace.after(count) => {}
                    () = self.lock_taken() => {}
                }
            }
        }
    }

    async fn wait_for_room(&self) -> std::io::Result<()> {
        let mut held_up = None;
        loop {
            let locked = self.is_locked();
            if self.bytes.load(Ordering::Relaxed) < if locked { SPOOL_LOCKED } else { SPOOL } {
                return Ok(());
            }
            if locked {
                let since: Instant = *held_up.get_or_insert_with(Instant::now);
                if since.elapsed() > HELD_UP {
                    return Err(std::io::Error::other(
                        "the receiver does not take the copy fast enough, and commits wait on the source",
                    ));
                }
            }
            let _ = tokio::time::timeout(Duration::from_millis(50), self.room.notified()).await;
        }
    }

    fn taken(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.room.notify_one();
    }

    fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    /// Waits until the tool says that it takes its locks: pacing ends there, in the middle of a pause too.
    async fn lock_taken(&self) {
        while !self.is_locked() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The options that the tool reads: the server's own (encryption keys, paths), then who it logs in as.
fn defaults_text(node: &DatabaseNode) -> String {
    let mut text = String::new();
    match &node.run {
        Run::Process { .. } if node.settings_file().exists() => {
            text.push_str(&format!("!include {}\n", node.settings_file().display()));
        }
        Run::Process { argv, .. } => {
            for file in settings::original_defaults(argv) {
                text.push_str(&format!("!include {}\n", file.display()));
            }
        }
        Run::Systemd { .. } => {
            for file in settings::original_defaults(&[]) {
                text.push_str(&format!("!include {}\n", file.display()));
            }
        }
    }
    text.push_str(&format!("!include {}\n", settings::admin_file(node).display()));
    text.push_str(&format!("[mariadb-backup]\ndatadir={}\n", node.datadir.display()));
    text
}

pub(crate) fn tool_missing(tool: &str, error: &std::io::Error) -> Refusal {
    Refusal::new(Code::D007, format!("{tool} cannot be run"))
        .because(error.to_string())
        .next("install it", "apt-get install mariadb-backup")
}

/// What the tool said.
#[derive(Default)]
pub(crate) struct Words {
    /// Its last lines.
    pub last: Vec<String>,
    /// Whether it said that it is done.
    pub completed: bool,
    /// The GTID position of its copy.
    pub position: Option<String>,
}

/// Before the position, in what mariadb-backup says.
const POSITION: &str = "GTID of the last change '";

fn position_in(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(POSITION)?;
    let position = rest.split('\'').next()?;
    let plain = position
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'-' || byte == b',');
    plain.then(|| position.to_owned())
}

/// Reads the tool's messages; notes when it takes its locks.
pub(crate) async fn listen<R: tokio::io::AsyncBufRead + Unpin>(mut errors: R, spool: Arc<Spool>) -> Words {
    let mut words = Words::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        match errors.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return words,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.contains("BACKUP LOCKS") || text.contains("BACKUP STAGE FLUSH") {
            spool.locked.store(true, Ordering::Relaxed);
        }
        words.completed = text.ends_with("completed OK!");
        words.position = position_in(&text).or(words.position);
        tracing::debug!(target: "mariadb_backup", "{text}");
        if words.last.len() == 12 {
            words.last.remove(0);
        }
        words.last.push(text);
    }
}

/// Keeps a stream at a rate, with a burst of a tenth of a second.
pub(crate) struct Pace {
    rate: Option<u64>,
    begun: Instant,
    sent: u64,
}

impl Pace {
    pub(crate) fn new(rate: Option<u64>) -> Pace {
        Pace {
            rate: rate.filter(|rate| *rate > 0),
            begun: Instant::now(),
            sent: 0,
        }
    }

    pub(crate) async fn after(&mut self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        self.sent += bytes;
        let due = Duration::from_secs_f64(self.sent as f64 / rate as f64);
        let elapsed = self.begun.elapsed();
        if due > elapsed + Duration::from_millis(10) {
            tokio::time::sleep(due - elapsed).await;
        } else if elapsed > due + Duration::from_millis(100) {
            // It was slower than allowed: no debt is built up that would be a burst later.
            self.begun = Instant::now();
            self.sent = 0;
        }
    }
}

/// The size of the data directory without logs that are not copied: an estimate of the stream.
pub(crate) fn size_of(node: &DatabaseNode) -> u64 {
    size_in(&node.datadir)
}

fn size_in(data: &std::path::Path) -> u64 {
    fn walk(dir: &std::path::Path, depth: u32) -> u64 {
        let Ok(entries) = std::fs::read_dir(dir) else {
            return 0;
        };
        entries
            .flatten()
            .map(|entry| match entry.metadata() {
                Ok(metadata) if metadata.is_dir() && depth < 3 => walk(&entry.path(), depth + 1),
                Ok(metadata) if metadata.is_file() && is_copied(&entry.file_name().to_string_lossy()) => {
                    metadata.len()
                }
                _ => 0,
            })
            .sum()
    }
    walk(data, 0)
}

/// Binary, relay and redo logs and temporary tables do not travel (as whole files).
fn is_copied(name: &str) -> bool {
    let is_numbered_log = name.rsplit_once('.').is_some_and(|(base, number)| {
        number.len() >= 6
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && (base.contains("bin") || base.contains("relay"))
    });
    !is_numbered_log && !name.starts_with("ib_logfile") && !name.starts_with("ibtmp")
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_do_not_count_for_the_size() {
        for name in [
            "mysql-bin.000001",
            "pontoon-relay.000012",
            "ib_logfile0",
            "ibtmp1",
        ] {
            assert!(!is_copied(name), "{name}");
        }
        for name in ["ibdata1", "t.ibd", "t.000001", "t.MYD", "aria_log.00000001"] {
            assert!(is_copied(name), "{name}");
        }
    }

    #[tokio::test]
    async fn the_tools_last_line_and_its_locks_are_noted() {
        let spool = Arc::new(Spool::default());
        let text = &b"[00] Acquiring BACKUP LOCKS...\n\xff\n[00] 2026 completed OK!\n"[..];
        let words = listen(text, spool.clone()).await;
        assert!(words.completed && spool.is_locked());
        let words = listen(&b"completed OK!\nERROR: no\n"[..], spool).await;
        assert!(!words.completed, "only the last line counts");
        assert_eq!(words.last.len(), 2);
        let text = "MySQL binlog position: filename 'a.000002', position '392', GTID of the last change '0-1-7,1-2-3'";
        assert_eq!(position_in(text).as_deref(), Some("0-1-7,1-2-3"));
        assert_eq!(position_in("GTID of the last change 'x; DROP'"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn pacing_holds_the_rate_and_builds_up_no_debt() {
        let mut pace = Pace::new(Some(1000));
        let begun = Instant::now();
        for _ in 0..10 {
            pace.after(100).await;
        }
        let took = begun.elapsed();
        assert!((900..1100).contains(&took.as_millis()), "{took:?}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        pace.after(100).await;
        let begun = Instant::now();
        pace.after(1000).await;
        assert!(begun.elapsed() >= Duration::from_millis(800));
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_stands_still_under_lock_ends_the_copy_and_not_the_service() {
        let spool = Arc::new(Spool::default());
        spool.locked.store(true, Ordering::Relaxed);
        let (queue, _queued) = tokio::sync::mpsc::unbounded_channel();
        let begun = Instant::now();
        let error = spool
            .fill(tokio::io::repeat(7), queue, Pace::new(None))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("fast enough"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_stands_still_before_that_is_waited_for() {
        let spool = Arc::new(Spool::default());
        let (queue, mut queued) = tokio::sync::mpsc::unbounded_channel();
        let filling = tokio::spawn(spool.clone().fill(
            tokio::io::repeat(7).take(2 * SPOOL),
            queue,
            Pace::new(None),
        ));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!filling.is_finished() && spool.bytes.load(Ordering::Relaxed) <= SPOOL + CHUNK as u64);
        let mut bytes = 0;
        while let Some(chunk) = queued.recv().await {
            bytes += chunk.len() as u64;
            spool.taken(chunk.len() as u64);
        }
        assert_eq!(bytes, 2 * SPOOL);
        filling.await.unwrap().unwrap();
    }
}
