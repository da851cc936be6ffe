//! What the store says it has: one blob, a page of a group's, what was never published.

use std::{
    collections::BTreeSet,
    ops::Bound,
    time::{Duration, Instant},
};

use super::{Index, Sealed};
use crate::{
    fileserver::store::types::{BlobRecord, Staged},
    types::{BlobId, GroupId},
};

impl Index {
    pub fn record(&self, blob: BlobId) -> Option<BlobRecord> {
        self.sealed_record(blob).or_else(|| self.open_record(blob))
    }

    fn sealed_record(&self, blob: BlobId) -> Option<BlobRecord> {
        let sealed = self.sealed.get(&blob)?;
        Some(BlobRecord {
            group: sealed.group,
            blob,
            write_id: sealed.write_id,
            length: sealed.length.into(),
            checksum: sealed.checksum,
            sealed: true,
            damaged: self.is_damaged(blob),
            published: sealed.published.map(|published| (published.inode, published.version)),
            chunk_count: sealed.chunks.len() as u32,
        })
    }

    fn open_record(&self, blob: BlobId) -> Option<BlobRecord> {
        let open = self.open.get(&blob)?;
        Some(BlobRecord {
            group: open.group,
            blob,
            write_id: open.write_id,
            length: open.accepted,
            checksum: open.checksum,
            sealed: false,
            damaged: false,
            published: None,
            chunk_count: open.chunks.len() as u32,
        })
    }

    /// A page of a group's blobs in the order of their ids.
    pub fn page(&self, group: GroupId, after: Option<BlobId>, limit: usize, sealed_only: bool) -> Vec<BlobRecord> {
        let first = BlobId::from_bytes([0; 16]);
        let last = BlobId::from_bytes([0xff; 16]);
        let from = after.map_or(Bound::Included((group, first)), |after| Bound::Excluded((group, after)));
        // An excluded start at the very end would be an empty range that BTreeSet refuses by a panic.
        if after == Some(last) {
            return Vec::new();
        }
        let sealed = self.by_group.range((from, Bound::Included((group, last)))).map(|&(_, blob)| blob);
        if sealed_only {
            return sealed.filter_map(|blob| self.sealed_record(blob)).take(limit).collect();
        }
        // Few are open, so looking at all of them is cheap; a repair in progress is listed once, as what it repairs.
        let mut blobs: BTreeSet<BlobId> = sealed.take(limit).collect();
        let open = self.open.iter().filter(|(_, open)| open.group == group).map(|(&blob, _)| blob);
        blobs.extend(open.filter(|&blob| after.is_none_or(|after| blob > after)));
        blobs.into_iter().take(limit).filter_map(|blob| self.record(blob)).collect()
    }

    /// Sealed blobs from the one after `after`, in the order (group, blob).
    pub fn page_sealed(
        &self,
        after: Option<(GroupId, BlobId)>,
        limit: usize,
    ) -> impl Iterator<Item = (BlobId, &Sealed)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let page = self.by_group.range((from, Bound::Unbounded)).take(limit);
        page.filter_map(|&(_, blob)| Some((blob, self.sealed.get(&blob)?)))
    }

    pub fn unpublished(&self, older_than: Duration) -> Vec<Staged> {
        let old = |since: Instant| since.elapsed() >= older_than;
        let sealed = self.unpublished.iter().filter(|&(_, &since)| old(since));
        let sealed = sealed.filter_map(|(&blob, _)| {
            let found = self.sealed.get(&blob)?;
            Some(Staged { group: found.group, write_id: found.write_id, blob })
        });
        let open = self.open.iter().filter(|(blob, open)| old(open.begun) && !self.sealed.contains_key(blob));
        let open = open.map(|(&blob, open)| Staged { group: open.group, write_id: open.write_id, blob });
        sealed.chain(open).collect()
    }
}
