//! `pontoon lease probe` beside a real etcd with TLS. Skipped where there is none (`script/get-stores`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
#[path = "../../lease/tests/common/mod.rs"]
mod lease;

use common::Machine;
use lease::authority::{Authority, etcd};

#[test]
fn etcd_over_tls_is_probed_and_what_is_wrong_is_named() {
    let machine = Machine::new();
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let ca = authority.write(dir.path(), "ca");
    let server = authority.sign(dir.path(), "server", "127.0.0.1", false);
    let client = authority.sign(dir.path(), "client", "a", false);
    let Some(store) = etcd(&ca, &server) else { return };
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (ca, certificate, key) = (text(&ca), text(&client.certificate), text(&client.key));
    let tls = format!("etcds://127.0.0.1:{}", store.port);
    let probe = |url: &str, more: &[&str]| {
        let mut words = vec!["lease", "probe", url, "--rounds", "3"];
        words.extend(more);
        machine.run(&words)
    };
    let pair = ["--certificate", &certificate, "--key", &key];

    let all = [&["--ca", &ca][..], &pair].concat();
    let ran = probe(&tls, &all).must_exit(0);
    assert!(ran.out.contains("fit for a lease"), "{}", ran.out);

    let other = text(&Authority::new("other").write(dir.path(), "other"));
    let ran = probe(&tls, &[&["--ca", &other][..], &pair].concat()).must_exit(4);
    assert!(
        ran.err.contains("N002") && ran.err.contains(&other),
        "{}",
        ran.err
    );

    let ran = probe(&tls, &["--ca", &ca]).must_exit(4);
    assert!(ran.err.contains("does not take our certificate"), "{}", ran.err);

    let ran = probe(&tls, &["--ca", "/no/such/file"]).must_exit(2);
    assert!(ran.err.contains("/no/such/file"), "{}", ran.err);

    // Half a pair, and files for a store that is not reached over TLS.
    probe(&tls, &["--ca", &ca, "--certificate", &certificate]).must_exit(2);
    let ran = probe(&tls.replace("etcds", "etcd"), &["--ca", &ca]).must_exit(2);
    assert!(ran.err.contains("etcds://"), "{}", ran.err);
}
