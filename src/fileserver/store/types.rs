//! What the store is asked and what it answers, as plain data.

use std::path::PathBuf;

use bytes::Bytes;

use crate::{
    metrics::{Counter, Seconds},
    types::{BlobId, CHUNK_LENGTH_MAX, GroupId, Inode, Version, WriteId},
};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Holds the segments and the checkpoint, and nothing else. The caller keeps other processes out of it.
    pub dir: PathBuf,
    /// At about this size a segment is closed and the next begun.
    pub segment_bytes: u64,
    /// New data is refused while less than this is free on the disk.
    pub reserve_bytes: u64,
    /// The scrub that goes on for ever reads no faster than this. At least 1.
    pub scrub_bytes_per_second: u64,
}

/// One blob, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRecord {
    pub group: GroupId,
    pub blob: BlobId,
    pub write_id: WriteId,
    /// Of what has been accepted so far, while it is not sealed.
    pub length: u64,
    /// CRC32C of the whole, or of what has been accepted so far.
    pub checksum: u32,
    /// Complete and on stable storage.
    pub sealed: bool,
    /// Some of it cannot be read back any more; it may be begun again, to be replaced when it is sealed.
    pub damaged: bool,
    /// The version it was committed as.
    pub published: Option<(Inode, Version)>,
    pub chunk_count: u32,
}

/// A chunk that was read back and found undamaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredChunk {
    /// Where in the blob it begins.
    pub offset: u64,
    pub data: Bytes,
    /// CRC32C of `data`.
    pub checksum: u32,
}

/// A blob whose write was, as far as the store knows, never committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    pub group: GroupId,
    pub write_id: WriteId,
    pub blob: BlobId,
}

/// A piece of a sealed blob that cannot be served from here any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DamagedChunk {
    pub group: GroupId,
    pub blob: BlobId,
    pub offset: u64,
    pub length: u64,
}

/// Bytes of a closed part of the log in which no record can be read any more.
///
/// Whatever was acknowledged in there is lost here, and nothing in the log says what it was: only comparing blobs with
/// another member of the group does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRegion {
    pub segment: u32,
    pub from: u64,
    pub to: u64,
}

/// What opening the store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub segment_count: usize,
    pub record_count: u64,
    /// The index came from a checkpoint, and only what follows it was replayed.
    pub from_checkpoint: bool,
    /// Bytes after the last sync that were half written when the process or the machine went down.
    pub torn_bytes_cut: u64,
    /// Blobs that were never sealed, so never acknowledged.
    pub unsealed_dropped: usize,
    pub damaged_chunks: Vec<DamagedChunk>,
    /// When there are any, blobs that were acknowledged may be missing.
    pub damaged_regions: Vec<DamagedRegion>,
}

/// How the store is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    pub blob_count: u64,
    /// Sealed or not, but not published.
    pub staged_count: u64,
    pub segment_count: u64,
    pub disk_used_bytes: u64,
    pub disk_total_bytes: u64,
    /// Bytes of the records of blobs.
    pub stored_bytes: u64,
    /// Bytes that compaction could give back.
    pub garbage_bytes: u64,
    /// Why no new data is taken, if none is.
    pub read_only: Option<String>,
    pub torn_bytes_cut: u64,
    pub damaged_chunk_count: u64,
    pub damaged_region_count: u64,
    /// Damaged chunks that were replaced since the store was opened.
    pub repaired_chunk_count: u64,
    /// Of the scrub that goes on for ever: what it has read of the pass that it is in, and how much there is.
    pub scrub_read_bytes: u64,
    pub log_bytes: u64,
    /// When a pass last came to its end, in milliseconds since 1970; 0: never.
    pub scrub_ended_ms: u64,
    /// Syncs since the store was opened.
    pub sync_count: u64,
}

/// What the store counts while it is open; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct StoreCounts {
    pub fsync: Seconds,
    /// Chunks found damaged when they were read, and by the scrub.
    pub found_by_read: Counter,
    pub found_by_scrub: Counter,
    /// Chunks that were to be stored and did not match their checksum.
    pub refused: Counter,
    pub scrubbed_bytes: Counter,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no blob {0}")]
    NoSuchBlob(BlobId),
    #[error("blob {0} is sealed already")]
    AlreadySealed(BlobId),
    #[error("blob {0} belongs to a committed version")]
    Published(BlobId),
    #[error("blob {0} was begun again or discarded meanwhile")]
    Superseded(BlobId),
    #[error("blob {blob} goes on at {expected}, not at {offset}")]
    OutOfOrder { blob: BlobId, expected: u64, offset: u64 },
    #[error("blob {blob}: the data at {offset} does not match its checksum")]
    ChecksumMismatch { blob: BlobId, offset: u64 },
    #[error("blob {blob} was to be {sealed} bytes long, but {accepted} have arrived")]
    LengthMismatch { blob: BlobId, sealed: u64, accepted: u64 },
    #[error("a chunk of {0} bytes: 1 to {CHUNK_LENGTH_MAX} are possible")]
    BadChunkLength(usize),
    #[error("blob {blob} would be longer than the limit, {limit} bytes")]
    TooLarge { blob: BlobId, limit: u64 },
    #[error("blob {blob} ends before {offset}")]
    OffsetOutOfRange { blob: BlobId, offset: u64 },
    #[error("blob {blob} is damaged at {offset}")]
    Damaged { blob: BlobId, offset: u64 },
    #[error("the disk is full but for {free_bytes} bytes; {reserve_bytes} are kept in reserve")]
    NoSpace { free_bytes: u64, reserve_bytes: u64 },
    #[error(
        "the disk takes no data for lack of room ({cause}), though {free_bytes} bytes of it are free: is there a quota, a limit \
         on the length of files, or no inode left?"
    )]
    NoRoom { free_bytes: u64, cause: String },
    #[error("the disk does not answer; writes are taken again when it does")]
    DiskHangs,
    #[error("the store takes no writes until it is restarted: {0}")]
    ReadOnly(String),
    #[error("the store is closed")]
    Closed,
    #[error("{}: {message}", .path.display())]
    Io { path: PathBuf, message: String },
}
