//! Between the library and a service's database: applies what is committed, many entries in one transaction, and answers
//! whoever proposed them after what they have changed can be seen.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::{
    OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use redb::{Durability, WriteTransaction};

use super::{
    snapshot::{Snapshot, Tables},
    store::{Applied, Store, StoreError, make_durable, read_applied, write_applied, written_applied},
    types::{Answer, LogId, Payload, SnapshotMeta, StoredMembership, Types},
};

/// Entries of one transaction: bounds the time until the first of them is answered.
const BATCH_ENTRIES_MAX: usize = 1024;
/// A crash makes the next start apply again what was applied since the last durable commit: at most so much.
const DURABLE_ENTRIES: usize = 8192;
const DURABLE_INTERVAL: Duration = Duration::from_secs(5);

type Responder = openraft::storage::ApplyResponder<Types>;
type Held = openraft::type_config::alias::SnapshotOf<Types, Snapshot>;

/// A service's own part: what its commands do.
pub trait Machine: Send + Sync + 'static {
    /// All of the state.
    fn tables(&self) -> Tables;

    /// Makes an empty database one that commands can be applied to. Blocking.
    fn prepare(&self, transaction: &WriteTransaction) -> Result<(), StoreError>;

    /// Applies commands one after another; an answer for each. The same everywhere: no clock, no randomness. Blocking.
    fn apply(&self, transaction: &WriteTransaction, proposals: &[Bytes]) -> Result<Vec<Answer>, StoreError>;

    /// What was applied can be seen now; nobody was answered yet. Also after a snapshot was installed. Blocking.
    fn applied(&self, store: &Store) -> Result<(), StoreError>;
}

pub struct StateMachine {
    store: Arc<Store>,
    machine: Arc<dyn Machine>,
    /// Since the last durable commit.
    entries: usize,
    durable: Instant,
}

impl StateMachine {
    pub fn new(store: Arc<Store>, machine: Arc<dyn Machine>) -> Self {
        Self { store, machine, entries: 0, durable: Instant::now() }
    }

    /// Applies a batch and answers.
    async fn apply_batch(&mut self, batch: Vec<EntryResponder<Types>>) -> io::Result<()> {
        self.entries += batch.len();
        // Who votes must not be forgotten with the log.
        let members_change = batch.iter().any(|(entry, _)| matches!(entry.payload, Payload::Membership(_)));
        let durability =
            match members_change || self.entries >= DURABLE_ENTRIES || self.durable.elapsed() >= DURABLE_INTERVAL {
                true => Durability::Immediate,
                false => Durability::None,
            };
        let (store, machine) = (self.store.clone(), self.machine.clone());
        let applying = tokio::task::spawn_blocking(move || apply(&store, &*machine, batch, durability));
        let answers = applying.await.map_err(io::Error::other)??;
        if matches!(durability, Durability::Immediate) {
            (self.entries, self.durable) = (0, Instant::now());
        }
        for (responder, answer) in answers {
            responder.send(answer);
        }
        Ok(())
    }
}

/// One transaction for all of them. Blocking.
fn apply(
    store: &Store,
    machine: &dyn Machine,
    batch: Vec<EntryResponder<Types>>,
    durability: Durability,
) -> Result<Vec<(Responder, Answer)>, StoreError> {
    let mut transaction = store.begin_write()?;
    transaction.set_durability(durability)?;
    let mut applied = written_applied(&transaction)?;
    let mut proposals = Vec::new();
    // For each entry whoever waits, and which of the proposals it is.
    let mut waiting = Vec::new();
    for (entry, responder) in batch {
        applied.last = Some(entry.log_id);
        let proposed = match entry.payload {
            Payload::Blank => None,
            Payload::Normal(proposal) => {
                proposals.push(proposal.0);
                Some(proposals.len() - 1)
            }
            Payload::Membership(membership) => {
                applied.membership = StoredMembership::new(Some(entry.log_id), membership);
                None
            }
        };
        waiting.push((proposed.is_some(), responder));
    }
    let mut answers = machine.apply(&transaction, &proposals)?.into_iter();
    write_applied(&transaction, &applied)?;
    transaction.commit()?;
    machine.applied(store)?;
    let answered = waiting.into_iter().filter_map(|(proposed, responder)| {
        let answer = if proposed { answers.next() } else { None };
        responder.map(|responder| (responder, answer.unwrap_or_else(|| Box::new(()))))
    });
    Ok(answered.collect())
}

fn meta(applied: Applied) -> SnapshotMeta {
    SnapshotMeta { last_log_id: applied.last, last_membership: applied.membership }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = Snapshot;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = read_applied(&self.store.begin_read().map_err(StoreError::from)?)?;
        Ok((applied.last, applied.membership))
    }

    async fn apply<Entries>(&mut self, mut entries: Entries) -> io::Result<()>
    where
        Entries: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut batch = Vec::new();
        while let Some(entry) = entries.next().await {
            batch.push(entry?);
            if batch.len() >= BATCH_ENTRIES_MAX {
                self.apply_batch(std::mem::take(&mut batch)).await?;
            }
        }
        match batch.is_empty() {
            true => Ok(()),
            false => self.apply_batch(batch).await,
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.store.clone())
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta, snapshot: Snapshot) -> io::Result<()> {
        let (store, machine) = (self.store.clone(), self.machine.clone());
        let installing = tokio::task::spawn_blocking(move || match snapshot {
            Snapshot::Received(received) => {
                received.install(&store)?;
                machine.applied(&store)
            }
            // It is what is there already.
            Snapshot::Ours(_) => Ok(()),
        });
        Ok(installing.await.map_err(io::Error::other)??)
    }

    /// The database as it is now: it is its own snapshot.
    async fn get_current_snapshot(&mut self) -> io::Result<Option<Held>> {
        let transaction = self.store.begin_read().map_err(StoreError::from)?;
        let applied = read_applied(&transaction)?;
        let held = |applied| Held { meta: meta(applied), snapshot: Snapshot::Ours(Box::new(transaction)) };
        Ok(applied.last.is_some().then(|| held(applied)))
    }
}

/// Makes durable what is applied: then the log up to there is no longer needed.
pub struct Builder(Arc<Store>);

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> io::Result<Held> {
        let store = self.0.clone();
        let building = tokio::task::spawn_blocking(move || {
            let applied = make_durable(&store)?;
            let transaction = store.begin_read()?;
            Ok::<_, StoreError>(Held { meta: meta(applied), snapshot: Snapshot::Ours(Box::new(transaction)) })
        });
        Ok(building.await.map_err(io::Error::other)??)
    }
}
