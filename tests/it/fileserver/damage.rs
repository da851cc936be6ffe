//! Logs that have lost records: what nobody remembers is fetched again, and no member is measured by it before.

use std::{fs, path::Path};

use dfs::{
    pb::{self, join_group_request::Message},
    status::Failure,
};

use crate::common::{
    cluster::{Cluster, SERVERS, replace, some_bytes, start_cluster},
    wait_until,
};

/// A chunk's record and a seal without payload.
const HEADER: usize = 96;

/// Wipes a blob of one chunk out of a stopped server's log: its chunk and its seal.
fn wipe(folder: &Path, content: &[u8]) {
    let mut wiped = 0;
    for entry in fs::read_dir(folder).expect("the store's folder") {
        let path = entry.expect("an entry").path();
        let mut bytes = fs::read(&path).expect("a file");
        if let Some(at) = bytes.windows(content.len()).position(|window| window == content) {
            let end = (at + content.len()).next_multiple_of(8) + HEADER;
            bytes[at - HEADER..end].fill(0);
            // From here on the log would be replayed; a checkpoint remembers what it was.
            fs::write(&path, bytes).expect("written");
            wiped += 1;
        }
    }
    assert_eq!(wiped, 1, "the blob is in one segment");
    fs::remove_file(folder.join("CHECKPOINT")).expect("a clean end leaves a checkpoint");
}

async fn list(cluster: &Cluster, id: &str, group: u32) -> pb::ListBlobsResponse {
    let request = pb::ListBlobsRequest { group, ..Default::default() };
    cluster.server(id).list_blobs(request).await.expect("a page").into_inner()
}

/// What the server answers to a member that wants to join now.
async fn try_join(cluster: &Cluster, primary: &str, member: &str, group: &pb::Group) -> Result<(), tonic::Status> {
    let start = pb::JoinStart { group: group.group, epoch: group.epoch, server_id: member.to_owned() };
    let requests = tokio_stream::once(pb::JoinGroupRequest { message: Some(Message::Start(start)) });
    let mut answers = cluster.server(primary).join_group(requests).await?.into_inner();
    answers.message().await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_a_blob_and_its_memory_of_it_fetches_it_again() {
    let mut cluster = start_cluster().await;
    let data = some_bytes(3, 10_000);
    cluster.write(replace("/a", 0), &data).await;
    cluster.write(replace("/b", 0), b"something behind it").await;
    cluster.wait_until_blobs(2).await;
    let loser = cluster.group_of("/a").await.primary;
    cluster.stop_server(&loser).await;
    wipe(&cluster.data_folder(&loser).join("blobs"), &data);
    cluster.start_server(&loser).await;
    cluster.wait_until_in_sync(3).await;
    cluster.wait_until_blobs(2).await;
    assert!(cluster.read_from(&loser, "/a").await == data);
    let group = cluster.group_of("/a").await.group;
    wait_until("the end of the doubt", || async { !list(&cluster, &loser, group).await.incomplete }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_may_lack_blobs_takes_nobody_in_before_it_has_compared() {
    let mut cluster = start_cluster().await;
    let group = cluster.group_of("/a").await;
    let loser = group.primary.clone();
    let [outsider, other] = SERVERS
        .map(str::to_owned)
        .into_iter()
        .filter(|id| *id != loser)
        .collect::<Vec<_>>()
        .try_into()
        .expect("two others");
    cluster.stop_server(&outsider).await;
    cluster.wait_until_in_sync(2).await;
    let data = some_bytes(4, 10_000);
    cluster.write(replace("/a", 0), &data).await;
    cluster.write(replace("/b", 0), b"something behind it").await;
    cluster.wait_until_blobs(2).await;

    // The only other copy is away when the primary comes back without its own.
    cluster.stop_server(&other).await;
    cluster.stop_server(&loser).await;
    wipe(&cluster.data_folder(&loser).join("blobs"), &data);
    cluster.start_server(&loser).await;
    cluster.start_server(&outsider).await;
    wait_until("a primary", || async { cluster.group_of("/a").await.primary == loser }).await;
    wait_until("the answer to a member that wants to join", || async {
        let now = cluster.group_of("/a").await;
        assert!(!now.in_sync.contains(&outsider), "{now:?}");
        let refused = try_join(&cluster, &loser, &outsider, &now).await.expect_err("must be refused");
        // Before it knows that it leads the group, it says that.
        Failure::from(&refused).message.contains("compare its own blobs")
    })
    .await;
    assert!(list(&cluster, &loser, group.group).await.incomplete);

    cluster.start_server(&other).await;
    cluster.wait_until_in_sync(3).await;
    cluster.wait_until_blobs(2).await;
    for id in SERVERS {
        assert!(cluster.read_from(id, "/a").await == data, "{id}");
    }
    cluster.stop().await;
}
