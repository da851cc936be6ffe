//! Which group this node belongs to: a name that the founder draws, and that everything said between nodes carries.
//!
//! Without it a wrong address in `--join`, or an address that has passed to another cluster, could make one group out of two.
//! Whoever joins learns the name from the answer to its request, keeps it beside the log, and from then on listens to nobody
//! else; until then it listens to nobody at all.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use super::{convert::Malformed, error::Error, log::LogError, types::NodeId};
use crate::{durable, pb::storage::raft as stored};

const FILE: &str = "GROUP";
const MAGIC: [u8; 8] = *b"dfs:rgrp";
const FORMAT: u32 = 1;

/// The name of a group. Nil: of one from before groups had names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupUid(Uuid);

impl GroupUid {
    pub const NONE: Self = Self(Uuid::nil());

    pub fn draw() -> Self {
        Self(Uuid::new_v4())
    }

    /// As on the wire.
    pub fn to_wire(self) -> Bytes {
        match self.0.is_nil() {
            true => Bytes::new(),
            false => Bytes::copy_from_slice(self.0.as_bytes()),
        }
    }

    pub fn from_wire(bytes: &[u8]) -> Result<Self, Malformed> {
        match bytes {
            [] => Ok(Self::NONE),
            bytes => Uuid::from_slice(bytes).map(Self).map_err(|_| Malformed("the name of a group has 16 bytes")),
        }
    }
}

impl fmt::Display for GroupUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_nil() {
            true => f.write_str("without a name"),
            false => write!(f, "{}", self.0.simple()),
        }
    }
}

/// What a node keeps beside its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// `None`: not known, until a group takes the node in.
    pub group: Option<GroupUid>,
    /// Drawn since the log of an earlier self was lost; `None`: the node is the one that its data folder names.
    pub node: Option<NodeId>,
    /// Where the earlier self knew other nodes.
    pub addresses: Vec<String>,
    /// The folder is a copy of one whose node goes on.
    pub copied: bool,
}

impl Kept {
    /// What the folder of a log says; `None` if it says nothing. Blocking.
    pub fn read(folder: &Path) -> Result<Option<Self>, LogError> {
        let path = folder.join(FILE);
        let damaged = |what: &str| LogError::Damaged { path: path.clone(), what: what.to_owned() };
        let sealed = match durable::read_sealed(&path, MAGIC, FORMAT) {
            Err(durable::Error::BadFile(durable::BadFile::Damaged { what, .. })) => return Err(damaged(what)),
            sealed => sealed?,
        };
        let Some(bytes) = sealed else { return Ok(None) };
        let stored = stored::GroupIdentity::decode(bytes.as_slice()).map_err(|_| damaged("it names no group"))?;
        let group = stored.group_uid.as_deref().map(GroupUid::from_wire).transpose();
        Ok(Some(Self {
            group: group.map_err(|error| damaged(error.0))?,
            node: Some(stored.node_id).filter(|node| *node != 0),
            addresses: stored.addresses,
            copied: stored.copied,
        }))
    }

    /// Blocking.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let stored = stored::GroupIdentity {
            group_uid: self.group.map(GroupUid::to_wire),
            node_id: self.node.unwrap_or_default(),
            addresses: self.addresses.clone(),
            copied: self.copied,
        };
        durable::write_sealed(&folder.join(FILE), MAGIC, FORMAT, &stored.encode_to_vec())
    }
}

/// Of one node; the group is learned at most once.
#[derive(Debug)]
pub struct Identity {
    /// Whose group it is: `directory` or `lock`.
    pub service: &'static str,
    folder: PathBuf,
    kept: RwLock<Kept>,
}

impl Identity {
    pub fn new(folder: &Path, service: &'static str, kept: Kept) -> Self {
        Self { service, folder: folder.to_owned(), kept: RwLock::new(kept) }
    }

    fn kept(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where an earlier self of this node knew others.
    pub fn addresses(&self) -> Vec<String> {
        self.kept().addresses.clone()
    }

    /// `None` until a group has taken this node in.
    pub fn group(&self) -> Option<GroupUid> {
        self.kept().group
    }

    /// As every message of this node says it.
    pub fn to_wire(&self) -> Bytes {
        self.group().map(GroupUid::to_wire).unwrap_or_default()
    }

    /// From now on this node belongs to the group, also after a restart. Blocking.
    pub fn learn(&self, group: GroupUid) -> io::Result<()> {
        self.keep(|kept| kept.group = Some(group))
    }

    /// The group's own list of its nodes is known from now on. Blocking.
    pub fn forget_addresses(&self) -> io::Result<()> {
        self.keep(|kept| kept.addresses.clear())
    }

    /// Another process takes part as this node: what this folder says of its promises is not all of them. Blocking.
    pub fn mark_copied(&self) -> io::Result<()> {
        self.keep(|kept| kept.copied = true)
    }

    fn keep(&self, change: impl FnOnce(&mut Kept)) -> io::Result<()> {
        let mut kept = self.kept().clone();
        change(&mut kept);
        kept.write(&self.folder)?;
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(())
    }

    /// Whether what a message says is this node's group. `None`: this node has none yet.
    pub fn compare(&self, theirs: GroupUid) -> Option<Result<(), Error>> {
        let ours = self.group()?;
        let refusal =
            || Error::OtherGroup { service: self.service, ours: ours.to_string(), theirs: theirs.to_string() };
        Some(if ours == theirs { Ok(()) } else { Err(refusal()) })
    }

    /// Whether somebody else's service, empty if it does not say, is this node's.
    pub fn compare_service(&self, theirs: &str) -> Result<(), Error> {
        match theirs.is_empty() || theirs == self.service {
            true => Ok(()),
            false => Err(Error::OtherService { service: self.service, theirs: theirs.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_there_after_a_restart_and_damage_is_said() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Kept::read(folder.path()).unwrap(), None);
        let (group, other) = (GroupUid::draw(), GroupUid::draw());
        let rejoined = Kept { group: None, node: Some(7), addresses: vec!["a:1".to_owned()], copied: false };
        rejoined.write(folder.path()).unwrap();
        assert_eq!(Kept::read(folder.path()).unwrap().as_ref(), Some(&rejoined));
        let identity = Identity::new(folder.path(), "directory", rejoined.clone());
        assert!(identity.compare(group).is_none(), "it has none yet");
        identity.learn(group).unwrap();
        identity.forget_addresses().unwrap();
        identity.mark_copied().unwrap();
        let rejoined = Kept { addresses: Vec::new(), copied: true, ..rejoined };
        assert_eq!(Kept::read(folder.path()).unwrap(), Some(Kept { group: Some(group), ..rejoined }));
        assert_eq!(identity.compare(group), Some(Ok(())));
        assert!(matches!(identity.compare(other), Some(Err(Error::OtherGroup { .. }))));
        let path = folder.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[30] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(Kept::read(folder.path()), Err(LogError::Damaged { .. })));
    }

    #[test]
    fn a_group_from_before_there_were_names_is_one_by_itself() {
        let nameless = GroupUid::from_wire(&[]).unwrap();
        assert_eq!(nameless.to_wire(), Bytes::new());
        assert_ne!(nameless, GroupUid::draw());
        assert!(GroupUid::from_wire(&[1; 15]).is_err());
    }
}
