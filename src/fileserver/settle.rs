//! What became of blobs that were staged and never published: the Directory is asked, and then they are published or go.
//!
//! A blob stays unpublished when its write died, when its primary did, or when only the news of the commit was lost. The
//! Directory knows: it answers with the version, or records the blob as abandoned, after which no commit can name it any
//! more; so throwing it away is safe. A blob whose write may still be under way is left alone.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    convert,
    fileserver::{error::Error, locked, node::Node, store::Staged},
    pb::{self, blob_fate, replicate_request::Message as Request},
    types::{BlobId, Inode, Version},
};

/// Blobs asked about in one call.
const BATCH_MAX: usize = 500;
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(15);

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
        let due = due(&node);
        for batch in due.chunks(BATCH_MAX) {
            let settled = tokio::select! {
                () = node.shutdown.cancelled() => return,
                settled = settle(&node, batch) => settled,
            };
            if let Err(error) = settled {
                tracing::warn!(%error, blobs = batch.len(), "staged blobs not settled yet");
                break;
            }
        }
    }
}

fn due(node: &Node) -> Vec<Staged> {
    let mut due = node.store.unpublished(node.staged_ttl);
    let now = std::time::Instant::now();
    let mut replica = locked(&node.replica);
    replica.expire(now);
    due.retain(|staged| !replica.is_held(staged.blob, now) && !node.in_flight.holds(staged.blob));
    due
}

async fn settle(node: &Node, batch: &[Staged]) -> Result<(), Error> {
    let blobs = batch.iter().map(|staged| pb::StagedBlob {
        group: staged.group.0,
        write_id: staged.write_id.to_string(),
        blob: staged.blob.to_string(),
    });
    let request = pb::SettleBlobsRequest { server_id: node.me.to_string(), blobs: blobs.collect() };
    let answer = node.directory.answer(node.directory.directory()?.settle_blobs(request)).await?;
    for fate in answer.fates {
        let blob = convert::blob_id("fates.blob", &fate.blob).map_err(Error::Refused)?;
        let Some(staged) = batch.iter().find(|staged| staged.blob == blob) else { continue };
        match fate.fate {
            Some(blob_fate::Fate::Committed(owner)) => publish(node, staged, &owner).await?,
            Some(blob_fate::Fate::Abandoned(_)) => discard(node, staged).await?,
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
