//! The driver over a log that counts what is proposed, and can fail, be silent, or be led by somebody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use redb::{Database, backends::InMemoryBackend};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    command::{IfHeld, Membership},
    driver::{Driver, Log},
    entry::Entry,
    error::Error,
    fence::Directories,
    handle::{End, Handle, Progress, Wait},
    machine::LockMachine,
    state::Standing,
    tables,
};
use crate::{
    raft::{self, Answer, LeadOver, Machine, Store},
    types::{ClusterId, FencingToken, LeadId, LockMode, Path, SessionId},
};

const LEASE: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(5);

/// How a log behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Takes,
    /// Takes entries, and the answer is lost.
    TakesAndFallsSilent,
    /// Takes nothing, and does not know who leads.
    Silent,
    /// Another node leads.
    Led,
}

/// A log of one that forgets, and the tables under it; several drivers may have their turns with it.
struct Group {
    store: Store,
    machine: LockMachine,
    mood: watch::Sender<Mood>,
    proposed: AtomicUsize,
}

impl Group {
    fn new() -> Arc<Self> {
        let store = Store::over(Database::builder().create_with_backend(InMemoryBackend::new()).unwrap());
        tables::prepare_store(&store).unwrap();
        let machine = LockMachine::new(&store).unwrap();
        Arc::new(Self { store, machine, mood: watch::Sender::new(Mood::Takes), proposed: AtomicUsize::new(0) })
    }

    fn apply(&self, entry: &[u8]) -> Answer {
        let transaction = self.store.begin_write().unwrap();
        let answer = self.machine.apply(&transaction, &[Bytes::copy_from_slice(entry)]).unwrap().pop().unwrap();
        transaction.commit().unwrap();
        self.machine.applied(&self.store).unwrap();
        answer
    }

    fn revision(&self) -> u64 {
        self.machine.progress().borrow().revision.0
    }

    fn proposed(&self) -> usize {
        self.proposed.load(Ordering::SeqCst)
    }
}

impl Log for Group {
    async fn propose(&self, entry: Bytes) -> Result<Answer, raft::Error> {
        self.proposed.fetch_add(1, Ordering::SeqCst);
        let mood = *self.mood.borrow();
        match mood {
            Mood::Takes => Ok(self.apply(&entry)),
            Mood::TakesAndFallsSilent => {
                self.apply(&entry);
                std::future::pending().await
            }
            Mood::Silent => std::future::pending().await,
            Mood::Led => Err(raft::Error::NotLeader { leader: None }),
        }
    }

    async fn confirm(&self, lead: LeadId) -> Result<(), raft::Error> {
        let mood = *self.mood.borrow();
        match mood {
            Mood::Takes if self.machine.progress().borrow().lead == Some(lead) => Ok(()),
            Mood::Takes => Err(raft::Error::NotLeader { leader: None }),
            Mood::TakesAndFallsSilent | Mood::Silent => Err(raft::Error::NoQuorum),
            Mood::Led => Err(raft::Error::NotLeader { leader: None }),
        }
    }
}

/// A driver during its lead.
struct Lead {
    handle: Handle,
    lost: CancellationToken,
    served: CancellationToken,
    task: JoinHandle<LeadOver>,
}

fn begin(group: &Arc<Group>) -> Lead {
    let lead = LeadId::random();
    group.apply(&Entry::Begin { lead }.encode());
    let state = tables::read_state(&group.store.begin_read().unwrap()).unwrap();
    let nowhere = Arc::new(Directories::new(&["127.0.0.1:1".to_owned()]).unwrap());
    let (driver, handle) = Driver::new(state, group.clone(), lead, nowhere, End::with(&CancellationToken::new()));
    let (lost, served) = (CancellationToken::new(), CancellationToken::new());
    let task = tokio::spawn(driver.run(lost.clone(), served.clone()));
    Lead { handle, lost, served, task }
}

async fn a_joined_lead(group: &Arc<Group>) -> Lead {
    let lead = begin(group);
    lead.handle.join(Membership { cluster: ClusterId::random(), key: [1; 32] }, FencingToken(0)).await.unwrap();
    lead
}

impl Lead {
    async fn a_session(&self) -> SessionId {
        let session = SessionId::random();
        self.handle.open_session(session, LEASE.as_millis() as u64, String::new()).await.unwrap();
        session
    }

    async fn acquire(&self, session: SessionId, path: &str) -> Result<Wait, Error> {
        self.handle.acquire(session, at(path), LockMode::Exclusive, IfHeld::Queue).await
    }

    async fn end(self) {
        self.served.cancel();
        assert_eq!(self.task.await.unwrap(), LeadOver::Stopped);
    }

    /// As the node's part does when it finds that another one leads.
    async fn lose(self) {
        self.handle.end().lose_lead();
        self.lost.cancel();
        assert_eq!(self.task.await.unwrap(), LeadOver::Lost);
    }
}

fn at(path: &str) -> Path {
    path.parse().unwrap()
}

fn token(wait: &Wait) -> FencingToken {
    match &*wait.progress.borrow() {
        Progress::Granted(grant) => grant.token,
        progress => panic!("{progress:?}"),
    }
}

fn not_leader<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Group(raft::Error::NotLeader { .. }))), "{result:?}");
}

#[tokio::test]
async fn nobody_is_told_what_the_log_did_not_take() {
    let group = Group::new();
    let lead = a_joined_lead(&group).await;
    let (holder, waiter) = (lead.a_session().await, lead.a_session().await);
    token(&lead.acquire(holder, "/f").await.unwrap());
    let mut waiting = lead.acquire(waiter, "/f").await.unwrap();
    assert!(matches!(*waiting.progress.borrow_and_update(), Progress::Waiting { position: 1, .. }));
    let revision = group.revision();

    group.mood.send_replace(Mood::Led);
    not_leader(lead.handle.release(holder, at("/f"), None).await);
    assert_eq!(lead.task.await.unwrap(), LeadOver::Lost, "its state is ahead of the tables");
    assert!(waiting.progress.changed().await.is_err(), "the wait ends, and not with a grant");
    assert!(matches!(*waiting.progress.borrow(), Progress::Waiting { .. }));
    assert_eq!(group.revision(), revision);
}

#[tokio::test]
async fn a_deposed_leader_renews_nothing_tells_nothing_and_grants_nothing() {
    let group = Group::new();
    let lead = a_joined_lead(&group).await;
    let session = lead.a_session().await;
    token(&lead.acquire(session, "/f").await.unwrap());
    group.mood.send_replace(Mood::Led);
    not_leader(lead.handle.renew(session).await);
    not_leader(lead.handle.view(at("/f")).await.map(|_| ()));
    not_leader(lead.handle.list(Path::root(), None, 10).await.map(|_| ()));
    not_leader(lead.handle.watch(at("/f")).await);
    not_leader(lead.handle.renew(SessionId::random()).await);
    not_leader(lead.acquire(session, "/f").await.map(|_| ()));
    assert!(!lead.task.is_finished(), "nothing was decided that others do not know");
    not_leader(lead.acquire(session, "/g").await.map(|_| ()));
    assert_eq!(lead.task.await.unwrap(), LeadOver::Lost);
}

#[tokio::test]
async fn a_leader_that_nobody_answers_says_so_and_goes_on_when_it_is_answered_again() {
    let group = Group::new();
    let lead = a_joined_lead(&group).await;
    let session = lead.a_session().await;
    group.mood.send_replace(Mood::Silent);
    assert_eq!(lead.handle.renew(session).await, Err(Error::Group(raft::Error::NoQuorum)));
    group.mood.send_replace(Mood::Takes);
    assert_eq!(lead.handle.renew(session).await, Ok(LEASE));
    lead.end().await;
}

#[tokio::test]
async fn who_waits_when_the_lead_is_lost_is_told_and_the_next_lead_knows_what_was_taken() {
    let group = Group::new();
    let lead = a_joined_lead(&group).await;
    let (holder, waiter) = (lead.a_session().await, lead.a_session().await);
    let first = token(&lead.acquire(holder, "/f").await.unwrap());
    lead.acquire(waiter, "/f").await.unwrap();
    group.mood.send_replace(Mood::TakesAndFallsSilent);
    let (before, handle) = (group.proposed(), lead.handle.clone());
    let releasing = tokio::spawn(async move { handle.release(holder, at("/f"), None).await });
    let under_way = async {
        while group.proposed() == before {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, under_way).await.unwrap();
    let handle = lead.handle.clone();
    let behind = tokio::spawn(async move { handle.renew(waiter).await });
    tokio::task::yield_now().await;
    let handle = lead.handle.clone();
    lead.lose().await;
    let told = releasing.await.unwrap();
    assert!(matches!(told, Err(Error::Group(raft::Error::LeadLost { .. }))), "it may have happened: {told:?}");
    not_leader(behind.await.unwrap());
    not_leader(handle.renew(waiter).await);
    assert!(matches!(handle.over().await, Error::Group(raft::Error::NotLeader { .. })));

    group.mood.send_replace(Mood::Takes);
    let next = begin(&group);
    let granted = next.acquire(waiter, "/f").await.unwrap();
    assert!(token(&granted) > first, "the release was taken, and the grant that came of it");
    next.end().await;
}

#[tokio::test]
async fn the_next_lead_keeps_sessions_with_fresh_leases_the_order_of_the_queue_and_the_rise_of_tokens() {
    let group = Group::new();
    let lead = a_joined_lead(&group).await;
    let sessions = [lead.a_session().await, lead.a_session().await, lead.a_session().await];
    let mut newest = token(&lead.acquire(sessions[0], "/f").await.unwrap());
    for waiter in &sessions[1..] {
        lead.acquire(*waiter, "/f").await.unwrap();
    }
    lead.lose().await;

    let next = begin(&group);
    let sighting = next.handle.view(at("/f")).await.unwrap();
    assert!(sighting.leases[0] > LEASE - Duration::from_secs(5), "fresh: {:?}", sighting.leases);
    // The last one comes back first, and is still the last.
    for (session, expected) in [(sessions[2], 2), (sessions[1], 1)] {
        let wait = next.acquire(session, "/f").await.unwrap();
        assert!(matches!(*wait.progress.borrow(), Progress::Waiting { position, .. } if position == expected));
    }
    for (holder, heir) in [(sessions[0], sessions[1]), (sessions[1], sessions[2])] {
        next.handle.release(holder, at("/f"), None).await.unwrap();
        let granted = token(&next.acquire(heir, "/f").await.unwrap());
        assert!(granted > newest);
        newest = granted;
    }
    next.end().await;
}

#[tokio::test]
async fn an_entry_of_the_lead_before_that_comes_late_is_refused_and_ends_its_driver() {
    let group = Group::new();
    let old = a_joined_lead(&group).await;
    let session = old.a_session().await;
    let next = begin(&group);
    not_leader(old.acquire(session, "/f").await.map(|_| ()));
    assert_eq!(old.task.await.unwrap(), LeadOver::Lost);
    let state = tables::read_state(&group.store.begin_read().unwrap()).unwrap();
    assert!(!matches!(state.standing(session, &at("/f")), Some(Standing::Holds(_))));
    token(&next.acquire(session, "/f").await.unwrap());
    next.end().await;
}

/// As when a node loses the lead and has it again before its driver was told.
#[tokio::test]
async fn a_driver_of_the_lead_before_tells_nothing_though_its_node_leads_again() {
    let group = Group::new();
    let old = a_joined_lead(&group).await;
    let session = old.a_session().await;
    token(&old.acquire(session, "/f").await.unwrap());
    let next = begin(&group);
    next.handle.release(session, at("/f"), None).await.unwrap();
    not_leader(old.handle.renew(session).await);
    not_leader(old.handle.view(at("/f")).await.map(|_| ()));
    not_leader(old.acquire(session, "/f").await.map(|_| ()));
    next.end().await;
    old.lose().await;
}

#[tokio::test]
async fn what_is_asked_together_is_one_entry() {
    const TOGETHER: usize = 200;
    let group = Group::new();
    let lead = a_joined_lead(&group).await;
    let session = lead.a_session().await;
    let before = group.proposed();
    let asked = (0..TOGETHER).map(|number| {
        let (lead, path) = (&lead, format!("/{number}"));
        async move { lead.acquire(session, &path).await }
    });
    let granted = join_all(asked).await;
    assert!(granted.iter().all(|wait| wait.as_ref().is_ok_and(|wait| wait.ticket.is_none())));
    let entries = group.proposed() - before;
    assert!(entries <= 20, "{entries} entries for {TOGETHER} grants");
    lead.end().await;
}

#[tokio::test]
async fn asking_again_and_renewing_cost_no_entry() {
    let group = Group::new();
    let lead = a_joined_lead(&group).await;
    let session = lead.a_session().await;
    let first = lead.acquire(session, "/f").await.unwrap();
    let (proposed, revision) = (group.proposed(), group.revision());
    let again = lead.acquire(session, "/f").await.unwrap();
    assert_eq!(*again.progress.borrow(), *first.progress.borrow());
    assert_eq!(lead.handle.renew(session).await, Ok(LEASE));
    assert_eq!((group.proposed(), group.revision()), (proposed, revision));
    lead.end().await;
}

#[tokio::test]
async fn watchers_are_told_and_forgotten() {
    let group = Group::new();
    let lead = a_joined_lead(&group).await;
    let session = lead.a_session().await;
    let mut changes = lead.handle.watch(at("/f")).await.unwrap();
    let before = *changes.borrow_and_update();
    lead.acquire(session, "/elsewhere").await.unwrap();
    lead.acquire(session, "/f").await.unwrap();
    timeout(DEADLINE, changes.changed()).await.unwrap().unwrap();
    assert_eq!(changes.borrow().0, group.revision());
    assert!(*changes.borrow() > before);
    drop(changes);
    let again = lead.handle.watch(at("/f")).await.unwrap();
    assert_eq!(again.borrow().0, group.revision());
    lead.end().await;
}
