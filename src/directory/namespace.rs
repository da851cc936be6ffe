//! Paths, directories and inodes: finding them in the present, and the few steps that every change is made of.
//!
//! The present is `inodes` and `entries`. A step that changes a row puts the old one into the history under the revision
//! that ended it, and names it in the change that it records, so that a change and the past it made are forgotten
//! together.
//!
//! Each directory has totals of what lies below it at any depth. They cost a step per ancestor, and in return deleting a
//! tree is one step that can say how much it deleted, and a move can tell whether the longest path still fits.

use redb::ReadableTable;

use crate::types::{Inode, PATH_LENGTH_MAX, Path, Revision, Version};

use super::{
    error::{Error, Rejected, StorageError},
    model::{Attributes, Change, ChangeKind, ChangeRecord, EntryKind, Link, Node, Totals},
    tables::{LinkValue, NameKey, Tables, link_in, link_out, totals_in, totals_out},
};

/// Where a path leads in the present, as far as it exists.
#[derive(Debug)]
pub(super) struct Place<'p> {
    pub path: &'p Path,
    /// The directories from the root on, down to the parent, or to the deepest that exists.
    pub ancestors: Vec<Inode>,
    /// The names of the parents that do not exist.
    pub missing: Vec<&'p str>,
    pub name: &'p str,
    /// What is at the path.
    pub link: Option<Link>,
}

impl Place<'_> {
    pub fn parent(&self) -> Inode {
        self.ancestors.last().copied().unwrap_or(Inode::ROOT)
    }

    /// What is there, or the reason that nothing is.
    pub fn existing(&self) -> Result<Link, Rejected> {
        self.link.ok_or_else(|| Rejected::EntryNotFound { path: self.path.clone() })
    }

    /// A file is there.
    pub fn existing_file(&self) -> Result<Link, Rejected> {
        let link = self.existing()?;
        match link.kind {
            EntryKind::File => Ok(link),
            EntryKind::Directory => Err(Rejected::IsADirectory { path: self.path.clone() }),
        }
    }

    /// All parents exist.
    pub fn with_parent(self) -> Result<Self, Rejected> {
        match (self.missing.is_empty(), self.path.parent()) {
            (false, Some(parent)) => Err(Rejected::EntryNotFound { path: parent }),
            _ => Ok(self),
        }
    }
}

/// The present link of a name in a directory.
pub(super) fn child(
    entries: &impl ReadableTable<NameKey, LinkValue>,
    directory: Inode,
    name: &str,
) -> Result<Option<Link>, StorageError> {
    entries.get((directory.0, name))?.map(|link| link_in(link.value())).transpose()
}

/// Where `path` leads. The root is no place: nothing can be made, moved or deleted there.
pub(super) fn locate<'p>(tables: &Tables, path: &'p Path) -> Result<Place<'p>, Error> {
    let mut segments = path.segments();
    let name = segments.next_back().ok_or(Rejected::IsTheRoot)?;
    let mut place = Place { path, ancestors: vec![Inode::ROOT], missing: Vec::new(), name, link: None };
    for (depth, segment) in segments.enumerate() {
        if !place.missing.is_empty() {
            place.missing.push(segment);
            continue;
        }
        match child(&tables.entries, place.parent(), segment)? {
            Some(Link { inode, kind: EntryKind::Directory, .. }) => place.ancestors.push(inode),
            Some(Link { kind: EntryKind::File, .. }) => {
                return Err(Rejected::NotADirectory { path: prefix(path, depth + 1) }.into());
            }
            None => place.missing.push(segment),
        }
    }
    if place.missing.is_empty() {
        place.link = child(&tables.entries, place.parent(), name)?;
    }
    Ok(place)
}

/// The first `count` segments of a path.
pub(super) fn prefix(path: &Path, count: usize) -> Path {
    let end = path.as_str().match_indices('/').nth(count).map_or(path.as_str().len(), |(index, _)| index);
    path.as_str().get(..end).and_then(|prefix| prefix.parse().ok()).unwrap_or_else(Path::root)
}

/// The row of an inode that something refers to.
pub(super) fn node(tables: &Tables, inode: Inode) -> Result<Node, StorageError> {
    let missing = StorageError::Damaged { table: "inodes", what: "a row that something refers to is missing" };
    tables.inodes.get(inode.0)?.ok_or(missing)
}

pub(super) fn totals(tables: &Tables, directory: Inode) -> Result<Totals, StorageError> {
    Ok(tables.totals.get(directory.0)?.map(|row| totals_in(row.value())).unwrap_or_default())
}

/// How much longer than `place` its longest path would be with `reach` bytes below, against the limit.
pub(super) fn check_length(path: &Path, reach: u64) -> Result<(), Rejected> {
    let fits = path.as_str().len() as u64 + reach <= PATH_LENGTH_MAX as u64;
    if fits { Ok(()) } else { Err(Rejected::PathTooLong { path: path.clone() }) }
}

/// A node that is new in this revision.
pub(super) fn fresh(tables: &Tables, kind: EntryKind, mode: u32) -> Node {
    Node {
        kind,
        parent: Inode::default(),
        name: String::new(),
        since: tables.revision,
        attributes: Attributes { create_time: tables.time, modify_time: tables.time, mode, ..Attributes::default() },
        version: Version(0),
        size: 0,
        checksum: 0,
        retired_below: Version(1),
    }
}

/// The next inode.
pub(super) fn draw_inode(tables: &mut Tables) -> Inode {
    tables.state.newest_inode.0 += 1;
    tables.state.newest_inode
}

/// Makes the directories that are missing on the way to a place; the place is then whole.
///
/// The totals are brought up to date once for all of them: a path may have two thousand segments. How far below a
/// directory its longest path reaches is left to what is put at the place, which reaches further.
pub(super) fn create_parents(tables: &mut Tables, place: &mut Place, mode: u32) -> Result<(), StorageError> {
    if place.missing.is_empty() {
        return Ok(());
    }
    let existing = place.ancestors.len();
    for name in std::mem::take(&mut place.missing) {
        let path = prefix(place.path, place.ancestors.len());
        let inode = draw_inode(tables);
        let directory = fresh(tables, EntryKind::Directory, mode);
        link(tables, place.parent(), name, inode, directory)?;
        created(tables, &path, inode, EntryKind::Directory, Version(0))?;
        place.ancestors.push(inode);
    }
    let newest = place.ancestors.len().saturating_sub(1);
    for (depth, &ancestor) in place.ancestors.iter().enumerate() {
        let new_below = newest - depth.max(existing.saturating_sub(1));
        let mut totals = totals(tables, ancestor)?;
        totals.directories += new_below as u64;
        tables.totals.insert(ancestor.0, totals_out(totals))?;
    }
    Ok(())
}

/// Puts a new node at `path`, in the last of `ancestors`.
pub(super) fn create(
    tables: &mut Tables,
    ancestors: &[Inode],
    path: &Path,
    name: &str,
    inode: Inode,
    node: Node,
) -> Result<Node, StorageError> {
    let (kind, version) = (node.kind, node.version);
    let node = attach(tables, ancestors, path, name, inode, node, Totals::default())?;
    if kind == EntryKind::Directory {
        tables.totals.insert(inode.0, totals_out(Totals::default()))?;
    }
    created(tables, path, inode, kind, version)?;
    Ok(node)
}

fn created(
    tables: &mut Tables,
    path: &Path,
    inode: Inode,
    entry_kind: EntryKind,
    version: Version,
) -> Result<(), StorageError> {
    record(tables, Event { kind: ChangeKind::Created, inode, version, entry_kind, ..Event::at(path) })
}

/// Links a node that is linked nowhere into the last of `ancestors`, with what lies below it.
pub(super) fn attach(
    tables: &mut Tables,
    ancestors: &[Inode],
    path: &Path,
    name: &str,
    inode: Inode,
    node: Node,
    below: Totals,
) -> Result<Node, StorageError> {
    let parent = ancestors.last().copied().unwrap_or(Inode::ROOT);
    let node = link(tables, parent, name, inode, node)?;
    add_below(tables, ancestors, path, node.kind, below)?;
    Ok(node)
}

/// Puts the node and its name; totals are the caller's.
fn link(tables: &mut Tables, parent: Inode, name: &str, inode: Inode, node: Node) -> Result<Node, StorageError> {
    let node = Node { parent, name: name.to_owned(), since: tables.revision, ..node };
    tables.inodes.put(inode.0, &node)?;
    let link = Link { inode, since: tables.revision, kind: node.kind };
    tables.entries.insert((parent.0, name), link_out(link))?;
    Ok(node)
}

/// Takes a node out of its directory and out of the present; what lies below it stays attached to it.
///
/// `place` must have a link.
pub(super) fn detach(tables: &mut Tables, place: &Place, link: Link, below: Totals) -> Result<Node, StorageError> {
    let parent = place.parent();
    let old = node(tables, link.inode)?;
    tables.inode_history.put((link.inode.0, tables.revision.0), &old)?;
    tables.inodes.remove(link.inode.0)?;
    tables.entry_history.insert((parent.0, place.name, tables.revision.0), link_out(link))?;
    tables.entries.remove((parent.0, place.name))?;
    remove_below(tables, &place.ancestors, link.kind, below)?;
    Ok(old)
}

/// Puts a new state of a node in the place of the old one.
pub(super) fn replace(tables: &mut Tables, inode: Inode, old: &Node, new: Node) -> Result<Node, StorageError> {
    let new = Node { since: tables.revision, ..new };
    tables.inode_history.put((inode.0, tables.revision.0), old)?;
    tables.inodes.put(inode.0, &new)?;
    Ok(new)
}

fn add_below(
    tables: &mut Tables,
    ancestors: &[Inode],
    path: &Path,
    kind: EntryKind,
    below: Totals,
) -> Result<(), StorageError> {
    let mut reach = below.reach;
    // From the entry's own name up to the name of the root's child.
    for (&ancestor, name) in ancestors.iter().rev().zip(path.segments().rev()) {
        reach += 1 + name.len() as u64;
        let mut totals = totals(tables, ancestor)?;
        totals.files += below.files + u64::from(kind == EntryKind::File);
        totals.directories += below.directories + u64::from(kind == EntryKind::Directory);
        totals.reach = totals.reach.max(reach);
        tables.totals.insert(ancestor.0, totals_out(totals))?;
    }
    Ok(())
}

fn remove_below(tables: &mut Tables, ancestors: &[Inode], kind: EntryKind, below: Totals) -> Result<(), StorageError> {
    for &ancestor in ancestors {
        let mut totals = totals(tables, ancestor)?;
        totals.files = totals.files.saturating_sub(below.files + u64::from(kind == EntryKind::File));
        totals.directories =
            totals.directories.saturating_sub(below.directories + u64::from(kind == EntryKind::Directory));
        if totals.files + totals.directories == 0 {
            totals.reach = 0;
        }
        tables.totals.insert(ancestor.0, totals_out(totals))?;
    }
    Ok(())
}

/// What to record of a change, and which rows it ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    pub kind: ChangeKind,
    pub path: &'a Path,
    pub from_path: Option<&'a Path>,
    pub inode: Inode,
    pub version: Version,
    pub entry_kind: EntryKind,
    /// The inode has a row of history that ended now.
    pub ended_inode: bool,
    /// The entry that ended now.
    pub ended_entry: Option<(Inode, &'a str)>,
}

impl<'a> Event<'a> {
    /// A change that ended nothing.
    pub fn at(path: &'a Path) -> Self {
        Self {
            kind: ChangeKind::Created,
            path,
            from_path: None,
            inode: Inode::ROOT,
            version: Version(0),
            entry_kind: EntryKind::Directory,
            ended_inode: false,
            ended_entry: None,
        }
    }
}

/// Adds a change to the feed.
pub(super) fn record(tables: &mut Tables, event: Event) -> Result<(), StorageError> {
    let change = Change {
        revision: tables.revision,
        time: tables.time,
        kind: event.kind,
        path: event.path.clone(),
        from_path: event.from_path.cloned(),
        inode: event.inode,
        version: event.version,
        entry_kind: event.entry_kind,
    };
    let ended_entry = event.ended_entry.map(|(parent, name)| (parent, name.to_owned()));
    let key = (tables.revision.0, tables.change_count);
    tables.changes.put(key, &ChangeRecord { change, ended_inode: event.ended_inode, ended_entry })?;
    tables.change_count += 1;
    Ok(())
}

/// The path of a live inode, found by going up; `None` when it, or a directory above it, has been deleted.
pub(super) fn path_of(tables: &Tables, inode: Inode, node: &Node) -> Result<Option<Path>, StorageError> {
    path_above(inode, node.clone(), |parent| tables.inodes.get(parent.0))
}

/// Goes up from a node to the root by what `look_up` knows of each parent.
pub(super) fn path_above(
    inode: Inode,
    node: Node,
    mut look_up: impl FnMut(Inode) -> Result<Option<Node>, StorageError>,
) -> Result<Option<Path>, StorageError> {
    let (mut inode, mut node) = (inode, node);
    let mut names = Vec::new();
    while inode != Inode::ROOT {
        // Each step up costs a byte of path at least, so a longer way is a circle.
        if names.len() > PATH_LENGTH_MAX {
            return Err(StorageError::Damaged { table: "inodes", what: "the parents of an inode form a circle" });
        }
        inode = node.parent;
        names.push(std::mem::take(&mut node.name));
        match look_up(inode)? {
            Some(parent) => node = parent,
            None => return Ok(None),
        }
    }
    let text = names.iter().rev().fold(String::new(), |text, name| text + "/" + name);
    let text = if text.is_empty() { "/" } else { &text };
    text.parse().map(Some).map_err(|_| StorageError::Damaged { table: "inodes", what: "a name or path is malformed" })
}

/// The revision after, for ranges that begin behind one.
pub(super) fn after(revision: Revision) -> u64 {
    revision.0.saturating_add(1)
}
