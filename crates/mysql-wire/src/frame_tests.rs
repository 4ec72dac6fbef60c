use super::*;
use proptest::prelude::*;

fn decode_in_pieces(bytes: &[u8], pieces: &[usize], limit: usize) -> Result<Vec<Packet>, WireError> {
    let mut decoder = PacketDecoder::new(limit);
    let mut packets = Vec::new();
    let mut rest = bytes;
    let mut sizes = pieces.iter().copied().chain(std::iter::repeat(usize::MAX));
    while !rest.is_empty() {
        let (now, later) = rest.split_at(sizes.next().unwrap().clamp(1, rest.len()));
        decoder.feed(now);
        rest = later;
        while let Some(packet) = decoder.next_packet()? {
            packets.push(packet);
        }
    }
    Ok(packets)
}

#[test]
fn packets_around_the_frame_limit_come_back() {
    for len in [
        0,
        1,
        MAX_FRAME_PAYLOAD - 1,
        MAX_FRAME_PAYLOAD,
        MAX_FRAME_PAYLOAD + 1,
        2 * MAX_FRAME_PAYLOAD,
    ] {
        let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let mut bytes = Vec::new();
        let next = encode_packet(&mut bytes, 254, &payload);
        assert_eq!(
            next,
            254u8.wrapping_add((len / MAX_FRAME_PAYLOAD + 1) as u8),
            "{len}"
        );
        let packets = decode_in_pieces(&bytes, &[5, 1 << 20], usize::MAX).unwrap();
        assert_eq!(packets.len(), 1);
        assert!(packets[0].payload == payload, "{len}");
        assert_eq!(packets[0].sequence, next.wrapping_sub(1));
    }
}

#[test]
fn a_frame_of_exactly_the_limit_is_not_complete_without_its_empty_successor() {
    let mut bytes = Vec::new();
    encode_packet(&mut bytes, 0, &vec![7; MAX_FRAME_PAYLOAD]);
    assert_eq!(bytes.len(), MAX_FRAME_PAYLOAD + 2 * HEADER_LEN);
    assert!(
        decode_in_pieces(&bytes[..bytes.len() - 1], &[], usize::MAX)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn an_announced_giant_is_refused_at_its_header_and_costs_nothing() {
    let mut decoder = PacketDecoder::new(64 * 1024);
    decoder.feed(&[0xFF, 0xFF, 0xFF, 0]);
    assert_eq!(
        decoder.next_packet(),
        Err(WireError::TooLarge { limit: 64 * 1024 })
    );
    let mut decoder = PacketDecoder::new(usize::MAX);
    decoder.feed(&[0xFF, 0xFF, 0xFF, 0]);
    assert_eq!(decoder.next_packet(), Ok(None));
    assert!(decoder.buffer.capacity() < 1024, "only what came is held");
}

#[test]
fn a_continuation_out_of_order_is_refused() {
    let mut bytes = Vec::new();
    encode_packet(&mut bytes, 0, &vec![7; MAX_FRAME_PAYLOAD]);
    *bytes.last_mut().unwrap() = 9;
    assert_eq!(
        decode_in_pieces(&bytes, &[], usize::MAX),
        Err(WireError::OutOfOrder { expected: 1, got: 9 })
    );
}

#[test]
fn the_scanner_follows_a_continued_packet_without_keeping_it() {
    let mut bytes = Vec::new();
    encode_packet(&mut bytes, 3, &vec![0x16; MAX_FRAME_PAYLOAD + 10]);
    encode_packet(&mut bytes, 0, &[0xFE, 1]);
    let mut scanner = SegmentScanner::new();
    let mut ends = Vec::new();
    let mut firsts = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let piece = &bytes[at..(at + 65_537).min(bytes.len())];
        let segment = scanner.scan(piece).unwrap();
        at += segment.len;
        firsts.extend(segment.first_byte);
        if segment.ends {
            ends.push((at, segment.sequence));
        }
    }
    assert_eq!(firsts, [0x16, 0xFE]);
    assert_eq!(ends, [(MAX_FRAME_PAYLOAD + 10 + 8, 4), (bytes.len(), 0)]);
    assert!(scanner.at_boundary());
}

proptest! {
    #[test]
    fn packets_come_back_however_they_are_cut(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
        pieces in prop::collection::vec(1usize..50, 0..40),
        first: u8,
    ) {
        let mut bytes = Vec::new();
        let mut sequence = first;
        for payload in &payloads {
            sequence = encode_packet(&mut bytes, sequence, payload);
        }
        let packets = decode_in_pieces(&bytes, &pieces, 1 << 20).unwrap();
        prop_assert_eq!(packets.iter().map(|p| &p.payload).collect::<Vec<_>>(), payloads.iter().collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_in_any_pieces_never_panic_and_hold_only_what_came(
        bytes in prop::collection::vec(any::<u8>(), 0..2_000),
        pieces in prop::collection::vec(1usize..50, 0..40),
    ) {
        let mut decoder = PacketDecoder::new(1_000);
        let mut rest = &bytes[..];
        for piece in pieces {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            decoder.feed(now);
            rest = later;
            while let Ok(Some(_)) = decoder.next_packet() {}
            prop_assert!(decoder.pending().len() <= bytes.len());
        }
    }

    #[test]
    fn the_scanner_and_the_decoder_agree(
        bytes in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => 0u8..6, 1 => any::<u8>()], 0..400),
        piece in 1usize..40,
    ) {
        let mut decoder = PacketDecoder::new(usize::MAX);
        decoder.feed(&bytes);
        let mut whole = 0;
        while let Ok(Some(_)) = decoder.next_packet() { whole += 1; }
        let mut scanner = SegmentScanner::new();
        let (mut at, mut ended) = (0, 0);
        while at < bytes.len() {
            let segment = scanner.scan(&bytes[at..(at + piece).min(bytes.len())]).unwrap();
            prop_assert!(segment.len > 0);
            at += segment.len;
            ended += usize::from(segment.ends);
        }
        prop_assert_eq!(whole, ended);
    }
}
