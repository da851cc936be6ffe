//! Re-reads everything, slowly and for ever, so that damage is found while there are other copies to repair it from.
//!
//! Goes through closed segments record by record, which finds damaged seals and tombstones as well as damaged chunks; then
//! through the chunks of the segment that is being written, of which only the records that the index knows are settled. What
//! the kernel has cached is dropped first: it is the disk that is to be asked. A start goes on where the last checkpoint was.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    index::{ChunkAt, RecordAt, Scrubbed},
    read,
    reader::{Found, Payloads, Reader},
    record::{Body, record_length},
    segment::{RECORDS_START, Segment},
    shared::Shared,
};
use crate::types::{BlobId, GroupId};

/// Bytes that are read in one step.
const STEP_BYTES: u64 = 1 << 20;
/// Blobs whose chunks are looked for at once.
const PAGE_BLOBS: usize = 1024;

/// Where a scrub is.
#[derive(Debug, Default)]
pub struct Scrub {
    stage: Stage,
    /// The segment it was in last.
    last: u32,
    /// Bytes of this pass.
    read_bytes: u64,
}

#[derive(Debug, Default)]
enum Stage {
    /// Before the next closed segment.
    #[default]
    Between,
    In {
        segment: Arc<Segment>,
        position: u64,
    },
    /// In the segment that was being written when the closed ones were through.
    Newest {
        segment: u32,
        after: Option<(GroupId, BlobId)>,
        chunks: VecDeque<(BlobId, ChunkAt)>,
    },
}

/// What a step has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes were read, perhaps none; there is more.
    Read(u64),
    /// Everything has been read once since the last time.
    PassDone,
}

/// Keeps to a rate: after a rest that was too long, or a read that took its time, the next rest is shorter.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: u64,
    due: Instant,
}

/// What was not read in time is caught up with for no longer than this.
const DEBT_MAX: Duration = Duration::from_secs(1);

impl Pace {
    pub fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), due: now }
    }

    /// How long to rest after so many bytes.
    pub fn after(&mut self, bytes: u64, now: Instant) -> Duration {
        let cost = Duration::from_micros(bytes.saturating_mul(1_000_000) / self.bytes_per_second);
        let earliest = now.checked_sub(DEBT_MAX).unwrap_or(now);
        self.due = self.due.max(earliest) + cost;
        self.due.saturating_duration_since(now)
    }
}

impl Scrub {
    /// Goes on where the last checkpoint was.
    pub fn resume(shared: &Shared) -> Self {
        let index = shared.index();
        let last = index.scrubbed.segment;
        let read_bytes = index.segments.range(..=last).map(|(_, segment)| segment.end).sum();
        Self { stage: Stage::Between, last, read_bytes }
    }

    /// Has the next checkpoint say how far it is; answers how many bytes were read in this pass.
    pub fn note(&self, shared: &Shared) -> u64 {
        if matches!(self.stage, Stage::Between) {
            shared.index().scrubbed.segment = self.last;
        }
        self.read_bytes
    }

    /// The same of a pass that has come to its end.
    pub fn note_end(&self, shared: &Shared) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        shared.index().scrubbed = Scrubbed { segment: 0, ended_ms: now.as_millis() as u64 };
    }

    /// Reads a little. Blocks on the disk.
    pub fn step(&mut self, shared: &Shared) -> Step {
        let before = self.read_bytes;
        match std::mem::take(&mut self.stage) {
            Stage::Between => self.next_segment(shared),
            Stage::In { segment, position } => self.read_on(shared, segment, position),
            Stage::Newest { segment, mut after, mut chunks } => {
                if chunks.is_empty() {
                    chunks = next_chunks(shared, segment, &mut after);
                }
                if chunks.is_empty() && after.is_none() {
                    *self = Self::default();
                    return Step::PassDone;
                }
                self.read_chunks(shared, &mut chunks);
                self.stage = Stage::Newest { segment, after, chunks };
            }
        }
        Step::Read(self.read_bytes - before)
    }

    fn next_segment(&mut self, shared: &Shared) {
        let index = shared.index();
        let being_written = index.segments.keys().next_back().copied().unwrap_or_default();
        let next = index.segments.range(self.last.saturating_add(1)..).next();
        self.stage = match next.filter(|&(&number, _)| number != being_written) {
            Some((&number, segment)) => {
                self.last = number;
                Stage::In { segment: Arc::clone(&segment.segment), position: RECORDS_START }
            }
            None => {
                drop(index);
                let mut after = None;
                let chunks = next_chunks(shared, being_written, &mut after);
                Stage::Newest { segment: being_written, after, chunks }
            }
        };
    }

    fn read_on(&mut self, shared: &Shared, segment: Arc<Segment>, position: u64) {
        if !is_current(shared, &segment) {
            return;
        }
        match verify(shared, &segment, position) {
            Ok((end, is_end)) => {
                self.read_bytes += end.saturating_sub(position);
                if !is_end {
                    self.stage = Stage::In { segment, position: end };
                }
            }
            Err(error) => {
                let path = segment.path.display();
                tracing::error!(%error, %path, position, "cannot read a segment: the rest of it is not checked");
            }
        }
    }

    fn read_chunks(&mut self, shared: &Shared, chunks: &mut VecDeque<(BlobId, ChunkAt)>) {
        let mut read = 0;
        while read < STEP_BYTES
            && let Some((blob, chunk)) = chunks.pop_front()
        {
            // One that is damaged is remembered; one that has moved was read when it was copied.
            let _is_good = read::check(shared, blob, chunk);
            read += record_length(chunk.length);
        }
        shared.counts.scrubbed_bytes.inc_by(read);
        self.read_bytes += read;
    }
}

/// The chunks in this segment of the next page of blobs; `after` is none at the end.
fn next_chunks(shared: &Shared, segment: u32, after: &mut Option<(GroupId, BlobId)>) -> VecDeque<(BlobId, ChunkAt)> {
    let index = shared.index();
    let mut chunks = VecDeque::new();
    let mut last = None;
    for (blob, sealed) in index.page_sealed(*after, PAGE_BLOBS) {
        last = Some((sealed.group, blob));
        let here = sealed.chunks.iter().filter(|chunk| chunk.at.segment == segment);
        let good = here.filter(|chunk| !index.is_damaged_at(blob, chunk.offset.into()));
        chunks.extend(good.map(|&chunk| (blob, chunk)));
    }
    *after = last;
    chunks
}

/// A scrub that somebody asked for.
pub struct FullPass {
    shared: Arc<Shared>,
    scrub: Option<Scrub>,
}

impl FullPass {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, scrub: Some(Scrub::default()) }
    }

    /// Reads a little; answers how many bytes, or that it has come to its end.
    pub async fn step(&mut self) -> Step {
        let Some(mut scrub) = self.scrub.take() else { return Step::PassDone };
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || {
            let step = scrub.step(&shared);
            (scrub, step)
        });
        match read.await {
            Ok((scrub, step @ Step::Read(_))) => {
                self.scrub = Some(scrub);
                step
            }
            Ok((_, Step::PassDone)) | Err(_) => Step::PassDone,
        }
    }
}

/// Whether the segment has not been rewritten meanwhile.
fn is_current(shared: &Shared, segment: &Arc<Segment>) -> bool {
    shared.index().segments.get(&segment.number()).is_some_and(|it| Arc::ptr_eq(&it.segment, segment))
}

/// Checks the records from `position` on; answers where to go on, and whether that is the end.
fn verify(shared: &Shared, segment: &Arc<Segment>, position: u64) -> io::Result<(u64, bool)> {
    read::forget_cached(segment, position);
    let mut reader = Reader::new(&*shared.disk, segment, position, Payloads::Verify)?;
    let mut is_end = false;
    while !is_end && reader.position() < position + STEP_BYTES {
        match reader.next() {
            None => is_end = true,
            Some(Found::Record { position, header, intact: false }) => {
                let at = RecordAt { segment: segment.number(), position: position as u32 };
                if let Body::Chunk { offset, length, .. } = header.body {
                    let chunk = ChunkAt { at, offset, length: length.get() };
                    read::note_damage(shared, header.blob, chunk, segment, &shared.counts.found_by_scrub);
                }
            }
            Some(Found::Record { .. }) => {}
            Some(gap @ Found::Gap { .. }) => shared.note_gap(segment, &gap),
        }
    }
    shared.counts.scrubbed_bytes.inc_by(reader.position().saturating_sub(position));
    Ok((reader.position(), is_end))
}
