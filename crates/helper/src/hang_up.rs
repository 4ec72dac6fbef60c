//! Ends connections of the database, so that what waits in them goes on. The database has no word for it: a receiver that is
//! told to stop waits for up to two seconds in a connection to a source that is dead, be it made already or on its way. And
//! MariaDB, when a replica dials anew, waits for its earlier connection to say something, and lets nobody in meanwhile
//! (`Ack_receiver::remove_slave`, 10.11).

use std::fs;
use std::io;
use std::net::IpAddr;

use pontoon_fleet::{Code, Refusal};
use pontoon_rt::proc_net;
use rustix::net::Shutdown;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

/// Shuts every TCP connection of the process `pid` with `address`, made or on its way, or only those to that port there; says
/// how many there were.
pub(crate) fn hang_up(pid: u32, address: IpAddr, port: Option<u16>) -> Result<usize, Refusal> {
    let sockets = connections(pid, address, port);
    if sockets.is_empty() {
        return Ok(0);
    }
    shut(pid, &sockets).map_err(|error| {
        Refusal::new(Code::N003, "the database's connections cannot be ended")
            .because(format!("{address}: {error}"))
            .because("that needs Linux 5.6, CAP_SYS_PTRACE and the system call pidfd_getfd")
    })
}

fn shut(pid: u32, sockets: &[String]) -> io::Result<usize> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = rustix::process::pidfd_open(number.ok_or(io::ErrorKind::NotFound)?, PidfdFlags::empty())?;
    let mut ended = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let is_one = fs::read_link(entry.path())
            .is_ok_and(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()));
        let file = entry.file_name().to_string_lossy().parse().ok();
        let Some(file) = file.filter(|_| is_one) else {
            continue;
        };
        let socket = match rustix::process::pidfd_getfd(&process, file, PidfdGetfdFlags::empty()) {
            Ok(socket) => socket,
            // Closed meanwhile.
            Err(rustix::io::Errno::BADF) => continue,
            Err(error) => return Err(error.into()),
        };
        // The number may have become another file's between the two looks.
        let same = rustix::fs::fstat(&socket).is_ok_and(|now| {
            sockets
                .iter()
                .any(|socket| *socket == format!("socket:[{}]", now.st_ino))
        });
        if same {
            match rustix::net::shutdown(&socket, Shutdown::Both) {
                // Not connected any more.
                Ok(()) | Err(rustix::io::Errno::NOTCONN) => ended += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(ended)
}

/// Those connections, as the links in `/proc/PID/fd` name them.
fn connections(pid: u32, address: IpAddr, port: Option<u16>) -> Vec<String> {
    ["tcp", "tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .flat_map(|table| {
            let found = table.lines().filter_map(connection);
            let wanted = found.filter(|(remote, to, inode)| {
                // A connection that its process has closed has no inode.
                *remote == address && port.is_none_or(|port| port == *to) && *inode != "0"
            });
            wanted
                .map(|(.., inode)| format!("socket:[{inode}]"))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The other end's address and port, and the inode, of a line of `/proc/net/tcp` or `tcp6` (proc_pid_net(5)).
fn connection(line: &str) -> Option<(IpAddr, u16, &str)> {
    let mut fields = line.split_ascii_whitespace();
    let remote = proc_net::parse_end(fields.nth(2)?)?;
    let inode = fields.nth(6)?;
    Some((remote.ip(), remote.port(), inode))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn only_connections_to_that_address_and_port_are_ended() {
        for (address, dialled) in [("127.0.0.1:0", "127.0.0.1"), ("[::]:0", "::ffff:127.0.0.1")] {
            let Ok(source) = TcpListener::bind(address) else {
                continue;
            };
            let other = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = source.local_addr().unwrap().port();
            let mut waits = TcpStream::connect((dialled, port)).unwrap();
            let mut stays = TcpStream::connect(other.local_addr().unwrap()).unwrap();
            let ended = hang_up(std::process::id(), [127, 0, 0, 1].into(), Some(port));
            if let Err(refusal) = &ended
                && refusal.to_string().contains("Operation not permitted")
            {
                return eprintln!("SKIPPED: no connection of a process can be ended here: {refusal}");
            }
            // The side that took it has the same process, and another port at its other end.
            assert_eq!(ended.unwrap(), 1, "{address}");
            assert_eq!(waits.read(&mut [0]).unwrap(), 0, "its end is read at once");
            stays.set_nonblocking(true).unwrap();
            let waiting = stays.read(&mut [0]).unwrap_err();
            assert_eq!(
                waiting.kind(),
                io::ErrorKind::WouldBlock,
                "another connection lives"
            );
        }
    }

    #[test]
    fn a_process_that_is_gone_or_connected_to_nobody_is_left_alone() {
        let nobody = "192.0.2.1".parse().unwrap();
        assert_eq!(hang_up(std::process::id(), nobody, None).unwrap(), 0);
        assert_eq!(hang_up(u32::MAX, nobody, Some(3306)).unwrap(), 0);
    }

    #[test]
    fn the_kernels_table_is_read() {
        let four = "   1: 0B6433C6:D3FE 0C6433C6:0CEB 02 00000001:00000000 01:00000064 00000001   106        0 70461 2 ffff";
        let (remote, port, inode) = connection(four).unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(remote, IpAddr::from([198, 51, 100, 12]));
        }
        assert_eq!((port, inode), (3307, "70461"));
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        for nonsense in ["", head, "1: x y z", "1: 0:0 12345:0CEB 02 0 0 0 0 0 7"] {
            assert_eq!(connection(nonsense), None, "{nonsense:?}");
        }
    }
}
