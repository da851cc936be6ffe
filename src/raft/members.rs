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
    group::{Group, Role, matched_index, silence_of},
    identity::GroupUid,
    service::Gate,
    types::{Metrics, Node, NodeId},
};
use crate::{
    pb, serve,
    status::{Failure, Reason},
};

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
/// Pause between two tries to be let in, and the time of one.
const JOIN_PAUSE: Duration = Duration::from_millis(200);
const JOIN_DEADLINE: Duration = Duration::from_secs(5);

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

    fn expect_lead(&self) -> Result<(), Error> {
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
    async fn admit(&self, id: NodeId, node: Node) -> Result<(), Error> {
        self.expect_lead()?;
        let metrics = self.metrics();
        let membership = &metrics.membership_config;
        match membership.get_node(&id) {
            Some(known) if *known == node => return Ok(()),
            Some(_) => return self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, node)]))).await,
            None => {}
        }
        let namesake = membership.nodes().find(|(_, known)| known.server == node.server).map(|(id, _)| *id);
        if let Some(old) = namesake {
            self.let_go_of(old, &node.server).await?;
        }
        tracing::info!(%node, id, "a node joins the group");
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, node)]))).await
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

    async fn promote(&self, server: &str) -> Result<(), Error> {
        self.expect_lead()?;
        let id = self.node_called(server)?;
        let voting = async {
            while !self.is_voter(id) {
                sleep(LOOK_INTERVAL).await;
            }
        };
        timeout(PROMOTE_DEADLINE, voting).await.map_err(|_| Error::NotAVoter { server: server.to_owned() })
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

    /// Asks to be taken in until this node is a member under its present address. `others`: where to ask first.
    pub async fn become_member(self: Arc<Self>, others: Vec<String>) {
        let others = [others, self.identity.addresses()].concat();
        if others.is_empty() && self.was_removed().await {
            tracing::warn!("this node was removed from its group; start it with --join to have it back");
            return;
        }
        let mut failures = 0_u32;
        let mut leader = None;
        while !self.is_member() {
            let known = self.nodes().into_iter().map(|(_, node)| node);
            let known = known.filter(|node| node.server != self.me.server).map(|node| node.address);
            let addresses: Vec<String> = others.iter().cloned().chain(known).collect();
            let at = failures as usize % addresses.len().max(1);
            let address = leader.take().or_else(|| addresses.get(at).cloned());
            let asked = match (&address, &*self.role().borrow()) {
                // The leader knows best where it is itself.
                (_, Role::Leader { .. }) => None,
                (Some(address), _) => Some(address.clone()),
                (None, _) => None,
            };
            let admitted = match asked {
                Some(address) => self.ask_to_join(&address).await,
                None => self.admit(self.node, self.me.clone()).await.map_err(Failure::from),
            };
            if let Err(failure) = admitted {
                leader = failure.metadata.get("leader_address").cloned();
                if failures.is_power_of_two() {
                    tracing::warn!(%failure, ?address, "not let into the group yet");
                }
                failures += 1;
            }
            sleep(JOIN_PAUSE).await;
        }
        self.forget_earlier_self().await;
    }

    /// A member that is removed later must not come back by what its earlier self knew.
    async fn forget_earlier_self(&self) {
        if self.identity.addresses().is_empty() {
            return;
        }
        let identity = self.identity.clone();
        let forgotten = tokio::task::spawn_blocking(move || identity.forget_addresses()).await;
        if let Err(error) = forgotten.map_err(std::io::Error::other).flatten() {
            tracing::warn!(%error, "the addresses that an earlier self knew are kept until the next start");
        }
    }

    /// Whether the group goes on without this node. A log that was just opened has told nothing yet.
    async fn was_removed(&self) -> bool {
        loop {
            let nodes = self.nodes();
            if !nodes.is_empty() {
                return nodes.iter().all(|(id, _)| *id != self.node);
            }
            sleep(CHANGE_PAUSE).await;
        }
    }

    fn is_member(&self) -> bool {
        self.metrics().membership_config.get_node(&self.node) == Some(&self.me)
    }

    async fn ask_to_join(&self, address: &str) -> Result<(), Failure> {
        let channel = serve::channel(address).map_err(|_| Failure::bad_argument("join", "an address is HOST:PORT"))?;
        let request = pb::AddMemberRequest {
            server_id: self.me.server.clone(),
            node_id: self.node,
            address: self.me.address.clone(),
            external_address: self.me.external_address.clone(),
            group_uid: self.identity.to_wire(),
            service: self.identity.service.to_owned(),
            rejoined: self.me.rejoined,
        };
        let mut client = pb::members_client::MembersClient::new(channel);
        match timeout(JOIN_DEADLINE, client.add_member(request)).await {
            Ok(Ok(answer)) => self.belong_to(&answer.into_inner().group_uid).await,
            Ok(Err(status)) => Err(Failure::from(&status)),
            Err(_) => Err(Failure::new(Reason::DeadlineExceeded, "no answer")),
        }
    }

    /// The group that has taken this node in says who it is.
    async fn belong_to(&self, group_uid: &[u8]) -> Result<(), Failure> {
        let group = GroupUid::from_wire(group_uid).map_err(|error| Failure::bad_argument("group_uid", error))?;
        if let Some(compared) = self.identity.compare(group) {
            return compared.map_err(Failure::from);
        }
        let identity = self.identity.clone();
        let learned = tokio::task::spawn_blocking(move || identity.learn(group)).await;
        let learned = learned.map_err(|error| Failure::new(Reason::Internal, error))?;
        learned.map_err(|error| Failure::new(Reason::Internal, error))?;
        tracing::info!(%group, "this node belongs to a group");
        Ok(())
    }

    fn list(&self) -> pb::ListMembersResponse {
        let metrics = self.metrics();
        let member = |(id, node): (&NodeId, &Node)| pb::Member {
            server_id: node.server.clone(),
            node_id: *id,
            address: node.address.clone(),
            external_address: node.external_address.clone(),
            rejoined: node.rejoined,
            voter: self.is_voter(*id),
            leader: metrics.current_leader == Some(*id),
            log_index: matched_index(&metrics, *id),
            silent_ms: silence_of(&metrics, *id).map(|silence| silence.as_millis() as u64),
        };
        pb::ListMembersResponse {
            members: metrics.membership_config.nodes().map(member).collect(),
            term: metrics.current_term,
            log_index: metrics.last_log_index.unwrap_or_default(),
            applied_index: metrics.last_applied.map_or(0, |id| id.index),
            server_id: self.me.server.clone(),
            group_uid: self.identity.to_wire(),
            service: self.identity.service.to_owned(),
        }
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

pub struct MembersService(pub Gate);

type Answered<T> = Result<Response<T>, Status>;

fn failed(error: Error) -> Status {
    Failure::from(error).into()
}

#[tonic::async_trait]
impl pb::members_server::Members for MembersService {
    async fn list_members(&self, _: Request<pb::ListMembersRequest>) -> Answered<pb::ListMembersResponse> {
        Ok(Response::new(self.0.enter()?.list()))
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
        group.admit(request.node_id, node).await.map_err(failed)?;
        Ok(Response::new(pb::AddMemberResponse { group_uid: group.identity.to_wire() }))
    }

    async fn promote_member(&self, request: Request<pb::PromoteMemberRequest>) -> Answered<pb::PromoteMemberResponse> {
        self.0.enter()?.promote(&request.get_ref().server_id).await.map_err(failed)?;
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
