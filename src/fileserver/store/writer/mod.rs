//! The one thread that writes: takes whatever is queued, writes it in one go, syncs once, answers all.
//!
//! While one sync runs, the next batch gathers by itself, so the number of syncs follows the disk's speed and not the
//! number of writers. What nobody waits for (chunks, publications) is only written; it rides with the next sync, and at
//! the latest a second later the writer syncs by itself.
//!
//! A batch that was acknowledged and has nothing after it in the log cannot be told from one that was torn, should it
//! be damaged later (see [`recovery`](super::recovery)); so when nothing follows, the writer puts a marker behind it.
//!
//! After a failed write or sync it takes no more writes: nobody knows what of the batch is on the disk, and a second
//! sync would not tell. A disk without space is no such failure: nothing was promised, and the log's end is still known.

mod plan;

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::{Duration, Instant},
};

pub use self::plan::{Answer, Request, Work};
use self::plan::{Effect, Plan, Waiting, current, reply};
use super::{
    index::{ChunkAt, Published, RecordAt},
    log::{Frame, Log, Unwritten},
    shared::Shared,
    types::StoreError,
};
use crate::types::BlobId;

/// What was recorded, but not acknowledged as durable, is synced at the latest after this.
const LAZY_SYNC: Duration = Duration::from_secs(1);
/// No more than this is written in one go.
const TURN_BYTES_MAX: usize = 16 << 20;
const TURN_REQUESTS_MAX: usize = 4096;
/// A disk that can take as much has room again: for whatever is written in one go.
const ROOM_BYTES: u64 = TURN_BYTES_MAX as u64;

pub struct Writer {
    shared: Arc<Shared>,
    requests: Receiver<Request>,
    log: Log,
    /// Written, and to take effect with the next sync.
    pending: Vec<(BlobId, Effect, RecordAt)>,
    waiting: Vec<Waiting>,
    /// Blobs, by generation, whose seal is among the pending.
    sealing: HashSet<(BlobId, u64)>,
    /// Since when there is something that only a timer will sync.
    dirty_since: Option<Instant>,
    /// The last batch was acknowledged, and nothing in the log proves yet that it was synced.
    unproven: bool,
    /// When it was last tried whether a disk has room again that had none.
    room_tried: Instant,
    closing: Vec<Answer>,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, requests: Receiver<Request>, log: Log) -> Self {
        Self {
            shared,
            requests,
            log,
            pending: Vec::new(),
            waiting: Vec::new(),
            sealing: HashSet::new(),
            dirty_since: None,
            unproven: false,
            room_tried: Instant::now(),
            closing: Vec::new(),
        }
    }

    /// Runs until it is told to close, or until nobody is left who could ask for anything.
    pub fn run(mut self) {
        while self.closing.is_empty() {
            match self.gather() {
                Ok(requests) if requests.is_empty() => self.settle(),
                Ok(requests) => self.turn(requests),
                Err(Gone) => break,
            }
        }
        self.settle();
        if self.shared.poisoned().is_none() {
            self.log.trim();
        }
        for answer in self.closing {
            reply(answer, Ok(()));
        }
    }

    /// Whatever is queued, at least one thing; nothing when it is time to sync or to look at the disk again.
    fn gather(&self) -> Result<Vec<Request>, Gone> {
        let first = match self.patience() {
            None => self.requests.recv().map_err(|_| Gone)?,
            Some(wait) => match self.requests.recv_timeout(wait) {
                Ok(request) => request,
                Err(RecvTimeoutError::Timeout) => return Ok(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => return Err(Gone),
            },
        };
        let mut bytes = first.room.num_permits();
        let mut requests = vec![first];
        while bytes < TURN_BYTES_MAX && requests.len() < TURN_REQUESTS_MAX {
            match self.requests.try_recv() {
                Ok(request) => {
                    bytes += request.room.num_permits();
                    requests.push(request);
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        Ok(requests)
    }

    /// How long to wait for a request before there is something to do without one.
    fn patience(&self) -> Option<Duration> {
        if self.shared.poisoned().is_some() {
            return None;
        }
        let lazy = self.dirty_since.map(|since| LAZY_SYNC.saturating_sub(since.elapsed()));
        let look = (self.unproven || self.shared.is_short()).then_some(LAZY_SYNC);
        lazy.into_iter().chain(look).min()
    }

    /// Nobody asks for anything: makes durable what is not, proves that the last batch was, and tries whether a disk has room
    /// again that had none.
    fn settle(&mut self) {
        let shared = Arc::clone(&self.shared);
        let _at_disk = shared.at_disk();
        if self.unproven && !self.log.is_dirty() {
            let marker = Plan::of(Frame::marker(), Effect::Nothing);
            self.carry_out(marker);
        }
        if self.log.is_dirty() {
            self.sync();
        }
        self.try_room();
        self.shared.look_at_space(self.log.unused());
    }

    /// Sees whether a disk has room again that had none, by what it gives: not more often than each second.
    fn try_room(&mut self) {
        let is_due = self.shared.has_no_room() && self.room_tried.elapsed() >= LAZY_SYNC;
        if !is_due || self.shared.poisoned().is_some() {
            return;
        }
        self.room_tried = Instant::now();
        let has_room = match self.log.is_stuck() {
            true => self.next_segment(),
            false => Ok(()),
        };
        match has_room {
            Ok(()) if self.log.take_room(ROOM_BYTES) => self.shared.note_room(),
            Ok(()) | Err(Unwritten::NoRoom(_)) => {}
            Err(Unwritten::Unknown(error)) => {
                self.poison("close", &error);
            }
        }
    }

    fn turn(&mut self, requests: Vec<Request>) {
        // The room in the queue is free again when the data is written, so that the window bounds what is in memory.
        let (works, _rooms): (Vec<_>, Vec<_>) =
            requests.into_iter().map(|request| (request.work, request.room)).unzip();
        let shared = Arc::clone(&self.shared);
        let mut plan = Plan::default();
        {
            let mut index = shared.index();
            for work in works {
                self.plan(work, &mut index, &mut plan);
            }
        }
        let _at_disk = shared.at_disk();
        self.carry_out(plan);
        let overdue = self.dirty_since.is_some_and(|since| since.elapsed() >= LAZY_SYNC);
        if !self.waiting.is_empty() || overdue {
            self.sync();
        }
        self.try_room();
        shared.look_at_space(self.log.unused());
    }

    /// Writes a plan's records, and lets take effect what need not wait for a sync.
    fn carry_out(&mut self, plan: Plan) {
        let written = match self.shared.poisoned() {
            Some(cause) => Err(Unwritten::Unknown(io::Error::other(cause))),
            None => self.write(&plan),
        };
        match written {
            Ok(places) => self.apply_written(plan, &places),
            Err(Unwritten::NoRoom(error)) if plan.has_data() => {
                // Data is refused; deletions and publications are small, and may still go through.
                let rest = self.refuse_data(plan, &error);
                self.carry_out(rest);
            }
            Err(unwritten) => {
                let refusal = match unwritten {
                    Unwritten::NoRoom(error) => self.shared.note_no_room(&error),
                    Unwritten::Unknown(error) => self.poison("write", &error),
                };
                self.unplan(&plan, &refusal);
                plan.waiting.into_iter().for_each(|waiting| waiting.refuse(refusal.clone()));
            }
        }
    }

    fn write(&mut self, plan: &Plan) -> Result<Vec<RecordAt>, Unwritten> {
        let length: u64 = plan.frames.iter().map(Frame::length).sum();
        if !self.log.has_room(length) {
            match self.next_segment() {
                // What is not data goes on in this one.
                Err(Unwritten::NoRoom(_)) if !plan.has_data() => {}
                stepped => stepped?,
            }
        }
        self.log.write(&plan.frames)
    }

    /// Closes the segment and goes on in the next.
    fn next_segment(&mut self) -> Result<(), Unwritten> {
        if self.log.is_dirty() && !self.sync() {
            return Err(Unwritten::Unknown(io::Error::other("sync failed")));
        }
        self.log.roll(self.shared.may_preallocate())?;
        self.unproven = false;
        let segment = Arc::clone(self.log.segment());
        self.shared.index().add_segment(segment, self.log.position());
        self.shared.wake_maintenance();
        Ok(())
    }

    fn apply_written(&mut self, plan: Plan, places: &[RecordAt]) {
        if !plan.frames.is_empty() {
            self.dirty_since.get_or_insert_with(Instant::now);
        }
        if plan.has_data() && !self.log.is_stuck() {
            self.shared.note_room();
        }
        let mut index = self.shared.index();
        for ((blob, effect), &at) in plan.effects.into_iter().zip(places) {
            match effect {
                Effect::Chunk { generation, offset, length } => {
                    if current(&index, blob, generation).is_some() {
                        index.add_chunk(blob, ChunkAt { at, offset, length });
                    }
                }
                Effect::Publish { inode, version } => index.publish(blob, Published { inode, version, at }),
                Effect::Delete => {
                    index.count_tombstone(at.segment);
                    index.drop_open(blob);
                    self.pending.push((blob, Effect::Delete, at));
                }
                Effect::Nothing => index.count_tombstone(at.segment),
                seal @ Effect::Seal { .. } => self.pending.push((blob, seal, at)),
            }
        }
        index.set_end(self.log.segment().number(), self.log.position());
        drop(index);
        for waiting in plan.waiting {
            match waiting {
                Waiting::Written(answer) => reply(answer, Ok(())),
                durable => self.waiting.push(durable),
            }
        }
    }

    /// One sync for everything written; then what waited for it takes effect and is answered.
    fn sync(&mut self) -> bool {
        if let Some(cause) = self.shared.poisoned() {
            // Not even if it would succeed: after one that failed, that says nothing of what was written before.
            self.give_up(&StoreError::ReadOnly(cause));
            return false;
        }
        let dirty = self.log.is_dirty();
        self.shared.sync_count.fetch_add(dirty.into(), Ordering::Relaxed);
        let start = Instant::now();
        let synced = match dirty.then(|| self.log.sync()).transpose() {
            Ok(synced) => {
                if dirty {
                    self.shared.counts.fsync.since(start);
                }
                synced
            }
            Err(error) => {
                let refusal = self.poison("sync", &error);
                self.give_up(&refusal);
                return false;
            }
        };
        self.dirty_since = None;
        self.unproven = !self.pending.is_empty();
        if self.pending.iter().any(|(_, effect, _)| matches!(effect, Effect::Delete)) {
            self.shared.wake_maintenance();
        }
        let mut index = self.shared.index();
        for (blob, effect, at) in self.pending.drain(..) {
            match effect {
                Effect::Seal { generation, length, checksum } => {
                    if current(&index, blob, generation).is_some() {
                        index.seal(blob, length, checksum, Some(at));
                    }
                }
                Effect::Delete => index.delete_sealed(blob),
                Effect::Chunk { .. } | Effect::Publish { .. } | Effect::Nothing => {}
            }
        }
        if let Some(synced) = synced {
            index.synced = synced;
        }
        self.sealing.clear();
        for waiting in self.waiting.drain(..) {
            match waiting {
                Waiting::Written(answer) | Waiting::Durable(answer) => reply(answer, Ok(())),
                Waiting::Sealed { blob, length, checksum, answer } => {
                    let is_it = index.sealed(blob).is_some_and(|it| (it.length, it.checksum) == (length, checksum));
                    reply(answer, if is_it { Ok(()) } else { Err(StoreError::Superseded(blob)) });
                }
            }
        }
        true
    }

    /// What was written and not synced takes no effect any more.
    fn give_up(&mut self, refusal: &StoreError) {
        self.dirty_since = None;
        self.unproven = false;
        self.pending.clear();
        self.waiting.drain(..).for_each(|waiting| waiting.refuse(refusal.clone()));
    }

    /// From now on nothing is written.
    fn poison(&self, what: &str, error: &io::Error) -> StoreError {
        let cause = self.shared.poison(format!("a {what} of {} failed: {error}", self.log.segment().path.display()));
        StoreError::ReadOnly(cause)
    }
}

/// Nobody is left who could ask for anything.
struct Gone;
