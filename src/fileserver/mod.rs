//! The file server: keeps blobs on its disk, and sees to it that a write is on every in-sync disk before it is committed.
//!
//! The cores decide and do no I/O: [`in_sync`] says when a write may be committed, [`replica`] what this server accepts
//! from a primary, [`patch`] what the checksum of a patched file is.

pub mod in_sync;
pub mod patch;
pub mod replica;
pub mod store;
