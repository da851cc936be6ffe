//! What the Directory does by itself: judges leases, looks after suspects, and forgets what is over.

use std::{sync::Arc, time::Instant};

use tokio::time::{Duration, MissedTickBehavior, interval};

use super::{
    Directory,
    command::{Command, Outcome},
    lease, report,
};

/// How late a lease that has run out may be noticed.
const JUDGE_INTERVAL: Duration = Duration::from_millis(100);
/// How late what is over may be forgotten.
const COLLECT_INTERVAL: Duration = Duration::from_secs(1);
/// Things forgotten in one step, so that callers wait for it only shortly.
const COLLECT_LIMIT: u32 = 1000;

/// Marks servers down whose lease has run out. Never ends.
pub async fn judge_leases(directory: Arc<Directory>) {
    let mut ticks = interval(JUDGE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let expired = directory.leases().expired(Instant::now());
        for server in expired {
            if directory.is_down(&server) {
                continue;
            }
            tracing::warn!(%server, lease = ?lease::LEASE, "a server's lease has run out");
            // Tried again at the next tick: it is still not down then.
            if let Err(error) = directory.proposer.propose(Command::MarkDown { server: server.clone() }).await {
                tracing::warn!(%server, %error, "a server could not be marked down");
            }
        }
    }
}

/// Looks whether a server that a primary has reported is dead for everybody: if so, the groups that it leads need not
/// wait for its lease. Never ends.
pub async fn look_after_suspects(directory: Arc<Directory>) {
    loop {
        let suspect = directory.suspects.next().await;
        if let Err(failure) = report::look_at(&directory, &suspect).await {
            tracing::warn!(server = %suspect, %failure, "a suspect could not be looked after");
        }
    }
}

/// Forgets what is over, a little at a time. Never ends.
pub async fn collect(directory: Arc<Directory>) {
    let mut ticks = interval(COLLECT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        loop {
            match directory.proposer.propose(Command::Collect { limit: COLLECT_LIMIT }).await {
                Ok((_, Outcome::Collected { more: true })) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "what is over could not be forgotten");
                    break;
                }
            }
        }
    }
}
