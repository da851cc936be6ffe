//! A node's part in its group, as it changes: who leads has a driver, everybody else says who does.

use std::time::Duration;

use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;

use crate::{
    lock::{
        driver::Ended,
        error::Error,
        handle::{End, Handle},
        machine::Progress,
        open::{self, BeginError, Node},
    },
    raft::{self, Role},
    serve::Readiness,
};

/// Before a lead that could not be taken up, or kept, is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Where the handlers find the driver while this node leads.
#[derive(Clone)]
pub(super) struct Door(watch::Sender<Behind>);

#[derive(Clone)]
enum Behind {
    Starting,
    Here(Handle),
    Elsewhere(Option<raft::Node>),
}

impl Door {
    pub fn new() -> Self {
        Self(watch::Sender::new(Behind::Starting))
    }

    pub fn enter(&self) -> Result<Handle, Error> {
        match &*self.0.borrow() {
            Behind::Here(handle) => Ok(handle.clone()),
            Behind::Elsewhere(leader) => Err(raft::Error::NotLeader { leader: leader.clone() }.into()),
            Behind::Starting => Err(Error::Starting),
        }
    }

    /// Completes when another lead of this node has begun than the one of `known`.
    pub async fn next_lead(&self, known: Option<&Handle>) -> Handle {
        let mut behind = self.0.subscribe();
        loop {
            if let Behind::Here(handle) = &*behind.borrow_and_update()
                && known.is_none_or(|known| !known.is_same(handle))
            {
                return handle.clone();
            }
            // The sender lives as long as this door.
            let _unheard = behind.changed().await;
        }
    }

    /// Whether somebody answers here, or it is known where.
    fn leads_somewhere(&self) -> bool {
        matches!(&*self.0.borrow(), Behind::Here(_) | Behind::Elsewhere(Some(_)))
    }
}

pub(super) struct Part {
    pub node: Node,
    pub door: Door,
    pub readiness: Readiness,
    pub join: Vec<String>,
    pub stop: CancellationToken,
    /// No call is under way any more.
    pub served: CancellationToken,
}

impl Part {
    /// Until `stop`, or until the log or the tables have failed.
    pub async fn play(self) -> anyhow::Result<()> {
        let group = self.node.group.clone();
        let mut chores = JoinSet::new();
        chores.spawn(group.clone().become_member(self.join.clone()));
        chores.spawn(group.clone().promote_learners());
        chores.spawn(tell_readiness(self.door.clone(), self.node.machine.progress(), self.readiness.clone()));
        let mut role = group.role();
        let played = loop {
            let now = role.borrow_and_update().clone();
            match now {
                Role::Leader { term } => match self.lead(term).await {
                    Ok(Ended::Deposed) => continue,
                    Ok(Ended::Stopped) => break Ok(()),
                    Err(error) => break Err(error),
                },
                Role::Other { leader } => drop(self.door.0.send_replace(Behind::Elsewhere(leader))),
                Role::Ended if self.stop.is_cancelled() => break Ok(()),
                Role::Ended => break Err(anyhow::anyhow!("the log or the tables have failed")),
            }
            tokio::select! {
                () = self.stop.cancelled() => break Ok(()),
                changed = role.changed() => if changed.is_err() { break Ok(()) },
            }
        };
        self.stop.cancel();
        chores.shutdown().await;
        group.hand_over().await;
        group.stop().await;
        played
    }

    /// What goes on while this node leads.
    async fn lead(&self, term: u64) -> anyhow::Result<Ended> {
        let begun = tokio::select! {
            begun = open::begin(&self.node, End::with(&self.stop)) => begun,
            () = self.node.group.leads_no_more(term) => return Ok(Ended::Deposed),
        };
        let (driver, handle) = match begun {
            Ok(begun) => begun,
            Err(BeginError::Storage(error)) => return Err(error.into()),
            Err(BeginError::Group(error)) => {
                tracing::warn!(%error, "the lead was not taken up");
                tokio::time::sleep(PAUSE).await;
                return Ok(Ended::Deposed);
            }
        };
        let end = handle.end();
        self.door.0.send_replace(Behind::Here(handle));
        tracing::info!(term, "leading");
        let lost = CancellationToken::new();
        let losing = async {
            self.node.group.leads_no_more(term).await;
            end.lose_lead();
            lost.cancel();
            std::future::pending::<std::convert::Infallible>().await
        };
        let ended = tokio::select! {
            ended = driver.run(lost.clone(), self.served.clone()) => ended,
            never = losing => match never {},
        };
        if ended == Ended::Deposed {
            end.lose_lead();
            self.door.0.send_replace(Behind::Elsewhere(None));
            if !lost.is_cancelled() {
                tracing::warn!(term, "a decision may not have been taken; beginning anew");
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(ended)
    }
}

/// Ready is who belongs to a cluster, and answers or knows who does. Never ends.
async fn tell_readiness(door: Door, mut progress: watch::Receiver<Progress>, readiness: Readiness) {
    let mut behind = door.0.subscribe();
    loop {
        behind.mark_unchanged();
        let joined = progress.borrow_and_update().membership.is_some();
        let is_ready = joined && door.leads_somewhere();
        readiness.set(if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
        tokio::select! {
            // Neither sender ends before this does.
            _ = behind.changed() => {}
            _ = progress.changed() => {}
        }
    }
}
