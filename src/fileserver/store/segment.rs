//! A file of the log: a header, then records.
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
use rustix::{
    fs::{FallocateFlags, SeekFrom},
    io::Errno,
};

use super::disk::Disk;
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
    /// `None` if neither copy of the header is good, or can be read at all.
    pub fn open(disk: &dyn Disk, dir: &Path, number: u32) -> io::Result<Option<Self>> {
        let path = path(dir, number);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut start = vec![0; RECORDS_START as usize];
        let read = match disk.read(&file, 0, &mut start) {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "cannot read the header of a segment");
                return Ok(None);
            }
        };
        let copies = [start.get(..read), start.get(COPY_START..read)];
        let label = copies.into_iter().flatten().filter_map(Label::decode).find(|label| label.number == number);
        Ok(label.map(|label| Self { label, path, file }))
    }

    pub fn number(&self) -> u32 {
        self.label.number
    }

    /// After the last byte from `from` on that may be something else than zero, as far as the file system can tell: room that
    /// was only preallocated need not be read to find out. The largest number where it cannot.
    pub fn written_end(&self, from: u64) -> u64 {
        let seek = |to| rustix::fs::seek(&self.file, to);
        let mut end = from;
        loop {
            match seek(SeekFrom::Data(end)).and_then(|data| Ok((data, seek(SeekFrom::Hole(data))?))) {
                Ok((data, hole)) if hole > data => end = hole,
                // Nothing but a hole follows.
                Err(Errno::NXIO) => return end,
                Ok(_) | Err(_) => return u64::MAX,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: u64 = 8 << 20;

    fn is_zero_from(segment: &Segment, from: u64) -> bool {
        let mut rest = vec![0; (ROOM - from.min(ROOM)) as usize];
        let read = segment.file.read_at(&mut rest, from.min(ROOM)).unwrap();
        rest[..read].iter().all(|byte| *byte == 0)
    }

    #[test]
    fn what_is_past_the_written_end_is_zero_and_was_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let unfinished = Unfinished::create(folder.path(), 1, 1, 0).unwrap();
        unfinished.preallocate(ROOM);
        let segment = unfinished.publish().unwrap();
        // A hole between two stretches, the last page only begun.
        for (at, length) in [(RECORDS_START, 10), (3 << 20, 70_000), ((5 << 20) + 1, 1)] {
            segment.file.write_all_at(&vec![7; length], at).unwrap();
            for from in [0, RECORDS_START, 2 << 20, 3 << 20] {
                let end = segment.written_end(from);
                let last = at + length as u64;
                assert!(end >= from && (from >= last || end >= last), "{end} of {last}, looked for from {from}");
                assert!(is_zero_from(&segment, end), "{end} of {last}, looked for from {from}");
            }
        }
        assert!(segment.written_end(ROOM) >= ROOM);
    }
}
