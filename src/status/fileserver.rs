//! What the file server's errors are on the wire.

use super::{Failure, Reason};
use crate::fileserver::{error::Error, replica::Refused, store::StoreError};

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        use Error as E;
        let reply = |reason| Failure::new(reason, &error);
        match error {
            E::Refused(failure) => failure,
            E::Store(ref error) => store(error),
            E::Replica(ref refused) => replica(refused),
            E::NotReady | E::Superseded | E::OutcomeUnknown => reply(Reason::Unavailable),
            E::Stopping => reply(Reason::ServerDraining),
            E::NotPrimary { group, ref leader } => {
                let failure = reply(Reason::NotLeader).with("group", group);
                match leader {
                    None => failure,
                    Some(leader) => failure.with("leader_id", &leader.server).with("leader_address", &leader.address),
                }
            }
            E::StaleEpoch { current, .. } => reply(Reason::StaleEpoch).with("current", current),
            E::NotEnoughReplicas { needed, have, .. } => {
                reply(Reason::NotEnoughReplicas).with("needed", needed).with("have", have)
            }
            E::FrameChecksum | E::WriteLength { .. } | E::WriteChecksum => reply(Reason::ChecksumMismatch),
            E::FrameTooLong { length } => reply(Reason::TooLarge).with("length", length),
            E::TooManyOpen { limit } => reply(Reason::TooLarge).with("limit", limit),
            E::NotBegun | E::BegunTwice | E::EndedEarly => reply(Reason::BadArgument),
            E::GivenUp => reply(Reason::WriteExpired),
            E::Idle(_) => reply(Reason::DeadlineExceeded),
            E::LockRequired { .. } => reply(Reason::LockRequired),
            E::PastTheEnd { offset, size, .. } => {
                reply(Reason::OffsetOutOfRange).with("offset", offset).with("size", size)
            }
            E::NoSuchBlob { ref blob } => reply(Reason::VersionNotFound).with("blob", blob),
            E::OutsideOfBlob { length, .. } => reply(Reason::OffsetOutOfRange).with("length", length),
            E::NowhereToRead { ref blob, .. } => reply(Reason::NoLiveReplica).with("blob", blob),
        }
    }
}

fn replica(refused: &Refused) -> Failure {
    let reply = |reason| Failure::new(reason, refused);
    match refused {
        // The replica may not have heard of the group yet: the primary asks again.
        Refused::NotAMember { .. } | Refused::TooManyOpen => reply(Reason::Unavailable),
        Refused::StaleEpoch { current, .. } => reply(Reason::StaleEpoch).with("current", current),
        Refused::NotThePrimary { .. } => reply(Reason::StaleEpoch),
        // Sent again from the beginning, it arrives whole.
        Refused::OutOfOrder { .. } | Refused::NotOpen { .. } => reply(Reason::Unavailable),
        Refused::TooLong { .. } => reply(Reason::TooLarge),
    }
}

fn store(error: &StoreError) -> Failure {
    let reply = |reason| Failure::new(reason, error);
    match error {
        StoreError::NoSuchBlob(blob) => reply(Reason::VersionNotFound).with("blob", blob),
        StoreError::ChecksumMismatch { .. } | StoreError::Damaged { .. } | StoreError::LengthMismatch { .. } => {
            reply(Reason::ChecksumMismatch)
        }
        StoreError::OffsetOutOfRange { .. } => reply(Reason::OffsetOutOfRange),
        StoreError::BadChunkLength(_) | StoreError::TooLarge { .. } => reply(Reason::TooLarge),
        StoreError::NoSpace { free_bytes, .. } | StoreError::NoRoom { free_bytes, .. } => {
            reply(Reason::NoSpace).with("free_bytes", free_bytes)
        }
        StoreError::ReadOnly(cause) => reply(Reason::ReadOnly).with("cause", cause),
        StoreError::DiskHangs => reply(Reason::ReadOnly).with("cause", error),
        StoreError::Superseded(_) | StoreError::OutOfOrder { .. } | StoreError::Closed => reply(Reason::Unavailable),
        StoreError::AlreadySealed(_) | StoreError::Published(_) | StoreError::Io { .. } => reply(Reason::Internal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fileserver::error::Leader;

    #[test]
    fn a_client_at_the_wrong_server_is_told_the_primary() {
        let leader = Leader { server: "fs-b".parse().unwrap(), address: "10.0.0.2:7072".into() };
        let failure = Failure::from(Error::NotPrimary { group: crate::types::GroupId(3), leader: Some(leader) });
        assert_eq!(failure.reason, Reason::NotLeader);
        assert_eq!(failure.metadata.get("leader_address").map(String::as_str), Some("10.0.0.2:7072"));
        assert_eq!(failure.metadata.get("leader_id").map(String::as_str), Some("fs-b"));
    }

    #[test]
    fn a_full_disk_and_a_damaged_chunk_have_reasons_of_their_own() {
        let full = StoreError::NoSpace { free_bytes: 7, reserve_bytes: 9 };
        assert_eq!(Failure::from(Error::Store(full)).reason, Reason::NoSpace);
        let damaged = StoreError::Damaged { blob: crate::types::BlobId::random(), offset: 0 };
        assert_eq!(Failure::from(Error::Store(damaged)).reason, Reason::ChecksumMismatch);
    }
}
