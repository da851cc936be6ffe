//! What the log holds, in memory: where each entry is, and the newest ones themselves.

use std::{collections::VecDeque, fs::File, io, ops::RangeBounds, os::unix::fs::FileExt, sync::Arc};

use super::record::{self, Record};
use crate::raft::types::{Entry, LogId, Payload, Vote};

/// Entries kept in memory, so that followers that are level and the state machine need no disk.
const CACHE_BYTES_MAX: usize = 32 << 20;
/// What an entry costs beside its payload.
const ENTRY_OVERHEAD: usize = 64;

/// Where a record is.
#[derive(Clone, Debug)]
pub struct Place {
    pub file: Arc<File>,
    pub offset: u64,
    pub length: usize,
}

#[derive(Debug)]
struct Slot {
    id: LogId,
    size: usize,
    /// `None` while it is on its way to the disk.
    place: Option<Place>,
    cached: Option<Entry>,
}

/// An entry, or where to read it.
#[derive(Debug)]
pub enum Source {
    Memory(Entry),
    Disk(LogId, Place),
}

#[derive(Debug, Default)]
pub struct Index {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    /// The entry before the first one; all up to it is in a snapshot.
    pub purged: Option<LogId>,
    slots: VecDeque<Slot>,
    cached_bytes: usize,
    /// Slots before this one are no longer in memory.
    evicted: usize,
}

impl Index {
    /// Without entries.
    pub fn new(vote: Option<Vote>, purged: Option<LogId>) -> Self {
        Self { vote, purged, ..Self::default() }
    }

    pub fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.id).or(self.purged)
    }

    /// The index that the next entry has.
    pub fn next(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }

    fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    fn at(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.first())?).ok().filter(|at| *at < self.slots.len())
    }

    pub fn id_at(&self, index: u64) -> Option<LogId> {
        let slot = || self.slots.get(self.at(index)?).map(|slot| slot.id);
        slot().or(self.purged.filter(|id| id.index == index))
    }

    pub fn place_at(&self, index: u64) -> Option<&Place> {
        self.slots.get(self.at(index)?)?.place.as_ref()
    }

    /// Adds an entry that is on its way to the disk. Refuses one that does not follow.
    pub fn push(&mut self, entry: Entry) -> io::Result<()> {
        self.check_next(&entry.log_id)?;
        let size = size_of(&entry);
        self.cached_bytes += size;
        self.slots.push_back(Slot { id: entry.log_id, size, place: None, cached: Some(entry) });
        Ok(())
    }

    /// Adds an entry that was found on the disk.
    pub fn push_found(&mut self, entry: Entry, place: Place) -> io::Result<()> {
        self.push(entry)?;
        if let Some(slot) = self.slots.back_mut() {
            slot.place = Some(place);
        }
        self.evict();
        Ok(())
    }

    fn check_next(&self, id: &LogId) -> io::Result<()> {
        let in_order =
            id.index == self.next() && self.last().is_none_or(|last| last.leader_id.term <= id.leader_id.term);
        match in_order {
            true => Ok(()),
            false => Err(io::Error::other(format!("entry {id} does not follow {:?}", self.last()))),
        }
    }

    /// The entry is on the disk now.
    pub fn placed(&mut self, index: u64, place: Place) {
        if let Some(slot) = self.at(index).and_then(|at| self.slots.get_mut(at)) {
            slot.place = Some(place);
        }
        self.evict();
    }

    fn evict(&mut self) {
        while self.cached_bytes > CACHE_BYTES_MAX
            && let Some(slot) = self.slots.get_mut(self.evicted)
            && slot.place.is_some()
        {
            if slot.cached.take().is_some() {
                self.cached_bytes -= slot.size;
            }
            self.evicted += 1;
        }
    }

    /// Forgets what comes after `last`.
    pub fn truncate_after(&mut self, last: &Option<LogId>) {
        let keep = last.map_or(0, |id| id.index + 1).saturating_sub(self.first());
        while self.slots.len() as u64 > keep {
            if let Some(slot) = self.slots.pop_back().filter(|slot| slot.cached.is_some()) {
                self.cached_bytes -= slot.size;
            }
        }
        self.evicted = self.evicted.min(self.slots.len());
        self.committed = self.committed.min(self.last());
    }

    /// Forgets what comes up to `id`, which may be past the end.
    pub fn purge(&mut self, id: LogId) {
        while self.slots.front().is_some_and(|slot| slot.id.index <= id.index) {
            if let Some(slot) = self.slots.pop_front().filter(|slot| slot.cached.is_some()) {
                self.cached_bytes -= slot.size;
            }
            self.evicted = self.evicted.saturating_sub(1);
        }
        self.purged = self.purged.max(Some(id));
    }

    /// The entries of a range as far as there are any, up to `bytes_max` of them but at least one.
    pub fn sources(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> io::Result<Vec<Source>> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let start = match range.start_bound() {
            Included(start) => *start,
            Excluded(before) => before.saturating_add(1),
            Unbounded => 0,
        };
        let end = match range.end_bound() {
            Included(last) => last.saturating_add(1),
            Excluded(end) => *end,
            Unbounded => u64::MAX,
        };
        let (start, end) = (start.max(self.first()), end.min(self.next()));
        let mut found = Vec::new();
        let mut bytes = 0;
        for index in start..end {
            let Some(slot) = self.at(index).and_then(|at| self.slots.get(at)) else { break };
            bytes += slot.size;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(match (&slot.cached, &slot.place) {
                (Some(entry), _) => Source::Memory(entry.clone()),
                (None, Some(place)) => Source::Disk(slot.id, place.clone()),
                (None, None) => return Err(io::Error::other(format!("entry {} is nowhere", slot.id))),
            });
        }
        Ok(found)
    }
}

fn size_of(entry: &Entry) -> usize {
    ENTRY_OVERHEAD
        + match &entry.payload {
            Payload::Normal(proposal) => proposal.0.len(),
            Payload::Blank | Payload::Membership(_) => 0,
        }
}

impl Source {
    /// Blocking, unless it is in memory.
    pub fn read(self) -> io::Result<Entry> {
        let (id, place) = match self {
            Self::Memory(entry) => return Ok(entry),
            Self::Disk(id, place) => (id, place),
        };
        let mut bytes = vec![0; place.length];
        place.file.read_exact_at(&mut bytes, place.offset)?;
        match record::decode(&bytes).map(|found| found.record) {
            Some(Record::Entry(entry)) if entry.log_id == id => Ok(entry),
            _ => Err(io::Error::other(format!("entry {id} of the log is damaged"))),
        }
    }
}
