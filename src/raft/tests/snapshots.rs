//! Snapshots that come twice, or late: what is there never goes back.

use pb::install_snapshot_request::Part;

use super::{
    snapshot::dump,
    store::{Applied, read_applied},
    *,
};
use crate::raft::convert::{log_id_out, membership_out, optional_log_id_out};

/// What a leader sends of its state as it is now.
fn taken(from: &TestNode, to: &TestNode) -> Vec<pb::InstallSnapshotRequest> {
    let group = from.group();
    let transaction = from.running.as_ref().unwrap().store.begin_read().unwrap();
    let Applied { last, membership } = read_applied(&transaction).unwrap();
    let begin = pb::SnapshotBegin {
        to_node: to.id,
        vote: Some(pb::Vote { term: group.term(), node_id: from.id, committed: true }),
        last_log_id: optional_log_id_out(&last),
        membership_log_id: membership.log_id().as_ref().map(log_id_out),
        membership: Some(membership_out(membership.membership())),
        group_uid: from.group_uid(),
    };
    let mut parts = vec![Part::Begin(begin)];
    let row_count = dump(Words.tables(), &transaction, &mut |rows| {
        parts.push(Part::Rows(rows));
        true
    });
    parts.push(Part::End(pb::SnapshotEnd { row_count: row_count.unwrap() }));
    parts.into_iter().map(|part| pb::InstallSnapshotRequest { part: Some(part) }).collect()
}

async fn send(to: &TestNode, snapshot: &[pb::InstallSnapshotRequest]) {
    let mut client = RaftClient::new(serve::channel(&to.address).unwrap());
    let sent = client.install_snapshot(tokio_stream::iter(snapshot.to_vec()));
    timeout(DEADLINE, sent).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_snapshot_that_comes_twice_or_after_a_newer_one_takes_nothing_back() {
    let mut nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    let behind = (leader + 1) % 3;
    nodes[leader].say("word").await.unwrap();
    nodes[behind].kill().await;
    for _ in 0..10 {
        nodes[leader].say("word").await.unwrap();
    }
    let older = taken(&nodes[leader], &nodes[behind]);
    for _ in 0..10 {
        nodes[leader].say("word").await.unwrap();
    }
    let newer = taken(&nodes[leader], &nodes[behind]);
    // The others are gone: what comes in their name comes late.
    for other in [leader, (leader + 2) % 3] {
        nodes[other].kill().await;
    }
    nodes[behind].restart().await;
    send(&nodes[behind], &older).await;
    assert_eq!(nodes[behind].count("word"), 11);
    for snapshot in [&older, &newer, &newer, &older] {
        let before = nodes[behind].count("word");
        send(&nodes[behind], snapshot).await;
        let now = nodes[behind].count("word");
        assert!(now >= before, "{now} after {before}");
    }
    assert_eq!(nodes[behind].count("word"), 21);
    nodes[behind].kill().await;
    nodes[behind].restart().await;
    assert_eq!(nodes[behind].count("word"), 21, "also after a restart");
    for other in [leader, (leader + 2) % 3] {
        nodes[other].restart().await;
    }
    assert_eq!(say_to_leader(&nodes, "word").await, 22);
    send(&nodes[behind], &older).await;
    wait_until("all have it", || nodes.iter().all(|node| node.count("word") == 22)).await;
    assert_eq!(say_to_leader(&nodes, "word").await, 23);
    wait_until("all have it", || nodes.iter().all(|node| node.count("word") == 23)).await;
}
