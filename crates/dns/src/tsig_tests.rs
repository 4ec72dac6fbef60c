use super::*;

const TEXT: &str = "# of the secondaries\nkey \"xfr.example\" {\n\talgorithm hmac-sha256;\n\tsecret \"MDEyMzQ1Njc4OWFiY2RlZg==\"; // 128 bits\n};\n\
                    key two { algorithm hmac-sha512; secret \"c29tZXRoaW5nIGVsc2UgaXMgc2VjcmV0\"; };";
const NOW: u64 = 1_800_000_000;

fn keys() -> Keys {
    parse(TEXT).unwrap()
}

fn query() -> Vec<u8> {
    b"\x12\x34\0\0\0\x01\0\0\0\0\0\0\x01z\0\0\xFC\0\x01".to_vec()
}

fn signed(key: &Key) -> Vec<u8> {
    let mut message = query();
    Signer::new(key).sign(&mut message, NOW);
    message
}

#[test]
fn what_is_signed_reads_back_and_nothing_else_does() {
    let keys = keys();
    for key in &keys.0 {
        let message = signed(key);
        assert!(message.len() <= query().len() + key.overhead());
        let opened = keys.open(&message, NOW).unwrap();
        assert_eq!((opened.message, &opened.key.name), (query(), &key.name));
        for cut in 0..message.len() {
            assert!(keys.open(&message[..cut], NOW).is_err(), "{cut}");
        }
        // The identifier stands in the signature too, so that who passes the message on may change it.
        for at in 2..message.len() {
            let mut wrong = message.clone();
            wrong[at] ^= 1;
            assert!(keys.open(&wrong, NOW).is_err(), "{at}");
        }
        let other = parse("key xfr.example { algorithm hmac-sha256; secret \"YW5vdGhlciBzZWNyZXQhIQ==\"; };")
            .unwrap();
        assert!(other.open(&message, NOW).is_err());
        assert!(keys.open(&message, NOW + 300).is_ok());
        for away in [NOW + 301, NOW - 301, 0] {
            assert!(keys.open(&message, away).is_err(), "{away}");
        }
    }
    assert!(keys.open(&query(), NOW).is_err());
}

/// The response code and the signature's own error.
fn codes(answer: &[u8]) -> (u8, Option<u16>) {
    let error = Signature::find(answer).map(|signature| signature.error);
    (answer[3] & 15, error)
}

#[test]
fn who_is_not_believed_is_told_why() {
    let keys = keys();
    let message = signed(&keys.0[0]);
    let said = |keys: &Keys, message: &[u8], now: u64| {
        let answer = keys.open(message, now).unwrap_err().answer(message, now);
        assert_eq!((&answer[..2], answer[2] & 0x80), (&message[..2], 0x80));
        answer
    };
    let stranger =
        parse("key other { algorithm hmac-sha256; secret \"YW5vdGhlciBzZWNyZXQhIQ==\"; };").unwrap();
    assert_eq!(codes(&said(&stranger, &message, NOW)), (NOTAUTH, Some(BADKEY)));
    let mut changed = message.clone();
    changed[13] ^= 1;
    assert_eq!(codes(&said(&keys, &changed, NOW)), (NOTAUTH, Some(BADSIG)));
    // What is told about the time is signed, with the time of who asked, and has ours in it.
    let late = said(&keys, &message, NOW + 1000);
    assert_eq!(codes(&late), (NOTAUTH, Some(BADTIME)));
    let signature = Signature::find(&late).unwrap();
    assert_eq!((signature.time, signature.mac.len()), (NOW, 32));
    assert_eq!(late[late.len() - 6..], (NOW + 1000).to_be_bytes()[2..]);
    let cut = &message[..message.len() - 1];
    assert_eq!(codes(&said(&keys, cut, NOW)), (FORMERR, None));
}

/// Found by fuzzing: what lies behind a header that counts no question, or several, was told back as one.
#[test]
fn who_is_not_believed_and_asks_nothing_gets_no_question_back() {
    let keys = keys();
    for questions in [0, 2] {
        let mut message = query();
        message[5] = questions;
        if questions == 2 {
            message.extend_from_slice(b"\x01y\0\0\x01\0\x01");
        } else {
            // A record, whose beginning could be a question's.
            message[11] = 1;
            message.extend_from_slice(b"\0\0\0\0\0\0");
        }
        Signer::new(&keys.0[0]).sign(&mut message, NOW);
        let last = message.len() - 8;
        message[last] ^= 1;
        let answer = keys.open(&message, NOW).unwrap_err().answer(&message, NOW);
        assert_eq!(answer[4..12], [0, 0, 0, 0, 0, 0, 0, 1], "{questions}");
        assert_eq!(codes(&answer), (NOTAUTH, Some(BADSIG)), "{questions}");
        assert!(answer.len() < message.len());
    }
    let answer = keys.open(b"\x12", NOW).unwrap_err().answer(b"\x12", NOW);
    assert_eq!(
        (answer.len(), &answer[..5]),
        (12, &[0x12, 0, 0x80, FORMERR, 0][..])
    );
}

#[test]
fn an_answers_messages_are_signed_one_after_the_other() {
    let keys = keys();
    let request = signed(&keys.0[0]);
    let opened = keys.open(&request, NOW).unwrap();
    let mut signer = opened.signer();
    let answer = || b"\x12\x34\x84\0\0\0\0\0\0\0\0\0".to_vec();
    let (mut first, mut second) = (answer(), answer());
    signer.sign(&mut first, NOW);
    signer.sign(&mut second, NOW);
    assert_ne!(first, second);
    // An answer's signature holds the question's too: by itself it is not good.
    assert!(keys.open(&first, NOW).is_err());
}

#[test]
fn a_file_that_is_wrong_is_refused_without_telling_a_secret() {
    for (text, why) in [
        ("", "no key"),
        ("zone x { };", "stands where"),
        (
            "key x { algorithm hmac-sha256; };",
            "wants an algorithm and a secret",
        ),
        (
            "key x { algorithm hmac-md5; secret \"MDEyMzQ1Njc4OWFiY2RlZg==\"; };",
            "hmac-sha256, hmac-sha384",
        ),
        (
            "key x { algorithm hmac-sha256; secret \"c2hvcnQ=\"; };",
            "fewer than 16",
        ),
        (
            "key x { algorithm hmac-sha256; secret \"!c2VjcmV0c2VjcmV0\"; };",
            "not Base64",
        ),
        (
            "key a..b { algorithm hmac-sha256; secret \"MDEyMzQ1Njc4OWFiY2RlZg==\"; };",
            "a..b",
        ),
    ] {
        let said = parse(text).unwrap_err();
        assert!(
            said.contains(why) && !said.contains("c2V") && !said.contains("MDEy"),
            "{text}: {said}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    assert!(Keys::load(&path).unwrap_err().contains("no such file"));
    std::fs::write(&path, [0xFF, 0xFE]).unwrap();
    assert!(Keys::load(&path).unwrap_err().contains("not text"));
    std::fs::write(&path, vec![b' '; 70_000]).unwrap();
    assert!(Keys::load(&path).is_err());
    std::fs::write(&path, TEXT).unwrap();
    assert_eq!(Keys::load(&path).unwrap().0.len(), 2);
    let slashes = "key x { algorithm hmac-sha256; secret \"MDEy//Q1Njc4OWFiY2RlZg==\"; };";
    assert!(parse(slashes).is_ok());
}
