//! Merging extents: many small pieces of a version, one after the other, become one blob with the same bytes.
//!
//! Changes neither bytes nor version, so nobody who reads can tell; readers that looked up before still find the old
//! blobs for the time of grace. The primary has compared the checksums before it asks.

use crate::types::{BlobId, Epoch, Extent, GroupId, Inode, ServerId, Timestamp};

use super::{
    blobs,
    command::Outcome,
    commit, content,
    error::{Error, Rejected},
    model::{EntryKind, blobs_of},
    namespace,
    state::Effect,
    tables::Tables,
};

/// A merge as asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Merge<'a> {
    pub primary: &'a ServerId,
    pub group: GroupId,
    pub epoch: Epoch,
    pub inode: Inode,
    /// So many extents in front stay as they are.
    pub skip: usize,
    pub run: &'a [Extent],
    pub merged: (BlobId, u64),
    pub begin_time: Timestamp,
}

pub(super) fn merge_extents(tables: &mut Tables, asked: Merge) -> Result<Effect, Error> {
    let (blob, length) = asked.merged;
    let not_found = Rejected::InodeNotFound { inode: asked.inode.0 };
    let Some(node) = tables.inodes.get(asked.inode.0)? else { return Err(not_found.into()) };
    if node.kind != EntryKind::File || namespace::path_of(tables, asked.inode, &node)?.is_none() {
        return Err(not_found.into());
    }
    let mut version = commit::newest(tables, asked.inode, &node)?;
    let merged = Extent { group: asked.group, blob, blob_offset: 0, length };
    if version.extents.get(asked.skip) == Some(&merged) {
        return Ok(Effect::Nothing(Outcome::Done));
    }
    commit::check_group(tables, asked.primary, asked.group, asked.epoch)?;
    commit::check_young(tables, asked.begin_time)?;
    commit::check_pieces(tables, &[asked.merged])?;
    let split = version.extents.split_at_checked(asked.skip);
    let Some((kept, Some(rest))) = split.map(|(kept, rest)| (kept, rest.strip_prefix(asked.run))) else {
        return Err(Rejected::ExtentsChanged.into());
    };
    if asked.run.is_empty() || content::length(asked.run) != length {
        return Err(Rejected::ExtentsChanged.into());
    }

    let before = blobs_of(&version.extents);
    version.extents = kept.iter().chain([&merged]).chain(rest).copied().collect();
    let after = blobs_of(&version.extents);
    blobs::admit(tables, asked.group, blob, length, (asked.inode, node.version))?;
    blobs::reference(tables, blob)?;
    for blob in before {
        if after.binary_search(&blob).is_err() {
            blobs::release(tables, blob)?;
        }
    }
    tables.versions.put((asked.inode.0, node.version.0), &version)?;
    Ok(Effect::Changed(Outcome::Done))
}
