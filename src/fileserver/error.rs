//! What can go wrong, in the file server's words. `status::fileserver` says what each is on the wire.

use std::time::Duration;

use crate::{
    fileserver::{replica, store::StoreError},
    status::Failure,
    types::{BlobId, CHUNK_LENGTH_MAX, Epoch, GroupId, Path, ServerId},
};

/// Where a client finds a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub server: ServerId,
    /// `host:port`, for clients outside of the cluster's network.
    pub address: String,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("this server has not got the cluster map yet")]
    NotReady,
    #[error("this server is stopping")]
    Stopping,
    #[error("this server is not the primary of group {group}")]
    NotPrimary { group: GroupId, leader: Option<Leader> },
    #[error("group {group} is at epoch {current}, not {theirs}")]
    StaleEpoch { group: GroupId, theirs: Epoch, current: Epoch },
    #[error("{have} of the {needed} servers that must store the write did so in time; missing: {missing}")]
    NotEnoughReplicas { needed: usize, have: usize, missing: String },
    #[error(transparent)]
    Replica(#[from] replica::Refused),

    #[error("the data does not match its checksum")]
    FrameChecksum,
    #[error("a data frame of {length} bytes is longer than {CHUNK_LENGTH_MAX}")]
    FrameTooLong { length: usize },
    #[error("the write has {found} bytes, and was to have {said}")]
    WriteLength { said: u64, found: u64 },
    #[error("the data of the write does not match its checksum")]
    WriteChecksum,
    #[error("more than {limit} writes have begun and not ended on this stream")]
    TooManyOpen { limit: usize },
    #[error("data of a write that has not begun")]
    NotBegun,
    #[error("the write has begun already on this stream")]
    BegunTwice,
    #[error("the stream ended before the write did")]
    EndedEarly,
    #[error("the write was given up")]
    GivenUp,
    #[error("a newer attempt with the same write id has taken over")]
    Superseded,
    #[error("nothing came for {} s", .0.as_secs())]
    Idle(Duration),
    #[error("it is not known whether the write was committed; the same write id tells")]
    OutcomeUnknown,
    #[error("writing {path} needs a fencing token or if_version")]
    LockRequired { path: Path },
    #[error("offset {offset} lies past the end of {path}, which has {size} bytes")]
    PastTheEnd { path: Path, offset: u64, size: u64 },

    #[error("there is no blob {blob} on this server")]
    NoSuchBlob { blob: BlobId },
    #[error("blob {blob} has {length} bytes: it does not hold {offset} to {end}")]
    OutsideOfBlob { blob: BlobId, length: u64, offset: u64, end: u64 },
    #[error("no server that has {blob} answers: {last}")]
    NowhereToRead { blob: BlobId, last: String },
    #[error(transparent)]
    Store(#[from] StoreError),

    /// The Directory or a peer refused, in its words.
    #[error("{}", .0.message)]
    Refused(Failure),
}

/// A call that failed, in the words of whoever answered it; of the connection when nobody did.
impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Failure::from(&status))
    }
}
