//! Who is to be told what: the calls that wait for a lock, and those that watch one.
//!
//! Every listener has a channel that holds the newest news only: a slow client skips positions and never makes anybody wait. A call
//! that is dropped is noticed by its end of the channel. Its place in the queue, or the grant that it never
//! passed on, is kept for a [`GRACE`], so that a client that was cut off can ask again; then it is given up.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::watch;

use crate::{
    lock::{
        command::{Grant, Ticket},
        error::Error,
        handle::{Progress, Wait},
        session::Deadlines,
        state::{Standing, State},
    },
    types::{Path, Revision, SessionId},
};

/// How long the place of a client that is gone is kept.
const GRACE: Duration = Duration::from_secs(3);
/// After a restart: clients may be in the longest pause between two tries.
const GRACE_AFTER_RESTART: Duration = Duration::from_secs(10);

/// A session's claim on a path, be it a place in the queue or a grant.
pub(super) type Claim = (SessionId, Path);

/// A channel that nobody listens to any more.
pub(super) enum Gone {
    Waiting { claim: Claim, number: u64 },
    Watching { path: Path },
}

#[derive(Default)]
pub(super) struct FanOut {
    waits: HashMap<Claim, Listeners>,
    watches: HashMap<Path, watch::Sender<Revision>>,
    gone: FuturesUnordered<BoxFuture<'static, Gone>>,
    graces: Deadlines<Claim>,
    /// Of the last listeners: tells those of a claim from those of an earlier one.
    number: u64,
}

/// The calls of one session that wait for the same lock.
struct Listeners {
    number: u64,
    progress: watch::Sender<Progress>,
    delivered: Arc<AtomicBool>,
}

impl Listeners {
    fn hear(&self, ticket: Option<Ticket>) -> Wait {
        Wait { ticket, progress: self.progress.subscribe(), delivered: self.delivered.clone() }
    }
}

impl FanOut {
    /// Everybody who waits is cut off by a restart.
    pub fn after_restart(state: &State, now: Duration) -> Self {
        let mut fan_out = Self::default();
        for (session, path) in state.waiting() {
            fan_out.graces.set((session, path.clone()), now + GRACE_AFTER_RESTART);
        }
        fan_out
    }

    /// One more call waits for a place in the queue.
    pub fn await_grant(&mut self, claim: Claim, ticket: Ticket, progress: Progress) -> Wait {
        self.graces.clear(&claim);
        let same = |listeners: &&Listeners| matches!(&*listeners.progress.borrow(), Progress::Waiting { .. });
        match self.waits.get(&claim).filter(same) {
            Some(listeners) => listeners.hear(Some(ticket)),
            None => self.listen(claim, Some(ticket), progress),
        }
    }

    /// A call is answered with a grant. If no other call has passed it on before, it is watched whether this one does.
    pub fn hand_over(&mut self, claim: Claim, grant: Grant, fresh: bool) -> Wait {
        let undelivered = self.graces.clear(&claim);
        let progress = Progress::Granted(grant);
        let same = |listeners: &&Listeners| *listeners.progress.borrow() == progress;
        match self.waits.get(&claim).filter(same) {
            Some(listeners) => listeners.hear(None),
            None if fresh || undelivered => self.listen(claim, None, progress),
            None => Wait { ticket: None, progress: watch::channel(progress).1, delivered: Arc::default() },
        }
    }

    fn listen(&mut self, claim: Claim, ticket: Option<Ticket>, progress: Progress) -> Wait {
        self.number += 1;
        let listeners =
            Listeners { number: self.number, progress: watch::Sender::new(progress), delivered: Arc::default() };
        let wait = listeners.hear(ticket);
        self.notice_end(&claim, &listeners);
        self.waits.insert(claim, listeners);
        wait
    }

    fn notice_end(&self, claim: &Claim, listeners: &Listeners) {
        let (claim, number, progress) = (claim.clone(), listeners.number, listeners.progress.clone());
        self.gone.push(async move { progress.closed().await }.map(move |()| Gone::Waiting { claim, number }).boxed());
    }

    pub fn granted(&mut self, claim: Claim, grant: Grant, now: Duration) {
        let heard = self.waits.get(&claim).is_some_and(|listeners| {
            listeners.progress.send_replace(Progress::Granted(grant));
            listeners.progress.receiver_count() > 0
        });
        if !heard {
            // A longer one runs since a restart.
            let until = self.graces.get(&claim).unwrap_or_default().max(now + GRACE);
            self.graces.set(claim, until);
        }
    }

    pub fn ended(&mut self, claim: &Claim, error: Error) {
        self.graces.clear(claim);
        if let Some(listeners) = self.waits.remove(claim) {
            listeners.progress.send_replace(Progress::Ended(error));
        }
    }

    /// Whether another call waits for the same claim.
    pub fn is_shared(&self, claim: &Claim) -> bool {
        self.waits.get(claim).is_some_and(|listeners| listeners.progress.receiver_count() > 1)
    }

    /// Tells those at this index of the queue and behind it where they stand now.
    pub fn moved(&self, state: &State, path: &Path, first_moved: usize) {
        let (holder, waiters) = (state.holder_name(path), state.waiter_count(path) as u32);
        for (session, position) in state.waiting_from(path, first_moved) {
            let Some(listeners) = self.waits.get(&(session, path.clone())) else { continue };
            listeners.progress.send_if_modified(|progress| {
                let stays = matches!(progress, Progress::Waiting { position: was, holder: of, .. }
                    if *was == position && *of == holder);
                if !stays {
                    *progress = Progress::Waiting { position, waiters, holder: holder.clone() };
                }
                !stays
            });
        }
    }

    pub fn watch(&mut self, path: Path, revision: Revision) -> watch::Receiver<Revision> {
        match self.watches.entry(path) {
            Entry::Occupied(entry) => entry.get().subscribe(),
            Entry::Vacant(entry) => {
                let path = entry.key().clone();
                let (sender, receiver) = watch::channel(revision);
                let closing = sender.clone();
                let gone = async move { closing.closed().await }.map(move |()| Gone::Watching { path });
                self.gone.push(gone.boxed());
                entry.insert(sender);
                receiver
            }
        }
    }

    pub fn changed(&self, path: &Path, revision: Revision) {
        if let Some(watch) = self.watches.get(path) {
            watch.send_replace(revision);
        }
    }

    /// The next channel that nobody listens to; waits for ever while there is none.
    pub async fn next_gone(&mut self) -> Gone {
        match self.gone.next().await {
            Some(gone) => gone,
            None => std::future::pending().await,
        }
    }

    pub fn drop_gone(&mut self, gone: Gone, state: &State, now: Duration) {
        match gone {
            Gone::Watching { path } => self.drop_watch(path),
            Gone::Waiting { claim, number } => self.drop_wait(claim, number, state, now),
        }
    }

    fn drop_watch(&mut self, path: Path) {
        let Some(watch) = self.watches.get(&path) else { return };
        if watch.receiver_count() == 0 {
            self.watches.remove(&path);
            return;
        }
        let closing = watch.clone();
        let gone = async move { closing.closed().await }.map(move |()| Gone::Watching { path });
        self.gone.push(gone.boxed());
    }

    fn drop_wait(&mut self, claim: Claim, number: u64, state: &State, now: Duration) {
        let Some(listeners) = self.waits.get(&claim).filter(|listeners| listeners.number == number) else { return };
        if listeners.progress.receiver_count() > 0 {
            self.notice_end(&claim, listeners);
            return;
        }
        let delivered = listeners.delivered.load(Ordering::Acquire);
        self.waits.remove(&claim);
        if !delivered && state.standing(claim.0, &claim.1).is_some() {
            self.graces.set(claim, now + GRACE);
        }
    }

    /// Claims of clients that have not come back in time, with how they stand.
    pub fn given_up(&mut self, state: &State, now: Duration, limit: usize) -> Vec<(Claim, Standing)> {
        let due = self.graces.due(now, limit);
        for claim in &due {
            self.graces.clear(claim);
        }
        due.into_iter()
            .filter_map(|claim| state.standing(claim.0, &claim.1).map(|standing| (claim, standing)))
            .collect()
    }

    /// When the next grace is over.
    pub fn next_grace(&self) -> Option<Duration> {
        self.graces.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{FencingToken, LockMode, Timestamp};

    #[test]
    fn a_grant_does_not_shorten_the_time_that_a_waiter_has_after_a_restart() {
        let claim: Claim = (SessionId::from_bytes([1; 16]), Path::root());
        let grant = Grant { mode: LockMode::Exclusive, token: FencingToken(1), time: Timestamp(1) };
        let mut fan_out = FanOut::default();
        fan_out.graces.set(claim.clone(), GRACE_AFTER_RESTART);
        fan_out.granted(claim.clone(), grant, Duration::ZERO);
        assert_eq!(fan_out.next_grace(), Some(GRACE_AFTER_RESTART));
        fan_out.granted(claim, grant, GRACE_AFTER_RESTART);
        assert_eq!(fan_out.next_grace(), Some(GRACE_AFTER_RESTART + GRACE));
    }
}
