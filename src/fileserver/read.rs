//! Reading: verified chunks of many ranges on one stream, whole blobs for peers, and checksums of what is on the disk.
//!
//! A chunk is checked when it comes from the disk; what a range cuts off it gets a checksum of its own, so the reader can
//! check what arrives. A stream reads a few chunks ahead of its reader and no further, and the number of streams is bounded;
//! so a reader that takes its time costs a little memory, and nobody's turn at the disk.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::{
        Semaphore,
        mpsc::{self, Permit},
    },
    time::timeout,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::Status;

use crate::{
    convert,
    fileserver::{error::Error, node::Node, store::StoreError},
    pb::{self, fetch_blobs_response::Part, read_response, verify_blobs_response},
    status::{Failure, Reason},
    types::{BlobId, crc32c, crc32c_combine},
};

/// Ranges in one call, as the contract says.
pub const RANGES_MAX: usize = 10_000;
/// Chunks that a stream is ahead of its reader.
const AHEAD_MAX: usize = 2;
/// A reader that takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// A reader waits for so long while too many others read.
const TURN_PATIENCE: Duration = Duration::from_secs(5);

pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub struct Sink<T> {
    queue: mpsc::Sender<Result<T, Status>>,
}

/// Nobody reads any more.
pub struct Gone;

impl<T> Sink<T> {
    pub async fn send(&self, message: T) -> Result<(), Gone> {
        self.room().await?.send(Ok(message));
        Ok(())
    }

    /// Waits until the reader has taken enough. To be had before a chunk is read.
    async fn room(&self) -> Result<Permit<'_, Result<T, Status>>, Gone> {
        match timeout(PATIENCE, self.queue.reserve()).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

/// Runs a producer as a task of the node, when it is its turn among others of its kind; it ends when nobody reads any more.
pub fn stream<T, F>(
    node: &Arc<Node>,
    turns: &Arc<Semaphore>,
    produce: impl FnOnce(Arc<Node>, Sink<T>) -> F,
) -> Answers<T>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (queue, queued) = mpsc::channel(AHEAD_MAX);
    let refusal = queue.clone();
    let produce = produce(node.clone(), Sink { queue });
    let (shutdown, turns) = (node.shutdown.clone(), turns.clone());
    let in_turn = async move {
        let Ok(Ok(_turn)) = timeout(TURN_PATIENCE, turns.acquire_owned()).await else {
            let busy = Failure::new(Reason::Unavailable, "too many streams are being read");
            // The queue is empty.
            return refusal.try_send(Err(busy.into())).map_err(|_| Gone);
        };
        produce.await
    };
    node.tasks.spawn(async move {
        tokio::select! {
            ended = in_turn => if ended.is_err() {
                tracing::debug!("a reader went before the end");
            },
            () = shutdown.cancelled() => {}
        }
    });
    Box::pin(ReceiverStream::new(queued))
}

/// A range of a blob that is whole on this server.
#[derive(Clone, Copy, Debug)]
struct Range {
    blob: BlobId,
    offset: u64,
    end: u64,
}

fn check(node: &Node, range: &pb::BlobRange) -> Result<Range, Failure> {
    let blob = convert::blob_id("ranges.blob", &range.blob)?;
    let record = node.store.blob(blob).filter(|record| record.sealed).ok_or(Error::NoSuchBlob { blob })?;
    let end = match range.length {
        0 => record.length.max(range.offset),
        length => range.offset.saturating_add(length),
    };
    let outside = Error::OutsideOfBlob { blob, length: record.length, offset: range.offset, end };
    if range.offset > record.length || end > record.length {
        Err(outside.into())
    } else {
        Ok(Range { blob, offset: range.offset, end })
    }
}

/// What `FileServer.Read` answers.
pub fn read(node: &Arc<Node>, ranges: Vec<pb::BlobRange>) -> Answers<pb::ReadResponse> {
    stream(node, &node.budget.read_streams, |node, sink| async move {
        for (range_index, range) in (0..).zip(&ranges) {
            let say = |result| pb::ReadResponse { range_index, result: Some(result) };
            if let Err(failure) = read_range(&node, range, &sink, say).await? {
                sink.send(say(read_response::Result::Error(failure.into()))).await?;
            }
        }
        Ok(())
    })
}

async fn read_range(
    node: &Node,
    range: &pb::BlobRange,
    sink: &Sink<pb::ReadResponse>,
    say: impl Fn(read_response::Result) -> pb::ReadResponse,
) -> Result<Result<(), Failure>, Gone> {
    let mut range = match check(node, range) {
        Ok(range) => range,
        Err(failure) => return Ok(Err(failure)),
    };
    while range.offset < range.end {
        let room = sink.room().await?;
        match next_chunk(node, &mut range).await {
            Ok(chunk) => room.send(Ok(say(read_response::Result::Chunk(chunk)))),
            Err(failure) => return Ok(Err(failure)),
        }
    }
    Ok(Ok(()))
}

/// The chunk that holds the range's offset, as much of it as the range wants; moves the range on.
async fn next_chunk(node: &Node, range: &mut Range) -> Result<pb::ReadChunk, Failure> {
    let stored = node.store.read_chunk(range.blob, range.offset).await.map_err(Error::from)?;
    let begin = (range.offset - stored.offset) as usize;
    let end = stored.data.len().min((range.end - stored.offset) as usize);
    let is_whole = begin == 0 && end == stored.data.len();
    let data = if is_whole { stored.data } else { stored.data.slice(begin..end) };
    let checksum = if is_whole { stored.checksum } else { crc32c(&data) };
    let chunk = pb::ReadChunk { offset: range.offset, data, checksum };
    range.offset += chunk.data.len() as u64;
    Ok(chunk)
}

/// What `FileServer.VerifyBlobs` answers.
pub fn verify(node: &Arc<Node>, ranges: Vec<pb::BlobRange>, presence_only: bool) -> Answers<pb::VerifyBlobsResponse> {
    stream(node, &node.budget.read_streams, |node, sink| async move {
        for (range_index, range) in (0..).zip(&ranges) {
            let verified = match presence_only {
                true => presence(&node, range),
                false => verify_range(&node, range).await,
            };
            let result = match verified {
                Ok(verified) => verify_blobs_response::Result::Verified(verified),
                Err(failure) => verify_blobs_response::Result::Error(failure.into()),
            };
            sink.send(pb::VerifyBlobsResponse { range_index, result: Some(result) }).await?;
        }
        Ok(())
    })
}

/// Whether a range is there, as far as the index knows.
fn presence(node: &Node, range: &pb::BlobRange) -> Result<pb::VerifiedRange, Failure> {
    let Range { blob, offset, end } = check(node, range)?;
    if let Some(damaged) = node.store.damage_in(blob, offset, end) {
        return Err(Error::from(StoreError::Damaged { blob, offset: damaged }).into());
    }
    Ok(pb::VerifiedRange { length: end - offset, checksum: 0 })
}

async fn verify_range(node: &Node, range: &pb::BlobRange) -> Result<pb::VerifiedRange, Failure> {
    let mut range = check(node, range)?;
    let length = range.end - range.offset;
    let mut checksum = 0;
    while range.offset < range.end {
        let chunk = next_chunk(node, &mut range).await?;
        checksum = crc32c_combine(checksum, chunk.checksum, chunk.data.len() as u64);
    }
    Ok(pb::VerifiedRange { length, checksum })
}

/// What `FileServer.FetchBlobs` answers.
pub fn fetch(node: &Arc<Node>, blobs: Vec<String>) -> Answers<pb::FetchBlobsResponse> {
    stream(node, &node.budget.peer_streams, |node, sink| async move {
        for blob in blobs {
            if let Err(failure) = fetch_one(&node, &blob, &sink).await? {
                sink.send(pb::FetchBlobsResponse { blob, part: Some(Part::Error(failure.into())) }).await?;
            }
        }
        Ok(())
    })
}

async fn fetch_one(node: &Node, name: &str, sink: &Sink<pb::FetchBlobsResponse>) -> Result<Result<(), Failure>, Gone> {
    let whole = pb::BlobRange { blob: name.to_owned(), offset: 0, length: 0 };
    let (mut range, info) = match check(node, &whole) {
        Ok(range) => match node.store.blob(range.blob) {
            Some(record) => (range, info(&record)),
            None => return Ok(Err(Error::NoSuchBlob { blob: range.blob }.into())),
        },
        Err(failure) => return Ok(Err(failure)),
    };
    let say = |part| pb::FetchBlobsResponse { blob: name.to_owned(), part: Some(part) };
    sink.send(say(Part::Begin(info))).await?;
    while range.offset < range.end {
        let room = sink.room().await?;
        match next_chunk(node, &mut range).await {
            Ok(chunk) => room.send(Ok(say(Part::Chunk(chunk)))),
            Err(failure) => return Ok(Err(failure)),
        }
    }
    sink.send(say(Part::End(true))).await.map(Ok)
}

/// A blob as peers and people are told of it.
pub fn info(record: &crate::fileserver::store::BlobRecord) -> pb::BlobInfo {
    let (inode, version) = record.published.unwrap_or_default();
    pb::BlobInfo {
        group: record.group.0,
        blob: record.blob.to_string(),
        length: record.length,
        checksum: record.checksum,
        sealed: record.sealed,
        published: record.published.is_some(),
        inode: inode.0,
        version: version.0,
        chunk_count: record.chunk_count,
        write_id: record.write_id.to_string(),
    }
}
