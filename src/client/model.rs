//! What the cluster's answers say, in plain Rust: no generated type leaves the client.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use crate::{
    cluster::{Group, Server},
    types::{
        Epoch, Extent, FencingToken, GroupId, Inode, LockMode, Path, Revision, ServerId, SessionId, Timestamp, Version,
        WriteId,
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Directory,
    Symlink,
}

/// A file or directory at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Survives renames.
    pub inode: Inode,
    pub path: Path,
    pub kind: EntryKind,
    /// Bytes of content; 0 for a directory.
    pub size: u64,
    /// From 1; 0 for a directory.
    pub version: Version,
    /// CRC32C of the whole content of this version.
    pub checksum: u32,
    /// The mutation that made this entry what it is.
    pub revision: Revision,
    pub create_time: Timestamp,
    pub modify_time: Timestamp,
    /// Permission bits, as in chmod.
    pub mode: u32,
    pub owner: String,
    pub owning_group: String,
    pub extended_attributes: BTreeMap<String, Bytes>,
    /// Of a symbolic link; else empty.
    pub target: String,
}

impl Entry {
    pub fn is_directory(&self) -> bool {
        self.kind == EntryKind::Directory
    }

    pub fn is_file(&self) -> bool {
        self.kind == EntryKind::File
    }
}

/// An entry met on a walk; with the extents of its content if those were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub entry: Entry,
    pub extents: Vec<Extent>,
}

/// One version of a file, where its bytes are, and who holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Size, version and checksum are those of the version looked up.
    pub entry: Entry,
    /// In file order; their lengths add up to the size.
    pub extents: Vec<Extent>,
    /// The groups that the extents name.
    pub groups: Vec<Group>,
    /// The members of those groups.
    pub servers: Vec<Server>,
}

/// One retained version of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionInfo {
    pub version: Version,
    pub revision: Revision,
    pub size: u64,
    pub checksum: u32,
    pub create_time: Timestamp,
    pub extent_count: u32,
    /// The mutation that made it, where that is still known.
    pub write_id: Option<WriteId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Created,
    /// A new version of a file.
    Written,
    /// Attributes only.
    Updated,
    Moved,
    Deleted,
}

/// One event of the change feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: Revision,
    pub time: Timestamp,
    pub kind: ChangeKind,
    pub path: Path,
    /// Where a moved entry was before.
    pub from_path: Option<Path>,
    pub inode: Inode,
    pub version: Version,
    pub entry_kind: EntryKind,
}

/// What an acknowledged write can be held to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub path: Path,
    pub inode: Inode,
    pub version: Version,
    pub revision: Revision,
    /// Of the whole version.
    pub size: u64,
    /// CRC32C of the whole version.
    pub checksum: u32,
    /// Where the data of this write begins in the version.
    pub offset: u64,
    pub commit_time: Timestamp,
    pub group: GroupId,
    pub epoch: Epoch,
    /// The servers that hold it on stable storage.
    pub servers: Vec<ServerId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Ok,
    /// Serves, with less safety than it should.
    Warn,
    /// Something cannot be read or written.
    Error,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Stable, upper case.
    pub code: String,
    pub health: Health,
    pub summary: String,
    pub hint: String,
    pub subjects: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    pub cluster_id: String,
    pub revision: Revision,
    pub health: Health,
    pub checks: Vec<HealthCheck>,
    pub file_count: u64,
    pub directory_count: u64,
    pub blob_count: u64,
    pub garbage_blob_count: u64,
    pub server_count: u32,
    pub server_up_count: u32,
    pub group_count: u32,
    /// Groups whose in-sync set has every member, and no place is empty for which there is a server.
    pub group_full_count: u32,
    pub copies: u32,
    pub min_in_sync: u32,
    /// Groups of which a member is being replaced.
    pub moving_group_count: u32,
    /// [`super::Client::rebalance`] was called, and is not done yet.
    pub rebalancing: bool,
}

/// All servers of a cluster, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    pub fileservers: Vec<Server>,
    pub lock_servers: Vec<Server>,
    pub directory_servers: Vec<Server>,
}

impl Servers {
    /// Each with the name of its kind.
    pub fn by_kind(&self) -> impl Iterator<Item = (&'static str, &Server)> {
        let kinds =
            [("directory", &self.directory_servers), ("lock", &self.lock_servers), ("fileserver", &self.fileservers)];
        kinds.into_iter().flat_map(|(kind, servers)| servers.iter().map(move |server| (kind, server)))
    }
}

/// What one file server says of its own store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileServerStatus {
    pub server_id: String,
    pub store_id: String,
    pub cluster_id: String,
    pub blob_count: u64,
    pub staged_count: u64,
    pub segment_count: u64,
    pub disk_used_bytes: u64,
    pub disk_total_bytes: u64,
    pub garbage_bytes: u64,
    /// Why the store takes no writes, when it takes none.
    pub read_only: Option<String>,
    /// What the last recovery cut off, and what it found damaged.
    pub torn_bytes_cut: u64,
    pub damaged_chunk_count: u64,
    pub software_version: String,
}

/// Who waits for a lock is told this, whenever it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePosition {
    /// 1 is next.
    pub position: u32,
    pub waiters: u32,
    /// Who holds the lock now, as they named themselves.
    pub holder: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    pub session: SessionId,
    pub client: String,
    pub mode: LockMode,
    pub token: FencingToken,
    pub grant_time: Timestamp,
    pub held: Duration,
    pub lease_remaining: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWaiter {
    pub session: SessionId,
    pub client: String,
    pub mode: LockMode,
    /// 1 is next.
    pub position: u32,
    pub waiting: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockInfo {
    pub path: Path,
    pub holders: Vec<LockHolder>,
    pub waiters: Vec<LockWaiter>,
    /// The lock passes on as soon as the Directory has recorded this token as the path's fence.
    pub pending_fence: Option<FencingToken>,
    /// In full: of long lists only the first are named above.
    pub holder_count: u32,
    pub waiter_count: u32,
}
