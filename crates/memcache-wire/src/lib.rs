//! Memcached's protocols as version 1.6 speaks them (its `doc/protocol.txt` and `doc/protocol-binary.xml`), and which of
//! several servers a key belongs to.
//!
//! **In:** bytes of a client, in any pieces; bytes of a memcached. **Out:** whole requests with the place of their keys, and
//! whole answers; what a request that is wrong is answered with, which is memcached's own words; the server of a key.
//!
//! **Must never:** do I/O or read a clock; hold more than one request of [`MAX_ITEM_BYTES`] and a line; lose the place in
//! the stream where memcached would not, or go on where memcached closes the connection.
//!
//! [`requests`] splits a client's bytes, by [`text`] (with the meta commands) or [`binary`]; [`answers`] splits a server's.
//! [`place`] has the rings.

pub mod answers;
pub mod binary;
pub mod place;
pub mod requests;
pub mod text;

/// The longest key (`KEY_MAX_LENGTH`).
pub const MAX_KEY_BYTES: usize = 250;
/// The longest value: memcached's own default (`-I 1m`), which is what the servers run with.
pub const MAX_ITEM_BYTES: usize = 1 << 20;
