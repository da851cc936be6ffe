//! Real servers in one process, called as a client would; each module shows one behaviour.

mod cli;
mod client;
mod common;
mod directory;
mod fileserver;
mod lock;
mod metrics;
