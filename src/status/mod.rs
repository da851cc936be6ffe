//! The one table: every reason that dfs fails for, and what it means on the wire and to a client.
//!
//! A failure is a gRPC status with `ErrorInfo {reason, domain "dfs", metadata}`. Each service has its own error type in
//! its own words; the modules below turn them into a [`Failure`], without a wildcard arm, and nothing else does.
//! Clients match reasons, never text.

pub mod directory;
pub mod dress;
pub mod fileserver;
pub mod lock;
pub mod raft;

use std::{collections::HashMap, fmt, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::pb;

/// The domain of every `ErrorInfo` of ours.
pub const DOMAIN: &str = "dfs";

/// What a client may do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call fails again.
    Never,
    /// Read again, then redo the whole operation: what it was based on has changed.
    Redo,
    /// The same call may succeed after a while, or elsewhere.
    Later,
    /// Refresh the cluster map, then the same call.
    AfterRefresh,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $text:literal $code:ident $retry:ident $exit:literal;)*) => {
        /// Why a call failed. Stable: a reason is never renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// As on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            pub fn code(self) -> Code {
                match self { $(Reason::$name => Code::$code,)* }
            }

            pub fn retry(self) -> Retry {
                match self { $(Reason::$name => Retry::$retry,)* }
            }

            /// The exit code of `dfs-cli`.
            pub fn exit_code(self) -> u8 {
                match self { $(Reason::$name => $exit,)* }
            }
        }
    };
}

reasons! {
    /// A path is malformed.
    BadPath "BAD_PATH" InvalidArgument Never 2;
    /// Another field is malformed, or fields contradict each other; the metadata names it.
    BadArgument "BAD_ARGUMENT" InvalidArgument Never 2;
    /// An offset lies past the end.
    OffsetOutOfRange "OFFSET_OUT_OF_RANGE" OutOfRange Never 2;
    EntryNotFound "ENTRY_NOT_FOUND" NotFound Never 3;
    VersionNotFound "VERSION_NOT_FOUND" NotFound Never 3;
    SessionNotFound "SESSION_NOT_FOUND" NotFound Never 3;
    ServerNotFound "SERVER_NOT_FOUND" NotFound Never 3;
    EntryExists "ENTRY_EXISTS" AlreadyExists Never 4;
    NotADirectory "NOT_A_DIRECTORY" FailedPrecondition Never 4;
    IsADirectory "IS_A_DIRECTORY" FailedPrecondition Never 4;
    DirectoryNotEmpty "DIRECTORY_NOT_EMPTY" FailedPrecondition Never 4;
    /// Whoever was asked belongs to another cluster or another group than the caller; metadata `cluster` or `group`.
    OtherCluster "OTHER_CLUSTER" FailedPrecondition Never 4;
    /// The server holds groups or is alive, and cannot be removed so; metadata `server`.
    ServerInUse "SERVER_IN_USE" FailedPrecondition Never 4;
    /// The data folder's server was removed from the cluster; metadata `server`.
    ServerRemoved "SERVER_REMOVED" FailedPrecondition Never 4;
    /// A node of another Lock service lives, and there is one in a cluster; metadata `server`.
    LockServiceTaken "LOCK_SERVICE_TAKEN" FailedPrecondition Never 4;
    /// The write took too long or was given up, and can never be committed.
    WriteExpired "WRITE_EXPIRED" FailedPrecondition Never 4;
    /// The file has another version than the one named; metadata `expected`, `current`.
    VersionMismatch "VERSION_MISMATCH" Aborted Redo 4;
    /// The wait for a lock is over; metadata `holder`, `position`.
    LockHeld "LOCK_HELD" Aborted Never 5;
    /// A newer token has been seen; metadata `current`. That token is never good again.
    FencingTokenStale "FENCING_TOKEN_STALE" Aborted Never 5;
    /// A write that replaces needs a fencing token or `if_version`.
    LockRequired "LOCK_REQUIRED" FailedPrecondition Never 5;
    SessionExpired "SESSION_EXPIRED" FailedPrecondition Never 5;
    /// The caller does not hold the lock, or the token was never granted for this path.
    NotLockHolder "NOT_LOCK_HOLDER" FailedPrecondition Never 5;
    /// Another server answers this; metadata `leader_address`, when known.
    NotLeader "NOT_LEADER" Unavailable AfterRefresh 6;
    NoQuorum "NO_QUORUM" Unavailable Later 6;
    /// Fewer than `min_in_sync` servers could store the write; metadata `needed`, `have`.
    NotEnoughReplicas "NOT_ENOUGH_REPLICAS" Unavailable Later 6;
    /// No server that holds the data answers.
    NoLiveReplica "NO_LIVE_REPLICA" Unavailable Later 6;
    ServerDraining "SERVER_DRAINING" Unavailable AfterRefresh 6;
    /// The server's store takes no writes; metadata `cause`.
    ReadOnly "READ_ONLY" Unavailable AfterRefresh 6;
    /// The caller's view of a replica group is old; metadata `current`.
    StaleEpoch "STALE_EPOCH" Aborted AfterRefresh 6;
    DeadlineExceeded "DEADLINE_EXCEEDED" DeadlineExceeded Later 6;
    /// The server is not ready, is stopping, or cannot be reached.
    Unavailable "UNAVAILABLE" Unavailable Later 6;
    Unauthenticated "UNAUTHENTICATED" Unauthenticated Never 7;
    PermissionDenied "PERMISSION_DENIED" PermissionDenied Never 7;
    /// What was sent is not what arrived; on a read: no replica has undamaged bytes.
    ChecksumMismatch "CHECKSUM_MISMATCH" Aborted Later 8;
    NoSpace "NO_SPACE" ResourceExhausted Later 11;
    QuotaExceeded "QUOTA_EXCEEDED" ResourceExhausted Never 11;
    TooManyWaiters "TOO_MANY_WAITERS" ResourceExhausted Later 11;
    TooLarge "TOO_LARGE" ResourceExhausted Never 11;
    /// A defect or a broken disk on the server; its log says more.
    Internal "INTERNAL" Internal Never 1;
}

impl Reason {
    /// The reason with this name on the wire.
    pub fn from_wire(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text)
    }

    /// How long to wait before a retry, where waiting helps.
    pub fn retry_after(self) -> Option<Duration> {
        match self.retry() {
            Retry::Later => Some(Duration::from_millis(100)),
            Retry::AfterRefresh => Some(Duration::from_millis(20)),
            Retry::Never | Retry::Redo => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure as it crosses the wire: reason, text for people, and what varies in the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    pub reason: Reason,
    pub message: String,
    pub metadata: HashMap<String, String>,
}

impl Failure {
    pub fn new(reason: Reason, message: impl fmt::Display) -> Self {
        Self { reason, message: message.to_string(), metadata: HashMap::new() }
    }

    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// A field of a request that cannot be what it is.
    pub fn bad_argument(field: &str, message: impl fmt::Display) -> Self {
        Self::new(Reason::BadArgument, format_args!("{field}: {message}")).with("field", field)
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let mut details = ErrorDetails::with_error_info(failure.reason.as_str(), DOMAIN, failure.metadata);
        if let Some(delay) = failure.reason.retry_after() {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(failure.reason.code(), failure.message, details)
    }
}

impl From<&Status> for Failure {
    /// A status that is not ours (a broken connection, a foreign proxy) gets the reason nearest to its code.
    fn from(status: &Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
        let known = info.as_ref().and_then(|info| Reason::from_wire(&info.reason));
        Self {
            reason: known.unwrap_or_else(|| nearest(status)),
            message: status.message().to_owned(),
            metadata: info.map(|info| info.metadata).unwrap_or_default(),
        }
    }
}

/// tonic reports its own time-outs as `CANCELLED`, and an unreachable server as `UNKNOWN` or `UNAVAILABLE`.
fn nearest(status: &Status) -> Reason {
    match status.code() {
        Code::Cancelled | Code::DeadlineExceeded => Reason::DeadlineExceeded,
        Code::Unavailable | Code::Unknown | Code::Aborted => Reason::Unavailable,
        Code::InvalidArgument | Code::Unimplemented => Reason::BadArgument,
        Code::OutOfRange | Code::ResourceExhausted => Reason::TooLarge,
        Code::NotFound => Reason::EntryNotFound,
        Code::AlreadyExists => Reason::EntryExists,
        Code::PermissionDenied => Reason::PermissionDenied,
        Code::Unauthenticated => Reason::Unauthenticated,
        Code::DataLoss => Reason::ChecksumMismatch,
        Code::Ok | Code::FailedPrecondition | Code::Internal => Reason::Internal,
    }
}

impl From<Failure> for pb::ErrorStatus {
    fn from(failure: Failure) -> Self {
        Self {
            code: failure.reason.code().into(),
            retry_after_ms: failure.reason.retry_after().map_or(0, |delay| delay.as_millis() as u64),
            reason: failure.reason.as_str().to_owned(),
            message: failure.message,
            metadata: failure.metadata,
        }
    }
}

impl From<pb::ErrorStatus> for Failure {
    fn from(status: pb::ErrorStatus) -> Self {
        let bare = Status::new(Code::from(status.code), "");
        Self {
            reason: Reason::from_wire(&status.reason).unwrap_or_else(|| nearest(&bare)),
            message: status.message,
            metadata: status.metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire_with_its_metadata() {
        for &reason in Reason::ALL {
            let failure = Failure::new(reason, "what happened").with("current", 7);
            let status = Status::from(failure.clone());
            assert_eq!(status.code(), reason.code());
            assert_eq!(Failure::from(&status), failure);
            assert_eq!(Failure::from(pb::ErrorStatus::from(failure.clone())), failure);
        }
    }

    #[test]
    fn a_foreign_status_gets_the_nearest_reason() {
        assert_eq!(Failure::from(&Status::cancelled("Timeout expired")).reason, Reason::DeadlineExceeded);
        assert_eq!(Failure::from(&Status::unavailable("tcp connect error")).reason, Reason::Unavailable);
    }
}
