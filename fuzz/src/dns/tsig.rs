//! Signed messages: nothing but what was signed is believed, and whoever is not believed gets a short reason.

use std::sync::LazyLock;

use crate::chosen;
use crate::tsig::{Fault, Keys, Signer, parse};

/// The time at which everything here is signed.
pub(super) const NOW: u64 = 1_800_000_000;

pub(super) static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    parse("key k { algorithm hmac-sha256; secret \"MDEyMzQ1Njc4OWFiY2RlZg==\"; };").expect("a key")
});

/// The first two bytes choose; the rest is a message as it comes, or one that a holder of the key signed, which is then
/// changed at one place.
pub fn message(data: &[u8]) {
    let Some(([how, place], rest)) = chosen::<2>(data) else {
        return;
    };
    let Some(key) = KEYS.first() else { return };
    if how & 1 == 0 {
        received(rest, NOW);
        return;
    }
    if rest.len() < 12 {
        return;
    }
    let mut message = rest.to_vec();
    // Otherwise nothing is found behind records that are not there.
    if how & 2 != 0 {
        message[4..12].fill(0);
        message.truncate(12);
    }
    // The count must not wrap around: nobody sends so many.
    message[10] &= 0x7F;
    let mut asked = Signer::new(key);
    let mut packet = message.clone();
    asked.sign(&mut packet, NOW);
    assert!(packet.len() <= message.len() + key.overhead());
    if how & 2 != 0 {
        let opened = KEYS.open(&packet, NOW).expect("it was signed just now");
        assert_eq!(opened.message, message);
        converse(&asked, &opened, &message, usize::from(place));
    }
    received(&packet, NOW + u64::from(how >> 2) * 10);
    let at = usize::from(place) % packet.len();
    packet[at] ^= (how >> 2).max(1);
    if let Some(opened) = received(&packet, NOW) {
        // The identifier, and letters of the key's name in another case, may be changed.
        assert_eq!(opened[2..], message[2..]);
    }
}

/// An answer to what was opened: its asker believes it as it is, and not when it is changed.
fn converse(asked: &Signer<'_>, opened: &crate::tsig::Opened<'_>, question: &[u8], place: usize) {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    let plain = answer.clone();
    opened.signer().sign(&mut answer, NOW);
    assert_eq!(asked.verify(&answer, NOW).as_ref(), Ok(&plain));
    let at = 2 + place % (answer.len() - 2);
    answer[at] ^= 1;
    assert!(asked.verify(&answer, NOW).is_err(), "{at}");
}

fn received(packet: &[u8], now: u64) -> Option<Vec<u8>> {
    match KEYS.open(packet, now) {
        Ok(opened) => Some(opened.message),
        Err(fault) => {
            let answer = fault.answer(packet, now);
            assert!(answer.len() >= 12 && answer[2] & 0x80 != 0 && answer[3] & 0x80 == 0);
            // Nobody is hit with more than somebody without the key has sent.
            if !matches!(fault, Fault::AtAnotherTime(..)) {
                assert!(answer.len() <= packet.len().max(12), "{packet:?}");
            }
            let said = Signer::new(KEYS.first()?).verify(packet, now);
            assert!(said.is_err(), "no answer to anything");
            None
        }
    }
}
