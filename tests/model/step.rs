//! What may happen next.

use crate::{
    protocol::Bounds,
    state::{CLAIMS, SERVERS, Set},
};

/// One thing that happens, in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A primary begins a write.
    Begin { blob: usize, primary: usize },
    /// A server takes a blob that its primary sent, into its page cache.
    Receive { blob: usize, server: usize },
    /// A server syncs what it took, and acknowledges it.
    Sync { blob: usize, server: usize },
    /// The primary has all the acknowledgements that it needs, and asks the Directory.
    AskToCommit { blob: usize },
    /// The Directory hears one such request.
    Commit { blob: usize, epoch: u8 },
    /// The primary hears that every such request was refused.
    RefuseCommit { blob: usize },
    /// The primary takes the write for failed, and tells the others so.
    GiveUp { blob: usize },
    /// A server hears of the present configuration, in which it leads.
    Learn { server: usize },
    /// The Directory passes the role on, or goes on without a member that it takes for dead, rightly or not.
    Reconfigure { primary: usize, evicted: Option<usize> },
    /// A primary lets its commits wait for a member that is not in sync.
    Admit { primary: usize, member: usize },
    /// The member lists what the primary has.
    List { claim: usize },
    /// The member fetches a blob that it listed, into its page cache.
    Fetch { claim: usize, blob: usize },
    /// The member has it all, and the primary asks the Directory to count it in.
    AskToJoin { claim: usize },
    /// The Directory hears that, and counts it in.
    Join { claim: usize },
    /// The Directory hears that, and refuses.
    RefuseJoin { claim: usize },
    /// The primary does not wait for the member any more.
    Dismiss { claim: usize },
    /// The Directory is asked about a staged blob, and says that it will never be committed.
    Abandon { blob: usize },
    /// The readers of a superseded version are done.
    Collect { blob: usize },
    /// The Directory hears that the store of a member out of sync takes no writes.
    TakeNoWrites { server: usize },
    /// It hears that the store takes writes again.
    TakeWrites { server: usize },
    /// A server throws its copy away.
    Discard { blob: usize, server: usize },
    /// A process ends; what was not synced is lost.
    Crash { server: usize },
    /// It starts again, and registers.
    Restart { server: usize },
}

impl Step {
    /// Everything that could happen in some state.
    pub fn all(bounds: Bounds) -> Vec<Self> {
        let mut steps = Vec::new();
        for blob in 0..bounds.blobs {
            steps.extend([Self::AskToCommit { blob }, Self::RefuseCommit { blob }, Self::GiveUp { blob }]);
            steps.extend([Self::Abandon { blob }, Self::Collect { blob }]);
            steps.extend((1..=bounds.epochs).map(|epoch| Self::Commit { blob, epoch }));
            for server in 0..SERVERS {
                let of_a_copy = [
                    Self::Receive { blob, server },
                    Self::Sync { blob, server },
                    Self::Discard { blob, server },
                    Self::Begin { blob, primary: server },
                ];
                steps.extend(of_a_copy);
            }
        }
        for server in 0..SERVERS {
            steps.extend([Self::Learn { server }, Self::Crash { server }, Self::Restart { server }]);
            if bounds.full_disks {
                steps.extend([Self::TakeNoWrites { server }, Self::TakeWrites { server }]);
            }
            steps.extend((0..SERVERS).map(|member| Self::Admit { primary: server, member }));
            let evicted = std::iter::once(None).chain((0..SERVERS).map(Some));
            steps.extend(evicted.map(|evicted| Self::Reconfigure { primary: server, evicted }));
        }
        for claim in 0..CLAIMS {
            steps.extend([Self::List { claim }, Self::AskToJoin { claim }, Self::Join { claim }]);
            steps.extend([Self::RefuseJoin { claim }, Self::Dismiss { claim }]);
            steps.extend((0..bounds.blobs).map(|blob| Self::Fetch { claim, blob }));
        }
        steps
    }
}

/// Whether a primary may ask for the commit of a blob: the rule that `in_sync::Copies` keeps.
pub fn may_ask(in_sync: Set, joiners: Set, acknowledged: Set, min_in_sync: u32) -> bool {
    in_sync.count() >= min_in_sync && acknowledged.holds_all(in_sync.union(joiners))
}
