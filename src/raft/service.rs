//! The way in: what the other nodes of the group ask of this one.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest,
};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};
use tonic::{Request, Response, Status, Streaming};

use super::{
    convert::{entry_in, log_id_out, membership_in, optional_log_id_in, optional_log_id_out, vote_in, vote_out},
    group::{ELECTION_TIMEOUT_MIN, Group},
    identity::GroupUid,
    plausible,
    snapshot::{Received, Receiving, Snapshot},
    store::Applied,
    types::{NodeId, StoredMembership, Types, Vote},
};
use crate::{
    pb::{self, install_snapshot_request::Part},
    status::{Failure, Reason},
};

/// A sender of a snapshot that is silent for so long is gone.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);
/// Snapshots received at the same time.
const SNAPSHOTS_MAX: usize = 2;

type Held = openraft::type_config::alias::SnapshotOf<Types, Snapshot>;
type Answer<T> = Result<Response<T>, Status>;

/// Where the handlers find the group once it runs.
#[derive(Clone, Default)]
pub struct Gate(Arc<OnceLock<Arc<Group>>>);

impl Gate {
    /// From now on the others are answered.
    pub fn open(&self, group: Arc<Group>) {
        assert!(self.0.set(group).is_ok(), "a process has one group");
    }

    pub(super) fn enter(&self) -> Result<&Arc<Group>, Status> {
        self.0.get().ok_or_else(|| unavailable("the node is starting"))
    }

    /// For a message to this very node from within its own group.
    fn enter_as(&self, node: NodeId, group_uid: &[u8]) -> Result<&Arc<Group>, Status> {
        let group = self.enter()?;
        let theirs = GroupUid::from_wire(group_uid).map_err(|error| refused("group_uid", error))?;
        match group.identity.compare(theirs) {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(Failure::from(error).into()),
            None => return Err(unavailable("the node has not been told yet which group takes it in")),
        }
        match group.node == node {
            true => Ok(group),
            false => Err(refused("to_node", "another node is at this address")),
        }
    }
}

fn refused(field: &str, what: impl std::fmt::Display) -> Status {
    Failure::bad_argument(field, what).into()
}

fn malformed(error: super::convert::Malformed) -> Status {
    refused("message", error)
}

fn unavailable(error: impl std::fmt::Display) -> Status {
    Failure::new(Reason::Unavailable, error).into()
}

pub struct RaftService {
    gate: Gate,
    snapshots: Semaphore,
    number: AtomicU64,
}

impl RaftService {
    pub fn new(gate: Gate) -> Self {
        Self { gate, snapshots: Semaphore::new(SNAPSHOTS_MAX), number: AtomicU64::default() }
    }

    async fn receive(&self, mut parts: Streaming<pb::InstallSnapshotRequest>) -> Result<Vote, Status> {
        let _turn = self.snapshots.try_acquire().map_err(|_| unavailable("snapshots are being received already"))?;
        let Some(Part::Begin(begin)) = next(&mut parts).await? else {
            return Err(refused("part", "a snapshot begins with its beginning"));
        };
        let group = self.gate.enter_as(begin.to_node, &begin.group_uid)?;
        let vote = vote_in(&begin.vote).map_err(malformed)?;
        let members = membership_in(&begin.membership.unwrap_or_default()).map_err(malformed)?;
        let membership = StoredMembership::new(optional_log_id_in(&begin.membership_log_id), members);
        let applied = Applied { last: optional_log_id_in(&begin.last_log_id), membership };
        let metrics = group.metrics();
        plausible::vote(&vote, metrics.current_term).map_err(malformed)?;
        let members_since = *applied.membership.log_id();
        plausible::snapshot(&vote, applied.last, members_since, metrics.local_committed).map_err(malformed)?;
        tracing::info!(last = ?applied.last, "receiving a snapshot");
        let received = self.rows(group, parts, &applied).await?;
        let meta = openraft::SnapshotMeta { last_log_id: applied.last, last_membership: applied.membership };
        let held = Held { meta, snapshot: Snapshot::Received(received) };
        let installed = group.raft.install_full_snapshot(vote, held).await.map_err(unavailable)?;
        if installed.vote == vote {
            group.heard.note();
        }
        Ok(installed.vote)
    }

    async fn rows(
        &self,
        group: &Group,
        mut parts: Streaming<pb::InstallSnapshotRequest>,
        applied: &Applied,
    ) -> Result<Received, Status> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (store, tables) = (group.store.clone(), group.tables);
        let mut receiving = spawn_blocking(move || Receiving::begin(&store, tables, number))
            .await
            .map_err(unavailable)?
            .map_err(unavailable)?;
        loop {
            match next(&mut parts).await? {
                Some(Part::Rows(rows)) => {
                    let adding = spawn_blocking(move || receiving.add(rows).map(|()| receiving));
                    receiving = adding.await.map_err(unavailable)?.map_err(unavailable)?;
                }
                Some(Part::End(end)) => {
                    let applied = applied.clone();
                    let ending = spawn_blocking(move || receiving.end(end.row_count, &applied));
                    return ending.await.map_err(unavailable)?.map_err(unavailable);
                }
                Some(Part::Begin(_)) | None => return Err(refused("part", "a snapshot ends with its end")),
            }
        }
    }
}

async fn next(parts: &mut Streaming<pb::InstallSnapshotRequest>) -> Result<Option<Part>, Status> {
    let message = timeout(PROGRESS_DEADLINE, parts.message()).await;
    let message =
        message.map_err(|_| Failure::new(Reason::DeadlineExceeded, "the sender of a snapshot fell silent"))??;
    Ok(message.and_then(|message| message.part))
}

#[tonic::async_trait]
impl pb::raft_server::Raft for RaftService {
    async fn append_entries(&self, request: Request<pb::AppendEntriesRequest>) -> Answer<pb::AppendEntriesResponse> {
        use pb::append_entries_response::Result as Appended;
        let request = request.into_inner();
        let group = self.gate.enter_as(request.to_node, &request.group_uid)?;
        let entries = request.entries.into_iter().map(entry_in).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
        let last = entries.last().map(|entry| entry.log_id);
        let request: AppendEntriesRequest<Types> = AppendEntriesRequest {
            vote: vote_in(&request.vote).map_err(malformed)?,
            prev_log_id: optional_log_id_in(&request.previous),
            entries,
            leader_commit: optional_log_id_in(&request.leader_commit),
        };
        plausible::vote(&request.vote, group.term()).map_err(malformed)?;
        plausible::entries(&request.vote, request.prev_log_id, &request.entries).map_err(malformed)?;
        plausible::within(&request.vote, request.leader_commit).map_err(malformed)?;
        // Before the disk is waited for: a leader whose call ran out of time was heard too.
        if request.vote.is_committed() && request.vote >= group.metrics().vote {
            group.heard.note();
        }
        let appended = group.raft.append_entries(request).await.map_err(unavailable)?;
        let result = match appended {
            AppendEntriesResponse::Success => Appended::Appended(true),
            AppendEntriesResponse::PartialSuccess(id) if id == last => Appended::Appended(true),
            AppendEntriesResponse::PartialSuccess(Some(id)) => Appended::PartlyAppended(log_id_out(&id)),
            AppendEntriesResponse::PartialSuccess(None) => return Err(unavailable("nothing was appended")),
            AppendEntriesResponse::Conflict => Appended::Conflict(true),
            AppendEntriesResponse::HigherVote(vote) => Appended::HigherVote(vote_out(&vote)),
        };
        Ok(Response::new(pb::AppendEntriesResponse { result: Some(result) }))
    }

    async fn request_vote(&self, request: Request<pb::RequestVoteRequest>) -> Answer<pb::RequestVoteResponse> {
        let request = request.into_inner();
        let group = self.gate.enter_as(request.to_node, &request.group_uid)?;
        // Before it was restarted it may have told a leader that it will vote for nobody else for a while.
        if group.started.elapsed() < ELECTION_TIMEOUT_MIN && !request.leadership_transfer {
            return Err(unavailable("the node has just started, and votes in a moment"));
        }
        let vote = VoteRequest {
            vote: vote_in(&request.vote).map_err(malformed)?,
            last_log_id: optional_log_id_in(&request.last_log_id),
            leadership_transfer: request.leadership_transfer,
        };
        plausible::vote(&vote.vote, group.term()).map_err(malformed)?;
        let answer = match request.pre {
            true => group.raft.pre_vote(vote).await,
            false => group.raft.vote(vote).await,
        };
        let answer = answer.map_err(unavailable)?;
        Ok(Response::new(pb::RequestVoteResponse {
            vote: Some(vote_out(&answer.vote)),
            granted: answer.vote_granted,
            last_log_id: optional_log_id_out(&answer.last_log_id),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::InstallSnapshotRequest>>,
    ) -> Answer<pb::InstallSnapshotResponse> {
        let vote = self.receive(request.into_inner()).await?;
        Ok(Response::new(pb::InstallSnapshotResponse { vote: Some(vote_out(&vote)) }))
    }

    async fn take_over(&self, request: Request<pb::TakeOverRequest>) -> Answer<pb::TakeOverResponse> {
        let request = request.into_inner();
        let group = self.gate.enter_as(request.to_node, &request.group_uid)?;
        let from = vote_in(&request.from_leader).map_err(malformed)?;
        let asked = TransferLeaderRequest::new(from, group.node, optional_log_id_in(&request.last_log_id));
        let answer: Result<(), TransferLeaderError<Types>> =
            group.raft.handle_transfer_leader(asked).await.map_err(unavailable)?;
        let refusal = answer.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(Response::new(pb::TakeOverResponse { refusal }))
    }
}
