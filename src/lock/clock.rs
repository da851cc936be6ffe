//! The time by which leases run: monotonic, and without the moments in which this process itself stood still.
//!
//! A process that was stopped (SIGSTOP, a frozen machine, a disk that hung) finds a clock that ran on, and renewals of those moments still
//! unread in its sockets. To expire everyone then would punish the clients for the server's absence. So the driver looks at the clock often, and
//! a step longer than it should ever be counts only for [`STEP_MAX`]. Leases so run longer than their clients count on, never shorter.

use std::time::Duration;

/// The driver looks at the clock at least this often while it runs.
pub const TICK: Duration = Duration::from_millis(100);
/// What a step of the clock counts for at most: above [`TICK`] with a commit's sync on top, below what a client leaves of the
/// shortest lease (1 s, renewed at a third of it).
const STEP_MAX: Duration = Duration::from_millis(300);

#[derive(Debug, Default)]
pub struct RunningClock {
    seen: Duration,
    running: Duration,
}

/// How far the clock has come, and how much of that did not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub now: Duration,
    pub stalled: Duration,
}

impl RunningClock {
    /// `elapsed`: since the driver began, by the monotonic clock.
    pub fn observe(&mut self, elapsed: Duration) -> Reading {
        let step = elapsed.saturating_sub(self.seen);
        let counted = step.min(STEP_MAX);
        self.seen += step;
        self.running += counted;
        Reading { now: self.running, stalled: step - counted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_does_not_count() {
        let ms = Duration::from_millis;
        let mut clock = RunningClock::default();
        assert_eq!(clock.observe(ms(100)), Reading { now: ms(100), stalled: ms(0) });
        assert_eq!(clock.observe(ms(400)), Reading { now: ms(400), stalled: ms(0) });
        assert_eq!(clock.observe(ms(60_400)), Reading { now: ms(700), stalled: ms(59_700) });
        assert_eq!(clock.observe(ms(60_500)), Reading { now: ms(800), stalled: ms(0) });
        assert_eq!(clock.observe(ms(60_400)), Reading { now: ms(800), stalled: ms(0) }, "never goes back");
        assert_eq!(clock.observe(ms(60_600)), Reading { now: ms(900), stalled: ms(0) });
    }
}
