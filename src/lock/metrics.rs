//! What the Lock service is watched by.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::metrics::{Metrics, Seconds};

/// What is counted of the calls that ask for locks; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    waiters: Arc<AtomicU64>,
    acquire: Seconds,
}

impl Counts {
    pub fn register(&self, metrics: &Metrics) {
        let help = "Time from asking for a lock to its grant, of those that were granted";
        metrics.seconds("dfs_lock_acquire_seconds", help, &self.acquire);
        let waiters = self.waiters.clone();
        metrics.sampled(move |samples| {
            let waiters = waiters.load(Ordering::Relaxed) as f64;
            samples.gauge("dfs_lock_waiters", "Calls under way that wait for a lock", waiters);
        });
    }

    /// A call waits from now on, until what is answered is granted or dropped.
    pub fn wait(&self) -> Waiting {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        Waiting { counts: self.clone(), start: Instant::now(), is_over: false }
    }
}

/// A call that waits.
pub struct Waiting {
    counts: Counts,
    start: Instant,
    is_over: bool,
}

impl Waiting {
    pub fn granted(&mut self) {
        if !self.is_over {
            self.counts.acquire.since(self.start);
            self.end();
        }
    }

    fn end(&mut self) {
        self.is_over = true;
        self.counts.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_over {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_over_once_however_it_ends() {
        let counts = Counts::default();
        let (mut granted, gone) = (counts.wait(), counts.wait());
        let seen = |counts: &Counts| (counts.waiters.load(Ordering::Relaxed), counts.acquire.count());
        assert_eq!(seen(&counts), (2, 0));
        granted.granted();
        granted.granted();
        assert_eq!(seen(&counts), (1, 1));
        drop((granted, gone));
        assert_eq!(seen(&counts), (0, 1));
    }
}
