//! Every script, directly and through the proxy, by every kind of client: the transcripts are equal.
//!
//! `PONTOON_SQL_SESSIONS=1` plays them in sessions of the proxy's own, with reads from the replica; otherwise clients are
//! passed through. `PONTOON_SQL_CASE=part of a name` plays the cases of that name only, `PONTOON_SQL_SHOW=1` prints their transcripts,
//! `PONTOON_LONG=1` plays what waits for seconds with every kind of client, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod behind;
#[path = "../../../crates/sqlproxy/tests/support/mod.rs"]
mod support;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use behind::{Behind, in_sessions};
use pontoon_sql_tests::compare::{Entry, Known, difference, forgive};
use pontoon_sql_tests::play::{NOT_MET, Stage, VARIANTS, Variant, play};
use pontoon_sql_tests::script::{Case, parse};
use pontoon_sql_tests::servers::Engine;
use tokio::task::LocalSet;

#[tokio::test]
async fn mariadb() {
    compare_all(Engine::Mariadb).await;
}

#[tokio::test]
async fn mysql() {
    compare_all(Engine::Mysql).await;
}

/// The newest MariaDB that is supported, beside the installed one: this test again, with another PATH.
#[test]
fn mariadb_of_the_cache() {
    let bin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/mariadb/bin");
    if !bin.join("mariadbd").is_file() {
        println!("SKIPPED: no other MariaDB is here: script/get-sid mariadb fetches one");
        return;
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["mariadb", "--exact", "--nocapture"])
        .env("PATH", path)
        .status();
    assert!(status.unwrap().success());
}

/// Primaries with a replica that work side by side: most of the time is waiting.
const WORKERS: usize = 3;

async fn compare_all(engine: Engine) {
    let wanted = std::env::var("PONTOON_SQL_CASE").unwrap_or_default();
    let cases: Vec<Case> = cases()
        .into_iter()
        .filter(|case| case.name.contains(&wanted) && is_for(case, engine))
        .collect();
    assert!(!cases.is_empty(), "no case is called {wanted:?}");
    let count = cases.len();
    let left = Rc::new(RefCell::new(VecDeque::from(cases)));
    let workers = LocalSet::new();
    let handles: Vec<_> = (0..WORKERS.min(count))
        .map(|_| workers.spawn_local(work(engine, Rc::clone(&left))))
        .collect();
    workers.await;
    let (mut comparisons, mut differ, mut skipped) = (0, 0, false);
    for handle in handles {
        match handle.await.unwrap() {
            Some((some, wrong)) => (comparisons, differ) = (comparisons + some, differ + wrong),
            None => skipped = true,
        }
    }
    if skipped {
        return;
    }
    println!(
        "{}: {count} cases, {comparisons} comparisons, {differ} differ",
        engine.tag()
    );
    assert_eq!(differ, 0, "of {comparisons} comparisons differ");
}

/// Takes cases until none is left. How many comparisons were made, and how many differed; `None` when there is no such
/// database here.
async fn work(engine: Engine, left: Rc<RefCell<VecDeque<Case>>>) -> Option<(usize, usize)> {
    let mut behind = Behind::start(engine).await?;
    let (mut count, mut differ) = (0, 0);
    loop {
        let Some(case) = left.borrow_mut().pop_front() else {
            return Some((count, differ));
        };
        for variant in kinds_of_clients(&case) {
            count += 1;
            let began = Instant::now();
            if let Err(why) = compare_one(&mut behind, &case, *variant).await {
                println!(
                    "DIFFERS {}: {}, client «{}»: {why}",
                    case.file, case.name, variant.name
                );
                differ += 1;
            }
            if began.elapsed() > SLOW {
                println!("slow: {}: {:.1?}", case.name, began.elapsed());
            }
        }
    }
}

/// Which kinds of clients play a case. What waits for seconds is played by one unless there is time. In sessions two are
/// enough then: one that speaks as the proxy does to the database, and one that does not.
fn kinds_of_clients(case: &Case) -> &'static [Variant] {
    let tagged = |wanted: &str| case.tags.iter().any(|tag| tag == wanted);
    let time = std::env::var_os("PONTOON_LONG").is_some();
    let count = match () {
        () if tagged("once") || tagged("waits") && !time => 1,
        () if in_sessions() && !time => 2,
        () => VARIANTS.len(),
    };
    VARIANTS.get(..count).unwrap_or(VARIANTS)
}

/// What a comparison takes that is worth a look.
const SLOW: Duration = Duration::from_secs(3);

async fn compare_one(behind: &mut Behind, case: &Case, variant: Variant) -> Result<(), String> {
    let stages = behind.stages();
    let direct = transcript(behind, case, behind.pair.direct(), variant).await?;
    if let Some(entry) = direct.iter().find(|entry| entry.answer == [NOT_MET]) {
        return Err(format!(
            "line {}: directly: {} is {NOT_MET}",
            entry.line, entry.step
        ));
    }
    // By turns through the proxy beside the primary and through the one beside the replica.
    let at = VARIANTS
        .iter()
        .position(|other| other.name == variant.name)
        .unwrap_or(0);
    let stage = stages[at % stages.len()].clone();
    let mut through = transcript(behind, case, stage, variant).await?;
    if in_sessions() {
        for reason in forgive(OF_SESSIONS, &case.name, &direct, &mut through) {
            println!(
                "known: {}: {}, client «{}»: {reason}",
                case.file, case.name, variant.name
            );
        }
    }
    difference(&direct, &through).map_or(Ok(()), Err)
}

/// What differs for as long as sessions share connections and read from replicas, and why it cannot be otherwise.
const OF_SESSIONS: &[Known] = &[
    Known {
        case: "own id",
        step: "SELECT CONNECTION_ID()",
        reason: OTHER_IDS,
    },
    Known {
        case: "own id",
        step: "SELECT @@pseudo_thread_id",
        reason: OTHER_IDS,
    },
    Known {
        case: "own id in the list of sessions",
        step: "SELECT COUNT(*) FROM information_schema.PROCESSLIST",
        reason: OTHER_IDS,
    },
    Known {
        case: "named locks",
        step: "SELECT IS_USED_LOCK",
        reason: OTHER_IDS,
    },
    Known {
        case: "reset within a transaction rolls back",
        step: "SELECT LAST_INSERT_ID(), ROW_COUNT(), FOUND_ROWS()",
        reason: "the row count is on the primary and the found rows are on the replica: error 1105",
    },
    Known {
        case: "lists of sessions",
        step: "SHOW",
        reason: "the database lists its connections; a session without one at the moment is in no list",
    },
    Known {
        case: "a user at the limit",
        step: "connect tcp user=few",
        reason: "the database itself lets in whom it counts, and what MariaDB proves then is about its own certificate",
    },
    Known {
        case: "lock tables",
        step: "SELECT * FROM t",
        reason: "a table that is locked on the primary is read from a replica without waiting",
    },
    Known {
        case: "variables for one statement",
        step: "SET STATEMENT sql_mode",
        reason: "MariaDB reports that time_zone is as before with the next change that it reports, and the proxy has it \
                 report more",
    },
];

const OTHER_IDS: &str = "in SQL, connections have the database's ids: consistent with each other and with KILL, but not \
                         the id of the greeting";

async fn transcript(
    behind: &mut Behind,
    case: &Case,
    stage: Stage,
    variant: Variant,
) -> Result<Vec<Entry>, String> {
    behind.pair.fresh().await.map_err(|error| error.to_string())?;
    let case = case.clone();
    let played = tokio::task::spawn_blocking(move || play(&case, &stage, variant));
    let entries = played.await.unwrap()?;
    if std::env::var_os("PONTOON_SQL_SHOW").is_some() {
        for entry in &entries {
            println!("{}\n    {}", entry.step, entry.answer.join("\n    "));
        }
    }
    Ok(entries)
}

fn is_for(case: &Case, engine: Engine) -> bool {
    let for_all = !case.tags.iter().any(|tag| tag == "mariadb" || tag == "mysql");
    for_all || case.tags.iter().any(|tag| tag == engine.tag())
}

/// Every case of every script, in the files' order.
fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "script"))
        .collect();
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        found.extend(parse(&name, &std::fs::read_to_string(&file).unwrap()).unwrap());
    }
    found
}

#[test]
fn the_scripts_are_as_many_as_is_said() {
    let count = cases().len();
    assert!(count >= 150, "{count} cases");
}
