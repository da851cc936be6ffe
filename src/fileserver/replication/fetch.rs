//! Fetches whole blobs from a peer into this server's store.
//!
//! They stay staged, whatever the peer knows about them: the peer may have garbage that it was not told to delete yet, and
//! that this server has deleted and said so. Nobody would ever tell it again; settling asks the Directory, and learns it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tonic::transport::Channel;

use crate::{
    convert,
    fileserver::{error::Error, locked, node::Node, replica::SourceId, store::StoreError},
    pb::{self, fetch_blobs_response::Part, file_server_client::FileServerClient},
    status::{Failure, Reason},
    types::{BlobId, GroupId},
};

const PART_TIMEOUT: Duration = Duration::from_secs(10);

/// Brings blobs to this server, until dropped; what it brought is then spared from settling for a while, for its writes may
/// be under way.
pub struct Fetcher {
    node: Arc<Node>,
    source: SourceId,
    /// Held while blobs come in.
    turns: Option<Arc<Semaphore>>,
}

/// The blobs that a peer was asked for and did not give.
#[derive(Debug, Default)]
pub struct Unfetched {
    /// Deleted since they were listed.
    pub gone: BTreeSet<BlobId>,
    /// The peer's copy cannot be read, for example.
    pub refused: Vec<(BlobId, Failure)>,
}

/// A blob that is coming in.
pub struct Incoming {
    blob: BlobId,
    info: pb::BlobInfo,
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.node.close_source(self.source);
    }
}

impl Fetcher {
    pub fn new(node: Arc<Node>) -> Self {
        let source = node.next_source();
        Self { node, source, turns: None }
    }

    /// One of several that take turns.
    pub fn in_turn(node: Arc<Node>, turns: Arc<Semaphore>) -> Self {
        let mut fetcher = Self::new(node);
        fetcher.turns = Some(turns);
        fetcher
    }

    /// Whether a primary is sending the blob here: it would not be taken from elsewhere.
    pub fn is_coming(&self, blob: BlobId) -> bool {
        locked(&self.node.replica).is_brought_by_another(self.source, blob)
    }

    /// Fetches the blobs that the peer still has and that no primary is sending here just now.
    pub async fn fetch(
        &mut self,
        client: &mut FileServerClient<Channel>,
        blobs: &[BlobId],
    ) -> Result<Unfetched, Error> {
        let blobs = blobs.iter().map(BlobId::to_string).collect();
        let _turn = match &self.turns {
            // Nothing closes the semaphore; were it closed, there would be no bound to keep.
            Some(turns) => turns.clone().acquire_owned().await.ok(),
            None => None,
        };
        let opened = tokio::time::timeout(PART_TIMEOUT, client.fetch_blobs(pb::FetchBlobsRequest { blobs })).await;
        let mut parts = opened.map_err(|_| Error::Idle(PART_TIMEOUT))??.into_inner();
        let mut incoming: Option<Incoming> = None;
        let mut unfetched = Unfetched::default();
        loop {
            let message = tokio::time::timeout(PART_TIMEOUT, parts.message()).await;
            let Some(message) = message.map_err(|_| Error::Idle(PART_TIMEOUT))?? else { return Ok(unfetched) };
            let blob = convert::blob_id("blob", &message.blob).map_err(Error::Refused)?;
            match message.part {
                None => {}
                Some(Part::Begin(info)) => incoming = self.begin(blob, info)?,
                Some(Part::Chunk(chunk)) if incoming.as_ref().is_some_and(|incoming| incoming.blob == blob) => {
                    if let Some(Incoming { info, .. }) = &incoming {
                        self.node.pace_arrival(GroupId(info.group), chunk.data.len()).await;
                    }
                    let taken = self.node.store.append(blob, chunk.offset, chunk.data, chunk.checksum).await;
                    incoming = self.unless_superseded(taken)?.and(incoming);
                }
                // Of a blob that is being skipped.
                Some(Part::Chunk(_)) => {}
                Some(Part::End(_)) => {
                    if let Some(whole) = incoming.take().filter(|incoming| incoming.blob == blob) {
                        self.finish(whole).await?;
                    }
                }
                Some(Part::Error(error)) => {
                    incoming = None;
                    let failure = Failure::from(error);
                    if failure.reason == Reason::VersionNotFound {
                        unfetched.gone.insert(blob);
                    } else {
                        unfetched.refused.push((blob, failure));
                    }
                }
            }
        }
    }

    /// A blob is brought in pieces. `None`: somebody else is bringing it, or it is whole.
    pub fn begin(&self, blob: BlobId, info: pb::BlobInfo) -> Result<Option<Incoming>, Error> {
        let write_id = convert::write_id("begin.write_id", &info.write_id).map_err(Error::Refused)?;
        if !locked(&self.node.replica).begin_fetch(self.source, blob) {
            return Ok(None);
        }
        match self.node.store.begin(GroupId(info.group), write_id, blob) {
            Ok(()) => Ok(Some(Incoming { blob, info })),
            Err(StoreError::AlreadySealed(_)) => {
                locked(&self.node.replica).forget(blob);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A primary that began to send the same blob has taken over: that is as good.
    fn unless_superseded(&self, taken: Result<(), StoreError>) -> Result<Option<()>, Error> {
        match taken {
            Ok(()) => Ok(Some(())),
            Err(StoreError::Superseded(_) | StoreError::NoSuchBlob(_) | StoreError::OutOfOrder { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All of it was appended.
    pub async fn finish(&self, Incoming { blob, info }: Incoming) -> Result<(), Error> {
        let sealed = self.node.store.seal(blob, info.length, info.checksum).await;
        if self.unless_superseded(sealed)?.is_none() {
            return Ok(());
        }
        let mut replica = locked(&self.node.replica);
        if info.published {
            replica.forget(blob);
        } else if replica.seal(self.source, blob).is_ok() {
            // It is complete: it stays when this fetcher goes.
            replica.sealed(self.source, blob);
        }
        Ok(())
    }
}
