//! The control thread: follows the view, watches the zone file, binds addresses, reports to the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pontoon_fleet::{
    DnsReport, DnssecView, FleetView, Role, ServerName, SignedReport, Tier, TierDetail, TierReport,
    TransferView, UnixMillis,
};
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::threads;
use pontoon_rt::view::ViewClient;
use pontoon_telemetry::metrics::{self, DnsMetrics, Registry};
use pontoon_zone::{CookieSecret, RateLimiter, Settings, Signatures, Signer, Snapshot, Zone};
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use crate::file::ZoneFile;
use crate::notify::Deaf;
use crate::shared::{self, Shared, Transfer};
use crate::signing::ZoneKey;
use crate::tcp::{self, Guests};
use crate::tsig::Keys;
use crate::{content, notify, udp};

/// What the name server is started with.
#[derive(Clone, Debug)]
pub struct DnsOptions {
    /// This server's name in the view.
    pub server: ServerName,
    /// Where everything lies.
    pub paths: Paths,
    /// Threads for each listening address; 0 means one a core.
    pub threads: usize,
    /// Responses of a kind to one network in a second, over UDP; 0 means as many as are asked for.
    pub responses_per_second: u32,
}

/// Responses of a kind to one network in a second.
const RESPONSES_PER_SECOND: u32 = 200;

/// Of the responses beyond, every second one says "ask over TCP".
const SLIP: u32 = 2;

impl DnsOptions {
    /// With the usual limits.
    pub fn new(server: ServerName, paths: Paths) -> DnsOptions {
        DnsOptions {
            server,
            paths,
            threads: 0,
            responses_per_second: RESPONSES_PER_SECOND,
        }
    }
}

/// What the name server cannot do without.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct DnsError {
    what: &'static str,
    source: io::Error,
}

/// Runs the name server until SIGTERM or SIGINT.
///
/// # Errors
/// When the operating system refuses what it cannot do without. An address that cannot be bound is not an error: it
/// is reported, and tried again each second.
pub fn run(options: DnsOptions) -> Result<(), DnsError> {
    let shutdown = Shutdown::from_signals().map_err(system("signal handlers"))?;
    run_until(options, shutdown)
}

/// As [`run`], until `shutdown` asks.
///
/// # Errors
/// As [`run`].
pub fn run_until(options: DnsOptions, shutdown: Shutdown) -> Result<(), DnsError> {
    let mut registry = Registry::new(&options.server, "dns", env!("CARGO_PKG_VERSION"));
    let metrics = DnsMetrics::register(&mut registry);
    let settings = Settings {
        nsid: options.server.as_str().as_bytes().to_vec(),
        cookies: Some(CookieSecret(secret().map_err(system("random numbers"))?)),
    };
    let limiter = RateLimiter::new(options.responses_per_second, SLIP);
    let connections = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("dns-tcp")
        .enable_all()
        .build()
        .map_err(system("the runtime for connections"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("the control thread's runtime"))?;
    let mut control = Control {
        server: options.server.clone(),
        threads: threads::count(options.threads),
        shared: Arc::new(Shared::new(settings, limiter, metrics)),
        connections,
        guests: Arc::default(),
        file: ZoneFile::default(),
        served: None,
        signing: Signing {
            key_file: options.paths.dnssec_key_file(),
            ..Signing::default()
        },
        unfit: None,
        transfer: Transfer::default(),
        notify: Vec::new(),
        transfer_trouble: None,
        telling: Vec::new(),
        deaf: Deaf::default(),
        listening: BTreeMap::new(),
        not_listening: BTreeMap::new(),
        view: None,
    };
    runtime.block_on(control.run(&options, registry, shutdown));
    for (_, doors) in std::mem::take(&mut control.listening) {
        doors.close();
    }
    control.connections.shutdown_background();
    Ok(())
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> DnsError {
    move |source| DnsError { what, source }
}

fn secret() -> io::Result<[u8; 16]> {
    use std::io::Read as _;
    let mut secret = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
    Ok(secret)
}

/// What listens at one address.
struct Doors {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    connections: AbortHandle,
}

impl Doors {
    fn close(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.connections.abort();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a serving thread panicked");
            }
        }
    }
}

struct Control {
    server: ServerName,
    threads: usize,
    shared: Arc<Shared>,
    connections: Runtime,
    guests: Arc<Guests>,
    file: ZoneFile,
    served: Option<Arc<Zone>>,
    signing: Signing,
    /// Why file and view make no zone.
    unfit: Option<String>,
    /// What other name servers may fetch; the serving threads have a copy.
    transfer: Transfer,
    /// Who is told of changes.
    notify: Vec<SocketAddr>,
    /// Why nobody can fetch the zone.
    transfer_trouble: Option<String>,
    /// Those who are being told of the last change.
    telling: Vec<AbortHandle>,
    deaf: Deaf,
    listening: BTreeMap<SocketAddr, Doors>,
    not_listening: BTreeMap<SocketAddr, String>,
    view: Option<Arc<FleetView>>,
}

/// How the zone is signed.
#[derive(Default)]
struct Signing {
    key_file: PathBuf,
    wanted: Option<DnssecView>,
    key: Option<ZoneKey>,
    signer: Option<Arc<Signer>>,
    signatures: Signatures,
    /// The hour of Unix time for which it was signed.
    hour: u64,
    /// Why the key is not what it should be.
    trouble: Option<String>,
}

impl Signing {
    /// Follows what is wanted, the file of the key, and the clock; says whether everything is to be signed anew. A key
    /// that was there once goes on being used: to be unsigned all of a sudden, or to be silent, would be the same to those
    /// who check.
    fn follow(&mut self, wanted: Option<DnssecView>) -> bool {
        let hour = u64::from(shared::now()) / 3600;
        let known = (self.wanted, self.key.clone(), self.hour);
        self.trouble = None;
        if wanted.is_some() {
            match ZoneKey::load(&self.key_file) {
                Ok(Some(key)) => self.key = Some(key),
                Ok(None) => self.trouble = Some("the key of the fleet has not come yet".to_owned()),
                Err(reason) => self.trouble = Some(reason),
            }
        }
        (self.wanted, self.hour) = (wanted, hour);
        if known.0 != self.wanted || known.1 != self.key {
            self.signer = wanted.zip(self.key.as_ref()).map(|(wanted, key)| {
                let signer = Signer::new(&key.seed, u64::from(wanted.lifetime_seconds));
                tracing::info!(key = signer.tag(), "the zone is signed");
                Arc::new(signer)
            });
            return true;
        }
        self.signer.is_some() && known.2 != hour
    }

    fn snapshot(&mut self, zone: &Zone) -> Snapshot {
        let zones = std::slice::from_ref(zone);
        match &self.signer {
            Some(signer) => Snapshot::signed(zones, signer, &mut self.signatures, u64::from(shared::now())),
            None => Snapshot::new(zones),
        }
    }

    fn report(&self) -> Option<SignedReport> {
        let signer = self.signer.as_ref()?;
        Some(SignedReport {
            key_tag: signer.tag(),
            until: UnixMillis(self.signatures.until()? * 1000),
        })
    }
}

impl Control {
    async fn run(&mut self, options: &DnsOptions, registry: Registry, shutdown: Shutdown) {
        let client = ViewClient::start(&options.paths, Tier::Dns, shutdown.clone());
        let mut views = client.subscribe();
        views.mark_changed();
        metrics::serve(
            &options.paths.run_dir.join("dns.sock"),
            registry,
            shutdown.clone(),
        );
        let mut every_second = tokio::time::interval(Duration::from_secs(1));
        let mut views_end = false;
        loop {
            tokio::select! {
                changed = views.changed(), if !views_end => {
                    views_end = changed.is_err();
                    let view = views.borrow_and_update().clone();
                    if let Some(view) = view {
                        self.view = Some(view);
                        self.refresh();
                        client.report(self.report());
                    }
                }
                _ = every_second.tick() => {
                    self.refresh();
                    client.report(self.report());
                }
                () = shutdown.requested() => return,
            }
        }
    }

    /// Serves what follows from the view and the file as they are now.
    fn refresh(&mut self) {
        let Some(view) = self.view.clone() else { return };
        if let Some(dns) = &view.dns {
            self.follow_transfer(dns.transfer.as_ref());
            if self.signing.follow(dns.dnssec)
                && let Some(zone) = &self.served
            {
                // Whatever becomes of the file: signatures of what is served must not end.
                self.shared.publish(self.signing.snapshot(zone));
            }
            self.file.look(dns.file.as_deref(), &dns.zone);
            let base = self.file.zone.as_ref();
            if dns.file.is_none() || base.is_some() {
                match content::zone(&view, dns, base) {
                    Ok(zone) => {
                        self.unfit = None;
                        self.serve(zone);
                    }
                    Err(reason) => self.unfit = Some(reason),
                }
            }
            let unchanged = self
                .served
                .as_ref()
                .is_none_or(|zone| zone.apex().to_string() == dns.zone);
            if !unchanged {
                // Another zone is wanted and cannot be made: what is served is not ours any more.
                self.served = None;
                self.shared.publish(Snapshot::default());
                self.transfer.history.clear();
                self.shared.set_transfer(self.transfer.clone());
            }
        }
        self.bind_wanted(&view);
    }

    fn serve(&mut self, zone: Zone) {
        if self.served.as_deref() == Some(&zone) {
            return;
        }
        self.shared.publish(self.signing.snapshot(&zone));
        tracing::info!(zone = %zone.apex(), serial = zone.serial(), "serving");
        let zone = Arc::new(zone);
        self.transfer.history.push(Arc::clone(&zone));
        self.shared.set_transfer(self.transfer.clone());
        self.served = Some(zone);
        self.tell_others();
    }

    /// Reads the keys of other name servers; a file that is wrong has none.
    fn follow_transfer(&mut self, wanted: Option<&TransferView>) {
        let loaded = wanted.map_or_else(|| Ok(Keys::default()), |wanted| Keys::load(&wanted.key_file));
        let trouble = loaded.as_ref().err().cloned();
        if let Some(reason) = trouble.as_ref().filter(|_| trouble != self.transfer_trouble) {
            tracing::warn!(reason, "no other name server can fetch the zone");
        }
        self.transfer_trouble = trouble;
        let keys = loaded.unwrap_or_default();
        let (to, from) = wanted.map_or_else(Default::default, |wanted| {
            (wanted.to.clone(), wanted.from.clone())
        });
        let unchanged = (&keys, &to, &from) == (&*self.transfer.keys, &self.notify, &self.transfer.from);
        if unchanged {
            return;
        }
        let mut deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
        deaf.retain(|address, _| to.contains(address));
        drop(deaf);
        self.transfer.keys = Arc::new(keys);
        self.transfer.from = from;
        self.notify = to;
        self.shared.set_transfer(self.transfer.clone());
        // Who is named anew has nothing yet.
        self.tell_others();
    }

    /// Tells other name servers that there is another version.
    fn tell_others(&mut self) {
        self.telling.drain(..).for_each(|telling| telling.abort());
        let (Some(key), Some(zone)) = (self.transfer.keys.first(), &self.served) else {
            return;
        };
        let now = shared::now();
        for (number, to) in self.notify.iter().enumerate() {
            let id = (now as u16).wrapping_add(number as u16).wrapping_mul(0x9E37);
            let message = notify::message(zone.apex(), id, key, u64::from(now));
            let telling = notify::tell(*to, message, Arc::clone(&self.deaf));
            self.telling.push(self.connections.spawn(telling).abort_handle());
        }
    }

    /// Binds what the view wants and is not bound, closes what it no longer wants.
    fn bind_wanted(&mut self, view: &FleetView) {
        let is_ours = view
            .server(&self.server)
            .is_some_and(|me| me.roles.contains(&Role::Dns));
        let wanted: BTreeSet<SocketAddr> = match &view.dns {
            Some(dns) if is_ours => dns.listen.iter().copied().collect(),
            _ => BTreeSet::new(),
        };
        self.not_listening.retain(|address, _| wanted.contains(address));
        let gone: Vec<SocketAddr> = self
            .listening
            .iter()
            // A thread that ended by itself met an error: its address is bound anew.
            .filter(|(address, doors)| {
                !wanted.contains(address) || doors.threads.iter().any(JoinHandle::is_finished)
            })
            .map(|(address, _)| *address)
            .collect();
        for address in gone {
            if let Some(doors) = self.listening.remove(&address) {
                doors.close();
            }
        }
        for address in wanted {
            if self.listening.contains_key(&address) {
                continue;
            }
            match self.bind(address) {
                Ok(doors) => {
                    self.not_listening.remove(&address);
                    self.listening.insert(address, doors);
                }
                // A machine without IPv6 has no address of it to listen on.
                Err(error) if is_without_family(&error, address) => {}
                Err(error) => {
                    let reason = error.to_string();
                    if self.not_listening.insert(address, reason.clone()).as_ref() != Some(&reason) {
                        tracing::warn!(%address, reason, "cannot listen; trying again each second");
                    }
                }
            }
        }
    }

    fn bind(&self, address: SocketAddr) -> io::Result<Doors> {
        let listener = tcp::bind(address)?;
        let sockets = (0..self.threads)
            .map(|_| udp::bind(address))
            .collect::<io::Result<Vec<_>>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for socket in sockets {
            let (shared, stats, stop) = (
                Arc::clone(&self.shared),
                self.shared.metrics.thread(),
                Arc::clone(&stop),
            );
            threads.push(
                std::thread::Builder::new()
                    .name("dns-udp".to_owned())
                    .spawn(move || {
                        if let Err(error) = udp::serve(&socket, &shared, &stats, &stop) {
                            tracing::error!(%error, "a serving thread ended before its time");
                        }
                    })?,
            );
        }
        let accepting = tcp::accept(
            listener,
            Arc::clone(&self.shared),
            self.shared.metrics.thread(),
            Arc::clone(&self.guests),
        );
        Ok(Doors {
            stop,
            threads,
            connections: self.connections.spawn(accepting).abort_handle(),
        })
    }

    /// Which proofs are answered.
    fn proved(&self) -> BTreeSet<String> {
        let wanted = self.view.as_ref().and_then(|view| view.dns.as_ref());
        let (Some(zone), Some(dns)) = (&self.served, wanted) else {
            return BTreeSet::new();
        };
        content::proved(zone, &dns.proofs)
    }

    fn report(&self) -> TierReport {
        let (queries_total, limited_total) = self.shared.metrics.totals();
        let serial = self.served.as_deref().and_then(Zone::serial);
        let refused = self.file.refused.clone().or_else(|| self.unfit.clone());
        self.shared.metrics.zone(serial, refused.is_some());
        TierReport {
            pid: std::process::id(),
            view_serial: self.view.as_ref().map_or(0, |view| view.serial),
            detail: TierDetail::Dns(DnsReport {
                queries_total,
                limited_total,
                serial,
                file_digest: self.file.digest.clone(),
                refused,
                not_listening: self
                    .not_listening
                    .iter()
                    .map(|(address, reason)| format!("{address}: {reason}"))
                    .collect(),
                transfer_trouble: self.transfer_trouble.clone(),
                signed: self.signing.report(),
                signing_trouble: self.signing.trouble.clone(),
                proofs: self.proved(),
                not_told: {
                    let deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
                    let texts = deaf
                        .iter()
                        .map(|(address, reason)| format!("{address}: {reason}"));
                    texts.collect()
                },
            }),
        }
    }
}

fn is_without_family(error: &io::Error, address: SocketAddr) -> bool {
    const EAFNOSUPPORT: i32 = nix::libc::EAFNOSUPPORT;
    let code = error.raw_os_error();
    address.ip().is_unspecified()
        && address.is_ipv6()
        && (code == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable)
}
