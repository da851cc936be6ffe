//! Random sequences of commands against a simple model: files as lists of byte vectors, directories as names.
//!
//! The model knows nothing of extents, blobs, history or queues. What it says must be what views say, now and as of every
//! kept revision, whatever was rejected, merged, collected and deleted in between. `World::apply` checks at each
//! step that what has no revision has changed nothing.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    directory::{
        command::AttributeChanges,
        model::{EntryKind, blobs_of},
    },
    types::Inode,
};

/// Something to try; many of them will be rejected. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Op {
    MakeDirectory { at: usize, parents: bool },
    Replace { at: usize, by: Proof, length: usize, parents: bool },
    Append { at: usize, length: usize, parents: bool },
    Patch { at: usize, by: Proof, offset: usize, length: usize },
    Move { from: usize, to: usize, replace: bool, by: Proof },
    Copy { from: usize, version: Option<u64>, to: usize, replace: bool, by: Proof },
    Delete { at: usize, force: bool, by: Proof },
    Restore { at: usize, version: u64, by: Proof },
    Update { at: usize, mode: u32 },
    Merge { at: usize, skip: usize, count: usize },
    Settle { recent: u128 },
    RaiseFence { at: usize, counter: u64 },
    Repeat { back: usize },
    MarkDown { server: usize },
    MarkUp { server: usize },
    MarkReadOnly { server: usize },
    MarkWritable { server: usize },
    SpreadPrimaries { limit: u32 },
    Join { server: usize, group: u32 },
    Collect { limit: u32 },
    ConfirmDeleted { server: usize },
    KeepVersions { count: u64 },
    Pass { millis: u64 },
}

/// How a mutation shows that it does not overwrite blindly.
#[derive(Clone, Copy, Debug)]
enum Proof {
    None,
    RightVersion,
    Version(u64),
    Token(u64),
    /// A token, and a version that may be wrong.
    Both(u64, u64),
}

const PATHS: [&str; 12] =
    ["/a", "/b", "/a/a", "/a/b", "/b/a", "/b/c", "/a/a/a", "/a/b/c", "/b/a/b", "/c", "/a/b/c/d", "/"];
/// Numbers below name a path of the list, whatever is there; from there on something that exists.
const FILES: usize = PATHS.len();
const ITEMS: usize = FILES + 20;
const NEW_CHILDREN: usize = ITEMS + 10;
const PLACES: usize = NEW_CHILDREN + 15;
const SERVERS: [&str; 3] = ["a", "b", "c"];

fn a_proof() -> impl Strategy<Value = Proof> {
    prop_oneof![
        1 => Just(Proof::None),
        6 => Just(Proof::RightVersion),
        1 => (0..4u64).prop_map(Proof::Version),
        2 => (1..6u64).prop_map(Proof::Token),
        2 => (1..6u64, 0..4u64).prop_map(|(counter, version)| Proof::Both(counter, version)),
    ]
}

fn an_op() -> impl Strategy<Value = Op> {
    let at = || 0..PLACES;
    let file = || prop_oneof![3 => 0..ITEMS, 1 => NEW_CHILDREN..PLACES];
    let source = || prop_oneof![5 => FILES..ITEMS, 1 => 0..PLACES];
    prop_oneof![
        3 => (at(), any::<bool>()).prop_map(|(at, parents)| Op::MakeDirectory { at, parents }),
        6 => (file(), a_proof(), 0..20usize, any::<bool>())
            .prop_map(|(at, by, length, parents)| Op::Replace { at, by, length, parents }),
        4 => (file(), 0..6usize, any::<bool>()).prop_map(|(at, length, parents)| Op::Append { at, length, parents }),
        4 => (file(), a_proof(), 0..24usize, 0..6usize)
            .prop_map(|(at, by, offset, length)| Op::Patch { at, by, offset, length }),
        4 => (source(), at(), any::<bool>(), a_proof()).prop_map(|(from, to, replace, by)| Op::Move { from, to, replace, by }),
        3 => (source(), proptest::option::of(1..3u64), at(), any::<bool>(), a_proof())
            .prop_map(|(from, version, to, replace, by)| Op::Copy { from, version, to, replace, by }),
        2 => (at(), any::<bool>(), a_proof()).prop_map(|(at, force, by)| Op::Delete { at, force, by }),
        2 => (source(), 0..4u64, a_proof()).prop_map(|(at, version, by)| Op::Restore { at, version, by }),
        1 => (at(), 0..3u32).prop_map(|(at, mode)| Op::Update { at, mode }),
        3 => (source(), 0..3usize, 1..4usize).prop_map(|(at, skip, count)| Op::Merge { at, skip, count }),
        1 => (0..8u128).prop_map(|recent| Op::Settle { recent }),
        1 => (file(), 1..6u64).prop_map(|(at, counter)| Op::RaiseFence { at, counter }),
        2 => (1..10usize).prop_map(|back| Op::Repeat { back }),
        1 => (0..3usize).prop_map(|server| Op::MarkDown { server }),
        2 => (0..3usize).prop_map(|server| Op::MarkUp { server }),
        1 => (0..3usize).prop_map(|server| Op::MarkReadOnly { server }),
        2 => (0..3usize).prop_map(|server| Op::MarkWritable { server }),
        1 => (1..4u32).prop_map(|limit| Op::SpreadPrimaries { limit }),
        2 => (0..3usize, 0..4u32).prop_map(|(server, group)| Op::Join { server, group }),
        2 => (1..80u32).prop_map(|limit| Op::Collect { limit }),
        1 => (0..3usize).prop_map(|server| Op::ConfirmDeleted { server }),
        1 => (1..5u64).prop_map(|count| Op::KeepVersions { count }),
        2 => prop_oneof![Just(SECOND), Just(HOUR), Just(9 * HOUR)].prop_map(|millis| Op::Pass { millis }),
    ]
}

/// What a path holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Directory,
    /// Its versions from 1 on.
    File(Vec<Vec<u8>>),
}

/// What a walk sees: each path with the newest content of its file.
type Picture = BTreeMap<String, Option<Vec<u8>>>;

#[derive(Clone, Debug, Default)]
struct Model {
    items: BTreeMap<Path, Item>,
}

impl Model {
    fn file(&self, at: &Path) -> Option<&Vec<Vec<u8>>> {
        match self.items.get(at) {
            Some(Item::File(versions)) => Some(versions),
            Some(Item::Directory) | None => None,
        }
    }

    fn put(&mut self, at: &Path, bytes: Vec<u8>) {
        let mut parent = at.parent();
        while let Some(directory) = parent.filter(|directory| !directory.is_root()) {
            self.items.entry(directory.clone()).or_insert(Item::Directory);
            parent = directory.parent();
        }
        match self.items.entry(at.clone()).or_insert_with(|| Item::File(Vec::new())) {
            Item::File(versions) => versions.push(bytes),
            Item::Directory => panic!("{at} is a directory"),
        }
    }

    fn make_directory(&mut self, at: &Path) {
        let mut next = Some(at.clone());
        while let Some(directory) = next.filter(|directory| !directory.is_root()) {
            self.items.entry(directory.clone()).or_insert(Item::Directory);
            next = directory.parent();
        }
    }

    fn remove(&mut self, at: &Path) -> BTreeMap<Path, Item> {
        let (gone, kept) = std::mem::take(&mut self.items).into_iter().partition(|(path, _)| path.is_at_or_below(at));
        self.items = kept;
        gone
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        self.remove(to);
        for (old, item) in self.remove(from) {
            let below = old.as_str().strip_prefix(from.as_str()).unwrap();
            self.items.insert(path(&format!("{to}{below}")), item);
        }
    }

    fn picture(&self) -> Picture {
        let content = |item: &Item| match item {
            Item::Directory => None,
            Item::File(versions) => versions.last().cloned(),
        };
        self.items.iter().map(|(path, item)| (path.to_string(), content(item))).collect()
    }
}

/// A world with its model, and what the model looked like at each revision.
struct Run {
    world: World,
    model: Model,
    pictures: Vec<(Revision, Timestamp, Picture)>,
    sent: Vec<(Command, Result<Outcome, Rejected>)>,
}

impl Run {
    fn new() -> Self {
        let world = World::with_settings(Settings { min_in_sync: 1, ..some_settings() });
        Self { world, model: Model::default(), pictures: Vec::new(), sent: Vec::new() }
    }

    /// The path that a number stands for.
    fn at(&self, number: usize) -> Path {
        let is_file = |path: &&Path| self.model.file(path).is_some();
        let files: Vec<&Path> = self.model.items.keys().filter(is_file).collect();
        let items: Vec<&Path> = self.model.items.keys().collect();
        let directories: Vec<&Path> = self.model.items.keys().filter(|path| !is_file(path)).collect();
        let some = |of: &[&Path]| of.get(number % of.len().max(1)).map(|path| (*path).clone());
        let chosen = match number {
            0..FILES => None,
            FILES..ITEMS => some(&files),
            ITEMS..NEW_CHILDREN => some(&items),
            _ => some(&directories).map(|directory| directory.join(&format!("n{}", number % 4)).unwrap()),
        };
        chosen.filter(|path| path.segments().count() < 8).unwrap_or_else(|| path(PATHS[number % PATHS.len()]))
    }

    fn proof(&self, at: &Path, by: Proof) -> Precondition {
        let version = self.model.file(at).map_or(0, |versions| versions.len() as u64);
        match by {
            Proof::None => Precondition::default(),
            Proof::RightVersion => if_version(version),
            Proof::Version(version) => if_version(version),
            Proof::Token(counter) => with_token(token(at, counter)),
            Proof::Both(counter, version) => both(token(at, counter), version),
        }
    }

    fn some_bytes(&mut self, length: usize) -> Vec<u8> {
        let seed = self.world.draw().as_u128() as usize;
        (0..length).map(|index| b'a' + ((seed + index) % 26) as u8).collect()
    }

    /// Sends a command. Whether it changed something.
    fn send(&mut self, command: Command) -> bool {
        let before = self.world.revision();
        let applied = self.world.apply(&command);
        self.sent.push((command, applied.result));
        applied.revision > before
    }

    fn run(&mut self, op: &Op) {
        match op.clone() {
            Op::Replace { at, by, length, parents } => self.replace(&self.at(at), by, length, parents),
            Op::Append { at, length, parents } => self.append(&self.at(at), length, parents),
            Op::Patch { at, by, offset, length } => self.patch(&self.at(at), by, offset, length),
            Op::Merge { at, skip, count } => self.merge(&self.at(at), skip, count),
            Op::MakeDirectory { .. }
            | Op::Move { .. }
            | Op::Copy { .. }
            | Op::Delete { .. }
            | Op::Restore { .. }
            | Op::Update { .. } => self.edit(op.clone()),
            Op::Repeat { back } => self.repeat(back),
            Op::Pass { millis } => self.world.pass(millis),
            other => self.administer(other),
        }
        let picture = self.model.picture();
        self.pictures.push((self.world.revision(), self.world.now, picture));
    }

    fn replace(&mut self, at: &Path, by: Proof, length: usize, parents: bool) {
        let bytes = self.some_bytes(length);
        let commit = self.world.a_commit(at, WriteMode::Replace, &bytes, 7);
        let commit = WriteCommit { precondition: self.proof(at, by), create_parents: parents, ..commit };
        if self.send(self.world.command(commit)) {
            self.model.put(at, bytes);
        }
    }

    fn append(&mut self, at: &Path, length: usize, parents: bool) {
        let bytes = self.some_bytes(length);
        let commit = self.world.a_commit(at, WriteMode::Append, &bytes, 7);
        let commit = WriteCommit { create_parents: parents, ..commit };
        if self.send(self.world.command(commit)) {
            let old = self.model.file(at).and_then(|versions| versions.last()).cloned().unwrap_or_default();
            self.model.put(at, [old, bytes].concat());
        }
    }

    fn patch(&mut self, at: &Path, by: Proof, offset: usize, length: usize) {
        let bytes = self.some_bytes(length);
        let old = self.model.file(at).and_then(|versions| versions.last()).cloned().unwrap_or_default();
        let version = self.model.file(at).map_or(0, |versions| versions.len() as u64);
        let result = if offset <= old.len() { patched(&old, offset, &bytes) } else { Vec::new() };
        let commit = self.world.a_commit(at, WriteMode::Patch { offset: offset as u64 }, &bytes, 3);
        let commit = WriteCommit {
            precondition: self.proof(at, by),
            patched: Some(Patched { base_version: Version(version), checksum: crc32c(&result) }),
            ..commit
        };
        if self.send(self.world.command(commit)) {
            self.model.put(at, result);
        }
    }

    fn merge(&mut self, at: &Path, skip: usize, count: usize) {
        let Some(found) = self.world.look(at.as_str()) else { return };
        let run: Vec<Extent> = found.extents.iter().skip(skip).take(count).copied().collect();
        let Some(first) = run.first() else { return };
        let bytes: Vec<u8> = run.iter().flat_map(|extent| self.world.piece(extent)).copied().collect();
        let blob = BlobId(self.world.draw());
        let merged = (blob, bytes.len() as u64);
        self.world.blobs.insert(blob, bytes);
        let config = self.world.group(first.group.0);
        let Some(primary) = config.primary else { return };
        self.send(Command::MergeExtents {
            primary,
            group: config.group,
            epoch: config.epoch,
            inode: found.entry.inode,
            skip,
            run,
            merged,
            begin_time: self.world.now,
        });
    }

    fn edit(&mut self, op: Op) {
        let write_id = self.world.write_id();
        match op {
            Op::MakeDirectory { at, parents } => {
                let path = self.at(at);
                if self.send(Command::CreateDirectory { write_id, path: path.clone(), parents, mode: 0o755 }) {
                    self.model.make_directory(&path);
                }
            }
            Op::Move { from, to, replace, by } => {
                let (from, to) = (self.at(from), self.at(to));
                let (from_precondition, to_precondition) = (Precondition::default(), self.proof(&to, by));
                let (source, target) = (from.clone(), to.clone());
                let command = Command::MoveEntry { write_id, from, to, replace, from_precondition, to_precondition };
                if self.send(command) {
                    self.model.rename(&source, &target);
                }
            }
            Op::Copy { from, version, to, replace, by } => {
                let (from, to) = (self.at(from), self.at(to));
                let to_precondition = self.proof(&to, by);
                let from_version = version.map(Version);
                let (source, target) = (from.clone(), to.clone());
                if self.send(Command::CopyEntry { write_id, from, from_version, to, replace, to_precondition }) {
                    self.copy_in_model(&source, version, &target);
                }
            }
            Op::Delete { at, force, by } => {
                let path = self.at(at);
                let precondition = self.proof(&path, by);
                if self.send(Command::DeleteEntry { write_id, path: path.clone(), force, precondition }) {
                    let gone = self.model.remove(&path);
                    let count = gone.len() as u64;
                    assert_eq!(self.sent.last().unwrap().1, Ok(Outcome::Deleted { count }), "{path}");
                }
            }
            Op::Restore { at, version, by } => {
                let path = self.at(at);
                let precondition = self.proof(&path, by);
                let restored = Version(version);
                if self.send(Command::RestoreVersion { write_id, path: path.clone(), version: restored, precondition })
                {
                    self.copy_in_model(&path, Some(version), &path);
                }
            }
            Op::Update { at, mode } => {
                let changes = AttributeChanges { mode: Some(mode), ..AttributeChanges::default() };
                self.send(Command::UpdateEntry { write_id, path: self.at(at), changes });
            }
            other => panic!("not an edit: {other:?}"),
        }
    }

    fn copy_in_model(&mut self, from: &Path, version: Option<u64>, to: &Path) {
        let versions = self.model.file(from).unwrap();
        let index = version.map_or(versions.len(), |version| version as usize) - 1;
        let bytes = versions[index].clone();
        self.model.put(to, bytes);
    }

    /// Sends an earlier command again. One that was applied is answered as then, and nothing happens.
    fn repeat(&mut self, back: usize) {
        let Some((command, first)) = self.sent.iter().rev().nth(back - 1).cloned() else { return };
        let is_mutation = matches!(first, Ok(Outcome::Entry(_) | Outcome::Deleted { .. } | Outcome::Committed(_)));
        let fresh = |command: &Command| match command {
            Command::CommitWrite { commit, .. } => self.world.now.millis_since(commit.begin_time) < HOUR / 2,
            // Others do not say when they were sent; those that found all done already are judged anew.
            _ => false,
        };
        if is_mutation && fresh(&command) {
            let before = self.world.revision();
            let applied = self.world.apply(&command);
            assert_eq!((applied.result, applied.revision), (first, before), "{command:?} again");
        }
    }

    fn administer(&mut self, op: Op) {
        let command = match op {
            Op::Settle { recent } => {
                let blob = BlobId(Uuid::from_u128(self.world.drawn.saturating_sub(recent)));
                Command::SettleBlob { group: GroupId(0), blob }
            }
            Op::RaiseFence { at, counter } => {
                let path = self.at(at);
                let token = token(&path, counter);
                Command::RaiseFence { path, token }
            }
            Op::MarkDown { server: index } => Command::MarkDown { server: server(SERVERS[index]), incarnation: None },
            Op::MarkUp { server: index } => Command::MarkUp { server: server(SERVERS[index]) },
            Op::MarkReadOnly { server: index } => {
                Command::MarkReadOnly { server: server(SERVERS[index]), reason: "disk full".to_owned() }
            }
            Op::MarkWritable { server: index } => Command::MarkWritable { server: server(SERVERS[index]) },
            Op::SpreadPrimaries { limit } => Command::SpreadPrimaries { limit, except: BTreeSet::new() },
            Op::Join { server: index, group } => {
                let config = self.world.group(group);
                let Some(primary) = config.primary else { return };
                let member = server(SERVERS[index]);
                Command::AddInSync { primary, group: config.group, epoch: config.epoch, member }
            }
            Op::Collect { limit } => Command::Collect { limit },
            Op::ConfirmDeleted { server: index } => {
                let server = server(SERVERS[index]);
                let blobs = self.world.view().blobs_to_delete(&server, 3).unwrap();
                Command::ConfirmDeleted { server, blobs }
            }
            Op::KeepVersions { count } => {
                let settings = self.world.view().settings().unwrap().clone();
                Command::ChangeSettings { settings: Settings { keep_versions: count, ..settings } }
            }
            other => panic!("not administration: {other:?}"),
        };
        self.send(command);
    }

    fn picture(&self, as_of: AsOf) -> Picture {
        let view = self.world.view();
        let mut walk = view.walk(&Path::root(), as_of, true, true).unwrap();
        let page = view.walk_on(&mut walk, usize::MAX).unwrap();
        let content = |found: &LookedUp| match found.entry.kind {
            EntryKind::File => Some(self.world.bytes(found)),
            EntryKind::Directory => None,
        };
        page.items.iter().map(|found| (found.entry.path.to_string(), content(found))).collect()
    }

    /// The present, every kept moment of the past, and every retained version are as the model says.
    fn check_content(&self) {
        assert_eq!(self.picture(AsOf::Now), self.model.picture());
        let view = self.world.view();
        for (index, (revision, time, picture)) in self.pictures.iter().enumerate() {
            if *revision >= view.horizon() {
                assert_eq!(&self.picture(AsOf::Revision(*revision)), picture, "as of {revision}");
            }
            let last_of_its_time = self.pictures.get(index + 1).is_none_or(|(_, next, _)| next > time);
            if last_of_its_time && *revision >= view.horizon() {
                assert_eq!(&self.picture(AsOf::Time(*time)), picture, "as of {time} ms");
            }
        }
        for (path, item) in &self.model.items {
            let Item::File(versions) = item else { continue };
            let kept = view.versions(path, None, usize::MAX).unwrap().items;
            let newest = versions.len() as u64;
            assert_eq!(kept.first().map(|version| version.version.0), Some(newest), "{path}");
            for version in kept {
                let bytes = self.world.read_version(path.as_str(), version.version.0, AsOf::Now);
                assert_eq!(bytes, versions[version.version.0 as usize - 1], "{path} version {}", version.version);
            }
        }
    }

    /// What is derived is as it would be counted anew: references, garbage, totals.
    fn check_tables(&self) {
        let transaction = self.world.database.begin_write().unwrap();
        let tables = Tables::open(&transaction).unwrap();
        let mut references: BTreeMap<u128, u64> = BTreeMap::new();
        for row in tables.versions.table.iter().unwrap() {
            let (key, bytes) = row.unwrap();
            for blob in blobs_of(&tables.versions.decode(key.value(), bytes.value()).unwrap().extents) {
                *references.entry(blob.0.as_u128()).or_default() += 1;
            }
        }
        let mut condemned: BTreeSet<u128> =
            tables.garbage.iter().unwrap().map(|row| row.unwrap().0.value().1).collect();
        condemned.extend(tables.deletions.iter().unwrap().map(|row| row.unwrap().0.value().1));
        let (mut live, mut dead) = (0, 0);
        for row in tables.blobs.table.iter().unwrap() {
            let (key, bytes) = row.unwrap();
            let blob = tables.blobs.decode(key.value(), bytes.value()).unwrap();
            let counted = references.remove(&key.value()).unwrap_or(0);
            assert_eq!(blob.references, counted);
            assert_eq!(condemned.contains(&key.value()), counted == 0, "deleted if and only if no version needs it");
            if counted > 0 { live += 1 } else { dead += 1 }
        }
        assert_eq!(references, BTreeMap::new(), "every blob that a version needs is known");
        assert_eq!((tables.state.blob_count, tables.state.garbage_blob_count), (live, dead));
        let root = crate::directory::namespace::totals(&tables, Inode::ROOT).unwrap();
        let files = self.model.items.values().filter(|item| **item != Item::Directory).count() as u64;
        assert_eq!((root.files, root.directories), (files, self.model.items.len() as u64 - files));
        let longest = self.model.items.keys().map(|path| path.as_str().len() as u64).max().unwrap_or(0);
        assert!(root.reach >= longest);
        for group in self.world.view().groups().unwrap() {
            assert!(!group.in_sync.is_empty() && group.in_sync.iter().all(|member| group.is_member(member)));
            assert!(group.primary.as_ref().is_none_or(|primary| group.is_in_sync(primary)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_views_agree_with_the_model(ops in proptest::collection::vec(an_op(), 1..100)) {
        let mut run = Run::new();
        for op in &ops {
            run.run(op);
        }
        run.check_content();
        run.check_tables();
    }

    #[test]
    fn the_same_commands_leave_the_same_rows(ops in proptest::collection::vec(an_op(), 1..100)) {
        let rows = [(); 2].map(|()| {
            let mut run = Run::new();
            ops.iter().for_each(|op| run.run(op));
            run.world.rows()
        });
        prop_assert_eq!(&rows[0], &rows[1]);
    }
}
