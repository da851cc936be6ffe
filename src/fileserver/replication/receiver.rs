//! The replica's end of a primary's stream: what [`Replica`](crate::fileserver::replica::Replica) accepts goes into the
//! store, and what is durable there is answered.
//!
//! Messages are applied in order; only waiting for the disk is not, so that many blobs share one sync. While the store has
//! no room this end stops reading, which slows the primary down, and says by unasked pongs that it is alive.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    convert,
    fileserver::{
        error::Error,
        locked,
        node::Node,
        replica::{SourceId, Stored, Verdict},
        store::BlobRecord,
    },
    pb::{self, replicate_request::Message as Request, replicate_response::Message as Answer},
    status::{Failure, Reason},
    types::{BlobId, Epoch, GroupId, Inode, ServerId, Version},
};

/// Messages that were read and wait for the store: at most so many chunks of 1 MiB.
const QUEUE_MAX: usize = 16;
/// Answers that wait for the primary to read them.
const ANSWERS_MAX: usize = 256;
/// Blobs that wait for the disk at a time.
const SEALS_MAX: usize = 1024;
const BUSY_INTERVAL: Duration = Duration::from_millis(500);
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A primary pings; one that says nothing, or takes no answer, for this long is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// What was read before the primary went is brought to the disk within this. A disk that hangs for longer must not collect what
/// one stream after the other leaves.
const LEFT_OVER_TIMEOUT: Duration = Duration::from_secs(10);

type Answers = mpsc::Sender<Result<pb::ReplicateResponse, Status>>;
pub type AnswerStream = ReceiverStream<Result<pb::ReplicateResponse, Status>>;

/// Serves one stream, as a task of the node.
pub fn serve(node: &Arc<Node>, requests: Streaming<pb::ReplicateRequest>) -> AnswerStream {
    let (answers, stream) = mpsc::channel(ANSWERS_MAX);
    let owner = node.clone();
    node.tasks.spawn(async move {
        let shutdown = owner.shutdown.clone();
        tokio::select! {
            ended = run(&owner, requests, &answers) => if let Err(failure) = ended {
                // The primary may be gone already.
                let _unheard = answers.try_send(Err(failure.into()));
            },
            () = shutdown.cancelled() => {}
        }
    });
    ReceiverStream::new(stream)
}

async fn run(
    node: &Arc<Node>,
    mut requests: Streaming<pb::ReplicateRequest>,
    answers: &Answers,
) -> Result<(), Failure> {
    let hello = tokio::time::timeout(HELLO_TIMEOUT, requests.message()).await;
    let hello =
        hello.map_err(|_| Failure::bad_argument("hello", "did not come"))?.map_err(|status| Failure::from(&status))?;
    let Some(Request::Hello(hello)) = hello.and_then(|hello| hello.message) else {
        return Err(Failure::bad_argument("hello", "is the first message of the stream"));
    };
    let primary = convert::server_id("hello.server_id", &hello.server_id)?;
    let ours = node.map.now().cluster_id();
    if ours.is_empty() {
        return Err(Error::NotReady.into());
    }
    if hello.cluster_id != ours {
        return Err(Failure::bad_argument("hello.cluster_id", "is another cluster's"));
    }
    let welcome = pb::ReplicateWelcome { server_id: node.me.to_string(), store_id: node.store_id.to_string() };
    say(answers, Answer::Welcome(welcome)).await?;

    let receiver = Receiver {
        node: node.clone(),
        primary,
        source: node.next_source(),
        answers: answers.clone(),
        seals: JoinSet::new(),
    };
    let (queue, queued) = mpsc::channel(QUEUE_MAX);
    // Both end when either does; the receiver's end is what throws unfinished blobs away.
    let mut applying = pin!(receiver.apply_all(queued));
    let mut reading = pin!(read(requests, queue, answers));
    let read = tokio::select! {
        read = &mut reading => read,
        () = &mut applying => return reading.await,
    };
    if tokio::time::timeout(LEFT_OVER_TIMEOUT, applying).await.is_err() {
        tracing::warn!("the disk does not take what a stream has left");
    }
    read
}

async fn say(answers: &Answers, answer: Answer) -> Result<(), Failure> {
    let response = pb::ReplicateResponse { message: Some(answer) };
    let sent = answers.send_timeout(Ok(response), SILENCE).await;
    sent.map_err(|_| Failure::new(Reason::Unavailable, "the primary is gone"))
}

/// Reads, answers pings at once, and hands on the rest.
async fn read(
    mut requests: Streaming<pb::ReplicateRequest>,
    queue: mpsc::Sender<Request>,
    answers: &Answers,
) -> Result<(), Failure> {
    let mut last_ping = 0;
    loop {
        let message = match tokio::time::timeout(SILENCE, requests.message()).await {
            Err(_) => return Err(Failure::new(Reason::DeadlineExceeded, "the primary says nothing")),
            Ok(Err(status)) => return Err(Failure::from(&status)),
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(request))) => request.message,
        };
        match message {
            // From a newer primary that says more than this version knows.
            None => {}
            Some(Request::Ping(number)) => {
                last_ping = number;
                say(answers, Answer::Pong(number)).await?;
            }
            Some(message) => loop {
                match tokio::time::timeout(BUSY_INTERVAL, queue.reserve()).await {
                    Ok(Ok(room)) => break room.send(message),
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => say(answers, Answer::Pong(last_ping)).await?,
                }
            },
        }
    }
}

struct Receiver {
    node: Arc<Node>,
    primary: ServerId,
    source: SourceId,
    answers: Answers,
    seals: JoinSet<()>,
}

impl Drop for Receiver {
    /// Also when the task is dropped at a shutdown: nothing stays claimed by a stream that is gone.
    fn drop(&mut self) {
        self.node.close_source(self.source);
    }
}

impl Receiver {
    async fn apply_all(mut self, mut queued: mpsc::Receiver<Request>) {
        while let Some(message) = queued.recv().await {
            if self.apply(message).await.is_err() {
                return;
            }
            while self.seals.try_join_next().is_some() {}
        }
        // What is complete becomes durable also when the primary is gone: its successor may need the copy.
        while self.seals.join_next().await.is_some() {}
    }

    /// `Err`: the stream is of no use any more.
    async fn apply(&mut self, message: Request) -> Result<(), Failure> {
        match message {
            Request::Hello(_) => Err(Failure::bad_argument("hello", "came twice")),
            Request::Ping(_) => Ok(()),
            Request::Begin(begin) => {
                let blob = convert::blob_id("begin.blob", &begin.blob)?;
                let begun = self.begin(blob, &begin);
                match begun {
                    Ok(Verdict::Have) if begin.ask => self.say_durable(blob).await,
                    Ok(_) if begin.ask => say(&self.answers, Answer::Wanted(pb::BlobWanted { blob: begin.blob })).await,
                    Ok(_) => Ok(()),
                    Err(error) => self.refuse(blob, error).await,
                }
            }
            Request::Chunk(chunk) => {
                let blob = convert::blob_id("chunk.blob", &chunk.blob)?;
                match self.chunk(blob, chunk).await {
                    Ok(()) => Ok(()),
                    Err(error) => self.refuse(blob, error).await,
                }
            }
            Request::Seal(seal) => {
                let blob = convert::blob_id("seal.blob", &seal.blob)?;
                self.seal(blob, seal).await
            }
            Request::Publish(publish) => {
                let blob = convert::blob_id("publish.blob", &publish.blob)?;
                self.publish(blob, Inode(publish.inode), Version(publish.version)).await;
                Ok(())
            }
            Request::Discard(discard) => {
                let blob = convert::blob_id("discard.blob", &discard.blob)?;
                if locked(&self.node.replica).discard(self.source, blob) == Verdict::Accept {
                    self.node.discard(blob).await;
                }
                Ok(())
            }
        }
    }

    fn begin(&self, blob: BlobId, begin: &pb::ReplicateBegin) -> Result<Verdict, Error> {
        let write_id = convert::write_id("begin.write_id", &begin.write_id).map_err(Error::Refused)?;
        let group_id = GroupId(begin.group);
        let view = self.node.map.now();
        let stored = stored(self.node.store.blob(blob).as_ref());
        let verdict = locked(&self.node.replica).begin(
            self.source,
            &self.primary,
            blob,
            (group_id, Epoch(begin.epoch)),
            view.group(group_id),
            stored,
        )?;
        if verdict == Verdict::Accept {
            self.node.store.begin(group_id, write_id, blob)?;
        }
        Ok(verdict)
    }

    async fn chunk(&self, blob: BlobId, chunk: pb::ReplicateChunk) -> Result<(), Error> {
        let verdict = locked(&self.node.replica).chunk(self.source, blob, chunk.offset, chunk.data.len() as u64)?;
        if verdict == Verdict::Accept {
            self.node.store.append(blob, chunk.offset, chunk.data, chunk.checksum).await?;
        }
        Ok(())
    }

    async fn seal(&mut self, blob: BlobId, seal: pb::ReplicateSeal) -> Result<(), Failure> {
        let verdict = locked(&self.node.replica).seal(self.source, blob);
        match verdict {
            Err(refused) => return self.refuse(blob, refused.into()).await,
            Ok(Verdict::Ignore) => return Ok(()),
            Ok(Verdict::Have) => return self.say_durable(blob).await,
            Ok(Verdict::Accept) => {}
        }
        if self.seals.len() >= SEALS_MAX {
            self.seals.join_next().await;
        }
        let (node, answers, source) = (self.node.clone(), self.answers.clone(), self.source);
        self.seals.spawn(async move {
            let answer = match node.store.seal(blob, seal.length, seal.checksum).await {
                Ok(()) => {
                    locked(&node.replica).sealed(source, blob);
                    Answer::Durable(pb::BlobDurable { blob: blob.to_string() })
                }
                Err(error) => {
                    node.refuse_blob(source, blob);
                    refusal(blob, error.into())
                }
            };
            // A primary that is gone asks again on its next stream.
            let _unheard = say(&answers, answer).await;
        });
        Ok(())
    }

    /// A blob that is not whole here is of no use: this server is not in sync, and will fetch it. One that is just being
    /// made durable stays; settling finds out what it belongs to.
    async fn publish(&self, blob: BlobId, inode: Inode, version: Version) {
        {
            let mut replica = locked(&self.node.replica);
            replica.forget(blob);
            if self.node.store.blob(blob).is_none_or(|record| !record.sealed) {
                return self.node.store.discard_open(blob);
            }
        }
        if let Err(error) = self.node.store.publish(blob, inode, version).await {
            tracing::warn!(%blob, %inode, %version, %error, "cannot record what version a blob belongs to");
        }
    }

    async fn say_durable(&self, blob: BlobId) -> Result<(), Failure> {
        say(&self.answers, Answer::Durable(pb::BlobDurable { blob: blob.to_string() })).await
    }

    async fn refuse(&self, blob: BlobId, error: Error) -> Result<(), Failure> {
        self.node.refuse_blob(self.source, blob);
        say(&self.answers, refusal(blob, error)).await
    }
}

/// A damaged copy is no copy: it is asked for again, and replaced.
fn stored(record: Option<&BlobRecord>) -> Stored {
    match record {
        Some(record) if record.sealed && !record.damaged => Stored::Whole,
        _ => Stored::Part,
    }
}

fn refusal(blob: BlobId, error: Error) -> Answer {
    let failure = Failure::from(error);
    tracing::debug!(%blob, %failure, "blob refused");
    Answer::Refused(pb::BlobRefused { blob: blob.to_string(), error: Some(failure.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::WriteId;

    #[test]
    fn only_an_undamaged_sealed_copy_counts_as_whole() {
        let record = |sealed, damaged| BlobRecord {
            group: GroupId(3),
            blob: BlobId::from_bytes([9; 16]),
            write_id: WriteId::from_bytes([8; 16]),
            length: 10,
            checksum: 0,
            sealed,
            damaged,
            published: None,
            chunk_count: 1,
        };
        assert_eq!(stored(None), Stored::Part);
        assert_eq!(stored(Some(&record(false, false))), Stored::Part);
        assert_eq!(stored(Some(&record(true, false))), Stored::Whole);
        assert_eq!(stored(Some(&record(true, true))), Stored::Part);
    }
}
