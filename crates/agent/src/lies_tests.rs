//! What a server, a joiner or a stranger that was broken into could say, and what an agent makes of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pontoon_fleet::{
    Code, DrainBook, DrainMark, Epoch, EventKind, LeaseRecord, Refusal, Role, ServerName, UnixMillis,
};
use pontoon_pki::{Identity, NewKey, Token};

use crate::authorise::Peer;
use crate::peer::{Heartbeat, Hello, Welcome};
use crate::store::PendingJoiner;
use crate::testing::{self, DAY, Fixture};
use crate::{carry_out, detect, drain, heartbeat, host, observe};

/// `a` founded it; `b` could be primary; `c` is an application server.
const FLEET: &str = r#"
version = 1
[fleet]
name = "notes"
domains = ["notes.example.com"]
[[server]]
name = "a"
private = "198.51.100.11"
[[server]]
name = "b"
private = "198.51.100.12"
[[server]]
name = "c"
private = "198.51.100.13"
roles = ["app"]
"#;

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn lease(epoch: u64, leader: &str) -> LeaseRecord {
    LeaseRecord {
        epoch: Epoch(epoch),
        leader: name(leader),
    }
}

/// A heartbeat of `from`: the fixture's own words in another's mouth.
fn heartbeat_of(fixture: &Fixture, from: &str) -> Heartbeat {
    let mut said = heartbeat::own(&fixture.agent, &Peer::Stranger).unwrap();
    said.report.server = name(from);
    said
}

fn hear(fixture: &Fixture, said: Heartbeat) {
    let peer = fixture.agent.peer(Some(said.report.server.clone()));
    heartbeat::hear(&fixture.agent, &peer, said, None).unwrap();
}

/// Makes the fixture's agent one that is not the keeper.
fn follow(fixture: &Fixture, keeper: &str) {
    let mut membership = fixture.agent.membership().unwrap();
    membership.keeper = name(keeper);
    fixture.agent.set_membership(Some(membership));
}

#[tokio::test]
async fn only_who_steers_the_fleet_can_name_a_primary() {
    let fixture = testing::founder_of(FLEET).await;
    follow(&fixture, "b");
    fixture.agent.learn_lease(&lease(1, "a"));
    let mut said = heartbeat_of(&fixture, "c");
    said.report.lease = Some(lease(u64::MAX, "c"));
    hear(&fixture, said.clone());
    assert_eq!(
        fixture.agent.known().lease,
        Some(lease(1, "a")),
        "an application server is not believed"
    );
    said.report.server = name("x");
    let joiner = Peer::Joiner {
        name: name("x"),
        roles: Role::ALL.to_vec(),
    };
    heartbeat::hear(&fixture.agent, &joiner, said, None).unwrap();
    assert_eq!(
        fixture.agent.known().lease,
        Some(lease(1, "a")),
        "nor one that is not in yet"
    );
    let mut said = heartbeat_of(&fixture, "b");
    said.report.lease = Some(lease(2, "b"));
    hear(&fixture, said);
    assert_eq!(fixture.agent.known().lease, Some(lease(2, "b")));
}

#[tokio::test]
async fn the_keeper_believes_its_store_and_nobody() {
    let fixture = testing::founder_of(FLEET).await;
    fixture.agent.learn_lease(&lease(1, "a"));
    let mut said = heartbeat_of(&fixture, "b");
    said.report.lease = Some(lease(2, "b"));
    hear(&fixture, said);
    assert_eq!(fixture.agent.known().lease, Some(lease(1, "a")));
}

#[tokio::test]
async fn drains_of_unknown_servers_and_of_days_to_come_are_not_taken_over() {
    let fixture = testing::founder_of(FLEET).await;
    let now = fixture.agent.clock.unix();
    let mark = |at| DrainMark {
        at,
        drained: true,
        app_only: false,
    };
    let mut said = heartbeat_of(&fixture, "c");
    said.report.drains = DrainBook(BTreeMap::from([
        (name("a"), mark(UnixMillis(u64::MAX))),
        (name("b"), mark(now.plus(DAY * 2))),
        (name("x"), mark(now)),
        (name("c"), mark(now.plus(Duration::from_secs(60)))), // a clock that is a little ahead
    ]));
    let joiner = Peer::Joiner {
        name: name("c"),
        roles: vec![Role::App],
    };
    heartbeat::hear(&fixture.agent, &joiner, said.clone(), None).unwrap();
    assert!(fixture.agent.known().drains.0.is_empty());
    hear(&fixture, said);
    let known: Vec<_> = fixture.agent.known().drains.0.keys().cloned().collect();
    assert_eq!(known, [name("c")]);
}

#[tokio::test]
async fn maintenance_of_a_day_to_come_is_not_taken_over() {
    let fixture = testing::founder_of(FLEET).await;
    let now = fixture.agent.clock.unix();
    for (at, believed) in [
        (UnixMillis(u64::MAX), false),
        (now.plus(DAY * 2), false),
        (now, true),
    ] {
        let mut said = heartbeat_of(&fixture, "b");
        said.report.maintenance = pontoon_fleet::MaintenanceMark {
            at,
            maintenance: Some(Default::default()),
        };
        hear(&fixture, said);
        assert_eq!(
            fixture.agent.known().maintenance.maintenance.is_some(),
            believed,
            "{at:?}"
        );
    }
}

#[tokio::test]
async fn who_cannot_admit_servers_or_was_taken_out_lets_nobody_in() {
    let fixture = testing::founder_of(FLEET).await;
    let pending = PendingJoiner {
        private: "198.51.100.20".parse().unwrap(),
        public: Vec::new(),
        roles: None,
        database: None,
        key: "k".to_owned(),
        since: fixture.agent.clock.unix(),
    };
    let with_joiner = |from: &str| {
        let mut said = heartbeat_of(&fixture, from);
        said.joiners = BTreeMap::from([(name("x"), pending.clone())]);
        said
    };
    let stands = || fixture.agent.peer(Some(name("x")));
    hear(&fixture, with_joiner("c"));
    assert!(matches!(stands(), Peer::Outsider { .. }));
    hear(&fixture, with_joiner("b"));
    assert!(matches!(stands(), Peer::Joiner { .. }));
    // A join does not last for ever.
    fixture.clock.advance(DAY * 8);
    assert!(matches!(stands(), Peer::Outsider { .. }));
    // And ends with the membership of the server that let it in.
    let mut said = with_joiner("b");
    said.joiners
        .values_mut()
        .for_each(|joiner| joiner.since = fixture.agent.clock.unix());
    hear(&fixture, said);
    assert!(matches!(stands(), Peer::Joiner { .. }));
    let text = FLEET.replace("name = \"b\"", "name = \"d\"");
    let config = crate::core::parse(&text).unwrap();
    if let Some(active) = &mut fixture.agent.known().active {
        active.config = std::sync::Arc::new(config);
    }
    heartbeat::note_silence(&fixture.agent);
    assert!(matches!(stands(), Peer::Outsider { .. }));
}

async fn hello(
    fixture: &Fixture,
    token: &str,
    key: &NewKey,
    me: &str,
    private: &str,
) -> Result<Welcome, Refusal> {
    let token: Token = token.parse().unwrap();
    let private: IpAddr = private.parse().unwrap();
    let from = SocketAddr::new(private, 4000);
    let hello = Hello {
        id: token.id,
        secret: token.secret,
        csr: key.csr(&name(me), private).unwrap(),
        name: name(me),
        private,
        public: Vec::new(),
        roles: None,
        facts: detect::facts(None, None).await,
        version: "0".to_owned(),
    };
    host::welcome(&fixture.agent, hello, from)
}

fn token(fixture: &Fixture) -> String {
    host::issue_token(&fixture.agent, Duration::from_secs(3_600), None)
        .unwrap()
        .token
}

#[tokio::test]
async fn a_joiner_does_not_get_the_name_of_somebody_else() {
    let fixture = testing::founder_of(FLEET).await;
    let (mine, other) = (NewKey::generate().unwrap(), NewKey::generate().unwrap());
    let (first, second) = (token(&fixture), token(&fixture));
    // Exactly as a member is, which adds nothing to the configuration: still not its certificate.
    let refused = hello(&fixture, &first, &mine, "b", "198.51.100.12")
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code, Code::J004);
    let welcome = hello(&fixture, &first, &mine, "x", "198.51.100.20")
        .await
        .unwrap();
    let current = fixture.agent.membership().unwrap().identity.current();
    let ca = current.ca_pem();
    let identity = Identity::assemble(current.fleet().clone(), &mine, &welcome.certificate, &ca).unwrap();
    assert_eq!(identity.name(), &name("x"));
    // The same machine may repeat it; another may not have its name, with a good token neither.
    hello(&fixture, &first, &mine, "x", "198.51.100.20")
        .await
        .unwrap();
    let refused = hello(&fixture, &second, &other, "x", "198.51.100.21")
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code, Code::J004);
    // A machine that changes its mind has one name.
    hello(&fixture, &first, &mine, "y", "198.51.100.20")
        .await
        .unwrap();
    let joiners: Vec<_> = fixture.agent.known().joiners.keys().cloned().collect();
    assert_eq!(joiners, [name("y")]);
    assert_eq!(fixture.agent.store.joiners().unwrap().unwrap().len(), 1);
    hello(&fixture, &second, &other, "x", "198.51.100.21")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_refused_name_does_not_use_the_token_up() {
    let fixture = testing::founder_of(FLEET).await;
    let (mine, other) = (NewKey::generate().unwrap(), NewKey::generate().unwrap());
    let token = token(&fixture);
    hello(&fixture, &token, &mine, "a", "198.51.100.20")
        .await
        .err()
        .unwrap();
    hello(&fixture, &token, &other, "x", "198.51.100.20")
        .await
        .unwrap();
    let refused = hello(&fixture, &token, &mine, "y", "198.51.100.22")
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code, Code::J001);
}

#[tokio::test]
async fn wrong_tokens_in_any_number_leave_room_on_the_timeline() {
    let fixture = testing::founder_of(FLEET).await;
    let key = NewKey::generate().unwrap();
    let mut forged: Token = token(&fixture).parse().unwrap();
    forged.secret = forged.secret.chars().rev().collect();
    for _ in 0..100 {
        let refused = hello(&fixture, &forged.to_string(), &key, "x", "198.51.100.20")
            .await
            .err()
            .unwrap();
        assert_eq!(refused.code, Code::J001);
    }
    let told = fixture.agent.events().tail(1_000);
    let told = told
        .iter()
        .filter(|event| matches!(event.kind, EventKind::TokenRefused { .. }))
        .count();
    assert!((1..=30).contains(&told), "{told}");
    assert!(fixture.agent.known().joiners.is_empty());
}

#[tokio::test]
async fn a_lost_lease_store_makes_nobody_else_primary() {
    use pontoon_lease::{LeaseStore, Single};
    let fixture = testing::founder_of(FLEET).await;
    let config = fixture.agent.active().unwrap().config;
    fixture.agent.learn_lease(&lease(3, "b"));
    carry_out::grant_first_lease(&fixture.agent, &config)
        .await
        .unwrap();
    let store = Single::new(fixture.agent.paths.lease_file());
    let (record, _) = store.read().await.unwrap().unwrap();
    assert_eq!(record, lease(3, "b"));
    assert_eq!(fixture.agent.known().lease, Some(lease(3, "b")));
}

#[tokio::test]
async fn figures_that_no_machine_has_are_figures_too() {
    let fixture = testing::founder_of(FLEET).await;
    for total in [0, u64::MAX / 2, u64::MAX, 0, u64::MAX] {
        for from in ["b", "c"] {
            let mut said = heartbeat_of(&fixture, from);
            said.report.load_percent = u8::MAX;
            let upstream = pontoon_fleet::UpstreamReport {
                server: name("c"),
                healthy: true,
                reason: None,
                in_flight: total,
                drained_at: None,
            };
            said.report.tiers = vec![pontoon_fleet::TierReport {
                pid: 1,
                view_serial: u64::MAX,
                detail: pontoon_fleet::TierDetail::Edge(pontoon_fleet::EdgeReport {
                    requests_total: total,
                    in_flight: total,
                    upstreams: vec![upstream],
                    ..Default::default()
                }),
            }];
            tokio::time::sleep(Duration::from_millis(3)).await;
            hear(&fixture, said);
        }
        observe::status(&fixture.agent);
        drain::in_flight(&fixture.agent, &name("c"));
    }
}
