//! The Directory alone, with file servers that only pretend: every RPC, what is refused, and what a restart keeps.

mod bad_input;
mod commits;
mod feeds;
mod garbage;
mod membership;
mod namespace;
mod past;
mod restart;
