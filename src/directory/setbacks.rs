//! Servers at which groups could not arrive, and how long nothing more is sent there.
//!
//! Without it a group would be copied to the same server again and again: its disk fills up, the move is given up, what came is
//! deleted, and the server looks roomy once more. Kept in the leader's memory alone; a new leader finds out for itself. No clock here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::types::ServerId;

/// After the first failure; twice as long after each further one.
const PAUSE_MIN: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub struct Setbacks(BTreeMap<ServerId, Setback>);

#[derive(Debug)]
struct Setback {
    count: u32,
    until: Instant,
}

impl Setback {
    fn pause(&self) -> Duration {
        let doubled = 1u32.checked_shl(self.count.saturating_sub(1)).unwrap_or(u32::MAX);
        PAUSE_MIN.saturating_mul(doubled).min(PAUSE_MAX)
    }
}

impl Setbacks {
    /// Something that was on its way to the server could not arrive. What fails while the server is left alone was on its way before,
    /// and is part of the same failure.
    pub fn note(&mut self, server: &ServerId, now: Instant) {
        let setback = self.0.entry(server.clone()).or_insert(Setback { count: 0, until: now });
        if setback.count > 0 && now < setback.until {
            return;
        }
        setback.count = setback.count.saturating_add(1);
        setback.until = now + setback.pause();
    }

    /// Forgets servers at which nothing has failed for as long again as they were left alone.
    pub fn forget_old(&mut self, now: Instant) {
        self.0.retain(|_, setback| now < setback.until + setback.pause());
    }

    /// Those to which nothing is sent now.
    pub fn shunned(&self, now: Instant) -> BTreeSet<ServerId> {
        let is_shunned = |setback: &Setback| now < setback.until;
        self.0.iter().filter(|(_, setback)| is_shunned(setback)).map(|(server, _)| server.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_left_alone_for_longer_each_time_and_forgotten_when_it_goes_well() {
        let (server, begun): (ServerId, _) = ("a".parse().unwrap(), Instant::now());
        let mut setbacks = Setbacks::default();
        setbacks.note(&server, begun);
        setbacks.note(&server, begun + PAUSE_MIN / 2);
        assert_eq!(setbacks.shunned(begun + PAUSE_MIN / 2), [server.clone()].into());
        let again = begun + PAUSE_MIN;
        assert_eq!(setbacks.shunned(again), BTreeSet::new());
        setbacks.forget_old(again);
        setbacks.note(&server, again);
        assert_eq!(setbacks.shunned(again + PAUSE_MIN), [server.clone()].into(), "twice as long");
        let later = again + PAUSE_MIN * 4;
        setbacks.forget_old(later);
        setbacks.note(&server, later);
        assert_eq!(setbacks.shunned(later + PAUSE_MIN), BTreeSet::new(), "it begins anew");
        let mut now = later;
        for _ in 0..100 {
            now += PAUSE_MAX;
            setbacks.note(&server, now);
        }
        assert_eq!(setbacks.shunned(now + PAUSE_MAX), BTreeSet::new());
    }
}
