//! Binary logs written here, with transactions of two servers in them.

use super::*;
use crate::cut::tests::{Logs, ROWS, begin, transaction};

fn file(before: &[(u32, u64)], transactions: &[(u32, u64)]) -> Vec<u8> {
    let mut bytes = begin(false, before);
    for (server, sequence) in transactions {
        bytes.extend(transaction(*server, *sequence, ROWS));
    }
    bytes
}

fn history(text: &str) -> History {
    History::parse(Dialect::MariaDb, text).unwrap()
}

async fn look(logs: &Logs, keep: &str, only: Option<&str>, export: bool) -> Result<Alone, Refusal> {
    let sought = Sought {
        keep: history(keep),
        only: only.map(history),
    };
    let base = logs.node.datadir.join("bin");
    alone(&logs.node, &base, sought, &"a".parse().unwrap(), export).await
}

fn names(alone: &Alone) -> Vec<&str> {
    alone.first.iter().map(|one| one.gtid.as_str()).collect()
}

#[tokio::test]
async fn what_comes_after_the_common_part_is_found_in_whichever_files() {
    let logs = Logs::of(&[
        file(&[], &[(1, 1), (1, 2), (2, 3)]),
        file(&[(2, 3)], &[(2, 4), (2, 5)]),
    ]);
    let found = look(&logs, "0-1-9", None, false).await.unwrap();
    assert_eq!((found.count, names(&found)), (3, vec!["0-2-3", "0-2-4", "0-2-5"]));
    assert_eq!(found.first[1].file, "bin.000002");
    assert_eq!(found.kept, None);
    let none = look(&logs, "0-1-9,0-2-5", None, false).await.unwrap();
    assert_eq!(none, Alone::default());
}

#[tokio::test]
async fn who_wrote_before_a_copy_was_made_is_not_known_there_and_no_accusation() {
    // The primary was copied from server 1 and knows the last transaction only.
    let logs = Logs::of(&[file(&[], &[(7, 1), (7, 2), (1, 3), (1, 4)])]);
    let found = look(&logs, "0-1-4", None, false).await.unwrap();
    assert_eq!(found, Alone::default());
}

#[tokio::test]
async fn of_a_running_database_only_what_was_found_out_counts() {
    // It has received 0-1-4 since the primary was asked.
    let logs = Logs::of(&[file(&[], &[(1, 3), (1, 4)])]);
    let found = look(&logs, "0-1-3", Some("7-2-1"), false).await.unwrap();
    assert_eq!(found, Alone::default());
}

#[tokio::test]
async fn it_is_written_down_as_a_log_of_its_own_and_nothing_else() {
    let logs = Logs::of(&[file(&[], &[(1, 1), (2, 2), (2, 3)]), file(&[(2, 3)], &[(2, 4)])]);
    let found = look(&logs, "0-1-1", None, true).await.unwrap();
    let kept = found.kept.unwrap();
    assert!(
        kept.to_string_lossy().contains("pontoon-only-here-")
            && kept.to_string_lossy().ends_with("-not-on-a")
    );
    let written = std::fs::read(&kept).unwrap();
    let mut wanted = begin(false, &[]);
    wanted.extend(transaction(2, 2, ROWS));
    wanted.extend(transaction(2, 3, ROWS));
    wanted.extend(&begin(false, &[(2, 3)])[4..]);
    wanted.extend(transaction(2, 4, ROWS));
    assert_eq!(written, wanted);
    // Rows of the user's: nobody else reads them.
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
    drop(logs.dir);
}

#[tokio::test]
async fn a_damaged_log_is_refused() {
    let mut bytes = file(&[], &[(2, 1)]);
    // An event that says to be shorter than its header.
    bytes.extend([1, 0, 0, 0, 30, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for bad in [bytes, b"no log".to_vec(), Vec::new()] {
        let logs = Logs::of(&[bad]);
        let refusal = look(&logs, "", None, true).await.unwrap_err();
        assert_eq!(refusal.code, Code::N006, "{refusal:?}");
    }
}
