//! dfs: a distributed file store that cannot lose an update.
//!
//! Three services run as separate processes and meet only in `proto/dfs.proto` and in [`client`]: the [`directory`]
//! owns the namespace and is the one place where a write is committed, the [`lock`] service hands out leases with
//! fencing tokens, and the [`fileserver`] keeps the bytes. `ARCHITECTURE.md` has the picture and the invariants.
//!
//! The modules, in reading order:

#![forbid(unsafe_code)]
// What comes from the wire or the disk gets an error, not a panic.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::dbg_macro)
)]

pub mod cluster;
pub mod token;
pub mod types;

pub mod directory;
pub mod fileserver;
pub mod lock;

pub mod raft;

pub mod client;

pub mod check;

pub mod cli;

pub mod config;
pub mod convert;
pub mod durable;
pub mod metrics;
pub mod pb;
pub mod serve;
pub mod status;
pub mod telemetry;
