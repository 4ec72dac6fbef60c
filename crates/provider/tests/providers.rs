//! Every provider's driver against a stand-in for its interface (`stand_in/`): what must be right, then everything that
//! can go wrong. A real provider was not asked.

#![allow(clippy::unwrap_used, clippy::panic)] // a panic is the report

mod stand_in;

use std::time::Duration;

use pontoon_provider::{MoveError, Place};
use stand_in::{ALL, Fault, IP, Kind, SECRET, StandIn, claim};

/// Nothing here should take so long, on any machine.
const LONG: Duration = Duration::from_secs(60);

fn at(server: &str) -> Place {
    Place::At(server.parse().unwrap())
}

#[tokio::test]
async fn an_address_moves_is_read_back_and_asked_for_once() {
    for kind in ALL {
        let dir = tempfile::tempdir().unwrap();
        let stand_in = StandIn::new(kind);
        let mover = stand_in.mover(dir.path(), LONG);
        assert_eq!(mover.place(IP).await, Ok(at("a")), "{kind:?}");
        // The provider takes its time: what was asked for is not what is so.
        stand_in.state.lock().unwrap().slow = 5;
        stand_in.asked();
        assert_eq!(mover.claim(&claim("b")).await, Ok(()), "{kind:?}");
        assert_eq!(stand_in.at(), kind.target("b"));
        let asked = stand_in.asked();
        let posts = asked.iter().filter(|asked| asked.method == "POST").count();
        assert_eq!(posts, 1, "{kind:?}: {asked:?}");
        assert!(
            asked.len() >= 7,
            "{kind:?}: it was looked until it was so: {asked:?}"
        );
        // Again, and nothing is asked for.
        assert_eq!(mover.claim(&claim("b")).await, Ok(()));
        assert!(
            stand_in.asked().iter().all(|asked| asked.method == "GET"),
            "{kind:?}"
        );
        let shown = format!("{mover:?}");
        assert!(!shown.contains(SECRET), "{kind:?}: {shown}");
    }
}

#[tokio::test]
async fn whoever_asks_says_who_it_is_as_the_provider_wants_it() {
    for kind in ALL {
        let dir = tempfile::tempdir().unwrap();
        let stand_in = StandIn::new(kind);
        stand_in.mover(dir.path(), LONG).place(IP).await.unwrap();
        let asked = stand_in.asked();
        let header = |name: &str| asked[0].headers.get(name).cloned().unwrap_or_default();
        match kind {
            Kind::HetznerCloud | Kind::DigitalOcean => {
                assert_eq!(header("authorization"), format!("Bearer {SECRET}"));
            }
            // printf fleet:hunter2hunter2 | base64
            Kind::HetznerRobot => assert_eq!(header("authorization"), "Basic ZmxlZXQ6aHVudGVyMmh1bnRlcjI="),
            Kind::Ovh => {
                assert_eq!(header("x-ovh-application"), "k");
                assert_eq!(header("x-ovh-consumer"), "c");
                assert_eq!(header("x-ovh-timestamp"), "1700000000", "the provider's clock");
                assert!(header("x-ovh-signature").starts_with("$1$"));
                assert!(
                    !format!("{asked:?}").contains(SECRET),
                    "the secret itself is not sent"
                );
            }
        }
    }
}

#[tokio::test]
async fn every_refusal_is_told_apart_and_shows_no_secret() {
    type Test = fn(&MoveError) -> bool;
    let cases: &[(Fault, Test)] = &[
        (
            Fault::Every(401, "", r#"{"error":{"code":"unauthorized","message":"no"}}"#),
            |error| matches!(error, MoveError::Denied { said, .. } if said.contains("401")),
        ),
        (Fault::Every(403, "", ""), |error| {
            matches!(error, MoveError::Denied { .. })
        }),
        (Fault::Every(404, "", "{}"), |error| {
            matches!(error, MoveError::Unknown { .. })
        }),
        (Fault::Every(400, "", ""), |error| {
            matches!(error, MoveError::Refused { .. })
        }),
        (Fault::Every(429, "Retry-After: 17", "{}"), |error| {
            matches!(error, MoveError::Limited { after, .. } if *after == Duration::from_secs(17))
                && error.patience(1) == Duration::from_secs(17)
        }),
        (
            Fault::Every(429, "", ""),
            |error| matches!(error, MoveError::Limited { after, .. } if after.as_secs() == 60),
        ),
        // What Hetzner Robot says in place of 429.
        (
            Fault::Every(
                403,
                "",
                r#"{"error":{"status":403,"code":"RATE_LIMIT_EXCEEDED","message":"rate limit exceeded"}}"#,
            ),
            |error| matches!(error, MoveError::Limited { .. }),
        ),
        (
            Fault::Moves(409, r#"{"error":{"code":"FAILOVER_LOCKED","message":"busy"}}"#),
            |error| matches!(error, MoveError::Locked { said, .. } if said.contains("FAILOVER_LOCKED")),
        ),
        (
            Fault::Moves(422, r#"{"id":"unprocessable_entity","message":"pending event"}"#),
            |error| matches!(error, MoveError::Locked { said, .. } if said.contains("pending event")),
        ),
        (Fault::Moves(423, ""), |error| {
            matches!(error, MoveError::Locked { .. })
        }),
        (
            Fault::Every(500, "", "oops"),
            |error| matches!(error, MoveError::Failed { said, .. } if said.contains("oops")),
        ),
        (Fault::Every(503, "", ""), |error| {
            matches!(error, MoveError::Failed { .. })
        }),
        (Fault::Moves(500, ""), |error| {
            matches!(error, MoveError::Failed { .. })
        }),
        (Fault::Nonsense, |error| {
            matches!(error, MoveError::Nonsense { .. })
        }),
        (Fault::OtherJson, |error| {
            matches!(error, MoveError::Nonsense { .. })
        }),
    ];
    for kind in ALL {
        let dir = tempfile::tempdir().unwrap();
        let stand_in = StandIn::new(kind);
        let mover = stand_in.mover(dir.path(), LONG);
        for (fault, right) in cases {
            stand_in.fault(fault.clone());
            let error = mover.claim(&claim("b")).await.unwrap_err();
            assert!(right(&error), "{kind:?} {fault:?}: {error:?}");
            assert!(
                !format!("{error} {error:?}").contains(SECRET),
                "{kind:?} {fault:?}: {error:?}"
            );
            assert_eq!(
                stand_in.at(),
                kind.target("a"),
                "{kind:?} {fault:?}: nothing was done"
            );
        }
        // When it is well again, the same call succeeds.
        stand_in.fault(Fault::None);
        assert_eq!(mover.claim(&claim("b")).await, Ok(()), "{kind:?}");
    }
}

#[tokio::test]
async fn a_success_that_is_none_is_found_out() {
    for kind in ALL {
        let dir = tempfile::tempdir().unwrap();
        let stand_in = StandIn::new(kind);
        stand_in.fault(Fault::Lies);
        let mover = stand_in.mover(dir.path(), Duration::from_secs(2));
        let error = mover.claim(&claim("b")).await.unwrap_err();
        assert!(
            matches!(&error, MoveError::Untrue { found, .. } if found == "a")
                || matches!(error, MoveError::Late(_)),
            "{kind:?}: {error:?}"
        );
        assert_eq!(stand_in.at(), kind.target("a"));
    }
}

#[tokio::test]
async fn what_was_done_counts_whatever_was_answered() {
    for kind in ALL {
        for fault in [Fault::DoneBut(500), Fault::DoneBut(502), Fault::ClosesAfter] {
            let dir = tempfile::tempdir().unwrap();
            let stand_in = StandIn::new(kind);
            let mover = stand_in.mover(dir.path(), LONG);
            stand_in.fault(fault.clone());
            assert_eq!(mover.claim(&claim("b")).await, Ok(()), "{kind:?} {fault:?}");
        }
    }
}

#[tokio::test]
async fn a_provider_that_hangs_or_is_away_is_given_up() {
    for kind in ALL {
        let dir = tempfile::tempdir().unwrap();
        let stand_in = StandIn::new(kind);
        stand_in.fault(Fault::Hangs);
        let short = Duration::from_millis(300);
        let mover = stand_in.mover(dir.path(), short);
        assert_eq!(
            mover.claim(&claim("b")).await,
            Err(MoveError::Late(short)),
            "{kind:?}"
        );
        assert_eq!(mover.place(IP).await, Err(MoveError::Late(short)), "{kind:?}");

        let mut away = stand_in.clone();
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        away.url = format!("http://{free}");
        let error = away.mover(dir.path(), LONG).claim(&claim("b")).await.unwrap_err();
        assert!(matches!(error, MoveError::Unanswered(_)), "{kind:?}: {error:?}");
    }
}

/// Who may call is settled by the lease; here is what is left when two do all the same: one answer counts, the provider's,
/// and whoever looks again finds out that it lost.
#[tokio::test]
async fn of_two_callers_the_provider_hears_one_last_and_both_can_tell() {
    for kind in ALL {
        let dir = tempfile::tempdir().unwrap();
        let stand_in = StandIn::new(kind);
        let one = stand_in.mover(dir.path(), LONG);
        let other = stand_in.mover(dir.path(), LONG);
        assert_eq!(one.claim(&claim("b")).await, Ok(()));
        assert_eq!(other.claim(&claim("a")).await, Ok(()));
        let (seen, too) = (one.place(IP).await.unwrap(), other.place(IP).await.unwrap());
        assert!(seen == too && seen == at("a"), "{kind:?}: {seen:?} {too:?}");
    }
}

#[tokio::test]
async fn what_nobody_knows_is_said_so() {
    for kind in ALL {
        let dir = tempfile::tempdir().unwrap();
        let stand_in = StandIn::new(kind);
        let mover = stand_in.mover(dir.path(), LONG);
        // Another address.
        let other = "198.51.100.222".parse().unwrap();
        assert!(
            matches!(mover.place(other).await, Err(MoveError::Unknown { .. })),
            "{kind:?}"
        );
        // A server that has no target.
        assert_eq!(
            mover.claim(&claim("c")).await,
            Err(MoveError::NoTarget("c".parse().unwrap())),
            "{kind:?}"
        );
        // It is at a server of somebody else's.
        stand_in.state.lock().unwrap().at = kind.target("z");
        assert_eq!(
            mover.place(IP).await,
            Ok(Place::Elsewhere(kind.target("z"))),
            "{kind:?}"
        );
    }
}

/// Hetzner Robot says 409 to a request for what is so already; it counts when it is true.
#[tokio::test]
async fn already_routed_is_believed_when_it_is_true() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::new(Kind::HetznerRobot);
    let mover = stand_in.mover(dir.path(), Duration::from_secs(2));
    stand_in.fault(Fault::Moves(
        409,
        r#"{"error":{"status":409,"code":"FAILOVER_ALREADY_ROUTED","message":"x"}}"#,
    ));
    let error = mover.claim(&claim("b")).await.unwrap_err();
    assert!(
        matches!(error, MoveError::Untrue { .. } | MoveError::Late(_)),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_new_token_needs_no_restart_and_an_open_file_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::new(Kind::DigitalOcean);
    let mover = stand_in.mover(dir.path(), LONG);
    let file = dir.path().join("provider.env");
    std::fs::write(&file, "token = another\n").unwrap();
    mover.place(IP).await.unwrap();
    assert_eq!(stand_in.asked()[0].headers["authorization"], "Bearer another");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = mover.place(IP).await.unwrap_err();
    assert!(
        matches!(&error, MoveError::Credentials(why) if why.contains("644")),
        "{error:?}"
    );
    assert!(stand_in.asked().is_empty(), "nothing was sent");
}
