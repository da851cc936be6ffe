//! Who belongs to the group: a node that comes is a learner until it is level, then it votes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use openraft::{
    ChangeMembers,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};
use tokio::time::{sleep, timeout};
use tonic::{Request, Response, Status};

use super::{
    convert::Malformed,
    error::Error,
    group::{Group, matched_index, silence_of},
    identity::GroupUid,
    role::Role,
    service::Gate,
    types::{Metrics, Node, NodeId},
};
use crate::{pb, serve, status::Failure};

/// A learner that lacks at most so many entries is level.
const LEVEL_WITHIN: u64 = 100;
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Between two tries to change the members while they are being changed.
const CHANGE_PAUSE: Duration = Duration::from_millis(50);
const CHANGE_DEADLINE: Duration = Duration::from_secs(4);
/// A promotion waits for the learner to be level.
const PROMOTE_DEADLINE: Duration = Duration::from_secs(30);
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(1);
/// A member that has answered the leader so lately is alive.
const ALIVE_WITHIN: Duration = Duration::from_secs(2);
/// Whoever holds a node id is asked who it is for so long.
const HOLDER_DEADLINE: Duration = Duration::from_secs(1);

impl Group {
    /// Lets learners vote that have caught up, for as long as this node leads. Never ends.
    pub async fn promote_learners(self: Arc<Self>) {
        let mut role = self.role();
        let mut silent = BTreeSet::new();
        loop {
            if !matches!(*role.borrow_and_update(), Role::Leader { .. }) {
                if role.changed().await.is_err() {
                    return std::future::pending().await;
                }
                continue;
            }
            silent = self.tell_of_silence(&silent);
            for learner in self.level_learners() {
                match self.change(ChangeMembers::AddVoterIds(BTreeSet::from([learner]))).await {
                    Ok(()) => tracing::info!(node = learner, "a learner is level and votes from now on"),
                    Err(error) => tracing::debug!(node = learner, %error, "a learner does not vote yet"),
                }
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Says who of the others has fallen silent or is back, once each; who is silent now.
    fn tell_of_silence(&self, before: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let metrics = self.metrics();
        let led_for = self.led_for();
        let is_silent = |id: &NodeId| *id != self.node && is_silent(silence_of(&metrics, *id), led_for);
        let mut silent = BTreeSet::new();
        for (id, node) in metrics.membership_config.nodes() {
            match (is_silent(id), before.contains(id)) {
                (true, false) => tracing::warn!(%node, "a node of the group does not answer"),
                (false, true) => tracing::info!(%node, "a node of the group answers again"),
                _ => {}
            }
            if is_silent(id) {
                silent.insert(*id);
            }
        }
        silent
    }

    fn level_learners(&self) -> Vec<NodeId> {
        let metrics = self.metrics();
        let last = metrics.last_log_index.unwrap_or_default();
        let learners = metrics.membership_config.membership().learner_ids();
        let is_level = |node| matched_index(&metrics, node).is_some_and(|matched| matched + LEVEL_WITHIN >= last);
        // One that has died since would be a voter that the others wait for.
        learners.filter(|node| is_alive(&metrics, *node) && is_level(*node)).collect()
    }

    /// One change after the other: what another one is in the way of waits for it.
    async fn change(&self, change: ChangeMembers<NodeId, Node>) -> Result<(), Error> {
        let changing = async {
            loop {
                match self.raft.change_membership(change.clone(), false).await {
                    Ok(_) => return Ok(()),
                    Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                        ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
                    ))) => sleep(CHANGE_PAUSE).await,
                    Err(error) => return Err(super::group::write_error(error)),
                }
            }
        };
        timeout(CHANGE_DEADLINE, changing).await.unwrap_or(Err(Error::TimedOut))
    }

    pub(super) fn expect_lead(&self) -> Result<(), Error> {
        match &*self.role().borrow() {
            Role::Leader { .. } => Ok(()),
            Role::Other { leader } => Err(Error::NotLeader { leader: leader.clone() }),
            Role::Ended => Err(Error::Ended),
        }
    }

    fn node_called(&self, server: &str) -> Result<NodeId, Error> {
        let metrics = self.metrics();
        let found = metrics.membership_config.nodes().find(|(_, node)| node.server == server).map(|(id, _)| *id);
        found.ok_or_else(|| Error::UnknownMember { server: server.to_owned() })
    }

    fn is_voter(&self, node: NodeId) -> bool {
        self.metrics().membership_config.voter_ids().any(|voter| voter == node)
    }

    /// Takes a node in, or takes note of where it is now.
    pub(super) async fn admit(&self, candidate: Candidate) -> Result<(), Error> {
        self.expect_lead()?;
        let Candidate { id, node, process, known } = candidate;
        let metrics = self.metrics();
        let membership = &metrics.membership_config;
        match membership.get_node(&id) {
            Some(at) if *at == node => return self.expect_same_process(id, at, process).await,
            Some(at) => {
                self.expect_same_process(id, at, process).await?;
                self.expect_silent_there(id)?;
                return self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, node)]))).await;
            }
            None if known => return Err(self.why_not_known(id, node.server).await),
            None => {}
        }
        let namesake = membership.nodes().find(|(_, known)| known.server == node.server).map(|(id, _)| *id);
        if let Some(old) = namesake {
            self.let_go_of(old, &node.server).await?;
        }
        tracing::info!(%node, id, "a node joins the group");
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, node)]))).await
    }

    /// A node that takes itself for a member is none: it was removed, if this leader knows all that was decided.
    async fn why_not_known(&self, id: NodeId, server: String) -> Error {
        if let Err(error) = self.confirm_lead().await {
            return error;
        }
        let metrics = self.metrics();
        let of = [&metrics.membership_config, &metrics.committed_membership_config];
        match of.iter().any(|membership| membership.get_node(&id).is_some()) {
            true => Error::Busy,
            false => Error::Removed { server },
        }
    }

    /// Refuses a second process with a member's id, which has a copy of its data folder: the first one has promised what the
    /// second does not know. `at`: where the group knows the node.
    async fn expect_same_process(&self, id: NodeId, at: &Node, process: u64) -> Result<(), Error> {
        let holder = match id == self.node {
            // Of a version that draws none.
            _ if process == 0 => return Ok(()),
            true => Some(self.process),
            false => self.process_at(id, at).await,
        };
        match holder.is_none_or(|holder| holder == process) {
            true => Ok(()),
            false => Err(Error::NodeTaken { server: at.server.clone(), address: at.address.clone(), node: id }),
        }
    }

    /// A node that still answers where the group knows it has not moved, whatever another process says that has its id.
    fn expect_silent_there(&self, id: NodeId) -> Result<(), Error> {
        match id == self.node || is_silent(silence_of(&self.metrics(), id), self.led_for()) {
            true => Ok(()),
            false => Err(Error::Busy),
        }
    }

    /// Which process takes part as a node at an address; `None`: none that answers.
    async fn process_at(&self, id: NodeId, at: &Node) -> Option<u64> {
        let mut client = pb::members_client::MembersClient::new(serve::channel(&at.address).ok()?);
        let answer = timeout(HOLDER_DEADLINE, client.list_members(pb::ListMembersRequest {})).await.ok()?.ok()?;
        let answer = answer.into_inner();
        (answer.node_id == id && answer.group_uid == self.identity.to_wire()).then_some(answer.process)
    }

    /// Removes the node that a server was before its data folder was emptied or its log was lost; not while it answers, nor
    /// before it had time to answer a new leader.
    async fn let_go_of(&self, old: NodeId, server: &str) -> Result<(), Error> {
        let silence = silence_of(&self.metrics(), old);
        if old == self.node || !is_silent(silence, self.led_for()) {
            return Err(Error::NameTaken { server: server.to_owned() });
        }
        tracing::warn!(server, old, "a member comes back without what it knew: its old self is removed");
        self.remove(old, server).await
    }

    async fn remove(&self, id: NodeId, server: &str) -> Result<(), Error> {
        let voters: Vec<NodeId> = self.metrics().membership_config.voter_ids().collect();
        if voters == [id] {
            return Err(Error::OnlyVoter { server: server.to_owned() });
        }
        match voters.contains(&id) {
            true => self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await,
            false => self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await,
        }
    }

    /// Waits until a learner votes; what is in its way, if it does not within `patience`.
    pub(super) async fn promote(&self, server: &str, patience: Duration) -> Result<(), Error> {
        self.expect_lead()?;
        let id = self.node_called(server)?;
        let voting = async {
            while !self.is_voter(id) {
                sleep(LOOK_INTERVAL).await;
            }
        };
        if timeout(patience, voting).await.is_ok() {
            return Ok(());
        }
        self.expect_lead()?;
        let (server, metrics) = (server.to_owned(), self.metrics());
        if is_silent(silence_of(&metrics, id), self.led_for()) {
            return Err(Error::NotAnswering { server });
        }
        let has = matched_index(&metrics, id).map_or(0, |index| index + 1);
        let lacks = metrics.last_log_index.map_or(0, |last| last + 1).saturating_sub(has);
        Err(Error::NotLevel { server, lacks })
    }

    async fn transfer(&self, server: &str) -> Result<(), Error> {
        self.expect_lead()?;
        let id = self.node_called(server)?;
        if !self.is_voter(id) {
            return Err(Error::NotAVoter { server: server.to_owned() });
        }
        if id == self.node {
            return Ok(());
        }
        self.offer_lead(id).await?;
        let mut role = self.role();
        let passed_on = role.wait_for(|role| matches!(role, Role::Other { leader: Some(_) }));
        match timeout(CHANGE_DEADLINE, passed_on).await.map(|role| role.map(|role| role.clone())) {
            Ok(Ok(Role::Other { leader: Some(leader) })) if leader.server == server => Ok(()),
            // It was not level enough, and another one has won: that one can be asked.
            Ok(Ok(Role::Other { leader })) => Err(Error::NotLeader { leader }),
            Ok(_) => Err(Error::Ended),
            Err(_) => Err(Error::TimedOut),
        }
    }

    /// Before a leader leaves: whoever is most level takes over, so that nobody waits for an election.
    pub async fn hand_over(&self) {
        let metrics = self.metrics();
        let others = metrics.membership_config.voter_ids().filter(|voter| *voter != self.node);
        let heir = others.max_by_key(|voter| matched_index(&metrics, *voter));
        let Some(heir) = heir.filter(|_| self.expect_lead().is_ok()) else { return };
        if self.offer_lead(heir).await.is_ok() {
            let mut role = self.role();
            // If it does not come to it, the others elect one of themselves.
            let _unheard =
                timeout(HAND_OVER_DEADLINE, role.wait_for(|role| !matches!(role, Role::Leader { .. }))).await;
        }
    }

    fn list(&self) -> Result<pb::ListMembersResponse, Error> {
        // What its log says of the members is no longer true.
        self.expect_counted()?;
        let metrics = self.metrics();
        let leader = self.leader_heard(&metrics);
        let member = |(id, node): (&NodeId, &Node)| pb::Member {
            server_id: node.server.clone(),
            node_id: *id,
            address: node.address.clone(),
            external_address: node.external_address.clone(),
            rejoined: node.rejoined,
            voter: self.is_voter(*id),
            leader: leader == Some(*id),
            log_index: matched_index(&metrics, *id),
            silent_ms: silence_of(&metrics, *id).map(|silence| silence.as_millis() as u64),
        };
        Ok(pb::ListMembersResponse {
            members: metrics.membership_config.nodes().map(member).collect(),
            term: metrics.current_term,
            log_index: metrics.last_log_index.unwrap_or_default(),
            applied_index: metrics.last_applied.map_or(0, |id| id.index),
            server_id: self.me.server.clone(),
            group_uid: self.identity.to_wire(),
            service: self.identity.service.to_owned(),
            node_id: self.node,
            process: self.process,
        })
    }
}

/// To this leader.
fn is_alive(metrics: &Metrics, node: NodeId) -> bool {
    silence_of(metrics, node).is_some_and(|silence| silence < ALIVE_WITHIN)
}

/// Whether a node counts as dead. One that has never answered has had as long as this node leads.
fn is_silent(silence: Option<Duration>, led_for: Option<Duration>) -> bool {
    silence.or(led_for).is_some_and(|silence| silence >= ALIVE_WITHIN)
}

/// A node that wants to be a member, or to stay one.
pub(super) struct Candidate {
    pub id: NodeId,
    pub node: Node,
    /// Tells it from another process with the same data.
    pub process: u64,
    /// It takes itself for a member, and does not want to be one if it was removed.
    pub known: bool,
}

pub struct MembersService(pub Gate);

type Answered<T> = Result<Response<T>, Status>;

fn failed(error: Error) -> Status {
    Failure::from(error).into()
}

#[tonic::async_trait]
impl pb::members_server::Members for MembersService {
    async fn list_members(&self, _: Request<pb::ListMembersRequest>) -> Answered<pb::ListMembersResponse> {
        Ok(Response::new(self.0.enter()?.list().map_err(failed)?))
    }

    async fn add_member(&self, request: Request<pb::AddMemberRequest>) -> Answered<pb::AddMemberResponse> {
        let request = request.into_inner();
        if request.server_id.parse::<crate::types::ServerId>().is_err() {
            return Err(failed(Error::BadArgument { field: "server_id", what: "it is no name of a server" }));
        }
        if request.address.is_empty() || serve::channel(&request.address).is_err() {
            return Err(failed(Error::BadArgument { field: "address", what: "it is not HOST:PORT" }));
        }
        let node = Node {
            server: request.server_id,
            address: request.address,
            external_address: request.external_address,
            rejoined: request.rejoined,
        };
        let group = self.0.enter()?;
        group.identity.compare_service(&request.service).map_err(failed)?;
        if !request.group_uid.is_empty() {
            let theirs = GroupUid::from_wire(&request.group_uid)
                .map_err(|Malformed(what)| failed(Error::BadArgument { field: "group_uid", what }))?;
            group.identity.compare(theirs).unwrap_or(Ok(())).map_err(failed)?;
        }
        let is_ours = group.nodes().iter().any(|(id, _)| *id == request.node_id);
        if request.known && request.group_uid.is_empty() && !is_ours {
            // It may be of another group, and its address that of a node of this one by chance.
            return Err(failed(Error::Busy));
        }
        let candidate = Candidate { id: request.node_id, node, process: request.process, known: request.known };
        group.admit(candidate).await.map_err(failed)?;
        Ok(Response::new(pb::AddMemberResponse { group_uid: group.identity.to_wire() }))
    }

    async fn promote_member(&self, request: Request<pb::PromoteMemberRequest>) -> Answered<pb::PromoteMemberResponse> {
        self.0.enter()?.promote(&request.get_ref().server_id, PROMOTE_DEADLINE).await.map_err(failed)?;
        Ok(Response::new(pb::PromoteMemberResponse {}))
    }

    async fn remove_member(&self, request: Request<pb::RemoveMemberRequest>) -> Answered<pb::RemoveMemberResponse> {
        let (group, server) = (self.0.enter()?, &request.get_ref().server_id);
        group.expect_lead().map_err(failed)?;
        let id = group.node_called(server).map_err(failed)?;
        group.remove(id, server).await.map_err(failed)?;
        Ok(Response::new(pb::RemoveMemberResponse {}))
    }

    async fn transfer_leadership(
        &self,
        request: Request<pb::TransferLeadershipRequest>,
    ) -> Answered<pb::TransferLeadershipResponse> {
        self.0.enter()?.transfer(&request.get_ref().server_id).await.map_err(failed)?;
        Ok(Response::new(pb::TransferLeadershipResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_no_time_to_answer_a_new_leader_is_not_taken_for_dead() {
        let moment = Some(Duration::from_millis(1));
        assert!(!is_silent(None, moment), "just elected");
        assert!(!is_silent(None, None), "not elected at all");
        assert!(is_silent(None, Some(ALIVE_WITHIN)));
        assert!(!is_silent(moment, Some(ALIVE_WITHIN * 9)));
        assert!(is_silent(Some(ALIVE_WITHIN), Some(ALIVE_WITHIN * 9)));
    }
}
