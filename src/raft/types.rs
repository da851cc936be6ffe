//! What the consensus library is told about our types.

use std::{any::Any, fmt};

use bytes::Bytes;

use crate::types::StoreId;

/// A node of a group: drawn with its data folder, so that a folder that was wiped comes back as another node and cannot vote
/// in the name of the one that has forgotten.
pub type NodeId = u64;

/// The node that a data folder makes.
pub fn node_of(store: StoreId) -> NodeId {
    store.as_bytes().iter().take(8).fold(0, |id, byte| (id << 8) | u64::from(*byte))
}

/// How to reach a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The server's name; of two nodes with the same one only the newer lives.
    pub server: String,
    /// For the servers of the cluster.
    pub address: String,
    /// For clients outside of its network.
    pub external_address: String,
    /// It has lost the log of an earlier self, and takes part under a new id. Said by the group itself.
    pub rejoined: bool,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.server, self.address)
    }
}

/// What a service puts into the log: its commands, in its own encoding.
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the service answers whoever proposed, once it is applied; a type of the service's own.
pub type Answer = Box<dyn Any + Send + Sync>;

openraft::declare_raft_types!(
    pub Types:
        D = Proposal,
        R = Answer,
        NodeId = NodeId,
        Node = Node,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

pub type LeaderId = openraft::type_config::alias::LeaderIdOf<Types>;
pub type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub type Vote = openraft::type_config::alias::VoteOf<Types>;
pub type Entry = openraft::type_config::alias::EntryOf<Types>;
pub type Payload = openraft::EntryPayload<Proposal, NodeId, Node>;
pub type Membership = openraft::Membership<NodeId, Node>;
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub type Metrics = openraft::RaftMetrics<Types>;
pub type Raft = openraft::Raft<Types, super::state_machine::StateMachine>;
