//! Answers as servers give them, whole, in pieces and broken.

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

const ASK: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// What a connection makes of these answers, one for each request; they come in pieces of `piece` bytes.
async fn ask(answers: &[u8], piece: usize, times: usize) -> Vec<Result<(u16, bool), String>> {
    let (near, mut far) = duplex(1 << 20);
    let answers = answers.to_vec();
    let server = async move {
        let mut request = vec![0; ASK.len()];
        far.read_exact(&mut request).await.unwrap();
        for piece in answers.chunks(piece) {
            // A client that has heard enough has hung up.
            if far.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        // Whatever else is asked is not answered.
    };
    let client = async {
        let mut connection = Connection::new(Box::new(near));
        let mut seen = Vec::new();
        for _ in 0..times {
            let answer = connection.ask(ASK).await;
            seen.push(match answer {
                Ok((answer, keep)) => Ok((answer.status, keep)),
                Err(Fault::Stale) => Err("stale".to_owned()),
                Err(Fault::Broken(error)) => Err(error.to_string()),
            });
        }
        seen
    };
    tokio::join!(server, client).1
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn an_answer_is_read_to_its_end_in_pieces_of_any_size() {
    let answers: [(&[u8], (u16, bool)); 8] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", (200, true)),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
            (200, true),
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n0\r\nTrailer: x\r\n\r\n",
            (200, true),
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, true)),
        (
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 70\r\n\r\n",
            (304, true),
        ),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
            (503, true),
        ),
        (
            b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1\r\n\r\nx",
            (200, false),
        ),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil it is closed", (200, false)),
    ];
    for (bytes, expected) in answers {
        for piece in [1, 2, 7, 4096] {
            assert_eq!(
                block_on(ask(bytes, piece, 1)),
                [Ok(expected)],
                "{bytes:?} in pieces of {piece}"
            );
        }
    }
}

#[test]
fn what_is_no_answer_is_an_error_and_never_a_panic() {
    for (bytes, word) in [
        (&b"SSH-2.0-OpenSSH\r\n"[..], "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", "end of file"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "without a size",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "without an end",
        ),
        (b"", "end of file"),
    ] {
        let seen = block_on(ask(bytes, 4096, 1));
        assert!(
            seen[0].as_ref().unwrap_err().contains(word),
            "{bytes:?}: {seen:?}"
        );
    }
    let endless = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 70_000]].concat();
    assert!(
        block_on(ask(&endless, 4096, 1))[0]
            .as_ref()
            .unwrap_err()
            .contains("64 KiB")
    );
}

#[test]
fn a_kept_connection_that_was_closed_is_told_from_one_that_broke() {
    let seen = block_on(ask(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 4096, 2));
    assert_eq!(seen, [Ok((200, true)), Err("stale".to_owned())]);
}

#[test]
fn what_is_sent_has_the_fields_that_were_given() {
    let place = crate::Place::parse("http://198.51.100.1:81/a?b=c").unwrap();
    let fields = vec![
        ("accept".to_owned(), "text/html".to_owned()),
        ("X-A".to_owned(), "b".to_owned()),
    ];
    let target = block_on(crate::Target::find(place, fields, false, None)).unwrap();
    let text = String::from_utf8(request(&target)).unwrap();
    assert!(
        text.starts_with("GET /a?b=c HTTP/1.1\r\nHost: 198.51.100.1:81\r\nUser-Agent: pontoon-measure/"),
        "{text}"
    );
    assert!(text.ends_with("accept: text/html\r\nX-A: b\r\n\r\n"), "{text}");
    assert_eq!(text.to_lowercase().matches("accept:").count(), 1);
}
