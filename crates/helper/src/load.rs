//! The joiner's side of a logical copy: a fresh data directory beside the old one, a server on it that nobody else
//! reaches, and a client that feeds it what arrives. Only when all of it is in, and the server has stopped in good
//! order, the copy is marked as complete.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::{Code, Refusal};
use pontoon_rt::files::{self, FileError};
use rustix::process::{Pid, Signal};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backup::{Spool, Words, hex, listen};
use crate::dirs::{self, IncomingState};
use crate::find;
use crate::foreign;
use crate::frame::{self, Frame};
use crate::node::{DatabaseNode, Run};
use crate::programs;
use crate::settings::Setting;
use crate::unit::User;

/// How long a new data directory may take to be made, and a server to start on it.
const START_PATIENCE: Duration = Duration::from_secs(600);

/// How long the server's end may take: dirty pages are written first.
const STOP_PATIENCE: Duration = Duration::from_secs(600);

/// The account that loads. It takes itself away at the end.
const LOADER: &str = "'pontoon_load'@'localhost'";

/// Accounts that belong to the server itself: they are there already, in the version that it needs.
const OWN_ACCOUNTS: &str = "'mysql.sys', 'mysql.session', 'mysql.infoschema', 'mariadb.sys', 'pontoon_load'";

/// A server that waits for the dump.
pub(crate) struct Load {
    user: User,
    node: DatabaseNode,
    place: PathBuf,
    password: String,
    server: Child,
}

impl Load {
    /// Makes the data directory at `data`, which does not exist, and starts the server on it.
    pub(crate) async fn begin(
        node: &DatabaseNode,
        data: &Path,
        options: &[Setting],
    ) -> Result<Load, Refusal> {
        if let Some(other) = options.iter().find(|option| !is_shared(option)) {
            return Err(Refusal::new(Code::N003, "the settings for the copy were refused")
                .because(format!("{} is not one that a copy shares", other.name)));
        }
        let user = User::of(node)?;
        let owner = (user.uid, user.gid);
        let place = node.incoming();
        for dir in [data.to_owned(), place.join("tmp")] {
            std::fs::create_dir(&dir).map_err(|error| FileError::new(&dir, "create", error))?;
            foreign::give_directory(&dir, owner, 0o700)?;
        }
        initialise(node, &user, data, options).await?;
        let password = password()?;
        let server = start(node, &user, data, options, &password)?;
        let mut load = Load {
            user,
            node: node.clone(),
            place,
            password,
            server,
        };
        load.wait().await?;
        let made_with = load
            .ask(&format!(
                "SELECT GROUP_CONCAT(CONCAT(QUOTE(user), '@', QUOTE(host))) FROM mysql.user WHERE user NOT IN ({OWN_ACCOUNTS})"
            ))
            .await?;
        if !made_with.is_empty() && made_with != "NULL" {
            // The source says which accounts there are.
            load.ask(&format!("DROP USER {made_with}")).await?;
        }
        Ok(load)
    }

    /// Takes the stream to its end. Returns the GTID position of what is there now.
    pub(crate) async fn receive<R: AsyncRead + Unpin>(mut self, from: &mut R) -> Result<String, Refusal> {
        let mut client = Client::start(&self)?;
        let (mut digest, mut bytes) = (Sha256::new(), 0u64);
        let end = loop {
            match frame::read(from).await {
                Ok(Frame::Data(chunk)) => {
                    digest.update(&chunk);
                    bytes += chunk.len() as u64;
                    if let Err(error) = client.input.write_all(&chunk).await {
                        return Err(client.failed(&format!("the client takes no more: {error}")).await);
                    }
                }
                Ok(Frame::Progress(_)) => {}
                Ok(Frame::Failed(refusal)) => return Err(refusal),
                Ok(Frame::End(end)) => break end,
                Err(error) => {
                    return Err(
                        failed("the stream ended before the source said that it was complete")
                            .because(format!("after {bytes} bytes: {error}")),
                    );
                }
            }
        };
        if end.bytes != bytes || end.sha256 != hex(&digest.finalize()) {
            return Err(failed("what arrived is not what was sent").because(format!(
                "{bytes} bytes arrived, {} were sent; or their digests differ",
                end.bytes
            )));
        }
        client.finish().await?;
        let position = match self.node.is_mariadb() {
            true => {
                let position = self.ask("SELECT @@GLOBAL.gtid_slave_pos").await?;
                // The dump says in a CHANGE MASTER that it is to be followed by GTID, and not whom.
                self.ask("RESET SLAVE ALL").await?;
                position
            }
            false => self.ask("SELECT @@GLOBAL.gtid_executed").await?,
        };
        self.ask(&format!("DROP USER {LOADER}")).await?;
        self.stop().await?;
        let position: String = position.replace("\\n", "").split_whitespace().collect();
        dirs::seal(&self.node, &position)?;
        Ok(position)
    }

    async fn wait(&mut self) -> Result<(), Refusal> {
        let begun = Instant::now();
        loop {
            let Err(last) = self.ask("SELECT 1").await else {
                return Ok(());
            };
            let ended = self.server.try_wait().ok().flatten();
            if ended.is_some() || begun.elapsed() > START_PATIENCE {
                let mut refusal = Refusal::new(Code::D005, "the server for the copy does not start");
                refusal.evidence.extend(ended.map(|status| status.to_string()));
                refusal.evidence.extend(last.evidence);
                refusal.evidence.extend(last_words(&self.place));
                return Err(refusal);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn client(&self) -> Result<Command, Refusal> {
        let name = if self.node.is_mariadb() {
            "mariadb"
        } else {
            "mysql"
        };
        let mut command = programs::command(&self.node, name, &self.user)?;
        command
            // Nothing that the stream says is a command of the client: it could call a shell.
            .args(["--no-defaults", "--batch", "--skip-column-names", "--binary-mode"])
            .args([
                "--max-allowed-packet=1G",
                "--default-character-set=utf8mb4",
                "--user=pontoon_load",
            ])
            .arg(format!("--socket={}", socket(&self.place).display()))
            .env("MYSQL_PWD", &self.password)
            .current_dir(&self.place)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }

    async fn ask(&self, statement: &str) -> Result<String, Refusal> {
        let refused = |why: String| {
            failed("the new database refused a statement")
                .because(statement.to_owned())
                .because(why)
        };
        let output = self
            .client()?
            .arg(format!("--execute={statement}"))
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|error| refused(error.to_string()))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }

    async fn stop(&mut self) -> Result<(), Refusal> {
        let pid = self
            .server
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, Signal::TERM)
                .map_err(|errno| failed(&format!("the new database cannot be stopped: {errno}")))?;
        }
        let ended = tokio::time::timeout(STOP_PATIENCE, self.server.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            ended => {
                let mut refusal = failed("the new database did not stop in good order");
                refusal.evidence.push(match ended {
                    Ok(Ok(status)) => status.to_string(),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("it took longer than {} s", STOP_PATIENCE.as_secs()),
                });
                refusal.evidence.extend(last_words(&self.place));
                Err(refusal)
            }
        }
    }
}

/// The client that is fed.
struct Client {
    child: Child,
    input: ChildStdin,
    words: JoinHandle<Words>,
}

impl Client {
    fn start(load: &Load) -> Result<Client, Refusal> {
        let mut child = load
            .client()?
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| failed(&error.to_string()))?;
        let (Some(input), Some(errors)) = (child.stdin.take(), child.stderr.take()) else {
            return Err(failed("the client has no input"));
        };
        let words = tokio::spawn(listen(BufReader::new(errors), Arc::new(Spool::default())));
        Ok(Client { child, input, words })
    }

    async fn finish(mut self) -> Result<(), Refusal> {
        drop(self.input);
        let status = self.child.wait().await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(with_words(failed(&format!("the client: {status}")), self.words).await),
            Err(error) => Err(failed(&error.to_string())),
        }
    }

    /// Why it ended.
    async fn failed(mut self, why: &str) -> Refusal {
        drop(self.input);
        let _ = self.child.wait().await;
        with_words(failed(why), self.words).await
    }
}

async fn with_words(mut refusal: Refusal, words: JoinHandle<Words>) -> Refusal {
    refusal.evidence.extend(words.await.unwrap_or_default().last);
    refusal
}

/// Ends the server that an attempt left behind whose helper was killed: it works in a directory of ours that is to be
/// removed.
pub(crate) async fn end_leftover(node: &DatabaseNode) -> Result<(), Refusal> {
    let ours = dirs::read_mark(node)?.is_some_and(|mark| mark.state == IncomingState::Receiving);
    let data = dirs::data_of(&node.incoming());
    let begun = Instant::now();
    while let Some(pid) = find::server_in(&data).filter(|_| ours) {
        if begun.elapsed() > Duration::from_secs(20) {
            return Err(
                Refusal::new(Code::D006, "the server of an earlier copy does not end")
                    .because(format!("process {pid} works in {}", data.display())),
            );
        }
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn initialise(
    node: &DatabaseNode,
    user: &User,
    data: &Path,
    options: &[Setting],
) -> Result<(), Refusal> {
    let mut command = match node.is_mariadb() {
        true => {
            let mut command = programs::command(node, "mariadb-install-db", user)?;
            command
                .args([
                    "--no-defaults",
                    "--skip-test-db",
                    "--auth-root-authentication-method=normal",
                ])
                .arg(format!("--tmpdir={}", node.incoming().join("tmp").display()));
            if rustix::process::geteuid().is_root() && user.uid == 0 {
                command.arg("--user=root");
            }
            command
        }
        false => {
            let mut command = programs::server(node, user);
            // With a password for root that nobody gets to know: the account goes away.
            command.arg("--initialize");
            command
        }
    };
    command.arg(format!("--datadir={}", data.display()));
    for option in options.iter().filter(|option| is_of_files(option)) {
        command.arg(format!("--{}={}", option.name.replace('_', "-"), option.value));
    }
    command
        .args(places(node))
        .current_dir(node.incoming())
        .stdin(Stdio::null());
    let failed = || Refusal::new(Code::D005, "a new data directory could not be made");
    let output = tokio::time::timeout(START_PATIENCE, command.output())
        .await
        .map_err(|_| failed().because(format!("it took longer than {} s", START_PATIENCE.as_secs())))?
        .map_err(|error| failed().because(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut refusal = failed().because(output.status.to_string());
    let lines: Vec<&str> = said
        .lines()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(8)
        .collect();
    refusal
        .evidence
        .extend(lines.into_iter().rev().map(str::to_owned));
    Err(refusal)
}

fn start(
    node: &DatabaseNode,
    user: &User,
    data: &Path,
    options: &[Setting],
    password: &str,
) -> Result<Child, Refusal> {
    let place = node.incoming();
    let init = place.join("init.sql");
    // What an administrator may pass on, down to the right to stand in for others.
    let statements = format!(
        "CREATE USER {LOADER} IDENTIFIED BY '{password}';\n\
         GRANT ALL PRIVILEGES ON *.* TO {LOADER} WITH GRANT OPTION;\n\
         INSERT INTO mysql.proxies_priv VALUES ('localhost', 'pontoon_load', '', '', 1, '', NOW());\n\
         FLUSH PRIVILEGES;\n"
    );
    files::write_atomic(&init, statements.as_bytes(), 0o640)?;
    user.own(&init)?;
    let log = place.join("server.log");
    let output = std::fs::File::create(&log).map_err(|error| FileError::new(&log, "write", error))?;
    let errors = output
        .try_clone()
        .map_err(|error| FileError::new(&log, "write", error))?;
    let mut command = programs::server(node, user);
    for option in options {
        command.arg(format!("--{}={}", option.name.replace('_', "-"), option.value));
    }
    command
        .args(places(node))
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--tmpdir={}", place.join("tmp").display()))
        .arg(format!("--socket={}", socket(&place).display()))
        .arg(format!("--pid-file={}", place.join("tmp/pid").display()))
        .arg(format!("--init-file={}", init.display()))
        .args([
            "--skip-networking",
            "--skip-log-bin",
            "--event-scheduler=OFF",
            "--max-allowed-packet=1G",
            // It stops in good order, or it is begun anew.
            "--innodb-flush-log-at-trx-commit=0",
        ]);
    match node.is_mariadb() {
        true => command.args(["--skip-slave-start", "--innodb-stats-persistent=ON"]),
        false => command.args([
            "--gtid-mode=ON",
            "--enforce-gtid-consistency=ON",
            "--skip-replica-start",
            "--mysqlx=OFF",
            "--secure-file-priv=NULL",
            "--log-error-verbosity=2",
        ]),
    };
    command
        .current_dir(&place)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|error| Refusal::new(Code::D005, "no server could be started").because(error.to_string()))
}

/// Where the server's own files are, when the one that runs here was told.
fn places(node: &DatabaseNode) -> Vec<String> {
    let Run::Process { argv, .. } = &node.run else {
        return Vec::new();
    };
    let of_program = [
        "--basedir=",
        "--lc-messages-dir=",
        "--plugin-dir=",
        "--character-sets-dir=",
    ];
    let is_one = |word: &&String| {
        of_program
            .iter()
            .any(|name| word.replace('_', "-").starts_with(name))
    };
    argv.iter().filter(is_one).cloned().collect()
}

/// What a replica takes over from its source and a load depends on.
pub(crate) fn is_shared(option: &Setting) -> bool {
    is_of_files(option)
        || matches!(
            option.name.as_str(),
            "sql_mode" | "character_set_server" | "collation_server" | "explicit_defaults_for_timestamp"
        )
}

/// What only a new data directory can be given.
fn is_of_files(option: &Setting) -> bool {
    matches!(
        option.name.as_str(),
        "innodb_page_size" | "lower_case_table_names" | "innodb_data_file_path"
    )
}

fn socket(place: &Path) -> PathBuf {
    place.join("s")
}

fn last_words(place: &Path) -> Vec<String> {
    let text = std::fs::read(place.join("server.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().rev().take(8).collect();
    lines.into_iter().rev().map(str::to_owned).collect()
}

fn password() -> Result<String, Refusal> {
    use std::io::Read;
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| FileError::new(path, "read", error))?;
    Ok(format!("Aa1-{}", hex(&bytes)))
}

fn failed(why: &str) -> Refusal {
    Refusal::new(Code::D003, "the copy of the database failed").because(why)
}
