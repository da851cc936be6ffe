//! The library's types and the contract's, one into the other.

use std::collections::{BTreeMap, BTreeSet};

use openraft::vote::{RaftLeaderId, RaftVote};

use super::types::{Entry, LeaderId, LogId, Membership, Node, NodeId, Payload, Proposal, Vote};
use crate::pb;

/// A message that cannot be what it should be, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

pub fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId::new(term, NodeId::default()).to_committed(), index }
}

pub fn term_of(id: &LogId) -> u64 {
    id.leader_id.term
}

pub fn log_id_out(id: &LogId) -> pb::LogId {
    pb::LogId { term: term_of(id), index: id.index }
}

pub fn log_id_in(id: &pb::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub fn optional_log_id_out(id: &Option<LogId>) -> Option<pb::LogId> {
    id.as_ref().map(log_id_out)
}

pub fn optional_log_id_in(id: &Option<pb::LogId>) -> Option<LogId> {
    id.as_ref().map(log_id_in)
}

pub fn vote_out(vote: &Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id.term, node_id: vote.leader_id.voted_for, committed: vote.committed }
}

pub fn vote_in(vote: &Option<pb::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.as_ref().ok_or(Malformed("a message without a vote"))?;
    Ok(Vote::from_leader_id(LeaderId::new(vote.term, vote.node_id), vote.committed))
}

pub fn membership_out(membership: &Membership) -> pb::Membership {
    let configurations =
        membership.get_joint_config().iter().map(|voters| pb::VoterSet { node_ids: voters.iter().copied().collect() });
    let nodes = membership.nodes().map(|(id, node)| pb::MemberNode {
        node_id: *id,
        server_id: node.server.clone(),
        address: node.address.clone(),
        external_address: node.external_address.clone(),
        rejoined: node.rejoined,
    });
    pb::Membership { configurations: configurations.collect(), nodes: nodes.collect() }
}

pub fn membership_in(membership: &pb::Membership) -> Result<Membership, Malformed> {
    let voters: Vec<BTreeSet<NodeId>> =
        membership.configurations.iter().map(|voters| voters.node_ids.iter().copied().collect()).collect();
    let nodes: BTreeMap<NodeId, Node> = membership.nodes.iter().map(|node| (node.node_id, node_in(node))).collect();
    if voters.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voters, nodes).map_err(|_| Malformed("a membership that cannot be"))
}

fn node_in(node: &pb::MemberNode) -> Node {
    Node {
        server: node.server_id.clone(),
        address: node.address.clone(),
        external_address: node.external_address.clone(),
        rejoined: node.rejoined,
    }
}

pub fn entry_out(entry: &Entry) -> pb::LogEntry {
    let payload = match &entry.payload {
        Payload::Blank => None,
        Payload::Normal(Proposal(bytes)) => Some(pb::log_entry::Payload::Proposal(bytes.clone())),
        Payload::Membership(membership) => Some(pb::log_entry::Payload::Membership(membership_out(membership))),
    };
    pb::LogEntry { log_id: Some(log_id_out(&entry.log_id)), payload }
}

pub fn entry_in(entry: pb::LogEntry) -> Result<Entry, Malformed> {
    let id = entry.log_id.ok_or(Malformed("an entry without an id"))?;
    let payload = match entry.payload {
        None => Payload::Blank,
        Some(pb::log_entry::Payload::Proposal(bytes)) => Payload::Normal(Proposal(bytes)),
        Some(pb::log_entry::Payload::Membership(membership)) => Payload::Membership(membership_in(&membership)?),
    };
    Ok(Entry { log_id: log_id_in(&id), payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_node(name: &str) -> Node {
        let (address, external_address) = (format!("{name}:1"), format!("{name}:2"));
        Node { server: name.to_owned(), address, external_address, rejoined: name == "b" }
    }

    #[test]
    fn every_kind_of_entry_comes_back_as_it_was() {
        let nodes = BTreeMap::from([(1, a_node("a")), (2, a_node("b")), (3, a_node("c"))]);
        let membership = Membership::new(vec![BTreeSet::from([1]), BTreeSet::from([1, 2])], nodes).unwrap();
        let payloads = [Payload::Blank, Payload::Normal(Proposal("do it".into())), Payload::Membership(membership)];
        for payload in payloads {
            let entry = Entry { log_id: log_id(7, 9), payload };
            assert_eq!(entry_in(entry_out(&entry)), Ok(entry));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(entry_in(pb::LogEntry::default()).is_err());
        assert!(vote_in(&None).is_err());
        let voter_without_node =
            pb::Membership { configurations: vec![pb::VoterSet { node_ids: vec![1] }], nodes: vec![] };
        assert!(membership_in(&voter_without_node).is_err());
    }
}
