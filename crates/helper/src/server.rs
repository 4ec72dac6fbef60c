//! The helper's side of the socket: who may call, one verb at a time.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pontoon_fleet::{Code, Refusal};
use pontoon_gtid::History;
use pontoon_rt::files;
use pontoon_rt::listen;
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;

use crate::load::{self, Load};
use crate::node::{DatabaseNode, Node};
use crate::protocol::{DatabaseState, Reply, Request};
use crate::{
    alone, backup, binlogs, cut, dirs, dump, empty, find, hang_up, programs, recovery, restore, settings,
    unit,
};

/// How long a verb waits for the one before it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `pontoon helper` is started with.
#[derive(Clone, Debug)]
pub struct HelperOptions {
    /// Where everything lies.
    pub paths: Paths,
}

/// Runs the helper until SIGTERM. Blocking; builds its own runtime.
///
/// # Errors
/// When it cannot listen ([`Code::N004`]) or run at all.
pub fn run(options: HelperOptions) -> Result<(), Refusal> {
    let failed =
        |error: std::io::Error| Refusal::new(Code::N007, "the helper cannot run").because(error.to_string());
    let shutdown = Shutdown::from_signals().map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(serve(options.paths, shutdown))
}

/// Serves the socket until `shutdown`. The database goes on when this ends, also when it ends by SIGKILL.
///
/// # Errors
/// [`Code::N004`] when the socket cannot be bound.
pub async fn serve(paths: Paths, shutdown: Shutdown) -> Result<(), Refusal> {
    files::create_dir(&paths.run_dir, 0o755)?;
    let socket = paths.helper_socket();
    let unbound = |error: std::io::Error| {
        Refusal::new(Code::N004, format!("cannot listen on {}", socket.display())).because(error.to_string())
    };
    let listener = listen::unix(&socket, 0o600).map_err(unbound)?;
    let listener = UnixListener::from_std(listener).map_err(unbound)?;
    let allowed = Allowed::of(&paths);
    if let (true, Some(owner)) = (rustix::process::geteuid().is_root(), allowed.owner) {
        std::os::unix::fs::lchown(&socket, Some(owner), None).map_err(unbound)?;
    }
    let helper = Arc::new(Helper {
        paths,
        busy: Mutex::new(()),
        copying: Mutex::new(()),
        binlogs: binlogs::Base::default(),
        kills: AtomicU64::new(0),
        killing: AtomicU64::new(0),
    });
    loop {
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if allowed.may(peer.uid()) => {
                        tokio::spawn(helper.clone().answer(stream));
                    }
                    peer => tracing::warn!(?peer, "refused a caller: neither root nor the pontoon user"),
                },
                Err(error) => {
                    // Out of file descriptors, most likely: try again when some are back.
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

/// Who may call: root, this process's own user, and whoever owns the state directory (the pontoon user).
struct Allowed {
    uids: Vec<u32>,
    owner: Option<u32>,
}

impl Allowed {
    fn of(paths: &Paths) -> Allowed {
        let owner = std::fs::metadata(&paths.state_dir)
            .ok()
            .map(|directory| directory.uid());
        let mut uids = vec![0, rustix::process::geteuid().as_raw()];
        uids.extend(owner);
        Allowed { uids, owner }
    }

    fn may(&self, uid: u32) -> bool {
        self.uids.contains(&uid)
    }
}

struct Helper {
    paths: Paths,
    busy: Mutex<()>,
    copying: Mutex<()>,
    binlogs: binlogs::Base,
    /// Counts the kills: a verb that was asked before one does nothing after it.
    kills: AtomicU64,
    /// How many are under way: what is asked meanwhile starts nothing either.
    killing: AtomicU64,
}

impl Helper {
    async fn answer(self: Arc<Helper>, stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        let read =
            tokio::time::timeout(PATIENCE, (&mut stream).take(1 << 20).read_until(b'\n', &mut line)).await;
        if !matches!(read, Ok(Ok(count)) if count > 0) {
            return;
        }
        let request = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => request,
            Err(error) => {
                let refusal =
                    Refusal::new(Code::N003, "the helper does not know this verb").because(error.to_string());
                return drop(say(&mut stream, &Reply::Refused { refusal }).await);
            }
        };
        tracing::info!(?request, "asked");
        let outcome = self.perform(&request, &mut stream).await;
        let reply = match outcome {
            Ok(Some(reply)) => reply,
            Ok(None) => return,
            Err(refusal) => {
                tracing::warn!(%refusal, "refused");
                Reply::Refused { refusal }
            }
        };
        if let Err(error) = say(&mut stream, &reply).await {
            tracing::debug!(%error, "the caller is gone");
        }
    }

    /// Does what was asked. `None`: the answer has been given already.
    async fn perform(
        &self,
        request: &Request,
        stream: &mut BufReader<UnixStream>,
    ) -> Result<Option<Reply>, Refusal> {
        let paths = &self.paths;
        if *request == Request::State {
            return Ok(Some(Reply::State(state(&self.node()?).await?)));
        }
        // Looks only: in nobody's way.
        if *request == Request::Binlogs {
            let files = binlogs::list(&self.node()?, &self.binlogs).await?;
            return Ok(Some(Reply::Binlogs { files }));
        }
        if let Request::ReadBinlog { file, from, most } = request {
            let opened = binlogs::open(&self.node()?, &self.binlogs, file).await?;
            if say(stream, &Reply::Done).await.is_ok()
                && let Err(error) = binlogs::send(opened, *from, *most, stream).await
            {
                tracing::debug!(%error, "the reader of a binary log is gone");
            }
            return Ok(None);
        }
        if let Request::Alone {
            keep,
            only,
            leader,
            export,
        } = request
        {
            let node = self.node()?;
            let sought = alone::Sought {
                keep: history(&node, keep)?,
                only: only.as_ref().map(|only| history(&node, only)).transpose()?,
            };
            let base = self.binlogs.of(&node).await?;
            let alone = alone::alone(&node, &base, sought, leader, *export).await?;
            return Ok(Some(Reply::Alone { alone }));
        }
        if let Request::TierUnit { tier, start } = request {
            // Not about the database: an edge alone has none, and nothing has to wait.
            unit::control_tier(*tier, *start).await?;
            return Ok(Some(Reply::Done));
        }
        if *request == Request::Lacks {
            let lacks = programs::lacks(&self.node()?);
            return Ok(Some(Reply::Lacks { lacks }));
        }
        if *request == Request::Kill {
            // Before it waits for nobody; after it, what was asked meanwhile by a caller who is gone.
            self.kills.fetch_add(1, Ordering::Relaxed);
            self.killing.fetch_add(1, Ordering::Relaxed);
            let killed = self.kill().await;
            self.kills.fetch_add(1, Ordering::Relaxed);
            self.killing.fetch_sub(1, Ordering::Relaxed);
            killed?;
            self.kill().await?;
            return Ok(Some(Reply::Done));
        }
        if let Request::HangUp { address, port } = request {
            if let Some(pid) = find::server_in(&self.node()?.datadir) {
                let ended = hang_up::hang_up(pid, *address, *port)?;
                tracing::info!(pid, ended, "connections ended");
            }
            return Ok(Some(Reply::Done));
        }
        let asked = self.kills.load(Ordering::Relaxed);
        let called_off =
            || self.kills.load(Ordering::Relaxed) != asked || self.killing.load(Ordering::Relaxed) > 0;
        // A copy that goes out is in nobody's way but another copy's: the database must be stoppable meanwhile.
        let lock = if matches!(
            request,
            Request::Backup(_) | Request::Dump(_) | Request::MakeCloning { .. }
        ) {
            &self.copying
        } else {
            &self.busy
        };
        let Ok(_alone) = tokio::time::timeout(PATIENCE, lock.lock()).await else {
            return Err(Refusal::new(Code::N003, "the helper is busy with another verb")
                .because("a copy runs, or the database takes long to stop or start"));
        };
        if called_off() {
            return Err(Refusal::new(
                Code::N003,
                "the database was killed before it was this verb's turn",
            ));
        }
        // Read under the lock: the verb before may have changed it.
        let node = self.node()?;
        let reply = match request {
            Request::State => Reply::State(state(&node).await?),
            Request::Binlogs | Request::ReadBinlog { .. } | Request::Alone { .. } => Reply::Done,
            Request::MakeCloning { expected_bytes } => {
                let user = unit::User::of(&node)?;
                Reply::Place {
                    path: dirs::make_cloning(&node, (user.uid, user.gid), *expected_bytes)?,
                }
            }
            Request::Kill | Request::HangUp { .. } | Request::Lacks => Reply::Done,
            Request::CutBinlog { keep, leader } => {
                let keep = history(&node, keep)?;
                let Some(base) = unit::binlog_base(&node).await? else {
                    return Err(
                        Refusal::new(Code::D011, "nobody knows where the binary log is").because(
                            "the database's own configuration has one, and the server does not say where",
                        ),
                    );
                };
                let leader = leader.clone();
                let cutting = tokio::task::spawn_blocking(move || cut::cut(&node, &base, &keep, &leader));
                let cut = cutting
                    .await
                    .map_err(|error| Refusal::new(Code::N007, error.to_string()))??;
                Reply::Cut { cut }
            }
            Request::CheckRecovery => {
                recovery::check(&node).await?;
                Reply::Done
            }
            Request::Start => {
                unit::start(paths, &node, &called_off).await?;
                Reply::Done
            }
            Request::Stop { patience_ms, kill } => {
                unit::stop(paths, &node, Duration::from_millis(*patience_ms), *kill).await?;
                Reply::Done
            }
            Request::Restart { pid, patience_ms } => {
                if find::server_in(&node.datadir) != Some(*pid) {
                    return Err(Refusal::new(
                        Code::N003,
                        "the database to be restarted does not run any more",
                    )
                    .because(format!(
                        "process {pid} is not the server of {}",
                        node.datadir.display()
                    )));
                }
                unit::stop(paths, &node, Duration::from_millis(*patience_ms), false).await?;
                if called_off() {
                    return Err(unit::was_called_off());
                }
                unit::start(paths, &node, &called_off).await?;
                Reply::Done
            }
            Request::WriteSettings(wanted) => {
                settings::write(paths, &node, wanted)?;
                Reply::Done
            }
            Request::RemoveSettings => Reply::Moved {
                moved: settings::remove(&node)?,
            },
            Request::RefreshTls => {
                settings::refresh_tls(paths, &node)?;
                Reply::Done
            }
            Request::Backup(options) => {
                let backup = backup::start(&node, options)?;
                if say(stream, &Reply::Done).await.is_err() {
                    return Ok(None);
                }
                if let Err(error) = backup.send(stream).await {
                    tracing::warn!(%error, "the receiver of a copy is gone; the backup was ended");
                }
                return Ok(None);
            }
            Request::Dump(options) => {
                let dump = dump::start(&node, options)?;
                if say(stream, &Reply::Done).await.is_err() {
                    return Ok(None);
                }
                if let Err(error) = dump.send(stream).await {
                    tracing::warn!(%error, "the receiver of a dump is gone; it was ended");
                }
                return Ok(None);
            }
            Request::Load {
                expected_bytes,
                settings,
            } => {
                if let Some(lacks) = programs::lacks(&node).load {
                    return Err(
                        Refusal::new(Code::D007, "a dump cannot be loaded on this machine").because(lacks),
                    );
                }
                let user = unit::User::of(&node)?;
                load::end_leftover(&node).await?;
                let data = dirs::make_incoming(&node, (user.uid, user.gid), *expected_bytes)?;
                let load = Load::begin(&node, &data, settings).await?;
                say(stream, &Reply::Done).await.map_err(|error| {
                    Refusal::new(Code::D003, "the caller is gone").because(error.to_string())
                })?;
                Reply::Ready {
                    position: load.receive(stream).await?,
                }
            }
            Request::Restore { expected_bytes } => {
                restore::check_tools().await?;
                let user = unit::User::of(&node)?;
                load::end_leftover(&node).await?;
                let data = dirs::make_incoming(&node, (user.uid, user.gid), *expected_bytes)?;
                say(stream, &Reply::Done).await.map_err(|error| {
                    Refusal::new(Code::D003, "the caller is gone").because(error.to_string())
                })?;
                Reply::Ready {
                    position: restore::receive(&node, &data, stream).await?,
                }
            }
            Request::MakeIncoming { expected_bytes } => {
                let user = unit::User::of(&node)?;
                load::end_leftover(&node).await?;
                Reply::Place {
                    path: dirs::make_incoming(&node, (user.uid, user.gid), *expected_bytes)?,
                }
            }
            Request::SealIncoming { position } => {
                dirs::seal(&node, position)?;
                Reply::Ready {
                    position: position.clone(),
                }
            }
            Request::MakeEmpty { settings } => Reply::Moved {
                moved: empty::make(&node, settings).await?,
            },
            Request::ActivateIncoming => Reply::Moved {
                moved: dirs::activate(&node)?,
            },
            Request::TierUnit { tier, start } => {
                unit::control_tier(*tier, *start).await?;
                Reply::Done
            }
            Request::DiscardIncoming => {
                load::end_leftover(&node).await?;
                dirs::discard(&node)?;
                Reply::Done
            }
        };
        Ok(Some(reply))
    }

    async fn kill(&self) -> Result<(), Refusal> {
        // Verbs that run at this moment look at the count before they start anything.
        tokio::task::yield_now().await;
        unit::kill(&self.paths, &self.node()?).await
    }

    fn node(&self) -> Result<DatabaseNode, Refusal> {
        let file = self.paths.node_file();
        Node::load(&file)?.database.ok_or_else(|| {
            Refusal::new(Code::D009, "this machine has no database that Pontoon knows of")
                .because(format!("{} has no [database]", file.display()))
        })
    }
}

fn history(node: &DatabaseNode, text: &str) -> Result<History, Refusal> {
    History::parse(cut::dialect(node), text).map_err(|error| {
        Refusal::new(Code::N005, "that is not a list of transactions").because(error.to_string())
    })
}

async fn state(node: &DatabaseNode) -> Result<DatabaseState, Refusal> {
    Ok(DatabaseState {
        pid: find::server_in(&node.datadir),
        starting: unit::is_starting(node).await,
        settings_written: node.settings_file().exists(),
        datadir_exists: node.datadir.is_dir(),
        incoming: dirs::read_mark(node)?,
    })
}

async fn say(stream: &mut BufReader<UnixStream>, reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.write_all(&line).await
}
