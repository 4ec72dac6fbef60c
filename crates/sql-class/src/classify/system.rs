//! What belongs to one server or one connection: system schemas and system variables.

use crate::Previous;

/// Whether a database tells about one server: `mysql`, `sys`, `performance_schema`, `information_schema`.
///
/// `mysql` is replicated only in part (MariaDB KB, «mysql.gtid_slave_pos Table»); the others describe the server that
/// answers (MySQL manual, «MySQL Performance Schema», «MySQL sys Schema»).
pub fn is_system_schema(name: &[u8]) -> bool {
    match name.len() {
        3 => name.eq_ignore_ascii_case(b"sys"),
        5 => name.eq_ignore_ascii_case(b"mysql"),
        18 => {
            name.eq_ignore_ascii_case(b"performance_schema")
                || name.eq_ignore_ascii_case(b"information_schema")
        }
        _ => false,
    }
}

/// A name without its quotes; doubled quotes inside stay, no system schema has any.
pub(super) fn unquoted(name: &[u8]) -> &[u8] {
    match name {
        [b'`' | b'"', inner @ .., b'`' | b'"'] => inner,
        _ => name,
    }
}

/// The tables of information_schema that describe the databases, which are the same on every server (MySQL manual,
/// «INFORMATION_SCHEMA General Table Reference»). All others describe one server or one session. `EVENTS` is not here:
/// their status differs on replicas.
const SAME_EVERYWHERE: &[&[u8]] = &[
    b"CHARACTER_SETS",
    b"CHECK_CONSTRAINTS",
    b"COLLATIONS",
    b"COLLATION_CHARACTER_SET_APPLICABILITY",
    b"COLUMNS",
    b"KEY_COLUMN_USAGE",
    b"PARAMETERS",
    b"PARTITIONS",
    b"REFERENTIAL_CONSTRAINTS",
    b"ROUTINES",
    b"SCHEMATA",
    b"STATISTICS",
    b"TABLES",
    b"TABLE_CONSTRAINTS",
    b"TRIGGERS",
    b"VIEWS",
];

/// Whether a table of information_schema says the same on every server.
pub(super) fn same_everywhere(table: &[u8]) -> bool {
    let table = unquoted(table);
    SAME_EVERYWHERE
        .iter()
        .any(|known| known.eq_ignore_ascii_case(table))
}

/// Who can tell the value of a system variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    /// Any connection of the session: the proxy carries the value along, or the question is who answers.
    Everywhere,
    /// A connection of before.
    Previous(Previous),
    /// The primary.
    Primary,
}

/// Session variables that the proxy carries to every connection (MySQL manual, «Session-State» trackers; MariaDB KB,
/// «session_track_system_variables»), and the three that ask who answers, which people use to see how reads spread.
/// All else is for the primary: an application that asks for `@@read_only`, `@@version` or `@@max_allowed_packet` wants
/// to know what it may do and gets the same answer each time.
const EVERYWHERE: &[&[u8]] = &[
    b"autocommit",
    b"character_set_client",
    b"character_set_connection",
    b"character_set_results",
    b"collation_connection",
    b"foreign_key_checks",
    b"group_concat_max_len",
    b"hostname",
    b"lc_time_names",
    b"server_id",
    b"server_uuid",
    b"sql_mode",
    b"time_zone",
    b"transaction_isolation",
    b"tx_isolation",
    b"unique_checks",
];

/// Who can tell the value of `@@name`, `@@session.name` or `@@local.name`.
pub(super) fn variable(text: &[u8]) -> Variable {
    let name = text.strip_prefix(b"@@").unwrap_or(text);
    let name = strip_scope(name, b"session.")
        .or_else(|| strip_scope(name, b"local."))
        .unwrap_or(name);
    let is = |other: &&[u8]| name.eq_ignore_ascii_case(other);
    if [&b"warning_count"[..], b"error_count"].iter().any(is) {
        return Variable::Previous(Previous::Statement);
    }
    // «Server System Variables»: identity is a synonym for last_insert_id.
    if [&b"identity"[..], b"last_insert_id"].iter().any(is) {
        return Variable::Previous(Previous::Write);
    }
    match EVERYWHERE.iter().any(is) {
        true => Variable::Everywhere,
        false => Variable::Primary,
    }
}

fn strip_scope<'n>(name: &'n [u8], scope: &[u8]) -> Option<&'n [u8]> {
    let (head, rest) = name.split_at_checked(scope.len())?;
    head.eq_ignore_ascii_case(scope).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_who_can_tell_them() {
        for (text, who) in [
            ("@@sql_mode", Variable::Everywhere),
            ("@@SESSION.Time_Zone", Variable::Everywhere),
            ("@@global.time_zone", Variable::Primary),
            ("@@identity", Variable::Previous(Previous::Write)),
            ("@@local.warning_count", Variable::Previous(Previous::Statement)),
            ("@@read_only", Variable::Primary),
            ("@@`sql_mode`", Variable::Primary),
            ("@@", Variable::Primary),
        ] {
            assert_eq!(variable(text.as_bytes()), who, "{text}");
        }
    }

    #[test]
    fn schemas_of_the_server() {
        assert!(is_system_schema(b"MySQL") && is_system_schema(b"sys") && !is_system_schema(b"shop"));
        assert!(same_everywhere(b"`Tables`") && !same_everywhere(b"PROCESSLIST"));
        assert_eq!(unquoted(b"`"), b"`");
    }
}
