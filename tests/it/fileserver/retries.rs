//! The same write id gives the same receipt, whatever has become of the file, or of the servers, in the meantime.

use dfs::{pb, types::WriteId};

use crate::common::{
    cluster::{Cluster, append, patch, replace, some_bytes, start_cluster},
    wait_until,
};

/// Writes, changes things, and asks again.
async fn expect_same_receipt(cluster: &Cluster, begin: pb::WriteBegin, data: &[u8], meanwhile: impl AsyncFnOnce()) {
    let write_id = WriteId::random();
    let first = cluster.write_stream(&begin.path).await.write(write_id, begin.clone(), data).await.expect("written");
    meanwhile().await;
    let again = cluster.write_stream(&begin.path).await.write(write_id, begin, data).await.expect("as before");
    assert_eq!(again, first);
}

async fn delete(cluster: &Cluster, path: &str) {
    let request =
        pb::DeleteEntryRequest { write_id: WriteId::random().to_string(), path: path.to_owned(), ..Default::default() };
    cluster.directory.directory().delete_entry(request).await.expect("deleted");
}

async fn rename(cluster: &Cluster, from: &str, to: &str) {
    let request = pb::MoveEntryRequest {
        write_id: WriteId::random().to_string(),
        from_path: from.to_owned(),
        to_path: to.to_owned(),
        ..Default::default()
    };
    cluster.directory.directory().move_entry(request).await.expect("moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_is_answered_as_before_though_its_file_is_shorter_moved_or_gone() {
    let cluster = start_cluster().await;
    let write = async |path, version, length| {
        cluster.try_write(replace(path, version), &some_bytes(1, length)).await.expect("written");
    };
    write("/a", 0, 1000).await;
    let shortened = async || write("/a", 2, 10).await;
    expect_same_receipt(&cluster, patch("/a", 500, 1), b"patched", shortened).await;
    let moved = async || rename(&cluster, "/a", "/b").await;
    expect_same_receipt(&cluster, patch("/a", 5, 3), b"patched", moved).await;
    let deleted = async || delete(&cluster, "/b").await;
    expect_same_receipt(&cluster, patch("/b", 0, 4), b"patched", deleted).await;
    // Two whole contents and three patches; of the second attempts nothing is left.
    cluster.wait_until_blobs(5).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replace_is_answered_as_before_though_somebody_else_has_written_or_deleted() {
    let cluster = start_cluster().await;
    let overwritten = async || {
        cluster.try_write(replace("/a", 1), b"another").await.expect("written");
    };
    expect_same_receipt(&cluster, replace("/a", 0), b"first", overwritten).await;
    let deleted = async || delete(&cluster, "/a").await;
    expect_same_receipt(&cluster, replace("/a", 2), b"third", deleted).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_is_answered_as_before_and_makes_no_file_anew() {
    let cluster = start_cluster().await;
    let appended = async || {
        cluster.try_write(append("/a"), b"more").await.expect("written");
    };
    expect_same_receipt(&cluster, append("/a"), b"line", appended).await;
    let deleted = async || delete(&cluster, "/a").await;
    expect_same_receipt(&cluster, append("/a"), b"line", deleted).await;
    cluster.look_up("/a").await.expect_err("it stays deleted");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_primary_gives_the_receipt_of_the_first_with_the_servers_that_had_it_then() {
    let mut cluster = start_cluster().await;
    let write_id = WriteId::random();
    let primary = cluster.group_of("/a").await.primary;
    let first = cluster.write_stream("/a").await.write(write_id, append("/a"), b"once").await.expect("written");
    assert_eq!(first.servers.len(), 3);
    cluster.stop_server(&primary).await;
    wait_until("another primary", || async { cluster.group_of("/a").await.primary != primary }).await;
    cluster.wait_until_everyone_knows().await;
    let again = cluster.write_stream("/a").await.write(write_id, append("/a"), b"once").await.expect("as before");
    assert_eq!(again, first);
    cluster.stop().await;
}
