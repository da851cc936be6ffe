//! How this server reaches the Directory.
//!
//! Commits have a connection of their own, so that a look-up or a settlement never stands in front of an acknowledgement.
//! Every call has a deadline; after one that nobody answered the next goes to the next address.
//!
//! A leader that hangs, or is cut off, breaks no connection. So whoever waits for an answer asks the other nodes after a
//! moment who leads, and turns to the new leader as soon as there is one. A leader that is merely slow is still the one
//! that they name, and is waited for.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};
use tonic::{Response, Status, transport::Channel};

use crate::{
    fileserver::error::Error,
    pb::{self, cluster_client::ClusterClient, directory_client::DirectoryClient},
    serve,
    status::{Failure, Reason},
};

/// One answer of the Directory; longer than its slowest disk, shorter than a client's patience.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Who waits for so long asks the others who leads, and again after as long.
const ASK_AFTER: Duration = Duration::from_millis(400);
const ASK_TIMEOUT: Duration = Duration::from_millis(400);

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

    /// The node that is asked now.
    pub fn asked(&self) -> String {
        self.nodes().current().map(|node| node.address.clone()).unwrap_or_default()
    }

    /// Waits for one answer of the node that is asked now.
    pub async fn answer<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        let asked = self.asked();
        let answered = tokio::select! {
            answered = timeout(CALL_TIMEOUT, call) => answered,
            () = self.superseded(&asked) => {
                return Err(Error::Refused(Failure::new(Reason::Unavailable, "another node leads the Directory now")));
            }
        };
        let failure = match answered {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => Failure::from(&status),
            Err(_) => Failure::new(Reason::DeadlineExceeded, "the Directory did not answer in time"),
        };
        self.heed(&asked, &failure);
        Err(Error::Refused(failure))
    }

    /// After a failure that another node may not have the next call goes to another: the leader, if it was named. Not if the
    /// calls go elsewhere already.
    pub fn heed(&self, asked: &str, failure: &Failure) {
        let elsewhere = [Reason::Unavailable, Reason::DeadlineExceeded, Reason::NotLeader, Reason::NoQuorum];
        let mut nodes = self.nodes();
        if !elsewhere.contains(&failure.reason) || nodes.current().is_none_or(|node| node.address != asked) {
            return;
        }
        match failure.metadata.get("leader_address") {
            Some(leader) if leader != asked => nodes.turn_to(leader),
            Some(_) | None => nodes.turn(),
        }
    }

    /// The next call goes to the next address.
    pub fn turn(&self) {
        self.nodes().turn();
    }

    /// Completes when calls go to another node than `asked`, at the earliest after a moment; asks the others meanwhile who
    /// leads.
    pub async fn superseded(&self, asked: &str) {
        loop {
            sleep(ASK_AFTER).await;
            if self.asked() != asked {
                return;
            }
            let others: Vec<Node> = self.nodes().given.iter().filter(|node| node.address != asked).cloned().collect();
            let mut named: FuturesUnordered<_> = others.into_iter().map(leader_by).collect();
            while let Some(leader) = named.next().await {
                let Some(leader) = leader.filter(|leader| leader != asked) else { continue };
                let mut nodes = self.nodes();
                if nodes.current().is_some_and(|node| node.address == asked) {
                    tracing::info!(asked, leader, "another node leads the Directory now");
                    nodes.turn_to(&leader);
                }
                return;
            }
        }
    }
}

/// Who leads, by the word of a node.
async fn leader_by(node: Node) -> Option<String> {
    let mut client = DirectoryClient::new(node.control);
    match timeout(ASK_TIMEOUT, client.get_cluster_map(pb::GetClusterMapRequest {})).await.ok()? {
        // It does itself.
        Ok(_) => Some(node.address),
        Err(status) => Failure::from(&status).metadata.remove("leader_address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_leader_that_was_named_is_asked_next_and_the_others_take_turns() {
        let link = DirectoryLink::new(&["a:1".to_owned(), "b:1".to_owned()]).unwrap();
        let asked = || link.asked();
        let not_leader = |leader: &str| Failure::new(Reason::NotLeader, "").with("leader_address", leader);
        assert_eq!(asked(), "a:1");
        link.heed("a:1", &not_leader("b:1"));
        assert_eq!(asked(), "b:1");
        link.heed("a:1", &Failure::new(Reason::Unavailable, ""));
        assert_eq!(asked(), "b:1", "another call to the old one has failed too");
        link.heed("b:1", &not_leader("c:1"));
        assert_eq!(asked(), "c:1");
        link.heed("c:1", &Failure::new(Reason::Unavailable, ""));
        assert_eq!(asked(), "b:1");
        link.heed("b:1", &Failure::new(Reason::NotLeader, ""));
        assert_eq!(asked(), "a:1");
        link.heed("a:1", &Failure::new(Reason::StaleEpoch, ""));
        assert_eq!(asked(), "a:1", "that is an answer");
    }
}
