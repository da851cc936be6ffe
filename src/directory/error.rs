//! What can go wrong, in the Directory's words. `status::directory` says what each is on the wire.

use crate::types::{BlobId, Epoch, FencingToken, GroupId, Incarnation, Path, Revision, ServerId, Version};

/// Why a command or a look-up was refused. A refused command has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("{path} does not exist")]
    EntryNotFound { path: Path },
    #[error("inode {inode} does not exist")]
    InodeNotFound { inode: u64 },
    #[error("{path} exists already")]
    EntryExists { path: Path },
    #[error("{path} is not a directory")]
    NotADirectory { path: Path },
    #[error("{path} is a directory")]
    IsADirectory { path: Path },
    #[error("{path} is not empty")]
    DirectoryNotEmpty { path: Path },
    #[error("the root cannot be moved, deleted or replaced")]
    IsTheRoot,
    #[error("{from} cannot be moved to {to}, which lies inside it")]
    MoveIntoItself { from: Path, to: Path },
    #[error("the path would grow past its limit of bytes at {path}")]
    PathTooLong { path: Path },
    #[error("{path} has no version {version}, or it is no longer kept")]
    VersionNotFound { path: Path, version: Version },
    #[error("the past before revision {oldest} is no longer kept")]
    TooLongAgo { oldest: Revision },
    #[error("revision {revision} has not happened yet; the newest is {newest}")]
    NotYet { revision: Revision, newest: Revision },
    #[error("{path} has version {current}, not {expected}")]
    VersionMismatch { path: Path, expected: Version, current: Version },
    #[error("{path} no longer names the file that the write was based on")]
    InodeMismatch { path: Path, expected: u64, current: u64 },
    #[error("a newer fencing token than {given} has been seen for {path}")]
    FencingTokenStale { path: Path, given: FencingToken, current: FencingToken },
    #[error("the fencing token {given} was never granted for writing {path}")]
    FencingTokenForged { path: Path, given: FencingToken },
    #[error("writing {path} needs a fencing token or if_version")]
    LockRequired { path: Path },
    #[error("offset {offset} lies past the end of {path}, which has {size} bytes")]
    OffsetOutOfRange { path: Path, offset: u64, size: u64 },
    #[error("{path} would have more than {limit} extents; merge them first")]
    TooManyExtents { path: Path, limit: u32 },
    #[error("the extended attributes have {size} bytes, more than {limit}")]
    AttributesTooLarge { size: u64, limit: u64 },
    #[error("blob {blob} is empty, too long, named twice, or was committed before")]
    BadBlob { blob: BlobId },
    #[error("group {group} has {have} servers in sync, and a commit needs {needed}")]
    NotEnoughInSync { group: GroupId, needed: u32, have: u32 },
    #[error("the write was given up or took too long, and can no longer be committed")]
    WriteExpired,
    #[error("write id was used before for another kind of change")]
    WriteIdReused,
    #[error("group {group} is at epoch {current}, with another primary or other members")]
    StaleEpoch { group: GroupId, current: Epoch },
    #[error("group {group} does not exist")]
    GroupNotFound { group: GroupId },
    #[error("the extents are no longer those that were merged")]
    ExtentsChanged,
    #[error("server {server} is not registered")]
    ServerNotFound { server: ServerId },
    #[error("server id {server} belongs to another data folder that the cluster still needs")]
    ServerIdTaken { server: ServerId },
    #[error(
        "{server} at {address} has gone on without this data folder, which is a copy or an old backup of its own: stop this process, and \
         start it with an empty data folder, and under an id of its own if the other one is still there"
    )]
    FolderCopied { server: ServerId, address: String, newest: Incarnation },
    #[error(
        "{server} runs, at {address}: a second process on a copy of its data folder takes no part; stop it, and start it with an empty data \
         folder and under an id of its own"
    )]
    ServerRuns { server: ServerId, address: String },
    #[error("{server} is of another Lock service, and alive; there is no second one: a new node joins with --join")]
    LockServiceTaken { server: ServerId },
    #[error("{server} is not a member of group {group}")]
    NotAMember { server: ServerId, group: GroupId },
    #[error("the store of {server} takes no writes")]
    TakesNoWrites { server: ServerId },
    #[error("group {group} is moving already")]
    GroupMoves { group: GroupId },
    #[error("{server} cannot take a place in group {group}")]
    CannotArrive { server: ServerId, group: GroupId },
    #[error(
        "the groups need {needed} file servers that are up and not draining, and without {server} there are {have}"
    )]
    TooFewServers { server: ServerId, needed: u32, have: u32 },
    #[error("{server} holds {groups} groups; drain it first, or say that it is lost")]
    ServerHoldsGroups { server: ServerId, groups: u32 },
    #[error("{server} is up and not drained; drain it first")]
    ServerInUse { server: ServerId },
    #[error("{server} is up: it is not lost; drain it")]
    ServerNotLost { server: ServerId },
    #[error("no other server with all of group {group} is up: without {server}, data may be lost; start another first")]
    OnlyCopy { server: ServerId, group: GroupId },
    #[error("{server} was removed from the cluster; to use this machine again, start it with an empty data folder")]
    ServerRemoved { server: ServerId },
    #[error("the data folder belongs to another cluster")]
    OtherCluster,
    #[error("`{field}` cannot be changed any more")]
    SettingFixed { field: &'static str },
    #[error("`{field}` cannot be what it is")]
    BadSetting { field: &'static str },
    #[error("the cluster has not been made yet")]
    NotBootstrapped,
}

/// The tables cannot be read or written: nothing more can be promised until the service is started again.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("the database fails")]
    Database(#[from] redb::Error),
    #[error("a row of `{table}` is damaged: {what}")]
    Damaged { table: &'static str, what: &'static str },
    #[error("the database has format {found}, newer than {known}; a newer version of dfs wrote it")]
    NewerFormat { found: u32, known: u32 },
    #[error(transparent)]
    Store(#[from] crate::raft::StoreError),
}

/// redb has an error type for each kind of call; to us they are one.
macro_rules! from_redb {
    ($($error:ident)*) => {
        $(impl From<redb::$error> for StorageError {
            fn from(error: redb::$error) -> Self {
                Self::Database(error.into())
            }
        })*
    };
}
from_redb! { DatabaseError TransactionError TableError StorageError CommitError }

/// Why something did not happen: by the rules, or because the tables failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error(transparent)]
    Storage(#[from] StorageError),
}
impl From<redb::StorageError> for Error {
    fn from(error: redb::StorageError) -> Self {
        Self::Storage(error.into())
    }
}
impl From<redb::TableError> for Error {
    fn from(error: redb::TableError) -> Self {
        Self::Storage(error.into())
    }
}
