//! A node's part in its group, as it changes: who leads has a driver, everybody else says who does.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic_health::ServingStatus;

use crate::{
    lock::{
        error::Error,
        handle::{End, Handle},
        machine::Progress,
        open::{self, BeginError, Node},
    },
    raft::{self, LeadOver, Leading},
    serve::Readiness,
};

/// Before a lead that could not be taken up, or kept, is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Where the handlers find the driver while this node leads.
#[derive(Clone)]
pub(super) struct Door(watch::Sender<Doorway>);

struct Doorway {
    behind: Behind,
    place: Place,
}

/// Whether this is the Lock service of its cluster: while another one is, two would grant the same lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Ours,
    /// The Directory has given it to another service while all nodes of this one were down.
    Lost,
    /// The Directory has given it back; the lead does not know yet what the other service has granted.
    Regained,
}

#[derive(Clone)]
enum Behind {
    Starting,
    Here(Handle),
    Elsewhere(Option<raft::Node>),
}

impl Door {
    pub fn new() -> Self {
        Self(watch::Sender::new(Doorway { behind: Behind::Starting, place: Place::Ours }))
    }

    pub fn enter(&self) -> Result<Handle, Error> {
        let Doorway { behind, place } = &*self.0.borrow();
        match (place, behind) {
            (Place::Lost, _) => Err(Error::Replaced),
            (Place::Ours, Behind::Here(handle)) => Ok(handle.clone()),
            (_, Behind::Elsewhere(leader)) => Err(raft::Error::NotLeader { leader: leader.clone() }.into()),
            (Place::Regained, Behind::Here(_)) | (_, Behind::Starting) => Err(Error::Starting),
        }
    }

    /// The lead of this node, also while nobody else may enter.
    pub fn lead(&self) -> Option<Handle> {
        match &self.0.borrow().behind {
            Behind::Here(handle) => Some(handle.clone()),
            Behind::Elsewhere(_) | Behind::Starting => None,
        }
    }

    pub fn place(&self) -> Place {
        self.0.borrow().place
    }

    /// While it is lost nobody leads here.
    pub fn set_place(&self, place: Place) {
        self.0.send_if_modified(|doorway| std::mem::replace(&mut doorway.place, place) != place);
    }

    fn show(&self, behind: Behind) {
        self.0.send_modify(|doorway| doorway.behind = behind);
    }

    /// Completes when the place is lost, or is not.
    async fn until_lost(&self, lost: bool) {
        let mut doorway = self.0.subscribe();
        // The sender lives as long as this door.
        let _unheard = doorway.wait_for(|doorway| (doorway.place == Place::Lost) == lost).await;
    }

    /// Completes when another lead of this node has begun than the one of `known`.
    pub async fn next_lead(&self, known: Option<&Handle>) -> Handle {
        let mut behind = self.0.subscribe();
        loop {
            if let Behind::Here(handle) = &behind.borrow_and_update().behind
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
        let doorway = self.0.borrow();
        doorway.place != Place::Lost && matches!(doorway.behind, Behind::Here(_) | Behind::Elsewhere(Some(_)))
    }
}

pub(super) struct Part {
    pub node: Node,
    pub door: Door,
    pub readiness: Readiness,
    pub stop: CancellationToken,
    /// No call is under way any more.
    pub served: CancellationToken,
}

impl Part {
    /// Until `stop`, or until the log or the tables have failed.
    pub async fn play(self, join: Vec<String>) -> anyhow::Result<()> {
        let telling = tell_readiness(self.door.clone(), self.node.machine.progress(), self.readiness.clone());
        let telling = AbortOnDropHandle::new(tokio::spawn(telling));
        let played = self.node.group.take_part(join, &self.stop, &self).await;
        telling.abort();
        played
    }
}

impl Leading for Part {
    async fn follow(&self, leader: Option<raft::Node>) {
        self.door.show(Behind::Elsewhere(leader));
    }

    async fn lead(&self, term: u64) -> anyhow::Result<LeadOver> {
        // Whoever led before does not any more.
        self.door.show(Behind::Elsewhere(None));
        let beginning = async {
            self.door.until_lost(false).await;
            open::begin(&self.node, End::with(&self.stop)).await
        };
        let begun = tokio::select! {
            begun = beginning => begun,
            () = self.node.group.leads_no_more(term) => return Ok(LeadOver::Lost),
            () = self.stop.cancelled() => return Ok(LeadOver::Stopped),
        };
        let (driver, handle) = match begun {
            Ok(begun) => begun,
            Err(BeginError::Storage(error)) => return Err(error.into()),
            Err(BeginError::Group(error)) => {
                tracing::warn!(%error, "the lead was not taken up");
                tokio::time::sleep(PAUSE).await;
                return Ok(LeadOver::Lost);
            }
        };
        let end = handle.end();
        self.door.show(Behind::Here(handle));
        tracing::info!(term, "leading");
        let lost = CancellationToken::new();
        let losing = async {
            tokio::select! {
                () = self.node.group.leads_no_more(term) => {}
                () = self.door.until_lost(true) => {}
            }
            end.lose_lead();
            lost.cancel();
            std::future::pending::<std::convert::Infallible>().await
        };
        let ended = tokio::select! {
            ended = driver.run(lost.clone(), self.served.clone()) => ended,
            never = losing => match never {},
        };
        if ended == LeadOver::Lost {
            end.lose_lead();
            self.door.show(Behind::Elsewhere(None));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_enters_while_the_place_is_lost() {
        let door = Door::new();
        assert_eq!(door.enter().err(), Some(Error::Starting));
        door.show(Behind::Elsewhere(None));
        let not_leader = Error::Group(raft::Error::NotLeader { leader: None });
        for (place, refusal) in
            [(Place::Lost, Error::Replaced), (Place::Regained, not_leader.clone()), (Place::Ours, not_leader)]
        {
            door.set_place(place);
            assert_eq!(door.enter().err(), Some(refusal), "{place:?}");
        }
    }
}
