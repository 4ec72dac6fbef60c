//! The engine's own programs: those that came with the server that runs here first, then what the machine has installed.

use std::path::{Path, PathBuf};

use pontoon_fleet::{Code, Refusal};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::node::DatabaseNode;
use crate::unit::User;

/// What this machine lacks for each way of copying a database, in words; `None`: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lacks {
    /// To send or take a copy of the files. MySQL does that itself.
    #[serde(default)]
    pub files: Option<String>,
    /// To send a dump.
    #[serde(default)]
    pub dump: Option<String>,
    /// To load one.
    #[serde(default)]
    pub load: Option<String>,
}

/// Looks which programs are there.
pub(crate) fn lacks(node: &DatabaseNode) -> Lacks {
    let missing = |names: &[&str]| {
        let absent: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| beside(node, name).is_none())
            .collect();
        (!absent.is_empty()).then(|| format!("{} cannot be found", absent.join(" and ")))
    };
    match node.is_mariadb() {
        true => Lacks {
            files: missing(&["mariadb-backup", "mbstream"]),
            dump: missing(&["mariadb-dump"]),
            load: missing(&["mariadb", "mariadb-install-db"]),
        },
        false => Lacks {
            files: None,
            dump: missing(&["mysqldump"]),
            load: missing(&["mysql"]),
        },
    }
}

/// A command that runs as the database's user.
pub(crate) fn command(node: &DatabaseNode, name: &str, user: &User) -> Result<Command, Refusal> {
    Ok(run(beside(node, name).ok_or_else(|| missing(node, name))?, user))
}

/// The server's own program, likewise, without the option files of the one that runs.
pub(crate) fn server(node: &DatabaseNode, user: &User) -> Command {
    let mut command = run(node.program.clone(), user);
    command.arg("--no-defaults"); // must be the first
    if rustix::process::geteuid().is_root() && user.uid == 0 {
        // Servers do not run as root unless they are told to.
        command.arg("--user=root");
    }
    command
}

fn run(words: Vec<String>, user: &User) -> Command {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).kill_on_drop(true);
    user.run_as(&mut command);
    command
}

/// What to call: a server that runs under a dynamic loader of its own has its programs run the same way.
fn beside(node: &DatabaseNode, name: &str) -> Option<Vec<String>> {
    let (program, loader) = node.program.split_last()?;
    let near = Path::new(program)
        .parent()
        .into_iter()
        .flat_map(|dir| [dir.join(name), dir.join("../bin").join(name)]);
    let is_script = name.ends_with("-install-db");
    if let Some(path) = near.into_iter().find(|path| path.is_file() && !is_script) {
        let mut words = loader.to_vec();
        words.push(path.display().to_string());
        return Some(words);
    }
    in_path(name).map(|path| vec![path.display().to_string()])
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

fn missing(node: &DatabaseNode, name: &str) -> Refusal {
    let packages = match node.is_mariadb() {
        true => "mariadb-server mariadb-client",
        false => "mysql-server mysql-client",
    };
    Refusal::new(Code::D007, format!("{name} is not on this machine"))
        .next("install it", format!("apt-get install {packages}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::process_node;

    #[test]
    fn a_program_beside_the_server_comes_before_that_of_the_system_and_under_its_loader() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("mariadb-dump"), "").unwrap();
        let mut node = process_node(dir.path(), &[]);
        node.program = vec!["/x/ld.so".to_owned(), bin.join("mariadbd").display().to_string()];
        let found = beside(&node, "mariadb-dump").unwrap();
        assert_eq!(
            found,
            [
                "/x/ld.so".to_owned(),
                bin.join("mariadb-dump").display().to_string()
            ]
        );
        assert_eq!(beside(&node, "no-such-program"), None);
        let refusal = missing(&node, "mariadb-dump");
        assert_eq!(refusal.code, Code::D007);
        assert_eq!(refusal.next.len(), 1);
    }
}
