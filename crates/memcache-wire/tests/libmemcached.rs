//! The ring is libmemcached's: asked where keys belong, it says the same. Loaded by Python, because that needs no headers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a panic is the report

use std::process::Command;

use pontoon_memcache_wire::place::{Ring, Rule};

const ASK: &str = r"
import ctypes, sys
lib = ctypes.CDLL('libmemcached.so.11')
lib.memcached_create.restype = ctypes.c_void_p
pointer = ctypes.c_void_p(lib.memcached_create(None))
assert lib.memcached_behavior_set(pointer, 16, ctypes.c_uint64(1)) == 0  # MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED
for label in sys.argv[2:]:
    host, port = label.rsplit(':', 1)
    assert lib.memcached_server_add(pointer, host.encode(), int(port)) == 0
for n in range(int(sys.argv[1])):
    key = b'key-%d' % n
    print(lib.memcached_generate_hash(pointer, key, ctypes.c_size_t(len(key))))
";

#[test]
fn ketama_is_libmemcacheds() {
    const KEYS: usize = 5_000;
    for servers in [2, 3, 4, 5, 7, 12] {
        // The default port, which is left out of the names of points, and others.
        for port in [11211, 11300] {
            let labels: Vec<String> = (1..=servers)
                .map(|number| format!("10.0.0.{number}:{port}"))
                .collect();
            let output = Command::new("python3")
                .args(["-c", ASK, &KEYS.to_string()])
                .args(&labels)
                .output();
            let Ok(output) =
                output.map_err(|error| println!("SKIPPED ketama_is_libmemcacheds: python3: {error}"))
            else {
                return;
            };
            if String::from_utf8_lossy(&output.stderr).contains("cannot open shared object") {
                println!(
                    "SKIPPED ketama_is_libmemcacheds: libmemcached is not installed (libmemcached-tools)"
                );
                return;
            }
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            let ring = Ring::new(Rule::Ketama, &labels);
            let text = String::from_utf8(output.stdout).unwrap();
            let theirs: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
            let ours: Vec<usize> = (0..KEYS)
                .map(|n| ring.home(format!("key-{n}").as_bytes()).unwrap())
                .collect();
            let same = theirs
                .iter()
                .zip(&ours)
                .filter(|(one, other)| one == other)
                .count();
            assert_eq!((theirs.len(), same), (KEYS, KEYS), "{labels:?}");
        }
    }
}
