//! The Directory: the namespace, the versions, and the one place where a write is committed.

pub mod command;
pub mod error;
