//! The archived transactions, applied by the engine's own tools: of each file the wanted ones are written into a binary
//! log of their own, which `mariadb-binlog` or `mysqlbinlog` reads and the server's client applies.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use pontoon_fleet::Refusal;
use pontoon_gtid::binlog::Feed;
use pontoon_rt::files::FileError;

use super::select::{Select, Verdict};
use super::server::Server;
use super::{Step, fetch};
use crate::archive::Index;
use crate::store::{Store, damaged};

pub(crate) async fn all(
    store: &Store,
    chain: &[&Index],
    server: &Server<'_>,
    place: &Path,
    select: &mut Select,
    report: &mut (dyn FnMut(Step) + Send),
) -> Result<(), Refusal> {
    let total: u64 = chain.iter().map(|index| index.bytes).sum();
    let mut done = 0;
    for index in chain {
        let is_in = select.here().reaches(&index.position(&index.after));
        if select.is_done() {
            break;
        }
        if !is_in {
            let (raw, chosen) = (place.join("archived"), place.join("chosen"));
            fetch::binlog(store, index, &raw).await?;
            let count = choose(index, &raw, &chosen, select)?;
            if count > 0 {
                server.apply(&chosen).await?;
            }
            for file in [raw, chosen] {
                std::fs::remove_file(&file).map_err(|error| FileError::new(&file, "remove", error))?;
            }
        }
        done += index.bytes;
        report(Step::Bytes(done, total));
    }
    Ok(())
}

/// Writes the wanted transactions of the file `raw` into `chosen`, behind the events that every reader needs first.
/// Returns how many those are.
fn choose(index: &Index, raw: &Path, chosen: &Path, select: &mut Select) -> Result<u64, Refusal> {
    let failed = |path: &Path, what: &'static str| {
        let path = path.to_owned();
        move |error: io::Error| Refusal::from(FileError::new(&path, what, error))
    };
    let mut file = BufReader::new(File::open(raw).map_err(failed(raw, "read"))?);
    let mut feed = Feed::new(index.dialect());
    let (mut ranges, mut count): (Vec<(u64, u64)>, u64) = (Vec::new(), 0);
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = file.read(&mut buffer).map_err(failed(raw, "read"))?;
        if read == 0 {
            break;
        }
        feed.take(&buffer[..read], &mut |committed| {
            if select.next(index.epoch, &committed) == Verdict::Take {
                let (begin, end) = (committed.transaction.begin, committed.transaction.end);
                count += 1;
                match ranges.last_mut() {
                    Some(last) if last.1 == begin => last.1 = end,
                    _ => ranges.push((begin, end)),
                }
            }
        })
        .map_err(|error| damaged(&index.object(), error))?;
    }
    ranges.insert(0, (0, feed.format_end()));
    let mut to = BufWriter::new(File::create(chosen).map_err(failed(chosen, "write"))?);
    for (begin, end) in ranges {
        file.seek(SeekFrom::Start(begin)).map_err(failed(raw, "read"))?;
        io::copy(&mut (&mut file).take(end - begin), &mut to).map_err(failed(chosen, "write"))?;
    }
    to.flush().map_err(failed(chosen, "write"))?;
    Ok(count)
}
