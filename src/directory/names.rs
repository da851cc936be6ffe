//! The namespace at one moment: what a name stands for, what an inode is, what a directory holds.
//!
//! The present needs no history. For the past, a row of the present counts if it began by then, else the first row of the
//! history that ended later, if it began by then.

use std::{iter::Peekable, ops::Bound};

use redb::{ReadOnlyTable, ReadTransaction};

use crate::types::{Inode, Path, Revision};

use super::{
    error::{Error, Rejected, StorageError},
    model::{Entry, EntryKind, Link, Node},
    namespace,
    tables::{self, LinkValue, NameKey, PastNameKey, ReadStored, link_in, read_stored},
};

pub(super) struct Names {
    entries: ReadOnlyTable<NameKey, LinkValue>,
    inodes: ReadStored<u64, Node>,
    /// `None`: the present.
    past: Option<Past>,
}

struct Past {
    at: Revision,
    entry_history: ReadOnlyTable<PastNameKey, LinkValue>,
    inode_history: ReadStored<(u64, u64), Node>,
}

impl Names {
    /// At the revision, which must lie within the kept past, or now.
    pub fn open(transaction: &ReadTransaction, at: Option<Revision>) -> Result<Self, StorageError> {
        let past = match at {
            None => None,
            Some(at) => Some(Past {
                at,
                entry_history: transaction.open_table(tables::ENTRY_HISTORY)?,
                inode_history: read_stored(transaction, &tables::INODE_HISTORY)?,
            }),
        };
        let entries = transaction.open_table(tables::ENTRIES)?;
        Ok(Self { entries, inodes: read_stored(transaction, &tables::INODES)?, past })
    }

    /// What an inode was; `None` before it was made and after it was deleted.
    pub fn node(&self, inode: Inode) -> Result<Option<Node>, StorageError> {
        let present = self.inodes.get(inode.0)?;
        let Some(past) = &self.past else { return Ok(present) };
        if let Some(node) = present
            && node.since <= past.at
        {
            return Ok(Some(node));
        }
        let history = &past.inode_history;
        let later = history.table.range((inode.0, namespace::after(past.at))..=(inode.0, u64::MAX))?.next();
        let Some((key, bytes)) = later.transpose()? else { return Ok(None) };
        let node = history.decode(key.value(), bytes.value())?;
        Ok(Some(node).filter(|node| node.since <= past.at))
    }

    fn child(&self, directory: Inode, name: &str) -> Result<Option<Link>, StorageError> {
        let present = namespace::child(&self.entries, directory, name)?;
        let Some(past) = &self.past else { return Ok(present) };
        if let Some(link) = present
            && link.since <= past.at
        {
            return Ok(Some(link));
        }
        let later = (directory.0, name, namespace::after(past.at))..=(directory.0, name, u64::MAX);
        let Some((_, link)) = past.entry_history.range(later)?.next().transpose()? else { return Ok(None) };
        Ok(Some(link_in(link.value())?).filter(|link| link.since <= past.at))
    }

    /// What is at the path.
    pub fn find(&self, path: &Path) -> Result<(Inode, Node), Error> {
        let not_found = || Rejected::EntryNotFound { path: path.clone() };
        let mut link = Link { inode: Inode::ROOT, since: Revision(0), kind: EntryKind::Directory };
        for (depth, segment) in path.segments().enumerate() {
            if link.kind != EntryKind::Directory {
                return Err(Rejected::NotADirectory { path: namespace::prefix(path, depth) }.into());
            }
            link = self.child(link.inode, segment)?.ok_or_else(not_found)?;
        }
        let node = self.node(link.inode)?.ok_or_else(not_found)?;
        Ok((link.inode, node))
    }

    /// The directory at the path.
    pub fn find_directory(&self, path: &Path) -> Result<Inode, Error> {
        let (inode, node) = self.find(path)?;
        match node.kind {
            EntryKind::Directory => Ok(inode),
            EntryKind::File => Err(Rejected::NotADirectory { path: path.clone() }.into()),
        }
    }

    /// The path of an inode; `None` when it, or a directory above it, was deleted by then.
    pub fn path_of(&self, inode: Inode, node: Node) -> Result<Option<Path>, StorageError> {
        namespace::path_above(inode, node, |parent| self.node(parent))
    }

    /// The children of a directory whose names come after `after`.
    pub fn children(&self, directory: Inode, after: Option<&str>) -> Result<Children<'_>, StorageError> {
        let begin = match after {
            Some(name) => Bound::Excluded((directory.0, name)),
            None => Bound::Included((directory.0, "")),
        };
        let end = Bound::Excluded((directory.0.saturating_add(1), ""));
        let at = self.past.as_ref().map_or(Revision(u64::MAX), |past| past.at);
        let present = self.entries.range((begin, end))?.filter_map(move |row| {
            let child = row.map_err(StorageError::from).and_then(|(key, link)| {
                let link = link_in(link.value())?;
                Ok((link.since <= at).then(|| (key.value().1.to_owned(), link)))
            });
            child.transpose()
        });
        let begin = after.map_or((String::new(), 0), |name| (name.to_owned(), u64::MAX));
        let ended = self.past.as_ref().map(|past| Ended { past, directory, begin });
        Ok(Children { present: (Box::new(present) as Box<dyn Iterator<Item = _>>).peekable(), ended })
    }

    /// The entry that a directory's child is.
    pub fn entry(&self, directory: &Path, name: &str, link: Link) -> Result<Entry, StorageError> {
        let damaged = |what| StorageError::Damaged { table: "entries", what };
        let node = self.node(link.inode)?.ok_or(damaged("an entry has no inode"))?;
        let path = directory.join(name).map_err(|_| damaged("a name is malformed"))?;
        Ok(node.entry(link.inode, path))
    }
}

type Child = Result<(String, Link), StorageError>;

/// The children of a directory, in byte order of their names.
pub(super) struct Children<'n> {
    /// Those that are still there.
    present: Peekable<Box<dyn Iterator<Item = Child>>>,
    /// Those that are not.
    ended: Option<Ended<'n>>,
}

impl Iterator for Children<'_> {
    type Item = Child;

    fn next(&mut self) -> Option<Self::Item> {
        let bound = match self.present.peek() {
            Some(Ok((name, _))) => Some(name.as_str()),
            Some(Err(_)) => return self.present.next(),
            None => None,
        };
        match self.ended.as_mut().map(|ended| ended.next_before(bound)) {
            Some(Ok(Some(child))) => Some(Ok(child)),
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(None)) | None => self.present.next(),
        }
    }
}

/// Looks through the history of a directory's names, no further than asked for, so that a page of a listing costs the
/// names it goes past and not all that ever were. A name's own history is jumped over.
struct Ended<'n> {
    past: &'n Past,
    directory: Inode,
    /// Where to look on: a name, and an ended revision of it.
    begin: (String, u64),
}

impl Ended<'_> {
    /// The next name before `bound` that stood for something at the moment and no longer does.
    fn next_before(&mut self, bound: Option<&str>) -> Result<Option<(String, Link)>, StorageError> {
        let Past { at, entry_history, .. } = self.past;
        let end = Bound::Excluded((self.directory.0.saturating_add(1), "", 0));
        loop {
            let begin = Bound::Included((self.directory.0, self.begin.0.as_str(), self.begin.1));
            let Some((key, link)) = entry_history.range((begin, end))?.next().transpose()? else { return Ok(None) };
            let (_, name, ended) = key.value();
            if bound.is_some_and(|bound| name >= bound) {
                return Ok(None);
            }
            // The first row that ended later than the moment is the only one of its name that can hold it.
            let is_later = ended > at.0;
            self.begin = (name.to_owned(), if is_later { u64::MAX } else { namespace::after(*at) });
            let link = link_in(link.value())?;
            if is_later && link.since <= *at {
                return Ok(Some((name.to_owned(), link)));
            }
        }
    }
}
