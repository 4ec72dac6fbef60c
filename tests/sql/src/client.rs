//! A client that does nothing by itself: it logs in, sends payloads and reads packets, one thread, blocking.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use pontoon_mysql_wire::{
    Capabilities, Command, ErrorPacket, FrameHeader, Greeting, HEADER_LEN, Reader, ServerGreeting, WireError,
    encode_packet, write,
};

use crate::auth;

/// How long a client waits for a packet.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How a client reaches a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Road {
    /// By TCP.
    Tcp(SocketAddr),
    /// By a Unix socket.
    Unix(PathBuf),
}

/// What a client says when it logs in.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub user: Vec<u8>,
    /// The password; empty for none.
    pub password: Vec<u8>,
    /// The database to begin in.
    pub database: Option<Vec<u8>>,
    /// What the client can do. Agreed on is what the server can do too.
    pub capabilities: Capabilities,
    /// The collation's number.
    pub collation: u8,
}

/// Why there is no packet.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Bytes that are not the protocol.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The server's own refusal, while logging in.
    #[error("{0}")]
    Refused(ErrorPacket),
    /// Anything else that should not be.
    #[error("{0}")]
    Odd(String),
}

impl Fault {
    /// In a transcript: the kinds that mean the same to a client are the same words.
    pub fn say(&self) -> String {
        match self {
            Fault::Io(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                "no answer in time".to_owned()
            }
            Fault::Io(_) => "closed".to_owned(),
            other => other.to_string(),
        }
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection after its login.
pub struct Client {
    stream: BufReader<Stream>,
    /// What both sides agreed on.
    pub capabilities: Capabilities,
    /// What the server said first.
    pub greeting: Greeting,
    /// The payload of the OK packet that ended the login.
    pub welcome: Vec<u8>,
    challenge: Vec<u8>,
    secure: bool,
    sequence: u8,
    /// Frames read since the last command.
    pub frames: u64,
    /// Bytes of payload read since the last command.
    pub bytes: u64,
}

impl Client {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`Fault::Refused`] in the server's own words.
    pub fn connect(road: &Road, login: &Login) -> Result<Client, Fault> {
        let stream = match road {
            Road::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Stream::Tcp(stream)
            }
            Road::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Stream::Unix(stream)
            }
        };
        let mut client = Client {
            secure: matches!(stream, Stream::Unix(_)),
            stream: BufReader::with_capacity(64 * 1024, stream),
            capabilities: Capabilities::default(),
            greeting: Greeting {
                server_version: Vec::new(),
                thread_id: 0,
                capabilities: Capabilities::default(),
                character_set: 0,
                status: Default::default(),
                auth_data: Vec::new(),
                auth_plugin: Vec::new(),
            },
            welcome: Vec::new(),
            challenge: Vec::new(),
            sequence: 0,
            frames: 0,
            bytes: 0,
        };
        match ServerGreeting::parse(&client.packet()?)? {
            ServerGreeting::Refused(error) => return Err(Fault::Refused(error)),
            ServerGreeting::Ready(greeting) => client.greeting = greeting,
        }
        client.challenge.clone_from(&client.greeting.auth_data);
        client.capabilities = login.capabilities & client.greeting.capabilities;
        if login.capabilities.has(Capabilities::CLIENT_MYSQL) {
            // MariaDB leaves the bit out of its greeting to say that it has more.
            client.capabilities =
                Capabilities(client.capabilities.0 & 0xFFFF_FFFF) | Capabilities::CLIENT_MYSQL;
        }
        let payload = client.login_packet(login);
        client.reply(&payload)?;
        client.welcome = client.finish_login(&login.password)?;
        Ok(client)
    }

    fn login_packet(&self, login: &Login) -> Vec<u8> {
        let agreed = self.capabilities;
        let plugin = self.first_plugin();
        let mut out = Vec::new();
        write::u32(&mut out, agreed.0 as u32);
        write::u32(&mut out, 1 << 30);
        out.push(login.collation);
        out.extend_from_slice(&[0; 19]);
        write::u32(&mut out, (agreed.0 >> 32) as u32);
        write::nul_bytes(&mut out, &login.user);
        self.write_answer(&mut out, &plugin, &login.password);
        if agreed.has(Capabilities::CONNECT_WITH_DB) {
            write::nul_bytes(&mut out, login.database.as_deref().unwrap_or_default());
        }
        self.write_plugin(&mut out, &plugin);
        out
    }

    /// Becomes another user. The OK packet's payload, or the refusal.
    ///
    /// # Errors
    /// [`Fault::Refused`] in the server's own words.
    pub fn change_user(
        &mut self,
        user: &[u8],
        password: &[u8],
        database: &[u8],
        collation: u8,
    ) -> Result<Vec<u8>, Fault> {
        let plugin = self.first_plugin();
        let mut out = vec![Command::ChangeUser.to_byte()];
        write::nul_bytes(&mut out, user);
        self.write_answer(&mut out, &plugin, password);
        write::nul_bytes(&mut out, database);
        write::u16(&mut out, u16::from(collation));
        self.write_plugin(&mut out, &plugin);
        self.send(&out)?;
        self.finish_login(password)
    }

    fn first_plugin(&self) -> Vec<u8> {
        match &self.greeting.auth_plugin[..] {
            known @ (b"mysql_native_password" | b"caching_sha2_password") => known.to_vec(),
            _ => b"mysql_native_password".to_vec(),
        }
    }

    fn write_answer(&self, out: &mut Vec<u8>, plugin: &[u8], password: &[u8]) {
        let answer = auth::response(plugin, password, &self.challenge).unwrap_or_default();
        out.push(answer.len() as u8);
        out.extend_from_slice(&answer);
    }

    fn write_plugin(&self, out: &mut Vec<u8>, plugin: &[u8]) {
        if self.capabilities.has(Capabilities::PLUGIN_AUTH) {
            write::nul_bytes(out, plugin);
        }
        if self.capabilities.has(Capabilities::CONNECT_ATTRS) {
            let mut attributes = Vec::new();
            write::lenenc_bytes(&mut attributes, b"program_name");
            write::lenenc_bytes(&mut attributes, b"pontoon-sql-tests");
            write::lenenc_bytes(out, &attributes);
        }
    }

    fn finish_login(&mut self, password: &[u8]) -> Result<Vec<u8>, Fault> {
        loop {
            let packet = self.packet()?;
            match packet.first() {
                Some(0x00) => return Ok(packet),
                Some(0xFF) => return Err(Fault::Refused(ErrorPacket::parse(&packet)?)),
                Some(0xFE) => {
                    let mut reader = Reader::new(&packet[1..]);
                    let plugin = reader.nul_bytes("the plugin")?.to_vec();
                    let challenge = reader.rest();
                    self.challenge = challenge.strip_suffix(&[0]).unwrap_or(challenge).to_vec();
                    let answer = auth::response(&plugin, password, &self.challenge).ok_or_else(|| {
                        Fault::Odd(format!("asked for {}", String::from_utf8_lossy(&plugin)))
                    })?;
                    self.reply(&answer)?;
                }
                Some(0x01) => match packet.get(1) {
                    Some(3) => {}
                    Some(4) if self.secure => {
                        let mut plain = password.to_vec();
                        plain.push(0);
                        self.reply(&plain)?;
                    }
                    Some(4) => {
                        self.reply(&[2])?;
                        let key = self.packet()?;
                        self.seal(password, &key)?;
                    }
                    Some(b'-') => self.seal(password, &packet)?,
                    other => return Err(Fault::Odd(format!("authentication says {other:?}"))),
                },
                other => return Err(Fault::Odd(format!("authentication packet {other:?}"))),
            }
        }
    }

    fn seal(&mut self, password: &[u8], key: &[u8]) -> Result<(), Fault> {
        let sealed = auth::sealed(password, &self.challenge, key.get(1..).unwrap_or_default());
        self.reply(&sealed.ok_or_else(|| Fault::Odd("the public key is none".to_owned()))?)
    }

    /// Sends a command.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.sequence = 0;
        self.frames = 0;
        self.bytes = 0;
        self.reply(payload)
    }

    /// Sends a packet that goes on with an exchange.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn reply(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let mut bytes = Vec::with_capacity(payload.len() + 16);
        self.sequence = encode_packet(&mut bytes, self.sequence, payload);
        self.stream.get_mut().write_all(&bytes)?;
        Ok(())
    }

    /// Before the answer to a pipelined command.
    pub fn next_answer(&mut self) {
        self.sequence = 1;
        self.frames = 0;
        self.bytes = 0;
    }

    /// Sends bytes that need not be packets.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.stream.get_mut().write_all(bytes)?;
        self.next_answer();
        Ok(())
    }

    /// The next packet, its frames joined.
    ///
    /// # Errors
    /// When the connection ends or a frame does not carry the sequence number that is due.
    pub fn packet(&mut self) -> Result<Vec<u8>, Fault> {
        let mut payload = Vec::new();
        loop {
            let mut header = [0; HEADER_LEN];
            self.stream.read_exact(&mut header)?;
            let header = FrameHeader::parse(header);
            if header.sequence != self.sequence {
                return Err(Fault::Odd(format!(
                    "sequence {} where {} was due",
                    header.sequence, self.sequence
                )));
            }
            self.sequence = self.sequence.wrapping_add(1);
            self.frames += 1;
            self.bytes += header.len as u64;
            let begin = payload.len();
            payload.resize(begin + header.len, 0);
            self.stream.read_exact(&mut payload[begin..])?;
            if !header.is_continued() {
                return Ok(payload);
            }
        }
    }

    /// Whether the server closes, and says nothing before it does.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        matches!(self.stream.read(&mut byte), Ok(0))
            || self
                .stream
                .get_mut()
                .write_all(&[])
                .is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
    }
}
