//! A file server reads everything on its disk, because somebody asked it to.

use std::time::Duration;

use tonic::Streaming;

use super::{Client, Error, call::attempt, channels::Purpose};
use crate::{
    pb::{self, file_server_client::FileServerClient},
    types::ServerId,
};

const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// A server says at least every second how far it is.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How far a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubProgress {
    pub read_bytes: u64,
    /// Of the server's whole log; it grows while files are written.
    pub total_bytes: u64,
    /// At the end.
    pub result: Option<ScrubResult>,
}

/// What a server found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubResult {
    /// Those known before included.
    pub damaged_chunks: u64,
    /// Fetched again from other servers.
    pub repaired_chunks: u64,
    /// Committed blobs that no server has whole.
    pub lost_blobs: u64,
}

/// A scrub under way; dropping it ends it.
pub struct Scrub {
    answers: Streaming<pb::ScrubStoreResponse>,
}

impl Client {
    /// Has a file server read everything now, no faster than `bytes_per_second` (`None`: as it scrubs anyway), and mend what it
    /// finds.
    pub async fn scrub(&self, server: &ServerId, bytes_per_second: Option<u64>) -> Result<Scrub, Error> {
        let address = self.file_server_address(server)?;
        let mut file_server = FileServerClient::new(self.inner.channels.get(&address, Purpose::Control)?);
        let request = pb::ScrubStoreRequest { bytes_per_second: bytes_per_second.unwrap_or(0) };
        let call = |request| async move { file_server.scrub_store(request).await };
        Ok(Scrub { answers: attempt("scrub", OPEN_TIMEOUT, request, call).await? })
    }
}

impl Scrub {
    /// `None` after the one with the result.
    pub async fn next(&mut self) -> Result<Option<ScrubProgress>, Error> {
        let next = tokio::time::timeout(SILENCE_MAX, self.answers.message()).await;
        let answer = next.map_err(|_| Error::silence(SILENCE_MAX, "scrub"))??;
        Ok(answer.map(|answer| ScrubProgress {
            read_bytes: answer.read_bytes,
            total_bytes: answer.total_bytes,
            result: answer.done.map(|done| ScrubResult {
                damaged_chunks: done.damaged_chunk_count,
                repaired_chunks: done.repaired_chunk_count,
                lost_blobs: done.lost_blob_count,
            }),
        }))
    }
}
