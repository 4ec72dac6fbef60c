//! The name servers of others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running name server of another make; it ends with this value.
pub struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where `script/get-dns` put a program.
pub fn find(program: &str) -> Option<PathBuf> {
    let cached = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../.cache/dns/bin")
        .join(program);
    cached.exists().then_some(cached)
}

/// Where PowerDNS has its modules when it was unpacked and not installed.
pub fn modules() -> Option<PathBuf> {
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/dns/root/usr/lib");
    let folders = fs::read_dir(libraries).ok()?.flatten();
    let mut found = folders.map(|folder| folder.path().join("pdns"));
    found.find(|path| path.exists())
}

/// Starts it; what it says is in the file `log` of the folder.
pub fn spawn(program: &Path, folder: &Path, args: &[&str]) -> Other {
    let log = fs::File::create(folder.join("log")).unwrap();
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    Other(child.unwrap())
}
