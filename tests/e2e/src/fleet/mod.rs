//! A fleet on the lab, driven as its operator would: through the `pontoon` command line and nothing else.
//!
//! `look` is what a test looks at, `faults` what it does to the fleet, `primary` who takes the writes and who could.

mod engine;
mod faults;
mod look;
mod primary;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

pub use engine::Engine;
pub use faults::{Following, end_program, kill_agent, programs, start_agent};
pub use look::{
    ask, dice, event_kinds, expect, identical, logs, long, one_line, refused, replica_delay, replica_source,
    rounds_asked, snapshot, status, tell, wait_until_healthy,
};

use pontoon_testkit::{
    DatabaseOptions, DemoApp, Lab, LabDatabase, LabError, Load, LoadOptions, Notes, Server, wait_until,
};
pub use primary::{Standing, in_sync, members_in_sync, standing};

/// The port on which the application listens, on loopback of each server.
const APP: &str = "127.0.0.1:8080";

/// Two machines with a database server and the notes application; `a` has the data. Pontoon is not on them yet.
pub struct Fleet {
    /// The lab.
    pub lab: Lab,
    /// The application.
    pub app: Arc<Notes>,
    /// The first server: the one with the data.
    pub a: Server,
    /// The second, empty.
    pub b: Server,
    /// Those that came after them.
    pub more: Vec<Server>,
    /// The database of `a`.
    pub database: Box<dyn LabDatabase>,
    /// What every server of it has installed.
    pub engine: Engine,
    options: DatabaseOptions,
}

impl Fleet {
    /// Switches both machines on and starts what an operator would have there before Pontoon.
    ///
    /// # Errors
    /// A `Skip` when something cannot be had here.
    pub async fn new(lab: Lab) -> Result<Fleet, LabError> {
        Fleet::with(lab, Engine::Mariadb, DatabaseOptions::default()).await
    }

    /// The same with this database on both machines.
    ///
    /// # Errors
    /// A `Skip` when something cannot be had here.
    pub async fn with(lab: Lab, engine: Engine, options: DatabaseOptions) -> Result<Fleet, LabError> {
        Fleet::with_disks(lab, engine, options, None).await
    }

    /// The same, and both machines have disks of their own of so many MiB, which can be filled.
    ///
    /// # Errors
    /// As [`with`](Fleet::with).
    pub async fn with_disks(
        mut lab: Lab,
        engine: Engine,
        options: DatabaseOptions,
        disks: Option<u32>,
    ) -> Result<Fleet, LabError> {
        engine.available()?;
        pontoon()?;
        let app = Arc::new(Notes::new(7, sibling("notes-app")?, Vec::new()));
        let mut server = async |name| match disks {
            Some(mebibytes) => lab.add_server_with_disk(name, engine.binds()?, mebibytes).await,
            None => lab.add_server(name, engine.binds()?).await,
        };
        let a = server("a").await?;
        let b = server("b").await?;
        let database = engine.start(&a, &options).await?;
        app.create_database(&*database).await?;
        start_application(&app, &a).await?;
        install(&app, &a, &*database).await?;
        Ok(Fleet {
            lab,
            app,
            a,
            b,
            more: Vec::new(),
            database,
            engine,
            options,
        })
    }

    /// `init` and `apply` on the first server.
    ///
    /// # Errors
    /// When a command fails.
    pub async fn found(&self) -> Result<(), LabError> {
        let (private, public) = (self.a.private().to_string(), self.a.public().to_string());
        let init = [
            "init",
            "--name",
            "a",
            "--fleet",
            "notes",
            "--domain",
            "notes.example.com",
            "--upstream",
            APP,
        ];
        let addresses = ["--private", &private, "--public", &public];
        run(&self.a, &[&init[..], &addresses[..]].concat()).await?;
        run(&self.a, &["apply", "--yes"]).await?;
        self.wait_until_served(&self.a).await
    }

    /// MariaDB and the application on the second server, then `token new` and `join`.
    ///
    /// # Errors
    /// When a command fails.
    pub async fn join(&self) -> Result<(), LabError> {
        self.prepare_joiner().await?;
        let token = self.token().await?;
        self.join_with(&token).await?;
        self.wait_until_served(&self.b).await
    }

    /// Switches another machine on, installs the same there, and joins it.
    ///
    /// # Errors
    /// When a command fails.
    pub async fn join_another(&mut self, name: &str) -> Result<(), LabError> {
        let server = self.lab.add_server(name, self.engine.binds()?).await?;
        self.prepare(&server).await?;
        let token = self.token().await?;
        run(&server, &words(&self.join_of(&server, &token))).await?;
        self.wait_until_served(&server).await?;
        self.more.push(server);
        Ok(())
    }

    /// All servers, in the order in which they came.
    pub fn servers(&self) -> Vec<&Server> {
        [&self.a, &self.b].into_iter().chain(&self.more).collect()
    }

    /// Gives `outcome` back. When something failed, what the servers say of their databases, the timelines and the last
    /// lines of the logs are told first.
    ///
    /// # Errors
    /// That of `outcome`.
    pub async fn explain<T>(&self, outcome: Result<T, LabError>) -> Result<T, LabError> {
        if outcome.is_err() {
            for server in self.servers() {
                for question in [&["db", "status"][..], &["events"]] {
                    // One that cannot be asked must not hide what failed.
                    if let Ok((_, said, _)) = attempt(server, question).await {
                        tell(&said);
                    }
                }
                tell(&logs(server, 80));
            }
        }
        outcome
    }

    /// What an operator installs on the second server before it joins.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn prepare_joiner(&self) -> Result<(), LabError> {
        self.prepare(&self.b).await
    }

    /// The same on any server.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn prepare(&self, server: &Server) -> Result<(), LabError> {
        self.engine.start(server, &self.options).await?;
        start_application(&self.app, server).await
    }

    /// A fresh join token.
    ///
    /// # Errors
    /// When there is none.
    pub async fn token(&self) -> Result<String, LabError> {
        let line = run(&self.a, &["token", "new"]).await?;
        let token = line.split_whitespace().find(|word| word.starts_with("pon1."));
        token
            .map(str::to_owned)
            .ok_or_else(|| LabError::App(format!("no token in {line:?}")))
    }

    /// The arguments of `join` on the second server.
    pub fn join_command(&self, token: &str) -> Vec<String> {
        self.join_of(&self.b, token)
    }

    /// The same on any server.
    pub fn join_of(&self, server: &Server, token: &str) -> Vec<String> {
        let (address, public) = (self.a.private().to_string(), server.public().to_string());
        [
            "join",
            &address,
            token,
            "--name",
            server.name(),
            "--public",
            &public,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Joins the second server with this token, which may be a repetition.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn join_with(&self, token: &str) -> Result<String, LabError> {
        run(&self.b, &words(&self.join_command(token))).await
    }

    /// Visitors of the fleet, at the public addresses of `servers`.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn visitors(&self, servers: &[&Server], rate: f64, phase: &str) -> Result<Load, LabError> {
        let targets = servers
            .iter()
            .map(|server| SocketAddr::from((server.public(), 80)))
            .collect();
        Load::start(
            self.app.clone(),
            LoadOptions {
                targets,
                rate,
                ..LoadOptions::default()
            },
            phase,
        )
    }

    /// The process on `server` whose pid file has this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn process(&self, server: &Server, name: &str) -> Result<pontoon_testkit::ProcessId, LabError> {
        let text = std::fs::read_to_string(server.path(format!("/run/pontoon/{name}.pid"))?)
            .map_err(|error| LabError::App(format!("no pid file of {name} on {}: {error}", server.name())))?;
        let pid = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|file| i32::try_from(file.get("pid")?.as_i64()?).ok())
            .ok_or_else(|| LabError::App(format!("no pid in {text:?}")))?;
        server
            .process(pid)
            .ok_or_else(|| LabError::App(format!("{name} does not run on {}", server.name())))
    }

    /// Waits until the edge of `server` answers visitors.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub async fn wait_until_served(&self, server: &Server) -> Result<(), LabError> {
        let address = format!("http://{}/up", server.public());
        wait_until("the edge serves", Duration::from_secs(60), async || {
            server
                .exec("curl", &["-sf", "-o", "/dev/null", &address])
                .await
                .ok()
        })
        .await
        .map(drop)
    }
}

/// Arguments as they are handed over.
pub fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Runs `pontoon` on a server and gives its standard output.
///
/// # Errors
/// With everything that it printed, when it does not end well.
pub async fn run(server: &Server, args: &[&str]) -> Result<String, LabError> {
    let program = pontoon()?;
    server.exec(&program.to_string_lossy(), args).await
}

/// Runs `pontoon` on a server and gives exit status, standard output and standard error.
///
/// # Errors
/// When it cannot be run.
pub async fn attempt(server: &Server, args: &[&str]) -> Result<(i32, String, String), LabError> {
    let output = server
        .command(pontoon()?)?
        .args(args)
        .output()
        .await
        .map_err(|error| LabError::App(format!("pontoon cannot be run: {error}")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    ))
}

/// Starts the application on loopback of `server`.
///
/// # Errors
/// When it does not start.
pub async fn start_application(app: &Notes, server: &Server) -> Result<(), LabError> {
    app.prepare(server).await?;
    app.start(server, address(APP)?).await.map(drop)
}

/// The application listens on loopback, which the lab's own process does not see: it is installed through a door that
/// is closed again.
async fn install(app: &Notes, server: &Server, database: &dyn LabDatabase) -> Result<(), LabError> {
    let door = SocketAddr::from((server.public(), 8081));
    let process = app.start(server, door).await?;
    app.install(door, database).await?;
    process.kill_9().await
}

fn address(text: &str) -> Result<SocketAddr, LabError> {
    text.parse()
        .map_err(|_| LabError::Unknown(format!("{text} is not an address")))
}

/// The program under test, built from this checkout in the profile of the tests.
///
/// # Errors
/// When it does not build.
pub fn pontoon() -> Result<PathBuf, LabError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| build().map_err(|error| error.to_string()))
        .clone()
        .map_err(LabError::App)
}

fn build() -> Result<PathBuf, LabError> {
    let program = sibling("pontoon")?;
    // In the lab the caches of cargo may be out of sight; the outer run of the same test has built it.
    if std::env::var_os("PONTOON_E2E_BUILT").is_none() {
        let cargo = option_env!("CARGO").unwrap_or("cargo");
        let mut command = Command::new(cargo);
        command
            .args(["build", "--quiet", "--locked", "--package", "pontoon"])
            .current_dir(crate::repository());
        let status = command
            .status()
            .map_err(|error| LabError::App(format!("{cargo}: {error}")))?;
        if !status.success() && !program.exists() {
            return Err(LabError::App("pontoon does not build".to_owned()));
        }
    }
    // A build that ends meanwhile must not change the program under a running fleet.
    let Some(lab) = std::env::var_os(pontoon_testkit::INSIDE_VARIABLE) else {
        return Ok(program);
    };
    let kept = PathBuf::from(lab).join("pontoon");
    std::fs::hard_link(&program, &kept)
        .or_else(|_| std::fs::copy(&program, &kept).map(drop))
        .map_err(LabError::io("keep the program"))?;
    Ok(kept)
}

/// A program that cargo put beside the tests.
/// A program of the same build.
///
/// # Errors
/// When this one is not in a target folder.
pub fn sibling(name: &str) -> Result<PathBuf, LabError> {
    let me = std::env::current_exe().map_err(|error| LabError::App(error.to_string()))?;
    let dir = me.ancestors().find(|dir| dir.join("deps").is_dir());
    dir.map(|dir| dir.join(name))
        .ok_or_else(|| LabError::App(format!("{} is not in a target folder", me.display())))
}
