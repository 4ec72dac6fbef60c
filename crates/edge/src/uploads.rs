//! Uploads that the edge hands out itself, from the folder of this server (`assets.serve`). Whatever it is not sure of goes to
//! the application, as without it: what is not there, what just changed and may still be written to, names that a server may
//! run, folders with rules of their own (`.htaccess`), and requests with credentials.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pontoon_fleet::{FleetView, Role, ServerName};
use pontoon_mirror::{media, names};
use pontoon_rt::beneath;
use pontoon_rt::clock::{Clock as _, SystemClock};
use pontoon_rt::percent;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use tokio::time::Instant;

use crate::connection::{Client, send};
use crate::forward::{After, Served};
use crate::http1::body::Length;
use crate::http1::request::{Request, Version};
use crate::pipe::Pipe;
use crate::stay::field;
use crate::worker::Worker;

/// So long ago a file must have changed: until then its writer may not be done.
const QUIET_MS: u64 = 2_000;

/// What is read, and sent, in one go.
const PIECE: u64 = 256 << 10;

/// How long browsers and proxies may keep a file without a question. An upload may be replaced under its name.
const CACHE_CONTROL: &str = "public, max-age=60";

/// Which uploads the edge hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploads {
    root: PathBuf,
    url: String,
    private: Vec<String>,
}

impl Uploads {
    /// Those of `view`, on server `me`; `None` when it hands out none.
    pub fn of_view(view: &FleetView, me: &ServerName) -> Option<Uploads> {
        let assets = view.assets.as_ref().filter(|assets| assets.serve)?;
        let here = view.server(me)?.roles.contains(&Role::App);
        here.then(|| Uploads {
            root: assets.local.clone(),
            url: assets.url.clone(),
            private: assets.private.clone(),
        })
    }

    /// The path below the folder that `target` asks for; `None` when that is the application's business.
    fn path(&self, target: &[u8]) -> Option<String> {
        let raw = target.split(|byte| *byte == b'?').next()?;
        let path = percent::decode(raw)?;
        if self.private.iter().any(|private| path.starts_with(private)) {
            return None;
        }
        let below = path.strip_prefix(&self.url)?;
        let is_public = names::check(below).is_ok() && media::is_public(below);
        is_public.then(|| below.to_owned())
    }

    /// Opens a file that may be handed out.
    fn open(&self, path: &str) -> Option<Opened> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.root, flags, Mode::empty()).ok()?;
        // A folder with rules of its own: whoever reads them decides.
        for (at, _) in path.match_indices('/').chain([(0, "")]) {
            let rules = match &path[..at] {
                "" => ".htaccess".to_owned(),
                dir => format!("{dir}/.htaccess"),
            };
            match beneath::open(&root, &rules, OFlags::PATH) {
                Err(rustix::io::Errno::NOENT) => {}
                _ => return None,
            }
        }
        let fd = beneath::open(&root, path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
        let stat = rustix::fs::fstat(&fd).ok()?;
        let is_readable = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_mode & Mode::ROTH.as_raw_mode() != 0;
        let opened = Opened {
            file: Arc::new(File::from(fd)),
            looks: Looks::of(&stat),
        };
        let age = SystemClock.unix().0.checked_sub(opened.looks.changed_ms);
        (is_readable && age.is_some_and(|age| age >= QUIET_MS)).then_some(opened)
    }
}

/// What a file looks like from outside; another one after each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Looks {
    size: u64,
    modified_ms: u64,
    changed_ms: u64,
    times: [(i64, u64); 2],
}

impl Looks {
    fn of(stat: &Stat) -> Looks {
        let (mtime, ctime) = (
            (stat.st_mtime, stat.st_mtime_nsec),
            (stat.st_ctime, stat.st_ctime_nsec),
        );
        let ms = |(seconds, nanos): (i64, u64)| {
            u64::try_from(seconds).map_or(0, |seconds| seconds.saturating_mul(1000) + nanos / 1_000_000)
        };
        Looks {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified_ms: ms(mtime),
            changed_ms: ms(ctime),
            times: [mtime, ctime],
        }
    }

    /// The same on every server: the modification time travels with a file, to the millisecond.
    fn etag(&self) -> String {
        format!("\"{:x}-{:x}\"", self.modified_ms, self.size)
    }

    fn last_modified(&self) -> String {
        httpdate::fmt_http_date(self.modified())
    }

    /// To the second, as in the field.
    fn modified(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.modified_ms / 1000)
    }
}

struct Opened {
    file: Arc<File>,
    looks: Looks,
}

impl Opened {
    /// The bytes from `at` on, at most a piece, while the file is what it was.
    fn read(file: &File, looks: Looks, at: u64, end: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from((end - at).min(PIECE)).ok()?];
        file.read_exact_at(&mut bytes, at).ok()?;
        let stat = rustix::fs::fstat(file).ok()?;
        (Looks::of(&stat) == looks).then_some(bytes)
    }
}

/// What a request wants of a file (RFC 9110 sections 13.2 and 14.2).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wants {
    Whole,
    /// From, and up to but without.
    Part(u64, u64),
    NotModified,
    /// A part that there is not.
    NoSuchPart,
}

/// What the head's conditions mean for a file.
fn wants(head: &[u8], looks: &Looks, is_head: bool) -> Wants {
    let text = |name: &str| field(head, name).and_then(|value| std::str::from_utf8(value).ok());
    let etag = looks.etag();
    let is_since = |value: &str| {
        let since = httpdate::parse_http_date(value).ok();
        since.is_some_and(|since| looks.modified() <= since)
    };
    let not_modified = match (text("if-none-match"), text("if-modified-since")) {
        (Some(tags), _) => tags
            .split(',')
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|tag| tag == etag || tag == "*"),
        (None, Some(since)) => is_since(since),
        (None, None) => false,
    };
    if not_modified {
        return Wants::NotModified;
    }
    let is_current = match text("if-range") {
        Some(tag) if tag.starts_with('"') => tag == etag,
        Some(date) => date == looks.last_modified(),
        None => true,
    };
    match text("range").filter(|_| is_current && !is_head) {
        Some(range) => part(range, looks.size).unwrap_or(Wants::Whole),
        None => Wants::Whole,
    }
}

/// `None`: not one range of bytes, so the whole is sent.
fn part(range: &str, size: u64) -> Option<Wants> {
    let (first, last) = range.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    let (from, end) = match (first, last) {
        ("", suffix) => (size.saturating_sub(number(suffix)?), size),
        (first, "") => (number(first)?, size),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            (first, last.saturating_add(1).min(size))
        }
    };
    Some(match from < end {
        true => Wants::Part(from, end),
        false => Wants::NoSuchPart,
    })
}

/// Whether a request is one that a file can be the answer to.
fn asks(head: &[u8], request: &Request) -> bool {
    let method = head.get(..request.method_length).unwrap_or(&[]);
    let others = ["authorization", "if-match", "if-unmodified-since"];
    matches!(method, b"GET" | b"HEAD")
        && request.length == Length::None
        && !request.upgrade
        && others.iter().all(|name| field(head, name).is_none())
}

/// Answers with a file of the folder; `None` when the application is to answer.
pub async fn serve(
    worker: &Rc<Worker>,
    client: &mut Client,
    request: &Request,
    up: &Pipe,
    uploads: &Arc<Uploads>,
) -> Option<Served> {
    let head = up.staged().get(..request.head_length)?;
    let path = uploads.path(head.get(request.target.clone())?)?;
    if !asks(head, request) {
        return None;
    }
    let (uploads, name) = (Arc::clone(uploads), path.clone());
    let (head, is_head) = (head.to_vec(), request.is_head);
    // The first piece is read before a word is said: what cannot be read is the application's.
    let begun = tokio::task::spawn_blocking(move || {
        let opened = uploads.open(&name)?;
        let wants = wants(&head, &opened.looks, is_head);
        let (from, end) = match wants {
            Wants::Whole if !is_head => (0, opened.looks.size),
            Wants::Part(from, end) => (from, end),
            Wants::Whole | Wants::NotModified | Wants::NoSuchPart => (0, 0),
        };
        let first = Opened::read(&opened.file, opened.looks, from, end)?;
        Some((opened, wants, first, from, end))
    });
    let (opened, wants, first, from, end) = begun.await.ok()??;
    client.now = Instant::now();
    let keep_alive = request.keep_alive && request.version == Version::Http11 && !worker.draining.get();
    let https = worker.https().filter(|_| request.secure);
    let hsts = https.as_ref().and_then(|https| https.hsts.as_deref());
    let (status, mut text) = answer_head(&path, &opened.looks, &wants, hsts.unwrap_or(""), keep_alive);
    let mut at = from + first.len() as u64;
    text.extend_from_slice(&first);
    let limit = worker.upstreams().tuning.write_timeout;
    let mut served = Served {
        status,
        bytes: text.len() as u64,
        after: if keep_alive {
            After::KeepAlive
        } else {
            After::Linger
        },
        ..Served::nothing()
    };
    let mut sent = send(client, &text, limit).await;
    while at < end && sent.is_ok() {
        let (file, looks) = (Arc::clone(&opened.file), opened.looks);
        let read = tokio::task::spawn_blocking(move || Opened::read(&file, looks, at, end));
        // Another file by now: all that is left is to not pretend that it is whole.
        let Some(piece) = read.await.ok().flatten() else {
            worker.stats.aborted();
            served.after = After::Close;
            return Some(served);
        };
        at += piece.len() as u64;
        served.bytes += piece.len() as u64;
        client.now = Instant::now();
        sent = send(client, &piece, limit).await;
    }
    if sent.is_err() {
        served.after = After::Close;
    }
    Some(served)
}

/// Status and head of the answer.
fn answer_head(path: &str, looks: &Looks, wants: &Wants, extra: &str, keep_alive: bool) -> (u16, Vec<u8>) {
    let size = looks.size;
    let (status, reason, fields) = match wants {
        Wants::Whole => (200, "OK", format!("Content-Length: {size}\r\n")),
        Wants::Part(from, end) => {
            let (length, last) = (end - from, end - 1);
            let fields = format!("Content-Length: {length}\r\nContent-Range: bytes {from}-{last}/{size}\r\n");
            (206, "Partial Content", fields)
        }
        Wants::NotModified => (304, "Not Modified", String::new()),
        Wants::NoSuchPart => {
            let fields = format!("Content-Length: 0\r\nContent-Range: bytes */{size}\r\n");
            (416, "Range Not Satisfiable", fields)
        }
    };
    let content_type = media::content_type(path).unwrap_or(media::BYTES);
    // A picture that can hold scripts: they are not to run as ours.
    let policy = match content_type {
        "image/svg+xml" => {
            "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; sandbox\r\n"
        }
        _ => "",
    };
    let connection = if keep_alive { "" } else { "Connection: close\r\n" };
    let text = format!(
        "HTTP/1.1 {status} {reason}\r\nDate: {}\r\nContent-Type: {content_type}\r\n{fields}Last-Modified: {}\r\n\
         ETag: {}\r\nAccept-Ranges: bytes\r\nCache-Control: {CACHE_CONTROL}\r\nX-Content-Type-Options: nosniff\r\n\
         {policy}{extra}{connection}\r\n",
        httpdate::fmt_http_date(SystemTime::now()),
        looks.last_modified(),
        looks.etag(),
    );
    (status, text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOKS: Looks = Looks {
        size: 1000,
        modified_ms: 1_000_000_000_500,
        changed_ms: 0,
        times: [(0, 0); 2],
    };

    fn wanted(fields: &str) -> Wants {
        let head = format!("GET /a HTTP/1.1\r\nHost: t\r\n{fields}\r\n");
        wants(head.as_bytes(), &LOOKS, false)
    }

    #[test]
    fn ranges_are_one_part_or_the_whole() {
        for (range, wants) in [
            ("bytes=0-0", Wants::Part(0, 1)),
            ("bytes=10-", Wants::Part(10, 1000)),
            ("bytes=-10", Wants::Part(990, 1000)),
            ("bytes=-5000", Wants::Part(0, 1000)),
            ("bytes=999-99999999", Wants::Part(999, 1000)),
            ("bytes=1000-", Wants::NoSuchPart),
            ("bytes=-0", Wants::NoSuchPart),
            ("bytes=5-4", Wants::Whole),
            ("bytes=0-1,5-6", Wants::Whole),
            ("bytes=a-b", Wants::Whole),
            ("bytes=+1-2", Wants::Whole),
            ("lines=1-2", Wants::Whole),
            ("bytes=0-99999999999999999999999", Wants::Whole),
        ] {
            assert_eq!(wanted(&format!("Range: {range}\r\n")), wants, "{range}");
        }
        let empty = Looks { size: 0, ..LOOKS };
        assert_eq!(part("bytes=0-", empty.size), Some(Wants::NoSuchPart));
    }

    #[test]
    fn conditions_are_those_of_the_file() {
        let etag = LOOKS.etag();
        let date = LOOKS.last_modified();
        for (fields, wants) in [
            (format!("If-None-Match: \"x\", W/{etag}\r\n"), Wants::NotModified),
            ("If-None-Match: *\r\n".to_owned(), Wants::NotModified),
            // The tag decides, not the date.
            (
                format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}\r\n"),
                Wants::Whole,
            ),
            (format!("If-Modified-Since: {date}\r\n"), Wants::NotModified),
            (
                "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT\r\n".to_owned(),
                Wants::Whole,
            ),
            ("If-Modified-Since: nonsense\r\n".to_owned(), Wants::Whole),
            (
                format!("Range: bytes=0-4\r\nIf-Range: {etag}\r\n"),
                Wants::Part(0, 5),
            ),
            (
                format!("Range: bytes=0-4\r\nIf-Range: {date}\r\n"),
                Wants::Part(0, 5),
            ),
            (
                format!("Range: bytes=0-4\r\nIf-Range: W/{etag}\r\n"),
                Wants::Whole,
            ),
            ("Range: bytes=0-4\r\nIf-Range: \"x\"\r\n".to_owned(), Wants::Whole),
        ] {
            assert_eq!(wanted(&fields), wants, "{fields}");
        }
    }

    #[test]
    fn only_plain_paths_below_the_url_are_ours() {
        let uploads = Uploads {
            root: "/nowhere".into(),
            url: "/uploads/".to_owned(),
            private: vec!["/uploads/private/".to_owned()],
        };
        let path = |target: &str| uploads.path(target.as_bytes());
        assert_eq!(
            path("/uploads/2026/a%20b.jpg?v=1").as_deref(),
            Some("2026/a b.jpg")
        );
        for target in [
            "/",
            "/uploads/",
            "/uploads/a.php",
            "/uploads/a.php%2ejpg",
            "/uploads/%2e%2e/secret.txt",
            "/uploads/../secret.txt",
            "/uploads//a.jpg",
            "/uploads/./a.jpg",
            "/uploads/a%00.jpg",
            "/uploads/.pontoon/trash/1-a/a.jpg",
            "/uploads/private/a.jpg",
            "/uploads/%70rivate/a.jpg",
            "/uploads/private%2fa.jpg",
            "/uploads/%zz.jpg",
            "/uploads/%ff.jpg",
            "/Uploads/a.jpg",
            "//uploads/a.jpg",
            "http://t/uploads/a.jpg",
            "*",
        ] {
            assert_eq!(path(target), None, "{target}");
        }
    }
}
