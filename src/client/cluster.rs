//! The cluster itself: how it is, who belongs to it, and whether it is ready.

use std::time::{Duration, Instant};

use super::{
    Client, ClusterStatus, Error, FileServerStatus, Servers,
    call::{attempt, cluster_client},
    channels::Purpose,
    convert::{self, unread},
    health::{self, Serving},
};
use crate::{
    cluster::{Group, Server},
    convert::cluster as shared,
    pb::{self, file_server_client::FileServerClient},
    status::{Failure, Reason},
};

/// For one question to one server.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at whether the cluster is ready.
const READY_INTERVAL: Duration = Duration::from_millis(200);
const DIRECTORY_SERVICE: &str = "dfs.v1.Directory";
const LOCK_SERVICE: &str = "dfs.v1.Lock";

/// Whether a cluster can be used, and what for it still waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// For people; empty when the cluster is ready.
    pub waiting_for: Vec<String>,
}

impl Readiness {
    pub fn is_ready(&self) -> bool {
        self.waiting_for.is_empty()
    }
}

impl Client {
    /// How the cluster is: counts, and everything that is not as it should be.
    pub async fn status(&self) -> Result<ClusterStatus, Error> {
        let request = pb::GetClusterStatusRequest {};
        let call = |channel, request| async move { cluster_client(channel).get_cluster_status(request).await };
        convert::cluster_status(self.directory("get the cluster's status", request, call).await?)
    }

    /// All servers, with how full and how alive they are now.
    pub async fn servers(&self) -> Result<Servers, Error> {
        let call = |channel, request| async move { cluster_client(channel).list_servers(request).await };
        let answer = self.directory("list the servers", pb::ListServersRequest {}, call).await?;
        let read = |servers: Vec<pb::Server>| -> Result<Vec<Server>, Error> {
            servers.iter().map(|server| shared::server(server).map_err(unread)).collect()
        };
        Ok(Servers {
            fileservers: read(answer.servers)?,
            lock_servers: read(answer.lock_servers)?,
            directory_servers: read(answer.directory_servers)?,
        })
    }

    /// The replica groups as they are now.
    pub async fn groups(&self) -> Result<Vec<Group>, Error> {
        let call = |channel, request| async move { cluster_client(channel).list_groups(request).await };
        let answer = self.directory("list the groups", pb::ListGroupsRequest {}, call).await?;
        answer.groups.iter().map(|group| shared::group(group).map_err(unread)).collect()
    }

    /// What the file server at `host:port` says of its own store. Asked once: the answer is about now.
    pub async fn file_server_status(&self, address: &str) -> Result<FileServerStatus, Error> {
        let mut client = FileServerClient::new(self.inner.channels.get(address, Purpose::Control)?);
        let call = |request| async move { client.get_status(request).await };
        let answer = attempt("get the server's status", self.patience(), pb::GetStatusRequest {}, call).await?;
        Ok(convert::file_server_status(answer))
    }

    /// How long the server at `host:port` takes to answer a question about nothing.
    pub async fn ping(&self, address: &str) -> Result<Duration, Error> {
        // The first one also pays for the connection.
        self.health(address, "").await?;
        let start = Instant::now();
        self.health(address, "").await?;
        Ok(start.elapsed())
    }

    /// Whether the server at `host:port` says that it serves `service`; the empty name asks for the process.
    pub async fn serving(&self, address: &str, service: &str) -> Result<bool, Error> {
        match self.health(address, service).await {
            Ok(serving) => Ok(serving == Serving::Yes),
            // Such a service is not there at all.
            Err(error) if error.reason() == Reason::EntryNotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn health(&self, address: &str, service: &str) -> Result<Serving, Error> {
        let channel = self.inner.channels.get(address, Purpose::Control)?;
        let check = |request| health::check(channel, request);
        let answer = attempt("check the health", self.patience(), health::request(service), check).await?;
        Ok(health::serving(&answer))
    }

    fn patience(&self) -> Duration {
        ASK_TIMEOUT.min(self.timeout)
    }

    /// Whether files can be written, read and locked now, and what is missing.
    pub async fn readiness(&self) -> Readiness {
        let mut waiting_for = Vec::new();
        let endpoints = &self.inner.directory_endpoints;
        let directory = endpoints.current(&self.inner.options.directory).unwrap_or_default();
        if !self.serving(&directory, DIRECTORY_SERVICE).await.unwrap_or(false) {
            waiting_for.push(format!("the Directory at {directory}"));
        }
        let view = self.inner.map.view();
        let lock = self.lock_service();
        match lock.endpoints.current(&lock.known) {
            None => waiting_for.push("a Lock service to register".to_owned()),
            Some(address) if self.serving(&address, LOCK_SERVICE).await.unwrap_or(false) => {}
            Some(address) => waiting_for.push(format!("the Lock service at {address}")),
        }
        if view.map.group_count == 0 {
            waiting_for.push(format!("file servers: {} have registered", view.map.servers.len()));
        }
        let short = |group: &&Group| group.primary.is_none() || group.in_sync.len() < view.map.min_in_sync as usize;
        let short = view.map.groups.values().filter(short).count();
        if short > 0 {
            waiting_for.push(format!("{short} of {} groups that cannot be written", view.map.groups.len()));
        }
        Readiness { waiting_for }
    }

    /// Waits until the cluster is ready; [`Reason::Unavailable`] with what was missing if that takes longer than `wait`.
    pub async fn wait_ready(&self, wait: Duration) -> Result<(), Error> {
        let end = Instant::now() + wait;
        loop {
            let readiness = self.readiness().await;
            if readiness.is_ready() {
                return Ok(());
            }
            if Instant::now() + READY_INTERVAL >= end {
                let message = format!("not ready: waiting for {}", readiness.waiting_for.join(", "));
                return Err(Failure::new(Reason::Unavailable, message).into());
            }
            tokio::time::sleep(READY_INTERVAL).await;
        }
    }
}
