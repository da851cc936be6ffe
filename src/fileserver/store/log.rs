//! The end of the log: the segment that is being written, its batches, and the step to the next segment.

use std::{
    io::{self, IoSlice},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;

use super::{
    disk::{Disk, is_full},
    index::{LogPosition, RecordAt},
    record::{ALIGNMENT, Body, HEADER_LENGTH, Header},
    segment::{RECORDS_START, Segment, Unfinished},
};
use crate::types::{BlobId, GroupId, WriteId};

/// Positions are 32 bits wide; a segment that could not be closed for lack of space stays far below that.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;
/// Beyond this, not even a tombstone goes into a segment that could not be closed.
const OVERSHOOT_BYTES_MAX: u64 = 1 << 30;

/// A record before it has its place.
pub struct Frame {
    pub group: GroupId,
    pub blob: BlobId,
    pub write_id: WriteId,
    pub body: Body,
    pub payload: Bytes,
}

impl Frame {
    /// Without a payload.
    pub fn bare(group: GroupId, blob: BlobId, write_id: WriteId, body: Body) -> Self {
        Self { group, blob, write_id, body, payload: Bytes::new() }
    }

    /// Says that everything before it was synced.
    pub fn marker() -> Self {
        let (blob, write_id) = (BlobId::from_bytes([0; 16]), WriteId::from_bytes([0; 16]));
        Self::bare(GroupId(0), blob, write_id, Body::Marker)
    }

    pub fn length(&self) -> u64 {
        (HEADER_LENGTH as u64 + self.payload.len() as u64).next_multiple_of(ALIGNMENT)
    }
}

/// Why records were not written.
#[derive(Debug)]
pub enum Unwritten {
    /// For lack of room, and the log is as before.
    NoRoom(io::Error),
    /// It is not known what is on the disk.
    Unknown(io::Error),
}

impl Unwritten {
    /// The disk did not take bytes that it was to take. No other failure may be one of room: after a sync or a rename it is
    /// not known what was done.
    fn not_taken(error: io::Error) -> Self {
        if is_full(&error) { Self::NoRoom(error) } else { Self::Unknown(error) }
    }
}

impl From<io::Error> for Unwritten {
    fn from(error: io::Error) -> Self {
        Self::Unknown(error)
    }
}

impl From<Unwritten> for io::Error {
    fn from(unwritten: Unwritten) -> Self {
        let (Unwritten::NoRoom(error) | Unwritten::Unknown(error)) = unwritten;
        error
    }
}

pub struct Log {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    segment: Arc<Segment>,
    position: u64,
    /// The segment's file has room up to here.
    allocated: u64,
    batch: u64,
    batch_start: u64,
    /// A write failed half-way. What it left was cut off; that is not durable before the next sync.
    leftover: bool,
    /// The disk had no room for the next segment.
    stuck: bool,
}

impl Log {
    /// Begins segment `number` with `batch`.
    pub fn create(
        dir: PathBuf,
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        preallocate: bool,
        (number, batch): (u32, u64),
    ) -> Result<Self, Unwritten> {
        let segment_bytes = segment_bytes.min(SEGMENT_BYTES_MAX);
        let unfinished = Unfinished::create(&dir, number, number, 0).map_err(Unwritten::not_taken)?;
        let allocated = if preallocate && unfinished.preallocate(segment_bytes) { segment_bytes } else { 0 };
        let segment = Arc::new(unfinished.publish()?);
        let (position, batch_start) = (RECORDS_START, RECORDS_START);
        let (leftover, stuck) = (false, false);
        Ok(Self { dir, disk, segment_bytes, segment, position, allocated, batch, batch_start, leftover, stuck })
    }

    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Where the next record goes.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of the segment's room that are not used yet: taken from the disk, but free for records.
    pub fn unused(&self) -> u64 {
        self.allocated.saturating_sub(self.position)
    }

    /// Whether there are records that were not synced.
    pub fn is_dirty(&self) -> bool {
        self.position != self.batch_start
    }

    /// Whether the disk had no room for the next segment: what fits into this one says nothing of the disk's.
    pub fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Whether `length` more bytes fit; an empty segment takes anything.
    pub fn has_room(&self, length: u64) -> bool {
        self.position == RECORDS_START || self.position + length <= self.segment_bytes
    }

    /// Writes records one after the other, and tells where they are.
    pub fn write(&mut self, frames: &[Frame]) -> Result<Vec<RecordAt>, Unwritten> {
        let mut places = Vec::with_capacity(frames.len());
        let mut headers = Vec::with_capacity(frames.len());
        let mut position = self.position;
        for frame in frames {
            let place = u32::try_from(position).map_err(|_| Unwritten::NoRoom(io::ErrorKind::FileTooLarge.into()))?;
            if position + frame.length() > self.segment_bytes + OVERSHOOT_BYTES_MAX {
                return Err(Unwritten::NoRoom(io::ErrorKind::StorageFull.into()));
            }
            let header = Header {
                batch: self.batch,
                batch_start: self.batch_start as u32,
                group: frame.group,
                blob: frame.blob,
                write_id: frame.write_id,
                body: frame.body,
            };
            headers.push(header.encode(self.segment.label.salt, position));
            places.push(RecordAt { segment: self.segment.number(), position: place });
            position += frame.length();
        }
        let padding = [0; ALIGNMENT as usize];
        let mut parts = Vec::with_capacity(frames.len() * 3);
        for (frame, header) in frames.iter().zip(&headers) {
            let padded = frame.length() as usize - HEADER_LENGTH - frame.payload.len();
            let padding = padding.get(..padded).unwrap_or_default();
            parts.extend([IoSlice::new(header), IoSlice::new(&frame.payload), IoSlice::new(padding)]);
        }
        if let Err(error) = self.disk.write(&self.segment.file, self.position, &mut parts) {
            self.cut_leftover()?;
            return Err(Unwritten::not_taken(error));
        }
        self.position = position;
        Ok(places)
    }

    /// What a failed write left behind the end of the log must never be taken for a part of it, nor for damage.
    fn cut_leftover(&mut self) -> io::Result<()> {
        self.leftover = true;
        self.allocated = self.position;
        self.disk.set_length(&self.segment.file, self.position)
    }

    /// Takes room for so many bytes from the disk in advance, behind what it has given already; `false` if it has none. One that
    /// cannot say may have.
    pub fn take_room(&mut self, length: u64) -> bool {
        let from = self.position.max(self.allocated);
        match self.disk.allocate(&self.segment.file, from, length) {
            Ok(()) => self.allocated = from + length,
            Err(error) => return !is_full(&error),
        }
        true
    }

    /// Ends the batch: everything written is on stable storage.
    pub fn sync(&mut self) -> io::Result<LogPosition> {
        self.disk.sync(&self.segment.file)?;
        self.leftover = false;
        let synced = self.batch;
        self.batch += 1;
        self.batch_start = self.position;
        let at = RecordAt { segment: self.segment.number(), position: self.position as u32 };
        Ok(LogPosition { at, batch: synced })
    }

    /// Goes on in a new segment. Everything must have been synced: what has a later segment was never torn.
    pub fn roll(&mut self, preallocate: bool) -> Result<(), Unwritten> {
        assert!(!self.is_dirty(), "a segment is closed only when all of it is on stable storage");
        if self.leftover {
            // Before the next segment has its name: from then on whatever is bad in this one counts as damage.
            self.disk.sync(&self.segment.file)?;
            self.leftover = false;
        }
        let number = self.segment.number().checked_add(1).ok_or(io::Error::from(io::ErrorKind::FileTooLarge))?;
        let (dir, disk) = (self.dir.clone(), Arc::clone(&self.disk));
        let next = Self::create(dir, disk, self.segment_bytes, preallocate, (number, self.batch))
            .inspect_err(|error| self.stuck = matches!(error, Unwritten::NoRoom(_)))?;
        std::mem::replace(self, next).trim();
        Ok(())
    }

    /// Gives back the room that was not used. Needs no sync: what is not used reads as zeros, and those are no records.
    pub fn trim(&self) {
        if let Err(error) = self.disk.set_length(&self.segment.file, self.position) {
            tracing::warn!(%error, path = %self.segment.path.display(), "cannot give back a segment's unused room");
        }
    }
}
