//! The cluster map, kept fresh by a task of its own, and which of a server's addresses this client can reach.
//!
//! A write goes to its primary by this map alone, without asking the Directory first. The map may be old at any moment:
//! the servers refuse by epoch, the client refreshes and tries again.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tonic::Request;

use super::{
    Error,
    call::directory_client,
    channels::{Channels, Purpose},
    convert,
};
use crate::{
    cluster::{ClusterMap, Server, ServerState},
    convert::{
        cluster::cluster_map,
        stamp::{Stamp, other_cluster},
    },
    pb,
    status::Reason,
    types::{GroupId, Path, ServerId},
};

/// Waits between two tries to watch the map: from this, doubling, to the next.
const REWATCH_DELAY_FIRST: Duration = Duration::from_millis(100);
const REWATCH_DELAY_MAX: Duration = Duration::from_secs(2);
/// How late it may be noticed that calls go to another server.
const LEFT_INTERVAL: Duration = Duration::from_millis(200);
/// For the first message of a watch.
const FIRST_MAP_TIMEOUT: Duration = Duration::from_secs(5);

/// The cluster as this client sees it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) map: Arc<ClusterMap>,
    /// Whether this client is in the cluster's own network.
    inside: bool,
}

/// A server to send to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) server: ServerId,
    pub(super) address: String,
}

impl View {
    /// A client that reached the Directory by its inside address is inside, and must not follow outside addresses: from
    /// within a container `localhost` is the container itself.
    fn new(map: ClusterMap, directory: &[String]) -> Self {
        let inside = map
            .directory_servers
            .iter()
            .any(|server| server.client_address() != server.address && directory.contains(&server.address));
        Self { map: Arc::new(map), inside }
    }

    pub(super) fn address<'a>(&self, server: &'a Server) -> &'a str {
        if self.inside { &server.address } else { server.client_address() }
    }

    fn target(&self, server: &Server) -> Target {
        Target { server: server.server.clone(), address: self.address(server).to_owned() }
    }

    /// Where a file at this path is written.
    pub(super) fn primary(&self, path: &Path) -> Result<(GroupId, Target), Error> {
        let Some(group) = self.map.group_of(path) else {
            return Err(Error::unreachable("the cluster has no replica groups yet: too few file servers have joined"));
        };
        match self.map.primary_of(group.group) {
            Some(server) => Ok((group.group, self.target(server))),
            None => Err(Error::unreachable(format_args!("group {} has no live primary", group.group))),
        }
    }

    /// Who may hold a group's blobs, the likeliest first: in sync and up, then in sync, then the rest.
    ///
    /// `spread` rotates those that are alike, so that readers do not all ask the same server.
    pub(super) fn replicas(&self, group: GroupId, spread: usize) -> Vec<Target> {
        let Some(group) = self.map.groups.get(&group) else { return Vec::new() };
        let mut members: Vec<&ServerId> = group.members.iter().collect();
        if !members.is_empty() {
            let middle = spread % members.len();
            members.rotate_left(middle);
        }
        let known = members.into_iter().filter_map(|member| self.map.servers.get(member));
        let mut ranked: Vec<_> = known
            .map(|server| (!group.is_in_sync(&server.server), server.state == ServerState::Down, server))
            .collect();
        ranked.sort_by_key(|&(behind, down, _)| (behind || down, behind));
        ranked.into_iter().map(|(.., server)| self.target(server)).collect()
    }

    /// Those that are up first: a client that begins must not wait for one that is gone.
    pub(super) fn lock_addresses(&self) -> Vec<String> {
        let mut servers: Vec<&Server> = self.map.lock_servers.iter().collect();
        servers.sort_by_key(|server| server.state == ServerState::Down);
        servers.into_iter().map(|server| self.address(server).to_owned()).collect()
    }

    fn addresses(&self) -> impl Iterator<Item = &str> {
        let map = &self.map;
        let servers = map.servers.values().chain(&map.lock_servers).chain(&map.directory_servers);
        servers.map(|server| self.address(server))
    }
}

/// Several servers of which one answers; which, is found by trying and by what they say.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    preferred: Mutex<Option<Preferred>>,
}

/// The one that was found to answer.
#[derive(Debug)]
struct Preferred {
    address: String,
    /// One that was named as the leader may not be listed yet.
    was_listed: bool,
}

impl Endpoints {
    /// The one to ask now. One that is listed no more is left: others may have taken its place, while it still answers.
    pub(super) fn current(&self, known: &[String]) -> Option<String> {
        let preferred = self.preferred(known);
        preferred.as_ref().map(|preferred| preferred.address.clone()).or_else(|| known.first().cloned())
    }

    fn preferred(&self, known: &[String]) -> MutexGuard<'_, Option<Preferred>> {
        let mut preferred = self.preferred.lock().unwrap_or_else(PoisonError::into_inner);
        let is_listed = preferred.as_ref().is_some_and(|preferred| known.contains(&preferred.address));
        match &mut *preferred {
            Some(preferred) if is_listed => preferred.was_listed = true,
            Some(Preferred { was_listed: true, .. }) => *preferred = None,
            _ => {}
        }
        preferred
    }

    /// `address` has failed a call: unless it is the one to answer, another one is asked next.
    pub(super) fn heed(&self, address: &str, error: &Error, known: &[String]) {
        let leader = leader(error, known);
        // One that starts or stops, or that nobody follows any more, may not be the one to wait for.
        let elsewhere =
            matches!(error.reason(), Reason::NotLeader | Reason::Unavailable | Reason::NoQuorum | Reason::OtherCluster);
        if !error.is_answer() || leader.is_some() || elsewhere {
            self.failed(address, leader, known);
        }
    }

    /// `address` did not do; it may have said who would. Somebody else may have found that out before.
    pub(super) fn failed(&self, address: &str, leader: Option<&str>, known: &[String]) {
        let mut preferred = self.preferred(known);
        let current = preferred.as_ref().map(|preferred| &preferred.address).or(known.first());
        if current.is_some_and(|current| current != address) {
            return;
        }
        let next = match leader {
            Some(leader) if leader != address => Some(leader.to_owned()),
            _ => {
                let at = known.iter().position(|one| one == address).map_or(0, |at| at + 1);
                known.get(at).or_else(|| known.first()).cloned()
            }
        };
        *preferred = next.map(|address| Preferred { was_listed: known.contains(&address), address });
    }
}

/// Who leads, by the address that this client can reach.
pub(super) fn leader<'a>(error: &'a Error, known: &[String]) -> Option<&'a str> {
    let inside = error.metadata("leader_address")?;
    let is_known = known.iter().any(|known| known == inside);
    let outside = error.metadata("leader_external_address").filter(|outside| !outside.is_empty());
    Some(outside.filter(|_| !is_known).unwrap_or(inside))
}

/// The newest map this client has seen. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Map {
    view: Arc<watch::Sender<Arc<View>>>,
    directory: Arc<[String]>,
    channels: Arc<Channels>,
}

impl Map {
    pub(super) fn new(first: ClusterMap, directory: Arc<[String]>, channels: Arc<Channels>) -> Self {
        let view = Arc::new(watch::Sender::new(Arc::new(View::new(first, &directory))));
        Self { view, directory, channels }
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Where the Directory may be asked: as it was given, and as the map lists it.
    pub(super) fn directory_addresses(&self) -> Vec<String> {
        let view = self.view();
        let mut addresses = self.directory.to_vec();
        let listed = view.map.directory_servers.iter().map(|server| view.address(server).to_owned());
        addresses.extend(listed.filter(|address| !self.directory.contains(address)));
        addresses
    }

    /// The cluster that this client belongs to for as long as it lives.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp(Some(self.view.borrow().map.cluster))
    }

    /// Takes a map that came with some answer; an older one changes nothing. Fails, and takes nothing, if it is another
    /// cluster's that has come to be at the address.
    pub(super) fn offer(&self, map: ClusterMap) -> Result<(), Error> {
        if map.cluster != self.view.borrow().map.cluster {
            return Err(other_cluster(map.cluster).into());
        }
        let offered = Arc::new(View::new(map, &self.directory));
        let newer = self.view.send_if_modified(|view| {
            let newer = offered.map.map_version > view.map.map_version;
            if newer {
                *view = offered.clone();
            }
            newer
        });
        if newer {
            let given = self.directory.iter().map(String::as_str);
            self.channels.keep_only(&given.chain(offered.addresses()).collect::<HashSet<_>>());
        }
        Ok(())
    }

    /// Completes when the group's primary is another than `server`.
    pub(super) async fn primary_moved(&self, group: GroupId, server: &ServerId) {
        let mut view = self.view.subscribe();
        let moved = |view: &Arc<View>| view.map.primary_of(group).is_some_and(|primary| primary.server != *server);
        if view.wait_for(moved).await.is_err() {
            // The client is gone, and with it whoever waits.
            std::future::pending().await
        }
    }

    /// Follows the Directory's map until dropped.
    pub(super) fn keep_fresh(&self, endpoints: Arc<Endpoints>) -> AbortOnDropHandle<()> {
        let map = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut delay = REWATCH_DELAY_FIRST;
            loop {
                let address = endpoints.current(&map.directory_addresses()).unwrap_or_default();
                let followed = tokio::select! {
                    followed = map.follow(&address, &mut delay) => followed,
                    // A call has found that another node leads: this stream may be to one that hangs.
                    () = map.left(&endpoints, &address) => Ok(()),
                };
                match followed {
                    Ok(()) => tracing::debug!(%address, "the watch of the cluster map ended"),
                    Err(error) => {
                        tracing::debug!(%address, %error, "the watch of the cluster map broke");
                        endpoints.heed(&address, &error, &map.directory_addresses());
                    }
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(REWATCH_DELAY_MAX);
            }
        }))
    }

    /// Completes when another server than `address` is asked.
    async fn left(&self, endpoints: &Endpoints, address: &str) {
        while endpoints.current(&self.directory_addresses()).as_deref() == Some(address) {
            tokio::time::sleep(LEFT_INTERVAL).await;
        }
    }

    async fn follow(&self, address: &str, delay: &mut Duration) -> Result<(), Error> {
        let mut client = directory_client(self.channels.get(address, Purpose::Watch)?);
        let mut request = Request::new(pb::WatchClusterMapRequest {});
        self.stamp().put(&mut request);
        let opened = tokio::time::timeout(FIRST_MAP_TIMEOUT, client.watch_cluster_map(request));
        let mut maps =
            opened.await.map_err(|_| Error::silence(FIRST_MAP_TIMEOUT, "watch the cluster map"))??.into_inner();
        // Without end: a peer that is gone is noticed by the connection's keep-alive.
        while let Some(message) = maps.message().await? {
            let map = convert::required("cluster_map", message.cluster_map)?;
            self.offer(cluster_map(&map).map_err(convert::unread)?)?;
            *delay = REWATCH_DELAY_FIRST;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::Group,
        status::Failure,
        types::{ClusterId, Epoch},
    };

    fn a_server(id: &str, state: ServerState) -> Server {
        Server {
            server: id.parse().unwrap(),
            state,
            address: format!("{id}:7072"),
            external_address: format!("localhost:{id}"),
            zone: String::new(),
            disk_used_bytes: 0,
            disk_total_bytes: 0,
            blob_count: 0,
            last_seen: None,
            software_version: String::new(),
            read_only_reason: String::new(),
            stored_bytes: 0,
            draining: false,
            down_since: None,
            group_count: 0,
            lead_count: 0,
        }
    }

    fn ids(texts: &[&str]) -> Vec<ServerId> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn a_map(map_version: u64, primary: &str) -> ClusterMap {
        let group = Group {
            group: GroupId(0),
            epoch: Epoch(map_version),
            members: ids(&["a", "b", "c"]),
            in_sync: ids(&["a", "b"]),
            primary: ids(&[primary]).pop(),
            replacement: None,
        };
        let servers = [("a", ServerState::Down), ("b", ServerState::Up), ("c", ServerState::Up)];
        ClusterMap {
            map_version,
            cluster: ClusterId::from_bytes([1; 16]),
            group_count: 1,
            groups: [(GroupId(0), group)].into(),
            servers: servers.map(|(id, state)| (id.parse().unwrap(), a_server(id, state))).into(),
            lock_servers: vec![a_server("lock", ServerState::Up)],
            directory_servers: vec![a_server("directory", ServerState::Up)],
            copies: 3,
            min_in_sync: 2,
        }
    }

    fn a_view(directory: &str) -> View {
        View::new(a_map(1, "b"), &[directory.to_owned()])
    }

    #[test]
    fn a_client_outside_is_sent_to_outside_addresses_and_one_inside_to_inside_ones() {
        let path = Path::root();
        assert_eq!(a_view("localhost:7070").primary(&path).unwrap().1.address, "localhost:b");
        assert_eq!(a_view("directory:7072").primary(&path).unwrap().1.address, "b:7072");
        assert_eq!(a_view("directory:7072").lock_addresses(), ["lock:7072"]);
    }

    #[test]
    fn live_replicas_in_sync_are_asked_first_and_all_are_asked() {
        for spread in 0..4 {
            let order: Vec<String> =
                a_view("x").replicas(GroupId(0), spread).iter().map(|target| target.server.to_string()).collect();
            assert_eq!(order, ["b", "a", "c"], "spread {spread}");
        }
        assert_eq!(a_view("x").replicas(GroupId(9), 0), []);
    }

    #[test]
    fn lock_servers_that_are_up_are_asked_first() {
        let states = [("l1", ServerState::Down), ("l2", ServerState::Up), ("l3", ServerState::Down)];
        let lock_servers = states.map(|(id, state)| a_server(id, state)).to_vec();
        let view = View::new(ClusterMap { lock_servers, ..a_map(1, "b") }, &["l1:7072".to_owned()]);
        assert_eq!(view.lock_addresses(), ["localhost:l2", "localhost:l1", "localhost:l3"]);
    }

    #[test]
    fn without_groups_a_write_waits() {
        let view = View::new(ClusterMap { group_count: 0, ..a_map(1, "b") }, &[]);
        assert_eq!(view.primary(&Path::root()).unwrap_err().reason(), crate::status::Reason::Unavailable);
    }

    #[tokio::test]
    async fn an_older_map_changes_nothing_and_a_newer_one_wakes_who_waits_for_a_primary() {
        let map = Map::new(a_map(5, "a"), Arc::new([]), Arc::default());
        map.offer(a_map(4, "b")).unwrap();
        assert_eq!(map.view().map.map_version, 5);
        let waiting = map.clone();
        let moved = tokio::spawn(async move { waiting.primary_moved(GroupId(0), &"a".parse().unwrap()).await });
        map.offer(a_map(6, "b")).unwrap();
        moved.await.unwrap();
        assert_eq!(map.view().primary(&Path::root()).unwrap().1.server.as_str(), "b");
    }

    #[tokio::test]
    async fn a_map_of_another_cluster_is_never_taken() {
        let map = Map::new(a_map(5, "a"), Arc::new([]), Arc::default());
        let other = ClusterMap { cluster: ClusterId::from_bytes([2; 16]), ..a_map(6, "b") };
        assert_eq!(map.offer(other).unwrap_err().reason(), Reason::OtherCluster);
        assert_eq!((map.view().map.map_version, map.stamp().0), (5, Some(ClusterId::from_bytes([1; 16]))));
    }

    #[test]
    fn endpoints_take_turns_and_follow_a_leader() {
        let known = ["a:1".to_owned(), "b:1".to_owned()];
        let endpoints = Endpoints::default();
        assert_eq!(endpoints.current(&known).as_deref(), Some("a:1"));
        endpoints.failed("a:1", None, &known);
        assert_eq!(endpoints.current(&known).as_deref(), Some("b:1"));
        endpoints.failed("b:1", None, &known);
        assert_eq!(endpoints.current(&known).as_deref(), Some("a:1"));
        endpoints.failed("a:1", Some("c:1"), &known);
        assert_eq!(endpoints.current(&known).as_deref(), Some("c:1"));
        endpoints.failed("c:1", Some("c:1"), &known);
        assert_eq!(endpoints.current(&known).as_deref(), Some("a:1"));
    }

    #[test]
    fn a_server_that_is_listed_no_more_is_left_and_one_that_is_not_listed_yet_is_kept() {
        let known = ["a:1".to_owned(), "b:1".to_owned()];
        let endpoints = Endpoints::default();
        endpoints.failed("a:1", Some("b:1"), &known);
        assert_eq!(endpoints.current(&["c:1".to_owned()]).as_deref(), Some("c:1"), "another service has the place");
        endpoints.failed("c:1", Some("d:1"), &["c:1".to_owned()]);
        assert_eq!(endpoints.current(&["c:1".to_owned()]).as_deref(), Some("d:1"), "it was named, and joins");
        assert_eq!(endpoints.current(&["d:1".to_owned(), "c:1".to_owned()]).as_deref(), Some("d:1"));
        assert_eq!(endpoints.current(&["c:1".to_owned()]).as_deref(), Some("c:1"));
    }

    #[test]
    fn who_failed_late_does_not_undo_what_others_have_found() {
        let known = ["a:1".to_owned(), "b:1".to_owned(), "c:1".to_owned()];
        let endpoints = Endpoints::default();
        endpoints.failed("a:1", Some("c:1"), &known);
        endpoints.failed("a:1", None, &known);
        assert_eq!(endpoints.current(&known).as_deref(), Some("c:1"));
    }

    #[test]
    fn a_server_that_does_not_lead_is_left_for_the_leader_by_the_address_that_can_be_reached() {
        let known = ["a:1".to_owned(), "b:1".to_owned()];
        let failure = || Failure::new(Reason::NotLeader, "");
        let names = |inside: &str| {
            failure().with("leader_address", inside).with("leader_external_address", "localhost:2").into()
        };
        let asked_next = |error: Error| {
            let endpoints = Endpoints::default();
            endpoints.heed("a:1", &error, &known);
            endpoints.current(&known).unwrap_or_default()
        };
        assert_eq!(asked_next(names("b:1")), "b:1");
        assert_eq!(asked_next(names("c:1")), "localhost:2");
        assert_eq!(asked_next(failure().into()), "b:1", "nobody leads yet: the others may know more");
        assert_eq!(asked_next(Failure::new(Reason::Unavailable, "stopping").into()), "b:1");
        assert_eq!(asked_next(Failure::new(Reason::NoQuorum, "").into()), "b:1");
        assert_eq!(asked_next(Failure::new(Reason::OtherCluster, "").into()), "b:1");
        assert_eq!(asked_next(Failure::new(Reason::EntryNotFound, "").into()), "a:1", "an answer is an answer");
    }
}
