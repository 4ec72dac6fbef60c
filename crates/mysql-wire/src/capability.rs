//! Capability flags: what a client and a server agree on in the handshake (MySQL: "Capabilities Flags"; MariaDB:
//! "Connecting", Capabilities).

use std::fmt;

/// A set of capability flags. The low 32 bits are common to both servers, the high 32 are MariaDB's extension,
/// sent in bytes that MySQL leaves zero and valid only while [`Capabilities::CLIENT_MYSQL`] is *not* set.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Capabilities(pub u64);

macro_rules! flags {
    ($type:ident: $($(#[$doc:meta])* $name:ident = $bit:expr;)*) => {
        impl $type {
            $($(#[$doc])* pub const $name: $type = $type(1 << $bit);)*

            const NAMES: &'static [(&'static str, $type)] = &[$((stringify!($name), $type::$name),)*];

            /// Whether every flag of `flags` is set.
            pub fn has(self, flags: $type) -> bool {
                self.0 & flags.0 == flags.0
            }

            /// These without `flags`.
            #[must_use]
            pub fn without(self, flags: $type) -> $type {
                $type(self.0 & !flags.0)
            }
        }

        impl std::ops::BitOr for $type {
            type Output = $type;

            fn bitor(self, other: $type) -> $type {
                $type(self.0 | other.0)
            }
        }

        impl std::ops::BitAnd for $type {
            type Output = $type;

            fn bitand(self, other: $type) -> $type {
                $type(self.0 & other.0)
            }
        }

        impl fmt::Debug for $type {
            /// The names of the flags that are set, and what has no name as a number.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut left = self.0;
                let mut set = f.debug_set();
                for (name, flag) in $type::NAMES {
                    if left & flag.0 != 0 {
                        set.entry(&format_args!("{name}"));
                        left &= !flag.0;
                    }
                }
                if left != 0 {
                    set.entry(&format_args!("{left:#x}"));
                }
                set.finish()
            }
        }
    };
}
pub(crate) use flags;

flags! { Capabilities:
    /// Bit 0. MySQL: `CLIENT_LONG_PASSWORD`, always set. MariaDB: `CLIENT_MYSQL`; a MariaDB server leaves it out
    /// to say that the extended flags are there.
    CLIENT_MYSQL = 0;
    /// Affected rows are found rows.
    FOUND_ROWS = 1;
    /// Long column flags.
    LONG_FLAG = 2;
    /// The handshake response names a database.
    CONNECT_WITH_DB = 3;
    /// No `database.table.column`.
    NO_SCHEMA = 4;
    /// zlib compression.
    COMPRESS = 5;
    /// ODBC behaviour.
    ODBC = 6;
    /// `LOAD DATA LOCAL`.
    LOCAL_FILES = 7;
    /// Spaces before `(`.
    IGNORE_SPACE = 8;
    /// The 4.1 protocol: SQLSTATE in ERR packets, status flags in OK packets. Every client of today sets it.
    PROTOCOL_41 = 9;
    /// `wait_timeout` is `interactive_timeout`.
    INTERACTIVE = 10;
    /// TLS after the greeting.
    SSL = 11;
    /// Client-side only.
    IGNORE_SIGPIPE = 12;
    /// Transaction status in OK packets.
    TRANSACTIONS = 13;
    /// Historical.
    RESERVED = 14;
    /// The 4.1 password exchange; MySQL renamed it `CLIENT_RESERVED2`.
    SECURE_CONNECTION = 15;
    /// Several statements in one COM_QUERY.
    MULTI_STATEMENTS = 16;
    /// Several result sets from COM_QUERY.
    MULTI_RESULTS = 17;
    /// Several result sets from COM_STMT_EXECUTE.
    PS_MULTI_RESULTS = 18;
    /// Authentication plugins by name.
    PLUGIN_AUTH = 19;
    /// Connection attributes in the handshake response.
    CONNECT_ATTRS = 20;
    /// Authentication data longer than 255 bytes.
    PLUGIN_AUTH_LENENC_DATA = 21;
    /// May answer to an expired password.
    CAN_HANDLE_EXPIRED_PASSWORDS = 22;
    /// Session state changes in OK packets.
    SESSION_TRACK = 23;
    /// OK packets in place of EOF packets.
    DEPRECATE_EOF = 24;
    /// MySQL: result set metadata may be left out.
    OPTIONAL_RESULTSET_METADATA = 25;
    /// MySQL: zstd compression.
    ZSTD_COMPRESSION = 26;
    /// MySQL: query attributes.
    QUERY_ATTRIBUTES = 27;
    /// MySQL: more than one factor.
    MULTI_FACTOR_AUTHENTICATION = 28;
    /// Historical: progress reports in ERR packets.
    PROGRESS_OBSOLETE = 29;
    /// Client-side only.
    SSL_VERIFY_SERVER_CERT = 30;
    /// Client-side only.
    REMEMBER_OPTIONS = 31;
    /// MariaDB: progress reports.
    MARIADB_PROGRESS = 32;
    /// MariaDB: COM_MULTI (withdrawn).
    MARIADB_COM_MULTI = 33;
    /// MariaDB: bulk operations, COM_STMT_BULK_EXECUTE.
    MARIADB_STMT_BULK_OPERATIONS = 34;
    /// MariaDB: extended type information.
    MARIADB_EXTENDED_METADATA = 35;
    /// MariaDB: prepared statements' metadata may be left out when unchanged.
    MARIADB_CACHE_METADATA = 36;
    /// MariaDB: a result set for each row of a bulk operation.
    MARIADB_BULK_UNIT_RESULTS = 37;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_by_name() {
        let flags = Capabilities::SSL | Capabilities::PROTOCOL_41 | Capabilities(1 << 50);
        assert_eq!(format!("{flags:?}"), "{PROTOCOL_41, SSL, 0x4000000000000}");
        assert!(flags.has(Capabilities::SSL) && !flags.without(Capabilities::SSL).has(Capabilities::SSL));
    }
}
