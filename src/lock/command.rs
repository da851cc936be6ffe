//! What goes through the Lock service's log, and what comes out of it.
//!
//! Renewals of leases are not here: they are not worth a sync each, and a restart gives every session a fresh lease anyway.
//! What the passing of time decides, the driver proposes as a command of its own ([`Command::ExpireSession`],
//! [`Command::GiveUp`]), so that applying commands needs no clock.

use std::fmt;

use crate::{
    lock::error::Error,
    token::LockKey,
    types::{ClusterId, FencingToken, LockMode, Path, SessionId, Timestamp},
};

/// A place in the queues: who has the lower one came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A lock that a session holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub mode: LockMode,
    pub token: FencingToken,
    pub time: Timestamp,
}

/// Which cluster the service belongs to, and the key it shares with the cluster's Directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    pub cluster: ClusterId,
    pub key: LockKey,
}

/// Without the key, which has no business in a log.
impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// What to do when a lock cannot be granted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfHeld {
    Queue,
    Refuse,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The Directory has taken the service into its cluster. Nothing else is accepted before. `newest`: the newest token
    /// that the Directory has seen.
    Join {
        membership: Membership,
        newest: FencingToken,
    },
    OpenSession {
        session: SessionId,
        ttl_ms: u64,
        client: String,
    },
    /// Ends a session by its own wish: its locks pass on at once.
    CloseSession {
        session: SessionId,
    },
    /// The session's lease has run out: what it held exclusively passes on only behind a fence.
    ExpireSession {
        session: SessionId,
    },
    Acquire {
        session: SessionId,
        path: Path,
        mode: LockMode,
        if_held: IfHeld,
    },
    /// The wait with this ticket is over.
    GiveUp {
        session: SessionId,
        path: Path,
        ticket: Ticket,
    },
    /// `token`: `None` releases whatever the session has on the path, a place in the queue included.
    Release {
        session: SessionId,
        path: Path,
        token: Option<FencingToken>,
    },
    /// Takes the lock away from its holders, or from the one with this token.
    Break {
        path: Path,
        token: Option<FencingToken>,
    },
    /// From now on the Directory refuses commits to the path with tokens older than this.
    FenceRaised {
        path: Path,
        token: FencingToken,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Opened {
        ttl_ms: u64,
    },
    /// The session holds the lock; `fresh`: since this command.
    Granted {
        grant: Grant,
        fresh: bool,
    },
    Queued {
        ticket: Ticket,
    },
    /// The holders are out, and older than `token`; `pending`: as soon as the Directory knows it.
    Broken {
        token: FencingToken,
        pending: bool,
    },
    /// The place in the queue is gone; this is what a client that waited in vain is told.
    GaveUp(Error),
}

/// What the driver has to do once the command is on stable storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    LeaseBegan {
        session: SessionId,
        ttl_ms: u64,
    },
    LeaseEnded {
        session: SessionId,
    },
    /// A wait has ended as it should.
    Granted {
        session: SessionId,
        path: Path,
        grant: Grant,
    },
    /// A wait has ended without a grant.
    WaitEnded {
        session: SessionId,
        path: Path,
        error: Error,
    },
    /// Holders or queue are no longer what they were; those who wait at this index of the queue or behind it may have
    /// another position or another holder before them.
    Changed {
        path: Path,
        first_moved: usize,
    },
    /// Tell the Directory, until it has it; then propose [`Command::FenceRaised`].
    RaiseFence {
        path: Path,
        token: FencingToken,
    },
    /// Who broke the lock may be told now.
    FenceRaised {
        path: Path,
        token: FencingToken,
    },
}

/// One record of the state, by its key: what a command changed and the store has to write, or to remove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Head,
    Session(SessionId),
    Expired(SessionId),
    Holder(Path, SessionId),
    Waiter(Path, Ticket),
    Fence(Path),
}

/// A command that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub outcome: Outcome,
    /// Empty: the command found everything as it wants it.
    pub changed: Vec<Key>,
    pub effects: Vec<Effect>,
}
