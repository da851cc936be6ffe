//! Reads a chunk back and lets it out only if it is what was written.

use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::Advice;

use super::{
    index::ChunkAt,
    record::{Body, HEADER_LENGTH, Header},
    segment::Segment,
    shared::Shared,
    types::{StoreError, StoredChunk},
};
use crate::{
    metrics::Counter,
    types::{BlobId, crc32c},
};

/// The chunk that holds the byte at `offset`. Blocks on the disk.
///
/// The segment's file stays open for as long as it is read, so compaction may replace it meanwhile.
pub fn chunk(shared: &Shared, blob: BlobId, offset: u64) -> Result<StoredChunk, StoreError> {
    let (chunk, segment) = shared.index().chunk(blob, offset)?;
    match verified(shared, &segment, blob, chunk) {
        Some(data) => Ok(data),
        None => {
            note_damage(shared, blob, chunk, &segment, &shared.counts.found_by_read);
            Err(StoreError::Damaged { blob, offset })
        }
    }
}

/// Remembers that a chunk is damaged, for repair, and counts it as found if that is news.
pub fn note_damage(shared: &Shared, blob: BlobId, chunk: ChunkAt, segment: &Arc<Segment>, found: &Counter) {
    if shared.index().mark_damaged(blob, chunk) {
        found.inc();
        let (path, position) = (segment.path.display(), chunk.at.position);
        tracing::error!(%blob, offset = chunk.offset, %path, position, "a stored chunk is damaged");
    }
}

/// Whether a chunk can be read back from the disk; what is damaged is remembered. `false` too when it is elsewhere by now.
pub fn check(shared: &Shared, blob: BlobId, chunk: ChunkAt) -> bool {
    let segment = shared.index().segments.get(&chunk.at.segment).map(|found| Arc::clone(&found.segment));
    let Some(segment) = segment else { return false };
    forget_cached(&segment, chunk.at.position.into());
    let is_good = verified(shared, &segment, blob, chunk).is_some();
    if !is_good {
        note_damage(shared, blob, chunk, &segment, &shared.counts.found_by_scrub);
    }
    is_good
}

/// It is the disk that is to be asked. Advice that is not taken costs nothing but the certainty that it was.
pub fn forget_cached(segment: &Segment, from: u64) {
    rustix::fs::fadvise(&segment.file, from, None, Advice::DontNeed).ok();
}

/// The chunk, if all of it can be read and is undamaged. A sector that cannot be read is as lost as one that was changed.
fn verified(shared: &Shared, segment: &Segment, blob: BlobId, chunk: ChunkAt) -> Option<StoredChunk> {
    let position = u64::from(chunk.at.position);
    let mut bytes = vec![0; HEADER_LENGTH + chunk.length as usize];
    let read = match shared.disk.read(&segment.file, position, &mut bytes) {
        Ok(read) => read,
        Err(error) => {
            tracing::error!(%error, path = %segment.path.display(), position, "cannot read");
            return None;
        }
    };
    if read < bytes.len() {
        return None;
    }
    let header = Header::decode(bytes.first_chunk()?, segment.label.salt, position)?;
    let data = Bytes::from(bytes).slice(HEADER_LENGTH..);
    match header.body {
        Body::Chunk { offset, length, checksum }
            if header.blob == blob
                && (offset, length.get()) == (chunk.offset, chunk.length)
                && crc32c(&data) == checksum =>
        {
            Some(StoredChunk { offset: offset.into(), data, checksum })
        }
        _ => None,
    }
}
