//! The joiner's side of a copy: frames in, files out, prepared, and only then marked as complete.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use pontoon_fleet::{Code, Refusal};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::backup::{Spool, hex, listen, tool_missing};
use crate::dirs;
use crate::foreign;
use crate::frame::{self, Frame};
use crate::node::DatabaseNode;
use crate::unit::User;

/// Takes the stream and leaves a prepared copy at the node's incoming directory. Returns its GTID position.
pub(crate) async fn receive<R: AsyncRead + Unpin>(
    node: &DatabaseNode,
    data: &Path,
    from: &mut R,
) -> Result<String, Refusal> {
    let user = User::of(node)?;
    std::fs::create_dir(data).map_err(|error| pontoon_rt::files::FileError::new(data, "create", error))?;
    // The directory above is the database's already.
    foreign::give_directory(data, (user.uid, user.gid), 0o700)?;
    extract(&user, data, from).await?;
    prepare(&user, data).await?;
    let position = read_position(data)?;
    dirs::seal(node, &position)?;
    Ok(position)
}

/// Checks that what the tools need is there, before anything moves over the network.
pub(crate) async fn check_tools() -> Result<(), Refusal> {
    for (tool, argument) in [("mbstream", "--help"), ("mariadb-backup", "--version")] {
        Command::new(tool)
            .arg(argument)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await
            .map_err(|error| tool_missing(tool, &error))?;
    }
    Ok(())
}

async fn extract<R: AsyncRead + Unpin>(user: &User, data: &Path, from: &mut R) -> Result<(), Refusal> {
    let mut command = Command::new("mbstream");
    command
        .arg("-x")
        .arg("-C")
        .arg(data)
        .current_dir(data)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    user.run_as(&mut command);
    let mut child = command
        .spawn()
        .map_err(|error| tool_missing("mbstream", &error))?;
    let failed = |why: &str| Refusal::new(Code::D003, "the copy of the database failed").because(why);
    let mut input = child
        .stdin
        .take()
        .ok_or_else(|| failed("mbstream has no input"))?;
    let errors = child
        .stderr
        .take()
        .ok_or_else(|| failed("mbstream has no messages"))?;
    let words = tokio::spawn(listen(BufReader::new(errors), Arc::new(Spool::default())));

    let (mut digest, mut bytes) = (Sha256::new(), 0u64);
    let end = loop {
        match frame::read(from).await {
            Ok(Frame::Data(chunk)) => {
                digest.update(&chunk);
                bytes += chunk.len() as u64;
                if let Err(error) = input.write_all(&chunk).await {
                    // It ended early, for a reason of its own: a full disk, most likely.
                    drop(input);
                    let mut refusal = failed(&format!("the files cannot be written: {error}"));
                    let _ = child.wait().await;
                    refusal.evidence.extend(words.await.unwrap_or_default().last);
                    return Err(refusal);
                }
            }
            Ok(Frame::Progress(_)) => {}
            Ok(Frame::Failed(refusal)) => return Err(refusal),
            Ok(Frame::End(end)) => break end,
            Err(error) => {
                return Err(
                    failed("the stream ended before the source said that it was complete")
                        .because(format!("after {bytes} bytes: {error}")),
                );
            }
        }
    };
    drop(input);
    let status = child.wait().await.map_err(|error| failed(&error.to_string()))?;
    let words = words.await.unwrap_or_default();
    if !status.success() {
        let mut refusal = failed(&format!("mbstream: {status}"));
        refusal.evidence.extend(words.last);
        return Err(refusal);
    }
    if end.bytes != bytes || end.sha256 != hex(&digest.finalize()) {
        return Err(failed("what arrived is not what was sent").because(format!(
            "{bytes} bytes arrived, {} were sent; or their digests differ",
            end.bytes
        )));
    }
    Ok(())
}

async fn prepare(user: &User, data: &Path) -> Result<(), Refusal> {
    let mut command = Command::new("mariadb-backup");
    command
        .args(["--no-defaults", "--prepare"])
        .arg(format!("--target-dir={}", data.display()))
        // Not /tmp: the tool starts a server inside, and a starting MariaDB removes #sql files of others from there.
        .arg(format!("--tmpdir={}", data.display()))
        .current_dir(data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    user.run_as(&mut command);
    let mut child = command
        .spawn()
        .map_err(|error| tool_missing("mariadb-backup", &error))?;
    let failed = |why: String| Refusal::new(Code::D003, "the copy could not be prepared").because(why);
    let errors = child
        .stderr
        .take()
        .ok_or_else(|| failed("it has no messages".to_owned()))?;
    let words = listen(BufReader::new(errors), Arc::new(Spool::default())).await;
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    if status.success() && words.completed {
        return Ok(());
    }
    let mut refusal = failed(status.to_string());
    refusal.evidence.extend(words.last);
    Err(refusal)
}

/// The position that the tool noted: `FILE<tab>POSITION<tab>GTID`. The file's name changed with MariaDB 11.1.
fn read_position(data: &Path) -> Result<String, Refusal> {
    for name in ["mariadb_backup_binlog_info", "xtrabackup_binlog_info"] {
        if let Some((bytes, _)) = foreign::read(&data.join(name), 1 << 20)? {
            return parse_position(&String::from_utf8_lossy(&bytes)).ok_or_else(|| {
                Refusal::new(Code::D003, "the copy does not say its position")
                    .because(format!("{name}: {:?}", String::from_utf8_lossy(&bytes)))
            });
        }
    }
    Err(Refusal::new(Code::D003, "the copy does not say its position")
        .because("mariadb_backup_binlog_info is not there: is the source's binary log on?"))
}

fn parse_position(text: &str) -> Option<String> {
    let mut fields = text.trim_end_matches('\n').split('\t');
    fields.next().filter(|file| !file.is_empty())?;
    fields.next()?.parse::<u64>().ok()?;
    // A list goes over several lines. Empty: nothing was written since the binary log began.
    let position: String = fields.next().unwrap_or_default().split_whitespace().collect();
    position
        .chars()
        .all(|c| c.is_ascii_digit() || c == '-' || c == ',')
        .then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_position_is_read_and_nonsense_is_not() {
        assert_eq!(parse_position("bin.000002\t392\t0-1-7\n").unwrap(), "0-1-7");
        assert_eq!(
            parse_position("bin.000002\t392\t0-1-7,1-2-\n3").unwrap(),
            "0-1-7,1-2-3"
        );
        assert_eq!(parse_position("bin.000002\t392\t\n").unwrap(), "");
        assert_eq!(parse_position("bin.000002\t392").unwrap(), "");
        for bad in ["", "bin", "bin\tx\t0-1-7", "bin\t1\t0-1-7'; DROP", "\t1\t0-1-7"] {
            assert_eq!(parse_position(bad), None, "{bad:?}");
        }
    }
}
