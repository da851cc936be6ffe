//! A Lock service of three nodes: one answers, the others say who, and any one may go.

use std::collections::BTreeSet;

use dfs::{
    pb::{self, members_client::MembersClient},
    status::Reason,
    types::{LockServiceId, StoreId},
};

use super::{LONG, SHORT, start_directory_behind_gate};
use crate::common::{
    directory::RunningDirectory,
    expect_failure,
    gate::Gate,
    lock::{RunningLock, Session, start_lock, start_lock_node},
    wait_until,
};

/// What the node says of its group; nothing when it does not answer.
async fn listed_by(node: &RunningLock) -> pb::ListMembersResponse {
    let listed = MembersClient::new(node.channel()).list_members(pb::ListMembersRequest {}).await;
    listed.map(tonic::Response::into_inner).unwrap_or_default()
}

fn is_led(view: &pb::ListMembersResponse) -> bool {
    view.members.iter().any(|member| member.leader)
}

/// A Directory, three Lock nodes, and the gate between them.
struct Trio {
    folder: tempfile::TempDir,
    directory: RunningDirectory,
    gate: Gate,
    nodes: Vec<RunningLock>,
}

async fn start_trio() -> Trio {
    let folder = tempfile::tempdir().expect("a folder");
    let (directory, gate) = start_directory_behind_gate(&folder.path().join("directory")).await;
    let first = start_lock(&folder.path().join("lock-1"), &gate.address).await;
    let mut trio = Trio { folder, directory, gate, nodes: vec![first] };
    for id in ["lock-2", "lock-3"] {
        trio.start_joiner(id).await;
    }
    trio.wait_until_whole().await;
    trio
}

impl Trio {
    async fn start_joiner(&mut self, id: &str) {
        let join = ["--join", &self.nodes[0].address];
        let data = self.folder.path().join(id);
        self.nodes.push(start_lock_node(id, &data, &self.gate.address, &join).await);
    }

    /// As the first node sees them.
    async fn members(&self) -> Vec<pb::Member> {
        listed_by(&self.nodes[0]).await.members
    }

    async fn listed(&self) -> Vec<String> {
        let map = self.directory.directory().get_cluster_map(pb::GetClusterMapRequest {}).await.expect("a map");
        let servers = map.into_inner().cluster_map.expect("a map").lock_servers;
        servers.into_iter().map(|server| server.server_id).collect()
    }

    /// By the ids of the nodes that run now: one that was wiped comes back under another.
    async fn wait_until_whole(&self) {
        wait_until("three voters that serve", || async {
            let mut views = Vec::new();
            for node in &self.nodes {
                if !node.is_serving().await {
                    return false;
                }
                views.push(listed_by(node).await);
            }
            let running: BTreeSet<u64> = views.iter().map(|view| view.node_id).collect();
            let voters = |view: &pb::ListMembersResponse| -> BTreeSet<u64> {
                view.members.iter().filter(|member| member.voter).map(|member| member.node_id).collect()
            };
            let agreed = views.iter().all(|view| view.members.len() == 3 && voters(view) == running);
            agreed && views.iter().any(is_led) && self.listed().await.len() == 3
        })
        .await;
    }

    /// Who leads, taken out of the nodes.
    async fn take_leader(&mut self) -> RunningLock {
        let leader = self.leader_address().await;
        let at = self.nodes.iter().position(|node| node.address == leader).expect("one of them leads");
        self.nodes.remove(at)
    }

    async fn leader_address(&self) -> String {
        let members = self.members().await;
        members.into_iter().find(|member| member.leader).expect("somebody leads").address
    }

    async fn wait_until_led(&self) -> &RunningLock {
        wait_until("a leader", || async { is_led(&listed_by(&self.nodes[0]).await) }).await;
        let leader = self.leader_address().await;
        let leader = self.nodes.iter().find(|node| node.address == leader).expect("one of them leads");
        wait_until("an answer", || async {
            let request = pb::GetLockRequest { path: "/".to_owned() };
            leader.lock().get_lock(request).await.is_ok()
        })
        .await;
        leader
    }

    async fn health_codes(&self) -> Vec<String> {
        let status = self.directory.cluster().get_cluster_status(pb::GetClusterStatusRequest {}).await;
        status.expect("a status").into_inner().checks.into_iter().map(|check| check.code).collect()
    }

    async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
        self.directory.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_lead_says_who_does() {
    let trio = start_trio().await;
    let leader = trio.leader_address().await;
    let on_leader = trio.nodes.iter().find(|node| node.address == leader).expect("one of them leads");
    let session = on_leader.open(LONG, "a").await;
    session.acquire("/f").await;
    for node in trio.nodes.iter().filter(|node| node.address != leader) {
        let here = Session { lock: node.lock(), id: session.id.clone() };
        let refusals = [
            expect_failure(here.renew().await, Reason::NotLeader),
            expect_failure(here.try_acquire("/f").await, Reason::NotLeader),
            expect_failure(here.release("/f", 0).await, Reason::NotLeader),
            expect_failure(here.close().await, Reason::NotLeader),
            expect_failure(node.lock().get_lock(pb::GetLockRequest { path: "/f".to_owned() }).await, Reason::NotLeader),
        ];
        assert!(refusals.iter().all(|refusal| refusal.metadata.get("leader_address") == Some(&leader)), "{refusals:?}");
    }
    session.release("/f", 0).await.expect("it was held all along");
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_was_pending_is_raised_by_the_next_leader_before_it_grants() {
    let mut trio = start_trio().await;
    let old = trio.take_leader().await;
    let lost = old.open(SHORT, "expiring").await.acquire("/f").await.fencing_token;
    let next = old.open(LONG, "next").await;
    let mut asking = next.ask("/f").await;
    asking.position().await;
    trio.gate.shut();
    wait_until("expired", || async { old.view("/f").await.pending_fence > lost }).await;
    let fence = old.view("/f").await.pending_fence;
    old.stop().await;
    loop {
        // Positions may still come; then the stream ends with its leader.
        if asking.event().await.is_err() {
            break;
        }
    }
    let leader = trio.wait_until_led().await;
    let next = Session { lock: leader.lock(), id: next.id };
    let mut asking = next.ask("/f").await;
    assert_eq!(asking.position().await.position, 1, "the place was kept");
    assert_eq!(leader.view("/f").await.pending_fence, fence);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), asking.event()).await;
    assert!(early.is_err(), "granted without the fence: {early:?}");
    trio.gate.open();
    assert!(asking.grant().await.fencing_token > fence);
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_service_are_listed_and_a_foreign_service_is_refused() {
    let trio = start_trio().await;
    assert_eq!(trio.listed().await, ["lock-1", "lock-2", "lock-3"]);
    let stranger = |service: String| pb::RegisterServerRequest {
        kind: pb::ServerKind::Lock.into(),
        server_id: "stranger".to_owned(),
        store_id: StoreId::random().to_string(),
        address: "127.0.0.1:1".to_owned(),
        lock_service_id: service,
        ..Default::default()
    };
    for service in [LockServiceId::random().to_string(), String::new()] {
        let refused = trio.directory.cluster().register_server(stranger(service)).await;
        let refusal = expect_failure(refused, Reason::LockServiceTaken);
        assert!(refusal.message.contains("--join"), "{refusal}");
    }
    assert_eq!(trio.listed().await.len(), 3);
    assert!(trio.health_codes().await.iter().all(|code| !code.starts_with("LOCK")));
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_was_replaced_grants_and_renews_nothing_until_its_successor_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (directory, gate) = start_directory_behind_gate(&folder.path().join("directory")).await;
    let replaced = start_lock(&folder.path().join("lock-1"), &gate.address).await;
    let (holder, next) = (replaced.open(LONG, "holder").await, replaced.open(LONG, "next").await);
    let held = holder.acquire("/f").await.fencing_token;
    let mut asking = next.ask("/f").await;
    asking.position().await;
    gate.shut();
    let other = start_lock_node("other", &folder.path().join("other"), &directory.address, &[]).await;
    wait_until("the other has the place", || other.is_serving()).await;
    let granted = other.open(LONG, "elsewhere").await.acquire("/f").await.fencing_token;
    assert!(granted > held);
    gate.open();
    wait_until("replaced", || async { !replaced.is_serving().await }).await;
    expect_failure(asking.event().await, Reason::NotLeader);
    expect_failure(holder.renew().await, Reason::NotLeader);
    expect_failure(holder.release("/f", 0).await, Reason::NotLeader);
    expect_failure(next.try_acquire("/g").await, Reason::NotLeader);
    other.stop().await;
    wait_until("the place is back", || replaced.is_serving()).await;
    wait_until("it answers", || async { holder.renew().await.is_ok() }).await;
    assert!(next.acquire("/g").await.fencing_token > held, "tokens go on rising");
    replaced.stop().await;
    directory.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_folder_comes_back_and_holds_everything() {
    let mut trio = start_trio().await;
    let leader = trio.leader_address().await;
    let at = trio.nodes.iter().rposition(|node| node.address != leader).expect("two follow");
    // Joiners are told of the first in the list.
    assert!(at > 0);
    let id = format!("lock-{}", at + 1);
    let on_leader = trio.nodes.iter().find(|node| node.address == leader).expect("one of them leads");
    let grant = on_leader.open(LONG, "a").await.acquire("/f").await;
    trio.nodes.remove(at).stop().await;
    std::fs::remove_dir_all(trio.folder.path().join(&id)).expect("wiped");
    trio.start_joiner(&id).await;
    trio.wait_until_whole().await;
    trio.take_leader().await.stop().await;
    let view = trio.wait_until_led().await.view("/f").await;
    assert_eq!(view.holders.first().map(|holder| holder.fencing_token), Some(grant.fencing_token));
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_tells_of_nodes_that_are_down_and_of_nobody_leading() {
    let mut trio = start_trio().await;
    trio.take_leader().await.stop().await;
    wait_until("one is missed", || async { trio.health_codes().await.contains(&"LOCK_NODE_DOWN".to_owned()) }).await;
    trio.nodes.pop().expect("two are left").stop().await;
    let unled = "LOCK_WITHOUT_LEADER".to_owned();
    wait_until("a leader is missed", || async { trio.health_codes().await.contains(&unled) }).await;
    trio.stop().await;
}
