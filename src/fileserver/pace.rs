//! How fast a member that arrives in a group may fetch: a bound of its own, and clients first.

use std::{sync::Mutex, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::locked;

/// What was not used of the rate lately may be used at once, up to so much of it.
const BURST: Duration = Duration::from_millis(250);
/// How long a piece waits at most for clients, so that a server that is always busy is level in the end.
const CLIENTS_PATIENCE: Duration = Duration::from_millis(200);
const CLIENTS_POLL: Duration = Duration::from_millis(20);

/// A rate that all who use it share.
pub struct Pace {
    bytes_per_second: u64,
    /// From when on the next piece may go.
    next: Mutex<Instant>,
}

impl Pace {
    /// `bytes_per_second`: at least 1.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), next: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes more are within the rate, and a little more while clients are busy.
    pub async fn take(&self, bytes: u64, clients_are_busy: impl Fn() -> bool) {
        let turn = {
            let mut next = locked(&self.next);
            let now = Instant::now();
            let turn = (*next).max(now.checked_sub(BURST).unwrap_or(now));
            *next = turn + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            turn
        };
        sleep_until(turn).await;
        let patience = Instant::now() + CLIENTS_PATIENCE;
        while clients_are_busy() && Instant::now() < patience {
            sleep(CLIENTS_POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_pieces_together_keep_to_the_rate() {
        let pace = Pace::new(1000);
        let begun = Instant::now();
        let one = || async {
            for _ in 0..10 {
                pace.take(100, || false).await;
            }
        };
        tokio::join!(one(), one(), one());
        let (took, ideal) = (begun.elapsed(), Duration::from_secs(3));
        assert!(took <= ideal && took + BURST * 2 >= ideal, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_used_for_long_is_not_saved_up() {
        let pace = Pace::new(1000);
        sleep(Duration::from_secs(60)).await;
        let begun = Instant::now();
        for _ in 0..11 {
            pace.take(100, || false).await;
        }
        assert!(begun.elapsed() >= Duration::from_secs(1) - BURST, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_come_first_and_not_for_ever() {
        let pace = Pace::new(1 << 30);
        let begun = Instant::now();
        pace.take(1, || true).await;
        assert!(begun.elapsed() >= CLIENTS_PATIENCE);
        let begun = Instant::now();
        pace.take(1, || false).await;
        assert!(begun.elapsed() < CLIENTS_POLL);
    }
}
