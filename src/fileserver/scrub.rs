//! What an operator asks of one server: to read everything on its disk now, and to mend what he names.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    mend,
    node::Node,
    read::{self, Answers, Gone, Sink},
    store::{Pace, Step, StoreStatus},
};
use crate::{
    convert,
    pb::{self, repair_blobs_response},
    types::GroupId,
};

/// Between two messages at most, give or take one read.
const TELL_INTERVAL: Duration = Duration::from_millis(500);
/// How long the end waits for what was found to be mended.
const REPAIR_WAIT: Duration = Duration::from_secs(120);
const REPAIR_LOOK: Duration = Duration::from_millis(200);

/// What `FileServer.ScrubStore` answers.
pub fn scrub(node: &Arc<Node>, request: &pb::ScrubStoreRequest) -> Answers<pb::ScrubStoreResponse> {
    let rate = match request.bytes_per_second {
        0 => node.scrub_rate,
        rate => rate,
    };
    read::stream(node, &node.budget.scrubs, move |node, sink| async move {
        let before = node.store.status().repaired_chunk_count;
        let read_bytes = read_all(&node, rate, &sink).await?;
        let status = wait_for_repairs(&node, read_bytes, &sink).await?;
        let repaired = status.repaired_chunk_count.saturating_sub(before);
        let done = pb::ScrubResult {
            damaged_chunk_count: repaired + status.damaged_chunk_count,
            repaired_chunk_count: repaired,
            lost_blob_count: node.losses.count(),
        };
        sink.send(pb::ScrubStoreResponse { read_bytes, total_bytes: status.log_bytes, done: Some(done) }).await
    })
}

async fn read_all(node: &Node, rate: u64, sink: &Sink<pb::ScrubStoreResponse>) -> Result<u64, Gone> {
    let (mut pass, mut read_bytes, mut pace) = (node.store.full_pass(), 0, Pace::new(rate, Instant::now()));
    let mut told = Instant::now();
    while let Step::Read(bytes) = pass.step().await {
        read_bytes += bytes;
        let mut rest = pace.after(bytes, Instant::now());
        // However slow it is, it is told that it goes on, and heard that nobody listens any more.
        loop {
            let part = rest.min(TELL_INTERVAL);
            tokio::time::sleep(part).await;
            if told.elapsed() >= TELL_INTERVAL {
                told = Instant::now();
                say(node, read_bytes, sink).await?;
            }
            rest -= part;
            if rest.is_zero() {
                break;
            }
        }
    }
    Ok(read_bytes)
}

async fn say(node: &Node, read_bytes: u64, sink: &Sink<pb::ScrubStoreResponse>) -> Result<(), Gone> {
    let total_bytes = node.store.status().log_bytes.max(read_bytes);
    sink.send(pb::ScrubStoreResponse { read_bytes, total_bytes, done: None }).await
}

/// What was found is being mended beside; what nobody has is not waited for.
async fn wait_for_repairs(
    node: &Node,
    read_bytes: u64,
    sink: &Sink<pb::ScrubStoreResponse>,
) -> Result<StoreStatus, Gone> {
    let deadline = Instant::now() + REPAIR_WAIT;
    let mut told = Instant::now();
    loop {
        let hopeful = node.store.damaged().into_iter().any(|chunk| !node.losses.contains(chunk.blob));
        if !hopeful || Instant::now() >= deadline {
            return Ok(node.store.status());
        }
        if told.elapsed() >= TELL_INTERVAL {
            told = Instant::now();
            say(node, read_bytes, sink).await?;
        }
        tokio::time::sleep(REPAIR_LOOK).await;
    }
}

/// What `FileServer.RepairBlobs` answers.
pub fn repair(node: &Arc<Node>, blobs: Vec<pb::BlobName>) -> Answers<pb::RepairBlobsResponse> {
    read::stream(node, &node.budget.repairs, |node, sink| async move {
        for (blob_index, name) in (0..).zip(&blobs) {
            let mended = match convert::blob_id("blobs.blob", &name.blob) {
                Ok(blob) => mend::answer(&node, GroupId(name.group), blob).await,
                Err(failure) => Err(failure),
            };
            let result = match mended {
                Ok(repaired) => repair_blobs_response::Result::Repaired(repaired),
                Err(failure) => repair_blobs_response::Result::Error(failure.into()),
            };
            sink.send(pb::RepairBlobsResponse { blob_index, result: Some(result) }).await?;
        }
        Ok(())
    })
}
