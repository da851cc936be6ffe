//! The tables as the log leaves them.

use redb::backends::InMemoryBackend;

use super::*;
use crate::{
    lock::{
        command::{Command, Effect, IfHeld},
        entry::Entry,
        machine::{LockMachine, Verdict},
    },
    raft::Machine,
    token::LOCK_KEY_LENGTH,
};

fn id(id: u8) -> SessionId {
    SessionId::from_bytes([id; 16])
}

fn at(text: &str) -> Path {
    text.parse().unwrap()
}

/// Tables to which entries are applied as the group would.
struct Node {
    store: Arc<raft::Store>,
    machine: LockMachine,
}

impl Node {
    fn open(folder: &FilePath) -> Self {
        Self::over(open(folder).unwrap())
    }

    fn in_memory() -> Self {
        let database = redb::Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let store = raft::Store::over(database);
        prepare_store(&store).unwrap();
        Self::over(Arc::new(store))
    }

    fn over(store: Arc<raft::Store>) -> Self {
        let machine = LockMachine::new(&store).unwrap();
        Self { store, machine }
    }

    fn apply(&self, entry: &Entry) -> Verdict {
        let transaction = self.store.begin_write().unwrap();
        let answers = self.machine.apply(&transaction, &[entry.encode()]).unwrap();
        transaction.commit().unwrap();
        self.machine.applied(&self.store).unwrap();
        *answers[0].downcast_ref().unwrap()
    }

    fn begin(&self) -> LeadId {
        let lead = LeadId::random();
        assert_eq!(self.apply(&Entry::Begin { lead }), Verdict::Counted);
        lead
    }

    fn put(&self, lead: LeadId, rows: Vec<Row>, continued: bool) -> Verdict {
        self.apply(&Entry::Rows { lead, rows, continued })
    }

    /// Decides a command and applies what comes of it.
    fn decide(&self, lead: LeadId, state: &mut State, command: Command) {
        let applied = state.apply(Revision(state.revision().0 + 1), Timestamp(7), &command).unwrap();
        assert_eq!(self.put(lead, rows(state, &applied.changed), false), Verdict::Counted);
    }

    fn state(&self) -> Result<State, StorageError> {
        read_state(&self.store.begin_read().unwrap())
    }
}

fn open_session(client: u8) -> Command {
    Command::OpenSession { session: id(client), ttl_ms: 5000, client: format!("client {client}") }
}

fn acquire(client: u8, path: &str, mode: LockMode) -> Command {
    Command::Acquire { session: id(client), path: at(path), mode, if_held: IfHeld::Queue }
}

fn a_fence(path: &str) -> Row {
    let value = stored::Fence { fencing_token: 1 }.encode_to_vec();
    Row { table: stored::Table::Fences, key: path.as_bytes().to_vec(), value: Some(value) }
}

#[test]
fn the_next_lead_finds_what_was_committed_and_tokens_go_on_rising() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(folder.path());
    let lead = node.begin();
    let mut state = node.state().unwrap();
    assert_eq!(state, State::default());
    let membership = Membership { cluster: ClusterId::random(), key: [9; LOCK_KEY_LENGTH] };
    for command in [
        Command::Join { membership, newest: FencingToken(0) },
        open_session(1),
        open_session(2),
        open_session(3),
        acquire(1, "/a", LockMode::Exclusive),
        acquire(2, "/a", LockMode::Exclusive),
        acquire(2, "/b/ä", LockMode::Shared),
        acquire(3, "/b/ä", LockMode::Shared),
        acquire(3, "/", LockMode::Exclusive),
        Command::Release { session: id(2), path: at("/b/ä"), token: None },
        Command::ExpireSession { session: id(1) },
    ] {
        node.decide(lead, &mut state, command);
    }
    assert_eq!(node.machine.progress().borrow().membership, Some(membership));
    drop(node);
    let node = Node::open(folder.path());
    let lead = node.begin();
    let mut again = node.state().unwrap();
    assert_eq!(again, state);
    let Some(Effect::RaiseFence { path, token }) = again.resume().pop() else { panic!("the fence is pending") };
    node.decide(lead, &mut again, Command::FenceRaised { path, token });
    assert!(again.view(&at("/a")).holders[0].grant.token > token);
    node.decide(lead, &mut again, Command::CloseSession { session: id(2) });
    node.decide(lead, &mut again, Command::CloseSession { session: id(3) });
    drop(node);
    let last = Node::open(folder.path()).state().unwrap();
    assert_eq!(last, again);
    assert_eq!(last.list(&Path::root(), None, 10), (vec![], false));
}

#[test]
fn what_an_earlier_lead_decided_and_comes_late_changes_nothing() {
    let node = Node::in_memory();
    assert_eq!(node.put(LeadId::random(), vec![a_fence("/never")], false), Verdict::Outdated, "nobody has begun");
    let first = node.begin();
    assert_eq!(node.put(first, vec![a_fence("/a")], false), Verdict::Counted);
    let second = node.begin();
    assert_eq!(node.put(first, vec![a_fence("/late")], false), Verdict::Outdated);
    assert_eq!(node.put(second, vec![a_fence("/b")], false), Verdict::Counted);
    let transaction = node.store.begin_read().unwrap();
    let fences = transaction.open_table(FENCES).unwrap();
    let keys: Vec<_> = fences.iter().unwrap().map(|row| row.unwrap().0.value().to_vec()).collect();
    assert_eq!(keys, [b"/a", b"/b"]);
}

#[test]
fn entries_that_are_continued_happen_together_or_not_at_all() {
    let node = Node::in_memory();
    let count = || node.store.begin_read().unwrap().open_table(FENCES).unwrap().iter().unwrap().count();
    let first = node.begin();
    assert_eq!(node.put(first, vec![a_fence("/a")], true), Verdict::Counted);
    assert_eq!(node.put(first, vec![a_fence("/b")], true), Verdict::Counted);
    assert_eq!(count(), 0);
    let remove = Row { value: None, ..a_fence("/a") };
    assert_eq!(node.put(first, vec![remove, a_fence("/c")], false), Verdict::Counted);
    assert_eq!(count(), 2, "in their order");
    assert_eq!(node.put(first, vec![a_fence("/half")], true), Verdict::Counted);
    let second = node.begin();
    assert_eq!(node.put(second, vec![a_fence("/d")], false), Verdict::Counted);
    assert_eq!(count(), 3, "what a lead had only begun to say never happened");
}

#[test]
fn foreign_rows_are_refused_and_never_a_panic() {
    use stored::Table::{Fences, Holders, Meta, Sessions, Waiters};
    for (table, key, value) in [
        (Sessions, b"short".to_vec(), vec![]),
        (Holders, b"/a".to_vec(), vec![]),
        (Holders, below(&at("/a"), id(1).as_bytes()), vec![]),
        (Waiters, b"no path\0\0\0\0\0\0\0\0\0".to_vec(), vec![]),
        (Fences, vec![0xff], vec![]),
        (Fences, b"/a".to_vec(), vec![0xff]),
    ] {
        let node = Node::in_memory();
        let lead = node.begin();
        node.put(lead, vec![Row { table, key, value: Some(value) }], false);
        assert!(matches!(node.state(), Err(StorageError::BadRow { .. })), "{table:?}");
    }
    let node = Node::in_memory();
    let lead = node.begin();
    let head = stored::Head { lock_key: vec![1].into(), ..Default::default() }.encode_to_vec();
    let row = Row { table: Meta, key: HEAD_KEY.to_vec(), value: Some(head) };
    let transaction = node.store.begin_write().unwrap();
    node.machine.apply(&transaction, &[Entry::Rows { lead, rows: vec![row], continued: false }.encode()]).unwrap();
    transaction.commit().unwrap();
    assert!(node.machine.applied(&node.store).is_err());
    assert!(matches!(node.state(), Err(StorageError::BadRow { .. })));
}

#[test]
fn an_older_format_is_taken_over_and_a_newer_one_is_left_alone() {
    for (version, is_known) in [(1, true), (FORMAT_VERSION, true), (FORMAT_VERSION + 1, false)] {
        let database = redb::Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let store = raft::Store::over(database);
        let transaction = store.begin_write().unwrap();
        let value = stored::Format { version }.encode_to_vec();
        transaction.open_table(META).unwrap().insert(FORMAT_KEY, value.as_slice()).unwrap();
        transaction.commit().unwrap();
        match prepare_store(&store) {
            Ok(()) => assert!(is_known),
            Err(StorageError::TooNew { found }) => assert!(!is_known && found == version),
            Err(error) => panic!("{error}"),
        }
    }
}
