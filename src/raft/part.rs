//! A node's part in its group for as long as it runs: it joins, follows, leads, and passes the lead on before it goes.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    group::{DISK_FAILED, Group},
    role::Role,
    types::Node,
};

/// Why a lead is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeadOver {
    /// Another node may lead. This one may come to lead again.
    Lost,
    /// The service ends.
    Stopped,
}

/// What a service does in each part.
pub(crate) trait Leading {
    /// Everything that goes on while this node leads in this term. An error ends the service.
    async fn lead(&self, term: u64) -> anyhow::Result<LeadOver>;

    /// Somebody else leads, or nobody is known to.
    async fn follow(&self, leader: Option<Node>);
}

impl Group {
    /// Until `stop`, or until the log or the tables have failed; cancels `stop` itself then. `others` are asked to take in a
    /// node that belongs to no group yet.
    pub(crate) async fn take_part(
        self: &Arc<Self>,
        others: Vec<String>,
        stop: &CancellationToken,
        service: &impl Leading,
    ) -> anyhow::Result<()> {
        let mut chores = JoinSet::new();
        chores.spawn(self.clone().become_member(others));
        chores.spawn(self.clone().promote_learners());
        let played = self.play_roles(stop, service).await;
        stop.cancel();
        chores.shutdown().await;
        self.hand_over().await;
        self.stop().await;
        played
    }

    async fn play_roles(&self, stop: &CancellationToken, service: &impl Leading) -> anyhow::Result<()> {
        let mut role = self.role();
        loop {
            let now = role.borrow_and_update().clone();
            match now {
                Role::Leader { term } => match service.lead(term).await? {
                    LeadOver::Lost => continue,
                    LeadOver::Stopped => return Ok(()),
                },
                Role::Other { leader } => service.follow(leader).await,
                Role::Ended if stop.is_cancelled() => return Ok(()),
                Role::Ended => anyhow::bail!(DISK_FAILED),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = role.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }
}
