//! Files written here, event by event, and what any bytes do.

use proptest::prelude::*;

use super::*;

const UUID: [u8; 16] = [
    0x52, 0xc7, 0x77, 0x11, 0xe6, 0xea, 0x11, 0xf1, 0x84, 0x69, 0x02, 0xfc, 0, 0, 0, 1,
];

/// An event with a checksum that nobody checks.
fn event(kind: u8, server: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.push(kind);
    bytes.extend(server.to_le_bytes());
    bytes.extend((u32::try_from(HEADER_BYTES + body.len() + 4).unwrap()).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(if kind == event::FORMAT_DESCRIPTION {
        [1, 0]
    } else {
        [0, 0]
    });
    bytes.extend(body);
    bytes.extend([0xcc; 4]);
    bytes
}

fn format() -> Vec<u8> {
    let mut body = vec![4, 0];
    body.extend([b'x'; 50]);
    body.extend([0; 4]);
    body.push(19);
    body.extend([8; 42]);
    body.push(1);
    event(event::FORMAT_DESCRIPTION, 1, &body)
}

fn query(text: &str) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend([3, 0, 0, 5, 0]);
    body.extend([9; 5]);
    body.extend(b"app\0");
    body.extend(text.bytes());
    event(event::QUERY, 1, &body)
}

fn mysql_gtid(number: u64) -> Vec<u8> {
    let mut body = vec![0];
    body.extend(UUID);
    body.extend(number.to_le_bytes());
    body.extend([0; 20]);
    event(event::MYSQL_GTID, 1, &body)
}

fn mariadb_gtid(server: u32, sequence: u64, flags: u8) -> Vec<u8> {
    let mut body = sequence.to_le_bytes().to_vec();
    body.extend(0u32.to_le_bytes());
    body.push(flags);
    body.extend([0; 6]);
    event(event::MARIADB_GTID, server, &body)
}

fn rows() -> Vec<u8> {
    event(30, 1, &[1; 40])
}

fn xid() -> Vec<u8> {
    event(event::XID, 1, &[0; 8])
}

fn file(events: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(format());
    bytes.extend(events.concat());
    bytes
}

/// Reads a whole file; the walk is where it ended, and a file that ends inside an event ends before it.
fn read(dialect: Dialect, bytes: &[u8]) -> Result<(Vec<Transaction>, Walk), BinlogError> {
    let magic = bytes.get(..4).and_then(|magic| magic.try_into().ok());
    let mut walk = Walk::new(dialect, magic.ok_or(BinlogError::NotABinlog)?)?;
    let mut found = Vec::new();
    loop {
        let at = usize::try_from(walk.at()).unwrap();
        let Some(header) = bytes.get(at..at + HEADER_BYTES) else {
            return Ok((found, walk));
        };
        let header = Header::parse(header.try_into().unwrap()).ok_or(BinlogError::Malformed {
            at: walk.at(),
            what: "length",
        })?;
        let wants = walk.wants(&header)?;
        let begin = at + HEADER_BYTES;
        if begin + header.body_bytes() > bytes.len() {
            return Ok((found, walk));
        }
        found.extend(walk.event(&header, &bytes[begin..begin + wants])?);
    }
}

fn names(found: &[Transaction]) -> Vec<String> {
    found
        .iter()
        .map(|one| format!("{} {}", one.gtid, one.stays.unwrap_or("-")))
        .collect()
}

#[test]
fn transactions_of_mysql_are_found_and_said_what_they_are() {
    let begin = || query("BEGIN");
    let bytes = file(&[
        mysql_gtid(1),
        query("CREATE TABLE t (id INT)"),
        mysql_gtid(2),
        begin(),
        rows(),
        query("SAVEPOINT `a`"),
        rows(),
        xid(),
        mysql_gtid(3),
        begin(),
        rows(),
        query("COMMIT"),
        mysql_gtid(4),
        query("XA START X'61',X'',1"),
        rows(),
        query("XA END X'61',X'',1"),
        event(event::XA_PREPARE, 1, &[0; 14]),
        mysql_gtid(5),
        query("XA COMMIT X'61',X'',1"),
        mysql_gtid(6),
        event(event::TRANSACTION_PAYLOAD, 1, &[7; 30]),
        mysql_gtid(7),
        begin(),
        query("CREATE TABLE t2 SELECT 1"),
        rows(),
        xid(),
        mysql_gtid(8),
        begin(),
        rows(),
        xid(),
        event(event::ROTATE, 1, b"12345678next"),
    ]);
    let (found, walk) = read(Dialect::MySql, &bytes).unwrap();
    let uuid = "52c77711-e6ea-11f1-8469-02fc00000001";
    let expected: Vec<String> = [
        "it holds a statement instead of rows",
        "-",
        "it wrote to a table that is not transactional",
        "it is prepared by XA",
        "it is a part of an XA transaction",
        "it is compressed as a whole, and what is in it cannot be seen",
        "it holds a statement instead of rows",
        "-",
    ]
    .iter()
    .enumerate()
    .map(|(at, why)| format!("{uuid}:{} {why}", at + 1))
    .collect();
    assert_eq!(names(&found), expected);
    assert_eq!(walk.at() as usize, bytes.len());
    assert_eq!((walk.in_use(), walk.incomplete()), (Some(true), None));
    // One ends where the next begins.
    assert!(found.windows(2).all(|pair| pair[0].end == pair[1].begin));
}

#[test]
fn transactions_of_mariadb_are_found_and_said_what_they_are() {
    let mut list = 2u32.to_le_bytes().to_vec();
    for (server, sequence) in [(3u32, 90u64), (7, 100)] {
        list.extend(0u32.to_le_bytes());
        list.extend(server.to_le_bytes());
        list.extend(sequence.to_le_bytes());
    }
    let bytes = file(&[
        event(event::MARIADB_GTID_LIST, 7, &list),
        event(event::MARIADB_CHECKPOINT, 7, &[0; 20]),
        mariadb_gtid(7, 101, 0x29),
        query("CREATE TABLE t (id INT)"),
        mariadb_gtid(7, 102, 0x0c),
        event(event::MARIADB_ANNOTATE_ROWS, 7, b"INSERT"),
        rows(),
        xid(),
        mariadb_gtid(7, 103, 0x00),
        rows(),
        query("COMMIT"),
        mariadb_gtid(7, 104, 0x4c),
        rows(),
        query("XA END X'61',X'',1"),
        event(event::XA_PREPARE, 7, &[0; 14]),
        mariadb_gtid(7, 105, 0x8d),
        query("XA COMMIT X'61',X'',1"),
        mariadb_gtid(7, 106, 0x0c),
        rows(),
    ]);
    let (found, walk) = read(Dialect::MariaDb, &bytes).unwrap();
    assert_eq!(
        names(&found),
        [
            "0-7-101 it changes the schema or accounts",
            "0-7-102 -",
            "0-7-103 it wrote to a table that is not transactional",
            "0-7-104 it is prepared by XA",
            "0-7-105 it is a part of an XA transaction",
        ]
    );
    assert_eq!(
        walk.incomplete(),
        Some(found[4].end),
        "the sixth has begun and not ended"
    );
    assert_eq!(walk.before().unwrap().to_string(), "0-3-90,0-7-100");
}

#[test]
fn tagged_gtids_are_read_as_mysql_9_writes_them() {
    // Bytes of MySQL 9.7.4.
    let body = [
        0x02, 0x72, 0x00, 0x00, 0x00, 0x02, 0xa4, 0x1d, 0x03, 0xee, 0x22, 0x99, 0x03, 0xa9, 0x03, 0x22, 0xc5,
        0x03, 0x11, 0x02, 0xd2, 0x04, 0xf1, 0x03, 0, 0, 0, 0x02, 0x04, 0x08, 0x06, 0x0a, b'f', b'o', b'o',
        b'_', b'1', 0x08, 0x08, 0x0a, 0x10, 0x0c, 0x7f, 0xe0, 0xe7, 0x7f, 0xd3, 0xe8, 0x60, 0x06, 0x10, 0x29,
        0x04, 0x12, 0x83, 0x12, 0x0b,
    ];
    let mut previous = vec![1, 2, 0, 0, 0, 0, 0, 1];
    for (tag, last) in [(&b"\0"[..], 6u64), (b"\x0afoo_1", 2)] {
        previous.extend(UUID);
        previous.extend(tag);
        previous.extend(1u64.to_le_bytes());
        previous.extend(1u64.to_le_bytes());
        previous.extend((last + 1).to_le_bytes());
    }
    let bytes = file(&[
        event(event::PREVIOUS_GTIDS, 1, &previous),
        event(event::MYSQL_GTID_TAGGED, 1, &body),
        query("BEGIN"),
        xid(),
    ]);
    let (found, walk) = read(Dialect::MySql, &bytes).unwrap();
    assert_eq!(names(&found), ["52c77711-e6ea-11f1-8469-02fc00000001:foo_1:2 -"]);
    assert_eq!(
        walk.before().unwrap().to_string(),
        "52c77711-e6ea-11f1-8469-02fc00000001:1-6,52c77711-e6ea-11f1-8469-02fc00000001:foo_1:1-2"
    );
    let mut plain = 1u64.to_le_bytes().to_vec();
    plain.extend(UUID);
    plain.extend([1u64.to_le_bytes(), 5u64.to_le_bytes(), 9u64.to_le_bytes()].concat());
    let (_, walk) = read(Dialect::MySql, &file(&[event(event::PREVIOUS_GTIDS, 1, &plain)])).unwrap();
    assert_eq!(
        walk.before().unwrap().to_string(),
        "52c77711-e6ea-11f1-8469-02fc00000001:5-8"
    );
}

#[test]
fn what_cannot_be_read_is_said() {
    let error = |bytes: &[u8]| read(Dialect::MySql, bytes).unwrap_err();
    assert_eq!(error(b"\xfdbin-----"), BinlogError::Encrypted);
    assert_eq!(error(b"MZ\x90\x00"), BinlogError::NotABinlog);
    let encrypted = file(&[event(event::MARIADB_START_ENCRYPTION, 1, &[0; 17])]);
    assert_eq!(
        read(Dialect::MariaDb, &encrypted).unwrap_err(),
        BinlogError::Encrypted
    );
    let wrong = |events: &[Vec<u8>]| error(&file(events)).to_string();
    for (events, what) in [
        (vec![rows()], "no transaction"),
        (vec![mysql_gtid(1), mysql_gtid(2)], "inside another"),
        (vec![mysql_gtid(0)], "below 1"),
        (vec![mariadb_gtid(1, 1, 0)], "other engine"),
        (
            vec![mysql_gtid(1), event(event::ROTATE, 1, b"x")],
            "goes on inside",
        ),
        (
            vec![event(event::MYSQL_ANONYMOUS_GTID, 1, &[0; 40])],
            "without a GTID",
        ),
        (vec![event(event::MYSQL_GTID, 1, &[0; 3])], "too early"),
        (vec![event(event::PREVIOUS_GTIDS, 1, &[0xff; 8])], "too early"),
        (vec![format()], "second format"),
    ] {
        assert!(wrong(&events).contains(what), "{} {what}", wrong(&events));
    }
    let mut first = MAGIC.to_vec();
    first.extend(mysql_gtid(1));
    assert!(error(&first).to_string().contains("expected the format"));
}

proptest! {
    #[test]
    fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..600), mariadb: bool) {
        let dialect = if mariadb { Dialect::MariaDb } else { Dialect::MySql };
        let _ = read(dialect, &bytes);
        let mut after_format = file(&[]);
        after_format.extend(bytes);
        let _ = read(dialect, &after_format);
    }

    #[test]
    fn a_file_that_is_cut_or_damaged_never_gains_a_transaction(cut in 0usize..700, at in 0usize..700, byte: u8) {
        let whole = file(&[
            mysql_gtid(1), query("BEGIN"), rows(), xid(),
            mysql_gtid(2), query("BEGIN"), rows(), rows(), xid(),
        ]);
        let (all, _) = read(Dialect::MySql, &whole).unwrap();
        let short = &whole[..cut.min(whole.len())];
        if let Ok((found, walk)) = read(Dialect::MySql, short) {
            prop_assert!(all.starts_with(&found));
            prop_assert!(walk.at() as usize <= short.len().max(4));
        }
        let mut damaged = whole.clone();
        let at = at.min(whole.len() - 1);
        damaged[at] = byte;
        if let Ok((found, _)) = read(Dialect::MySql, &damaged) {
            prop_assert!(found.len() <= all.len());
        }
    }
}
