//! The whole state, table by table: out of a read transaction, which is a moment of the database that stands still while it
//! goes on, and into a database of its own beside the receiver's. Neither side holds more than a message in memory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use redb::{
    Database, Durability, Key, ReadTransaction, ReadableTable, TableDefinition, TableHandle, Value, WriteTransaction,
};

use super::{
    store::{Applied, Store, StoreError, read_begun_as, write_applied, write_begun_as},
    types::NodeId,
};
use crate::{durable, pb, types::crc32c};

/// Rows of one message.
const MESSAGE_BYTES: usize = 256 << 10;
/// Rows of one transaction of the receiver, in messages.
const TRANSACTION_MESSAGES: u32 = 64;

/// Where messages go; `false`: nobody wants more.
pub type Sink<'a> = &'a mut dyn FnMut(pb::SnapshotRows) -> bool;

/// A table whatever its types.
pub trait AnyTable: Sync {
    fn name(&self) -> &str;
    /// Makes it if it is not there.
    fn create(&self, transaction: &WriteTransaction) -> Result<(), StoreError>;
    /// Sends all rows; how many there were. Stops early when nobody wants more.
    fn dump(&self, transaction: &ReadTransaction, sink: Sink<'_>) -> Result<u64, StoreError>;
    /// Adds rows as [`AnyTable::dump`] has sent them; how many they were.
    fn load(&self, transaction: &WriteTransaction, rows: Bytes) -> Result<u64, StoreError>;
}

impl<K: Key + Sync + 'static, V: Value + Sync + 'static> AnyTable for TableDefinition<'static, K, V> {
    fn name(&self) -> &str {
        TableHandle::name(self)
    }

    fn create(&self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        transaction.open_table(*self)?;
        Ok(())
    }

    fn dump(&self, transaction: &ReadTransaction, sink: Sink<'_>) -> Result<u64, StoreError> {
        let table = match transaction.open_table(*self) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let (mut count, mut rows) = (0, BytesMut::with_capacity(MESSAGE_BYTES));
        for row in table.iter()? {
            let (key, value) = row?;
            let (key, value) = (key.value(), value.value());
            let (key, value) = (K::as_bytes(&key), V::as_bytes(&value));
            let (key, value) = (key.as_ref(), value.as_ref());
            rows.put_u32_le(key.len() as u32);
            rows.put_u32_le(value.len() as u32);
            rows.put_slice(key);
            rows.put_slice(value);
            count += 1;
            if rows.len() >= MESSAGE_BYTES && !sink(message(AnyTable::name(self), rows.split().freeze())) {
                return Ok(count);
            }
        }
        if !rows.is_empty() {
            sink(message(AnyTable::name(self), rows.freeze()));
        }
        Ok(count)
    }

    fn load(&self, transaction: &WriteTransaction, mut rows: Bytes) -> Result<u64, StoreError> {
        let mut table = transaction.open_table(*self)?;
        let mut count = 0;
        while !rows.is_empty() {
            let (key, value) = next_row(&mut rows).ok_or(StoreError::Damaged("a row of a snapshot is cut short"))?;
            let fits = |width: Option<usize>, bytes: &Bytes| width.is_none_or(|width| width == bytes.len());
            if !fits(K::fixed_width(), &key) || !fits(V::fixed_width(), &value) {
                return Err(StoreError::Damaged("a row of a snapshot has another length than its table's"));
            }
            let unread = StoreError::Damaged("a row of a snapshot is none of its table's");
            let (Some(key), Some(value)) = (parsed::<K>(&key), parsed::<V>(&value)) else { return Err(unread) };
            table.insert(key, value)?;
            count += 1;
        }
        Ok(count)
    }
}

/// A key or a value from its bytes. The database reads what it wrote itself and panics at anything else, as at a name that is not
/// UTF-8; these bytes came from the wire. The panic that is caught is told on stderr: a leader that sends such rows is to be looked
/// at.
fn parsed<T: Value>(bytes: &[u8]) -> Option<T::SelfType<'_>> {
    std::panic::catch_unwind(|| T::from_bytes(bytes)).ok()
}

fn next_row(rows: &mut Bytes) -> Option<(Bytes, Bytes)> {
    if rows.len() < 8 {
        return None;
    }
    let (key, value) = (rows.get_u32_le() as usize, rows.get_u32_le() as usize);
    (rows.len() >= key.checked_add(value)?).then(|| (rows.split_to(key), rows.split_to(value)))
}

fn message(table: &str, rows: Bytes) -> pb::SnapshotRows {
    pb::SnapshotRows { table: table.to_owned(), checksum: crc32c(&rows), rows }
}

/// A snapshot in the hands of the library.
pub enum Snapshot {
    /// A moment of our own database, to be sent.
    Ours(Box<ReadTransaction>),
    /// Somebody else's, whole and on stable storage, to be installed.
    Received(Received),
}

/// A database that was received. Its file is removed unless it was installed.
pub struct Received {
    database: Option<Database>,
    path: PathBuf,
}

impl Received {
    /// Puts it in the place of the store's. Blocking.
    pub fn install(mut self, store: &Store) -> Result<(), StoreError> {
        let database = self.database.take().ok_or(StoreError::Damaged("a snapshot was installed before"))?;
        store.replace(database, &self.path)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(database) = self.database.take() {
            drop(database);
            // What is left over is removed at the next start.
            let _unheard = fs::remove_file(&self.path);
        }
    }
}

/// Makes the database of a snapshot from the messages that bring it.
pub struct Receiving {
    tables: Tables,
    received: Received,
    /// As the store says it.
    begun_as: Option<NodeId>,
    /// The rows since the last transaction began.
    transaction: Option<WriteTransaction>,
    messages: u32,
    rows: u64,
}

pub type Tables = &'static [&'static dyn AnyTable];

/// Sends every row of the tables; how many there were. Blocking.
pub fn dump(tables: Tables, transaction: &ReadTransaction, sink: Sink<'_>) -> Result<u64, StoreError> {
    let mut count = 0;
    for table in tables {
        count += table.dump(transaction, sink)?;
    }
    Ok(count)
}

/// Removes what receptions that were cut off have left. Blocking.
pub fn remove_leftovers(store: &Store) -> Result<(), StoreError> {
    let Ok(base) = store.successor_path() else { return Ok(()) };
    let (Some(folder), Some(name)) = (base.parent(), base.file_name()) else { return Ok(()) };
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_stem() == Some(name) {
            durable::remove_file(&path)?;
        }
    }
    Ok(())
}

impl Receiving {
    /// `number` tells it from others under way. Blocking.
    pub fn begin(store: &Store, tables: Tables, number: u64) -> Result<Self, StoreError> {
        let path = store.successor_path()?.with_added_extension(number.to_string());
        remove_if_there(&path)?;
        let received = Received { database: Some(store.open_successor(&path)?), path };
        let begun_as = read_begun_as(&store.begin_read()?)?;
        Ok(Self { tables, received, begun_as, transaction: None, messages: 0, rows: 0 })
    }

    fn database(&self) -> Result<&Database, StoreError> {
        self.received.database.as_ref().ok_or(StoreError::Damaged("a snapshot was installed before"))
    }

    /// Takes one message. Blocking.
    pub fn add(&mut self, message: pb::SnapshotRows) -> Result<(), StoreError> {
        if crc32c(&message.rows) != message.checksum {
            return Err(StoreError::Damaged("rows of a snapshot do not match their checksum"));
        }
        let table = self.tables.iter().find(|table| table.name() == message.table);
        let table = table.ok_or(StoreError::Damaged("a snapshot has a table that is not known here"))?;
        let mut transaction = match self.transaction.take() {
            Some(transaction) => transaction,
            None => self.database()?.begin_write()?,
        };
        self.rows += table.load(&transaction, message.rows)?;
        self.messages += 1;
        if self.messages.is_multiple_of(TRANSACTION_MESSAGES) {
            transaction.set_durability(Durability::None)?;
            transaction.commit()?;
        } else {
            self.transaction = Some(transaction);
        }
        Ok(())
    }

    /// All rows are there: puts them on stable storage. Blocking.
    pub fn end(mut self, row_count: u64, applied: &Applied) -> Result<Received, StoreError> {
        if self.rows != row_count {
            return Err(StoreError::Damaged("rows of a snapshot are missing"));
        }
        let transaction = match self.transaction.take() {
            Some(transaction) => transaction,
            None => self.database()?.begin_write()?,
        };
        for table in self.tables {
            table.create(&transaction)?;
        }
        write_applied(&transaction, applied)?;
        if let Some(node) = self.begun_as {
            write_begun_as(&transaction, node)?;
        }
        transaction.commit()?;
        Ok(self.received)
    }
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    Ok(durable::remove_file(path)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use redb::{ReadableDatabase, backends::InMemoryBackend};

    use super::*;

    const NAMES: TableDefinition<(u64, &str), &[u8]> = TableDefinition::new("names");
    const NUMBERS: TableDefinition<u64, (u64, u64)> = TableDefinition::new("numbers");

    fn a_database() -> Database {
        Database::builder().create_with_backend(InMemoryBackend::new()).unwrap()
    }

    fn load(table: &dyn AnyTable, rows: Bytes) -> Result<u64, StoreError> {
        table.load(&a_database().begin_write().unwrap(), rows)
    }

    fn a_row(key: &[u8], value: &[u8]) -> Bytes {
        let lengths = [key.len() as u32, value.len() as u32].map(u32::to_le_bytes);
        [&lengths[0], &lengths[1], key, value].concat().into()
    }

    #[test]
    fn a_name_that_is_no_text_is_refused_and_ends_nobody() {
        let name = <(u64, &str)>::as_bytes(&(1, "name"));
        assert_eq!(load(&NAMES, a_row(&name, b"value")).unwrap(), 1);
        let mut no_text = name.clone();
        *no_text.last_mut().unwrap() = 0xff;
        for key in [no_text.as_slice(), &name[..3], &[]] {
            assert!(matches!(load(&NAMES, a_row(key, b"value")), Err(StoreError::Damaged(_))), "{key:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn rows_come_back_as_they_were_and_what_is_garbled_is_refused_or_other_rows(
            names in prop::collection::btree_map((any::<u64>(), ".{0,9}"), prop::collection::vec(any::<u8>(), 0..20), 0..9),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut: prop::sample::Index,
        ) {
            let database = a_database();
            let transaction = database.begin_write().unwrap();
            {
                let mut table = transaction.open_table(NAMES).unwrap();
                for ((number, name), value) in &names {
                    table.insert((*number, name.as_str()), value.as_slice()).unwrap();
                }
            }
            transaction.commit().unwrap();
            let mut sent = Vec::new();
            let count = NAMES.dump(&database.begin_read().unwrap(), &mut |rows| { sent.push(rows.rows); true }).unwrap();
            prop_assert_eq!(count, names.len() as u64);
            let whole = sent.concat();

            let other = a_database();
            let transaction = other.begin_write().unwrap();
            prop_assert_eq!(NAMES.load(&transaction, whole.clone().into()).unwrap(), count);
            transaction.commit().unwrap();
            let rows = other.begin_read().unwrap().open_table(NAMES);
            let loaded: BTreeMap<_, _> = rows.iter().flat_map(|rows| rows.iter().unwrap()).map(|row| {
                let (key, value) = row.unwrap();
                let (number, name) = key.value();
                ((number, name.to_owned()), value.value().to_vec())
            }).collect();
            prop_assert_eq!(loaded, names);

            let mut garbled = whole.clone();
            for (at, byte) in edits.iter().filter(|_| !whole.is_empty()) {
                let at = at.index(whole.len());
                garbled[at] ^= byte;
            }
            garbled.truncate(cut.index(garbled.len() + 1).max(garbled.len() / 2));
            let most = garbled.len() as u64 / 8;
            for table in [&NAMES as &dyn AnyTable, &NUMBERS] {
                if let Ok(count) = load(table, garbled.clone().into()) {
                    prop_assert!(count <= most, "each row has its lengths");
                }
            }
        }

        #[test]
        fn any_bytes_are_rows_or_an_error(bytes in prop::collection::vec(prop_oneof![2 => 0..12_u8, 1 => any::<u8>()], 0..60)) {
            for table in [&NAMES as &dyn AnyTable, &NUMBERS] {
                let _either = load(table, bytes.clone().into());
            }
        }
    }
}
