//! Servers that come, go, fall silent and return, and what that makes of the groups.

use std::time::Instant;

use dfs::{pb, status::Reason, types::StoreId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::common::{
    directory::{RunningDirectory, start_directory},
    expect_failure,
    fake_fileserver::{a_beat, a_registration, start_fake_fileserver, start_three, wait_for_map},
    within_deadline,
};

/// As the Directory's own.
const LEASE: std::time::Duration = std::time::Duration::from_secs(3);

fn state_of(map: &pb::ClusterMap, id: &str) -> Option<pb::ServerState> {
    map.servers.iter().find(|server| server.server_id == id).map(|server| server.state())
}

async fn status(running: &RunningDirectory) -> pb::GetClusterStatusResponse {
    running.cluster().get_cluster_status(pb::GetClusterStatusRequest {}).await.expect("a status").into_inner()
}

fn codes(status: &pb::GetClusterStatusResponse) -> Vec<&str> {
    status.checks.iter().map(|check| check.code.as_str()).collect()
}

async fn current_map(running: &RunningDirectory) -> pb::ClusterMap {
    wait_for_map(running, "a map", |_| true).await
}

#[tokio::test]
async fn groups_are_made_when_enough_servers_have_registered() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let before = status(&running).await;
    assert_eq!((before.health(), before.group_count), (pb::Health::Error, 0));
    assert_eq!(codes(&before), ["LOCK_MISSING", "TOO_FEW_SERVERS"].map(str::to_owned));

    let servers = start_three(&running).await;
    let map = current_map(&running).await;
    assert_eq!((map.group_count, map.groups.len(), map.copies, map.min_in_sync), (4, 4, 3, 2));
    for group in &map.groups {
        assert_eq!((group.members.len(), group.in_sync.len()), (3, 3));
        assert!(group.in_sync.contains(&group.primary));
    }
    let lock = pb::RegisterServerRequest {
        kind: pb::ServerKind::Lock.into(),
        ..a_registration("lock-1", &StoreId::random().to_string())
    };
    let lock = running.cluster().register_server(lock).await.expect("registers").into_inner();
    assert_eq!(lock.lock_key.len(), 32);
    let after = status(&running).await;
    assert_eq!((after.health(), after.server_up_count, after.group_full_count), (pb::Health::Ok, 3, 4));

    let listed = running.cluster().list_servers(pb::ListServersRequest {}).await.expect("lists").into_inner();
    let ids = |servers: &[pb::Server]| servers.iter().map(|server| server.server_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&listed.servers), servers.iter().map(|server| server.id.clone()).collect::<Vec<_>>());
    assert_eq!(
        (ids(&listed.lock_servers), ids(&listed.directory_servers)),
        (vec!["lock-1".to_owned()], vec!["directory-1".to_owned()])
    );
    assert!(listed.servers.iter().all(|server| server.disk_used_bytes == 100 && server.last_seen_time.is_some()));
    assert_eq!(listed.directory_servers[0].address, running.address);
    let groups = running.cluster().list_groups(pb::ListGroupsRequest {}).await.expect("lists").into_inner();
    assert_eq!(groups.groups, map.groups);
    running.stop().await;
}

#[tokio::test]
async fn a_silent_server_leaves_the_in_sync_sets_and_returns_without_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let mut servers = start_three(&running).await;
    let before = current_map(&running).await;
    let silent = servers.pop().expect("three");
    let (id, store) = (silent.id.clone(), silent.store.clone());
    drop(silent);

    let down = |map: &pb::ClusterMap| state_of(map, &id) == Some(pb::ServerState::Down);
    let after = wait_for_map(&running, "the silent server to be down", down).await;
    for (old, new) in before.groups.iter().zip(&after.groups) {
        assert!(!new.in_sync.contains(&id) && new.in_sync.contains(&new.primary));
        assert_eq!((new.epoch, &new.members), (old.epoch + 1, &old.members));
    }
    let told = |server: &pb::ClusterMap| state_of(server, &id) == Some(pb::ServerState::Down);
    let mut maps = servers[0].maps.clone();
    within_deadline("a heartbeat with the new map", maps.wait_for(told)).await.expect("beats go on");
    let checks = status(&running).await;
    assert_eq!(checks.health(), pb::Health::Error, "no lock service here");
    assert!(codes(&checks).contains(&"SERVER_DOWN") && codes(&checks).contains(&"GROUP_SHORT"), "{checks:?}");

    let _returned = start_fake_fileserver(&running, &id, &store).await;
    let up = wait_for_map(&running, "its return", |map| state_of(map, &id) == Some(pb::ServerState::Up)).await;
    assert!(up.groups.iter().all(|group| !group.in_sync.contains(&id)), "it has to catch up first");
    running.stop().await;
}

#[tokio::test]
async fn a_beat_alone_brings_a_server_back_that_was_down() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let store = StoreId::random().to_string();
    running.cluster().register_server(a_registration("fileserver-a", &store)).await.expect("registers");
    let is = |state| move |map: &pb::ClusterMap| state_of(map, "fileserver-a") == Some(state);
    wait_for_map(&running, "the end of the lease", is(pb::ServerState::Down)).await;

    let (sender, beats) = mpsc::channel(1);
    sender.send(a_beat("fileserver-a", &store)).await.expect("room");
    let mut answers = running.cluster().heartbeat(ReceiverStream::new(beats)).await.expect("a stream").into_inner();
    let first = answers.message().await.expect("goes on").expect("an answer");
    assert!(is(pb::ServerState::Up)(&first.cluster_map.expect("the first answer has the map")));
    assert!(first.directory_time.is_some());
    running.stop().await;
}

#[tokio::test]
async fn a_reported_server_that_does_not_answer_is_down_before_its_lease_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let registered = Instant::now();
    for id in ["fileserver-a", "fileserver-b", "fileserver-c"] {
        let registration = a_registration(id, &StoreId::random().to_string());
        running.cluster().register_server(registration).await.expect("registers");
    }
    let report = pb::ReportSuspectRequest { suspect_id: "fileserver-b".into(), ..Default::default() };
    let answer = running.cluster().report_suspect(report.clone()).await.expect("is decided").into_inner();
    assert!(registered.elapsed() < LEASE, "too slow to tell the probe from the lease");
    let map = answer.cluster_map.expect("a map");
    assert_eq!(state_of(&map, "fileserver-b"), Some(pb::ServerState::Down));
    assert!(map.groups.iter().all(|group| group.primary != "fileserver-b" && group.in_sync.len() == 2));
    running.cluster().report_suspect(report).await.expect("again is no harm");

    let nobody = pb::ReportSuspectRequest { suspect_id: "nobody".into(), ..Default::default() };
    expect_failure(running.cluster().report_suspect(nobody).await, Reason::ServerNotFound);
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_a_primary_reports_and_that_is_dead_loses_all_its_groups_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let registered = Instant::now();
    for id in ["fileserver-a", "fileserver-b", "fileserver-c"] {
        let registration = a_registration(id, &StoreId::random().to_string());
        running.cluster().register_server(registration).await.expect("registers");
    }
    let map = current_map(&running).await;
    let group = map.groups.iter().find(|group| group.primary != "fileserver-b").expect("others lead too");
    let report = pb::ReportSuspectRequest {
        suspect_id: "fileserver-b".into(),
        reporter_id: group.primary.clone(),
        groups: vec![pb::GroupEpoch { group: group.group, epoch: group.epoch }],
    };
    running.cluster().report_suspect(report).await.expect("is decided");
    let gone =
        |map: &pb::ClusterMap| map.groups.iter().all(|group| !group.in_sync.contains(&"fileserver-b".to_owned()));
    let after = wait_for_map(&running, "its groups to go on without it", gone).await;
    assert!(registered.elapsed() < LEASE, "too slow to tell the probe from the lease");
    assert!(after.groups.iter().all(|group| !group.primary.is_empty() && group.primary != "fileserver-b"));
    running.stop().await;
}

#[tokio::test]
async fn a_reported_server_that_answers_keeps_its_places() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let store = StoreId::random().to_string();
    // Something that answers health: the Directory itself.
    let registration =
        pb::RegisterServerRequest { address: running.address.clone(), ..a_registration("fileserver-a", &store) };
    running.cluster().register_server(registration).await.expect("registers");
    let report = pb::ReportSuspectRequest { suspect_id: "fileserver-a".into(), ..Default::default() };
    let answer = running.cluster().report_suspect(report).await.expect("is decided").into_inner();
    assert_eq!(state_of(&answer.cluster_map.expect("a map"), "fileserver-a"), Some(pb::ServerState::Up));
    running.stop().await;
}

#[tokio::test]
async fn a_primary_takes_a_replica_out_and_in_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let group = current_map(&running).await.groups[0].clone();
    let replicas: Vec<_> = group.members.iter().filter(|member| **member != group.primary).collect();
    let report = |suspect: &str, epoch| pb::ReportSuspectRequest {
        suspect_id: suspect.into(),
        reporter_id: group.primary.clone(),
        groups: vec![pb::GroupEpoch { group: group.group, epoch }],
    };
    let mut cluster = running.cluster();
    let decided = cluster.report_suspect(report(replicas[0], group.epoch)).await.expect("is decided").into_inner();
    let smaller = decided.cluster_map.expect("a map").groups[0].clone();
    assert_eq!((smaller.epoch, smaller.in_sync.len()), (group.epoch + 1, 2));
    assert!(!smaller.in_sync.contains(replicas[0]));

    let decided = cluster.report_suspect(report(replicas[1], smaller.epoch)).await.expect("is decided").into_inner();
    assert_eq!(decided.cluster_map.expect("a map").groups[0], smaller, "never below the minimum");

    let join = |member: &str, epoch| pb::AddInSyncRequest {
        server_id: group.primary.clone(),
        group: group.group,
        epoch,
        member_id: member.into(),
    };
    let stale = expect_failure(cluster.add_in_sync(join(replicas[0], group.epoch)).await, Reason::StaleEpoch);
    assert_eq!(stale.metadata.get("current"), Some(&smaller.epoch.to_string()));
    let joined = cluster.add_in_sync(join(replicas[0], smaller.epoch)).await.expect("joins").into_inner();
    let joined = joined.group.expect("the group");
    assert_eq!((joined.epoch, joined.in_sync.len()), (smaller.epoch + 1, 3));
    expect_failure(cluster.add_in_sync(join("nobody", joined.epoch)).await, Reason::BadArgument);
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_reconnects_within_its_lease_keeps_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let mut servers = start_three(&running).await;
    let before = current_map(&running).await;
    let restarted = servers.pop().expect("three");
    let (id, store) = (restarted.id.clone(), restarted.store.clone());
    drop(restarted);
    let _again = start_fake_fileserver(&running, &id, &store).await;
    let after = current_map(&running).await;
    assert_eq!(state_of(&after, &id), Some(pb::ServerState::Up));
    for (new, old) in after.groups.iter().zip(&before.groups) {
        let led = u64::from(old.primary == id);
        assert_eq!(new, &pb::Group { epoch: old.epoch + led, ..old.clone() }, "only what it led has a new epoch");
    }
    assert_eq!(after.groups.len(), before.groups.len());
    running.stop().await;
}

#[tokio::test]
async fn a_name_belongs_to_one_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let mut servers = start_three(&running).await;
    let id = servers[0].id.clone();
    let mut cluster = running.cluster();
    // Beats count from the first answer on.
    let mut maps = servers[0].maps.clone();
    within_deadline("its heartbeat", maps.wait_for(|map| map.group_count > 0)).await.expect("beats go on");

    let wiped = a_registration(&id, &StoreId::random().to_string());
    expect_failure(cluster.register_server(wiped.clone()).await, Reason::EntryExists);
    let lock = pb::RegisterServerRequest { kind: pb::ServerKind::Lock.into(), ..wiped.clone() };
    expect_failure(cluster.register_server(lock).await, Reason::EntryExists);
    let directory = pb::RegisterServerRequest { server_id: "directory-1".into(), ..wiped.clone() };
    expect_failure(cluster.register_server(directory).await, Reason::EntryExists);

    drop(servers.remove(0));
    let registered = async {
        loop {
            // Until the old connection is noticed gone.
            match cluster.register_server(wiped.clone()).await {
                Ok(registered) => return registered.into_inner(),
                Err(status) => drop(expect_failure(Err::<(), _>(status), Reason::EntryExists)),
            }
        }
    };
    let map = within_deadline("its name to be free", registered).await.cluster_map.expect("a map");
    assert!(map.groups.iter().all(|group| group.members.contains(&id) && !group.in_sync.contains(&id)));
    running.stop().await;
}

#[tokio::test]
async fn who_has_not_registered_has_no_heartbeat() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let servers = start_three(&running).await;
    let stranger = a_beat("stranger", &StoreId::random().to_string());
    let other_folder = a_beat(&servers[0].id, &StoreId::random().to_string());
    for beat in [stranger, other_folder] {
        let (sender, beats) = mpsc::channel(1);
        sender.send(beat).await.expect("room");
        let stream = running.cluster().heartbeat(ReceiverStream::new(beats)).await.expect("a stream");
        expect_failure(stream.into_inner().message().await, Reason::ServerNotFound);
    }
    running.stop().await;
}
