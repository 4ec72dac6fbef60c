//! An agent without a machine around it, for unit tests.

use std::sync::Arc;
use std::time::Duration;

use pontoon_decide::change::Committed;
use pontoon_fleet::{FleetName, Revision, ServerName, UnixMillis};
use pontoon_pki::{Authority, Identity, NewKey, SERVER_LIFETIME};
use pontoon_rt::clock::{Clock, TestClock};
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;
use pontoon_telemetry::events::EventLog;

use crate::change::{ChangeHub, members};
use crate::core::{Agent, Parts, Supervision, parse};
use crate::{load_membership, store};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// One server, without a database.
pub(crate) const CONFIG: &str = r#"
version = 1
[fleet]
name = "notes"
domains = ["notes.example.com"]
[[server]]
name = "a"
private = "198.51.100.11"
public = ["198.51.100.111"]
[app]
upstream = "127.0.0.1:8080"
"#;

/// Two servers, `a` and `b`, each with an application, and what `rest` adds.
pub(crate) fn two_servers(rest: &str) -> String {
    let servers = r#"
version = 1
[fleet]
name = "notes"
[[server]]
name = "a"
private = "198.51.100.11"
[[server]]
name = "b"
private = "198.51.100.12"
[app]
upstream = "127.0.0.1:8080"
"#;
    format!("{servers}{rest}")
}

pub(crate) struct Fixture {
    pub(crate) agent: Arc<Agent>,
    pub(crate) clock: Arc<TestClock>,
    _dir: tempfile::TempDir,
}

impl Fixture {
    /// From now on `keeper` holds the store of a fleet without a shared one.
    pub(crate) fn keep_at(&self, keeper: &str) {
        let mut membership = self.agent.membership().unwrap();
        membership.keeper = keeper.parse().unwrap();
        self.agent.set_membership(Some(membership));
    }
}

/// The agent of a server that founded a fleet and has applied [`CONFIG`].
pub(crate) async fn founder() -> Fixture {
    founder_of(CONFIG).await
}

/// The same with another configuration, in which the founder is `a` too.
pub(crate) async fn founder_of(text: &str) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::under(dir.path());
    paths.create_dirs().unwrap();
    // Certificates are checked against the real time by TLS, so the test's time begins there.
    let start = pontoon_rt::clock::SystemClock.unix();
    let clock = Arc::new(TestClock::at(UnixMillis(start.0)));
    let fleet: FleetName = "notes".parse().unwrap();
    let me: ServerName = "a".parse().unwrap();
    let private = "198.51.100.11".parse().unwrap();
    let authority = Authority::create(&fleet, clock.unix()).unwrap();
    let key = NewKey::generate().unwrap();
    let csr = key.csr(&me, private).unwrap();
    let certificate = authority
        .sign_server(&csr, &me, private, clock.unix(), SERVER_LIFETIME)
        .unwrap();
    let identity = Identity::assemble(fleet, &key, &certificate, &authority.certificate_pem()).unwrap();
    authority.save(&paths.identity_dir()).unwrap();
    identity.save(&paths.identity_dir()).unwrap();
    let committed = Committed {
        revision: Revision(1),
        text: text.to_owned(),
        members: members(&parse(text).unwrap()),
        lineage: Vec::new(),
    };
    store::Store::new(&paths).save_active(&committed).unwrap();
    let (changes, _) = ChangeHub::new();
    let agent = Agent::new(Parts {
        paths: paths.clone(),
        clock: clock.clone(),
        events: EventLog::open(&paths.events_file(), me),
        shutdown: Shutdown::new(),
        program: "/bin/false".into(),
        supervision: Supervision::Children,
        membership: load_membership(&paths).unwrap(),
        changes,
    });
    Fixture {
        agent: Arc::new(agent.unwrap()),
        clock,
        _dir: dir,
    }
}
