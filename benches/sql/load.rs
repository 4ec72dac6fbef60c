//! The load: connections that ask for one row each time, on a few threads.
//!
//! Own, and not sysbench: that has a thread for each connection and a Lua interpreter in each query, which on one
//! machine takes the processor time that is to be measured, and it cannot say which queries were prepared.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pontoon_mysql_wire::{Capabilities, Command, FrameHeader, HEADER_LEN, encode_packet, write};
use pontoon_sql_tests::client::{Client, Fault, Login, Road};
use pontoon_sql_tests::play::EVERY;
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Rows of the table that is asked.
pub const ROWS: u32 = 10_000;

/// What is asked, by whom and how fast.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where.
    pub to: SocketAddr,
    /// Connections.
    pub connections: usize,
    /// Whether the query is prepared, or text.
    pub prepared: bool,
    /// Queries a second of all connections; `None` for as many as there can be.
    pub rate: Option<f64>,
    /// How long it is measured.
    pub time: Duration,
    /// The cores that the load runs on; none for any. One thread for each, or one.
    pub cores: Vec<usize>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Queries answered in the measured time.
    pub queries: u64,
    /// Their latencies in microseconds, sorted.
    pub latencies: Vec<u32>,
    /// What failed, if anything did.
    pub failed: Option<String>,
    /// How long it really took.
    pub took: Duration,
}

impl Done {
    /// Queries a second.
    pub fn per_second(&self) -> f64 {
        self.queries as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// The latency below which `share` of the queries were, in microseconds.
    pub fn percentile(&self, share: f64) -> u32 {
        pontoon_benches::percentile(&self.latencies, share)
    }
}

/// Logs in as the benchmark's user.
///
/// # Errors
/// In the server's own words.
pub fn login(to: SocketAddr) -> Result<Client, Fault> {
    let login = Login {
        user: b"app".to_vec(),
        password: b"pw".to_vec(),
        database: Some(b"app".to_vec()),
        capabilities: EVERY | Capabilities::DEPRECATE_EOF,
        collation: 45,
    };
    Client::connect(&Road::Tcp(to), &login)
}

/// The first value of the only row of the result that comes next.
///
/// # Errors
/// When it is no such result.
pub fn first_value(client: &mut Client) -> Result<String, Fault> {
    let mut last = Vec::new();
    // Column count, definition, row, and the OK in the place of an EOF.
    for number in 0..4 {
        let payload = client.packet()?;
        match payload.first() {
            Some(0xFF) | None => return Err(Fault::Odd(String::from_utf8_lossy(&payload).into_owned())),
            // A length below 251, and so many bytes.
            Some(_) if number == 2 => last = payload.get(1..).unwrap_or_default().to_vec(),
            Some(_) => {}
        }
    }
    Ok(String::from_utf8_lossy(&last).into_owned())
}

/// Runs the load on threads of its own and waits for its end.
pub fn run(load: &Load) -> Done {
    let threads = load.cores.len().max(1);
    let mut all = Done::default();
    let began = Instant::now();
    let handles: Vec<_> = (0..threads)
        .map(|index| {
            let load = load.clone();
            std::thread::spawn(move || one_thread(&load, index, threads))
        })
        .collect();
    for handle in handles {
        match handle.join() {
            Ok(Ok(done)) => {
                all.queries += done.queries;
                all.latencies.extend(done.latencies);
                all.took = all.took.max(done.took);
                all.failed = all.failed.or(done.failed);
            }
            Ok(Err(fault)) => all.failed = Some(fault.to_string()),
            Err(_) => all.failed = Some("a thread of the load ended".to_owned()),
        }
    }
    all.took = all.took.min(began.elapsed());
    all.latencies.sort_unstable();
    all
}

fn one_thread(load: &Load, index: usize, threads: usize) -> Result<Done, Fault> {
    if let Some(core) = load.cores.get(index) {
        let mut set = CpuSet::new();
        set.set(*core);
        let _ = sched_setaffinity(None, &set);
    }
    let mine = (index..load.connections).step_by(threads);
    let mut streams = Vec::new();
    for number in mine {
        let mut client = login(load.to)?;
        let statement = match load.prepared {
            true => Some(prepare(&mut client)?),
            false => None,
        };
        streams.push((number, client.into_tcp()?, statement));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let began = Instant::now();
        let tasks: Vec<_> = streams
            .into_iter()
            .map(|(number, stream, statement)| {
                let load = load.clone();
                tokio::task::spawn_local(async move { ask(&load, number, stream, statement, began).await })
            })
            .collect();
        let mut done = Done::default();
        for task in tasks {
            match task.await {
                Ok(Ok(latencies)) => {
                    done.queries += latencies.len() as u64;
                    done.latencies.extend(latencies);
                }
                Ok(Err(error)) => done.failed = Some(error.to_string()),
                Err(error) => done.failed = Some(error.to_string()),
            }
        }
        done.took = began.elapsed();
        Ok(done)
    })
}

fn prepare(client: &mut Client) -> Result<u32, Fault> {
    let payload = [
        &[Command::StmtPrepare.to_byte()][..],
        b"SELECT v FROM bench WHERE id = ?",
    ]
    .concat();
    client.send(&payload)?;
    let (statement, answer) = pontoon_sql_tests::render::prepared(client)?;
    let (id, _) = statement.ok_or_else(|| Fault::Odd(answer.lines.join(" ")))?;
    Ok(id)
}

async fn ask(
    load: &Load,
    number: usize,
    stream: TcpStream,
    statement: Option<u32>,
    began: Instant,
) -> std::io::Result<Vec<u32>> {
    stream.set_nonblocking(true)?;
    let mut stream = tokio::net::TcpStream::from_std(stream)?;
    let pause = load
        .rate
        .map(|rate| Duration::from_secs_f64(load.connections as f64 / rate));
    let mut due = began
        + pause
            .unwrap_or_default()
            .mul_f64(number as f64 / load.connections as f64);
    let (mut latencies, mut buffer, mut query) = (Vec::new(), Vec::with_capacity(4096), Vec::new());
    let mut row = number as u32;
    while began.elapsed() < load.time {
        if let Some(pause) = pause {
            tokio::time::sleep_until(due.into()).await;
            due += pause;
        }
        row = row.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        encode(&mut query, statement, row % ROWS + 1);
        let sent = Instant::now();
        stream.write_all(&query).await?;
        answer(&mut stream, &mut buffer).await?;
        latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(latencies)
}

fn encode(query: &mut Vec<u8>, statement: Option<u32>, row: u32) {
    query.clear();
    let mut payload = Vec::with_capacity(64);
    match statement {
        None => {
            payload.push(Command::Query.to_byte());
            payload.extend_from_slice(b"SELECT v FROM bench WHERE id = ");
            payload.extend_from_slice(row.to_string().as_bytes());
        }
        Some(id) => {
            payload.push(Command::StmtExecute.to_byte());
            write::u32(&mut payload, id);
            payload.push(0);
            write::u32(&mut payload, 1);
            // No NULL; types follow: a 32-bit number.
            payload.extend_from_slice(&[0, 1, 3, 0]);
            write::u32(&mut payload, row);
        }
    }
    encode_packet(query, 0, &payload);
}

/// Reads one result set of one column to its end.
async fn answer(stream: &mut tokio::net::TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    buffer.clear();
    let (mut at, mut frames) = (0, 0);
    loop {
        while let Some(header) = buffer.get(at..).and_then(|rest| rest.first_chunk::<HEADER_LEN>()) {
            let len = FrameHeader::parse(*header).len;
            let Some(payload) = buffer.get(at + HEADER_LEN..at + HEADER_LEN + len) else {
                break;
            };
            if payload.first() == Some(&0xFF) {
                return Err(std::io::Error::other(
                    String::from_utf8_lossy(payload).into_owned(),
                ));
            }
            frames += 1;
            at += HEADER_LEN + len;
            // Column count, definition, row, and the OK in the place of an EOF.
            if frames > 2 && payload.first() == Some(&0xFE) {
                return match frames {
                    4 => Ok(()),
                    _ => Err(std::io::Error::other("there is no such row")),
                };
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
