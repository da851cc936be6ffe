//! The writes that this server is working on as primary: so that a newer attempt replaces an older one, and so that blobs
//! of a write under way are not settled as if it had been given up.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use tokio_util::sync::CancellationToken;

use super::locked;
use crate::types::{BlobId, WriteId};

#[derive(Default)]
struct State {
    /// By write id, the newest attempt alone.
    attempts: HashMap<WriteId, (u64, CancellationToken)>,
    attempt_count: u64,
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
    pub fn begin(&self, write_id: WriteId) -> Attempt {
        let superseded = CancellationToken::new();
        let mut state = locked(&self.state);
        state.attempt_count += 1;
        let number = state.attempt_count;
        if let Some((_, older)) = state.attempts.insert(write_id, (number, superseded.clone())) {
            older.cancel();
        }
        Attempt { in_flight: self.clone(), write_id, number, blobs: Vec::new(), superseded }
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

    #[test]
    fn a_newer_attempt_takes_over_and_the_older_leaves_it_alone() {
        let in_flight = InFlight::default();
        let write_id = WriteId::random();
        let older = in_flight.begin(write_id);
        let newer = in_flight.begin(write_id);
        assert!(older.superseded().is_cancelled());
        drop(older);
        let newest = in_flight.begin(write_id);
        assert!(newer.superseded().is_cancelled());
        assert!(!newest.superseded().is_cancelled());
    }

    #[test]
    fn blobs_are_held_as_long_as_their_attempt() {
        let in_flight = InFlight::default();
        let mut attempt = in_flight.begin(WriteId::random());
        let blob = BlobId::random();
        attempt.hold(blob);
        assert!(in_flight.holds(blob));
        drop(attempt);
        assert!(!in_flight.holds(blob));
    }
}
