//! The Lock service's tables: the state's records, one row each, written through as commands change them.
//!
//! Values are protobuf (`proto/storage/lock.proto`), so that a newer server reads an older one's data; `docs/format.md` has
//! the keys. Everything a batch of commands changed is one transaction, and on stable storage when [`Store::write`] returns.

use std::path::Path as FilePath;

use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::{
    durable,
    lock::{
        command::{Grant, Key, Membership, Ticket},
        state::{Damaged, Head, Record, State},
        wait_queue::Waiter,
    },
    pb::storage::lock as stored,
    types::{ClusterId, FencingToken, LockMode, Path, Revision, SessionId, Timestamp},
};

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Makes a record of a row.
type Reader = fn(&[u8], &[u8]) -> Result<Record, StorageError>;

const META: Table = Table::new("meta");
const SESSIONS: Table = Table::new("sessions");
const EXPIRED: Table = Table::new("expired");
const HOLDERS: Table = Table::new("holders");
const WAITERS: Table = Table::new("waiters");
const FENCES: Table = Table::new("fences");

const FILE: &str = "lock.redb";
const FORMAT_KEY: &[u8] = b"format";
const HEAD_KEY: &[u8] = b"head";
const FORMAT_VERSION: u32 = 1;
/// The state lives in memory anyway; the cache need only hold what a commit touches.
const CACHE_BYTES: usize = 32 << 20;

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("the lock tables: {0}")]
    Database(#[from] redb::Error),
    #[error("the folder of the lock tables: {0}")]
    Folder(#[from] std::io::Error),
    #[error("the lock tables have format {found}; this version of dfs reads up to {FORMAT_VERSION}: use a newer one")]
    TooNew { found: u32 },
    #[error("table `{table}` of the lock tables is damaged: {what}")]
    BadRow { table: &'static str, what: &'static str },
    #[error("the lock tables are damaged: {0}")]
    Damaged(#[from] Damaged),
}

/// redb has an error type for each kind of call; to us they are one.
macro_rules! from_redb {
    ($($error:ident)*) => {
        $(impl From<redb::$error> for StorageError {
            fn from(error: redb::$error) -> Self {
                Self::Database(error.into())
            }
        })*
    };
}
from_redb! { DatabaseError TransactionError TableError StorageError CommitError }

/// A row to be written, or removed.
pub struct Row {
    table: Table,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

/// The rows of the records with these keys, as the state has them now.
pub fn rows<'a>(state: &State, keys: impl IntoIterator<Item = &'a Key>) -> Vec<Row> {
    keys.into_iter().map(|key| row(key, state.record(key))).collect()
}

#[derive(Debug)]
pub struct Store {
    database: Database,
}

impl Store {
    /// Opens the tables in a server's data folder, or makes them, and reads the state. Blocks on the disk.
    pub fn open(folder: &FilePath) -> Result<(Self, State), StorageError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(folder.join(FILE))?;
        durable::sync_dir(folder)?;
        Self::of(database)
    }

    /// The store in a database, wherever that is.
    pub(super) fn of(database: Database) -> Result<(Self, State), StorageError> {
        let store = Self { database };
        store.prepare()?;
        let records = store.read()?;
        Ok((store, State::restore(records)?))
    }

    /// Puts the rows on stable storage, all or none. Blocks on the disk. After an error nothing is known of what is there: whoever gets it writes no
    /// more.
    pub fn write(&self, rows: &[Row]) -> Result<(), StorageError> {
        let transaction = self.database.begin_write()?;
        for Row { table, key, value } in rows {
            let mut table = transaction.open_table(*table)?;
            match value {
                Some(value) => table.insert(key.as_slice(), value.as_slice())?,
                None => table.remove(key.as_slice())?,
            };
        }
        transaction.commit()?;
        Ok(())
    }

    /// Makes what is missing, and looks whether we know the format.
    fn prepare(&self) -> Result<(), StorageError> {
        let transaction = self.database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            let found =
                meta.get(FORMAT_KEY)?.map(|value| decode::<stored::Format>("meta", value.value())).transpose()?;
            match found {
                Some(format) if format.version > FORMAT_VERSION => {
                    return Err(StorageError::TooNew { found: format.version });
                }
                Some(_) => {}
                None => {
                    let format = stored::Format { version: FORMAT_VERSION }.encode_to_vec();
                    meta.insert(FORMAT_KEY, format.as_slice())?;
                }
            }
            for table in [SESSIONS, EXPIRED, HOLDERS, WAITERS, FENCES] {
                transaction.open_table(table)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn read(&self) -> Result<Vec<Record>, StorageError> {
        let transaction = self.database.begin_read()?;
        let mut records = Vec::new();
        if let Some(head) = transaction.open_table(META)?.get(HEAD_KEY)? {
            records.push(head_record(head.value())?);
        }
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
        Ok(records)
    }
}

fn row(key: &Key, record: Option<Record>) -> Row {
    let (table, key) = match key {
        Key::Head => (META, HEAD_KEY.to_vec()),
        Key::Session(id) => (SESSIONS, id.as_bytes().to_vec()),
        Key::Expired(id) => (EXPIRED, id.as_bytes().to_vec()),
        Key::Holder(path, id) => (HOLDERS, below(path, id.as_bytes())),
        Key::Waiter(path, ticket) => (WAITERS, below(path, &ticket.0.to_be_bytes())),
        Key::Fence(path) => (FENCES, path.as_str().as_bytes().to_vec()),
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

fn head_record(value: &[u8]) -> Result<Record, StorageError> {
    let head: stored::Head = decode("meta", value)?;
    let membership = if head.cluster_id.is_empty() && head.lock_key.is_empty() {
        None
    } else {
        let cluster = ClusterId::from_bytes(exactly("meta", &head.cluster_id)?);
        Some(Membership { cluster, key: exactly("meta", &head.lock_key)? })
    };
    let (revision, time) = (Revision(head.revision), Timestamp(head.time_ms));
    Ok(Record::Head(Head { revision, time, counter: head.counter, membership }))
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
mod tests {
    use super::*;
    use crate::{
        lock::command::{Command, Effect, IfHeld},
        token::LOCK_KEY_LENGTH,
    };

    fn id(id: u8) -> SessionId {
        SessionId::from_bytes([id; 16])
    }

    fn at(text: &str) -> Path {
        text.parse().unwrap()
    }

    fn apply(store: &Store, state: &mut State, command: Command) {
        let applied = state.apply(Revision(state.revision().0 + 1), Timestamp(7), &command).unwrap();
        store.write(&rows(state, &applied.changed)).unwrap();
    }

    fn open(client: u8) -> Command {
        Command::OpenSession { session: id(client), ttl_ms: 5000, client: format!("client {client}") }
    }

    fn acquire(client: u8, path: &str, mode: LockMode) -> Command {
        Command::Acquire { session: id(client), path: at(path), mode, if_held: IfHeld::Queue }
    }

    #[test]
    fn a_restart_finds_what_was_written_and_tokens_go_on_rising() {
        let folder = tempfile::tempdir().unwrap();
        let (store, mut state) = Store::open(folder.path()).unwrap();
        assert_eq!(state, State::default());
        let membership = Membership { cluster: ClusterId::random(), key: [9; LOCK_KEY_LENGTH] };
        for command in [
            Command::Join { membership, newest: FencingToken(0) },
            open(1),
            open(2),
            open(3),
            acquire(1, "/a", LockMode::Exclusive),
            acquire(2, "/a", LockMode::Exclusive),
            acquire(2, "/b/ä", LockMode::Shared),
            acquire(3, "/b/ä", LockMode::Shared),
            acquire(3, "/", LockMode::Exclusive),
            Command::Release { session: id(2), path: at("/b/ä"), token: None },
            Command::ExpireSession { session: id(1) },
        ] {
            apply(&store, &mut state, command);
        }
        drop(store);
        let (store, mut again) = Store::open(folder.path()).unwrap();
        assert_eq!(again, state);
        let Some(Effect::RaiseFence { path, token }) = again.resume().pop() else { panic!("the fence is pending") };
        apply(&store, &mut again, Command::FenceRaised { path, token });
        assert!(again.view(&at("/a")).holders[0].grant.token > token);
        apply(&store, &mut again, Command::CloseSession { session: id(2) });
        apply(&store, &mut again, Command::CloseSession { session: id(3) });
        drop(store);
        let (_, last) = Store::open(folder.path()).unwrap();
        assert_eq!(last, again);
        assert_eq!(last.list(&Path::root(), None, 10), (vec![], false));
    }

    #[test]
    fn foreign_rows_are_refused_and_never_a_panic() {
        for (table, key, value) in [
            (SESSIONS, b"short".to_vec(), vec![]),
            (HOLDERS, b"/a".to_vec(), vec![]),
            (HOLDERS, below(&at("/a"), id(1).as_bytes()), vec![]),
            (WAITERS, b"no path\0\0\0\0\0\0\0\0\0".to_vec(), vec![]),
            (FENCES, vec![0xff], vec![]),
            (FENCES, b"/a".to_vec(), vec![0xff]),
            (META, HEAD_KEY.to_vec(), stored::Head { lock_key: vec![1].into(), ..Default::default() }.encode_to_vec()),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (store, _) = Store::open(folder.path()).unwrap();
            store.write(&[Row { table, key, value: Some(value) }]).unwrap();
            drop(store);
            assert!(matches!(Store::open(folder.path()), Err(StorageError::BadRow { .. })), "{table}");
        }
    }

    #[test]
    fn a_newer_format_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let value = stored::Format { version: FORMAT_VERSION + 1 }.encode_to_vec();
        store.write(&[Row { table: META, key: FORMAT_KEY.to_vec(), value: Some(value) }]).unwrap();
        drop(store);
        assert!(matches!(Store::open(folder.path()), Err(StorageError::TooNew { found: 2 })));
    }
}
