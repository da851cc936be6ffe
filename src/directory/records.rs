//! The Directory's things as bytes on disk and back. Damage is an error, never a panic.

use std::str::FromStr;

use bytes::Bytes;
use prost::Message;

use crate::{
    cluster::Group,
    pb::storage::directory as disk,
    types::{
        BlobId, ClusterId, Epoch, Extent, GroupId, Inode, Path, Revision, ServerId, StoreId, Timestamp, Version,
        WriteId,
    },
};

use super::{
    command::{Committed, Outcome, Registration, ServerKind, Settings},
    model::{
        Attributes, Blob, Change, ChangeKind, ChangeRecord, Cluster, Entry, EntryKind, FileVersion, Node, ServerRecord,
        State, WriteRecord,
    },
};

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

fn servers(ids: &[String]) -> Read<Vec<ServerId>> {
    ids.iter().map(|id| text(id, "a server id is malformed")).collect()
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

impl Record<&str> for State {
    fn encode(&self) -> Vec<u8> {
        disk::State {
            revision: self.revision.0,
            time: self.time.0,
            newest_inode: self.newest_inode.0,
            map_version: self.map_version,
            horizon: self.horizon.0,
            horizon_time: self.horizon_time.0,
            fence_floor: self.fence_floor,
            blob_count: self.blob_count,
            garbage_blob_count: self.garbage_blob_count,
        }
        .encode_to_vec()
    }

    fn decode(_: &str, bytes: &[u8]) -> Read<Self> {
        let state: disk::State = parse(bytes)?;
        Ok(Self {
            revision: Revision(state.revision),
            time: Timestamp(state.time),
            newest_inode: Inode(state.newest_inode),
            map_version: state.map_version,
            horizon: Revision(state.horizon),
            horizon_time: Timestamp(state.horizon_time),
            fence_floor: state.fence_floor,
            blob_count: state.blob_count,
            garbage_blob_count: state.garbage_blob_count,
        })
    }
}

impl Record<&str> for Cluster {
    fn encode(&self) -> Vec<u8> {
        let settings = &self.settings;
        disk::Cluster {
            cluster_id: id(self.cluster.as_bytes()),
            lock_key: Bytes::copy_from_slice(&self.lock_key),
            settings: Some(disk::Settings {
                group_count: settings.group_count,
                copies: settings.copies,
                min_in_sync: settings.min_in_sync,
                initial_fileservers: settings.initial_fileservers,
                keep_versions: settings.keep_versions,
                keep_for_ms: settings.keep_for_ms,
                garbage_grace_ms: settings.garbage_grace_ms,
            }),
        }
        .encode_to_vec()
    }

    fn decode(_: &str, bytes: &[u8]) -> Read<Self> {
        let cluster: disk::Cluster = parse(bytes)?;
        let settings = cluster.settings.ok_or(Damage("no settings"))?;
        Ok(Self {
            cluster: uuid(&cluster.cluster_id, ClusterId::from_bytes)?,
            lock_key: (&*cluster.lock_key).try_into().map_err(|_| Damage("the key is not 32 bytes"))?,
            settings: Settings {
                group_count: settings.group_count,
                copies: settings.copies,
                min_in_sync: settings.min_in_sync,
                initial_fileservers: settings.initial_fileservers,
                keep_versions: settings.keep_versions,
                keep_for_ms: settings.keep_for_ms,
                garbage_grace_ms: settings.garbage_grace_ms,
            },
        })
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

/// A path names its parent and name already: the node of an outcome leaves them empty.
fn entry_out(entry: &Entry) -> disk::EntryOutcome {
    disk::EntryOutcome {
        inode: entry.inode.0,
        path: entry.path.to_string(),
        node: Some(disk::Node {
            kind: kind_out(entry.kind),
            since: entry.revision.0,
            attributes: Some(attributes_out(&entry.attributes)),
            version: entry.version.0,
            size: entry.size,
            checksum: entry.checksum,
            ..disk::Node::default()
        }),
    }
}

fn entry_in(entry: disk::EntryOutcome) -> Read<Entry> {
    let node = entry.node.ok_or(Damage("an outcome has no node"))?;
    Ok(Entry {
        inode: Inode(entry.inode),
        path: path(&entry.path)?,
        kind: kind_in(node.kind())?,
        size: node.size,
        version: Version(node.version),
        checksum: node.checksum,
        revision: Revision(node.since),
        attributes: attributes_in(node.attributes.unwrap_or_default()),
    })
}

fn committed_out(committed: &Committed) -> disk::CommittedOutcome {
    disk::CommittedOutcome {
        inode: committed.inode.0,
        version: committed.version.0,
        revision: committed.revision.0,
        size: committed.size,
        checksum: committed.checksum,
        offset: committed.offset,
        extent_count: committed.extent_count,
        commit_time: committed.commit_time.0,
        blobs: committed.blobs.iter().map(|blob| id(blob.as_bytes())).collect(),
    }
}

fn committed_in(committed: disk::CommittedOutcome) -> Read<Committed> {
    Ok(Committed {
        inode: Inode(committed.inode),
        version: Version(committed.version),
        revision: Revision(committed.revision),
        size: committed.size,
        checksum: committed.checksum,
        offset: committed.offset,
        extent_count: committed.extent_count,
        commit_time: Timestamp(committed.commit_time),
        blobs: committed.blobs.iter().map(|blob| uuid(blob, BlobId::from_bytes)).collect::<Read<_>>()?,
    })
}

impl<K> Record<K> for WriteRecord {
    fn encode(&self) -> Vec<u8> {
        use disk::write::Outcome as Kept;
        let outcome = match &self.outcome {
            Outcome::Entry(entry) => Some(Kept::Entry(entry_out(entry))),
            Outcome::Deleted { count } => Some(Kept::DeletedCount(*count)),
            Outcome::Committed(committed) => Some(Kept::Committed(committed_out(committed))),
            Outcome::Done | Outcome::Settled(_) | Outcome::Registered | Outcome::Collected { .. } => None,
        };
        disk::Write { time: self.time.0, fingerprint: self.fingerprint, outcome }.encode_to_vec()
    }

    fn decode(_: K, bytes: &[u8]) -> Read<Self> {
        use disk::write::Outcome as Kept;
        let write: disk::Write = parse(bytes)?;
        let outcome = match write.outcome {
            Some(Kept::Entry(entry)) => Outcome::Entry(Box::new(entry_in(entry)?)),
            Some(Kept::DeletedCount(count)) => Outcome::Deleted { count },
            Some(Kept::Committed(committed)) => Outcome::Committed(committed_in(committed)?),
            None => Outcome::Done,
        };
        Ok(Self { time: Timestamp(write.time), fingerprint: write.fingerprint, outcome })
    }
}

impl Record<u32> for Group {
    fn encode(&self) -> Vec<u8> {
        let names = |ids: &[ServerId]| ids.iter().map(ServerId::to_string).collect();
        disk::Group {
            epoch: self.epoch.0,
            members: names(&self.members),
            in_sync: names(&self.in_sync),
            primary: self.primary.as_ref().map(ServerId::to_string).unwrap_or_default(),
        }
        .encode_to_vec()
    }

    fn decode(group: u32, bytes: &[u8]) -> Read<Self> {
        let config: disk::Group = parse(bytes)?;
        let primary = match config.primary.as_str() {
            "" => None,
            primary => Some(text(primary, "a server id is malformed")?),
        };
        Ok(Self {
            group: GroupId(group),
            epoch: Epoch(config.epoch),
            members: servers(&config.members)?,
            in_sync: servers(&config.in_sync)?,
            primary,
        })
    }
}

/// How a kind of server is written in keys.
pub(super) fn server_kind_out(kind: ServerKind) -> u8 {
    match kind {
        ServerKind::Directory => 1,
        ServerKind::Lock => 2,
        ServerKind::FileServer => 3,
    }
}

fn server_kind_in(kind: u8) -> Read<ServerKind> {
    match kind {
        1 => Ok(ServerKind::Directory),
        2 => Ok(ServerKind::Lock),
        3 => Ok(ServerKind::FileServer),
        _ => Err(Damage("a server has no kind")),
    }
}

impl Record<(u8, &str)> for ServerRecord {
    fn encode(&self) -> Vec<u8> {
        let registration = &self.registration;
        disk::Server {
            store_id: id(registration.store.as_bytes()),
            address: registration.address.clone(),
            external_address: registration.external_address.clone(),
            zone: registration.zone.clone(),
            software_version: registration.software_version.clone(),
            down: self.down,
        }
        .encode_to_vec()
    }

    fn decode((kind, server): (u8, &str), bytes: &[u8]) -> Read<Self> {
        let record: disk::Server = parse(bytes)?;
        Ok(Self {
            registration: Registration {
                kind: server_kind_in(kind)?,
                server: text(server, "a server id is malformed")?,
                store: uuid(&record.store_id, StoreId::from_bytes)?,
                address: record.address,
                external_address: record.external_address,
                zone: record.zone,
                software_version: record.software_version,
            },
            down: record.down,
        })
    }
}
