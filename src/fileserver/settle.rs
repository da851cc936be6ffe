//! What became of blobs that were staged and never published: the Directory is asked, and then they are published or go.
//!
//! A blob stays unpublished when its write died, when its primary did, or when only the news of the commit was lost. The
//! Directory knows: it answers with the version, or records the blob as abandoned, after which no commit can name it any
//! more; so throwing it away is safe. A blob whose write may still be under way is left alone.
//!
//! Whether it may, the group's primary knows: a write that it is not working on is over. Another member does not. Its stream
//! from the primary may be cut, or it was started again while an upload went on without it, and were it to abandon its part
//! of the upload, the upload would fail. So it asks without abandoning, and hears what the primary or the Directory has
//! decided; only when no write can be as old as the blob does it abandon it by itself, in case the primary never had it.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    convert,
    fileserver::{error::Error, locked, node::Node, store::Staged},
    pb::{self, blob_fate, replicate_request::Message as Request},
    types::{BlobId, Inode, Version, WRITE_DURATION_MAX},
};

/// Blobs asked about in one call.
const BATCH_MAX: usize = 500;
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(15);

/// Who may say of a staged blob that it is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Say {
    /// It is abandoned if it was not committed.
    Abandon,
    /// Its write may be under way elsewhere: what is not known to be over is kept.
    KeepUnknown,
}

impl Say {
    /// `outlived`: no write that began before the blob did, or before this server started, can be committed any more.
    fn of(leads: bool, outlived: bool) -> Self {
        if leads || outlived { Self::Abandon } else { Self::KeepUnknown }
    }
}

/// Looks for blobs to settle, until the shutdown.
pub async fn run(node: Arc<Node>) {
    let interval = (node.staged_ttl / 4).clamp(INTERVAL_MIN, INTERVAL_MAX);
    let mut look = tokio::time::interval_at(Instant::now() + interval, interval);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            _ = look.tick() => {}
        }
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            () = settle_due(&node) => {}
        }
    }
}

async fn settle_due(node: &Node) {
    let (abandoned, kept): (Vec<_>, Vec<_>) = due(node).into_iter().partition(|(say, _)| *say == Say::Abandon);
    for (say, due) in [(Say::Abandon, abandoned), (Say::KeepUnknown, kept)] {
        let due: Vec<Staged> = due.into_iter().map(|(_, staged)| staged).collect();
        for batch in due.chunks(BATCH_MAX) {
            if let Err(error) = settle(node, batch, say).await {
                tracing::warn!(%error, blobs = due.len(), "staged blobs not settled yet");
                return;
            }
        }
    }
    node.settle_rounds.fetch_add(1, Ordering::Relaxed);
}

fn due(node: &Node) -> Vec<(Say, Staged)> {
    let mut due = node.store.unpublished(node.staged_ttl);
    let now = std::time::Instant::now();
    {
        let mut replica = locked(&node.replica);
        replica.expire(now);
        due.retain(|staged| !replica.is_held(staged.blob, now) && !node.in_flight.holds(staged.blob));
    }
    let view = node.map.now();
    let leads = |staged: &Staged| view.group(staged.group).is_some_and(|group| group.is_led_by(&node.me));
    let outlived: HashSet<BlobId> =
        node.store.unpublished(WRITE_DURATION_MAX).into_iter().map(|staged| staged.blob).collect();
    due.into_iter().map(|staged| (Say::of(leads(&staged), outlived.contains(&staged.blob)), staged)).collect()
}

async fn ask(node: &Node, batch: &[Staged], say: Say) -> Result<Vec<pb::BlobFate>, Error> {
    let blobs = batch.iter().map(|staged| pb::StagedBlob {
        group: staged.group.0,
        write_id: staged.write_id.to_string(),
        blob: staged.blob.to_string(),
    });
    let keep_unknown = say == Say::KeepUnknown;
    let request = pb::SettleBlobsRequest { server_id: node.me.to_string(), blobs: blobs.collect(), keep_unknown };
    Ok(node.directory.answer(node.directory.directory()?.settle_blobs(request)).await?.fates)
}

/// The write that staged these blobs here, as primary, has failed for good: whoever has a copy and did not hear of it learns it
/// when it asks. Best effort: without this such a copy goes when no write can be as old.
pub async fn abandon(node: &Node, blobs: &[Staged]) {
    if let Err(error) = ask(node, blobs, Say::Abandon).await {
        tracing::debug!(%error, blobs = blobs.len(), "blobs of a failed write not abandoned at once");
    }
}

async fn settle(node: &Node, batch: &[Staged], say: Say) -> Result<(), Error> {
    for fate in ask(node, batch, say).await? {
        let blob = convert::blob_id("fates.blob", &fate.blob).map_err(Error::Refused)?;
        let Some(staged) = batch.iter().find(|staged| staged.blob == blob) else { continue };
        match fate.fate {
            Some(blob_fate::Fate::Committed(owner)) => publish(node, staged, &owner).await?,
            Some(blob_fate::Fate::Abandoned(_)) => discard(node, staged).await?,
            // It may still be committed.
            None => {}
        }
    }
    Ok(())
}

async fn publish(node: &Node, staged: &Staged, owner: &pb::BlobOwner) -> Result<(), Error> {
    tracing::info!(blob = %staged.blob, inode = owner.inode, version = owner.version, "staged blob was committed");
    let publish = pb::ReplicatePublish {
        blob: staged.blob.to_string(),
        write_id: staged.write_id.to_string(),
        inode: owner.inode,
        version: owner.version,
        path: String::new(),
    };
    tell_members(node, staged, &Request::Publish(publish)).await;
    if node.store.blob(staged.blob).is_some_and(|record| !record.sealed) {
        // Committed, and only a part of it here: this server is out of sync, and fetches it whole.
        node.store.discard_open(staged.blob);
        return Ok(());
    }
    Ok(node.store.publish(staged.blob, Inode(owner.inode), Version(owner.version)).await?)
}

async fn discard(node: &Node, staged: &Staged) -> Result<(), Error> {
    tracing::info!(blob = %staged.blob, write_id = %staged.write_id, "staged blob was never committed: discarded");
    tell_members(node, staged, &Request::Discard(discard_message(staged.blob))).await;
    Ok(node.store.discard(staged.blob).await?)
}

fn discard_message(blob: BlobId) -> pb::ReplicateDiscard {
    pb::ReplicateDiscard { blob: blob.to_string() }
}

/// The members hold the blob as long as this server's stream says nothing of it.
async fn tell_members(node: &Node, staged: &Staged, message: &Request) {
    let view = node.map.now();
    let members = view.group(staged.group).into_iter().flat_map(|group| &group.members);
    for member in members.filter(|member| **member != node.me) {
        if let Some(connection) = node.peers.connection(member, staged.write_id) {
            connection.send(message.clone(), None).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_does_not_lead_abandons_only_what_no_write_can_be_waiting_for() {
        assert_eq!(Say::of(true, false), Say::Abandon, "the primary knows its writes");
        assert_eq!(Say::of(false, false), Say::KeepUnknown);
        assert_eq!(Say::of(false, true), Say::Abandon);
    }
}
