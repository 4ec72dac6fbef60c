//! Command bytes: the first byte of a client's packet in the command phase (MySQL: "Command Phase",
//! `enum_server_command`; MariaDB: "2 - Text Protocol" and "3 - Binary Protocol").

use crate::{Reader, WireError};

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $byte:literal;)*) => {
        /// What a client asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Command {
            $($(#[$doc])* $name = $byte,)*
        }

        impl Command {
            /// Every command.
            pub const ALL: &'static [Command] = &[$(Command::$name,)*];

            /// The command of that byte; `None` for a byte that no supported server knows from a client.
            pub fn from_byte(byte: u8) -> Option<Command> {
                match byte { $($byte => Some(Command::$name),)* _ => None }
            }
        }
    };
}

commands! {
    /// Ends the connection; no answer.
    Quit = 0x01;
    /// Changes the default database.
    InitDb = 0x02;
    /// A statement as text.
    Query = 0x03;
    /// A table's columns (deprecated).
    FieldList = 0x04;
    /// Creates a database (deprecated).
    CreateDb = 0x05;
    /// Drops a database (deprecated).
    DropDb = 0x06;
    /// Flushes caches (deprecated).
    Refresh = 0x07;
    /// Stops the server (deprecated).
    Shutdown = 0x08;
    /// A line of statistics; the answer is a bare string.
    Statistics = 0x09;
    /// The list of sessions (deprecated).
    ProcessInfo = 0x0A;
    /// Ends another session (deprecated).
    ProcessKill = 0x0C;
    /// Writes debug information to the error log.
    Debug = 0x0D;
    /// Whether the server is alive.
    Ping = 0x0E;
    /// Becomes another user.
    ChangeUser = 0x11;
    /// Sends the binary log.
    BinlogDump = 0x12;
    /// Registers a replica.
    RegisterReplica = 0x15;
    /// Prepares a statement.
    StmtPrepare = 0x16;
    /// Executes a prepared statement.
    StmtExecute = 0x17;
    /// Sends part of a parameter; no answer.
    StmtSendLongData = 0x18;
    /// Closes a prepared statement; no answer.
    StmtClose = 0x19;
    /// Resets a prepared statement.
    StmtReset = 0x1A;
    /// Switches multi-statements on or off.
    SetOption = 0x1B;
    /// Fetches rows from a cursor.
    StmtFetch = 0x1C;
    /// Sends the binary log from a GTID position.
    BinlogDumpGtid = 0x1E;
    /// Resets the session without logging in again.
    ResetConnection = 0x1F;
    /// MySQL: clones the server.
    Clone = 0x20;
    /// MariaDB: executes a prepared statement with many rows of parameters.
    StmtBulkExecute = 0xFA;
}

impl Command {
    /// The byte on the wire.
    pub fn to_byte(self) -> u8 {
        self as u8
    }

    /// Whether the server answers. Waiting for an answer that never comes would stall the session.
    pub fn has_answer(self) -> bool {
        !matches!(
            self,
            Command::Quit | Command::StmtSendLongData | Command::StmtClose
        )
    }
}

/// COM_SET_OPTION's argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOption {
    /// Several statements in one COM_QUERY are allowed from now on.
    MultiStatementsOn,
    /// They are not.
    MultiStatementsOff,
}

impl SetOption {
    /// Reads a command's payload, its first byte included.
    ///
    /// # Errors
    /// [`WireError`] when it is not a COM_SET_OPTION with an option that the servers know.
    pub fn parse(payload: &[u8]) -> Result<SetOption, WireError> {
        match argument(payload, Command::SetOption)?.u16("the option")? {
            0 => Ok(SetOption::MultiStatementsOn),
            1 => Ok(SetOption::MultiStatementsOff),
            _ => Err(WireError::Malformed("an unknown option")),
        }
    }

    /// The payload to send, its first byte included.
    pub fn to_payload(self) -> [u8; 3] {
        [Command::SetOption.to_byte(), self as u8, 0]
    }
}

/// The session that a COM_PROCESS_KILL is to end.
///
/// # Errors
/// [`WireError`] when `payload` is not a COM_PROCESS_KILL.
pub fn process_kill(payload: &[u8]) -> Result<u32, WireError> {
    argument(payload, Command::ProcessKill)?.u32("the session's id")
}

fn argument(payload: &[u8], command: Command) -> Result<Reader<'_>, WireError> {
    let mut reader = Reader::new(payload);
    match reader.u8("the command")? == command.to_byte() {
        true => Ok(reader),
        false => Err(WireError::Malformed("another command")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        for option in [SetOption::MultiStatementsOn, SetOption::MultiStatementsOff] {
            assert_eq!(SetOption::parse(&option.to_payload()), Ok(option));
        }
        for bad in [&b""[..], b"\x1b", b"\x1b\0", b"\x1b\x02\0", b"\x0e\0\0"] {
            assert!(SetOption::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(process_kill(b"\x0c\x07\x01\0\0"), Ok(263));
        assert!(process_kill(b"\x0c\x07\x01\0").is_err());
    }

    #[test]
    fn every_byte_is_one_command_or_none() {
        let known = (0..=255u8).filter_map(Command::from_byte).collect::<Vec<_>>();
        assert_eq!(known, Command::ALL);
        assert!(
            known
                .iter()
                .all(|command| Command::from_byte(command.to_byte()) == Some(*command))
        );
    }
}
