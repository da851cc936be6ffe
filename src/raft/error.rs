//! What can go wrong between a service and its group, in the group's words.

use super::types::{Node, NodeId};

/// Why a node does not do what only a leader can, or what only a member that is level can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing has happened.
    #[error("this node does not lead its group{}", at(.leader))]
    NotLeader { leader: Option<Node> },
    /// The group may have taken it, or may not.
    #[error("this node lost the lead of its group meanwhile; the change may or may not have happened{}", at(.leader))]
    LeadLost { leader: Option<Node> },
    #[error("too few nodes of the group answer")]
    NoQuorum,
    #[error("the node is stopping, or its disk has failed")]
    Ended,
    #[error("no member of the group is called {server}")]
    UnknownMember { server: String },
    #[error("{server} is the only voter")]
    OnlyVoter { server: String },
    #[error("{server} is no voter yet")]
    NotAVoter { server: String },
    #[error("{server} does not vote yet: it lacks {lacks} entries of the log, which are on their way")]
    NotLevel { server: String, lacks: u64 },
    #[error("{server} does not vote yet, and does not answer: see whether it runs, and is reached at its address")]
    NotAnswering { server: String },
    #[error(
        "{server} was removed from its group, which goes on without it: stop it, or start it with --join, or with an empty data \
         folder and --join, to have it taken in again"
    )]
    Removed { server: String },
    #[error(
        "node {node:016x} is {server} at {address}, which runs: whoever else has its id has a copy of its data folder, and takes \
         no part; stop it, and start it with an empty data folder and under a name of its own"
    )]
    NodeTaken { server: String, address: String, node: NodeId },
    /// Of this very node.
    #[error("{0}")]
    Away(Box<Error>),
    #[error("a live member of the group is called {server} already, and has another data folder")]
    NameTaken { server: String },
    #[error(
        "this is a node of group {ours} of the {service} service, not of group {theirs}: the address is another cluster's"
    )]
    OtherGroup { service: &'static str, ours: String, theirs: String },
    #[error("this is a node of the {service} service, not of the {theirs} service: the address is another service's")]
    OtherService { service: &'static str, theirs: String },
    #[error("the members are being changed already")]
    Busy,
    #[error("the group did not do it in time")]
    TimedOut,
    #[error("{field}: {what}")]
    BadArgument { field: &'static str, what: &'static str },
}

fn at(leader: &Option<Node>) -> String {
    leader.as_ref().map(|leader| format!(": {leader} does")).unwrap_or_default()
}
