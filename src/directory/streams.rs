//! The long-lived streams to clients: each is a task with an owner, a bounded queue, and an end.
//!
//! A stream ends when its work is done, when the client is gone, when the client has taken nothing for a while, or when
//! the service stops; whatever it was waiting for at that moment is dropped.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

use crate::status::{Failure, Reason};

/// Streams of all clients together.
const STREAMS_MAX: usize = 8192;
/// Messages that wait for a client; each is small, and what is not sent yet is read only when there is room.
const QUEUE_LENGTH: usize = 4;
/// A client that takes nothing for as long is cut off; it can come again and go on where it was.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(30);

/// How long a failure waits for room in the queue of a client.
const LAST_WORD_DEADLINE: Duration = Duration::from_secs(1);

/// Starts streams and ends them.
#[derive(Clone)]
pub struct Streams {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    /// What clients are told at the end, if it is not that the service stops.
    last_word: Arc<OnceLock<Failure>>,
    permits: Arc<Semaphore>,
}

/// Where a stream's messages go.
pub struct Sink<T>(mpsc::Sender<Result<T, Status>>);

/// The client is gone or takes nothing: the stream is over.
#[derive(Debug)]
pub struct Gone;

/// Why a stream ends before its client does.
pub enum Ended {
    /// All was said, or nobody listens.
    Quietly,
    With(Failure),
}

impl From<Gone> for Ended {
    fn from(_: Gone) -> Self {
        Self::Quietly
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::With(failure)
    }
}

impl<T> Sink<T> {
    /// Waits for room, so that a slow client slows down nobody but itself.
    pub async fn send(&self, message: T) -> Result<(), Gone> {
        match tokio::time::timeout(PROGRESS_DEADLINE, self.0.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

impl Streams {
    pub fn new(shutdown: CancellationToken) -> Self {
        let permits = Arc::new(Semaphore::new(STREAMS_MAX));
        Self { tracker: TaskTracker::new(), shutdown, last_word: Arc::default(), permits }
    }

    /// Ends all streams with this.
    pub fn end(&self, failure: Failure) {
        // The first reason is the one.
        let _unheard = self.last_word.set(failure);
        self.shutdown.cancel();
    }

    /// Runs `work` as a task that feeds the stream returned.
    pub fn start<T, W, F>(&self, work: W) -> Result<ReceiverStream<Result<T, Status>>, Failure>
    where
        T: Send + 'static,
        W: FnOnce(Sink<T>) -> F,
        F: Future<Output = Result<(), Ended>> + Send + 'static,
    {
        let permit = self.permits.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Failure::new(Reason::Unavailable, "too many streams are open"))?;
        let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
        let work = work(Sink(sender.clone()));
        let (shutdown, last_word) = (self.shutdown.clone(), self.last_word.clone());
        self.tracker.spawn(async move {
            let ended = tokio::select! {
                ended = work => ended,
                () = sender.closed() => Ok(()),
                () = shutdown.cancelled() => {
                    let stopping = || Failure::new(Reason::Unavailable, "the Directory is stopping");
                    Err(Ended::With(last_word.get().cloned().unwrap_or_else(stopping)))
                }
            };
            if let Err(Ended::With(failure)) = ended {
                // Nobody waits for it any more if there is no room within the deadline.
                let _unheard = sender.send_timeout(Err(failure.into()), LAST_WORD_DEADLINE).await;
            }
            drop(permit);
        });
        Ok(ReceiverStream::new(receiver))
    }

    /// Waits for every stream to have ended; they do when the service stops.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_stream_ends_when_the_service_stops() {
        let shutdown = CancellationToken::new();
        let streams = Streams::new(shutdown.clone());
        let mut stream = streams
            .start(|sink: Sink<u32>| async move {
                sink.send(1).await?;
                std::future::pending::<Result<(), Ended>>().await
            })
            .unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(stream.next().await.map(Result::unwrap), Some(1));
        shutdown.cancel();
        let last = stream.next().await.map(|item| item.unwrap_err());
        assert_eq!(last.map(|status| Failure::from(&status).reason), Some(Reason::Unavailable));
        assert!(stream.next().await.is_none());
        streams.ended().await;
    }

    #[tokio::test]
    async fn the_task_of_a_stream_ends_with_its_client() {
        let streams = Streams::new(CancellationToken::new());
        let stream = streams.start(|_: Sink<u32>| std::future::pending());
        drop(stream);
        streams.ended().await;
        assert_eq!(streams.permits.available_permits(), STREAMS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut_off() {
        let streams = Streams::new(CancellationToken::new());
        let stream = streams.start(|sink: Sink<u32>| async move {
            loop {
                sink.send(0).await?;
            }
        });
        streams.ended().await;
        assert_eq!(stream.map(|stream| stream.into_inner().len()).ok(), Some(QUEUE_LENGTH));
    }
}
