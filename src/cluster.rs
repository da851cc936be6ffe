//! Who belongs to the cluster, as plain data: what the Directory decides and every other process knows.
//!
//! It lives outside of [`crate::directory`] because file servers and clients read it too, and the services never import
//! each other. On the wire it is `ClusterMap`; see [`crate::convert::cluster`].

use std::collections::BTreeMap;

use crate::types::{ClusterId, Epoch, GroupId, Path, ServerId, Timestamp};

/// A replica group: the file servers that hold the same blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub group: GroupId,
    pub epoch: Epoch,
    pub members: Vec<ServerId>,
    /// The members whose acknowledgement counts; a subset, never empty.
    pub in_sync: Vec<ServerId>,
    /// One of `in_sync`; `None` while none of them is alive.
    pub primary: Option<ServerId>,
    /// The move that is under way, if any.
    pub replacement: Option<Replacement>,
}

/// One member gives its place to another. Both are members until the new one is in sync; then the old one leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    pub leaving: ServerId,
    pub arriving: ServerId,
}

impl Group {
    pub fn is_primary(&self, server: &ServerId) -> bool {
        self.primary.as_ref() == Some(server)
    }

    pub fn is_member(&self, server: &ServerId) -> bool {
        self.members.contains(server)
    }

    pub fn is_in_sync(&self, server: &ServerId) -> bool {
        self.in_sync.contains(server)
    }

    pub fn is_leaving(&self, server: &ServerId) -> bool {
        self.replacement.as_ref().is_some_and(|replacement| replacement.leaving == *server)
    }

    pub fn is_arriving(&self, server: &ServerId) -> bool {
        self.replacement.as_ref().is_some_and(|replacement| replacement.arriving == *server)
    }

    /// How many members there are, not counting one that is only arriving.
    pub fn place_count(&self) -> usize {
        self.members.len().saturating_sub(usize::from(self.replacement.is_some()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    Up,
    /// Its lease has run out.
    Down,
    /// Up, and its groups are being moved to others.
    Draining,
}

/// How to reach a server, and how it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub server: ServerId,
    pub state: ServerState,
    /// `host:port` for servers of the cluster.
    pub address: String,
    /// `host:port` for clients outside of the cluster's network; empty: the same.
    pub external_address: String,
    pub zone: String,
    pub disk_used_bytes: u64,
    pub disk_total_bytes: u64,
    pub blob_count: u64,
    /// `None`: not since the Directory started.
    pub last_seen: Option<Timestamp>,
    pub software_version: String,
    /// Why its store takes no writes; empty: it does.
    pub read_only_reason: String,
    /// Bytes of the blobs it holds, as its log has them.
    pub stored_bytes: u64,
    /// Its groups are being moved to others; also while it is down.
    pub draining: bool,
    /// Since when it is down; `None` while it is not.
    pub down_since: Option<Timestamp>,
    /// Groups that it is a member of, arriving ones included.
    pub group_count: u32,
    /// Groups that it leads.
    pub lead_count: u32,
}

impl Server {
    /// Where a client outside of the cluster's network finds it.
    pub fn client_address(&self) -> &str {
        if self.external_address.is_empty() { &self.address } else { &self.external_address }
    }
}

/// Who is who: groups, epochs, primaries, addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMap {
    /// Higher after every change.
    pub map_version: u64,
    pub cluster: ClusterId,
    /// 0 until enough file servers have registered.
    pub group_count: u32,
    pub groups: BTreeMap<GroupId, Group>,
    pub servers: BTreeMap<ServerId, Server>,
    pub lock_servers: Vec<Server>,
    pub directory_servers: Vec<Server>,
    pub copies: u32,
    pub min_in_sync: u32,
}

impl ClusterMap {
    /// The group that a file at this path is written to.
    pub fn group_of(&self, path: &Path) -> Option<&Group> {
        self.groups.get(&path.group(self.group_count)?)
    }

    /// The primary of a group, if it has one and its address is known.
    pub fn primary_of(&self, group: GroupId) -> Option<&Server> {
        self.servers.get(self.groups.get(&group)?.primary.as_ref()?)
    }
}
