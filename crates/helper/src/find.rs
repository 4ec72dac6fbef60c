//! Finds database servers among the running processes, through /proc.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pontoon_fleet::Engine;

/// A running `mariadbd` or `mysqld`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerProcess {
    /// Its process id.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// The uid that it runs as.
    pub uid: u32,
    /// What runs the server's program: its path, or a dynamic loader with its arguments and then the path.
    pub program: Vec<String>,
    /// The arguments after the program.
    pub argv: Vec<String>,
    /// Its working directory: a database server changes into its data directory when it starts.
    pub cwd: PathBuf,
    /// The cgroup's path, for the systemd unit.
    pub cgroup: String,
}

/// Every database server that runs, as far as this user may see, lowest pid first.
pub fn servers() -> Vec<ServerProcess> {
    let mut found: Vec<ServerProcess> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(server)
        .collect();
    found.sort_by_key(|server| server.pid);
    found
}

/// The database server that works in `datadir`. Compared by device and inode, so names and mount namespaces cannot
/// mislead; a server whose directory was renamed is found under the new name.
pub fn server_in(datadir: &Path) -> Option<u32> {
    let wanted = std::fs::metadata(datadir).ok()?;
    servers().into_iter().map(|server| server.pid).find(|pid| {
        std::fs::metadata(format!("/proc/{pid}/cwd"))
            .is_ok_and(|cwd| cwd.dev() == wanted.dev() && cwd.ino() == wanted.ino())
    })
}

/// The process `pid`, when it is a living database server.
pub fn server(pid: u32) -> Option<ServerProcess> {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).ok();
    let arguments: Vec<String> = read("cmdline")?
        .split(|byte| *byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    // The command line ends with a NUL: the last piece is empty. A zombie's is all empty.
    let arguments = arguments.split_last()?.1;
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let exe = exe.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
    let (program, argv) = split_program(&exe, arguments)?;
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let field = |name: &str| -> Option<&str> {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))?
            .split_whitespace()
            .next()
    };
    if field("State:") == Some("Z") {
        return None;
    }
    Some(ServerProcess {
        pid,
        parent: field("PPid:")?.parse().ok()?,
        uid: field("Uid:")?.parse().ok()?,
        program,
        argv,
        cwd: std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default(),
        cgroup: String::from_utf8_lossy(&read("cgroup").unwrap_or_default())
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap_or_default()
            .to_owned(),
    })
}

/// Where the database server `pid` listens for clients on Unix sockets, as far as this user may see.
pub fn unix_sockets(pid: u32) -> Vec<PathBuf> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let own: Vec<String> = files
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok()?.to_str().map(str::to_owned))
        .collect();
    let table = std::fs::read(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    String::from_utf8_lossy(&table)
        .lines()
        .filter_map(listening_socket)
        .filter(|(inode, _)| own.contains(&format!("socket:[{inode}]")))
        .map(|(_, path)| path)
        // MySQL's X protocol has one of its own (mysqlx.sock).
        .filter(|path| !path.to_string_lossy().contains("mysqlx"))
        .collect()
}

/// A line of `/proc/net/unix` (proc_pid_net(5)) of a socket that takes connections and has an absolute path.
fn listening_socket(line: &str) -> Option<(&str, PathBuf)> {
    let mut fields = line.split_ascii_whitespace();
    let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    let inode = fields.nth(2)?;
    let path = fields.next().filter(|path| path.starts_with('/'))?;
    (flags & 0x1_0000 != 0).then(|| (inode, PathBuf::from(path))) // __SO_ACCEPTCON
}

/// Which engine a program is, by its file name.
pub fn engine_of(program: &str) -> Option<Engine> {
    match Path::new(program).file_name()?.to_str()? {
        "mariadbd" => Some(Engine::Mariadb),
        // MariaDB ships a `mysqld` too; /proc/PID/exe shows the file behind the link, and `--version` settles it.
        "mysqld" => Some(Engine::Mysql),
        _ => None,
    }
}

/// Parts a command line into what runs the server's program and the server's own arguments.
fn split_program(exe: &str, arguments: &[String]) -> Option<(Vec<String>, Vec<String>)> {
    if engine_of(exe).is_some() {
        return Some((
            vec![exe.to_owned()],
            arguments.get(1..).unwrap_or_default().to_vec(),
        ));
    }
    let name = Path::new(exe).file_name()?.to_str()?;
    if !name.starts_with("ld-linux") && !name.starts_with("ld.so") {
        return None;
    }
    // Run by its dynamic loader (ld.so(8)): options of the loader, then the program.
    let mut at = 1;
    while let Some(argument) = arguments.get(at) {
        if matches!(
            argument.as_str(),
            "--library-path" | "--argv0" | "--preload" | "--audit" | "--inhibit-rpath"
        ) {
            at += 2;
        } else if argument.starts_with("--") {
            at += 1;
        } else {
            break;
        }
    }
    engine_of(arguments.get(at)?)?;
    let mut program = arguments.get(..=at)?.to_vec();
    exe.clone_into(program.first_mut()?);
    Some((program, arguments.get(at + 1..).unwrap_or_default().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_server_is_known_by_its_program_also_behind_a_loader() {
        let (program, argv) =
            split_program("/usr/sbin/mariadbd", &words("mysqld --user=root --port 3306")).unwrap();
        assert_eq!(program, ["/usr/sbin/mariadbd"]);
        assert_eq!(argv, ["--user=root", "--port", "3306"]);
        let line = words("/x/ld-linux-x86-64.so.2 --library-path /x:/y /x/mysqld --no-defaults");
        let (program, argv) = split_program("/x/ld-linux-x86-64.so.2", &line).unwrap();
        assert_eq!(
            program,
            ["/x/ld-linux-x86-64.so.2", "--library-path", "/x:/y", "/x/mysqld"]
        );
        assert_eq!(argv, ["--no-defaults"]);
    }

    #[test]
    fn other_programs_are_not_servers() {
        for (exe, line) in [
            ("/usr/bin/mariadb", "mariadb -uroot"),
            ("/bin/sh", "/bin/sh /usr/bin/mysqld_safe"),
            ("/x/ld-linux-x86-64.so.2", "/x/ld-linux-x86-64.so.2 /x/ls"),
            (
                "/x/ld-linux-x86-64.so.2",
                "/x/ld-linux-x86-64.so.2 --library-path",
            ),
            ("/x/ld-linux-x86-64.so.2", ""),
        ] {
            assert!(split_program(exe, &words(line)).is_none(), "{exe}");
        }
    }

    #[test]
    fn a_socket_without_an_option_is_the_one_that_is_listened_on() {
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 4711 /run/mysqld/mysqld.sock";
        assert_eq!(
            listening_socket(line),
            Some(("4711", "/run/mysqld/mysqld.sock".into()))
        );
        for other in [
            "0: 00000003 00000000 00000000 0001 03 4711 /run/mysqld/mysqld.sock",
            "0: 00000002 00000000 00010000 0001 01 4711 @abstract",
            "0: 00000002 00000000 00010000 0001 01 4711",
            "Num RefCount Protocol Flags Type St Inode Path",
            "",
        ] {
            assert_eq!(listening_socket(other), None, "{other}");
        }
        let path = std::env::temp_dir().join(format!("pontoon-find-{}.sock", std::process::id()));
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(unix_sockets(std::process::id()), std::slice::from_ref(&path));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn looking_through_proc_does_not_fail() {
        servers();
        assert!(server(std::process::id()).is_none());
        assert!(unix_sockets(u32::MAX).is_empty());
        assert!(server_in(Path::new("/nonexistent")).is_none());
    }
}
