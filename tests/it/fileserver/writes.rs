//! Writes that succeed: every mode, any size, on every disk.

use dfs::types::{WriteId, crc32c};

use crate::common::cluster::{
    SERVERS, Settings, append, patch, replace, some_bytes, start_cluster, start_cluster_with,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_on_every_disk_with_the_same_checksum_when_it_is_acknowledged() {
    let cluster = start_cluster().await;
    let data = some_bytes(1, 3 << 20);
    let receipt = cluster.try_write(replace("/a", 0), &data).await.expect("written");
    assert_eq!((receipt.version, receipt.size, receipt.checksum), (1, data.len() as u64, crc32c(&data)));
    assert_eq!(receipt.servers, SERVERS);
    for id in SERVERS {
        assert_eq!(cluster.verify_on(id, "/a").await, [(data.len() as u64, crc32c(&data))], "{id}");
        assert!(cluster.read_from(id, "/a").await == data, "{id}");
    }
    cluster.wait_until_blobs(1).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replace_append_and_patch_make_versions_with_the_right_bytes() {
    let cluster = start_cluster().await;
    let mut expected = some_bytes(1, 1000);
    cluster.try_write(replace("/a", 0), &expected).await.expect("written");

    let tail = some_bytes(2, 300_000);
    let appended = cluster.try_write(append("/a"), &tail).await.expect("appended");
    assert_eq!((appended.version, appended.offset), (2, 1000));
    expected.extend_from_slice(&tail);

    // In the middle, over the boundary of two extents, and past the end.
    for (version, offset, length) in [(2u64, 10usize, 5usize), (3, 900, 5000), (4, 300_900, 70_000)] {
        let bytes = some_bytes(7 + offset as u32, length);
        let patched = cluster.try_write(patch("/a", offset as u64, version), &bytes).await.expect("patched");
        expected.resize(expected.len().max(offset + length), 0);
        expected[offset..offset + length].copy_from_slice(&bytes);
        assert_eq!(patched.version, version + 1);
        assert_eq!((patched.size, patched.checksum), (expected.len() as u64, crc32c(&expected)));
    }
    for id in SERVERS {
        assert!(cluster.read_from(id, "/a").await == expected, "{id}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_write_makes_a_version_without_blobs() {
    let cluster = start_cluster().await;
    let receipt = cluster.try_write(replace("/empty", 0), b"").await.expect("written");
    assert_eq!((receipt.version, receipt.size, receipt.checksum), (1, 0, 0));
    assert_eq!(cluster.look_up("/empty").await.expect("there").extents, []);
    let receipt = cluster.try_write(append("/empty"), b"not any more").await.expect("appended");
    assert_eq!((receipt.version, receipt.offset), (2, 0));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writes_share_one_stream_and_each_is_answered_once() {
    let cluster = start_cluster().await;
    let mut stream = cluster.write_stream("/bulk").await;
    let group = cluster.group_of("/bulk").await.group;
    let map = cluster.map().await;
    let ours = |path: &String| path.parse::<dfs::types::Path>().unwrap().group(map.group_count).unwrap().0 == group;
    let paths: Vec<String> = (0..).map(|number| format!("/file-{number}")).filter(ours).take(300).collect();

    let mut waiting = std::collections::BTreeSet::new();
    for (seed, path) in (0..).zip(&paths) {
        let (write_id, data) = (WriteId::random(), some_bytes(seed, 100 + seed as usize));
        stream.begin(write_id, replace(path, 0)).await;
        stream.data(write_id, &data).await;
        stream.end(write_id, &data).await;
        waiting.insert(write_id.to_string());
    }
    while !waiting.is_empty() {
        let response = stream.next().await.expect("goes on").expect("goes on");
        assert!(matches!(response.result, Some(dfs::pb::write_response::Result::Receipt(_))), "{response:?}");
        assert!(waiting.remove(&response.write_id), "answered twice");
    }
    let (last, path) = (paths.len() - 1, paths.last().unwrap());
    assert_eq!(cluster.read_from(SERVERS[1], path).await, some_bytes(last as u32, 100 + last));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_the_same_write_id_writes_once() {
    let cluster = start_cluster().await;
    let write_id = WriteId::random();
    let mut stream = cluster.write_stream("/a").await;
    let first = stream.write(write_id, append("/a"), b"once").await.expect("written");
    let again = stream.write(write_id, append("/a"), b"once").await.expect("answered as before");
    assert_eq!((first.version, first.revision), (again.version, again.revision));
    assert_eq!(cluster.read_from(SERVERS[0], "/a").await, b"once");
    // The blob of the second attempt is nobody's.
    cluster.wait_until_blobs(1).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_longer_than_a_blob_is_several_and_reads_back() {
    const BLOB: usize = 1 << 20;
    let settings = Settings { fileserver: vec!["--blob-bytes", "1048576"], ..Settings::default() };
    let cluster = start_cluster_with(settings).await;
    let mut stream = cluster.write_stream("/big").await;
    let (write_id, mut expected) = (WriteId::random(), some_bytes(1, 3 * BLOB + 500_000));
    stream.begin(write_id, replace("/big", 0)).await;
    // Frames that fit no blob evenly.
    for frame in expected.chunks(700_001) {
        stream.data(write_id, frame).await;
    }
    stream.end(write_id, &expected).await;
    let receipt = stream.answer(write_id).await.expect("written");
    assert_eq!((receipt.version, receipt.size, receipt.checksum), (1, expected.len() as u64, crc32c(&expected)));
    let lengths = async || {
        let file = cluster.look_up("/big").await.expect("there");
        file.extents.iter().map(|extent| extent.length as usize).collect::<Vec<_>>()
    };
    assert_eq!(lengths().await, [BLOB, BLOB, BLOB, 500_000]);

    let tail = some_bytes(2, 2 * BLOB);
    cluster.try_write(append("/big"), &tail).await.expect("appended");
    expected.extend_from_slice(&tail);
    // From the middle of one blob over a whole one into a third.
    let (offset, patched) = (BLOB / 2, some_bytes(3, 2 * BLOB));
    let receipt = cluster.try_write(patch("/big", offset as u64, 2), &patched).await.expect("patched");
    expected[offset..offset + patched.len()].copy_from_slice(&patched);
    assert_eq!((receipt.size, receipt.checksum), (expected.len() as u64, crc32c(&expected)));
    assert_eq!(lengths().await, [BLOB / 2, BLOB, BLOB, BLOB / 2, 500_000, BLOB, BLOB]);
    for id in SERVERS {
        assert!(cluster.read_from(id, "/big").await == expected, "{id}");
    }
    // Four, two and two; the one that lies whole under the patch is the first version's still.
    cluster.wait_until_blobs(8).await;
    cluster.stop().await;
}
