//! The database as a file: reopened, batched, and of another format.

use prost::Message;

use super::*;
use crate::directory::{
    error::StorageError,
    state::Database,
    tables::{META, META_FORMAT},
};

pub(super) fn bootstrap() -> Command {
    Command::Bootstrap { cluster: ClusterId(Uuid::from_u128(1)), lock_key: KEY, settings: some_settings() }
}

pub(super) fn make(write_id: u128, at: &str) -> Command {
    let write_id = WriteId(Uuid::from_u128(write_id));
    Command::CreateDirectory { write_id, path: path(at), parents: false, mode: 0o755 }
}

#[test]
fn a_batch_is_applied_in_order_and_each_is_answered_by_itself() {
    let database = Database::open_backend(InMemoryBackend::new()).unwrap();
    let commands = [bootstrap(), make(1, "/a/b"), make(2, "/a"), make(3, "/a/b"), make(3, "/a/b")];
    let applied = database.apply(Timestamp(5), &commands).unwrap();
    let revisions: Vec<u64> = applied.iter().map(|applied| applied.revision.0).collect();
    assert_eq!(revisions, [1, 1, 2, 3, 3], "what is rejected or was done before has no revision of its own");
    assert_eq!(applied[1].result, Err(Rejected::EntryNotFound { path: path("/a") }));
    assert_eq!(applied[3].result, applied[4].result);
    let view = database.view().unwrap();
    assert_eq!((view.revision(), view.time()), (Revision(3), Timestamp(5)));
    assert_eq!(view.counts().unwrap().directories, 2);
}

#[test]
fn time_never_goes_back() {
    let database = Database::open_backend(InMemoryBackend::new()).unwrap();
    database.apply(Timestamp(100), &[bootstrap(), make(1, "/a")]).unwrap();
    database.apply(Timestamp(50), &[make(2, "/b")]).unwrap();
    let entry = database.view().unwrap().get_entry(&path("/b"), AsOf::Now).unwrap();
    assert_eq!(entry.attributes.create_time, Timestamp(100));
}

#[test]
fn a_view_does_not_see_what_comes_after_it() {
    let database = Database::open_backend(InMemoryBackend::new()).unwrap();
    database.apply(Timestamp(1), &[bootstrap()]).unwrap();
    let view = database.view().unwrap();
    database.apply(Timestamp(2), &[make(1, "/a")]).unwrap();
    assert!(view.get_entry(&path("/a"), AsOf::Now).is_err());
    assert!(database.view().unwrap().get_entry(&path("/a"), AsOf::Now).is_ok());
}

#[test]
fn a_reopened_database_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("directory.redb");
    let database = Database::open(&file).unwrap();
    let first = database.apply(Timestamp(1), &[bootstrap(), make(1, "/a")]).unwrap();
    drop(database);
    let database = Database::open(&file).unwrap();
    let again = database.apply(Timestamp(2), &[make(1, "/a"), make(2, "/b")]).unwrap();
    assert_eq!(again[0].result, first[1].result);
    assert_eq!(again[1].revision, Revision(3));
}

#[test]
fn a_snapshot_has_every_table() {
    use redb::TableHandle;
    let database = Database::open_backend(InMemoryBackend::new()).unwrap();
    let transaction = database.store().begin_read().unwrap();
    let mut there: Vec<String> = transaction.list_tables().unwrap().map(|table| table.name().to_owned()).collect();
    let mut known: Vec<String> = crate::directory::tables::ALL.iter().map(|table| table.name().to_owned()).collect();
    there.sort();
    known.sort();
    assert_eq!(there, known);
}

#[test]
fn bytes_that_are_no_batch_are_an_error_and_no_panic() {
    let batch = batch_out(Timestamp(1), &[bootstrap(), make(1, "/a")]);
    for length in 1..batch.len() {
        // A prefix may be a batch of fewer commands; it must not be a panic.
        let _either = batch_in(&batch[..length]);
    }
    assert!(batch_in(&[0xff; 9]).is_err());
    let unknown = crate::pb::storage::directory::Batch { time: 1, commands: vec![Default::default()] };
    assert!(batch_in(&unknown.encode_to_vec()).is_err(), "a command of a newer version");
}

#[test]
fn a_database_of_a_newer_format_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("directory.redb");
    drop(Database::open(&file).unwrap());
    let raw = redb::Database::open(&file).unwrap();
    let transaction = raw.begin_write().unwrap();
    let format = crate::pb::storage::directory::Format { version: 9 }.encode_to_vec();
    transaction.open_table(META).unwrap().insert(META_FORMAT, format.as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(raw);
    assert!(matches!(Database::open(&file), Err(StorageError::NewerFormat { found: 9, known: 1 })));
}

#[test]
fn a_damaged_row_is_an_error_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("directory.redb");
    let database = Database::open(&file).unwrap();
    database.apply(Timestamp(1), &[bootstrap(), make(1, "/a")]).unwrap();
    drop(database);
    let raw = redb::Database::open(&file).unwrap();
    let transaction = raw.begin_write().unwrap();
    transaction.open_table(crate::directory::tables::INODES).unwrap().insert(2, [0xff; 9].as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(raw);
    let database = Database::open(&file).unwrap();
    let error = database.view().unwrap().get_entry(&path("/a"), AsOf::Now).unwrap_err();
    assert_eq!(error.to_string(), "a row of `inodes` is damaged: not the message it should be");
}
