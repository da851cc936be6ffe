//! What can go wrong, in the Lock service's words. `status::lock` says what each is on the wire.

use crate::{
    raft,
    types::{FencingToken, LockMode, Path, SessionId},
};

/// Why a request was refused. A refused command has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the Lock service belongs to no cluster yet: the Directory has not been reached")]
    NotJoined,
    #[error("the Lock service belongs to another cluster")]
    OtherCluster,
    #[error("another Lock service has taken the place of this one in its cluster: this one grants and renews nothing")]
    Replaced,
    #[error("the Lock service is stopping")]
    Stopping,
    #[error("the Lock service is too busy, or its disk does not answer; the request may still take effect")]
    TooBusy,
    #[error("a lease of {ttl_ms} ms is not between {min_ms} and {max_ms} ms")]
    BadTtl { ttl_ms: u64, min_ms: u64, max_ms: u64 },
    #[error("the client's name has {length} bytes, more than {limit}")]
    ClientTooLong { length: usize, limit: usize },
    #[error("session {session} does not exist")]
    SessionNotFound { session: SessionId },
    #[error("the lease of session {session} has run out")]
    SessionExpired { session: SessionId },
    #[error("{path} is held by {holder}")]
    Held { path: Path, holder: String, position: u32 },
    #[error("the place in the queue for {path} was given up")]
    WaitGivenUp { path: Path },
    #[error("the session already has or awaits {path} in another mode: release it first")]
    OtherMode { path: Path, has: LockMode },
    #[error("the caller does not hold {path}")]
    NotHolder { path: Path },
    #[error("nobody holds {path} with the token {token}")]
    NotTheToken { path: Path, token: FencingToken },
    #[error("nobody holds {path}")]
    NotHeld { path: Path },
    #[error("{path} has passed from its holders, but the Directory has not recorded the fence yet; it will")]
    FencePending { path: Path },
    #[error("{limit} clients already wait for {path}")]
    TooManyWaiters { path: Path, limit: usize },
    #[error("there are already {limit} sessions")]
    TooManySessions { limit: usize },
    #[error("the session already has or awaits {limit} locks")]
    TooManyOfSession { limit: usize },
    #[error("there are already {limit} locks held or awaited")]
    TooManyLocks { limit: usize },
    #[error("all fencing tokens have been granted")]
    TokensUsedUp,
    #[error("the page token is not one that was handed out")]
    BadPageToken,
    #[error("this node of the Lock service is starting")]
    Starting,
    #[error(transparent)]
    Group(#[from] raft::Error),
}
