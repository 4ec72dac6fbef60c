//! What a MariaDB found in its engine when it recovered from a binary log that was cut.
//!
//! MySQL keeps the names of committed transactions in the engine, so `gtid_executed` tells when one was committed that
//! was cut off. MariaDB keeps only a position in the binary log, and says it in its error log at the recovery.

use std::io::{self, Read, Seek, SeekFrom};
use std::process::Stdio;

use pontoon_fleet::{Code, Refusal};
use tokio::process::Command;

use crate::cut::{self, Cut};
use crate::find;
use crate::node::{DatabaseNode, Run};

/// How much of the end of an error log is read.
const LOG_BYTES: u64 = 1 << 20;

/// Checks that nothing was committed in the engine of what was cut off; the database runs. Fine when nothing was cut
/// since this was last asked. Repeatable.
pub(crate) async fn check(node: &DatabaseNode) -> Result<(), Refusal> {
    let Some(cut) = cut::unproved(node)? else {
        return Ok(());
    };
    if node.is_mariadb() {
        let Some(pid) = find::server_in(&node.datadir) else {
            return Err(Refusal::new(
                Code::N003,
                "what the database found is known after it has started",
            ));
        };
        let log = error_log(node, pid).await;
        judge(&log, pid, &cut).map_err(|why| {
            Refusal::new(
                Code::D011,
                "transactions that were cut off the binary log may be committed",
            )
            .because(format!(
                "{} was cut at {}: {} transactions",
                cut.file, cut.position, cut.transactions
            ))
            .because(why)
            .because(format!("they are kept in {}", cut.kept.display()))
            .next(
                "make a new copy; the present data is kept under another name",
                "pontoon db reseed",
            )
        })?;
    }
    cut::forget(node)
}

/// Whether the log proves it.
fn judge(log: &str, pid: u32, cut: &Cut) -> Result<(), String> {
    let of_this_start = log
        .rfind(&format!("as process {pid}"))
        .map_or("", |at| log.get(at..).unwrap_or_default());
    // Each start begins another file: whichever start says this one recovered from it.
    let furthest = positions(log)
        .filter(|(file, _)| *file == cut.file)
        .map(|(_, position)| position)
        .max();
    let prepared = of_this_start
        .split("Found ")
        .skip(1)
        .filter_map(|rest| rest.split_once(" prepared transaction"))
        .filter_map(|(number, _)| number.parse::<u64>().ok())
        .max();
    match furthest {
        Some(position) if position > cut.position => Err(format!(
            "InnoDB says that it committed up to {position} of {}",
            cut.file
        )),
        Some(_) => Ok(()),
        // They commit in the order of the binary log: when as many are prepared as were cut off, none is committed.
        None if prepared.is_some_and(|prepared| prepared >= cut.transactions) => Ok(()),
        None if positions(of_this_start).next().is_some() => Ok(()),
        None => Err("the error log does not say how far InnoDB had committed".to_owned()),
    }
}

/// `InnoDB: Last binlog file './pontoon-bin.000003', position 926`.
fn positions(log: &str) -> impl Iterator<Item = (&str, u64)> {
    log.split("Last binlog file '").skip(1).filter_map(|rest| {
        let (path, rest) = rest.split_once('\'')?;
        let digits = rest.strip_prefix(", position ")?;
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let file = path.rsplit('/').next()?;
        Some((file, digits.get(..end)?.parse().ok()?))
    })
}

/// The end of what the process writes its errors to: a file, or what systemd collects.
async fn error_log(node: &DatabaseNode, pid: u32) -> String {
    let written = || -> io::Result<String> {
        let mut file = std::fs::File::open(format!("/proc/{pid}/fd/2"))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(String::new());
        }
        file.seek(SeekFrom::Start(metadata.len().saturating_sub(LOG_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match written() {
        Ok(text) if !text.is_empty() => return text,
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "the database's error log cannot be read"),
    }
    let Run::Systemd { unit, .. } = &node.run else {
        return String::new();
    };
    let output = Command::new("journalctl")
        .args(["-q", "-n", "2000", "-o", "cat", "-u", unit])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut() -> Cut {
        Cut {
            file: "pontoon-bin.000003".to_owned(),
            position: 1000,
            transactions: 3,
            first: "0-1-8".to_owned(),
            last: "0-1-10".to_owned(),
            kept: "/x".into(),
        }
    }

    #[test]
    fn only_what_the_log_proves_is_believed() {
        let start = "[Note] Starting MariaDB 10.11.19 source revision x as process 42\n";
        let says = |text: &str| judge(&format!("{start}{text}"), 42, &cut());
        let line = |file: &str, position: u64| {
            format!("[Note] InnoDB: Last binlog file './{file}', position {position}\n")
        };
        says(&line("pontoon-bin.000003", 1000)).unwrap();
        says(&line("pontoon-bin.000002", 99_999)).unwrap();
        says("[Note] Found 3 prepared transaction(s) in InnoDB\n").unwrap();
        for bad in [
            String::new(),
            line("pontoon-bin.000003", 1001),
            line("pontoon-bin.000003", 900) + &line("pontoon-bin.000003", 1001),
            "[Note] Found 2 prepared transaction(s) in InnoDB\n".to_owned(),
        ] {
            assert!(says(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_older_start_proves_only_what_names_the_file() {
        let log = "as process 41\nFound 9 prepared transaction(s)\nLast binlog file './pontoon-bin.000002', position 5\n\
                   as process 42\n";
        assert!(judge(log, 42, &cut()).is_err());
        let log = format!("Last binlog file '/x/pontoon-bin.000003', position 900\n{log}");
        judge(&log, 42, &cut()).unwrap();
        assert!(judge("", 42, &cut()).is_err());
    }
}
