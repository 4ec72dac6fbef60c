//! Runs the program in a place of its own, with an agent that says what a test wants.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs
)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A machine: a folder with everything that the program reads and writes.
pub struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    pub fn new() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        Machine { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program with these words, not yet run.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
        self.prepare(&mut command, words);
        command
    }

    /// In network and user namespaces of its own: nothing of this machine is looked at or asked.
    pub fn isolated(&self, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--net", "--"])
            .arg(env!("CARGO_BIN_EXE_pontoon"));
        self.prepare(&mut command, words);
        command
    }

    fn prepare(&self, command: &mut Command, words: &[&str]) {
        command
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("PONTOON_CONFIG", self.path("fleet.toml"))
            .env("PONTOON_STATE_DIR", self.path("state"))
            .env("PONTOON_RUN_DIR", self.path("run"))
            .stdin(Stdio::null());
    }

    pub fn run(&self, words: &[&str]) -> Ran {
        Ran::of(self.command(words))
    }

    /// An agent that answers every connection with these bytes, whatever it is asked.
    pub fn agent_says(&self, answer: impl Into<Vec<u8>>) {
        let answer = answer.into();
        self.agent(move |mut io| {
            let _ = io.write_all(&answer);
        });
    }

    /// An agent that does this with every connection, once the request has come.
    pub fn agent(&self, act: impl Fn(UnixStream) + Send + 'static) {
        let listener = UnixListener::bind(self.path("run/admin.sock")).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut io, _)) = listener.accept() {
                let _ = io.set_read_timeout(Some(Duration::from_secs(5)));
                // A connection that only looks whether somebody is here sends nothing.
                if matches!(io.read(&mut [0; 65_536]), Ok(count) if count > 0) {
                    act(io);
                }
            }
        });
    }

    /// An identity's file is there, as far as the command line can see without an agent.
    pub fn belongs_to_a_fleet(&self) {
        std::fs::create_dir_all(self.path("state/identity")).unwrap();
        std::fs::write(self.path("state/identity/cert.pem"), "").unwrap();
    }
}

/// How it ended.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(mut command: Command) -> Ran {
        Ran::from(command.output().expect("the program runs"))
    }

    /// Fails with everything that was said.
    pub fn must_exit(self, status: i32) -> Ran {
        assert_eq!(self.status, status, "{}\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// An HTTP answer.
pub fn http(status: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

pub fn snapshot(name: &str) -> String {
    std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/snapshots")
            .join(name),
    )
    .unwrap()
}

/// Compares with an expected text; `UPDATE_SNAPSHOTS=1` takes the new one over.
pub fn compare(name: &str, text: &str) {
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/snapshots")
                .join(name),
            text,
        )
        .unwrap();
    }
    assert_eq!(
        text,
        snapshot(name),
        "{name} differs; UPDATE_SNAPSHOTS=1 takes the new text over"
    );
}
