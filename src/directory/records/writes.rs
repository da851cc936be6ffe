//! The record of a mutation's outcome.

use prost::Message;

use crate::{
    directory::{
        command::{Committed, Outcome},
        model::{Entry, WriteRecord},
    },
    pb::storage::directory as disk,
    types::{BlobId, Epoch, Inode, Revision, ServerId, Timestamp, Version},
};

use super::{
    Damage, Read, Record, attributes_in, attributes_out, cluster::servers, id, kind_in, kind_out, parse, path, uuid,
};

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
        epoch: committed.epoch.0,
        in_sync: committed.in_sync.iter().map(ServerId::to_string).collect(),
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
        epoch: Epoch(committed.epoch),
        in_sync: servers(&committed.in_sync)?,
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
