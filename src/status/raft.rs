//! What a group's errors are on the wire.

use super::{Failure, Reason};
use crate::raft::{Error, Node};

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = |reason| Failure::new(reason, &error);
        match &error {
            Error::NotLeader { leader } => led_by(failure(Reason::NotLeader), leader),
            Error::LeadLost { leader } => led_by(failure(Reason::NotLeader).with("outcome", "unknown"), leader),
            Error::NoQuorum => failure(Reason::NoQuorum),
            Error::Busy => failure(Reason::Unavailable),
            // What was proposed may be in the log.
            Error::Ended => failure(Reason::Unavailable).with("outcome", "unknown"),
            Error::TimedOut => failure(Reason::DeadlineExceeded).with("outcome", "unknown"),
            Error::UnknownMember { server } => failure(Reason::ServerNotFound).with("server", server),
            Error::OnlyVoter { server } | Error::NotAVoter { server } => {
                failure(Reason::BadArgument).with("field", "server_id").with("server", server)
            }
            Error::NotLevel { server, .. } | Error::NotAnswering { server } => {
                failure(Reason::Unavailable).with("server", server)
            }
            Error::Removed { server } => failure(Reason::ServerRemoved).with("server", server),
            Error::NodeTaken { server, node, .. } => {
                failure(Reason::EntryExists).with("server", server).with("node_id", format!("{node:016x}"))
            }
            // Another node can be asked.
            Error::Away(_) => failure(Reason::NotLeader),
            Error::NameTaken { server } => failure(Reason::EntryExists).with("server", server),
            Error::OtherGroup { service, ours, .. } => {
                failure(Reason::OtherCluster).with("group", ours).with("service", service)
            }
            Error::OtherService { service, .. } => failure(Reason::OtherCluster).with("service", service),
            Error::BadArgument { field, .. } => failure(Reason::BadArgument).with("field", field),
        }
    }
}

/// Where the leader is, for the cluster's servers and for clients outside.
fn led_by(failure: Failure, leader: &Option<Node>) -> Failure {
    match leader {
        Some(leader) => {
            failure.with("leader_address", &leader.address).with("leader_external_address", &leader.external_address)
        }
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_happened_says_so_and_what_has_not_does_not() {
        let outcome = |error: Error| Failure::from(error).metadata.get("outcome").cloned();
        for error in [Error::LeadLost { leader: None }, Error::Ended, Error::TimedOut] {
            assert_eq!(outcome(error.clone()).as_deref(), Some("unknown"), "{error}");
        }
        for error in [Error::NotLeader { leader: None }, Error::NoQuorum, Error::Busy] {
            assert_eq!(outcome(error.clone()), None, "{error}");
        }
    }
}
