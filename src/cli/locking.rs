//! Doing something under a lock: wait in the queue and say where, do it, give the lock back, whatever happens.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{
    context::Context,
    error::{Error, Result},
    interrupt::RELEASE,
};
use crate::{
    client::{LockGuard, LockMode, QueuePosition, Session, SessionOptions},
    types::{Path, Precondition},
};

/// The lease of a session that is kept alive: what is left of it is how long others wait for a client that vanished.
pub const TTL: Duration = Duration::from_secs(10);

/// How to lock.
#[derive(Clone, Copy, Debug)]
pub struct Locking {
    pub mode: LockMode,
    pub ttl: Duration,
    /// How long to queue; `None`: as long as it takes.
    pub wait: Option<Duration>,
}

impl Locking {
    pub fn exclusive(wait: Option<Duration>) -> Self {
        Self { mode: LockMode::Exclusive, ttl: TTL, wait }
    }
}

/// Opens a session and waits for the lock, saying the place in the queue.
pub async fn acquire(context: &mut Context, path: &Path, locking: Locking) -> Result<LockGuard> {
    let client = context.client().await?;
    let _hold = context.interrupt.hold();
    let session = client.open_session(SessionOptions { ttl: locking.ttl, client: client_name() }).await?;
    let interrupt = context.interrupt.clone();
    let output = &mut context.output;
    let mut told = Ok(());
    let waited = tokio::select! {
        granted = session.acquire(path, locking.mode, locking.wait, |position| {
            told = output.say(&waiting(&position));
        }) => granted.map_err(Error::from),
        interrupted = interrupt.raised() => Err(interrupted),
    };
    match waited.and_then(|guard| told.map(|()| guard)) {
        Ok(guard) => Ok(guard),
        Err(error) => {
            close(session).await;
            Err(error)
        }
    }
}

fn waiting(position: &QueuePosition) -> String {
    let place = format!("waiting for the lock: position {} of {}", position.position, position.waiters);
    if position.holder.is_empty() { place } else { format!("{place}, held by {}", position.holder) }
}

/// Gives the lock back by ending its session; what fails here the lease sees to.
pub async fn release(guard: LockGuard) {
    let session = guard.session().clone();
    drop(guard);
    close(session).await;
}

async fn close(session: Session) {
    let id = session.id();
    if !matches!(tokio::time::timeout(RELEASE, session.close()).await, Ok(Ok(()))) {
        tracing::debug!(session = %id, "the session was not closed; its lease will run out");
    }
}

/// A lock that is held, as the work under it sees it.
pub struct Held {
    guard: LockGuard,
    used: AtomicBool,
}

impl Held {
    pub fn new(guard: LockGuard) -> Self {
        Self { guard, used: AtomicBool::new(false) }
    }

    /// What a write under this lock carries. From here on a write may be under way.
    pub fn precondition(&self) -> Result<Precondition> {
        let precondition = self.guard.precondition()?;
        self.used.store(true, Ordering::Relaxed);
        Ok(precondition)
    }
}

impl Held {
    /// Ends when the lease is lost and no write has begun under it.
    async fn lost_unused(&self) -> Error {
        let lost = self.guard.session().lost().await;
        if self.used.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        Error::LeaseLost(format!("the lease on {} was lost: {}", self.guard.path(), lost.failure().message))
    }

    /// Gives the lock back, cleanly only when no write can be under way any more.
    ///
    /// A clean release does not fence the holder. So after a write whose end is unknown the lease must run out instead:
    /// that raises the fence before the next in the queue is told that it holds the lock.
    pub async fn finish<T>(self, done: &Result<T>) {
        let unknown = done.as_ref().is_err_and(Error::may_have_taken_effect);
        if unknown && self.used.load(Ordering::Relaxed) {
            tracing::info!(path = %self.guard.path(), "a write may be under way: the lock is left to its lease");
            drop(self.guard);
        } else {
            release(self.guard).await;
        }
    }
}

/// Runs `work` while the lock is held. It ends early when the command is interrupted, and when the lease is lost before a
/// write has begun: from then on it is for the Directory to say whether the write counts, and its answer is waited for.
pub async fn under_lock<T>(
    context: &mut Context,
    path: &Path,
    locking: Locking,
    work: impl AsyncFnOnce(&mut Context, &Held) -> Result<T>,
) -> Result<T> {
    let held = Held::new(acquire(context, path, locking).await?);
    let interrupt = context.interrupt.clone();
    let _hold = interrupt.hold();
    let done = tokio::select! {
        done = work(context, &held) => done,
        lost = held.lost_unused() => Err(lost),
        interrupted = interrupt.raised() => Err(interrupted),
    };
    held.finish(&done).await;
    done
}

/// Who asks, for administrators and for those who wait.
pub fn client_name() -> String {
    let named = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok().filter(|name| !name.is_empty());
    let user = named.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname();
    format!("{user}@{} dfs-cli {}", host.nodename().to_string_lossy(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_the_place_and_the_holder() {
        let position = QueuePosition { position: 2, waiters: 3, holder: "ann@a".to_owned() };
        assert_eq!(waiting(&position), "waiting for the lock: position 2 of 3, held by ann@a");
        let alone = QueuePosition { position: 1, waiters: 1, holder: String::new() };
        assert_eq!(waiting(&alone), "waiting for the lock: position 1 of 1");
    }

    #[test]
    fn a_client_has_a_name() {
        assert!(client_name().ends_with(&std::process::id().to_string()));
    }
}
