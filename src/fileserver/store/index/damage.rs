//! Which pieces of sealed blobs cannot be served, and when a damaged segment has nothing left to wait for.

use std::time::Instant;

use super::{ChunkAt, Index, RecordAt, Sealed};
use crate::{
    fileserver::store::{
        record::HEADER_LENGTH,
        types::{DamagedChunk, DamagedRegion, StoreError},
    },
    types::BlobId,
};

impl Index {
    pub(super) fn forget_damage(&mut self, blob: BlobId) {
        let offsets: Vec<u64> = self.damaged_of(blob).map(|(offset, _)| offset).collect();
        for offset in offsets {
            self.damaged.remove(&(blob, offset));
        }
    }

    /// A chunk could not be read back; whether that is news. Nothing happens if the blob has moved on since.
    pub fn mark_damaged(&mut self, blob: BlobId, chunk: ChunkAt) -> bool {
        let current = self.sealed.get(&blob).is_some_and(|sealed| sealed.chunks.contains(&chunk));
        current && self.damaged.insert((blob, u64::from(chunk.offset)), u64::from(chunk.length)).is_none()
    }

    pub fn is_damaged(&self, blob: BlobId) -> bool {
        self.damaged_of(blob).next().is_some()
    }

    /// Whether the chunk that begins there is known to be damaged.
    pub fn is_damaged_at(&self, blob: BlobId, offset: u64) -> bool {
        self.damaged.contains_key(&(blob, offset))
    }

    /// Offset and length of what is damaged of a blob.
    pub fn damaged_of(&self, blob: BlobId) -> impl Iterator<Item = (u64, u64)> {
        self.damaged.range((blob, 0)..=(blob, u64::MAX)).map(|(&(_, offset), &length)| (offset, length))
    }

    /// Bytes of the log, whatever they are.
    pub fn log_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.end).sum()
    }

    pub fn damaged_count(&self) -> usize {
        self.damaged.len()
    }

    pub fn damaged(&self) -> Vec<DamagedChunk> {
        let group = |blob| self.sealed.get(&blob).map(|sealed| sealed.group);
        self.damaged
            .iter()
            .filter_map(|(&(blob, offset), &length)| Some(DamagedChunk { group: group(blob)?, blob, offset, length }))
            .collect()
    }

    /// What stands in the stretch is lost. A blob whose seal is lost is lost whole, because a replay would not know it; one
    /// whose publication is lost is staged again. Answers how many chunks are lost.
    pub fn mark_lost(&mut self, region: &DamagedRegion) -> usize {
        let lies_in = |at: RecordAt| region.holds(at);
        let (mut chunks, mut unpublished) = (Vec::new(), Vec::new());
        for (&blob, sealed) in &self.sealed {
            let whole = sealed.seal_at.is_some_and(lies_in);
            chunks.extend(sealed.chunks.iter().filter(|it| whole || lies_in(it.at)).map(|&chunk| (blob, chunk)));
            if let Some(published) = sealed.published.filter(|published| lies_in(published.at)) {
                unpublished.push((blob, published.at));
            }
        }
        for &(blob, chunk) in &chunks {
            self.mark_damaged(blob, chunk);
        }
        for (blob, at) in unpublished {
            self.count(at, HEADER_LENGTH as u64, false);
            if let Some(sealed) = self.sealed.get_mut(&blob) {
                sealed.published = None;
                self.unpublished.insert(blob, Instant::now());
            }
        }
        for (&blob, open) in &mut self.open {
            if let Some(lost) = open.chunks.iter().find(|chunk| lies_in(chunk.at)).filter(|_| !open.sealing) {
                open.failed = Some(StoreError::Damaged { blob, offset: lost.offset.into() });
            }
        }
        chunks.len()
    }

    /// Whether a damaged segment has nothing left that may still be needed to repair it: it is known what was lost in it,
    /// and the blobs that had chunks there have been replaced.
    pub fn is_repaired(&self, segment: u32) -> bool {
        let lies_here = |blob| {
            let chunks = self.sealed.get(&blob).into_iter().flat_map(|sealed| &sealed.chunks);
            chunks.into_iter().any(|chunk| chunk.at.segment == segment)
        };
        self.losses.is_compared(segment) && !self.damaged.keys().any(|&(blob, _)| lies_here(blob))
    }
}

/// The parts of a blob that no chunk holds.
pub(super) fn holes(sealed: &Sealed) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut expected = 0;
    for chunk in &sealed.chunks {
        let offset = u64::from(chunk.offset);
        if offset > expected {
            found.push((expected, offset - expected));
        }
        expected = expected.max(offset + u64::from(chunk.length));
    }
    let length = u64::from(sealed.length);
    if expected < length {
        found.push((expected, length - expected));
    }
    found
}
