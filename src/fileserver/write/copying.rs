//! Waits until every required copy of a write is durable, and does what that takes: pushes what a member lacks, tries
//! refused copies again, and reports members that do not answer.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::staging::Staging;
use crate::{
    fileserver::{
        error::Error,
        in_sync::{Effect, Group},
        map::View,
        replication::{
            Refusal,
            push::{Pushed, RETRY_INTERVAL, push},
        },
    },
    status::Reason,
    types::{BlobId, Epoch, ServerId},
};

/// A member that has answered nothing of a write for so long, though its stream is alive, is reported.
const COPY_PATIENCE: Duration = Duration::from_secs(4);

/// The wait for a write's copies. Dropping it ends the pushes.
pub struct Copying {
    pub deadline: Instant,
    suspect_at: Instant,
    pushes: JoinSet<()>,
}

impl Copying {
    pub fn until(deadline: Instant) -> Self {
        Self { deadline, suspect_at: Instant::now() + COPY_PATIENCE, pushes: JoinSet::new() }
    }

    /// Waits until the commit may be asked for, and answers at which epoch, with the view that it was decided on.
    pub async fn durable(&mut self, staging: &mut Staging) -> Result<(Arc<View>, Epoch), Error> {
        let (node, progress) = (staging.node.clone(), staging.progress.clone());
        let mut views = node.map.watch();
        loop {
            let view = views.borrow_and_update().clone();
            let group = view.group(staging.group).ok_or(Error::NotReady)?;
            let changed = progress.changed();
            self.take_refusals(staging).await;
            for effect in progress.advance(group) {
                match effect {
                    Effect::Push { blob, member } => self.push(staging, group.epoch, blob, member),
                    Effect::Deposed => return Err(view.not_primary(staging.group)),
                    Effect::Commit { epoch } => return Ok((view.clone(), epoch)),
                }
            }
            tokio::select! {
                () = changed => {}
                _ = views.changed() => {}
                Some(sealed) = staging.seals.join_next() => sealed.unwrap_or(Err(Error::Stopping))?,
                Some(_) = self.pushes.join_next() => {}
                () = sleep_until(self.suspect_at) => self.suspect(staging, group),
                () = sleep_until(self.deadline) => return Err(too_late(staging, group)),
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
    async fn take_refusals(&mut self, staging: &Staging) {
        for Refusal { blob, member, failure } in staging.progress.take_refusals() {
            tracing::debug!(%blob, peer = %member, %failure, "member refused a blob");
            match failure.reason {
                Reason::NoSpace | Reason::ReadOnly | Reason::Internal => staging.node.suspicion.suspect(&member),
                Reason::StaleEpoch => staging.node.try_refresh_map().await,
                _ => {}
            }
            let progress = staging.progress.clone();
            self.pushes.spawn(async move {
                sleep(RETRY_INTERVAL).await;
                progress.lost(blob, &member);
            });
        }
    }

    fn suspect(&mut self, staging: &Staging, group: &Group) {
        let node = &staging.node;
        for member in staging.progress.missing(group).iter().filter(|member| **member != node.me) {
            node.suspicion.suspect(member);
        }
        self.suspect_at = Instant::now() + COPY_PATIENCE / 4;
    }
}

fn too_late(staging: &Staging, group: &Group) -> Error {
    let missing = staging.progress.missing(group);
    let required = group.required().count();
    let names: Vec<&str> = missing.iter().map(ServerId::as_str).collect();
    Error::NotEnoughReplicas {
        needed: required.max(group.min_in_sync),
        have: required.saturating_sub(missing.len()),
        missing: names.join(", "),
    }
}
