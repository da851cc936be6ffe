//! The database that a service's state is in, and what of it belongs to the group: which entry was applied last, and who
//! the members are. Both stand in the same transaction as the effects, so that a start neither loses nor repeats anything.
//!
//! With the log behind it a commit need not be durable: what a crash takes back is applied again. Every so often one is, and
//! the log is kept at least up to there.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use prost::Message;
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::{
    convert::{log_id_in, log_id_out, membership_in, membership_out},
    types::{LogId, NodeId, StoredMembership},
};
use crate::{durable, pb};

/// Of the group, beside the service's tables.
const RAFT: TableDefinition<&str, &[u8]> = TableDefinition::new("raft");
const APPLIED: &str = "applied";
const MEMBERSHIP_LOG_ID: &str = "membership_log_id";
const MEMBERSHIP: &str = "membership";
const BEGUN_AS: &str = "begun_as";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database: {0}")]
    Database(Box<redb::Error>),
    #[error("table `raft` is damaged: {0}")]
    Damaged(&'static str),
    #[error("{0}")]
    Service(Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// redb has an error type for each kind of call; to us they are one.
macro_rules! from_redb {
    ($($error:ident)*) => {
        $(impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        })*
    };
}
from_redb! { DatabaseError TransactionError TableError StorageError CommitError SetDurabilityError }

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}

/// The newest entry whose effects are in the database, and the members as of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    pub last: Option<LogId>,
    pub membership: StoredMembership,
}

/// A service's database. A snapshot that is installed puts another one in its place, so whoever looks asks each time.
#[derive(Debug)]
pub struct Store {
    current: RwLock<Arc<Database>>,
    /// `None`: in memory.
    path: Option<PathBuf>,
    cache_bytes: Option<usize>,
}

impl Store {
    /// Opens the file, or makes it. Blocking.
    pub fn open(path: &Path, cache_bytes: Option<usize>) -> Result<Self, StoreError> {
        let store = Self::over(open_database(path, cache_bytes)?);
        if let Some(folder) = path.parent() {
            durable::sync_dir(folder)?;
        }
        Ok(Self { path: Some(path.to_owned()), cache_bytes, ..store })
    }

    /// Over a database that is somewhere else than in a file.
    pub fn over(database: Database) -> Self {
        Self { current: RwLock::new(Arc::new(database)), path: None, cache_bytes: None }
    }

    pub fn database(&self) -> Arc<Database> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn begin_read(&self) -> Result<ReadTransaction, redb::TransactionError> {
        self.database().begin_read()
    }

    pub fn begin_write(&self) -> Result<WriteTransaction, redb::TransactionError> {
        self.database().begin_write()
    }

    /// The file.
    pub fn path(&self) -> Result<&Path, StoreError> {
        Ok(self.path.as_deref().ok_or_else(|| io::Error::other("a database in memory has no file"))?)
    }

    /// Where a database is made that is to take the place of this one.
    pub fn successor_path(&self) -> Result<PathBuf, StoreError> {
        Ok(self.path()?.with_added_extension("successor"))
    }

    pub fn open_successor(&self, path: &Path) -> Result<Database, StoreError> {
        open_database(path, self.cache_bytes)
    }

    /// Puts a whole and synced database in the place of this one. Looks under way go on with the old one. Blocking.
    pub fn replace(&self, successor: Database, path: &Path) -> Result<(), StoreError> {
        let own = self.path()?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        durable::rename(path, own)?;
        *current = Arc::new(successor);
        Ok(())
    }
}

fn open_database(path: &Path, cache_bytes: Option<usize>) -> Result<Database, StoreError> {
    let mut builder = Database::builder();
    if let Some(bytes) = cache_bytes {
        builder.set_cache_size(bytes);
    }
    Ok(builder.create(path)?)
}

/// What the database says it has applied.
pub fn read_applied(transaction: &ReadTransaction) -> Result<Applied, StoreError> {
    match transaction.open_table(RAFT) {
        Ok(table) => applied_in(&table),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(Applied::default()),
        Err(error) => Err(error.into()),
    }
}

/// The same, by a transaction that is about to change it.
pub fn written_applied(transaction: &WriteTransaction) -> Result<Applied, StoreError> {
    applied_in(&transaction.open_table(RAFT)?)
}

fn applied_in(table: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Applied, StoreError> {
    let log_id = |key| -> Result<Option<LogId>, StoreError> {
        let Some(bytes) = table.get(key)? else { return Ok(None) };
        let id = pb::LogId::decode(bytes.value()).map_err(|_| StoreError::Damaged("an entry's id is none"))?;
        Ok(Some(log_id_in(&id)))
    };
    let membership = match table.get(MEMBERSHIP)? {
        Some(bytes) => {
            pb::Membership::decode(bytes.value()).ok().and_then(|membership| membership_in(&membership).ok())
        }
        None => Some(Default::default()),
    };
    let membership = membership.ok_or(StoreError::Damaged("the membership is none"))?;
    Ok(Applied { last: log_id(APPLIED)?, membership: StoredMembership::new(log_id(MEMBERSHIP_LOG_ID)?, membership) })
}

/// Under which id of its node the database was begun empty, since an earlier self was lost; `None`: under that of the data
/// folder. It stands beside the tables so that it is there when all of the log's folder is lost.
pub fn read_begun_as(transaction: &ReadTransaction) -> Result<Option<NodeId>, StoreError> {
    let table = match transaction.open_table(RAFT) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(bytes) = table.get(BEGUN_AS)? else { return Ok(None) };
    let bytes = bytes.value().try_into().map_err(|_| StoreError::Damaged("a node's id has 8 bytes"))?;
    Ok(Some(NodeId::from_le_bytes(bytes)))
}

/// Says so with this transaction.
pub fn write_begun_as(transaction: &WriteTransaction, node: NodeId) -> Result<(), StoreError> {
    transaction.open_table(RAFT)?.insert(BEGUN_AS, node.to_le_bytes().as_slice())?;
    Ok(())
}

/// Says what is applied with this transaction.
pub fn write_applied(transaction: &WriteTransaction, applied: &Applied) -> Result<(), StoreError> {
    let mut table = transaction.open_table(RAFT)?;
    let ids = [(APPLIED, &applied.last), (MEMBERSHIP_LOG_ID, applied.membership.log_id())];
    for (key, id) in ids {
        if let Some(id) = id {
            table.insert(key, log_id_out(id).encode_to_vec().as_slice())?;
        }
    }
    let membership = membership_out(applied.membership.membership()).encode_to_vec();
    table.insert(MEMBERSHIP, membership.as_slice())?;
    Ok(())
}

/// Makes all commits so far durable, and says what they have applied. Blocking.
pub fn make_durable(store: &Store) -> Result<Applied, StoreError> {
    let mut transaction = store.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let applied = written_applied(&transaction)?;
    write_applied(&transaction, &applied)?;
    transaction.commit()?;
    Ok(applied)
}
