//! The blobs of one file server: a log of segments, and an index of it in memory.

use std::time::Duration;

use bytes::Bytes;

use crate::types::{BlobId, GroupId, Inode, Version, WriteId};

mod types;

pub use types::{
    BlobRecord, DamagedChunk, DamagedRegion, Recovered, Staged, StoreError, StoreOptions, StoreStatus, StoredChunk,
};

/// A handle; clones are the same store.
#[derive(Clone)]
pub struct Store;

#[expect(unused_variables, clippy::unused_async, reason = "the signatures land first, for those who build on them")]
impl Store {
    /// Replays the log and starts the writer. Blocks on the disk.
    pub fn open(options: StoreOptions) -> Result<(Self, Recovered), StoreError> {
        todo!()
    }

    /// Begins a blob. One begun before and not sealed starts afresh; a sealed one is `AlreadySealed`, unless it is
    /// damaged: then it is replaced when the new copy is sealed. Recorded with the first chunk.
    pub fn begin(&self, group: GroupId, write_id: WriteId, blob: BlobId) -> Result<(), StoreError> {
        todo!()
    }

    /// Accepts the next chunk: waits for room in the window, not for the disk. What the disk says comes with the next
    /// `append` or with `seal`.
    pub async fn append(&self, blob: BlobId, offset: u64, data: Bytes, checksum: u32) -> Result<(), StoreError> {
        todo!()
    }

    /// Returns when all of the blob is on stable storage. One sealed already with this length and checksum is fine.
    pub async fn seal(&self, blob: BlobId, length: u64, checksum: u32) -> Result<(), StoreError> {
        todo!()
    }

    /// Records the version that a sealed blob was committed as. Durable within about a second.
    pub async fn publish(&self, blob: BlobId, inode: Inode, version: Version) -> Result<(), StoreError> {
        todo!()
    }

    /// Drops a blob that is not published, sealed or not; an unknown one is fine. Durable within about a second.
    pub async fn discard(&self, blob: BlobId) -> Result<(), StoreError> {
        todo!()
    }

    /// Deletes blobs, published or not; unknown ones are fine. Durable on return.
    pub async fn delete(&self, blobs: Vec<BlobId>) -> Result<(), StoreError> {
        todo!()
    }

    pub fn blob(&self, blob: BlobId) -> Option<BlobRecord> {
        todo!()
    }

    /// A page of the group's blobs in the order of their ids, from the one after `after`.
    pub fn blobs(&self, group: GroupId, after: Option<BlobId>, limit: usize, sealed_only: bool) -> Vec<BlobRecord> {
        todo!()
    }

    /// The chunk of a sealed blob that holds the byte at `offset`, whole, from the disk, verified.
    pub async fn read_chunk(&self, blob: BlobId, offset: u64) -> Result<StoredChunk, StoreError> {
        todo!()
    }

    /// Blobs begun or recovered longer ago than this and not published.
    pub fn unpublished(&self, older_than: Duration) -> Vec<Staged> {
        todo!()
    }

    /// The pieces of sealed blobs that are known to be damaged, for repair: fetch the blob, begin, append, seal.
    pub fn damaged(&self) -> Vec<DamagedChunk> {
        todo!()
    }

    pub fn status(&self) -> StoreStatus {
        todo!()
    }

    /// Finishes what is queued, makes it durable, and stops the threads.
    pub async fn close(&self) {
        todo!()
    }
}
