//! Stretches of the log that cannot be read any more, and whether it is known what was in them.
//!
//! A stretch found at run time loses nothing that the index does not know. One found by a replay may have held blobs that
//! nobody here remembers, until the caller has compared blobs with other members; so it must not be forgotten before.
//! Then the segment is rewritten without it.

use super::{index::RecordAt, types::DamagedRegion};

#[derive(Debug, Default)]
pub struct Losses {
    /// In the order in which they were found, with their numbers.
    regions: Vec<(u64, DamagedRegion)>,
    /// The number of the last one found; rises with each.
    found: u64,
    /// Up to this number it is known what was lost.
    compared: u64,
}

impl Losses {
    /// Remembers a stretch; whether it is news.
    pub fn note(&mut self, region: DamagedRegion) -> bool {
        if self.covers(&region) {
            return false;
        }
        self.found += 1;
        self.regions.push((self.found, region));
        true
    }

    fn covers(&self, region: &DamagedRegion) -> bool {
        let around = |it: &DamagedRegion| it.segment == region.segment && it.from <= region.from && region.to <= it.to;
        self.regions.iter().any(|(_, it)| around(it))
    }

    pub fn iter(&self) -> impl Iterator<Item = &DamagedRegion> {
        self.regions.iter().map(|(_, region)| region)
    }

    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// How many have ever been found.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// Whatever the first `found` of them held is known by now.
    pub fn set_compared(&mut self, found: u64) {
        self.compared = self.compared.max(found.min(self.found));
    }

    /// Whether all that the segment has lost is known.
    pub fn is_compared(&self, segment: u32) -> bool {
        self.regions.iter().filter(|(_, region)| region.segment == segment).all(|(number, _)| *number <= self.compared)
    }

    /// The segment was rewritten without them.
    pub fn forget(&mut self, segment: u32) {
        self.regions.retain(|(_, region)| region.segment != segment);
    }
}

impl DamagedRegion {
    /// Whether a record that stands here has its beginning in the stretch.
    pub fn holds(&self, at: RecordAt) -> bool {
        at.segment == self.segment && (self.from..self.to).contains(&u64::from(at.position))
    }
}
