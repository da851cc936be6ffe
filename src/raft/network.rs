//! The way out: how a node reaches the others of its group.
//!
//! Each kind of traffic has a connection of its own, so that neither a large entry nor a snapshot holds a heartbeat up.
//! Every call has a deadline; after a call that nobody answered the connection is made anew.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status, transport::Channel};

use super::{
    convert::{
        Malformed, entry_out, log_id_in, log_id_out, membership_out, optional_log_id_in, optional_log_id_out, vote_in,
        vote_out,
    },
    identity::Identity,
    snapshot::{Snapshot, Tables, dump},
    types::{Node, NodeId, Types, Vote},
};
use crate::{pb, pb::raft_client::RaftClient, serve};

/// A heartbeat that takes longer has failed; the next one is on its way.
const HEARTBEAT_DEADLINE: Duration = Duration::from_millis(500);
/// Entries wait for the other's disk.
const APPEND_DEADLINE: Duration = Duration::from_secs(3);
const VOTE_DEADLINE: Duration = Duration::from_millis(500);
/// A receiver of a snapshot that takes nothing for so long is gone. It also has so long to install it.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(60);
/// Messages of a snapshot that wait for the network.
const SNAPSHOT_QUEUE: usize = 4;
/// Entries are at most as long as the largest request of a client, many together make up a message.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

type Held = openraft::type_config::alias::SnapshotOf<Types, Snapshot>;

/// Where the members are, as the newest list says: a connection of the library outlives a member's move.
#[derive(Clone, Default)]
pub struct Addresses(Arc<Mutex<BTreeMap<NodeId, String>>>);

impl Addresses {
    pub fn update<'a>(&self, nodes: impl Iterator<Item = (&'a NodeId, &'a Node)>) {
        let nodes = nodes.map(|(id, node)| (*id, node.address.clone())).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    fn of(&self, node: NodeId) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }
}

/// Makes connections to the others.
pub struct Network {
    pub tables: Tables,
    pub identity: Arc<Identity>,
    pub addresses: Addresses,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Node) -> Peer {
        Peer {
            target,
            address: node.address.clone(),
            channel: None,
            tables: self.tables,
            identity: self.identity.clone(),
            addresses: self.addresses.clone(),
        }
    }
}

/// One connection to one other node, made when first used.
pub struct Peer {
    target: NodeId,
    address: String,
    channel: Option<Channel>,
    tables: Tables,
    identity: Arc<Identity>,
    addresses: Addresses,
}

/// Why a call has no answer.
enum CallError {
    Refused(Status),
    Silent(Duration),
    Malformed(Malformed),
}

impl From<Malformed> for CallError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl From<CallError> for RPCError<Types> {
    fn from(error: CallError) -> Self {
        match error {
            // Nobody listens, or somebody else does: no use to try at once.
            CallError::Refused(status)
                if matches!(status.code(), Code::Unavailable | Code::InvalidArgument | Code::FailedPrecondition) =>
            {
                RPCError::Unreachable(Unreachable::from_string(status))
            }
            CallError::Refused(status) => RPCError::Network(NetworkError::from_string(status)),
            CallError::Silent(time) => {
                RPCError::Unreachable(Unreachable::from_string(format!("no answer for {time:?}")))
            }
            CallError::Malformed(error) => RPCError::Network(NetworkError::new(&error)),
        }
    }
}

impl Peer {
    fn client(&mut self) -> Result<RaftClient<Channel>, CallError> {
        if let Some(now) = self.addresses.of(self.target).filter(|now| *now != self.address) {
            (self.address, self.channel) = (now, None);
        }
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => {
                let made = serve::channel(&self.address).map_err(|error| Status::unavailable(error.to_string()));
                self.channel.insert(made.map_err(CallError::Refused)?).clone()
            }
        };
        Ok(RaftClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    async fn answer<T>(
        &mut self,
        deadline: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(CallError::Refused(status)),
            Err(_) => {
                self.channel = None;
                Err(CallError::Silent(deadline))
            }
        }
    }

    async fn ask_for_vote(&mut self, request: VoteRequest<Types>, pre: bool) -> Result<VoteResponse<Types>, CallError> {
        let request = pb::RequestVoteRequest {
            to_node: self.target,
            vote: Some(vote_out(&request.vote)),
            last_log_id: optional_log_id_out(&request.last_log_id),
            leadership_transfer: request.leadership_transfer,
            pre,
            group_uid: self.identity.to_wire(),
        };
        let mut client = self.client()?;
        let answer = self.answer(VOTE_DEADLINE, client.request_vote(request)).await?;
        Ok(VoteResponse::new(vote_in(&answer.vote)?, optional_log_id_in(&answer.last_log_id), answer.granted))
    }

    async fn append(
        &mut self,
        request: AppendEntriesRequest<Types>,
    ) -> Result<AppendEntriesResponse<Types>, CallError> {
        use pb::append_entries_response::Result as Appended;
        let follows_nothing = request.prev_log_id.is_none();
        let deadline = if request.entries.is_empty() { HEARTBEAT_DEADLINE } else { APPEND_DEADLINE };
        let request = pb::AppendEntriesRequest {
            to_node: self.target,
            vote: Some(vote_out(&request.vote)),
            previous: optional_log_id_out(&request.prev_log_id),
            entries: request.entries.iter().map(entry_out).collect(),
            leader_commit: optional_log_id_out(&request.leader_commit),
            group_uid: self.identity.to_wire(),
        };
        let mut client = self.client()?;
        let answer = self.answer(deadline, client.append_entries(request)).await?;
        Ok(match answer.result.ok_or(Malformed("an answer without a result"))? {
            Appended::Appended(_) => AppendEntriesResponse::Success,
            Appended::PartlyAppended(id) => AppendEntriesResponse::PartialSuccess(Some(log_id_in(&id))),
            // The library asserts that the beginning of a log conflicts with nothing.
            Appended::Conflict(_) if follows_nothing => {
                return Err(Malformed("a conflict before the first entry").into());
            }
            Appended::Conflict(_) => AppendEntriesResponse::Conflict,
            Appended::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote_in(&Some(vote))?),
        })
    }

    /// Sends the whole state; reading it blocks, so that has a thread of its own.
    async fn send_snapshot(&mut self, vote: Vote, snapshot: Held) -> Result<SnapshotResponse<Types>, CallError> {
        let Snapshot::Ours(transaction) = snapshot.snapshot else {
            return Err(Malformed("a snapshot that was received is not sent on").into());
        };
        let begin = pb::SnapshotBegin {
            to_node: self.target,
            vote: Some(vote_out(&vote)),
            last_log_id: optional_log_id_out(&snapshot.meta.last_log_id),
            membership_log_id: snapshot.meta.last_membership.log_id().as_ref().map(log_id_out),
            membership: Some(membership_out(snapshot.meta.last_membership.membership())),
            group_uid: self.identity.to_wire(),
        };
        let (sender, parts) = mpsc::channel(SNAPSHOT_QUEUE);
        let tables = self.tables;
        let reading = tokio::task::spawn_blocking(move || {
            use pb::install_snapshot_request::Part;
            let send = |part| sender.blocking_send(pb::InstallSnapshotRequest { part: Some(part) }).is_ok();
            if !send(Part::Begin(begin)) {
                return;
            }
            match dump(tables, &transaction, &mut |rows| send(Part::Rows(rows))) {
                Ok(row_count) => drop(send(Part::End(pb::SnapshotEnd { row_count }))),
                // Without its end nobody takes it for whole.
                Err(error) => tracing::error!(%error, "the state cannot be read for a snapshot"),
            }
        });
        let mut client = self.client()?;
        // The transfer takes as long as it takes; what bounds it is its progress.
        let (progress, mut stalled) = mpsc::channel::<()>(1);
        let watched = ReceiverStream::new(parts).inspect(move |_| {
            // One that waits says the same.
            let _unheard = progress.try_send(());
        });
        let stalls = async {
            loop {
                match tokio::time::timeout(SNAPSHOT_DEADLINE, stalled.recv()).await {
                    Ok(Some(())) => {}
                    // All is sent; now it is installed.
                    Ok(None) => return tokio::time::sleep(SNAPSHOT_DEADLINE).await,
                    Err(_) => return,
                }
            }
        };
        let answer = tokio::select! {
            answer = client.install_snapshot(watched) => answer.map_err(CallError::Refused)?.into_inner(),
            () = stalls => return Err(CallError::Silent(SNAPSHOT_DEADLINE)),
        };
        drop(reading);
        Ok(SnapshotResponse::new(vote_in(&answer.vote)?))
    }

    async fn ask_to_take_over(
        &mut self,
        request: TransferLeaderRequest<Types>,
    ) -> Result<TransferLeaderResponse<Types>, CallError> {
        let request = pb::TakeOverRequest {
            to_node: self.target,
            from_leader: Some(vote_out(request.from_leader())),
            last_log_id: request.last_log_id().map(log_id_out),
            group_uid: self.identity.to_wire(),
        };
        let mut client = self.client()?;
        let answer = self.answer(VOTE_DEADLINE, client.take_over(request)).await?;
        match answer.refusal.is_empty() {
            true => Ok(Ok(())),
            false => Err(CallError::Refused(Status::aborted(answer.refusal))),
        }
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Snapshot;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Ok(self.append(request).await?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Ok(self.ask_for_vote(request, false).await?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Ok(self.ask_for_vote(request, true).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Held,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            sent = self.send_snapshot(vote, snapshot) => Ok(sent.map_err(RPCError::from)?),
            closed = cancel => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        Ok(self.ask_to_take_over(request).await?)
    }
}
