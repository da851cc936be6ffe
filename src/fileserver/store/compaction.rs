//! Gives space back: copies what still counts of mostly dead segments into one new file, and removes the old ones.
//!
//! The new file takes the place of the old ones in the order of the log, under the first one's number, and its records
//! keep their order. So nothing that a replay would see changes but what is gone. The new file is complete and durable
//! before it gets its name, which replaces the first of the old ones in one step; from then on it *covers* the others, and
//! a restart that finds them still there removes them.
//!
//! A deletion's tombstone must outlive every record of the blob that it deleted, or a replay would bring the blob back.
//! It names the first segment that ever held any. It is dropped only when each segment from there up to itself was
//! rewritten after the deletion, because a rewritten segment holds nothing of blobs deleted before.
//!
//! Everything is verified as it is copied. A damaged chunk is copied as it is, with the checksum it does not match: it
//! stays damaged, stays known, and is not served. A segment with bytes that are no record is left alone until it is known what
//! was lost in it and all that is still needed has been fetched anew; then it is rewritten without them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io::{self, IoSlice},
    sync::Arc,
};

use super::{
    index::{ChunkAt, Index, RecordAt, SegmentUse},
    read,
    reader::{Found, Payloads, Reader},
    record::{Body, HEADER_LENGTH, Header},
    segment::{RECORDS_START, Segment, Unfinished},
    shared::Shared,
};
use crate::{durable, types::BlobId};

/// Copied bytes are written in pieces of about this size.
const PIECE_BYTES: usize = 1 << 20;

/// Segments next to each other in the log that are worth rewriting as one, the first of them first.
///
/// The last segment, which is being written, is never among them.
/// Nor are those whose turn came already and in vain: `given_up`.
pub fn choose(index: &Index, segment_bytes: u64, disk_is_short: bool, given_up: &BTreeSet<u32>) -> Option<Vec<u32>> {
    let last = *index.segments.keys().next_back()?;
    let closed: Vec<&SegmentUse> = index.segments.range(..last).map(|(_, segment)| segment).collect();
    let mut rewritten_at = 0;
    for (at, segment) in closed.iter().enumerate() {
        let cleaner_before = rewritten_at > segment.segment.label.rewritten_at;
        rewritten_at = rewritten_at.max(segment.segment.label.rewritten_at);
        let number = segment.segment.number();
        if given_up.contains(&number) {
            continue;
        }
        if segment.damaged {
            match index.is_repaired(number) {
                true => return Some(vec![number]),
                false => continue,
            }
        }
        let worth = is_mostly_dead(segment, disk_is_short) || (cleaner_before && is_mostly_tombstones(segment));
        let run = run_from(closed.get(at..)?, segment_bytes);
        if worth || (is_small(segment, segment_bytes / 2) && run.len() > 1) {
            return Some(run);
        }
    }
    None
}

/// The segment, and those behind it that are small too and fit into the same file.
fn run_from(closed: &[&SegmentUse], segment_bytes: u64) -> Vec<u32> {
    let mut run: Vec<u32> = Vec::new();
    let (mut kept, mut next) = (0, None);
    for segment in closed {
        let label = &segment.segment.label;
        kept += segment.live + segment.tombstones;
        // The first is taken as it is; whoever follows must be next to it, small, and fit.
        let follows = next.is_none_or(|next| {
            let fits = kept <= segment_bytes / 2 && is_small(segment, segment_bytes) && !segment.damaged;
            next == label.number && fits
        });
        if !follows {
            break;
        }
        run.push(label.number);
        next = Some(label.covers.saturating_add(1));
    }
    run
}

fn is_mostly_dead(segment: &SegmentUse, disk_is_short: bool) -> bool {
    let data = segment.end.saturating_sub(RECORDS_START);
    let share = if disk_is_short { 10 } else { 2 };
    segment.garbage() > 0 && segment.garbage() >= data / share
}

fn is_mostly_tombstones(segment: &SegmentUse) -> bool {
    segment.tombstones > segment.live
}

fn is_small(segment: &SegmentUse, segment_bytes: u64) -> bool {
    segment.live + segment.tombstones <= segment_bytes / 4
}

/// How a rewriting ended, if the disk did as it was told.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The store is closing, the disk has no room for the copy, or there is damage that was not known yet.
    GivenUp,
}

/// Rewrites adjacent closed segments as one. Blocks for as long as it takes; readers and the writer go on meanwhile.
///
/// An error means that it is not known what is durable: the store must take no more writes.
pub fn run(shared: &Shared, numbers: &[u32]) -> io::Result<Outcome> {
    let Some(mut rewrite) = Rewrite::begin(shared, numbers)? else { return Ok(Outcome::GivenUp) };
    match rewrite.copy_all(shared) {
        Ok(Outcome::Done) => {}
        Ok(Outcome::GivenUp) => {
            rewrite.file.remove()?;
            return Ok(Outcome::GivenUp);
        }
        Err(error) => {
            tracing::warn!(%error, segments = ?numbers, "cannot compact");
            rewrite.file.remove()?;
            return Ok(Outcome::GivenUp);
        }
    }
    let removed: Vec<_> = rewrite.sources.iter().skip(1).map(|segment| segment.path.clone()).collect();
    rewrite.finish(shared)?;
    for path in removed {
        durable::remove_file(&path)?;
    }
    Ok(Outcome::Done)
}

struct Rewrite {
    sources: Vec<Arc<Segment>>,
    file: Unfinished,
    /// Where each segment that stays stands in the log, and up to which deletion it is clean.
    others: Vec<Cleanness>,
    /// Up to which batch deletions have taken effect on what is copied.
    clean_to: u64,
    position: u64,
    piece: Vec<u8>,
    moves: HashMap<RecordAt, RecordAt>,
    blobs: HashSet<BlobId>,
    tombstones: u64,
}

struct Cleanness {
    numbers: std::ops::RangeInclusive<u32>,
    rewritten_at: u64,
}

impl Rewrite {
    fn begin(shared: &Shared, numbers: &[u32]) -> io::Result<Option<Self>> {
        let (sources, others, clean_to, kept) = {
            let index = shared.index();
            let chosen: Vec<_> = numbers.iter().filter_map(|number| index.segments.get(number)).collect();
            let kept: u64 = chosen.iter().map(|segment| segment.live + segment.tombstones).sum();
            let sources: Vec<_> = chosen.iter().map(|segment| Arc::clone(&segment.segment)).collect();
            let others = index.segments.values().map(|segment| &segment.segment.label);
            let others = others.filter(|label| !numbers.contains(&label.number));
            let others = others
                .map(|label| Cleanness { numbers: label.number..=label.covers, rewritten_at: label.rewritten_at });
            (sources, others.collect(), index.synced.batch, kept)
        };
        let (Some(first), Some(last)) = (sources.first(), sources.last()) else { return Ok(None) };
        if kept + RECORDS_START > shared.space().free {
            return Ok(None);
        }
        let created = Unfinished::create(&shared.options.dir, first.number(), last.label.covers, clean_to);
        let file = match created {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(%error, segments = ?numbers, "cannot begin to compact");
                return Ok(None);
            }
        };
        Ok(Some(Self {
            sources,
            file,
            others,
            clean_to,
            position: RECORDS_START,
            piece: Vec::with_capacity(PIECE_BYTES),
            moves: HashMap::new(),
            blobs: HashSet::new(),
            tombstones: 0,
        }))
    }

    fn copy_all(&mut self, shared: &Shared) -> io::Result<Outcome> {
        for source in self.sources.clone() {
            let mut reader = Reader::new(&*shared.disk, &source, RECORDS_START, Payloads::Verify)?;
            while let Some(found) = reader.next() {
                if shared.is_stopping() {
                    return Ok(Outcome::GivenUp);
                }
                let Found::Record { position, header, intact } = found else {
                    shared.note_gap(&source, &found);
                    match shared.index().is_repaired(source.number()) {
                        true => continue,
                        false => return Ok(Outcome::GivenUp),
                    }
                };
                let at = RecordAt { segment: source.number(), position: position as u32 };
                if !self.is_needed(shared, at, &header) {
                    continue;
                }
                if let (Body::Chunk { offset, length, .. }, false) = (header.body, intact) {
                    let chunk = ChunkAt { at, offset, length: length.get() };
                    read::note_damage(shared, header.blob, chunk, &source, &shared.counts.found_by_scrub);
                }
                // One that the file ends in is filled up with zeros, and stays as damaged as it is.
                let payload = reader.payload(position, &header);
                self.copy(shared, at, &header, payload)?;
            }
        }
        self.flush(shared)?;
        Ok(Outcome::Done)
    }

    fn is_needed(&self, shared: &Shared, at: RecordAt, header: &Header) -> bool {
        let index = shared.index();
        match header.body {
            Body::Chunk { .. } => index.refers_to_chunk(header.blob, at),
            Body::Seal { .. } => index.refers_to_seal(header.blob, at),
            Body::Publish { .. } => index.refers_to_publish(header.blob, at),
            Body::Delete { oldest_segment } => !self.is_done(oldest_segment, at.segment, header.batch),
            Body::Marker => false,
        }
    }

    /// Whether no segment has anything left of a blob that was deleted in `batch`.
    fn is_done(&self, oldest_segment: u32, tombstone_segment: u32, batch: u64) -> bool {
        batch <= self.clean_to
            && self.others.iter().all(|other| {
                let may_hold = *other.numbers.start() < tombstone_segment && *other.numbers.end() >= oldest_segment;
                !may_hold || other.rewritten_at >= batch
            })
    }

    fn copy(&mut self, shared: &Shared, from: RecordAt, header: &Header, payload: &[u8]) -> io::Result<()> {
        let segment = self.file.segment();
        let position = self.position + self.piece.len() as u64;
        let to = RecordAt {
            segment: segment.number(),
            position: u32::try_from(position).map_err(|_| io::ErrorKind::FileTooLarge)?,
        };
        // Nothing in this file was ever torn, so where its batches began tells nothing any more.
        let header = Header { batch_start: 0, ..*header };
        self.piece.extend(header.encode(segment.label.salt, position));
        self.piece.extend(payload);
        let padding = header.record_length() as usize - HEADER_LENGTH - payload.len();
        self.piece.extend(std::iter::repeat_n(0, padding));
        match header.body {
            Body::Delete { .. } => self.tombstones += HEADER_LENGTH as u64,
            _ => {
                self.moves.insert(from, to);
                self.blobs.insert(header.blob);
            }
        }
        if self.piece.len() >= PIECE_BYTES { self.flush(shared) } else { Ok(()) }
    }

    fn flush(&mut self, shared: &Shared) -> io::Result<()> {
        shared.disk.write(&self.file.segment().file, self.position, &mut [IoSlice::new(&self.piece)])?;
        self.position += self.piece.len() as u64;
        self.piece.clear();
        Ok(())
    }

    /// From here on there is no way back: what fails leaves open which of the files a restart finds.
    fn finish(self, shared: &Shared) -> io::Result<()> {
        shared.disk.sync(&self.file.segment().file)?;
        let segment = Arc::new(self.file.publish()?);
        let mut index = shared.index();
        let before: u64 = self.sources.iter().filter_map(|it| index.segments.get(&it.number())).map(|it| it.end).sum();
        for source in &self.sources {
            index.segments.remove(&source.number());
            index.losses.forget(source.number());
        }
        let live = self.blobs.iter().map(|&blob| index.relocate(blob, &self.moves)).sum();
        let (number, freed) = (segment.number(), before.saturating_sub(self.position));
        let (end, tombstones) = (self.position, self.tombstones);
        index.segments.insert(number, SegmentUse { segment, end, live, tombstones, damaged: false });
        drop(index);
        tracing::debug!(segment = number, segments = self.sources.len(), freed_bytes = freed, "compacted");
        Ok(())
    }
}
