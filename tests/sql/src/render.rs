//! Answers as text: everything that a client can see of them.

use aws_lc_rs::digest::{SHA256, digest};
use pontoon_mysql_wire::{
    Capabilities, EofPacket, ErrorPacket, OkPacket, Reader, Reply, SessionState, StatusFlags, WireError,
};

use crate::client::{Client, Fault};
use crate::value::decode;

/// How to read an answer.
#[derive(Clone, Debug, Default)]
pub struct Reading<'a> {
    /// Whether rows are of the binary protocol.
    pub binary: bool,
    /// Whether values are left out.
    pub shape: bool,
    /// What the client gives when it is asked for a file: `None` refuses with an empty packet.
    pub file: Option<&'a [u8]>,
}

/// An answer and what the next command needs to know of it.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The lines of the transcript.
    pub lines: Vec<String>,
    /// Whether it ended with an error.
    pub failed: bool,
    /// Type and signedness of the columns of its last result set: rows fetched later have no definitions.
    pub columns: Vec<(u8, bool)>,
}

/// System variables that servers track unless told otherwise. Others the proxy may have asked for itself.
const TRACKED: &[&[u8]] = &[
    b"autocommit",
    b"character_set_client",
    b"character_set_connection",
    b"character_set_results",
    b"time_zone",
];

/// Rows of a result that are shown; all of them go into its hash.
const SHOWN: usize = 12;

/// The answer to COM_QUERY, COM_STMT_EXECUTE and every command that is answered by OK or ERR.
///
/// # Errors
/// When the connection ends or an answer is not of the protocol.
pub fn answer(client: &mut Client, how: &Reading<'_>) -> Result<Answer, Fault> {
    let mut answer = Answer::default();
    loop {
        let first = client.packet()?;
        let status = match Reply::first(&first, client.capabilities) {
            Reply::Ok => {
                let (line, status) = ok(&first, client.capabilities)?;
                answer.lines.push(line);
                status
            }
            Reply::OkEof | Reply::Eof => {
                answer.lines.push(end("end", &first, client.capabilities)?.0);
                StatusFlags::default()
            }
            Reply::Error => {
                answer.lines.push(error(&first)?);
                answer.failed = true;
                StatusFlags::default()
            }
            Reply::LocalInfile => {
                answer.lines.push(format!("asks for {}", show(&first[1..])));
                if let Some(file) = how.file {
                    for part in file.chunks(64 * 1024) {
                        client.reply(part)?;
                    }
                }
                client.reply(&[])?;
                continue;
            }
            Reply::Data => {
                let count = Reader::new(&first).lenenc("the number of columns")?;
                answer.lines.push(format!("{count} columns"));
                result_set(client, how, count, &mut answer)?
            }
        };
        if !status.has(StatusFlags::MORE_RESULTS_EXISTS) {
            answer.lines.push(format!("frames {}", client.frames));
            return Ok(answer);
        }
    }
}

fn result_set(
    client: &mut Client,
    how: &Reading<'_>,
    count: u64,
    answer: &mut Answer,
) -> Result<StatusFlags, Fault> {
    answer.columns.clear();
    for _ in 0..count {
        let packet = client.packet()?;
        let (line, kind) = column(&packet, client.capabilities)?;
        answer.lines.push(line);
        answer.columns.push(kind);
    }
    let mut status = StatusFlags::default();
    if !client.capabilities.has(Capabilities::DEPRECATE_EOF) {
        let (line, said) = definitions_end(&client.packet()?)?;
        answer.lines.push(line);
        if said.has(StatusFlags::CURSOR_EXISTS) {
            return Ok(said);
        }
        // MySQL says that more comes after out-parameters here only, and not where their row ends; its client
        // library keeps it in mind (`cli_read_binary_rows`).
        if said.has(StatusFlags::PS_OUT_PARAMS) {
            status = said & StatusFlags::MORE_RESULTS_EXISTS;
        }
    }
    Ok(rows(client, how, answer)? | status)
}

/// The EOF packet between definitions and rows. Of its status, clients use two flags; the others are those of a
/// statement that is not done, which nobody knows who was not told by this very packet.
fn definitions_end(packet: &[u8]) -> Result<(String, StatusFlags), WireError> {
    let status = EofPacket::parse(packet)?.status;
    let used = status & (StatusFlags::CURSOR_EXISTS | StatusFlags::PS_OUT_PARAMS);
    Ok((format!("definitions end {used:?}"), status))
}

/// Rows up to their end: of a result set, or fetched from a cursor.
///
/// # Errors
/// When the connection ends or a row is none.
pub fn rows(client: &mut Client, how: &Reading<'_>, answer: &mut Answer) -> Result<StatusFlags, Fault> {
    let (mut count, mut all) = (0usize, Vec::new());
    loop {
        let packet = client.packet()?;
        match Reply::in_rows(&packet, packet.len(), client.capabilities) {
            Reply::Data => {}
            Reply::Error => {
                answer.lines.push(format!("after {count} rows"));
                answer.lines.push(error(&packet)?);
                answer.failed = true;
                return Ok(StatusFlags::default());
            }
            _ => {
                if count > SHOWN && !how.shape {
                    answer.lines.push(format!("{count} rows {}", hash(&all)));
                }
                let (line, status) = end("end", &packet, client.capabilities)?;
                answer.lines.push(line);
                return Ok(status);
            }
        }
        count += 1;
        if how.shape {
            answer.lines.push("row".to_owned());
            continue;
        }
        if count <= SHOWN {
            let values = match how.binary {
                true => decode(&packet, &answer.columns)?,
                false => text_row(&packet)?,
            };
            let shown: Vec<String> = values
                .iter()
                .map(|value| value.as_deref().map_or("NULL".to_owned(), show))
                .collect();
            answer.lines.push(format!("row {}", shown.join(" | ")));
        }
        all.extend_from_slice(hash(&packet).as_bytes());
    }
}

fn text_row(packet: &[u8]) -> Result<Vec<Option<Vec<u8>>>, WireError> {
    let mut reader = Reader::new(packet);
    let mut values = Vec::new();
    while let Some(&first) = reader.remaining().first() {
        if first == 0xFB {
            reader.u8("NULL")?;
            values.push(None);
        } else {
            values.push(Some(reader.lenenc_bytes("a value")?.to_vec()));
        }
    }
    Ok(values)
}

/// The answer to COM_STMT_PREPARE: the statement's id, its columns' types and the lines.
///
/// # Errors
/// When the connection ends or an answer is not of the protocol.
pub fn prepared(client: &mut Client) -> Result<(Option<(u32, usize)>, Answer), Fault> {
    let mut answer = Answer::default();
    let first = client.packet()?;
    if first.first() == Some(&ErrorPacket::HEADER) {
        answer.lines.push(error(&first)?);
        answer.failed = true;
        answer.lines.push(format!("frames {}", client.frames));
        return Ok((None, answer));
    }
    let mut reader = Reader::new(&first);
    reader.u8("the header")?;
    let id = reader.u32("the id")?;
    let columns = reader.u16("the columns")?;
    let parameters = reader.u16("the parameters")?;
    reader.u8("the filler")?;
    let warnings = reader.u16("the warnings")?;
    answer.lines.push(format!(
        "prepared: {parameters} parameters, {columns} columns, {warnings} warnings"
    ));
    for (what, count) in [("parameter", parameters), ("column", columns)] {
        for _ in 0..count {
            let packet = client.packet()?;
            let (line, kind) = column(&packet, client.capabilities)?;
            answer.lines.push(format!("{what}: {line}"));
            if what == "column" {
                answer.columns.push(kind);
            }
        }
        if count > 0 && !client.capabilities.has(Capabilities::DEPRECATE_EOF) {
            answer.lines.push(definitions_end(&client.packet()?)?.0);
        }
    }
    answer.lines.push(format!("frames {}", client.frames));
    Ok((Some((id, usize::from(parameters))), answer))
}

/// The answer to COM_FIELD_LIST.
///
/// # Errors
/// When the connection ends or an answer is not of the protocol.
pub fn field_list(client: &mut Client) -> Result<Answer, Fault> {
    let mut answer = Answer::default();
    loop {
        let packet = client.packet()?;
        match Reply::in_rows(&packet, packet.len(), client.capabilities) {
            Reply::Error => answer.lines.push(error(&packet)?),
            Reply::Data => {
                answer.lines.push(column(&packet, client.capabilities)?.0);
                continue;
            }
            _ => answer.lines.push(end("end", &packet, client.capabilities)?.0),
        }
        answer.lines.push(format!("frames {}", client.frames));
        return Ok(answer);
    }
}

/// A column's definition, and its type and signedness.
fn column(packet: &[u8], agreed: Capabilities) -> Result<(String, (u8, bool)), WireError> {
    let mut reader = Reader::new(packet);
    let mut names = Vec::new();
    for _ in 0..6 {
        names.push(show(reader.lenenc_bytes("a column's name")?));
    }
    let mut extended = String::new();
    if agreed.has(Capabilities::MARIADB_EXTENDED_METADATA) && !agreed.has(Capabilities::CLIENT_MYSQL) {
        extended = show(reader.lenenc_bytes("the extended type")?);
    }
    reader.lenenc("the fixed fields' length")?;
    let collation = reader.u16("the collation")?;
    let length = reader.u32("the length")?;
    let kind = reader.u8("the type")?;
    let flags = reader.u16("the flags")?;
    let decimals = reader.u8("the decimals")?;
    reader.u16("the filler")?;
    let rest = show(reader.rest());
    let line = format!(
        "column {}{extended} collation {collation} length {length} type {kind} flags {flags:#06x} decimals {decimals} {rest}",
        names.join(".")
    );
    Ok((line, (kind, flags & 0x20 != 0)))
}

/// An OK packet.
///
/// # Errors
/// When it is none.
pub fn ok(packet: &[u8], agreed: Capabilities) -> Result<(String, StatusFlags), WireError> {
    let ok = OkPacket::parse(packet, agreed)?;
    let line = format!(
        "ok affected {} insert id {} {:?} warnings {} {}{}",
        ok.affected_rows,
        ok.last_insert_id,
        seen(ok.status),
        ok.warnings,
        show(without_proof(ok.info)),
        changes(&ok)?
    );
    Ok((line.trim_end().to_owned(), ok.status))
}

/// MariaDB from 11.4 on ends a login with a hash over the password and the certificate, by which the client trusts a
/// certificate that it does not know. It differs with each challenge.
fn without_proof(info: &[u8]) -> &[u8] {
    const PROOF: usize = 1 + 64;
    match info.len().checked_sub(PROOF).and_then(|at| info.get(at)) {
        Some(1) => b"proof",
        _ => info,
    }
}

fn end(what: &str, packet: &[u8], agreed: Capabilities) -> Result<(String, StatusFlags), WireError> {
    if agreed.has(Capabilities::DEPRECATE_EOF) {
        let (line, status) = ok(packet, agreed)?;
        return Ok((format!("{what}: {line}"), status));
    }
    let eof = EofPacket::parse(packet)?;
    let line = format!("{what}: eof {:?} warnings {}", seen(eof.status), eof.warnings);
    Ok((line, eof.status))
}

/// What of the status is compared: whether state changes are reported depends on what the proxy asked for too, and
/// whether a server had to prepare a statement anew on which of its connections the proxy has prepared it before. The
/// definitions come with every result in any case.
fn seen(status: StatusFlags) -> StatusFlags {
    status
        .without(StatusFlags::SESSION_STATE_CHANGED)
        .without(StatusFlags::METADATA_CHANGED)
}

/// The session state changes that a client sees who asked for none beyond the servers' defaults.
fn changes(ok: &OkPacket<'_>) -> Result<String, WireError> {
    let mut found = Vec::new();
    for change in ok.session_state() {
        match change? {
            SessionState::Schema(name) => found.push(format!("schema {}", show(name))),
            SessionState::SystemVariable(name, value) if TRACKED.contains(&name) => {
                found.push(format!("{} {}", show(name), show(value)));
            }
            _ => {}
        }
    }
    found.sort();
    Ok(match found.is_empty() {
        true => String::new(),
        false => format!(" changes {}", found.join(", ")),
    })
}

fn error(packet: &[u8]) -> Result<String, WireError> {
    ErrorPacket::parse(packet).map(|error| format!("error {error}"))
}

/// Bytes for people; long ones by length and hash.
pub fn show(bytes: &[u8]) -> String {
    const LONGEST: usize = 160;
    if bytes.len() > LONGEST {
        return format!("{} bytes {}", bytes.len(), hash(bytes));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text:?}"),
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}

fn hash(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest.as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
