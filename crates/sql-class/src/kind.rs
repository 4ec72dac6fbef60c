//! What kind of statement it is: by its first keyword.

use std::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The kind of a statement.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// All kinds, for tables of metrics.
            pub const ALL: &[Kind] = &[$(Kind::$name),*];

            /// A short stable name, for metrics.
            pub const fn label(self) -> &'static str {
                match self { $(Kind::$name => $text,)* }
            }
        }
    };
}

kinds! {
    /// `SELECT`, also with `WITH` or in parentheses.
    Select = "select",
    /// The statements `VALUES` and, of MySQL, `TABLE`.
    Values = "values",
    /// `SHOW …`.
    Show = "show",
    /// `EXPLAIN`, `DESCRIBE`, and MariaDB's `ANALYZE SELECT`.
    Explain = "explain",
    /// `HELP`.
    Help = "help",
    /// `INSERT`.
    Insert = "insert",
    /// `REPLACE`.
    Replace = "replace",
    /// `UPDATE`.
    Update = "update",
    /// `DELETE`.
    Delete = "delete",
    /// `CALL`.
    Call = "call",
    /// `DO`.
    Do = "do",
    /// `LOAD DATA`, `LOAD XML`, `LOAD INDEX`, `IMPORT TABLE`.
    Load = "load",
    /// `HANDLER`.
    Handler = "handler",
    /// `CREATE`, `ALTER`, `DROP`, `RENAME`, `TRUNCATE` and what defines data or accounts.
    Definition = "definition",
    /// `SET` of variables, names, roles, passwords, transactions.
    Set = "set",
    /// `USE`.
    Use = "use",
    /// `BEGIN`, `START TRANSACTION`.
    Begin = "begin",
    /// `COMMIT`.
    Commit = "commit",
    /// `ROLLBACK`, also to a savepoint.
    Rollback = "rollback",
    /// `SAVEPOINT`, `RELEASE SAVEPOINT`.
    Savepoint = "savepoint",
    /// `XA …`.
    Xa = "xa",
    /// `LOCK TABLES`, `LOCK INSTANCE FOR BACKUP`, `BACKUP STAGE`, `BACKUP LOCK`.
    Lock = "lock",
    /// `UNLOCK TABLES`, `UNLOCK INSTANCE`, `BACKUP UNLOCK`.
    Unlock = "unlock",
    /// `PREPARE`.
    Prepare = "prepare",
    /// `EXECUTE`, `EXECUTE IMMEDIATE`.
    Execute = "execute",
    /// `DEALLOCATE PREPARE`, `DROP PREPARE`.
    Deallocate = "deallocate",
    /// `KILL`.
    Kill = "kill",
    /// What tends a server: `FLUSH`, `RESET`, `CHANGE …`, `CHECK`, `OPTIMIZE`, `SHUTDOWN`, `INSTALL`…
    Admin = "admin",
    /// A block of statements: `BEGIN NOT ATOMIC`, `SIGNAL`, `GET DIAGNOSTICS`…
    Compound = "compound",
    /// More than one statement.
    Multiple = "multiple",
    /// No statement: nothing, or comments only.
    Empty = "empty",
    /// A first keyword that is not known, or bytes that cannot be read.
    Unknown = "unknown",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
