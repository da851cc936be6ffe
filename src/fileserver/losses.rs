//! What this server has to tell of the copies on its disk: what is damaged, what was mended and when, and what no member of the
//! group has any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{locked, map::View, node::Node};
use crate::{
    cluster::ServerState,
    pb,
    types::{BlobId, GroupId, Timestamp},
};

/// Lost blobs that are named.
const NAMED_MAX: usize = 100;
/// A blob that nobody had whole is asked for again after this: a member may come back, or be mended from elsewhere.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// Blobs that cannot be mended from anywhere.
#[derive(Debug, Default)]
pub struct Losses {
    blobs: Mutex<BTreeMap<BlobId, Instant>>,
    /// Chunks that were known to be repaired when the time of the last repair was taken.
    repaired: AtomicU64,
    repaired_at_ms: AtomicU64,
}

impl Losses {
    /// No member has some chunk of it.
    pub fn lost(&self, blob: BlobId, now: Instant) -> bool {
        locked(&self.blobs).insert(blob, now).is_none()
    }

    /// Whether it was tried in vain a moment ago.
    pub fn is_hopeless(&self, blob: BlobId, now: Instant) -> bool {
        let tried = locked(&self.blobs).get(&blob).copied();
        tried.is_some_and(|tried| now.saturating_duration_since(tried) < TRY_AGAIN)
    }

    pub fn contains(&self, blob: BlobId) -> bool {
        locked(&self.blobs).contains_key(&blob)
    }

    /// What is not damaged any more was mended or deleted.
    pub fn keep(&self, damaged: &BTreeSet<(GroupId, BlobId)>) {
        let damaged: BTreeSet<BlobId> = damaged.iter().map(|(_, blob)| *blob).collect();
        locked(&self.blobs).retain(|blob, _| damaged.contains(blob));
    }

    pub fn count(&self) -> u64 {
        locked(&self.blobs).len() as u64
    }

    /// When the last of so many repairs was, as far as this was asked for.
    fn last_repair(&self, repaired: u64) -> Option<Timestamp> {
        if self.repaired.swap(repaired, Ordering::Relaxed) != repaired {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.repaired_at_ms.store(now.as_millis() as u64, Ordering::Relaxed);
        }
        Some(self.repaired_at_ms.load(Ordering::Relaxed)).filter(|at| *at > 0).map(Timestamp)
    }
}

/// What is told to the Directory with every beat, and to whoever asks.
pub fn report(node: &Node) -> pb::StoreReport {
    let (status, view) = (node.store.status(), node.map.now());
    let lost: Vec<BlobId> = locked(&node.losses.blobs).keys().copied().collect();
    let short = view.groups_of(&node.me).filter(|group| group.is_primary(&node.me) && is_short(&view, group));
    pb::StoreReport {
        damaged_chunk_count: status.damaged_chunk_count,
        repaired_chunk_count: status.repaired_chunk_count,
        last_repair_time: node.losses.last_repair(status.repaired_chunk_count).map(Into::into),
        lost_blob_count: lost.len() as u64,
        lost_blobs: lost.iter().take(NAMED_MAX).map(BlobId::to_string).collect(),
        under_replicated_blob_count: short.map(|group| node.store.count_of(group.group)).sum(),
        last_scrub_time: Some(status.scrub_ended_ms).filter(|at| *at > 0).map(|at| Timestamp(at).into()),
    }
}

fn is_short(view: &View, group: &crate::cluster::Group) -> bool {
    let is_up = |id| view.server(id).is_some_and(|server| server.state != ServerState::Down);
    group.in_sync.iter().filter(|id| is_up(id)).count() < group.place_count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_tried_again_later_and_forgotten_when_it_is_not_damaged_any_more() {
        let (losses, blob, now) = (Losses::default(), BlobId::random(), Instant::now());
        assert!(!losses.is_hopeless(blob, now));
        assert!(losses.lost(blob, now));
        assert!(losses.is_hopeless(blob, now) && !losses.is_hopeless(blob, now + TRY_AGAIN));
        assert!(!losses.lost(blob, now + TRY_AGAIN), "known already");
        losses.keep(&BTreeSet::from([(GroupId(0), blob)]));
        assert_eq!(losses.count(), 1);
        losses.keep(&BTreeSet::new());
        assert_eq!(losses.count(), 0);
    }

    #[test]
    fn the_time_of_a_repair_is_when_it_was_first_seen() {
        let losses = Losses::default();
        assert_eq!(losses.last_repair(0), None);
        let first = losses.last_repair(2).expect("now");
        assert_eq!(losses.last_repair(2), Some(first));
    }
}
