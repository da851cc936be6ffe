//! A walk through all that lies below a directory, page by page, in memory bounded by the depth of the tree.
//!
//! The walk stays at one revision, so that its pages fit together whatever happens meanwhile; each page may come from
//! another view. A walk that is slower than the past is kept ends with `TooLongAgo`.

use crate::types::{AsOf, Inode, Path, Revision};

use super::{
    error::{Error, StorageError},
    model::{EntryKind, LookedUp, Page},
    names::Names,
    view::View,
};

/// How far a walk has come.
#[derive(Clone, Debug)]
pub struct Walk {
    at: Revision,
    recursive: bool,
    with_extents: bool,
    /// The directories that the walk is in, from the first one down.
    stack: Vec<Frame>,
}

#[derive(Clone, Debug)]
struct Frame {
    directory: Inode,
    path: Path,
    /// The last name that was walked past.
    after: Option<String>,
}

impl View {
    /// Begins a walk below the directory at `path`. `with_extents` says whether files come with theirs.
    pub fn walk(&self, path: &Path, as_of: AsOf, recursive: bool, with_extents: bool) -> Result<Walk, Error> {
        let at = self.moment(as_of)?.unwrap_or(self.revision());
        let directory = self.names(AsOf::Revision(at))?.find_directory(path)?;
        Ok(Walk { at, recursive, with_extents, stack: vec![Frame { directory, path: path.clone(), after: None }] })
    }

    /// The next at most `limit` entries, depth first in the order of names, directories before what they hold.
    pub fn walk_on(&self, walk: &mut Walk, limit: usize) -> Result<Page<LookedUp>, Error> {
        let names = self.names(AsOf::Revision(walk.at))?;
        let mut items = Vec::new();
        while let Some(frame) = walk.stack.last_mut() {
            if items.len() >= limit {
                return Ok(Page { items, more: true });
            }
            match self.walk_directory(&names, frame, walk.recursive, walk.with_extents, limit, &mut items)? {
                Next::Down(frame) => walk.stack.push(frame),
                Next::Up => drop(walk.stack.pop()),
                Next::Full => return Ok(Page { items, more: true }),
            }
        }
        Ok(Page { items, more: false })
    }

    /// Walks on in one directory until it ends, the page is full, or a directory is to be walked first.
    fn walk_directory(
        &self,
        names: &Names,
        frame: &mut Frame,
        recursive: bool,
        with_extents: bool,
        limit: usize,
        items: &mut Vec<LookedUp>,
    ) -> Result<Next, StorageError> {
        for child in names.children(frame.directory, frame.after.as_deref())? {
            if items.len() >= limit {
                return Ok(Next::Full);
            }
            let (name, link) = child?;
            let entry = names.entry(&frame.path, &name, link)?;
            let extents = match entry.kind {
                EntryKind::File if with_extents => self.extents(entry.inode, entry.version)?,
                EntryKind::File | EntryKind::Directory => Vec::new(),
            };
            frame.after = Some(name);
            let path = entry.path.clone();
            items.push(LookedUp { entry, extents });
            if recursive && link.kind == EntryKind::Directory {
                return Ok(Next::Down(Frame { directory: link.inode, path, after: None }));
            }
        }
        Ok(Next::Up)
    }
}

enum Next {
    Down(Frame),
    Up,
    Full,
}
