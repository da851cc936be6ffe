//! What the lock service's errors are on the wire.

use super::{Failure, Reason};
use crate::lock::error::Error;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = |reason| Failure::new(reason, &error);
        match &error {
            Error::NotJoined | Error::Starting | Error::Stopping => failure(Reason::Unavailable),
            Error::TooBusy => failure(Reason::Unavailable).with("outcome", "unknown"),
            Error::Replaced => failure(Reason::NotLeader),
            Error::FencePending { path } => failure(Reason::Unavailable).with("path", path),
            Error::BadTtl { .. } => Failure::bad_argument("ttl_ms", &error),
            Error::ClientTooLong { .. } => Failure::bad_argument("client", &error),
            Error::OtherMode { .. } => Failure::bad_argument("mode", &error),
            Error::BadPageToken => Failure::bad_argument("page_token", &error),
            Error::SessionNotFound { session } => failure(Reason::SessionNotFound).with("session", session),
            Error::SessionExpired { session } => failure(Reason::SessionExpired).with("session", session),
            Error::Held { path, holder, position } => {
                failure(Reason::LockHeld).with("path", path).with("holder", holder).with("position", position)
            }
            Error::WaitGivenUp { path } => failure(Reason::LockHeld).with("path", path),
            Error::NotHolder { path } | Error::NotTheToken { path, .. } | Error::NotHeld { path } => {
                failure(Reason::NotLockHolder).with("path", path)
            }
            Error::TooManyWaiters { path, limit } => {
                failure(Reason::TooManyWaiters).with("path", path).with("limit", limit)
            }
            Error::TooManySessions { limit } | Error::TooManyOfSession { limit } | Error::TooManyLocks { limit } => {
                failure(Reason::TooManyWaiters).with("limit", limit)
            }
            Error::OtherCluster | Error::TokensUsedUp => failure(Reason::Internal),
            Error::Group(error) => error.clone().into(),
        }
    }
}
