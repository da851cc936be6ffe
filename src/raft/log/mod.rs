//! The durable log and vote of one node: what it has promised to others, and must never forget.
//!
//! A folder of its own with append-only segments and a sealed file for the vote. One thread writes ([`writer`]); many
//! entries share one sync. What a start finds damaged is said, and never used ([`recovery`]): a node that has forgotten
//! what it voted for is worse than one that is gone.

mod index;
mod record;
mod recovery;
mod writer;

use std::{
    fmt::Debug,
    io,
    ops::RangeBounds,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use openraft::{
    OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use tokio::sync::{mpsc, oneshot};

use self::{
    index::{Index, Source},
    record::Record,
    writer::{Done, Task, Writer},
};
use super::types::{Entry, LogId, Types, Vote};
use crate::metrics::Seconds;

pub use recovery::LogError;

/// Tasks that wait for the writer.
const TASKS_MAX: usize = 256;
/// Entries handed to a follower at once, so that a message stays a message.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// A handle; clones are the same log.
#[derive(Clone)]
pub struct Log {
    index: Arc<Mutex<Index>>,
    tasks: mpsc::Sender<Task>,
    /// How long its syncs take.
    pub fsync: Seconds,
}

impl Log {
    /// Opens the log of a folder, or makes it. Blocking.
    pub fn open(folder: &Path) -> Result<Self, LogError> {
        let recovered = recovery::recover(folder)?;
        let index = Arc::new(Mutex::new(recovered.index));
        let (tasks, queue) = mpsc::channel(TASKS_MAX);
        let writer = Writer::new(folder.to_owned(), index.clone(), queue, recovered.segments);
        let fsync = writer.fsync.clone();
        thread::spawn(move || writer.run());
        Ok(Self { index, tasks, fsync })
    }

    /// Whether nothing was ever written: neither entry nor vote.
    pub fn is_new(&self) -> bool {
        let index = self.index();
        index.vote.is_none() && index.last().is_none()
    }

    /// Makes an entry that was never here the last one, as if a snapshot had brought it. Blocking.
    pub fn begin_after(&self, id: LogId) -> io::Result<()> {
        let (done, answered) = oneshot::channel();
        let ended = || io::Error::other("the writer of the log has ended");
        self.tasks.blocking_send(Task::Purge(id, done)).map_err(|_| ended())?;
        answered.blocking_recv().map_err(|_| ended())?
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, task: Task) -> io::Result<()> {
        self.tasks.send(task).await.map_err(|_| io::Error::other("the writer of the log has ended"))
    }

    async fn ask(&self, task: impl FnOnce(Done) -> Task) -> io::Result<()> {
        let (done, answered) = oneshot::channel();
        self.send(task(done)).await?;
        answered.await.map_err(|_| io::Error::other("the writer of the log has ended"))?
    }

    async fn read(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let sources = self.index().sources(range, bytes_max)?;
        let read = |sources: Vec<Source>| sources.into_iter().map(Source::read).collect();
        match sources.iter().all(|source| matches!(source, Source::Memory(_))) {
            true => read(sources),
            false => tokio::task::spawn_blocking(move || read(sources)).await.map_err(io::Error::other)?,
        }
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read((range.start_bound().cloned(), range.end_bound().cloned()), usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, BATCH_BYTES_MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.index().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let index = self.index();
        Ok(LogState { last_purged_log_id: index.purged, last_log_id: index.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = *vote;
        self.ask(|done| Task::Vote(vote, done)).await?;
        self.index().vote = Some(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        self.index().committed = Some(committed);
        self.send(Task::Committed(committed)).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.index().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut bytes, mut lengths) = (Vec::new(), Vec::new());
        for entry in entries {
            let (start, index) = (bytes.len(), entry.log_id.index);
            let record = Record::Entry(entry);
            record::encode(&record, &mut bytes);
            lengths.push((index, bytes.len() - start));
            if let Record::Entry(entry) = record {
                self.index().push(entry)?;
            }
        }
        self.send(Task::Append { bytes, entries: lengths, flushed }).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.ask(|done| Task::TruncateAfter(last, done)).await
    }

    async fn purge(&mut self, id: LogId) -> io::Result<()> {
        self.ask(|done| Task::Purge(id, done)).await
    }
}

#[cfg(test)]
mod tests;
