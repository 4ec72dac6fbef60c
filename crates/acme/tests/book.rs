//! What servers share merges to the same everywhere, and shows keys to nobody who has no use for them.
#![allow(missing_docs, clippy::unwrap_used)]

use pontoon_acme::{
    Account, Attempt, Begun, Book, FailureKind, Issued, Secret, Stamped, account_key, certificate_key,
};
use pontoon_fleet::UnixMillis;
use proptest::prelude::*;

fn issued(obtained: u64) -> Issued {
    Issued {
        chain: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
        key: Secret::of_der(b"private"),
        directory: "https://ca.example/dir".to_owned(),
        issuer: "R11".to_owned(),
        obtained: UnixMillis(obtained),
        by: "a".parse().unwrap(),
        not_before: UnixMillis(0),
        not_after: UnixMillis(90),
        renew_at: UnixMillis(60),
    }
}

fn stamped<T>(at: u64, value: T) -> Stamped<T> {
    Stamped {
        at: UnixMillis(at),
        value,
    }
}

fn books() -> impl Strategy<Value = Book> {
    let account = (0u8..3, any::<bool>()).prop_map(|(which, key)| Account {
        // A key is made once.
        made: UnixMillis(u64::from(which % 2)),
        thumbprint: format!("t{which}"),
        // The key follows from the thumbprint.
        key: key.then(|| Secret::of_der(&[which])),
    });
    let entry = (
        prop::option::of((0u64..4, 0u64..3)),
        prop::option::of((0u64..4, prop::option::of(0u8..3))),
        prop::option::of((0u64..4, 0u32..3)),
        prop::option::of((0u64..4, prop::option::of("[xy]"))),
        prop::option::of(0u64..4),
    );
    let names = prop::collection::btree_map("[ab]", entry, 0..3);
    (prop::option::of(account), names).prop_map(|(account, names)| {
        let mut book = Book {
            account,
            ..Book::default()
        };
        for (name, (certificate, begun, attempt, proof, wanted)) in names {
            let entry = book.entry(&name);
            entry.issued = certificate.map(|(at, obtained)| stamped(at, issued(obtained)));
            entry.begun = begun.map(|(at, which)| {
                let begun = which.map(|which| Begun {
                    directory: "d".to_owned(),
                    order: format!("o{which}"),
                    key: Secret::of_der(b"private"),
                });
                stamped(at, begun)
            });
            entry.attempt = attempt.map(|(at, failures)| {
                let attempt = Attempt {
                    by: "a".parse().unwrap(),
                    asked: String::new(),
                    failures,
                    failure: Some((FailureKind::Refused, "no".to_owned())),
                    next: UnixMillis(0),
                };
                stamped(at, attempt)
            });
            entry.proof = proof.map(|(at, text)| stamped(at, text));
            entry.wanted = wanted.map(UnixMillis);
        }
        book
    })
}

const LATEST: UnixMillis = UnixMillis(100);

fn merged(books: &[&Book]) -> Book {
    let mut all = Book::default();
    for book in books {
        all.merge(book, LATEST);
    }
    all
}

proptest! {
    #[test]
    fn the_order_of_hearing_does_not_matter(one in books(), two in books(), three in books()) {
        let once = merged(&[&one, &two, &three]);
        prop_assert_eq!(&merged(&[&three, &one, &two]), &once);
        prop_assert_eq!(&merged(&[&two, &two, &three, &one, &two]), &once);
        let mut pairs = merged(&[&one, &two]);
        pairs.merge(&merged(&[&two, &three]), LATEST);
        prop_assert_eq!(&pairs, &once);
        let mut same = once.clone();
        prop_assert!(!same.merge(&once, LATEST), "nothing is news twice");
        prop_assert_eq!(same.digest(), once.digest());
    }

    #[test]
    fn an_edge_gets_every_certificate_and_no_other_key(book in books()) {
        let edges = book.for_edges();
        prop_assert!(edges.account.iter().all(|account| account.key.is_none()));
        prop_assert!(edges.names.values().all(|entry| entry.begun.is_none()));
        for (name, entry) in &book.names {
            prop_assert_eq!(&edges.names[name].issued, &entry.issued);
        }
        // What an edge has adds nothing to what it was made of.
        let mut again = book.clone();
        prop_assert!(!again.merge(&edges, LATEST));
    }
}

#[test]
fn name_servers_get_proofs_and_nothing_else() {
    let mut book = Book {
        account: Some(account_key(UnixMillis(1)).unwrap()),
        ..Book::default()
    };
    book.entry("a.example").issued = Some(stamped(1, issued(1)));
    let quiet = book.digest();
    book.prove("a.example", UnixMillis(1), None);
    assert_eq!(book.digest(), quiet, "there was none, and is none");
    assert!(book.proofs(&[]).is_empty());
    book.prove("*.b.example", UnixMillis(5_500), Some("one".to_owned()));
    // However soon it comes, and whatever the clock says: the zone's serial counts seconds.
    book.prove("b.example", UnixMillis(5_500), Some("two".to_owned()));
    let names = ["a.example", "b.example", "*.b.example"].map(str::to_owned);
    let proofs = book.proofs(&names);
    assert_eq!(proofs.changed, UnixMillis(6_000));
    let texts = |name: &str| proofs.texts[name].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(texts("_acme-challenge.a.example"), [""; 0]);
    assert_eq!(texts("_acme-challenge.b.example"), ["one", "two"]);
    let theirs = book.for_name_servers();
    assert_eq!((theirs.account.is_none(), theirs.names.len()), (true, 2));
    assert!(theirs.names.values().all(|entry| entry.issued.is_none()));
    assert_eq!(theirs.proofs(&names), proofs);
    // When it is over that is heard too, and stays the last word.
    book.prove("b.example", UnixMillis(0), None);
    let mut heard = theirs.clone();
    assert!(heard.merge(&book.for_name_servers(), UnixMillis(10_000)));
    assert!(!heard.merge(&theirs, UnixMillis(10_000)));
    let after = heard.proofs(&names);
    assert_eq!(after.changed, UnixMillis(7_000));
    assert_eq!(after.texts["_acme-challenge.b.example"].len(), 1);
}

#[test]
fn a_stamp_from_the_future_is_nobodys_word() {
    let mut theirs = Book {
        account: Some(account_key(UnixMillis(101)).unwrap()),
        ..Book::default()
    };
    let entry = theirs.entry("a");
    entry.issued = Some(stamped(101, issued(1)));
    entry.wanted = Some(UnixMillis(101));
    let mut ours = Book::default();
    ours.entry("a").issued = Some(stamped(5, issued(5)));
    let before = ours.clone();
    assert!(!ours.merge(&theirs, LATEST));
    assert_eq!(ours, before);
    assert!(ours.merge(&theirs, UnixMillis(101)));
}

#[test]
fn what_replaces_is_stamped_later_whatever_the_clock_says() {
    let first = Stamped::after(None, UnixMillis(50), 1);
    let next = Stamped::after(Some(&first), UnixMillis(20), 2);
    assert_eq!((first.at, next.at), (UnixMillis(50), UnixMillis(51)));
}

#[test]
fn keys_are_not_shown_and_are_read_by_tls() {
    let account = account_key(UnixMillis(1)).unwrap();
    let key = certificate_key().unwrap();
    let book = Book {
        account: Some(account.clone()),
        ..Book::default()
    };
    let text = format!("{book:?}{key:?}");
    let inside = serde_json::to_value(&key).unwrap();
    assert!(!text.contains(inside.as_str().unwrap()), "{text}");
    assert_eq!(
        account.thumbprint.len(),
        43,
        "SHA-256 in base64url without padding"
    );
    let mut certificate = issued(1);
    certificate.key = key;
    let pair = rcgen::KeyPair::from_pem(&certificate.key.pem()).unwrap();
    let params = rcgen::CertificateParams::new(vec!["x.example".to_owned()]).unwrap();
    certificate.chain = params.self_signed(&pair).unwrap().pem();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.pem");
    std::fs::write(&file, certificate.file()).unwrap();
    let loaded = pontoon_certs::load(&pontoon_fleet::CertificateFiles {
        certificate: file.clone(),
        key: file,
        ocsp: None,
    });
    assert_eq!(loaded.unwrap().names, ["x.example"]);
}
