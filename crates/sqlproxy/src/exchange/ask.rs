//! The proxy's own questions to a database.

use std::io;

use pontoon_mysql_wire::reply::{Done, Expect, Outcome, ReplyWalker, Step};
use pontoon_mysql_wire::{
    Capabilities, Command, ErrorPacket, PacketDecoder, Reader, WireError, encode_packet,
};

use super::{Link, read_more, send};
use crate::peer::Peer;

/// Longer answers are not the proxy's own questions'. A user can have thousands of rights.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection broke, or was ended.
    #[error("the connection to the database broke: {0}")]
    Io(#[from] io::Error),
    /// It is no answer.
    #[error("the database broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// The database says no.
    #[error("the database refused: {0}")]
    Refused(ErrorPacket),
}

/// One question: a command with its payload.
#[derive(Clone, Debug)]
pub struct Question {
    payload: Vec<u8>,
    expect: Expect,
}

/// An answer: what it said, and its bytes.
#[derive(Debug)]
pub struct Told {
    /// What it said.
    pub done: Done,
    /// Its packets.
    pub bytes: Vec<u8>,
}

impl Question {
    /// A statement.
    pub fn query(sql: &[u8]) -> Question {
        Question::new(Command::Query, sql, Expect::Simple)
    }

    /// Any command that has an answer.
    pub fn new(command: Command, argument: &[u8], expect: Expect) -> Question {
        let mut payload = Vec::with_capacity(argument.len() + 1);
        payload.push(command.to_byte());
        payload.extend_from_slice(argument);
        Question { payload, expect }
    }
}

/// Asks all of `questions` in one go; the answers in the same order.
///
/// # Errors
/// [`AskError`], for the first question that is refused; the connection is of no use then.
pub async fn ask(
    peer: &mut Peer,
    agreed: Capabilities,
    questions: &[Question],
    link: &Link,
) -> Result<Vec<Told>, AskError> {
    let mut bytes = Vec::new();
    for question in questions {
        encode_packet(&mut bytes, 0, &question.payload);
    }
    send(peer, &bytes, link).await?;
    bytes.clear();
    let mut all = Vec::with_capacity(questions.len());
    for question in questions {
        let mut walker = ReplyWalker::new(question.expect, agreed, agreed, 1);
        let mut out = Vec::new();
        let done = loop {
            let fed = walker.feed(&bytes, &mut out)?;
            bytes.drain(..fed.consumed.min(bytes.len()));
            match fed.step {
                Step::Done(done) => break done,
                Step::LocalInfile => return Err(WireError::Malformed("a request for a file").into()),
                Step::More => {}
            }
            if out.len() + bytes.len() > MAX_ANSWER {
                return Err(WireError::TooLarge { limit: MAX_ANSWER }.into());
            }
            if read_more(peer, &mut bytes, link).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        };
        if matches!(done.outcome, Outcome::Error { .. }) {
            let at = out.len().saturating_sub(done.final_bytes) + 4;
            let error = ErrorPacket::parse(out.get(at..).unwrap_or_default())?;
            return Err(AskError::Refused(error));
        }
        all.push(Told { done, bytes: out });
    }
    if !bytes.is_empty() {
        return Err(WireError::Malformed("the database talks out of turn").into());
    }
    Ok(all)
}

impl Told {
    /// The first row of a result as text; NULL is `None`.
    ///
    /// # Errors
    /// [`WireError`] when there is none.
    pub fn row(&self) -> Result<Vec<Option<Vec<u8>>>, WireError> {
        let none = || WireError::Malformed("no row where one was due");
        let mut decoder = PacketDecoder::new(MAX_ANSWER);
        decoder.feed(&self.bytes);
        let first = decoder.next_packet()?.ok_or_else(none)?;
        let columns = Reader::new(&first.payload).lenenc("the column count")?;
        for _ in 0..columns {
            decoder.next_packet()?.ok_or_else(none)?;
        }
        let row = decoder.next_packet()?.ok_or_else(none)?;
        let mut reader = Reader::new(&row.payload);
        let mut values = Vec::new();
        for _ in 0..columns {
            if reader.remaining().first() == Some(&0xFB) {
                reader.u8("NULL")?;
                values.push(None);
            } else {
                values.push(Some(reader.lenenc_bytes("a value")?.to_vec()));
            }
        }
        Ok(values)
    }
}
