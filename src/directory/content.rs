//! What a file holds: lists of extents, how a write changes them, and the step that makes a version out of them.

use crate::types::{Extent, Inode, Path, Version, WriteId};

use super::{
    blobs,
    error::{Rejected, StorageError},
    model::{ChangeKind, EntryKind, FileVersion, Node, blobs_of},
    namespace::{self, Event},
    retention,
    tables::Tables,
};

/// More extents than this in one version are refused; the primary merges long before.
pub(super) const EXTENTS_MAX: usize = 1024;

/// What a version is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub size: u64,
    pub checksum: u32,
    pub extents: Vec<Extent>,
}

/// `old` with `new` in the place of what was at `offset`, which is at most the length of `old`.
pub(super) fn splice(old: &[Extent], offset: u64, new: &[Extent]) -> Vec<Extent> {
    let end = offset + length(new);
    let mut spliced = Vec::with_capacity(old.len() + new.len() + 1);
    spliced.extend(cut(old, 0, offset));
    spliced.extend_from_slice(new);
    spliced.extend(cut(old, end, u64::MAX));
    spliced
}

/// The part of the content from `from` to `to`.
fn cut(extents: &[Extent], from: u64, to: u64) -> Vec<Extent> {
    let mut position = 0;
    let mut part = Vec::new();
    for extent in extents {
        let (begin, end) = (position.max(from), (position + extent.length).min(to));
        if begin < end {
            let blob_offset = extent.blob_offset + (begin - position);
            part.push(Extent { blob_offset, length: end - begin, ..*extent });
        }
        position += extent.length;
    }
    part
}

pub(super) fn length(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.length).sum()
}

/// Whether a version may have these extents.
pub(super) fn check_count(path: &Path, extents: &[Extent]) -> Result<(), Rejected> {
    if extents.len() <= EXTENTS_MAX {
        return Ok(());
    }
    Err(Rejected::TooManyExtents { path: path.clone(), limit: EXTENTS_MAX as u32 })
}

/// A new file at `path`, in the last of `ancestors`, with its first version.
///
/// Blobs that the content names for the first time must be there without references.
pub(super) fn create_file(
    tables: &mut Tables,
    ancestors: &[Inode],
    path: &Path,
    name: &str,
    node: Node,
    content: Content,
    write_id: WriteId,
) -> Result<(Inode, Node), StorageError> {
    let inode = namespace::draw_inode(tables);
    let node = Node { version: Version(1), size: content.size, checksum: content.checksum, ..node };
    put_version(tables, inode, node.version, content, write_id)?;
    let node = namespace::create(tables, ancestors, path, name, inode, node)?;
    Ok((inode, node))
}

/// The next version of the file at `path`.
pub(super) fn write_file(
    tables: &mut Tables,
    path: &Path,
    inode: Inode,
    old: Node,
    content: Content,
    write_id: WriteId,
) -> Result<Node, StorageError> {
    let mut new = old.clone();
    new.version = Version(old.version.0 + 1);
    new.size = content.size;
    new.checksum = content.checksum;
    new.attributes.modify_time = tables.time;
    put_version(tables, inode, new.version, content, write_id)?;
    retention::retire(tables, inode, &mut new)?;
    let new = namespace::replace(tables, inode, &old, new)?;
    let event = Event {
        kind: ChangeKind::Written,
        inode,
        version: new.version,
        entry_kind: EntryKind::File,
        ended_inode: true,
        ..Event::at(path)
    };
    namespace::record(tables, event)?;
    Ok(new)
}

fn put_version(
    tables: &mut Tables,
    inode: Inode,
    version: Version,
    content: Content,
    write_id: WriteId,
) -> Result<(), StorageError> {
    for blob in blobs_of(&content.extents) {
        blobs::reference(tables, blob)?;
    }
    let row = FileVersion {
        revision: tables.revision,
        time: tables.time,
        size: content.size,
        checksum: content.checksum,
        write_id,
        extents: content.extents,
    };
    tables.versions.put((inode.0, version.0), &row)
}
