//! Clients that do not want to log in, and databases that do not want to let anybody in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod support;

use std::time::Duration;

use pontoon_fleet::Epoch;
use pontoon_mysql_wire::auth::{AuthSwitchRequest, auth_more_data};
use pontoon_mysql_wire::{
    Capabilities, ErrorPacket, Greeting, HandshakeResponse, SslRequest, StatusFlags, encode_packet,
};
use pontoon_sqlproxy::auth::Secret;
use pontoon_sqlproxy::backend::{Login, LoginError, Opened, login};
use pontoon_sqlproxy::front::{Front, FrontError, Keys};
use pontoon_sqlproxy::peer::Peer;
use pontoon_sqlproxy::target::{Pin, Transport};
use support::packet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

fn model() -> Greeting {
    Greeting {
        server_version: b"5.5.5-10.11.0-MariaDB-test".to_vec(),
        thread_id: 7,
        capabilities: Capabilities(0x1D_81FF_F7FE),
        character_set: 45,
        status: StatusFlags::AUTOCOMMIT,
        auth_data: b"abcdefghijklmnopqrst".to_vec(),
        auth_plugin: b"mysql_native_password".to_vec(),
    }
}

fn numbered(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_packet(&mut bytes, sequence, payload);
    bytes
}

fn usual_login(attributes: usize) -> HandshakeResponse {
    HandshakeResponse {
        capabilities: Capabilities(0x1D_81FF_F7FE),
        max_packet: 1 << 24,
        character_set: 45,
        user: b"u".to_vec(),
        auth_response: vec![1; 20],
        database: None,
        auth_plugin: Some(b"mysql_native_password".to_vec()),
        attributes: vec![(b"k".to_vec(), vec![b'v'; attributes])],
        zstd_level: None,
    }
}

/// What comes of a client that says this after the greeting, and then closes or not.
async fn front_of(said: &[u8], closes: bool) -> (Result<(), FrontError>, Option<ErrorPacket>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(said).await.unwrap();
    if closes {
        theirs.shutdown().await.unwrap();
    }
    let keys = Keys::generate();
    let result = Front::greet(Peer::Unix(ours), Transport::Unix, 9, &model(), &keys).await;
    let outcome = match result {
        Ok(_) => Ok(()),
        Err((error, front)) => {
            if let (Some(packet), Some(mut front)) = (error.to_packet(), front) {
                front.refuse(&packet).await;
            }
            Err(error)
        }
    };
    let mut heard = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(200), theirs.read_to_end(&mut heard)).await;
    let greeting_len = 4 + usize::from(heard[0]) + usize::from(heard[1]) * 256;
    let packet = heard
        .get(greeting_len + 4..)
        .and_then(|payload| ErrorPacket::parse(payload).ok());
    (outcome, packet)
}

#[tokio::test]
async fn a_client_that_breaks_the_handshake_is_told_so_and_let_go() {
    let login = usual_login(10).to_payload();
    assert!(front_of(&numbered(1, &login), true).await.0.is_ok());
    assert!(
        front_of(&numbered(1, &usual_login(60_000).to_payload()), true)
            .await
            .0
            .is_ok()
    );
    // As long as a packet may be, and one byte longer; one that claims 16 MiB and sends nothing of it.
    let (too_long, told) = front_of(&numbered(1, &usual_login(200_000).to_payload()), false).await;
    assert!(too_long.is_err() && told.unwrap().code == 1043);
    let (lying, told) = front_of(&[0xFF, 0xFF, 0xFF, 1, 0], false).await;
    assert!(lying.is_err() && told.unwrap().code == 1043);
    // Out of order, as both servers say it.
    let (late, told) = front_of(&numbered(2, &login), false).await;
    assert!(late.is_err() && told.unwrap().code == 1156);
    // No login at all.
    for garbage in [
        &b""[..],
        b"\x85",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x85\x24\0\0\0old\0",
    ] {
        let (refused, told) = front_of(&numbered(1, garbage), false).await;
        assert!(refused.is_err() && told.unwrap().code == 1043, "{garbage:?}");
    }
    // Cut anywhere, and gone.
    let whole = numbered(1, &login);
    for end in 0..whole.len() {
        assert!(front_of(&whole[..end], true).await.0.is_err(), "{end}");
    }
    // Lengths within that say more than there is.
    for at in 32..login.len() {
        let mut lies = login.clone();
        lies[at] = 0xFE;
        let _ = front_of(&numbered(1, &lies), true).await;
    }
}

#[tokio::test]
async fn plain_text_behind_a_request_for_tls_is_not_taken_for_protected() {
    let request = SslRequest {
        capabilities: Capabilities(0x1D_81FF_F7FE) | Capabilities::SSL,
        max_packet: 1 << 24,
        character_set: 45,
    };
    // Somebody in between puts a login of its own behind the client's request.
    let mut both = numbered(1, &request.to_payload());
    both.extend(numbered(2, &usual_login(0).to_payload()));
    let (refused, _) = front_of(&both, false).await;
    assert!(matches!(refused, Err(FrontError::Packet(_))), "{refused:?}");
    // And one whose TLS is none.
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs
        .write_all(&numbered(1, &request.to_payload()))
        .await
        .unwrap();
    let keys = Keys::generate();
    let talk = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = theirs.write_all(b"this is no TLS at all").await;
    };
    let like = model();
    let greet = Front::greet(Peer::Unix(ours), Transport::Unix, 9, &like, &keys);
    let (greeted, ()) = tokio::join!(Box::pin(greet), talk);
    assert!(matches!(greeted, Err((FrontError::Packet(_), None))));
}

#[tokio::test]
async fn a_silent_client_and_one_that_sends_a_byte_now_and_then_are_let_go_after_10_seconds() {
    let keys = Keys::generate();
    let visit = async |drips: bool| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let whole = numbered(1, &usual_login(100).to_payload());
        tokio::spawn(async move {
            for byte in whole {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if drips && theirs.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        });
        let began = Instant::now();
        let greeted = Front::greet(Peer::Unix(ours), Transport::Unix, 9, &model(), &keys).await;
        assert!(matches!(greeted, Err((FrontError::Silent, _))));
        let took = began.elapsed();
        assert!(
            took >= Duration::from_secs(10) && took < Duration::from_secs(12),
            "{took:?}"
        );
    };
    tokio::join!(visit(false), visit(true));
}

/// Logs in at a database that answers each packet of the client with the next of these, and then stays.
async fn login_at(first: Vec<u8>, answers: Vec<Vec<u8>>, transport: Transport, secret: Secret) -> LoginError {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 4096];
        for answer in answers {
            if theirs.read(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
            if theirs.write_all(&answer).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    let opened = Opened {
        peer: Peer::Unix(ours),
        first,
        pin: Pin {
            server: "a".parse().unwrap(),
            epoch: Epoch(1),
        },
        transport,
    };
    let who = Login {
        user: b"u",
        secret: &secret,
        database: None,
        capabilities: Capabilities::default(),
        collation: 45,
        attributes: &[],
        tls: false,
    };
    let limit = Duration::from_millis(300);
    login(opened, &who, limit)
        .await
        .expect_err("nobody gets in there")
}

#[tokio::test]
async fn a_database_that_lies_in_the_login_gets_no_password_and_ends_in_an_error() {
    let greeting = packet(&model().to_payload());
    let pw = || Secret::password(b"pw");
    let switch = |plugin: &[u8], data: &[u8]| numbered(2, &AuthSwitchRequest { plugin, data }.to_payload());
    let at = |answers: Vec<Vec<u8>>, secret| login_at(greeting.clone(), answers, Transport::Tcp, secret);

    assert!(matches!(at(vec![], pw()).await, LoginError::Silent));
    // It asks for the password as it is, or so that it could be found out.
    for plugin in [
        "mysql_clear_password",
        "dialog",
        "mysql_old_password",
        "auth_gssapi_client",
        "",
    ] {
        let refused = at(vec![switch(plugin.as_bytes(), b"01234567890123456789")], pw()).await;
        assert!(matches!(refused, LoginError::Plugin(_)), "{plugin}: {refused:?}");
    }
    assert!(matches!(
        at(vec![numbered(2, b"\xfe")], pw()).await,
        LoginError::Plugin(_)
    ));
    // The password's hash is of use for one plugin only.
    let sha1 = Secret::Sha1([1; 20]);
    let refused = at(
        vec![switch(b"caching_sha2_password", b"01234567890123456789")],
        sha1,
    )
    .await;
    assert!(matches!(refused, LoginError::Plugin(_)));
    // Challenges that are too short.
    for plugin in [
        "mysql_native_password",
        "caching_sha2_password",
        "client_ed25519",
        "parsec",
    ] {
        let refused = at(vec![switch(plugin.as_bytes(), b"short")], pw()).await;
        assert!(matches!(refused, LoginError::Wire(_)), "{plugin}: {refused:?}");
    }
    // Over plain TCP the password goes under a key, and this is none.
    let sha2 = switch(b"caching_sha2_password", b"01234567890123456789");
    let answers = vec![
        sha2.clone(),
        numbered(4, &auth_more_data(&[4])),
        numbered(
            6,
            &auth_more_data(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
        ),
    ];
    assert!(matches!(at(answers, pw()).await, LoginError::Key));
    // It says what the plugin cannot say, and goes on for ever.
    let answers = vec![sha2.clone(), numbered(4, &auth_more_data(b"what?"))];
    assert!(matches!(at(answers, pw()).await, LoginError::Wire(_)));
    let answers = (0..20).map(|round| {
        let request = AuthSwitchRequest {
            plugin: b"mysql_native_password",
            data: b"01234567890123456789",
        };
        numbered(2 + 2 * round, &request.to_payload())
    });
    assert!(matches!(at(answers.collect(), pw()).await, LoginError::Wire(_)));
    // It lets nobody in, but says OK; it goes on talking; it is out of order; its packet has no end.
    for answer in [
        numbered(2, b"\0"),
        [numbered(2, b"\0\0\0\x02\0\0\0"), numbered(0, b"\x01")].concat(),
        numbered(3, b"\0\0\0\x02\0\0\0"),
        numbered(2, b""),
        vec![0xFF, 0xFF, 0xFF, 2],
    ] {
        let refused = at(vec![answer.clone()], pw()).await;
        assert!(matches!(refused, LoginError::Wire(_)), "{answer:?}: {refused:?}");
    }
    // Its own words are passed on.
    let words = ErrorPacket::parse(b"\xff\x15\x04#28000no").unwrap();
    let refused = at(
        vec![numbered(2, &words.to_payload(Capabilities::PROTOCOL_41))],
        pw(),
    )
    .await;
    assert!(matches!(refused, LoginError::Refused(packet) if packet == words));
}

#[tokio::test]
async fn a_server_that_is_too_old_or_greets_with_an_error_gets_nothing() {
    let old = Greeting {
        capabilities: Capabilities(0xF7FF),
        ..model()
    };
    let refused = login_at(packet(&old.to_payload()), vec![], Transport::Tcp, Secret::Empty).await;
    assert!(matches!(refused, LoginError::TooOld(_)), "{refused:?}");
    let full = packet(b"\xff\x10\x04Too many connections");
    let refused = login_at(full, vec![], Transport::Tcp, Secret::Empty).await;
    assert!(matches!(refused, LoginError::Refused(packet) if packet.code == 1040));
}
