//! Targets over `crates/mysql-wire`.

use pontoon_mysql_wire::auth::{AuthPacket, AuthSwitchRequest, native, sha2};
use pontoon_mysql_wire::statement::{Execute, Fetch, SendLongData, set_statement_id, statement_id};
use pontoon_mysql_wire::{
    Capabilities, ChangeUser, EofPacket, ErrorPacket, FirstReply, OkPacket, PacketDecoder, SegmentScanner,
    ServerGreeting, SetOption, encode_packet, process_kill,
};

use crate::answers::{Client, EXPECTS, packets as numbered, payloads};
use crate::chosen;

/// Packets of any content as an answer.
pub fn answer(data: &[u8]) {
    let Some(([expect, client, first, second], rest)) = chosen::<4>(data) else {
        return;
    };
    let expect = EXPECTS[usize::from(expect) % EXPECTS.len()];
    crate::answers::answer(
        expect,
        Client(client),
        &[first, second],
        &numbered(payloads(rest)),
    );
}

/// Any bytes as an answer.
pub fn answer_bytes(data: &[u8]) {
    let Some(([expect, client, first, second], rest)) = chosen::<4>(data) else {
        return;
    };
    let expect = EXPECTS[usize::from(expect) % EXPECTS.len()];
    crate::answers::answer(expect, Client(client), &[first, second], rest);
}

/// The decoder finds the packets that the scanner finds, and they are the bytes that came.
pub fn packets(data: &[u8]) {
    let Some(([limit, piece], rest)) = chosen::<2>(data) else {
        return;
    };
    let mut decoder = PacketDecoder::new(4 * usize::from(limit));
    let (mut scanner, mut scanned) = (SegmentScanner::new(), 0);
    let mut again = Vec::new();
    for piece in rest.chunks(usize::from(piece).max(1)) {
        decoder.feed(piece);
        let mut unscanned = piece;
        while let Some(segment) = scanner.scan(unscanned) {
            unscanned = &unscanned[segment.len..];
            scanned += usize::from(segment.ends);
        }
        loop {
            match decoder.next_packet() {
                Ok(Some(packet)) => {
                    scanned -= 1;
                    encode_packet(&mut again, packet.sequence, &packet.payload);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(decoder.pending().len() <= rest.len());
    }
    assert_eq!(scanned, 0, "packets of the scanner that the decoder did not find");
    assert!(rest.starts_with(&again));
    assert_eq!(scanner.at_boundary(), decoder.pending().is_empty());
}

/// A greeting that is read is written so that it is read again.
pub fn greeting(data: &[u8]) {
    match ServerGreeting::parse(data) {
        Ok(ServerGreeting::Ready(greeting)) => {
            let _ = (greeting.is_mariadb(), greeting.version());
            let payload = greeting.to_payload();
            let Ok(ServerGreeting::Ready(again)) = ServerGreeting::parse(&payload) else {
                panic!("{greeting:?} is not read again");
            };
            assert_eq!(again.to_payload(), payload);
            assert_eq!(again.thread_id, greeting.thread_id);
        }
        Ok(ServerGreeting::Refused(error)) => {
            let _ = (error.text(), error.to_payload(Capabilities::PROTOCOL_41));
        }
        Err(_) => {}
    }
}

/// A login that is read is written so that it is read as the same.
pub fn handshake_response(data: &[u8]) {
    match FirstReply::parse(data) {
        Ok(FirstReply::Ssl(request)) => {
            assert_eq!(
                FirstReply::parse(&request.to_payload()),
                Ok(FirstReply::Ssl(request))
            );
        }
        Ok(FirstReply::Login(mut login)) => {
            let again = FirstReply::parse(&login.to_payload());
            login.capabilities = login.sent_capabilities();
            if login.capabilities.has(Capabilities::CLIENT_MYSQL) {
                login.capabilities = login.capabilities & Capabilities(0xFFFF_FFFF);
            }
            assert_eq!(again, Ok(FirstReply::Login(login)));
        }
        Err(_) => {}
    }
}

/// A change of user that is read is written so that it is read as the same.
pub fn change_user(data: &[u8]) {
    let Some(([bits], rest)) = chosen::<1>(data) else {
        return;
    };
    let mut agreed = Capabilities::PROTOCOL_41;
    for (bit, flag) in [
        (1, Capabilities::SECURE_CONNECTION),
        (2, Capabilities::PLUGIN_AUTH),
        (4, Capabilities::CONNECT_ATTRS),
    ] {
        if bits & bit != 0 {
            agreed = agreed | flag;
        }
    }
    let Ok(login) = ChangeUser::parse(rest, agreed) else {
        return;
    };
    let payload = login.to_payload(agreed).expect("what was read has a place");
    let again = ChangeUser::parse(&payload, agreed).expect("what was written is read");
    assert_eq!(
        (
            again.user,
            again.auth_response,
            again.database,
            again.character_set
        ),
        (
            login.user,
            login.auth_response,
            login.database,
            login.character_set
        )
    );
    assert_eq!(again.attributes, login.attributes);
}

/// Commands about prepared statements: what is read is written again as it was, with its own types and number.
pub fn execute(data: &[u8]) {
    let Some(([low, high], rest)) = chosen::<2>(data) else {
        return;
    };
    // Mostly few parameters.
    let params = u16::from_le_bytes([low, if high < 0xF0 { 0 } else { high }]);
    if let Ok(execute) = Execute::parse(rest, params) {
        let mut out = Vec::new();
        execute.write(&mut out, execute.statement, None);
        assert_eq!(out, rest);
        let types = vec![3; 2 * usize::from(params)];
        out.clear();
        execute.write(&mut out, !execute.statement, Some(&types));
        let again = Execute::parse(&out, params).expect("what was written is read");
        assert_eq!(again.statement, !execute.statement);
        assert_eq!((again.values, again.nulls), (execute.values, execute.nulls));
        if params > 0 {
            assert_eq!(again.types, execute.types.or(Some(&types)));
        }
    }
    let _ = (Fetch::parse(rest), SendLongData::parse(rest));
    let _ = (SetOption::parse(rest), process_kill(rest));
    let mut changed = rest.to_vec();
    let id = statement_id(rest);
    assert_eq!(set_statement_id(&mut changed, 7).is_ok(), id.is_ok());
    if let Ok(id) = id {
        assert_eq!(statement_id(&changed), Ok(7));
        assert_eq!(set_statement_id(&mut changed, id), Ok(()));
    }
    assert_eq!(changed, rest);
}

/// The packets of authentication, and OK, EOF and ERR with everything in them.
pub fn auth(data: &[u8]) {
    let Some(([bits], rest)) = chosen::<1>(data) else {
        return;
    };
    let _ = AuthPacket::parse(rest, bits & 1 != 0);
    if let Ok(switch) = AuthSwitchRequest::parse(rest) {
        let payload = switch.to_payload();
        let again = AuthSwitchRequest::parse(&payload).expect("what was written is read");
        assert_eq!(again.plugin, switch.plugin);
    }
    let _ = native::parse_stored(rest);
    let (one, other) = rest.split_at(rest.len().min(20));
    assert!(!native::verify(one, other, &[7; 20]) && !sha2::verify(one, other, &[7; 32]));
    let mut masked = one.to_vec();
    sha2::obfuscate(&mut masked, other);
    sha2::obfuscate(&mut masked, other);
    assert_eq!(masked, one);
    let _ = EofPacket::parse(rest);
    if let Ok(error) = ErrorPacket::parse(rest) {
        let again = ErrorPacket::parse(&error.to_payload(Capabilities::PROTOCOL_41));
        assert_eq!(
            again.map(|again| (again.code, again.message)),
            Ok((error.code, error.message))
        );
    }
    let mut agreed = Capabilities::PROTOCOL_41;
    if bits & 2 != 0 {
        agreed = agreed | Capabilities::SESSION_TRACK;
    }
    if let Ok(ok) = OkPacket::parse(rest, agreed) {
        assert!(ok.session_state().count() <= rest.len());
        let mut out = Vec::new();
        ok.write(&mut out, OkPacket::HEADER, agreed);
        let again = OkPacket::parse(&out, agreed).expect("what was written is read");
        assert_eq!(
            (
                again.affected_rows,
                again.last_insert_id,
                again.warnings,
                again.info,
                again.state
            ),
            (
                ok.affected_rows,
                ok.last_insert_id,
                ok.warnings,
                ok.info,
                ok.state
            )
        );
    }
}
