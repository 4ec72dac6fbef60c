//! The files of the binary log, for the archive: which there are, and their bytes. Reads only, and only what the index
//! names.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use pontoon_fleet::{Code, Refusal};
use pontoon_rt::files::FileError;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use crate::frame::{self, End, Frame};
use crate::node::DatabaseNode;
use crate::protocol::BinlogFile;
use crate::{find, foreign, unit};

/// The largest index.
const INDEX_BYTES: u64 = 16 << 20;

/// How much is read at once; also the payload of a frame.
const CHUNK: usize = 256 * 1024;

/// The most that one call reads.
const MOST: u64 = 64 << 20;

/// Where the running server's binary log is: asking its program takes a part of a second, and the answer holds as long
/// as its process lives.
#[derive(Default)]
pub(crate) struct Base(Mutex<Option<(Option<u32>, PathBuf)>>);

impl Base {
    pub(crate) async fn of(&self, node: &DatabaseNode) -> Result<PathBuf, Refusal> {
        let pid = find::server_in(&node.datadir);
        let mut known = self.0.lock().await;
        if let Some((of, base)) = known.as_ref()
            && *of == pid
        {
            return Ok(base.clone());
        }
        let base = unit::binlog_base(node).await?.ok_or_else(|| {
            Refusal::new(Code::N003, "it cannot be told where the binary log is")
                .because(format!("{} does not say it", node.program.join(" ")))
        })?;
        *known = Some((pid, base.clone()));
        Ok(base)
    }
}

/// The files that the index names and that are there, oldest first.
pub(crate) async fn list(node: &DatabaseNode, base: &Base) -> Result<Vec<BinlogFile>, Refusal> {
    let mut files = Vec::new();
    for path in index(&base.of(node).await?)? {
        // One that was purged since the index was read is not there.
        if let Some((_, metadata)) = foreign::open(&path)? {
            files.push(BinlogFile {
                name: name(&path),
                bytes: metadata.len(),
            });
        }
    }
    Ok(files)
}

/// Opens the file of that name, if the index names it.
pub(crate) async fn open(node: &DatabaseNode, base: &Base, file: &str) -> Result<File, Refusal> {
    let base = base.of(node).await?;
    let missing = || {
        Refusal::new(Code::N006, format!("the binary log has no file {file:?}")).because(format!(
            "{}.index does not name it, or it is gone",
            base.display()
        ))
    };
    let path = index(&base)?
        .into_iter()
        .find(|path| name(path) == file)
        .ok_or_else(missing)?;
    foreign::open(&path)?.map(|(file, _)| file).ok_or_else(missing)
}

/// Sends a part of it as frames.
pub(crate) async fn send<W: AsyncWrite + Unpin>(
    mut file: File,
    from: u64,
    most: u64,
    to: &mut W,
) -> io::Result<()> {
    let mut bytes = 0;
    let read = |file: &mut File, limit: u64| -> io::Result<Vec<u8>> {
        let mut chunk = Vec::with_capacity(CHUNK);
        file.take(limit).read_to_end(&mut chunk)?;
        Ok(chunk)
    };
    let most = most.min(MOST);
    let mut outcome = file.seek(SeekFrom::Start(from)).map(drop);
    while outcome.is_ok() && bytes < most {
        match read(&mut file, (CHUNK as u64).min(most - bytes)) {
            Ok(chunk) if chunk.is_empty() => break,
            Ok(chunk) => {
                bytes += chunk.len() as u64;
                frame::write_data(to, &chunk).await?;
            }
            Err(error) => outcome = Err(error),
        }
    }
    let last = match outcome {
        Ok(()) => Frame::End(End {
            bytes,
            sha256: String::new(),
            position: None,
        }),
        Err(error) => Frame::Failed(
            Refusal::new(Code::N006, "the binary log cannot be read").because(error.to_string()),
        ),
    };
    frame::write(to, &last).await?;
    to.flush().await
}

/// The paths that the index of the log at `base` names, below the directory of `base`.
pub(crate) fn index(base: &std::path::Path) -> Result<Vec<PathBuf>, Refusal> {
    let (Some(dir), Some(stem)) = (base.parent(), base.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let path = dir.join(format!("{stem}.index"));
    let Some((bytes, _)) = foreign::read(&path, INDEX_BYTES)? else {
        return Ok(Vec::new());
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| FileError::new(&path, "read", io::Error::other("it is not text")))?;
    let is_ours = |name: &str| {
        name.strip_prefix(stem)
            .and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    Ok(text
        .lines()
        .map(|line| name(std::path::Path::new(line.trim())))
        .filter(|name| is_ours(name))
        .map(|name| dir.join(name))
        .collect())
}

fn name(path: &std::path::Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_log_are_named_wherever_the_index_says_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("bin");
        assert_eq!(index(&base).unwrap(), Vec::<PathBuf>::new());
        std::fs::write(
            dir.path().join("bin.index"),
            "./bin.000001\n/etc/bin.000002\n../../etc/shadow\nbin.\nbin.00000x\n\nother.000003\n",
        )
        .unwrap();
        let names: Vec<_> = index(&base).unwrap();
        assert_eq!(
            names,
            [dir.path().join("bin.000001"), dir.path().join("bin.000002")]
        );
    }

    #[tokio::test]
    async fn a_part_of_a_file_comes_and_says_how_long_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bin.000001");
        std::fs::write(&path, vec![7; CHUNK + 10]).unwrap();
        for (from, most, expected) in [(0, 1 << 30, CHUNK + 10), (5, 3, 3), (CHUNK as u64 + 10, 9, 0)] {
            let mut wire = Vec::new();
            send(File::open(&path).unwrap(), from, most, &mut wire)
                .await
                .unwrap();
            let (mut reader, mut bytes) = (wire.as_slice(), 0);
            loop {
                match frame::read(&mut reader).await.unwrap() {
                    Frame::Data(more) => bytes += more.len(),
                    Frame::End(end) => {
                        assert_eq!(end.bytes, bytes as u64);
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(bytes, expected);
        }
    }
}
