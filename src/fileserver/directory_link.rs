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
use tonic::{Request, Response, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{
    cluster::ClusterMap,
    convert::stamp::Stamp,
    fileserver::error::Error,
    pb::{self, cluster_client::ClusterClient, directory_client::DirectoryClient},
    serve,
    status::{Failure, Reason},
    types::ClusterId,
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

/// Those that were given, those that the cluster map lists, one more that a node has named as its leader, and the one to
/// ask now.
struct Nodes {
    given: Vec<Node>,
    listed: Vec<Node>,
    named: Option<Node>,
    current: usize,
    /// On every call, as soon as it is known.
    stamp: Stamp,
}

impl Nodes {
    fn known(&self) -> impl Iterator<Item = &Node> {
        self.given.iter().chain(&self.listed)
    }

    fn current(&self) -> Option<&Node> {
        let at = || self.current.checked_rem(self.given.len() + self.listed.len());
        self.named.as_ref().or_else(|| self.known().nth(at()?))
    }

    fn turn(&mut self) {
        // A leader that was named and does not do was none of those that take turns.
        if self.named.take().is_none() {
            self.current = self.current.wrapping_add(1);
        }
    }

    fn turn_to(&mut self, leader: &str) {
        self.named = None;
        let at = self.known().position(|node| node.address == leader);
        match at {
            Some(at) => self.current = at,
            None => self.named = Node::new(leader).ok(),
        }
    }

    /// The one to ask stays the same.
    fn learn(&mut self, addresses: &[&str]) {
        let current = self.current().map(|node| node.address.clone());
        let is_new = |address: &&str| self.given.iter().all(|given| given.address != **address);
        let known = |address: &str| self.known().find(|node| node.address == address).cloned();
        let listed = addresses.iter().copied().filter(|address| is_new(address));
        self.listed = listed.filter_map(|address| known(address).or_else(|| Node::new(address).ok())).collect();
        // A leader that was named goes on to be asked, and one that is gone is none of them.
        let at = current.and_then(|current| self.known().position(|node| node.address == current));
        self.current = at.unwrap_or(self.current);
    }
}

type Stamped = InterceptedService<Channel, Stamp>;

/// A handle; clones share the connections.
#[derive(Clone)]
pub struct DirectoryLink(Arc<Mutex<Nodes>>);

impl DirectoryLink {
    /// Connects when first used. Fails when an address is none. `cluster`: the one that this server's folder belongs to.
    pub fn new(addresses: &[String], cluster: Option<ClusterId>) -> Result<Self, tonic::transport::Error> {
        let given = addresses.iter().map(|address| Node::new(address)).collect::<Result<_, _>>()?;
        let nodes = Nodes { given, listed: Vec::new(), named: None, current: 0, stamp: Stamp(cluster) };
        Ok(Self(Arc::new(Mutex::new(nodes))))
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self) -> Result<(Node, Stamp), Error> {
        let nodes = self.nodes();
        nodes.current().cloned().map(|node| (node, nodes.stamp)).ok_or(Error::NotReady)
    }

    /// From now on only a Directory of this cluster answers.
    pub fn belong_to(&self, cluster: ClusterId) {
        self.nodes().stamp = Stamp(Some(cluster));
    }

    /// The Directory's nodes as a cluster map lists them: asked too when those that were given are gone.
    pub fn learn(&self, map: &ClusterMap) {
        let listed: Vec<&str> = map.directory_servers.iter().map(|server| server.address.as_str()).collect();
        self.nodes().learn(&listed);
    }

    /// How many addresses take turns.
    pub fn count(&self) -> usize {
        self.nodes().known().count()
    }

    pub fn directory(&self) -> Result<DirectoryClient<Stamped>, Error> {
        let (node, stamp) = self.node()?;
        Ok(DirectoryClient::with_interceptor(node.control, stamp))
    }

    /// For commits alone.
    pub fn commits(&self) -> Result<DirectoryClient<Stamped>, Error> {
        let (node, stamp) = self.node()?;
        Ok(DirectoryClient::with_interceptor(node.commits, stamp))
    }

    pub fn cluster(&self) -> Result<ClusterClient<Stamped>, Error> {
        let (node, stamp) = self.node()?;
        Ok(ClusterClient::with_interceptor(node.control, stamp))
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
        let elsewhere =
            [Reason::Unavailable, Reason::DeadlineExceeded, Reason::NotLeader, Reason::NoQuorum, Reason::OtherCluster];
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
            let (others, stamp) = {
                let nodes = self.nodes();
                (nodes.known().filter(|node| node.address != asked).cloned().collect::<Vec<_>>(), nodes.stamp)
            };
            let mut named: FuturesUnordered<_> = others.into_iter().map(|node| leader_by(node, stamp)).collect();
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
async fn leader_by(node: Node, stamp: Stamp) -> Option<String> {
    let mut client = DirectoryClient::new(node.control);
    let mut request = Request::new(pb::GetClusterMapRequest {});
    // Another cluster's leader is none.
    stamp.put(&mut request);
    match timeout(ASK_TIMEOUT, client.get_cluster_map(request)).await.ok()? {
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
        let link = DirectoryLink::new(&["a:1".to_owned(), "b:1".to_owned()], None).unwrap();
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

    #[tokio::test]
    async fn nodes_that_the_map_lists_take_turns_with_those_that_were_given() {
        let link = DirectoryLink::new(&["a:1".to_owned()], None).unwrap();
        let asked = || link.asked();
        let gone = Failure::new(Reason::Unavailable, "");
        link.heed("a:1", &gone);
        assert_eq!(asked(), "a:1", "there is no other");
        link.nodes().learn(&["a:1", "b:1", "c:1"]);
        assert_eq!((asked().as_str(), link.count()), ("a:1", 3));
        link.heed("a:1", &gone);
        assert_eq!(asked(), "b:1");
        link.nodes().learn(&["c:1", "b:1"]);
        assert_eq!(asked(), "b:1", "another order changes nothing");
        link.nodes().learn(&["c:1"]);
        assert_ne!(asked(), "b:1", "it was removed");
        let before = asked();
        link.heed(&before, &Failure::new(Reason::OtherCluster, ""));
        assert_ne!(asked(), before, "a stranger is left");
    }
}
