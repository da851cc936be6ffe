//! The one thread that writes the log: takes what is queued, writes it, syncs once, tells everybody.
//!
//! After a failure it writes no more: what a failed sync has left behind is only known after a start.

use std::{
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::{
    index::{Index, Place},
    record::{self, Label, Record},
    recovery::{self, SEGMENT_BYTES, Segment},
};
use crate::{
    durable,
    metrics::Seconds,
    raft::types::{LogId, Types, Vote},
};

/// Bytes of one write, so that the first of many need not wait for all of them.
const WRITE_BYTES_MAX: usize = 8 << 20;

pub type Done = oneshot::Sender<io::Result<()>>;

pub enum Task {
    /// Encoded entries, one after another; for each its index and length.
    Append {
        bytes: Vec<u8>,
        entries: Vec<(u64, usize)>,
        flushed: IOFlushed<Types>,
    },
    /// A hint; nobody waits for it.
    Committed(LogId),
    Vote(Vote, Done),
    TruncateAfter(Option<LogId>, Done),
    Purge(LogId, Done),
}

pub struct Writer {
    folder: PathBuf,
    index: Arc<Mutex<Index>>,
    tasks: mpsc::Receiver<Task>,
    /// In order; the last is written to.
    segments: Vec<Segment>,
    /// Of the last segment: what is on stable storage.
    synced: u64,
    pub fsync: Seconds,
    /// The last entry written or about to be.
    last: Option<LogId>,
    pending: Pending,
}

/// What one write puts at the end of the segment.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    /// Index, offset and length of the entries.
    places: Vec<(u64, u64, usize)>,
    flushed: Vec<IOFlushed<Types>>,
}

fn broken(what: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("the log takes no writes: {what}"))
}

impl Writer {
    pub fn new(folder: PathBuf, index: Arc<Mutex<Index>>, tasks: mpsc::Receiver<Task>, segments: Vec<Segment>) -> Self {
        let last = index.lock().unwrap_or_else(PoisonError::into_inner).last();
        let synced = segments.last().map_or(0, |segment| segment.used);
        Self { folder, index, tasks, segments, synced, fsync: Seconds::default(), last, pending: Pending::default() }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until nobody is left who could ask for anything. Blocking.
    pub fn run(mut self) {
        while let Some(first) = self.tasks.blocking_recv() {
            let mut next = Some(first);
            let worked = loop {
                let Some(task) = next else { break self.flush() };
                if let Err(error) = self.take(task) {
                    break Err(error);
                }
                next = match self.pending.bytes.len() < WRITE_BYTES_MAX {
                    true => self.tasks.try_recv().ok(),
                    false => None,
                };
            };
            if let Err(error) = worked {
                tracing::error!(%error, folder = %self.folder.display(), "the log cannot be written");
                return self.refuse(&error);
            }
        }
    }

    /// Answers everybody that it failed.
    fn refuse(mut self, error: &io::Error) {
        for flushed in self.pending.flushed.drain(..) {
            flushed.io_completed(Err(broken(error)));
        }
        while let Some(task) = self.tasks.blocking_recv() {
            match task {
                Task::Append { flushed, .. } => flushed.io_completed(Err(broken(error))),
                Task::Committed(_) => {}
                // Whoever asked may be gone.
                Task::Vote(_, done) | Task::TruncateAfter(_, done) | Task::Purge(_, done) => {
                    drop(done.send(Err(broken(error))));
                }
            }
        }
    }

    fn take(&mut self, task: Task) -> io::Result<()> {
        match task {
            Task::Append { bytes, entries, flushed } => match self.append(bytes, &entries) {
                Ok(()) => {
                    self.pending.flushed.push(flushed);
                    Ok(())
                }
                Err(error) => {
                    flushed.io_completed(Err(broken(&error)));
                    Err(error)
                }
            },
            Task::Committed(id) => {
                let mut bytes = Vec::new();
                record::encode(&Record::Committed(id), &mut bytes);
                self.put(&mut bytes);
                Ok(())
            }
            Task::Vote(vote, done) => {
                let written = self.flush().and_then(|()| recovery::write_vote(&self.folder, &vote));
                answer(written, done)
            }
            Task::TruncateAfter(last, done) => {
                let truncated = self.flush().and_then(|()| self.truncate_after(last));
                answer(truncated, done)
            }
            Task::Purge(id, done) => {
                let purged = self.flush().and_then(|()| self.purge(id));
                answer(purged, done)
            }
        }
    }

    fn current(&self) -> io::Result<&Segment> {
        self.segments.last().ok_or_else(|| broken("there is no segment"))
    }

    /// Where the next record goes.
    fn offset(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.used) + self.pending.bytes.len() as u64
    }

    fn put(&mut self, record: &mut [u8]) -> u64 {
        let offset = self.offset();
        record::stamp(record, u32::try_from(self.synced).unwrap_or(u32::MAX));
        self.pending.bytes.extend_from_slice(record);
        offset
    }

    fn append(&mut self, mut bytes: Vec<u8>, entries: &[(u64, usize)]) -> io::Result<()> {
        let mut rest = bytes.as_mut_slice();
        for (index, length) in entries {
            let (record, behind) = rest.split_at_mut_checked(*length).ok_or_else(|| broken("an entry is cut short"))?;
            rest = behind;
            if self.offset() + *length as u64 > SEGMENT_BYTES && self.holds_entries()? {
                self.flush()?;
                self.roll(false)?;
            }
            let offset = self.put(record);
            self.pending.places.push((*index, offset, *length));
            let id = self.index().id_at(*index);
            self.last = id.or(self.last);
        }
        Ok(())
    }

    /// Whether the last segment has an entry, and not hints alone: a segment is called by its first.
    fn holds_entries(&self) -> io::Result<bool> {
        let first = self.current()?.first;
        Ok(self.last.is_some_and(|last| last.index >= first))
    }

    /// Begins a new segment behind what was written, hints too: only a last segment may have a torn end.
    fn roll(&mut self, anew: bool) -> io::Result<()> {
        durable::sync_file(&self.current()?.file)?;
        let segment = recovery::create_segment(&self.folder, &Label { previous: self.last, anew })?;
        self.synced = segment.used;
        self.segments.push(segment);
        Ok(())
    }

    /// Writes what is pending, and syncs it if it is more than a hint.
    fn flush(&mut self) -> io::Result<()> {
        if self.pending.bytes.is_empty() {
            return Ok(());
        }
        let segment = self.segments.last_mut().ok_or_else(|| broken("there is no segment"))?;
        segment.file.write_all_at(&self.pending.bytes, segment.used)?;
        segment.used += self.pending.bytes.len() as u64;
        self.pending.bytes.clear();
        if self.pending.places.is_empty() && self.pending.flushed.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        durable::sync_file(&segment.file)?;
        self.fsync.since(start);
        self.synced = segment.used;
        let file = segment.file.clone();
        {
            let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
            for (entry, offset, length) in self.pending.places.drain(..) {
                index.placed(entry, Place { file: file.clone(), offset, length });
            }
        }
        for flushed in self.pending.flushed.drain(..) {
            flushed.io_completed(Ok(()));
        }
        Ok(())
    }

    /// From the end backward, so that a crash leaves no hole. The index holds the entries still.
    fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let next = last.map_or(0, |id| id.index + 1);
        while let Some(segment) = self.segments.pop_if(|segment| segment.first >= next && segment.first > 0) {
            if self.segments.is_empty() {
                // Its label says what it follows, and must stay.
                self.segments.push(segment);
                break;
            }
            durable::remove_file(&segment.path)?;
        }
        let cut = self.index().place_at(next).cloned();
        self.index().truncate_after(&last);
        let kept = self.index().last();
        self.last = kept;
        let segment = self.segments.last_mut().ok_or_else(|| broken("there is no segment"))?;
        if let Some(cut) = cut.filter(|place| Arc::ptr_eq(&place.file, &segment.file)).map(|place| place.offset) {
            segment.file.set_len(cut)?;
            segment.file.set_len(SEGMENT_BYTES.max(cut))?;
            durable::sync_file(&segment.file)?;
            segment.used = cut;
        } else {
            // Hints may be at its end.
            durable::sync_file(&segment.file)?;
        }
        self.synced = segment.used;
        Ok(())
    }

    /// Removes the segments of which nothing is needed any more.
    fn purge(&mut self, id: LogId) -> io::Result<()> {
        self.index().purge(id);
        if self.last.is_none_or(|last| last.index <= id.index) && self.last != Some(id) {
            self.last = Some(id);
            self.roll(true)?;
        }
        while self.segments.get(1).is_some_and(|second| second.first <= id.index + 1) {
            let oldest = self.segments.remove(0);
            durable::remove_file(&oldest.path)?;
        }
        self.current().map(|_| ())
    }
}

fn answer(result: io::Result<()>, done: Done) -> io::Result<()> {
    let (told, kept) = match result {
        Ok(()) => (Ok(()), Ok(())),
        Err(error) => (Err(broken(&error)), Err(error)),
    };
    // Whoever asked may be gone.
    drop(done.send(told));
    kept
}
