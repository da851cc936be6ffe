//! cli

pub mod dev;
