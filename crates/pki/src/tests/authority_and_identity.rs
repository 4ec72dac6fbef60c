use std::os::unix::fs::PermissionsExt;

use pontoon_fleet::{Code, Refusal};
use rcgen::{CertificateParams, IsCa, KeyPair, SanType};

use super::*;
use crate::{IdentityFiles, PkiError, csr_fingerprint, x509};

#[test]
fn an_authority_comes_back_as_it_was_with_its_key_for_the_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let made = Authority::create(&fleet(), now()).unwrap();
    assert!(Authority::load_optional(dir.path()).unwrap().is_none());
    made.save(dir.path()).unwrap();
    let read = Authority::load(dir.path()).unwrap();
    assert_eq!(
        (read.pin(), read.fleet(), read.certificate_pem()),
        (made.pin(), &fleet(), made.certificate_pem())
    );
    let mode = std::fs::metadata(dir.path().join("ca-key.pem"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(read.not_after().since(now()) > DAY * 3_640);
    assert!(!format!("{read:?}").contains("PRIVATE"));
    assert!(matches!(
        Authority::load(&dir.path().join("none")),
        Err(PkiError::Missing(_))
    ));
}

#[test]
fn the_authority_decides_the_names_and_powers_whatever_the_request_asks() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut greedy = CertificateParams::new(vec!["db1".to_owned(), "198.51.100.99".to_owned()]).unwrap();
    greedy.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    greedy
        .subject_alt_names
        .push(SanType::DnsName("a".try_into().unwrap()));
    let csr = greedy.serialize_request(&key).unwrap().pem().unwrap();
    let pem = authority
        .sign_server(&csr, &server("b"), address(), now(), SERVER_LIFETIME)
        .unwrap();
    let facts = x509::facts(&x509::certificate_from_pem(&pem).unwrap()).unwrap();
    assert_eq!(facts.names, ["b.pontoon.internal"]);
    assert_eq!(facts.addresses, [address()]);
    assert!(!facts.is_ca);
    assert!(facts.lifetime() < DAY * 31);
}

#[test]
fn two_certificates_of_one_key_have_different_serials() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let (_, csr) = new_csr("b");
    let sign = || {
        authority
            .sign_server(&csr, &server("b"), address(), now(), SERVER_LIFETIME)
            .unwrap()
    };
    assert_ne!(sign(), sign());
}

#[test]
fn a_request_that_is_broken_or_forged_or_of_another_key_type_is_refused() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let sign = |csr: &str| authority.sign_server(csr, &server("b"), address(), now(), SERVER_LIFETIME);
    let (_, good) = new_csr("b");
    sign(&good).unwrap();

    for bad in [
        "",
        "nonsense",
        &good[..good.len() / 2],
        &good.replace("REQUEST", "NOTHING"),
        &"x".repeat(1 << 20),
    ] {
        assert!(matches!(sign(bad), Err(PkiError::Pem { .. })), "{:.40}", bad);
        assert!(csr_fingerprint(bad).is_err());
    }
    // The key of one request under the signature of another: who asks does not hold that key.
    let (_, other) = new_csr("c");
    assert_eq!(
        Refusal::from(sign(&swap_signature(&good, &other)).unwrap_err()).code,
        Code::N005
    );

    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    for key in [p384, ed25519] {
        let csr = CertificateParams::new(vec!["b".to_owned()])
            .unwrap()
            .serialize_request(&key)
            .unwrap();
        assert!(matches!(sign(&csr.pem().unwrap()), Err(PkiError::Request(_))));
    }
}

/// `one` with the last byte of its signature changed for that of `other`, or flipped when they are equal.
fn swap_signature(one: &str, other: &str) -> String {
    let der = |pem: &str| x509::request_from_pem(pem).unwrap().0.as_ref().to_vec();
    let (mut forged, donor) = (der(one), der(other));
    let at = forged.len() - 4;
    forged[at] = donor[donor.len() - 4] ^ u8::from(forged[at] == donor[donor.len() - 4]);
    let certificate = x509::certificate_to_pem(&forged.into());
    certificate.replace("CERTIFICATE", "CERTIFICATE REQUEST")
}

#[test]
fn no_damaged_request_panics() {
    let (_, good) = new_csr("b");
    let der = x509::request_from_pem(&good).unwrap().0.as_ref().to_vec();
    let authority = Authority::create(&fleet(), now()).unwrap();
    for at in 0..der.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bad = der.clone();
            bad[at] ^= change;
            let pem = x509::certificate_to_pem(&bad.into()).replace("CERTIFICATE", "CERTIFICATE REQUEST");
            // Bits of a signature's encoding that change nothing may pass; a request for other facts may not.
            let _ = authority.sign_server(&pem, &server("b"), address(), now(), SERVER_LIFETIME);
        }
    }
}

#[test]
fn an_identity_comes_back_as_it_was() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let made = issue_at(&authority, "b", dir.path(), now());
    let read = Identity::load(dir.path()).unwrap();
    assert_eq!(
        (read.name(), read.fleet(), read.pin().unwrap()),
        (&server("b"), &fleet(), authority.pin())
    );
    assert_eq!(read.certificate_pem(), made.certificate_pem());
    assert_eq!(read.addresses(), [address()]);
    let mode = std::fs::metadata(dir.path().join("key.pem"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);
    assert!(!dir.path().join("next-key.pem").exists());
    assert!(!format!("{read:?}").contains("PRIVATE"));
}

#[test]
fn thirty_days_and_a_new_one_is_due_after_twenty() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let start = now();
    let identity = issue_at(&authority, "b", dir.path(), start);
    assert!(!identity.renew_due(start));
    assert!(!identity.renew_due(start.plus(DAY * 19 + DAY / 2)));
    assert!(identity.renew_due(start.plus(DAY * 20)));
    assert!(!identity.is_expired(start.plus(DAY * 29)));
    assert!(identity.is_expired(start.plus(DAY * 30)));
    assert!(identity.renew_due(start.plus(DAY * 400)));
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let (ours, theirs) = (
        Authority::create(&fleet(), now()).unwrap(),
        Authority::create(&fleet(), now()).unwrap(),
    );
    let (key, csr) = new_csr("b");
    let (other_key, _) = new_csr("b");
    let pem = ours
        .sign_server(&csr, &server("b"), address(), now(), SERVER_LIFETIME)
        .unwrap();
    let (our_ca, their_ca) = (ours.certificate_pem(), theirs.certificate_pem());
    assert!(Identity::assemble(fleet(), &key, &pem, &our_ca).is_ok());
    for (key, pem, ca) in [
        (&other_key, &pem, &our_ca),
        (&key, &pem, &their_ca),
        (&key, &our_ca, &our_ca),
    ] {
        let error = Identity::assemble(fleet(), key, pem, ca).unwrap_err();
        assert_eq!(Refusal::from(error).code, Code::J009);
    }
    for bad in ["", "x", &pem[..pem.len() - 40]] {
        assert!(Identity::assemble(fleet(), &key, bad, &our_ca).is_err());
        assert!(Identity::assemble(fleet(), &key, &pem, bad).is_err());
    }
}

#[test]
fn damaged_files_are_errors_that_name_what_is_wrong() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        Refusal::from(Identity::load(dir.path()).unwrap_err()).code,
        Code::J007
    );
    let files = IdentityFiles::in_dir(dir.path());
    for path in [&files.cert, &files.key, &files.ca] {
        issue_at(&authority, "b", dir.path(), now());
        let whole = std::fs::read(path).unwrap();
        for damaged in [
            &b""[..],
            &whole[..whole.len() / 2],
            &whole[..whole.len() - 30],
            b"\xff\xfe\x00",
        ] {
            std::fs::write(path, damaged).unwrap();
            assert!(Identity::load(dir.path()).is_err(), "{}", path.display());
        }
        std::fs::write(path, &whole).unwrap();
        Identity::load(dir.path()).unwrap();
    }
}

#[test]
fn a_renewal_cut_off_between_its_steps_leaves_a_usable_identity() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = IdentityFiles::in_dir(dir.path());
    let old = issue_at(&authority, "b", dir.path(), now());
    let elsewhere = tempfile::tempdir().unwrap();
    let new = issue_at(&authority, "b", elsewhere.path(), now());
    // After the first step: the new key lies there, the old certificate and key are in place.
    std::fs::write(&files.next_key, new.key_pem()).unwrap();
    assert_eq!(
        Identity::load(dir.path()).unwrap().certificate_pem(),
        old.certificate_pem()
    );
    // After the second: the new certificate is in place, its key is not.
    std::fs::write(&files.cert, new.certificate_pem()).unwrap();
    let read = Identity::load(dir.path()).unwrap();
    assert_eq!(read.certificate_pem(), new.certificate_pem());
    assert_eq!(std::fs::read_to_string(&files.key).unwrap(), new.key_pem());
    assert!(!files.next_key.exists());
}

#[test]
fn an_interrupted_join_shows_the_same_key_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = NewKey::pending(dir.path()).unwrap();
    let again = NewKey::pending(dir.path()).unwrap();
    assert_eq!(first.fingerprint(), again.fingerprint());
    let csr = again.csr(&server("b"), address()).unwrap();
    assert_eq!(csr_fingerprint(&csr).unwrap(), first.fingerprint());
    std::fs::write(
        dir.path().join("next-key.pem"),
        "-----BEGIN PRIVATE KEY-----\nMII",
    )
    .unwrap();
    assert!(NewKey::pending(dir.path()).is_err());
}

#[test]
fn a_running_process_follows_a_renewal_and_ignores_a_broken_one() {
    let authority = Authority::create(&fleet(), now()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let old = issue_at(&authority, "b", dir.path(), days_ago(20));
    let shared = SharedIdentity::load(dir.path()).unwrap();
    assert!(shared.current().renew_due(now()));
    std::fs::write(dir.path().join("cert.pem"), "broken").unwrap();
    assert_eq!(shared.reload().certificate_pem(), old.certificate_pem());
    let new = issue_at(&authority, "b", dir.path(), now());
    assert_eq!(shared.reload().certificate_pem(), new.certificate_pem());
    assert!(!shared.current().renew_due(now()));
}

#[test]
fn openssl_reads_what_we_write() {
    let Ok(version) = std::process::Command::new("openssl").arg("version").output() else {
        println!("SKIPPED: openssl is not installed");
        return;
    };
    assert!(version.status.success());
    let authority = Authority::create(&fleet(), now()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    issue_at(&authority, "b", dir.path(), now());
    let run = |args: &[&str]| {
        let out = std::process::Command::new("openssl")
            .args(args)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap()
    };
    for purpose in ["sslserver", "sslclient"] {
        run(&[
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            "ca.pem",
            "cert.pem",
        ]);
    }
    assert!(
        run(&["x509", "-in", "cert.pem", "-noout", "-ext", "subjectAltName"])
            .contains("DNS:b.pontoon.internal, IP Address:198")
    );
    let of_key = run(&["pkey", "-in", "key.pem", "-pubout"]);
    assert_eq!(of_key, run(&["x509", "-in", "cert.pem", "-noout", "-pubkey"]));
}
