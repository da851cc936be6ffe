//! The state as those see it who ask.

use std::ops::Bound;

use crate::{
    lock::{
        command::{Grant, Membership, Ticket},
        error::Error,
        state::{Lock, State},
    },
    types::{FencingToken, LockMode, Path, Revision, SessionId, Timestamp},
};

/// Holders, and waiters, that one answer names at most: the first ones. Their number is told in full.
pub const LISTED_MAX: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockView {
    pub path: Path,
    pub holders: Vec<HolderView>,
    pub holder_count: usize,
    /// First come, first.
    pub waiters: Vec<WaiterView>,
    pub waiter_count: usize,
    pub fence: Option<FencingToken>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderView {
    pub session: SessionId,
    pub client: String,
    pub grant: Grant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaiterView {
    pub session: SessionId,
    pub client: String,
    pub mode: LockMode,
    pub since: Timestamp,
}

/// How a session stands to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Holds(Grant),
    Waits(Ticket),
}

impl State {
    pub fn revision(&self) -> Revision {
        self.head.revision
    }

    pub fn membership(&self) -> Option<Membership> {
        self.head.membership
    }

    /// A path that nobody holds is a lock without holders.
    pub fn view(&self, path: &Path) -> LockView {
        let idle = Lock::default();
        self.view_of(path, self.locks.get(path).unwrap_or(&idle))
    }

    fn view_of(&self, path: &Path, lock: &Lock) -> LockView {
        let client = |id: &SessionId| self.sessions.get(id).map_or_else(String::new, |session| session.client.clone());
        let holders = lock.holders.iter().take(LISTED_MAX);
        let waiters = lock.queue.iter().take(LISTED_MAX);
        LockView {
            path: path.clone(),
            holders: holders
                .map(|(id, grant)| HolderView { session: *id, client: client(id), grant: *grant })
                .collect(),
            holder_count: lock.holders.len(),
            waiters: waiters
                .map(|(_, waiter)| WaiterView {
                    session: waiter.session,
                    client: client(&waiter.session),
                    mode: waiter.mode,
                    since: waiter.since,
                })
                .collect(),
            waiter_count: lock.queue.len(),
            fence: lock.fence,
        }
    }

    /// Locks held, awaited or behind a fence at or below a path, in path order, from behind `after` on; and whether there
    /// are more. A page has at most `limit` locks, and ends early when it names many clients.
    pub fn list(&self, under: &Path, after: Option<&Path>, limit: usize) -> (Vec<LockView>, bool) {
        let start = match after {
            Some(after) if after >= under => Bound::Excluded(after),
            _ => Bound::Included(under),
        };
        let (mut views, mut named) = (Vec::new(), 0);
        // Paths below `/a` have it as a prefix, but `/a!` stands between it and `/a/b`.
        let within = self.locks.range::<Path, _>((start, Bound::Unbounded));
        let within = within.take_while(|(path, _)| path.as_str().starts_with(under.as_str()));
        for (path, lock) in within.filter(|(path, _)| path.is_at_or_below(under)) {
            if views.len() >= limit || named >= LISTED_MAX {
                return (views, true);
            }
            let view = self.view_of(path, lock);
            named += view.holders.len() + view.waiters.len();
            views.push(view);
        }
        (views, false)
    }

    pub fn standing(&self, id: SessionId, path: &Path) -> Option<Standing> {
        let lock = self.locks.get(path)?;
        let holds = lock.holders.get(&id).map(|grant| Standing::Holds(*grant));
        holds.or_else(|| lock.queue.of_session(id).map(|(ticket, _)| Standing::Waits(ticket)))
    }

    /// Who waits for a path, first come, first: from this index of the queue on, with their positions from 1.
    pub fn waiting_from(&self, path: &Path, first: usize) -> impl Iterator<Item = (SessionId, u32)> {
        let lock = self.locks.get(path);
        let queue = lock.into_iter().flat_map(|lock| lock.queue.iter());
        queue.enumerate().skip(first).map(|(index, (_, waiter))| (waiter.session, index as u32 + 1))
    }

    /// Every place in a queue.
    pub fn waiting(&self) -> impl Iterator<Item = (SessionId, &Path)> {
        self.locks.iter().flat_map(|(path, lock)| lock.queue.iter().map(move |(_, waiter)| (waiter.session, path)))
    }

    pub fn waiter_count(&self, path: &Path) -> usize {
        self.locks.get(path).map_or(0, |lock| lock.queue.len())
    }

    /// The fence that must be raised before anybody is granted the path.
    pub fn fence(&self, path: &Path) -> Option<FencingToken> {
        self.locks.get(path)?.fence
    }

    /// What is said of a session that has no lease.
    pub fn missing(&self, id: SessionId) -> Error {
        match self.session(id) {
            _ if self.head.membership.is_none() => Error::NotJoined,
            Ok(_) => Error::SessionExpired { session: id },
            Err(error) => error,
        }
    }

    /// What is said to a client whose time to wait is over.
    pub fn told_in_vain(&self, path: &Path, ticket: Ticket) -> Error {
        self.held(path, self.position(path, ticket))
    }

    /// The place of a ticket in the queue, from 1.
    pub fn position(&self, path: &Path, ticket: Ticket) -> u32 {
        self.locks.get(path).map_or(0, |lock| lock.queue.index(ticket)) as u32 + 1
    }

    /// Who holds a path, for people; of several one. Empty if nobody does.
    pub fn holder_name(&self, path: &Path) -> String {
        let holder = self.locks.get(path).and_then(|lock| lock.holders.keys().next());
        let Some(id) = holder else { return String::new() };
        match self.sessions.get(id) {
            Some(session) if !session.client.is_empty() => session.client.clone(),
            _ => id.to_string(),
        }
    }

    pub(super) fn held(&self, path: &Path, position: u32) -> Error {
        Error::Held { path: path.clone(), holder: self.holder_name(path), position }
    }
}
