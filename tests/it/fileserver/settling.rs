//! What was staged and not published: kept while its write may be under way anywhere, gone when it cannot be.

use dfs::types::WriteId;

use crate::common::{
    cluster::{Cluster, SERVERS, Settings, WriteStream, replace, some_bytes, start_cluster_with},
    wait_until,
};

const SHORT_TTL: [&str; 2] = ["--staged-ttl", "200ms"];
/// Half of that apart: all but the first of them find what is staged due.
const ROUNDS: u64 = 10;
const BLOB: usize = 1 << 20;

struct Upload {
    stream: WriteStream,
    write_id: WriteId,
    data: Vec<u8>,
    primary: String,
    replica: String,
}

/// An upload under way of which every server has the first blob whole.
async fn an_upload_of_two_blobs(more: &[&'static str]) -> (Cluster, Upload) {
    let settings = Settings { fileserver: [&["--blob-bytes", "1048576"], more].concat(), ..Settings::default() };
    let cluster = start_cluster_with(settings).await;
    let primary = cluster.group_of("/big").await.primary;
    let replica = SERVERS.iter().find(|id| **id != primary).expect("three servers").to_string();
    let stream = cluster.write_stream("/big").await;
    let (write_id, data) = (WriteId::random(), some_bytes(5, BLOB + 1000));
    stream.begin(write_id, replace("/big", 0)).await;
    stream.data(write_id, &data[..BLOB]).await;
    wait_until("the first blob on every disk", || async {
        for id in SERVERS {
            if sealed_on(&cluster, id).await != 1 {
                return false;
            }
        }
        true
    })
    .await;
    (cluster, Upload { stream, write_id, data, primary, replica })
}

async fn sealed_on(cluster: &Cluster, id: &str) -> usize {
    cluster.blobs_on(id).await.iter().filter(|blob| blob.sealed).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_brings_back_of_an_upload_under_way_is_not_abandoned() {
    let (mut cluster, mut upload) = an_upload_of_two_blobs(&SHORT_TTL).await;
    cluster.stop_server(&upload.replica).await;
    cluster.wait_until_in_sync(2).await;
    // It is back, and not level for long: the primary cannot claim the blob there.
    let gate = cluster.start_server_behind_gate(&upload.replica, &[]).await;
    wait_until("the replica with its blob", || async { sealed_on(&cluster, &upload.replica).await == 1 }).await;
    cluster.wait_until_settled_again(ROUNDS).await;
    assert_eq!(sealed_on(&cluster, &upload.replica).await, 1, "its write is under way");

    upload.stream.data(upload.write_id, &upload.data[BLOB..]).await;
    upload.stream.end(upload.write_id, &upload.data).await;
    let receipt = upload.stream.answer(upload.write_id).await.expect("the upload goes on");
    assert_eq!(receipt.servers.len(), 2, "{receipt:?}");
    gate.open();
    cluster.wait_until_in_sync(3).await;
    cluster.wait_until_blobs(2).await;
    assert!(cluster.read_from(&upload.replica, "/big").await == upload.data);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_evicted_replica_brings_back_of_a_write_that_failed_goes() {
    // The others settle nothing meanwhile: it is the failed write itself that must tell.
    let (mut cluster, mut upload) = an_upload_of_two_blobs(&[]).await;
    cluster.stop_server(&upload.replica).await;
    cluster.wait_until_in_sync(2).await;
    // The write fails while nobody can tell the replica.
    upload.stream.end(upload.write_id, b"other data").await;
    upload.stream.answer(upload.write_id).await.expect_err("not what was sent");
    let _gate = cluster.start_server_behind_gate(&upload.replica, &SHORT_TTL).await;
    wait_until("an empty disk", || async { cluster.blobs_on(&upload.replica).await.is_empty() }).await;
    cluster.wait_until_blobs(0).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_evicted_replica_brings_back_of_a_dead_primary_goes() {
    let (mut cluster, upload) = an_upload_of_two_blobs(&SHORT_TTL).await;
    cluster.stop_server(&upload.replica).await;
    cluster.wait_until_in_sync(2).await;
    cluster.stop_server(&upload.primary).await;
    let _gate = cluster.start_server_behind_gate(&upload.replica, &[]).await;
    // The third server leads now; it has the blob too, knows of no write, and abandons it.
    cluster.wait_until_blobs(0).await;
    cluster.stop().await;
}
