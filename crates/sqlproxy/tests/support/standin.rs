//! A database that lets everybody in, answers the proxy's own questions as a MariaDB would, and a client's as the test
//! says.

use std::sync::{Arc, Mutex};

use pontoon_mysql_wire::auth::native;
use pontoon_mysql_wire::{
    Capabilities, Command, FrameHeader, Greeting, OkPacket, StatusFlags, encode_packet, write,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};

use super::{One, limits};

/// What a MariaDB 10.11 can do.
const CAPABILITIES: Capabilities = Capabilities(0x1D_81FF_F7FE);

/// The bytes that answer a client's statement; `None` for a database that closes.
pub type Answer = Option<Vec<u8>>;

/// The stand-in and a proxy before it.
pub struct StandIn {
    pub one: One,
    /// Every KILL that the proxy has sent.
    pub kills: Arc<Mutex<Vec<String>>>,
    _dir: tempfile::TempDir,
}

impl StandIn {
    /// `answer` is asked with each statement that is not the proxy's own, and may write itself.
    pub async fn start<F, Fut>(answer: F) -> StandIn
    where
        F: Fn(String, TcpStream) -> Fut + Send + Sync + Clone + 'static,
        Fut: Future<Output = (TcpStream, Answer)> + Send + 'static,
    {
        let kills: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&kills);
        let database = super::database(move |count, stream| {
            let (answer, seen) = (answer.clone(), Arc::clone(&seen));
            async move { serve(count, stream, answer, seen).await.unwrap_or_default() }
        });
        let database = database.await;
        // Accounts are asked for by the Unix socket.
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("mysqld.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(database).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        let one = One::start_with(database, limits(), |view| view.backend_socket = Some(socket)).await;
        let account = one.paths.sql_account_file();
        std::fs::create_dir_all(account.parent().unwrap()).unwrap();
        std::fs::write(account, r#"{"user":"pontoon_sql","password":"own"}"#).unwrap();
        StandIn {
            one,
            kills,
            _dir: dir,
        }
    }

    pub fn road(&self) -> super::database::Road {
        super::database::Road::Tcp(self.one.address)
    }
}

async fn serve<F, Fut>(
    count: usize,
    mut stream: TcpStream,
    answer: F,
    kills: Arc<Mutex<Vec<String>>>,
) -> Option<()>
where
    F: Fn(String, TcpStream) -> Fut,
    Fut: Future<Output = (TcpStream, Answer)>,
{
    let greeting = Greeting {
        server_version: b"5.5.5-10.11.0-MariaDB-test".to_vec(),
        thread_id: count as u32 + 1,
        capabilities: CAPABILITIES,
        character_set: 45,
        status: StatusFlags::AUTOCOMMIT,
        auth_data: b"abcdefghijklmnopqrst".to_vec(),
        auth_plugin: b"mysql_native_password".to_vec(),
    };
    stream
        .write_all(&super::packet(&greeting.to_payload()))
        .await
        .ok()?;
    packet(&mut stream).await?;
    stream.write_all(&packets(2, &[ok(0x00)])).await.ok()?;
    loop {
        let payload = packet(&mut stream).await?;
        let (byte, argument) = payload.split_first()?;
        let sql = String::from_utf8_lossy(argument).into_owned();
        let said = match Command::from_byte(*byte)? {
            Command::Query if sql.contains("global_priv") => {
                let stored = native::stored(&native::hash(b"pw"));
                let hash: String = stored.iter().map(|byte| format!("{byte:02X}")).collect();
                let account =
                    format!(r#"{{"plugin":"mysql_native_password","authentication_string":"*{hash}"}}"#);
                rows(&[&["native", "%", &account]])
            }
            Command::Query if sql.starts_with("SELECT @@") => {
                let names = sql["SELECT ".len()..].split(',');
                let values: Vec<_> = names.map(|name| variable(name.trim())).collect();
                rows(&[&values])
            }
            Command::Query if sql == "SHOW GRANTS" => rows(&[&["GRANT ALL"]]),
            Command::Query if sql.starts_with("KILL") => {
                kills.lock().unwrap().push(sql);
                packets(1, &[ok(0x00)])
            }
            Command::Query if sql.starts_with("SET ") => packets(1, &[ok(0x00)]),
            Command::Query if sql == "SELECT 1" => rows(&[&["1"]]),
            Command::Query | Command::StmtPrepare => {
                let (back, said) = answer(sql, stream).await;
                stream = back;
                said?
            }
            Command::Quit => return None,
            _ => packets(1, &[ok(0x00)]),
        };
        stream.write_all(&said).await.ok()?;
    }
}

fn variable(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or(name).trim_start_matches('@') {
        "max_connections" => "100",
        "tx_isolation" => "REPEATABLE-READ",
        "collation_connection" => "utf8mb4_general_ci",
        name if name.starts_with("character_set") => "utf8mb4",
        "wait_timeout" => "28800",
        "sql_mode" | "session_track_system_variables" => "",
        _ => "0",
    }
}

async fn packet(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.ok()?;
    let mut payload = vec![0; FrameHeader::parse(header).len];
    stream.read_exact(&mut payload).await.ok()?;
    Some(payload)
}

/// Packets with numbers from `sequence` on.
pub fn packets(mut sequence: u8, payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for payload in payloads {
        sequence = encode_packet(&mut bytes, sequence, payload);
    }
    bytes
}

/// An OK packet with that header.
pub fn ok(header: u8) -> Vec<u8> {
    let ok = OkPacket {
        affected_rows: 0,
        last_insert_id: 0,
        status: StatusFlags::AUTOCOMMIT,
        warnings: 0,
        info: b"",
        state: b"",
    };
    let mut payload = Vec::new();
    ok.write(&mut payload, header, CAPABILITIES);
    payload
}

/// A definition of a column of text.
pub fn definition() -> Vec<u8> {
    b"\x03def\0\0\0\x01a\0\x0c\x2d\0\0\x01\0\0\xfd\0\0\x1f\0\0".to_vec()
}

/// A result of these rows.
pub fn rows(rows: &[&[&str]]) -> Vec<u8> {
    let columns = rows[0].len();
    let mut payloads = vec![vec![columns as u8]];
    payloads.extend((0..columns).map(|_| definition()));
    for row in rows {
        let mut payload = Vec::new();
        row.iter()
            .for_each(|value| write::lenenc_bytes(&mut payload, value.as_bytes()));
        payloads.push(payload);
    }
    payloads.push(ok(0xFE));
    packets(1, &payloads)
}
