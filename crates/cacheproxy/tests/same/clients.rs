//! Client libraries of several languages say the same of the proxy as of a memcached that they ask directly. The scripts are
//! in `scripts`; the libraries are Debian's, unpacked by `script/get-memcached`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{One, free_address, memcached_at, unpacked};
use pontoon_testkit::find_program;

#[test]
fn pymemcache() {
    is_the_same("client_pymemcache.py", || Some(python()));
}

#[test]
fn pylibmc() {
    is_the_same("client_pylibmc.py", || Some(python()));
}

#[test]
fn php_memcached() {
    is_the_same("client_php_memcached.php", || {
        let modules = one_in(&root().join("usr/lib/php"), "2")?;
        let mut command = Command::new(find_program("php")?);
        command.arg("-n");
        for module in ["igbinary", "msgpack", "memcached"] {
            let path = modules.join(format!("{module}.so"));
            command.arg("-d").arg(format!("extension={}", path.display()));
        }
        Some(command)
    });
}

#[test]
fn dalli() {
    is_the_same("client_dalli.rb", || {
        let library = one_in(&root().join("usr/lib/ruby"), "3")?;
        let compiled = one_in(&libraries().join("ruby"), "3")?;
        let dalli = one_in(&root().join("usr/share/rubygems-integration/all/gems"), "dalli-")?;
        let paths = [library, compiled, dalli.join("lib")];
        let mut command = Command::new(one_in(&root().join("usr/bin"), "ruby3")?);
        command.arg("--disable-gems");
        command.env("RUBYLIB", std::env::join_paths(paths).ok()?);
        Some(command)
    });
}

/// Plays the script to memcached and to the proxy; what it prints must be the same, and something.
fn is_the_same(script: &str, interpreter: impl Fn() -> Option<Command>) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/same/scripts")
        .join(script);
    if !unpacked().exists() || interpreter().is_none() {
        println!(
            "SKIPPED: {}: script/get-memcached has not been run",
            script.display()
        );
        return;
    }
    let Some(one) = One::start() else { return };
    let direct = free_address();
    let _memcached = memcached_at(direct);
    let play = |port: u16| {
        let mut command = interpreter().unwrap();
        command.arg(&script).arg(port.to_string());
        let output = command.env("LD_LIBRARY_PATH", libraries()).output().unwrap();
        let (said, error) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(output.status.success(), "{}: {said}\n{error}", script.display());
        said
    };
    let (wanted, got) = (play(direct.port()), play(one.proxy.port()));
    assert_eq!(got, wanted);
    assert!(wanted.lines().count() > 10, "{wanted}");
}

fn python() -> Command {
    // Debian's own, which its packages are compiled for.
    let mut command = Command::new("/usr/bin/python3");
    command.env("PYTHONPATH", root().join("usr/lib/python3/dist-packages"));
    command
}

fn root() -> PathBuf {
    unpacked().join("root")
}

fn libraries() -> PathBuf {
    let folders = std::fs::read_dir(root().join("usr/lib")).unwrap().flatten();
    let mut paths = folders.map(|folder| folder.path());
    paths
        .find(|path| path.to_string_lossy().ends_with("-linux-gnu"))
        .unwrap()
}

/// The entry of `folder` whose name begins so.
fn one_in(folder: &Path, start: &str) -> Option<PathBuf> {
    let mut entries = std::fs::read_dir(folder).ok()?.flatten();
    let found = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(start));
    found.map(|entry| entry.path())
}
