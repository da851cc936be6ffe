//! When to try again: pure, so that it is tested without waiting.
//!
//! What a server advises and the kind of failure decide whether; the caller's deadline decides how long. A mutation is
//! always repeated with its own write id, so a retry can never happen twice.

use std::time::{Duration, Instant};

use super::Error;
use crate::status::{Reason, Retry};

/// The first wait; doubles with every try.
const DELAY_FIRST: Duration = Duration::from_millis(100);
/// The longest wait between two tries.
const DELAY_MAX: Duration = Duration::from_secs(2);
/// Tries at a write whose bytes arrive damaged: more of them mean that something on the way is broken.
const DAMAGED_TRIES_MAX: u32 = 4;
/// How long a server without space is tried: for as long as it may take until one that has some leads in its place, also when the
/// Directory changes its own leader just then.
const NO_SPACE_FOR: Duration = Duration::from_secs(5);
/// Tries where a queue is full: one chance for it to have passed.
const QUEUE_FULL_TRIES_MAX: u32 = 2;

/// The longest wait where another server may answer: one of several takes over in about a second.
const DELAY_MAX_AMONG_SEVERAL: Duration = Duration::from_millis(250);

/// The tries of one logical operation.
#[derive(Debug)]
pub(crate) struct Tries {
    deadline: Instant,
    delay_max: Duration,
    /// Tries that have failed.
    failed: u32,
    /// Since when a server has had no space.
    no_space_since: Option<Instant>,
    /// One of them was not answered.
    in_doubt: bool,
}

impl Tries {
    pub(crate) fn until(deadline: Instant) -> Self {
        Self { deadline, delay_max: DELAY_MAX, failed: 0, no_space_since: None, in_doubt: false }
    }

    /// As [`Tries::until`], of a service of so many servers.
    pub(crate) fn among(servers: usize, deadline: Instant) -> Self {
        let delay_max = if servers > 1 { DELAY_MAX_AMONG_SEVERAL } else { DELAY_MAX };
        Self { delay_max, ..Self::until(deadline) }
    }

    /// What is left of the caller's time.
    pub(crate) fn remaining(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }

    /// Progress was made: the time and the waits begin anew.
    pub(crate) fn renew(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.failed = 0;
        self.no_space_since = None;
    }

    /// The failure of the last try as the failure of them all: a refusal does not undo what an unanswered one before it
    /// may have done.
    pub(crate) fn given_up(&self, last: Error) -> Error {
        if self.in_doubt { last.in_doubt() } else { last }
    }

    /// How long to wait before the next try, or `None` if `error` is final or the time is up.
    ///
    /// `jitter` is from 0 to 1: many clients that failed together must not come back together.
    pub(crate) fn after(&mut self, error: &Error, now: Instant, jitter: f64) -> Option<Duration> {
        self.failed += 1;
        self.in_doubt |= error.is_in_doubt();
        let tries_max = match error.reason().retry() {
            Retry::Never | Retry::Redo => return None,
            Retry::Later | Retry::AfterRefresh => match error.reason() {
                Reason::TooManyWaiters => QUEUE_FULL_TRIES_MAX,
                Reason::ChecksumMismatch => DAMAGED_TRIES_MAX,
                _ => u32::MAX,
            },
        };
        if self.failed >= tries_max {
            return None;
        }
        let is_without_space = error.reason() == Reason::NoSpace;
        let (deadline, delay_max) = match is_without_space {
            true => {
                let since = *self.no_space_since.get_or_insert(now);
                (self.deadline.min(since + NO_SPACE_FOR), self.delay_max.min(DELAY_MAX_AMONG_SEVERAL))
            }
            false => (self.deadline, self.delay_max),
        };
        let first = match error.reason().retry() {
            // The new view is usually right: ask it at once.
            Retry::AfterRefresh => error.retry_after().unwrap_or(DELAY_FIRST).min(DELAY_FIRST),
            _ => DELAY_FIRST,
        };
        let doubled = first.saturating_mul(1 << (self.failed - 1).min(10)).min(delay_max);
        let jittered = doubled.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        let delay = jittered.max(error.retry_after().unwrap_or_default());
        (now + delay < deadline).then_some(delay)
    }
}

/// From the system's randomness; see [`Tries::after`].
pub(crate) fn jitter() -> f64 {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn an_error(reason: Reason) -> Error {
        Error::new(reason, "")
    }

    #[test]
    fn waits_double_up_to_two_seconds() {
        let start = Instant::now();
        let mut tries = Tries::until(start + Duration::from_secs(3600));
        let waits: Vec<u128> = (0..7)
            .map(|_| tries.after(&an_error(Reason::Unavailable), start, 1.0).map_or(0, |delay| delay.as_millis()))
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
    }

    #[test]
    fn where_another_server_may_answer_waits_stay_short() {
        let start = Instant::now();
        let mut tries = Tries::among(3, start + Duration::from_secs(3600));
        let waits: Vec<u128> = (0..4)
            .map(|_| tries.after(&an_error(Reason::Unavailable), start, 1.0).map_or(0, |delay| delay.as_millis()))
            .collect();
        assert_eq!(waits, [100, 200, 250, 250]);
    }

    #[test]
    fn jitter_at_most_halves_a_wait() {
        let start = Instant::now();
        let mut tries = Tries::until(start + Duration::from_secs(60));
        tries.after(&an_error(Reason::Unavailable), start, 0.0);
        assert_eq!(tries.after(&an_error(Reason::Unavailable), start, 0.0), Some(Duration::from_millis(100)));
    }

    #[test]
    fn nothing_is_tried_past_the_deadline() {
        let start = Instant::now();
        let mut tries = Tries::until(start + Duration::from_millis(250));
        let error = an_error(Reason::Unavailable);
        assert_eq!(tries.after(&error, start, 1.0), Some(Duration::from_millis(100)));
        assert_eq!(tries.after(&error, start + Duration::from_millis(110), 1.0), None);
    }

    #[test]
    fn what_cannot_help_is_not_tried() {
        let start = Instant::now();
        for &reason in Reason::ALL {
            let mut tries = Tries::until(start + Duration::from_secs(60));
            let expected = matches!(reason.retry(), Retry::Later | Retry::AfterRefresh);
            assert_eq!(tries.after(&an_error(reason), start, 0.5).is_some(), expected, "{reason}");
        }
    }

    #[test]
    fn a_full_queue_is_tried_once_more_and_damage_three_times() {
        let start = Instant::now();
        for (reason, retries) in [(Reason::TooManyWaiters, 1), (Reason::ChecksumMismatch, 3)] {
            let mut tries = Tries::until(start + Duration::from_secs(60));
            let again = (0..10).take_while(|_| tries.after(&an_error(reason), start, 0.5).is_some()).count();
            assert_eq!(again, retries, "{reason}");
        }
    }

    #[test]
    fn no_space_is_tried_for_as_long_as_another_server_may_need_to_lead() {
        let mut now = Instant::now();
        let mut tries = Tries::until(now + Duration::from_secs(60));
        let began = now;
        while let Some(delay) = tries.after(&an_error(Reason::NoSpace), now, 1.0) {
            assert!(delay <= DELAY_MAX_AMONG_SEVERAL, "{delay:?}");
            now += delay;
        }
        let tried = now - began;
        assert!((4..=5).contains(&tried.as_secs()), "{tried:?}");
        // It is that long since the first of them, not since it began.
        let mut tries = Tries::until(now + Duration::from_secs(60));
        tries.after(&an_error(Reason::Unavailable), began, 1.0);
        assert!(tries.after(&an_error(Reason::NoSpace), now, 1.0).is_some());
    }

    #[test]
    fn the_servers_advice_is_a_lower_bound() {
        let start = Instant::now();
        let mut tries = Tries::until(start + Duration::from_secs(60));
        let mut advised = crate::pb::ErrorStatus::from(crate::status::Failure::new(Reason::NoQuorum, ""));
        advised.retry_after_ms = 1500;
        assert_eq!(tries.after(&Error::from(advised), start, 0.0), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn progress_begins_anew() {
        let start = Instant::now();
        let mut tries = Tries::until(start + Duration::from_millis(10));
        assert_eq!(tries.after(&an_error(Reason::Unavailable), start, 1.0), None);
        tries.renew(start + Duration::from_secs(5));
        assert_eq!(tries.after(&an_error(Reason::Unavailable), start, 1.0), Some(Duration::from_millis(100)));
    }
}
