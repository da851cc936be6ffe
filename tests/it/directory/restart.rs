//! What a restart keeps: everything that was acknowledged.

use dfs::{
    convert::stamp::Stamp,
    pb,
    status::{Failure, Reason},
    types::{ClusterId, StoreId},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::namespace::{create_directory, fresh_id, get};
use crate::common::{
    directory::{some_options, start_directory},
    expect_failure,
    fake_fileserver::{FakePrimary, a_registration, start_fake_fileserver, start_three},
};

#[tokio::test]
async fn after_a_restart_everything_is_there_and_retries_are_still_known() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let servers = start_three(&running).await;
    let stores: Vec<_> = servers.iter().map(|server| (server.id.clone(), server.store.clone())).collect();
    let mut primary = FakePrimary::new(&running).await;
    let mut client = running.directory();

    let made = create_directory(&mut client, "/d").await;
    let commit = primary.a_commit("/d/file", b"data");
    let committed = primary.commit(commit.clone()).await.expect("commits");
    let move_request = pb::MoveEntryRequest {
        write_id: fresh_id(),
        from_path: "/d/file".into(),
        to_path: "/d/moved".into(),
        ..Default::default()
    };
    let moved = client.move_entry(move_request.clone()).await.expect("moves").into_inner();
    let delete_request =
        pb::DeleteEntryRequest { write_id: fresh_id(), path: "/d".into(), force: false, precondition: None };
    expect_failure(client.delete_entry(delete_request.clone()).await, Reason::DirectoryNotEmpty);
    let before = client.get_cluster_map(pb::GetClusterMapRequest {}).await.expect("a map").into_inner();
    drop(servers);
    running.stop().await;

    let running = start_directory(folder.path(), &[]).await;
    let mut client = running.directory();
    assert_eq!(get(&mut client, "/d").await.expect("is there").inode, made.inode);
    assert_eq!(get(&mut client, "/d/moved").await.expect("is there"), moved.entry.clone().expect("an entry"));
    let after = client.get_cluster_map(pb::GetClusterMapRequest {}).await.expect("a map").into_inner();
    let (before, after) = (before.cluster_map.expect("a map"), after.cluster_map.expect("a map"));
    assert_eq!((&after.cluster_id, &after.groups), (&before.cluster_id, &before.groups), "a fresh lease for everybody");

    let again = client.move_entry(move_request).await.expect("answers as before").into_inner();
    assert_eq!(again.entry, moved.entry);
    let mut primary = FakePrimary { directory: client.clone(), map: after };
    assert_eq!(primary.commit(commit).await.expect("answers as before"), committed);

    for (id, store) in stores {
        start_fake_fileserver(&running, &id, &store).await;
    }
    let same = client.get_cluster_map(pb::GetClusterMapRequest {}).await.expect("a map").into_inner();
    // Each led some groups: what it knew as their primary is gone, so their epoch is another.
    let expected = before.groups.into_iter().map(|group| pb::Group { epoch: group.epoch + 1, ..group });
    let groups = same.cluster_map.expect("a map").groups;
    assert_eq!(groups, expected.collect::<Vec<_>>(), "who comes back keeps its places");
    running.stop().await;
}

#[tokio::test]
async fn a_rejected_change_may_be_tried_again_under_its_write_id() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let mut client = running.directory();
    let request = pb::CreateDirectoryRequest { write_id: fresh_id(), path: "/a/b".into(), ..Default::default() };
    expect_failure(client.create_directory(request.clone()).await, Reason::EntryNotFound);
    create_directory(&mut client, "/a").await;
    client.create_directory(request.clone()).await.expect("creates now");
    client.create_directory(request.clone()).await.expect("answers as before");
    let other = pb::CreateDirectoryRequest { path: "/a/c".into(), ..request };
    expect_failure(client.create_directory(other).await, Reason::BadArgument);
    running.stop().await;
}

async fn run_again(folder: &std::path::Path, more: &[&str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let refused = dfs::directory::run(some_options(folder, more), listener, CancellationToken::new()).await;
    format!("{:#}", refused.expect_err("must not start"))
}

#[tokio::test]
async fn a_folder_has_one_directory_and_a_cluster_keeps_its_shape() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let text = run_again(folder.path(), &[]).await;
    assert!(text.contains("in use"), "{text}");
    running.stop().await;

    let text = run_again(folder.path(), &["--copies", "2"]).await;
    assert!(text.contains("copies"), "{text}");
    let text = run_again(folder.path(), &["--min-in-sync", "4"]).await;
    assert!(text.contains("min-in-sync"), "{text}");
    std::fs::remove_file(folder.path().join("directory.redb")).expect("removes the database");
    let text = run_again(folder.path(), &[]).await;
    assert!(text.contains("database is gone"), "{text}");
}

#[tokio::test]
async fn what_may_change_changes_with_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    start_directory(folder.path(), &[]).await.stop().await;
    let running = start_directory(folder.path(), &["--min-in-sync", "1"]).await;
    let map = running.directory().get_cluster_map(pb::GetClusterMapRequest {}).await.expect("a map").into_inner();
    assert_eq!(map.cluster_map.expect("a map").min_in_sync, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_server_of_another_cluster_is_not_taken_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let other = pb::RegisterServerRequest {
        cluster_id: StoreId::random().to_string(),
        ..a_registration("fileserver-a", &StoreId::random().to_string())
    };
    let refused = running.cluster().register_server(other).await.expect_err("another cluster's server");
    assert_eq!(Failure::from(&refused).reason, Reason::OtherCluster);
    // Whoever names another cluster is refused whatever it asks.
    let stamp = Stamp(Some(ClusterId::random()));
    let mut request = tonic::Request::new(pb::GetClusterMapRequest {});
    stamp.put(&mut request);
    let refused = running.directory().get_cluster_map(request).await.expect_err("a client of another cluster");
    assert_eq!(Failure::from(&refused).reason, Reason::OtherCluster);
    running.stop().await;
}
