//! Servers whose public addresses move, without agents and databases: the address process and the edge follow a view on
//! disk, as they do when every agent is dead. And a visitor who asks an address each millisecond and writes down who
//! answers, and which kernels have it.

#![allow(
    clippy::disallowed_methods,
    reason = "threads of its own, outside any runtime, may sleep"
)]

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pontoon_fleet::{
    AppView, Epoch, FleetView, HealthCheck, Ports, RetryPolicy, Revision, Role, ServerState, ServerView,
    TakeoverView,
};
use pontoon_testkit::{Bind, Lab, LabError, Process, ProcessId, Server, Spawn, wait_until};

use crate::fleet::{pontoon, sibling};

/// Where the answerers listen (discard would be 9).
pub(crate) const ANSWERS_AT: u16 = 9009;

/// The servers, in order.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The servers.
pub struct Fleet {
    /// The lab.
    pub lab: Lab,
    servers: Vec<Server>,
    edges: bool,
    pids: Arc<Mutex<Vec<Option<i32>>>>,
    processes: Vec<Option<Process>>,
    running_edges: Vec<Option<Process>>,
}

/// How a fleet is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many servers.
    pub servers: usize,
    /// Heartbeats each 50 ms.
    pub fast: bool,
    /// How long until addresses go home.
    pub home_after: Duration,
    /// Whether edges run.
    pub edges: bool,
    /// Whether each address process watches the edge of its server.
    pub judged: bool,
}

impl Fleet {
    /// Switches the servers on; every one holds its address in the end.
    ///
    /// # Errors
    /// A `Skip` when something cannot be had here.
    pub async fn new(mut lab: Lab, shape: Shape) -> Result<Fleet, LabError> {
        let (pontoon, answerer) = (pontoon()?, sibling("answerer")?);
        let binds = || {
            vec![
                Bind {
                    host: pontoon.clone(),
                    server: "/run/pontoon-program".into(),
                },
                Bind {
                    host: answerer.clone(),
                    server: "/run/answerer".into(),
                },
            ]
        };
        // A router that believes only what it asked for: announcements alone do not reach it.
        let _ = fs::write("/proc/sys/net/ipv4/conf/fleet/drop_gratuitous_arp", "1");
        let mut servers = Vec::new();
        for name in NAMES.into_iter().take(shape.servers) {
            servers.push(lab.add_server(name, binds()).await?);
        }
        let mut fleet = Fleet {
            pids: Arc::new(Mutex::new(vec![None; servers.len()])),
            processes: servers.iter().map(|_| None).collect(),
            running_edges: servers.iter().map(|_| None).collect(),
            lab,
            edges: shape.edges,
            servers,
        };
        let view =
            serde_json::to_string(&fleet.view(shape)).map_err(|error| LabError::App(error.to_string()))?;
        let view = view.replacen('{', "{\"agent_run\":\"none\",", 1);
        for at in 0..fleet.servers.len() {
            let state = fleet.servers[at].path("/var/lib/pontoon")?;
            fs::create_dir_all(&state).map_err(LabError::io("state"))?;
            fs::write(state.join("view.json"), &view).map_err(LabError::io("view"))?;
            fs::write(state.join("address.key"), [7; 32]).map_err(LabError::io("key"))?;
            fleet.start(at).await?;
        }
        for at in 0..fleet.servers.len() {
            fleet.until_held(at, at).await?;
        }
        Ok(fleet)
    }

    fn view(&self, shape: Shape) -> FleetView {
        let server = |server: &Server| ServerView {
            name: server
                .name()
                .parse()
                .unwrap_or_else(|_| unreachable!("the lab's names are names")),
            private: server.private().into(),
            public: vec![server.public().into(), server.public6().into()],
            roles: [Role::Edge].into(),
            zone: None,
            standby: false,
            weight: 1,
            drained_at: None,
            state: ServerState::Up,
            ports: Ports::from_base(7400),
            edge_listen: self
                .servers
                .iter()
                .map(|any| SocketAddr::new(any.public().into(), 80))
                .collect(),
        };
        FleetView {
            fleet: "lab".parse().unwrap_or_else(|_| unreachable!("it is a name")),
            revision: Revision(1),
            epoch: Epoch(1),
            serial: 1,
            servers: self.servers.iter().map(server).collect(),
            app: shape.judged.then(|| AppView {
                upstream: SocketAddr::from(([127, 0, 0, 1], 8080)),
                protocol: Default::default(),
                balance: Default::default(),
                dispatch: Default::default(),
                health: HealthCheck {
                    path: None,
                    expect: None,
                    interval: Duration::from_secs(1),
                    timeout: Duration::from_secs(1),
                    fall: 3,
                    rise: 1,
                },
                retries: RetryPolicy {
                    methods: Vec::new(),
                    max: 0,
                    budget: 0,
                },
                drain: Duration::from_secs(1),
            }),
            sql: None,
            https: None,
            limits: Default::default(),
            front: Default::default(),
            answers: Default::default(),
            dns: None,
            addresses: Vec::new(),
            addresses_changed: Default::default(),
            assets: None,
            takeover: Some(TakeoverView {
                fast: shape.fast,
                home_after: shape.home_after,
                gateway: Some(Lab::VISITOR.into()),
                interface: None,
            }),
            routed: false,
            cache: None,
        }
    }

    /// How many servers.
    #[allow(clippy::len_without_is_empty, reason = "there is no fleet of none")]
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// The edge's process of a server.
    ///
    /// # Errors
    /// When it does not run.
    pub fn edge(&self, at: usize) -> Result<ProcessId, LabError> {
        let edge = self.running_edges.get(at).and_then(Option::as_ref);
        edge.map(|process| process.id())
            .ok_or_else(|| LabError::Unknown("no edge".to_owned()))
    }

    /// The server at that place.
    pub fn server(&self, at: usize) -> &Server {
        &self.servers[at]
    }

    /// The address process of a server.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&self, at: usize) -> Result<ProcessId, LabError> {
        let process = self.processes.get(at).and_then(Option::as_ref);
        process
            .map(|process| process.id())
            .ok_or_else(|| LabError::Unknown("no address process".to_owned()))
    }

    /// Starts what runs on a server that is on.
    async fn start(&mut self, at: usize) -> Result<(), LabError> {
        let server = self.servers[at].clone();
        lock(&self.pids)[at] = server.processes().first().map(|id| id.pid);
        let answerer = Spawn::new("/run/answerer", "answerer").args([server.name(), &ANSWERS_AT.to_string()]);
        server.spawn(answerer).await?;
        if self.edges {
            let edge = Spawn::new("/run/pontoon-program", "edge").args(["edge", "--server", server.name()]);
            self.running_edges[at] = Some(server.spawn(edge).await?);
        }
        self.start_process(at).await
    }

    /// Starts the address process.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_process(&mut self, at: usize) -> Result<(), LabError> {
        let server = &self.servers[at];
        // With the capabilities that its unit gives it, and no others.
        let spawn = Spawn::new("setpriv", "address").args([
            "--bounding-set",
            "-all,+net_admin,+net_raw",
            "--inh-caps",
            "-all",
            "--no-new-privs",
            "/run/pontoon-program",
            "address",
            "--server",
            server.name(),
        ]);
        self.processes[at] = Some(server.spawn(spawn).await?);
        Ok(())
    }

    /// Cuts the power.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn power_off(&mut self, at: usize) -> Result<(), LabError> {
        lock(&self.pids)[at] = None;
        self.processes[at] = None;
        self.servers[at].power_off().await
    }

    /// Switches it on. The operating system has no public addresses configured: they are Pontoon's.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn power_on(&mut self, at: usize) -> Result<(), LabError> {
        let server = self.servers[at].clone();
        server.power_on().await?;
        let (v4, v6) = (server.public(), server.public6());
        server
            .sh(&format!(
                "ip addr del {v4}/24 dev eth0; ip addr del {v6}/64 dev eth0 || :"
            ))
            .await?;
        self.start(at).await
    }

    /// Waits until the addresses of `home` are in the kernel of `holder` alone.
    ///
    /// # Errors
    /// When they are not within a minute; the logs are shown.
    pub async fn until_held(&self, home: usize, holder: usize) -> Result<(), LabError> {
        let address = IpAddr::V4(self.servers[home].public());
        let what = format!(
            "the address of {} at {}",
            self.servers[home].name(),
            self.servers[holder].name()
        );
        let held = wait_until(&what, PATIENCE, || async {
            (holders(&lock(&self.pids), address) == BTreeSet::from([holder])).then_some(())
        });
        let result = held.await;
        if result.is_err() {
            self.show_logs();
        }
        result
    }

    /// What the address processes said.
    pub fn show_logs(&self) {
        for server in &self.servers {
            let log = fs::read_to_string(server.log_file("address")).unwrap_or_default();
            crate::fleet::tell(&format!("── {}\n{log}", server.name()));
        }
    }

    /// Lets a visitor ask `address` from now on.
    ///
    /// # Errors
    /// When there is no socket.
    pub fn watch(&self, address: IpAddr) -> Result<Watch, LabError> {
        Watch::start(address, Arc::clone(&self.pids))
    }
}

/// A visitor who asks an address each millisecond, and an eye on the kernels.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    end: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// What was seen since the last mark.
#[derive(Debug, Default)]
struct Seen {
    last: Option<(Instant, String)>,
    longest_gap: Duration,
    answers: u64,
    double_since: Option<Instant>,
    longest_double: Duration,
    /// Which kernels had the address, in turn: when each began.
    held: Vec<(Instant, BTreeSet<usize>)>,
}

impl Watch {
    pub(crate) fn start(address: IpAddr, pids: Arc<Mutex<Vec<Option<i32>>>>) -> Result<Watch, LabError> {
        let local: IpAddr = match address {
            IpAddr::V4(_) => Lab::VISITOR.into(),
            IpAddr::V6(_) => IpAddr::from([0; 16]),
        };
        let socket = UdpSocket::bind((local, 0)).map_err(LabError::io("a visitor's socket"))?;
        socket
            .set_read_timeout(Some(Duration::from_millis(1)))
            .map_err(LabError::io("a visitor's socket"))?;
        let (seen, end) = (
            Arc::new(Mutex::new(Seen::default())),
            Arc::new(AtomicBool::new(false)),
        );
        let visitor = {
            let (seen, end) = (Arc::clone(&seen), Arc::clone(&end));
            move || {
                let mut buffer = [0; 256];
                let mut asked = Instant::now();
                while !end.load(Ordering::Relaxed) {
                    if asked.elapsed() >= Duration::from_millis(1) {
                        asked = Instant::now();
                        let _ = socket.send_to(b"who", (address, ANSWERS_AT));
                    }
                    let Ok((count, _)) = socket.recv_from(&mut buffer) else {
                        continue;
                    };
                    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    let name = text.split(' ').nth(1).unwrap_or_default().to_owned();
                    let now = Instant::now();
                    let mut seen = lock(&seen);
                    if let Some((last, _)) = &seen.last {
                        seen.longest_gap = seen.longest_gap.max(now - *last);
                    }
                    seen.answers += 1;
                    seen.last = Some((now, name));
                }
            }
        };
        let eye = {
            let (seen, end) = (Arc::clone(&seen), Arc::clone(&end));
            move || {
                while !end.load(Ordering::Relaxed) {
                    let holders = holders(&lock(&pids), address);
                    let several = holders.len() > 1;
                    let now = Instant::now();
                    let mut seen = lock(&seen);
                    if seen.held.last().is_none_or(|(_, before)| *before != holders) {
                        seen.held.push((now, holders));
                    }
                    seen.double_since = several.then(|| seen.double_since.unwrap_or(now));
                    let double = seen.double_since.map_or(Duration::ZERO, |since| now - since);
                    seen.longest_double = seen.longest_double.max(double);
                    drop(seen);
                    thread::sleep(Duration::from_millis(4));
                }
            }
        };
        Ok(Watch {
            seen,
            end,
            threads: vec![thread::spawn(visitor), thread::spawn(eye)],
        })
    }

    /// From here on a gap counts, and what is told of holders begins.
    pub fn mark(&self) {
        let mut seen = lock(&self.seen);
        seen.longest_gap = Duration::ZERO;
        let last = seen.held.pop();
        seen.held = last.into_iter().map(|(_, held)| (Instant::now(), held)).collect();
    }

    /// Who had the address since the mark, and for how long each: `a 1204 ms, nobody 312 ms, b 55 ms`.
    pub fn who_held(&self) -> String {
        let seen = lock(&self.seen);
        let ends = seen
            .held
            .iter()
            .skip(1)
            .map(|(at, _)| *at)
            .chain([Instant::now()]);
        let one = |((at, held), end): (&(Instant, BTreeSet<usize>), Instant)| {
            let names: Vec<String> = held
                .iter()
                .map(|at| NAMES.get(*at).unwrap_or(&"?").to_string())
                .collect();
            let who = if names.is_empty() {
                "nobody".to_owned()
            } else {
                names.join(" and ")
            };
            format!("{who} {} ms", (end - *at).as_millis())
        };
        seen.held.iter().zip(ends).map(one).collect::<Vec<_>>().join(", ")
    }

    /// The longest time without an answer since the mark, now included.
    pub fn longest_gap(&self) -> Duration {
        let seen = lock(&self.seen);
        let now = seen.last.as_ref().map_or(Duration::ZERO, |(at, _)| at.elapsed());
        seen.longest_gap.max(now)
    }

    /// Waits until the server of that name answers, and goes on doing so.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub async fn until_answered_by(&self, name: &str) -> Result<(), LabError> {
        self.until_answered(&format!("answers by {name}"), |by| by == name)
            .await
    }

    async fn until_answered(&self, what: &str, by_whom: impl Fn(&str) -> bool) -> Result<(), LabError> {
        let mut since = None;
        wait_until(what, PATIENCE, || {
            let seen = lock(&self.seen);
            let here = seen
                .last
                .as_ref()
                .is_some_and(|(at, by)| by_whom(by) && at.elapsed() < Duration::from_millis(100));
            drop(seen);
            since = here.then(|| since.unwrap_or_else(Instant::now));
            let long = since.is_some_and(|since| since.elapsed() > Duration::from_millis(300));
            async move { long.then_some(()) }
        })
        .await
    }

    /// Waits until another server than that answers, and goes on doing so.
    ///
    /// # Errors
    /// When none does within a minute.
    pub async fn until_answered_by_another_than(&self, name: &str) -> Result<(), LabError> {
        self.until_answered(&format!("answers by another than {name}"), |by| by != name)
            .await
    }

    /// The longest time for which two kernels had the address, since the beginning or since this was asked last.
    pub fn take_longest_double(&self) -> Duration {
        std::mem::take(&mut lock(&self.seen).longest_double)
    }

    /// The longest time for which two kernels had the address, since the beginning.
    pub fn longest_double(&self) -> Duration {
        lock(&self.seen).longest_double
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Which servers' kernels have the address.
fn holders(pids: &[Option<i32>], address: IpAddr) -> BTreeSet<usize> {
    let has = |pid: i32| match address {
        IpAddr::V4(ip) => {
            let table = fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap_or_default();
            let line = format!("|-- {ip}\n");
            let mut lines = table.split_inclusive('\n').peekable();
            let mut found = false;
            while let Some(text) = lines.next() {
                if text.ends_with(&line) {
                    found |= lines.peek().is_some_and(|next| next.contains("host LOCAL"));
                }
            }
            found
        }
        IpAddr::V6(ip) => {
            let table = fs::read_to_string(format!("/proc/{pid}/net/if_inet6")).unwrap_or_default();
            let wanted: String = ip.octets().iter().map(|byte| format!("{byte:02x}")).collect();
            table.lines().any(|line| line.starts_with(&wanted))
        }
    };
    let on = pids.iter().enumerate();
    on.filter(|(_, pid)| pid.is_some_and(has))
        .map(|(at, _)| at)
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
