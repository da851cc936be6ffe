//! Where everything is, in memory: blobs, their chunks, and how much of each segment still counts.
//!
//! Never the truth: a replay of the log makes the same index again. The writer and the replay both change it through
//! the methods here, so they cannot come to different ends. A chunk takes 16 bytes, because there may be 10⁷ of them.

mod damage;
mod listing;
mod places;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use self::damage::holes;
use super::{
    losses::Losses,
    record::{HEADER_LENGTH, record_length},
    segment::{RECORDS_START, Segment},
    types::StoreError,
};
use crate::types::{BlobId, GroupId, Inode, Version, WriteId, crc32c_combine};

/// Where a record stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordAt {
    pub segment: u32,
    pub position: u32,
}

/// Where a chunk's record stands, and which part of the blob it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkAt {
    pub at: RecordAt,
    pub offset: u32,
    pub length: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    pub inode: Inode,
    pub version: Version,
    pub at: RecordAt,
}

/// A blob that is complete and durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub group: GroupId,
    pub write_id: WriteId,
    pub length: u32,
    pub checksum: u32,
    /// `None` if the seal was lost to damage, and is known from what came after it.
    pub seal_at: Option<RecordAt>,
    pub published: Option<Published>,
    /// The first segment that ever held anything of it, earlier copies that this one replaced included.
    pub oldest_segment: u32,
    /// In order; there are holes where chunks were lost to damage.
    pub chunks: Box<[ChunkAt]>,
}

/// A blob that is being written.
#[derive(Clone, Debug)]
pub struct Open {
    /// Tells this beginning from an earlier one of the same blob.
    pub generation: u64,
    pub group: GroupId,
    pub write_id: WriteId,
    pub begun: Instant,
    /// What has been taken from the caller: bytes, and their CRC32C.
    pub accepted: u64,
    pub checksum: u32,
    pub sealing: bool,
    /// Why it cannot be sealed any more.
    pub failed: Option<StoreError>,
    /// What is in the log.
    pub chunks: Vec<ChunkAt>,
}

impl Open {
    pub fn new(generation: u64, group: GroupId, write_id: WriteId) -> Self {
        Self {
            generation,
            group,
            write_id,
            begun: Instant::now(),
            accepted: 0,
            checksum: 0,
            sealing: false,
            failed: None,
            chunks: Vec::new(),
        }
    }

    pub fn accept(&mut self, length: u32, checksum: u32) {
        self.checksum = crc32c_combine(self.checksum, checksum, u64::from(length));
        self.accepted += u64::from(length);
    }
}

/// A segment, and how much of it counts.
#[derive(Debug)]
pub struct SegmentUse {
    pub segment: Arc<Segment>,
    /// Where its records end.
    pub end: u64,
    /// Bytes of records that something in the index refers to.
    pub live: u64,
    /// Bytes of tombstones and markers.
    pub tombstones: u64,
    /// It has bytes that are no record; they are kept as they are.
    pub damaged: bool,
}

impl SegmentUse {
    pub fn new(segment: Arc<Segment>, end: u64) -> Self {
        Self { segment, end, live: 0, tombstones: 0, damaged: false }
    }

    /// Bytes of records that nothing refers to any more.
    pub fn garbage(&self) -> u64 {
        self.end.saturating_sub(RECORDS_START + self.live + self.tombstones)
    }
}

/// How far the scrub that goes on for ever has come, as the next start goes on from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// The last segment that was read to its end in this pass; 0 at the beginning of one.
    pub segment: u32,
    /// When a pass last came to its end, in milliseconds since 1970; 0: never.
    pub ended_ms: u64,
}

#[derive(Debug, Default)]
pub struct Index {
    sealed: HashMap<BlobId, Sealed>,
    by_group: BTreeSet<(GroupId, BlobId)>,
    pub open: HashMap<BlobId, Open>,
    unpublished: HashMap<BlobId, Instant>,
    pub segments: BTreeMap<u32, SegmentUse>,
    /// Pieces of sealed blobs that cannot be served: (blob, offset) to length.
    damaged: BTreeMap<(BlobId, u64), u64>,
    pub losses: Losses,
    /// Damaged pieces that were replaced since the store was opened.
    pub repaired_chunks: u64,
    /// Sealed blobs by group; none where there are none.
    counts: HashMap<GroupId, u64>,
    pub scrubbed: Scrubbed,
    /// All that the index says of the log up to here is durable.
    pub synced: LogPosition,
}

/// A place between two batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    pub at: RecordAt,
    /// The last batch before it.
    pub batch: u64,
}

impl Index {
    pub fn sealed(&self, blob: BlobId) -> Option<&Sealed> {
        self.sealed.get(&blob)
    }

    pub fn sealed_count(&self) -> usize {
        self.sealed.len()
    }

    /// Sealed blobs of a group.
    pub fn count_of(&self, group: GroupId) -> u64 {
        self.counts.get(&group).copied().unwrap_or_default()
    }

    pub fn staged_count(&self) -> usize {
        self.unpublished.len() + self.open.len()
    }

    /// Begins a blob, afresh if it was open.
    pub fn begin(&mut self, blob: BlobId, open: Open) {
        self.drop_open(blob);
        self.open.insert(blob, open);
    }

    /// A chunk of an open blob is in the log.
    pub fn add_chunk(&mut self, blob: BlobId, chunk: ChunkAt) {
        if let Some(open) = self.open.get_mut(&blob) {
            open.chunks.push(chunk);
            self.count(chunk.at, record_length(chunk.length), true);
        }
    }

    pub fn drop_open(&mut self, blob: BlobId) {
        let Some(open) = self.open.remove(&blob) else { return };
        for chunk in open.chunks {
            self.count(chunk.at, record_length(chunk.length), false);
        }
    }

    /// The open blob is complete; takes the place of a sealed one with the same id.
    pub fn seal(&mut self, blob: BlobId, length: u32, checksum: u32, seal_at: Option<RecordAt>) {
        let Some(open) = self.open.remove(&blob) else { return };
        let segments = open.chunks.iter().map(|chunk| chunk.at).chain(seal_at).map(|at| at.segment);
        let sealed = Sealed {
            oldest_segment: segments.min().unwrap_or_default(),
            group: open.group,
            write_id: open.write_id,
            length,
            checksum,
            seal_at,
            published: None,
            chunks: open.chunks.into_boxed_slice(),
        };
        if let Some(at) = seal_at {
            self.count(at, HEADER_LENGTH as u64, true);
        }
        self.insert(blob, sealed, open.begun);
    }

    /// Adds a sealed blob whose records are counted already. What was published about an older one holds on.
    pub fn insert(&mut self, blob: BlobId, mut sealed: Sealed, since: Instant) {
        let damaged_before = self.damaged_of(blob).count();
        if let Some(older) = self.take(blob) {
            self.repaired_chunks += damaged_before as u64;
            sealed.oldest_segment = sealed.oldest_segment.min(older.oldest_segment);
            if let (None, Some(published)) = (sealed.published, older.published) {
                self.count(published.at, HEADER_LENGTH as u64, true);
                sealed.published = Some(published);
            }
        }
        if sealed.published.is_none() {
            self.unpublished.insert(blob, since);
        }
        for (offset, length) in holes(&sealed) {
            self.damaged.insert((blob, offset), length);
        }
        if self.by_group.insert((sealed.group, blob)) {
            *self.counts.entry(sealed.group).or_default() += 1;
        }
        self.sealed.insert(blob, sealed);
    }

    /// Adds a sealed blob of which nothing is counted yet, with what is known to be damaged of it.
    pub fn restore(&mut self, blob: BlobId, sealed: Sealed, damaged: impl Iterator<Item = (u64, u64)>, since: Instant) {
        for chunk in &sealed.chunks {
            self.count(chunk.at, record_length(chunk.length), true);
        }
        for at in sealed.seal_at.into_iter().chain(sealed.published.map(|published| published.at)) {
            self.count(at, HEADER_LENGTH as u64, true);
        }
        self.insert(blob, sealed, since);
        self.damaged.extend(damaged.map(|(offset, length)| ((blob, offset), length)));
    }

    pub fn publish(&mut self, blob: BlobId, published: Published) {
        let Some(sealed) = self.sealed.get_mut(&blob) else { return };
        let older = sealed.published.replace(published);
        self.unpublished.remove(&blob);
        self.count(published.at, HEADER_LENGTH as u64, true);
        if let Some(older) = older {
            self.count(older.at, HEADER_LENGTH as u64, false);
        }
    }

    /// The blob is gone, sealed or open.
    pub fn delete(&mut self, blob: BlobId) {
        self.drop_open(blob);
        self.take(blob);
    }

    /// The sealed blob is gone; one that was begun anew since is not.
    pub fn delete_sealed(&mut self, blob: BlobId) {
        self.take(blob);
    }

    fn take(&mut self, blob: BlobId) -> Option<Sealed> {
        let sealed = self.sealed.remove(&blob)?;
        if self.by_group.remove(&(sealed.group, blob))
            && let Some(count) = self.counts.get_mut(&sealed.group)
        {
            *count = count.saturating_sub(1);
        }
        self.unpublished.remove(&blob);
        self.forget_damage(blob);
        for chunk in &sealed.chunks {
            self.count(chunk.at, record_length(chunk.length), false);
        }
        for at in sealed.seal_at.into_iter().chain(sealed.published.map(|published| published.at)) {
            self.count(at, HEADER_LENGTH as u64, false);
        }
        Some(sealed)
    }

    pub fn add_segment(&mut self, segment: Arc<Segment>, end: u64) {
        self.segments.insert(segment.number(), SegmentUse::new(segment, end));
    }

    pub fn set_end(&mut self, segment: u32, end: u64) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.end = end;
        }
    }

    /// The record at `at` counts from now on, or no more.
    fn count(&mut self, at: RecordAt, length: u64, live: bool) {
        if let Some(segment) = self.segments.get_mut(&at.segment) {
            segment.live = if live { segment.live + length } else { segment.live.saturating_sub(length) };
        }
    }

    /// A tombstone or a marker is in the log.
    pub fn count_tombstone(&mut self, segment: u32) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.tombstones += HEADER_LENGTH as u64;
        }
    }

    /// The chunk that holds the byte at `offset` of a sealed blob, and its segment.
    pub fn chunk(&self, blob: BlobId, offset: u64) -> Result<(ChunkAt, Arc<Segment>), StoreError> {
        let sealed = self.sealed.get(&blob).ok_or(StoreError::NoSuchBlob(blob))?;
        if offset >= u64::from(sealed.length) {
            return Err(StoreError::OffsetOutOfRange { blob, offset });
        }
        let after = sealed.chunks.partition_point(|chunk| u64::from(chunk.offset) <= offset);
        let before = after.checked_sub(1).and_then(|last| sealed.chunks.get(last));
        let chunk = before.filter(|chunk| offset < u64::from(chunk.offset + chunk.length));
        let segment = chunk.and_then(|chunk| self.segments.get(&chunk.at.segment));
        match (chunk, segment) {
            (Some(chunk), Some(found)) if !self.damaged.contains_key(&(blob, u64::from(chunk.offset))) => {
                Ok((*chunk, Arc::clone(&found.segment)))
            }
            _ => Err(StoreError::Damaged { blob, offset }),
        }
    }
}
