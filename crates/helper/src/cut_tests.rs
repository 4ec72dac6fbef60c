//! Files written here, by a small writer of binary logs.

use super::*;
use crate::testing::process_node;

const FORMAT: u8 = 15;

fn event(kind: u8, server: u32, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 0, kind];
    bytes.extend(server.to_le_bytes());
    bytes.extend(u32::try_from(19 + body.len() + 4).unwrap().to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(flags.to_le_bytes());
    bytes.extend(body);
    bytes.extend([0xcc; 4]);
    bytes
}

pub(crate) fn begin(in_use: bool, before: &[(u32, u64)]) -> Vec<u8> {
    let mut format = vec![4, 0];
    format.extend([b'x'; 54]);
    format.push(19);
    format.extend([8; 30]);
    format.push(1);
    let mut list = u32::try_from(before.len()).unwrap().to_le_bytes().to_vec();
    for (server, sequence) in before {
        list.extend(0u32.to_le_bytes());
        list.extend(server.to_le_bytes());
        list.extend(sequence.to_le_bytes());
    }
    let mut bytes = b"\xfebin".to_vec();
    bytes.extend(event(FORMAT, 1, u16::from(in_use), &format));
    bytes.extend(event(163, 1, 0, &list));
    bytes
}

pub(crate) fn transaction(server: u32, sequence: u64, flags: u8) -> Vec<u8> {
    let mut body = sequence.to_le_bytes().to_vec();
    body.extend(0u32.to_le_bytes());
    body.push(flags);
    body.extend([0; 6]);
    let mut bytes = event(162, server, 8, &body);
    bytes.extend(event(30, server, 0, &[7; 50]));
    bytes.extend(event(16, server, 0, &[0; 8]));
    bytes
}

pub(crate) const ROWS: u8 = 0x0c;

pub(crate) struct Logs {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) node: DatabaseNode,
}

impl Logs {
    pub(crate) fn of(files: &[Vec<u8>]) -> Logs {
        let dir = tempfile::tempdir().unwrap();
        let node = process_node(dir.path(), &[]);
        std::fs::create_dir_all(&node.datadir).unwrap();
        std::fs::create_dir_all(&node.files).unwrap();
        let mut index = String::new();
        for (at, bytes) in files.iter().enumerate() {
            let name = format!("bin.{:06}", at + 1);
            index.push_str(&format!("./{name}\n"));
            std::fs::write(node.datadir.join(name), bytes).unwrap();
        }
        std::fs::write(node.datadir.join("bin.index"), index).unwrap();
        Logs { dir, node }
    }

    fn cut(&self, keep: &str) -> Result<Option<Cut>, Refusal> {
        let keep = History::parse(Dialect::MariaDb, keep).unwrap();
        cut(
            &self.node,
            &self.node.datadir.join("bin"),
            &keep,
            &"b".parse().unwrap(),
        )
    }

    fn bytes(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.node.datadir.join(file)).unwrap()
    }
}

#[test]
fn what_the_new_primary_lacks_is_cut_off_and_kept_readable() {
    let head = begin(true, &[(1, 7)]);
    let file = [
        head.clone(),
        transaction(1, 8, ROWS),
        transaction(1, 9, ROWS),
        transaction(1, 10, ROWS),
    ]
    .concat();
    let logs = Logs::of(&[begin(false, &[]), file.clone()]);
    let cut = logs.cut("0-1-8,0-2-9").unwrap().unwrap();
    let position = head.len() + transaction(1, 8, ROWS).len();
    assert_eq!(
        (cut.file.as_str(), cut.position, cut.transactions),
        ("bin.000002", position as u64, 2)
    );
    assert_eq!((cut.first.as_str(), cut.last.as_str()), ("0-1-9", "0-1-10"));
    assert_eq!(logs.bytes("bin.000002"), file[..position]);
    let kept = std::fs::read(&cut.kept).unwrap();
    assert_eq!(kept, [&head[..], &file[position..]].concat());
    let name = cut.kept.file_name().unwrap().to_str().unwrap();
    assert!(
        name.starts_with("bin.000002.pontoon-cut-") && name.contains("not-on-b"),
        "{name}"
    );
    assert_eq!(unproved(&logs.node).unwrap(), Some(cut));

    // Again: there is nothing left to cut, and the question what the engine has is still open.
    assert_eq!(logs.cut("0-1-8,0-2-9").unwrap(), None);
    assert!(unproved(&logs.node).unwrap().is_some());
    forget(&logs.node).unwrap();
    assert_eq!(unproved(&logs.node).unwrap(), None);
}

#[test]
fn a_log_without_a_tail_is_left_alone() {
    let file = [begin(true, &[]), transaction(1, 1, ROWS)].concat();
    let logs = Logs::of(std::slice::from_ref(&file));
    assert_eq!(logs.cut("0-1-5").unwrap(), None);
    assert_eq!(logs.bytes("bin.000001"), file);
    // Closed in good order, and the new primary has everything.
    let logs = Logs::of(&[[begin(false, &[]), transaction(1, 1, ROWS)].concat()]);
    assert_eq!(logs.cut("0-1-1").unwrap(), None);
    // No binary log at all.
    std::fs::remove_file(logs.node.datadir.join("bin.index")).unwrap();
    assert_eq!(logs.cut("").unwrap(), None);
    assert!(logs.dir.path().exists());
}

#[test]
fn a_torn_end_goes_with_the_tail() {
    let whole = [
        begin(true, &[]),
        transaction(1, 1, ROWS),
        transaction(1, 2, ROWS),
        transaction(1, 3, ROWS),
    ]
    .concat();
    let position = begin(true, &[]).len() + transaction(1, 1, ROWS).len();
    for (short, zeros) in [(1, 0), (30, 0), (60, 0), (10, 500), (0, 4096)] {
        let mut bytes = whole[..whole.len() - short].to_vec();
        if zeros > 0 {
            bytes.truncate(position + transaction(1, 2, ROWS).len());
            bytes.resize(bytes.len() + zeros, 0);
        }
        let logs = Logs::of(&[bytes]);
        let cut = logs.cut("0-1-1").unwrap().unwrap();
        assert_eq!(cut.position, position as u64, "{short} {zeros}");
        assert_eq!(logs.bytes("bin.000001").len(), position);
    }
    // Torn in what nobody has: the server's own recovery takes care of it.
    let logs = Logs::of(&[whole[..whole.len() - 5].to_vec()]);
    assert_eq!(logs.cut("0-1-2").unwrap(), None);
}

#[test]
fn what_is_not_certain_is_refused_and_changes_nothing() {
    let rows = |sequence| transaction(1, sequence, ROWS);
    let mut noise = [begin(true, &[]), rows(1)].concat();
    noise.extend([9; 9]);
    noise.extend([0; 91]);
    let mut encrypted = begin(true, &[]);
    encrypted.extend(event(164, 1, 0, &[0; 17]));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "in good order",
            [begin(false, &[]), rows(1), rows(2)].concat(),
            "0-1-1",
        ),
        (
            "rolled back",
            [begin(true, &[]), rows(1), transaction(1, 2, 0x2c)].concat(),
            "0-1-1",
        ),
        (
            "XA",
            [begin(true, &[]), rows(1), transaction(1, 2, 0x4c)].concat(),
            "0-1-1",
        ),
        (
            "not transactional",
            [begin(true, &[]), rows(1), transaction(1, 2, 0)].concat(),
            "0-1-1",
        ),
        (
            "earlier file",
            [begin(true, &[(1, 3)]), rows(4)].concat(),
            "0-1-2",
        ),
        ("no event", noise, "0-1-1"),
        ("encrypted", encrypted, "0-1-1"),
        ("encrypted", b"\xfdbinxxxxxxxxxxxxxxxxxx".to_vec(), "0-1-1"),
        ("empty", Vec::new(), "0-1-1"),
        ("before it says", begin(true, &[])[..80].to_vec(), "0-1-1"),
        (
            "lacks 0-1-1 and has 0-2-2",
            [begin(true, &[]), rows(1), transaction(2, 2, ROWS)].concat(),
            "0-2-9",
        ),
    ];
    for (why, bytes, keep) in cases {
        let logs = Logs::of(std::slice::from_ref(&bytes));
        let refusal = logs.cut(keep).unwrap_err();
        assert_eq!(refusal.code, Code::D011, "{why}");
        assert!(
            refusal.evidence.iter().any(|line| line.contains(why)),
            "{why}: {refusal}"
        );
        assert_eq!(logs.bytes("bin.000001"), bytes, "{why}");
        assert_eq!(unproved(&logs.node).unwrap(), None, "{why}");
    }
}

#[test]
fn an_index_that_does_not_end_with_the_last_file_is_refused() {
    let file = [begin(true, &[]), transaction(1, 1, ROWS)].concat();
    let logs = Logs::of(&[file.clone(), file]);
    std::fs::write(logs.node.datadir.join("bin.index"), "./bin.000001\n").unwrap();
    let refusal = logs.cut("").unwrap_err();
    assert!(refusal.evidence[0].contains("bin.000002"), "{refusal}");
    std::fs::write(logs.node.datadir.join("bin.index"), "./bin.000001\n../../etc/x\n").unwrap();
    assert_eq!(logs.cut("").unwrap_err().code, Code::D011);
    // A link in the place of a log is not followed.
    std::fs::write(logs.node.datadir.join("bin.index"), "./bin.000003\n").unwrap();
    std::os::unix::fs::symlink("bin.000002", logs.node.datadir.join("bin.000003")).unwrap();
    assert!(logs.cut("").is_err());
}
