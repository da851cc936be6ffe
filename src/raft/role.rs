//! What a node is in its group, as it changes, and what it goes by: who has answered it, whom it has heard, and since when it
//! leads.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use openraft::{Instant as _, ReadPolicy, ServerState, async_runtime::watch::WatchReceiver};
use tokio::{sync::watch, time::timeout};

use super::{
    network::Addresses,
    types::{Metrics, Node, Raft},
    voice::Voice,
};

/// A leader that no quorum has answered for so long leads nobody: its callers are sent to look for another. A node that has not
/// heard its leader for so long knows of none.
const LEAD_LOST_AFTER: Duration = Duration::from_millis(1500);
/// How often a leader looks whether it is still answered.
const ROLE_INTERVAL: Duration = Duration::from_millis(100);
pub(super) const CONFIRM_DEADLINE: Duration = Duration::from_secs(2);

/// What this node is in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything that was acknowledged before is applied here.
    Leader {
        term: u64,
    },
    Other {
        leader: Option<Node>,
    },
    /// Its disk has failed, or it was stopped.
    Ended,
}

/// The term that this node leads in, and since when.
#[derive(Clone, Debug, Default)]
pub(super) struct LeadBegan(Arc<Mutex<Option<(u64, Instant)>>>);

impl LeadBegan {
    fn note(&self, role: &Role) {
        let mut began = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *began = match role {
            Role::Leader { term } => began.filter(|(before, _)| before == term).or(Some((*term, Instant::now()))),
            Role::Other { .. } | Role::Ended => None,
        };
    }

    /// For how long it has led; `None` if it does not.
    pub fn elapsed(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|(_, began)| began.elapsed())
    }
}

/// When a leader last spoke to this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    pub fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long ago; `None`: not since the start.
    pub fn elapsed(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|heard| heard.elapsed())
    }

    /// Whether that leader still counts as one.
    pub fn is_fresh(&self) -> bool {
        self.elapsed().is_some_and(|silence| silence < LEAD_LOST_AFTER)
    }
}

/// How long ago a quorum has answered this leader; one that is a quorum by itself needs no answer.
pub(super) fn silence(metrics: &Metrics) -> Option<Duration> {
    let mut voters = metrics.membership_config.voter_ids();
    if voters.next() == Some(metrics.id) && voters.next().is_none() {
        return Some(Duration::ZERO);
    }
    metrics.last_quorum_acked.map(|acked| acked.elapsed())
}

/// What others look at of what the watcher sees.
pub(super) struct Seen {
    pub lead: LeadBegan,
    pub heard: Heard,
    pub addresses: Addresses,
    pub is_silent: Arc<AtomicBool>,
}

/// Says what this node is whenever that changes. Ends with the library.
pub(super) async fn watch_role(
    raft: Raft,
    role: watch::Sender<Role>,
    Seen { lead, heard, addresses, is_silent }: Seen,
) {
    let mut metrics = raft.metrics();
    let (mut established, mut listed, mut voice) = (None, None, Voice::default());
    loop {
        let seen = metrics.borrow_watched().clone();
        if listed != Some(*seen.membership_config.log_id()) {
            addresses.update(seen.membership_config.nodes());
            listed = Some(*seen.membership_config.log_id());
        }
        let leads = (seen.state == ServerState::Leader).then_some(seen.current_term);
        let speaks = voice.speaks(leads, silence(&seen), Instant::now());
        raft.runtime_config().heartbeat(speaks);
        is_silent.store(!speaks, Ordering::SeqCst);
        let next = match role_now(&seen, &heard, &mut established) {
            Some(role) => role,
            // To ask is to speak.
            None if !speaks => Role::Other { leader: None },
            None => confirmed_role(&raft, &seen, &mut established).await,
        };
        if matches!(next, Role::Leader { .. }) {
            heard.note();
        }
        lead.note(&next);
        let changed = role.send_if_modified(|role| {
            let changed = *role != next;
            role.clone_from(&next);
            changed
        });
        if changed {
            tracing::info!(role = ?next, term = seen.current_term, "this node's part in its group");
        }
        if next == Role::Ended {
            return;
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() {
                role.send_replace(Role::Ended);
                return;
            },
            () = tokio::time::sleep(ROLE_INTERVAL) => {}
        }
    }
}

/// `None`: it leads, if a quorum says so. `established`: the term in which this node was last found to lead, with everything from
/// before applied.
fn role_now(metrics: &Metrics, heard: &Heard, established: &mut Option<u64>) -> Option<Role> {
    if metrics.running_state.is_err() {
        return Some(Role::Ended);
    }
    let term = metrics.current_term;
    if metrics.state != ServerState::Leader {
        *established = None;
        let leader = metrics.current_leader.filter(|leader| *leader != metrics.id && heard.is_fresh());
        let node = leader.and_then(|leader| metrics.membership_config.get_node(&leader).cloned());
        return Some(Role::Other { leader: node });
    }
    let answered = silence(metrics).is_some_and(|silence| silence < LEAD_LOST_AFTER);
    if *established == Some(term) && answered {
        return Some(Role::Leader { term });
    }
    *established = None;
    None
}

/// Of a node that takes itself for the leader.
async fn confirmed_role(raft: &Raft, metrics: &Metrics, established: &mut Option<u64>) -> Role {
    let term = metrics.current_term;
    match timeout(CONFIRM_DEADLINE, raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
        Ok(Ok(_)) if raft.metrics().borrow_watched().current_term == term => {
            *established = Some(term);
            Role::Leader { term }
        }
        _ => Role::Other { leader: None },
    }
}
