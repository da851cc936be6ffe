//! Others that want much at the same time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use dfs::{pb, types::WriteId};

use crate::common::{
    cluster::{SERVERS, WriteStream, append, ranges_of, replace, some_bytes, start_cluster},
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
    const WRITERS: usize = 12;
    let mut cluster = start_cluster().await;
    let primary = cluster.group_of("/log").await.primary;
    let replica = SERVERS.iter().find(|id| **id != primary).expect("three servers").to_string();
    cluster.stop_server(&replica).await;
    cluster.wait_until_in_sync(2).await;

    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let (stop, written) = (stop.clone(), written.clone());
        let mut stream = WriteStream::open(cluster.server(&primary)).await;
        writers.push(tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                stream.write(WriteId::random(), append("/log"), &[7; 5000]).await.expect("written");
                written.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    wait_until("writes under way", || async { written.load(Ordering::SeqCst) > 50 }).await;
    cluster.start_server(&replica).await;
    cluster.wait_until_in_sync(3).await;
    let before = written.load(Ordering::SeqCst);
    wait_until("writes that go on", || async { written.load(Ordering::SeqCst) > before + 20 }).await;
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        within_deadline("a writer's end", writer).await.expect("no write failed");
    }
    let total = written.load(Ordering::SeqCst) as usize * 5000;
    assert_eq!(cluster.read_from(&replica, "/log").await.len(), total);
    cluster.stop().await;
}
