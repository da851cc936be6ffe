//! The namespace, its past, and its changes.

use dfs::client::{
    AsOf, ChangeKind, Copy, CreateDirectory, Delete, Move, Reason, Update, Version, WalkOptions, WriteOptions,
};
use futures::TryStreamExt;

use super::{expect_reason, if_version, path, read, start_world};
use crate::common::within_deadline;

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_made_moved_copied_restored_and_deleted() {
    let world = start_world().await;
    let client = &world.client;
    client.create_directory(&path("/a/b"), CreateDirectory { parents: true, mode: Some(0o700) }).await.unwrap();
    client.write_bytes(&path("/a/b/f"), WriteOptions::replace(if_version(0)), "one").await.unwrap();
    client.write_bytes(&path("/a/b/f"), WriteOptions::replace(if_version(1)), "two").await.unwrap();
    let before = client.status().await.unwrap().revision;

    let moved = client.move_entry(&path("/a/b"), &path("/c"), Move::default()).await.unwrap();
    assert_eq!((moved.path.as_str(), moved.mode), ("/c", 0o700));
    assert_eq!(read(client, "/c/f").await.unwrap(), b"two");
    expect_reason(client.get(&path("/a/b/f"), AsOf::Now).await, Reason::EntryNotFound);
    assert_eq!(client.get(&path("/a/b/f"), AsOf::Revision(before)).await.unwrap().version, Version(2));

    client.copy(&path("/c/f"), &path("/g"), Copy { version: Some(Version(1)), ..Default::default() }).await.unwrap();
    assert_eq!(read(client, "/g").await.unwrap(), b"one");
    let restored = client.restore(&path("/c/f"), Version(1), if_version(2)).await.unwrap();
    assert_eq!(restored.version, Version(3));
    assert_eq!(read(client, "/c/f").await.unwrap(), b"one");
    expect_reason(client.restore(&path("/c/f"), Version(1), Default::default()).await, Reason::LockRequired);

    let update = Update { owner: Some("me".into()), mode: Some(0o600), ..Default::default() };
    let updated = client.update(&path("/g"), update).await.unwrap();
    assert_eq!((updated.owner.as_str(), updated.mode, updated.version), ("me", 0o600, Version(1)));

    let versions: Vec<_> = client.versions(&path("/c/f")).try_collect().await.unwrap();
    assert_eq!(versions.iter().map(|info| info.version.0).collect::<Vec<_>>(), [3, 2, 1]);
    expect_reason(client.delete(&path("/c"), Delete::default()).await, Reason::DirectoryNotEmpty);
    assert_eq!(client.delete(&path("/c"), Delete { force: true, ..Default::default() }).await.unwrap(), 2);
    let left: Vec<_> = client.list(&path("/"), AsOf::Now).try_collect().await.unwrap();
    assert_eq!(left.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["/a", "/g"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_listings_come_whole_and_in_order() {
    let world = start_world().await;
    let client = &world.client;
    let names: Vec<String> = (0..1203).map(|number| format!("/many/{number:05}")).collect();
    client.create_directory(&path("/many"), CreateDirectory::default()).await.unwrap();
    for name in &names {
        client.create_directory(&path(name), CreateDirectory::default()).await.unwrap();
    }
    let listed: Vec<_> = client.list(&path("/many"), AsOf::Now).try_collect().await.unwrap();
    assert!(listed.iter().map(|entry| entry.path.as_str()).eq(names.iter().map(String::as_str)));
    let walked: Vec<_> =
        client.walk(&path("/many"), WalkOptions::default()).await.unwrap().try_collect().await.unwrap();
    assert!(names.iter().all(|name| walked.iter().any(|listed| listed.entry.path.as_str() == name)));
    expect_reason(client.list(&path("/none"), AsOf::Now).try_next().await, Reason::EntryNotFound);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_every_change_from_any_revision_on() {
    let world = start_world().await;
    let client = &world.client;
    client.create_directory(&path("/w"), CreateDirectory::default()).await.unwrap();
    let from = client.get(&path("/w"), AsOf::Now).await.unwrap().revision;
    client.write_bytes(&path("/w/f"), WriteOptions::append(), "1").await.unwrap();
    client.write_bytes(&path("/elsewhere"), WriteOptions::append(), "1").await.unwrap();
    client.move_entry(&path("/w/f"), &path("/w/g"), Move::default()).await.unwrap();
    client.delete(&path("/w/g"), Delete::default()).await.unwrap();
    let mut changes = client.watch(&path("/w"), Some(from));
    let mut kinds = Vec::new();
    let seen = async {
        while kinds.last() != Some(&ChangeKind::Deleted) {
            let change = changes.try_next().await.unwrap().unwrap();
            assert!(change.path.is_at_or_below(&path("/w")));
            kinds.push(change.kind);
        }
    };
    within_deadline("the changes", seen).await;
    assert_eq!(kinds[kinds.len() - 2..], [ChangeKind::Moved, ChangeKind::Deleted]);
    assert!(kinds.len() >= 3);
    drop(changes);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_tells_how_it_is() {
    let world = start_world().await;
    let client = &world.client;
    client.wait_ready(std::time::Duration::from_secs(10)).await.unwrap();
    let status = client.status().await.unwrap();
    assert_eq!((status.server_up_count, status.group_count), (3, client.cluster_map().group_count));
    let servers = client.servers().await.unwrap();
    assert_eq!(servers.fileservers.len(), 3);
    for server in &servers.fileservers {
        let address = client.address_of(server);
        assert_eq!(client.file_server_status(&address).await.unwrap().server_id, server.server.to_string());
        assert!(client.serving(&address, "dfs.v1.FileServer").await.unwrap());
        assert!(!client.serving(&address, "no.such.Service").await.unwrap());
        client.ping(&address).await.unwrap();
    }
    assert_eq!(client.groups().await.unwrap().len(), status.group_count as usize);
    expect_reason(client.ping("127.0.0.1:1").await, Reason::Unavailable);
    world.stop().await;
}
