//! What the state answers, as it goes over the wire.

use super::{
    command::{Committed, Settled},
    model::{Change, ChangeKind, Entry, EntryKind, VersionInfo},
};
use crate::{
    pb,
    types::{BlobId, ServerId},
};

impl From<Committed> for pb::Committed {
    fn from(committed: Committed) -> Self {
        Self {
            inode: committed.inode.0,
            version: committed.version.0,
            revision: committed.revision.0,
            size: committed.size,
            checksum: committed.checksum,
            offset: committed.offset,
            extent_count: committed.extent_count,
            commit_time: Some(committed.commit_time.into()),
            blobs: committed.blobs.iter().map(BlobId::to_string).collect(),
            epoch: committed.epoch.0,
            servers: committed.in_sync.iter().map(ServerId::to_string).collect(),
        }
    }
}

impl From<Settled> for pb::blob_fate::Fate {
    fn from(settled: Settled) -> Self {
        match settled {
            Settled::Committed { inode, version } => {
                Self::Committed(pb::BlobOwner { inode: inode.0, version: version.0 })
            }
            Settled::Abandoned => Self::Abandoned(true),
        }
    }
}

fn entry_kind(kind: EntryKind) -> pb::EntryKind {
    match kind {
        EntryKind::File => pb::EntryKind::File,
        EntryKind::Directory => pb::EntryKind::Directory,
    }
}

impl From<Entry> for pb::Entry {
    fn from(entry: Entry) -> Self {
        let attributes = entry.attributes;
        Self {
            inode: entry.inode.0,
            path: entry.path.to_string(),
            kind: entry_kind(entry.kind).into(),
            size: entry.size,
            version: entry.version.0,
            checksum: entry.checksum,
            revision: entry.revision.0,
            create_time: Some(attributes.create_time.into()),
            modify_time: Some(attributes.modify_time.into()),
            mode: attributes.mode,
            owner: attributes.owner,
            owning_group: attributes.owning_group,
            extended_attributes: attributes.extended.into_iter().map(|(name, value)| (name, value.into())).collect(),
            target: String::new(),
        }
    }
}

impl From<VersionInfo> for pb::VersionInfo {
    fn from(version: VersionInfo) -> Self {
        Self {
            version: version.version.0,
            revision: version.revision.0,
            size: version.size,
            checksum: version.checksum,
            create_time: Some(version.create_time.into()),
            extent_count: version.extent_count,
            write_id: version.write_id.to_string(),
        }
    }
}

impl From<Change> for pb::Change {
    fn from(change: Change) -> Self {
        let kind = match change.kind {
            ChangeKind::Created => pb::ChangeKind::Created,
            ChangeKind::Written => pb::ChangeKind::Written,
            ChangeKind::Updated => pb::ChangeKind::Updated,
            ChangeKind::Moved => pb::ChangeKind::Moved,
            ChangeKind::Deleted => pb::ChangeKind::Deleted,
        };
        Self {
            revision: change.revision.0,
            time: Some(change.time.into()),
            kind: kind.into(),
            path: change.path.to_string(),
            from_path: change.from_path.map(|path| path.to_string()).unwrap_or_default(),
            inode: change.inode.0,
            version: change.version.0,
            entry_kind: entry_kind(change.entry_kind).into(),
        }
    }
}
