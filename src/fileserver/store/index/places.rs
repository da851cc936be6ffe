//! Which records of the log the index refers to, and what becomes of that when compaction moves them.

use std::collections::HashMap;

use super::{Index, RecordAt};
use crate::{fileserver::store::record::record_length, types::BlobId};

impl Index {
    /// The first segment that holds anything of a blob; `None` if none does.
    pub fn oldest_segment(&self, blob: BlobId) -> Option<u32> {
        let sealed = self.sealed.get(&blob).map(|sealed| sealed.oldest_segment);
        let open = self.open.get(&blob).and_then(|open| open.chunks.first()).map(|chunk| chunk.at.segment);
        sealed.into_iter().chain(open).min()
    }

    /// Whether anything refers to the record that stands here; asked by compaction about records it may leave out.
    pub fn refers_to_chunk(&self, blob: BlobId, at: RecordAt) -> bool {
        let sealed = self.sealed.get(&blob).is_some_and(|sealed| sealed.chunks.iter().any(|chunk| chunk.at == at));
        sealed || self.open.get(&blob).is_some_and(|open| open.chunks.iter().any(|chunk| chunk.at == at))
    }

    pub fn refers_to_seal(&self, blob: BlobId, at: RecordAt) -> bool {
        self.sealed.get(&blob).is_some_and(|sealed| sealed.seal_at == Some(at))
    }

    pub fn refers_to_publish(&self, blob: BlobId, at: RecordAt) -> bool {
        let published = self.sealed.get(&blob).and_then(|sealed| sealed.published);
        published.is_some_and(|published| published.at == at)
    }

    /// Records were copied elsewhere: whatever refers to the old place refers to the new one. Answers how many bytes of
    /// the records that moved are referred to.
    pub fn relocate(&mut self, blob: BlobId, moves: &HashMap<RecordAt, RecordAt>) -> u64 {
        let mut live = 0;
        let mut go = |at: &mut RecordAt, payload_length| {
            if let Some(&to) = moves.get(at) {
                *at = to;
                live += record_length(payload_length);
            }
        };
        if let Some(sealed) = self.sealed.get_mut(&blob) {
            sealed.chunks.iter_mut().for_each(|chunk| go(&mut chunk.at, chunk.length));
            sealed.seal_at.iter_mut().for_each(|at| go(at, 0));
            sealed.published.iter_mut().for_each(|published| go(&mut published.at, 0));
        }
        if let Some(open) = self.open.get_mut(&blob) {
            open.chunks.iter_mut().for_each(|chunk| go(&mut chunk.at, chunk.length));
        }
        live
    }
}
