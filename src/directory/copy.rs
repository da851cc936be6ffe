//! Copy and restore: versions made of extents that exist already. No data moves.

use crate::types::{Inode, Path, Precondition, Version, WriteId};

use super::{
    command::Outcome,
    content::{self, Content},
    error::{Error, Rejected},
    fence,
    model::{EntryKind, FileVersion, Link, Node},
    namespace::{self, Place},
    state::Effect,
    tables::Tables,
};

/// A copy as asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy<'a> {
    pub write_id: WriteId,
    pub from: &'a Path,
    /// `None`: the newest.
    pub from_version: Option<Version>,
    pub to: &'a Path,
    pub replace: bool,
    pub to_precondition: &'a Precondition,
}

pub(super) fn copy_entry(tables: &mut Tables, asked: Copy) -> Result<Effect, Error> {
    let source = namespace::locate(tables, asked.from)?.with_parent()?.existing_file()?;
    let source_node = namespace::node(tables, source.inode)?;
    let wanted = asked.from_version.unwrap_or(source_node.version);
    let content = content_of(tables, asked.from, source.inode, wanted)?;
    let target = namespace::locate(tables, asked.to)?.with_parent()?;
    let replaced = check_target(tables, &asked, &target)?;

    fence::raise(tables, asked.to, asked.to_precondition.fencing_token)?;
    let (inode, node) = match replaced {
        Some((inode, old)) => (inode, content::write_file(tables, asked.to, inode, old, content, asked.write_id)?),
        None => {
            let mut node = namespace::fresh(tables, EntryKind::File, source_node.attributes.mode);
            node.attributes.owner = source_node.attributes.owner;
            node.attributes.owning_group = source_node.attributes.owning_group;
            node.attributes.extended = source_node.attributes.extended;
            let ancestors = &target.ancestors;
            content::create_file(tables, ancestors, asked.to, target.name, node, content, asked.write_id)?
        }
    };
    Ok(Effect::Changed(Outcome::Entry(Box::new(node.entry(inode, asked.to.clone())))))
}

/// Whether the copy may be made there, and which file would get it as its next version.
fn check_target(tables: &Tables, asked: &Copy, target: &Place) -> Result<Option<(Inode, Node)>, Error> {
    let path = || asked.to.clone();
    let precondition = asked.to_precondition;
    let file = match target.link {
        None => None,
        Some(_) if !asked.replace => return Err(Rejected::EntryExists { path: path() }.into()),
        Some(Link { kind: EntryKind::Directory, .. }) => return Err(Rejected::IsADirectory { path: path() }.into()),
        Some(_) if precondition.is_none() => return Err(Rejected::LockRequired { path: path() }.into()),
        Some(Link { inode, .. }) => Some((inode, namespace::node(tables, inode)?)),
    };
    let current = file.as_ref().map_or(Version(0), |(_, node)| node.version);
    check_precondition(tables, asked.to, precondition, current)?;
    Ok(file)
}

pub(super) fn restore_version(
    tables: &mut Tables,
    write_id: WriteId,
    path: &Path,
    version: Version,
    precondition: &Precondition,
) -> Result<Effect, Error> {
    let link = namespace::locate(tables, path)?.with_parent()?.existing_file()?;
    if precondition.is_none() {
        return Err(Rejected::LockRequired { path: path.clone() }.into());
    }
    let old = namespace::node(tables, link.inode)?;
    check_precondition(tables, path, precondition, old.version)?;
    let content = content_of(tables, path, link.inode, version)?;

    fence::raise(tables, path, precondition.fencing_token)?;
    let node = content::write_file(tables, path, link.inode, old, content, write_id)?;
    Ok(Effect::Changed(Outcome::Entry(Box::new(node.entry(link.inode, path.clone())))))
}

fn content_of(tables: &Tables, path: &Path, inode: Inode, version: Version) -> Result<Content, Error> {
    let row = tables.versions.get((inode.0, version.0))?;
    let FileVersion { size, checksum, extents, .. } =
        row.ok_or_else(|| Rejected::VersionNotFound { path: path.clone(), version })?;
    Ok(Content { size, checksum, extents })
}

fn check_precondition(
    tables: &Tables,
    path: &Path,
    precondition: &Precondition,
    current: Version,
) -> Result<(), Error> {
    fence::check(tables, path, precondition.fencing_token)?;
    match precondition.if_version {
        Some(expected) if expected != current => {
            Err(Rejected::VersionMismatch { path: path.clone(), expected, current }.into())
        }
        _ => Ok(()),
    }
}
