//! The state machine in memory, driven by commands, read through views.

mod commit;
mod database;
mod feed;
mod membership;
mod moves;
mod namespace;
mod past;
mod random;
mod retention;
mod wire;

use std::collections::BTreeMap;

use redb::{ReadableDatabase, ReadableTable, Table, backends::InMemoryBackend};
use uuid::Uuid;

use crate::{
    cluster::Group,
    token,
    types::{
        AsOf, BlobId, ClusterId, Epoch, Extent, FencingToken, GroupId, Incarnation, LockMode, LockServiceId, Path,
        Precondition, Revision, ServerId, StoreId, Timestamp, Version, WriteId, WriteMode, crc32c,
    },
};

use super::{
    command::{Command, Committed, Outcome, Patched, Registration, ServerKind, Settings, WriteCommit},
    error::Rejected,
    model::{Entry, LookedUp},
    records::{batch_in, batch_out},
    state::{Applied, step},
    tables::Tables,
    view::{FileRef, View},
};

const KEY: [u8; 32] = [7; 32];
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const GRACE: u64 = 10 * MINUTE;

fn some_settings() -> Settings {
    Settings {
        group_count: 4,
        copies: 3,
        min_in_sync: 2,
        initial_fileservers: 3,
        keep_versions: 3,
        keep_for_ms: 24 * HOUR,
        garbage_grace_ms: GRACE,
        repair_after_ms: 10 * MINUTE,
    }
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn server(id: &str) -> ServerId {
    id.parse().unwrap()
}

fn token(path: &Path, counter: u64) -> FencingToken {
    token::seal(&KEY, counter, path, LockMode::Exclusive).unwrap()
}

fn with_token(token: FencingToken) -> Precondition {
    Precondition { fencing_token: Some(token), if_version: None }
}

fn if_version(version: u64) -> Precondition {
    Precondition { fencing_token: None, if_version: Some(Version(version)) }
}

fn both(token: FencingToken, version: u64) -> Precondition {
    Precondition { fencing_token: Some(token), if_version: Some(Version(version)) }
}

fn a_registration(id: &str, store: u128) -> Registration {
    Registration {
        lock_service: None,
        incarnations: Vec::new(),
        kind: ServerKind::FileServer,
        server: server(id),
        store: StoreId(Uuid::from_u128(store)),
        address: format!("{id}:7072"),
        external_address: String::new(),
        zone: String::new(),
        software_version: "0.1.0".to_owned(),
    }
}

/// A Directory in memory, and the bytes of the blobs that its file servers would hold.
struct World {
    database: redb::Database,
    now: Timestamp,
    drawn: u128,
    blobs: BTreeMap<BlobId, Vec<u8>>,
}

impl World {
    /// A cluster of three file servers, just made.
    fn new() -> Self {
        Self::with_settings(some_settings())
    }

    fn with_settings(settings: Settings) -> Self {
        let mut world = Self::unmade();
        let cluster = ClusterId(Uuid::from_u128(1));
        world.expect(Command::Bootstrap { cluster, lock_key: KEY, settings });
        for (store, id) in ["a", "b", "c"].into_iter().enumerate() {
            world.expect(Command::RegisterServer { registration: a_registration(id, store as u128) });
        }
        world
    }

    /// Before the first command.
    fn unmade() -> Self {
        let database = redb::Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        Tables::open(&transaction).unwrap().close().unwrap();
        transaction.commit().unwrap();
        Self { database, now: Timestamp(1_800_000_000_000), drawn: 1000, blobs: BTreeMap::new() }
    }

    /// Applies one command. One that is rejected, or changes nothing, must leave every row as it was.
    fn apply(&mut self, command: &Command) -> Applied {
        // As it comes out of the log.
        let (time, commands) = batch_in(&batch_out(self.now, std::slice::from_ref(command))).unwrap();
        assert_eq!((time, commands.as_slice()), (self.now, std::slice::from_ref(command)));
        let transaction = self.database.begin_write().unwrap();
        let mut tables = Tables::open(&transaction).unwrap();
        let (revision, before) = (tables.state.revision, dump(&tables));
        let applied = step(&mut tables, self.now, command).unwrap();
        if applied.revision == revision {
            let changed = differing(&before, &dump(&tables));
            assert_eq!(changed, [""; 0], "tables changed by {command:?}, which has no revision: {applied:?}");
        } else {
            assert!(applied.result.is_ok(), "{command:?} was rejected, but has a revision");
        }
        tables.close().unwrap();
        transaction.commit().unwrap();
        applied
    }

    fn try_apply(&mut self, command: Command) -> Result<Outcome, Rejected> {
        self.apply(&command).result
    }

    fn expect(&mut self, command: Command) -> Outcome {
        match self.apply(&command).result {
            Ok(outcome) => outcome,
            Err(rejected) => panic!("{command:?} was rejected: {rejected}"),
        }
    }

    fn expect_entry(&mut self, command: Command) -> Entry {
        match self.expect(command) {
            Outcome::Entry(entry) => *entry,
            other => panic!("not an entry: {other:?}"),
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now.plus_millis(millis);
    }

    fn draw(&mut self) -> Uuid {
        self.drawn += 1;
        Uuid::from_u128(self.drawn)
    }

    fn write_id(&mut self) -> WriteId {
        WriteId(self.draw())
    }

    fn view(&self) -> View {
        View::new(self.database.begin_read().unwrap()).unwrap()
    }

    fn group(&self, group: u32) -> Group {
        self.view().group(GroupId(group)).unwrap().unwrap()
    }

    /// A commit of `bytes` as the primary of the path's group would send it, in blobs of at most `piece` bytes.
    fn a_commit(&mut self, path: &Path, mode: WriteMode, bytes: &[u8], piece: usize) -> WriteCommit {
        let group = path.group(some_settings().group_count).unwrap();
        let config = self.group(group.0);
        let pieces = bytes.chunks(piece).map(|bytes| {
            self.drawn += 1;
            let blob = BlobId(Uuid::from_u128(self.drawn));
            self.blobs.insert(blob, bytes.to_vec());
            (blob, bytes.len() as u64)
        });
        WriteCommit {
            group,
            epoch: config.epoch,
            path: path.clone(),
            mode,
            pieces: pieces.collect(),
            checksum: crc32c(bytes),
            precondition: Precondition::default(),
            base_inode: None,
            patched: None,
            begin_time: self.now,
            create_parents: false,
            create_mode: 0o644,
            write_id: self.write_id(),
        }
    }

    fn a_replace(&mut self, at: &str, bytes: &[u8], precondition: Precondition) -> WriteCommit {
        WriteCommit { precondition, ..self.a_commit(&path(at), WriteMode::Replace, bytes, 1 << 20) }
    }

    /// A patch as a primary prepares it that has read `old`, version `base`.
    fn a_patch(&mut self, at: &str, offset: u64, bytes: &[u8], old: &[u8], base: u64) -> WriteCommit {
        let patched = patched(old, offset as usize, bytes);
        WriteCommit {
            precondition: if_version(base),
            patched: Some(Patched { base_version: Version(base), checksum: crc32c(&patched) }),
            ..self.a_commit(&path(at), WriteMode::Patch { offset }, bytes, 1 << 20)
        }
    }

    /// The commit as a command of its group's primary.
    fn command(&self, commit: WriteCommit) -> Command {
        let primary = self.group(commit.group.0).primary.unwrap_or_else(|| server("nobody"));
        Command::CommitWrite { primary, commit }
    }

    fn try_commit(&mut self, commit: WriteCommit) -> Result<Committed, Rejected> {
        match self.try_apply(self.command(commit))? {
            Outcome::Committed(committed) => Ok(committed),
            other => panic!("not committed: {other:?}"),
        }
    }

    /// Writes the next version of a file, whatever the present one.
    fn write(&mut self, at: &str, bytes: &[u8]) -> Committed {
        let version = self.look(at).map_or(0, |found| found.entry.version.0);
        let commit = self.a_replace(at, bytes, if_version(version));
        self.try_commit(commit).unwrap()
    }

    fn append(&mut self, at: &str, bytes: &[u8]) -> Committed {
        let commit = self.a_commit(&path(at), WriteMode::Append, bytes, 1 << 20);
        self.try_commit(commit).unwrap()
    }

    fn mkdir(&mut self, at: &str) -> Entry {
        let write_id = self.write_id();
        self.expect_entry(Command::CreateDirectory { write_id, path: path(at), parents: true, mode: 0o755 })
    }

    fn try_delete(&mut self, at: &str, force: bool, precondition: Precondition) -> Result<Outcome, Rejected> {
        let write_id = self.write_id();
        self.try_apply(Command::DeleteEntry { write_id, path: path(at), force, precondition })
    }

    fn delete(&mut self, at: &str) -> u64 {
        match self.try_delete(at, true, Precondition::default()) {
            Ok(Outcome::Deleted { count }) => count,
            other => panic!("{at} was not deleted: {other:?}"),
        }
    }

    fn a_move(&mut self, from: &str, to: &str) -> Command {
        Command::MoveEntry {
            write_id: self.write_id(),
            from: path(from),
            to: path(to),
            replace: false,
            from_precondition: Precondition::default(),
            to_precondition: Precondition::default(),
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Entry {
        let command = self.a_move(from, to);
        self.expect_entry(command)
    }

    /// Collects until nothing is due.
    fn collect(&mut self) {
        while let Outcome::Collected { more: true } = self.expect(Command::Collect { limit: 21 }) {}
    }

    fn look(&self, at: &str) -> Option<LookedUp> {
        self.view().lookup_file(&FileRef::Path(path(at)), None, AsOf::Now).ok()
    }

    fn read(&self, at: &str) -> Vec<u8> {
        self.bytes(&self.look(at).unwrap_or_else(|| panic!("{at} is not a file")))
    }

    fn read_version(&self, at: &str, version: u64, as_of: AsOf) -> Vec<u8> {
        let found = self.view().lookup_file(&FileRef::Path(path(at)), Some(Version(version)), as_of);
        self.bytes(&found.unwrap())
    }

    /// The bytes that the extents name, which must be what size and checksum say.
    fn bytes(&self, found: &LookedUp) -> Vec<u8> {
        let bytes: Vec<u8> = found.extents.iter().flat_map(|extent| self.piece(extent)).copied().collect();
        assert_eq!(bytes.len() as u64, found.entry.size, "{}", found.entry.path);
        assert_eq!(crc32c(&bytes), found.entry.checksum, "{}", found.entry.path);
        bytes
    }

    fn piece(&self, extent: &Extent) -> &[u8] {
        assert!(extent.length > 0);
        &self.blobs[&extent.blob][extent.blob_offset as usize..][..extent.length as usize]
    }

    fn names(&self, at: &str, as_of: AsOf) -> Vec<String> {
        let page = self.view().list(&path(at), as_of, None, 1000).unwrap();
        page.items.iter().map(|entry| entry.path.name().unwrap().to_owned()).collect()
    }

    fn revision(&self) -> Revision {
        self.view().revision()
    }

    fn rows(&self) -> Dump {
        let transaction = self.database.begin_write().unwrap();
        let rows = dump(&Tables::open(&transaction).unwrap());
        transaction.abort().unwrap();
        rows
    }
}

/// `old` with `bytes` at `offset`.
fn patched(old: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let end = offset + bytes.len();
    [&old[..offset], bytes, old.get(end..).unwrap_or_default()].concat()
}

/// The tables that are not the same.
fn differing(a: &Dump, b: &Dump) -> Vec<&'static str> {
    a.iter().filter(|(table, rows)| b.get(*table) != Some(rows)).map(|(table, _)| *table).collect()
}

/// Every row of every table.
type Dump = BTreeMap<&'static str, Vec<Row>>;

/// Key and value, as they are on disk.
type Row = (Vec<u8>, Vec<u8>);

fn dump(tables: &Tables) -> Dump {
    fn rows<K: redb::Key + 'static, V: redb::Value + 'static>(table: &Table<K, V>) -> Vec<Row> {
        let bytes = |bytes: &[u8]| bytes.to_vec();
        let rows = table.iter().unwrap().map(|row| row.unwrap());
        rows.map(|(k, v)| (bytes(K::as_bytes(&k.value()).as_ref()), bytes(V::as_bytes(&v.value()).as_ref()))).collect()
    }
    let state = format!("{:?} {:?}", tables.state, tables.cluster).into_bytes();
    BTreeMap::from([
        ("state", vec![(b"state".to_vec(), state)]),
        ("inodes", rows(&tables.inodes.table)),
        ("inode_history", rows(&tables.inode_history.table)),
        ("entries", rows(&tables.entries)),
        ("entry_history", rows(&tables.entry_history)),
        ("totals", rows(&tables.totals)),
        ("versions", rows(&tables.versions.table)),
        ("retired", rows(&tables.retired)),
        ("dead", rows(&tables.dead)),
        ("changes", rows(&tables.changes.table)),
        ("blobs", rows(&tables.blobs.table)),
        ("garbage", rows(&tables.garbage)),
        ("deletions", rows(&tables.deletions)),
        ("departures", rows(&tables.departures)),
        ("stale_deletions", rows(&tables.stale_deletions)),
        ("removed", rows(&tables.removed)),
        ("writes", rows(&tables.writes.table)),
        ("write_times", rows(&tables.write_times)),
        ("abandoned", rows(&tables.abandoned)),
        ("abandoned_times", rows(&tables.abandoned_times)),
        ("fences", rows(&tables.fences)),
        ("fence_times", rows(&tables.fence_times)),
        ("groups", rows(&tables.groups.table)),
        ("servers", rows(&tables.servers.table)),
    ])
}
