//! Against the real servers: what the walk makes of an answer for a client of the old kind is what the server itself
//! sends to such a client, byte for byte; and the arithmetic of the logins is theirs.
// Outside of `#[test]` functions clippy does not know that this is test code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use pontoon_mysql_wire::auth::{AuthPacket, native, plugin, sha2};
use pontoon_mysql_wire::reply::{Done, Expect, Outcome, ReplyWalker, Step};
use pontoon_mysql_wire::statement::Execute;
use pontoon_mysql_wire::{
    Capabilities, Command, FrameHeader, HEADER_LEN, HandshakeResponse, Packet, PacketDecoder, ServerGreeting,
    StatusFlags, encode_packet,
};
use pontoon_testkit::{DatabaseOptions, LabError, Standalone, free_port, say};

const PASSWORD: &[u8] = b"not a secret";

/// A connection that speaks with the crate under test and nothing else.
struct Wire {
    stream: UnixStream,
    decoder: PacketDecoder,
    agreed: Capabilities,
    status: StatusFlags,
    /// Whether the server was content with what it had cached.
    fast: bool,
}

impl Wire {
    fn connect(socket: &Path, capabilities: Capabilities) -> Wire {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut wire = Wire {
            stream,
            decoder: PacketDecoder::new(1 << 16),
            agreed: Capabilities::default(),
            status: StatusFlags::AUTOCOMMIT,
            fast: false,
        };
        let first = wire.packet();
        let ServerGreeting::Ready(greeting) = ServerGreeting::parse(&first.payload).unwrap() else {
            panic!("refused");
        };
        // Compared as values too: a version's greeting must come back as it was.
        assert_eq!(greeting.to_payload(), first.payload, "the greeting");
        let usual = Capabilities::PROTOCOL_41
            | Capabilities::TRANSACTIONS
            | Capabilities::MULTI_STATEMENTS
            | Capabilities::MULTI_RESULTS
            | Capabilities::PS_MULTI_RESULTS
            | Capabilities::LOCAL_FILES
            | Capabilities::CLIENT_MYSQL;
        let name = greeting.auth_plugin.clone();
        let login = HandshakeResponse {
            capabilities: capabilities | usual,
            max_packet: 1 << 30,
            character_set: 45,
            user: b"walker".to_vec(),
            auth_response: answer(&name, &greeting.auth_data),
            database: Some(b"walk".to_vec()),
            auth_plugin: Some(name.clone()),
            attributes: vec![(b"program_name".to_vec(), b"walk".to_vec())],
            zstd_level: None,
        };
        wire.agreed = login.sent_capabilities();
        wire.send(first.sequence.wrapping_add(1), &login.to_payload());
        wire.log_in(name);
        wire
    }

    fn log_in(&mut self, mut name: Vec<u8>) {
        loop {
            let packet = self.packet();
            let next = packet.sequence.wrapping_add(1);
            match AuthPacket::parse(&packet.payload, false).unwrap() {
                AuthPacket::Ok => return,
                AuthPacket::Switch(switch) => {
                    assert_eq!(switch.to_payload(), packet.payload);
                    name = switch.plugin.to_vec();
                    self.send(next, &answer(&name, switch.data));
                }
                AuthPacket::More([sha2::FAST_OK]) => self.fast = true,
                AuthPacket::More([sha2::FULL]) => {
                    assert_eq!(name, plugin::CACHING_SHA2);
                    self.send(next, &[PASSWORD, b"\0"].concat());
                }
                other => panic!("{other:?}: {}", String::from_utf8_lossy(&packet.payload)),
            }
        }
    }

    fn packet(&mut self) -> Packet {
        loop {
            if let Some(packet) = self.decoder.next_packet().unwrap() {
                return packet;
            }
            let bytes = self.read();
            self.decoder.feed(&bytes);
        }
    }

    fn read(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 100_000];
        let count = self.stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the server closed the connection");
        buffer.truncate(count);
        buffer
    }

    fn send(&mut self, sequence: u8, payload: &[u8]) {
        let mut out = Vec::new();
        encode_packet(&mut out, sequence, payload);
        self.stream.write_all(&out).unwrap();
    }

    /// Sends a command and walks its answer for a client with `client`: what the server sent, what the client gets,
    /// and what the walk found.
    fn ask(&mut self, command: Command, argument: &[u8], client: Capabilities) -> (Vec<u8>, Vec<u8>, Done) {
        self.send(0, &[&[command.to_byte()], argument].concat());
        let expect = Expect::of(command).unwrap();
        let mut walker = ReplyWalker::new(expect, self.agreed, client, 1).with_status(self.status);
        let (mut raw, mut out, mut pending) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let fed = walker
                .feed(&pending, &mut out)
                .unwrap_or_else(|e| panic!("{command:?} {}: {e}", String::from_utf8_lossy(argument)));
            pending.drain(..fed.consumed);
            match fed.step {
                Step::More => {
                    let bytes = self.read();
                    raw.extend_from_slice(&bytes);
                    pending.extend_from_slice(&bytes);
                }
                Step::LocalInfile => {
                    let offset = walker.upload_offset();
                    let mut file = Vec::new();
                    let next = walker.next_sequence().wrapping_add(offset);
                    let next = encode_packet(&mut file, next, b"7\n8\n");
                    encode_packet(&mut file, next, b"");
                    self.stream.write_all(&file).unwrap();
                    walker.uploaded(2);
                }
                Step::Done(done) => {
                    assert!(pending.is_empty(), "bytes behind the answer");
                    if done.status_told {
                        self.status = done.status;
                    }
                    return (raw, out, done);
                }
            }
        }
    }
}

fn answer(name: &[u8], challenge: &[u8]) -> Vec<u8> {
    match name {
        plugin::NATIVE => native::answer(&native::hash(PASSWORD), challenge).to_vec(),
        plugin::CACHING_SHA2 => sha2::answer(PASSWORD, challenge).to_vec(),
        other => panic!("the plugin {}", String::from_utf8_lossy(other)),
    }
}

const SCHEMA: &[&str] = &[
    "DROP DATABASE IF EXISTS walk",
    "CREATE DATABASE walk",
    "CREATE TABLE walk.t (id INT AUTO_INCREMENT PRIMARY KEY, a VARCHAR(20))",
    "INSERT INTO walk.t (a) VALUES ('x'), (NULL), ('')",
    "CREATE TABLE walk.n (n INT)",
    "CREATE PROCEDURE walk.two() BEGIN SELECT id FROM t; SELECT a FROM t WHERE 0; INSERT INTO t (a) VALUES ('p'); END",
    "CREATE PROCEDURE walk.three(IN i INT, OUT o INT) BEGIN SELECT i; SET o = i + 1; END",
    "CREATE PROCEDURE walk.fails() BEGIN SELECT 1; SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END",
    "CREATE PROCEDURE walk.cursors() BEGIN DECLARE x INT; DECLARE c CURSOR FOR SELECT id FROM t; OPEN c; FETCH c INTO x; \
     SELECT a FROM t WHERE 0; CLOSE c; SELECT x; END",
];

/// What every client asks, in this order: a command with its argument. `EXECUTE` has the number of the statement.
fn questions() -> Vec<(Command, Vec<u8>)> {
    let mut list = Vec::new();
    let mut add = |command, argument: &[u8]| list.push((command, argument.to_vec()));
    add(Command::Ping, b"");
    add(Command::InitDb, b"walk");
    add(Command::InitDb, b"absent");
    let numbers = "SELECT a.n FROM (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 \
                   UNION SELECT 6) a, (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION \
                   SELECT 5 UNION SELECT 6) b, (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 \
                   UNION SELECT 5 UNION SELECT 6) c";
    for sql in [
        "SELECT 1",
        "SELECT * FROM t",
        "SELECT id, a FROM t WHERE id < 0",
        "SELECT '', NULL, 1/0",
        "SHOW WARNINGS",
        "INSERT INTO t (a) VALUES ('new'), ('newer')",
        "UPDATE t SET a = 'changed' WHERE id = 1",
        "SELEC 1",
        "INSERT INTO t (id) VALUES (1)",
        "DO 1",
        "BEGIN",
        "SELECT COUNT(*) FROM t",
        "COMMIT",
        "SET autocommit = 0",
        "SELECT COUNT(*) FROM t",
        "ROLLBACK",
        "SET autocommit = 1",
        "USE walk",
        "SELECT 1; INSERT INTO t (a) VALUES ('m'); SELECT 2 FROM t WHERE 0; DO 1",
        "SELECT 1; SELEC 2",
        "CALL two()",
        "CALL fails()",
        "CALL cursors()",
        "CALL three(1, @o)",
        "SELECT @o",
        "START TRANSACTION READ ONLY",
        "INSERT INTO t (a) VALUES ('no')",
        "COMMIT",
        "LOAD DATA LOCAL INFILE 'x' INTO TABLE n",
        "SELECT * FROM n",
        numbers,
        "SELECT REPEAT('x', 17000000), 1",
        "EXPLAIN SELECT 1",
    ] {
        add(Command::Query, sql.as_bytes());
    }
    add(Command::FieldList, b"t\0%");
    add(Command::FieldList, b"absent\0%");
    add(Command::SetOption, b"\0\0");
    add(Command::SetOption, b"\x07\0");
    let execute = |statement: u32, flags, nulls: &[u8], types: Option<&[u8]>, values: &[u8]| {
        let mut out = Vec::new();
        let execute = Execute {
            statement,
            flags,
            iterations: 1,
            nulls,
            types,
            values,
        };
        execute.write(&mut out, statement, None);
        out[1..].to_vec()
    };
    let id = |number: u32| number.to_le_bytes();
    let int: &[u8] = b"\x03\0";
    // 1
    add(Command::StmtPrepare, b"SELECT id, a FROM t WHERE id < ?");
    add(
        Command::StmtExecute,
        &execute(1, 0, b"\0", Some(int), b"\x03\0\0\0"),
    );
    add(Command::StmtExecute, &execute(1, 0, b"\0", None, b"\0\0\0\0"));
    add(Command::StmtExecute, &execute(1, 1, b"\0", None, b"\x04\0\0\0"));
    for _ in 0..3 {
        add(Command::StmtFetch, &[&id(1)[..], &id(2)[..]].concat());
    }
    add(Command::StmtExecute, &execute(1, 1, b"\0", None, b"\0\0\0\0"));
    add(Command::StmtFetch, &[&id(1)[..], &id(2)[..]].concat());
    add(Command::StmtReset, &id(1));
    // 2
    add(Command::StmtPrepare, b"INSERT INTO t (a) VALUES (?)");
    add(
        Command::StmtExecute,
        &execute(2, 0, b"\0", Some(b"\xfd\0"), b"\x02hi"),
    );
    add(Command::StmtExecute, &execute(2, 1, b"\x01", None, b""));
    // 3
    add(Command::StmtPrepare, b"CALL three(?, ?)");
    add(
        Command::StmtExecute,
        &execute(3, 0, b"\0", Some(b"\x03\0\x03\0"), b"\x04\0\0\0\x05\0\0\0"),
    );
    // 4
    add(Command::StmtPrepare, b"CALL cursors()");
    add(Command::StmtExecute, &execute(4, 0, b"", None, b""));
    add(Command::StmtExecute, &execute(4, 1, b"", None, b""));
    // 5
    add(Command::StmtPrepare, b"SELECT 1");
    add(Command::StmtExecute, &execute(5, 1, b"", None, b""));
    add(Command::StmtPrepare, b"SELEC ?");
    add(Command::StmtFetch, &[id(77), id(1)].concat());
    add(Command::StmtExecute, &execute(77, 0, b"", None, b""));
    add(Command::ResetConnection, b"");
    add(Command::Query, b"SELECT 1");
    list
}

/// The payloads' beginnings, with what the walk cannot know taken out: the flags of an EOF packet that it puts in.
fn comparable(bytes: &[u8], old: bool) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut rest = bytes;
    while let Some((header, after)) = rest.split_first_chunk::<HEADER_LEN>() {
        let len = FrameHeader::parse(*header).len;
        let mut packet = [&header[..], &after[..len.min(2_000)]].concat();
        if old && len == 5 && packet[4] == 0xFE {
            packet.truncate(7);
        }
        all.push(packet);
        rest = &after[len..];
    }
    all
}

async fn prepare(server: &Standalone) {
    let mut root = server.root().await.unwrap();
    for sql in SCHEMA {
        root.query_drop(*sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
}

async fn compare(server: &Standalone, gtids: &str) {
    let mut root = server.root().await.unwrap();
    let password = String::from_utf8_lossy(PASSWORD);
    for sql in [
        format!("CREATE USER walker@localhost IDENTIFIED BY '{password}'"),
        "GRANT ALL ON *.* TO walker@localhost".to_owned(),
    ] {
        root.query_drop(&sql).await.unwrap();
    }
    let full = Capabilities::DEPRECATE_EOF | Capabilities::SESSION_TRACK;
    for client in [
        Capabilities::default(),
        Capabilities::SESSION_TRACK,
        Capabilities::DEPRECATE_EOF,
        full,
    ] {
        let client = client | Capabilities::LOCAL_FILES;
        prepare(server).await;
        let mut native = Wire::connect(server.socket(), client);
        let mut expected = Vec::new();
        for (command, argument) in questions() {
            let (raw, out, done) = native.ask(command, &argument, native.agreed);
            assert!(raw == out, "{command:?} to itself: {client:?}");
            expected.push((raw, done));
        }
        drop(native);

        prepare(server).await;
        let mut walked = Wire::connect(server.socket(), full);
        for ((command, argument), (raw, seen)) in questions().into_iter().zip(&expected) {
            let (_, out, done) = walked.ask(command, &argument, client);
            let old = !client.has(Capabilities::DEPRECATE_EOF);
            let what = format!(
                "{command:?} {} for {client:?}",
                String::from_utf8_lossy(&argument)
            );
            assert_eq!(comparable(&out, old), comparable(raw, old), "{what}");
            assert_eq!(
                (done.outcome, done.cursor, done.prepared),
                (seen.outcome, seen.cursor, seen.prepared),
                "{what}"
            );
            let tracked = StatusFlags::SESSION_STATE_CHANGED;
            if done.status_told && seen.status_told {
                assert_eq!(
                    done.status.without(tracked),
                    seen.status.without(tracked),
                    "{what}"
                );
            }
        }
        let sql = gtids.as_bytes();
        walked.ask(Command::Query, sql, client);
        let insert = b"INSERT INTO t (a) VALUES ('gtid'); SELECT 1";
        let (_, _, done) = walked.ask(Command::Query, insert, client);
        assert_eq!(done.outcome, Outcome::Rows);
        assert_eq!(done.state.gtids.len(), 1, "{:?}", done.state);
        assert!(done.last_insert_id > 0);
    }
}

fn skipped(started: Result<Standalone, LabError>) -> Option<Standalone> {
    match started {
        Ok(server) => Some(server),
        Err(LabError::Skip(skip)) => {
            say(&skip);
            None
        }
        Err(e) => panic!("{e}"),
    }
}

fn config(lines: &[&str]) -> DatabaseOptions {
    let common = [
        "log_bin=binlog",
        "server_id=1",
        "local_infile=1",
        "max_allowed_packet=64M",
        "max_connections=30",
        // MariaDB numbers a connection's statements from where the thread's last connection stopped.
        "thread_cache_size=0",
    ];
    DatabaseOptions {
        port: free_port().unwrap(),
        config: common
            .iter()
            .chain(lines)
            .map(|line| (*line).to_owned())
            .collect(),
    }
}

#[tokio::test]
async fn mariadb_sends_old_clients_what_the_walk_makes() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = skipped(Standalone::mariadb(dir.path(), &config(&[])).await) else {
        return;
    };
    let gtids = "SET session_track_system_variables = 'last_gtid,autocommit'";
    compare(&server, gtids).await;
    let mut root = server.root().await.unwrap();
    let stored: String = root
        .query_first("SELECT authentication_string FROM mysql.user WHERE user = 'walker'")
        .await
        .unwrap()
        .unwrap();
    let known = native::stored(&native::hash(PASSWORD));
    assert_eq!(native::parse_stored(stored.as_bytes()), Some(known));
}

#[tokio::test]
async fn mysql_sends_old_clients_what_the_walk_makes() {
    let dir = tempfile::tempdir().unwrap();
    let options = config(&["gtid_mode=ON", "enforce_gtid_consistency=ON", "mysqlx=OFF"]);
    let Some(server) = skipped(Standalone::mysql(dir.path(), &options).await) else {
        return;
    };
    compare(&server, "SET session_track_gtids = OWN_GTID").await;
    let again = Wire::connect(server.socket(), Capabilities::default());
    assert!(again.fast, "a second login needs no password");
}
