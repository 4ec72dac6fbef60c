//! Of many that miss at once one is told so, and the others get what it stores.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::{One, SOON, say, until};

const CLIENTS: usize = 12;

#[test]
fn one_client_fills_a_key_and_the_others_get_what_it_stored() {
    let Some(one) = One::start() else { return };
    let mut first = TcpStream::connect(one.proxy).unwrap();
    // Of other keys everybody hears at once that nothing is there.
    for _ in 0..2 {
        assert_eq!(say(&mut first, b"get other\r\n"), b"END\r\n");
    }
    assert_eq!(say(&mut first, b"get page:1\r\n"), b"END\r\n");
    let mut others: Vec<_> = (0..CLIENTS)
        .map(|_| TcpStream::connect(one.proxy).unwrap())
        .collect();
    for (index, other) in others.iter_mut().enumerate() {
        other.set_read_timeout(Some(SOON)).unwrap();
        // Half of them in the binary protocol.
        match index % 2 {
            0 => other.write_all(b"get page:1\r\n").unwrap(),
            _ => other.write_all(&binary_get(b"page:1")).unwrap(),
        }
    }
    until(|| waited(&mut first) == CLIENTS);
    assert_eq!(say(&mut first, b"set page:1 0 0 5\r\nhello\r\n"), b"STORED\r\n");
    let found = b"VALUE page:1 0 5\r\nhello\r\nEND\r\n";
    for (index, other) in others.iter_mut().enumerate() {
        match index % 2 {
            0 => assert_eq!(heard(other, found.len()), found),
            _ => assert!(heard(other, 33).ends_with(b"hello")),
        }
    }
}

#[test]
fn who_stores_nothing_new_wakes_the_others_too() {
    let Some(one) = One::start() else { return };
    let mut first = TcpStream::connect(one.proxy).unwrap();
    let mut second = TcpStream::connect(one.proxy).unwrap();
    assert_eq!(say(&mut first, b"get page:2\r\n"), b"END\r\n");
    second.write_all(b"get page:2 nothing\r\n").unwrap();
    until(|| waited(&mut first) == 1);
    assert_eq!(
        say(&mut first, b"replace page:2 0 0 1\r\nx\r\n"),
        b"NOT_STORED\r\n"
    );
    assert_eq!(heard(&mut second, 5), b"END\r\n");
}

#[test]
fn what_one_client_asks_at_once_is_done_in_its_order() {
    let Some(one) = One::start() else { return };
    let mut stream = TcpStream::connect(one.proxy).unwrap();
    stream
        .write_all(b"set page:3 0 0 1\r\n1\r\nget page:3\r\nset page:3 0 0 1\r\n2\r\nget page:3\r\ndelete page:3\r\n")
        .unwrap();
    let value = |value: u8| [b"VALUE page:3 0 1\r\n", &[value][..], b"\r\nEND\r\n"].concat();
    let stored = b"STORED\r\n".to_vec();
    let wanted = [&stored[..], &value(b'1'), &stored, &value(b'2'), b"DELETED\r\n"].concat();
    assert_eq!(heard(&mut stream, wanted.len()), wanted);
}

/// Reads that have waited so far.
fn waited(stream: &mut TcpStream) -> usize {
    let mut line = say(stream, b"stats proxy\r\n");
    let mut found = 0;
    while line != b"END\r\n" {
        let text = String::from_utf8_lossy(&line).into_owned();
        if let Some(number) = text.strip_prefix("STAT waited ") {
            found = number.trim().parse().unwrap();
        }
        line = say(stream, b"");
    }
    found
}

fn heard(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn binary_get(key: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 24];
    (packet[0], packet[3], packet[11]) = (0x80, key.len() as u8, key.len() as u8);
    packet.extend(key);
    packet
}
