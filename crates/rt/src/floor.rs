//! Between the edge and the SQL proxy of one server: what readers through this server must see (P3).
//!
//! The edge tells the proxy what a visitor has seen before it hands the visitor's request to the application, and asks
//! after a request whether something was written. Over a Unix socket of the proxy, a line each way, so that neither
//! imports the other and nothing depends on the agent (P5):
//!
//! | the edge says | meaning |
//! |---|---|
//! | `see EPOCH@POSITION` | readers must see this from now on |
//! | `see ?` | readers must see something that nobody here knows |
//! | `floor` | a question |
//!
//! The proxy answers each with `MARK EPOCH@POSITION` or `MARK ?`: what its readers must see now, and a word that
//! changes with it; or with `off` when reads are not spread.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::listen;
use crate::shutdown::Shutdown;

/// The longest line. Who has a longer floor says `?`.
pub const MAX_LINE: usize = 1024;
/// Edge and proxy are the same user; nobody else has anything to say here.
const MODE: u32 = 0o600;
/// Connections at once.
const MAX_CONNECTIONS: usize = 512;
/// Between two attempts to listen.
const RETRY: Duration = Duration::from_millis(200);
/// Unused connections that a client keeps.
const MAX_KEPT: usize = 16;
/// How often, and how many times, a floor that could not be told is told again, as `?`.
const AGAIN: (Duration, u32) = (Duration::from_millis(200), 50);

/// What the edge says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saying {
    /// Readers must see this from now on; `None` for something that nobody here knows.
    See(Option<String>),
    /// What must readers see?
    Floor,
}

/// What the proxy answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Reads are not spread: there is nothing to know.
    Off,
    /// What readers must see.
    Floor {
        /// Changes with it.
        mark: String,
        /// `EPOCH@POSITION`; `None` while nobody knows, or when it is too long to be told.
        floor: Option<String>,
    },
}

/// Why nothing was told.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// The proxy is not there, or broke off.
    #[error("the SQL proxy here cannot be asked: {0}")]
    Io(#[from] io::Error),
    /// It did not answer in time.
    #[error("the SQL proxy here does not answer")]
    Silent,
    /// It answered something else.
    #[error("the SQL proxy here answered something else")]
    Malformed,
}

impl Saying {
    fn to_line(&self) -> String {
        match self {
            Saying::See(floor) => format!(
                "see {}\n",
                floor.as_deref().filter(|text| is_word(text)).unwrap_or("?")
            ),
            Saying::Floor => "floor\n".to_owned(),
        }
    }

    fn parse(line: &str) -> Option<Saying> {
        match line.split_once(' ') {
            Some(("see", "?")) => Some(Saying::See(None)),
            Some(("see", floor)) if is_word(floor) => Some(Saying::See(Some(floor.to_owned()))),
            None if line == "floor" => Some(Saying::Floor),
            _ => None,
        }
    }
}

impl Told {
    fn to_line(&self) -> String {
        match self {
            Told::Off => "off\n".to_owned(),
            Told::Floor { mark, floor } => {
                let floor = floor.as_deref().filter(|text| is_word(text)).unwrap_or("?");
                format!("{mark} {floor}\n")
            }
        }
    }

    fn parse(line: &str) -> Option<Told> {
        match line.split_once(' ') {
            Some((mark, floor)) if is_word(mark) && is_word(floor) => Some(Told::Floor {
                mark: mark.to_owned(),
                floor: (floor != "?").then(|| floor.to_owned()),
            }),
            None if line == "off" => Some(Told::Off),
            _ => None,
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() < MAX_LINE - 128 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Answers on the socket at `path` until `shutdown`. Must be called within a runtime. `answer` must not block.
pub fn serve(path: &Path, answer: impl Fn(Saying) -> Told + Send + Sync + 'static, shutdown: Shutdown) {
    let path = path.to_owned();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        tokio::select! {
            () = accept_all(&path, &answer, &shutdown) => {}
            () = shutdown.requested() => {}
        }
    });
}

async fn accept_all<A>(path: &Path, answer: &Arc<A>, shutdown: &Shutdown)
where
    A: Fn(Saying) -> Told + Send + Sync + 'static,
{
    let listener = loop {
        match listen::unix(path, MODE).and_then(UnixListener::from_std) {
            Ok(listener) => break listener,
            Err(error) => tracing::debug!(%error, path = %path.display(), "floors cannot be asked for yet"),
        }
        tokio::time::sleep(RETRY).await;
    };
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection for floors could not be taken");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let (answer, shutdown) = (Arc::clone(answer), shutdown.clone());
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                _ = converse(stream, answer.as_ref()) => {}
                () = shutdown.requested() => {}
            }
        });
    }
}

/// Ends with the connection, or at the first line that is none of the protocol's.
async fn converse(
    stream: UnixStream,
    answer: &(impl Fn(Saying) -> Told + Send + Sync),
) -> Result<(), FloorError> {
    let mut stream = BufReader::new(stream);
    loop {
        let line = read_line(&mut stream).await?;
        let saying = Saying::parse(&line).ok_or(FloorError::Malformed)?;
        let told = answer(saying).to_line();
        stream.get_mut().write_all(told.as_bytes()).await?;
    }
}

async fn read_line(stream: &mut BufReader<UnixStream>) -> Result<String, FloorError> {
    let mut line = Vec::new();
    let count = stream.take(MAX_LINE as u64).read_until(b'\n', &mut line).await?;
    if count == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    if line.pop() != Some(b'\n') {
        return Err(FloorError::Malformed);
    }
    String::from_utf8(line).map_err(|_| FloorError::Malformed)
}

/// The edge's side; one for each thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FloorClient {
    path: PathBuf,
    kept: Arc<Mutex<Vec<BufReader<UnixStream>>>>,
}

impl FloorClient {
    /// For the proxy whose socket is at `path`; it need not be there yet.
    pub fn new(path: PathBuf) -> FloorClient {
        FloorClient {
            path,
            kept: Arc::default(),
        }
    }

    /// Says something and waits at most `limit` for the answer. A floor that could not be told is told again in the
    /// background, as `?`: when the proxy comes to itself, its readers see everything.
    ///
    /// # Errors
    /// [`FloorError`].
    pub async fn say(&self, saying: &Saying, limit: Duration) -> Result<Told, FloorError> {
        let told = self.exchange(saying, limit).await;
        if told.is_err() && matches!(saying, Saying::See(_)) {
            let client = self.clone();
            tokio::spawn(async move {
                for _ in 0..AGAIN.1 {
                    if client.exchange(&Saying::See(None), AGAIN.0).await.is_ok() {
                        return;
                    }
                    tokio::time::sleep(AGAIN.0).await;
                }
            });
        }
        told
    }

    async fn exchange(&self, saying: &Saying, limit: Duration) -> Result<Told, FloorError> {
        let line = saying.to_line();
        timeout(limit, async {
            // A kept connection may be one of a proxy that is gone; nothing is done twice by saying it again.
            if let Some(mut kept) = self.take()
                && let Ok(told) = converse_once(&mut kept, &line).await
            {
                self.keep(kept);
                return Ok(told);
            }
            let mut fresh = BufReader::new(UnixStream::connect(&self.path).await?);
            let told = converse_once(&mut fresh, &line).await?;
            self.keep(fresh);
            Ok(told)
        })
        .await
        .map_err(|_| FloorError::Silent)?
    }

    fn take(&self) -> Option<BufReader<UnixStream>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep(&self, stream: BufReader<UnixStream>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_KEPT {
            kept.push(stream);
        }
    }
}

async fn converse_once(stream: &mut BufReader<UnixStream>, line: &str) -> Result<Told, FloorError> {
    stream.get_mut().write_all(line.as_bytes()).await?;
    Told::parse(&read_line(stream).await?).ok_or(FloorError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    const SOON: Duration = Duration::from_secs(5);

    fn told(mark: &str, floor: Option<&str>) -> Told {
        Told::Floor {
            mark: mark.to_owned(),
            floor: floor.map(str::to_owned),
        }
    }

    #[test]
    fn lines_come_back_and_others_are_refused() {
        for saying in [
            Saying::Floor,
            Saying::See(None),
            Saying::See(Some("1@0-1-2".to_owned())),
        ] {
            assert_eq!(Saying::parse(saying.to_line().trim_end()), Some(saying));
        }
        for answer in [Told::Off, told("7.8", None), told("7.8", Some("1@0-1-2,1-1-1"))] {
            assert_eq!(Told::parse(answer.to_line().trim_end()), Some(answer));
        }
        for line in [
            "",
            "see",
            "see ",
            "see a b",
            "see \u{e9}",
            "floor ",
            "Floor",
            "see 1@\t",
        ] {
            assert_eq!(Saying::parse(line), None, "{line}");
        }
        for line in ["", "on", "m ", " m", "m f g"] {
            assert_eq!(Told::parse(line), None, "{line}");
        }
        // What is too long, or would break the line, goes as unknown: more is read from the primary, never less.
        let long = Saying::See(Some("9".repeat(MAX_LINE)));
        assert_eq!(long.to_line(), "see ?\n");
        assert_eq!(told("m", Some("a\nsee ?")).to_line(), "m ?\n");
    }

    #[tokio::test]
    async fn the_proxy_is_asked_again_after_a_restart_and_missed_floors_are_made_good() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floor.sock");
        let client = FloorClient::new(path.clone());
        let see = Saying::See(Some("1@0-1-7".to_owned()));
        assert!(matches!(client.say(&see, SOON).await, Err(FloorError::Io(_))));
        let heard: Arc<Mutex<Vec<Saying>>> = Arc::default();
        for life in ["one", "two"] {
            let shutdown = Shutdown::new();
            let listener = Arc::clone(&heard);
            let answer = move |saying| {
                listener.lock().unwrap().push(saying);
                told(life, Some("1@0-1-9"))
            };
            serve(&path, answer, shutdown.clone());
            let began = std::time::Instant::now();
            loop {
                match client.say(&Saying::Floor, SOON).await {
                    Ok(answer) if answer == told(life, Some("1@0-1-9")) => break,
                    answer => assert!(began.elapsed() < SOON, "{answer:?}"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // What was missed before there was a proxy is a doubt for the first one that there is.
            while life == "one" && !heard.lock().unwrap().contains(&Saying::See(None)) {
                assert!(began.elapsed() < SOON);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            shutdown.trigger();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[tokio::test]
    async fn a_proxy_that_is_silent_or_talks_nonsense_costs_the_limit_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floor.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let client = FloorClient::new(path);
        let limit = Duration::from_millis(100);
        let began = std::time::Instant::now();
        assert!(matches!(
            client.say(&Saying::Floor, limit).await,
            Err(FloorError::Silent)
        ));
        assert!(began.elapsed() < limit * 10);
        drop(listener.accept().await.unwrap());
        let nonsense = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 64]).await;
            stream.write_all(&[b'x'; 2 * MAX_LINE]).await.unwrap();
        });
        assert!(matches!(
            client.say(&Saying::Floor, SOON).await,
            Err(FloorError::Malformed)
        ));
        nonsense.await.unwrap();
    }

    #[tokio::test]
    async fn a_caller_who_talks_nonsense_is_cut_off_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floor.sock");
        serve(&path, |_| Told::Off, Shutdown::new());
        let mut bad = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        bad.write_all(&[b'a'; 4 * MAX_LINE]).await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(SOON, bad.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty());
        let client = FloorClient::new(path);
        assert_eq!(client.say(&Saying::Floor, SOON).await.unwrap(), Told::Off);
    }
}
