//! The Directory's things as bytes on disk and back. Damage is an error, never a panic.

mod cluster;
mod commands;
#[cfg(test)]
mod tests;
mod writes;

use std::str::FromStr;

use bytes::Bytes;
use prost::Message;

use crate::{
    pb::storage::directory as disk,
    types::{BlobId, Extent, GroupId, Inode, Path, Revision, Timestamp, Version, WriteId},
};

use super::model::{Attributes, Blob, Change, ChangeKind, ChangeRecord, EntryKind, FileVersion, Node};

pub(super) use cluster::server_kind_out;
pub(super) use commands::{batch_in, batch_out};

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage(pub &'static str);

type Read<T> = Result<T, Damage>;

/// Something that a table holds. The key is at hand because some of what the value means is in it.
pub(super) trait Record<K>: Sized {
    fn encode(&self) -> Vec<u8>;
    fn decode(key: K, bytes: &[u8]) -> Read<Self>;
}

fn parse<M: Message + Default>(bytes: &[u8]) -> Read<M> {
    M::decode(bytes).map_err(|_| Damage("not the message it should be"))
}

fn uuid<T>(bytes: &[u8], make: impl FnOnce([u8; 16]) -> T) -> Read<T> {
    bytes.try_into().map(make).map_err(|_| Damage("an id is not 16 bytes"))
}

fn text<T: FromStr>(text: &str, what: &'static str) -> Read<T> {
    text.parse().map_err(|_| Damage(what))
}

fn path(value: &str) -> Read<Path> {
    text(value, "a path is malformed")
}

fn id(bytes: &[u8; 16]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn kind_out(kind: EntryKind) -> i32 {
    match kind {
        EntryKind::File => disk::Kind::File.into(),
        EntryKind::Directory => disk::Kind::Directory.into(),
    }
}

fn kind_in(kind: disk::Kind) -> Read<EntryKind> {
    match kind {
        disk::Kind::File => Ok(EntryKind::File),
        disk::Kind::Directory => Ok(EntryKind::Directory),
        disk::Kind::Unspecified => Err(Damage("an entry has no kind")),
    }
}

fn attributes_out(attributes: &Attributes) -> disk::Attributes {
    disk::Attributes {
        create_time: attributes.create_time.0,
        modify_time: attributes.modify_time.0,
        mode: attributes.mode,
        owner: attributes.owner.clone(),
        owning_group: attributes.owning_group.clone(),
        extended: attributes
            .extended
            .iter()
            .map(|(name, value)| disk::Attribute { name: name.clone(), value: Bytes::copy_from_slice(value) })
            .collect(),
    }
}

fn attributes_in(attributes: disk::Attributes) -> Attributes {
    Attributes {
        create_time: Timestamp(attributes.create_time),
        modify_time: Timestamp(attributes.modify_time),
        mode: attributes.mode,
        owner: attributes.owner,
        owning_group: attributes.owning_group,
        extended: attributes.extended.into_iter().map(|one| (one.name, one.value.to_vec())).collect(),
    }
}

impl<K> Record<K> for Node {
    fn encode(&self) -> Vec<u8> {
        disk::Node {
            kind: kind_out(self.kind),
            parent: self.parent.0,
            name: self.name.clone(),
            since: self.since.0,
            attributes: Some(attributes_out(&self.attributes)),
            version: self.version.0,
            size: self.size,
            checksum: self.checksum,
            retired_below: self.retired_below.0,
        }
        .encode_to_vec()
    }

    fn decode(_: K, bytes: &[u8]) -> Read<Self> {
        let node: disk::Node = parse(bytes)?;
        Ok(Self {
            kind: kind_in(node.kind())?,
            parent: Inode(node.parent),
            name: node.name,
            since: Revision(node.since),
            attributes: attributes_in(node.attributes.unwrap_or_default()),
            version: Version(node.version),
            size: node.size,
            checksum: node.checksum,
            retired_below: Version(node.retired_below),
        })
    }
}

impl<K> Record<K> for FileVersion {
    fn encode(&self) -> Vec<u8> {
        disk::FileVersion {
            revision: self.revision.0,
            time: self.time.0,
            size: self.size,
            checksum: self.checksum,
            write_id: id(self.write_id.as_bytes()),
            extents: self
                .extents
                .iter()
                .map(|extent| disk::Extent {
                    group: extent.group.0,
                    blob: id(extent.blob.as_bytes()),
                    blob_offset: extent.blob_offset,
                    length: extent.length,
                })
                .collect(),
        }
        .encode_to_vec()
    }

    fn decode(_: K, bytes: &[u8]) -> Read<Self> {
        let version: disk::FileVersion = parse(bytes)?;
        let extent = |extent: disk::Extent| {
            Ok(Extent {
                group: GroupId(extent.group),
                blob: uuid(&extent.blob, BlobId::from_bytes)?,
                blob_offset: extent.blob_offset,
                length: extent.length,
            })
        };
        Ok(Self {
            revision: Revision(version.revision),
            time: Timestamp(version.time),
            size: version.size,
            checksum: version.checksum,
            write_id: uuid(&version.write_id, WriteId::from_bytes)?,
            extents: version.extents.into_iter().map(extent).collect::<Read<_>>()?,
        })
    }
}

impl<K> Record<K> for Blob {
    fn encode(&self) -> Vec<u8> {
        disk::Blob {
            group: self.group.0,
            length: self.length,
            references: self.references,
            inode: self.inode.0,
            version: self.version.0,
            holders: self.holders,
        }
        .encode_to_vec()
    }

    fn decode(_: K, bytes: &[u8]) -> Read<Self> {
        let blob: disk::Blob = parse(bytes)?;
        Ok(Self {
            group: GroupId(blob.group),
            length: blob.length,
            references: blob.references,
            inode: Inode(blob.inode),
            version: Version(blob.version),
            holders: blob.holders,
        })
    }
}

fn change_kind_in(kind: disk::ChangeKind) -> Read<ChangeKind> {
    match kind {
        disk::ChangeKind::Created => Ok(ChangeKind::Created),
        disk::ChangeKind::Written => Ok(ChangeKind::Written),
        disk::ChangeKind::Updated => Ok(ChangeKind::Updated),
        disk::ChangeKind::Moved => Ok(ChangeKind::Moved),
        disk::ChangeKind::Deleted => Ok(ChangeKind::Deleted),
        disk::ChangeKind::Unspecified => Err(Damage("a change has no kind")),
    }
}

fn change_kind_out(kind: ChangeKind) -> i32 {
    match kind {
        ChangeKind::Created => disk::ChangeKind::Created.into(),
        ChangeKind::Written => disk::ChangeKind::Written.into(),
        ChangeKind::Updated => disk::ChangeKind::Updated.into(),
        ChangeKind::Moved => disk::ChangeKind::Moved.into(),
        ChangeKind::Deleted => disk::ChangeKind::Deleted.into(),
    }
}

impl Record<(u64, u32)> for ChangeRecord {
    fn encode(&self) -> Vec<u8> {
        let change = &self.change;
        let (ended_parent, ended_name) = self.ended_entry.clone().unwrap_or_default();
        disk::Change {
            time: change.time.0,
            kind: change_kind_out(change.kind),
            path: change.path.to_string(),
            from_path: change.from_path.as_ref().map(Path::to_string).unwrap_or_default(),
            inode: change.inode.0,
            version: change.version.0,
            entry_kind: kind_out(change.entry_kind),
            ended_inode: self.ended_inode,
            ended_parent: ended_parent.0,
            ended_name,
        }
        .encode_to_vec()
    }

    fn decode((revision, _): (u64, u32), bytes: &[u8]) -> Read<Self> {
        let change: disk::Change = parse(bytes)?;
        Ok(Self {
            change: Change {
                revision: Revision(revision),
                time: Timestamp(change.time),
                kind: change_kind_in(change.kind())?,
                path: path(&change.path)?,
                from_path: (!change.from_path.is_empty()).then(|| path(&change.from_path)).transpose()?,
                inode: Inode(change.inode),
                version: Version(change.version),
                entry_kind: kind_in(change.entry_kind())?,
            },
            ended_inode: change.ended_inode,
            ended_entry: (!change.ended_name.is_empty()).then_some((Inode(change.ended_parent), change.ended_name)),
        })
    }
}
