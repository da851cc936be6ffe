//! What makes bytes survive a power cut, in one place: no other module calls sync or rename.
//!
//! A file is on stable storage when it was synced, and its *name* is when the folder that holds it was: [`create_file`],
//! [`atomic_replace`], [`remove_file`] and [`create_dir`] see to both. A sync that failed is not tried again by anyone: the
//! kernel may have thrown the dirty pages away and call the next one a success. Whoever gets the error stops writing.
//!
//! Small files that are replaced as a whole (an identity, a checkpoint) are [`sealed`](write_sealed): magic, format version,
//! length and CRC32C stand before the payload, so that a torn or foreign file is never taken for a good one.
//! `docs/format.md` has the bytes.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::types::{ClusterId, StoreId, crc32c};

const LOCK_FILE: &str = "LOCK";
const IDENTITY_FILE: &str = "IDENTITY";
const IDENTITY_MAGIC: [u8; 8] = *b"dfs:iden";
const IDENTITY_FORMAT: u32 = 1;
/// Suffix of a file that is being made and has not got its name yet; a leftover is overwritten by the next attempt.
const UNFINISHED: &str = "new";
/// What a file system may put into the root of a new volume by itself.
const FILE_SYSTEMS_OWN: &str = "lost+found";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("folder {} is in use by another process", .0.display())]
    InUse(PathBuf),
    #[error("folder {} belongs to a {found} server, not to a {wanted} server", .path.display())]
    OtherKind { path: PathBuf, found: String, wanted: String },
    #[error("folder {} belongs to cluster {found}, not to cluster {wanted}", .path.display())]
    OtherCluster { path: PathBuf, found: ClusterId, wanted: ClusterId },
    #[error("folder {} holds files but no {IDENTITY_FILE}: it was not made by dfs, or is damaged", .0.display())]
    Foreign(PathBuf),
    #[error(transparent)]
    BadFile(#[from] BadFile),
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A sealed file that cannot be what it should be.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    #[error("{} is damaged: {what}", .path.display())]
    Damaged { path: PathBuf, what: &'static str },
    #[error("{} has format {found}; this version of dfs reads up to {known}: use a newer one", .path.display())]
    TooNew { path: PathBuf, found: u32, known: u32 },
}

/// The folder that holds everything a server keeps: locked against a second process for as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    kind: String,
    store_id: StoreId,
    cluster_id: Option<ClusterId>,
    /// The lock is the file's; it goes when the file is closed, also when the process is killed.
    _lock: File,
}

impl DataDir {
    /// Makes the folder if there is none, locks it, and reads or makes its identity.
    ///
    /// `kind` is the service whose it is: `directory`, `lock` or `fileserver`. Blocks on the disk.
    pub fn open(path: &Path, kind: &str) -> Result<Self, Error> {
        let at = |source| Error::Io { path: path.to_owned(), source };
        create_dir(path).map_err(at)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_FILE))
            .map_err(|source| Error::Io { path: path.join(LOCK_FILE), source })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(at(source)),
        }
        let mut dir = Self {
            path: path.to_owned(),
            kind: kind.to_owned(),
            store_id: StoreId::random(),
            cluster_id: None,
            _lock: lock,
        };
        match read_sealed(&path.join(IDENTITY_FILE), IDENTITY_MAGIC, IDENTITY_FORMAT)? {
            Some(identity) => {
                dir.adopt(&identity)?;
                // Whoever named it may have been killed before the name was durable, and others are told of it now.
                sync_dir(path).map_err(at)?;
            }
            None if is_untouched(path).map_err(at)? => dir.save()?,
            None => return Err(Error::Foreign(path.to_owned())),
        }
        Ok(dir)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Made with the folder: a folder that was wiped comes back with another.
    pub fn store_id(&self) -> StoreId {
        self.store_id
    }

    /// The cluster whose data this is; `None` until it has joined one.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id
    }

    /// Binds the folder to its cluster, durably; once bound it never belongs to another. Blocks on the disk.
    pub fn set_cluster_id(&mut self, cluster: ClusterId) -> Result<(), Error> {
        match self.cluster_id {
            Some(found) if found == cluster => Ok(()),
            Some(found) => Err(Error::OtherCluster { path: self.path.clone(), found, wanted: cluster }),
            None => {
                self.cluster_id = Some(cluster);
                self.save().inspect_err(|_| self.cluster_id = None)
            }
        }
    }

    fn adopt(&mut self, identity: &[u8]) -> Result<(), Error> {
        let damaged = || BadFile::Damaged { path: self.path.join(IDENTITY_FILE), what: "unreadable identity" };
        let (store, rest) = identity.split_first_chunk::<16>().ok_or_else(damaged)?;
        let (cluster, kind) = rest.split_first_chunk::<16>().ok_or_else(damaged)?;
        let found = std::str::from_utf8(kind).map_err(|_| damaged())?;
        if found != self.kind {
            let (found, wanted) = (found.to_owned(), self.kind.clone());
            return Err(Error::OtherKind { path: self.path.clone(), found, wanted });
        }
        self.store_id = StoreId::from_bytes(*store);
        self.cluster_id = Some(ClusterId::from_bytes(*cluster)).filter(|id| !id.0.is_nil());
        Ok(())
    }

    fn save(&self) -> Result<(), Error> {
        let path = self.path.join(IDENTITY_FILE);
        let cluster = self.cluster_id.unwrap_or(ClusterId(Uuid::nil()));
        let identity = [self.store_id.as_bytes().as_slice(), cluster.as_bytes(), self.kind.as_bytes()].concat();
        write_sealed(&path, IDENTITY_MAGIC, IDENTITY_FORMAT, &identity).map_err(|source| Error::Io { path, source })
    }
}

/// Whether there is nothing in the folder that would be lost by calling it ours.
fn is_untouched(path: &Path) -> io::Result<bool> {
    let unfinished = unfinished(Path::new(IDENTITY_FILE));
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != LOCK_FILE && name != FILE_SYSTEMS_OWN && name != unfinished.as_os_str() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Puts the file's bytes, and as much of its metadata as reading them needs, on stable storage.
pub fn sync_file(file: &File) -> io::Result<()> {
    #[cfg(test)]
    watched::note(file);
    file.sync_data()
}

/// Puts the names in a folder on stable storage: files made in it, renamed in it, removed from it.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = File::open(path)?;
    #[cfg(test)]
    watched::note(&dir);
    dir.sync_all()
}

/// What a thread has synced, for tests: no other trace of it is left.
#[cfg(test)]
pub mod watched {
    use std::{cell::RefCell, fs::File, os::fd::AsRawFd, path::PathBuf};

    thread_local! {
        static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(file: &File) {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
        SYNCED.with_borrow_mut(|synced| synced.push(path));
    }

    /// The files and folders that this thread has synced since it was asked last.
    pub fn take() -> Vec<PathBuf> {
        SYNCED.take()
    }
}

/// Makes a folder with its parents, durably; there may be one already.
pub fn create_dir(path: &Path) -> io::Result<()> {
    let parent = parent_of(path);
    if path.is_dir() {
        // It may have been made just before a crash, and its name not be durable yet.
        return match sync_dir(parent) {
            // A parent that this process may not read or that takes no writes: the folder is no work of ours.
            Err(error) if is_not_ours(&error) => Ok(()),
            synced => synced,
        };
    }
    create_dir(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => Err(error),
        _ => sync_dir(parent),
    }
}

fn is_not_ours(error: &io::Error) -> bool {
    // A file system that is never written, as that of an image, knows no sync of folders.
    let kinds = [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::InvalidInput];
    kinds.contains(&error.kind())
}

/// Puts `bytes` under the name `path`: after a crash there is the old content or the new, whole.
pub fn atomic_replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    rename(&unfinished, path)
}

/// Gives a file a second name, durably. The name must be free. Blocks on the disk.
pub fn hard_link(file: &Path, name: &Path) -> io::Result<()> {
    fs::hard_link(file, name)?;
    sync_dir(parent_of(name))
}

/// Gives a file, synced by the caller, another name in the same folder, durably.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(parent_of(to))
}

/// Removes a file durably; one that is gone already is fine.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_dir(parent_of(path)),
    }
}

/// [`atomic_replace`] with a header that [`read_sealed`] checks.
pub fn write_sealed(path: &Path, magic: [u8; 8], format: u32, payload: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(SEAL_LENGTH + payload.len());
    bytes.extend(magic);
    bytes.extend(format.to_le_bytes());
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(payload);
    bytes.extend(crc32c(&bytes).to_le_bytes());
    atomic_replace(path, &bytes)
}

/// Magic, format and length before the payload, the checksum of it all after it.
const SEAL_LENGTH: usize = 8 + 4 + 8 + 4;

/// The payload of a file written by [`write_sealed`] in this format or an older one; `None` if there is no such file.
pub fn read_sealed(path: &Path, magic: [u8; 8], format: u32) -> Result<Option<Vec<u8>>, Error> {
    let mut bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { path: path.to_owned(), source }),
    };
    let damaged = |what| BadFile::Damaged { path: path.to_owned(), what };
    let (sealed, checksum) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged("too short"))?;
    let (found_magic, rest) = sealed.split_first_chunk::<8>().ok_or_else(|| damaged("too short"))?;
    let (found_format, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("too short"))?;
    let (length, payload) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("too short"))?;
    if *found_magic != magic {
        return Err(damaged("it begins with another magic").into());
    }
    if u64::from_le_bytes(*length) != payload.len() as u64 || u32::from_le_bytes(*checksum) != crc32c(sealed) {
        return Err(damaged("its checksum does not match").into());
    }
    let found = u32::from_le_bytes(*found_format);
    if found > format {
        return Err(BadFile::TooNew { path: path.to_owned(), found, known: format }.into());
    }
    bytes.truncate(bytes.len() - 4);
    bytes.drain(..SEAL_LENGTH - 4);
    Ok(Some(bytes))
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_added_extension(UNFINISHED)
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_folder_keeps_its_identity_and_its_cluster() {
        let root = folder();
        let path = root.path().join("a/b");
        let mut dir = DataDir::open(&path, "lock").unwrap();
        let (store, cluster) = (dir.store_id(), ClusterId::random());
        assert_eq!(dir.cluster_id(), None);
        dir.set_cluster_id(cluster).unwrap();
        dir.set_cluster_id(cluster).unwrap();
        let error = dir.set_cluster_id(ClusterId::random()).unwrap_err();
        assert!(matches!(error, Error::OtherCluster { found, .. } if found == cluster), "{error}");
        drop(dir);
        let again = DataDir::open(&path, "lock").unwrap();
        assert_eq!((again.store_id(), again.cluster_id()), (store, Some(cluster)));
    }

    #[test]
    fn a_folder_has_one_process_and_one_kind() {
        let root = folder();
        let dir = DataDir::open(root.path(), "lock").unwrap();
        assert!(matches!(DataDir::open(root.path(), "lock"), Err(Error::InUse(_))));
        drop(dir);
        let error = DataDir::open(root.path(), "fileserver").unwrap_err().to_string();
        assert!(error.contains("belongs to a lock server, not to a fileserver server"), "{error}");
    }

    #[test]
    fn a_folder_of_somebody_else_is_left_alone() {
        let root = folder();
        fs::write(root.path().join("thesis.tex"), "years of work").unwrap();
        assert!(matches!(DataDir::open(root.path(), "lock"), Err(Error::Foreign(_))));
    }

    #[test]
    fn an_identity_that_was_found_is_durable_before_anybody_is_told_of_it() {
        let folder = folder();
        drop(DataDir::open(folder.path(), "lock").unwrap());
        watched::take();
        let _open = DataDir::open(folder.path(), "lock").unwrap();
        let synced = watched::take();
        assert!(synced.contains(&folder.path().to_owned()), "{synced:?}");
    }

    #[test]
    fn a_start_that_was_cut_off_is_taken_up_again() {
        let root = folder();
        fs::write(root.path().join("LOCK"), "").unwrap();
        fs::write(root.path().join("IDENTITY.new"), "half").unwrap();
        assert!(DataDir::open(root.path(), "lock").is_ok());
    }

    #[test]
    fn a_sealed_file_is_read_back_or_refused_at_every_flipped_bit_and_every_length() {
        let root = folder();
        let path = root.path().join("sealed");
        write_sealed(&path, *b"magic..8", 3, b"payload").unwrap();
        assert_eq!(read_sealed(&path, *b"magic..8", 3).unwrap().as_deref(), Some(b"payload".as_slice()));
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bad).unwrap();
            assert!(read_sealed(&path, *b"magic..8", 3).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert!(read_sealed(&path, *b"magic..8", 3).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_and_a_missing_file_is_none() {
        let root = folder();
        let path = root.path().join("sealed");
        assert!(read_sealed(&path, *b"magic..8", 1).unwrap().is_none());
        write_sealed(&path, *b"magic..8", 2, b"").unwrap();
        let error = read_sealed(&path, *b"magic..8", 1).unwrap_err();
        assert!(matches!(error, Error::BadFile(BadFile::TooNew { found: 2, known: 1, .. })), "{error}");
        assert_eq!(read_sealed(&path, *b"magic..8", 2).unwrap(), Some(Vec::new()));
    }

    #[test]
    fn a_replaced_file_is_the_new_one_and_nothing_is_left_over() {
        let root = folder();
        let path = root.path().join("file");
        atomic_replace(&path, b"old").unwrap();
        atomic_replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
