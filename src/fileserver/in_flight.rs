//! The writes that this server is working on as primary: so that a newer attempt replaces an older one, and so that blobs
//! of a write under way are not settled as if it had been given up.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::locked;
use crate::types::{BlobId, GroupId, WriteId};

#[derive(Default)]
struct State {
    /// By write id, the newest attempt alone.
    attempts: HashMap<WriteId, (u64, CancellationToken)>,
    attempt_count: u64,
    /// By number: where each attempt writes, and since when.
    places: HashMap<u64, (GroupId, Instant)>,
    blobs: HashSet<BlobId>,
}

/// A handle; clones are the same.
#[derive(Clone, Default)]
pub struct InFlight {
    state: Arc<Mutex<State>>,
}

/// One attempt at a write, until dropped.
pub struct Attempt {
    in_flight: InFlight,
    write_id: WriteId,
    number: u64,
    blobs: Vec<BlobId>,
    superseded: CancellationToken,
}

impl InFlight {
    /// A client that lost its connection comes back before the server has noticed: the newer attempt takes over, and the
    /// older one is told. Should both get as far as the commit, the Directory gives both the same answer.
    pub fn begin(&self, write_id: WriteId, group: GroupId, now: Instant) -> Attempt {
        let superseded = CancellationToken::new();
        let mut state = locked(&self.state);
        state.attempt_count += 1;
        let number = state.attempt_count;
        state.places.insert(number, (group, now));
        if let Some((_, older)) = state.attempts.insert(write_id, (number, superseded.clone())) {
            older.cancel();
        }
        Attempt { in_flight: self.clone(), write_id, number, blobs: Vec::new(), superseded }
    }

    /// Groups with an attempt that has gone on for so long.
    pub fn lasting(&self, duration: Duration, now: Instant) -> BTreeSet<GroupId> {
        let lasts = |since: Instant| now.saturating_duration_since(since) >= duration;
        locked(&self.state).places.values().filter(|(_, since)| lasts(*since)).map(|(group, _)| *group).collect()
    }

    pub fn holds(&self, blob: BlobId) -> bool {
        locked(&self.state).blobs.contains(&blob)
    }
}

impl Attempt {
    /// The blob belongs to the attempt: it is not settled while the attempt lives.
    pub fn hold(&mut self, blob: BlobId) {
        locked(&self.in_flight.state).blobs.insert(blob);
        self.blobs.push(blob);
    }

    /// Cancelled when a newer attempt has begun.
    pub fn superseded(&self) -> &CancellationToken {
        &self.superseded
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut state = locked(&self.in_flight.state);
        state.places.remove(&self.number);
        if state.attempts.get(&self.write_id).is_some_and(|(number, _)| *number == self.number) {
            state.attempts.remove(&self.write_id);
        }
        for blob in &self.blobs {
            state.blobs.remove(blob);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(3);

    #[test]
    fn a_newer_attempt_takes_over_and_the_older_leaves_it_alone() {
        let in_flight = InFlight::default();
        let write_id = WriteId::random();
        let begin = || in_flight.begin(write_id, GROUP, Instant::now());
        let older = begin();
        let newer = begin();
        assert!(older.superseded().is_cancelled());
        drop(older);
        let newest = begin();
        assert!(newer.superseded().is_cancelled());
        assert!(!newest.superseded().is_cancelled());
    }

    #[test]
    fn blobs_are_held_as_long_as_their_attempt() {
        let in_flight = InFlight::default();
        let mut attempt = in_flight.begin(WriteId::random(), GROUP, Instant::now());
        let blob = BlobId::random();
        attempt.hold(blob);
        assert!(in_flight.holds(blob));
        drop(attempt);
        assert!(!in_flight.holds(blob));
    }

    #[test]
    fn only_what_goes_on_for_long_is_lasting_and_only_as_long_as_it_does() {
        let (in_flight, begun, long) = (InFlight::default(), Instant::now(), Duration::from_secs(1));
        let attempt = in_flight.begin(WriteId::random(), GROUP, begun);
        let _short = in_flight.begin(WriteId::random(), GroupId(4), begun + long);
        assert_eq!(in_flight.lasting(long, begun + long / 2), BTreeSet::new());
        assert_eq!(in_flight.lasting(long, begun + long), BTreeSet::from([GROUP]));
        drop(attempt);
        assert_eq!(in_flight.lasting(long, begun + long), BTreeSet::new());
    }
}
