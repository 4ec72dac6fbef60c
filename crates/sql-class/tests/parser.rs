//! Against another reader of SQL: what `sqlparser` takes for a write, a lock or a destination never goes to a replica.
//!
//! It reads only a part of both languages and some of it wrongly, so it is a witness in one direction only. Statements
//! come from a small grammar with a seed: `PONTOON_SEED` replays, `PONTOON_STATEMENTS` says how many.

mod common;

use pontoon_sql_class::{Context, Engine, Route, classify};
use sqlparser::ast::{Query, SetExpr, Statement};
use sqlparser::dialect::MySqlDialect;
use sqlparser::parser::Parser;

use common::{Dice, corpus};

/// Why `statements` are not for a replica, when the other parser sees it.
fn objection(statements: &[Statement]) -> Option<String> {
    if statements.len() != 1 {
        return Some(format!("{} statements", statements.len()));
    }
    match &statements[0] {
        Statement::Query(query) => query_objection(query),
        Statement::Explain { statement, .. } => objection(std::slice::from_ref(statement)),
        Statement::ExplainTable { .. }
        | Statement::ShowTables { .. }
        | Statement::ShowColumns { .. }
        | Statement::ShowDatabases { .. }
        | Statement::ShowSchemas { .. }
        | Statement::ShowCreate { .. }
        | Statement::ShowCollation { .. }
        | Statement::ShowCharset(_)
        | Statement::ShowVariable { .. }
        | Statement::StartTransaction { .. } => None,
        other => Some(format!("{other:.40}")),
    }
}

fn query_objection(query: &Query) -> Option<String> {
    if !query.locks.is_empty() || query.for_clause.is_some() {
        return Some("locks".to_owned());
    }
    body_objection(&query.body)
}

fn body_objection(body: &SetExpr) -> Option<String> {
    match body {
        SetExpr::Select(select) if select.into.is_some() => Some("into".to_owned()),
        SetExpr::Select(_) | SetExpr::Values(_) | SetExpr::Table(_) => None,
        SetExpr::Query(query) => query_objection(query),
        SetExpr::SetOperation { left, right, .. } => body_objection(left).or_else(|| body_objection(right)),
        _ => Some("a write".to_owned()),
    }
}

/// What is wrong with the verdict on `sql`, if anything.
fn disagreement(sql: &str) -> Option<String> {
    let engines = [Engine::MySql, Engine::MariaDb];
    let to_replica = engines
        .iter()
        .any(|engine| classify(sql.as_bytes(), &Context::new(*engine)).route == Route::Replica);
    if !to_replica {
        return None;
    }
    let statements = Parser::parse_sql(&MySqlDialect {}, sql).ok()?;
    objection(&statements).map(|why| format!("to a replica, but {why}: {sql}"))
}

#[test]
fn the_corpus_agrees() {
    let mut read = 0;
    for line in corpus() {
        let Ok(sql) = String::from_utf8(line.sql) else {
            continue;
        };
        // Its parser goes deeper with each parenthesis.
        if sql.len() > 4000 || sql.contains("/*!") || sql.contains("/*M!") {
            continue;
        }
        read += usize::from(Parser::parse_sql(&MySqlDialect {}, &sql).is_ok());
        let plain = line
            .contexts
            .iter()
            .all(|context| *context == Context::new(context.engine));
        if plain
            && line.route == Route::Replica
            && let Some(wrong) = disagreement(&sql)
        {
            panic!("{}: {wrong}", line.place);
        }
    }
    assert!(read > 1000, "the other parser read {read} statements only");
}

#[test]
fn generated_statements_agree() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let seed = number("PONTOON_SEED", 20_261_122);
    let total = number("PONTOON_STATEMENTS", 120_000);
    let mut dice = Dice(seed);
    let (mut parsed, mut replica, mut objected) = (0u64, 0u64, 0u64);
    for _ in 0..total {
        let sql = Grammar {
            dice: &mut dice,
            depth: 0,
        }
        .statement();
        let context = Context::new(Engine::MariaDb);
        let route = classify(sql.as_bytes(), &context).route;
        if let Some(wrong) = disagreement(&sql) {
            panic!("seed {seed}: {wrong}");
        }
        replica += u64::from(route == Route::Replica);
        // Both directions are counted, so that a test that says nothing is noticed.
        if dice.below(10) == 0
            && let Ok(statements) = Parser::parse_sql(&MySqlDialect {}, &sql)
        {
            parsed += 1;
            objected += u64::from(objection(&statements).is_some());
        }
    }
    println!(
        "{total} statements: {replica} to a replica; of a tenth, {parsed} parsed, {objected} with an objection"
    );
    assert!(replica > total / 20 && parsed > total / 40 && objected > total / 100);
}

/// A grammar of reads, and of what makes them no reads.
struct Grammar<'a> {
    dice: &'a mut Dice,
    depth: usize,
}

impl Grammar<'_> {
    fn any(&mut self, items: &[&str]) -> String {
        let item = *self.dice.pick(items);
        // Any case of letters, and now and then a comment in front.
        let item = match self.dice.below(4) {
            0 => item.to_ascii_lowercase(),
            _ => item.to_owned(),
        };
        match self.dice.below(40) {
            0 => format!("/* FOR UPDATE */ {item}"),
            1 => format!("-- ' INTO @a\n{item}"),
            _ => item,
        }
    }

    fn maybe(&mut self, one_in: usize, make: impl FnOnce(&mut Self) -> String) -> String {
        match self.dice.below(one_in) {
            0 => format!(" {}", make(self)),
            _ => String::new(),
        }
    }

    fn name(&mut self) -> String {
        self.any(&[
            "a", "b", "id", "t.a", "`for`", "`update`", "shop.t.x", "status", "t.`into`", "name", "value",
        ])
    }

    fn table(&mut self) -> String {
        self.any(&["t", "users", "`order items`", "shop.t", "wp_posts", "`lock`"])
    }

    fn literal(&mut self) -> String {
        self.any(&[
            "1",
            "-2",
            "'x'",
            "'it''s'",
            "'FOR UPDATE'",
            "NULL",
            "1.5",
            "\"y\"",
            "'; DELETE FROM t'",
            "0xFF",
        ])
    }

    fn expression(&mut self) -> String {
        self.depth += 1;
        let made = match self.dice.below(if self.depth > 3 { 3 } else { 12 }) {
            0 | 1 => self.name(),
            2 => self.literal(),
            3 => format!("{} + {}", self.expression(), self.expression()),
            4 => format!("({})", self.expression()),
            5 => {
                let function = self.any(&["COUNT", "MAX", "UPPER", "COALESCE", "CONCAT", "IF", "ABS"]);
                format!("{function}({}, {})", self.expression(), self.expression())
            }
            6 => format!("{} IN ({}, {})", self.name(), self.literal(), self.literal()),
            7 => format!("(SELECT {} FROM {})", self.expression(), self.table()),
            8 => format!("CASE WHEN {} THEN {} END", self.condition(), self.literal()),
            9 => format!("CAST({} AS CHAR(5))", self.expression()),
            10 => match self.dice.below(6) {
                0 => self.any(&[
                    "f(1)",
                    "GET_LOCK('a', 1)",
                    "shop.f(a)",
                    "SLEEP(1)",
                    "@a",
                    "@@read_only",
                    "NEXTVAL(s)",
                ]),
                _ => self.name(),
            },
            _ => self.condition(),
        };
        self.depth -= 1;
        made
    }

    fn condition(&mut self) -> String {
        let operator = self.any(&["=", "<>", "<", ">=", "LIKE", "AND", "OR", "<=>"]);
        format!("{} {operator} {}", self.name(), self.expression())
    }

    fn select(&mut self) -> String {
        let mut sql = format!(
            "SELECT{} {}",
            self.maybe(8, |g| g.any(&["DISTINCT", "ALL"])),
            self.expression()
        );
        sql += &self.maybe(2, |g| format!(", {} AS x", g.expression()));
        sql += &self.maybe(25, |g| g.any(&["INTO @a", "INTO OUTFILE '/tmp/x'", "INTO t2"]));
        sql += &format!(" FROM {}", self.table());
        sql += &self.maybe(4, |g| format!("JOIN {} ON {}", g.table(), g.condition()));
        sql += &self.maybe(2, |g| format!("WHERE {}", g.condition()));
        sql += &self.maybe(6, |g| format!("GROUP BY {}", g.name()));
        sql += &self.maybe(5, |g| format!("ORDER BY {}", g.name()));
        sql += &self.maybe(5, |_| "LIMIT 5".to_owned());
        sql += &self.maybe(12, |g| {
            g.any(&[
                "FOR UPDATE",
                "FOR SHARE",
                "LOCK IN SHARE MODE",
                "FOR UPDATE NOWAIT",
            ])
        });
        sql
    }

    fn write(&mut self) -> String {
        let (table, value) = (self.table(), self.expression());
        match self.dice.below(8) {
            0 => format!("INSERT INTO {table} (a) VALUES ({value})"),
            1 => format!("UPDATE {table} SET a = {value}"),
            2 => format!("DELETE FROM {table} WHERE {}", self.condition()),
            3 => format!("REPLACE INTO {table} VALUES ({value})"),
            4 => format!("DROP TABLE {table}"),
            5 => format!("CREATE TABLE x AS {}", self.select()),
            6 => format!("SET @a = {value}"),
            _ => format!("TRUNCATE TABLE {table}"),
        }
    }

    fn statement(&mut self) -> String {
        match self.dice.below(12) {
            0 => self.write(),
            1 => format!("({}) UNION ({})", self.select(), self.select()),
            2 => format!("WITH c AS ({}) {}", self.select(), self.select()),
            3 => format!("WITH c AS ({}) {}", self.select(), self.write()),
            4 => format!("{}; {}", self.select(), self.write()),
            5 => format!("EXPLAIN {}", self.select()),
            6 => format!("EXPLAIN {}", self.write()),
            7 => format!("SELECT * FROM ({}) d", self.select()),
            _ => self.select(),
        }
    }
}
