//! What a start trusts of the log, what it cuts off, and what makes it refuse.
//!
//! A power cut leaves bytes after the last sync in any state: a torn tail, which nobody was promised, is cut off. Bytes that
//! were on stable storage and are no longer what they were are something else: this node may have voted on them, and must
//! not go on as if it had not. Every record says how far its segment was synced when it was written, so a record that is no
//! longer whole, with a later one that says that it once was, is damage.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message;

use super::{
    index::{Index, Place},
    record::{self, BadHeader, Found, Label, RECORDS_START, Record},
};
use crate::{
    durable, pb,
    raft::{
        convert::{term_of, vote_in, vote_out},
        types::{LogId, Vote},
    },
};

/// A segment's size; a file has it from the beginning, so that a sync need not write where the file ends.
pub const SEGMENT_BYTES: u64 = 16 << 20;
const SUFFIX: &str = "log";
const UNFINISHED: &str = "new";
const VOTE_FILE: &str = "VOTE";
const VOTE_MAGIC: [u8; 8] = *b"dfs:vote";
const VOTE_FORMAT: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{} is damaged: {what}", .path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("{} was written by a newer version of dfs, and this one cannot read {what}; start the newer one", .path.display())]
    TooNew { path: PathBuf, what: String },
    #[error(transparent)]
    Sealed(#[from] durable::Error),
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A file of the log.
#[derive(Debug)]
pub struct Segment {
    /// The index of its first entry.
    pub first: u64,
    pub path: PathBuf,
    pub file: Arc<File>,
    /// Where the next record goes.
    pub used: u64,
}

/// Everything that was found.
pub struct Recovered {
    pub index: Index,
    /// In order; at least one.
    pub segments: Vec<Segment>,
}

pub fn write_vote(folder: &Path, vote: &Vote) -> io::Result<()> {
    durable::write_sealed(&folder.join(VOTE_FILE), VOTE_MAGIC, VOTE_FORMAT, &vote_out(vote).encode_to_vec())
}

/// Makes a segment, durably: it has its name only when its header is on stable storage.
pub fn create_segment(folder: &Path, label: &Label) -> io::Result<Segment> {
    let first = label.previous.map_or(0, |id| id.index + 1);
    let path = folder.join(format!("{first:020}.{SUFFIX}"));
    let unfinished = path.with_extension(UNFINISHED);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&unfinished)?;
    std::os::unix::fs::FileExt::write_all_at(&file, &record::segment_header(label), 0)?;
    file.set_len(SEGMENT_BYTES)?;
    durable::sync_file(&file)?;
    durable::rename(&unfinished, &path)?;
    Ok(Segment { first, path, file: Arc::new(file), used: RECORDS_START as u64 })
}

/// Opens the log of a folder, or makes it. Blocking.
pub fn recover(folder: &Path) -> Result<Recovered, LogError> {
    let at = |source| LogError::Io { path: folder.to_owned(), source };
    durable::create_dir(folder).map_err(at)?;
    // A process that was killed may have named a segment and not synced the name: nothing is removed for it before.
    durable::sync_dir(folder).map_err(at)?;
    let mut index = Index::new(read_vote(folder)?, None);
    let paths = segment_paths(folder).map_err(at)?;
    if paths.is_empty() {
        if index.vote.is_some() {
            return Err(damaged(folder, "there is a vote but no segment"));
        }
        let segment = create_segment(folder, &Label::default()).map_err(at)?;
        return Ok(Recovered { index, segments: vec![segment] });
    }
    let mut segments = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        let mut reading = Reading::open(path)?;
        reading.begin(&mut index, &mut segments)?;
        reading.entries(&mut index)?;
        if reading.at < reading.bytes.len() {
            reading.end(number + 1 == paths.len())?;
        }
        segments.push(reading.segment());
    }
    // The first entry of a group is older than its first vote.
    if index.vote.is_none() && index.last().is_some_and(|last| term_of(&last) > 0) {
        return Err(damaged(folder, "there are entries but no vote"));
    }
    // What it had written and not synced can be read, and from now on others are told of it. The segments before the last one
    // were synced when that was begun.
    if let Some(last) = segments.last() {
        durable::sync_file(&last.file).map_err(at)?;
    }
    Ok(Recovered { index, segments })
}

fn damaged(path: &Path, what: impl Into<String>) -> LogError {
    LogError::Damaged { path: path.to_owned(), what: what.into() }
}

fn too_new(path: &Path, what: impl Into<String>) -> LogError {
    LogError::TooNew { path: path.to_owned(), what: what.into() }
}

fn read_vote(folder: &Path) -> Result<Option<Vote>, LogError> {
    let path = folder.join(VOTE_FILE);
    let sealed = match durable::read_sealed(&path, VOTE_MAGIC, VOTE_FORMAT) {
        Err(durable::Error::BadFile(durable::BadFile::Damaged { path, what })) => return Err(damaged(&path, what)),
        sealed => sealed?,
    };
    let Some(bytes) = sealed else { return Ok(None) };
    let vote = pb::Vote::decode(bytes.as_slice()).map_err(|_| damaged(&path, "it holds no vote"))?;
    vote_in(&Some(vote)).map(Some).map_err(|error| damaged(&path, error.to_string()))
}

/// In the order of their first entries, which their names are.
fn segment_paths(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(SUFFIX) => paths.push(path),
            Some(UNFINISHED) => durable::remove_file(&path)?,
            _ => {}
        }
    }
    paths.sort();
    Ok(paths)
}

/// One segment as it is read.
struct Reading<'a> {
    path: &'a Path,
    file: Arc<File>,
    bytes: Vec<u8>,
    /// How far it was read.
    at: usize,
    label: Label,
}

impl<'a> Reading<'a> {
    fn open(path: &'a Path) -> Result<Self, LogError> {
        let io_error = |source| LogError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io_error)?;
        let bytes = fs::read(path).map_err(io_error)?;
        let label = record::read_segment_header(&bytes).map_err(|bad| match bad {
            BadHeader::Damaged(what) => damaged(path, what),
            BadHeader::TooNew => too_new(path, "its header"),
        })?;
        Ok(Self { path, file: Arc::new(file), bytes, at: RECORDS_START, label })
    }

    /// Looks whether the segment goes on where the ones before it end.
    fn begin(&self, index: &mut Index, older: &mut Vec<Segment>) -> Result<(), LogError> {
        if older.is_empty() {
            index.purged = self.label.previous;
        } else if self.label.anew {
            // A snapshot has taken the place of the older ones; they were about to be removed.
            for segment in older.drain(..) {
                durable::remove_file(&segment.path)
                    .map_err(|source| LogError::Io { path: segment.path.clone(), source })?;
            }
            *index = Index::new(index.vote, self.label.previous);
        }
        if index.last() != self.label.previous {
            let what = format!(
                "it follows entry {:?}, but the one before it ends with {:?}",
                self.label.previous,
                index.last()
            );
            return Err(damaged(self.path, what));
        }
        Ok(())
    }

    fn entries(&mut self, index: &mut Index) -> Result<(), LogError> {
        while let Some(Found { record, length }) = self.bytes.get(self.at..).and_then(record::decode) {
            match record {
                Record::Entry(entry) => {
                    let place = Place { file: self.file.clone(), offset: self.at as u64, length };
                    let placed = index.push_found(entry, place);
                    placed.map_err(|error| damaged(self.path, error.to_string()))?;
                }
                // Only what is there can be applied.
                Record::Committed(id) if index.id_at(id.index) == Some(id) => index.committed = Some(id),
                Record::Committed(_) => {}
            }
            self.at += length;
        }
        Ok(())
    }

    /// Tells an end from a torn tail from damage, where the records end.
    fn end(&self, is_last: bool) -> Result<(), LogError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        if record::synced_of(rest).is_some() {
            return Err(too_new(self.path, format!("the record at byte {}", self.at)));
        }
        if !is_last {
            return Err(damaged(self.path, format!("at byte {} stands no record", self.at)));
        }
        if let Some(later) = self.later_record_that_vouches() {
            let what = format!("the record at byte {} is not whole, and the one at byte {later} says it was", self.at);
            return Err(damaged(self.path, what));
        }
        tracing::info!(segment = %self.path.display(), at = self.at, "cut off a torn end of the log");
        let cut = || {
            self.file.set_len(self.at as u64)?;
            self.file.set_len(SEGMENT_BYTES.max(self.at as u64))?;
            durable::sync_file(&self.file)
        };
        cut().map_err(|source| LogError::Io { path: self.path.to_owned(), source })
    }

    /// Where a record begins that was written when what stands here was on stable storage.
    fn later_record_that_vouches(&self) -> Option<usize> {
        (self.at + 1..self.bytes.len()).find(|&at| {
            let bytes = self.bytes.get(at..).unwrap_or_default();
            record::looks_like_one(bytes) && record::synced_of(bytes).is_some_and(|synced| synced as usize > self.at)
        })
    }

    fn segment(self) -> Segment {
        Segment {
            first: self.label.previous.map_or(0, |id: LogId| id.index + 1),
            path: self.path.to_owned(),
            file: self.file,
            used: self.at as u64,
        }
    }
}
