//! The assets tier (`pontoon assets`): uploads that every application server has, and a bucket.
//!
//! **In:** the fleet view (which folder, which bucket, which servers); what changes in the folder; what other servers' assets
//! processes have. **Out:** the same files on every server with the role `app` and in the bucket; losers of conflicts and
//! what was deleted, kept in `.pontoon/`; a report a second to the agent.
//!
//! **Must never:** lose a file that an application wrote; overwrite what it has not seen; believe an empty folder; follow a
//! link or leave the folder; depend on a living agent (P5) or on a bucket that answers.
//!
//! What counts is decided in [`pontoon_mirror`], which is pure and simulated. `watch` is what the kernel says, `folder` what
//! is done to files, `journal` what survives a kill, `node` how news become records, `fetch` the tasks that move files, `peers`
//! the other servers, `bucket` the object store, `control` the command line.

mod bucket;
#[cfg(test)]
mod bucket_tests;
pub mod control;
mod deletions;
mod fetch;
mod folder;
#[cfg(test)]
mod folder_tests;
mod journal;
mod keep;
mod node;
#[cfg(test)]
mod node_tests;
mod peers;
mod watch;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pontoon_fleet::{AssetsView, Code, FleetView, Refusal, ServerName, Tier, TierDetail, TierReport};
use pontoon_pki::SharedIdentity;
use pontoon_rt::listen::{self, ListenOptions};
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::view::ViewClient;
use tokio::net::TcpListener;

use fetch::Tools;
use folder::Folder;
use journal::Journal;
use node::Node;
use peers::Peers;
use watch::Watcher;

/// How long what was overwritten or deleted stays in the trash, here and in the bucket, and a tombstone at least.
pub const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

/// Everything is looked at again this often: what a watcher cannot see (a shared mount, a file mapped into memory).
const SWEEP: Duration = Duration::from_secs(6 * 3600);

/// Tasks of each kind.
const LOOKERS: usize = 3;
const FETCHERS: usize = 6;
const UPLOADERS: usize = 4;

/// What the process is told on its command line.
#[derive(Clone, Debug)]
pub struct AssetsOptions {
    /// The server it runs on.
    pub server: ServerName,
    /// Where the view, the identity and the journal lie.
    pub paths: Paths,
}

/// Why the process could not run.
#[derive(Debug, thiserror::Error)]
pub enum AssetsError {
    /// The operating system refused what it cannot do without.
    #[error("{what}: {source}")]
    System {
        /// What was wanted.
        what: String,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// The journal, the identity or another thing of its own cannot be used.
    #[error("{0}")]
    Unusable(String),
}

impl From<AssetsError> for Refusal {
    fn from(error: AssetsError) -> Refusal {
        Refusal::new(Code::U002, "uploads cannot be looked after").because(error.to_string())
    }
}

/// Runs the assets tier until SIGTERM or SIGINT.
///
/// # Errors
/// [`AssetsError`]; whoever supervises it starts it again.
pub fn run(options: AssetsOptions) -> Result<(), AssetsError> {
    let shutdown = Shutdown::from_signals().map_err(system("signal handlers"))?;
    run_until(options, shutdown)
}

/// As [`run`], until `shutdown` asks.
///
/// # Errors
/// As [`run`].
pub fn run_until(options: AssetsOptions, shutdown: Shutdown) -> Result<(), AssetsError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("assets")
        .enable_all()
        .build()
        .map_err(system("the asynchronous runtime"))?;
    runtime.block_on(async {
        let client = ViewClient::start(&options.paths, Tier::Assets, shutdown.clone());
        while !shutdown.is_requested() {
            let view = client.current();
            match view.as_ref().and_then(|view| view.assets.clone()) {
                Some(settings) => session(&options, &client, settings, &shutdown).await?,
                None => {
                    let mut views = client.subscribe();
                    tokio::select! {
                        _ = views.changed() => {}
                        () = shutdown.requested() => {}
                    }
                }
            }
        }
        Ok(())
    })
}

/// Looks after one folder, until the end or until the configuration says otherwise.
async fn session(
    options: &AssetsOptions,
    client: &ViewClient,
    settings: AssetsView,
    shutdown: &Shutdown,
) -> Result<(), AssetsError> {
    let ended = Shutdown::new();
    let node = Arc::new(open(options, &settings)?);
    let identity = SharedIdentity::load(&options.paths.identity_dir())
        .map_err(|error| AssetsError::Unusable(error.to_string()))?;
    let tools = Tools::new(
        Arc::clone(&node),
        Peers::new(identity.clone()),
        client.subscribe(),
        settings.clone(),
        ended.clone(),
    );
    let sweep = Arc::new(AtomicBool::new(false));
    let watcher = start_watcher(&node, &ended, &sweep)?;
    let mut tasks = tokio::task::JoinSet::new();
    let socket_paths = options.paths.clone();
    let control = tools.clone();
    tasks.spawn(async move { control::serve(control, &socket_paths).await });
    tasks.spawn(keep::judge(tools.clone()));
    tasks.spawn(keep::purge(tools.clone(), KEEP));
    (0..LOOKERS).for_each(|_| drop(tasks.spawn(fetch::look(tools.clone()))));
    (0..FETCHERS).for_each(|_| drop(tasks.spawn(fetch::fetch(tools.clone()))));
    (0..UPLOADERS).for_each(|_| drop(tasks.spawn(fetch::upload(tools.clone()))));

    let mut views = client.subscribe();
    views.mark_changed();
    let (mut followed, mut listening) = (BTreeSet::new(), false);
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    let mut swept = tokio::time::Instant::now();
    loop {
        tokio::select! {
            changed = views.changed() => if changed.is_err() { break },
            _ = every_second.tick() => {}
            () = shutdown.requested() => break,
        }
        let Some(view) = views.borrow_and_update().clone() else {
            continue;
        };
        if view.assets.as_ref() != Some(&settings) {
            tracing::info!("the configuration of uploads changed: beginning anew");
            break;
        }
        for server in peers::others(&view, &options.server) {
            if followed.insert(server.name.clone()) {
                tasks.spawn(fetch::follow(tools.clone(), server.name));
            }
        }
        if !listening {
            listening = listen_for_others(&tools, &view, &identity, client, &mut tasks);
        }
        if swept.elapsed() >= SWEEP {
            swept = tokio::time::Instant::now();
            sweep.store(true, Ordering::Relaxed);
        }
        report(&node, client, view.serial);
    }
    ended.trigger();
    while tasks.join_next().await.is_some() {}
    let _ = tokio::task::spawn_blocking(move || watcher.join()).await;
    Ok(())
}

fn open(options: &AssetsOptions, settings: &AssetsView) -> Result<Node, AssetsError> {
    let dir = options.paths.assets_dir();
    pontoon_rt::files::create_dir(&dir, 0o700).map_err(|error| AssetsError::Unusable(error.to_string()))?;
    let unusable = |error: journal::JournalError| AssetsError::Unusable(error.to_string());
    // One journal for each folder: another folder is another set of files, and none of them was deleted.
    let name = settings.local.to_string_lossy().replace('/', "_");
    let journal = Journal::open(&dir.join(format!("{name}.redb"))).map_err(unusable)?;
    let folder = Folder::open(&settings.local).map_err(|source| AssetsError::System {
        what: format!("the folder {}", settings.local.display()),
        source,
    })?;
    let node = Node::open(options.server.clone(), folder, journal).map_err(unusable)?;
    if node.is_here() {
        let moment = format!("{}-interrupted", node::now_ms());
        match node.folder.tidy(&moment) {
            Ok(0) => {}
            Ok(kept) => tracing::info!(
                kept,
                moment,
                "what a killed process was exchanging is in the trash"
            ),
            Err(error) => tracing::warn!(%error, "what a killed process left was not put away"),
        }
    }
    Ok(node)
}

fn start_watcher(
    node: &Arc<Node>,
    ended: &Shutdown,
    sweep: &Arc<AtomicBool>,
) -> Result<std::thread::JoinHandle<()>, AssetsError> {
    let (to, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let watcher = Watcher::new(&node.folder, to).map_err(system("inotify"))?;
    let (end, again) = (ended.clone(), Arc::clone(sweep));
    let thread = std::thread::Builder::new()
        .name("watcher".to_owned())
        .spawn(move || watcher.run(|| end.is_requested(), || again.swap(false, Ordering::Relaxed)))
        .map_err(system("a thread"))?;
    let node = Arc::clone(node);
    tokio::task::spawn_blocking(move || {
        while let Some(what) = seen.blocking_recv() {
            if let Err(error) = node.seen(what) {
                node.trouble("journal", Some(error.to_string()));
            }
        }
    });
    Ok(thread)
}

/// Whether the other servers are answered from now on; if not, it is tried again.
fn listen_for_others(
    tools: &Tools,
    view: &FleetView,
    identity: &SharedIdentity,
    client: &ViewClient,
    tasks: &mut tokio::task::JoinSet<()>,
) -> bool {
    let Some(me) = view.server(&tools.node.me).filter(|me| me.ports.assets != 0) else {
        return false;
    };
    let at = me.assets();
    match listen::tcp(at, ListenOptions::default()).and_then(TcpListener::from_std) {
        Ok(listener) => {
            tools.node.trouble("listening", None);
            tasks.spawn(peers::serve(
                Arc::clone(&tools.node),
                listener,
                identity.clone(),
                client.subscribe(),
                tools.shutdown.clone(),
            ));
            true
        }
        Err(error) => {
            let text = format!("other servers are not answered: {at} cannot be bound: {error}");
            tools.node.trouble("listening", Some(text));
            false
        }
    }
}

fn report(node: &Node, client: &ViewClient, view_serial: u64) {
    match node.report() {
        Ok(report) => client.report(TierReport {
            pid: std::process::id(),
            view_serial,
            detail: TierDetail::Assets(report),
        }),
        Err(error) => tracing::error!(%error, "nothing was reported"),
    }
}

fn system(what: &str) -> impl FnOnce(io::Error) -> AssetsError {
    let what = what.to_owned();
    move |source| AssetsError::System { what, source }
}
