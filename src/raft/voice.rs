//! A leader that nobody answers is silent for a while at a time.
//!
//! One that is heard and hears nobody would keep its followers from electing another for ever. It cannot tell whether they are dead
//! or only not heard, so it speaks again later, and leads on if somebody answers then.

use std::time::{Duration, Instant};

/// A leader that no quorum has answered for so long falls silent: longer than a disk of the followers usually stalls.
const PATIENCE: Duration = Duration::from_secs(1);
/// For so long it is silent and then speaks, in turn: time for an election or two.
const TURN: Duration = Duration::from_secs(2);

/// Whether a leader speaks.
#[derive(Debug, Default)]
pub struct Voice {
    /// The term it leads in, and since when.
    leads: Option<(u64, Instant)>,
    /// Since when it has fallen silent, or spoken again without an answer.
    unanswered: Option<Instant>,
}

impl Voice {
    /// `leads`: the term. `answered`: how long ago a quorum has answered; `None`: not in this term yet.
    pub fn speaks(&mut self, leads: Option<u64>, answered: Option<Duration>, now: Instant) -> bool {
        let Some(term) = leads else {
            *self = Self::default();
            return true;
        };
        let (_, began) = *self.leads.get_or_insert((term, now));
        if self.leads.is_some_and(|(known, _)| known != term) {
            *self = Self { leads: Some((term, now)), unanswered: None };
            return true;
        }
        let silence = answered.unwrap_or_else(|| now.saturating_duration_since(began));
        if silence < PATIENCE {
            self.unanswered = None;
            return true;
        }
        let since = *self.unanswered.get_or_insert(now);
        let turns = now.saturating_duration_since(since).as_millis() / TURN.as_millis();
        turns % 2 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    #[test]
    fn who_is_answered_or_does_not_lead_speaks() {
        let (mut voice, now) = (Voice::default(), Instant::now());
        for tick in 0..100 {
            assert!(voice.speaks(Some(3), Some(PATIENCE - TICK), now + TICK * tick));
            assert!(voice.speaks(None, None, now + TICK * tick));
        }
    }

    #[test]
    fn who_is_not_answered_falls_silent_and_speaks_in_turn() {
        let (mut voice, began) = (Voice::default(), Instant::now());
        let mut spoke = Vec::new();
        for tick in 0..70 {
            spoke.push(voice.speaks(Some(3), None, began + TICK * tick));
        }
        let runs: Vec<(bool, usize)> = spoke.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
        assert_eq!(runs, [(true, 10), (false, 20), (true, 20), (false, 20)]);
        assert!(voice.speaks(Some(3), Some(TICK), began + TICK * 70), "somebody has answered");
        assert!(!voice.speaks(Some(3), Some(PATIENCE), began + TICK * 90));
        assert!(voice.speaks(Some(4), None, began + TICK * 91), "another lead begins anew");
    }
}
