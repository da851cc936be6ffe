//! What only real processes show: `kill -9`, `SIGSTOP`, restarts, and clients that meet at one file.
//!
//! Every test starts a cluster of its own, of the very binaries that users run, on a loopback address of its own.

mod bad_days;
mod clients;
mod cluster;
mod failover;
mod faults;
mod fenced;
mod history;
mod kills;
mod lock_failover;
mod moves;
mod outcome;
mod payload;
mod recording;
mod workload;
