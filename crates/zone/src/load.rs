//! From the text of a zone file to a [`Zone`].

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;

use domain::base::iana::{Class, Rtype};
use domain::base::name::Name as DomainName;
use domain::base::rdata::ComposeRecordData;
use domain::base::scan::IterScanner;
use domain::rdata::ZoneRecordData;

use crate::name::Name;
use crate::rr::{self, rtype};
use crate::scan::{self, Entry, Scanner, Word};
use crate::zone::Zone;

/// Why a zone file is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub struct ZoneError {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1: where the record begins, or the end of the file when something is missing from all of it.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// How deep $INCLUDE may nest.
const DEPTH: usize = 8;

/// For records of a file that says nothing about it.
const DEFAULT_TTL: u32 = 3600;

/// Reads a zone file.
///
/// `apex` is the zone's name and the first $ORIGIN. `include` gives the content of a file that is named by $INCLUDE.
///
/// # Errors
/// The first thing that is wrong: syntax (RFC 1035 section 5), a record outside of the zone, no SOA or NS record at
/// the apex, a CNAME with other data beside it (RFC 2181 section 10.1), names below a DNAME (RFC 6672 section 2.4), NS or
/// DNAME at a wildcard (RFC 4592 section 4), or records that only a signer makes.
pub fn load(
    apex: &Name,
    file: &str,
    text: &[u8],
    include: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
) -> Result<Zone, ZoneError> {
    let mut loader = Loader {
        zone: Zone::new(apex.clone()),
        lines: Vec::new(),
        include,
    };
    let end = loader.file(file, text, apex.clone(), 0)?;
    loader.check(end)
}

struct Loader<'a> {
    zone: Zone,
    /// Where each record stands, for what can be said only when all are known.
    lines: Vec<(Name, u16, Place)>,
    include: &'a mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
}

#[derive(Clone)]
struct Place {
    file: Arc<str>,
    line: usize,
}

impl Place {
    fn wrong(&self, reason: impl Into<String>) -> ZoneError {
        ZoneError {
            file: self.file.to_string(),
            line: self.line,
            reason: reason.into(),
        }
    }
}

/// What a record may leave out because it was said before.
struct Before {
    origin: Name,
    owner: Option<Name>,
    /// By $TTL.
    fixed: Option<u32>,
    /// By the last record that said one.
    last: Option<u32>,
}

impl Loader<'_> {
    /// Takes in one file; gives the place of its end.
    fn file(&mut self, file: &str, text: &[u8], origin: Name, depth: usize) -> Result<Place, ZoneError> {
        let file: Arc<str> = file.into();
        let at = |line| Place {
            file: Arc::clone(&file),
            line,
        };
        let text = std::str::from_utf8(text).map_err(|error| {
            let good = text.get(..error.valid_up_to()).unwrap_or_default();
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
            at(line).wrong("not UTF-8; bytes that are no letters are written \\DDD")
        })?;
        let mut scanner = Scanner::new(text);
        let mut before = Before {
            origin,
            owner: None,
            fixed: None,
            last: None,
        };
        loop {
            let entry = scanner.next().map_err(|(line, reason)| at(line).wrong(reason))?;
            let Some(entry) = entry else {
                return Ok(at(scanner.line()));
            };
            let place = at(entry.line);
            let directive = entry
                .words
                .first()
                .filter(|word| !word.quoted && word.text.starts_with('$'));
            match directive {
                Some(word) if !entry.indented => {
                    let directive = word.text.to_ascii_uppercase();
                    self.directive(&directive, &entry, &mut before, depth, &place)?;
                }
                _ => self.record(&entry, &mut before, place)?,
            }
        }
    }

    fn directive(
        &mut self,
        directive: &str,
        entry: &Entry<'_>,
        before: &mut Before,
        depth: usize,
        place: &Place,
    ) -> Result<(), ZoneError> {
        match (directive, &entry.words[1..]) {
            ("$ORIGIN", [origin]) => before.origin = absolute(origin, &before.origin, place)?,
            ("$TTL", [text]) => {
                before.fixed = Some(
                    scan::ttl(text.text)
                        .ok_or_else(|| place.wrong(format!("{:?} is not a TTL", text.text)))?,
                );
            }
            ("$INCLUDE", [path, origin @ ..]) if origin.len() <= 1 => {
                if depth == DEPTH {
                    return Err(place.wrong("$INCLUDE goes too deep: a file that includes itself?"));
                }
                let origin = match origin.first() {
                    Some(origin) => absolute(origin, &before.origin, place)?,
                    None => before.origin.clone(),
                };
                let content = (self.include)(path.text)
                    .map_err(|error| place.wrong(format!("$INCLUDE {}: {error}", path.text)))?;
                self.file(path.text, &content, origin, depth + 1)?;
            }
            ("$ORIGIN" | "$TTL" | "$INCLUDE", _) => {
                return Err(place.wrong(format!("{directive} with too few or too many words")));
            }
            _ => return Err(place.wrong(format!("{directive} is not $ORIGIN, $TTL or $INCLUDE"))),
        }
        Ok(())
    }

    fn record(&mut self, entry: &Entry<'_>, before: &mut Before, place: Place) -> Result<(), ZoneError> {
        let mut words = &entry.words[..];
        let owner = match (entry.indented, words) {
            (false, [owner, rest @ ..]) => {
                words = rest;
                absolute(owner, &before.origin, &place)?
            }
            _ => before
                .owner
                .clone()
                .ok_or_else(|| place.wrong("begins with a space, and no record stands before it"))?,
        };
        before.owner = Some(owner.clone());
        let mut said = None;
        let kind = loop {
            let [word, rest @ ..] = words else {
                return Err(place.wrong("a record without a type"));
            };
            words = rest;
            if word.quoted {
                return Err(place.wrong("a record without a type"));
            } else if let Some(ttl) = scan::ttl(word.text) {
                said = Some(ttl);
            } else if let Ok(class) = Class::from_str(word.text) {
                if class != Class::IN {
                    return Err(place.wrong(format!("class {class} is not IN")));
                }
            } else {
                break Rtype::from_str(word.text)
                    .map_err(|_| place.wrong(format!("{:?} is not a type of records", word.text)))?;
            }
        };
        before.last = said.or(before.last);
        let ttl = said.or(before.fixed).or(before.last).unwrap_or(DEFAULT_TTL);
        if ttl > i32::MAX.unsigned_abs() {
            return Err(place.wrong(format!("TTL {ttl} is over 2147483647")));
        }
        self.may_be(&owner, kind, &place)?;
        let data = data(kind, words, &before.origin, &place)?;
        if u16::try_from(data.len()).is_err() {
            return Err(place.wrong("the data is longer than 65,535 bytes"));
        }
        let number = kind.to_int();
        let once = [rtype::SOA, rtype::CNAME, rtype::DNAME].contains(&number);
        if let Some(set) = self.zone.get(&owner, number)
            && once
            && set.data.iter().any(|known| **known != *data)
        {
            return Err(place.wrong(format!("a second {kind} at {owner}")));
        }
        self.zone.add(owner.clone(), number, ttl, data.into());
        self.lines.push((owner, number, place));
        Ok(())
    }

    /// Whether a zone may have records of this type at this name.
    fn may_be(&self, owner: &Name, kind: Rtype, place: &Place) -> Result<(), ZoneError> {
        let number = kind.to_int();
        if !owner.is_in(self.zone.apex()) {
            return Err(place.wrong(format!("{owner} is not in the zone {}", self.zone.apex())));
        }
        if rr::is_meta(number) {
            return Err(place.wrong(format!("{kind} is a type for questions, not for records")));
        }
        if [rtype::RRSIG, rtype::NSEC, rtype::NSEC3, rtype::NSEC3PARAM].contains(&number) {
            return Err(place.wrong(format!(
                "{kind}: a signed zone file cannot be served; give it unsigned"
            )));
        }
        if owner.is_wildcard() && [rtype::NS, rtype::DNAME].contains(&number) {
            return Err(place.wrong(format!("{kind} at a wildcard has no meaning (RFC 4592)")));
        }
        Ok(())
    }

    fn check(self, end: Place) -> Result<Zone, ZoneError> {
        let Loader { zone, lines, .. } = self;
        let apex = zone.apex();
        let dnames: BTreeSet<&Name> = lines
            .iter()
            .filter(|(_, kind, _)| *kind == rtype::DNAME)
            .map(|(owner, ..)| owner)
            .collect();
        let mut alone = BTreeMap::new();
        for (owner, kind, place) in &lines {
            if *kind == rtype::SOA && owner != apex {
                return Err(place.wrong(format!("SOA at {owner}, which is not the zone's own name")));
            }
            let cname = *kind == rtype::CNAME;
            if *alone.entry(owner).or_insert(cname) != cname {
                return Err(place.wrong(format!(
                    "{owner} has a CNAME and other records (RFC 2181 section 10.1)"
                )));
            }
            let mut above = owner.parent().filter(|_| owner != apex);
            while let Some(name) = above {
                if dnames.contains(&name) {
                    return Err(place.wrong(format!("{owner} is below the DNAME at {name} (RFC 6672)")));
                }
                above = name.parent().filter(|_| &name != apex);
            }
        }
        for (kind, what) in [(rtype::SOA, "SOA"), (rtype::NS, "NS")] {
            if zone.get(apex, kind).is_none() {
                return Err(end.wrong(format!("no {what} record for {apex}")));
            }
        }
        Ok(zone)
    }
}

/// A name as typed: relative ones are below `origin`, `@` is `origin`.
fn absolute(word: &Word<'_>, origin: &Name, place: &Place) -> Result<Name, ZoneError> {
    spelled(word, origin)
        .parse()
        .map_err(|error: crate::BadName| place.wrong(error.to_string()))
}

fn spelled(word: &Word<'_>, origin: &Name) -> String {
    let text = word.text;
    // A dot at the end that is not escaped itself.
    let backslashes = |text: &str| text.len() - text.trim_end_matches('\\').len();
    match text.strip_suffix('.') {
        _ if text == "@" && !word.quoted => format!("{origin}."),
        Some(before) if backslashes(before) % 2 == 0 => text.to_owned(),
        _ if origin.wire().len() == 1 => format!("{text}."),
        _ => format!("{text}.{origin}."),
    }
}

/// Which words of a record's data are names. Names of other types would be taken as absolute.
fn names(kind: Rtype) -> &'static [usize] {
    match kind {
        Rtype::NS
        | Rtype::CNAME
        | Rtype::DNAME
        | Rtype::PTR
        | Rtype::MB
        | Rtype::MD
        | Rtype::MF
        | Rtype::MG
        | Rtype::MR => &[0],
        Rtype::SOA | Rtype::MINFO | Rtype::RP => &[0, 1],
        Rtype::MX | Rtype::KX | Rtype::AFSDB | Rtype::RT | Rtype::SVCB | Rtype::HTTPS => &[1],
        Rtype::SRV => &[3],
        Rtype::NAPTR => &[5],
        _ => &[],
    }
}

/// A record's data in wire form.
fn data(kind: Rtype, words: &[Word<'_>], origin: &Name, place: &Place) -> Result<Vec<u8>, ZoneError> {
    if let [mark, length, hex @ ..] = words
        && mark.text == "\\#"
    {
        return unknown(kind, length, hex).ok_or_else(|| {
            place.wrong(format!("{kind}: \\# wants a length and as many bytes in hexadecimal (RFC 3597); a type with names wants its own form"))
        });
    }
    if words.is_empty() {
        return Err(place.wrong(format!("{kind} without data")));
    }
    let mut texts: Vec<String> = words.iter().map(|word| word.text.to_owned()).collect();
    for at in names(kind) {
        if let (Some(text), Some(word)) = (texts.get_mut(*at), words.get(*at)) {
            absolute(word, origin, place)?;
            *text = spelled(word, origin);
        }
    }
    if kind == Rtype::SOA {
        for text in texts.iter_mut().skip(2) {
            *text = scan::ttl(text)
                .ok_or_else(|| place.wrong(format!("SOA: {text:?} is not a number")))?
                .to_string();
        }
    }
    let mut scanner = IterScanner::<_, Vec<u8>>::new(texts);
    let data: ZoneRecordData<Vec<u8>, DomainName<Vec<u8>>> =
        ZoneRecordData::scan(kind, &mut scanner).map_err(|error| place.wrong(format!("{kind}: {error}")))?;
    if !scanner.is_exhausted() {
        return Err(place.wrong(format!("{kind}: more words than it takes")));
    }
    let mut wire = Vec::new();
    let Ok(()) = data.compose_rdata(&mut wire);
    Ok(wire)
}

/// Data of any type as bytes (RFC 3597 section 5).
fn unknown(kind: Rtype, length: &Word<'_>, hex: &[Word<'_>]) -> Option<Vec<u8>> {
    let digits: String = hex.iter().map(|word| word.text).collect();
    if !names(kind).is_empty() || !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect::<Option<_>>()?;
    let fits = match kind {
        Rtype::A => bytes.len() == 4,
        Rtype::AAAA => bytes.len() == 16,
        _ => true,
    };
    (fits && length.text.parse() == Ok(bytes.len())).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "$TTL 3600\n@ IN SOA ns1 hostmaster 1 7200 900 1209600 300\n@ NS ns1\nns1 A 192.0.2.1\n";

    fn read(text: &str) -> Result<Zone, ZoneError> {
        let apex = "example.com".parse().unwrap();
        load(&apex, "test.zone", text.as_bytes(), &mut |path| match path {
            "more" => Ok(b"www A 192.0.2.7\n".to_vec()),
            "bad" => Ok(b"\n\nwww A 192.0.2.777\n".to_vec()),
            "loop" => Ok(b"$INCLUDE loop\n".to_vec()),
            _ => Err("no such file".to_owned()),
        })
    }

    fn refused(text: &str) -> String {
        read(&format!("{HEAD}{text}")).unwrap_err().to_string()
    }

    #[test]
    fn a_zone_is_read() {
        let zone = read(&format!(
            "{HEAD}www 60 IN A 192.0.2.2\n  AAAA 2001:db8::1\n@ MX 10 (\n mail\n )\n$INCLUDE more sub\n$ORIGIN x\na TXT \"b c\""
        ));
        let zone = zone.unwrap();
        let name = |text: &str| text.parse::<Name>().unwrap();
        assert_eq!(
            zone.get(&name("www.example.com"), rtype::A).unwrap().data,
            [Box::from([192, 0, 2, 2])]
        );
        assert_eq!(zone.get(&name("www.example.com"), rtype::A).unwrap().ttl, 60);
        assert!(zone.get(&name("www.example.com"), rtype::AAAA).is_some());
        assert!(zone.get(&name("www.sub.example.com"), rtype::A).is_some());
        assert!(zone.get(&name("a.x.example.com"), rtype::TXT).is_some());
        assert_eq!(zone.serial(), Some(1));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, said) in [
            ("www A 192.0.2.256\n", "test.zone:5: "),
            ("\n\nwww A\n", "test.zone:7: "),
            (
                "a A 192.0.2.1\nb.example.org. A 192.0.2.1\n",
                "test.zone:6: b.example.org is not in the zone",
            ),
            (
                "a TXT (\n x\n )\n\nb CNAME a\nb A 192.0.2.1\n",
                "test.zone:10: b.example.com has a CNAME and",
            ),
            (
                "b A 192.0.2.1\nb CNAME a",
                "test.zone:6: b.example.com has a CNAME and",
            ),
            (
                "b CNAME a\nb CNAME c\n",
                "test.zone:6: a second CNAME at b.example.com",
            ),
            ("@ CNAME b\n", "test.zone:5: example.com has a CNAME and"),
            (
                "@ SOA ns1 hostmaster 2 7200 900 1209600 300\n",
                "test.zone:5: a second SOA",
            ),
            (
                "x SOA ns1 hostmaster 1 7200 900 1209600 300\n",
                "test.zone:5: SOA at x.example.com",
            ),
            ("d DNAME e\na.d A 192.0.2.1\n", "below the DNAME at d.example.com"),
            ("*.x NS ns1\n", "NS at a wildcard"),
            ("x NSEC a A\n", "a signed zone file cannot be served"),
            ("x CH TXT a\n", "test.zone:5: "),
            ("x TYPE255 \\# 0\n", "a type for questions"),
            ("x FOO a\n", "\"FOO\" is not a type of records"),
            ("x TXT\n", "TXT without data"),
            ("x A 192.0.2.1 x\n", "more words than it takes"),
            ("x A \\# 3 010203\n", "wants a length"),
            ("x TYPE777 \\# 3 01020\n", "wants a length"),
            ("x \"\" A 192.0.2.1\n", "without a type"),
            ("$FOO a\n", "$FOO is not"),
            ("$TTL x\n", "not a TTL"),
            ("$ORIGIN\n", "too few"),
            ("$INCLUDE none\n", "test.zone:5: $INCLUDE none: no such file"),
            ("$INCLUDE bad\n", "bad:3: "),
            ("$INCLUDE loop\n", "loop:1: $INCLUDE goes too deep"),
            ("x TXT (a\n", "test.zone:"),
            ("x TXT \"a\n", "test.zone:"),
        ] {
            let error = refused(text);
            assert!(error.contains(said), "{text:?} gave {error:?}");
        }
        assert_eq!(
            read("@ NS a.example.org.\n").unwrap_err().to_string(),
            "test.zone:2: no SOA record for example.com"
        );
        assert!(
            read("@ SOA a b 1 2 3 4 5\n")
                .unwrap_err()
                .to_string()
                .contains("no NS record")
        );
        assert!(read("").is_err());
    }

    #[test]
    fn the_serial_is_put_in_place() {
        let mut zone = read(HEAD).unwrap();
        zone.set_serial(0xDEAD_BEEF);
        assert_eq!(zone.serial(), Some(0xDEAD_BEEF));
    }
}
