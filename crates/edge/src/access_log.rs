//! The access log: lines are collected in each thread and written by a thread of their own, so that a slow or full
//! disk holds up no request. When the writer does not keep up, lines are dropped and counted.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::options::{AccessLogFormat, AccessLogTo};

/// One answered request.
pub struct Record<'r> {
    /// Who asked.
    pub peer: IpAddr,
    /// `GET`, …
    pub method: &'r [u8],
    /// What was asked for.
    pub target: &'r [u8],
    /// `User-Agent`; empty when there was none.
    pub user_agent: &'r [u8],
    /// `Referer`; empty when there was none.
    pub referer: &'r [u8],
    /// What the client speaks, such as `HTTP/1.1`.
    pub version: &'static str,
    /// The status.
    pub status: u16,
    /// Bytes written to the client, heads included.
    pub bytes: u64,
    /// From the request's head to the answer's end.
    pub took: Duration,
    /// Which server answered; `None` for the edge itself.
    pub upstream: Option<&'r str>,
    /// How many servers were tried before.
    pub retries: u32,
    /// The request's id; empty where none is wanted.
    pub request_id: &'r [u8],
    /// The id of the trace that it is part of; empty where none is wanted.
    pub trace: &'r [u8],
}

/// The lines of one thread that were not yet handed to the writer.
pub struct LogBuffer {
    format: AccessLogFormat,
    lines: String,
    count: u64,
    to: SyncSender<String>,
}

/// Lines are handed over when so many bytes are there, or after a second.
const HAND_OVER: usize = 32 * 1024;
/// Blocks that may wait for the writer.
const QUEUE: usize = 64;

/// The wish that the log's file is opened anew, because it was renamed. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct Reopen(Arc<AtomicBool>);

impl Reopen {
    /// What is written from now on goes to the file that has the name then.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn was_asked(&self) -> bool {
        self.0.load(Ordering::Acquire) && self.0.swap(false, Ordering::AcqRel)
    }
}

/// The thread that writes.
pub struct Writer {
    /// Takes what is to be written.
    pub to: SyncSender<String>,
    ended: Receiver<()>,
}

/// How long a disk may take for what is left at the end.
const LAST_LINES: Duration = Duration::from_secs(2);

impl Writer {
    /// Waits until all lines are written, once nobody adds any more.
    pub fn finish(self) {
        drop(self.to);
        // Ends with the thread, which never says anything.
        let _ = self.ended.recv_timeout(LAST_LINES);
    }
}

/// Starts the writer; `None` when nothing is logged.
///
/// # Errors
/// When its thread cannot be started.
pub fn start(
    format: AccessLogFormat,
    to: AccessLogTo,
    file: PathBuf,
    reopen: Reopen,
) -> io::Result<Option<Writer>> {
    if format == AccessLogFormat::Off {
        return Ok(None);
    }
    let (sender, receiver) = sync_channel(QUEUE);
    let sink = match to {
        AccessLogTo::File => Some(file),
        AccessLogTo::Stderr => None,
    };
    let (end, ended) = sync_channel(0);
    std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || {
            write_blocks(&receiver, sink, &reopen);
            drop(end);
        })?;
    Ok(Some(Writer { to: sender, ended }))
}

fn write_blocks(blocks: &Receiver<String>, path: Option<PathBuf>, reopen: &Reopen) {
    let open = || {
        path.as_ref()
            .map(|path| OpenOptions::new().create(true).append(true).open(path))
    };
    let mut file: Option<File> = None;
    let mut complained = false;
    for block in blocks {
        // Between two blocks, which hold whole lines: each line is in one file.
        if reopen.was_asked() {
            file = None;
        }
        let result = match (&path, &mut file) {
            (None, _) => io::stderr().write_all(block.as_bytes()),
            (Some(_), Some(file)) => file.write_all(block.as_bytes()),
            (Some(_), None) => match open() {
                Some(Ok(mut opened)) => {
                    let result = opened.write_all(block.as_bytes());
                    file = Some(opened);
                    result
                }
                Some(Err(error)) => Err(error),
                None => Ok(()),
            },
        };
        if let Err(error) = &result {
            if !complained {
                tracing::warn!(%error, "the access log cannot be written; requests are served on");
            }
            file = None;
        }
        complained = result.is_err();
    }
}

impl LogBuffer {
    /// A buffer that hands over to `to`.
    pub fn new(format: AccessLogFormat, to: SyncSender<String>) -> LogBuffer {
        LogBuffer {
            format,
            lines: String::with_capacity(HAND_OVER),
            count: 0,
            to,
        }
    }

    /// Adds a line. Says how many lines were dropped.
    pub fn add(&mut self, record: &Record<'_>) -> u64 {
        let now = SystemTime::now();
        // Writing to a String cannot fail.
        let _ = match self.format {
            AccessLogFormat::Off => Ok(()),
            AccessLogFormat::Combined => combined(&mut self.lines, record, now),
            AccessLogFormat::Json => json(&mut self.lines, record, now),
        };
        self.count += 1;
        if self.lines.len() >= HAND_OVER {
            self.hand_over()
        } else {
            0
        }
    }

    /// Hands the lines to the writer. Says how many were dropped.
    pub fn hand_over(&mut self) -> u64 {
        if self.lines.is_empty() {
            return 0;
        }
        let lines = std::mem::replace(&mut self.lines, String::with_capacity(HAND_OVER));
        let count = std::mem::take(&mut self.count);
        match self.to.try_send(lines) {
            Ok(()) => 0,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => count,
        }
    }
}

/// Apache's combined format with the duration in seconds and the upstream at its end; then the ids of request and trace,
/// where either is wanted.
fn combined(out: &mut String, record: &Record<'_>, now: SystemTime) -> std::fmt::Result {
    let date = Date::of(now);
    write!(
        out,
        "{} - - [{:02}/{}/{}:{:02}:{:02}:{:02} +0000] \"",
        record.peer,
        date.day,
        MONTHS[usize::from(date.month - 1)],
        date.year,
        date.hour,
        date.minute,
        date.second
    )?;
    quoted(out, record.method)?;
    out.push(' ');
    quoted(out, record.target)?;
    let version = record.version;
    write!(out, " {version}\" {} {} \"", record.status, record.bytes)?;
    quoted(out, or_dash(record.referer))?;
    out.push_str("\" \"");
    quoted(out, or_dash(record.user_agent))?;
    let upstream = record.upstream.unwrap_or("-");
    write!(out, "\" {:.6} {upstream}", record.took.as_secs_f64())?;
    if !record.request_id.is_empty() || !record.trace.is_empty() {
        for id in [record.request_id, record.trace] {
            out.push(' ');
            quoted(out, or_dash(id))?;
        }
    }
    out.push('\n');
    Ok(())
}

fn json(out: &mut String, record: &Record<'_>, now: SystemTime) -> std::fmt::Result {
    let millis = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    write!(
        out,
        "{{\"time_ms\":{millis},\"peer\":\"{}\",\"method\":\"",
        record.peer
    )?;
    quoted(out, record.method)?;
    out.push_str("\",\"target\":\"");
    quoted(out, record.target)?;
    write!(
        out,
        "\",\"status\":{},\"bytes\":{},\"seconds\":{:.6},\"retries\":{},\"referer\":\"",
        record.status,
        record.bytes,
        record.took.as_secs_f64(),
        record.retries
    )?;
    quoted(out, record.referer)?;
    out.push_str("\",\"user_agent\":\"");
    quoted(out, record.user_agent)?;
    for (key, id) in [("request_id", record.request_id), ("trace_id", record.trace)] {
        if !id.is_empty() {
            write!(out, "\",\"{key}\":\"")?;
            quoted(out, id)?;
        }
    }
    match record.upstream {
        Some(upstream) => writeln!(out, "\",\"upstream\":\"{upstream}\"}}"),
        None => writeln!(out, "\",\"upstream\":null}}"),
    }
}

fn or_dash(text: &[u8]) -> &[u8] {
    if text.is_empty() { b"-" } else { text }
}

/// Text that cannot end its quotes or its line: everything but plain visible ASCII is escaped.
fn quoted(out: &mut String, text: &[u8]) -> std::fmt::Result {
    for byte in text {
        match byte {
            b'"' | b'\\' => write!(out, "\\{}", char::from(*byte))?,
            0x20..=0x7e => out.push(char::from(*byte)),
            _ => write!(out, "\\u00{byte:02x}")?,
        }
    }
    Ok(())
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

struct Date {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Date {
    fn of(now: SystemTime) -> Date {
        let utc = time::OffsetDateTime::from(now);
        let month = u8::from(utc.month());
        let year = u16::try_from(utc.year()).unwrap_or(0);
        Date {
            year,
            month,
            day: utc.day(),
            hour: utc.hour(),
            minute: utc.minute(),
            second: utc.second(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        Record {
            peer: "198.51.100.7".parse().unwrap(),
            method: b"GET",
            target: b"/a\"b",
            user_agent: b"x\xff\ny",
            referer: b"",
            version: "HTTP/1.1",
            status: 200,
            bytes: 12,
            took: Duration::from_millis(1500),
            upstream: Some("a"),
            retries: 1,
            request_id: b"",
            trace: b"",
        }
    }

    #[test]
    fn a_line_cannot_be_broken_by_what_a_visitor_sends() {
        let (mut line, moment) = (String::new(), UNIX_EPOCH + Duration::from_secs(86_400 * 59));
        combined(&mut line, &record(), moment).unwrap();
        assert_eq!(
            line,
            "198.51.100.7 - - [01/Mar/1970:00:00:00 +0000] \"GET /a\\\"b HTTP/1.1\" 200 12 \"-\" \"x\\u00ff\\u000ay\" 1.500000 a\n"
        );
        line.clear();
        json(&mut line, &record(), moment).unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["target"], "/a\"b");
        assert_eq!(value["user_agent"], "x\u{ff}\ny");
        assert_eq!(value.get("request_id"), None);
        line.clear();
        let with_id = Record {
            request_id: b"a\"b",
            trace: b"4bf9",
            ..record()
        };
        json(&mut line, &with_id, moment).unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&value["request_id"], &value["trace_id"]),
            (&"a\"b".into(), &"4bf9".into())
        );
        line.clear();
        combined(&mut line, &with_id, moment).unwrap();
        assert!(line.ends_with(" 1.500000 a a\\\"b 4bf9\n"), "{line}");
    }

    #[test]
    fn a_file_that_was_renamed_gets_no_line_after_it_was_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (log, rotated) = (folder.path().join("log"), folder.path().join("log.1"));
        let reopen = Reopen::default();
        let writer = start(
            AccessLogFormat::Json,
            AccessLogTo::File,
            log.clone(),
            reopen.clone(),
        );
        let writer = writer.unwrap().unwrap();
        let written = |path: &std::path::Path, text: &str| {
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while std::fs::read_to_string(path).unwrap_or_default() != text {
                assert!(std::time::Instant::now() < deadline, "{path:?} is not {text:?}");
                std::thread::yield_now();
            }
        };
        writer.to.send("1\n".to_owned()).unwrap();
        written(&log, "1\n");
        std::fs::rename(&log, &rotated).unwrap();
        writer.to.send("2\n".to_owned()).unwrap();
        written(&rotated, "1\n2\n");
        reopen.ask();
        writer.to.send("3\n".to_owned()).unwrap();
        writer.to.send("4\n".to_owned()).unwrap();
        writer.finish();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "3\n4\n");
        assert_eq!(std::fs::read_to_string(&rotated).unwrap(), "1\n2\n");
    }

    #[test]
    fn a_writer_that_does_not_keep_up_costs_lines_and_nothing_else() {
        let (sender, receiver) = sync_channel(1);
        let mut buffer = LogBuffer::new(AccessLogFormat::Json, sender);
        buffer.add(&record());
        assert_eq!(buffer.hand_over(), 0);
        buffer.add(&record());
        buffer.add(&record());
        assert_eq!(buffer.hand_over(), 2);
        drop(receiver);
        buffer.add(&record());
        assert_eq!(buffer.hand_over(), 1);
    }
}
