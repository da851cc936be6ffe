//! A file of the log: a header, then records, and a reader that goes on after bytes that are no record.
//!
//! A segment gets its name only when its header is on stable storage, so a segment with a bad header is damaged, never
//! torn. The header stands twice in the file, because without its salt no record can be told from arbitrary bytes.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::{Buf, BufMut};
use rustix::fs::FallocateFlags;

use super::record::{self, ALIGNMENT, Body, HEADER_LENGTH, Header};
use crate::{durable, types::crc32c};

/// Where the first record begins.
pub const RECORDS_START: u64 = 4096;
/// Where the second copy of the header begins.
const COPY_START: usize = 2048;
const MAGIC: [u8; 8] = *b"dfs:segm";
const FORMAT: u32 = 1;
const LENGTH: usize = 44;
const SUFFIX: &str = "segment";
const UNFINISHED_SUFFIX: &str = "new";

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Segments are replayed in the order of their numbers.
    pub number: u32,
    /// The last number that this file stands for: compaction makes one file of many.
    pub covers: u32,
    /// Random, new for every file: ties the records to it.
    pub salt: u64,
    /// Blobs deleted in this batch or before have left nothing in this file; 0 in one that was never rewritten.
    pub rewritten_at: u64,
}

#[derive(Debug)]
pub struct Segment {
    pub label: Label,
    pub path: PathBuf,
    pub file: File,
}

impl Label {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.put_slice(&MAGIC);
        bytes.put_u32_le(FORMAT);
        bytes.put_u32_le(self.number);
        bytes.put_u32_le(self.covers);
        bytes.put_u32_le(0);
        bytes.put_u64_le(self.salt);
        bytes.put_u64_le(self.rewritten_at);
        bytes.put_u32_le(crc32c(&bytes));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (covered, mut rest) = bytes.get(..LENGTH)?.split_at(LENGTH - 4);
        let mut fields = covered.strip_prefix(&MAGIC)?;
        if fields.get_u32_le() != FORMAT || rest.get_u32_le() != crc32c(covered) {
            return None;
        }
        let (number, covers, _) = (fields.get_u32_le(), fields.get_u32_le(), fields.get_u32_le());
        let (salt, rewritten_at) = (fields.get_u64_le(), fields.get_u64_le());
        (number <= covers).then_some(Self { number, covers, salt, rewritten_at })
    }
}

/// The path of segment `number`.
pub fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08x}.{SUFFIX}"))
}

/// The numbers of the segments in a folder, in order, and what was left of files that never got their name.
pub fn list(dir: &Path) -> io::Result<(Vec<u32>, Vec<PathBuf>)> {
    let (mut numbers, mut unfinished) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(SUFFIX) if stem.len() == 8 => numbers.extend(u32::from_str_radix(stem, 16).ok()),
            Some(UNFINISHED_SUFFIX) => unfinished.push(path),
            _ => {}
        }
    }
    numbers.sort_unstable();
    Ok((numbers, unfinished))
}

/// A segment that has no name yet: nobody sees it until it is [published](Unfinished::publish).
pub struct Unfinished(Segment);

impl Unfinished {
    /// With its header written, but not synced.
    pub fn create(dir: &Path, number: u32, covers: u32, rewritten_at: u64) -> io::Result<Self> {
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).map_err(|error| io::Error::other(error.to_string()))?;
        let label = Label { number, covers, salt: u64::from_le_bytes(salt), rewritten_at };
        let path = path(dir, number);
        let unfinished = path.with_added_extension(UNFINISHED_SUFFIX);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(unfinished)?;
        let mut start = label.encode();
        start.resize(COPY_START, 0);
        start.extend(label.encode());
        start.resize(RECORDS_START as usize, 0);
        file.write_all_at(&start, 0)?;
        Ok(Self(Segment { label, path, file }))
    }

    pub fn segment(&self) -> &Segment {
        &self.0
    }

    /// Asks the file system for room, so that later writes change no metadata; it may say no.
    pub fn preallocate(&self, length: u64) -> bool {
        rustix::fs::fallocate(&self.0.file, FallocateFlags::empty(), 0, length).is_ok()
    }

    /// Throws it away.
    pub fn remove(self) -> io::Result<()> {
        durable::remove_file(&self.unfinished_path())
    }

    fn unfinished_path(&self) -> PathBuf {
        self.0.path.with_added_extension(UNFINISHED_SUFFIX)
    }

    /// Gives it its name, in place of an older file with the same number. Everything in it must have been written.
    pub fn publish(self) -> io::Result<Segment> {
        durable::sync_file(&self.0.file)?;
        durable::rename(&self.unfinished_path(), &self.0.path)?;
        Ok(self.0)
    }
}

impl Segment {
    /// `None` if neither copy of the header is good.
    pub fn open(dir: &Path, number: u32) -> io::Result<Option<Self>> {
        let path = path(dir, number);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut start = vec![0; RECORDS_START as usize];
        let read = read_at(&file, &mut start, 0)?;
        let copies = [start.get(..read), start.get(COPY_START..read)];
        let label = copies.into_iter().flatten().filter_map(Label::decode).find(|label| label.number == number);
        Ok(label.map(|label| Self { label, path, file }))
    }

    pub fn number(&self) -> u32 {
        self.label.number
    }
}

/// Fills as much of `bytes` as the file has from `position` on.
pub fn read_at(file: &File, bytes: &mut [u8], position: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

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
    segment: &'a Segment,
    payloads: Payloads,
    position: u64,
    /// After the last byte that is not zero: room that was preallocated and never used is not part of the log.
    end: u64,
    file_length: u64,
    buffer: Vec<u8>,
    buffer_start: u64,
}

/// Read at once when payloads are skipped, and when they are read: a whole record fits.
const WINDOW_SKIP: usize = 16 << 10;
const WINDOW_VERIFY: usize = 2 << 20;

impl<'a> Reader<'a> {
    pub fn new(segment: &'a Segment, from: u64, payloads: Payloads) -> io::Result<Self> {
        let file_length = segment.file.metadata()?.len();
        let end = data_end(&segment.file, file_length, from)?;
        Ok(Self { segment, payloads, position: from, end, file_length, buffer: Vec::new(), buffer_start: 0 })
    }

    /// Where the next record would begin; after the last one, the length of the segment that is in use.
    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn next(&mut self) -> io::Result<Option<Found>> {
        if self.position >= self.end {
            return Ok(None);
        }
        let position = self.position;
        if let Some(header) = self.header_at(position)? {
            let intact = self.is_intact(position, &header)?;
            self.position += header.record_length();
            return Ok(Some(Found::Record { position, header, intact }));
        }
        self.position = self.next_header(position + ALIGNMENT)?;
        Ok(Some(Found::Gap { from: position, to: self.position }))
    }

    /// The payload of the record at `position`, as it is.
    pub fn payload(&mut self, position: u64, header: &Header) -> io::Result<&[u8]> {
        self.bytes(position + HEADER_LENGTH as u64, header.payload_length() as usize)
    }

    fn header_at(&mut self, position: u64) -> io::Result<Option<Header>> {
        let salt = self.segment.label.salt;
        let bytes = self.bytes(position, HEADER_LENGTH)?;
        Ok(bytes.first_chunk().and_then(|bytes| Header::decode(bytes, salt, position)))
    }

    fn is_intact(&mut self, position: u64, header: &Header) -> io::Result<bool> {
        match header.body {
            Body::Chunk { length, checksum, .. } if self.payloads == Payloads::Verify => {
                let payload = self.payload(position, header)?;
                Ok(payload.len() == length.get() as usize && crc32c(payload) == checksum)
            }
            _ => {
                let payload_end = position + HEADER_LENGTH as u64 + u64::from(header.payload_length());
                Ok(payload_end <= self.file_length)
            }
        }
    }

    /// Where the first good header at or after `from` stands, or the end.
    fn next_header(&mut self, mut from: u64) -> io::Result<u64> {
        while from < self.end {
            let candidate = record::may_begin(self.bytes(from, HEADER_LENGTH)?);
            if candidate && self.header_at(from)?.is_some() {
                return Ok(from);
            }
            from += ALIGNMENT;
        }
        Ok(self.end.next_multiple_of(ALIGNMENT))
    }

    /// Up to `length` bytes from `position` on; fewer at the end of the file.
    fn bytes(&mut self, position: u64, length: usize) -> io::Result<&[u8]> {
        let buffered = self.buffer_start..self.buffer_start + self.buffer.len() as u64;
        if position < buffered.start || position + length as u64 > buffered.end {
            let window = if self.payloads == Payloads::Verify { WINDOW_VERIFY } else { WINDOW_SKIP };
            let left = self.file_length.saturating_sub(position);
            self.buffer.resize((window.max(length) as u64).min(left) as usize, 0);
            let read = read_at(&self.segment.file, &mut self.buffer, position)?;
            self.buffer.truncate(read);
            self.buffer_start = position;
        }
        let start = (position - self.buffer_start) as usize;
        let end = (start + length).min(self.buffer.len());
        Ok(self.buffer.get(start..end).unwrap_or_default())
    }
}

/// After the last byte, from `from` on, that is not zero.
fn data_end(file: &File, mut end: u64, from: u64) -> io::Result<u64> {
    let mut block = Vec::new();
    while end > from {
        let start = end.saturating_sub(WINDOW_SKIP as u64).max(from);
        block.resize((end - start) as usize, 0);
        let read = read_at(file, &mut block, start)?;
        block.truncate(read);
        if let Some(last) = block.iter().rposition(|&byte| byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(from)
}
