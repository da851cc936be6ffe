//! Others that want much at the same time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use dfs::{pb, types::WriteId};

use crate::common::{
    cluster::{SERVERS, WriteStream, ranges_of, replace, some_bytes, start_cluster},
    wait_until, within_deadline,
};

/// Far more than what all of these together may hold of anything that others need.
const STALLED: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn readers_who_take_nothing_hold_nobody_up() {
    let cluster = start_cluster().await;
    let data = some_bytes(5, 3 << 20);
    cluster.write(replace("/a", 0), &data).await;
    let id = cluster.group_of("/a").await.primary;
    // Again and again the same: more than any window between here and there can take.
    let once = ranges_of(&cluster.look_up("/a").await.expect("the file"));
    let ranges: Vec<pb::BlobRange> = once.iter().cycle().take(1000).cloned().collect();
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let request = pb::ReadRequest { ranges: ranges.clone() };
        stalled.push(cluster.server(&id).read(request).await.expect("a stream").into_inner());
    }
    for _ in 0..10 {
        assert!(within_deadline("another's read", cluster.read_from(&id, "/a")).await == data);
    }
    // Who takes its time is not cut off for it.
    for reader in &mut stalled {
        let first = reader.message().await.expect("the stream goes on").expect("a chunk");
        assert!(matches!(first.result, Some(pb::read_response::Result::Chunk(_))), "{first:?}");
    }
    drop(stalled);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_becomes_level_however_busy_the_group_is() {
    const WRITERS: usize = 40;
    let mut cluster = start_cluster().await;
    let group = cluster.group_of("/busy").await;
    let (id, primary) = (group.group, group.primary);
    let replica = SERVERS.iter().find(|id| **id != primary).expect("three servers").to_string();
    let mut paths = Vec::new();
    for number in 0.. {
        let path = format!("/busy-{number}");
        if cluster.group_of(&path).await.group == id {
            paths.push(path);
        }
        if paths.len() == WRITERS {
            break;
        }
    }
    cluster.stop_server(&replica).await;
    cluster.wait_until_in_sync(2).await;

    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = Vec::new();
    for path in paths.clone() {
        let (stop, written) = (stop.clone(), written.clone());
        let mut stream = WriteStream::open(cluster.server(&primary)).await;
        writers.push(tokio::spawn(async move {
            let mut version = 0;
            while !stop.load(Ordering::SeqCst) {
                let data = some_bytes(version as u32, 20_000);
                stream.write(WriteId::random(), replace(&path, version), &data).await.expect("written");
                version += 1;
                written.fetch_add(1, Ordering::SeqCst);
            }
            version
        }));
    }
    wait_until("writes under way", || async { written.load(Ordering::SeqCst) > 50 }).await;
    cluster.start_server(&replica).await;
    cluster.wait_until_in_sync(3).await;
    let before = written.load(Ordering::SeqCst);
    wait_until("writes that go on", || async { written.load(Ordering::SeqCst) > before + 20 }).await;
    stop.store(true, Ordering::SeqCst);
    for (path, writer) in paths.iter().zip(writers) {
        let version = within_deadline("a writer's end", writer).await.expect("no write failed");
        let data = cluster.read_from(&replica, path).await;
        assert!(data == some_bytes(version as u32 - 1, 20_000), "{path} at the member that joined");
    }
    cluster.stop().await;
}
