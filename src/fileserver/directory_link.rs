//! How this server reaches the Directory.
//!
//! Commits have a connection of their own, so that a look-up or a settlement never stands in front of an acknowledgement.
//! Every call has a deadline; after one that nobody answered the next goes to the next address.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tonic::{Response, Status, transport::Channel};

use crate::{
    fileserver::error::Error,
    pb::{cluster_client::ClusterClient, directory_client::DirectoryClient},
    serve,
    status::{Failure, Reason},
};

/// One answer of the Directory; longer than its slowest disk, shorter than a client's patience.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

struct Node {
    control: Channel,
    commits: Channel,
}

/// A handle; clones share the connections.
#[derive(Clone)]
pub struct DirectoryLink {
    nodes: Arc<[Node]>,
    current: Arc<AtomicUsize>,
}

impl DirectoryLink {
    /// Connects when first used. Fails when an address is none.
    pub fn new(addresses: &[String]) -> Result<Self, tonic::transport::Error> {
        let node = |address: &String| Ok(Node { control: serve::channel(address)?, commits: serve::channel(address)? });
        let nodes = addresses.iter().map(node).collect::<Result<_, tonic::transport::Error>>()?;
        Ok(Self { nodes, current: Arc::default() })
    }

    fn node(&self) -> Option<&Node> {
        let current = self.current.load(Ordering::Relaxed);
        self.nodes.get(current.checked_rem(self.nodes.len())?)
    }

    pub fn directory(&self) -> Result<DirectoryClient<Channel>, Error> {
        self.node().map(|node| DirectoryClient::new(node.control.clone())).ok_or(Error::NotReady)
    }

    /// For commits alone.
    pub fn commits(&self) -> Result<DirectoryClient<Channel>, Error> {
        self.node().map(|node| DirectoryClient::new(node.commits.clone())).ok_or(Error::NotReady)
    }

    pub fn cluster(&self) -> Result<ClusterClient<Channel>, Error> {
        self.node().map(|node| ClusterClient::new(node.control.clone())).ok_or(Error::NotReady)
    }

    /// Waits for one answer.
    pub async fn answer<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        let failure = match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => Failure::from(&status),
            Err(_) => Failure::new(Reason::DeadlineExceeded, "the Directory did not answer in time"),
        };
        if matches!(failure.reason, Reason::Unavailable | Reason::DeadlineExceeded | Reason::NotLeader) {
            self.turn();
        }
        Err(Error::Refused(failure))
    }

    /// The next call goes to the next address.
    pub fn turn(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }
}
