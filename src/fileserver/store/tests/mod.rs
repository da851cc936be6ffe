//! The store as its callers see it, on disks that fail, after crashes and after damage.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, IoSlice},
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
};

use bytes::Bytes;

use super::{
    Store,
    disk::{Disk, LocalDisk, Space},
    index::{Index, LogPosition, Sealed},
    recovery::{self, Replayed},
    segment, shared,
    types::{Recovered, StoreError, StoreOptions},
};
use crate::types::{BlobId, GroupId, WriteId, crc32c, crc32c_combine};

mod compaction;
mod crash;
mod faults;
mod model;
mod power_cut;
mod unreadable;
mod upkeep;
mod usage;

/// A disk that does what it is told to; its syncs are counted and reach no platter, which makes the tests quick.
#[derive(Default)]
struct TestDisk {
    syncs: AtomicU64,
    sync_fails: AtomicBool,
    /// While somebody holds this, syncs take their time.
    syncing: Mutex<()>,
    write_fails: AtomicBool,
    /// Writes of more than this fail for lack of space when so much is written; 0: none do.
    write_limit: AtomicU64,
    /// Where a file cannot be read, by its inode.
    unreadable: Mutex<Vec<(u64, Range<u64>)>>,
    /// Files are cut only when they are synced or written, as a crash before that would show them.
    cuts_late: AtomicBool,
    cuts: Mutex<HashMap<u64, u64>>,
    /// Cuts and syncs fail for lack of space.
    has_no_space_to_end: AtomicBool,
    /// Bytes of the disk that others take.
    taken: AtomicU64,
    /// How often it was asked for its space.
    looks: AtomicU64,
}

impl TestDisk {
    fn cut(&self, file: &File) -> io::Result<()> {
        let cut = self.cuts.lock().unwrap().remove(&file.metadata()?.ino());
        cut.map_or(Ok(()), |length| LocalDisk.set_length(file, length))
    }

    /// Syncs do not end before what this returns is dropped.
    fn hang(self: &Arc<Self>) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel();
        let (hangs, hanging) = mpsc::channel();
        let disk = self.clone();
        std::thread::spawn(move || {
            let _held = disk.syncing.lock().unwrap();
            hangs.send(()).unwrap();
            // Ends with an error when the sender is gone.
            released.recv().unwrap_err();
        });
        hanging.recv().unwrap();
        release
    }

    /// From now on the disk does not give these bytes of the file back.
    fn make_unreadable(&self, path: &Path, bytes: Range<u64>) {
        self.unreadable.lock().unwrap().push((fs::metadata(path).unwrap().ino(), bytes));
    }
}

const DISK_BYTES: u64 = 1 << 40;

impl Disk for TestDisk {
    fn write(&self, file: &File, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let length: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let limit = self.write_limit.load(Ordering::SeqCst);
        if length > 0 {
            self.cut(file)?;
        }
        if limit > 0 && length > limit {
            let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            LocalDisk.write(file, position, &mut [IoSlice::new(&all[..limit as usize])])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.write_fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected"));
        }
        LocalDisk.write(file, position, parts)
    }

    fn read(&self, file: &File, position: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let (inode, end) = (file.metadata()?.ino(), position + bytes.len() as u64);
        let lost = |(of, lost): &(u64, Range<u64>)| *of == inode && lost.start < end && position < lost.end;
        if self.unreadable.lock().unwrap().iter().any(lost) {
            return Err(io::Error::from_raw_os_error(5));
        }
        LocalDisk.read(file, position, bytes)
    }

    fn set_length(&self, file: &File, length: u64) -> io::Result<()> {
        if self.has_no_space_to_end.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.cuts_late.load(Ordering::SeqCst) {
            self.cuts.lock().unwrap().insert(file.metadata()?.ino(), length);
            return Ok(());
        }
        LocalDisk.set_length(file, length)
    }

    fn allocate(&self, file: &File, position: u64, length: u64) -> io::Result<()> {
        let limit = self.write_limit.load(Ordering::SeqCst);
        match limit > 0 && length > limit {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => LocalDisk.allocate(file, position, length),
        }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.cut(file)?;
        self.syncs.fetch_add(1, Ordering::SeqCst);
        drop(self.syncing.lock().unwrap());
        if self.has_no_space_to_end.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.sync_fails.load(Ordering::SeqCst) { Err(io::Error::other("injected")) } else { Ok(()) }
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        Ok(Space { free: DISK_BYTES - self.taken.load(Ordering::SeqCst), total: DISK_BYTES })
    }
}

const GROUP: GroupId = GroupId(3);

/// A store in a folder of its own.
struct Fixture {
    root: tempfile::TempDir,
    disk: Arc<TestDisk>,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        Self::with_segments_of(1 << 20)
    }

    fn with_segments_of(segment_bytes: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let disk = Arc::new(TestDisk::default());
        let (store, _, _) = Store::open_on(options(root.path(), segment_bytes), disk.clone()).unwrap();
        Self { root, disk, store }
    }

    fn dir(&self) -> PathBuf {
        dir(self.root.path())
    }

    /// Closes the store and opens it again, on a disk without faults.
    async fn reopen(self) -> (Self, Recovered) {
        self.store.close().await;
        let segment_bytes = self.store.0.shared.options.segment_bytes;
        let disk = Arc::new(TestDisk::default());
        let (store, recovered, _) = Store::open_on(options(self.root.path(), segment_bytes), disk.clone()).unwrap();
        (Self { root: self.root, disk, store }, recovered)
    }

    /// How far the log is known to be durable.
    fn synced(&self) -> LogPosition {
        self.store.0.shared.index().synced
    }

    /// The folder as a crash would leave it if the disk had kept everything.
    fn crash_copy(&self) -> tempfile::TempDir {
        loop {
            let copy = tempfile::tempdir().unwrap();
            match copy_files(&self.dir(), &dir(copy.path())) {
                Ok(()) => return copy,
                // After a second without writes the writer puts a marker behind them, and may begin a segment for it.
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
            }
        }
    }
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn dir(root: &Path) -> PathBuf {
    root.join("segments")
}

fn options(root: &Path, segment_bytes: u64) -> StoreOptions {
    StoreOptions { dir: dir(root), segment_bytes, reserve_bytes: 1 << 20, scrub_bytes_per_second: 1 << 30 }
}

/// All that a replay must find again. Not how far back a blob's history goes, because compaction shortens it.
#[derive(Debug, PartialEq)]
struct Everything {
    /// With the place of every record.
    blobs: Vec<(BlobId, Sealed)>,
    /// Number, end, live bytes, bytes of tombstones.
    segments: Vec<[u64; 4]>,
}

fn everything(index: &Index) -> Everything {
    let blobs = index.page_sealed(None, usize::MAX);
    let blobs = blobs.map(|(blob, sealed)| (blob, Sealed { oldest_segment: 0, ..sealed.clone() })).collect();
    let segments = index.segments.iter().filter(|(_, it)| it.end > segment::RECORDS_START);
    let segments = segments.map(|(&number, it)| [number.into(), it.end, it.live, it.tombstones]).collect();
    Everything { blobs, segments }
}

/// Replays a folder without starting anything.
fn recover(root: &Path) -> Replayed {
    recover_on(&TestDisk::default(), root)
}

fn recover_on(disk: &TestDisk, root: &Path) -> Replayed {
    recovery::recover(&options(root, 1 << 20), disk).unwrap()
}

/// A blob's id from a number.
fn id(number: u128) -> BlobId {
    BlobId::from_bytes(number.to_be_bytes())
}

fn write_id(blob: BlobId) -> WriteId {
    WriteId::from_bytes(*blob.as_bytes())
}

/// Bytes that differ from blob to blob and from place to place.
fn content(blob: BlobId, length: usize) -> Vec<u8> {
    let seed = crc32c(blob.as_bytes());
    (0..length as u32).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

/// Begins a blob and appends its chunks; answers length and checksum.
async fn stage(store: &Store, blob: BlobId, chunks: &[usize]) -> Result<(u64, u32), StoreError> {
    store.begin(GROUP, write_id(blob), blob)?;
    let all = content(blob, chunks.iter().sum());
    let (mut offset, mut checksum) = (0, 0);
    for &length in chunks {
        let data = Bytes::copy_from_slice(&all[offset..offset + length]);
        let sum = crc32c(&data);
        store.append(blob, offset as u64, data, sum).await?;
        checksum = crc32c_combine(checksum, sum, length as u64);
        offset += length;
    }
    Ok((offset as u64, checksum))
}

/// Stages and seals a blob.
async fn put(store: &Store, blob: BlobId, chunks: &[usize]) -> Result<(), StoreError> {
    let (length, checksum) = stage(store, blob, chunks).await?;
    store.seal(blob, length, checksum).await
}

/// All of a sealed blob, chunk by chunk.
async fn get(store: &Store, blob: BlobId) -> Result<Vec<u8>, StoreError> {
    let length = store.blob(blob).ok_or(StoreError::NoSuchBlob(blob))?.length;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        let chunk = store.read_chunk(blob, bytes.len() as u64).await?;
        assert_eq!(chunk.offset, bytes.len() as u64);
        assert_eq!(chunk.checksum, crc32c(&chunk.data));
        bytes.extend_from_slice(&chunk.data);
    }
    Ok(bytes)
}

async fn expect_content(store: &Store, blob: BlobId, length: usize) {
    assert!(get(store, blob).await.unwrap() == content(blob, length), "content of {blob}");
}

/// Changes the bytes of a file.
fn tamper(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn segment_path(root: &Path, number: u32) -> PathBuf {
    segment::path(&dir(root), number)
}
