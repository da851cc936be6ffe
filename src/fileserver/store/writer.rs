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

use std::{
    collections::HashSet,
    io,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    index::{ChunkAt, Index, Open, Published, RecordAt},
    log::{Frame, Log},
    record::Body,
    shared::Shared,
    types::StoreError,
};
use crate::types::{BlobId, Inode, Version};

/// What was recorded, but not acknowledged as durable, is synced at the latest after this.
const LAZY_SYNC: Duration = Duration::from_secs(1);
/// No more than this is written in one go.
const TURN_BYTES_MAX: usize = 16 << 20;
const TURN_REQUESTS_MAX: usize = 4096;

pub type Answer = oneshot::Sender<Result<(), StoreError>>;

/// Something to do, and the room it takes in the queue.
pub struct Request {
    pub work: Work,
    pub room: OwnedSemaphorePermit,
}

pub enum Work {
    Chunk {
        blob: BlobId,
        generation: u64,
        offset: u32,
        length: NonZeroU32,
        checksum: u32,
        data: Bytes,
    },
    /// Answered when durable.
    Seal {
        blob: BlobId,
        generation: u64,
        length: u32,
        checksum: u32,
        answer: Answer,
    },
    /// Answered when written.
    Publish {
        blob: BlobId,
        inode: Inode,
        version: Version,
        answer: Answer,
    },
    /// Answered when written.
    Discard {
        blob: BlobId,
        answer: Answer,
    },
    /// Answered when durable.
    Delete {
        blobs: Vec<BlobId>,
        answer: Answer,
    },
    /// Answered when everything before is durable and the writer has ended.
    Close {
        answer: Answer,
    },
}

/// What a record means for the index: chunks and publications when written, seals and deletions when durable.
enum Effect {
    Chunk { generation: u64, offset: u32, length: u32 },
    Publish { inode: Inode, version: Version },
    Seal { generation: u64, length: u32, checksum: u32 },
    Delete,
    Nothing,
}

/// Who waits for what.
enum Waiting {
    Written(Answer),
    Durable(Answer),
    /// Durable, and then only if it is this that was sealed.
    Sealed {
        blob: BlobId,
        length: u32,
        checksum: u32,
        answer: Answer,
    },
}

impl Waiting {
    fn refuse(self, error: StoreError) {
        let (Self::Written(answer) | Self::Durable(answer) | Self::Sealed { answer, .. }) = self;
        reply(answer, Err(error));
    }
}

/// A caller that has gone away does not want to know.
fn reply(answer: Answer, result: Result<(), StoreError>) {
    answer.send(result).ok();
}

/// What the requests of a turn come to.
#[derive(Default)]
struct Plan {
    frames: Vec<Frame>,
    effects: Vec<(BlobId, Effect)>,
    waiting: Vec<Waiting>,
}

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
        let lazy = self.dirty_since.map(|since| LAZY_SYNC.saturating_sub(since.elapsed()));
        let look = (self.unproven || self.shared.is_full()).then_some(LAZY_SYNC);
        lazy.into_iter().chain(look).min()
    }

    /// Nobody asks for anything: makes durable what is not, and proves that the last batch was.
    fn settle(&mut self) {
        if self.unproven && !self.log.is_dirty() && self.shared.poisoned().is_none() {
            let marker = Plan::of(Frame::marker(), Effect::Nothing);
            self.carry_out(marker);
        }
        if self.log.is_dirty() && self.shared.poisoned().is_none() {
            self.sync();
        }
        self.shared.look_at_space(self.log.unused());
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
        self.carry_out(plan);
        let overdue = self.dirty_since.is_some_and(|since| since.elapsed() >= LAZY_SYNC);
        if !self.waiting.is_empty() || overdue {
            self.sync();
        }
        shared.look_at_space(self.log.unused());
    }

    /// Turns a request into records and into what they mean.
    fn plan(&mut self, work: Work, index: &mut Index, plan: &mut Plan) {
        match work {
            Work::Chunk { blob, generation, offset, length, checksum, data } => {
                let Some(open) = current(index, blob, generation).filter(|open| open.failed.is_none()) else { return };
                let frame = Frame {
                    group: open.group,
                    blob,
                    write_id: open.write_id,
                    body: Body::Chunk { offset, length, checksum },
                    payload: data,
                };
                plan.push(frame, Effect::Chunk { generation, offset, length: length.get() });
            }
            Work::Seal { blob, generation, length, checksum, answer } => {
                if let Some(open) = current(index, blob, generation) {
                    if let Some(error) = open.failed.clone() {
                        return reply(answer, Err(error));
                    }
                    if self.sealing.insert((blob, generation)) {
                        let frame = Frame::bare(open.group, blob, open.write_id, Body::Seal { length, checksum });
                        plan.push(frame, Effect::Seal { generation, length, checksum });
                    }
                }
                plan.waiting.push(Waiting::Sealed { blob, length, checksum, answer });
            }
            Work::Publish { blob, inode, version, answer } => {
                let Some(sealed) = index.sealed(blob) else {
                    return reply(answer, Err(StoreError::NoSuchBlob(blob)));
                };
                if sealed.published.is_none_or(|published| (published.inode, published.version) != (inode, version)) {
                    let (length, checksum) = (sealed.length, sealed.checksum);
                    let body = Body::Publish { inode, version, length, checksum };
                    let frame = Frame::bare(sealed.group, blob, sealed.write_id, body);
                    plan.push(frame, Effect::Publish { inode, version });
                }
                plan.waiting.push(Waiting::Written(answer));
            }
            Work::Discard { blob, answer } => {
                let published = index.sealed(blob).is_some_and(|sealed| sealed.published.is_some());
                if published || plan.publishes(blob) {
                    return reply(answer, Err(StoreError::Published(blob)));
                }
                self.plan_delete(blob, index, plan);
                plan.waiting.push(Waiting::Written(answer));
            }
            Work::Delete { blobs, answer } => {
                for blob in blobs {
                    self.plan_delete(blob, index, plan);
                }
                plan.waiting.push(Waiting::Durable(answer));
            }
            Work::Close { answer } => self.closing.push(answer),
        }
    }

    fn plan_delete(&self, blob: BlobId, index: &Index, plan: &mut Plan) {
        let Some(record) = index.record(blob) else { return };
        let oldest_segment = index.oldest_segment(blob).unwrap_or(self.log.segment().number());
        let frame = Frame::bare(record.group, blob, record.write_id, Body::Delete { oldest_segment });
        plan.push(frame, Effect::Delete);
    }

    /// Writes a plan's records, and lets take effect what need not wait for a sync.
    fn carry_out(&mut self, plan: Plan) {
        let written =
            if self.shared.poisoned().is_some() { Err(io::Error::other("read only")) } else { self.write(&plan) };
        match written {
            Ok(places) => self.apply_written(plan, &places),
            Err(error) if is_full(&error) && plan.has_data() => {
                // Data is refused; deletions and publications are small, and may still go through.
                let rest = self.refuse_data(plan);
                self.carry_out(rest);
            }
            Err(error) => {
                let refusal = if is_full(&error) { self.shared.no_space() } else { self.poison("write", &error) };
                self.unplan(&plan, &refusal);
                plan.waiting.into_iter().for_each(|waiting| waiting.refuse(refusal.clone()));
            }
        }
    }

    fn write(&mut self, plan: &Plan) -> io::Result<Vec<RecordAt>> {
        let length: u64 = plan.frames.iter().map(Frame::length).sum();
        if !self.log.has_room(length) {
            self.roll(plan)?;
        }
        self.log.write(&plan.frames)
    }

    /// Closes the segment and goes on in the next. If the disk has no room for one, what is not data goes on in this one.
    fn roll(&mut self, plan: &Plan) -> io::Result<()> {
        if self.log.is_dirty() && !self.sync() {
            return Err(io::Error::other("sync failed"));
        }
        match self.log.roll(self.shared.may_preallocate()) {
            Err(error) if is_full(&error) && !plan.has_data() => return Ok(()),
            rolled => rolled?,
        }
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
        let dirty = self.log.is_dirty();
        self.shared.sync_count.fetch_add(dirty.into(), Ordering::Relaxed);
        let synced = match dirty.then(|| self.log.sync()).transpose() {
            Ok(synced) => synced,
            Err(error) => {
                let refusal = self.poison("sync", &error);
                self.pending.clear();
                self.waiting.drain(..).for_each(|waiting| waiting.refuse(refusal.clone()));
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

    /// The data of a plan cannot be written, and its blobs cannot be sealed any more.
    fn refuse_data(&mut self, plan: Plan) -> Plan {
        let refusal = self.shared.no_space();
        let shared = Arc::clone(&self.shared);
        let mut index = shared.index();
        for (blob, effect) in &plan.effects {
            if let Effect::Chunk { generation, .. } = effect
                && let Some(open) = index.open.get_mut(blob).filter(|open| open.generation == *generation)
            {
                open.failed = Some(refusal.clone());
                open.sealing = false;
            }
        }
        let failed = |blob: &BlobId| index.open.get(blob).is_some_and(|open| open.failed.is_some());
        let mut rest = Plan::default();
        for (frame, (blob, effect)) in plan.frames.into_iter().zip(plan.effects) {
            match effect {
                Effect::Chunk { .. } => {}
                Effect::Seal { generation, .. } if failed(&blob) => {
                    self.sealing.remove(&(blob, generation));
                }
                effect => rest.push(frame, effect),
            }
        }
        for waiting in plan.waiting {
            match waiting {
                Waiting::Sealed { blob, answer, .. } if failed(&blob) => reply(answer, Err(refusal.clone())),
                waiting => rest.waiting.push(waiting),
            }
        }
        rest
    }

    /// A plan was not carried out: its blobs are no longer being sealed.
    fn unplan(&mut self, plan: &Plan, refusal: &StoreError) {
        let mut index = self.shared.index();
        for (blob, effect) in &plan.effects {
            if let Effect::Seal { generation, .. } = effect {
                self.sealing.remove(&(*blob, *generation));
            }
            if let Effect::Seal { generation, .. } | Effect::Chunk { generation, .. } = effect
                && let Some(open) = index.open.get_mut(blob).filter(|open| open.generation == *generation)
            {
                open.failed = Some(refusal.clone());
                open.sealing = false;
            }
        }
    }

    /// From now on nothing is written.
    fn poison(&self, what: &str, error: &io::Error) -> StoreError {
        let cause = self.shared.poison(format!("a {what} of {} failed: {error}", self.log.segment().path.display()));
        StoreError::ReadOnly(cause)
    }
}

/// Nobody is left who could ask for anything.
struct Gone;

impl Plan {
    fn of(frame: Frame, effect: Effect) -> Self {
        let mut plan = Self::default();
        plan.push(frame, effect);
        plan
    }

    fn push(&mut self, frame: Frame, effect: Effect) {
        self.effects.push((frame.blob, effect));
        self.frames.push(frame);
    }

    fn publishes(&self, blob: BlobId) -> bool {
        self.effects.iter().any(|(it, effect)| *it == blob && matches!(effect, Effect::Publish { .. }))
    }

    fn has_data(&self) -> bool {
        self.effects.iter().any(|(_, effect)| matches!(effect, Effect::Chunk { .. }))
    }
}

/// The open blob, if it is still the same beginning of it.
fn current(index: &Index, blob: BlobId, generation: u64) -> Option<&Open> {
    index.open.get(&blob).filter(|open| open.generation == generation)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
