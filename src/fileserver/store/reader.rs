//! Goes through a segment's records, and around what is no record or cannot be read.
//!
//! A sector that the disk does not give back is damage like any other: what stands in it is lost, and what stands behind it
//! is found again by the next header whose checksum holds. So no read error ends the reading of a segment.

use std::{io, ops::Range};

use super::{
    disk::Disk,
    record::{self, ALIGNMENT, Body, HEADER_LENGTH, Header},
    segment::Segment,
};
use crate::types::crc32c;

/// What a [`Reader`] comes upon.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// `intact`: the payload is there and, if payloads are read, matches its checksum.
    Record { position: u64, header: Header, intact: bool },
    /// Bytes in which no record begins.
    Gap { from: u64, to: u64 },
}

/// Whether a [`Reader`] looks at payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payloads {
    Skip,
    Verify,
}

/// Goes through a segment's records.
pub struct Reader<'a> {
    disk: &'a dyn Disk,
    segment: &'a Segment,
    payloads: Payloads,
    position: u64,
    /// After the last byte that is not zero: room that was preallocated and never used is not part of the log.
    end: u64,
    file_length: u64,
    buffer: Vec<u8>,
    buffer_start: u64,
    /// What the disk has not given back so far; it stands in the buffer as zeros.
    unreadable: Vec<Range<u64>>,
}

/// What a disk reads, or fails to read, as one.
const SECTOR: u64 = 4096;
/// Read at once when payloads are skipped, and when they are read: a whole record fits.
const WINDOW_SKIP: usize = 16 << 10;
const WINDOW_VERIFY: usize = 2 << 20;
const ZEROS: [u8; WINDOW_SKIP] = [0; WINDOW_SKIP];

impl<'a> Reader<'a> {
    pub fn new(disk: &'a dyn Disk, segment: &'a Segment, from: u64, payloads: Payloads) -> io::Result<Self> {
        let file_length = segment.file.metadata()?.len();
        let mut reader = Self {
            disk,
            segment,
            payloads,
            position: from,
            end: file_length,
            file_length,
            buffer: Vec::new(),
            buffer_start: 0,
            unreadable: Vec::new(),
        };
        reader.end = reader.data_end(from);
        Ok(reader)
    }

    /// Where the next record would begin; after the last one, the length of the segment that is in use.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the disk has failed to give back any of these bytes when they were read.
    pub fn is_unreadable(&self, bytes: Range<u64>) -> bool {
        self.unreadable.iter().any(|lost| lost.start < bytes.end && bytes.start < lost.end)
    }

    /// The payload of the record at `position`, as it is; shorter if the file ends in it.
    pub fn payload(&mut self, position: u64, header: &Header) -> &[u8] {
        self.bytes(position + HEADER_LENGTH as u64, header.payload_length() as usize)
    }

    fn header_at(&mut self, position: u64) -> Option<Header> {
        let salt = self.segment.label.salt;
        let bytes = self.bytes(position, HEADER_LENGTH);
        bytes.first_chunk().and_then(|bytes| Header::decode(bytes, salt, position))
    }

    fn is_intact(&mut self, position: u64, header: &Header) -> bool {
        match header.body {
            Body::Chunk { length, checksum, .. } if self.payloads == Payloads::Verify => {
                let payload = self.payload(position, header);
                let matches = payload.len() == length.get() as usize && crc32c(payload) == checksum;
                matches && !self.is_unreadable(position..position + header.record_length())
            }
            _ => {
                let payload_end = position + HEADER_LENGTH as u64 + u64::from(header.payload_length());
                payload_end <= self.file_length
            }
        }
    }

    /// Where the first good header at or after `from` stands, or the end.
    fn next_header(&mut self, mut from: u64) -> u64 {
        while from < self.end {
            let candidate = record::may_begin(self.bytes(from, HEADER_LENGTH));
            if candidate && self.header_at(from).is_some() {
                return from;
            }
            from += ALIGNMENT;
        }
        self.end.next_multiple_of(ALIGNMENT)
    }

    /// Up to `length` bytes from `position` on; fewer at the end of the file.
    fn bytes(&mut self, position: u64, length: usize) -> &[u8] {
        let buffered = self.buffer_start..self.buffer_start + self.buffer.len() as u64;
        if position < buffered.start || position + length as u64 > buffered.end {
            let window = if self.payloads == Payloads::Verify { WINDOW_VERIFY } else { WINDOW_SKIP };
            let left = self.file_length.saturating_sub(position);
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize((window.max(length) as u64).min(left) as usize, 0);
            self.read(position, &mut buffer);
            (self.buffer, self.buffer_start) = (buffer, position);
        }
        let start = (position - self.buffer_start) as usize;
        let end = (start + length).min(self.buffer.len());
        self.buffer.get(start..end).unwrap_or_default()
    }

    /// Fills the buffer from `position` on, as far as the file goes. Where the disk fails it is asked sector by sector, and
    /// what it does not give back is zeros and remembered.
    fn read(&mut self, position: u64, buffer: &mut Vec<u8>) {
        let file = &self.segment.file;
        let Err(error) = self.disk.read(file, position, buffer).map(|read| buffer.truncate(read)) else { return };
        tracing::error!(%error, path = %self.segment.path.display(), position, "cannot read all of a segment");
        let (mut at, end) = (position, position + buffer.len() as u64);
        while at < end {
            let next = (at + 1).next_multiple_of(SECTOR).min(end);
            let Some(sector) = buffer.get_mut((at - position) as usize..(next - position) as usize) else { return };
            match self.disk.read(file, at, sector) {
                Ok(read) if read == sector.len() => {}
                Ok(read) => return buffer.truncate((at - position) as usize + read),
                Err(_) => {
                    sector.fill(0);
                    match self.unreadable.last_mut().filter(|last| last.end == at) {
                        Some(last) => last.end = next,
                        None => self.unreadable.push(at..next),
                    }
                }
            }
            at = next;
        }
    }

    /// After the last byte, from `from` on, that is not zero or cannot be read.
    fn data_end(&mut self, from: u64) -> u64 {
        let (mut end, mut block) = (self.segment.written_end(from).min(self.file_length), Vec::new());
        while end > from {
            let start = end.saturating_sub(WINDOW_SKIP as u64).max(from);
            block.resize((end - start) as usize, 0);
            self.read(start, &mut block);
            // Compared as a whole first: there may be a gigabyte of zeros.
            let is_zero = ZEROS.get(..block.len()) == Some(block.as_slice());
            let last = if is_zero { None } else { block.iter().rposition(|&byte| byte != 0) };
            let last = last.map_or(start, |last| start + last as u64 + 1);
            let unreadable = self.unreadable.iter().map(|lost| lost.end).filter(|&lost| lost > start && lost <= end);
            let last = unreadable.max().unwrap_or(start).max(last);
            if last > start {
                return last;
            }
            end = start;
        }
        from
    }
}

impl Iterator for Reader<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if self.position >= self.end {
            return None;
        }
        let position = self.position;
        if let Some(header) = self.header_at(position) {
            let intact = self.is_intact(position, &header);
            self.position += header.record_length();
            return Some(Found::Record { position, header, intact });
        }
        self.position = self.next_header(position + ALIGNMENT);
        Some(Found::Gap { from: position, to: self.position })
    }
}
