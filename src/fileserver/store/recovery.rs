//! What a restart trusts, what it cuts off, and what it reports.
//!
//! The end of the log may be *torn*: bytes written after the last sync, of which the disk kept any part in any order.
//! Nobody was told that they are safe, and they are cut off. Everywhere else a byte that is not what it was is *damage*:
//! it may have been acknowledged, so it is never cut, and is reported. The two must not be confused, so the log says
//! itself how far it was synced:
//!
//! * Every record carries the number of its batch and where the batch begins. A batch is everything between two syncs,
//!   and no byte of it is written before the sync of the one before has succeeded. So one good record of a batch proves
//!   that everything before the batch was synced, though the batch itself may have holes at any place.
//! * A segment is begun only when the one before is synced to its end. So only the last segment can be torn.
//!
//! So: let B be the last batch of which the last segment has a good header, and S where it begins. What is bad before S
//! is damage; the first bad byte from S on ends the log, and what follows, good or bad, was not acknowledged, because the
//! sync that would have covered it never finished.
//!
//! What remains: B itself may have been acknowledged, with nothing after it to prove that. Damage to it would then pass
//! for a tear. That takes a crash within about a second of the last write and damage to that same write: after a second
//! without writes the writer puts a marker behind it, which begins a later batch.
//!
//! The records of a torn batch that come before the first bad byte are kept. They are whole, and to be durable without
//! having been acknowledged is no lie. Unsealed blobs are dropped; sealed ones that were never published stay staged.

use std::{io, path::Path, sync::Arc};

use super::{
    checkpoint,
    disk::Disk,
    index::{ChunkAt, Index, Open, Published, RecordAt, Sealed},
    reader::{Found, Payloads, Reader},
    record::{Body, HEADER_LENGTH, Header},
    segment::{self, RECORDS_START, Segment},
    types::{DamagedRegion, Recovered, StoreError, StoreOptions},
};
use crate::{durable, types::BlobId};

/// The state in which the log was found.
pub struct Replayed {
    pub index: Index,
    pub recovered: Recovered,
    /// For the segment and the batch that come next.
    pub next_segment: u32,
    pub next_batch: u64,
}

/// Reads the log in `options.dir`, and cuts off a torn end.
pub fn recover(options: &StoreOptions, disk: &dyn Disk) -> Result<Replayed, StoreError> {
    let dir = &options.dir;
    let at_dir = |error| io_error(dir, error);
    durable::create_dir(dir).map_err(at_dir)?;
    let (numbers, unfinished) = segment::list(dir).map_err(at_dir)?;
    for path in unfinished {
        durable::remove_file(&path).map_err(|error| io_error(&path, error))?;
    }
    let mut replay = match checkpoint::load(dir, disk, &numbers) {
        Some(index) => Replay::after(index),
        None => Replay { next_segment: 1, ..Replay::default() },
    };
    let last = numbers.last().copied();
    for number in numbers {
        let path = segment::path(dir, number);
        replay.segment(options, disk, number, last == Some(number)).map_err(|error| io_error(&path, error))?;
    }
    Ok(replay.finish())
}

fn io_error(path: &Path, error: io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), message: error.to_string() }
}

#[derive(Default)]
struct Replay {
    index: Index,
    recovered: Recovered,
    /// The number after the last one that a segment stands for.
    next_segment: u32,
    last_batch: u64,
    /// Chunks whose payload was found damaged; they may turn out not to matter any more.
    damaged: Vec<(BlobId, ChunkAt)>,
}

impl Replay {
    /// What is left to do when the index comes from a checkpoint.
    fn after(index: Index) -> Self {
        let recovered = Recovered { from_checkpoint: true, ..Recovered::default() };
        let last_batch = index.synced.batch;
        Self { index, recovered, next_segment: 1, last_batch, damaged: Vec::new() }
    }

    fn segment(&mut self, options: &StoreOptions, disk: &dyn Disk, number: u32, is_last: bool) -> io::Result<()> {
        let path = segment::path(&options.dir, number);
        if number < self.next_segment {
            // Compaction went down between naming the new file and removing the old ones that it stands for.
            return durable::remove_file(&path);
        }
        if number > self.next_segment {
            self.report(DamagedRegion { segment: self.next_segment, from: 0, to: 0 });
        }
        let known = self.index.segments.get(&number).map(|known| Arc::clone(&known.segment));
        let opened = match known.clone() {
            Some(segment) => Some(segment),
            None => Segment::open(disk, &options.dir, number)?.map(Arc::new),
        };
        let Some(segment) = opened else {
            let to = std::fs::metadata(&path)?.len();
            self.report(DamagedRegion { segment: number, from: 0, to });
            self.next_segment = number.saturating_add(1);
            return Ok(());
        };
        self.next_segment = segment.label.covers.saturating_add(1);
        self.last_batch = self.last_batch.max(segment.label.rewritten_at);
        let checkpoint = self.index.synced.at;
        let from = match known {
            Some(_) if number == checkpoint.segment => u64::from(checkpoint.position),
            Some(_) => return Ok(()),
            None => RECORDS_START,
        };
        if from == RECORDS_START {
            self.index.add_segment(Arc::clone(&segment), RECORDS_START);
        }
        // Compaction names a file only when all of it is synced.
        let may_be_torn = is_last && segment.label.rewritten_at == 0;
        if may_be_torn {
            self.cut_torn_end(&segment, from, disk)?;
        }
        self.replay(disk, &segment, from, if may_be_torn { Payloads::Verify } else { Payloads::Skip })?;
        if may_be_torn && self.index.segments.get(&number).is_some_and(|it| it.end == RECORDS_START) {
            // Nothing in it: the next segment takes its place.
            self.index.segments.remove(&number);
            self.next_segment = number;
        }
        Ok(())
    }

    /// Cuts off what was written after the last sync and is not whole, and makes what stays durable.
    fn cut_torn_end(&mut self, segment: &Segment, from: u64, disk: &dyn Disk) -> io::Result<()> {
        let mut reader = Reader::new(disk, segment, from, Payloads::Verify)?;
        // Where the last batch begins that has left a good header, and the bad stretches.
        let (mut last_batch, mut synced_to) = (0, from);
        let mut bad = Vec::new();
        while let Some(found) = reader.next() {
            match found {
                Found::Record { position, header, intact } => {
                    if header.batch > last_batch {
                        (last_batch, synced_to) = (header.batch, u64::from(header.batch_start));
                    }
                    if !intact && !reader.is_unreadable(position..position + header.record_length()) {
                        bad.push((position, position + header.record_length()));
                    }
                }
                // What a tear leaves can be read.
                Found::Gap { from, .. } if reader.is_unreadable(from..from + HEADER_LENGTH as u64) => {}
                Found::Gap { from, to } => bad.push((from, to)),
            }
        }
        let whole = reader.position();
        let torn = bad.iter().find(|&&(_, to)| to > synced_to).map(|&(from, _)| from.max(synced_to));
        if let Some(torn) = torn {
            self.recovered.torn_bytes_cut += whole - torn;
            tracing::warn!(path = %segment.path.display(), from = torn, bytes = whole - torn, "cut a torn end off");
        }
        self.last_batch = self.last_batch.max(last_batch);
        disk.set_length(&segment.file, torn.unwrap_or(whole))?;
        // What a process that was killed had written but not synced is still readable: now it is durable as well.
        disk.sync(&segment.file)
    }

    fn replay(&mut self, disk: &dyn Disk, segment: &Arc<Segment>, from: u64, payloads: Payloads) -> io::Result<()> {
        let mut reader = Reader::new(disk, segment, from, payloads)?;
        let number = segment.number();
        for found in reader.by_ref() {
            match found {
                Found::Record { position, header, intact } => {
                    let at = RecordAt { segment: number, position: position as u32 };
                    self.recovered.record_count += 1;
                    self.last_batch = self.last_batch.max(header.batch);
                    self.record(at, &header, intact);
                }
                Found::Gap { from, to } => {
                    self.report(DamagedRegion { segment: number, from, to });
                    if let Some(segment) = self.index.segments.get_mut(&number) {
                        segment.damaged = true;
                    }
                }
            }
        }
        self.index.set_end(number, reader.position());
        Ok(())
    }

    fn record(&mut self, at: RecordAt, header: &Header, intact: bool) {
        let blob = header.blob;
        match header.body {
            Body::Chunk { offset, length, checksum } => {
                // Damage may have taken the first chunk: a blob also begins with what cannot go on from what there is.
                let last = self.index.open.get(&blob).and_then(|open| open.chunks.last());
                if offset == 0 || last.is_none_or(|last| offset < last.offset + last.length) {
                    self.index.begin(blob, Open::new(0, header.group, header.write_id));
                }
                let chunk = ChunkAt { at, offset, length: length.get() };
                if let Some(open) = self.index.open.get_mut(&blob) {
                    open.accept(length.get(), checksum);
                }
                self.index.add_chunk(blob, chunk);
                if !intact {
                    self.damaged.push((blob, chunk));
                }
            }
            Body::Seal { length, checksum } => self.seal(blob, header, (length, checksum), Some(at)),
            Body::Publish { inode, version, length, checksum } => {
                // Only a sealed blob is ever published: if its seal is gone, this tells what it was.
                let complete = self.index.open.get(&blob).is_some_and(|open| open.accepted == u64::from(length));
                if complete {
                    self.seal(blob, header, (length, checksum), None);
                }
                self.index.publish(blob, Published { inode, version, at });
            }
            Body::Delete { .. } => {
                self.index.count_tombstone(at.segment);
                self.index.delete(blob);
            }
            Body::Marker => self.index.count_tombstone(at.segment),
        }
    }

    fn seal(&mut self, blob: BlobId, header: &Header, (length, checksum): (u32, u32), seal_at: Option<RecordAt>) {
        let Some(open) = self.index.open.get(&blob) else {
            let is_sealed = |it: &Sealed| (it.length, it.checksum) == (length, checksum);
            if !self.index.sealed(blob).is_some_and(is_sealed) {
                // All its chunks are lost: it is known all the same, so that it can be repaired.
                self.index.begin(blob, Open::new(0, header.group, header.write_id));
                self.index.seal(blob, length, checksum, seal_at);
            }
            return;
        };
        if open.accepted == u64::from(length) && open.checksum != checksum {
            self.damaged.extend(open.chunks.iter().map(|&chunk| (blob, chunk)));
        }
        self.index.seal(blob, length, checksum, seal_at);
    }

    fn report(&mut self, region: DamagedRegion) {
        let (segment, from, to) = (region.segment, region.from, region.to);
        if self.index.losses.note(region) {
            tracing::error!(segment, from, to, "bytes of the log that had been acknowledged cannot be read");
        }
    }

    fn finish(mut self) -> Replayed {
        let unsealed: Vec<BlobId> = self.index.open.keys().copied().collect();
        for &blob in &unsealed {
            self.index.drop_open(blob);
        }
        for (blob, chunk) in std::mem::take(&mut self.damaged) {
            self.index.mark_damaged(blob, chunk);
        }
        self.recovered.unsealed_dropped = unsealed.len();
        self.recovered.segment_count = self.index.segments.len();
        self.recovered.damaged_chunks = self.index.damaged();
        self.recovered.damaged_regions = self.index.losses.iter().cloned().collect();
        let next_batch = self.last_batch + 1;
        Replayed { index: self.index, recovered: self.recovered, next_segment: self.next_segment, next_batch }
    }
}
