//! What a test does to a fleet: ends processes at a chosen step, starts what an operator would start again.

use std::process::Stdio;
use std::time::Duration;

use pontoon_testkit::proc::innermost_pid;
use pontoon_testkit::{LabError, ProcessId, Server, wait_until};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::{attempt, pontoon};

/// A long command with `--json`, followed line by line.
pub struct Following {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it said so far.
    pub said: Vec<Value>,
}

impl Following {
    /// Starts `pontoon ARGS --json` on a server.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start(server: &Server, args: &[&str]) -> Result<Following, LabError> {
        let mut command = server.command(pontoon()?)?;
        command
            .args(args)
            .arg("--json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(LabError::io("start pontoon"))?;
        let output = child
            .stdout
            .take()
            .ok_or_else(|| LabError::App("no output".to_owned()))?;
        Ok(Following {
            child,
            lines: BufReader::new(output).lines(),
            said: Vec::new(),
        })
    }

    /// Reads on until a line contains `text`; says whether one came before the end.
    ///
    /// # Errors
    /// When nothing comes for three minutes.
    pub async fn until(&mut self, text: &str) -> Result<bool, LabError> {
        while let Some(line) = self.next().await? {
            if line.contains(text) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads to the end and gives the exit status.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end(mut self) -> Result<(i32, Vec<Value>), LabError> {
        while self.next().await?.is_some() {}
        let status = self.child.wait().await.map_err(LabError::io("end of pontoon"))?;
        Ok((status.code().unwrap_or(-1), self.said))
    }

    /// Ctrl-C on the command `word`: nothing but the command hears it. Gives its exit status.
    ///
    /// # Errors
    /// When it does not end by it.
    pub async fn interrupt(self, server: &Server, word: &str) -> Result<i32, LabError> {
        for id in programs(server, word) {
            if let Some(pid) = innermost_pid(id.pid) {
                server.exec("kill", &["-INT", &pid.to_string()]).await?;
            }
        }
        let (status, _) = self.end().await?;
        Ok(status)
    }

    async fn next(&mut self) -> Result<Option<String>, LabError> {
        let late = |_| {
            LabError::App(format!(
                "a command says nothing for three minutes; last: {:?}",
                self.said.last()
            ))
        };
        let line = tokio::time::timeout(Duration::from_secs(180), self.lines.next_line())
            .await
            .map_err(late)?;
        let line = line.map_err(LabError::io("output of pontoon"))?;
        if let Some(value) = line.as_deref().and_then(|line| serde_json::from_str(line).ok()) {
            self.said.push(value);
        }
        Ok(line)
    }
}

/// The pontoon processes of `server` that run as `word` (`agent`, `helper`, `edge`, `sql`).
pub fn programs(server: &Server, word: &str) -> Vec<ProcessId> {
    let runs_as = |id: &ProcessId| {
        let line = std::fs::read(format!("/proc/{}/cmdline", id.pid)).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next().is_some_and(|program| program.ends_with(b"/pontoon"))
            && words.any(|found| found == word.as_bytes())
    };
    server.processes().into_iter().filter(runs_as).collect()
}

/// `kill -9` for every process of `server` that runs as `word`; says how many there were.
///
/// # Errors
/// When one does not end.
pub async fn end_program(server: &Server, word: &str) -> Result<usize, LabError> {
    let found = programs(server, word);
    found.iter().try_for_each(|id| id.kill_9())?;
    wait_until(&format!("end of {word}"), Duration::from_secs(60), async || {
        found.iter().all(|id| !id.alive()).then_some(())
    })
    .await?;
    Ok(found.len())
}

/// `kill -9` for the agent of `server`.
///
/// # Errors
/// When there is none.
pub async fn kill_agent(server: &Server) -> Result<(), LabError> {
    match end_program(server, "agent").await? {
        0 => Err(LabError::App(format!("no agent runs on {}", server.name()))),
        _ => Ok(()),
    }
}

/// Starts helper and agent again as an operator without systemd would, with `pontoon apply`, whatever the plan says.
///
/// # Errors
/// When the agent does not answer afterwards.
pub async fn start_agent(server: &Server) -> Result<(), LabError> {
    let (_, out, err) = attempt(server, &["apply", "--yes"]).await?;
    let (_, status, why) = attempt(server, &["status", "--json"]).await?;
    super::expect(status.contains("\"version\""), || {
        format!("no agent on {}: {out}{err}{status}{why}", server.name())
    })
}
