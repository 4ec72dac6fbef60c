//! Signed messages (TSIG, RFC 8945): the keys of a file, what came signed with one of them, and the signatures of answers.
//!
//! A message that is signed wrongly is answered with the reason, which only says what its sender can know anyway.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pontoon_zone::Name;

/// The keys of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

/// One of them.
pub(crate) struct Key {
    name: Name,
    algorithm: Name,
    key: hmac::Key,
    /// Bytes of a signature.
    length: usize,
    /// Tells keys apart, whose secrets are nowhere kept.
    digest: Vec<u8>,
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        (&self.name, &self.algorithm, &self.digest) == (&other.name, &other.algorithm, &other.digest)
    }
}

impl Eq for Key {}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.name)
    }
}

impl Keys {
    /// The key with which an own message is signed first: the first one of the file.
    pub(crate) fn first(&self) -> Option<&Key> {
        self.0.first()
    }

    /// The message in `packet` without its signature, if that is good: of one of these keys, over just this message, made
    /// within its fudge of `now` (seconds of Unix time).
    ///
    /// # Errors
    /// What is said instead (section 5.2).
    pub(crate) fn open(&self, packet: &[u8], now: u64) -> Result<Opened<'_>, Fault<'_>> {
        let signature = Signature::find(packet).ok_or(Fault::Malformed)?;
        let found = self
            .0
            .iter()
            .find(|key| key.name == signature.key && key.algorithm == signature.algorithm);
        let Some(key) = found else {
            return Err(Fault::NotOurs(signature, BADKEY));
        };
        let Some(message) = signature.unsigned(packet) else {
            return Err(Fault::Malformed);
        };
        let signed = [
            &message[..],
            &key.variables(signature.time, signature.fudge, signature.error, &[]),
        ]
        .concat();
        // A shortened signature is not taken either (section 5.2.2.1 leaves that to the server).
        if hmac::verify(&key.key, &signed, &signature.mac).is_err() {
            return Err(Fault::NotOurs(signature, BADSIG));
        }
        let opened = Opened {
            message,
            key,
            mac: signature.mac,
        };
        match signature.time.abs_diff(now) > u64::from(signature.fudge) {
            true => Err(Fault::AtAnotherTime(opened, signature.time)),
            false => Ok(opened),
        }
    }
}

/// Why a signed message is not believed.
#[derive(Debug)]
pub(crate) enum Fault<'a> {
    /// The signature is none.
    Malformed,
    /// Signed with a key that is not here (`BADKEY`), or wrongly (`BADSIG`).
    NotOurs(Signature, u16),
    /// Signed well, at this time, which is too far from ours.
    AtAnotherTime(Opened<'a>, u64),
}

impl Fault<'_> {
    /// The answer to the message in `packet`: its header and question, and the reason (section 5.2). Empty when there is
    /// nothing to answer to.
    pub(crate) fn answer(&self, packet: &[u8], now: u64) -> Vec<u8> {
        let mut out = crate::transfer::head(packet);
        let (code, authoritative) = match self {
            Fault::Malformed => (FORMERR, 0),
            _ => (NOTAUTH, 0),
        };
        (out[2], out[3]) = (0x80 | packet.get(2).unwrap_or(&0) & 0x79 | authoritative, code);
        match self {
            Fault::Malformed => {}
            Fault::NotOurs(signature, error) => {
                let original = signature.original_id;
                let parts = (&signature.key, &signature.algorithm);
                append(
                    &mut out,
                    parts,
                    (signature.time, signature.fudge),
                    &[],
                    original,
                    *error,
                    &[],
                );
            }
            Fault::AtAnotherTime(opened, theirs) => {
                // Their own time is signed, so that they can check it; ours is what they are told (section 5.2.3).
                let ours = &now.to_be_bytes()[2..];
                let key = opened.key;
                let variables = key.variables(*theirs, FUDGE, BADTIME, ours);
                let signed = [&length(&opened.mac)[..], &opened.mac, &out, &variables].concat();
                let mac = hmac::sign(&key.key, &signed);
                let id = [out[0], out[1]];
                let parts = (&key.name, &key.algorithm);
                append(&mut out, parts, (*theirs, FUDGE), mac.as_ref(), id, BADTIME, ours);
            }
        }
        out
    }
}

/// A message whose signature was good.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    /// Without the signature.
    pub(crate) message: Vec<u8>,
    /// Whose it was.
    pub(crate) key: &'a Key,
    mac: Vec<u8>,
}

impl<'a> Opened<'a> {
    /// Signs the answer, or all messages of an answer one after the other.
    pub(crate) fn signer(&self) -> Signer<'a> {
        Signer {
            key: self.key,
            before: Some(self.mac.clone()),
            first: true,
        }
    }
}

/// Signs messages that belong together.
pub(crate) struct Signer<'a> {
    key: &'a Key,
    before: Option<Vec<u8>>,
    first: bool,
}

impl<'a> Signer<'a> {
    /// For a message that answers nothing.
    pub(crate) fn new(key: &'a Key) -> Signer<'a> {
        Signer {
            key,
            before: None,
            first: true,
        }
    }

    /// Appends the signature to `message`.
    pub(crate) fn sign(&mut self, message: &mut Vec<u8>, now: u64) {
        let mut signed = Vec::with_capacity(message.len() + 128);
        if let Some(before) = &self.before {
            signed.extend_from_slice(&length(before));
            signed.extend_from_slice(before);
        }
        signed.extend_from_slice(message);
        match self.first {
            true => signed.extend_from_slice(&self.key.variables(now, FUDGE, 0, &[])),
            // Later ones of an answer are held together by the one before (section 5.3.1).
            false => signed.extend_from_slice(&times(now, FUDGE)),
        }
        let mac = hmac::sign(&self.key.key, &signed).as_ref().to_vec();
        let id = [message[0], message[1]];
        let parts = (&self.key.name, &self.key.algorithm);
        append(message, parts, (now, FUDGE), &mac, id, 0, &[]);
        self.before = Some(mac);
        self.first = false;
    }
}

impl Signer<'_> {
    /// The answer to the message that was signed last, without its signature, if that is good (section 5.3).
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn verify(&self, packet: &[u8], now: u64) -> Result<Vec<u8>, String> {
        let key = self.key;
        let signature = Signature::find(packet).ok_or("the answer is not signed")?;
        match signature.error {
            BADKEY => return Err(format!("it does not know the key {}", key.name)),
            BADSIG => return Err(format!("its secret of the key {} is another one", key.name)),
            BADTIME => return Err("its clock or ours is wrong".to_owned()),
            _ => {}
        }
        let before = self.before.as_deref().unwrap_or_default();
        let message = signature
            .unsigned(packet)
            .ok_or("the answer's signature is malformed")?;
        let variables = key.variables(signature.time, signature.fudge, signature.error, &[]);
        let signed = [&length(before)[..], before, &message, &variables].concat();
        let ours = signature.key == key.name && signature.algorithm == key.algorithm;
        if !ours || hmac::verify(&key.key, &signed, &signature.mac).is_err() {
            return Err("the answer's signature is wrong".to_owned());
        }
        match signature.time.abs_diff(now) > u64::from(signature.fudge) {
            true => Err("its clock or ours is wrong".to_owned()),
            false => Ok(message),
        }
    }
}

impl Key {
    /// What is signed besides the message (section 4.3.3).
    fn variables(&self, time: u64, fudge: u16, error: u16, other: &[u8]) -> Vec<u8> {
        [
            self.name.wire(),
            &ANY.to_be_bytes(),
            &[0; 4],
            self.algorithm.wire(),
            &times(time, fudge),
            &error.to_be_bytes(),
            &length(other),
            other,
        ]
        .concat()
    }

    /// Bytes that a signature of this key adds to a message.
    pub(crate) fn overhead(&self) -> usize {
        self.name.wire().len() + self.algorithm.wire().len() + self.length + 26
    }
}

/// Appends the record and counts it.
fn append(
    message: &mut Vec<u8>,
    (key, algorithm): (&Name, &Name),
    (time, fudge): (u64, u16),
    mac: &[u8],
    id: [u8; 2],
    error: u16,
    other: &[u8],
) {
    message.extend_from_slice(key.wire());
    message.extend_from_slice(&TSIG.to_be_bytes());
    message.extend_from_slice(&ANY.to_be_bytes());
    message.extend_from_slice(&[0; 4]);
    let data = [
        algorithm.wire(),
        &times(time, fudge),
        &length(mac),
        mac,
        &id,
        &error.to_be_bytes(),
        &length(other),
        other,
    ]
    .concat();
    message.extend_from_slice(&length(&data));
    message.extend_from_slice(&data);
    let additional = u16::from_be_bytes([message[10], message[11]]).wrapping_add(1);
    message[10..12].copy_from_slice(&additional.to_be_bytes());
}

fn times(time: u64, fudge: u16) -> [u8; 8] {
    let time = time.to_be_bytes();
    let fudge = fudge.to_be_bytes();
    [
        time[2], time[3], time[4], time[5], time[6], time[7], fudge[0], fudge[1],
    ]
}

fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()
}

/// The last record of a message, when it is a signature.
#[derive(Debug)]
pub(crate) struct Signature {
    begin: usize,
    key: Name,
    algorithm: Name,
    time: u64,
    fudge: u16,
    mac: Vec<u8>,
    original_id: [u8; 2],
    error: u16,
}

impl Signature {
    fn find(packet: &[u8]) -> Option<Signature> {
        let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
        let mut at = 12;
        for _ in 0..word(4)? {
            at = name_end(packet, at)? + 4;
        }
        let records = usize::from(word(6)?) + usize::from(word(8)?) + usize::from(word(10)?);
        if word(10)? == 0 {
            return None;
        }
        for _ in 1..records {
            let end = name_end(packet, at)?;
            at = end + 10 + usize::from(word(end + 8)?);
        }
        let end = name_end(packet, at)?;
        if word(end)? != TSIG || word(end + 2)? != ANY || packet.get(end + 4..end + 8)? != [0; 4] {
            return None;
        }
        let data = packet.get(end + 10..end + 10 + usize::from(word(end + 8)?))?;
        if end + 10 + data.len() != packet.len() {
            return None;
        }
        let algorithm = name_end(data, 0)?;
        let fixed: &[u8; 10] = data.get(algorithm..algorithm + 10)?.try_into().ok()?;
        let size = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let mac = data.get(algorithm + 10..algorithm + 10 + size)?;
        let (rest, other) = data.get(algorithm + 10 + size..)?.split_first_chunk::<6>()?;
        if usize::from(u16::from_be_bytes([rest[4], rest[5]])) != other.len() {
            return None;
        }
        Some(Signature {
            begin: at,
            key: Name::from_wire(packet.get(at..end)?)?,
            algorithm: Name::from_wire(data.get(..algorithm)?)?,
            time: fixed[..6]
                .iter()
                .fold(0, |time, byte| time << 8 | u64::from(*byte)),
            fudge: u16::from_be_bytes([fixed[6], fixed[7]]),
            mac: mac.to_vec(),
            original_id: [rest[0], rest[1]],
            error: u16::from_be_bytes([rest[2], rest[3]]),
        })
    }

    /// The message as it was before it was signed.
    fn unsigned(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut message = packet.get(..self.begin)?.to_vec();
        message.get_mut(..2)?.copy_from_slice(&self.original_id);
        let additional = u16::from_be_bytes([*message.get(10)?, *message.get(11)?]);
        message
            .get_mut(10..12)?
            .copy_from_slice(&additional.checked_sub(1)?.to_be_bytes());
        Some(message)
    }
}

/// Where the name at `at` ends.
pub(crate) fn name_end(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            label @ 1..=63 => at += 1 + usize::from(label),
            0xC0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// The keys of a text; [`Keys::load`] says of what kind.
pub(crate) fn parse(text: &str) -> Result<Keys, String> {
    let mut words = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let spaced = line.replace(['{', '}', ';'], " ");
        // A secret may hold `//`, too: only a word of its own begins a comment.
        let plain = spaced
            .split_whitespace()
            .take_while(|word| !word.starts_with("//"));
        words.extend(plain.map(|word| word.trim_matches('"').to_owned()));
    }
    let mut keys = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word != "key" {
            return Err(format!("{word:?} stands where \"key\" should"));
        }
        let name = words.next().unwrap_or_default();
        let (mut algorithm, mut secret) = (None, None);
        for _ in 0..2 {
            match (words.next().as_deref(), words.next()) {
                (Some("algorithm"), Some(word)) => algorithm = Some(word),
                (Some("secret"), Some(word)) => secret = Some(word),
                _ => return Err(format!("the key {name:?} wants an algorithm and a secret")),
            }
        }
        keys.push(key(
            &name,
            &algorithm.unwrap_or_default(),
            &secret.unwrap_or_default(),
        )?);
    }
    match keys.is_empty() {
        true => Err("there is no key in it".to_owned()),
        false => Ok(Keys(keys)),
    }
}

fn key(name: &str, algorithm: &str, secret: &str) -> Result<Key, String> {
    let (kind, length) = match algorithm.to_ascii_lowercase().trim_end_matches('.') {
        "hmac-sha256" => (hmac::HMAC_SHA256, 32),
        "hmac-sha384" => (hmac::HMAC_SHA384, 48),
        "hmac-sha512" => (hmac::HMAC_SHA512, 64),
        _ => {
            return Err(format!(
                "the key {name:?} is of {algorithm:?}: hmac-sha256, hmac-sha384 or hmac-sha512 are taken"
            ));
        }
    };
    let parsed = |text: &str| text.parse::<Name>();
    let secret = BASE64_STANDARD
        .decode(secret)
        .map_err(|_| format!("the secret of the key {name:?} is not Base64"))?;
    if secret.len() < SHORTEST {
        return Err(format!(
            "the secret of the key {name:?} has fewer than {SHORTEST} bytes"
        ));
    }
    let key = hmac::Key::new(kind, &secret);
    Ok(Key {
        name: parsed(name).map_err(|error| format!("the key {name:?}: {error}"))?,
        algorithm: parsed(&algorithm.to_ascii_lowercase()).map_err(|error| error.to_string())?,
        digest: hmac::sign(&key, b"which key is it?").as_ref().to_vec(),
        key,
        length,
    })
}

const TSIG: u16 = 250;
const ANY: u16 = 255;
const FORMERR: u8 = 1;
const NOTAUTH: u8 = 9;
/// Why a signature is not believed (section 3).
const BADSIG: u16 = 16;
const BADKEY: u16 = 17;
const BADTIME: u16 = 18;
/// By how many seconds clocks may differ (section 10).
const FUDGE: u16 = 300;
/// 128 bits: fewer can be tried out.
const SHORTEST: usize = 16;

#[cfg(test)]
#[path = "tsig_tests.rs"]
mod tests;
