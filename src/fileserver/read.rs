//! Reading: verified chunks of many ranges on one stream, whole blobs for peers, and checksums of what is on the disk.
//!
//! A chunk is checked when it comes from the disk; what a range cuts off it gets a checksum of its own, so the reader can
//! check what arrives. How far a stream reads ahead is bounded by the memory that its chunks take a share of until the
//! transport has them.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::Status;

use crate::{
    convert,
    fileserver::{error::Error, node::Node, replication::Memory},
    pb::{self, fetch_blobs_response::Part, read_response, verify_blobs_response},
    status::Failure,
    types::{BlobId, crc32c, crc32c_combine},
};

/// Ranges in one call, as the contract says.
pub const RANGES_MAX: usize = 10_000;
/// Chunks that a stream is ahead of its reader.
const AHEAD_MAX: usize = 2;
/// A reader that takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Sink<T> {
    queue: mpsc::Sender<(T, Option<Memory>)>,
}

/// Nobody reads any more.
struct Gone;

impl<T> Sink<T> {
    async fn send(&self, message: T, memory: Option<Memory>) -> Result<(), Gone> {
        self.queue.send_timeout((message, memory), PATIENCE).await.map_err(|_| Gone)
    }
}

/// Runs a producer as a task of the node; it ends when nobody reads any more.
fn stream<T, F>(node: &Arc<Node>, produce: impl FnOnce(Arc<Node>, Sink<T>) -> F) -> Answers<T>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (queue, queued) = mpsc::channel(AHEAD_MAX);
    let produce = produce(node.clone(), Sink { queue });
    let shutdown = node.shutdown.clone();
    node.tasks.spawn(async move {
        tokio::select! {
            ended = produce => if ended.is_err() {
                tracing::debug!("a reader went before the end");
            },
            () = shutdown.cancelled() => {}
        }
    });
    // The memory's share is given back when the transport takes the message.
    Box::pin(ReceiverStream::new(queued).map(|(message, _memory)| Ok(message)))
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
    stream(node, |node, sink| async move {
        for (range_index, range) in (0..).zip(&ranges) {
            let say = |result| pb::ReadResponse { range_index, result: Some(result) };
            if let Err(failure) = read_range(&node, range, &sink, say).await? {
                sink.send(say(read_response::Result::Error(failure.into())), None).await?;
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
        let (chunk, memory) = match next_chunk(node, &mut range).await {
            Ok(next) => next,
            Err(failure) => return Ok(Err(failure)),
        };
        sink.send(say(read_response::Result::Chunk(chunk)), Some(memory)).await?;
    }
    Ok(Ok(()))
}

/// The chunk that holds the range's offset, as much of it as the range wants; moves the range on.
async fn next_chunk(node: &Node, range: &mut Range) -> Result<(pb::ReadChunk, Memory), Failure> {
    let memory = node.budget.for_read(crate::types::CHUNK_LENGTH_MAX).await;
    let stored = node.store.read_chunk(range.blob, range.offset).await.map_err(Error::from)?;
    let begin = (range.offset - stored.offset) as usize;
    let end = stored.data.len().min((range.end - stored.offset) as usize);
    let is_whole = begin == 0 && end == stored.data.len();
    let data = if is_whole { stored.data } else { stored.data.slice(begin..end) };
    let checksum = if is_whole { stored.checksum } else { crc32c(&data) };
    let chunk = pb::ReadChunk { offset: range.offset, data, checksum };
    range.offset += chunk.data.len() as u64;
    Ok((chunk, memory))
}

/// What `FileServer.VerifyBlobs` answers.
pub fn verify(node: &Arc<Node>, ranges: Vec<pb::BlobRange>) -> Answers<pb::VerifyBlobsResponse> {
    stream(node, |node, sink| async move {
        for (range_index, range) in (0..).zip(&ranges) {
            let result = match verify_range(&node, range).await {
                Ok(verified) => verify_blobs_response::Result::Verified(verified),
                Err(failure) => verify_blobs_response::Result::Error(failure.into()),
            };
            sink.send(pb::VerifyBlobsResponse { range_index, result: Some(result) }, None).await?;
        }
        Ok(())
    })
}

async fn verify_range(node: &Node, range: &pb::BlobRange) -> Result<pb::VerifiedRange, Failure> {
    let mut range = check(node, range)?;
    let length = range.end - range.offset;
    let mut checksum = 0;
    while range.offset < range.end {
        let (chunk, _memory) = next_chunk(node, &mut range).await?;
        checksum = crc32c_combine(checksum, chunk.checksum, chunk.data.len() as u64);
    }
    Ok(pb::VerifiedRange { length, checksum })
}

/// What `FileServer.FetchBlobs` answers.
pub fn fetch(node: &Arc<Node>, blobs: Vec<String>) -> Answers<pb::FetchBlobsResponse> {
    stream(node, |node, sink| async move {
        for blob in blobs {
            if let Err(failure) = fetch_one(&node, &blob, &sink).await? {
                sink.send(pb::FetchBlobsResponse { blob, part: Some(Part::Error(failure.into())) }, None).await?;
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
    sink.send(say(Part::Begin(info)), None).await?;
    while range.offset < range.end {
        let (chunk, memory) = match next_chunk(node, &mut range).await {
            Ok(next) => next,
            Err(failure) => return Ok(Err(failure)),
        };
        sink.send(say(Part::Chunk(chunk)), Some(memory)).await?;
    }
    sink.send(say(Part::End(true)), None).await.map(Ok)
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
