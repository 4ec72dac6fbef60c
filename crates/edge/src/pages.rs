//! Pages for what the edge answers itself: errors, and maintenance.
//!
//! The control thread reads the files; a serving thread that has an error to tell looks at what was read last. A file
//! that cannot be shown is named in the report, and what was read of it before is shown on.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use pontoon_fleet::{MAINTENANCE_PAGE, Maintenance, UnixMillis};
use tokio::sync::watch;

use crate::answer;
use crate::http1::reject::Reject;
use crate::https::{Stamp, stamp};

/// The largest page. It is in memory, and goes out in one write.
const LARGEST: u64 = 256 * 1024;

/// What is said of the end of a maintenance that ends when an operator says so, in seconds.
const SOME_TIME: u64 = 60;

/// The pages as they are shown.
#[derive(Debug, Default)]
pub struct Pages {
    by_use: BTreeMap<String, Page>,
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Page {
    content_type: &'static str,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Status,
    Reason,
    RequestId,
}

/// What stands for something else in a page of text.
const PLACEHOLDERS: [(&str, Piece); 3] = [
    ("{{status}}", Piece::Status),
    ("{{reason}}", Piece::Reason),
    ("{{request_id}}", Piece::RequestId),
];

/// An answer of the edge itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own<'t> {
    /// The status.
    pub status: u16,
    /// A few words on it, for the plain text that is sent where there is no page.
    pub detail: &'t str,
    /// Fields.
    pub extra: &'t str,
    /// The request's id; empty for none.
    pub request_id: &'t [u8],
    /// HEAD: the head alone.
    pub head_only: bool,
    /// Whether the connection takes another request.
    pub keep_alive: bool,
}

impl Pages {
    /// Writes the answer to `out`: the page for its status, else that for its class, else plain text.
    pub fn write(&self, out: &mut Vec<u8>, own: &Own<'_>) {
        match self.page(own.status) {
            Some(page) => page.write(out, own),
            None => answer::write(
                out,
                own.status,
                own.detail,
                own.extra,
                own.head_only,
                own.keep_alive,
            ),
        }
    }

    /// The answer to a request that is refused. The connection ends with it.
    pub fn refuse(&self, out: &mut Vec<u8>, reject: Reject, head_only: bool) {
        let own = Own {
            status: reject.status(),
            detail: reject.word(),
            extra: answer::refusal_fields(reject),
            head_only,
            ..Own::default()
        };
        self.write(out, &own);
    }

    /// The answer to a visitor while there is maintenance, at `now`.
    pub fn maintain(&self, out: &mut Vec<u8>, maintenance: &Maintenance, now: UnixMillis, own: &Own<'_>) {
        let left = maintenance
            .until
            .map(|until| until.0.saturating_sub(now.0).div_ceil(1000));
        let seconds = left.unwrap_or(SOME_TIME).max(1);
        let extra = format!(
            "Retry-After: {seconds}\r\nCache-Control: no-store\r\n{}",
            own.extra
        );
        let own = Own {
            status: 503,
            detail: "the site is being worked on",
            extra: &extra,
            ..*own
        };
        match self.by_use.get(MAINTENANCE_PAGE) {
            Some(page) => page.write(out, &own),
            None => self.write(out, &own),
        }
    }

    fn page(&self, status: u16) -> Option<&Page> {
        if self.by_use.is_empty() {
            return None;
        }
        let class = || format!("{}xx", status / 100);
        let own = self.by_use.get(&status.to_string());
        own.or_else(|| self.by_use.get(&class()))
    }
}

impl Page {
    /// Of a file that holds `bytes`.
    fn of(file: &Path, bytes: Vec<u8>) -> Result<Page, String> {
        let ending = file.extension().and_then(|ending| ending.to_str());
        let content_type = match ending.unwrap_or_default() {
            "html" | "htm" => "text/html; charset=utf-8",
            "txt" => "text/plain; charset=utf-8",
            "json" => "application/json",
            "xml" => "application/xml",
            "svg" => "image/svg+xml",
            _ => return Err("what is in it cannot be own by its name".to_owned()),
        };
        if std::str::from_utf8(&bytes).is_err() {
            return Err("it is not UTF-8".to_owned());
        }
        Ok(Page {
            content_type,
            pieces: pieces(&bytes),
        })
    }

    fn write(&self, out: &mut Vec<u8>, own: &Own<'_>) {
        let mut body = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => body.extend_from_slice(text),
                Piece::Status => body.extend_from_slice(own.status.to_string().as_bytes()),
                Piece::Reason => body.extend_from_slice(answer::reason(own.status).as_bytes()),
                // It may be a visitor's: nothing that means something in a page.
                Piece::RequestId => body.extend(
                    own.request_id
                        .iter()
                        .filter(|byte| byte.is_ascii_alphanumeric() || b"-_.:=+/".contains(byte)),
                ),
            }
        }
        let connection = match own.keep_alive {
            true => "",
            false => "Connection: close\r\n",
        };
        let mut head = String::with_capacity(256);
        // Writing to a String cannot fail.
        let _ = write!(
            head,
            "HTTP/1.1 {} {}\r\nDate: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}{connection}\r\n",
            own.status,
            answer::reason(own.status),
            httpdate::fmt_http_date(SystemTime::now()),
            self.content_type,
            body.len(),
            own.extra,
        );
        out.extend_from_slice(head.as_bytes());
        if !own.head_only {
            out.extend_from_slice(&body);
        }
    }
}

fn pieces(bytes: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let (mut text, mut at) = (0, 0);
    while at < bytes.len() {
        let found = PLACEHOLDERS
            .iter()
            .find(|(name, _)| bytes[at..].starts_with(name.as_bytes()));
        match found {
            Some((name, piece)) => {
                pieces.push(Piece::Text(bytes[text..at].to_vec()));
                pieces.push(piece.clone());
                at += name.len();
                text = at;
            }
            None => at += 1,
        }
    }
    pieces.push(Piece::Text(bytes[text..].to_vec()));
    pieces.retain(|piece| *piece != Piece::Text(Vec::new()));
    pieces
}

/// The control thread's side: the files.
#[derive(Debug)]
pub struct PageFiles {
    known: BTreeMap<PathBuf, Known>,
    wanted: BTreeMap<String, PathBuf>,
    publish: watch::Sender<Arc<Pages>>,
}

/// One file: what it was when it was last looked at, and what is shown of it.
#[derive(Debug, Default)]
struct Known {
    seen: Option<Option<Stamp>>,
    page: Option<Page>,
    refused: Option<String>,
}

impl PageFiles {
    /// Without pages yet. What is read is published to `publish`.
    pub fn new(publish: watch::Sender<Arc<Pages>>) -> PageFiles {
        PageFiles {
            known: BTreeMap::new(),
            wanted: BTreeMap::new(),
            publish,
        }
    }

    /// Looks at the files of `wanted`; to be called with each view and each second.
    pub fn refresh(&mut self, wanted: &BTreeMap<String, PathBuf>) {
        let mut changed = self.wanted != *wanted;
        if changed {
            self.wanted.clone_from(wanted);
            self.known
                .retain(|file, _| wanted.values().any(|one| one == file));
        }
        for file in wanted.values() {
            changed |= self.known.entry(file.clone()).or_default().look(file);
        }
        if !changed {
            return;
        }
        let shown = wanted.iter().filter_map(|(used_for, file)| {
            let page = self.known.get(file)?.page.clone()?;
            Some((used_for.clone(), page))
        });
        self.publish.send_replace(Arc::new(Pages {
            by_use: shown.collect(),
        }));
    }

    /// The files that cannot be shown, and why.
    pub fn refused(&self) -> Vec<String> {
        let refused = self.known.iter().filter_map(|(file, known)| {
            let reason = known.refused.as_ref()?;
            Some(format!("{}: {reason}", file.display()))
        });
        refused.collect()
    }
}

impl Known {
    /// Reads `file` if it is another than before; says whether something else is to be shown now.
    fn look(&mut self, file: &Path) -> bool {
        let found = stamp(file);
        if self.seen == Some(found) {
            return false;
        }
        self.seen = Some(found);
        match read(file).and_then(|bytes| Page::of(file, bytes)) {
            Ok(page) => {
                self.refused = None;
                self.page = Some(page);
                true
            }
            Err(reason) => {
                tracing::warn!(file = %file.display(), reason, "a page cannot be shown; what was read of it before is");
                self.refused = Some(reason);
                false
            }
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let kind = std::fs::metadata(file).map_err(|error| error.to_string())?;
    // A pipe would never end, a folder is no page.
    if !kind.is_file() {
        return Err("it is not a file".to_owned());
    }
    let opened = std::fs::File::open(file).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let read = opened.take(LARGEST + 1).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    match bytes.len() as u64 {
        0 => Err("it is empty".to_owned()),
        1..=LARGEST => Ok(bytes),
        _ => Err(format!("it has more than {} KiB", LARGEST / 1024)),
    }
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
