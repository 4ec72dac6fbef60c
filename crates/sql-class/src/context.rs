//! What the classifier has to be told about the session: how the server will read the bytes, and what is open.

/// Which server software reads the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// MariaDB, 10.6 or later.
    MariaDb,
    /// MySQL, 8.0 or later.
    MySql,
}

/// A server version as both engines write it in numbers: `101119` is 10.11.19, `80407` is 8.4.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32);

impl Version {
    /// The oldest MariaDB that Pontoon supports.
    pub const MARIADB_MIN: Version = Version(100_600);
    /// The oldest MySQL that Pontoon supports.
    pub const MYSQL_MIN: Version = Version(80_000);

    /// Reads what a server says in its greeting: `10.11.19-MariaDB-0+deb12u1`, `5.5.5-10.6.4-MariaDB`, `9.7.4-2`.
    pub fn parse(text: &str) -> Option<Version> {
        // Older MariaDB servers put this in front, for replication from MySQL 5.5.
        let text = text.strip_prefix("5.5.5-").unwrap_or(text);
        let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
        let patch = parts.next().and_then(Result::ok).unwrap_or(0);
        (major < 100 && minor < 100).then(|| Version(major * 10_000 + minor * 100 + patch.min(99)))
    }
}

/// The parts of `sql_mode` that change how a statement is read (MySQL manual, «Server SQL Modes»; MariaDB KB,
/// «SQL_MODE»).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SqlMode {
    /// `"` quotes identifiers.
    pub ansi_quotes: bool,
    /// `\` is an ordinary character in strings.
    pub no_backslash_escapes: bool,
    /// A space may stand between a built-in function's name and its parenthesis.
    pub ignore_space: bool,
    /// `ORACLE` or `MSSQL` of MariaDB: another grammar (`seq.NEXTVAL`, procedures called without `CALL`, `[name]`).
    /// Nothing is provably a read then.
    pub other_dialect: bool,
    /// The mode is not known. What reads the same in every mode is still classified; all else is for the primary.
    pub unknown: bool,
}

impl SqlMode {
    /// A session whose mode is not known.
    pub const UNKNOWN: SqlMode = SqlMode {
        ansi_quotes: false,
        no_backslash_escapes: false,
        ignore_space: false,
        other_dialect: false,
        unknown: true,
    };

    /// Reads the value of `sql_mode` as servers report it. The combined modes are understood too; a name that is not
    /// known does not matter, since new ones have never changed how quotes are read.
    pub fn parse(value: &str) -> SqlMode {
        let mut mode = SqlMode::default();
        for name in value.split(',').map(str::trim) {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            let combined = ["ANSI", "DB2", "MAXDB", "MSSQL", "ORACLE", "POSTGRESQL"]
                .iter()
                .any(|c| is(c));
            mode.ansi_quotes |= combined || is("ANSI_QUOTES");
            mode.ignore_space |= combined || is("IGNORE_SPACE");
            mode.no_backslash_escapes |= is("NO_BACKSLASH_ESCAPES");
            mode.other_dialect |= is("ORACLE") || is("MSSQL");
        }
        mode
    }
}

/// How the server reads the bytes of a statement: what `character_set_client` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Charset {
    /// `utf8mb3` or `utf8mb4`.
    Utf8,
    /// One byte is one character and the first 128 are ASCII: `latin1`, `ascii`, `cp1251`, `binary`…
    SingleByte,
    /// A character may contain the byte of a quote or of a backslash (`sjis`, `cp932`, `gbk`, `gb18030`, `big5`), or
    /// the character set is not known. Nothing can be said about a statement.
    Unsafe,
}

impl Charset {
    /// The class of a character set by its name (MySQL manual, «Supported Character Sets and Collations»). The
    /// multi-byte ones of the EUC family are not worth the proof that they are safe.
    pub fn from_name(name: &str) -> Charset {
        const SINGLE: &[&str] = &[
            "latin1", "ascii", "binary", "latin2", "latin5", "latin7", "cp1250", "cp1251", "cp1256",
            "cp1257", "cp850", "cp852", "cp866", "koi8r", "koi8u", "greek", "hebrew", "armscii8", "geostd8",
            "dec8", "hp8", "keybcs2", "macce", "macroman", "tis620",
        ];
        let is = |other: &&str| name.eq_ignore_ascii_case(other);
        match () {
            () if ["utf8mb4", "utf8mb3", "utf8"].iter().any(is) => Charset::Utf8,
            () if SINGLE.iter().any(is) => Charset::SingleByte,
            () => Charset::Unsafe,
        }
    }

    /// The class by the number of a collation, as a client sends it when it connects
    /// (`information_schema.COLLATIONS`). Rare ones are [`Charset::Unsafe`]: their sessions read from the primary.
    pub fn from_collation(id: u16) -> Charset {
        match id {
            33 | 45 | 46 | 76 | 83 | 192..=215 | 223..=247 | 255..=323 | 2048..=2559 => Charset::Utf8,
            5 | 8 | 11 | 15 | 31 | 47..=49 | 63 | 65 | 94 => Charset::SingleByte,
            _ => Charset::Unsafe,
        }
    }
}

/// The session that a statement belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The server software.
    pub engine: Engine,
    /// The version of the replica that would run the statement: a name counts as a built-in function only where it is
    /// one. When the replicas' versions differ, ask once for each and believe a «replica» that all agree on.
    pub version: Version,
    /// How quotes and spaces are read.
    pub sql_mode: SqlMode,
    /// How bytes are read.
    pub charset: Charset,
    /// A transaction is open (server status flag `SERVER_STATUS_IN_TRANS`).
    pub in_transaction: bool,
    /// It is a read-only one (`SERVER_STATUS_IN_TRANS_READONLY`). A verdict [`crate::Route::Replica`] then means the
    /// connection that holds the transaction.
    pub read_only_transaction: bool,
    /// Status flag `SERVER_STATUS_AUTOCOMMIT`. Without it a `SELECT` opens a transaction.
    pub autocommit: bool,
    /// `transaction_isolation` is `SERIALIZABLE`: reads take locks.
    pub serializable: bool,
    /// The session holds what only its connection to the primary has: a temporary table, a lock, a handler…
    pub pinned: bool,
    /// The default database is `mysql`, `sys`, `performance_schema` or `information_schema`: a table without a
    /// database in front tells about one server. See [`crate::is_system_schema`].
    pub system_database: bool,
}

impl Context {
    /// A fresh session in the default mode, with `utf8mb4` and autocommit, on the oldest supported version.
    pub fn new(engine: Engine) -> Context {
        Context {
            engine,
            version: match engine {
                Engine::MariaDb => Version::MARIADB_MIN,
                Engine::MySql => Version::MYSQL_MIN,
            },
            sql_mode: SqlMode::default(),
            charset: Charset::Utf8,
            in_transaction: false,
            read_only_transaction: false,
            autocommit: true,
            serializable: false,
            pinned: false,
            system_database: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_servers_say_them() {
        for (text, version) in [
            ("10.11.19-MariaDB-0+deb12u1", 101_119),
            ("5.5.5-10.6.4-MariaDB", 100_604),
            ("9.7.4-2", 90_704),
            ("8.0.36", 80_036),
            ("8.4-lts", 80_400),
        ] {
            assert_eq!(Version::parse(text), Some(Version(version)), "{text}");
        }
        for text in ["", "x", "8", "8.", "999.1.1", "99999999999.1"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn combined_modes_contain_what_they_contain() {
        let mode = SqlMode::parse("STRICT_TRANS_TABLES, ansi,NO_BACKSLASH_ESCAPES");
        assert!(mode.ansi_quotes && mode.ignore_space && mode.no_backslash_escapes && !mode.other_dialect);
        assert!(SqlMode::parse("ORACLE").other_dialect);
        assert_eq!(SqlMode::parse(""), SqlMode::default());
        assert_eq!(
            SqlMode::parse("TRADITIONAL,ONLY_FULL_GROUP_BY"),
            SqlMode::default()
        );
    }

    #[test]
    fn an_unknown_charset_is_unsafe() {
        assert_eq!(Charset::from_name("UTF8MB4"), Charset::Utf8);
        assert_eq!(Charset::from_name("latin1"), Charset::SingleByte);
        for name in [
            "gbk", "sjis", "cp932", "big5", "gb18030", "swe7", "ujis", "utf16", "", "klingon",
        ] {
            assert_eq!(Charset::from_name(name), Charset::Unsafe, "{name}");
        }
        assert_eq!(Charset::from_collation(28), Charset::Unsafe, "gbk_chinese_ci");
        assert_eq!(Charset::from_collation(255), Charset::Utf8);
    }
}
