//! DNS zones, and what an authoritative server answers from them.
//!
//! **In:** the text of a zone file (RFC 1035 section 5) becomes a [`Zone`], several zones become a [`Snapshot`], and
//! [`answer()`] takes a snapshot and the bytes of a query. **Out:** the bytes of the response, or nothing where
//! nothing may be said. What depends on the moment (time, who asks, whose turn it is in the rotation) is an argument.
//!
//! **Must never:** recurse, or say anything about names outside its zones but REFUSED; answer a response (QR = 1): two
//! servers would talk to each other for ever; give a part of an RRset: what does not fit is left out whole, with TC;
//! allocate on the way of a common query; panic on any input.

mod answer;
mod compile;
mod cookie;
mod denial;
mod dnssec;
mod edns;
mod load;
mod name;
mod query;
mod rate;
mod rr;
mod scan;
mod snapshot;
mod turns;
mod writer;
mod zone;

pub use answer::{Asker, Outcome, Settings, Transport, Verdict, answer, truncated};
pub use cookie::CookieSecret;
pub use dnssec::{Signatures, Signer};
pub use load::{ZoneError, load};
pub use name::{BadName, Name};
pub use rate::{Limit, RateLimiter};
pub use rr::{rcode, rtype};
pub use snapshot::Snapshot;
pub use turns::MAX_WEIGHT;
pub use zone::{Rrset, Zone};

/// What is never exceeded over UDP, whatever the asker offers: it fits through every usual path unfragmented (DNS
/// flag day 2020).
pub const UDP_LIMIT: u16 = 1232;
