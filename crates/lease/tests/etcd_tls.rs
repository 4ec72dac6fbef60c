//! etcd over TLS, with client certificates and with a user: what it takes, and what each wrong file is told to be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is the report

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::authority::{Authority, etcd};
use common::record::record;
use common::stores::{PATIENCE, Running};
use pontoon_config::{ClientCertificate, Credentials, EtcdTls};
use pontoon_fleet::{Code, Refusal};
use pontoon_lease::probe::Effort;
use pontoon_lease::{Kept, LeaseStore, Place, Swap, open, probe};

struct Fleet {
    authority: Authority,
    ca: PathBuf,
    client: ClientCertificate,
    dir: tempfile::TempDir,
    store: Running,
}

fn fleet() -> Option<Fleet> {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let ca = authority.write(dir.path(), "ca");
    let store = etcd(&ca, &authority.sign(dir.path(), "server", "127.0.0.1", false))?;
    let client = authority.sign(dir.path(), "client", "a.example.com", false);
    Some(Fleet {
        authority,
        ca,
        client,
        dir,
        store,
    })
}

impl Fleet {
    fn tls(&self) -> EtcdTls {
        EtcdTls {
            ca: Some(self.ca.clone()),
            client: Some(self.client.clone()),
        }
    }

    fn place(&self, tls: EtcdTls, password: Option<&str>) -> Place {
        let secret = password.map(|password| {
            let file = self.dir.path().join(format!("secret-{password}"));
            std::fs::write(&file, format!("user = pontoon\npassword = {password}\n")).unwrap();
            Credentials::File(file)
        });
        let url = format!("etcds://127.0.0.1:{}", self.store.port);
        Place::parse(&url, None, secret).unwrap().with_files(tls).unwrap()
    }

    /// What `pontoon apply` and `pontoon lease probe` do.
    async fn ask(&self, tls: EtcdTls, password: Option<&str>) -> Result<(), Refusal> {
        let cell = open(&self.place(tls, password), PATIENCE)?;
        let effort = Effort {
            writers: 4,
            rounds: 5,
        };
        probe(&*cell, "t", effort).await?.verdict()
    }

    async fn refused(&self, tls: EtcdTls, password: Option<&str>) -> String {
        let refusal = self.ask(tls, password).await.unwrap_err();
        assert_eq!(refusal.code, Code::N002, "{refusal:?}");
        refusal.evidence.join("\n")
    }

    /// A call of etcd's gateway, as long as anybody may.
    fn call(&self, path: &str, body: &str) -> String {
        self.call_as("", path, body)
    }

    fn call_as(&self, token: &str, path: &str, body: &str) -> String {
        let output = Command::new("curl")
            .args(["-sS", "--fail-with-body", "-d", body])
            .args(["-H", &format!("Authorization: {token}"), "--cacert"])
            .arg(&self.ca)
            .arg("--cert")
            .arg(&self.client.certificate)
            .arg("--key")
            .arg(&self.client.key)
            .arg(format!("https://127.0.0.1:{}/v3/auth/{path}", self.store.port))
            .output()
            .unwrap();
        assert!(output.status.success(), "{path}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[tokio::test]
async fn certificates_of_both_sides_are_checked_and_wrong_ones_named() {
    let Some(fleet) = fleet() else { return };
    assert_eq!(fleet.ask(fleet.tls(), None).await, Ok(()));

    // One of another name, and one that pretends to be ours.
    for name in ["other authority", "authority"] {
        let ca = Authority::new(name).write(fleet.dir.path(), "pretender");
        let tls = EtcdTls {
            ca: Some(ca.clone()),
            ..fleet.tls()
        };
        let told = fleet.refused(tls, None).await;
        assert!(
            told.contains("not signed by one of") && told.contains(ca.to_str().unwrap()),
            "{told}"
        );
    }
    let other = Authority::new("other authority");
    let told = fleet
        .refused(
            EtcdTls {
                ca: None,
                ..fleet.tls()
            },
            None,
        )
        .await;
    assert!(told.contains("this machine trusts"), "{told}");

    let told = fleet
        .refused(
            EtcdTls {
                client: None,
                ..fleet.tls()
            },
            None,
        )
        .await;
    assert!(told.contains("does not take our certificate"), "{told}");
    let ended = fleet.authority.sign(fleet.dir.path(), "ended", "a", true);
    let strange = other.sign(fleet.dir.path(), "strange", "a", false);
    for client in [ended, strange] {
        let told = fleet
            .refused(
                EtcdTls {
                    client: Some(client),
                    ..fleet.tls()
                },
                None,
            )
            .await;
        assert!(told.contains("does not take our certificate"), "{told}");
    }
}

#[tokio::test]
async fn a_server_certificate_that_ended_or_is_of_another_name_is_refused() {
    for (host, ended, word) in [
        ("127.0.0.1", true, "expired"),
        ("b.example.com", false, "not valid for name"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("authority");
        let ca = authority.write(dir.path(), "ca");
        let server = authority.sign(dir.path(), "server", host, ended);
        let client = authority.sign(dir.path(), "client", "a", false);
        let Some(store) = etcd(&ca, &server) else { return };
        let fleet = Fleet {
            authority,
            ca,
            client,
            dir,
            store,
        };
        let told = fleet.refused(fleet.tls(), None).await;
        assert!(told.contains(word), "{told}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_before_anything_is_asked() {
    let Some(fleet) = fleet() else { return };
    let there = fleet.client.clone();
    let missing = fleet.dir.path().join("missing.pem");
    let noise = fleet.dir.path().join("noise.pem");
    std::fs::write(&noise, "hunter2").unwrap();
    let strange = Authority::new("authority").sign(fleet.dir.path(), "strange", "a", false);
    let with = |certificate: &Path, key: &Path| EtcdTls {
        ca: None,
        client: Some(ClientCertificate {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        }),
    };
    let ca = |file: &Path| EtcdTls {
        ca: Some(file.to_owned()),
        client: None,
    };
    for (tls, file) in [
        (ca(&missing), &missing),
        (ca(&noise), &noise),
        (with(&missing, &there.key), &missing),
        (with(&there.certificate, &noise), &noise),
        (with(&there.certificate, &strange.key), &strange.key),
    ] {
        let refusal = fleet.ask(tls, None).await.unwrap_err();
        let told = refusal.evidence.join("\n");
        assert!(told.contains(file.to_str().unwrap()), "{refusal:?}");
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[tokio::test]
async fn certificates_that_are_renewed_are_taken_up() {
    let Some(fleet) = fleet() else { return };
    let ClientCertificate { certificate, key } = fleet.client.clone();
    let store = Kept::new(open(&fleet.place(fleet.tls(), None), PATIENCE).unwrap());
    store.read().await.unwrap();
    let ended = fleet.authority.sign(fleet.dir.path(), "ended", "a", true);
    std::fs::copy(&ended.certificate, &certificate).unwrap();
    std::fs::copy(&ended.key, &key).unwrap();
    store.read().await.unwrap_err();
    fleet.authority.sign(fleet.dir.path(), "client", "a", false);
    store.read().await.unwrap();
}

#[tokio::test]
async fn a_user_logs_in_and_a_wrong_password_is_named() {
    let Some(fleet) = fleet() else { return };
    fleet.call("user/add", r#"{"name": "root", "password": "r"}"#);
    fleet.call("user/add", r#"{"name": "pontoon", "password": "good"}"#);
    fleet.call("user/add", r#"{"name": "other", "password": "other"}"#);
    fleet.call("role/add", r#"{"name": "root"}"#);
    fleet.call("role/add", r#"{"name": "lease"}"#);
    // "pontoon/" to "pontoon0", which is the next after all that begin so.
    fleet.call(
        "role/grant",
        r#"{"name": "lease", "perm": {"permType": "READWRITE", "key": "cG9udG9vbi8=", "range_end": "cG9udG9vbjA="}}"#,
    );
    fleet.call("user/grant", r#"{"user": "root", "role": "root"}"#);
    fleet.call("user/grant", r#"{"user": "pontoon", "role": "lease"}"#);
    fleet.call("enable", "{}");

    assert_eq!(fleet.ask(fleet.tls(), Some("good")).await, Ok(()));
    let told = fleet.refused(fleet.tls(), Some("bad")).await;
    assert!(told.contains("authentication failed"), "{told}");
    assert!(!told.contains("bad"), "{told}");
    let told = fleet.refused(fleet.tls(), None).await;
    // What is said of nobody depends on whether certificates are wanted.
    assert!(
        told.contains("permission denied") || told.contains("user name is empty"),
        "{told}"
    );

    let named = fleet.authority.sign(fleet.dir.path(), "named", "a", false);
    let tls = EtcdTls {
        client: Some(named),
        ..fleet.tls()
    };
    let told = fleet.refused(tls, Some("good")).await;
    assert!(told.contains("without a common name"), "{told}");

    // One who may log in, and not write there.
    let secret = fleet.dir.path().join("other");
    std::fs::write(&secret, "user = other\npassword = other\n").unwrap();
    let url = format!("etcds://127.0.0.1:{}", fleet.store.port);
    let place = Place::parse(&url, None, Some(Credentials::File(secret))).unwrap();
    let cell = open(&place.with_files(fleet.tls()).unwrap(), PATIENCE).unwrap();
    let refusal = probe(&*cell, "t", Effort::default()).await.unwrap_err();
    assert!(refusal.evidence[0].contains("permission denied"), "{refusal:?}");
}

#[tokio::test]
async fn a_login_that_ended_is_made_again() {
    let Some(fleet) = fleet() else { return };
    fleet.call("user/add", r#"{"name": "root", "password": "r"}"#);
    fleet.call("user/add", r#"{"name": "pontoon", "password": "good"}"#);
    fleet.call("role/add", r#"{"name": "root"}"#);
    fleet.call("user/grant", r#"{"user": "root", "role": "root"}"#);
    fleet.call("user/grant", r#"{"user": "pontoon", "role": "root"}"#);
    fleet.call("enable", "{}");
    let store = Kept::new(open(&fleet.place(fleet.tls(), Some("good")), PATIENCE).unwrap());
    let Swap::Won(first) = store.compare_and_swap(None, &record(1, "a", 1)).await.unwrap() else {
        panic!()
    };
    // A change of the users ends every login that was made before it.
    let login = fleet.call("authenticate", r#"{"name": "root", "password": "r"}"#);
    let token = login.split("\"token\":\"").nth(1).unwrap();
    let token = token.split('"').next().unwrap();
    fleet.call_as(token, "user/add", r#"{"name": "new", "password": "new"}"#);
    let swap = store
        .compare_and_swap(Some(&first), &record(1, "a", 2))
        .await
        .unwrap();
    assert!(matches!(swap, Swap::Won(_)), "{swap:?}");
}
