//! From the wire to the client's own types. An answer that cannot be read is the server's fault, never the caller's.

use std::time::Duration;

use super::{
    Error,
    model::{
        Change, ChangeKind, ClusterStatus, Entry, EntryKind, FileServerStatus, Health, HealthCheck, Listed, Located,
        LockHolder, LockInfo, LockWaiter, QueuePosition, Receipt, VersionInfo,
    },
};
use crate::{
    convert::{self, cluster as cluster_convert},
    pb,
    status::Failure,
    types::{Epoch, FencingToken, GroupId, Inode, LockMode, Revision, Timestamp, Version},
};

/// A failure to read an answer, told as such.
pub(super) fn unread(failure: Failure) -> Error {
    Error::malformed(failure.message)
}

/// A submessage that every answer of this kind has.
pub(super) fn required<T>(field: &str, message: Option<T>) -> Result<T, Error> {
    message.ok_or_else(|| Error::malformed(format_args!("{field} is missing")))
}

fn time(field: &str, value: Option<prost_types::Timestamp>) -> Result<Timestamp, Error> {
    convert::optional_timestamp(field, value.as_ref()).map(Option::unwrap_or_default).map_err(unread)
}

fn entry_kind(kind: i32) -> Result<EntryKind, Error> {
    match pb::EntryKind::try_from(kind) {
        Ok(pb::EntryKind::File) => Ok(EntryKind::File),
        Ok(pb::EntryKind::Directory) => Ok(EntryKind::Directory),
        Ok(pb::EntryKind::Symlink) => Ok(EntryKind::Symlink),
        Ok(pb::EntryKind::Unspecified) | Err(_) => Err(Error::malformed(format_args!("there is no entry kind {kind}"))),
    }
}

pub(super) fn entry(entry: pb::Entry) -> Result<Entry, Error> {
    Ok(Entry {
        inode: Inode(entry.inode),
        path: convert::path("entry.path", &entry.path).map_err(unread)?,
        kind: entry_kind(entry.kind)?,
        size: entry.size,
        version: Version(entry.version),
        checksum: entry.checksum,
        revision: Revision(entry.revision),
        create_time: time("entry.create_time", entry.create_time)?,
        modify_time: time("entry.modify_time", entry.modify_time)?,
        mode: entry.mode,
        owner: entry.owner,
        owning_group: entry.owning_group,
        extended_attributes: entry.extended_attributes.into_iter().collect(),
        target: entry.target,
    })
}

pub(super) fn listed(streamed: pb::StreamedEntry) -> Result<Listed, Error> {
    Ok(Listed {
        entry: entry(required("entry", streamed.entry)?)?,
        extents: convert::extents("extents", &streamed.extents).map_err(unread)?,
    })
}

/// A version whose extents do not add up to its size could only be read wrong.
pub(super) fn located(answer: pb::LookupFileResponse) -> Result<Located, Error> {
    let located = Located {
        entry: entry(required("entry", answer.entry)?)?,
        extents: convert::extents("extents", &answer.extents).map_err(unread)?,
        groups: answer.groups.iter().map(cluster_convert::group).collect::<Result<_, _>>().map_err(unread)?,
        servers: answer.servers.iter().map(cluster_convert::server).collect::<Result<_, _>>().map_err(unread)?,
    };
    let sum = located.extents.iter().try_fold(0_u64, |sum, extent| sum.checked_add(extent.length));
    if sum != Some(located.entry.size) {
        return Err(Error::malformed("the extents do not add up to the size"));
    }
    Ok(located)
}

pub(super) fn version_info(info: pb::VersionInfo) -> Result<VersionInfo, Error> {
    Ok(VersionInfo {
        version: Version(info.version),
        revision: Revision(info.revision),
        size: info.size,
        checksum: info.checksum,
        create_time: time("version.create_time", info.create_time)?,
        extent_count: info.extent_count,
        write_id: info.write_id.parse().ok(),
    })
}

pub(super) fn change(change: pb::Change) -> Result<Change, Error> {
    let kind = match pb::ChangeKind::try_from(change.kind) {
        Ok(pb::ChangeKind::Created) => ChangeKind::Created,
        Ok(pb::ChangeKind::Written) => ChangeKind::Written,
        Ok(pb::ChangeKind::Updated) => ChangeKind::Updated,
        Ok(pb::ChangeKind::Moved) => ChangeKind::Moved,
        Ok(pb::ChangeKind::Deleted) => ChangeKind::Deleted,
        Ok(pb::ChangeKind::Unspecified) | Err(_) => {
            return Err(Error::malformed(format_args!("there is no kind of change {}", change.kind)));
        }
    };
    let from_path = match change.from_path.as_str() {
        "" => None,
        text => Some(convert::path("change.from_path", text).map_err(unread)?),
    };
    Ok(Change {
        revision: Revision(change.revision),
        time: time("change.time", change.time)?,
        kind,
        path: convert::path("change.path", &change.path).map_err(unread)?,
        from_path,
        inode: Inode(change.inode),
        version: Version(change.version),
        entry_kind: entry_kind(change.entry_kind)?,
    })
}

pub(super) fn receipt(receipt: pb::WriteReceipt) -> Result<Receipt, Error> {
    let servers = receipt.servers.iter().map(|server| convert::server_id("receipt.servers", server));
    Ok(Receipt {
        path: convert::path("receipt.path", &receipt.path).map_err(unread)?,
        inode: Inode(receipt.inode),
        version: Version(receipt.version),
        revision: Revision(receipt.revision),
        size: receipt.size,
        checksum: receipt.checksum,
        offset: receipt.offset,
        commit_time: time("receipt.commit_time", receipt.commit_time)?,
        group: GroupId(receipt.group),
        epoch: Epoch(receipt.epoch),
        servers: servers.collect::<Result<_, _>>().map_err(unread)?,
    })
}

/// What is not known here is worse than what is.
fn health(health: i32) -> Health {
    match pb::Health::try_from(health) {
        Ok(pb::Health::Ok) => Health::Ok,
        Ok(pb::Health::Warn) => Health::Warn,
        Ok(pb::Health::Error | pb::Health::Unspecified) | Err(_) => Health::Error,
    }
}

pub(super) fn cluster_status(status: pb::GetClusterStatusResponse) -> Result<ClusterStatus, Error> {
    let header = required("header", status.header)?;
    let check = |check: pb::HealthCheck| HealthCheck {
        code: check.code,
        health: health(check.health),
        summary: check.summary,
        hint: check.hint,
        subjects: check.subjects,
    };
    Ok(ClusterStatus {
        cluster_id: header.cluster_id,
        revision: Revision(header.revision),
        health: health(status.health),
        checks: status.checks.into_iter().map(check).collect(),
        file_count: status.file_count,
        directory_count: status.directory_count,
        blob_count: status.blob_count,
        garbage_blob_count: status.garbage_blob_count,
        server_count: status.server_count,
        server_up_count: status.server_up_count,
        group_count: status.group_count,
        group_full_count: status.group_full_count,
        copies: status.copies,
        min_in_sync: status.min_in_sync,
        moving_group_count: status.moving_group_count,
        rebalancing: status.rebalancing,
    })
}

pub(super) fn file_server_status(status: pb::GetStatusResponse) -> FileServerStatus {
    FileServerStatus {
        server_id: status.server_id,
        store_id: status.store_id,
        cluster_id: status.cluster_id,
        blob_count: status.blob_count,
        staged_count: status.staged_count,
        segment_count: status.segment_count,
        disk_used_bytes: status.disk_used_bytes,
        disk_total_bytes: status.disk_total_bytes,
        garbage_bytes: status.garbage_bytes,
        read_only: Some(status.read_only_reason).filter(|reason| !reason.is_empty()),
        torn_bytes_cut: status.torn_bytes_cut,
        damaged_chunk_count: status.damaged_chunk_count,
        software_version: status.software_version,
    }
}

fn lock_mode(mode: i32) -> Result<LockMode, Error> {
    match pb::LockMode::try_from(mode) {
        Ok(pb::LockMode::Exclusive) => Ok(LockMode::Exclusive),
        Ok(pb::LockMode::Shared) => Ok(LockMode::Shared),
        Ok(pb::LockMode::Unspecified) | Err(_) => Err(Error::malformed(format_args!("there is no lock mode {mode}"))),
    }
}

pub(super) fn lock_mode_to_pb(mode: LockMode) -> pb::LockMode {
    match mode {
        LockMode::Exclusive => pb::LockMode::Exclusive,
        LockMode::Shared => pb::LockMode::Shared,
    }
}

pub(super) fn queue_position(position: pb::QueuePosition) -> QueuePosition {
    QueuePosition { position: position.position, waiters: position.waiters, holder: position.holder }
}

pub(super) fn lock_info(lock: pb::LockInfo) -> Result<LockInfo, Error> {
    let holder = |holder: pb::LockHolder| {
        Ok(LockHolder {
            session: convert::session_id("holder.session_id", &holder.session_id).map_err(unread)?,
            client: holder.client,
            mode: lock_mode(holder.mode)?,
            token: FencingToken(holder.fencing_token),
            grant_time: time("holder.grant_time", holder.grant_time)?,
            held: Duration::from_millis(holder.held_ms),
            lease_remaining: Duration::from_millis(holder.lease_remaining_ms),
        })
    };
    let waiter = |waiter: pb::LockWaiter| {
        Ok(LockWaiter {
            session: convert::session_id("waiter.session_id", &waiter.session_id).map_err(unread)?,
            client: waiter.client,
            mode: lock_mode(waiter.mode)?,
            position: waiter.position,
            waiting: Duration::from_millis(waiter.waiting_ms),
        })
    };
    Ok(LockInfo {
        path: convert::path("lock.path", &lock.path).map_err(unread)?,
        holders: lock.holders.into_iter().map(holder).collect::<Result<_, Error>>()?,
        waiters: lock.waiters.into_iter().map(waiter).collect::<Result<_, Error>>()?,
        pending_fence: Some(FencingToken(lock.pending_fence)).filter(|token| token.0 != 0),
        holder_count: lock.holder_count,
        waiter_count: lock.waiter_count,
    })
}

/// When a grant was given.
pub(super) fn grant_time(grant: &pb::LockGrant) -> Result<Timestamp, Error> {
    time("grant.grant_time", grant.grant_time)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::{status::Reason, types::BlobId};

    fn a_file(size: u64) -> pb::Entry {
        pb::Entry { path: "/f".into(), kind: pb::EntryKind::File.into(), size, ..Default::default() }
    }

    #[test]
    fn extents_that_do_not_add_up_are_refused() {
        let extent = |length| pb::Extent { group: 0, blob: BlobId::random().to_string(), blob_offset: 0, length };
        let answer = |size, lengths: &[u64]| pb::LookupFileResponse {
            entry: Some(a_file(size)),
            extents: lengths.iter().copied().map(extent).collect(),
            ..Default::default()
        };
        assert!(located(answer(7, &[3, 4])).is_ok());
        assert!(located(answer(0, &[])).is_ok());
        assert_eq!(located(answer(8, &[3, 4])).unwrap_err().reason(), Reason::Internal);
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_not_the_callers_fault() {
        for bad in [
            entry(pb::Entry { path: "no".into(), ..a_file(0) }),
            entry(pb::Entry { kind: 77, ..a_file(0) }),
            entry(pb::Entry { modify_time: Some(prost_types::Timestamp { seconds: -1, nanos: 0 }), ..a_file(0) }),
        ] {
            assert_eq!(bad.unwrap_err().reason(), Reason::Internal);
        }
    }

    fn a_time() -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 })
    }

    fn an_answer() -> pb::LookupFileResponse {
        let extent = pb::Extent { group: 1, blob: BlobId::random().to_string(), blob_offset: 2, length: 7 };
        let ids = ["a", "b"].map(str::to_owned).to_vec();
        let group = pb::Group { group: 1, members: ids.clone(), in_sync: ids, ..Default::default() };
        let entry = pb::Entry { modify_time: a_time(), ..a_file(7) };
        pb::LookupFileResponse { entry: Some(entry), extents: vec![extent], groups: vec![group], ..Default::default() }
    }

    fn a_receipt() -> pb::WriteReceipt {
        let servers = ["a", "b"].map(str::to_owned).to_vec();
        pb::WriteReceipt { path: "/f".to_owned(), commit_time: a_time(), servers, ..Default::default() }
    }

    fn a_lock() -> pb::LockInfo {
        let session_id = BlobId::random().to_string();
        let mode = pb::LockMode::Shared.into();
        let holder =
            pb::LockHolder { session_id: session_id.clone(), mode, grant_time: a_time(), ..Default::default() };
        let waiter = pb::LockWaiter { session_id, mode, waiting_ms: u64::MAX, ..Default::default() };
        pb::LockInfo { path: "/f".to_owned(), holders: vec![holder], waiters: vec![waiter], ..Default::default() }
    }

    #[test]
    fn what_is_garbled_below_is_right_before() {
        assert!(located(an_answer()).is_ok() && receipt(a_receipt()).is_ok() && lock_info(a_lock()).is_ok());
    }

    proptest! {
        #[test]
        fn an_answer_that_is_nearly_right_is_understood_or_refused(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            any_bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let garbled = |message: Vec<u8>| {
                let edited = |mut bytes: Vec<u8>, (at, byte): &(prop::sample::Index, u8)| {
                    let at = at.index(bytes.len());
                    bytes[at] ^= byte;
                    bytes
                };
                edits.iter().fold(message, edited)
            };
            for bytes in [&garbled(an_answer().encode_to_vec()), &any_bytes] {
                if let Ok(Ok(found)) = pb::LookupFileResponse::decode(bytes.as_slice()).map(located) {
                    let length: u64 = found.extents.iter().map(|extent| extent.length).sum();
                    prop_assert_eq!(length, found.entry.size, "what is understood adds up");
                }
            }
            for bytes in [&garbled(a_receipt().encode_to_vec()), &any_bytes] {
                let _either = pb::WriteReceipt::decode(bytes.as_slice()).map(receipt);
            }
            for bytes in [&garbled(a_lock().encode_to_vec()), &any_bytes] {
                let _either = pb::LockInfo::decode(bytes.as_slice()).map(lock_info);
            }
        }
    }
}
