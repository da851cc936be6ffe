//! The one thread that looks after what is written already: compaction when there is something to gain, a checkpoint
//! when a restart would otherwise take long, and in between the scrub, at its own slow pace.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use super::{
    checkpoint,
    compaction::{self, Outcome},
    scrub::{Pace, Scrub, Step},
    shared::Shared,
};

/// Between two passes of the scrub.
const SCRUB_REST: Duration = Duration::from_secs(3600);
/// A checkpoint is written after so many new segments, but not more often than this.
const CHECKPOINT_SEGMENTS: u32 = 4;
const CHECKPOINT_REST: Duration = Duration::from_secs(60);
/// Before a compaction that was given up is tried again.
const COMPACTION_REST: Duration = Duration::from_secs(10);

/// Runs until the store stops.
pub fn run(shared: &Arc<Shared>, woken: &Receiver<()>) {
    let mut scrub = Scrub::resume(shared);
    let mut pace = Pace::new(shared.options.scrub_bytes_per_second, Instant::now());
    let (mut scrub_at, mut compact_at) = (Instant::now(), Instant::now());
    let mut checkpoint = Checkpoint { segment: shared.index().synced.at.segment, at: Instant::now() };
    while !shared.is_stopping() {
        match woken.recv_timeout(scrub_at.saturating_duration_since(Instant::now())) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => {
                scrub_at = Instant::now()
                    + match scrub.step(shared) {
                        Step::Read(bytes) => {
                            let read = scrub.note(shared);
                            shared.scrub_read_bytes.store(read, Ordering::Relaxed);
                            pace.after(bytes, Instant::now())
                        }
                        Step::PassDone => {
                            scrub.note_end(shared);
                            SCRUB_REST
                        }
                    };
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if Instant::now() >= compact_at && compact(shared) == Outcome::GivenUp {
            compact_at = Instant::now() + COMPACTION_REST;
        }
        if checkpoint.is_due(shared) {
            checkpoint.write(shared);
        }
    }
    checkpoint.write(shared);
}

/// The last checkpoint: which segment was being written, and when.
struct Checkpoint {
    segment: u32,
    at: Instant,
}

impl Checkpoint {
    fn is_due(&self, shared: &Shared) -> bool {
        let segment = shared.index().synced.at.segment;
        segment >= self.segment.saturating_add(CHECKPOINT_SEGMENTS) && self.at.elapsed() >= CHECKPOINT_REST
    }

    fn write(&mut self, shared: &Shared) {
        self.at = Instant::now();
        if shared.poisoned().is_some() {
            return;
        }
        match checkpoint::write(shared) {
            Ok(synced) => self.segment = synced.at.segment,
            Err(error) => tracing::warn!(%error, "cannot write a checkpoint: the next start will take longer"),
        }
    }
}

/// Compacts until there is nothing left to gain. What one segment has against it stops none of the others.
pub fn compact(shared: &Shared) -> Outcome {
    let mut given_up = BTreeSet::new();
    while shared.poisoned().is_none() && !shared.is_stopping() {
        let chosen = compaction::choose(&shared.index(), shared.options.segment_bytes, shared.is_short(), &given_up);
        let Some(numbers) = chosen else { break };
        match compaction::run(shared, &numbers) {
            Ok(Outcome::Done) => {}
            Ok(Outcome::GivenUp) => given_up.extend(numbers.first()),
            Err(error) => {
                shared.poison(format!("compacting segments {numbers:?} failed: {error}"));
            }
        }
    }
    if given_up.is_empty() { Outcome::Done } else { Outcome::GivenUp }
}
