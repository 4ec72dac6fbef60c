//! Keywords: those that begin statements, those that no plain read contains, and those that nothing may end with.
//!
//! A word is refused in a read when both engines, or one, reserve it and no read of either has it (MySQL manual,
//! «Keywords and Reserved Words»; MariaDB KB, «Reserved Words»). Words that are reserved nowhere are names.

/// How a keyword may appear inside a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Anywhere.
    Free,
    /// Anywhere but at the end of a statement.
    Open,
    /// Nowhere.
    Never,
    /// It depends on its neighbours: `classify/scan.rs`.
    Depends,
}

macro_rules! keywords {
    ($($name:ident $text:literal $class:ident,)*) => {
        /// A keyword that something depends on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Keyword { None, Clause, Forbidden, $($name,)* }

        /// All keywords of the dictionary.
        pub(super) const KEYWORDS: &[(&str, Keyword)] = &{
            const NAMED: &[(&str, Keyword)] = &[$(($text, Keyword::$name),)*];
            let mut all = [("", Keyword::None); NAMED.len() + CLAUSES.len() + FORBIDDEN.len()];
            let mut index = 0;
            while index < NAMED.len() {
                all[index] = NAMED[index];
                index += 1;
            }
            let mut index = 0;
            while index < CLAUSES.len() {
                all[NAMED.len() + index] = (CLAUSES[index], Keyword::Clause);
                index += 1;
            }
            let mut index = 0;
            while index < FORBIDDEN.len() {
                all[NAMED.len() + CLAUSES.len() + index] = (FORBIDDEN[index], Keyword::Forbidden);
                index += 1;
            }
            all
        };

        impl Keyword {
            /// How it may appear inside a read.
            pub(crate) const fn usage(self) -> Use {
                match self {
                    Keyword::None => Use::Free,
                    Keyword::Clause => Use::Open,
                    Keyword::Forbidden => Use::Never,
                    $(Keyword::$name => Use::$class,)*
                }
            }
        }
    };
}

keywords! {
    // Begin a read.
    Select "SELECT" Open, With "WITH" Open, Values "VALUES" Open, Table "TABLE" Open,
    Show "SHOW" Never, Explain "EXPLAIN" Never, Describe "DESCRIBE" Never, Desc "DESC" Free,
    Analyze "ANALYZE" Never, Help "HELP" Free,
    // Begin something else.
    Insert "INSERT" Never, Replace "REPLACE" Never, Update "UPDATE" Never, Delete "DELETE" Never,
    Call "CALL" Never, Do "DO" Free, Load "LOAD" Never, Handler "HANDLER" Free, Import "IMPORT" Free,
    Create "CREATE" Never, Alter "ALTER" Never, Drop "DROP" Never, Rename "RENAME" Never,
    Truncate "TRUNCATE" Free, Grant "GRANT" Never, Revoke "REVOKE" Never,
    Set "SET" Depends, Use "USE" Depends,
    Begin "BEGIN" Free, Start "START" Free, Stop "STOP" Free, Commit "COMMIT" Free, Rollback "ROLLBACK" Free,
    Savepoint "SAVEPOINT" Free, Release "RELEASE" Never, Xa "XA" Free, Lock "LOCK" Never, Unlock "UNLOCK" Never,
    Backup "BACKUP" Free, Prepare "PREPARE" Free, Execute "EXECUTE" Free, Deallocate "DEALLOCATE" Free,
    Kill "KILL" Never, Flush "FLUSH" Free, Reset "RESET" Free, Change "CHANGE" Never, Check "CHECK" Never,
    Checksum "CHECKSUM" Free, Optimize "OPTIMIZE" Never, Repair "REPAIR" Free, Cache "CACHE" Free,
    Shutdown "SHUTDOWN" Free, Restart "RESTART" Free, Install "INSTALL" Free, Uninstall "UNINSTALL" Free,
    Purge "PURGE" Never, Binlog "BINLOG" Free, Clone "CLONE" Free,
    Signal "SIGNAL" Never, Resignal "RESIGNAL" Never, Get "GET" Free,
    // Decide something in a read.
    Into "INTO" Never, Procedure "PROCEDURE" Never, For "FOR" Depends, Value "VALUE" Free, Next "NEXT" Free,
    Previous "PREVIOUS" Free, Share "SHARE" Free, Mode "MODE" Free, As "AS" Open,
    Character "CHARACTER" Open, Char "CHAR" Free, Charset "CHARSET" Free, Names "NAMES" Free,
    Index "INDEX" Open, Key "KEY" Free, Recursive "RECURSIVE" Open, Against "AGAINST" Free,
    Columns "COLUMNS" Free, Path "PATH" Free, CalcFoundRows "SQL_CALC_FOUND_ROWS" Open,
    AutoIncrement "AUTO_INCREMENT" Free, JsonTable "JSON_TABLE" Free,
    // Words of other statements.
    Transaction "TRANSACTION" Free, Read "READ" Free, Only "ONLY" Free, Write "WRITE" Free, Work "WORK" Free,
    Not "NOT" Open, Chain "CHAIN" Free, And "AND" Open, Or "OR" Open, To "TO" Free, No "NO" Free,
    Immediate "IMMEDIATE" Free, Temporary "TEMPORARY" Free, Global "GLOBAL" Free, Session "SESSION" Free,
    Local "LOCAL" Free, Persist "PERSIST" Free, PersistOnly "PERSIST_ONLY" Free, Password "PASSWORD" Free,
    Role "ROLE" Free, Default "DEFAULT" Free, Statement "STATEMENT" Free, Collate "COLLATE" Open,
    On "ON" Open, Off "OFF" Free, True "TRUE" Free, False "FALSE" Free, Null "NULL" Free, Binary "BINARY" Free,
    Full "FULL" Free, Extended "EXTENDED" Free, Partitions "PARTITIONS" Free, Format "FORMAT" Free,
    Tables "TABLES" Free, Databases "DATABASES" Free, Database "DATABASE" Free, Schemas "SCHEMAS" Free,
    Schema "SCHEMA" Free, Fields "FIELDS" Free, Indexes "INDEXES" Free, Keys "KEYS" Free,
    View "VIEW" Free, Function "FUNCTION" Free, Trigger "TRIGGER" Never, Triggers "TRIGGERS" Free,
    Status "STATUS" Free, Collation "COLLATION" Free, Warnings "WARNINGS" Free, Errors "ERRORS" Free,
    Count "COUNT" Free, Profile "PROFILE" Free, Profiles "PROFILES" Free, Stage "STAGE" Free,
    SystemTime "SYSTEM_TIME" Open, Join "JOIN" Open, Order "ORDER" Open, Group "GROUP" Open,
    Union "UNION" Open, From "FROM" Open, In "IN" Open, If "IF" Free, Resource "RESOURCE" Free,
    Query "QUERY" Free, Connection "CONNECTION" Free,
}

/// Keywords of a read after which something has to follow.
const CLAUSES: &[&str] = &[
    "BETWEEN",
    "BY",
    "CASE",
    "CONVERT",
    "CROSS",
    "DISTINCT",
    "DISTINCTROW",
    "DIV",
    "ELSE",
    "EXCEPT",
    "EXISTS",
    "FETCH",
    "FORCE",
    "HAVING",
    "HIGH_PRIORITY",
    "IGNORE",
    "INNER",
    "INTERSECT",
    "INTERVAL",
    "IS",
    "LATERAL",
    "LEADING",
    "LIKE",
    "LIMIT",
    "MATCH",
    "NATURAL",
    "OUTER",
    "OVER",
    "PARTITION",
    "RANGE",
    "REGEXP",
    "RLIKE",
    "SEPARATOR",
    "SQL_BIG_RESULT",
    "SQL_SMALL_RESULT",
    "STRAIGHT_JOIN",
    "THEN",
    "TRAILING",
    "USING",
    "WHEN",
    "WHERE",
    "WINDOW",
    "XOR",
];

/// Keywords that both engines reserve, or one, and that no read contains.
const FORBIDDEN: &[&str] = &[
    "ACCESSIBLE",
    "ADD",
    "ASENSITIVE",
    "BEFORE",
    "CASCADE",
    "COLUMN",
    "CONDITION",
    "CONSTRAINT",
    "CONTINUE",
    "CURSOR",
    "DECLARE",
    "DELAYED",
    "DETERMINISTIC",
    "EACH",
    "ELSEIF",
    "ENCLOSED",
    "ESCAPED",
    "EXIT",
    "FOREIGN",
    "FULLTEXT",
    "INFILE",
    "INOUT",
    "INSENSITIVE",
    "ITERATE",
    "LEAVE",
    "LINEAR",
    "LINES",
    "LOOP",
    "LOW_PRIORITY",
    "MAXVALUE",
    "MODIFIES",
    "NO_WRITE_TO_BINLOG",
    "OPTIONALLY",
    "OUT",
    "OUTFILE",
    "PRIMARY",
    "READS",
    "READ_WRITE",
    "REFERENCES",
    "REQUIRE",
    "RESTRICT",
    "RETURN",
    "SENSITIVE",
    "SPATIAL",
    "SPECIFIC",
    "SQL",
    "SQLEXCEPTION",
    "SQLSTATE",
    "SQLWARNING",
    "SSL",
    "STARTING",
    "TERMINATED",
    "UNDO",
    "UNIQUE",
    "USAGE",
    "VARYING",
    "WHILE",
];
