//! Consensus, once for the Directory and for the Lock service: one log, the same on a majority of the nodes.
//!
//! A service proposes bytes, and says what they do when they are applied ([`Machine`]); everything else is here. Promised:
//! what [`Group::propose`] has answered is on stable storage on a majority and survives whatever the others do; after
//! [`Group::confirm_lead`] a look at this node's state sees all of it. A group of one is the same code with one member.
//!
//! The algorithm is openraft's. Ours are the log ([`log`]), the state over redb ([`store`], [`state_machine`], [`snapshot`]), the
//! way to the others ([`network`], [`service`]) and who they are ([`members`]).
//!
//! Absent on purpose: reads from followers, and forwarding. A node that does not lead says who does.

mod convert;
mod error;
mod types;

mod identity;

pub mod log;
pub mod snapshot;
mod state_machine;
pub mod store;

mod founding;
mod group;
mod joining;
mod members;
mod metrics;
mod network;
mod opening;
mod part;
mod plausible;
mod rejoining;
mod role;
mod service;
mod voice;

pub use error::Error;
pub use founding::whom_to_join;
pub use group::{Group, Options};
pub use identity::GroupUid;
pub use members::MembersService;
pub use network::MESSAGE_BYTES_MAX;
pub(crate) use part::{LeadOver, Leading};
pub use role::Role;
pub use service::{Gate, RaftService};
pub use snapshot::{AnyTable, Tables};
pub use state_machine::Machine;
pub use store::{Store, StoreError};
pub use types::{Answer, Node, NodeId, node_of};

#[cfg(test)]
mod tests;
