//! A small application of our own, for machines without PHP: notes in a MariaDB table. It behaves as PHP does where it
//! matters to a fleet: a connection to the database for each request, dialled as `localhost` (the Unix socket).
//!
//! The program that hosts the lab runs [`serve`] when it is started with the arguments given to [`Notes::new`].

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, params};
use tokio::net::TcpListener;

use crate::app::{Dice, Found, Later, TextHash, Verdict, Visit, Visited, WriteId};
use crate::database::{LabDatabase, SOCKET, connect_root, rows};
use crate::demo_app::{DemoApp, wait_listening};
use crate::http::{Connection, Request, Response};
use crate::process::{Process, Spawn};
use crate::server::Server;
use crate::{LabError, Skip};

/// The notes site.
#[derive(Clone, Debug)]
pub struct Notes {
    secret: String,
    program: PathBuf,
    args: Vec<String>,
}

impl Notes {
    /// A site whose database password comes from `seed`. `program args…`, run in a server, must end in [`serve`] with
    /// [`ServeOptions::from_env`].
    pub fn new(seed: u64, program: PathBuf, args: Vec<String>) -> Notes {
        Notes {
            secret: Dice::new(seed).text(),
            program,
            args,
        }
    }
}

impl DemoApp for Notes {
    fn name(&self) -> &'static str {
        "Notes"
    }

    fn available(&self) -> Result<(), Skip> {
        Ok(())
    }

    fn rate(&self, cores: usize) -> f64 {
        (cores as f64 * 25.0).min(100.0)
    }

    fn health_path(&self) -> &'static str {
        "/up"
    }

    fn create_database<'a>(&'a self, database: &'a dyn LabDatabase) -> Later<'a, Result<(), LabError>> {
        Box::pin(database.create_database("notes", "notes", &self.secret))
    }

    fn prepare<'a>(&'a self, _server: &'a Server) -> Later<'a, Result<(), LabError>> {
        Box::pin(async { Ok(()) })
    }

    fn start<'a>(&'a self, server: &'a Server, listen: SocketAddr) -> Later<'a, Result<Process, LabError>> {
        Box::pin(async move {
            let spawn = Spawn::new(self.program.display().to_string(), "notes")
                .args(self.args.iter().map(String::as_str));
            let spawn = spawn
                .env(LISTEN, listen.to_string())
                .env(DATABASE_SOCKET, SOCKET)
                .env(PASSWORD, &self.secret);
            let process = server.spawn(spawn).await?;
            wait_listening(server, &process, listen).await?;
            Ok(process)
        })
    }

    fn install<'a>(
        &'a self,
        _address: SocketAddr,
        database: &'a dyn LabDatabase,
    ) -> Later<'a, Result<(), LabError>> {
        Box::pin(async move {
            let mut root = database.root().await?;
            root.query_drop(TABLE)
                .await
                .map_err(LabError::database("the table of notes"))
        })
    }
}

impl Visited for Notes {
    fn host(&self) -> String {
        "demo.example".to_owned()
    }

    /// Of 10 visitors 4 look at the list, 3 at a note, and 3 write one.
    fn next(&self, dice: &mut Dice, known: &[WriteId]) -> Visit {
        match dice.below(10) {
            0..4 => Visit {
                what: "home",
                request: Request::get("/"),
                text: None,
            },
            4..7 => {
                let path = dice
                    .recent(known, "note")
                    .map_or("/".to_owned(), |id| format!("/notes/{}", id.id));
                Visit {
                    what: "note",
                    request: Request::get(path),
                    text: None,
                }
            }
            _ => written(dice),
        }
    }

    fn write(&self, dice: &mut Dice) -> Option<Visit> {
        Some(written(dice))
    }

    fn look(&self, id: &WriteId) -> Option<Request> {
        Some(Request::get(format!("/notes/{}", id.id)))
    }

    fn judge(&self, visit: &Visit, response: &Response) -> Verdict {
        let place = response
            .header("location")
            .and_then(|place| place.strip_prefix("/notes/"));
        match (visit.what, response.status, place.and_then(|id| id.parse().ok())) {
            ("write", 201, Some(id)) => Verdict::Written(WriteId { kind: "note", id }),
            ("home" | "note", 200, _) if response.text().contains("</html>") => Verdict::Good,
            (_, status, _) => Verdict::Bad(format!("status {status}")),
        }
    }

    fn read_back(&self, address: SocketAddr) -> Later<'_, Result<Found, LabError>> {
        Box::pin(async move {
            let mut found = Found::new();
            let mut after = 0;
            loop {
                let exchange = async {
                    let request = Request::get(format!("/all?after={after}"));
                    Connection::open(address)
                        .await?
                        .send(&request, "demo.example", false)
                        .await
                };
                let failed = |why: String| LabError::App(format!("{address} cannot be read back: {why}"));
                let answer = tokio::time::timeout(Duration::from_secs(30), exchange).await;
                let answer = answer
                    .map_err(|e| failed(e.to_string()))?
                    .map_err(|e| failed(e.to_string()))?;
                if answer.status != 200 {
                    return Err(failed(format!("status {}", answer.status)));
                }
                let before = after;
                for line in answer.text().lines() {
                    let (id, text) = line
                        .split_once(' ')
                        .ok_or_else(|| failed("a line without a note".to_owned()))?;
                    after = id
                        .parse()
                        .map_err(|_| failed("a note without a number".to_owned()))?;
                    found.insert(
                        WriteId {
                            kind: "note",
                            id: after,
                        },
                        TextHash::of(text),
                    );
                }
                if after == before {
                    return Ok(found);
                }
            }
        })
    }

    fn read_database<'a>(&'a self, socket: &'a Path) -> Later<'a, Result<Found, LabError>> {
        Box::pin(async move {
            let mut root = connect_root(socket).await?;
            let notes = rows::<(u64, String)>(&mut root, "SELECT id, text FROM notes.notes").await?;
            let found = notes
                .into_iter()
                .map(|(id, text)| (WriteId { kind: "note", id }, TextHash::of(&text)));
            Ok(found.collect())
        })
    }
}

fn written(dice: &mut Dice) -> Visit {
    let text = dice.text();
    Visit {
        what: "write",
        request: Request::post("/notes", "text/plain", text.clone().into()),
        text: Some(text),
    }
}

/// What the application's process needs to know.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The database's Unix socket.
    pub socket: PathBuf,
    /// The password of the database's user `notes`.
    pub password: String,
}

impl ServeOptions {
    /// As [`Notes`] started the process; `None` when it did not.
    pub fn from_env() -> Option<ServeOptions> {
        let listen = std::env::var(LISTEN).ok()?.parse().ok()?;
        let socket = std::env::var_os(DATABASE_SOCKET)?.into();
        Some(ServeOptions {
            listen,
            socket,
            password: std::env::var(PASSWORD).ok()?,
        })
    }
}

/// The application: `GET /`, `GET /notes/ID`, `POST /notes` (the text is the body), `GET /all?after=ID`, `GET /up`.
/// Serves until the process ends.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(options: ServeOptions) -> Result<Infallible, LabError> {
    let what = format!("listen on {}", options.listen);
    let listener = TcpListener::bind(options.listen)
        .await
        .map_err(LabError::io(what))?;
    let options = Arc::new(options);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptors left, most likely: those who have one are served meanwhile.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let options = options.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(options.clone(), request));
            let mut http = hyper::server::conn::http1::Builder::new();
            let http = http
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(75));
            // A visitor that goes away is no error of the application.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Answer = hyper::Response<Full<Bytes>>;

async fn answer(options: Arc<ServeOptions>, request: hyper::Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    let result = match (request.method(), path.as_str()) {
        (&Method::GET, "/up") => Ok(page(StatusCode::OK, "up\n".to_owned())),
        (&Method::GET, "/") => home(&options).await,
        (&Method::GET, "/all") => all(&options, request.uri().query()).await,
        (&Method::POST, "/notes") => match Limited::new(request.into_body(), MOST_BYTES).collect().await {
            Ok(body) => write(&options, &String::from_utf8_lossy(&body.to_bytes())).await,
            Err(_) => Ok(page(StatusCode::PAYLOAD_TOO_LARGE, "too long\n".to_owned())),
        },
        (&Method::GET, path) => match path.strip_prefix("/notes/").and_then(|id| id.parse().ok()) {
            Some(id) => note(&options, id).await,
            None => Ok(page(StatusCode::NOT_FOUND, "no such page\n".to_owned())),
        },
        _ => Ok(page(StatusCode::METHOD_NOT_ALLOWED, "GET or POST\n".to_owned())),
    };
    // The database's words are for the log, not for visitors.
    Ok(result.unwrap_or_else(|_| {
        page(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the database did not answer\n".to_owned(),
        )
    }))
}

async fn connect(options: &ServeOptions) -> Result<Conn, mysql_async::Error> {
    let builder = OptsBuilder::default()
        .socket(Some(options.socket.to_string_lossy()))
        .user(Some("notes"));
    Conn::new(builder.pass(Some(&options.password)).db_name(Some("notes"))).await
}

async fn home(options: &ServeOptions) -> Result<Answer, mysql_async::Error> {
    let mut conn = connect(options).await?;
    let notes: Vec<(u64, String)> = conn
        .query("SELECT id, text FROM notes ORDER BY id DESC LIMIT 20")
        .await?;
    conn.disconnect().await?;
    let mut items = String::new();
    for (id, text) in notes {
        let _ = write!(items, "<li><a href=\"/notes/{id}\">{}</a>", escape(&text));
    }
    Ok(html(StatusCode::OK, &format!("<h1>Notes</h1><ul>{items}</ul>")))
}

async fn note(options: &ServeOptions, id: u64) -> Result<Answer, mysql_async::Error> {
    let mut conn = connect(options).await?;
    let text: Option<String> = conn
        .exec_first("SELECT text FROM notes WHERE id = :id", params! { id })
        .await?;
    conn.disconnect().await?;
    Ok(match text {
        Some(text) => html(
            StatusCode::OK,
            &format!("<h1>Note {id}</h1><p>{}</p>", escape(&text)),
        ),
        None => html(StatusCode::NOT_FOUND, "<h1>No such note</h1>"),
    })
}

async fn write(options: &ServeOptions, text: &str) -> Result<Answer, mysql_async::Error> {
    let mut conn = connect(options).await?;
    let text = text.replace(['\r', '\n'], " ");
    conn.exec_drop("INSERT INTO notes (text) VALUES (:text)", params! { text })
        .await?;
    let id = conn.last_insert_id().unwrap_or_default();
    conn.disconnect().await?;
    let mut answer = html(StatusCode::CREATED, &format!("<h1>Note {id} is written</h1>"));
    if let Ok(place) = format!("/notes/{id}").parse() {
        answer.headers_mut().insert(hyper::header::LOCATION, place);
    }
    Ok(answer)
}

async fn all(options: &ServeOptions, query: Option<&str>) -> Result<Answer, mysql_async::Error> {
    let after: u64 = query
        .and_then(|q| q.strip_prefix("after=")?.parse().ok())
        .unwrap_or_default();
    let mut conn = connect(options).await?;
    let query = "SELECT id, text FROM notes WHERE id > :after ORDER BY id LIMIT 1000";
    let notes: Vec<(u64, String)> = conn.exec(query, params! { after }).await?;
    conn.disconnect().await?;
    Ok(page(
        StatusCode::OK,
        notes
            .into_iter()
            .map(|(id, text)| format!("{id} {text}\n"))
            .collect(),
    ))
}

fn html(status: StatusCode, body: &str) -> Answer {
    let mut answer = page(
        status,
        format!("<!doctype html><html><title>Notes</title>{body}</html>\n"),
    );
    let html = hyper::header::HeaderValue::from_static("text/html; charset=utf-8");
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, html);
    answer
}

fn page(status: StatusCode, text: String) -> Answer {
    let mut answer = hyper::Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS notes.notes (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, \
    text TEXT NOT NULL, written TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP) ENGINE = InnoDB";
const MOST_BYTES: usize = 16 * 1024;
const LISTEN: &str = "PONTOON_NOTES_LISTEN";
const DATABASE_SOCKET: &str = "PONTOON_NOTES_DATABASE_SOCKET";
const PASSWORD: &str = "PONTOON_NOTES_PASSWORD";
