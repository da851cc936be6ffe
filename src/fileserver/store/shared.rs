//! What the writer, the readers and the upkeep of one store have in common.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    time::{Duration, Instant},
};

use super::{
    disk::{Disk, Space},
    index::Index,
    reader::Found,
    segment::Segment,
    types::{DamagedRegion, StoreCounts, StoreError, StoreOptions},
};

/// A disk that does not answer the writer for so long hangs.
pub const HANGS_AFTER: Duration = Duration::from_secs(2);
/// The same words as long as it lasts.
const HANGS: &str = "the disk does not answer";

pub struct Shared {
    pub options: StoreOptions,
    pub disk: Arc<dyn Disk>,
    index: Mutex<Index>,
    health: Mutex<Health>,
    /// Since when the writer has been waiting for the disk.
    waiting: Mutex<Option<Instant>>,
    pub sync_count: AtomicU64,
    pub counts: StoreCounts,
    /// What the scrub that goes on for ever has read of the pass that it is in.
    pub scrub_read_bytes: AtomicU64,
    pub torn_bytes_cut: u64,
    stopping: AtomicBool,
    wake_maintenance: SyncSender<()>,
}

/// See [`Shared::at_disk`].
pub struct AtDisk<'a>(&'a Shared);

impl Drop for AtDisk<'_> {
    fn drop(&mut self) {
        *self.0.waiting() = None;
    }
}

/// What may be done to the store.
#[derive(Clone, Debug, Default)]
struct Health {
    /// Why nothing is written any more; set once.
    poisoned: Option<String>,
    space: Space,
    full: bool,
}

impl Shared {
    pub fn new(
        options: StoreOptions,
        disk: Arc<dyn Disk>,
        index: Index,
        torn_bytes_cut: u64,
        wake_maintenance: SyncSender<()>,
    ) -> Self {
        Self {
            options,
            disk,
            index: Mutex::new(index),
            health: Mutex::default(),
            waiting: Mutex::default(),
            sync_count: AtomicU64::new(0),
            counts: StoreCounts::default(),
            scrub_read_bytes: AtomicU64::new(0),
            torn_bytes_cut,
            stopping: AtomicBool::new(false),
            wake_maintenance,
        }
    }

    /// Never held over I/O, nor over an await.
    pub fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no more writes, for good; answers the cause, which is the first one.
    pub fn poison(&self, cause: String) -> String {
        let mut health = self.health();
        if health.poisoned.is_none() {
            tracing::error!(cause, "the store takes no more writes until it is restarted");
        }
        health.poisoned.get_or_insert(cause).clone()
    }

    /// Why nothing can be written at all.
    pub fn poisoned(&self) -> Option<String> {
        self.health().poisoned.clone()
    }

    pub fn failed(&self, error: io::Error) -> StoreError {
        StoreError::Io { path: self.options.dir.clone(), message: error.to_string() }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Instant>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer turns to the disk, for as long as this is kept.
    pub fn at_disk(&self) -> AtDisk<'_> {
        *self.waiting() = Some(Instant::now());
        AtDisk(self)
    }

    fn hangs(&self) -> bool {
        self.waiting().is_some_and(|since| since.elapsed() >= HANGS_AFTER)
    }

    /// Whether new data may come in. Not while the disk hangs: what waits for it then is not known to be lost, and what comes
    /// would only wait too.
    pub fn admit(&self) -> Result<(), StoreError> {
        let hangs = self.hangs();
        let health = self.health();
        match &health.poisoned {
            Some(cause) => Err(StoreError::ReadOnly(cause.clone())),
            None if hangs => Err(StoreError::ReadOnly(HANGS.to_owned())),
            None if health.full => Err(self.refusal(&health)),
            None => Ok(()),
        }
    }

    pub fn no_space(&self) -> StoreError {
        self.refusal(&self.health())
    }

    fn refusal(&self, health: &Health) -> StoreError {
        StoreError::NoSpace { free_bytes: health.space.free, reserve_bytes: self.options.reserve_bytes }
    }

    pub fn is_full(&self) -> bool {
        self.health().full
    }

    pub fn space(&self) -> Space {
        self.health().space
    }

    /// Whether a whole segment may be taken from the disk in advance without touching the reserve.
    pub fn may_preallocate(&self) -> bool {
        let space = self.space();
        space.free > self.options.segment_bytes.saturating_mul(2).saturating_add(self.options.reserve_bytes)
    }

    /// Looks how much space is left; `unused` bytes were taken from the disk but are free for records. Blocks, shortly.
    pub fn look_at_space(&self, unused: u64) {
        let space = match self.disk.space(&self.options.dir) {
            Ok(space) => Space { free: space.free.saturating_add(unused), ..space },
            Err(error) => {
                tracing::warn!(%error, "cannot tell how much space is left");
                return;
            }
        };
        let mut health = self.health();
        health.space = space;
        let full = space.free < self.options.reserve_bytes;
        if full != health.full {
            health.full = full;
            let (free, reserve) = (space.free, self.options.reserve_bytes);
            tracing::warn!(free_bytes = free, reserve_bytes = reserve, full, "the disk's reserve was reached or left");
            drop(health);
            self.wake_maintenance();
        }
    }

    /// There may be something to compact; a wake-up that is on its way already is enough.
    pub fn wake_maintenance(&self) {
        match self.wake_maintenance.try_send(()) {
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }

    /// Bytes of a closed segment were found to be no record; from now on they are known, and what the index knows to be
    /// in them is damaged.
    pub fn note_gap(&self, segment: &Segment, gap: &Found) {
        let &Found::Gap { from, to } = gap else { return };
        let region = DamagedRegion { segment: segment.number(), from, to };
        let mut index = self.index();
        if let Some(it) = index.segments.get_mut(&region.segment) {
            it.damaged = true;
        }
        let lost = index.mark_lost(&region);
        if index.losses.note(region) {
            let path = segment.path.display();
            tracing::error!(%path, from, to, lost_chunks = lost, "a stretch of the log cannot be read any more");
        }
    }

    /// Ends the upkeep; the writer ends when nobody can ask it any more.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.wake_maintenance();
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
