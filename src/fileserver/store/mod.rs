//! The blobs of one file server: a log of segments, and an index of it in memory.
//!
//! A blob arrives in chunks, each one record of the log with its own CRC32C, and is *sealed* when all of it is on stable
//! storage. That is the one promise here: a seal that was answered outlives any crash, and bytes that are read are the
//! bytes that were written, or an error. A sealed blob is *staged* until it is published, that is, known to belong to a
//! committed version; the store forgets neither kind by itself.
//!
//! In reading order: [`record`] and [`segment`] are the bytes, [`reader`] goes through them, [`log`] is the end of the log, [`writer`] the one thread that
//! writes, [`index`] where everything is, [`recovery`] what a restart trusts and why, [`read`] what is let out,
//! [`compaction`], [`scrub`] and [`checkpoint`] the upkeep.
//!
//! Deliberately absent: any notion of files, epochs or peers. Which blobs should be here is for the caller to know, and
//! a damaged blob is repaired by writing it again under its own id.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use self::{
    disk::{Disk, LocalDisk},
    index::{LogPosition, Open, RecordAt},
    log::Log,
    recovery::Replayed,
    segment::RECORDS_START,
    shared::Shared,
    writer::{Answer, Request, Work, Writer},
};
use crate::types::{BLOB_LENGTH_MAX, BlobId, CHUNK_LENGTH_MAX, GroupId, Inode, Version, WriteId, crc32c};

mod checkpoint;
mod compaction;
mod disk;
mod index;
mod log;
mod losses;
mod maintenance;
mod read;
mod reader;
mod record;
mod recovery;
mod scrub;
mod segment;
mod shared;
mod types;
mod writer;

pub use scrub::{FullPass, Pace, Step};
pub use types::{
    BlobRecord, DamagedChunk, DamagedRegion, Recovered, Staged, StoreCounts, StoreError, StoreOptions, StoreStatus,
    StoredChunk,
};

/// Data accepted and not yet written.
const WINDOW_BYTES: usize = 32 << 20;
/// What a request takes of the window besides its data: bounds their number.
const REQUEST_BYTES: usize = 4 << 10;
/// Chunks read at the same time: bounds the memory and the threads that readers take.
const READS_MAX: usize = 32;

/// A handle; clones are the same store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    window: Arc<Semaphore>,
    reads: Semaphore,
    generation: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// Replays the log, and starts the writer and the upkeep. Blocks on the disk.
    pub fn open(options: StoreOptions) -> Result<(Self, Recovered), StoreError> {
        let (store, recovered, woken) = Self::open_on(options, Arc::new(LocalDisk))?;
        let shared = Arc::clone(&store.0.shared);
        store.start("store-upkeep", move || maintenance::run(&shared, &woken))?;
        Ok((store, recovered))
    }

    /// The store without its upkeep, which is to begin when the receiver has something.
    fn open_on(
        options: StoreOptions,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, Recovered, mpsc::Receiver<()>), StoreError> {
        let Replayed { mut index, recovered, next_segment, next_batch } = recovery::recover(&options, &*disk)?;
        let (dir, segment_bytes) = (options.dir.clone(), options.segment_bytes);
        let (wake, woken) = mpsc::sync_channel(1);
        let at = RecordAt { segment: next_segment, position: RECORDS_START as u32 };
        index.synced = LogPosition { at, batch: next_batch - 1 };
        // What the replay went over is no repair of today.
        index.repaired_chunks = 0;
        let shared = Shared::new(options, Arc::clone(&disk), index, recovered.torn_bytes_cut, wake);
        let shared = Arc::new(shared);
        shared.look_at_space(0);
        let next = (next_segment, next_batch);
        let log = Log::create(dir, disk, segment_bytes, shared.may_preallocate(), next)
            .map_err(|error| shared.failed(error.into()))?;
        shared.index().add_segment(Arc::clone(log.segment()), log.position());

        let (requests, queue) = mpsc::channel();
        let writer = Writer::new(Arc::clone(&shared), queue, log);
        let store = Self(Arc::new(Inner {
            shared,
            requests,
            window: Arc::new(Semaphore::new(WINDOW_BYTES)),
            reads: Semaphore::new(READS_MAX),
            generation: AtomicU64::new(1),
            threads: Mutex::default(),
        }));
        store.start("store-writer", move || writer.run())?;
        Ok((store, recovered, woken))
    }

    fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = started.map_err(|error| self.0.shared.failed(error))?;
        self.0.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Begins a blob. One begun before and not sealed starts afresh; a sealed one is `AlreadySealed`, unless it is
    /// damaged: then it is replaced when the new copy is sealed. Recorded with the first chunk.
    pub fn begin(&self, group: GroupId, write_id: WriteId, blob: BlobId) -> Result<(), StoreError> {
        self.0.shared.admit()?;
        let mut index = self.0.shared.index();
        let sealing = index.open.get(&blob).is_some_and(|open| open.sealing);
        let sealed = index.sealed(blob).is_some() && !index.is_damaged(blob);
        if sealing || sealed {
            return Err(StoreError::AlreadySealed(blob));
        }
        let generation = self.0.generation.fetch_add(1, Ordering::Relaxed);
        index.begin(blob, Open::new(generation, group, write_id));
        Ok(())
    }

    /// Accepts the next chunk: waits for room in the window, not for the disk. What the disk says comes with the next
    /// `append` or with `seal`.
    pub async fn append(&self, blob: BlobId, offset: u64, data: Bytes, checksum: u32) -> Result<(), StoreError> {
        let length = u32::try_from(data.len()).ok().and_then(NonZeroU32::new);
        let Some(length) = length.filter(|_| data.len() <= CHUNK_LENGTH_MAX) else {
            return Err(StoreError::BadChunkLength(data.len()));
        };
        if crc32c(&data) != checksum {
            self.0.shared.counts.refused.inc();
            return Err(StoreError::ChecksumMismatch { blob, offset });
        }
        self.0.shared.admit()?;
        let room = self.room(data.len()).await?;
        let mut index = self.0.shared.index();
        let is_sealed = index.sealed(blob).is_some();
        let open = match index.open.get_mut(&blob) {
            Some(open) if open.sealing => return Err(StoreError::AlreadySealed(blob)),
            Some(open) => open,
            None if is_sealed => return Err(StoreError::AlreadySealed(blob)),
            None => return Err(StoreError::NoSuchBlob(blob)),
        };
        if let Some(error) = &open.failed {
            return Err(error.clone());
        }
        if offset != open.accepted {
            return Err(StoreError::OutOfOrder { blob, expected: open.accepted, offset });
        }
        let end = offset + u64::from(length.get());
        let Some(offset) = u32::try_from(offset).ok().filter(|_| end <= BLOB_LENGTH_MAX) else {
            return Err(StoreError::TooLarge { blob, limit: BLOB_LENGTH_MAX });
        };
        let work = Work::Chunk { blob, generation: open.generation, offset, length, checksum, data };
        // Still under the index's lock: the queue has the chunks in the order in which they were accepted.
        self.0.requests.send(Request { work, room }).map_err(|_| StoreError::Closed)?;
        open.accept(length.get(), checksum);
        Ok(())
    }

    /// Returns when all of the blob is on stable storage. One sealed already with this length and checksum is fine.
    pub async fn seal(&self, blob: BlobId, length: u64, checksum: u32) -> Result<(), StoreError> {
        let room = self.room(0).await?;
        let answered = {
            let mut index = self.0.shared.index();
            let Some(open) = index.open.get_mut(&blob) else {
                let sealed = index.sealed(blob).ok_or(StoreError::NoSuchBlob(blob))?;
                return matches(blob, (length, checksum), (sealed.length.into(), sealed.checksum));
            };
            if let Some(error) = &open.failed {
                return Err(error.clone());
            }
            matches(blob, (length, checksum), (open.accepted, open.checksum))?;
            let Some(length) = u32::try_from(length).ok().filter(|&length| length > 0) else {
                return Err(StoreError::BadChunkLength(0));
            };
            let (answer, answered) = oneshot::channel();
            let work = Work::Seal { blob, generation: open.generation, length, checksum, answer };
            self.0.requests.send(Request { work, room }).map_err(|_| StoreError::Closed)?;
            open.sealing = true;
            answered
        };
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Records the version that a sealed blob was committed as. Durable within about a second.
    pub async fn publish(&self, blob: BlobId, inode: Inode, version: Version) -> Result<(), StoreError> {
        self.ask(|answer| Work::Publish { blob, inode, version, answer }).await
    }

    /// Drops a blob that is not published, sealed or not; an unknown one is fine. Durable within about a second.
    pub async fn discard(&self, blob: BlobId) -> Result<(), StoreError> {
        self.ask(|answer| Work::Discard { blob, answer }).await
    }

    /// Drops what has arrived of a blob, unless its seal was asked for: then it may be whole and acknowledged at any moment,
    /// and stays. So does a sealed copy that was to be replaced. At once and without a record, for a restart forgets
    /// what is not sealed by itself.
    pub fn discard_open(&self, blob: BlobId) {
        let mut index = self.0.shared.index();
        if index.open.get(&blob).is_some_and(|open| !open.sealing) {
            index.drop_open(blob);
        }
    }

    /// Deletes blobs, published or not; unknown ones are fine. Durable on return.
    pub async fn delete(&self, blobs: Vec<BlobId>) -> Result<(), StoreError> {
        self.ask(|answer| Work::Delete { blobs, answer }).await
    }

    pub fn blob(&self, blob: BlobId) -> Option<BlobRecord> {
        self.0.shared.index().record(blob)
    }

    /// A page of the group's blobs in the order of their ids, from the one after `after`.
    pub fn blobs(&self, group: GroupId, after: Option<BlobId>, limit: usize, sealed_only: bool) -> Vec<BlobRecord> {
        self.0.shared.index().page(group, after, limit, sealed_only)
    }

    /// The chunk of a sealed blob that holds the byte at `offset`, whole, from the disk, verified.
    pub async fn read_chunk(&self, blob: BlobId, offset: u64) -> Result<StoredChunk, StoreError> {
        let _turn = self.0.reads.acquire().await.map_err(|_| StoreError::Closed)?;
        let shared = Arc::clone(&self.0.shared);
        let read = tokio::task::spawn_blocking(move || read::chunk(&shared, blob, offset));
        read.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Blobs begun or recovered longer ago than this and not published.
    pub fn unpublished(&self, older_than: Duration) -> Vec<Staged> {
        self.0.shared.index().unpublished(older_than)
    }

    /// The pieces of sealed blobs that are known to be damaged, for repair: fetch the blob, begin, append, seal.
    pub fn damaged(&self) -> Vec<DamagedChunk> {
        self.0.shared.index().damaged()
    }

    /// Where in this part of a blob something is known to be damaged first.
    pub fn damage_in(&self, blob: BlobId, from: u64, to: u64) -> Option<u64> {
        let index = self.0.shared.index();
        index.damaged_of(blob).find(|(offset, length)| *offset < to && from < offset + length).map(|(offset, _)| offset)
    }

    /// How many blobs of a group are whole or damaged here, those that are being written aside.
    pub fn count_of(&self, group: GroupId) -> u64 {
        self.0.shared.index().count_of(group)
    }

    /// A scrub of its own, beside the one that goes on for ever.
    pub fn full_pass(&self) -> FullPass {
        FullPass::new(Arc::clone(&self.0.shared))
    }

    /// How many stretches of the log have ever been found lost. What was in them may be known to nobody here, until the caller
    /// has compared every group's blobs with other members and said so by [`Self::set_compared`].
    pub fn losses_found(&self) -> u64 {
        self.0.shared.index().losses.found()
    }

    /// Nothing that the first `found` losses took is missing any more without being known as damaged.
    pub fn set_compared(&self, found: u64) {
        self.0.shared.index().losses.set_compared(found);
        self.0.shared.wake_maintenance();
    }

    /// What is counted; it goes on being counted.
    pub fn counts(&self) -> &StoreCounts {
        &self.0.shared.counts
    }

    pub fn status(&self) -> StoreStatus {
        let shared = &self.0.shared;
        let (space, refusal) = (shared.space(), shared.complaint());
        let index = shared.index();
        StoreStatus {
            blob_count: index.sealed_count() as u64,
            staged_count: index.staged_count() as u64,
            segment_count: index.segments.len() as u64,
            disk_used_bytes: space.total.saturating_sub(space.free),
            disk_total_bytes: space.total,
            stored_bytes: index.segments.values().map(|segment| segment.live).sum(),
            garbage_bytes: index.segments.values().map(index::SegmentUse::garbage).sum(),
            read_only: refusal.map(|error| error.to_string()),
            torn_bytes_cut: shared.torn_bytes_cut,
            damaged_chunk_count: index.damaged_count() as u64,
            damaged_region_count: index.losses.len() as u64,
            sync_count: shared.sync_count.load(Ordering::Relaxed),
            repaired_chunk_count: index.repaired_chunks,
            scrub_read_bytes: shared.scrub_read_bytes.load(Ordering::Relaxed),
            log_bytes: index.log_bytes(),
            scrub_ended_ms: index.scrubbed.ended_ms,
        }
    }

    /// Finishes what is queued, makes it durable, and stops the threads.
    pub async fn close(&self) {
        // An error means that the writer has ended already.
        self.ask(|answer| Work::Close { answer }).await.ok();
        self.0.shared.stop();
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().map(JoinHandle::join).all(|it| it.is_ok()));
        if !joined.await.unwrap_or(false) {
            tracing::error!("a thread of the store has panicked");
        }
    }

    async fn room(&self, data_length: usize) -> Result<tokio::sync::OwnedSemaphorePermit, StoreError> {
        let bytes = (data_length + REQUEST_BYTES) as u32;
        Arc::clone(&self.0.window).acquire_many_owned(bytes).await.map_err(|_| StoreError::Closed)
    }

    async fn ask(&self, work: impl FnOnce(Answer) -> Work) -> Result<(), StoreError> {
        let room = self.room(0).await?;
        let (answer, answered) = oneshot::channel();
        self.0.requests.send(Request { work: work(answer), room }).map_err(|_| StoreError::Closed)?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// Whether what is to be sealed is what is there.
fn matches(blob: BlobId, sealed: (u64, u32), accepted: (u64, u32)) -> Result<(), StoreError> {
    if sealed.0 != accepted.0 {
        return Err(StoreError::LengthMismatch { blob, sealed: sealed.0, accepted: accepted.0 });
    }
    if sealed.1 != accepted.1 {
        return Err(StoreError::ChecksumMismatch { blob, offset: 0 });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
