//! From a query to its response (RFC 1034 section 4.3.2, as the RFCs since then have made it more exact).

use std::net::IpAddr;

use crate::cookie::{CookieSecret, ServerCookie};
use crate::denial;
use crate::dnssec::{Records, Signer};
use crate::edns::{self, Edns};
use crate::name::{self, Target};
use crate::query::{self, Fault, Query};
use crate::rr::{IN, is_meta, rcode, rtype};
use crate::snapshot::{self, Node, Set, Snapshot};
use crate::writer::{QUESTION, Writer};

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: answers are limited in size.
    Udp,
    /// Over a connection.
    Tcp,
}

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The sender's address.
    pub address: IpAddr,
    /// How the query came.
    pub transport: Transport,
    /// Seconds of Unix time.
    pub now: u32,
    /// Which of several addresses comes first: a number that grows with each query.
    pub turn: u32,
    /// A signature may be made for it, where none is ready: it costs about as much as a hundred answers. Where it may not,
    /// the answer is "ask over TCP".
    pub may_sign: bool,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The name of this server, for those who ask for it (RFC 5001); empty: not told.
    pub nsid: Vec<u8>,
    /// What cookies are made with; `None`: there are none.
    pub cookies: Option<CookieSecret>,
}

/// What kind of response it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Nothing is sent.
    Silence,
    /// Records.
    Answer,
    /// The name exists and has no such records.
    NoData,
    /// There is no such name.
    NoName,
    /// Others know.
    Referral,
    /// Everything else.
    Error,
}

/// What became of a query; the response is in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What kind of response it is.
    pub verdict: Verdict,
    /// The response code.
    pub code: u16,
    /// The asker has shown, by a cookie, that its address is its own.
    pub known: bool,
    /// The answer did not fit, or was not to be signed now.
    pub truncated: bool,
    /// Signatures that were made for it.
    pub signed: u32,
}

const SILENCE: Outcome = Outcome {
    verdict: Verdict::Silence,
    code: 0,
    known: false,
    truncated: false,
    signed: 0,
};

/// Aliases that are followed in one answer.
const HOPS: usize = 16;

/// Answers `packet` into `out`, whose content is replaced.
pub fn answer(
    snapshot: &Snapshot,
    settings: &Settings,
    asker: &Asker,
    packet: &[u8],
    out: &mut Vec<u8>,
) -> Outcome {
    out.clear();
    let query = match query::parse(packet) {
        Ok(query) => query,
        Err(Fault::Silence) => return SILENCE,
        Err(Fault::Code(code)) => return bare(packet, code, out),
    };
    header(packet, out);
    out.extend_from_slice(query.question);
    let question_end = out.len();
    let mut reply = Reply::default();
    let mut cookie = None;
    let mut known = false;
    if let Some(Edns {
        cookie: Some((client, server)),
        version: 0,
        ..
    }) = query.edns
        && let Some(secret) = &settings.cookies
    {
        known = secret.is_good(client, server, asker.address, asker.now);
        cookie = Some((client, secret.make(client, asker.address, asker.now)));
    }
    reply.code = refusal(&query);
    if reply.code == rcode::NOERROR && !query.question.is_empty() {
        resolve(snapshot, &query, asker, out, &mut reply);
    }
    finish(&query, settings, asker, cookie, question_end, out, &mut reply);
    Outcome {
        verdict: reply.verdict(),
        code: reply.code,
        known,
        truncated: reply.truncated,
        signed: reply.signed,
    }
}

/// Cuts a response down to "ask again over TCP": no records, TC set. What EDNS says goes too: the asker who is told so
/// has not shown that it is who it says.
pub fn truncated(out: &mut Vec<u8>) {
    let question = out.get(QUESTION..).and_then(name::length);
    let end = QUESTION + question.map_or(0, |length| length + 4);
    out.truncate(end);
    if let Some(header) = out.first_chunk_mut::<QUESTION>() {
        header[2] |= 0x02;
        header[6..].fill(0);
    }
}

/// What is built up while a query is answered.
#[derive(Default)]
struct Reply {
    code: u16,
    authoritative: bool,
    truncated: bool,
    answers: u16,
    authorities: u16,
    additionals: u16,
    referral: bool,
    /// There is no such name, though the code may be another.
    no_name: bool,
    /// A signature is missing that was not to be made.
    unsigned: bool,
    signed: u32,
}

impl Reply {
    fn verdict(&self) -> Verdict {
        match self.code {
            rcode::NOERROR if self.no_name => Verdict::NoName,
            rcode::NOERROR if self.referral => Verdict::Referral,
            rcode::NOERROR if self.answers > 0 || self.truncated => Verdict::Answer,
            rcode::NOERROR => Verdict::NoData,
            rcode::NXDOMAIN => Verdict::NoName,
            _ => Verdict::Error,
        }
    }
}

/// A header alone, for what can't be understood.
fn bare(packet: &[u8], code: u16, out: &mut Vec<u8>) -> Outcome {
    header(packet, out);
    if let Some(header) = out.first_chunk_mut::<QUESTION>() {
        header[3] |= code as u8 & 0x0F;
        header[4..].fill(0);
    }
    Outcome {
        verdict: Verdict::Error,
        code,
        known: false,
        truncated: false,
        signed: 0,
    }
}

/// The query's header as a response: identifier, opcode, RD and CD as they came. RA is never set: there is no
/// recursion.
fn header(packet: &[u8], out: &mut Vec<u8>) {
    let Some(asked) = packet.first_chunk::<QUESTION>() else {
        return;
    };
    let mut header = *asked;
    header[2] = 0x80 | asked[2] & 0x79;
    header[3] = asked[3] & 0x10;
    header[6..].fill(0);
    out.extend_from_slice(&header);
}

/// What is refused before anybody looks for the name.
fn refusal(query: &Query<'_>) -> u16 {
    if query.edns.is_some_and(|edns| edns.version > 0) {
        rcode::BADVERS
    } else if query.signed {
        // No key of theirs is known here.
        rcode::NOTAUTH
    } else if query.question.is_empty() {
        rcode::NOERROR
    } else if query.class != IN || matches!(query.qtype, rtype::AXFR | rtype::IXFR) {
        rcode::REFUSED
    } else if query.qtype == rtype::NXNAME {
        // RFC 9824 section 3.5.
        rcode::FORMERR
    } else if is_meta(query.qtype) && query.qtype != rtype::ANY {
        rcode::NOTIMP
    } else {
        rcode::NOERROR
    }
}

fn resolve(snapshot: &Snapshot, query: &Query<'_>, asker: &Asker, out: &mut Vec<u8>, reply: &mut Reply) {
    let asked = query.name();
    let edns = query.edns.unwrap_or_default();
    let Some((encloser, node)) = snapshot.closest(asked) else {
        return reply.code = rcode::REFUSED;
    };
    reply.authoritative = true;
    // The common case: the name itself has what is asked for.
    if encloser.len() == asked.len()
        && !node.cut
        && let Some(set) = node.set(query.qtype)
    {
        let (set, turn) = set.at(asker.turn);
        reply.answers = set.data.len() as u16;
        copy_turned(set, turn, out);
        if let Some(signature) = set.signature.as_ref().filter(|_| edns.dnssec) {
            reply.answers += 1;
            out.extend_from_slice(&signature.ready);
        }
        return;
    }
    let mut resolver = Resolver {
        snapshot,
        qtype: query.qtype,
        signing: snapshot.signer.as_deref().filter(|_| edns.dnssec),
        compact: edns.compact,
        asker,
        zone: node.zone,
        redirects: [0; HOPS],
        writer: Writer::new(out),
        reply,
    };
    resolver.run(asked);
}

/// Copies the prebuilt records, beginning with another each time when they are addresses: those are all equally long.
fn copy_turned(set: &Set, turn: usize, out: &mut Vec<u8>) {
    let records = set.data.len();
    let first = match set.rtype {
        rtype::A | rtype::AAAA if records > 1 => turn % records * (set.ready.len() / records),
        _ => 0,
    };
    let (end, begin) = set.ready.split_at(first.min(set.ready.len()));
    out.extend_from_slice(begin);
    out.extend_from_slice(end);
}

struct Resolver<'a, 'b> {
    snapshot: &'a Snapshot,
    qtype: u16,
    /// What signs, when the zone is signed and the asker wants it.
    signing: Option<&'a Signer>,
    compact: bool,
    asker: &'a Asker,
    zone: usize,
    /// Whose DNAME was answered already, by the numbers of the names: it is the same record on the next hop.
    redirects: [u64; HOPS],
    writer: Writer<'b>,
    reply: &'b mut Reply,
}

impl<'a> Resolver<'a, '_> {
    /// Answers for `asked`, following aliases as far as they stay in the zone.
    fn run(&mut self, asked: &[u8]) {
        let mut seen = [0; HOPS];
        let mut target: Option<Target> = None;
        for hop in 0..HOPS {
            let name = target.as_ref().map_or(asked, Target::name);
            let number = snapshot::number(name);
            if seen[..hop].contains(&number) {
                return;
            }
            seen[hop] = number;
            match self.step(name, hop > 0) {
                Some(next) => target = Some(next),
                None => return,
            }
        }
    }

    /// Answers for one name; gives the name to go on with.
    fn step(&mut self, name: &[u8], followed: bool) -> Option<Target> {
        let snapshot = self.snapshot;
        let (encloser, node) = snapshot.closest(name)?;
        if node.zone != self.zone {
            return None;
        }
        if encloser.len() == name.len() {
            return self.at(name, node, true, followed);
        }
        if node.cut {
            self.refer(encloser, node, followed);
            return None;
        }
        if let Some(dname) = node.set(rtype::DNAME) {
            return self.redirect(name, encloser, dname);
        }
        let wildcard = Target::new(b"\x01*", encloser)
            .and_then(|wildcard| snapshot.nodes.get(wildcard.name()))
            .filter(|node| node.zone == self.zone);
        match wildcard {
            Some(node) => self.at(name, node, false, followed),
            None => {
                self.reply.no_name = true;
                // The proof says that nothing is at the name, and that there is none (RFC 9824 section 3.1).
                if self.signing.is_none() || self.compact {
                    self.reply.code = rcode::NXDOMAIN;
                }
                self.negative(name, None, false);
                None
            }
        }
    }

    /// Answers from a node that stands for `name`: its `own`, or a wildcard's.
    fn at(&mut self, name: &[u8], node: &'a Node, own: bool, followed: bool) -> Option<Target> {
        let mut node = node;
        if self.qtype == rtype::DS && !followed {
            // A name that is both cut and apex here: the parent's side answers.
            if let Some(delegation) = self.snapshot.delegations.get(name) {
                node = delegation;
                self.zone = node.zone;
            }
        } else if node.cut {
            self.refer(name, node, followed);
            return None;
        }
        if self.signing.is_some()
            && let Some(set) = self.one_of_many(node, own)
        {
            self.set(name, set, own);
            return None;
        }
        if self.qtype == rtype::RRSIG
            && let Some(signature) = node
                .sets
                .iter()
                .find_map(|set| set.signature.as_ref())
                .filter(|_| own)
        {
            // One of them, as for ANY: who wants them all would have them sent to somebody else.
            let ttl = node
                .sets
                .iter()
                .find(|set| set.signature.is_some())
                .map_or(0, |set| set.ttl);
            self.writer.record(name, rtype::RRSIG, ttl, &signature.data);
            self.reply.answers += 1;
            return None;
        }
        if self.qtype == rtype::ANY && !node.sets.is_empty() {
            // RFC 8482 section 4.2.
            self.writer.record(name, rtype::HINFO, 3789, b"\x07RFC8482\x00");
            self.reply.answers += 1;
            return None;
        }
        if let Some(set) = node.set(self.qtype) {
            self.set(name, set, own);
            return None;
        }
        let alias = node
            .set(rtype::CNAME)
            .and_then(|set| set.data.first().map(|data| (set, data)));
        match alias {
            Some((set, target)) => {
                self.set(name, set, own);
                Target::new(target, &[])
            }
            None => {
                self.negative(name, Some(node), own);
                None
            }
        }
    }

    /// For one who wants signatures: what is answered to a question for all, where HINFO could not be signed beforehand
    /// (RFC 8482 section 4.1), and the proof, for one who asks for that itself.
    fn one_of_many(&self, node: &'a Node, own: bool) -> Option<&'a Set> {
        match self.qtype {
            rtype::ANY => node.sets.iter().find(|set| set.signature.is_some()),
            rtype::NSEC if own => node.nsec.as_deref(),
            _ => None,
        }
    }

    fn set(&mut self, name: &[u8], set: &Set, own: bool) {
        let (set, turn) = set.at(self.asker.turn);
        let first = match set.rtype {
            rtype::A | rtype::AAAA => turn % set.data.len().max(1),
            _ => 0,
        };
        let (end, begin) = set.data.split_at(first.min(set.data.len()));
        for data in begin.iter().chain(end) {
            self.writer.record(name, set.rtype, set.ttl, data);
        }
        self.reply.answers += set.data.len() as u16;
        if self.signing.is_none() {
            return;
        }
        let made = match &set.signature {
            None => return,
            Some(ready) if own => {
                self.writer.record(name, rtype::RRSIG, set.ttl, &ready.data);
                true
            }
            // A wildcard's records are signed as if the name had them, so that nothing has to be proved besides.
            Some(_) => self.sign(name, set.rtype, set.ttl, &set.data),
        };
        self.reply.answers += u16::from(made);
    }

    /// Adds a signature that is made now. Says whether it was.
    fn sign<D: AsRef<[u8]>>(&mut self, owner: &[u8], rtype: u16, ttl: u32, data: &[D]) -> bool {
        let (Some(signer), Some(apex)) = (self.signing, self.snapshot.zones.get(self.zone)) else {
            return false;
        };
        let records = Records {
            apex: &apex.name,
            owner,
            rtype,
            ttl,
            data,
        };
        match signer.sign_now(&records, u64::from(self.asker.now), self.asker.may_sign) {
            Some((signature, new)) => {
                self.writer.record(owner, rtype::RRSIG, ttl, &signature);
                self.reply.signed += u32::from(new);
                true
            }
            None => {
                self.reply.unsigned = true;
                false
            }
        }
    }

    /// A DNAME, and the alias that follows from it for this name (RFC 6672 section 3.1).
    fn redirect(&mut self, name: &[u8], owner: &[u8], dname: &Set) -> Option<Target> {
        let number = snapshot::number(owner);
        if !self.redirects.contains(&number) {
            self.redirects.rotate_right(1);
            self.redirects[0] = number;
            self.set(owner, dname, true);
        }
        let labels = name.get(..name.len() - owner.len())?;
        let target = dname.data.first().and_then(|data| Target::new(labels, data));
        let Some(target) = target else {
            self.reply.code = rcode::YXDOMAIN;
            return None;
        };
        self.writer.record(name, rtype::CNAME, dname.ttl, target.name());
        self.reply.answers += 1;
        (self.qtype != rtype::CNAME && self.qtype != rtype::ANY).then_some(target)
    }

    /// Others know: the name servers at the cut and, where they are needed, their addresses.
    fn refer(&mut self, cut: &[u8], node: &Node, followed: bool) {
        self.reply.authoritative = followed;
        self.reply.referral = !followed;
        for set in node.sets.iter().filter(|set| set.rtype == rtype::NS) {
            for data in &set.data {
                self.writer.record(cut, set.rtype, set.ttl, data);
            }
            self.reply.authorities += set.data.len() as u16;
        }
        if self.signing.is_some() {
            // Whether the other zone is signed too, or the proof that it is not.
            let set = node.set(rtype::DS).or(node.nsec.as_deref());
            if let Some(set) = set {
                self.authority(cut, set);
            }
        }
        for glue in &node.glue {
            self.writer.record(&glue.owner, glue.rtype, glue.ttl, &glue.data);
            self.reply.additionals += 1;
        }
    }

    /// A set and its signature, where proofs stand.
    fn authority(&mut self, owner: &[u8], set: &Set) {
        for data in &set.data {
            self.writer.record(owner, set.rtype, set.ttl, data);
        }
        self.reply.authorities += set.data.len() as u16;
        if let Some(signature) = &set.signature {
            self.writer.record(owner, rtype::RRSIG, set.ttl, &signature.data);
            self.reply.authorities += 1;
        }
    }

    /// The SOA record, which says how long a "no" may be remembered, and the proof of it. `node` is what stands for the
    /// name, if anything does: its `own`, or a wildcard's.
    fn negative(&mut self, name: &[u8], node: Option<&'a Node>, own: bool) {
        let snapshot = self.snapshot;
        let Some(apex) = snapshot.zones.get(self.zone) else {
            return;
        };
        let ttl = apex.negative_ttl;
        self.writer.record(&apex.name, rtype::SOA, ttl, &apex.soa);
        self.reply.authorities += 1;
        let Some(signature) = apex.signature.as_ref().filter(|_| self.signing.is_some()) else {
            return;
        };
        self.writer.record(&apex.name, rtype::RRSIG, ttl, signature);
        self.reply.authorities += 1;
        let nsec = node.and_then(|node| node.nsec.as_deref());
        let data = match nsec {
            Some(nsec) if own => return self.authority(name, nsec),
            Some(nsec) => {
                let data = nsec.data.first().map(|data| &data[..]).unwrap_or_default();
                denial::for_name(&apex.name, name, data)
            }
            None => denial::no_name(&apex.name, name),
        };
        self.writer.record(name, rtype::NSEC, ttl, &data);
        let signed = self.sign(name, rtype::NSEC, ttl, &[data]);
        self.reply.authorities += 1 + u16::from(signed);
    }
}

/// Sees to the size, adds EDNS, and writes the counts.
fn finish(
    query: &Query<'_>,
    settings: &Settings,
    asker: &Asker,
    cookie: Option<([u8; 8], ServerCookie)>,
    question_end: usize,
    out: &mut Vec<u8>,
    reply: &mut Reply,
) {
    let limit = match (asker.transport, query.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, Some(edns)) => usize::from(edns.size.min(crate::UDP_LIMIT)),
        (Transport::Udp, None) => 512,
    };
    let body_end = out.len();
    if let Some(edns) = &query.edns {
        edns::write(out, edns, reply.code, cookie, &settings.nsid);
        reply.additionals += 1;
    }
    if out.len() > limit || reply.unsigned {
        // Nothing rather than a part: what is not whole is of no use to the asker, and would be more to forge with.
        out.drain(question_end..body_end);
        reply.truncated = true;
        (reply.answers, reply.authorities) = (0, 0);
        reply.additionals = u16::from(query.edns.is_some());
    }
    if let Some(header) = out.first_chunk_mut::<QUESTION>() {
        header[2] |= if reply.authoritative { 0x04 } else { 0 } | if reply.truncated { 0x02 } else { 0 };
        header[3] |= reply.code as u8 & 0x0F;
        header[4..6].copy_from_slice(&u16::from(!query.question.is_empty()).to_be_bytes());
        header[6..8].copy_from_slice(&reply.answers.to_be_bytes());
        header[8..10].copy_from_slice(&reply.authorities.to_be_bytes());
        header[10..12].copy_from_slice(&reply.additionals.to_be_bytes());
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
