//! The systemd units, the installer and the shared shell functions, without installing anything on this machine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a panic is the report, in its helpers too"
)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pontoon_e2e::repository;

/// How exposed `systemd-analyze security` may find each unit: 0 is best, 10 worst. The helper is root.
const EXPOSURE: &[(&str, f64)] = &[
    ("pontoon-agent.service", 2.0),
    ("pontoon-edge.service", 2.0),
    ("pontoon-sql.service", 2.0),
    ("pontoon-dns.service", 2.0),
    ("pontoon-cache.service", 2.0),
    ("pontoon-memcached.service", 2.0),
    ("pontoon-address.service", 2.6),
    ("pontoon-helper.service", 3.2),
];

#[test]
fn the_units_are_correct_and_hardened() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("SKIPPED the_units_are_correct_and_hardened: systemd-analyze is not there");
        return;
    }
    // `verify` wants the program to exist.
    let folder = tempfile::tempdir().unwrap();
    let units: Vec<PathBuf> = EXPOSURE
        .iter()
        .map(|(name, _)| {
            let path = folder.path().join(name);
            std::fs::write(&path, unit(name).replace("/usr/bin/pontoon", "/bin/true")).unwrap();
            path
        })
        .collect();
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&units)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("pontoon-")).collect();
    assert!(ours.is_empty(), "{said}");
    for (path, (name, limit)) in units.iter().zip(EXPOSURE) {
        let analysed = Command::new("systemd-analyze")
            .args(["security", "--offline=true"])
            .arg(path)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&analysed.stdout);
        let level: f64 = text
            .lines()
            .find_map(|line| {
                line.split_once("Overall exposure level for ")?
                    .1
                    .split_whitespace()
                    .nth(1)?
                    .parse()
                    .ok()
            })
            .unwrap_or_else(|| panic!("no exposure level for {name} in: {text}"));
        assert!(level <= *limit, "{name}: exposure {level}, at most {limit}");
    }
}

#[test]
fn no_tier_is_bound_to_the_agent() {
    for name in [
        "pontoon-edge.service",
        "pontoon-sql.service",
        "pontoon-dns.service",
        "pontoon-cache.service",
        "pontoon-memcached.service",
        "pontoon-address.service",
    ] {
        let text = unit(name);
        for bond in [
            "PartOf=",
            "BindsTo=",
            "Requires=",
            "Requisite=",
            "StopPropagatedFrom=",
            "pontoon-agent",
        ] {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            assert!(
                !lines.into_iter().any(|line| line.contains(bond)),
                "{name} has {bond} (P5)"
            );
        }
        assert!(
            text.contains("Restart=always") && text.contains("StartLimitIntervalSec=0"),
            "{name}"
        );
    }
}

#[test]
fn the_node_file_stays_roots() {
    for line in read("packaging/systemd/pontoon.tmpfiles.conf")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        // Directories and nothing else: no owner is ever changed below them.
        assert!(line.starts_with("d "), "{line}");
    }
}

#[test]
fn the_tiers_are_not_the_agents_user() {
    let user = |name| {
        let text = unit(name);
        let line = text.lines().find_map(|line| line.strip_prefix("User="));
        line.map(str::to_owned)
    };
    assert_eq!(user("pontoon-agent.service").as_deref(), Some("pontoon"));
    for tier in [
        "pontoon-edge.service",
        "pontoon-sql.service",
        "pontoon-dns.service",
        "pontoon-cache.service",
        "pontoon-memcached.service",
        "pontoon-address.service",
    ] {
        assert_eq!(user(tier).as_deref(), Some("pontoon-tier"), "{tier}");
    }
    // The directories' group is the tiers', so that they read the view and the certificate; secrets are mode 0600.
    let directories = read("packaging/systemd/pontoon.tmpfiles.conf");
    for wanted in [
        "/var/lib/pontoon 2750 pontoon pontoon-tier",
        "/var/lib/pontoon/log 3770 pontoon pontoon-tier",
        "/run/pontoon 1775 pontoon pontoon-tier",
    ] {
        let is_there = directories.lines().any(|line| {
            line.split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .contains(wanted)
        });
        assert!(is_there, "{wanted} in {directories}");
    }
}

#[test]
fn the_access_log_can_be_written_and_rotated() {
    let folder = "/var/lib/pontoon/log";
    let edge = unit("pontoon-edge.service");
    let may_write = edge.lines().find_map(|line| line.strip_prefix("ReadWritePaths="));
    assert!(
        may_write.is_some_and(|paths| paths.split(' ').any(|path| path == folder)),
        "{edge}"
    );
    let rotation = read("packaging/logrotate.conf");
    for wanted in [
        &format!("{folder}/edge-access.log {{"),
        "--signal=HUP pontoon-edge.service",
        "su pontoon-tier pontoon-tier",
        "delaycompress",
    ] {
        assert!(rotation.contains(wanted), "{wanted} in {rotation}");
    }
    let conf = tempfile::NamedTempFile::new().unwrap();
    // logrotate believes no file that others may write, nor users that are not there.
    std::fs::write(
        conf.path(),
        rotation.replace("su pontoon-tier pontoon-tier", "su root root"),
    )
    .unwrap();
    let state = conf.path().with_extension("state");
    let asked = Command::new("logrotate")
        .args(["--debug", "--state"])
        .args([state.as_path(), conf.path()])
        .output();
    match asked {
        Ok(said) => assert!(said.status.success(), "{said:?}"),
        Err(_) => println!("SKIPPED the_access_log_can_be_written_and_rotated: logrotate is not there"),
    }
}

#[test]
fn the_installer_installs_and_takes_away_exactly_what_it_installed() {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("dest");
    let program = folder.path().join("pontoon");
    let script = "#!/bin/sh\ncase $1 in man) echo page > \"$2/pontoon.1\"; echo page > \"$2/pontoon-init.1\" ;; \
                  completions) echo \"for $2\" ;; esac\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = program.to_str().unwrap();

    let installed = install(&dest, &["--binary", program, "--prefix", "/opt/pontoon"]);
    assert!(installed.status.success(), "{installed:?}");
    let files = files_below(&dest);
    for wanted in [
        "opt/pontoon/bin/pontoon",
        "opt/pontoon/share/man/man1/pontoon-init.1",
        "opt/pontoon/share/bash-completion/completions/pontoon",
        "etc/systemd/system/pontoon-agent.service",
        "etc/systemd/system/mariadb.service.d/50-pontoon.conf",
        "etc/sysusers.d/pontoon.conf",
        "etc/tmpfiles.d/pontoon.conf",
        "etc/logrotate.d/pontoon",
    ] {
        assert!(
            files.iter().any(|file| file == Path::new(wanted)),
            "{wanted} is not among {files:?}"
        );
    }
    let agent = std::fs::read_to_string(dest.join("etc/systemd/system/pontoon-agent.service")).unwrap();
    assert!(
        agent.contains("ExecStart=/opt/pontoon/bin/pontoon agent"),
        "{agent}"
    );

    let kept = dest.join("etc/pontoon/fleet.toml");
    std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
    std::fs::write(&kept, "version = 1\n").unwrap();
    let removed = install(&dest, &["--uninstall", "--prefix", "/opt/pontoon"]);
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(files_below(&dest), [PathBuf::from("etc/pontoon/fleet.toml")]);
}

#[test]
fn the_installer_refuses_what_it_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(install(folder.path(), &["--frobnicate"]).status.code(), Some(2));
    let missing = install(folder.path(), &["--binary", "/nonexistent/pontoon"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("cargo build --release"),
        "{missing:?}"
    );
    assert_eq!(files_below(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn somebody_who_cannot_install_packages_is_told_the_command() {
    let refused = shell(
        "id() { echo 1000; }; has() { [ \"$1\" = apt-get ]; }; missing_packages() { echo iproute2; }; \
         need_packages fleet",
    );
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("apt-get install --no-install-recommends iproute2"),
        "{said}"
    );
}

#[test]
fn packages_are_installed_without_a_question_where_nobody_can_answer() {
    let done = shell(
        "id() { echo 0; }; has() { [ \"$1\" = apt-get ]; }; missing_packages() { echo iproute2; }; \
         env() { shift; echo \"ran: $*\"; }; need_packages fleet",
    );
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(
        said.contains("apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends iproute2"),
        "{said}"
    );
    assert!(!said.contains("[Y/n]"), "{said}");
}

#[test]
fn a_toolchain_that_is_too_old_is_named() {
    let refused = shell("rustc() { echo 'rustc 1.63.0 (Debian)'; }; cargo() { :; }; need_rust");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("Rust 1.63.0 is too old"), "{said}");
}

/// Runs a line of shell after `script/lib.sh`, with nothing to read from.
fn shell(line: &str) -> Output {
    Command::new("bash")
        .arg("-c")
        .arg(format!(". {}/script/lib.sh\n{line}", repository().display()))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

fn install(dest: &Path, arguments: &[&str]) -> Output {
    Command::new(repository().join("packaging/install"))
        .args(arguments)
        .env("DESTDIR", dest)
        .output()
        .unwrap()
}

fn unit(name: &str) -> String {
    read(&format!("packaging/systemd/{name}"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(repository().join(name)).unwrap()
}

/// Every file below a folder, relative to it, sorted.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path)
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_owned())
            }
        }
    }
    found.sort();
    found
}
