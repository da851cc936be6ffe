//! Moving groups between file servers: drain, resume, remove, rebalance.
//!
//! Each call only asks for it; it goes on in the background and survives restarts. [`Client::servers`] says how many groups and
//! blobs a server still has, [`Client::status`] how many groups are moving.

use tonic::{Response, Status};

use super::{Client, Error, call::cluster_client, convert::unread};
use crate::{
    convert, pb,
    status::{Failure, Reason},
    types::{GroupId, ServerId},
};

/// One member of a group gives its place to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMove {
    pub group: GroupId,
    /// `None`: the group is short of members, and gets one more.
    pub leaving: Option<ServerId>,
    pub arriving: ServerId,
}

fn planned(moves: &[pb::PlannedMove]) -> Result<Vec<PlannedMove>, Error> {
    let read = |planned: &pb::PlannedMove| {
        Ok(PlannedMove {
            group: GroupId(planned.group),
            leaving: convert::optional_server_id("moves.leaving", &planned.leaving)?,
            arriving: convert::server_id("moves.arriving", &planned.arriving)?,
        })
    };
    moves.iter().map(|planned| read(planned).map_err(unread)).collect()
}

fn is_refusal(status: &Status) -> bool {
    matches!(Failure::from(status).reason, Reason::NotEnoughReplicas | Reason::NoSpace)
}

impl Client {
    /// Has every group of a file server moved to others. Answers what is still to be moved.
    ///
    /// Reasons: `ServerNotFound`; `NotEnoughReplicas` or `NoSpace` when the others are too few or too full.
    pub async fn drain_server(&self, server: &str) -> Result<Vec<PlannedMove>, Error> {
        self.drain(server, false).await
    }

    /// What [`Client::drain_server`] would move.
    pub async fn plan_drain(&self, server: &str) -> Result<Vec<PlannedMove>, Error> {
        self.drain(server, true).await
    }

    async fn drain(&self, server: &str, validate_only: bool) -> Result<Vec<PlannedMove>, Error> {
        let request = pb::DrainServerRequest { server_id: server.to_owned(), validate_only };
        let call = |channel, request| async move {
            match cluster_client(channel).drain_server(request).await {
                Ok(answer) => Ok(Response::new(Ok(answer.into_inner()))),
                // Waiting adds no servers: it is an answer.
                Err(status) if is_refusal(&status) => Ok(Response::new(Err(status))),
                Err(status) => Err(status),
            }
        };
        planned(&self.directory("drain a server", request, call).await??.moves)
    }

    /// Ends a drain: the server keeps what it still has.
    pub async fn resume_server(&self, server: &str) -> Result<(), Error> {
        let request = pb::ResumeServerRequest { server_id: server.to_owned() };
        let call = |channel, request| async move { cluster_client(channel).resume_server(request).await };
        self.directory("resume a server", request, call).await.map(|_| ())
    }

    /// Takes a file server that was drained out of the cluster. Its data folder is never taken again.
    ///
    /// Reasons: `ServerNotFound`; `ServerInUse` when it holds groups, or is up and was not drained.
    pub async fn remove_server(&self, server: &str) -> Result<(), Error> {
        self.remove(server, false).await.map(|_| ())
    }

    /// Takes a file server out that is down and will never come back. Answers how many groups still need a replacement for
    /// it; it goes with the last of them.
    ///
    /// Reasons: `ServerNotFound`; `ServerInUse` when it is up, or alone has what a group holds.
    pub async fn remove_lost_server(&self, server: &str) -> Result<u32, Error> {
        self.remove(server, true).await
    }

    async fn remove(&self, server: &str, lost: bool) -> Result<u32, Error> {
        // The Directory takes one that it does not know for removed: so a call may be tried again.
        if !self.servers().await?.fileservers.iter().any(|known| known.server.as_str() == server) {
            return Err(Error::new(Reason::ServerNotFound, format!("server {server} is not registered")));
        }
        let request = pb::RemoveServerRequest { server_id: server.to_owned(), lost };
        let call = |channel, request| async move { cluster_client(channel).remove_server(request).await };
        Ok(self.directory("remove a server", request, call).await?.remaining_group_count)
    }

    /// Has the groups spread evenly over the file servers now. Answers what is to be moved; nothing while repairs come first.
    pub async fn rebalance(&self) -> Result<Vec<PlannedMove>, Error> {
        self.spread(false).await
    }

    /// What [`Client::rebalance`] would move.
    pub async fn plan_rebalance(&self) -> Result<Vec<PlannedMove>, Error> {
        self.spread(true).await
    }

    async fn spread(&self, validate_only: bool) -> Result<Vec<PlannedMove>, Error> {
        let request = pb::RebalanceServersRequest { validate_only };
        let call = |channel, request| async move { cluster_client(channel).rebalance_servers(request).await };
        planned(&self.directory("rebalance", request, call).await?.moves)
    }
}
