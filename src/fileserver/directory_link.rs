//! How this server reaches the Directory.
//!
//! Commits have a connection of their own, so that a look-up or a settlement never stands in front of an acknowledgement.
//! Every call has a deadline; after one that nobody answered the next goes to the next address.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

#[derive(Clone)]
struct Node {
    address: String,
    control: Channel,
    commits: Channel,
}

impl Node {
    fn new(address: &str) -> Result<Self, tonic::transport::Error> {
        let (control, commits) = (serve::channel(address)?, serve::channel(address)?);
        Ok(Self { address: address.to_owned(), control, commits })
    }
}

/// Those that were given, one more that a node has named as its leader, and the one to ask now.
struct Nodes {
    given: Vec<Node>,
    named: Option<Node>,
    current: usize,
}

impl Nodes {
    fn current(&self) -> Option<&Node> {
        let named = self.named.as_ref();
        named.or_else(|| self.given.get(self.current.checked_rem(self.given.len())?))
    }

    fn turn(&mut self) {
        // A leader that was named and does not do was none of those that take turns.
        if self.named.take().is_none() {
            self.current = self.current.wrapping_add(1);
        }
    }

    fn turn_to(&mut self, leader: &str) {
        self.named = None;
        match self.given.iter().position(|node| node.address == leader) {
            Some(at) => self.current = at,
            None => self.named = Node::new(leader).ok(),
        }
    }
}

/// A handle; clones share the connections.
#[derive(Clone)]
pub struct DirectoryLink(Arc<Mutex<Nodes>>);

impl DirectoryLink {
    /// Connects when first used. Fails when an address is none.
    pub fn new(addresses: &[String]) -> Result<Self, tonic::transport::Error> {
        let given = addresses.iter().map(|address| Node::new(address)).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Mutex::new(Nodes { given, named: None, current: 0 }))))
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self) -> Result<Node, Error> {
        self.nodes().current().cloned().ok_or(Error::NotReady)
    }

    pub fn directory(&self) -> Result<DirectoryClient<Channel>, Error> {
        Ok(DirectoryClient::new(self.node()?.control))
    }

    /// For commits alone.
    pub fn commits(&self) -> Result<DirectoryClient<Channel>, Error> {
        Ok(DirectoryClient::new(self.node()?.commits))
    }

    pub fn cluster(&self) -> Result<ClusterClient<Channel>, Error> {
        Ok(ClusterClient::new(self.node()?.control))
    }

    /// Waits for one answer.
    pub async fn answer<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        let failure = match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => Failure::from(&status),
            Err(_) => Failure::new(Reason::DeadlineExceeded, "the Directory did not answer in time"),
        };
        self.heed(&failure);
        Err(Error::Refused(failure))
    }

    /// After a failure that another node may not have the next call goes to another: the leader, if it was named.
    pub fn heed(&self, failure: &Failure) {
        let elsewhere = [Reason::Unavailable, Reason::DeadlineExceeded, Reason::NotLeader, Reason::NoQuorum];
        if !elsewhere.contains(&failure.reason) {
            return;
        }
        match failure.metadata.get("leader_address") {
            Some(leader) => self.nodes().turn_to(leader),
            None => self.nodes().turn(),
        }
    }

    /// The next call goes to the next address.
    pub fn turn(&self) {
        self.nodes().turn();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_leader_that_was_named_is_asked_next_and_the_others_take_turns() {
        let link = DirectoryLink::new(&["a:1".to_owned(), "b:1".to_owned()]).unwrap();
        let asked = || link.node().map(|node| node.address).unwrap_or_default();
        let not_leader = |leader: &str| Failure::new(Reason::NotLeader, "").with("leader_address", leader);
        assert_eq!(asked(), "a:1");
        link.heed(&not_leader("b:1"));
        assert_eq!(asked(), "b:1");
        link.heed(&not_leader("c:1"));
        assert_eq!(asked(), "c:1");
        link.heed(&Failure::new(Reason::Unavailable, ""));
        assert_eq!(asked(), "b:1");
        link.heed(&Failure::new(Reason::NotLeader, ""));
        assert_eq!(asked(), "a:1");
        link.heed(&Failure::new(Reason::StaleEpoch, ""));
        assert_eq!(asked(), "a:1", "that is an answer");
    }
}
