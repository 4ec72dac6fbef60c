//! The address tier (`pontoon address`): public addresses move from a server that died to one that lives.
//!
//! **In:** the fleet view (who is in the fleet, which addresses are whose); signed heartbeats of the other servers'
//! address tiers; answers of the gateway and of edges. **Out:** addresses in this server's kernel, each under a lease
//! that the kernel ends by itself; announcements on the local network; a report a second to the agent.
//!
//! **Must never:** hold an address beside another server for longer than the lease
//! ([`Timing::longest_overlap`](pontoon_decide::address::Timing::longest_overlap)); believe a heartbeat that is not
//! signed with the fleet's key; depend on a living agent (P5); touch an address that is no edge's public address.
//!
//! What follows from what is decided in [`pontoon_decide::address`], which is pure and simulated. `driver` is the thread
//! around it, `rehearsal` a takeover on request, `wire` the heartbeats, `kernel` what is done with addresses, `health` whether edges serve. What can fail,
//! and the test of each, stands in `FAILURES.md`.

mod driver;
mod health;
mod kernel;
mod plan;
pub mod rehearsal;
mod wire;

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pontoon_fleet::{Code, Refusal, ServerName, Tier, TierDetail, TierReport};
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::view::ViewClient;

use driver::{Driver, Order};
use plan::Plan;

/// What the process is told on its command line.
#[derive(Clone, Debug)]
pub struct AddressOptions {
    /// The server it runs on.
    pub server: ServerName,
    /// Where the view and the key lie.
    pub paths: Paths,
}

/// Why the process could not run.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The operating system refused what it cannot do without.
    #[error("{what}: {source}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// The thread that holds the addresses ended.
    #[error("the thread that holds the addresses ended")]
    Ended,
}

impl From<AddressError> for Refusal {
    fn from(error: AddressError) -> Refusal {
        let refusal = Refusal::new(Code::N007, "the address tier cannot run").because(error.to_string());
        match &error {
            AddressError::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                refusal.because("it needs CAP_NET_ADMIN and CAP_NET_RAW")
            }
            _ => refusal,
        }
    }
}

/// Runs the address tier until SIGTERM or SIGINT. What it holds stays in the kernel until the lease ends, so that a
/// restart moves nothing; addresses that are not to move any more are given to their home for good.
///
/// # Errors
/// [`AddressError`].
pub fn run(options: AddressOptions) -> Result<(), AddressError> {
    let shutdown = Shutdown::from_signals().map_err(system("signal handlers"))?;
    run_until(options, shutdown)
}

/// As [`run`], until `shutdown` asks.
///
/// # Errors
/// [`AddressError`].
pub fn run_until(options: AddressOptions, shutdown: Shutdown) -> Result<(), AddressError> {
    let driver = Driver::new(&options)?;
    let (orders, inbox) = mpsc::channel();
    let (reports_in, mut reports) = tokio::sync::mpsc::unbounded_channel();
    let thread = thread::Builder::new()
        .name("addresses".to_owned())
        .spawn(move || driver.run(&inbox, &reports_in))
        .map_err(system("a thread"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("the asynchronous runtime"))?;
    let result = runtime.block_on(async {
        let to_driver = orders.clone();
        let give = move |request| {
            let _ = to_driver.send(Order::Rehearse(request));
        };
        tokio::spawn(rehearsal::serve(
            options.paths.address_socket(),
            give,
            shutdown.clone(),
        ));
        let client = ViewClient::start(&options.paths, Tier::Address, shutdown.clone());
        let mut views = client.subscribe();
        views.mark_changed();
        let mut views_end = false;
        let mut key_seen = None;
        // The key may come later than the view: it travels with the agents' heartbeats.
        let mut again = tokio::time::interval(Duration::from_millis(500));
        let mut serial = 0;
        loop {
            tokio::select! {
                changed = views.changed(), if !views_end => {
                    views_end = changed.is_err();
                    if let Some(view) = views.borrow_and_update().clone() {
                        serial = view.serial;
                        let _ = orders.send(Order::Follow(Box::new(Plan::of_view(&view, &options.server))));
                    }
                }
                _ = again.tick() => {
                    let key = wire::Key::load(&options.paths.address_key_file());
                    if let Some(key) = key.filter(|key| key_seen.as_ref() != Some(key)) {
                        key_seen = Some(key.clone());
                        let _ = orders.send(Order::Key(key));
                    }
                }
                report = reports.recv() => {
                    let Some(report) = report else { return Err(AddressError::Ended) };
                    client.report(TierReport {
                        pid: std::process::id(),
                        view_serial: serial,
                        detail: TierDetail::Address(report),
                    });
                }
                () = shutdown.requested() => return Ok(()),
            }
        }
    });
    if options.paths.addresses_stay_file().exists() {
        let _ = orders.send(Order::LetGo);
    }
    // With it ends whoever else could give orders.
    drop(runtime);
    drop(orders);
    if thread.join().is_err() {
        return Err(AddressError::Ended);
    }
    result
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> AddressError {
    move |source| AddressError::System { what, source }
}
