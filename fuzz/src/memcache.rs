//! Memcached's protocols.

use bytes::BytesMut;
use pontoon_memcache_wire::answers::{Expect, take};
use pontoon_memcache_wire::binary::Asked;
use pontoon_memcache_wire::requests::{Request, all, in_pieces};
use pontoon_memcache_wire::text::Line;

/// Lines, and the meta commands: pieces give what the whole gives, and what is written for a key is read as one command.
pub fn text(data: &[u8]) {
    if data.first() == Some(&0x80) {
        return;
    }
    for request in both(data) {
        let Request::Text(Line::Keyed(keyed)) = request else { continue };
        for (index, key) in keyed.keys.iter().enumerate() {
            let mut out = BytesMut::new();
            keyed.write(index, &keyed.frame[key.clone()], &mut out);
            assert_eq!(all(&out).len(), 1, "{:?}", out);
        }
    }
}

/// Packets.
pub fn binary(data: &[u8]) {
    let mut packets = vec![0x80];
    packets.extend(data);
    for request in both(&packets) {
        let Request::Binary(asked) = request else { continue };
        again(&asked);
    }
}

fn again(asked: &Asked) {
    let _ = (asked.translate(&asked.say(0, &asked.key(), b"v")), asked.is_read());
    if asked.what == pontoon_memcache_wire::binary::What::Keyed {
        let mut out = BytesMut::new();
        asked.write(&asked.key(), &mut out);
        assert_eq!(all(&out).len(), 1);
    }
}

/// What servers say.
pub fn answer(data: &[u8]) {
    for expect in [Expect::Values, Expect::Meta, Expect::Line, Expect::Lines, Expect::Packet] {
        let mut buffer = BytesMut::from(data);
        while let Ok(Some(answer)) = take(&mut buffer, expect) {
            assert!(!answer.is_empty());
        }
    }
}

fn both(data: &[u8]) -> Vec<Request> {
    let whole = all(data);
    let size = usize::from(data.last().copied().unwrap_or(1)) % 7 + 1;
    assert_eq!(in_pieces(data.chunks(size)), whole);
    whole
}
