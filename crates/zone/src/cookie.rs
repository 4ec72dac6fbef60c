//! Server cookies as RFC 9018 section 4 makes them, so that the servers of one fleet, or of two makers, understand
//! each other's.

use std::net::IpAddr;

/// What server cookies are made with. The same on all servers that answer at one address.
#[derive(Clone, PartialEq, Eq)]
pub struct CookieSecret(pub [u8; 16]);

impl std::fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieSecret(…)")
    }
}

/// A server cookie: version, three reserved bytes, time, hash.
pub(crate) type ServerCookie = [u8; 16];

/// Seconds after which a cookie is too old, and how far in the future it may be (RFC 9018 section 4.3).
const TOO_OLD: u32 = 3600;
const FUTURE: u32 = 300;

impl CookieSecret {
    /// The cookie for a client that said `client`, at `now` (seconds of Unix time).
    pub(crate) fn make(&self, client: [u8; 8], address: IpAddr, now: u32) -> ServerCookie {
        let mut cookie = [0; 16];
        cookie[0] = 1;
        cookie[4..8].copy_from_slice(&now.to_be_bytes());
        let hash = self.hash(client, &cookie, address);
        cookie[8..].copy_from_slice(&hash);
        cookie
    }

    /// Whether `cookie` was made with this secret for this client, not long ago.
    pub(crate) fn is_good(&self, client: [u8; 8], cookie: &[u8], address: IpAddr, now: u32) -> bool {
        let Ok(cookie) = ServerCookie::try_from(cookie) else {
            return false;
        };
        let made = u32::from_be_bytes([cookie[4], cookie[5], cookie[6], cookie[7]]);
        // Serial number arithmetic (RFC 1982).
        let age = now.wrapping_sub(made);
        let in_time = age <= TOO_OLD || made.wrapping_sub(now) <= FUTURE;
        let expected = self.hash(client, &cookie, address);
        let differs = expected
            .iter()
            .zip(&cookie[8..])
            .fold(0, |sum, (a, b)| sum | (a ^ b));
        cookie[0] == 1 && in_time && differs == 0
    }

    fn hash(&self, client: [u8; 8], cookie: &ServerCookie, address: IpAddr) -> [u8; 8] {
        let mut text = [0; 32];
        text[..8].copy_from_slice(&client);
        text[8..16].copy_from_slice(&cookie[..8]);
        let length = match address {
            IpAddr::V4(address) => {
                text[16..20].copy_from_slice(&address.octets());
                20
            }
            IpAddr::V6(address) => {
                text[16..32].copy_from_slice(&address.octets());
                32
            }
        };
        siphash(&self.0, &text[..length]).to_le_bytes()
    }
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012).
fn siphash(key: &[u8; 16], text: &[u8]) -> u64 {
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    let (k0, k1) = (word(&key[..8]), word(&key[8..]));
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut chunks = text.chunks_exact(8);
    let mut take = |m: u64| {
        v[3] ^= m;
        round(&mut v);
        round(&mut v);
        v[0] ^= m;
    };
    for chunk in &mut chunks {
        take(word(chunk));
    }
    take(word(chunks.remainder()) | (text.len() as u64) << 56);
    v[2] ^= 0xFF;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
    }

    /// RFC 9018 appendix A.1 and A.2.
    #[test]
    fn the_examples_of_the_rfc() {
        let secret = CookieSecret(bytes("e5e973e5a6b2a43f48e7dc849e37bfcf"));
        let client = bytes("2464c4abcf10c957");
        let address = "198.51.100.100".parse().unwrap();
        let cookie = bytes::<16>("010000005cf79f111f8130c3eee29480");
        assert_eq!(secret.make(client, address, 1_559_731_985), cookie);
        assert!(secret.is_good(client, &cookie, address, 1_559_734_385));
        assert!(
            !secret.is_good(client, &cookie, address, 1_559_735_586),
            "too old"
        );
        assert!(
            !secret.is_good(client, &cookie, address, 1_559_731_684),
            "from the future"
        );
        let other = "198.51.100.101".parse().unwrap();
        assert!(!secret.is_good(client, &cookie, other, 1_559_731_985));
        assert!(!secret.is_good(client, &cookie[..8], address, 1_559_731_985));
    }

    /// The reference implementation's first vectors.
    #[test]
    fn siphash_is_siphash() {
        let key = std::array::from_fn(|at| at as u8);
        let text: Vec<u8> = (0..15).collect();
        assert_eq!(siphash(&key, &text), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash(&key, &[]), 0x726f_db47_dd0e_0e31);
    }
}
