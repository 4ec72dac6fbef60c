//! Who orders, who is believed, who gets which key, and what a disk that lies costs.

use pontoon_acme::{Attempt, FailureKind, Stamped, account_key, certificate_key};
use pontoon_fleet::Role;

use super::*;
use crate::authorise::{Peer, Verb, authorise};
use crate::heartbeat;
use crate::testing::{self, Fixture};

/// `a` founded it; `b` may order too; `c` serves visitors only.
const FLEET: &str = r#"
version = 1
[fleet]
name = "notes"
[[server]]
name = "a"
private = "198.51.100.11"
[[server]]
name = "b"
private = "198.51.100.12"
[[server]]
name = "c"
private = "198.51.100.13"
roles = ["edge"]
[edge.tls.acme]
names = ["notes.example.com", "www.example.com"]
[app]
upstream = "127.0.0.1:8080"
"#;

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn issued_at(agent: &Agent, until: UnixMillis) -> pontoon_acme::Issued {
    let now = agent.clock.unix();
    pontoon_acme::Issued {
        chain: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
        key: certificate_key().unwrap(),
        directory: wanted(agent).unwrap().directory,
        issuer: "R11".to_owned(),
        obtained: now,
        by: name("a"),
        not_before: now,
        not_after: until,
        renew_at: until,
    }
}

fn keep(agent: &Agent, host: &str) {
    let issued = issued_at(agent, agent.clock.unix().plus(testing::DAY * 90));
    let now = agent.clock.unix();
    change(agent, |book| {
        book.entry(host).issued = Some(Stamped::after(None, now, issued))
    });
}

/// `from` is heard of, with `told`.
fn heard(fixture: &Fixture, from: &str, told: Option<Told>) {
    let mut said = heartbeat::own(&fixture.agent, &Peer::Stranger).unwrap();
    said.report.server = name(from);
    said.acme = told;
    let peer = fixture.agent.peer(Some(name(from)));
    heartbeat::hear(&fixture.agent, &peer, said, None).unwrap();
}

#[tokio::test]
async fn the_first_control_server_that_answers_orders() {
    let without = testing::founder().await;
    assert_eq!(order::orderer(&without.agent), None);
    assert_eq!(to_tell(&without.agent), None);
    let fixture = testing::founder_of(FLEET).await;
    assert_eq!(order::orderer(&fixture.agent), Some(name("a")));
    let reversed = FLEET
        .replace("name = \"a\"", "name = \"x\"")
        .replace("name = \"b\"", "name = \"a\"");
    let fixture = testing::founder_of(&reversed).await;
    assert_eq!(
        order::orderer(&fixture.agent),
        Some(name("a")),
        "x was never heard of"
    );
    heard(&fixture, "x", None);
    assert_eq!(order::orderer(&fixture.agent), Some(name("x")));
    // One that may not order is nobody's choice.
    let edge = FLEET
        .replace("name = \"b\"", "name = \"b\"\nroles = [\"edge\"]")
        .replace("\"a\"", "\"z\"");
    let fixture = testing::founder_of(&edge.replace("\"c\"", "\"a\"")).await;
    heard(&fixture, "b", None);
    assert_eq!(
        order::orderer(&fixture.agent),
        Some(name("a")),
        "the keeper may, whatever its roles"
    );
}

#[tokio::test]
async fn only_who_may_order_is_asked_for_certificates() {
    let fixture = testing::founder_of(FLEET).await;
    let told = to_tell(&fixture.agent).unwrap();
    heard(&fixture, "c", Some(told.clone()));
    assert!(fixture.agent.acme.heard().is_empty(), "an edge is not believed");
    heard(&fixture, "b", Some(told));
    assert_eq!(fixture.agent.acme.heard().len(), 1);
    heard(&fixture, "b", None);
    assert!(fixture.agent.acme.heard().is_empty());
}

#[tokio::test]
async fn keys_go_to_those_who_have_a_use_for_them() {
    let fixture = testing::founder_of(FLEET).await;
    let agent = &fixture.agent;
    keep(agent, "notes.example.com");
    change(agent, |book| book.account = account_key(UnixMillis(1)).ok());
    let control = agent.peer(Some(name("b")));
    let edge = agent.peer(Some(name("c")));
    assert!(book_for(agent, &control).account.unwrap().key.is_some());
    let book = book_for(agent, &edge);
    assert!(book.account.unwrap().key.is_none());
    assert!(book.names["notes.example.com"].issued.is_some());
    // One that only answers for names gets proofs, and not a single key.
    prove(agent, "www.example.com", Some("proof"));
    let only_names = Peer::Member {
        name: name("c"),
        roles: vec![Role::Dns],
        control: false,
    };
    let book = book_for(agent, &only_names);
    assert!(book.account.is_none() && book.names.len() == 1);
    assert!(book.names["www.example.com"].issued.is_none());
    for (peer, may) in [
        (control, true),
        (edge, true),
        (only_names, true),
        (Peer::Stranger, false),
        (Peer::Outsider { name: name("x") }, false),
        (
            Peer::Joiner {
                name: name("x"),
                roles: Role::ALL.to_vec(),
            },
            false,
        ),
        (
            Peer::Member {
                name: name("c"),
                roles: vec![Role::App, Role::Cache],
                control: false,
            },
            false,
        ),
    ] {
        assert_eq!(authorise(&peer, Verb::Certificates).is_ok(), may, "{peer:?}");
    }
}

#[tokio::test]
async fn a_book_that_cannot_be_read_is_renamed_and_what_edges_serve_stays() {
    let fixture = testing::founder_of(FLEET).await;
    let (paths, now) = (&fixture.agent.paths, UnixMillis(7_000));
    std::fs::create_dir(paths.issued_dir()).unwrap();
    std::fs::write(paths.issued_dir().join("www.example.com.pem"), "x").unwrap();
    std::fs::write(paths.issued_dir().join(".half.pem"), "x").unwrap();
    std::fs::write(paths.acme_file(), "{\"names\": 7}").unwrap();
    let desk = Desk::load(paths, now).unwrap();
    assert_eq!(*desk.book(), Book::default());
    assert_eq!(desk.files().iter().collect::<Vec<_>>(), ["www.example.com"]);
    assert!(!paths.acme_file().exists());
    let spoilt = format!("{}.spoilt-7", paths.acme_file().display());
    assert_eq!(std::fs::read_to_string(spoilt).unwrap(), "{\"names\": 7}");
    // One that can be read comes back as it was.
    keep(&fixture.agent, "notes.example.com");
    let again = Desk::load(paths, now).unwrap();
    assert_eq!(*again.book(), *fixture.agent.acme.book());
}

#[tokio::test]
async fn what_failed_is_a_problem_while_it_is_asked_for() {
    let fixture = testing::founder_of(FLEET).await;
    let agent = &fixture.agent;
    assert!(problems(agent).is_empty(), "nothing was tried yet");
    let acme = wanted(agent).unwrap();
    let attempt = Attempt {
        by: name("a"),
        asked: pontoon_acme::schedule::asked(&place(&acme), "www.example.com"),
        failures: 1,
        failure: Some((FailureKind::Refused, "no such name".to_owned())),
        next: UnixMillis(0),
    };
    let fail = |attempt: &Attempt| {
        let (now, attempt) = (agent.clock.unix(), attempt.clone());
        change(agent, |book| {
            let entry = book.entry("www.example.com");
            entry.attempt = Some(Stamped::after(entry.attempt.as_ref(), now, attempt));
        });
    };
    fail(&attempt);
    let said = || {
        problems(agent)
            .into_iter()
            .map(|problem| problem.what)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        said(),
        ["there is no certificate for www.example.com: no such name"]
    );
    keep(agent, "www.example.com");
    assert_eq!(
        said(),
        ["the certificate for www.example.com was not renewed: no such name"]
    );
    fixture.clock.advance(testing::DAY * 91);
    assert_eq!(
        said(),
        ["the certificate for www.example.com has ended, and there is no new one: no such name"]
    );
    fail(&Attempt {
        asked: "something else".to_owned(),
        ..attempt
    });
    assert!(said().is_empty());
    let line = &status(agent).unwrap().certificates[1];
    assert_eq!((line.error.as_deref(), line.on.len()), (None, 0));
}
