//! What readers see: the namespace now, or as of any kept moment, and the cluster, out of one consistent snapshot.
//!
//! A view is taken from committed state, and a mutation is answered only once it is committed: whoever knows of a mutation
//! sees it. A view holds disk pages for as long as it lives; long streams take a new one now and then and stay on one
//! moment by naming its revision.

use redb::ReadTransaction;

use crate::types::{AsOf, Extent, Inode, Path, Revision, Timestamp, Version};

use super::{
    command::Settings,
    error::{Error, Rejected, StorageError},
    model::{Cluster, Entry, EntryKind, FileVersion, LookedUp, Page, State, VersionInfo},
    names::Names,
    tables::{self, ReadStored, read_stored},
};

/// A file, by one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileRef {
    Path(Path),
    Inode(Inode),
}

/// One consistent snapshot of everything.
pub struct View {
    pub(super) transaction: ReadTransaction,
    pub(super) state: State,
    cluster: Option<Cluster>,
}

impl View {
    pub(super) fn new(transaction: ReadTransaction) -> Result<Self, StorageError> {
        let (state, cluster) = tables::read_meta(&transaction.open_table(tables::META)?)?;
        Ok(Self { transaction, state, cluster })
    }

    /// The newest mutation that this view reflects.
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    /// The time of that mutation.
    pub fn time(&self) -> Timestamp {
        self.state.time
    }

    /// Looks at the past before this revision are refused.
    pub fn horizon(&self) -> Revision {
        self.state.horizon
    }

    /// `None` before the cluster was made.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    pub fn settings(&self) -> Option<&Settings> {
        self.cluster.as_ref().map(|cluster| &cluster.settings)
    }

    /// Higher after every change of groups and servers.
    pub fn map_version(&self) -> u64 {
        self.state.map_version
    }

    /// Reasons: `EntryNotFound`, `NotADirectory`, and those of the moment: `TooLongAgo`, `NotYet`.
    pub fn get_entry(&self, path: &Path, as_of: AsOf) -> Result<Entry, Error> {
        let (inode, node) = self.names(as_of)?.find(path)?;
        Ok(node.entry(inode, path.clone()))
    }

    /// One version of a file: the one named, or the newest of that moment.
    ///
    /// Reasons: as [`View::get_entry`], and `InodeNotFound`, `IsADirectory`, `VersionNotFound`.
    pub fn lookup_file(&self, file: &FileRef, version: Option<Version>, as_of: AsOf) -> Result<LookedUp, Error> {
        let names = self.names(as_of)?;
        let mut entry = match file {
            FileRef::Path(path) => {
                let (inode, node) = names.find(path)?;
                node.entry(inode, path.clone())
            }
            FileRef::Inode(inode) => {
                let not_found = || Rejected::InodeNotFound { inode: inode.0 };
                let node = names.node(*inode)?.ok_or_else(not_found)?;
                let path = names.path_of(*inode, node.clone())?.ok_or_else(not_found)?;
                node.entry(*inode, path)
            }
        };
        if entry.kind == EntryKind::Directory {
            return Err(Rejected::IsADirectory { path: entry.path }.into());
        }
        let version = version.unwrap_or(entry.version);
        let row = if version <= entry.version { self.version_rows()?.get((entry.inode.0, version.0))? } else { None };
        let Some(row) = row else { return Err(Rejected::VersionNotFound { path: entry.path, version }.into()) };
        if version != entry.version {
            entry.version = version;
            entry.size = row.size;
            entry.checksum = row.checksum;
            entry.revision = row.revision;
            entry.attributes.modify_time = row.time;
        }
        Ok(LookedUp { entry, extents: row.extents })
    }

    /// At most `limit` entries of a directory, in byte order of their names, from the one after `after` on.
    pub fn list(&self, path: &Path, as_of: AsOf, after: Option<&str>, limit: usize) -> Result<Page<Entry>, Error> {
        let names = self.names(as_of)?;
        let directory = names.find_directory(path)?;
        let mut items = Vec::new();
        for child in names.children(directory, after)? {
            if items.len() == limit {
                return Ok(Page { items, more: true });
            }
            let (name, link) = child?;
            items.push(names.entry(path, &name, link)?);
        }
        Ok(Page { items, more: false })
    }

    /// At most `limit` retained versions of a file, newest first, from the one before `before` on.
    pub fn versions(&self, path: &Path, before: Option<Version>, limit: usize) -> Result<Page<VersionInfo>, Error> {
        let (inode, node) = self.names(AsOf::Now)?.find(path)?;
        if node.kind == EntryKind::Directory {
            return Err(Rejected::IsADirectory { path: path.clone() }.into());
        }
        let rows = self.version_rows()?;
        let end = before.map_or(u64::MAX, |version| version.0);
        let mut items = Vec::new();
        for row in rows.table.range((inode.0, 0)..(inode.0, end))?.rev() {
            if items.len() == limit {
                return Ok(Page { items, more: true });
            }
            let (key, bytes) = row?;
            let version = rows.decode(key.value(), bytes.value())?;
            items.push(VersionInfo {
                version: Version(key.value().1),
                revision: version.revision,
                size: version.size,
                checksum: version.checksum,
                create_time: version.time,
                extent_count: version.extents.len() as u32,
                write_id: version.write_id,
            });
        }
        Ok(Page { items, more: false })
    }

    /// The extents of a version; it must be retained.
    pub(super) fn extents(&self, inode: Inode, version: Version) -> Result<Vec<Extent>, StorageError> {
        let missing = StorageError::Damaged { table: "versions", what: "a version that should be retained is missing" };
        Ok(self.version_rows()?.get((inode.0, version.0))?.ok_or(missing)?.extents)
    }

    fn version_rows(&self) -> Result<ReadStored<(u64, u64), FileVersion>, StorageError> {
        read_stored(&self.transaction, &tables::VERSIONS)
    }

    /// The namespace at a moment.
    pub(super) fn names(&self, as_of: AsOf) -> Result<Names, Error> {
        let at = self.moment(as_of)?;
        Ok(Names::open(&self.transaction, at)?)
    }

    /// The revision of a moment within the kept past; `None` for the present.
    pub(super) fn moment(&self, as_of: AsOf) -> Result<Option<Revision>, Error> {
        let State { revision: newest, time, horizon, horizon_time, .. } = self.state;
        match as_of {
            AsOf::Now => Ok(None),
            AsOf::Revision(revision) if revision > newest => Err(Rejected::NotYet { revision, newest }.into()),
            AsOf::Revision(revision) if revision == newest => Ok(None),
            AsOf::Revision(revision) if revision < horizon => Err(Rejected::TooLongAgo { oldest: horizon }.into()),
            AsOf::Revision(revision) => Ok(Some(revision)),
            AsOf::Time(asked) if asked >= time => Ok(None),
            AsOf::Time(asked) if asked < horizon_time => Err(Rejected::TooLongAgo { oldest: horizon }.into()),
            AsOf::Time(asked) => self.revision_at(asked).map(Some).map_err(Error::from),
        }
    }
}
