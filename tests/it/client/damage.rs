//! Servers that go and disks that lie.

use std::{fs, os::unix::fs::FileExt, path::Path};

use dfs::client::{Reason, Version, WriteOptions};

use super::{expect_reason, if_version, path, read, start_world};
use crate::common::{
    cluster::{SERVERS, some_bytes},
    wait_until,
};

/// Changes one byte of every place below `folder` where `needle` is stored: a copy that was repaired is stored anew.
fn damage(folder: &Path, needle: &[u8]) {
    let mut folders = vec![folder.to_owned()];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            while let Some(at) = find(&fs::read(&path).expect("a file"), needle) {
                let file = fs::OpenOptions::new().write(true).open(&path).expect("a file");
                file.write_all_at(&[!needle[0]], at as u64).expect("a byte");
                count += 1;
            }
        }
    }
    assert!(count > 0, "the bytes are not there");
}

fn find(all: &[u8], needle: &[u8]) -> Option<usize> {
    all.windows(needle.len()).position(|window| window == needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_passed_over_and_repaired() {
    let world = start_world().await;
    let client = &world.client;
    let data = some_bytes(5, 3 << 20);
    client.write_bytes(&path("/fragile"), WriteOptions::replace(if_version(0)), data.clone()).await.unwrap();
    assert_eq!(client.verify(&path("/fragile"), None).await.unwrap().good_count(), SERVERS.len());
    for id in SERVERS {
        damage(&world.cluster.data_folder(id), &data[1_500_000..1_500_064]);
        // More often than there are replicas: whichever is asked first.
        for _ in 0..4 {
            assert!(read(client, "/fragile").await.unwrap() == data, "{id} is damaged");
        }
        // The others are damaged only when this one has been repaired, so that there is one to repair from.
        wait_until("the damaged copy is repaired", async || {
            client.verify(&path("/fragile"), None).await.unwrap().good_count() == SERVERS.len()
        })
        .await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_every_copy_is_told_and_never_served() {
    let mut world = start_world().await;
    let client = world.client.clone();
    let data = some_bytes(5, 3 << 20);
    client.write_bytes(&path("/fragile"), WriteOptions::replace(if_version(0)), data.clone()).await.unwrap();
    // All at once, while nobody can repair one from another.
    for id in SERVERS {
        world.cluster.stop_server(id).await;
    }
    for id in SERVERS {
        damage(&world.cluster.data_folder(id), &data[1_500_000..1_500_064]);
    }
    for id in SERVERS {
        world.cluster.start_server(id).await;
    }
    world.cluster.wait_until_in_sync(SERVERS.len()).await;
    let error = expect_reason(read(&client, "/fragile").await.map(drop), Reason::ChecksumMismatch);
    assert_eq!(error.exit_code(), 8);
    assert_eq!(client.verify(&path("/fragile"), None).await.unwrap().good_count(), 0);
    drop(client);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_writes_go_on_when_the_primary_is_gone() {
    let mut world = start_world().await;
    let client = world.client.clone();
    let data = some_bytes(6, 2 << 20);
    client.write_bytes(&path("/steady"), WriteOptions::replace(if_version(0)), data.clone()).await.unwrap();
    let primary = world.cluster.group_of("/steady").await.primary;
    world.cluster.stop_server(&primary).await;
    assert!(read(&client, "/steady").await.unwrap() == data);
    let receipt = client.write_bytes(&path("/steady"), WriteOptions::append(), "more").await.unwrap();
    assert_eq!((receipt.version, receipt.servers.len()), (Version(2), 2));
    assert!(receipt.servers.iter().all(|server| server.as_str() != primary));
    assert!(read(&client, "/steady").await.unwrap() == [&data[..], b"more"].concat());

    world.cluster.start_server(&primary).await;
    world.cluster.wait_until_in_sync(3).await;
    assert!(read(&client, "/steady").await.unwrap() == [&data[..], b"more"].concat());
    assert_eq!(client.verify(&path("/steady"), None).await.unwrap().good_count(), 3);
    drop(client);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_there_is_told_soon() {
    let gone = dfs::client::Options {
        timeout: std::time::Duration::from_millis(500),
        ..dfs::client::Options::new(["127.0.0.1:1"])
    };
    let error = expect_reason(dfs::client::Client::connect(gone).await, Reason::Unavailable);
    assert_eq!(error.exit_code(), 6);
    let none: [&str; 0] = [];
    expect_reason(dfs::client::Client::connect(dfs::client::Options::new(none)).await, Reason::BadArgument);
}
