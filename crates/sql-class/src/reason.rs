//! Why a statement goes where it goes.

use std::fmt;

use crate::Kind;

/// The one reason that decided. For people: [`fmt::Display`]; for metrics: [`Reason::label`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Provably a read without side effects.
    Read,
    /// `START TRANSACTION READ ONLY`.
    ReadOnlyTransaction,
    /// What kind of statement it is.
    NotARead(Kind),
    /// `FOR UPDATE`, `FOR SHARE`, `LOCK IN SHARE MODE`.
    Locking,
    /// `INTO` a file or a variable.
    Into,
    /// `:=`.
    Assignment,
    /// A user variable: it lives in one connection.
    UserVariable,
    /// A system variable whose value is of one server or of one connection.
    SystemVariable,
    /// A function that is not built in, or not on the list: it may write.
    UnknownFunction,
    /// `schema.function()`: a stored function.
    QualifiedFunction,
    /// `GET_LOCK` and its family.
    LockFunction,
    /// `NEXTVAL`, `NEXT VALUE FOR`, `SETVAL`, `LASTVAL`.
    Sequence,
    /// A built-in function with a side effect or an answer of one server: `SLEEP`, `LOAD_FILE`, `UUID_SHORT`…
    ServerFunction,
    /// `LAST_INSERT_ID(n)` sets what `LAST_INSERT_ID()` says.
    SetsLastInsertId,
    /// Facts about one server: `SHOW STATUS`, `SHOW PROCESSLIST`, `performance_schema`, `mysql`, `sys`…
    ServerFacts,
    /// A keyword that no plain read contains.
    UnexpectedKeyword,
    /// Tokens in an order that no plain read has.
    UnexpectedSyntax,
    /// An executable comment that not every supported version would read in the same way.
    ExecutableComment,
    /// An optimizer hint that sets variables or quotes.
    OptimizerHint,
    /// A string, a quoted name or a comment without an end.
    Unterminated,
    /// Parentheses do not match.
    Unbalanced,
    /// The statement ends where something has to follow.
    Incomplete,
    /// Bytes that are no SQL, such as NUL, `$` or `\` outside of quotes.
    StrangeByte,
    /// Letters beyond ASCII outside of quotes, in a character set where their meaning is not sure.
    NotAscii,
    /// More than one statement.
    MultipleStatements,
    /// No statement at all.
    Empty,
    /// The connection's character set could hide a quote.
    UnsafeCharset,
    /// The session's `sql_mode` is not known, and the statement reads differently in different modes.
    UnknownSqlMode,
    /// MariaDB's `sql_mode=ORACLE` or `MSSQL`.
    OtherDialect,
    /// A transaction that may write is open.
    InTransaction,
    /// `autocommit` is off: even a `SELECT` opens a transaction.
    AutocommitOff,
    /// The isolation level makes reads take locks.
    Serializable,
    /// The session holds state of its connection to the primary.
    Pinned,
    /// The default database tells about one server.
    SystemDatabase,
    /// The answer is about the statement before: `SHOW WARNINGS`, `FOUND_ROWS()`, `ROW_COUNT()`.
    PreviousStatement,
    /// The answer is about the last write of this session: `LAST_INSERT_ID()`.
    LastInsert,
    /// `COMMIT`, `ROLLBACK`, savepoints: where the transaction is.
    TransactionControl,
}

impl Reason {
    /// A short stable name, for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Reason::Read => "read",
            Reason::ReadOnlyTransaction => "read-only-transaction",
            Reason::NotARead(_) => "not-a-read",
            Reason::Locking => "locking",
            Reason::Into => "into",
            Reason::Assignment => "assignment",
            Reason::UserVariable => "user-variable",
            Reason::SystemVariable => "system-variable",
            Reason::UnknownFunction => "unknown-function",
            Reason::QualifiedFunction => "qualified-function",
            Reason::LockFunction => "lock-function",
            Reason::Sequence => "sequence",
            Reason::ServerFunction => "server-function",
            Reason::SetsLastInsertId => "sets-last-insert-id",
            Reason::ServerFacts => "server-facts",
            Reason::UnexpectedKeyword => "unexpected-keyword",
            Reason::UnexpectedSyntax => "unexpected-syntax",
            Reason::ExecutableComment => "executable-comment",
            Reason::OptimizerHint => "optimizer-hint",
            Reason::Unterminated => "unterminated",
            Reason::Unbalanced => "unbalanced",
            Reason::Incomplete => "incomplete",
            Reason::StrangeByte => "strange-byte",
            Reason::NotAscii => "not-ascii",
            Reason::MultipleStatements => "multiple-statements",
            Reason::Empty => "empty",
            Reason::UnsafeCharset => "unsafe-charset",
            Reason::UnknownSqlMode => "unknown-sql-mode",
            Reason::OtherDialect => "other-dialect",
            Reason::InTransaction => "in-transaction",
            Reason::AutocommitOff => "autocommit-off",
            Reason::Serializable => "serializable",
            Reason::Pinned => "pinned",
            Reason::SystemDatabase => "system-database",
            Reason::PreviousStatement => "previous-statement",
            Reason::LastInsert => "last-insert",
            Reason::TransactionControl => "transaction-control",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Reason::Read => "a read without side effects",
            Reason::ReadOnlyTransaction => "opens a read-only transaction",
            Reason::NotARead(kind) => return write!(f, "a statement of kind «{kind}» is not a read"),
            Reason::Locking => "locks rows (FOR UPDATE, FOR SHARE, LOCK IN SHARE MODE)",
            Reason::Into => "writes its result somewhere (INTO)",
            Reason::Assignment => "assigns a variable (:=)",
            Reason::UserVariable => "uses a user variable, which lives in one connection",
            Reason::SystemVariable => "asks for a system variable of one server or one connection",
            Reason::UnknownFunction => {
                "calls a function that is not known to be a built-in without side effects"
            }
            Reason::QualifiedFunction => "calls a stored function (schema.function)",
            Reason::LockFunction => "uses a named lock, which lives on one server",
            Reason::Sequence => "uses a sequence",
            Reason::ServerFunction => "calls a function with a side effect, or about one server",
            Reason::SetsLastInsertId => "LAST_INSERT_ID with an argument sets the session's last id",
            Reason::ServerFacts => "asks for facts about one server",
            Reason::UnexpectedKeyword => "contains a keyword that no plain read contains",
            Reason::UnexpectedSyntax => "has its words in an order that no plain read has",
            Reason::ExecutableComment => {
                "has an executable comment that not every version reads in the same way"
            }
            Reason::OptimizerHint => "has an optimizer hint that sets variables or quotes",
            Reason::Unterminated => "a string, quoted name or comment has no end",
            Reason::Unbalanced => "its parentheses do not match",
            Reason::Incomplete => "ends where something has to follow",
            Reason::StrangeByte => "has a byte outside of quotes that is no SQL",
            Reason::NotAscii => "has letters beyond ASCII outside of quotes, whose meaning is not sure",
            Reason::MultipleStatements => "is more than one statement",
            Reason::Empty => "is no statement",
            Reason::UnsafeCharset => "the connection's character set could hide a quote",
            Reason::UnknownSqlMode => {
                "reads differently in different SQL modes, and the session's is not known"
            }
            Reason::OtherDialect => "the session's SQL mode has another grammar (ORACLE, MSSQL)",
            Reason::InTransaction => "a transaction that may write is open",
            Reason::AutocommitOff => "autocommit is off: even a read opens a transaction",
            Reason::Serializable => "at SERIALIZABLE, reads take locks",
            Reason::Pinned => "the session holds state of its connection to the primary",
            Reason::SystemDatabase => "the default database tells about one server",
            Reason::PreviousStatement => "asks about the statement before",
            Reason::LastInsert => "asks about the session's last insert",
            Reason::TransactionControl => "belongs to the open transaction",
        };
        f.write_str(text)
    }
}
