//! The Directory's things as plain data: what its tables hold and what its views answer.
//!
//! Generated types stop before here: `records` turns these into bytes, the handlers into the wire's messages.

use std::collections::BTreeMap;

use crate::types::{BlobId, ClusterId, Extent, GroupId, Inode, Path, Revision, Timestamp, Version, WriteId};

use super::{
    command::{Outcome, Registration, Settings},
    group::Fitness,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Directory,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub create_time: Timestamp,
    pub modify_time: Timestamp,
    /// Permission bits, as in chmod.
    pub mode: u32,
    pub owner: String,
    pub owning_group: String,
    pub extended: BTreeMap<String, Vec<u8>>,
}

/// A file or directory at a path, as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub inode: Inode,
    pub path: Path,
    pub kind: EntryKind,
    /// 0 for a directory.
    pub size: u64,
    /// 0 for a directory.
    pub version: Version,
    /// Of the whole content; 0 for a directory.
    pub checksum: u32,
    /// The mutation that made the entry what it is.
    pub revision: Revision,
    pub attributes: Attributes,
}

/// What a reader of a file needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookedUp {
    /// Size, version and checksum are those of the version looked up.
    pub entry: Entry,
    /// In file order; their lengths add up to the size.
    pub extents: Vec<Extent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionInfo {
    pub version: Version,
    pub revision: Revision,
    pub size: u64,
    pub checksum: u32,
    pub create_time: Timestamp,
    pub extent_count: u32,
    pub write_id: WriteId,
}

/// A part of something long, and whether there is more behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub more: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Created,
    /// A new version of a file.
    Written,
    Updated,
    Moved,
    Deleted,
}

/// An event of the change feed. Paths are those of that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: Revision,
    pub time: Timestamp,
    pub kind: ChangeKind,
    pub path: Path,
    /// Where a moved entry was before.
    pub from_path: Option<Path>,
    pub inode: Inode,
    /// 0 for a directory.
    pub version: Version,
    pub entry_kind: EntryKind,
}

/// A stretch of the change feed: all that matched up to and including revision `through`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    pub changes: Vec<Change>,
    /// Ask again from here; at least as far as asked from, even when nothing matched.
    pub through: Revision,
    /// Whether there is more by now.
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRecord {
    pub registration: Registration,
    pub down: bool,
    /// Why its store takes no writes; empty: it does.
    pub read_only_reason: String,
    /// When its store began to take no writes, if it takes none.
    pub read_only_since: Option<Timestamp>,
    /// When it was last marked down, if it is down.
    pub down_since: Option<Timestamp>,
    /// Its groups are to move to others, and it is given none.
    pub draining: bool,
    /// It will never come back: what it holds counts for nothing, and it goes with its last place.
    pub lost: bool,
}

impl ServerRecord {
    pub(super) fn fitness(&self) -> Fitness {
        match self {
            Self { down: true, .. } | Self { lost: true, .. } => Fitness::Dead,
            Self { read_only_reason, .. } if !read_only_reason.is_empty() => Fitness::ReadOnly,
            Self { draining: true, .. } => Fitness::Leaving,
            Self { .. } => Fitness::Fit,
        }
    }
}

/// What holds for the whole cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct Cluster {
    pub cluster: ClusterId,
    /// Seals fencing tokens; shared with the Lock service alone.
    pub lock_key: [u8; 32],
    pub settings: Settings,
}

impl std::fmt::Debug for Cluster {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("cluster", &self.cluster).field("settings", &self.settings).finish()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub files: u64,
    pub directories: u64,
    /// Referred to by a retained version.
    pub blobs: u64,
    /// No longer referred to, not yet deleted everywhere.
    pub garbage_blobs: u64,
}

/// The counters of the state machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub revision: Revision,
    pub time: Timestamp,
    pub newest_inode: Inode,
    pub map_version: u64,
    /// The past is complete from this revision on.
    pub horizon: Revision,
    pub horizon_time: Timestamp,
    /// Fencing tokens below are stale for every path without a fence of its own.
    pub fence_floor: u64,
    /// The newest token seen for any path; `None`: to be looked for among the fences, as in a database from before it was kept.
    pub newest_token: Option<u64>,
    pub blob_count: u64,
    pub garbage_blob_count: u64,
    /// Somebody has asked for the groups to be spread evenly, and it is not done yet.
    pub rebalancing: bool,
}

/// A file or directory, as the tables hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub kind: EntryKind,
    pub parent: Inode,
    pub name: String,
    /// The revision that made it what it is.
    pub since: Revision,
    pub attributes: Attributes,
    pub version: Version,
    pub size: u64,
    pub checksum: u32,
    /// Versions below have been queued to be forgotten.
    pub retired_below: Version,
}

impl Node {
    pub fn entry(self, inode: Inode, path: Path) -> Entry {
        Entry {
            inode,
            path,
            kind: self.kind,
            size: self.size,
            version: self.version,
            checksum: self.checksum,
            revision: self.since,
            attributes: self.attributes,
        }
    }
}

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub inode: Inode,
    pub since: Revision,
    pub kind: EntryKind,
}

/// What lies below a directory, at any depth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub files: u64,
    pub directories: u64,
    /// No path below is longer than this, in bytes from the directory on. Shrinks only when the directory is empty.
    pub reach: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileVersion {
    pub revision: Revision,
    pub time: Timestamp,
    pub size: u64,
    pub checksum: u32,
    pub write_id: WriteId,
    pub extents: Vec<Extent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub group: GroupId,
    pub length: u64,
    /// Versions that refer to it; 0: garbage.
    pub references: u64,
    /// The version it was committed with.
    pub inode: Inode,
    pub version: Version,
    /// For garbage past its grace: members that have not deleted it yet.
    pub holders: u32,
}

/// A change as the tables hold it: with the rows of history that it made, to be forgotten together with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChangeRecord {
    pub change: Change,
    pub ended_inode: bool,
    pub ended_entry: Option<(Inode, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WriteRecord {
    pub time: Timestamp,
    /// Of what was asked for.
    pub fingerprint: u32,
    pub outcome: Outcome,
}

/// A path's fence: the newest token seen, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    pub token: u64,
    pub time: Timestamp,
}

/// The blobs that extents name, each once, in order.
pub(super) fn blobs_of(extents: &[Extent]) -> Vec<BlobId> {
    let mut blobs: Vec<BlobId> = extents.iter().map(|extent| extent.blob).collect();
    blobs.sort_unstable();
    blobs.dedup();
    blobs
}
