//! The mutations of the namespace that carry no data: create a directory, update, move, delete.
//!
//! Each checks everything, then changes. A move and a delete cost the depth of the paths, whatever lies below:
//! descendants stay attached to the directory, and a deleted tree keeps its rows, out of reach of the present, until
//! the past that still shows it is forgotten (`retention`).

use std::collections::BTreeMap;

use crate::types::{Inode, Path, Precondition, Version};

use super::{
    command::{AttributeChanges, Outcome},
    error::{Error, Rejected},
    fence,
    model::{ChangeKind, EntryKind, Link, Totals},
    namespace::{self, Event, Place},
    state::Effect,
    tables::Tables,
};

/// Names and values together: attributes are for notes, not for data.
const EXTENDED_ATTRIBUTES_LENGTH_MAX: u64 = 64 << 10;

pub(super) fn create_directory(tables: &mut Tables, path: &Path, parents: bool, mode: u32) -> Result<Effect, Error> {
    if path.is_root() {
        return existing_directory(tables, path, Inode::ROOT, parents);
    }
    let mut place = namespace::locate(tables, path)?;
    match place.link {
        Some(Link { inode, kind: EntryKind::Directory, .. }) => existing_directory(tables, path, inode, parents),
        Some(_) => Err(Rejected::EntryExists { path: path.clone() }.into()),
        None => {
            if !parents {
                place = place.with_parent()?;
            }
            namespace::create_parents(tables, &mut place, mode)?;
            let inode = namespace::draw_inode(tables);
            let node = namespace::fresh(tables, EntryKind::Directory, mode);
            let node = namespace::create(tables, &place.ancestors, path, place.name, inode, node)?;
            Ok(Effect::Changed(Outcome::Entry(Box::new(node.entry(inode, path.clone())))))
        }
    }
}

fn existing_directory(tables: &Tables, path: &Path, inode: Inode, allowed: bool) -> Result<Effect, Error> {
    if !allowed {
        return Err(Rejected::EntryExists { path: path.clone() }.into());
    }
    let node = namespace::node(tables, inode)?;
    Ok(Effect::Nothing(Outcome::Entry(Box::new(node.entry(inode, path.clone())))))
}

pub(super) fn update(tables: &mut Tables, path: &Path, changes: &AttributeChanges) -> Result<Effect, Error> {
    let inode =
        if path.is_root() { Inode::ROOT } else { namespace::locate(tables, path)?.with_parent()?.existing()?.inode };
    if let Some(extended) = &changes.extended_attributes {
        check_attributes(extended)?;
    }
    let old = namespace::node(tables, inode)?;
    let mut attributes = old.attributes.clone();
    if let Some(mode) = changes.mode {
        attributes.mode = mode;
    }
    if let Some(owner) = &changes.owner {
        attributes.owner = owner.clone();
    }
    if let Some(owning_group) = &changes.owning_group {
        attributes.owning_group = owning_group.clone();
    }
    if let Some(modify_time) = changes.modify_time {
        attributes.modify_time = modify_time;
    }
    if let Some(extended) = &changes.extended_attributes {
        attributes.extended = extended.clone();
    }
    if attributes == old.attributes {
        return Ok(Effect::Nothing(Outcome::Entry(Box::new(old.entry(inode, path.clone())))));
    }
    let mut new = old.clone();
    new.attributes = attributes;
    let new = namespace::replace(tables, inode, &old, new)?;
    let (version, entry_kind) = (new.version, new.kind);
    let event = Event::at(path);
    let event = Event { kind: ChangeKind::Updated, inode, version, entry_kind, ended_inode: true, ..event };
    namespace::record(tables, event)?;
    Ok(Effect::Changed(Outcome::Entry(Box::new(new.entry(inode, path.clone())))))
}

fn check_attributes(extended: &BTreeMap<String, Vec<u8>>) -> Result<(), Rejected> {
    let size = extended.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum();
    let limit = EXTENDED_ATTRIBUTES_LENGTH_MAX;
    if size > limit { Err(Rejected::AttributesTooLarge { size, limit }) } else { Ok(()) }
}

/// A move as asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move<'a> {
    pub from: &'a Path,
    pub to: &'a Path,
    pub replace: bool,
    pub from_precondition: &'a Precondition,
    pub to_precondition: &'a Precondition,
}

pub(super) fn move_entry(tables: &mut Tables, asked: Move) -> Result<Effect, Error> {
    let Move { from, to, .. } = asked;
    let source = namespace::locate(tables, from)?.with_parent()?;
    let link = source.existing()?;
    if link.kind == EntryKind::Directory && from != to && to.is_at_or_below(from) {
        return Err(Rejected::MoveIntoItself { from: from.clone(), to: to.clone() }.into());
    }
    let target = namespace::locate(tables, to)?.with_parent()?;
    check_target(&asked, link, &target)?;
    let below = below(tables, link)?;
    namespace::check_length(to, below.reach)?;
    check_precondition(tables, &source, asked.from_precondition)?;
    check_precondition(tables, &target, asked.to_precondition)?;

    fence::raise(tables, from, asked.from_precondition.fencing_token)?;
    fence::raise(tables, to, asked.to_precondition.fencing_token)?;
    if let Some(replaced) = target.link {
        delete_link(tables, &target, replaced)?;
    }
    let old = namespace::detach(tables, &source, link, below)?;
    // Detaching took it out of the present only to be put back elsewhere.
    let node = namespace::attach(tables, &target.ancestors, to, target.name, link.inode, old, below)?;
    let event = Event {
        kind: ChangeKind::Moved,
        from_path: Some(from),
        inode: link.inode,
        version: node.version,
        entry_kind: node.kind,
        ended_inode: true,
        ended_entry: Some((source.parent(), source.name)),
        ..Event::at(to)
    };
    namespace::record(tables, event)?;
    Ok(Effect::Changed(Outcome::Entry(Box::new(node.entry(link.inode, to.clone())))))
}

/// Whether what is at the target may be replaced by the move.
fn check_target(asked: &Move, link: Link, target: &Place) -> Result<(), Rejected> {
    let path = || asked.to.clone();
    match target.link {
        None => Ok(()),
        Some(existing) if !asked.replace || existing.inode == link.inode => Err(Rejected::EntryExists { path: path() }),
        Some(Link { kind: EntryKind::Directory, .. }) => Err(Rejected::IsADirectory { path: path() }),
        Some(_) if link.kind == EntryKind::Directory => Err(Rejected::NotADirectory { path: path() }),
        Some(_) if asked.to_precondition.is_none() => Err(Rejected::LockRequired { path: path() }),
        Some(_) => Ok(()),
    }
}

pub(super) fn delete(
    tables: &mut Tables,
    path: &Path,
    force: bool,
    precondition: &Precondition,
) -> Result<Effect, Error> {
    let place = namespace::locate(tables, path)?.with_parent()?;
    let link = place.existing()?;
    let below = below(tables, link)?;
    if !force && below.files + below.directories > 0 {
        return Err(Rejected::DirectoryNotEmpty { path: path.clone() }.into());
    }
    check_precondition(tables, &place, precondition)?;

    fence::raise(tables, path, precondition.fencing_token)?;
    delete_link(tables, &place, link)?;
    Ok(Effect::Changed(Outcome::Deleted { count: 1 + below.files + below.directories }))
}

/// What lies below an entry: nothing, for a file.
fn below(tables: &Tables, link: Link) -> Result<Totals, Error> {
    match link.kind {
        EntryKind::File => Ok(Totals::default()),
        EntryKind::Directory => Ok(namespace::totals(tables, link.inode)?),
    }
}

/// Takes an entry with all below it out of the present, and records that.
fn delete_link(tables: &mut Tables, place: &Place, link: Link) -> Result<(), Error> {
    let below = below(tables, link)?;
    let old = namespace::detach(tables, place, link, below)?;
    let event = Event {
        kind: ChangeKind::Deleted,
        inode: link.inode,
        version: old.version,
        entry_kind: link.kind,
        ended_inode: true,
        ended_entry: Some((place.parent(), place.name)),
        ..Event::at(place.path)
    };
    namespace::record(tables, event)?;
    Ok(())
}

/// Token and version, where they are given. A directory has no version to be named.
fn check_precondition(tables: &Tables, place: &Place, precondition: &Precondition) -> Result<(), Error> {
    fence::check(tables, place.path, precondition.fencing_token)?;
    let Some(expected) = precondition.if_version else { return Ok(()) };
    let current = match place.link {
        None => Version(0),
        Some(Link { kind: EntryKind::Directory, .. }) => {
            return Err(Rejected::IsADirectory { path: place.path.clone() }.into());
        }
        Some(Link { inode, .. }) => namespace::node(tables, inode)?.version,
    };
    if expected == current {
        Ok(())
    } else {
        Err(Rejected::VersionMismatch { path: place.path.clone(), expected, current }.into())
    }
}
