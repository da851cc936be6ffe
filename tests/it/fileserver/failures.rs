//! Servers that go and come back: what was acknowledged stays, what can go on goes on, and everyone becomes level again.

use dfs::{pb, types::WriteId};

use crate::common::{
    cluster::{
        Cluster, SERVERS, Settings, WriteStream, append, replace, some_bytes, start_cluster, start_cluster_with,
    },
    wait_until, within_deadline,
};

/// A server that is not the primary of the path.
async fn a_replica(cluster: &Cluster, path: &str) -> String {
    let primary = cluster.group_of(path).await.primary;
    SERVERS.iter().find(|id| **id != primary).expect("three servers").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_without_a_replica_and_it_is_level_again_when_it_returns() {
    let mut cluster = start_cluster().await;
    cluster.write(append("/log"), b"one ").await;
    let replica = a_replica(&cluster, "/log").await;
    cluster.stop_server(&replica).await;

    let receipt = cluster.write(append("/log"), b"two ").await;
    assert_eq!(receipt.version, 2);
    assert!(!receipt.servers.contains(&replica), "{receipt:?}");
    assert_eq!(cluster.group_of("/log").await.in_sync.len(), 2);
    for number in 0..20 {
        cluster.write(replace(&format!("/while-away-{number}"), 0), &some_bytes(number, 10_000)).await;
    }

    cluster.start_server(&replica).await;
    cluster.wait_until_in_sync(3).await;
    assert_eq!(cluster.read_from(&replica, "/log").await, b"one two ");
    for number in 0..20 {
        let path = format!("/while-away-{number}");
        assert!(cluster.read_from(&replica, &path).await == some_bytes(number, 10_000), "{path}");
    }
    let receipt = cluster.write(append("/log"), b"three").await;
    assert_eq!(receipt.servers.len(), 3);
    cluster.wait_until_blobs(23).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_goes_in_the_middle_of_a_write_does_not_stop_it() {
    let mut cluster = start_cluster().await;
    let replica = a_replica(&cluster, "/big").await;
    let mut stream = cluster.write_stream("/big").await;
    let (write_id, data) = (WriteId::random(), some_bytes(9, 6 << 20));
    stream.begin(write_id, replace("/big", 0)).await;
    let (first, second) = data.split_at(3 << 20);
    for frame in first.chunks(1 << 20) {
        stream.data(write_id, frame).await;
    }
    cluster.stop_server(&replica).await;
    for frame in second.chunks(1 << 20) {
        stream.data(write_id, frame).await;
    }
    stream.end(write_id, &data).await;
    let receipt = stream.answer(write_id).await.expect("written");
    assert_eq!(receipt.servers.len(), 2, "{receipt:?}");
    for id in receipt.servers {
        assert!(cluster.read_from(&id, "/big").await == data, "{id}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_joins_in_the_middle_of_a_write_has_all_of_it() {
    let settings =
        Settings { fileserver: vec!["--staged-ttl", "2s", "--blob-bytes", "1048576"], ..Settings::default() };
    let mut cluster = start_cluster_with(settings).await;
    let replica = a_replica(&cluster, "/big").await;
    cluster.stop_server(&replica).await;
    cluster.wait_until_in_sync(2).await;
    let mut stream = cluster.write_stream("/big").await;
    let (write_id, data) = (WriteId::random(), some_bytes(9, 5 << 19));
    stream.begin(write_id, replace("/big", 0)).await;
    let (first, second) = data.split_at(3 << 19);
    for frame in first.chunks(1 << 18) {
        stream.data(write_id, frame).await;
    }
    // One blob is whole, and one is open, when it joins.
    cluster.start_server(&replica).await;
    cluster.wait_until_in_sync(3).await;
    for frame in second.chunks(1 << 18) {
        stream.data(write_id, frame).await;
    }
    stream.end(write_id, &data).await;
    let receipt = stream.answer(write_id).await.expect("written");
    assert_eq!(receipt.servers, SERVERS, "{receipt:?}");
    for id in SERVERS {
        assert!(cluster.read_from(id, "/big").await == data, "{id}");
    }
    cluster.wait_until_blobs(3).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn below_min_in_sync_a_write_fails_and_nothing_is_visible() {
    let mut cluster = start_cluster().await;
    cluster.write(replace("/a", 0), b"kept").await;
    let primary = cluster.group_of("/a").await.primary;
    for id in SERVERS.iter().filter(|id| **id != primary) {
        cluster.stop_server(id).await;
    }
    let refused = cluster.try_write(replace("/a", 1), b"never").await.expect_err("must fail");
    assert_eq!(refused.reason, "NOT_ENOUGH_REPLICAS", "{refused:?}");
    assert_eq!(cluster.look_up("/a").await.expect("there").entry.expect("there").version, 1);
    assert_eq!(cluster.read_from(&primary, "/a").await, b"kept");
    cluster.wait_until_blobs(1).await;

    for id in SERVERS.iter().filter(|id| **id != primary) {
        cluster.start_server(id).await;
    }
    cluster.write(replace("/a", 1), b"written when they are back").await;
    cluster.wait_until_in_sync(3).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_primary_takes_over_and_the_retried_write_is_written_once() {
    let mut cluster = start_cluster().await;
    cluster.write(append("/log"), b"before ").await;
    let primary = cluster.group_of("/log").await.primary;

    // A write is under way when the primary goes.
    let write_id = WriteId::random();
    let mut stream = cluster.write_stream("/log").await;
    stream.begin(write_id, append("/log")).await;
    stream.data(write_id, b"after").await;
    let mut other = WriteStream::open(cluster.server(&primary)).await;
    let committed = other.write(WriteId::random(), append("/log"), b"during ").await.expect("written");
    assert_eq!(committed.version, 2);
    cluster.stop_server(&primary).await;
    stream.answer(write_id).await.expect_err("the primary is gone");

    wait_until("another primary", || async { cluster.group_of("/log").await.primary != primary }).await;
    let mut stream = cluster.write_stream("/log").await;
    let receipt = stream.write(write_id, append("/log"), b"after").await.expect("written");
    assert_eq!(receipt.version, 3);
    for id in receipt.servers {
        assert_eq!(cluster.read_from(&id, "/log").await, b"before during after", "{id}");
    }

    cluster.start_server(&primary).await;
    cluster.wait_until_in_sync(3).await;
    assert_eq!(cluster.read_from(&primary, "/log").await, b"before during after");
    cluster.wait_until_blobs(3).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_outlives_the_time_of_staging_is_not_settled_under_its_hands() {
    let settings = Settings { fileserver: vec!["--staged-ttl", "200ms"], ..Settings::default() };
    let cluster = start_cluster_with(settings).await;
    let mut stream = cluster.write_stream("/slow").await;
    let (write_id, data) = (WriteId::random(), some_bytes(4, 500_000));
    stream.begin(write_id, replace("/slow", 0)).await;
    stream.data(write_id, &data).await;
    // Rounds are half of what a blob may stay staged apart: all but the first have found it due.
    cluster.wait_until_settled_again(10).await;
    stream.end(write_id, &data).await;
    assert_eq!(stream.answer(write_id).await.expect("written").version, 1);
    cluster.wait_until_blobs(1).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_blobs_of_a_dead_primary_go_from_every_disk() {
    /// Enough for every one of the streams between two servers to have had one.
    const FINISHED: usize = 24;
    let mut cluster = start_cluster().await;
    let primary = cluster.group_of("/a").await.primary;
    // An unfinished blob is sent only where a stream is up already; an acknowledged write has had its stream, so after
    // these all streams of the primary are.
    for _ in 0..FINISHED {
        assert_eq!(cluster.write(append("/a"), b"whole").await.servers.len(), SERVERS.len());
    }
    let stream = cluster.write_stream("/a").await;
    let write_id = WriteId::random();
    stream.begin(write_id, replace("/a", FINISHED as u64)).await;
    stream.data(write_id, b"staged").await;
    wait_until("the copies", || async {
        let mut count = 0;
        for id in SERVERS {
            count += cluster.blobs_on(id).await.len();
        }
        count == SERVERS.len() * (FINISHED + 1)
    })
    .await;
    cluster.stop_server(&primary).await;
    drop(stream);
    cluster.wait_until_blobs(FINISHED).await;
    cluster.start_server(&primary).await;
    cluster.wait_until_blobs(FINISHED).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_commit_nobody_answered_is_unknown_and_settled_when_the_directory_is_back() {
    let mut cluster = start_cluster().await;
    let (mut stream, write_id) = (cluster.write_stream("/a").await, WriteId::random());
    stream.begin(write_id, replace("/a", 0)).await;
    stream.data(write_id, b"whole").await;
    let directory = cluster.stop_directory().await;
    stream.end(write_id, b"whole").await;
    assert_eq!(stream.answer(write_id).await.expect_err("unknown").reason, "UNAVAILABLE");

    cluster.start_directory_at(&directory).await;
    // It was never committed, so every copy goes; were it, every copy would be published.
    cluster.wait_until_blobs(0).await;
    let receipt = cluster.write(replace("/a", 0), b"written afterwards").await;
    assert_eq!(receipt.version, 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_versions_that_are_no_longer_kept_vanish_from_every_disk() {
    let settings = Settings {
        directory: vec!["--garbage-grace", "0ms", "--keep-versions", "1", "--keep-for", "0ms"],
        ..Settings::default()
    };
    let cluster = start_cluster_with(settings).await;
    for version in 0..5 {
        cluster.write(replace("/a", version), &some_bytes(version as u32, 100_000)).await;
    }
    cluster.wait_until_blobs(1).await;
    assert!(cluster.read_from(SERVERS[0], "/a").await == some_bytes(4, 100_000));

    let request =
        pb::DeleteEntryRequest { write_id: WriteId::random().to_string(), path: "/a".to_owned(), ..Default::default() };
    cluster.directory.directory().delete_entry(request).await.expect("deleted");
    cluster.wait_until_blobs(0).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_many_small_appends_is_merged_and_keeps_its_bytes() {
    let cluster = start_cluster().await;
    let mut stream = cluster.write_stream("/log").await;
    let mut expected = Vec::new();
    for number in 0..200 {
        let line = format!("line {number}\n").into_bytes();
        stream.write(WriteId::random(), append("/log"), &line).await.expect("appended");
        expected.extend_from_slice(&line);
    }
    wait_until("few extents", || async { cluster.look_up("/log").await.expect("there").extents.len() <= 65 }).await;
    let file = cluster.look_up("/log").await.expect("there");
    assert_eq!(file.entry.as_ref().expect("there").version, 200, "a merge makes no version");
    for id in SERVERS {
        assert!(cluster.read_from(id, "/log").await == expected, "{id}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_on_one_disk_is_not_served_and_is_repaired_from_another() {
    let mut cluster = start_cluster().await;
    let data = some_bytes(11, 2 << 20);
    cluster.write(replace("/a", 0), &data).await;
    let replica = a_replica(&cluster, "/a").await;
    cluster.stop_server(&replica).await;
    damage(&cluster.data_folder(&replica).join("blobs"), &data[1_000_000..1_000_064]);
    cluster.start_server(&replica).await;
    cluster.wait_until_in_sync(3).await;

    wait_until("the repair", || async {
        let ranges = crate::common::cluster::ranges_of(&cluster.look_up("/a").await.expect("there"));
        let read = cluster.server(&replica).read(pb::ReadRequest { ranges }).await;
        let (Ok(read), mut bytes) = (read, Vec::new()) else { return false };
        let mut read = read.into_inner();
        while let Ok(Some(response)) = read.message().await {
            match response.result.expect("a result") {
                pb::read_response::Result::Chunk(chunk) => bytes.extend_from_slice(&chunk.data),
                pb::read_response::Result::Error(error) => {
                    assert_eq!(error.reason, "CHECKSUM_MISMATCH", "{error:?}");
                    return false;
                }
            }
        }
        assert!(bytes == data, "damaged bytes were served");
        true
    })
    .await;
    cluster.stop().await;
}

/// Changes one bit, in the only place where these bytes are.
fn damage(folder: &std::path::Path, bytes: &[u8]) {
    let mut damaged = 0;
    for entry in std::fs::read_dir(folder).expect("the store's folder") {
        let path = entry.expect("an entry").path();
        let mut content = std::fs::read(&path).expect("a file");
        if let Some(at) = content.windows(bytes.len()).position(|window| window == bytes) {
            content[at] ^= 1;
            std::fs::write(&path, content).expect("written");
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1, "the bytes are in one segment");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_stream_open_stops_within_seconds() {
    let mut cluster = start_cluster().await;
    let stream = cluster.write_stream("/a").await;
    stream.begin(WriteId::random(), append("/a")).await;
    let primary = cluster.group_of("/a").await.primary;
    let stopped = std::time::Instant::now();
    within_deadline("the end", cluster.stop_server(&primary)).await;
    assert!(stopped.elapsed() < std::time::Duration::from_secs(10));
    cluster.stop().await;
}
