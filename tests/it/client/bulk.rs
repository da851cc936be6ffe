//! Thousands of small files.

use std::collections::BTreeMap;

use dfs::client::{AsOf, Reason, SMALL_FILE_BYTES_MAX, SmallFile, WalkOptions, WriteOptions};
use futures::{StreamExt, TryStreamExt, stream};

use super::{if_version, path, start_world};
use crate::common::cluster::some_bytes;

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_small_files_goes_out_and_comes_back_whole() {
    let world = start_world().await;
    let client = &world.client;
    let size = |number: usize| match number % 50 {
        0 => 0,
        7 => 300 << 10,
        rest => rest * 97,
    };
    let expected: BTreeMap<String, Vec<u8>> = (0..600)
        .map(|number| (format!("/tree/{}/{number}", number % 7), some_bytes(number as u32, size(number))))
        .collect();
    let files: Vec<SmallFile> = expected
        .iter()
        .map(|(name, data)| SmallFile {
            path: path(name),
            options: WriteOptions::replace(if_version(0)).create_parents(),
            data: data.clone().into(),
        })
        .collect();
    let written: Vec<_> = client.write_many(stream::iter(files.clone())).collect().await;
    assert_eq!(written.len(), expected.len());
    for (file, result) in written {
        let receipt = result.unwrap();
        assert_eq!(receipt.path, file);
        assert_eq!(receipt.size, expected[file.as_str()].len() as u64);
    }

    let walk = WalkOptions { extents: true, as_of: AsOf::Now };
    let listed = client.walk(&path("/tree"), walk).await.unwrap().map(|listed| listed.unwrap());
    let mut read = client.read_many(listed);
    let mut seen = BTreeMap::new();
    let mut others = 0;
    while let Some((entry, content)) = read.next().await {
        match content.unwrap() {
            Some(content) => assert!(seen.insert(entry.path.to_string(), content.to_vec()).is_none()),
            None => {
                assert!(entry.is_directory());
                others += 1;
            }
        }
    }
    assert!(seen == expected);
    assert!((7..=8).contains(&others), "the directories are told too: {others}");

    // Again: each is refused by itself, and nothing is changed.
    let again: Vec<_> = client.write_many(stream::iter(files)).collect().await;
    assert_eq!(again.len(), expected.len());
    assert!(
        again.iter().all(|(_, result)| result.as_ref().is_err_and(|error| error.reason() == Reason::VersionMismatch))
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_writes_survive_the_end_of_a_primary() {
    let mut world = start_world().await;
    let client = world.client.clone();
    let (sender, files) = tokio::sync::mpsc::channel(8);
    let writing = tokio::spawn({
        let client = client.clone();
        let files = tokio_stream::wrappers::ReceiverStream::new(files);
        async move { client.write_many(files).collect::<Vec<_>>().await }
    });
    let file = |number: usize| SmallFile {
        path: path(&format!("/file-{number}")),
        options: WriteOptions::append(),
        data: some_bytes(number as u32, 2000).into(),
    };
    for number in 0..300 {
        sender.send(file(number)).await.unwrap();
        if number == 150 {
            world.cluster.stop_server("fileserver-b").await;
        }
    }
    drop(sender);
    for (path, result) in writing.await.unwrap() {
        assert_eq!(result.unwrap().size, 2000, "{path}: once");
    }
    let entries: Vec<_> = client.list(&path("/"), AsOf::Now).try_collect().await.unwrap();
    assert_eq!(entries.len(), 300);
    drop(client);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_to_hold_is_left_to_be_read_alone() {
    let world = start_world().await;
    let client = &world.client;
    let data = some_bytes(1, SMALL_FILE_BYTES_MAX as usize + 1);
    client.write_bytes(&path("/large"), WriteOptions::append(), data).await.unwrap();
    let walk = WalkOptions { extents: true, as_of: AsOf::Now };
    let listed: Vec<_> = client.walk(&path("/"), walk).await.unwrap().try_collect().await.unwrap();
    let read: Vec<_> = client.read_many(stream::iter(listed)).collect().await;
    assert!(read.iter().any(|(entry, _)| entry.path == path("/large")));
    assert!(read.iter().all(|(_, content)| matches!(content, Ok(None))));
    world.stop().await;
}
