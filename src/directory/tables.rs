//! The redb tables, typed: what the state machine remembers, and how to get at it.
//!
//! Keys and small fixed values are redb's tuples; larger values are the messages of `proto/storage/directory.proto`.
//! Every table that is only ever emptied by time has a queue in the order of time beside it, so that forgetting costs
//! what is due and nothing scans.

use std::marker::PhantomData;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition, TableHandle, WriteTransaction};

use prost::Message;

use crate::{
    cluster::Group,
    pb::storage::directory as disk,
    types::{Inode, Revision, Timestamp},
};

use super::{
    error::{Rejected, StorageError},
    model::{
        Blob, ChangeRecord, Cluster, EntryKind, FileVersion, Link, Node, ServerRecord, State, Totals, WriteRecord,
    },
    records::{Damage, Record},
};

type Bytes = &'static [u8];
type Definition<K, V> = TableDefinition<'static, K, V>;

/// A name in a directory.
pub(super) type NameKey = (u64, &'static str);
/// A name in a directory, until a revision.
pub(super) type PastNameKey = (u64, &'static str, u64);
/// Inode, since revision, kind (1 file, 2 directory).
pub(super) type LinkValue = (u64, u64, u8);

pub(super) const META: Definition<&str, Bytes> = TableDefinition::new("meta");
/// inode → node.
pub(super) const INODES: Definition<u64, Bytes> = TableDefinition::new("inodes");
/// (inode, revision that ended it) → node.
pub(super) const INODE_HISTORY: Definition<(u64, u64), Bytes> = TableDefinition::new("inode_history");
/// (directory, name) → link.
pub(super) const ENTRIES: Definition<NameKey, LinkValue> = TableDefinition::new("entries");
/// (directory, name, revision that ended it) → link.
pub(super) const ENTRY_HISTORY: Definition<PastNameKey, LinkValue> = TableDefinition::new("entry_history");
/// directory → files, directories and longest path below it.
pub(super) const TOTALS: Definition<u64, (u64, u64, u64)> = TableDefinition::new("totals");
/// (inode, version) → version.
pub(super) const VERSIONS: Definition<(u64, u64), Bytes> = TableDefinition::new("versions");
/// (revision that superseded it, inode, version): versions that are no longer among the newest.
pub(super) const RETIRED: Definition<(u64, u64, u64), ()> = TableDefinition::new("retired");
/// inode → kind: deleted, no longer seen by any look at the kept past; its rows are yet to go.
pub(super) const DEAD: Definition<u64, u8> = TableDefinition::new("dead");
/// (revision, index) → change.
pub(super) const CHANGES: Definition<(u64, u32), Bytes> = TableDefinition::new("changes");
/// blob → blob.
pub(super) const BLOBS: Definition<u128, Bytes> = TableDefinition::new("blobs");
/// (time, blob): blobs without references, in their time of grace.
pub(super) const GARBAGE: Definition<(u64, u128), ()> = TableDefinition::new("garbage");
/// (server, blob): blobs that the server is to delete.
pub(super) const DELETIONS: Definition<(&str, u128), ()> = TableDefinition::new("deletions");
/// (server, group) → epoch: the server is no member of the group since, and may still hold blobs of it.
pub(super) const DEPARTURES: Definition<(&str, u32), u64> = TableDefinition::new("departures");
/// server → blob: among the server's deletions, from that blob on, are some of groups that it is no member of any more.
pub(super) const STALE_DELETIONS: Definition<&str, u128> = TableDefinition::new("stale_deletions");
/// data folder → time at which its server was removed.
pub(super) const REMOVED: Definition<u128, u64> = TableDefinition::new("removed");
/// write id → its outcome; and in the order of time.
pub(super) const WRITES: Definition<u128, Bytes> = TableDefinition::new("writes");
pub(super) const WRITE_TIMES: Definition<(u64, u128), ()> = TableDefinition::new("write_times");
/// blob → time at which it was given up; and in the order of time.
pub(super) const ABANDONED: Definition<u128, u64> = TableDefinition::new("abandoned");
pub(super) const ABANDONED_TIMES: Definition<(u64, u128), ()> = TableDefinition::new("abandoned_times");
/// path → (token, time); and in the order of time.
pub(super) const FENCES: Definition<&str, (u64, u64)> = TableDefinition::new("fences");
pub(super) const FENCE_TIMES: Definition<(u64, &str), ()> = TableDefinition::new("fence_times");
pub(super) const GROUPS: Definition<u32, Bytes> = TableDefinition::new("groups");
/// (kind, id) → server.
pub(super) const SERVERS: Definition<(u8, &str), Bytes> = TableDefinition::new("servers");

/// All of the state, for snapshots.
pub(super) const ALL: crate::raft::Tables = &[
    &META,
    &INODES,
    &INODE_HISTORY,
    &ENTRIES,
    &ENTRY_HISTORY,
    &TOTALS,
    &VERSIONS,
    &RETIRED,
    &DEAD,
    &CHANGES,
    &BLOBS,
    &GARBAGE,
    &DELETIONS,
    &DEPARTURES,
    &STALE_DELETIONS,
    &REMOVED,
    &WRITES,
    &WRITE_TIMES,
    &ABANDONED,
    &ABANDONED_TIMES,
    &FENCES,
    &FENCE_TIMES,
    &GROUPS,
    &SERVERS,
];

/// Keys of `meta`.
pub(super) const META_FORMAT: &str = "format";
pub(super) const META_STATE: &str = "state";
pub(super) const META_CLUSTER: &str = "cluster";

/// A table whose values are records.
pub(super) struct Rows<T, R> {
    pub table: T,
    name: &'static str,
    record: PhantomData<R>,
}

pub(super) type Stored<'txn, K, R> = Rows<Table<'txn, K, Bytes>, R>;
/// As a reader sees it.
pub(super) type ReadStored<K, R> = Rows<ReadOnlyTable<K, Bytes>, R>;

impl<T, R> Rows<T, R> {
    pub fn new(table: T, name: &'static str) -> Self {
        Self { table, name, record: PhantomData }
    }
}

impl<T, R> Rows<T, R> {
    /// The row with this key.
    pub fn get<'k, K>(&self, key: K::SelfType<'k>) -> Result<Option<R>, StorageError>
    where
        K: redb::Key + 'static,
        T: ReadableTable<K, Bytes>,
        R: Record<K::SelfType<'k>>,
        K::SelfType<'k>: Clone,
    {
        match self.table.get(key.clone())? {
            Some(bytes) => self.decode(key, bytes.value()).map(Some),
            None => Ok(None),
        }
    }

    /// As a row that was found by a range.
    pub fn decode<K>(&self, key: K, bytes: &[u8]) -> Result<R, StorageError>
    where
        R: Record<K>,
    {
        R::decode(key, bytes).map_err(|Damage(what)| StorageError::Damaged { table: self.name, what })
    }
}

impl<K: redb::Key + 'static, R> Rows<Table<'_, K, Bytes>, R> {
    pub fn put<'k>(&mut self, key: K::SelfType<'k>, record: &R) -> Result<(), StorageError>
    where
        R: Record<K::SelfType<'k>>,
    {
        self.table.insert(key, record.encode().as_slice())?;
        Ok(())
    }

    pub fn remove<'k>(&mut self, key: K::SelfType<'k>) -> Result<bool, StorageError> {
        Ok(self.table.remove(key)?.is_some())
    }
}

/// All tables of one write transaction, and the counters in memory until [`Tables::close`].
pub(super) struct Tables<'txn> {
    meta: Table<'txn, &'static str, Bytes>,
    /// Of the command that is being applied.
    pub revision: Revision,
    pub time: Timestamp,
    /// Changes that it has recorded so far.
    pub change_count: u32,
    pub state: State,
    /// `None` before the cluster was made.
    pub cluster: Option<Cluster>,
    pub inodes: Stored<'txn, u64, Node>,
    pub inode_history: Stored<'txn, (u64, u64), Node>,
    pub entries: Table<'txn, NameKey, LinkValue>,
    pub entry_history: Table<'txn, PastNameKey, LinkValue>,
    pub totals: Table<'txn, u64, (u64, u64, u64)>,
    pub versions: Stored<'txn, (u64, u64), FileVersion>,
    pub retired: Table<'txn, (u64, u64, u64), ()>,
    pub dead: Table<'txn, u64, u8>,
    pub changes: Stored<'txn, (u64, u32), ChangeRecord>,
    pub blobs: Stored<'txn, u128, Blob>,
    pub garbage: Table<'txn, (u64, u128), ()>,
    pub deletions: Table<'txn, (&'static str, u128), ()>,
    pub departures: Table<'txn, (&'static str, u32), u64>,
    pub stale_deletions: Table<'txn, &'static str, u128>,
    pub removed: Table<'txn, u128, u64>,
    pub writes: Stored<'txn, u128, WriteRecord>,
    pub write_times: Table<'txn, (u64, u128), ()>,
    pub abandoned: Table<'txn, u128, u64>,
    pub abandoned_times: Table<'txn, (u64, u128), ()>,
    pub fences: Table<'txn, &'static str, (u64, u64)>,
    pub fence_times: Table<'txn, (u64, &'static str), ()>,
    pub groups: Stored<'txn, u32, Group>,
    pub servers: Stored<'txn, (u8, &'static str), ServerRecord>,
}

fn stored<'txn, K: redb::Key + 'static, R>(
    transaction: &'txn WriteTransaction,
    definition: &'static Definition<K, Bytes>,
) -> Result<Stored<'txn, K, R>, StorageError> {
    Ok(Rows::new(transaction.open_table(*definition)?, definition.name()))
}

/// A table of records as a reader sees it.
pub(super) fn read_stored<K: redb::Key + 'static, R>(
    transaction: &ReadTransaction,
    definition: &'static Definition<K, Bytes>,
) -> Result<ReadStored<K, R>, StorageError> {
    Ok(Rows::new(transaction.open_table(*definition)?, definition.name()))
}

impl<'txn> Tables<'txn> {
    /// Makes the tables that are not there yet.
    pub fn open(transaction: &'txn WriteTransaction) -> Result<Self, StorageError> {
        let meta = transaction.open_table(META)?;
        let (state, cluster) = read_meta(&meta)?;
        Ok(Self {
            meta,
            revision: state.revision,
            time: state.time,
            change_count: 0,
            state,
            cluster,
            inodes: stored(transaction, &INODES)?,
            inode_history: stored(transaction, &INODE_HISTORY)?,
            entries: transaction.open_table(ENTRIES)?,
            entry_history: transaction.open_table(ENTRY_HISTORY)?,
            totals: transaction.open_table(TOTALS)?,
            versions: stored(transaction, &VERSIONS)?,
            retired: transaction.open_table(RETIRED)?,
            dead: transaction.open_table(DEAD)?,
            changes: stored(transaction, &CHANGES)?,
            blobs: stored(transaction, &BLOBS)?,
            garbage: transaction.open_table(GARBAGE)?,
            deletions: transaction.open_table(DELETIONS)?,
            departures: transaction.open_table(DEPARTURES)?,
            stale_deletions: transaction.open_table(STALE_DELETIONS)?,
            removed: transaction.open_table(REMOVED)?,
            writes: stored(transaction, &WRITES)?,
            write_times: transaction.open_table(WRITE_TIMES)?,
            abandoned: transaction.open_table(ABANDONED)?,
            abandoned_times: transaction.open_table(ABANDONED_TIMES)?,
            fences: transaction.open_table(FENCES)?,
            fence_times: transaction.open_table(FENCE_TIMES)?,
            groups: stored(transaction, &GROUPS)?,
            servers: stored(transaction, &SERVERS)?,
        })
    }

    /// The cluster, which every command but the first needs.
    pub fn cluster(&self) -> Result<&Cluster, Rejected> {
        self.cluster.as_ref().ok_or(Rejected::NotBootstrapped)
    }

    pub fn put_cluster(&mut self, cluster: Cluster) -> Result<(), StorageError> {
        self.meta.insert(META_CLUSTER, cluster.encode().as_slice())?;
        self.cluster = Some(cluster);
        Ok(())
    }

    /// Writes the counters back; the last thing before a commit.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.meta.insert(META_STATE, self.state.encode().as_slice())?;
        Ok(())
    }
}

pub(super) fn link_out(link: Link) -> LinkValue {
    (link.inode.0, link.since.0, kind_out(link.kind))
}

pub(super) fn link_in((inode, since, kind): LinkValue) -> Result<Link, StorageError> {
    let kind = kind_in(kind).ok_or(StorageError::Damaged { table: "entries", what: "a link has no kind" })?;
    Ok(Link { inode: Inode(inode), since: Revision(since), kind })
}

pub(super) fn kind_out(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => 1,
        EntryKind::Directory => 2,
    }
}

pub(super) fn kind_in(kind: u8) -> Option<EntryKind> {
    match kind {
        1 => Some(EntryKind::File),
        2 => Some(EntryKind::Directory),
        _ => None,
    }
}

pub(super) fn totals_out(totals: Totals) -> (u64, u64, u64) {
    (totals.files, totals.directories, totals.reach)
}

pub(super) fn totals_in((files, directories, reach): (u64, u64, u64)) -> Totals {
    Totals { files, directories, reach }
}

/// The format of everything here. A store of an older one is brought up to it when opened; a newer one is refused.
const FORMAT: u32 = 1;

/// Refuses a store that this software does not know, and marks a new one.
pub(super) fn check_format(transaction: &WriteTransaction) -> Result<(), StorageError> {
    let mut meta = transaction.open_table(META)?;
    let found = match meta.get(META_FORMAT)? {
        Some(bytes) => {
            disk::Format::decode(bytes.value())
                .map_err(|_| StorageError::Damaged { table: "meta", what: "the format is not a number" })?
                .version
        }
        None => 0,
    };
    if found > FORMAT {
        return Err(StorageError::NewerFormat { found, known: FORMAT });
    }
    if found < FORMAT {
        meta.insert(META_FORMAT, disk::Format { version: FORMAT }.encode_to_vec().as_slice())?;
    }
    Ok(())
}

/// The counters and the cluster, out of `meta`.
pub(super) fn read_meta(
    meta: &impl ReadableTable<&'static str, Bytes>,
) -> Result<(State, Option<Cluster>), StorageError> {
    let damaged = |Damage(what)| StorageError::Damaged { table: "meta", what };
    let state = match meta.get(META_STATE)? {
        Some(bytes) => State::decode(META_STATE, bytes.value()).map_err(damaged)?,
        None => State::default(),
    };
    let cluster = match meta.get(META_CLUSTER)? {
        Some(bytes) => Some(Cluster::decode(META_CLUSTER, bytes.value()).map_err(damaged)?),
        None => None,
    };
    Ok((state, cluster))
}
