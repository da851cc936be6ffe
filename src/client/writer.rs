//! Writing what a program makes piece by piece.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Client, Error, Receipt, WriteOptions,
    source::{Pushed, Source},
    write::Write,
};
use crate::{status::Reason, types::Path};

/// Pieces that a [`Writer`] takes ahead.
const PIECES_QUEUED_MAX: usize = 4;

/// A write whose data is pushed piece by piece; dropped before [`Writer::finish`], it is given up.
#[derive(Debug)]
pub struct Writer {
    pieces: mpsc::Sender<Pushed>,
    /// Until its outcome has been told.
    task: Option<AbortOnDropHandle<Result<Receipt, Error>>>,
}

impl Writer {
    /// Takes one more piece, of any length; waits while the pieces before it are on their way.
    ///
    /// Fails with what the write failed with; nothing more can be pushed then.
    pub async fn push(&mut self, data: impl Into<Bytes>) -> Result<(), Error> {
        if self.pieces.send(Pushed::Data(data.into())).await.is_ok() {
            return Ok(());
        }
        self.outcome().await.and(Err(Error::new(Reason::Internal, "the write ended before its data")))
    }

    /// Says that all is there, and waits for the receipt.
    pub async fn finish(mut self) -> Result<Receipt, Error> {
        if self.pieces.send(Pushed::End).await.is_err() {
            tracing::debug!("the write ended before its data; its outcome says why");
        }
        self.outcome().await
    }

    /// Gives the write up: nothing of it will be visible, unless it has been finished.
    pub async fn cancel(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // Waits for the stream to be dropped, so that nothing is sent after this.
            if let Ok(Ok(receipt)) = task.await {
                tracing::debug!(path = %receipt.path, "given up too late: the write was finished");
            }
        }
    }

    async fn outcome(&mut self) -> Result<Receipt, Error> {
        let Some(task) = self.task.take() else {
            return Err(Error::new(Reason::Internal, "the write has failed before"));
        };
        task.await.unwrap_or_else(|_| Err(Error::new(Reason::Internal, "the write was aborted")))
    }
}

impl Client {
    /// A write whose data is pushed piece by piece. Nothing is visible before [`Writer::finish`].
    pub fn writer(&self, path: &Path, options: WriteOptions) -> Writer {
        let (pieces, receiver) = mpsc::channel(PIECES_QUEUED_MAX);
        let (client, write) = (self.clone(), Write::new(path, options));
        let task = tokio::spawn(async move { client.run_write(&write, &mut Source::pushed(receiver)).await });
        Writer { pieces, task: Some(AbortOnDropHandle::new(task)) }
    }
}
