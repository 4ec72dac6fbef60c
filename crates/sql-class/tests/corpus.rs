//! Every statement of the corpus goes where it is known to belong.

mod common;

use std::collections::BTreeMap;
use std::fs;

use pontoon_sql_class::{Engine, classify};

use common::{corpus, corpus_folder, expand};

#[test]
fn the_expanded_families_are_the_committed_ones() {
    let families = fs::read_to_string(corpus_folder().join("families.txt")).unwrap();
    let expanded = expand(&families);
    let path = corpus_folder().join("expanded.tsv");
    if std::env::var_os("PONTOON_WRITE_CORPUS").is_some() {
        fs::write(&path, &expanded).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap();
    assert!(
        committed == expanded,
        "run PONTOON_WRITE_CORPUS=1 cargo test -p pontoon-sql-class --test corpus"
    );
}

#[test]
fn no_statement_is_misrouted() {
    let lines = corpus();
    let mut wrong = Vec::new();
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in &lines {
        for context in &line.contexts {
            let found = classify(&line.sql, context);
            if found.route != line.route {
                wrong.push(format!(
                    "{} {:?}: {} expected, {} ({:?}) found: {}",
                    line.place,
                    context.engine,
                    line.route.label(),
                    found.route.label(),
                    found.reason,
                    String::from_utf8_lossy(&line.sql)
                ));
            }
            let engine = match context.engine {
                Engine::MySql => "mysql",
                Engine::MariaDb => "mariadb",
            };
            *counts.entry((engine, line.route.label())).or_default() += 1;
        }
    }
    assert!(
        wrong.is_empty(),
        "{} misrouted:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let mut statements: Vec<_> = lines.iter().map(|line| &line.sql).collect();
    statements.sort();
    statements.dedup();
    println!(
        "{} statements, {} verdicts: {counts:?}",
        statements.len(),
        counts.values().sum::<usize>()
    );
    assert!(
        statements.len() >= 2000,
        "{} different statements",
        statements.len()
    );
}
