//! What a phase works with: the fleet, its application, its visitors, and the operator's command line.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use pontoon_agent::api::{Progress, Status};
use pontoon_fleet::{Epoch, FleetView, Refusal, TierDetail};
use pontoon_rt::process::Running;
use pontoon_testkit::{
    Arrivals, DemoApp, Lab, Load, LoadOptions, LoadReport, PhaseSummary, Process, ProcessId, Server, Spawn,
    wait_until,
};
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::{Instant, sleep, timeout};

use super::application::PROGRAM;
use super::setting::Setting;
use crate::output::demo::Show;

/// The fleet on its stage.
pub struct Stage {
    /// The lab; it holds the servers up.
    pub lab: Lab,
    /// The first server: the one that had everything, and has the primary database.
    pub a: Server,
    /// The second server.
    pub b: Server,
    /// What the fleet serves.
    pub app: Arc<dyn DemoApp>,
    /// What the visitors do.
    pub visitors: Visitors,
    load: Arc<OnceLock<Load>>,
    running: BTreeMap<String, Process>,
    show: Arc<Show>,
    begun: Instant,
    facts: Vec<String>,
    caveats: Vec<String>,
}

/// What the visitors do.
#[derive(Clone, Copy, Debug)]
pub struct Visitors {
    /// Requests per second.
    pub rate: f64,
    /// Where their dice begin.
    pub seed: u64,
    /// What the seconds of a phase are multiplied with: less than 1 for a short demo.
    pub pace: f64,
}

/// What was seen while the server with the primary was not there.
pub struct Absence {
    /// The server that was lost.
    pub lost: String,
    /// The server that takes the writes since.
    pub took_over: String,
    /// Seconds from the loss to the first moment in which the other one took the writes.
    pub taken: f64,
    /// Seconds from its return until the fleet was as it should be.
    pub back: f64,
}

impl Stage {
    /// Where the application listens, on every server: on loopback, as most do.
    pub const APPLICATION: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

    /// The stage with the first server set and nothing of Pontoon on it.
    pub fn new(setting: Setting, visitors: Visitors, show: Arc<Show>, begun: Instant) -> Stage {
        Stage {
            lab: setting.lab,
            a: setting.a,
            b: setting.b,
            app: setting.app,
            visitors,
            load: Arc::default(),
            running: setting.running,
            show,
            begun,
            facts: Vec::new(),
            caveats: Vec::new(),
        }
    }

    // ---- what the report tells

    /// Something that happened, for the report: one sentence.
    pub fn fact(&mut self, text: impl Into<String>) {
        let text = text.into();
        self.show.fact(&text);
        self.facts.push(text);
    }

    /// Something without which the numbers would look better than they are.
    pub fn caveat(&mut self, text: impl Into<String>) {
        self.caveats.push(text.into());
    }

    /// The facts since the last call.
    pub fn take_facts(&mut self) -> Vec<String> {
        std::mem::take(&mut self.facts)
    }

    /// Every caveat.
    pub fn caveats(&self) -> &[String] {
        &self.caveats
    }

    /// Time since the demo began.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    // ---- visitors

    /// Lets visitors come to the public address of `a`, first of all in this phase. They stay until the end.
    pub fn open_doors(&self, phase: &str) -> anyhow::Result<()> {
        let options = LoadOptions {
            targets: vec![door(&self.a)],
            rate: self.visitors.rate,
            arrivals: Arrivals::Poisson,
            seed: self.visitors.seed,
            ..LoadOptions::default()
        };
        let load = Load::start(self.app.clone(), options, phase)?;
        self.load
            .set(load)
            .map_err(|_| anyhow::anyhow!("the visitors come already"))
    }

    /// Visitors come to both public addresses from now on.
    pub fn both_doors(&self) -> anyhow::Result<()> {
        self.load()?.set_targets(vec![door(&self.a), door(&self.b)]);
        Ok(())
    }

    /// Lets this many seconds of traffic pass, fewer in a short demo.
    pub async fn traffic(&self, seconds: u32) -> anyhow::Result<()> {
        self.load()?;
        self.show.detail("visitors come");
        sleep(Duration::from_secs(seconds.into()).mul_f64(self.visitors.pace)).await;
        Ok(())
    }

    /// The visitors, once they come.
    pub fn load(&self) -> anyhow::Result<&Load> {
        self.load.get().context("no visitor comes yet")
    }

    /// Sends the visitors home and gives what they saw; nothing when none ever came.
    pub async fn close_doors(&mut self) -> anyhow::Result<Option<LoadReport>> {
        match Arc::into_inner(std::mem::take(&mut self.load)).and_then(OnceLock::into_inner) {
            Some(load) => Ok(Some(load.stop().await?)),
            None => Ok(None),
        }
    }

    /// What the visitors see, for somebody who looks on while a phase is played.
    pub fn onlooker(&self) -> Onlooker {
        Onlooker(self.load.clone())
    }

    // ---- the application

    /// Starts the application of `server`, as its service manager would.
    pub async fn start_application(&mut self, server: &Server) -> anyhow::Result<()> {
        self.show
            .detail(&format!("starting {} on {}", self.app.name(), server.name()));
        let process = self.app.start(server, Stage::APPLICATION).await?;
        self.running.insert(server.name().to_owned(), process);
        Ok(())
    }

    /// Kills every process of the application of `server` at once, at a moment in which no write is under way and no
    /// visitor has part of an answer; gives how many processes these were, and how many reads were under way in the
    /// whole fleet.
    pub async fn kill_application(&mut self, server: &Server) -> anyhow::Result<(usize, usize)> {
        let process = self
            .running
            .remove(server.name())
            .context("the application does not run there")?;
        let session = process.session();
        let signal = |signal| session.iter().try_for_each(|id| id.signal(signal));
        let load = self.load()?;
        let deadline = Instant::now() + MOMENT_LIMIT;
        let reads = loop {
            load.between_writes(deadline.saturating_duration_since(Instant::now()))
                .await?;
            // A moment is over before it is seen, unless visitors and application stand still.
            let held_up = load.hold_up();
            signal(Signal::STOP)?;
            sleep(ON_THE_WAY).await;
            let (reads, writes) = load.in_flight();
            if (writes, load.answering()) == (0, 0) {
                signal(Signal::KILL)?;
                // Until the last of them is dead the kernel takes connections for them.
                wait_until("the end of the application", Duration::from_secs(30), || async {
                    session.iter().all(|id| !id.alive()).then_some(())
                })
                .await?;
                break reads;
            }
            signal(Signal::CONT)?;
            drop(held_up);
            sleep(ON_THE_WAY).await;
        };
        Ok((session.len(), reads))
    }

    /// What has been counted so far, after a moment in which every count becomes current.
    pub async fn counts(&self) -> anyhow::Result<Counts> {
        sleep(REPORTED_WITHIN).await;
        let mut counts = Counts::default();
        for server in self.status(&self.a).await?.servers {
            for tier in server.report.map(|report| report.tiers).unwrap_or_default() {
                match tier.detail {
                    TierDetail::Sql(sql) => {
                        counts
                            .connections
                            .insert(server.name.to_string(), sql.connections_total);
                        if let Some(spread) = sql.spread {
                            counts.at_primary += spread.primary_total;
                            counts.at_replicas += spread.replica_total;
                        }
                    }
                    TierDetail::Edge(edge) => counts.retried += edge.retried_total,
                    TierDetail::Dns(_) => {}
                    TierDetail::Address(_) | TierDetail::Cache(_) => {}
                }
            }
        }
        Ok(counts)
    }

    // ---- Pontoon

    /// Runs `pontoon WORDS` on `server` as its operator would, shows how it goes, and gives what it printed as JSON.
    ///
    /// # Errors
    /// Its refusal, when it ends with another status than 0.
    pub async fn pontoon(&self, server: &Server, words: &[&str]) -> anyhow::Result<Vec<Value>> {
        let line = format!("pontoon {} on {}", words.first().unwrap_or(&""), server.name());
        self.show.detail(&line);
        let mut command = server.command(PROGRAM)?;
        command
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().with_context(|| line.clone())?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (Some(out), Some(mut err)) = (out, err) else {
            bail!("{line}: no pipes")
        };
        let run = async {
            let mut answers = Vec::new();
            let mut lines = BufReader::new(out).lines();
            while let Some(text) = lines.next_line().await? {
                let Ok(value) = serde_json::from_str::<Value>(&text) else {
                    continue;
                };
                if let Ok(progress) = serde_json::from_value::<Progress>(value.clone()) {
                    self.show.progress(&progress);
                }
                answers.push(value);
            }
            anyhow::Ok((answers, child.wait().await?))
        };
        let said = async {
            let mut text = String::new();
            let _ = (&mut err).take(MOST_SAID).read_to_string(&mut text).await;
            text
        };
        let ended = timeout(COMMAND_LIMIT, async { tokio::join!(run, said) }).await;
        let (run, said) =
            ended.with_context(|| format!("`{line}` did not end within {} s", COMMAND_LIMIT.as_secs()))?;
        let (answers, status) = run.with_context(|| line.clone())?;
        if status.success() {
            return Ok(answers);
        }
        let refusal = answers
            .iter()
            .find_map(|answer| serde_json::from_value::<Refusal>(answer.get("refusal")?.clone()).ok());
        match refusal {
            Some(refusal) => bail!("`{line}`: {refusal}; {}", refusal.evidence.join("; ")),
            None => bail!("`{line}` ended with {status}: {}", said.trim()),
        }
    }

    /// Starts the agent of `server` again after it was killed, as a service manager does it (`ExecStart` in
    /// `packaging/systemd/pontoon-agent.service`); a lab has none.
    pub async fn start_agent(&self, server: &Server) -> anyhow::Result<()> {
        self.show
            .detail(&format!("starting the agent on {}", server.name()));
        let agent = Spawn::new(PROGRAM, "pontoon-agent").args(["agent"]);
        server.spawn(agent).await?;
        Ok(())
    }

    /// What `pontoon status` says on `server`.
    pub async fn status(&self, server: &Server) -> anyhow::Result<Status> {
        let output = server
            .command(PROGRAM)?
            .args(["status", "--json"])
            .stdin(Stdio::null())
            .output()
            .await?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "`pontoon status --json` on {}: {}",
                server.name(),
                String::from_utf8_lossy(&output.stderr).trim()
            )
        })
    }

    /// Waits until every server says that the fleet is as it should be.
    pub async fn until_healthy(&self) -> anyhow::Result<()> {
        self.show.detail("waiting until the fleet is healthy");
        let servers: Vec<Server> = [&self.a, &self.b]
            .into_iter()
            .filter(|server| is_member(server))
            .cloned()
            .collect();
        let deadline = Instant::now() + HEALTHY_LIMIT;
        for server in &servers {
            loop {
                let last = match self.status(server).await {
                    Ok(status) if status.problems.is_empty() => break,
                    Ok(status) => {
                        let problems: Vec<String> =
                            status.problems.into_iter().map(|problem| problem.what).collect();
                        problems.join("; ")
                    }
                    Err(error) => format!("{error:#}"),
                };
                if Instant::now() >= deadline {
                    let after = HEALTHY_LIMIT.as_secs();
                    bail!(
                        "the fleet is not healthy again after {after} s, as {} sees it: {last}",
                        server.name()
                    );
                }
                sleep(Duration::from_millis(300)).await;
            }
        }
        Ok(())
    }

    /// The server with the primary database, the other one, and the epoch.
    pub async fn primary(&self) -> anyhow::Result<(Server, Server, Epoch)> {
        let lease = self
            .status(&self.a)
            .await?
            .lease
            .context("nobody has the lease")?;
        let (a, b) = (self.a.clone(), self.b.clone());
        match lease.leader.as_str() == a.name() {
            true => Ok((a, b, lease.epoch)),
            false => Ok((b, a, lease.epoch)),
        }
    }

    /// Loses the primary's server by `lose` and gives it back by `restore` when the other one takes the writes. Ends
    /// when all is healthy again, and says which was lost, which one took over, and after how many seconds each.
    pub async fn while_without_primary<L, R>(
        &mut self,
        visitors_before: u32,
        lose: L,
        restore: R,
    ) -> anyhow::Result<Absence>
    where
        L: AsyncFnOnce(&Server) -> anyhow::Result<()>,
        R: AsyncFnOnce(&Server) -> anyhow::Result<()>,
    {
        let (primary, other, epoch) = self.primary().await?;
        // Addresses do not move yet: visitors of the lost one would see nothing but that.
        self.load()?.set_targets(vec![door(&other)]);
        self.traffic(visitors_before).await?;
        let lost = self.elapsed();
        lose(&primary).await?;
        self.until_primary(&other, epoch).await?;
        let taken = self.elapsed().saturating_sub(lost).as_secs_f64();
        restore(&primary).await?;
        let restored = self.elapsed();
        self.until_healthy().await?;
        let back = self.elapsed().saturating_sub(restored).as_secs_f64();
        self.both_doors()?;
        Ok(Absence {
            lost: primary.name().to_owned(),
            took_over: other.name().to_owned(),
            taken,
            back,
        })
    }

    /// Waits until the database of `server` takes the writes, in an epoch after `epoch`.
    pub async fn until_primary(&self, server: &Server, epoch: Epoch) -> anyhow::Result<()> {
        self.show
            .detail(&format!("waiting until {} takes the writes", server.name()));
        wait_until("another primary", HEALTHY_LIMIT, || async {
            let status = self.status(server).await.ok()?;
            let lease = status.lease.filter(|lease| lease.epoch > epoch)?;
            let row = status.servers.iter().find(|row| row.name == lease.leader)?;
            let database = row.report.as_ref()?.database.as_ref()?;
            (lease.leader.as_str() == server.name() && !database.read_only).then_some(())
        })
        .await?;
        Ok(())
    }

    /// The process of Pontoon on `server` whose pid file has this name.
    pub fn process(&self, server: &Server, name: &str) -> anyhow::Result<ProcessId> {
        let file = server.path(format!("/run/pontoon/{name}.pid"))?;
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("pid file of {name} on {}", server.name()))?;
        let running: Running = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
        let process = i32::try_from(running.pid)
            .ok()
            .and_then(|pid| server.process(pid));
        process.with_context(|| format!("{name} does not run on {}", server.name()))
    }

    /// The Unix socket of the database of `server` itself, past every proxy.
    pub fn database_socket(&self, server: &Server) -> anyhow::Result<std::path::PathBuf> {
        let view =
            std::fs::read(server.path("/var/lib/pontoon/view.json")?).context("the view of the fleet")?;
        let view: FleetView = serde_json::from_slice(&view).context("the view of the fleet")?;
        let socket = view
            .sql
            .and_then(|sql| sql.backend_socket)
            .context("the database has no Unix socket")?;
        Ok(server.path(socket)?)
    }
}

/// What the tiers have counted since they started.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    connections: BTreeMap<String, u64>,
    retried: u64,
    at_primary: u64,
    at_replicas: u64,
}

impl Counts {
    /// How many requests the application of `server` has answered since `before`: each opens one connection to the
    /// database, through the SQL proxy of its server.
    pub fn answered_by(&self, server: &Server, before: &Counts) -> u64 {
        let of = |counts: &Counts| counts.connections.get(server.name()).copied().unwrap_or_default();
        of(self).saturating_sub(of(before))
    }

    /// How many statements the primary and the replicas have answered since `before`, once reads are spread.
    pub fn statements(&self, before: &Counts) -> (u64, u64) {
        (
            self.at_primary.saturating_sub(before.at_primary),
            self.at_replicas.saturating_sub(before.at_replicas),
        )
    }

    /// How many requests the edges have tried on a second server since `before`.
    pub fn retried(&self, before: &Counts) -> u64 {
        self.retried.saturating_sub(before.retried)
    }
}

/// Looks on.
pub struct Onlooker(Arc<OnceLock<Load>>);

impl Onlooker {
    /// What visitors have seen in the phase of this name; nothing before they come.
    pub fn phase(&self, name: &str) -> Option<PhaseSummary> {
        self.0
            .get()?
            .summary()
            .into_iter()
            .rev()
            .find(|phase| phase.name == name)
    }
}

/// Where visitors reach a server.
pub fn door(server: &Server) -> SocketAddr {
    SocketAddr::from((server.public(), 80))
}

/// Whether `server` belongs to the fleet already.
fn is_member(server: &Server) -> bool {
    server
        .path("/var/lib/pontoon/view.json")
        .is_ok_and(|view| view.exists())
}

const COMMAND_LIMIT: Duration = Duration::from_secs(180);
const HEALTHY_LIMIT: Duration = Duration::from_secs(60);
const MOMENT_LIMIT: Duration = Duration::from_secs(20);
/// What an application had sent before it was stopped has reached its visitor by then.
const ON_THE_WAY: Duration = Duration::from_millis(30);
const MOST_SAID: u64 = 64 * 1024;
/// Tiers report to their agent each second, agents to each other each second.
const REPORTED_WITHIN: Duration = Duration::from_millis(2_500);
