//! The Lock service's tables: the state's records, one row each.
//!
//! Values are protobuf (`proto/storage/lock.proto`), so that a newer server reads an older one's data; `docs/format.md` has
//! the keys. Rows come out of the group's log alone ([`super::machine`]); who begins to lead reads them all, once.

use std::{path::Path as FilePath, sync::Arc};

use prost::Message;
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use crate::{
    lock::{
        command::{Grant, Key, Membership, Ticket},
        state::{Damaged, Head, Record, State},
        wait_queue::Waiter,
    },
    pb::storage::lock as stored,
    raft::{self, StoreError},
    types::{ClusterId, FencingToken, LeadId, LockMode, Path, Revision, SessionId, Timestamp},
};

pub(super) type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Makes a record of a row.
type Reader = fn(&[u8], &[u8]) -> Result<Record, StorageError>;

pub(super) const META: Table = Table::new("meta");
pub(super) const SESSIONS: Table = Table::new("sessions");
pub(super) const EXPIRED: Table = Table::new("expired");
pub(super) const HOLDERS: Table = Table::new("holders");
pub(super) const WAITERS: Table = Table::new("waiters");
pub(super) const FENCES: Table = Table::new("fences");
/// The beginning of what one entry of the log has no room for.
pub(super) const CONTINUED: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("continued");

/// All of the state.
pub(super) const ALL: raft::Tables = &[&META, &SESSIONS, &EXPIRED, &HOLDERS, &WAITERS, &FENCES, &CONTINUED];

pub(super) const FILE: &str = "lock.redb";
const FORMAT_KEY: &[u8] = b"format";
const HEAD_KEY: &[u8] = b"head";
const LEAD_KEY: &[u8] = b"lead";
/// 1: a single node without a log. One that was such is taken over as it is; what wrote it must not go on with it.
const FORMAT_VERSION: u32 = 2;
/// The state lives in memory anyway; the cache need only hold what a commit touches.
const CACHE_BYTES: usize = 32 << 20;

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("the lock tables: {0}")]
    Database(#[from] Box<redb::Error>),
    #[error("the lock tables: {0}")]
    Store(#[from] StoreError),
    #[error("the lock tables have format {found}; this version of dfs reads up to {FORMAT_VERSION}: use a newer one")]
    TooNew { found: u32 },
    #[error("table `{table}` of the lock tables is damaged: {what}")]
    BadRow { table: &'static str, what: &'static str },
    #[error("an entry of the log is damaged, or from a newer version of dfs: {0}")]
    BadEntry(&'static str),
    #[error("the lock tables are damaged: {0}")]
    Damaged(#[from] Damaged),
}

/// redb has an error type for each kind of call; to us they are one.
macro_rules! from_redb {
    ($($error:ident)*) => {
        $(impl From<redb::$error> for StorageError {
            fn from(error: redb::$error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        })*
    };
}
from_redb! { DatabaseError TransactionError TableError StorageError CommitError }

/// A row to be written, or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub table: stored::Table,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// The rows of the records with these keys, as the state has them now.
pub fn rows<'a>(state: &State, keys: impl IntoIterator<Item = &'a Key>) -> Vec<Row> {
    keys.into_iter().map(|key| row(key, state.record(key))).collect()
}

/// Opens the tables in a server's data folder, or makes them. Blocking.
pub fn open(folder: &FilePath) -> Result<Arc<raft::Store>, StorageError> {
    let store = raft::Store::open(&folder.join(FILE), Some(CACHE_BYTES))?;
    prepare_store(&store)?;
    Ok(Arc::new(store))
}

pub(super) fn prepare_store(store: &raft::Store) -> Result<(), StorageError> {
    let transaction = store.begin_write()?;
    prepare(&transaction)?;
    transaction.commit()?;
    Ok(())
}

/// Makes what is missing, and looks whether we know the format.
pub(super) fn prepare(transaction: &WriteTransaction) -> Result<(), StorageError> {
    let mut meta = transaction.open_table(META)?;
    let found = meta.get(FORMAT_KEY)?.map(|value| decode::<stored::Format>("meta", value.value())).transpose()?;
    let found = found.map_or(0, |format| format.version);
    if found > FORMAT_VERSION {
        return Err(StorageError::TooNew { found });
    }
    if found < FORMAT_VERSION {
        let format = stored::Format { version: FORMAT_VERSION }.encode_to_vec();
        meta.insert(FORMAT_KEY, format.as_slice())?;
    }
    drop(meta);
    for table in ALL {
        table.create(transaction)?;
    }
    Ok(())
}

/// The state that the tables hold. Blocking.
pub fn read_state(transaction: &ReadTransaction) -> Result<State, StorageError> {
    let mut records: Vec<Record> = read_head(transaction)?.map(Record::Head).into_iter().collect();
    let tables: [(Table, Reader); 5] = [
        (SESSIONS, session_record),
        (EXPIRED, expired_record),
        (HOLDERS, holder_record),
        (WAITERS, waiter_record),
        (FENCES, fence_record),
    ];
    for (table, record) in tables {
        for row in transaction.open_table(table)?.iter()? {
            let (key, value) = row?;
            records.push(record(key.value(), value.value())?);
        }
    }
    Ok(State::restore(records)?)
}

/// What is there once; `None` before anything happened.
pub fn read_head(transaction: &ReadTransaction) -> Result<Option<Head>, StorageError> {
    transaction.open_table(META)?.get(HEAD_KEY)?.map(|value| head(value.value())).transpose()
}

/// The lead whose decisions count; `None` before the first.
pub fn read_lead(meta: &impl ReadableTable<&'static [u8], &'static [u8]>) -> Result<Option<LeadId>, StorageError> {
    let Some(value) = meta.get(LEAD_KEY)? else { return Ok(None) };
    let lead: stored::Lead = decode("meta", value.value())?;
    exactly("meta", &lead.lead_id).map(|id| Some(LeadId::from_bytes(id)))
}

pub fn write_lead(transaction: &WriteTransaction, lead: LeadId) -> Result<(), StorageError> {
    let value = stored::Lead { lead_id: lead.as_bytes().to_vec().into() }.encode_to_vec();
    transaction.open_table(META)?.insert(LEAD_KEY, value.as_slice())?;
    Ok(())
}

fn row(key: &Key, record: Option<Record>) -> Row {
    let (table, key) = match key {
        Key::Head => (stored::Table::Meta, HEAD_KEY.to_vec()),
        Key::Session(id) => (stored::Table::Sessions, id.as_bytes().to_vec()),
        Key::Expired(id) => (stored::Table::Expired, id.as_bytes().to_vec()),
        Key::Holder(path, id) => (stored::Table::Holders, below(path, id.as_bytes())),
        Key::Waiter(path, ticket) => (stored::Table::Waiters, below(path, &ticket.0.to_be_bytes())),
        Key::Fence(path) => (stored::Table::Fences, path.as_str().as_bytes().to_vec()),
    };
    Row { table, key, value: record.map(value) }
}

/// A path has no NUL, so that the rows of one path stand together and no other's between them.
fn below(path: &Path, rest: &[u8]) -> Vec<u8> {
    [path.as_str().as_bytes(), &[0], rest].concat()
}

fn value(record: Record) -> Vec<u8> {
    match record {
        Record::Head(Head { revision, time, counter, membership }) => stored::Head {
            revision: revision.0,
            time_ms: time.0,
            counter,
            cluster_id: membership.map_or_else(Vec::new, |membership| membership.cluster.as_bytes().to_vec()).into(),
            lock_key: membership.map_or_else(Vec::new, |membership| membership.key.to_vec()).into(),
        }
        .encode_to_vec(),
        Record::Session { id: _, ttl_ms, client, open_time } => {
            stored::Session { ttl_ms, client, open_time_ms: open_time.0 }.encode_to_vec()
        }
        Record::Expired { id: _, time } => stored::Expired { time_ms: time.0 }.encode_to_vec(),
        Record::Holder { path: _, id: _, grant } => stored::Holder {
            mode: mode_to_stored(grant.mode),
            fencing_token: grant.token.0,
            grant_time_ms: grant.time.0,
        }
        .encode_to_vec(),
        Record::Waiter { path: _, ticket: _, waiter } => stored::Waiter {
            session_id: waiter.session.as_bytes().to_vec().into(),
            mode: mode_to_stored(waiter.mode),
            since_ms: waiter.since.0,
        }
        .encode_to_vec(),
        Record::Fence { path: _, token } => stored::Fence { fencing_token: token.0 }.encode_to_vec(),
    }
}

fn head(value: &[u8]) -> Result<Head, StorageError> {
    let head: stored::Head = decode("meta", value)?;
    let membership = if head.cluster_id.is_empty() && head.lock_key.is_empty() {
        None
    } else {
        let cluster = ClusterId::from_bytes(exactly("meta", &head.cluster_id)?);
        Some(Membership { cluster, key: exactly("meta", &head.lock_key)? })
    };
    let (revision, time) = (Revision(head.revision), Timestamp(head.time_ms));
    Ok(Head { revision, time, counter: head.counter, membership })
}

fn session_record(key: &[u8], value: &[u8]) -> Result<Record, StorageError> {
    let stored::Session { ttl_ms, client, open_time_ms } = decode("sessions", value)?;
    Ok(Record::Session { id: session_id("sessions", key)?, ttl_ms, client, open_time: Timestamp(open_time_ms) })
}

fn expired_record(key: &[u8], value: &[u8]) -> Result<Record, StorageError> {
    let expired: stored::Expired = decode("expired", value)?;
    Ok(Record::Expired { id: session_id("expired", key)?, time: Timestamp(expired.time_ms) })
}

fn holder_record(key: &[u8], value: &[u8]) -> Result<Record, StorageError> {
    let (path, id) = split::<16>("holders", key)?;
    let holder: stored::Holder = decode("holders", value)?;
    let mode = mode("holders", holder.mode)?;
    let grant = Grant { mode, token: FencingToken(holder.fencing_token), time: Timestamp(holder.grant_time_ms) };
    Ok(Record::Holder { path, id: SessionId::from_bytes(id), grant })
}

fn waiter_record(key: &[u8], value: &[u8]) -> Result<Record, StorageError> {
    let (path, ticket) = split::<8>("waiters", key)?;
    let waiter: stored::Waiter = decode("waiters", value)?;
    let session = session_id("waiters", &waiter.session_id)?;
    let waiter = Waiter { session, mode: mode("waiters", waiter.mode)?, since: Timestamp(waiter.since_ms) };
    Ok(Record::Waiter { path, ticket: Ticket(u64::from_be_bytes(ticket)), waiter })
}

fn fence_record(key: &[u8], value: &[u8]) -> Result<Record, StorageError> {
    let fence: stored::Fence = decode("fences", value)?;
    Ok(Record::Fence { path: path("fences", key)?, token: FencingToken(fence.fencing_token) })
}

fn decode<M: Message + Default>(table: &'static str, value: &[u8]) -> Result<M, StorageError> {
    M::decode(value).map_err(|_| StorageError::BadRow { table, what: "a value that is not a record" })
}

fn exactly<const N: usize>(table: &'static str, bytes: &[u8]) -> Result<[u8; N], StorageError> {
    bytes.try_into().map_err(|_| StorageError::BadRow { table, what: "an id or a key of another length" })
}

fn session_id(table: &'static str, bytes: &[u8]) -> Result<SessionId, StorageError> {
    exactly(table, bytes).map(SessionId::from_bytes)
}

fn path(table: &'static str, bytes: &[u8]) -> Result<Path, StorageError> {
    let path = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    path.ok_or(StorageError::BadRow { table, what: "a path that is none" })
}

/// Undoes [`below`].
fn split<const N: usize>(table: &'static str, key: &[u8]) -> Result<(Path, [u8; N]), StorageError> {
    let parts = key.split_last_chunk::<N>().and_then(|(head, rest)| Some((head.strip_suffix(&[0])?, rest)));
    let (head, rest) = parts.ok_or(StorageError::BadRow { table, what: "a key too short" })?;
    Ok((path(table, head)?, *rest))
}

fn mode(table: &'static str, mode: i32) -> Result<LockMode, StorageError> {
    match stored::Mode::try_from(mode) {
        Ok(stored::Mode::Exclusive) => Ok(LockMode::Exclusive),
        Ok(stored::Mode::Shared) => Ok(LockMode::Shared),
        Ok(stored::Mode::Unspecified) | Err(_) => Err(StorageError::BadRow { table, what: "a mode that is none" }),
    }
}

fn mode_to_stored(mode: LockMode) -> i32 {
    match mode {
        LockMode::Exclusive => stored::Mode::Exclusive.into(),
        LockMode::Shared => stored::Mode::Shared.into(),
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
