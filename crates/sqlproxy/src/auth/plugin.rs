//! Authentication plugins by name, and what is fixed about them.

/// MySQL's plugin of 4.1 to 8.x, MariaDB's usual one.
pub const NATIVE: &str = "mysql_native_password";
/// MySQL's since 8.0.
pub const SHA2: &str = "caching_sha2_password";
/// MySQL's of 5.6, deprecated. MySQL also names it to users that it does not know, so that they look like others.
pub const SHA256: &str = "sha256_password";
/// MariaDB's `ed25519`, as it is called on the wire.
pub const ED25519: &str = "client_ed25519";
/// MariaDB's since 11.6.
pub const PARSEC: &str = "parsec";

/// Length of the challenge of [`NATIVE`], [`SHA2`] and [`SHA256`], in bytes.
pub const NONCE: usize = 20;
/// Length of the challenge of [`ED25519`] and [`PARSEC`], in bytes.
pub const LONG_NONCE: usize = 32;

/// [`SHA2`]: the server's cache has the password.
pub const SHA2_FAST_OK: u8 = 3;
/// [`SHA2`]: it has not; the password itself is wanted.
pub const SHA2_FULL: u8 = 4;
/// [`SHA2`]: the client wants the server's RSA key.
pub const SHA2_ASK_KEY: u8 = 2;
/// [`SHA256`]: the client wants the server's RSA key.
pub const SHA256_ASK_KEY: u8 = 1;
