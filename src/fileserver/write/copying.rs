//! Sees to the copies of a write until every required one is durable: pushes what a member lacks, tries refused copies
//! again, and reports members that do not answer.
//!
//! It begins with the write, not with its end: a member that joins, or whose stream broke, in the middle of a long write is
//! given what is complete already, and so keeps it from being settled as nobody's.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::staging::Staging;
use crate::{
    fileserver::{
        error::Error,
        in_sync::Effect,
        map::View,
        node::Node,
        replication::{
            Refusal,
            push::{Pushed, RETRY_INTERVAL, push},
        },
    },
    status::Reason,
    types::{BlobId, Epoch, ServerId},
};

/// From the end of the data to the answer, when no whole blobs have to be moved first.
const DEADLINE: Duration = Duration::from_secs(10);
/// A member may lack several blobs of a long write; but a write does not wait for ever.
const STRETCHES_MAX: u32 = 30;
/// A member that has answered nothing of a write for so long, though its stream is alive, is reported.
const COPY_PATIENCE: Duration = Duration::from_secs(4);

/// Sees to one write's copies. Dropping it ends the pushes.
pub struct Copying {
    views: watch::Receiver<Arc<View>>,
    pushes: JoinSet<()>,
}

/// What a commit is asked for with: the view that it was decided on, and the group's epoch in it.
pub type Decided = (Arc<View>, Epoch);

impl Copying {
    pub fn new(node: &Node) -> Self {
        Self { views: node.map.watch(), pushes: JoinSet::new() }
    }

    /// Does what is to be done now. Answers when the commit may be asked for, once.
    pub fn act(&mut self, staging: &mut Staging) -> Result<Option<Decided>, Error> {
        self.take_refusals(staging);
        loop {
            let view = self.views.borrow_and_update().clone();
            let group = view.group(staging.group).ok_or(Error::NotReady)?;
            let mut decided = None;
            for effect in staging.progress.advance(group) {
                match effect {
                    Effect::Push { blob, member } => self.push(staging, group.epoch, blob, member),
                    Effect::Deposed => return Err(view.not_primary(staging.group)),
                    Effect::Commit { epoch } => decided = Some(epoch),
                }
            }
            let Some(epoch) = decided else { return Ok(None) };
            // A member admitted between the view and the decision may have listed the blobs before the last was whole.
            if !self.views.has_changed().map_err(|_| Error::Stopping)? {
                return Ok(Some((view, epoch)));
            }
            staging.progress.not_committed();
        }
    }

    /// Waits until there may be something to do. Nothing is lost when it is dropped.
    pub async fn changed(&mut self, staging: &mut Staging) -> Result<(), Error> {
        tokio::select! {
            () = staging.progress.changed() => Ok(()),
            Some(sealed) = staging.seals.join_next() => sealed.unwrap_or(Err(Error::Stopping)),
            Some(_) = self.pushes.join_next() => Ok(()),
            changed = self.views.changed() => changed.map_err(|_| Error::Stopping),
        }
    }

    /// Waits until the commit may be asked for. The time allowed is stretched, within reason, while whole blobs are moving.
    pub async fn durable(&mut self, staging: &mut Staging, patience: &mut Patience) -> Result<Decided, Error> {
        let (mut suspect_at, mut asked) = (Instant::now() + COPY_PATIENCE, staging.node.map.now());
        loop {
            if let Some(decided) = self.act(staging)? {
                return Ok(decided);
            }
            tokio::select! {
                changed = self.changed(staging) => changed?,
                () = sleep_until(suspect_at) => {
                    self.suspect(staging, &asked);
                    (suspect_at, asked) = (Instant::now() + COPY_PATIENCE / 4, staging.node.map.now());
                }
                () = sleep_until(patience.deadline) => {
                    if !patience.stretch(staging.progress.moved()) {
                        return Err(self.too_late(staging));
                    }
                }
            }
        }
    }

    fn push(&mut self, staging: &mut Staging, epoch: Epoch, blob: BlobId, member: ServerId) {
        let (node, progress) = (staging.node.clone(), staging.progress.clone());
        let (group, write_id) = (staging.group, staging.intent.write_id);
        staging.tells(member.clone());
        self.pushes.spawn(async move {
            push(&node, &progress, Pushed { group, epoch, write_id, blob }, &member).await;
        });
    }

    /// A refused copy is tried again after a pause; a member whose store cannot take it is reported.
    fn take_refusals(&mut self, staging: &Staging) {
        for Refusal { blob, member, failure } in staging.progress.take_refusals() {
            tracing::debug!(%blob, peer = %member, %failure, "member refused a blob");
            if matches!(failure.reason, Reason::NoSpace | Reason::ReadOnly | Reason::Internal) {
                staging.node.suspicion.suspect(&member, staging.node.map.now());
            }
            let (node, progress) = (staging.node.clone(), staging.progress.clone());
            self.pushes.spawn(async move {
                if failure.reason == Reason::StaleEpoch {
                    node.try_refresh_map().await;
                }
                sleep(RETRY_INTERVAL).await;
                progress.lost(blob, &member);
            });
        }
    }

    fn suspect(&self, staging: &Staging, asked: &Arc<View>) {
        let view = self.views.borrow();
        let Some(group) = view.group(staging.group) else { return };
        for member in staging.progress.missing(group).iter().filter(|member| **member != staging.node.me) {
            staging.node.suspicion.suspect(member, asked.clone());
        }
    }

    fn too_late(&self, staging: &Staging) -> Error {
        let view = self.views.borrow();
        let Some(group) = view.group(staging.group) else { return Error::NotReady };
        let missing = staging.progress.missing(group);
        let required = group.required().count();
        let names: Vec<&str> = missing.iter().map(ServerId::as_str).collect();
        Error::NotEnoughReplicas {
            needed: required.max(group.min_in_sync),
            have: required.saturating_sub(missing.len()),
            missing: names.join(", "),
        }
    }
}

/// How long a write waits for its copies and its commit.
pub struct Patience {
    pub deadline: Instant,
    moved: u64,
    stretches: u32,
}

impl Patience {
    pub fn from_now() -> Self {
        Self { deadline: Instant::now() + DEADLINE, moved: 0, stretches: 0 }
    }

    /// Whether there is more time, because whole blobs have moved on since this was asked last.
    fn stretch(&mut self, moved: u64) -> bool {
        let stretches = moved > self.moved && self.stretches < STRETCHES_MAX;
        if stretches {
            (self.moved, self.stretches) = (moved, self.stretches + 1);
            self.deadline = Instant::now() + DEADLINE;
        }
        stretches
    }
}
