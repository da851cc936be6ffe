//! The Lock service's state, and the one function that changes it.
//!
//! [`State::apply`] is deterministic: same commands with the same revisions and times, same state, outcomes and effects,
//! everywhere. It has no clock, no randomness and no I/O. A command that is refused has changed nothing.
//!
//! The state lives in memory, whole, because it is small (a lock is worth some hundred bytes, and their number is bounded) and because a
//! grant should not cost reads of a disk; each command names the records it changed, and the driver writes those
//! through to the store, in one transaction for many commands, before anybody is told.
//!
//! What holds after every command, for every path:
//!
//! - holders are one exclusive, or any number of shared, or none;
//! - while a fence is pending there is no holder, and nobody is granted;
//! - if the first in the queue could be granted, it is not in the queue but a holder;
//! - every holder and every waiter belongs to a session that is there.

mod record;
mod view;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use record::{Damaged, Head, Record};
pub use view::{HolderView, LockView, Standing, WaiterView};

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    lock::{
        command::{Applied, Command, Effect, Grant, IfHeld, Key, Membership, Outcome, Ticket},
        error::Error,
        wait_queue::{WaitQueue, Waiter},
    },
    token::{self, LockKey},
    types::{FencingToken, LockMode, Path, Revision, SessionId, Timestamp},
};

/// Shortest lease: below it a scheduling hiccup would end it.
pub const TTL_MS_MIN: u64 = 1000;
/// Longest lease: how long a dead client may block others.
pub const TTL_MS_MAX: u64 = 600_000;
/// Longest name of a client, in bytes.
pub const CLIENT_LENGTH_MAX: usize = 255;
pub const SESSIONS_MAX: usize = 100_000;
pub const WAITERS_PER_PATH_MAX: usize = 10_000;
/// Locks that one session may hold or await.
pub const LOCKS_PER_SESSION_MAX: usize = 10_000;
/// Locks held or awaited in all: some hundred MiB of memory.
pub const LOCKS_MAX: usize = 1_000_000;
/// No command is accepted past this, so that none runs out of tokens half-way: one command fences or grants every lock at most.
const COUNTER_LAST: u64 = token::COUNTER_MAX - 2 * LOCKS_MAX as u64;
/// Tokens that a service may have granted since the last one that the Directory has seen: hours of nothing but grants.
const UNSEEN_MAX: u64 = 1 << 24;
/// A service that begins takes for granted what one before it would have granted since 1970, had it granted a lock each so many ms.
const MS_PER_GRANT: u64 = 10;
/// A clock that is wrong must not use the tokens up.
const CLOCK_COUNTER_MAX: u64 = token::COUNTER_MAX / 2;
/// For so long a session that expired is told so, and its id cannot be used again.
const EXPIRED_KEPT_MS: u64 = 3_600_000;
const EXPIRED_MAX: usize = 100_000;
/// Expired sessions forgotten by one command: enough to keep up, little enough never to be felt.
const EXPIRED_FORGOTTEN_AT_ONCE: usize = 4;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    head: Head,
    sessions: BTreeMap<SessionId, Session>,
    /// Sessions whose lease ran out, and when.
    expired: BTreeMap<SessionId, Timestamp>,
    expired_by_time: BTreeSet<(Timestamp, SessionId)>,
    /// Only paths that are held, awaited or behind a fence.
    locks: BTreeMap<Path, Lock>,
    /// Holders and waiters of all paths.
    lock_count: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub ttl_ms: u64,
    /// Who it is, for people; may be empty.
    pub client: String,
    pub open_time: Timestamp,
    /// Held or awaited.
    paths: BTreeSet<Path>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lock {
    holders: BTreeMap<SessionId, Grant>,
    queue: WaitQueue,
    fence: Option<FencingToken>,
}

impl Lock {
    /// Whether one more holder in this mode is possible, leaving the queue aside.
    fn admits(&self, mode: LockMode) -> bool {
        // All holders have the same mode.
        let beside =
            self.holders.values().next().is_none_or(|held| (held.mode, mode) == (LockMode::Shared, LockMode::Shared));
        self.fence.is_none() && beside
    }

    fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.queue.is_empty() && self.fence.is_none()
    }
}

/// How a session comes to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// By its own wish: it knows, and writes no more.
    Closed,
    /// It may not know: whoever comes next must be protected from it.
    Expired,
}

/// One command at work: its moment, and what comes of it.
struct Work {
    time: Timestamp,
    /// Seals tokens.
    key: LockKey,
    /// The place in the queue of whoever is queued by this command.
    ticket: Ticket,
    changed: Vec<Key>,
    effects: Vec<Effect>,
}

impl State {
    /// Applies one command. `revision` is used up only if the command changed something; it is above [`State::revision`].
    pub fn apply(&mut self, revision: Revision, time: Timestamp, command: &Command) -> Result<Applied, Error> {
        assert!(revision > self.head.revision, "revisions are handed out in order");
        let time = time.max(self.head.time);
        let key = match (command, self.head.membership) {
            (Command::Join { membership, .. }, _) => membership.key,
            (_, Some(membership)) => membership.key,
            (_, None) => return Err(Error::NotJoined),
        };
        let mut work = Work { time, key, ticket: Ticket(revision.0), changed: Vec::new(), effects: Vec::new() };
        let outcome = match command {
            Command::Join { membership, newest } => self.join(*membership, *newest, &mut work),
            _ if self.head.counter > COUNTER_LAST => Err(Error::TokensUsedUp),
            Command::OpenSession { session, ttl_ms, client } => self.open(*session, *ttl_ms, client, &mut work),
            Command::CloseSession { session } => self.end_session(*session, End::Closed, &mut work),
            Command::ExpireSession { session } => self.end_session(*session, End::Expired, &mut work),
            Command::Acquire { session, path, mode, if_held } => {
                self.acquire(*session, path, *mode, *if_held, &mut work)
            }
            Command::GiveUp { session, path, ticket } => self.give_up(*session, path, *ticket, &mut work),
            Command::Release { session, path, token } => self.release(*session, path, *token, &mut work),
            Command::Break { path, token } => self.break_lock(path, *token, &mut work),
            Command::FenceRaised { path, token } => Ok(self.fence_raised(path, *token, &mut work)),
        }?;
        if !work.changed.is_empty() {
            (self.head.revision, self.head.time) = (revision, time);
            work.changed.push(Key::Head);
        }
        Ok(Applied { outcome, changed: work.changed, effects: work.effects })
    }

    /// A service that has lost its folder, or got an old copy of it back, has granted tokens that it knows nothing of. Newer
    /// than all of them is what is far enough above the newest that the Directory has seen. It may have seen none of a service
    /// before this one: so the first counter is no lower than the clock either, which no service outruns for long.
    fn join(&mut self, membership: Membership, newest: FencingToken, work: &mut Work) -> Result<Outcome, Error> {
        let is_first = match self.head.membership {
            Some(known) if known == membership => false,
            Some(_) => return Err(Error::OtherCluster),
            None => true,
        };
        let seen = token::counter(newest);
        if is_first || seen > self.head.counter {
            let above = seen.saturating_add(UNSEEN_MAX).min(token::COUNTER_MAX);
            let clock = if is_first { (work.time.0 / MS_PER_GRANT).min(CLOCK_COUNTER_MAX) } else { 0 };
            self.head.counter = self.head.counter.max(above).max(clock);
            self.head.membership = Some(membership);
            work.changed.push(Key::Head);
        }
        Ok(Outcome::Done)
    }

    /// Opening a session again is the same session: its length stays what it was, its lease begins anew.
    fn open(&mut self, id: SessionId, ttl_ms: u64, client: &str, work: &mut Work) -> Result<Outcome, Error> {
        if !(TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl_ms) {
            return Err(Error::BadTtl { ttl_ms, min_ms: TTL_MS_MIN, max_ms: TTL_MS_MAX });
        }
        if client.len() > CLIENT_LENGTH_MAX {
            return Err(Error::ClientTooLong { length: client.len(), limit: CLIENT_LENGTH_MAX });
        }
        if self.expired.contains_key(&id) {
            // Its client must learn that it lost what it held, not begin anew under the same name.
            return Err(Error::SessionExpired { session: id });
        }
        let ttl_ms = match self.sessions.get(&id) {
            Some(session) => session.ttl_ms,
            None if self.sessions.len() >= SESSIONS_MAX => return Err(Error::TooManySessions { limit: SESSIONS_MAX }),
            None => {
                let (client, open_time) = (client.to_owned(), work.time);
                self.sessions.insert(id, Session { ttl_ms, client, open_time, paths: BTreeSet::new() });
                work.changed.push(Key::Session(id));
                self.forget_expired(work);
                ttl_ms
            }
        };
        work.effects.push(Effect::LeaseBegan { session: id, ttl_ms });
        Ok(Outcome::Opened { ttl_ms })
    }

    fn end_session(&mut self, id: SessionId, end: End, work: &mut Work) -> Result<Outcome, Error> {
        self.session(id)?;
        let paths = self.sessions.remove(&id).map(|session| session.paths).unwrap_or_default();
        work.changed.push(Key::Session(id));
        work.effects.push(Effect::LeaseEnded { session: id });
        if end == End::Expired {
            self.expired.insert(id, work.time);
            self.expired_by_time.insert((work.time, id));
            work.changed.push(Key::Expired(id));
            self.forget_expired(work);
        }
        for path in paths {
            let fence = (end == End::Expired && self.is_held_exclusively(&path, id)).then(|| self.draw(&path, work));
            self.leave_queue(id, &path, Error::SessionExpired { session: id }, work);
            self.drop_holders(&path, &[id], fence, work);
        }
        Ok(Outcome::Done)
    }

    fn acquire(
        &mut self,
        id: SessionId,
        path: &Path,
        mode: LockMode,
        if_held: IfHeld,
        work: &mut Work,
    ) -> Result<Outcome, Error> {
        let session = self.session(id)?;
        let lock = self.locks.get(path);
        if let Some(grant) = lock.and_then(|lock| lock.holders.get(&id)) {
            return match (grant.mode, mode) {
                (LockMode::Shared, LockMode::Exclusive) => {
                    Err(Error::OtherMode { path: path.clone(), has: grant.mode })
                }
                _ => Ok(Outcome::Granted { grant: *grant, fresh: false }),
            };
        }
        if let Some((ticket, waiter)) = lock.and_then(|lock| lock.queue.of_session(id)) {
            return match if_held {
                _ if waiter.mode != mode => Err(Error::OtherMode { path: path.clone(), has: waiter.mode }),
                IfHeld::Queue => Ok(Outcome::Queued { ticket }),
                IfHeld::Refuse => Err(self.told_in_vain(path, ticket)),
            };
        }
        let at_once = lock.is_none_or(|lock| lock.queue.is_empty() && lock.admits(mode));
        let waiting = lock.map_or(0, |lock| lock.queue.len());
        if !at_once && if_held == IfHeld::Refuse {
            return Err(self.held(path, waiting as u32 + 1));
        }
        if !at_once && waiting >= WAITERS_PER_PATH_MAX {
            return Err(Error::TooManyWaiters { path: path.clone(), limit: WAITERS_PER_PATH_MAX });
        }
        if session.paths.len() >= LOCKS_PER_SESSION_MAX {
            return Err(Error::TooManyOfSession { limit: LOCKS_PER_SESSION_MAX });
        }
        if self.lock_count >= LOCKS_MAX {
            return Err(Error::TooManyLocks { limit: LOCKS_MAX });
        }
        if at_once {
            let grant = self.grant(id, path, mode, work);
            work.effects.push(Effect::Changed { path: path.clone(), first_moved: 0 });
            return Ok(Outcome::Granted { grant, fresh: true });
        }
        let queue = &mut self.locks.entry(path.clone()).or_default().queue;
        let joined = queue.push(work.ticket, Waiter { session: id, mode, since: work.time });
        assert!(joined, "the session is not in the queue, and a ticket is handed out once");
        self.enter(id, path);
        work.changed.push(Key::Waiter(path.clone(), work.ticket));
        work.effects.push(Effect::Changed { path: path.clone(), first_moved: waiting });
        Ok(Outcome::Queued { ticket: work.ticket })
    }

    /// A grant that came just before the wait was over stands.
    fn give_up(&mut self, id: SessionId, path: &Path, ticket: Ticket, work: &mut Work) -> Result<Outcome, Error> {
        self.session(id)?;
        let given_up = || Error::WaitGivenUp { path: path.clone() };
        let lock = self.locks.get(path).ok_or_else(given_up)?;
        if let Some(grant) = lock.holders.get(&id) {
            return Ok(Outcome::Granted { grant: *grant, fresh: false });
        }
        lock.queue.get(ticket).filter(|waiter| waiter.session == id).ok_or_else(given_up)?;
        let told = self.told_in_vain(path, ticket);
        self.leave_queue(id, path, given_up(), work);
        Ok(Outcome::GaveUp(told))
    }

    fn release(
        &mut self,
        id: SessionId,
        path: &Path,
        token: Option<FencingToken>,
        work: &mut Work,
    ) -> Result<Outcome, Error> {
        self.session(id)?;
        let not_holder = || Error::NotHolder { path: path.clone() };
        let lock = self.locks.get(path).ok_or_else(not_holder)?;
        match lock.holders.get(&id) {
            Some(grant) if token.is_none_or(|token| token == grant.token) => {
                self.drop_holders(path, &[id], None, work);
            }
            None if token.is_none() && lock.queue.of_session(id).is_some() => {
                self.leave_queue(id, path, Error::WaitGivenUp { path: path.clone() }, work);
            }
            _ => return Err(not_holder()),
        }
        Ok(Outcome::Done)
    }

    /// Asked again while the fence is pending, it is the same break.
    fn break_lock(&mut self, path: &Path, token: Option<FencingToken>, work: &mut Work) -> Result<Outcome, Error> {
        let lock = self.locks.get(path);
        if let Some(fence) = lock.and_then(|lock| lock.fence)
            && token.is_none_or(|token| token < fence)
        {
            return Ok(Outcome::Broken { token: fence, pending: true });
        }
        let holders = lock.map(|lock| &lock.holders).into_iter().flatten();
        let broken: Vec<SessionId> = holders
            .filter(|(_, grant)| token.is_none_or(|token| token == grant.token))
            .map(|(session, _)| *session)
            .collect();
        if broken.is_empty() {
            return Err(match token {
                Some(token) => Error::NotTheToken { path: path.clone(), token },
                None => Error::NotHeld { path: path.clone() },
            });
        }
        let token = self.draw(path, work);
        self.drop_holders(path, &broken, Some(token), work);
        let pending = self.locks.get(path).is_some_and(|lock| lock.fence == Some(token));
        Ok(Outcome::Broken { token, pending })
    }

    fn fence_raised(&mut self, path: &Path, token: FencingToken, work: &mut Work) -> Outcome {
        if let Some(lock) = self.locks.get_mut(path).filter(|lock| lock.fence == Some(token)) {
            lock.fence = None;
            work.changed.push(Key::Fence(path.clone()));
            work.effects.push(Effect::FenceRaised { path: path.clone(), token });
            work.effects.push(Effect::Changed { path: path.clone(), first_moved: 0 });
            self.pass_on(path, work);
        }
        Outcome::Done
    }

    fn session(&self, id: SessionId) -> Result<&Session, Error> {
        self.sessions.get(&id).ok_or_else(|| match self.expired.contains_key(&id) {
            true => Error::SessionExpired { session: id },
            false => Error::SessionNotFound { session: id },
        })
    }

    fn is_held_exclusively(&self, path: &Path, id: SessionId) -> bool {
        let grant = self.locks.get(path).and_then(|lock| lock.holders.get(&id));
        grant.is_some_and(|grant| grant.mode == LockMode::Exclusive)
    }

    /// A token above all there were.
    fn draw(&mut self, path: &Path, work: &Work) -> FencingToken {
        self.seal(path, LockMode::Exclusive, work)
    }

    fn seal(&mut self, path: &Path, mode: LockMode, work: &Work) -> FencingToken {
        // No command is accepted near the last counter.
        self.head.counter += 1;
        token::seal_next(&work.key, self.head.counter, path, mode)
    }

    fn grant(&mut self, id: SessionId, path: &Path, mode: LockMode, work: &mut Work) -> Grant {
        let grant = Grant { mode, token: self.seal(path, mode, work), time: work.time };
        self.locks.entry(path.clone()).or_default().holders.insert(id, grant);
        self.enter(id, path);
        work.changed.push(Key::Holder(path.clone(), id));
        grant
    }

    /// Takes a session out of a path's queue, if it stands there.
    fn leave_queue(&mut self, id: SessionId, path: &Path, error: Error, work: &mut Work) {
        let Some(lock) = self.locks.get_mut(path) else { return };
        let Some((ticket, _)) = lock.queue.of_session(id) else { return };
        let first_moved = lock.queue.index(ticket);
        lock.queue.remove(ticket);
        self.leave(id, path);
        work.changed.push(Key::Waiter(path.clone(), ticket));
        work.effects.push(Effect::WaitEnded { session: id, path: path.clone(), error });
        work.effects.push(Effect::Changed { path: path.clone(), first_moved });
        self.pass_on(path, work);
    }

    /// Takes a path from those of these sessions who hold it. If one of them held it exclusively and a fence is given, nobody
    /// gets it before the Directory has that.
    fn drop_holders(&mut self, path: &Path, ids: &[SessionId], fence: Option<FencingToken>, work: &mut Work) {
        for id in ids {
            let Some(lock) = self.locks.get_mut(path) else { return };
            let Some(grant) = lock.holders.remove(id) else { continue };
            if grant.mode == LockMode::Exclusive
                && let Some(token) = fence
            {
                lock.fence = Some(token);
                work.changed.push(Key::Fence(path.clone()));
                work.effects.push(Effect::RaiseFence { path: path.clone(), token });
            }
            self.leave(*id, path);
            work.changed.push(Key::Holder(path.clone(), *id));
            work.effects.push(Effect::Changed { path: path.clone(), first_moved: 0 });
        }
        self.pass_on(path, work);
    }

    /// Grants to whoever is first, as long as they can hold it together.
    fn pass_on(&mut self, path: &Path, work: &mut Work) {
        while let Some(lock) = self.locks.get_mut(path)
            && let Some((ticket, next)) = lock.queue.first()
            && lock.admits(next.mode)
        {
            lock.queue.remove(ticket);
            self.leave(next.session, path);
            work.changed.push(Key::Waiter(path.clone(), ticket));
            let grant = self.grant(next.session, path, next.mode, work);
            work.effects.push(Effect::Granted { session: next.session, path: path.clone(), grant });
            work.effects.push(Effect::Changed { path: path.clone(), first_moved: 0 });
        }
        if self.locks.get(path).is_some_and(Lock::is_idle) {
            self.locks.remove(path);
        }
    }

    fn enter(&mut self, id: SessionId, path: &Path) {
        self.lock_count += 1;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.paths.insert(path.clone());
        }
    }

    fn leave(&mut self, id: SessionId, path: &Path) {
        self.lock_count -= 1;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.paths.remove(path);
        }
    }

    fn forget_expired(&mut self, work: &mut Work) {
        for _ in 0..EXPIRED_FORGOTTEN_AT_ONCE {
            let Some(&(time, id)) = self.expired_by_time.first() else { return };
            if work.time.millis_since(time) < EXPIRED_KEPT_MS && self.expired.len() <= EXPIRED_MAX {
                return;
            }
            self.expired_by_time.remove(&(time, id));
            self.expired.remove(&id);
            work.changed.push(Key::Expired(id));
        }
    }
}
