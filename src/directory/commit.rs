//! The commit of a write: the one place where it is decided whether a write has happened.
//!
//! The primary comes with blobs that are on stable storage on every in-sync member. Here, in one step, it is checked that
//! it still is the primary of that very configuration, that the write was not given up meanwhile, that its lock still
//! holds and that the file is what the writer thinks it is; then the version exists, whole, or nothing has changed.

use std::time::Duration;

use crate::{
    cluster::Group,
    types::{
        BLOB_LENGTH_MAX, BlobId, Epoch, Extent, GroupId, Inode, ServerId, Timestamp, Version, WRITE_DURATION_MAX,
        WriteMode, crc32c_combine,
    },
};

use super::{
    blobs,
    command::{Committed, Outcome, WriteCommit},
    content::{self, Content},
    error::{Error, Rejected, StorageError},
    fence,
    model::{EntryKind, FileVersion, Node},
    namespace::{self, Place},
    state::Effect,
    tables::Tables,
};

/// The file that a write is to change.
struct Current {
    inode: Inode,
    node: Node,
    content: FileVersion,
}

pub(super) fn commit_write(tables: &mut Tables, primary: &ServerId, commit: &WriteCommit) -> Result<Effect, Error> {
    let config = check_group(tables, primary, commit.group, commit.epoch)?;
    check_young(tables, commit.begin_time)?;
    check_pieces(tables, &commit.pieces)?;
    let mut place = namespace::locate(tables, &commit.path)?;
    if !commit.create_parents {
        place = place.with_parent()?;
    }
    let current = current(tables, &place)?;
    check_precondition(tables, commit, current.as_ref())?;
    let (offset, content) = resulting_content(commit, current.as_ref().map(|current| &current.content))?;
    content::check_count(&commit.path, &content.extents)?;

    fence::raise(tables, &commit.path, commit.precondition.fencing_token)?;
    let (size, checksum, extent_count) = (content.size, content.checksum, content.extents.len() as u32);
    let (inode, version) = match current {
        Some(Current { inode, node, .. }) => {
            admit(tables, commit, (inode, Version(node.version.0 + 1)))?;
            let node = content::write_file(tables, &commit.path, inode, node, content, commit.write_id)?;
            (inode, node.version)
        }
        None => create(tables, commit, &mut place, content)?,
    };
    Ok(Effect::Changed(Outcome::Committed(Committed {
        inode,
        version,
        revision: tables.revision,
        size,
        checksum,
        offset,
        extent_count,
        commit_time: tables.time,
        blobs: commit.pieces.iter().map(|&(blob, _)| blob).collect(),
        epoch: config.epoch,
        in_sync: config.in_sync,
    })))
}

fn create(
    tables: &mut Tables,
    commit: &WriteCommit,
    place: &mut Place,
    content: Content,
) -> Result<(Inode, Version), StorageError> {
    namespace::create_parents(tables, place, PARENT_MODE)?;
    // The inode is drawn where the file is made; its number is the next.
    admit(tables, commit, (Inode(tables.state.newest_inode.0 + 1), Version(1)))?;
    let node = namespace::fresh(tables, EntryKind::File, commit.create_mode);
    let (inode, node) =
        content::create_file(tables, &place.ancestors, &commit.path, place.name, node, content, commit.write_id)?;
    Ok((inode, node.version))
}

/// Permission bits of directories that are made on the way to a new file.
const PARENT_MODE: u32 = 0o755;

fn admit(tables: &mut Tables, commit: &WriteCommit, owner: (Inode, Version)) -> Result<(), StorageError> {
    for &(blob, length) in &commit.pieces {
        blobs::admit(tables, commit.group, blob, length, owner)?;
    }
    Ok(())
}

/// The caller is the primary of the group's present configuration, which is answered, and enough members have its blobs.
pub(super) fn check_group(tables: &Tables, primary: &ServerId, group: GroupId, epoch: Epoch) -> Result<Group, Error> {
    let needed = tables.cluster()?.settings.min_in_sync;
    let config = tables.groups.get(group.0)?.ok_or(Rejected::GroupNotFound { group })?;
    if config.epoch != epoch || !config.is_primary(primary) {
        return Err(Rejected::StaleEpoch { group, current: config.epoch }.into());
    }
    let have = config.in_sync.len() as u32;
    if have < needed {
        return Err(Rejected::NotEnoughInSync { group, needed, have }.into());
    }
    Ok(config)
}

/// Write ids and given up blobs are remembered for longer than a write may take, so that nothing can be committed after
/// what forbids it was forgotten.
pub(super) fn check_young(tables: &Tables, begin_time: Timestamp) -> Result<(), Rejected> {
    let young = Duration::from_millis(tables.time.millis_since(begin_time)) < WRITE_DURATION_MAX;
    if young { Ok(()) } else { Err(Rejected::WriteExpired) }
}

pub(super) fn check_pieces(tables: &Tables, pieces: &[(BlobId, u64)]) -> Result<(), Error> {
    let mut seen = std::collections::BTreeSet::new();
    for &(blob, length) in pieces {
        if !(1..=BLOB_LENGTH_MAX).contains(&length) || !seen.insert(blob) {
            return Err(Rejected::BadBlob { blob }.into());
        }
        blobs::check_new(tables, blob)?;
    }
    Ok(())
}

/// The file at the place; none is fine.
fn current(tables: &Tables, place: &Place) -> Result<Option<Current>, Error> {
    if place.link.is_none() {
        return Ok(None);
    }
    let inode = place.existing_file()?.inode;
    let node = namespace::node(tables, inode)?;
    let content = newest(tables, inode, &node)?;
    Ok(Some(Current { inode, node, content }))
}

/// What the newest version of a file holds.
pub(super) fn newest(tables: &Tables, inode: Inode, node: &Node) -> Result<FileVersion, StorageError> {
    let missing = StorageError::Damaged { table: "versions", what: "the newest version of a file is missing" };
    tables.versions.get((inode.0, node.version.0))?.ok_or(missing)
}

fn check_precondition(tables: &Tables, commit: &WriteCommit, current: Option<&Current>) -> Result<(), Error> {
    let path = || commit.path.clone();
    if commit.precondition.is_none() && commit.mode != WriteMode::Append {
        return Err(Rejected::LockRequired { path: path() }.into());
    }
    fence::check(tables, &commit.path, commit.precondition.fencing_token)?;
    let version = current.map_or(Version(0), |current| current.node.version);
    if let Some(expected) = commit.precondition.if_version
        && expected != version
    {
        return Err(Rejected::VersionMismatch { path: path(), expected, current: version }.into());
    }
    let inode = current.map_or(Inode(0), |current| current.inode);
    if let Some(expected) = commit.base_inode
        && expected != inode
    {
        return Err(Rejected::InodeMismatch { path: path(), expected: expected.0, current: inode.0 }.into());
    }
    if let (WriteMode::Patch { .. }, Some(_)) = (commit.mode, current) {
        // The checksum of the result was computed from the bytes of this version.
        let expected = commit.patched.map_or(Version(0), |patched| patched.base_version);
        if expected != version {
            return Err(Rejected::VersionMismatch { path: path(), expected, current: version }.into());
        }
    }
    Ok(())
}

/// Where the write's data begins, and what the file then holds.
fn resulting_content(commit: &WriteCommit, current: Option<&FileVersion>) -> Result<(u64, Content), Rejected> {
    let written: Vec<Extent> = commit
        .pieces
        .iter()
        .map(|&(blob, length)| Extent { group: commit.group, blob, blob_offset: 0, length })
        .collect();
    let length = content::length(&written);
    match (commit.mode, current) {
        (WriteMode::Replace, _) | (WriteMode::Append, None) => {
            Ok((0, Content { size: length, checksum: commit.checksum, extents: written }))
        }
        (WriteMode::Append, Some(old)) => {
            let checksum = crc32c_combine(old.checksum, commit.checksum, length);
            let extents = old.extents.iter().copied().chain(written).collect();
            Ok((old.size, Content { size: old.size + length, checksum, extents }))
        }
        (WriteMode::Patch { .. }, None) => Err(Rejected::EntryNotFound { path: commit.path.clone() }),
        (WriteMode::Patch { offset }, Some(old)) => patched_content(commit, offset, old, &written, length),
    }
}

fn patched_content(
    commit: &WriteCommit,
    offset: u64,
    old: &FileVersion,
    written: &[Extent],
    length: u64,
) -> Result<(u64, Content), Rejected> {
    if offset > old.size {
        return Err(Rejected::OffsetOutOfRange { path: commit.path.clone(), offset, size: old.size });
    }
    let checksum = commit.patched.map_or(0, |patched| patched.checksum);
    let extents = content::splice(&old.extents, offset, written);
    Ok((offset, Content { size: old.size.max(offset + length), checksum, extents }))
}
