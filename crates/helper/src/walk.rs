//! Goes through a file of the binary log on the disk: its whole transactions, one after the other. A torn end, as a crash
//! leaves it, is the file's end.

use std::io::{self, BufReader, Read};
use std::path::Path;

use pontoon_fleet::Refusal;
use pontoon_gtid::Dialect;
use pontoon_gtid::binlog::{HEADER_BYTES, Header, Transaction, Walk};
use pontoon_rt::files::FileError;

use crate::foreign;

/// Calls `each` with every transaction whose end is there. What makes no sense becomes `odd`'s refusal.
pub(crate) fn each(
    path: &Path,
    dialect: Dialect,
    odd: fn(&Path, String) -> Refusal,
    each: &mut dyn FnMut(Transaction) -> Result<(), Refusal>,
) -> Result<Walk, Refusal> {
    let Some((file, metadata)) = foreign::open(path)? else {
        return Err(odd(path, "it is in the index and not there".to_owned()));
    };
    let length = metadata.len();
    let broken = |error: io::Error| Refusal::from(FileError::new(path, "read", error));
    let senseless = |error: pontoon_gtid::binlog::BinlogError| odd(path, error.to_string());
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut magic = [0; 4];
    if length < 4 {
        return Err(odd(
            path,
            "it is empty: what the new primary lacks may be in the file before".to_owned(),
        ));
    }
    file.read_exact(&mut magic).map_err(broken)?;
    let mut walk = Walk::new(dialect, magic).map_err(senseless)?;
    while walk.at() < length {
        let mut bytes = [0; HEADER_BYTES];
        let left = length - walk.at();
        if left < HEADER_BYTES as u64 {
            break;
        }
        file.read_exact(&mut bytes).map_err(broken)?;
        let header = Header::parse(&bytes).filter(|_| bytes[4] != 0);
        let Some(header) = header else {
            // What was not on the disk yet when the power went.
            if bytes == [0; HEADER_BYTES] && only_zeros(&mut file).map_err(broken)? {
                break;
            }
            return Err(odd(path, format!("what is at {} is no event", walk.at())));
        };
        if header.event_bytes() > left {
            break;
        }
        let wants = walk.wants(&header).map_err(senseless)?;
        let mut body = vec![0; wants];
        file.read_exact(&mut body).map_err(broken)?;
        let skip = i64::try_from(header.body_bytes() - wants).unwrap_or(i64::MAX);
        file.seek_relative(skip).map_err(broken)?;
        if let Some(transaction) = walk.event(&header, &body).map_err(senseless)? {
            each(transaction)?;
        }
    }
    Ok(walk)
}

fn only_zeros(file: &mut impl Read) -> io::Result<bool> {
    let mut bytes = [0; 4096];
    loop {
        let count = file.read(&mut bytes)?;
        if count == 0 {
            return Ok(true);
        }
        if bytes[..count].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
}
