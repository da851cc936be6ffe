//! Servers that go and disks that lie.

use std::{fs, os::unix::fs::FileExt, path::Path};

use dfs::client::{Reason, Version, WriteOptions};

use super::{expect_reason, if_version, path, read, start_world};
use crate::common::cluster::{SERVERS, some_bytes};

/// Changes one byte of the only place below `folder` where `needle` is stored.
fn damage(folder: &Path, needle: &[u8]) {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if let Some(at) = find(&fs::read(&entry).expect("a file"), needle) {
                let file = fs::OpenOptions::new().write(true).open(entry).expect("a file");
                return file.write_all_at(&[!needle[0]], at as u64).expect("a byte");
            }
        }
    }
    panic!("the bytes are not there");
}

fn find(all: &[u8], needle: &[u8]) -> Option<usize> {
    all.windows(needle.len()).position(|window| window == needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_copies_are_passed_over_and_told_and_never_served() {
    let world = start_world().await;
    let client = &world.client;
    let data = some_bytes(5, 3 << 20);
    client.write_bytes(&path("/fragile"), WriteOptions::replace(if_version(0)), data.clone()).await.unwrap();
    for (count, id) in SERVERS.into_iter().enumerate() {
        let verification = client.verify(&path("/fragile"), None).await.unwrap();
        assert_eq!(verification.good_count(), SERVERS.len() - count);
        // More often than there are replicas: whichever is asked first.
        for _ in 0..4 {
            assert!(read(client, "/fragile").await.unwrap() == data, "{count} copies are damaged");
        }
        damage(&world.cluster.data_folder(id), &data[1_500_000..1_500_064]);
    }
    let error = expect_reason(read(client, "/fragile").await, Reason::ChecksumMismatch);
    assert_eq!(error.exit_code(), 8);
    assert_eq!(client.verify(&path("/fragile"), None).await.unwrap().good_count(), 0);
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
