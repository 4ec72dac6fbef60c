//! Whole agents with real connections on loopback addresses, without a database and without tiers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use pontoon_decide::change::{Ancestor, Committed, digest};
use pontoon_fleet::{
    Code, EventKind, FleetName, Refusal, Revision, Role, ServerName, ServerState, UnixMillis,
};
use pontoon_pki::{Authority, Identity, IdentityFiles, NewKey, SERVER_LIFETIME, tls};
use pontoon_rt::clock::{Clock, SystemClock};
use pontoon_rt::http::{self, Call};
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;
use pontoon_rt::view::ViewPublisher;
use pontoon_telemetry::events::EventLog;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::api::{ApplyRequest, DrainRequest, JoinRequest, MaintenanceRequest};
use crate::change::ChangeHub;
use crate::core::{Agent, Parts, Supervision};
use crate::reporter::Reporter;
use crate::store::Store;
use crate::{
    apply, carry_out, change, dial, drain, heartbeat, host, joiner, leave, load_membership, maintenance,
    observe, publish, renew, serve,
};

const EDGE_AND_APP: &str = r#"["edge", "app"]"#;
const ALL: &str = r#"["edge", "app", "db", "cache", "dns"]"#;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

/// `a` is at 127.0.0.11, `b` at .12 and so on.
fn address(server: &str) -> IpAddr {
    let last = 11 + server.as_bytes()[0] - b'a';
    IpAddr::from([127, 0, 0, last])
}

/// A fleet's ground: its port, its authority, its servers' disks.
struct Ground {
    dir: tempfile::TempDir,
    port: u16,
    authority: Authority,
}

impl Ground {
    fn new() -> Ground {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Below the ports that the kernel gives to connections (ip_local_port_range: from 32768).
        let own = u16::try_from(std::process::id() % 700).unwrap() * 30;
        let port = 10_000 + own + NEXT.fetch_add(3, Ordering::Relaxed);
        let fleet: FleetName = "notes".parse().unwrap();
        Ground {
            dir: tempfile::tempdir().unwrap(),
            port,
            authority: Authority::create(&fleet, SystemClock.unix()).unwrap(),
        }
    }

    fn config(&self, servers: &[(&str, &str)], comment: &str) -> String {
        let mut text = format!(
            "version = 1 # {comment}\n[fleet]\nname = \"notes\"\nport = {}\ndomains = [\"notes.example.com\"]\n",
            self.port
        );
        for (server, roles) in servers {
            let private = address(server);
            text += &format!("[[server]]\nname = \"{server}\"\nprivate = \"{private}\"\nroles = {roles}\n");
        }
        // No [app] and so no edge: what listens on this machine does not matter.
        text
    }

    fn paths(&self, server: &str) -> Paths {
        Paths::under(&self.dir.path().join(server))
    }

    /// Writes what makes `server` a member. The first server founded the fleet.
    fn settle(&self, server: &str, keeper: &str, committed: &Committed) {
        let paths = self.paths(server);
        paths.create_dirs().unwrap();
        let key = NewKey::generate().unwrap();
        let (me, private, now) = (name(server), address(server), SystemClock.unix());
        let csr = key.csr(&me, private).unwrap();
        let certificate = self
            .authority
            .sign_server(&csr, &me, private, now, SERVER_LIFETIME)
            .unwrap();
        let ca = self.authority.certificate_pem();
        let identity = Identity::assemble("notes".parse().unwrap(), &key, &certificate, &ca).unwrap();
        if server == keeper {
            self.authority.save(&paths.identity_dir()).unwrap();
        }
        identity.save(&paths.identity_dir()).unwrap();
        let store = Store::new(&paths);
        store.save_keeper(&name(keeper)).unwrap();
        store.save_active(committed).unwrap();
    }

    /// A fleet at revision 1 whose first server is the keeper; every agent runs.
    async fn fleet(&self, servers: &[(&str, &str)]) -> Vec<Server> {
        let committed = committed(1, self.config(servers, "first"), &[]);
        let mut running = Vec::new();
        for (server, _) in servers {
            self.settle(server, servers[0].0, &committed);
            running.push(Server::start(&self.paths(server), server));
        }
        for one in &running {
            one.until("it hears of everybody", |agent| {
                agent.known().peers.len() + 1 == servers.len()
            })
            .await;
            one.until_served().await;
        }
        running
    }

    /// The identity of a server, for talking to agents by hand.
    fn identity(&self, server: &str) -> pontoon_pki::SharedIdentity {
        pontoon_pki::SharedIdentity::load(&self.paths(server).identity_dir()).unwrap()
    }
}

fn committed(revision: u64, text: String, lineage: &[&str]) -> Committed {
    let members = change::members(&crate::core::parse(&text).unwrap());
    let lineage = lineage.iter().zip(1..).map(|(text, revision)| Ancestor {
        revision: Revision(revision),
        digest: digest(text),
    });
    Committed {
        revision: Revision(revision),
        text,
        members,
        lineage: lineage.collect(),
    }
}

/// An agent that runs.
struct Server {
    agent: Arc<Agent>,
    tasks: JoinSet<()>,
}

impl Server {
    fn start(paths: &Paths, label: &str) -> Server {
        paths.create_dirs().unwrap();
        let shutdown = Shutdown::new();
        let (changes, inputs) = ChangeHub::new();
        let agent = Arc::new(
            Agent::new(Parts {
                paths: paths.clone(),
                clock: Arc::new(SystemClock),
                events: EventLog::open(&paths.events_file(), name(label)),
                shutdown: shutdown.clone(),
                program: "/bin/false".into(),
                supervision: Supervision::Children,
                membership: load_membership(paths).unwrap(),
                changes,
            })
            .unwrap(),
        );
        let (publisher, reports) = ViewPublisher::bind(paths, shutdown).unwrap();
        agent.to_carry_out.notify_one();
        let mut tasks = JoinSet::new();
        tasks.spawn(publish::run(agent.clone(), publisher, reports));
        tasks.spawn(serve::run(agent.clone()));
        tasks.spawn(heartbeat::run(agent.clone()));
        tasks.spawn(observe::run(agent.clone()));
        tasks.spawn(carry_out::run(agent.clone()));
        tasks.spawn(renew::run(agent.clone()));
        let changing = agent.clone();
        tasks.spawn(async move { change::run(changing, inputs).await.unwrap() });
        Server { agent, tasks }
    }

    /// Ends it and gives its place on the disk.
    async fn stop(mut self) -> Paths {
        self.agent.shutdown.trigger();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.agent.paths.clone()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Agent) -> bool) {
        let begun = Instant::now();
        while !holds(&self.agent) {
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// It listens for the others: a fleet of one hears of nobody, however long that takes.
    async fn until_served(&self) {
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(self.at()).await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "nobody listens at {}", self.at());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn apply(&self, text: String) -> Result<String, Refusal> {
        let request = ApplyRequest {
            plan: None,
            text: Some(text),
        };
        apply::apply(&self.agent, request, &Reporter::new().0).await
    }

    async fn drain(&self, server: &str, drained: bool) -> Result<String, Refusal> {
        let request = DrainRequest {
            server: name(server),
            drained,
            app_only: false,
        };
        drain::drain(&self.agent, request, &Reporter::new().0).await
    }

    async fn join(&self, at: SocketAddr, token: &str, me: &str, roles: &[Role]) -> Result<String, Refusal> {
        let request = JoinRequest {
            address: at,
            token: token.to_owned(),
            name: name(me),
            private: Some(address(me)),
            public: Vec::new(),
            roles: Some(roles.to_vec()),
            copy: false,
        };
        joiner::join(&self.agent, request, &Reporter::new().0).await
    }

    fn token(&self) -> String {
        host::issue_token(&self.agent, Duration::from_secs(60), None)
            .unwrap()
            .token
    }

    fn at(&self) -> SocketAddr {
        self.agent.own_address().unwrap()
    }

    fn state_of(&self, server: &str) -> ServerState {
        publish::view(&self.agent)
            .unwrap()
            .server(&name(server))
            .unwrap()
            .state
    }

    fn count(&self, is_it: impl Fn(&EventKind) -> bool) -> usize {
        self.agent
            .events()
            .tail(1_000)
            .iter()
            .filter(|event| is_it(&event.kind))
            .count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_server_joins_is_drained_dies_comes_back_and_leaves() {
    let ground = Ground::new();
    let mut servers = ground.fleet(&[("a", ALL)]).await;
    let a = servers.remove(0);
    let b = Server::start(&ground.paths("b"), "b");
    let c = Server::start(&ground.paths("c"), "c");
    let token = a.token();
    let account = r#"{"user":"pontoon_sql","password":"0123456789abcdef-Aa1"}"#;
    std::fs::write(ground.paths("a").sql_account_file(), account).unwrap();
    // An earlier attempt, at a fleet where it was to have a database, left a key.
    let ca_key = IdentityFiles::in_dir(&ground.paths("b").identity_dir()).ca_key;
    std::fs::write(&ca_key, "another fleet's").unwrap();
    b.join(a.at(), &token, "b", &[Role::App, Role::Edge])
        .await
        .unwrap();

    // It is a member everywhere, and has no secret that its roles do not need.
    for server in [&a, &b] {
        assert_eq!(server.agent.revision(), Revision(2));
        assert_eq!(
            (server.state_of("a"), server.state_of("b")),
            (ServerState::Up, ServerState::Up)
        );
    }
    let paths = ground.paths("b");
    assert!(!IdentityFiles::in_dir(&paths.identity_dir()).ca_key.exists());
    assert!(!paths.state_dir.join("database.secret").exists());
    // It runs an SQL proxy, which learns of users by this.
    assert_eq!(
        std::fs::read_to_string(paths.sql_account_file()).unwrap(),
        account
    );
    assert!(a.agent.known().joiners.is_empty());
    // Joined is joined; and the token is nobody else's.
    b.join(a.at(), &token, "b", &[Role::App, Role::Edge])
        .await
        .unwrap();
    let refused = c.join(a.at(), &token, "c", &[Role::App]).await.unwrap_err();
    assert_eq!(refused.code, Code::J001);
    assert!(c.agent.membership().is_none());
    // It may not change the fleet, nor let anybody in.
    assert_eq!(
        b.apply(ground.config(&[("a", ALL)], "b's"))
            .await
            .unwrap_err()
            .code,
        Code::J005
    );
    assert_eq!(
        host::issue_token(&b.agent, Duration::from_secs(60), None)
            .unwrap_err()
            .code,
        Code::J005
    );

    // A drain is heard of, and taken back from the other side.
    b.agent
        .learn_drains(&mark("b", SystemClock.unix(), true))
        .unwrap();
    a.until("b is drained", |_| a.state_of("b") == ServerState::Draining)
        .await;
    a.drain("b", false).await.unwrap();
    b.until("b is back", |_| b.state_of("b") == ServerState::Up).await;

    // Maintenance is switched on at one and off at the other, and outlives an agent.
    let shown =
        |server: &Server| publish::view(&server.agent).is_some_and(|view| view.answers.maintenance.is_some());
    let on = MaintenanceRequest {
        on: true,
        for_ms: Some(60_000),
        except: vec!["198.51.100.0/24".parse().unwrap()],
    };
    maintenance::switch(&b.agent, &on).unwrap();
    a.until("a's visitors get the page", |_| shown(&a)).await;
    maintenance::switch(&a.agent, &MaintenanceRequest::default()).unwrap();
    b.until("b's visitors are served", |_| !shown(&b)).await;
    maintenance::switch(&b.agent, &on).unwrap();
    for wrong in [0, 8 * 86_400_000] {
        let wrong = MaintenanceRequest {
            for_ms: Some(wrong),
            ..on.clone()
        };
        assert_eq!(
            maintenance::switch(&a.agent, &wrong).unwrap_err().code,
            Code::N020
        );
    }

    // Its agent dies: noticed once, and noticed when it is back with what it knew.
    let paths = b.stop().await;
    a.until("b is missed", |_| a.state_of("b") == ServerState::Unreachable)
        .await;
    let missed = || a.count(|kind| matches!(kind, EventKind::PeerUnreachable { .. }));
    a.until("it is told", |_| missed() == 1).await;
    let b = Server::start(&paths, "b");
    assert_eq!(b.agent.revision(), Revision(2));
    assert!(shown(&b), "maintenance is on disk");
    a.until("b is heard again", |_| a.state_of("b") == ServerState::Up)
        .await;
    a.until("its return is told", |_| {
        a.count(|kind| matches!(kind, EventKind::PeerReachable { .. })) == 1
    })
    .await;
    assert_eq!(missed(), 1);

    leave::leave(&b.agent, &Reporter::new().0).await.unwrap();
    assert!(!paths.sql_account_file().exists());
    assert_eq!(a.agent.revision(), Revision(3));
    assert!(publish::view(&a.agent).unwrap().server(&name("b")).is_none());
    assert!(b.agent.membership().is_none() && load_membership(&paths).unwrap().is_none());
}

fn mark(server: &str, at: UnixMillis, drained: bool) -> pontoon_fleet::DrainBook {
    let mark = pontoon_fleet::DrainMark {
        at,
        drained,
        app_only: false,
    };
    pontoon_fleet::DrainBook([(name(server), mark)].into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_taken_out_while_it_was_away_is_refused_and_fills_no_timeline() {
    let ground = Ground::new();
    let mut servers = ground.fleet(&[("a", ALL), ("b", EDGE_AND_APP)]).await;
    let (b, a) = (servers.remove(1), servers.remove(0));
    let paths = b.stop().await;
    a.until("b is missed", |_| a.state_of("b") == ServerState::Unreachable)
        .await;
    a.apply(ground.config(&[("a", ALL)], "without b")).await.unwrap();
    let b = Server::start(&paths, "b");
    tokio::time::sleep(Duration::from_secs(4)).await; // it tries some eight times
    let refused = a.count(|kind| matches!(kind, EventKind::PeerRefused { peer, .. } if peer == "b"));
    assert_eq!(refused, 1);
    assert!(a.agent.known().peers.is_empty());
    // What it asks for by hand is refused too.
    for path in ["/p/v1/config", "/p/v1/events", "/p/v1/facts", "/p/v1/join/backup"] {
        let call = Call::get("a", path);
        let asked = dial::ask::<(), serde_json::Value>(&b.agent, &name("a"), a.at(), &call, None).await;
        assert_eq!(asked.unwrap_err().code, Code::J005, "{path}");
    }
    b.stop().await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_for_the_end_of_a_change_catches_up() {
    let ground = Ground::new();
    let servers = [("a", ALL), ("b", EDGE_AND_APP), ("c", EDGE_AND_APP)];
    let (first, second) = (
        ground.config(&servers, "first"),
        ground.config(&servers, "second"),
    );
    let behind = committed(1, first.clone(), &[]);
    let ahead = committed(2, second.clone(), &[&first]);
    let mut running = Vec::new();
    for (server, committed) in [("a", &ahead), ("b", &ahead), ("c", &behind)] {
        ground.settle(server, "a", committed);
        running.push(Server::start(&ground.paths(server), server));
    }
    let c = running.pop().unwrap();
    c.until("it has the second revision", |agent| {
        agent.revision() == Revision(2)
    })
    .await;
    let paths = c.stop().await;
    assert_eq!(Store::new(&paths).active().unwrap().unwrap().text, second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_operators_at_once_at_most_one_has_his_way_and_all_servers_agree() {
    let ground = Ground::new();
    let members = [("a", ALL), ("b", ALL), ("c", EDGE_AND_APP)];
    let servers = ground.fleet(&members).await;
    for round in 0..3 {
        let texts = ["one", "other"].map(|who| ground.config(&members, &format!("{who} {round}")));
        let before = servers[0].agent.revision();
        let (one, other) = tokio::join!(
            servers[0].apply(texts[0].clone()),
            servers[1].apply(texts[1].clone())
        );
        let won: Vec<_> = [&one, &other]
            .into_iter()
            .filter(|result| result.is_ok())
            .collect();
        for lost in [&one, &other]
            .into_iter()
            .filter_map(|result| result.as_ref().err())
        {
            assert!(matches!(lost.code, Code::P001 | Code::P005), "{lost:?}");
        }
        // Both may win one after the other, on a slow machine; they cannot win at the same revision.
        let after = Revision(before.0 + won.len() as u64);
        for server in &servers {
            server
                .until("all are at one revision", |agent| agent.revision() == after)
                .await;
            let digest = |server: &Server| server.agent.active().unwrap().committed.digest();
            assert_eq!(digest(server), digest(&servers[0]));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_without_a_database_still_decides_and_is_believed() {
    let ground = Ground::new();
    let members = [("a", EDGE_AND_APP), ("b", ALL)];
    let servers = ground.fleet(&members).await;
    for (server, revision) in [(1, 2), (0, 3)] {
        let text = ground.config(&members, &format!("revision {revision}"));
        servers[server].apply(text).await.unwrap();
        for server in &servers {
            assert_eq!(server.agent.revision(), Revision(revision));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_nobody_could_read_is_not_taken_up() {
    let ground = Ground::new();
    let members = [("a", ALL), ("b", EDGE_AND_APP)];
    let servers = ground.fleet(&members).await;
    let first = servers[1].agent.active().unwrap().committed;
    let say = async |committed: Committed| {
        let message = crate::peer::ChangeMessage {
            message: pontoon_decide::change::Message::Commit { committed },
        };
        let call = Call::post("b", "/p/v1/change");
        let a = &servers[0].agent;
        dial::ask::<_, ()>(a, &name("b"), servers[1].at(), &call, Some(&message))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
    };
    let good = committed(2, ground.config(&members, "second"), &[&first.text]);
    let unreadable = Committed {
        text: "version = 99".to_owned(),
        ..good.clone()
    };
    let other_members = Committed {
        members: [name("a")].into(),
        ..good.clone()
    };
    for bad in [unreadable, other_members] {
        say(bad).await;
        assert_eq!(servers[1].agent.revision(), Revision(1));
        assert_eq!(Store::new(&ground.paths("b")).active().unwrap().unwrap(), first);
    }
    say(good).await;
    assert_eq!(servers[1].agent.revision(), Revision(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_at_the_door_do_not_keep_servers_out() {
    let ground = Ground::new();
    let members = [("a", ALL), ("b", EDGE_AND_APP)];
    let a = Server::start(
        &{
            let committed = committed(1, ground.config(&members, "first"), &[]);
            ground.settle("a", "a", &committed);
            ground.settle("b", "a", &committed);
            ground.paths("a")
        },
        "a",
    );
    a.until("it listens", |agent| {
        std::net::TcpStream::connect(agent.own_address().unwrap()).is_ok()
    })
    .await;
    let mut strangers = Vec::new();
    for _ in 0..200 {
        strangers.push(connect_from([127, 0, 0, 99].into(), a.at()).await);
    }
    let config = tls::client_config(&ground.identity("b")).unwrap();
    let ask = async |from: IpAddr| -> Result<Committed, Refusal> {
        let tcp = connect_from(from, a.at()).await;
        let stream = tls::connect(&config, &name("a"), tcp, Duration::from_secs(2)).await?;
        Ok(http::call::<_, (), _>(stream, &Call::get("a", "/p/v1/config"), None).await?)
    };
    assert_eq!(ask(address("b")).await.unwrap().revision, Revision(1));
    assert!(
        ask([127, 0, 0, 98].into()).await.is_err(),
        "the strangers' places are taken"
    );
}

async fn connect_from(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_server_that_leaves_keeps_no_key_of_the_fleet() {
    let ground = Ground::new();
    let servers = ground.fleet(&[("a", ALL), ("b", ALL)]).await;
    let identity = ground.paths("b").identity_dir();
    ground.authority.save(&identity).unwrap(); // as its welcome would have
    leave::leave(&servers[1].agent, &Reporter::new().0).await.unwrap();
    let state = ground.paths("b").state_dir;
    let aside: Vec<_> = std::fs::read_dir(state)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().contains("identity."))
        .collect();
    assert_eq!(aside.len(), 1);
    assert!(aside[0].join("cert.pem").exists());
    assert!(!aside[0].join("ca-key.pem").exists());
    assert!(
        IdentityFiles::in_dir(&ground.paths("a").identity_dir())
            .ca_key
            .exists()
    );
    assert_eq!(
        servers[0].agent.active().unwrap().committed.members,
        [name("a")].into()
    );
}
