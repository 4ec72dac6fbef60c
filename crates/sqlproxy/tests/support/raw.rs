//! A client that sends what a test says, packet by packet.

use std::time::Duration;

use pontoon_mysql_wire::auth::native;
use pontoon_mysql_wire::reply::{Done, Expect, ReplyWalker, Step};
use pontoon_mysql_wire::{
    Capabilities, Command, ErrorPacket, FrameHeader, Greeting, HandshakeResponse, MAX_FRAME_PAYLOAD,
    ServerGreeting, encode_packet,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::SOON;
use super::database::Road;

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What the client can do.
pub const CAPABILITIES: Capabilities = Capabilities(
    Capabilities::CLIENT_MYSQL.0
        | Capabilities::LONG_FLAG.0
        | Capabilities::PROTOCOL_41.0
        | Capabilities::TRANSACTIONS.0
        | Capabilities::SECURE_CONNECTION.0
        | Capabilities::MULTI_STATEMENTS.0
        | Capabilities::MULTI_RESULTS.0
        | Capabilities::PS_MULTI_RESULTS.0
        | Capabilities::LOCAL_FILES.0
        | Capabilities::CONNECT_WITH_DB.0
        | Capabilities::PLUGIN_AUTH.0
        | Capabilities::DEPRECATE_EOF.0,
);

/// A connection that has logged in as `native` with the password `pw`, in the database `app`.
pub struct Raw {
    pub stream: Box<dyn Stream>,
    pub greeting: Greeting,
    /// What came behind the last packet that was looked at.
    unread: Vec<u8>,
}

/// An answer: what it said, and its packets.
#[derive(Debug)]
pub struct Said {
    pub done: Done,
    pub packets: Vec<Vec<u8>>,
}

impl Said {
    /// The error that it ends with.
    pub fn error(&self) -> Option<ErrorPacket> {
        let last = self.packets.last()?;
        (last.first() == Some(&ErrorPacket::HEADER)).then(|| ErrorPacket::parse(last).unwrap())
    }

    /// The rows of an answer of one result with so many columns.
    pub fn rows(&self, columns: usize) -> &[Vec<u8>] {
        assert!(self.error().is_none(), "{:?}", self.error());
        &self.packets[1 + columns..self.packets.len() - 1]
    }
}

async fn dial(road: &Road) -> Box<dyn Stream> {
    match road {
        Road::Tcp(address) | Road::Tls(address) => Box::new(TcpStream::connect(address).await.unwrap()),
        Road::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
    }
}

impl Raw {
    pub async fn connect(road: &Road) -> Raw {
        Raw::login(road, "native", "app").await.unwrap()
    }

    /// Logs in with the password `pw`.
    pub async fn login(road: &Road, user: &str, database: &str) -> Result<Raw, ErrorPacket> {
        let mut raw = Raw::greeted(road).await;
        let hash = native::hash(b"pw");
        let challenge = raw.greeting.auth_data[..20].to_vec();
        let login = HandshakeResponse {
            capabilities: CAPABILITIES,
            max_packet: 1 << 30,
            character_set: 45,
            user: user.as_bytes().to_vec(),
            auth_response: native::answer(&hash, &challenge).to_vec(),
            database: Some(database.as_bytes().to_vec()),
            auth_plugin: Some(b"mysql_native_password".to_vec()),
            attributes: Vec::new(),
            zstd_level: None,
        };
        let mut bytes = Vec::new();
        encode_packet(&mut bytes, 1, &login.to_payload());
        raw.write(&bytes).await;
        loop {
            let packet = raw.packet().await.expect("the login has no end");
            match packet[0] {
                0x00 => return Ok(raw),
                0xFF => return Err(ErrorPacket::parse(&packet).unwrap()),
                // Another challenge.
                0xFE => {
                    let at = packet.iter().skip(1).position(|byte| *byte == 0).unwrap() + 2;
                    let mut bytes = Vec::new();
                    encode_packet(&mut bytes, 3, &native::answer(&hash, &packet[at..at + 20]));
                    raw.write(&bytes).await;
                }
                other => panic!("{other:#x} in a login"),
            }
        }
    }

    /// A connection that has been greeted and has said nothing.
    pub async fn greeted(road: &Road) -> Raw {
        let stream = timeout(SOON, dial(road)).await.expect("no connection in time");
        let mut raw = Raw {
            stream,
            greeting: Greeting {
                server_version: Vec::new(),
                thread_id: 0,
                capabilities: Capabilities::default(),
                character_set: 0,
                status: pontoon_mysql_wire::StatusFlags::default(),
                auth_data: Vec::new(),
                auth_plugin: Vec::new(),
            },
            unread: Vec::new(),
        };
        match ServerGreeting::parse(&raw.packet().await.unwrap()).unwrap() {
            ServerGreeting::Ready(greeting) => raw.greeting = greeting,
            ServerGreeting::Refused(error) => panic!("{error}"),
        }
        raw
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        timeout(SOON * 6, self.stream.write_all(bytes))
            .await
            .expect("nobody reads")
            .unwrap();
    }

    /// Sends a command.
    pub async fn send(&mut self, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode_packet(&mut bytes, 0, payload);
        self.write(&bytes).await;
    }

    pub async fn send_query(&mut self, sql: &str) {
        self.send(&command(Command::Query, sql.as_bytes())).await;
    }

    /// Reads a packet, its frames joined; `None` at the end.
    pub async fn packet(&mut self) -> Option<Vec<u8>> {
        let mut packet = Vec::new();
        loop {
            let header = FrameHeader::parse(self.take(4).await?.try_into().unwrap());
            packet.extend(self.take(header.len).await?);
            if header.len < MAX_FRAME_PAYLOAD {
                return Some(packet);
            }
        }
    }

    async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.unread.len() < count {
            let mut chunk = vec![0; 64 * 1024];
            let read = timeout(SOON * 3, self.stream.read(&mut chunk));
            match read.await.expect("no answer in time") {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.unread.extend_from_slice(&chunk[..read]),
            }
        }
        let rest = self.unread.split_off(count);
        Some(std::mem::replace(&mut self.unread, rest))
    }

    /// Sends a command and reads its answer.
    pub async fn ask(&mut self, payload: &[u8]) -> Said {
        self.send(payload).await;
        let command = Command::from_byte(payload[0]).unwrap();
        self.answer(Expect::of(command).unwrap()).await
    }

    pub async fn query(&mut self, sql: &str) -> Said {
        self.ask(&command(Command::Query, sql.as_bytes())).await
    }

    /// The only value of an answer, as text.
    pub async fn value(&mut self, sql: &str) -> String {
        let said = self.query(sql).await;
        let row = &said.rows(1)[0];
        String::from_utf8_lossy(&row[1..]).into_owned()
    }

    /// Reads an answer to its end, or to the request for a local file.
    pub async fn answer(&mut self, expect: Expect) -> Said {
        let mut walker = ReplyWalker::new(expect, CAPABILITIES, CAPABILITIES, 1);
        let mut packets = Vec::new();
        loop {
            let packet = self.packet().await.expect("the answer breaks off");
            let mut bytes = Vec::new();
            encode_packet(&mut bytes, walker.next_sequence(), &packet);
            let fed = walker.feed(&bytes, &mut Vec::new()).unwrap();
            assert_eq!(fed.consumed, bytes.len());
            packets.push(packet);
            match fed.step {
                Step::Done(done) => return Said { done, packets },
                Step::More => {}
                Step::LocalInfile => panic!("a request for a file"),
            }
        }
    }

    /// Prepares; the statement's number.
    pub async fn prepare(&mut self, sql: &str) -> u32 {
        let said = self.ask(&command(Command::StmtPrepare, sql.as_bytes())).await;
        assert!(said.error().is_none(), "{sql}: {:?}", said.error());
        said.done.prepared.unwrap().id
    }

    /// Whether the server has closed.
    pub async fn is_closed(&mut self) -> bool {
        self.packet().await.is_none()
    }
}

/// A command's payload.
pub fn command(command: Command, argument: &[u8]) -> Vec<u8> {
    [&[command.to_byte()], argument].concat()
}

/// An EXECUTE with parameters that are texts; with their types or not.
pub fn execution(statement: u32, flags: u8, typed: bool, texts: &[&[u8]]) -> Vec<u8> {
    let mut payload = command(Command::StmtExecute, &statement.to_le_bytes());
    payload.push(flags);
    payload.extend_from_slice(&1u32.to_le_bytes());
    if !texts.is_empty() {
        payload.extend(vec![0; texts.len().div_ceil(8)]);
        payload.push(u8::from(typed));
        if typed {
            texts.iter().for_each(|_| payload.extend_from_slice(&[0xFD, 0]));
        }
        for text in texts {
            pontoon_mysql_wire::write::lenenc_bytes(&mut payload, text);
        }
    }
    payload
}

/// A part of a long parameter.
pub fn long_data(statement: u32, parameter: u16, bytes: &[u8]) -> Vec<u8> {
    let mut payload = command(Command::StmtSendLongData, &statement.to_le_bytes());
    payload.extend_from_slice(&parameter.to_le_bytes());
    payload.extend_from_slice(bytes);
    payload
}

/// Any other command about a statement.
pub fn about(what: Command, statement: u32, more: &[u8]) -> Vec<u8> {
    [&[what.to_byte()], &statement.to_le_bytes()[..], more].concat()
}

pub const MOMENT: Duration = Duration::from_millis(100);
