//! What is due when.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use pontoon_acme::{Attempt, Entry, Failure, FailureKind, Issued, Place, Secret, Stamped, schedule};
use pontoon_fleet::{Challenge, UnixMillis};

const DAY: u64 = 86_400_000;

fn place() -> Place {
    Place {
        directory: "https://ca.example/dir".to_owned(),
        email: None,
        ca: None,
        challenge: Challenge::Http01,
    }
}

fn issued(obtained: u64) -> Option<Stamped<Issued>> {
    Some(Stamped {
        at: UnixMillis(obtained),
        value: Issued {
            chain: String::new(),
            key: Secret::of_der(b""),
            directory: place().directory,
            issuer: String::new(),
            obtained: UnixMillis(obtained),
            by: "a".parse().unwrap(),
            not_before: UnixMillis(obtained),
            not_after: UnixMillis(obtained + 90 * DAY),
            renew_at: UnixMillis(obtained + 60 * DAY),
        },
    })
}

fn failed(at: u64, next: u64, asked: &Place) -> Option<Stamped<Attempt>> {
    Some(Stamped {
        at: UnixMillis(at),
        value: Attempt {
            by: "a".parse().unwrap(),
            asked: schedule::asked(asked, "x.example"),
            failures: 1,
            failure: Some((FailureKind::Refused, "no".to_owned())),
            next: UnixMillis(next),
        },
    })
}

fn due(entry: &Entry, place: &Place) -> u64 {
    schedule::due(Some(entry), place, "x.example").0
}

#[test]
fn a_name_is_due_without_a_certificate_and_then_when_it_is_to_be_renewed() {
    assert_eq!(schedule::due(None, &place(), "x.example"), UnixMillis(0));
    let mut entry = Entry::default();
    assert_eq!(due(&entry, &place()), 0);
    entry.issued = issued(DAY);
    assert_eq!(due(&entry, &place()), 61 * DAY);
    let elsewhere = Place {
        directory: "https://other.example/dir".to_owned(),
        ..place()
    };
    assert_eq!(due(&entry, &elsewhere), 0, "another authority was named");
}

#[test]
fn a_failure_is_waited_out_unless_something_was_mended_or_somebody_asks() {
    let mut entry = Entry {
        issued: issued(DAY),
        attempt: failed(62 * DAY, 63 * DAY, &place()),
        ..Entry::default()
    };
    assert_eq!(due(&entry, &place()), 63 * DAY);
    // A failure of an early renewal does not make it due earlier.
    entry.attempt = failed(10 * DAY, 11 * DAY, &place());
    assert_eq!(due(&entry, &place()), 61 * DAY);
    entry.issued = None;
    assert_eq!(due(&entry, &place()), 11 * DAY);
    let mended = Place {
        email: Some("right@example.com".to_owned()),
        ..place()
    };
    assert_eq!(due(&entry, &mended), 0, "something else is asked for");
    entry.wanted = Some(UnixMillis(10 * DAY));
    assert_eq!(
        due(&entry, &place()),
        11 * DAY,
        "that was answered with the failure"
    );
    entry.wanted = Some(UnixMillis(10 * DAY + 1));
    assert_eq!(due(&entry, &place()), 0);
    entry.issued = issued(10 * DAY + 1);
    assert_eq!(due(&entry, &place()), 70 * DAY + 1, "and that with a certificate");
}

#[test]
fn renewal_is_at_two_thirds_or_a_little_earlier() {
    let at = |chance| schedule::renewal(UnixMillis(10 * DAY), UnixMillis(100 * DAY), chance).0;
    assert_eq!(at(0), 70 * DAY);
    let earliest = at(u16::MAX);
    assert!((65 * DAY + DAY / 2..66 * DAY).contains(&earliest), "{earliest}");
    assert!(at(1000) < at(0) && at(1000) > earliest);
    // Clocks may lie: nothing overflows.
    assert_eq!(schedule::renewal(UnixMillis(5), UnixMillis(1), 9), UnixMillis(5));
    schedule::renewal(UnixMillis(0), UnixMillis(u64::MAX), u16::MAX);
}

#[test]
fn an_authority_that_says_no_is_asked_ever_more_seldom() {
    let failure = |kind, retry_after| Failure {
        kind,
        what: String::new(),
        retry_after,
    };
    let wait = |kind, failures| schedule::back_off(&failure(kind, None), failures, 0).as_secs() / 60;
    let waits = |kind| [1, 2, 3, 4, 5, 6, 900].map(|failures| wait(kind, failures));
    assert_eq!(waits(FailureKind::Unreachable), [1, 2, 5, 15, 60, 60, 60]);
    assert_eq!(waits(FailureKind::Refused), [5, 20, 60, 240, 720, 720, 720]);
    assert_eq!(waits(FailureKind::Limited), [60, 180, 720, 720, 720, 720, 720]);
    // Let's Encrypt allows five failed validations of a name an hour.
    let refused = waits(FailureKind::Refused);
    assert!(refused[0] + refused[1] + refused[2] > 60);
    let asked = Some(Duration::from_secs(2 * 86_400));
    assert_eq!(
        schedule::back_off(&failure(FailureKind::Limited, asked), 1, 0),
        Duration::from_secs(2 * 86_400)
    );
    let for_ever = Some(Duration::MAX);
    let longest = schedule::back_off(&failure(FailureKind::Limited, for_ever), 1, u16::MAX);
    assert!(longest <= Duration::from_secs(9 * 86_400), "{longest:?}");
    let later = schedule::back_off(&failure(FailureKind::Refused, None), 1, u16::MAX);
    assert_eq!(later, Duration::from_secs(375), "a quarter more at the most");
}
