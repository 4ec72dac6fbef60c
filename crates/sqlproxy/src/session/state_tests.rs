use super::*;
use pontoon_sql_class::{Context, Engine, assignments};

/// The state after these statements, and whether one of them pins.
fn after(statements: &[&str]) -> (Rc<State>, bool) {
    let mut state = State::default();
    let mut pinned = false;
    let context = Context::new(Engine::MariaDb);
    for sql in statements {
        match sql.strip_prefix("USE ") {
            Some(database) => state.database = Some(database.as_bytes().into()),
            None => {
                for one in assignments(sql.as_bytes(), &context) {
                    pinned |= state.assign(&one) == Noted::Pin;
                }
            }
        }
    }
    (Rc::new(state), pinned)
}

/// The commands from one state to another, as text.
fn between(from: &[&str], to: &[&str]) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match after(to).0.difference(&after(from).0) {
        Difference::Commands(commands) => commands
            .iter()
            .map(|command| match command {
                Setup::Sql(sql) => text(sql),
                Setup::InitDb(database) => format!("USE {}", text(database)),
            })
            .collect(),
        Difference::Reset => vec!["RESET".into()],
        Difference::Impossible => vec!["IMPOSSIBLE".into()],
    }
}

#[test]
fn equal_states_need_nothing() {
    let statements = ["SET NAMES utf8mb4", "SET sql_mode=''", "USE shop", "SET @a=1"];
    assert!(between(&statements, &statements).is_empty());
    assert!(between(&[], &[]).is_empty());
}

#[test]
fn what_was_set_is_set_again_in_an_order_that_is_right() {
    let to = [
        "USE shop",
        "SET @b = 'x', @A = -5",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY",
        "SET time_zone = '+00:00', sql_mode = 'ANSI'",
    ];
    let expected = [
        "SET SESSION sql_mode='ANSI',SESSION time_zone='+00:00'",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET SESSION TRANSACTION READ ONLY",
        "SET @a=-5,@b='x'",
        "USE shop",
    ];
    assert_eq!(between(&[], &to), expected);
    assert_eq!(between(&to[..2], &to)[..3], expected[..3]);
}

#[test]
fn names_come_first_and_what_came_after_them_again() {
    let to = [
        "SET NAMES latin1 COLLATE latin1_bin",
        "SET character_set_results = NULL",
    ];
    let expected = "SET NAMES latin1 COLLATE latin1_bin,SESSION character_set_results=NULL";
    assert_eq!(between(&["SET character_set_results = NULL"], &to), [expected]);
    let again = ["SET character_set_results = NULL", "SET NAMES utf8mb4"];
    assert_eq!(between(&[], &again), ["SET NAMES utf8mb4"]);
}

#[test]
fn what_is_to_be_unset_needs_a_reset() {
    for from in [
        "SET NAMES latin1",
        "SET sql_mode=''",
        "SET @a=1",
        "SET foreign_key_checks=0",
        "SET timestamp=5",
        "SET SESSION TRANSACTION READ ONLY",
    ] {
        assert_eq!(between(&[from], &[]), ["RESET"], "{from}");
    }
    assert_eq!(between(&["USE shop"], &[]), ["IMPOSSIBLE"]);
    assert_eq!(between(&["USE shop"], &["USE blog"]), ["USE blog"]);
}

#[test]
fn what_cannot_be_set_again_pins() {
    for sql in [
        "SET @a = @@sql_mode",
        "SET sql_mode = CONCAT(@@sql_mode, ',ANSI')",
        "SET CHARACTER SET latin1",
        "SET session_track_system_variables = ''",
        "SET @`odd name` = 1",
        "SET @a = 'é'",
        "SET TRANSACTION READ ONLY",
        "SET ROLE none",
        "SET sql_log_bin = 0",
        "SET insert_id = 5",
        "SET @@session.last_insert_id = 5",
    ] {
        assert!(after(&[sql]).1, "{sql}");
    }
    assert!(
        after(&["SET @a='x'", "SET NAMES latin1"]).1,
        "the string keeps its character set"
    );
    assert!(!after(&["SET @a=1", "SET NAMES latin1"]).1);
}

#[test]
fn the_last_way_of_setting_the_isolation_level_counts() {
    let to = [
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET SESSION tx_isolation='READ-COMMITTED'",
    ];
    assert_eq!(between(&[], &to), ["SET SESSION tx_isolation='READ-COMMITTED'"]);
    let back = [to[1], to[0]];
    assert_eq!(
        between(&[], &back),
        ["SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"]
    );
}

#[test]
fn what_the_server_reports_is_believed() {
    let mut state = State::default();
    assert_eq!(
        state.report(b"sql_mode", b"ANSI_QUOTES,STRICT_TRANS_TABLES"),
        Noted::Yes
    );
    assert_eq!(
        state.variable("sql_mode"),
        Some(&b"'ANSI_QUOTES,STRICT_TRANS_TABLES'"[..])
    );
    assert_eq!(state.report(b"last_gtid", b"0-1-8"), Noted::Yes);
    assert_eq!(state.variable("last_gtid"), None);
    assert_eq!(state.report(b"time_zone", b"a'b"), Noted::Pin);
}

#[test]
fn a_session_cannot_fill_memory() {
    let many = (0..100).map(|n| format!("SET @v{n} = {n}")).collect::<Vec<_>>();
    let many = many.iter().map(String::as_str).collect::<Vec<_>>();
    assert!(after(&many).1);
    assert!(after(&[&format!("SET @v = '{}'", "x".repeat(5000))]).1);
}
