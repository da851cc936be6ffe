//! The Directory alone, with file servers that only pretend: every RPC, what is refused, and what a restart keeps.

mod commits;
mod namespace;
