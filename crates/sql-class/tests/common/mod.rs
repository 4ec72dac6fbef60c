//! The corpus: its lines and the expansion of its families.
// Outside of `#[test]` functions clippy does not know that this is test code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use pontoon_sql_class::{Charset, Context, Engine, Previous, Route, SqlMode, Version};

/// A statement and what is known of it.
#[derive(Clone, Debug)]
pub struct Line {
    pub route: Route,
    pub contexts: Vec<Context>,
    pub sql: Vec<u8>,
    /// `file:line`.
    pub place: String,
}

pub fn corpus_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// All lines of the corpus.
pub fn corpus() -> Vec<Line> {
    let mut lines = Vec::new();
    for file in ["expanded.tsv", "applications.tsv", "adversarial.tsv"] {
        let text = fs::read_to_string(corpus_folder().join(file)).expect(file);
        for (index, line) in text.lines().enumerate() {
            if !line.is_empty() && !line.starts_with("##") {
                lines.push(parse(line, format!("{file}:{}", index + 1)));
            }
        }
    }
    lines
}

fn parse(line: &str, place: String) -> Line {
    let mut fields = line.splitn(4, '\t');
    let mut field = || fields.next().unwrap_or_else(|| panic!("{place}: four columns"));
    let (route, engine, session, sql) = (field(), field(), field(), field());
    Line {
        route: match route {
            "replica" => Route::Replica,
            "primary" => Route::Primary,
            "statement" => Route::PreviousTarget(Previous::Statement),
            "write" => Route::PreviousTarget(Previous::Write),
            "transaction" => Route::PreviousTarget(Previous::Transaction),
            other => panic!("{place}: {other}"),
        },
        contexts: contexts(engine, session),
        sql: bytes(sql),
        place,
    }
}

fn contexts(engine: &str, session: &str) -> Vec<Context> {
    let (name, version) = engine.split_once('@').unwrap_or((engine, ""));
    let engines = match name {
        "both" => vec![Engine::MySql, Engine::MariaDb],
        "mysql" => vec![Engine::MySql],
        "mariadb" => vec![Engine::MariaDb],
        other => panic!("engine {other}"),
    };
    let one = |engine| {
        let mut context = Context::new(engine);
        if !version.is_empty() {
            context.version = Version(version.parse().unwrap());
        }
        for word in session.split(',') {
            match word {
                "-" => {}
                "ansi" => context.sql_mode = SqlMode::parse("ANSI_QUOTES"),
                "nobackslash" => context.sql_mode = SqlMode::parse("NO_BACKSLASH_ESCAPES"),
                "ignorespace" => context.sql_mode = SqlMode::parse("IGNORE_SPACE"),
                "oracle" => context.sql_mode = SqlMode::parse("ORACLE"),
                "unknownmode" => context.sql_mode = SqlMode::UNKNOWN,
                "latin1" => context.charset = Charset::SingleByte,
                "gbk" => context.charset = Charset::Unsafe,
                other => panic!("session {other}"),
            }
        }
        context
    };
    engines.into_iter().map(one).collect()
}

/// The signs that stand for bytes.
pub fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(sign) = rest.chars().next() {
        rest = &rest[sign.len_utf8()..];
        match sign {
            '⏎' => out.push(b'\n'),
            '␀' => out.push(0),
            '⇥' => out.push(b'\t'),
            '␍' => out.push(b'\r'),
            '‹' => {
                let (hex, after) = rest.split_once('›').expect("a closing ›");
                out.push(u8::from_str_radix(hex, 16).expect("a byte in hexadecimal"));
                rest = after;
            }
            other => out.extend(other.to_string().bytes()),
        }
    }
    out
}

/// The families, expanded: the text of `expanded.tsv`.
pub fn expand(families: &str) -> String {
    let mut lists: Vec<(String, Vec<String>, usize)> = Vec::new();
    let mut out = String::new();
    for line in families.lines() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some((name, items)) = line.split_once(" = ").filter(|(name, _)| name.len() == 1) {
            let items = items.split('¦').map(|item| item.trim().to_owned()).collect();
            lists.push((format!("<{name}>"), items, 0));
            continue;
        }
        let mut fields = line.splitn(4, '|').map(str::trim);
        let mut field = || fields.next().expect("four columns");
        let (route, engine, session, template) = (field(), field(), field(), field());
        for mut sql in alternatives(template) {
            for (name, items, next) in &mut lists {
                while let Some(at) = sql.find(name.as_str()) {
                    sql.replace_range(at..at + name.len(), &items[*next % items.len()]);
                    *next += 1;
                }
            }
            out.push_str(&format!("{route}\t{engine}\t{session}\t{sql}\n"));
        }
    }
    out
}

/// Every way to choose from the braces that have a `¦` in them.
fn alternatives(template: &str) -> Vec<String> {
    let mut search = 0;
    while let Some(open) = template[search..].find('{').map(|at| search + at) {
        let mut depth = 0;
        let close = template[open..]
            .char_indices()
            .find(|(_, sign)| {
                depth += i32::from(*sign == '{') - i32::from(*sign == '}');
                depth == 0
            })
            .map(|(at, _)| open + at)
            .expect("a closing brace");
        let inner = &template[open + 1..close];
        if !inner.contains('¦') {
            search = close + 1;
            continue;
        }
        return inner
            .split('¦')
            .flat_map(|choice| {
                let rest = alternatives(&template[close + 1..]);
                rest.into_iter()
                    .map(|rest| format!("{}{choice}{rest}", &template[..open]))
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    vec![template.to_owned()]
}

/// A dice with a seed (SplitMix64), so that a failure can be had again.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.roll() % limit.max(1) as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}
