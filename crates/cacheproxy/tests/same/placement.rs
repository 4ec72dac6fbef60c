//! A key is where the program that Pontoon takes the place of put it: libmemcached with `ketama_weighted` (by pylibmc), and
//! twemproxy with what it does without being told.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use crate::support::{Process, free_address, memcached_at, program, say, unpacked};
use pontoon_memcache_wire::place::{Ring, Rule};

const KEYS: usize = 1500;

#[test]
fn keys_are_where_libmemcached_puts_them() {
    let library = unpacked().join("root/usr/lib");
    if program("memcached").is_none() || !library.exists() {
        println!("SKIPPED: keys_are_where_libmemcached_puts_them: script/get-memcached has not been run");
        return;
    }
    let (addresses, _memcacheds) = three();
    let script = format!(
        "import pylibmc, sys
client = pylibmc.Client(sys.argv[1:], behaviors={{'ketama_weighted': True}})
for number in range({KEYS}): client.set(f'key-{{number}}', 'x')"
    );
    let folders = std::fs::read_dir(&library).unwrap().flatten();
    let libraries = folders
        .map(|folder| folder.path())
        .find(|path| path.to_string_lossy().ends_with("-linux-gnu"));
    let output = Command::new("/usr/bin/python3")
        .args(["-c", &script])
        .args(addresses.iter().map(SocketAddr::to_string))
        .env("PYTHONPATH", library.join("python3/dist-packages"))
        .env("LD_LIBRARY_PATH", libraries.unwrap())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    are_where_the_ring_says(Rule::Ketama, &addresses);
}

#[test]
fn keys_are_where_twemproxy_puts_them() {
    let (Some(nutcracker), Some(_)) = (program("nutcracker"), program("memcached")) else {
        return;
    };
    let (addresses, _memcacheds) = three();
    let listen = free_address();
    let folder = tempfile::tempdir().unwrap();
    let mut configuration = format!("pool:\n  listen: {listen}\n  distribution: ketama\n  servers:\n");
    for address in &addresses {
        let _ = writeln!(configuration, "   - {address}:1");
    }
    let file = folder.path().join("nutcracker.yml");
    std::fs::write(&file, configuration).unwrap();
    let mut command = Command::new(nutcracker);
    command
        .arg("-c")
        .arg(&file)
        .arg("-s")
        .arg(free_address().port().to_string())
        .args(["-a", "127.0.0.1"]);
    command.arg("-o").arg(folder.path().join("log"));
    let _twemproxy = Process(command.stdin(Stdio::null()).spawn().unwrap());
    crate::support::until(|| TcpStream::connect(listen).is_ok());
    let mut stream = TcpStream::connect(listen).unwrap();
    for number in 0..KEYS {
        let line = format!("set key-{number} 0 0 1\r\nx\r\n");
        assert_eq!(say(&mut stream, line.as_bytes()), b"STORED\r\n");
    }
    are_where_the_ring_says(Rule::Twemproxy, &addresses);
}

fn three() -> (Vec<SocketAddr>, Vec<Process>) {
    let addresses: Vec<_> = (0..3).map(|_| free_address()).collect();
    let memcacheds = addresses.iter().map(|address| memcached_at(*address)).collect();
    (addresses, memcacheds)
}

fn are_where_the_ring_says(rule: Rule, addresses: &[SocketAddr]) {
    let labels: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    let ring = Ring::new(rule, &labels);
    let mut counts = vec![0; addresses.len()];
    let mut streams: Vec<_> = addresses
        .iter()
        .map(|address| TcpStream::connect(address).unwrap())
        .collect();
    for number in 0..KEYS {
        let key = format!("key-{number}");
        let home = ring.home(key.as_bytes()).unwrap();
        let said = say(&mut streams[home], format!("touch {key} 0\r\n").as_bytes());
        assert_eq!(said, b"TOUCHED\r\n", "{rule:?}: {key} is not at {}", labels[home]);
        counts[home] += 1;
    }
    for stream in &mut streams {
        stream.write_all(b"quit\r\n").unwrap();
    }
    println!("{rule:?}: {KEYS} of {KEYS} keys are where the ring says: {counts:?}");
}
