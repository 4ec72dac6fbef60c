//! What real object stores do that their manuals do not say, played by a small server: ETags compared without quotes
//! (Ceph RGW 16), a success answered with 412, a success answered not at all, a clock that is far off.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is the report

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use common::record::record;
use pontoon_lease::{Kept, LeaseError, LeaseStore, S3Cell, S3Settings, Secret, Swap, Version};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quirk {
    /// `If-Match` is compared with the ETag without quotes.
    BareTags,
    /// Every second write succeeds and is answered with 412.
    RefusedAfterSuccess,
    /// Every second write succeeds and is not answered.
    SilentAfterSuccess,
    /// Signatures are refused.
    ClockFarOff,
}

/// Serves one object until the test ends.
fn serve(quirk: Quirk) -> Kept {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut object: Option<(Vec<u8>, u64)> = None;
        let mut writes = 0;
        while let Ok((stream, _)) = listener.accept() {
            answer(stream, quirk, &mut object, &mut writes);
        }
    });
    let secret = Secret::parse("access_key_id=a\nsecret_access_key=b\nregion=us-east-1").unwrap();
    let settings = S3Settings {
        bucket: "lease-test".into(),
        key: "lease".into(),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        secret: Some(secret),
        patience: Duration::from_millis(500),
    };
    Kept::new(Box::new(S3Cell::new(&settings).unwrap()))
}

fn answer(stream: TcpStream, quirk: Quirk, object: &mut Option<(Vec<u8>, u64)>, writes: &mut u64) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        head.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let length = header("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut stream = reader.into_inner();
    let mut say = |status: &str, tag: Option<u64>, body: &[u8]| {
        let tag =
            tag.map(|tag| format!("ETag: \"{tag}\"\r\nLast-Modified: Sun, 22 Nov 2026 00:00:00 GMT\r\n"));
        let head = format!(
            "HTTP/1.1 {status}\r\n{}Content-Length: {}\r\nConnection: close\r\n\r\n",
            tag.unwrap_or_default(),
            body.len()
        );
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body);
    };
    if quirk == Quirk::ClockFarOff {
        return say(
            "403 Forbidden",
            None,
            b"<Error><Code>RequestTimeTooSkewed</Code></Error>",
        );
    }
    if head.first().is_some_and(|line| line.starts_with("GET")) {
        return match object {
            Some((bytes, tag)) => say("200 OK", Some(*tag), bytes),
            None => say("404 Not Found", None, b"<Error><Code>NoSuchKey</Code></Error>"),
        };
    }
    let tag = object.as_ref().map(|(_, tag)| match quirk {
        Quirk::BareTags => tag.to_string(),
        _ => format!("\"{tag}\""),
    });
    if header("if-match") != tag || (header("if-none-match").is_some() && object.is_some()) {
        return say("412 Precondition Failed", None, b"");
    }
    *writes += 1;
    *object = Some((body, *writes));
    match quirk {
        Quirk::RefusedAfterSuccess if writes.is_multiple_of(2) => say("412 Precondition Failed", None, b""),
        Quirk::SilentAfterSuccess if writes.is_multiple_of(2) => {
            std::thread::park_timeout(Duration::from_millis(900))
        }
        _ => say("200 OK", Some(*writes), b""),
    }
}

async fn three_writes(store: &Kept) {
    let mut version: Option<Version> = None;
    for seq in 1..=3 {
        match store
            .compare_and_swap(version.as_ref(), &record(1, "a", seq))
            .await
            .unwrap()
        {
            Swap::Won(next) => version = Some(next),
            Swap::Lost(found) => panic!("write {seq} lost to {found:?}"),
        }
        assert_eq!(store.read().await.unwrap().unwrap().0, record(1, "a", seq));
    }
    let swap = store
        .compare_and_swap(Some(&Version::new("\"1\"")), &record(1, "a", 4))
        .await
        .unwrap();
    assert!(
        matches!(swap, Swap::Lost(Some((there, _))) if there == record(1, "a", 3)),
        "an old version is refused"
    );
}

#[tokio::test]
async fn etags_without_quotes_are_found_out() {
    three_writes(&serve(Quirk::BareTags)).await;
}

#[tokio::test]
async fn a_success_that_was_refused_is_a_success() {
    three_writes(&serve(Quirk::RefusedAfterSuccess)).await;
}

#[tokio::test]
async fn a_success_without_an_answer_is_found_out_or_a_doubt() {
    let store = serve(Quirk::SilentAfterSuccess);
    let Swap::Won(first) = store.compare_and_swap(None, &record(1, "a", 1)).await.unwrap() else {
        panic!()
    };
    match store.compare_and_swap(Some(&first), &record(1, "a", 2)).await {
        Ok(Swap::Won(_)) | Err(LeaseError::Doubt(_)) => {}
        other => panic!("{other:?}"),
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(store.read().await.unwrap().unwrap().0, record(1, "a", 2));
}

#[tokio::test]
async fn a_clock_that_is_far_off_is_named() {
    let error = serve(Quirk::ClockFarOff)
        .compare_and_swap(None, &record(1, "a", 1))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, LeaseError::Unanswered { why, .. } if why.contains("RequestTimeTooSkewed")),
        "{error}"
    );
}
