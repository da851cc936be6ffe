//! Sends a whole blob from this server's own log to a member that lacks it, or claims it there if the member has it.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{Progress, sender::Connection};
use crate::{
    fileserver::{error::Error, node::Node},
    pb::{self, replicate_request::Message as Request},
    types::{BlobId, Epoch, GroupId, ServerId, WriteId},
};

/// Between two attempts to give a member a blob that it would not take, or that could not be read here.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Which blob, and for whose sake.
#[derive(Clone, Copy, Debug)]
pub struct Pushed {
    pub group: GroupId,
    pub epoch: Epoch,
    pub write_id: WriteId,
    pub blob: BlobId,
}

/// Waits for a stream to the member and sends the blob on it. What comes of it, the progress is told; it ends when
/// everything is sent. Dropping it is safe: the member forgets an unfinished blob when it is discarded or the stream ends.
pub async fn push(node: &Node, progress: &Arc<Progress>, pushed: Pushed, member: &ServerId) {
    let connection = node.peers.connected(member, pushed.write_id).await;
    let (wanted, asked) = oneshot::channel();
    if !connection.follow(pushed.blob, progress, Some(wanted)) {
        progress.lost(pushed.blob, member);
        return;
    }
    let begin = pb::ReplicateBegin {
        group: pushed.group.0,
        epoch: pushed.epoch.0,
        write_id: pushed.write_id.to_string(),
        blob: pushed.blob.to_string(),
        ask: true,
    };
    if !connection.send(Request::Begin(begin), None).await || asked.await.is_err() {
        // The member has it, refused it, or is gone: the progress knows.
        return;
    }
    if let Err(error) = send_whole(node, progress, &connection, pushed.blob).await {
        tracing::warn!(blob = %pushed.blob, peer = %member, %error, "blob cannot be pushed");
        tokio::time::sleep(RETRY_INTERVAL).await;
        progress.lost(pushed.blob, member);
    }
}

async fn send_whole(node: &Node, progress: &Progress, connection: &Connection, blob: BlobId) -> Result<(), Error> {
    let record = node.store.blob(blob).filter(|record| record.sealed).ok_or(Error::NoSuchBlob { blob })?;
    let mut offset = 0;
    while offset < record.length {
        let chunk = node.store.read_chunk(blob, offset).await?;
        let memory = node.budget.for_write(chunk.data.len()).await;
        offset = chunk.offset + chunk.data.len() as u64;
        let message = pb::ReplicateChunk {
            blob: blob.to_string(),
            offset: chunk.offset,
            data: chunk.data,
            checksum: chunk.checksum,
        };
        if !connection.send(Request::Chunk(message), Some(memory)).await {
            return Ok(());
        }
        progress.moves();
    }
    let seal = pb::ReplicateSeal { blob: blob.to_string(), length: record.length, checksum: record.checksum };
    connection.send(Request::Seal(seal), None).await;
    Ok(())
}
