//! The Lock service's part of its group: puts rows out of the log into the tables, and says what every node may know.

use std::collections::HashMap;

use bytes::Bytes;
use redb::{ReadableTable, WriteTransaction};
use tokio::sync::watch;

use crate::{
    lock::{
        command::Membership,
        entry::Entry,
        state::Head,
        tables::{self, CONTINUED, META, Row, StorageError, Table},
    },
    pb::storage::lock as stored,
    raft::{self, Answer, Machine, StoreError},
    types::{LeadId, Revision},
};

/// The newest applied state, in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub revision: Revision,
    /// `None` before the Directory was reached for the first time.
    pub membership: Option<Membership>,
    /// The last that began; `None` before the first.
    pub lead: Option<LeadId>,
}

/// Whether an entry counted: it does not if another lead has begun since it was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Counted,
    Outdated,
}

/// Applies, and publishes before anybody is answered.
pub struct LockMachine {
    progress: watch::Sender<Progress>,
}

impl LockMachine {
    /// Over what was applied before.
    pub fn new(store: &raft::Store) -> Result<Self, StorageError> {
        let machine = Self { progress: watch::Sender::new(Progress::default()) };
        machine.publish(store)?;
        Ok(machine)
    }

    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    fn publish(&self, store: &raft::Store) -> Result<(), StorageError> {
        let transaction = store.begin_read()?;
        let Head { revision, membership, .. } = tables::read_head(&transaction)?.unwrap_or_default();
        let lead = tables::read_lead(&transaction.open_table(META)?)?;
        let newest = Progress { revision, membership, lead };
        self.progress.send_if_modified(|progress| std::mem::replace(progress, newest) != newest);
        Ok(())
    }
}

fn failed(error: StorageError) -> StoreError {
    StoreError::Service(Box::new(error))
}

impl Machine for LockMachine {
    fn tables(&self) -> raft::Tables {
        tables::ALL
    }

    fn prepare(&self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        tables::prepare(transaction).map_err(failed)
    }

    fn apply(&self, transaction: &WriteTransaction, proposals: &[Bytes]) -> Result<Vec<Answer>, StoreError> {
        let applied = proposals.iter().map(|proposal| Ok(Box::new(apply(transaction, proposal)?) as Answer));
        applied.collect::<Result<_, _>>().map_err(failed)
    }

    fn applied(&self, store: &raft::Store) -> Result<(), StoreError> {
        self.publish(store).map_err(failed)
    }
}

fn apply(transaction: &WriteTransaction, proposal: &[u8]) -> Result<Verdict, StorageError> {
    let leading = tables::read_lead(&transaction.open_table(META)?)?;
    match Entry::decode(proposal)? {
        Entry::Begin { lead } => {
            tables::write_lead(transaction, lead)?;
            // What the lead before had only begun to say never happened.
            take_continued(transaction)?;
        }
        Entry::Rows { lead, .. } if leading != Some(lead) => return Ok(Verdict::Outdated),
        Entry::Rows { rows, continued: true, lead } => {
            let mut table = transaction.open_table(CONTINUED)?;
            let next = table.last()?.map_or(0, |(last, _)| last.value() + 1);
            table.insert(next, Entry::Rows { lead, rows, continued: true }.encode().as_ref())?;
        }
        Entry::Rows { rows, continued: false, .. } => {
            let before = take_continued(transaction)?;
            write(transaction, before.into_iter().chain(rows))?;
        }
    }
    Ok(Verdict::Counted)
}

fn write(transaction: &WriteTransaction, rows: impl Iterator<Item = Row>) -> Result<(), StorageError> {
    let mut open = HashMap::new();
    for Row { table, key, value } in rows {
        let table = match open.entry(table as i32) {
            std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(transaction.open_table(definition(table)?)?)
            }
        };
        match value {
            Some(value) => table.insert(key.as_slice(), value.as_slice())?,
            None => table.remove(key.as_slice())?,
        };
    }
    Ok(())
}

fn definition(table: stored::Table) -> Result<Table, StorageError> {
    Ok(match table {
        stored::Table::Meta => META,
        stored::Table::Sessions => tables::SESSIONS,
        stored::Table::Expired => tables::EXPIRED,
        stored::Table::Holders => tables::HOLDERS,
        stored::Table::Waiters => tables::WAITERS,
        stored::Table::Fences => tables::FENCES,
        stored::Table::Unspecified => return Err(StorageError::BadEntry("it has a row of no table")),
    })
}

/// The rows of entries that wait for their end, in order; they wait no more.
fn take_continued(transaction: &WriteTransaction) -> Result<Vec<Row>, StorageError> {
    let mut table = transaction.open_table(CONTINUED)?;
    let mut taken = Vec::new();
    while let Some((_, entry)) = table.pop_first()? {
        match Entry::decode(entry.value())? {
            Entry::Rows { rows, .. } => taken.extend(rows),
            Entry::Begin { .. } => return Err(StorageError::BadEntry("it is no part of another")),
        }
    }
    Ok(taken)
}
