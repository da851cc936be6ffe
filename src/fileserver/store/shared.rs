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

pub struct Shared {
    pub options: StoreOptions,
    pub disk: Arc<dyn Disk>,
    index: Mutex<Index>,
    health: Mutex<Health>,
    /// For what the writer has been waiting for the disk.
    waiting: Mutex<Option<Waiting>>,
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

/// The writer is at the disk.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// It was logged that the disk hangs.
    is_said: bool,
}

impl Drop for AtDisk<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.0.waiting().take().filter(|waiting| waiting.is_said) {
            let (dir, hung) = (self.0.options.dir.display(), waiting.since.elapsed());
            tracing::warn!(%dir, ?hung, "the disk answers again");
        }
    }
}

/// What may be done to the store.
#[derive(Clone, Debug, Default)]
struct Health {
    /// Why nothing is written any more; set once.
    poisoned: Option<String>,
    space: Space,
    full: bool,
    /// What the disk said when it did not take data for lack of room; it has not been seen to have any since.
    no_room: Option<String>,
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

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer turns to the disk, for as long as this is kept.
    pub fn at_disk(&self) -> AtDisk<'_> {
        *self.waiting() = Some(Waiting { since: Instant::now(), is_said: false });
        AtDisk(self)
    }

    fn hangs(&self) -> bool {
        let mut waiting = self.waiting();
        let Some(waiting) = waiting.as_mut().filter(|waiting| waiting.since.elapsed() >= HANGS_AFTER) else {
            return false;
        };
        if !std::mem::replace(&mut waiting.is_said, true) {
            tracing::error!(dir = %self.options.dir.display(), "the disk does not answer: no writes are taken until it does");
        }
        true
    }

    /// Whether new data may come in. Not while the disk hangs: what waits for it then is not known to be lost, and what comes
    /// would only wait too.
    pub fn admit(&self) -> Result<(), StoreError> {
        let hangs = self.hangs();
        let health = self.health();
        match &health.poisoned {
            Some(cause) => Err(StoreError::ReadOnly(cause.clone())),
            None if hangs => Err(StoreError::DiskHangs),
            None if health.full => Err(self.refusal(&health)),
            None => Ok(()),
        }
    }

    /// Why others had better take the writes. What comes all the same is tried where only the disk itself can say whether there
    /// is room.
    pub fn complaint(&self) -> Option<StoreError> {
        self.admit().err().or_else(|| {
            let health = self.health();
            health.no_room.is_some().then(|| self.refusal(&health))
        })
    }

    /// The disk has not taken data for lack of room, whatever it says of its space.
    pub fn note_no_room(&self, error: &io::Error) -> StoreError {
        let mut health = self.health();
        let is_news = health.no_room.is_none();
        health.no_room.get_or_insert_with(|| error.to_string());
        let refusal = self.refusal(&health);
        drop(health);
        if is_news {
            tracing::warn!(dir = %self.options.dir.display(), %refusal, "the disk has no room for data");
            self.wake_maintenance();
        }
        refusal
    }

    /// The disk has room for data.
    pub fn note_room(&self) {
        if self.health().no_room.take().is_some() {
            tracing::warn!(dir = %self.options.dir.display(), "the disk has room for data again");
        }
    }

    pub fn has_no_room(&self) -> bool {
        self.health().no_room.is_some()
    }

    fn refusal(&self, health: &Health) -> StoreError {
        let free_bytes = health.space.free;
        match &health.no_room {
            Some(cause) if !health.full => StoreError::NoRoom { free_bytes, cause: cause.clone() },
            _ => StoreError::NoSpace { free_bytes, reserve_bytes: self.options.reserve_bytes },
        }
    }

    /// Whether space matters more than work: the reserve is reached, or the disk takes no data.
    pub fn is_short(&self) -> bool {
        let health = self.health();
        health.full || health.no_room.is_some()
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
