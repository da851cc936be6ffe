//! What a node of a group is watched by.

use std::sync::{Arc, Weak};

use super::group::Group;
use crate::metrics::Metrics;

impl Group {
    /// Registers the families of the node.
    pub fn register(self: &Arc<Self>, metrics: &Metrics) {
        metrics.seconds("dfs_raft_log_fsync_seconds", "Time to sync the log, once for many entries", &self.log_fsync);
        // The page must not keep a node that has ended.
        let group: Weak<Self> = Arc::downgrade(self);
        metrics.sampled(move |samples| {
            let seen = group.upgrade().map(|group| group.metrics());
            let flag = |is: bool| f64::from(u8::from(is));
            let away = group.upgrade().map(|group| flag(group.expect_counted().is_err()));
            samples.gauge(
                "dfs_raft_away",
                "1 if its group goes on without this node: removed, or a copy of another",
                away,
            );
            let has_leader = group.upgrade().map(|group| flag(group.leader_heard(&group.metrics()).is_some()));
            samples.gauge("dfs_raft_has_leader", "1 if this node knows who leads its group", has_leader);
            let leads = seen.as_ref().map(|seen| flag(seen.current_leader == Some(seen.id)));
            samples.gauge("dfs_raft_is_leader", "1 if this node takes itself for the leader of its group", leads);
            let term = seen.as_ref().map(|seen| seen.current_term as f64);
            samples.gauge("dfs_raft_term", "Newest term that this node has seen", term);
            let last = seen.as_ref().and_then(|seen| seen.last_log_index).map(|index| index as f64);
            samples.gauge("dfs_raft_log_index", "Newest entry in this node's log", last);
            let applied = seen.as_ref().and_then(|seen| seen.last_applied).map(|id| id.index as f64);
            samples.gauge("dfs_raft_applied_index", "Newest entry that this node has applied", applied);
            let voters = seen.as_ref().map(|seen| seen.membership_config.voter_ids().count() as f64);
            samples.gauge("dfs_raft_voters", "Nodes of the group that vote", voters);
        });
    }
}
