//! Fresh data folders of databases, copied from prepared ones: to make one takes a server's program a second or more, to
//! copy one a fraction of that.
//!
//! Prepared folders are in `.cache/datadirs` of the checkout, one for each program, version, user and set of options that
//! shape it. One is made when it is first wanted, under a lock, and gets its name when it is whole: a kill in mid-making
//! leaves a folder that nobody uses and the next maker removes. Outside of a checkout, or where the cache cannot be
//! written, each data folder is made on the spot.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};

use crate::database::{mysqld, program};
use crate::wait::tail;
use crate::{LabError, Skip};

/// How a fresh data folder is made.
#[derive(Clone, Debug)]
pub struct Fresh {
    engine: &'static str,
    /// The server, of which the version counts.
    server: PathBuf,
    /// What makes the folder.
    maker: PathBuf,
    args: Vec<String>,
}

impl Fresh {
    /// MariaDB's. With `by_socket` its `root` comes through the Unix socket as the system's `root` only, as in Debian; else
    /// without a password. Of `config`, lines of an option file, those count that shape the folder.
    ///
    /// # Errors
    /// [`Skip`] when it is not installed.
    pub fn mariadb(by_socket: bool, config: &[String]) -> Result<Fresh, Skip> {
        Ok(Fresh::mariadb_of(
            program("mariadbd")?,
            program("mariadb-install-db")?,
            by_socket,
            config,
        ))
    }

    /// The same, of these programs.
    pub fn mariadb_of(server: PathBuf, maker: PathBuf, by_socket: bool, config: &[String]) -> Fresh {
        let root = match by_socket {
            true => "--auth-root-socket-user=root",
            false => "--auth-root-authentication-method=normal",
        };
        let mut args = vec![
            "--no-defaults".to_owned(),
            "--skip-test-db".to_owned(),
            root.to_owned(),
        ];
        args.extend(shaping(config));
        Fresh {
            engine: "mariadb",
            server,
            maker,
            args,
        }
    }

    /// MySQL's; its `root` has no password.
    ///
    /// # Errors
    /// [`Skip`] when there is none.
    pub fn mysql(config: &[String]) -> Result<Fresh, Skip> {
        let mysqld = mysqld()?;
        let mut args = vec!["--no-defaults".to_owned(), "--initialize-insecure".to_owned()];
        args.extend(shaping(config));
        Ok(Fresh {
            engine: "mysql",
            server: mysqld.clone(),
            maker: mysqld,
            args,
        })
    }

    /// Makes `into` such a folder, whole or not at all. It may exist, empty. Blocks.
    ///
    /// # Errors
    /// When the program fails, or the disk.
    pub fn fill(&self, into: &Path) -> Result<(), LabError> {
        match cache() {
            Some(cache) => self.fill_from(&cache, into),
            None => self.make(into),
        }
    }

    /// The same for who must not block.
    ///
    /// # Errors
    /// As [`fill`](Fresh::fill).
    pub async fn fill_soon(self, into: PathBuf) -> Result<(), LabError> {
        let filled = tokio::task::spawn_blocking(move || self.fill(&into)).await;
        filled.map_err(|error| LabError::Unknown(error.to_string()))?
    }

    fn fill_from(&self, cache: &Path, into: &Path) -> Result<(), LabError> {
        let failed = || LabError::io(format!("data folder {}", into.display()));
        let name = self.name()?;
        let prepared = cache.join(&name);
        let Ok(lock) = File::create(cache.join(format!("{name}.lock"))) else {
            return self.make(into);
        };
        flock(&lock, FlockOperation::LockShared).map_err(|e| failed()(e.into()))?;
        if !prepared.is_dir() {
            // Whoever comes first makes it, and the others find it when the lock is theirs.
            flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed()(e.into()))?;
            if !prepared.is_dir() {
                self.prepare(cache, &name)?;
            }
            flock(&lock, FlockOperation::LockShared).map_err(|e| failed()(e.into()))?;
        }
        let part = beside(into, "part");
        let _ = fs::remove_dir_all(&part);
        copy(&prepared, &part)?;
        fs::rename(&part, into).map_err(failed())?;
        // The lock is as old as its last use.
        let _ = lock.set_modified(SystemTime::now());
        Ok(())
    }

    /// Makes the prepared folder `name`. Only who has its lock alone may.
    fn prepare(&self, cache: &Path, name: &str) -> Result<(), LabError> {
        let failed = || LabError::io(format!("data folder {name}"));
        let making = format!("{MAKING}{name}-");
        for entry in fs::read_dir(cache).map_err(failed())?.flatten() {
            // Of one who was killed; what it started may write there for a moment yet, and is not waited for.
            if entry.file_name().to_string_lossy().starts_with(&making) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        remove_old(cache, SystemTime::now());
        let work = cache.join(format!("{making}{}", std::process::id()));
        fs::create_dir_all(&work).map_err(failed())?;
        let data = work.join("data");
        self.make(&data)?;
        sync(&data).map_err(failed())?;
        fs::rename(&data, cache.join(name)).map_err(failed())?;
        let _ = fs::remove_dir_all(&work);
        Ok(())
    }

    /// Has the program make a folder.
    fn make(&self, data: &Path) -> Result<(), LabError> {
        let failed = || LabError::io(format!("data folder {}", data.display()));
        // Not the /tmp of all: a starting MariaDB removes what looks like temporary tables of a dead one.
        let tmpdir = beside(data, "tmp");
        for folder in [&tmpdir, &data.to_owned()] {
            fs::create_dir_all(folder).map_err(failed())?;
        }
        let mut command = Command::new("timeout");
        command.args(["-k", "5", &MAKES.as_secs().to_string()]);
        command.arg(&self.maker).args(&self.args);
        if rustix::process::geteuid().is_root() {
            // For an ordinary user MariaDB's script would try to give the folder away, and fail.
            command.arg("--user=root");
        }
        command.arg(format!("--datadir={}", data.display()));
        command.arg(format!("--tmpdir={}", tmpdir.display()));
        execute(&mut command)?;
        fs::remove_dir_all(&tmpdir).map_err(failed())?;
        // The identity of a MySQL server, which makes itself another one. No two are the same.
        match fs::remove_file(data.join("auto.cnf")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed()(error)),
            _ => Ok(()),
        }
    }

    /// What tells prepared folders apart.
    fn name(&self) -> Result<String, LabError> {
        let version = execute(Command::new(&self.server).arg("--version"))?;
        let mut hasher = DefaultHasher::new();
        (&version, &self.server, &self.maker, &self.args).hash(&mut hasher);
        let user = rustix::process::geteuid().as_raw();
        Ok(format!("{}-{user}-{:016x}", self.engine, hasher.finish()))
    }
}

/// The lines of an option file that a server must have been given when its data folder was made, as arguments.
fn shaping(config: &[String]) -> Vec<String> {
    let shapes = |line: &&String| {
        let name = line
            .split('=')
            .next()
            .unwrap_or_default()
            .trim()
            .replace('-', "_");
        SHAPING.contains(&name.as_str())
    };
    let argument = |line: &String| match line.split_once('=') {
        Some((name, value)) => format!("--{}={}", name.trim(), value.trim()),
        None => format!("--{}", line.trim()),
    };
    config.iter().filter(shapes).map(argument).collect()
}

/// Where prepared folders are, if this program was built in a checkout that is still there and may be written.
fn cache() -> Option<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    checkout.join("Cargo.lock").is_file().then_some(())?;
    let cache = checkout.join(".cache/datadirs");
    fs::create_dir_all(&cache).ok()?;
    cache.canonicalize().ok()
}

/// Removes prepared folders that nobody has used for long, such as those of versions that were replaced.
fn remove_old(cache: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(cache) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let used = fs::metadata(&path).and_then(|meta| meta.modified());
        let old = used.is_ok_and(|used| now.duration_since(used).is_ok_and(|age| age > KEPT));
        if old && path.extension().is_some_and(|end| end == "lock") {
            let free = |lock: &File| flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            if File::open(&path)
                .is_ok_and(|lock| free(&lock) && fs::remove_dir_all(path.with_extension("")).is_ok())
            {
                // The lock stays: somebody may be about to take it.
                let _ = File::open(&path).and_then(|lock| lock.set_modified(now));
            }
        }
    }
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(what);
    path.with_file_name(name)
}

/// Owners, modes and holes as they are; where the file system can, without copying blocks.
fn copy(from: &Path, to: &Path) -> Result<(), LabError> {
    let mut command = Command::new("cp");
    execute(command.args(["-a", "--reflink=auto", "--"]).arg(from).arg(to)).map(drop)
}

/// So that a power cut leaves the folder whole too, once it has its name.
fn sync(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            sync(&entry?.path())?;
        }
    }
    File::open(path)?.sync_all()
}

/// Runs a program to its end, and gives what it printed.
fn execute(command: &mut Command) -> Result<String, LabError> {
    let line = format!("{command:?}");
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(LabError::io(line.clone()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = if output.stderr.is_empty() {
        &output.stdout
    } else {
        &output.stderr
    };
    Err(LabError::Command {
        command: line,
        status: output.status.to_string(),
        stderr: tail(said, 20),
    })
}

/// Options that cannot be changed once the folder is there.
const SHAPING: [&str; 5] = [
    "innodb_data_file_path",
    "innodb_page_size",
    "innodb_undo_directory",
    "innodb_undo_tablespaces",
    "lower_case_table_names",
];
/// How long a program may take.
const MAKES: Duration = Duration::from_secs(120);
/// How long a prepared folder is kept that nobody uses.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
const MAKING: &str = "making-";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder that is removed in the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("pontoon-datadirs-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("cache")).unwrap();
            Folder(path)
        }

        /// A maker that counts its runs, and does `more`.
        fn fresh(&self, more: &str) -> Fresh {
            let maker = self.0.join("maker");
            let script = format!(
                "#!/bin/sh\nset -eu\n[ \"$1\" = --version ] && {{ echo 1.0; exit 0; }}\n\
                 for word; do case $word in --datadir=*) data=${{word#*=}};; esac; done\n\
                 echo run >>'{home}/runs'\nmkdir \"$data/mysql\"\necho id >\"$data/auto.cnf\"\n{more}\n\
                 echo whole >\"$data/mysql/last\"\n",
                home = self.0.display()
            );
            fs::write(&maker, script).unwrap();
            fs::set_permissions(&maker, fs::Permissions::from_mode(0o755)).unwrap();
            Fresh {
                engine: "none",
                server: maker.clone(),
                maker,
                args: vec!["--make".to_owned()],
            }
        }

        fn cache(&self) -> PathBuf {
            self.0.join("cache")
        }

        fn runs(&self) -> usize {
            fs::read_to_string(self.0.join("runs"))
                .unwrap_or_default()
                .lines()
                .count()
        }

        fn is_whole(&self, name: &str) -> bool {
            let data = self.0.join(name);
            data.join("mysql/last").is_file() && !data.join("auto.cnf").exists()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn many_at_once_have_it_made_once() {
        let folder = Folder::new("many");
        let fresh = folder.fresh("sleep 0.2");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (fresh, folder) = (&fresh, &folder);
                scope.spawn(move || {
                    let into = folder.0.join(format!("data-{number}"));
                    fresh.fill_from(&folder.cache(), &into).unwrap();
                    assert!(folder.is_whole(&format!("data-{number}")));
                });
            }
        });
        assert_eq!(folder.runs(), 1);
        // Nothing is left but the folder and its lock, and no part of a copy.
        assert_eq!(fs::read_dir(folder.cache()).unwrap().count(), 2);
        assert!(
            fs::read_dir(&folder.0)
                .unwrap()
                .flatten()
                .all(|entry| { !entry.file_name().to_string_lossy().ends_with(".part") })
        );
    }

    #[test]
    fn what_was_half_made_is_not_used() {
        let folder = Folder::new("half");
        let fails = folder.fresh("exit 3");
        let into = folder.0.join("data");
        let said = fails.fill_from(&folder.cache(), &into).unwrap_err().to_string();
        assert!(said.contains("maker") && !into.exists(), "{said}");
        // Killed while it made one: the folder is still there, and the lock is free.
        let works = folder.fresh("");
        let left = folder
            .cache()
            .join(format!("{MAKING}{}-1", works.name().unwrap()));
        fs::create_dir_all(left.join("data/mysql")).unwrap();
        works.fill_from(&folder.cache(), &into).unwrap();
        assert!(folder.is_whole("data") && !left.exists());
        assert_eq!(folder.runs(), 2);
    }

    #[test]
    fn a_folder_that_has_something_in_it_stays_as_it_is() {
        let folder = Folder::new("full");
        let into = folder.0.join("data");
        fs::create_dir_all(into.join("theirs")).unwrap();
        folder.fresh("").fill_from(&folder.cache(), &into).unwrap_err();
        assert!(into.join("theirs").exists() && !into.join("mysql").exists());
    }

    #[test]
    fn other_options_make_another_folder_and_what_is_old_goes() {
        let folder = Folder::new("old");
        let fresh = folder.fresh("");
        let other = Fresh {
            args: vec!["--make".to_owned(), "--innodb-page-size=4k".to_owned()],
            ..fresh.clone()
        };
        fresh.fill_from(&folder.cache(), &folder.0.join("one")).unwrap();
        other.fill_from(&folder.cache(), &folder.0.join("two")).unwrap();
        assert_eq!(folder.runs(), 2);
        let prepared = |fresh: &Fresh| folder.cache().join(fresh.name().unwrap()).is_dir();
        remove_old(&folder.cache(), SystemTime::now());
        assert!(prepared(&fresh) && prepared(&other));
        // One that somebody copies just now stays.
        let busy = File::open(folder.cache().join(format!("{}.lock", other.name().unwrap()))).unwrap();
        flock(&busy, FlockOperation::LockShared).unwrap();
        remove_old(&folder.cache(), SystemTime::now() + KEPT * 2);
        assert!(!prepared(&fresh) && prepared(&other));
    }

    #[test]
    fn of_an_option_file_only_what_shapes_the_folder_counts() {
        let config = [
            "server_id = 7",
            "log-bin",
            "innodb-page-size = 4k",
            "lower_case_table_names=1",
        ];
        let config = config.map(str::to_owned);
        assert_eq!(
            shaping(&config),
            ["--innodb-page-size=4k", "--lower_case_table_names=1"]
        );
    }
}
