//! What the Directory's errors are on the wire.
//!
//! Everything that varies in the text is in the metadata too.

use super::{Failure, Reason};
use crate::directory::{driver::ProposeError, error::Rejected, reader::ReadError};

impl From<Rejected> for Failure {
    fn from(rejected: Rejected) -> Self {
        use Rejected::*;
        let failure = |reason| Failure::new(reason, &rejected);
        let bad_argument = |field| failure(Reason::BadArgument).with("field", field);
        match &rejected {
            EntryNotFound { path } => failure(Reason::EntryNotFound).with("path", path),
            InodeNotFound { inode } => failure(Reason::EntryNotFound).with("inode", inode),
            EntryExists { path } => failure(Reason::EntryExists).with("path", path),
            NotADirectory { path } => failure(Reason::NotADirectory).with("path", path),
            IsADirectory { path } => failure(Reason::IsADirectory).with("path", path),
            DirectoryNotEmpty { path } => failure(Reason::DirectoryNotEmpty).with("path", path),
            IsTheRoot => bad_argument("path").with("path", "/"),
            MoveIntoItself { from, to } => bad_argument("to_path").with("from_path", from).with("to_path", to),
            PathTooLong { path } => failure(Reason::BadPath).with("path", path),
            VersionNotFound { path, version } => {
                failure(Reason::VersionNotFound).with("path", path).with("version", version)
            }
            TooLongAgo { oldest } => failure(Reason::VersionNotFound).with("oldest", oldest),
            NotYet { revision, newest } => bad_argument("revision").with("revision", revision).with("newest", newest),
            VersionMismatch { path, expected, current } => {
                failure(Reason::VersionMismatch).with("path", path).with("expected", expected).with("current", current)
            }
            InodeMismatch { path, expected, current } => failure(Reason::VersionMismatch)
                .with("path", path)
                .with("expected_inode", expected)
                .with("current_inode", current),
            FencingTokenStale { path, given, current } => {
                failure(Reason::FencingTokenStale).with("path", path).with("given", given).with("current", current)
            }
            FencingTokenForged { path, given } => {
                failure(Reason::NotLockHolder).with("path", path).with("given", given)
            }
            LockRequired { path } => failure(Reason::LockRequired).with("path", path),
            OffsetOutOfRange { path, offset, size } => {
                failure(Reason::OffsetOutOfRange).with("path", path).with("offset", offset).with("size", size)
            }
            TooManyExtents { path, limit } => failure(Reason::TooLarge).with("path", path).with("extents_max", limit),
            AttributesTooLarge { size, limit } => {
                bad_argument("entry.extended_attributes").with("size", size).with("bytes_max", limit)
            }
            BadBlob { blob } => bad_argument("pieces").with("blob", blob),
            NotEnoughInSync { group, needed, have } => {
                failure(Reason::NotEnoughReplicas).with("group", group).with("needed", needed).with("have", have)
            }
            WriteExpired => failure(Reason::WriteExpired),
            WriteIdReused => bad_argument("write_id"),
            StaleEpoch { group, current } => failure(Reason::StaleEpoch).with("group", group).with("current", current),
            GroupNotFound { group } => bad_argument("group").with("group", group),
            ExtentsChanged => failure(Reason::VersionMismatch),
            ServerNotFound { server } => failure(Reason::ServerNotFound).with("server", server),
            ServerIdTaken { server } => failure(Reason::EntryExists).with("server", server),
            FolderCopied { server, address, newest } => {
                failure(Reason::EntryExists).with("server", server).with("address", address).with("incarnation", newest)
            }
            ServerRuns { server, address } => {
                failure(Reason::EntryExists).with("server", server).with("address", address)
            }
            LockServiceTaken { server } => failure(Reason::LockServiceTaken).with("server", server),
            NotAMember { server, group } => bad_argument("member_id").with("server", server).with("group", group),
            TakesNoWrites { server } => bad_argument("member_id").with("server", server),
            GroupMoves { group } => failure(Reason::Unavailable).with("group", group),
            CannotArrive { server, group } => {
                failure(Reason::NotEnoughReplicas).with("server", server).with("group", group)
            }
            TooFewServers { server, needed, have } => {
                failure(Reason::NotEnoughReplicas).with("server", server).with("needed", needed).with("have", have)
            }
            ServerHoldsGroups { server, groups } => {
                failure(Reason::ServerInUse).with("server", server).with("groups", groups)
            }
            ServerInUse { server } | ServerNotLost { server } => failure(Reason::ServerInUse).with("server", server),
            OnlyCopy { server, group } => failure(Reason::ServerInUse).with("server", server).with("group", group),
            ServerRemoved { server } => failure(Reason::ServerRemoved).with("server", server),
            OtherCluster => failure(Reason::OtherCluster),
            SettingFixed { field } | BadSetting { field } => bad_argument(field),
            NotBootstrapped => failure(Reason::Unavailable),
        }
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Rejected(rejected) => rejected.into(),
            ProposeError::Overloaded | ProposeError::Stopping => Self::new(Reason::Unavailable, error),
            ProposeError::TimedOut => Self::new(Reason::DeadlineExceeded, error),
            ProposeError::Group(error) => error.into(),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Rejected(rejected) => rejected.into(),
            ReadError::Overloaded => Self::new(Reason::Unavailable, error),
            ReadError::Broken => Self::new(Reason::Internal, error),
            ReadError::Group(error) => error.into(),
        }
    }
}
