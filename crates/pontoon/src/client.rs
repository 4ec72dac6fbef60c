//! Talks to the agent of this machine over its Unix socket.
//!
//! Nothing that comes from there is trusted to be well formed: the agent may be another version, may be killed
//! midway, or may not be the agent at all. Each of these ends in a refusal, never in a panic or a hang.

use std::io;
use std::path::Path;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response};
use pontoon_agent::api::Progress;
use pontoon_agent::detect::disk;
use pontoon_fleet::{Code, Refusal};
use pontoon_pki::IdentityFiles;
use pontoon_rt::handover::HandedOver;
use pontoon_rt::http::{self, Body, Call, HttpError};
use pontoon_rt::paths::Paths;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;

use crate::start;

/// How long a tier of this machine may take to answer.
const TIER_PATIENCE: Duration = Duration::from_secs(5);

/// How long a handover to the installed version may take: longer than the tier gives its successor.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(60);

/// What the tier `name` of this machine answers to a question; `called` is what people call it.
pub async fn ask_tier<T: DeserializeOwned>(
    paths: &Paths,
    name: &str,
    called: &str,
    question: &str,
) -> Result<T, Refusal> {
    let socket = paths.run_dir.join(format!("{name}.sock"));
    call_tier(&socket, called, &Call::get(name, question).timeout(TIER_PATIENCE)).await
}

/// What the assets process of this machine answers to an order.
pub async fn order_assets<I: Serialize, T: DeserializeOwned>(
    paths: &Paths,
    order: &str,
    input: &I,
    patience: Duration,
) -> Result<T, Refusal> {
    let socket = paths.assets_socket();
    let silent = |why: String| {
        Refusal::new(Code::N002, "the assets process of this server does not answer")
            .because(format!("{}: {why}", socket.display()))
            .next("see what runs", "pontoon status")
    };
    let stream = UnixStream::connect(&socket)
        .await
        .map_err(|error| silent(error.to_string()))?;
    let call = Call::post("assets", order).timeout(patience);
    http::call(stream, &call, Some(input))
        .await
        .map_err(|error| match error {
            HttpError::Refused(refusal) => refusal,
            other => silent(other.to_string()),
        })
}

/// Has the installed version of Pontoon take over from the tier `name` of this machine.
pub async fn upgrade_tier(paths: &Paths, name: &str, called: &str) -> Result<HandedOver, Refusal> {
    let call = Call::post(name, "/upgrade").timeout(UPGRADE_PATIENCE);
    call_tier(&paths.upgrade_socket(name), called, &call).await
}

async fn call_tier<T: DeserializeOwned>(socket: &Path, called: &str, call: &Call<'_>) -> Result<T, Refusal> {
    let silent = |why: String| {
        Refusal::new(Code::N002, format!("{called} of this server does not answer"))
            .because(format!("{}: {why}", socket.display()))
            .next("see what runs", "pontoon status")
    };
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| silent(error.to_string()))?;
    let answer = http::call(stream, call, None::<&()>).await;
    answer.map_err(|error| match error {
        HttpError::Refused(refusal) => refusal,
        error => silent(error.to_string()),
    })
}

/// The agent of this machine.
#[derive(Clone, Debug)]
pub struct Client {
    paths: Paths,
}

impl Client {
    /// Of the machine with these paths. Connects at each request.
    pub fn new(paths: &Paths) -> Client {
        Client { paths: paths.clone() }
    }

    /// Whether somebody listens on the socket.
    pub async fn answers(&self) -> bool {
        UnixStream::connect(self.paths.admin_socket()).await.is_ok()
    }

    /// Asks for something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refusal> {
        let io = self.connect().await?;
        http::call(io, &Call::get(HOST, path).timeout(QUICK), None::<&()>)
            .await
            .map_err(|error| self.refusal(error))
    }

    /// Asks for something that changes something.
    pub async fn post<I: Serialize, T: DeserializeOwned>(&self, path: &str, input: &I) -> Result<T, Refusal> {
        let io = self.connect().await?;
        http::call(io, &Call::post(HOST, path).timeout(SLOW), Some(input))
            .await
            .map_err(|error| self.refusal(error))
    }

    /// Asks for something long and hands over each line of the answer. Ends well only after
    /// [`Progress::Finished`].
    pub async fn stream<I: Serialize>(
        &self,
        path: &str,
        input: &I,
        mut show: impl FnMut(&Progress) -> io::Result<()>,
    ) -> Result<(), Refusal> {
        let answer = self.open(path, input).await?;
        let mut reader = BufReader::new(http::body_reader(answer.into_body()));
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = (&mut reader).take(LONGEST_LINE);
            let read = limited.read_until(b'\n', &mut line);
            let count = match tokio::time::timeout(LONGEST_SILENCE, read).await {
                Ok(Ok(count)) => count,
                Ok(Err(error)) => return Err(self.broke_off(&error.to_string())),
                Err(_) => return Err(self.broke_off("nothing was heard for ten minutes")),
            };
            if count == 0 {
                return Err(self.broke_off("the stream ended before the command did"));
            }
            if line.last() != Some(&b'\n') {
                let why = if count as u64 == LONGEST_LINE {
                    "a line is too long"
                } else {
                    "a line broke off"
                };
                return Err(self.broke_off(why));
            }
            if line.trim_ascii().is_empty() {
                continue; // sent to keep the connection alive
            }
            let progress: Progress =
                serde_json::from_slice(&line).map_err(|error| self.refusal(error.into()))?;
            show(&progress).map_err(|error| {
                Refusal::new(Code::N006, "the output could not be written").because(error.to_string())
            })?;
            match progress {
                Progress::Finished { .. } => return Ok(()),
                Progress::Refused { refusal } => return Err(refusal),
                _ => {}
            }
        }
    }

    async fn open<I: Serialize>(&self, path: &str, input: &I) -> Result<Response<Incoming>, Refusal> {
        let io = self.connect().await?;
        let body = http::json_body(input).map_err(|error| self.refusal(error))?;
        let request: Request<Body> = Call::post(HOST, path)
            .request(body)
            .map_err(|error| self.refusal(error))?;
        let answer = match tokio::time::timeout(SLOW, http::request(io, request)).await {
            Ok(answer) => answer.map_err(|error| self.refusal(error))?,
            Err(_) => return Err(self.refusal(HttpError::Timeout(SLOW))),
        };
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = tokio::time::timeout(
            QUICK,
            http::read_json::<Refusal, _>(answer.into_body(), ANSWER_LIMIT),
        )
        .await;
        match body {
            Ok(Ok(refusal)) => Err(refusal),
            Ok(Err(_)) => Err(self.refusal(HttpError::Status {
                status,
                text: "not a refusal".to_owned(),
            })),
            Err(_) => Err(self.refusal(HttpError::Timeout(QUICK))),
        }
    }

    async fn connect(&self) -> Result<UnixStream, Refusal> {
        let socket = self.paths.admin_socket();
        let connect = tokio::time::timeout(QUICK, UnixStream::connect(&socket)).await;
        let error = match connect {
            Ok(Ok(io)) => return Ok(io),
            Ok(Err(error)) => error,
            Err(_) => io::Error::from(io::ErrorKind::TimedOut),
        };
        if error.kind() == io::ErrorKind::PermissionDenied {
            return Err(Refusal::new(Code::N001, "this user may not talk to the agent")
                .because(format!("{}: {error}", socket.display()))
                .next("as root", "sudo pontoon …")
                .next("without root", "sudo usermod -aG pontoon $USER"));
        }
        // Who may not look into the identity's folder (not root) cannot be told that there is none.
        if let Ok(false) = IdentityFiles::in_dir(&self.paths.identity_dir())
            .cert
            .try_exists()
        {
            return Err(no_fleet(&self.paths));
        }
        if matches!(disk::nothing_applied(&self.paths), Ok(true)) {
            return Err(
                Refusal::new(Code::N001, "no agent runs here yet: nothing has been applied")
                    .because(format!("{}: {error}", socket.display()))
                    .next("see what would change", "pontoon plan")
                    .next("change it, which starts the agent", "pontoon apply"),
            );
        }
        Err(self.with_next(self.silent(&format!("{}: {error}", socket.display()))))
    }

    fn broke_off(&self, why: &str) -> Refusal {
        Refusal::new(Code::N001, "the agent stopped answering in the middle of it")
            .because(why)
            .next("what became of it", "pontoon status")
            .next("what happened", "pontoon events")
    }

    fn refusal(&self, error: HttpError) -> Refusal {
        match error {
            HttpError::Refused(refusal) => refusal,
            HttpError::Timeout(_) => self
                .silent(&error.to_string())
                .next(
                    "start it anew; traffic goes on",
                    start::restart_command(&self.paths, true),
                )
                .next("see what it said last", start::log_command(&self.paths)),
            HttpError::Body(_) => self.with_next(self.silent(&error.to_string())),
            HttpError::Connection(error) if !error.is_parse() && !error.is_parse_too_large() => {
                self.with_next(self.silent(&error.to_string()))
            }
            other => Refusal::new(Code::N005, "the agent's answer is not what was expected")
                .because(other.to_string())
                .because(format!("this is pontoon {}", env!("CARGO_PKG_VERSION")))
                .next(
                    "after an update, let the agent be of the same version",
                    start::restart_command(&self.paths, false),
                )
                .next("see what the agent says", start::log_command(&self.paths)),
        }
    }

    fn silent(&self, why: &str) -> Refusal {
        let refusal = Refusal::new(Code::N001, "the agent does not answer").because(why);
        match view_age(&self.paths) {
            Some(age) => refusal.because(format!(
                "traffic goes on with the view that was published {} ago",
                crate::output::when::span(age)
            )),
            None => refusal,
        }
    }

    fn with_next(&self, refusal: Refusal) -> Refusal {
        refusal
            .next("start it", start::start_command(&self.paths))
            .next("see why it ended", start::log_command(&self.paths))
    }
}

/// What is said when there is neither an agent nor a fleet.
pub fn no_fleet(paths: &Paths) -> Refusal {
    Refusal::new(Code::J007, "this machine does not belong to a fleet yet")
        .because(format!("there is no identity in {}", paths.state_dir.display()))
        .next("found a fleet here", "pontoon init")
        .next("join one: on a server of that fleet", "pontoon token new")
}

fn view_age(paths: &Paths) -> Option<Duration> {
    std::fs::metadata(paths.view_file())
        .ok()?
        .modified()
        .ok()?
        .elapsed()
        .ok()
}

const HOST: &str = "pontoon";
const QUICK: Duration = Duration::from_secs(10);
/// Planning asks every server for its facts.
const SLOW: Duration = Duration::from_secs(60);
const LONGEST_SILENCE: Duration = Duration::from_secs(600);
const LONGEST_LINE: u64 = 1 << 20;
const ANSWER_LIMIT: usize = 1 << 20;
