//! Copies of the database in an object store, and the way back to any moment since.
//!
//! **In:** a stream of frames with a physical copy (`pontoon_helper::frame`), the files of the binary log as they grow, a
//! bucket. **Out:** in the bucket whole copies, each made whole by a [`Manifest`] that is written last, and an
//! [`archive`] of the binary log; on a machine a data directory as the database was at a moment ([`restore`]).
//!
//! ```text
//! PREFIX/copies/20261123T064000Z-b/data            the stream, one object in many parts
//! PREFIX/copies/20261123T064000Z-b/manifest.json   sizes, digests, position; written last
//! PREFIX/archive/1795416451-a-pontoon-bin.000007/000000   a MiB of that file
//! PREFIX/archive/1795416451-a-pontoon-bin.000007.json     what is in it; written after its blocks
//! ```
//!
//! **Must never:** let a copy look whole that is not; remove the last whole copy; put a byte into a data directory whose
//! digest was not compared; remove or overwrite a directory that it did not make.
//!
//! What goes wrong, and the test that shows it: `tests/FAILURES.md`.

pub mod archive;
mod catalog;
mod manifest;
mod moment;
mod place;
pub mod restore;
mod retention;
mod store;
#[cfg(test)]
mod tests;
mod upload;

pub use catalog::{Catalog, CopyLine};
pub use manifest::{Manifest, Part, new_id};
pub use moment::Moment;
pub use place::Place;
pub use retention::{Expired, apply as apply_retention, expired};
pub use store::Store;
pub use upload::{About, upload};
