//! The state as records, one by one: what the store keeps, and what a restart makes the state of.

use crate::{
    lock::{
        command::{Effect, Grant, Key, Membership, Ticket},
        state::{Session, State},
        wait_queue::Waiter,
    },
    token,
    types::{FencingToken, LockMode, Path, Revision, SessionId, Timestamp},
};

/// What is there once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Count of commands that changed something.
    pub revision: Revision,
    /// Of the last of them.
    pub time: Timestamp,
    /// Of the last token sealed.
    pub counter: u64,
    /// `None` before the Directory was reached for the first time.
    pub membership: Option<Membership>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Head(Head),
    Session { id: SessionId, ttl_ms: u64, client: String, open_time: Timestamp },
    Expired { id: SessionId, time: Timestamp },
    Holder { path: Path, id: SessionId, grant: Grant },
    Waiter { path: Path, ticket: Ticket, waiter: Waiter },
    Fence { path: Path, token: FencingToken },
}

/// The records cannot be what this service wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    #[error("two records say what there is once")]
    Twice,
    #[error("session {0} has a lock or a place in a queue but does not exist")]
    SessionMissing(SessionId),
    #[error("{0} has holders that exclude each other or its fence, or a waiter that is a holder")]
    Contradiction(Path),
    #[error("a token or a ticket is higher than the count of those handed out")]
    AheadOfHead,
}

impl State {
    /// The record with this key as it is now; `None` if it is no more.
    pub fn record(&self, key: &Key) -> Option<Record> {
        Some(match key {
            Key::Head => Record::Head(self.head),
            Key::Session(id) => {
                let Session { ttl_ms, client, open_time, paths: _ } = self.sessions.get(id)?;
                Record::Session { id: *id, ttl_ms: *ttl_ms, client: client.clone(), open_time: *open_time }
            }
            Key::Expired(id) => Record::Expired { id: *id, time: *self.expired.get(id)? },
            Key::Holder(path, id) => {
                Record::Holder { path: path.clone(), id: *id, grant: *self.locks.get(path)?.holders.get(id)? }
            }
            Key::Waiter(path, ticket) => {
                let waiter = *self.locks.get(path)?.queue.get(*ticket)?;
                Record::Waiter { path: path.clone(), ticket: *ticket, waiter }
            }
            Key::Fence(path) => Record::Fence { path: path.clone(), token: self.locks.get(path)?.fence? },
        })
    }

    /// The state that these records are all of, in any order that has the sessions before what belongs to them.
    pub fn restore(records: impl IntoIterator<Item = Record>) -> Result<Self, Damaged> {
        let mut state = Self::default();
        for record in records {
            state.take_up(record)?;
        }
        state.check()?;
        Ok(state)
    }

    fn take_up(&mut self, record: Record) -> Result<(), Damaged> {
        let new = match record {
            Record::Head(head) => std::mem::replace(&mut self.head, head) == Head::default(),
            Record::Session { id, ttl_ms, client, open_time } => {
                let session = Session { ttl_ms, client, open_time, paths: Default::default() };
                self.sessions.insert(id, session).is_none()
            }
            Record::Expired { id, time } => {
                self.expired_by_time.insert((time, id));
                self.expired.insert(id, time).is_none()
            }
            Record::Holder { path, id, grant } => {
                self.must_exist(id)?;
                self.enter(id, &path);
                self.locks.entry(path).or_default().holders.insert(id, grant).is_none()
            }
            Record::Waiter { path, ticket, waiter } => {
                self.must_exist(waiter.session)?;
                self.enter(waiter.session, &path);
                self.locks.entry(path).or_default().queue.push(ticket, waiter)
            }
            Record::Fence { path, token } => self.locks.entry(path).or_default().fence.replace(token).is_none(),
        };
        if new { Ok(()) } else { Err(Damaged::Twice) }
    }

    fn must_exist(&self, id: SessionId) -> Result<(), Damaged> {
        if self.sessions.contains_key(&id) { Ok(()) } else { Err(Damaged::SessionMissing(id)) }
    }

    /// What holds after every command must hold for what was read.
    fn check(&self) -> Result<(), Damaged> {
        for (path, lock) in &self.locks {
            let alone = lock.holders.values().any(|grant| grant.mode == LockMode::Exclusive);
            let both = lock.queue.iter().any(|(_, waiter)| lock.holders.contains_key(&waiter.session));
            let stuck = lock.queue.first().is_some_and(|(_, next)| lock.admits(next.mode));
            if (alone && lock.holders.len() > 1) || (lock.fence.is_some() && !lock.holders.is_empty()) || both || stuck
            {
                return Err(Damaged::Contradiction(path.clone()));
            }
            let tokens = lock.holders.values().map(|grant| grant.token).chain(lock.fence);
            let ahead = tokens.map(token::counter).any(|counter| counter > self.head.counter);
            if ahead || lock.queue.iter().any(|(ticket, _)| ticket.0 > self.head.revision.0) {
                return Err(Damaged::AheadOfHead);
            }
        }
        Ok(())
    }

    /// What the driver of a service that has just started must take up again: the leases, and the fences not yet raised.
    pub fn resume(&self) -> Vec<Effect> {
        let leases =
            self.sessions.iter().map(|(id, session)| Effect::LeaseBegan { session: *id, ttl_ms: session.ttl_ms });
        let fences = self
            .locks
            .iter()
            .filter_map(|(path, lock)| lock.fence.map(|token| Effect::RaiseFence { path: path.clone(), token }));
        leases.chain(fences).collect()
    }
}
