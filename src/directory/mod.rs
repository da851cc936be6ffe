//! The Directory: the namespace, the versions, and the one place where a write is committed.

pub mod command;
pub mod error;
pub mod model;
pub mod state;
pub mod view;
pub mod walk;

mod edit;
mod namespace;

mod commit;
mod content;
mod copy;
mod fence;
mod merge;
mod writes;

mod blobs;
mod retention;

mod group;
mod membership;
mod placement;

mod census;
mod feed;
mod names;

mod records;
mod tables;
