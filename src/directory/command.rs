//! What goes through the Directory's log, and what comes out of it.
//!
//! A command holds everything that its application needs: ids and keys are drawn by the proposer, the time is stamped on
//! it by the driver. Applying the same commands in the same order gives the same state everywhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{
    BlobId, ClusterId, Epoch, Extent, FencingToken, GroupId, Incarnation, Inode, LockServiceId, Path, Precondition,
    Revision, ServerId, StoreId, Timestamp, Version, WriteId, WriteMode,
};

use super::model::Entry;

/// Fixed or set for the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Fixed when the cluster is made.
    pub group_count: u32,
    pub copies: u32,
    pub min_in_sync: u32,
    /// Groups are made when this many file servers have registered.
    pub initial_fileservers: u32,
    /// Newest versions of a file that are kept whatever their age.
    pub keep_versions: u64,
    /// What is younger is kept whatever its number.
    pub keep_for_ms: u64,
    pub garbage_grace_ms: u64,
    /// A file server that has been down for as long gives up its places.
    pub repair_after_ms: u64,
}

/// How to reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub kind: ServerKind,
    pub server: ServerId,
    pub store: StoreId,
    pub address: String,
    pub external_address: String,
    pub zone: String,
    pub software_version: String,
    /// Of a node of a Lock service: which one it belongs to. `None`: a service of this node alone.
    pub lock_service: Option<LockServiceId>,
    /// Of a file server: its process, and before it those that its data folder knows of; newest first. Only the newest is kept.
    pub incarnations: Vec<Incarnation>,
}

impl Registration {
    /// Of this process.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.incarnations.first().copied()
    }

    /// Whether the data folder knows of the process that registered before, and so has all that it did. One of an older version has
    /// no incarnation, and anyone may follow it.
    pub fn follows(&self, before: Option<Incarnation>) -> bool {
        before.is_none_or(|before| self.incarnations.contains(&before))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    Directory,
    Lock,
    FileServer,
}

/// One write whose data is durable on every in-sync member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteCommit {
    pub write_id: WriteId,
    pub group: GroupId,
    pub epoch: Epoch,
    pub path: Path,
    pub mode: WriteMode,
    /// The write's blobs in file order, with their lengths.
    pub pieces: Vec<(BlobId, u64)>,
    /// Of the write's data.
    pub checksum: u32,
    pub precondition: Precondition,
    /// The inode the path must still name.
    pub base_inode: Option<Inode>,
    /// For a patch: the version it was computed against, and the checksum of the whole result.
    pub patched: Option<Patched>,
    /// The Directory's time when the write began, as its primary knew it.
    pub begin_time: Timestamp,
    pub create_parents: bool,
    pub create_mode: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patched {
    pub base_version: Version,
    pub checksum: u32,
}

/// New values; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttributeChanges {
    pub mode: Option<u32>,
    pub owner: Option<String>,
    pub owning_group: Option<String>,
    pub modify_time: Option<Timestamp>,
    pub extended_attributes: Option<BTreeMap<String, Vec<u8>>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The first command of a cluster.
    Bootstrap {
        cluster: ClusterId,
        lock_key: [u8; 32],
        settings: Settings,
    },
    /// Changes the settings that may change: retention, grace, `min_in_sync`.
    ChangeSettings {
        settings: Settings,
    },

    CreateDirectory {
        write_id: WriteId,
        path: Path,
        parents: bool,
        mode: u32,
    },
    UpdateEntry {
        write_id: WriteId,
        path: Path,
        changes: AttributeChanges,
    },
    MoveEntry {
        write_id: WriteId,
        from: Path,
        to: Path,
        replace: bool,
        from_precondition: Precondition,
        to_precondition: Precondition,
    },
    CopyEntry {
        write_id: WriteId,
        from: Path,
        /// `None`: the newest.
        from_version: Option<Version>,
        to: Path,
        replace: bool,
        to_precondition: Precondition,
    },
    DeleteEntry {
        write_id: WriteId,
        path: Path,
        force: bool,
        precondition: Precondition,
    },
    RestoreVersion {
        write_id: WriteId,
        path: Path,
        version: Version,
        precondition: Precondition,
    },
    CommitWrite {
        primary: ServerId,
        commit: WriteCommit,
    },
    MergeExtents {
        primary: ServerId,
        group: GroupId,
        epoch: Epoch,
        inode: Inode,
        /// So many extents in front stay as they are.
        skip: usize,
        /// What the current version's extents must be from there on.
        run: Vec<Extent>,
        merged: (BlobId, u64),
        begin_time: Timestamp,
    },
    /// What became of a staged blob; abandons it if it was never committed. One that may still be committed is asked about
    /// by [`super::view::View::fate_of`].
    SettleBlob {
        group: GroupId,
        blob: BlobId,
    },
    RaiseFence {
        path: Path,
        token: FencingToken,
    },

    RegisterServer {
        registration: Registration,
    },
    /// The server's lease has run out, or a probe found it dead: it leaves every in-sync set that can spare it, and
    /// its primaries move to live members. Of a process that has been succeeded meanwhile, this says nothing.
    MarkDown {
        server: ServerId,
        /// `None`: whoever goes by the name.
        incarnation: Option<Incarnation>,
    },
    /// A node of the Directory is no member of its group any more.
    ForgetNode {
        server: ServerId,
    },
    /// A registered server is heard of again after it was marked down.
    MarkUp {
        server: ServerId,
    },
    /// The server's store takes no writes: it leaves every in-sync set that can spare it, and leads only where nobody else can.
    MarkReadOnly {
        server: ServerId,
        /// Not empty.
        reason: String,
    },
    /// The server's store takes writes again.
    MarkWritable {
        server: ServerId,
    },
    /// Passes the lead of at most `limit` groups on to servers that lead fewer.
    SpreadPrimaries {
        limit: u32,
        /// Groups that are left as they are.
        except: BTreeSet<GroupId>,
    },
    /// A primary says that a member failed it.
    EvictReplica {
        primary: ServerId,
        suspect: ServerId,
        groups: Vec<(GroupId, Epoch)>,
    },
    AddInSync {
        primary: ServerId,
        group: GroupId,
        epoch: Epoch,
        member: ServerId,
    },
    /// Begins a move: `arriving` becomes a member, and takes the place of `leaving` once it is in sync.
    MoveGroup {
        group: GroupId,
        epoch: Epoch,
        /// `None`: the group is short of members, and gets one more.
        leaving: Option<ServerId>,
        arriving: ServerId,
    },
    /// Gives up a move whose arriving member is not in sync.
    DropArriving {
        group: GroupId,
        epoch: Epoch,
    },
    /// The primary, which is being drained, gives its role to another.
    PassLead {
        group: GroupId,
        epoch: Epoch,
    },
    /// The file server's groups are to move to others.
    DrainServer {
        server: ServerId,
    },
    /// It is not to be drained any more, and keeps what it still has.
    ResumeServer {
        server: ServerId,
    },
    /// The server does not belong to the cluster any more, nor does its data folder ever again.
    RemoveServer {
        server: ServerId,
        /// It is dead and will not come back: it gives up its places, and goes with the last of them.
        lost: bool,
    },
    /// The server holds no blobs any more of groups that it left at these epochs.
    ConfirmEmptied {
        server: ServerId,
        groups: Vec<(GroupId, Epoch)>,
    },
    /// Somebody asks for the groups to be spread evenly over the file servers, or that is over.
    Rebalance {
        begin: bool,
    },
    /// The server has deleted these garbage blobs for good.
    ConfirmDeleted {
        server: ServerId,
        blobs: Vec<BlobId>,
    },

    /// Forgets about `limit` things whose time is over: history, versions, garbage, write ids, abandoned blobs, fences.
    Collect {
        limit: u32,
    },
}

/// What an applied command answers. Kept under the write id, so that a retry gets the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The entry, as the command left it.
    Entry(Box<Entry>),
    Deleted {
        count: u64,
    },
    Committed(Committed),
    Settled(Settled),
    Registered,
    /// Anything left to forget?
    Collected {
        more: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub inode: Inode,
    pub version: Version,
    pub revision: Revision,
    pub size: u64,
    pub checksum: u32,
    /// Where an append landed.
    pub offset: u64,
    pub extent_count: u32,
    pub commit_time: Timestamp,
    /// The write's blobs that the version refers to: another attempt's when the id had been committed before.
    pub blobs: Vec<BlobId>,
    /// The group's at the commit.
    pub epoch: Epoch,
    /// Everyone who had the write on stable storage, and was in sync, at the commit.
    pub in_sync: Vec<ServerId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Committed { inode: Inode, version: Version },
    Abandoned,
}
