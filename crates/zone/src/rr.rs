//! Numbers of the protocol, and where the names stand in a record's data.

/// Types of records (IANA, "Resource Record (RR) TYPEs").
#[allow(missing_docs)]
pub mod rtype {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const HINFO: u16 = 13;
    pub const MINFO: u16 = 14;
    pub const MX: u16 = 15;
    pub const TXT: u16 = 16;
    pub const RP: u16 = 17;
    pub const AFSDB: u16 = 18;
    pub const RT: u16 = 21;
    pub const PX: u16 = 26;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const NAPTR: u16 = 35;
    pub const KX: u16 = 36;
    pub const DNAME: u16 = 39;
    pub const OPT: u16 = 41;
    pub const DS: u16 = 43;
    pub const RRSIG: u16 = 46;
    pub const NSEC: u16 = 47;
    pub const DNSKEY: u16 = 48;
    pub const NSEC3: u16 = 50;
    pub const NSEC3PARAM: u16 = 51;
    pub const CDS: u16 = 59;
    pub const CDNSKEY: u16 = 60;
    pub const NXNAME: u16 = 128;
    pub const CAA: u16 = 257;
    pub const TSIG: u16 = 250;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// Response codes (IANA, "DNS RCODEs").
#[allow(missing_docs)]
pub mod rcode {
    pub const NOERROR: u16 = 0;
    pub const FORMERR: u16 = 1;
    pub const SERVFAIL: u16 = 2;
    pub const NXDOMAIN: u16 = 3;
    pub const NOTIMP: u16 = 4;
    pub const REFUSED: u16 = 5;
    pub const YXDOMAIN: u16 = 6;
    pub const NOTAUTH: u16 = 9;
    pub const BADVERS: u16 = 16;
    pub const BADCOOKIE: u16 = 23;
}

/// Class IN.
pub(crate) const IN: u16 = 1;

/// Whether a type is for questions and transport only and can't stand in a zone (RFC 6895 section 3.1).
pub(crate) fn is_meta(rtype: u16) -> bool {
    rtype == 0 || rtype == rtype::OPT || (128..=255).contains(&rtype)
}

/// Where compressible names begin in the data of a record, and how many follow each other there. Only the types of
/// RFC 1035 may be compressed (RFC 3597 section 4).
pub(crate) fn names_in(rtype: u16) -> Option<(usize, usize)> {
    match rtype {
        rtype::NS | rtype::CNAME | rtype::PTR => Some((0, 1)),
        rtype::SOA => Some((0, 2)),
        rtype::MX => Some((2, 1)),
        _ => None,
    }
}
