//! The one place where the Directory asks what time it is, and watches whether the answer can be true.
//!
//! Commands carry the leader's time, and the state machine never lets it go back: behind a clock that was set back, or that of another leader
//! which is ahead, time stands still until it has caught up. A clock that leaps ahead is believed, for times of versions and what they are kept
//! for; but what a retry relies on must not be forgotten for a leap, so for a while nothing is.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::types::Timestamp;

/// By the system's clock; a clock before 1970 counts as 1970.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// Farther ahead than it should be, a clock is taken for one that has leapt.
const LEAP: Duration = Duration::from_secs(60);
/// Farther behind the newest command than this is told.
const BEHIND: Duration = Duration::from_secs(5);

/// Compares the system's clock with the monotonic one and with the newest command while this node leads.
#[derive(Debug)]
pub struct Watch {
    /// What the clock said, or should have said, and when.
    last: Option<(Timestamp, Instant)>,
    has_looked: bool,
    is_behind: bool,
    /// Nothing is forgotten before.
    forgets_from: Option<Instant>,
    /// How long that is after a leap.
    pause: Duration,
}

/// What somebody should be told, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// When the lead was taken up the newest command was as old as this: nothing went on, or the clock has leapt meanwhile.
    Idle(Duration),
    /// The clock is so far ahead of what the monotonic one says.
    Leapt(Duration),
    /// The clock is so far behind the newest command.
    Behind(Duration),
    CaughtUp,
}

impl Watch {
    /// From the moment when the lead is taken up. `newest`: the time of the newest command then; 0 before there is one.
    pub fn new(newest: Timestamp, now: Instant, pause: Duration) -> Self {
        let last = (newest.0 > 0).then_some((newest, now));
        Self { last, has_looked: false, is_behind: false, forgets_from: None, pause }
    }

    /// `clock`: what the system's clock says; `newest`: the time of the newest command now.
    pub fn look(&mut self, clock: Timestamp, newest: Timestamp, now: Instant) -> Option<Finding> {
        let should_be = self.last.map(|(then, at)| then.plus_millis(millis(now.saturating_duration_since(at))));
        let ahead = should_be.map_or(Duration::ZERO, |should_be| Duration::from_millis(clock.millis_since(should_be)));
        let behind = Duration::from_millis(newest.millis_since(clock));
        let (is_first, was_behind) = (!self.has_looked, self.is_behind);
        self.last = Some((clock, now));
        self.has_looked = true;
        self.is_behind = behind > BEHIND;
        if ahead > LEAP {
            self.forgets_from = now.checked_add(self.pause);
            return Some(if is_first { Finding::Idle(ahead) } else { Finding::Leapt(ahead) });
        }
        match (was_behind, self.is_behind) {
            (false, true) => Some(Finding::Behind(behind)),
            (true, false) => Some(Finding::CaughtUp),
            _ => None,
        }
    }

    /// Whether what is over by the Directory's time is over in truth, as of the last look.
    pub fn may_forget(&self, now: Instant) -> bool {
        // While time stands still nothing becomes older, and what is old may be so by a leap alone.
        !self.is_behind && self.forgets_from.is_none_or(|from| now >= from)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(3600);
    const BEGUN: Timestamp = Timestamp(1_800_000_000_000);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn after(count: u64) -> Timestamp {
        BEGUN.plus_millis(count * 1000)
    }

    #[test]
    fn a_clock_that_runs_as_it_should_is_believed() {
        let start = Instant::now();
        let mut watch = Watch::new(BEGUN, start, PAUSE);
        for second in (0..10_000).step_by(7) {
            assert_eq!(watch.look(after(second), after(second), start + seconds(second)), None);
            assert!(watch.may_forget(start + seconds(second)));
        }
    }

    #[test]
    fn before_there_is_a_cluster_there_is_nothing_to_compare_with() {
        let start = Instant::now();
        let mut watch = Watch::new(Timestamp(0), start, PAUSE);
        assert_eq!(watch.look(BEGUN, BEGUN, start + seconds(1)), None);
        assert!(watch.may_forget(start + seconds(1)));
    }

    #[test]
    fn nothing_is_forgotten_for_a_while_after_a_leap_ahead_and_it_is_told_once() {
        let start = Instant::now();
        let mut watch = Watch::new(BEGUN, start, PAUSE);
        assert_eq!(watch.look(after(1), after(1), start + seconds(1)), None);
        assert_eq!(watch.look(after(3602), after(1), start + seconds(2)), Some(Finding::Leapt(seconds(3600))));
        assert_eq!(watch.look(after(3603), after(3603), start + seconds(3)), None);
        assert!(!watch.may_forget(start + seconds(3)));
        assert!(!watch.may_forget(start + seconds(3601)));
        assert!(watch.may_forget(start + seconds(3602)));
    }

    #[test]
    fn a_leap_before_the_lead_was_taken_up_cannot_be_told_from_idleness_and_counts_the_same() {
        let start = Instant::now();
        let mut watch = Watch::new(BEGUN, start, PAUSE);
        // A command of this very lead came before the first look.
        assert_eq!(watch.look(after(3600), after(3600), start), Some(Finding::Idle(seconds(3600))));
        assert!(!watch.may_forget(start + seconds(3599)));
        assert!(watch.may_forget(start + seconds(3600)));
    }

    #[test]
    fn nothing_is_forgotten_while_time_stands_still_and_both_ends_of_it_are_told() {
        let start = Instant::now();
        let mut watch = Watch::new(after(7200), start, PAUSE);
        assert_eq!(watch.look(BEGUN, after(7200), start), Some(Finding::Behind(seconds(7200))));
        assert_eq!(watch.look(after(1), after(7200), start + seconds(1)), None);
        assert!(!watch.may_forget(start + seconds(1)));
        assert_eq!(watch.look(after(7194), after(7200), start + seconds(7194)), None);
        assert_eq!(watch.look(after(7195), after(7200), start + seconds(7195)), Some(Finding::CaughtUp));
        assert!(watch.may_forget(start + seconds(7195)));
    }

    #[test]
    fn a_clock_that_is_set_right_again_by_a_leap_is_not_believed_at_once() {
        let start = Instant::now();
        let mut watch = Watch::new(after(3600), start, PAUSE);
        assert_eq!(watch.look(BEGUN, after(3600), start), Some(Finding::Behind(seconds(3600))));
        assert_eq!(watch.look(after(3601), after(3600), start + seconds(1)), Some(Finding::Leapt(seconds(3600))));
        assert!(!watch.may_forget(start + seconds(2)));
    }
}
