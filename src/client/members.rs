//! The nodes of a consensus group, the Directory's or the Lock service's: who they are, and changing that.

use std::time::Duration;

use tonic::{Request, Response, Status, transport::Channel};

use super::{
    Client, Error,
    call::{Service, TRY_TIMEOUT},
    channels::Purpose,
};
use crate::pb::{self, members_client::MembersClient};

/// Whose group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupKind {
    #[default]
    Directory,
    Lock,
}

/// A node of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub server: String,
    /// Drawn with the data folder: a folder that was wiped comes back as another node.
    pub node_id: u64,
    pub address: String,
    pub external_address: String,
    /// A node that has just joined is no voter until it has caught up.
    pub is_voter: bool,
    pub is_leader: bool,
    /// Its server has lost the log of an earlier self: it takes part under a new id, and votes once it is level.
    pub is_rejoined: bool,
    /// The newest entry of the log that the node holds, and how long it has not answered; known to the leader alone.
    pub log_index: Option<u64>,
    pub silence: Option<Duration>,
}

fn members_client(channel: Channel) -> MembersClient<Channel> {
    MembersClient::new(channel)
}

impl Client {
    /// The nodes of a group.
    pub async fn members(&self, of: GroupKind) -> Result<Vec<Member>, Error> {
        let call = |channel, request| async move { members_client(channel).list_members(request).await };
        let answer = self.ask_group(of, "list the members", pb::ListMembersRequest {}, call).await?;
        Ok(answer.members.into_iter().map(member).collect())
    }

    /// Waits until a node that has joined has caught up and votes.
    pub async fn promote_member(&self, of: GroupKind, server: &str) -> Result<(), Error> {
        let request = pb::PromoteMemberRequest { server_id: server.to_owned() };
        let call = |channel, request| async move { members_client(channel).promote_member(request).await };
        self.ask_group(of, "promote a member", request, call).await.map(|_| ())
    }

    /// Takes a node out of the group; it need not be alive.
    pub async fn remove_member(&self, of: GroupKind, server: &str) -> Result<(), Error> {
        let request = pb::RemoveMemberRequest { server_id: server.to_owned() };
        let call = |channel, request| async move { members_client(channel).remove_member(request).await };
        self.ask_group(of, "remove a member", request, call).await.map(|_| ())
    }

    /// Makes a voter the leader.
    pub async fn transfer_leadership(&self, of: GroupKind, server: &str) -> Result<(), Error> {
        let request = pb::TransferLeadershipRequest { server_id: server.to_owned() };
        let call = |channel, request| async move { members_client(channel).transfer_leadership(request).await };
        self.ask_group(of, "transfer the lead", request, call).await.map(|_| ())
    }

    /// With the patience of a change of the members, which takes its time.
    async fn ask_group<R, T, F, Fut>(&self, of: GroupKind, what: &str, request: R, call: F) -> Result<T, Error>
    where
        R: Clone,
        F: Fn(Channel, Request<R>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let service = match of {
            GroupKind::Directory => self.directory_service(),
            GroupKind::Lock => Service { try_timeout: TRY_TIMEOUT, ..self.lock_service() },
        };
        service.call(what, self.deadline(), Purpose::Control, request, call).await
    }
}

fn member(member: pb::Member) -> Member {
    Member {
        server: member.server_id,
        node_id: member.node_id,
        address: member.address,
        external_address: member.external_address,
        is_voter: member.voter,
        is_leader: member.leader,
        is_rejoined: member.rejoined,
        log_index: member.log_index,
        silence: member.silent_ms.map(Duration::from_millis),
    }
}
