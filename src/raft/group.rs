//! One node of a group: proposes, says who leads, and vouches for reads.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use openraft::{
    Config, Instant as _, ReadPolicy, ServerState, SnapshotPolicy,
    async_runtime::watch::WatchReceiver,
    errors::{ClientWriteError, LinearizableReadError, RaftError},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    error::Error,
    identity::{GroupUid, Identity},
    joining::Standing,
    network::{Addresses, Network},
    opening::{Opened, open},
    role::{CONFIRM_DEADLINE, Heard, LeadBegan, Role, Seen, silence, watch_role},
    snapshot::Tables,
    state_machine::{Machine, StateMachine},
    store::Store,
    types::{Answer, Metrics, Node, NodeId, Proposal, Raft},
};
use crate::metrics::Seconds;

const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// A follower that heard of a leader votes for nobody else for at least so long.
pub(super) const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(300);
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(500);
/// How long a leader that a quorum has answered may take itself for the only one: less than the followers wait, so that a
/// clock that runs a little faster does no harm.
const READ_LEASE: Duration = Duration::from_millis(200);
/// Applied entries after which the state is made durable, and those kept in the log for followers that are behind.
const SNAPSHOT_ENTRIES: u64 = 5000;
const KEPT_ENTRIES: u64 = 5000;
/// How long a proposal waits for its answer; a disk that hangs for longer leaves the outcome unknown.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(30);

/// Why a node ends by itself. Its log says before what could not be written; that is only known after a start.
pub(super) const DISK_FAILED: &str = "the log or the tables could not be written: see to the disk, then start this node again; the group \
                               goes on without it while a majority is there";

/// How a node takes part.
pub struct Options {
    /// Whose group it is: `directory` or `lock`.
    pub service: &'static str,
    /// Of the log; nothing else is in it.
    pub folder: PathBuf,
    pub node: NodeId,
    pub me: Node,
    /// A new node waits to be taken into a group that is there, instead of making one.
    pub joins: bool,
    /// The database holds a state from before it had a log.
    pub has_state: bool,
}

pub struct Group {
    pub node: NodeId,
    pub me: Node,
    pub(super) raft: Raft,
    pub(super) store: Arc<Store>,
    pub(super) tables: Tables,
    pub(super) identity: Arc<Identity>,
    pub(super) started: Instant,
    role: watch::Receiver<Role>,
    pub(super) log_fsync: Seconds,
    lead: LeadBegan,
    /// It leads, nobody answers, and it gives others time to elect one of themselves.
    is_silent: Arc<AtomicBool>,
    pub(super) heard: Heard,
    pub(super) standing: Mutex<Standing>,
    /// Drawn at the start, to tell this process from another one with the same data.
    pub(super) process: u64,
    /// The last term in which the lead was offered to another node: in that term followers vote for it without waiting.
    offered: AtomicU64,
    _watching: AbortOnDropHandle<()>,
}

fn config() -> anyhow::Result<Config> {
    let millis = |duration: Duration| duration.as_millis() as u64;
    let config = Config {
        cluster_name: "dfs".to_owned(),
        heartbeat_interval: millis(HEARTBEAT_INTERVAL),
        election_timeout_min: millis(ELECTION_TIMEOUT_MIN),
        election_timeout_max: millis(ELECTION_TIMEOUT_MAX),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        purge_batch_size: 256,
        // Who is behind gets entries for as long as there are any.
        replication_lag_threshold: u64::MAX,
        max_append_entries: Some(1024),
        enable_pre_vote: Some(true),
        // What the log holds past the last durable commit is applied again first.
        enable_leader_restore: Some(false),
        backoff: "50ms 100ms 200ms ...500ms".to_owned(),
        ..Config::default()
    };
    config.validate().context("the settings of the consensus library")
}

impl Group {
    /// Opens the log, or makes it; a node that neither belongs to a group nor is to join one makes a group of itself. One whose
    /// log is damaged takes part under a new id, as a learner.
    pub async fn start(options: Options, store: Arc<Store>, machine: Arc<dyn Machine>) -> anyhow::Result<Arc<Self>> {
        let opening = {
            let (store, machine) = (store.clone(), machine.clone());
            tokio::task::spawn_blocking(move || open(&options, &store, &*machine))
        };
        let Opened { log, founds, node, me, identity } = opening.await.context("open the log")??;
        let identity = Arc::new(identity);
        let (tables, log_fsync) = (machine.tables(), log.fsync.clone());
        let state_machine = StateMachine::new(store.clone(), machine);
        let addresses = Addresses::default();
        let network = Network { tables, identity: identity.clone(), addresses: addresses.clone() };
        let raft = Raft::new(node, Arc::new(config()?), network, log, state_machine).await;
        let raft = raft.context("start the consensus library")?;
        if founds {
            raft.initialize(BTreeMap::from([(node, me.clone())])).await.context("make a group of one")?;
        }
        let (sender, role) = watch::channel(Role::Other { leader: None });
        let (lead, heard) = (LeadBegan::default(), Heard::default());
        let is_silent = Arc::<AtomicBool>::default();
        let seen = Seen { lead: lead.clone(), heard: heard.clone(), addresses, is_silent: is_silent.clone() };
        let watching = watch_role(raft.clone(), sender, seen);
        let watching = AbortOnDropHandle::new(tokio::spawn(watching));
        let mut process = [0; 8];
        getrandom::fill(&mut process).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let started = Instant::now();
        Ok(Arc::new(Self {
            node,
            me,
            raft,
            store,
            tables,
            identity,
            started,
            role,
            log_fsync,
            lead,
            is_silent,
            heard,
            standing: Mutex::default(),
            process: u64::from_le_bytes(process),
            offered: AtomicU64::default(),
            _watching: watching,
        }))
    }

    /// Ends it. What was acknowledged is on stable storage already.
    pub async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the consensus library did not end as it should");
        }
    }

    /// What this node is, and how that changes.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }

    /// Waits until this node does not lead in this term any more.
    pub async fn leads_no_more(&self, term: u64) {
        let mut role = self.role();
        // A role that is no longer watched is nobody's.
        let _unheard = role.wait_for(|role| *role != Role::Leader { term }).await;
    }

    /// The name of the group; `None` until it has taken this node in.
    pub fn uid(&self) -> Option<GroupUid> {
        self.identity.group()
    }

    pub fn term(&self) -> u64 {
        self.raft.metrics().borrow_watched().current_term
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }

    /// Who leads, as far as this node hears; `None` also if it has not heard of that one for a while.
    pub(super) fn leader_heard(&self, metrics: &Metrics) -> Option<NodeId> {
        metrics.current_leader.filter(|leader| *leader == self.node || self.heard.is_fresh())
    }

    /// All nodes, learners too.
    pub fn nodes(&self) -> Vec<(NodeId, Node)> {
        self.metrics().membership_config.nodes().map(|(id, node)| (*id, node.clone())).collect()
    }

    /// Those that do not vote yet.
    pub fn learners(&self) -> Vec<Node> {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        membership.learner_ids().filter_map(|id| membership.get_node(&id).cloned()).collect()
    }

    /// Puts a proposal into the log. When this returns it is on stable storage on a majority, and applied here.
    pub async fn propose(&self, proposal: Bytes) -> Result<Answer, Error> {
        match timeout(PROPOSE_DEADLINE, self.raft.client_write(Proposal(proposal))).await {
            Ok(Ok(answer)) => Ok(answer.data),
            Ok(Err(error)) => Err(write_error(error)),
            Err(_) => Err(Error::TimedOut),
        }
    }

    /// Whether what is applied here is all that anybody was ever told of: no other node can have taken over.
    pub async fn confirm_lead(&self) -> Result<(), Error> {
        if self.is_surely_leading() {
            return Ok(());
        }
        // To ask is to speak, and others are to have their turn.
        if self.is_silent.load(Ordering::SeqCst) {
            return Err(Error::NoQuorum);
        }
        match timeout(CONFIRM_DEADLINE, self.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
                Err(Error::NotLeader { leader: to.leader_node })
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => Err(Error::NoQuorum),
            Ok(Err(RaftError::Fatal(_))) => Err(Error::Ended),
        }
    }

    /// For how long this node has led; `None` if it does not.
    pub(super) fn led_for(&self) -> Option<Duration> {
        self.lead.elapsed()
    }

    /// Offers the lead to another node.
    pub(super) async fn offer_lead(&self, heir: NodeId) -> Result<(), Error> {
        self.offered.fetch_max(self.term(), Ordering::SeqCst);
        self.raft.trigger().transfer_leader(heir).await.map_err(|_| Error::Ended)
    }

    /// Without asking anybody: a quorum has answered a moment ago, and votes for nobody else yet.
    fn is_surely_leading(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        matches!(*self.role.borrow(), Role::Leader { term } if term == metrics.current_term)
            && metrics.state == ServerState::Leader
            && self.offered.load(Ordering::SeqCst) < metrics.current_term
            && silence(&metrics).is_some_and(|silence| silence < READ_LEASE)
    }
}

/// How long ago a node has answered this leader; `None` if it has not.
pub(super) fn silence_of(metrics: &Metrics, node: NodeId) -> Option<Duration> {
    let answered = metrics.heartbeat.as_ref()?.get(&node).copied().flatten()?;
    Some(answered.elapsed())
}

/// Up to which index a node's log is the same as this leader's, as far as that is known.
pub(super) fn matched_index(metrics: &Metrics, node: NodeId) -> Option<u64> {
    metrics.replication.as_ref()?.get(&node)?.as_ref().map(|id| id.index)
}

pub(super) fn write_error(error: RaftError<super::types::Types, ClientWriteError<super::types::Types>>) -> Error {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => Error::NotLeader { leader: to.leader_node },
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(to)) => Error::LeadLost { leader: to.leader_node },
        RaftError::APIError(ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)) => {
            Error::Busy
        }
        RaftError::Fatal(_) => Error::Ended,
    }
}
