//! One client's stream of many writes: takes it apart, and bounds what it may hold.
//!
//! A client may have [`OPEN_MAX`] writes begun and not ended; more is its mistake, and ends the stream, for waiting could
//! never help. Writes that have ended are waited for when there are [`RUNNING_MAX`]: the stream is then not read. The data
//! itself is bounded by the memory of the whole process, which every frame takes a share of before it is handed on.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Frame, Intent};
use crate::{
    convert,
    fileserver::{error::Error, node::Node},
    pb::{self, write_response},
    status::Failure,
    types::{CHUNK_LENGTH_MAX, WriteId},
};

const OPEN_MAX: usize = 256;
const RUNNING_MAX: usize = 512;
/// Frames of one write that wait for its turn: with 1 MiB each, its window.
const WINDOW_FRAMES: usize = 8;
const ANSWERS_MAX: usize = 256;
/// A client that does not read its answers for so long does not get them.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub type Answers = mpsc::Sender<Result<pb::WriteResponse, Status>>;
pub type AnswerStream = ReceiverStream<Result<pb::WriteResponse, Status>>;

/// Serves one stream, as a task of the node.
pub fn serve(node: &Arc<Node>, requests: Streaming<pb::WriteRequest>) -> AnswerStream {
    let (answers, stream) = mpsc::channel(ANSWERS_MAX);
    let writes = Writes { node: node.clone(), open: HashMap::new(), running: JoinSet::new(), answers };
    node.tasks.spawn(writes.run(requests));
    ReceiverStream::new(stream)
}

/// Answers one write; a client that is gone or does not listen asks again by its write id.
pub async fn answer(answers: &Answers, write_id: WriteId, result: Result<pb::WriteReceipt, Failure>) {
    answer_text(answers, write_id.to_string(), result).await;
}

async fn answer_text(answers: &Answers, write_id: String, result: Result<pb::WriteReceipt, Failure>) {
    let result = match result {
        Ok(receipt) => write_response::Result::Receipt(receipt),
        Err(failure) => write_response::Result::Error(failure.into()),
    };
    let response = pb::WriteResponse { write_id, result: Some(result) };
    if answers.send_timeout(Ok(response), ANSWER_TIMEOUT).await.is_err() {
        tracing::debug!("nobody took the answer to a write");
    }
}

struct Writes {
    node: Arc<Node>,
    /// Begun and not ended. `None`: failed, and the rest of it is skipped.
    open: HashMap<WriteId, Option<mpsc::Sender<Frame>>>,
    running: JoinSet<()>,
    answers: Answers,
}

impl Writes {
    async fn run(mut self, mut requests: Streaming<pb::WriteRequest>) {
        let shutdown = self.node.shutdown.clone();
        let why = loop {
            while self.running.try_join_next().is_some() {}
            while self.running.len() >= RUNNING_MAX {
                self.running.join_next().await;
            }
            let request = tokio::select! {
                () = shutdown.cancelled() => break Error::Stopping,
                request = requests.message() => request,
            };
            match request {
                Ok(Some(request)) => {
                    if let Err(failure) = self.on_request(request).await {
                        // The client may be gone already.
                        let _unheard = self.answers.send_timeout(Err(failure.into()), ANSWER_TIMEOUT).await;
                        break Error::EndedEarly;
                    }
                }
                Ok(None) => break Error::EndedEarly,
                Err(status) => {
                    // A message past the transport's limit; or the client is gone, and nobody hears this.
                    let failure = Failure::from(&status);
                    let _unheard = self.answers.send_timeout(Err(failure.into()), ANSWER_TIMEOUT).await;
                    break Error::EndedEarly;
                }
            }
        };
        for frames in std::mem::take(&mut self.open).into_values().flatten() {
            // A write that has failed meanwhile does not mind.
            let _failed = frames.send(Frame::GivenUp(why.clone())).await;
        }
        while self.running.join_next().await.is_some() {}
    }

    /// `Err`: the stream cannot go on.
    async fn on_request(&mut self, request: pb::WriteRequest) -> Result<(), Failure> {
        let write_id = match convert::write_id("write_id", &request.write_id) {
            Ok(write_id) => write_id,
            Err(failure) => {
                answer_text(&self.answers, request.write_id, Err(failure)).await;
                return Ok(());
            }
        };
        if let Some(begin) = request.begin {
            self.begin(write_id, &begin).await?;
        }
        if let Some(data) = request.data {
            self.data(write_id, data).await?;
        }
        if let Some(end) = request.end {
            self.last(write_id, Frame::End { length: end.length, checksum: end.checksum }).await?;
        }
        // One that has ended already is too late to give up, and is answered as it ends.
        if request.cancel && self.open.contains_key(&write_id) {
            self.last(write_id, Frame::GivenUp(Error::GivenUp)).await?;
        }
        Ok(())
    }

    async fn begin(&mut self, write_id: WriteId, begin: &pb::WriteBegin) -> Result<(), Failure> {
        if let Some(before) = self.open.get_mut(&write_id) {
            // One answer a write: the write that was under way fails with it, and the rest of both is skipped.
            if let Some(frames) = before.take() {
                let _failed = frames.send(Frame::GivenUp(Error::BegunTwice)).await;
            }
            return Ok(());
        }
        self.check_open_count()?;
        match Intent::parse(write_id, begin) {
            Ok(intent) => {
                let (frames, queued) = mpsc::channel(WINDOW_FRAMES);
                self.running.spawn(super::run(self.node.clone(), intent, queued, self.answers.clone()));
                self.open.insert(write_id, Some(frames));
            }
            Err(failure) => {
                self.open.insert(write_id, None);
                answer(&self.answers, write_id, Err(failure)).await;
            }
        }
        Ok(())
    }

    fn check_open_count(&self) -> Result<(), Failure> {
        if self.open.len() < OPEN_MAX { Ok(()) } else { Err(Error::TooManyOpen { limit: OPEN_MAX }.into()) }
    }

    async fn data(&mut self, write_id: WriteId, data: pb::WriteData) -> Result<(), Failure> {
        let length = data.data.len();
        if !self.open.contains_key(&write_id) {
            self.check_open_count()?;
            self.open.insert(write_id, None);
            answer(&self.answers, write_id, Err(Error::NotBegun.into())).await;
        }
        if length > CHUNK_LENGTH_MAX {
            // More of the write may follow the frame that was too long.
            if let Some(frames) = self.open.insert(write_id, None).flatten() {
                let _failed = frames.send(Frame::GivenUp(Error::FrameTooLong { length })).await;
            }
            return Ok(());
        }
        let Some(Some(frames)) = self.open.get(&write_id) else { return Ok(()) };
        let memory = self.node.budget.for_write(length).await;
        if frames.send(Frame::Data { data: data.data, checksum: data.checksum, memory }).await.is_err() {
            self.open.insert(write_id, None);
        }
        Ok(())
    }

    /// Nothing follows of this write.
    async fn last(&mut self, write_id: WriteId, frame: Frame) -> Result<(), Failure> {
        match self.open.entry(write_id) {
            Entry::Vacant(_) => answer(&self.answers, write_id, Err(Error::NotBegun.into())).await,
            Entry::Occupied(open) => {
                if let Some(frames) = open.remove() {
                    // A write that has failed meanwhile has answered.
                    let _failed = frames.send(frame).await;
                }
            }
        }
        Ok(())
    }
}
