//! Targets over `crates/sql-class`.

use pontoon_sql_class::{
    Charset, Context, Effects, Engine, Kind, Reason, Route, SqlMode, Version, assignments,
    classify as decide, digest as digest_of, used_database,
};

use crate::chosen;

/// A verdict says «replica» only for what is a read without effects, also when less is known about the session.
pub fn classify(data: &[u8]) {
    let Some((head, sql)) = chosen::<2>(data) else {
        return;
    };
    let context = context(head);
    let found = decide(sql, &context);
    assert!(found.at.is_none_or(|at| at <= sql.len()));
    let read = matches!(found.reason, Reason::Read | Reason::ReadOnlyTransaction);
    assert_eq!(found.route == Route::Replica, read);
    if !read {
        return;
    }
    assert!(!found.effects.pins(), "{}", found.effects);
    let kinds = [Kind::Select, Kind::Values, Kind::Show, Kind::Explain, Kind::Begin];
    assert!(kinds.contains(&found.kind), "{:?}", found.kind);
    let careful = Context {
        sql_mode: SqlMode::UNKNOWN,
        ..context
    };
    let careful = decide(sql, &careful);
    assert!(
        careful.route == Route::Replica
            || careful.reason == Reason::UnknownSqlMode
            || context.sql_mode.ignore_space
    );
    // What the session holds can only take a read away from the replicas.
    let pinned = Context {
        pinned: true,
        ..context
    };
    assert!(decide(sql, &pinned).route != Route::Replica || context.read_only_transaction);
}

/// A digest is of bounded length, and printable.
pub fn digest(data: &[u8]) {
    let Some((head, sql)) = chosen::<2>(data) else {
        return;
    };
    assert!(digest_of(sql, &context(head)).len() < 4 * sql.len() + 64);
}

/// Assignments end, and are found only in what is a `SET`.
pub fn assigned(data: &[u8]) {
    let Some((head, sql)) = chosen::<2>(data) else {
        return;
    };
    let context = context(head);
    let listed = assignments(sql, &context).take(sql.len() + 1).count();
    assert!(listed <= sql.len());
    let used = used_database(sql, &context);
    assert!(used.as_ref().is_none_or(|name| name.len() <= sql.len()));
    if listed > 0 || used.is_some() {
        let found = decide(sql, &context);
        assert!(listed == 0 || found.kind == Kind::Set || found.effects.contains(Effects::OPAQUE));
        assert!(found.route != Route::Replica);
    }
}

/// A session in any state.
fn context([mode, state]: [u8; 2]) -> Context {
    let bit = |byte: u8, at: u8| byte & (1 << at) != 0;
    let mut context = Context::new(match bit(mode, 0) {
        true => Engine::MySql,
        false => Engine::MariaDb,
    });
    if bit(mode, 1) {
        context.version = Version(match context.engine {
            Engine::MySql => 90_704,
            Engine::MariaDb => 110_800,
        });
    }
    context.sql_mode = SqlMode {
        ansi_quotes: bit(mode, 2),
        no_backslash_escapes: bit(mode, 3),
        ignore_space: bit(mode, 4),
        other_dialect: mode & 0xE0 == 0xE0,
        unknown: mode & 0xE0 == 0xC0,
    };
    context.charset = match mode & 0xE0 {
        0x20 => Charset::SingleByte,
        0x40 => Charset::Unsafe,
        _ => Charset::Utf8,
    };
    context.in_transaction = bit(state, 0);
    context.read_only_transaction = bit(state, 0) && bit(state, 1);
    context.autocommit = !bit(state, 2);
    context.serializable = bit(state, 3);
    context.pinned = bit(state, 4);
    context.system_database = bit(state, 5);
    context
}
