//! A server on the unpacked copy that nobody else reaches.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pontoon_fleet::{Code, Engine, Refusal};
use pontoon_rt::files;
use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::tools::Tools;
use super::word;
use crate::manifest::Manifest;

/// How long its start may take: recovery reads the redo log.
const START_PATIENCE: Duration = Duration::from_secs(600);

/// How long its end may take: dirty pages are written first.
const STOP_PATIENCE: Duration = Duration::from_secs(300);

/// The account for the time of the restore.
const ACCOUNT: &str = "pontoon_restore";

/// The server; killed when dropped.
pub(crate) struct Server<'a> {
    tools: &'a Tools,
    engine: Engine,
    child: Child,
    /// A short path, since a Unix socket's may have 107 bytes.
    meeting: PathBuf,
    password: String,
    log: PathBuf,
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        // The child is killed by its own drop.
        let _ = std::fs::remove_dir_all(&self.meeting);
    }
}

impl<'a> Server<'a> {
    pub(crate) async fn start(
        copy: &Manifest,
        tools: &'a Tools,
        place: &Path,
        data: &Path,
    ) -> Result<Server<'a>, Refusal> {
        let password = format!("Aa1-{}", random()?);
        let meeting = std::env::temp_dir().join(format!("pontoon-restore-{}", &password[4..16]));
        files::create_dir(&meeting, 0o700)?;
        tools.owner().give(&meeting)?;
        let init = meeting.join("init.sql");
        let statements = [
            format!("DROP USER IF EXISTS '{ACCOUNT}'@'localhost'"),
            format!("CREATE USER '{ACCOUNT}'@'localhost' IDENTIFIED BY '{password}'"),
            format!("GRANT ALL PRIVILEGES ON *.* TO '{ACCOUNT}'@'localhost' WITH GRANT OPTION"),
        ];
        let text: String = statements
            .iter()
            .map(|statement| format!("{statement};\n"))
            .collect();
        files::write_atomic(&init, text.as_bytes(), 0o600)?;
        tools.owner().give(&init)?;
        let log = place.join("server.log");
        let mut command = tools.server_command();
        let own = data.join("backup-my.cnf");
        match copy.engine {
            // What the tool knows of the files' shape.
            Engine::Mariadb if own.is_file() => command.arg(format!("--defaults-file={}", own.display())),
            _ => command.arg("--no-defaults"),
        };
        for setting in &copy.settings {
            command.arg(format!("--{}={}", setting.name, setting.value));
        }
        command
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--tmpdir={}", place.join("tmp").display()))
            .arg(format!("--socket={}", meeting.join("s").display()))
            .arg(format!("--pid-file={}", meeting.join("pid").display()))
            .arg(format!("--init-file={}", init.display()))
            .args([
                "--skip-networking",
                "--skip-log-bin",
                "--event-scheduler=OFF",
                "--max-allowed-packet=1G",
            ]);
        if tools.owner().is_root() {
            command.arg("--user=root");
        }
        match copy.engine {
            Engine::Mysql => command.args([
                "--gtid-mode=ON",
                "--enforce-gtid-consistency=ON",
                "--skip-replica-start",
                "--mysqlx=OFF",
                "--log-error-verbosity=2",
            ]),
            _ => command.args(["--skip-slave-start"]),
        };
        let output =
            std::fs::File::create(&log).map_err(|error| files::FileError::new(&log, "write", error))?;
        let errors = output
            .try_clone()
            .map_err(|error| files::FileError::new(&log, "write", error))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|error| {
                Refusal::new(Code::D005, "no server could be started").because(error.to_string())
            })?;
        let mut server = Server {
            tools,
            engine: copy.engine,
            child,
            meeting,
            password,
            log,
        };
        server.wait().await?;
        if copy.engine == Engine::Mysql {
            // CLONE copies whom a replica follows, too.
            server.ask("RESET REPLICA ALL").await?;
        }
        Ok(server)
    }

    async fn wait(&mut self) -> Result<(), Refusal> {
        let begun = Instant::now();
        loop {
            let last = match self.ask("SELECT 1").await {
                Ok(_) => return Ok(()),
                Err(refusal) => refusal,
            };
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || begun.elapsed() > START_PATIENCE {
                let mut refusal = Refusal::new(Code::D005, "the restored copy does not start");
                refusal.evidence.extend(ended.map(|status| status.to_string()));
                refusal.evidence.extend(last.evidence);
                refusal.evidence.extend(self.last_words());
                return Err(refusal);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn last_words(&self) -> Vec<String> {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().rev().take(8).collect();
        lines.into_iter().rev().map(str::to_owned).collect()
    }

    fn client(&self) -> Command {
        let mut command = self.tools.tool(word(self.engine, "mariadb", "mysql"));
        command
            .args(["--no-defaults", "--batch", "--skip-column-names", "--binary-mode"])
            .args(["--max-allowed-packet=1G", "--user", ACCOUNT])
            .arg(format!("--socket={}", self.meeting.join("s").display()))
            .env("MYSQL_PWD", &self.password)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    async fn ask(&self, statement: &str) -> Result<String, Refusal> {
        let failed = |why: String| {
            Refusal::new(Code::D008, "the restored database refused a statement")
                .because(statement.to_owned())
                .because(why)
        };
        let output = self
            .client()
            .arg(format!("--execute={statement}"))
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|error| failed(error.to_string()))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }

    /// MySQL: what is in, as the server knows it.
    pub(crate) async fn executed(&self) -> Result<String, Refusal> {
        let said = self.ask("SELECT @@GLOBAL.gtid_executed").await?;
        Ok(said.replace("\\n", "").replace(['\n', ' '], ""))
    }

    /// Applies a binary log.
    pub(crate) async fn apply(&self, binlog: &Path) -> Result<(), Refusal> {
        self.tools.owner().give(binlog)?;
        let failed = |why: String| {
            Refusal::new(Code::D022, "an archived transaction could not be applied").because(why)
        };
        let mut reader = self
            .tools
            .tool(word(self.engine, "mariadb-binlog", "mysqlbinlog"))
            .arg("--no-defaults")
            .arg(binlog)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut client = self
            .client()
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let (Some(mut statements), Some(mut words)) = (reader.stdout.take(), reader.stderr.take()) else {
            return Err(failed("it has no output".to_owned()));
        };
        let (Some(mut input), Some(mut answer)) = (client.stdin.take(), client.stderr.take()) else {
            return Err(failed("the client has no input".to_owned()));
        };
        let (mut read_words, mut client_words) = (Vec::new(), Vec::new());
        let carry = async {
            // Fails when the client has ended: what it said then is the reason.
            let _ = tokio::io::copy(&mut statements, &mut input).await;
            drop(input);
            // So that its reader is not held up by a pipe that nobody empties.
            drop(statements);
        };
        let _ = tokio::join!(
            carry,
            words.read_to_end(&mut read_words),
            answer.read_to_end(&mut client_words)
        );
        let (read, applied) = (reader.wait().await, client.wait().await);
        let fine = |status: &std::io::Result<std::process::ExitStatus>| {
            status.as_ref().is_ok_and(std::process::ExitStatus::success)
        };
        if fine(&applied) && fine(&read) {
            return Ok(());
        }
        let mut refusal = failed(format!("{applied:?}, {read:?}"));
        for words in [client_words, read_words] {
            let text = String::from_utf8_lossy(&words).into_owned();
            refusal.evidence.extend(text.lines().take(6).map(str::to_owned));
        }
        Err(refusal)
    }

    /// Writes down the position, takes the account away, and ends in good order.
    pub(crate) async fn finish(mut self, position: &str) -> Result<(), Refusal> {
        if self.engine == Engine::Mariadb && !position.is_empty() {
            self.ask(&format!("SET GLOBAL gtid_slave_pos = '{position}'"))
                .await?;
        }
        self.ask(&format!("DROP USER '{ACCOUNT}'@'localhost'")).await?;
        let pid = self
            .child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, Signal::TERM)
                .map_err(|errno| Refusal::new(Code::N007, errno.to_string()))?;
        }
        let ended = tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            other => {
                let mut refusal = Refusal::new(Code::D005, "the restored database did not end in good order")
                    .because(format!("{other:?}"));
                refusal.evidence.extend(self.last_words());
                Err(refusal)
            }
        }
    }
}

fn random() -> Result<String, Refusal> {
    use std::io::Read;
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| files::FileError::new(path, "read", error))?;
    Ok(crate::upload::hex(&bytes))
}
