//! The Lock service: sessions with leases, locks in order of arrival, and fencing tokens that the storage enforces.

pub mod clock;
pub mod command;
pub mod error;
pub mod session;
pub mod state;
pub mod tables;
pub mod wait_queue;
