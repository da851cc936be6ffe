//! Groups that move: away from servers that are gone or drained, and to those that are new.

use std::time::Instant;

use dfs::{
    client::{Client, Options, TIMEOUT_DEFAULT},
    pb,
    status::Reason,
};

use crate::common::{
    cluster::{Cluster, Settings, replace, some_bytes, start_cluster_with},
    expect_failure,
    fake_fileserver::wait_for_map,
    wait_until,
};

const FILES: u32 = 12;

fn path(number: u32) -> String {
    format!("/file-{number}")
}

fn bytes(number: u32) -> Vec<u8> {
    some_bytes(number, 20_000)
}

/// Four servers for groups of three, and some files.
async fn a_cluster(repair_after: &'static str) -> Cluster {
    let settings =
        Settings { directory: vec!["--garbage-grace", "0ms", "--repair-after", repair_after], ..Settings::default() };
    let mut cluster = start_cluster_with(settings).await;
    cluster.start_server("fileserver-d").await;
    wait_for_map(&cluster.directory, "four servers", |map| map.servers.len() == 4).await;
    for number in 0..FILES {
        cluster.write(replace(&path(number), 0), &bytes(number)).await;
    }
    cluster
}

async fn wait_until_whole_without(cluster: &Cluster, id: &str) -> pb::ClusterMap {
    let is_whole = |group: &pb::Group| {
        let members_only = group.leaving.is_empty() && group.members.len() == 3 && group.in_sync.len() == 3;
        members_only && group.members.iter().all(|member| member != id)
    };
    wait_for_map(&cluster.directory, "whole groups", |map| map.groups.iter().all(is_whole)).await
}

/// Every member of a file's group has its bytes.
async fn expect_every_copy(cluster: &Cluster) {
    for number in 0..FILES {
        for member in cluster.group_of(&path(number)).await.in_sync {
            assert!(cluster.read_from(&member, &path(number)).await == bytes(number), "{number} at {member}");
        }
    }
}

async fn status_of(cluster: &Cluster, id: &str) -> pb::Server {
    let listed = cluster.directory.cluster().list_servers(pb::ListServersRequest {}).await.expect("lists").into_inner();
    listed.servers.into_iter().find(|server| server.server_id == id).expect("a server")
}

async fn wait_until_empty(cluster: &Cluster, id: &str) {
    wait_until("an empty server", || async {
        let server = status_of(cluster, id).await;
        server.group_count == 0 && server.blob_count == 0 && server.stored_bytes == 0
    })
    .await;
}

fn a_drain(id: &str, validate_only: bool) -> pb::DrainServerRequest {
    pb::DrainServerRequest { server_id: id.to_owned(), validate_only }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_away_is_replaced_and_holds_nothing_when_it_returns() {
    let mut cluster = a_cluster("1s").await;
    cluster.stop_server("fileserver-b").await;
    let map = wait_until_whole_without(&cluster, "fileserver-b").await;
    assert!(map.groups.iter().all(|group| group.in_sync.contains(&"fileserver-d".to_owned())));
    expect_every_copy(&cluster).await;
    cluster.start_server("fileserver-b").await;
    wait_until_empty(&cluster, "fileserver-b").await;
    expect_every_copy(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_writes_for_long_is_replaced_and_one_that_comes_fills_up() {
    let mut cluster = a_cluster("1s").await;
    cluster.stop_server("fileserver-b").await;
    cluster.start_full_server("fileserver-b").await;
    wait_until_whole_without(&cluster, "fileserver-b").await;
    expect_every_copy(&cluster).await;
    // What it held goes, full as it is; there is nobody left to take more places.
    wait_until_empty(&cluster, "fileserver-b").await;
    cluster.stop_server("fileserver-a").await;
    let down =
        |map: &pb::ClusterMap| map.groups.iter().all(|group| !group.in_sync.contains(&"fileserver-a".to_owned()));
    wait_for_map(&cluster.directory, "smaller sets", down).await;
    let lost = pb::RemoveServerRequest { server_id: "fileserver-a".to_owned(), lost: true };
    cluster.directory.cluster().remove_server(lost).await.expect("removed");
    let short = |map: &pb::ClusterMap| map.groups.iter().all(|group| group.members.len() == 2);
    wait_for_map(&cluster.directory, "empty places", short).await;
    cluster.start_server("fileserver-e").await;
    wait_until_whole_without(&cluster, "fileserver-b").await;
    expect_every_copy(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_returns_in_time_keeps_its_places() {
    let mut cluster = a_cluster("1h").await;
    let before = cluster.map().await;
    cluster.stop_server("fileserver-b").await;
    let down = |map: &pb::ClusterMap| map.groups.iter().all(|group| group.in_sync.len() == 2);
    wait_for_map(&cluster.directory, "smaller sets", down).await;
    cluster.start_server("fileserver-b").await;
    let after = cluster.wait_until_in_sync(3).await;
    for (before, after) in before.groups.iter().zip(&after.groups) {
        assert_eq!((&before.members, after.leaving.as_str()), (&after.members, ""));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_server_is_empty_and_can_be_removed_and_a_new_one_gets_its_share() {
    let mut cluster = a_cluster("1h").await;
    let mut rpc = cluster.directory.cluster();
    let drained = "fileserver-a";
    let remove = || pb::RemoveServerRequest { server_id: drained.to_owned(), lost: false };
    expect_failure(rpc.remove_server(remove()).await, Reason::ServerInUse);
    let planned = rpc.drain_server(a_drain(drained, true)).await.expect("a plan").into_inner().moves;
    assert_eq!(planned.len(), 4);
    assert!(planned.iter().all(|step| (step.leaving.as_str(), step.arriving.as_str()) == (drained, "fileserver-d")));
    assert!(!status_of(&cluster, drained).await.draining, "that was a question");

    rpc.drain_server(a_drain(drained, false)).await.expect("drains");
    wait_until_whole_without(&cluster, drained).await;
    wait_until_empty(&cluster, drained).await;
    assert_eq!(status_of(&cluster, drained).await.lead_count, 0);
    expect_every_copy(&cluster).await;
    let too_few = expect_failure(rpc.drain_server(a_drain("fileserver-b", false)).await, Reason::NotEnoughReplicas);
    assert_eq!(too_few.metadata.get("have").map(String::as_str), Some("2"));
    let client = Client::connect(Options::new([cluster.directory.address.as_str()])).await.expect("connects");
    let asked = Instant::now();
    let refused = client.drain_server("fileserver-b").await.expect_err("a refusal");
    assert_eq!(refused.reason(), Reason::NotEnoughReplicas);
    assert!(asked.elapsed() < TIMEOUT_DEFAULT / 3, "a refusal is an answer, not a reason to try again");

    rpc.remove_server(remove()).await.expect("removed");
    // It hears so, and stops by itself.
    cluster.wait_until_ended(drained).await;
    let map = cluster.map().await;
    assert!(map.servers.iter().all(|server| server.server_id != drained));

    cluster.start_server("fileserver-e").await;
    wait_for_map(&cluster.directory, "the new server", |map| map.servers.len() == 4).await;
    let dry = pb::RebalanceServersRequest { validate_only: true };
    assert_eq!(rpc.rebalance_servers(dry).await.expect("a plan").into_inner().moves.len(), 3);
    rpc.rebalance_servers(pb::RebalanceServersRequest { validate_only: false }).await.expect("begins");
    wait_until("an even load", || async {
        let status =
            rpc.clone().get_cluster_status(pb::GetClusterStatusRequest {}).await.expect("a status").into_inner();
        let share = status_of(&cluster, "fileserver-e").await.group_count;
        !status.rebalancing && status.moving_group_count == 0 && share == 3
    })
    .await;
    expect_every_copy(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_taken_back_leaves_the_server_what_it_has() {
    let cluster = a_cluster("1h").await;
    let mut rpc = cluster.directory.cluster();
    let of_c = |map: &pb::ClusterMap| -> Vec<u32> {
        let with_c = |group: &&pb::Group| group.members.iter().any(|member| member == "fileserver-c");
        map.groups.iter().filter(with_c).map(|group| group.group).collect()
    };
    rpc.drain_server(a_drain("fileserver-c", false)).await.expect("drains");
    let resume = pb::ResumeServerRequest { server_id: "fileserver-c".to_owned() };
    rpc.resume_server(resume.clone()).await.expect("resumes");
    let kept = of_c(&cluster.map().await);
    let is_settled = |map: &pb::ClusterMap| map.groups.iter().all(|group| group.leaving.is_empty());
    let map = wait_for_map(&cluster.directory, "no move", is_settled).await;
    assert_eq!(of_c(&map), kept, "it stays where it still was");
    assert!(map.groups.iter().all(|group| group.members.len() == 3));
    assert!(!status_of(&cluster, "fileserver-c").await.draining);
    expect_every_copy(&cluster).await;
    let nobody = pb::ResumeServerRequest { server_id: "nobody".to_owned() };
    expect_failure(rpc.resume_server(nobody).await, Reason::ServerNotFound);
    cluster.stop().await;
}
