//! What no node that follows the protocol sends: it is refused, and the node goes on.

use super::*;

fn a_vote(term: u64) -> Option<pb::Vote> {
    Some(pb::Vote { term, node_id: 2, committed: true })
}

fn an_entry(term: u64, index: u64) -> pb::LogEntry {
    pb::LogEntry { log_id: Some(pb::LogId { term, index }), payload: None }
}

fn a_snapshot(begin: pb::SnapshotBegin, rows: Vec<pb::SnapshotRows>) -> Vec<pb::InstallSnapshotRequest> {
    use pb::install_snapshot_request::Part;
    let rows = rows.into_iter().map(Part::Rows);
    let end = Part::End(pb::SnapshotEnd { row_count: 1 });
    let parts = std::iter::once(Part::Begin(begin)).chain(rows).chain([end]);
    parts.map(|part| pb::InstallSnapshotRequest { part: Some(part) }).collect()
}

async fn expect_refused<T: std::fmt::Debug>(
    node: &TestNode,
    reason: Reason,
    what: &str,
    call: impl Future<Output = Result<T, tonic::Status>>,
) {
    let refused = timeout(DEADLINE, call).await.unwrap().expect_err(what);
    assert_eq!(Failure::from(&refused).reason, reason, "{what}: {refused:?}");
    node.say(what).await.unwrap_or_else(|error| panic!("after {what}: {error}"));
}

#[tokio::test]
async fn nothing_that_a_stranger_sends_ends_a_node() {
    let node = TestNode::start("a", 11, Vec::new()).await;
    leader_of(std::slice::from_ref(&node)).await;
    node.say("word").await.unwrap();
    let client = RaftClient::new(serve::channel(&node.address).unwrap());
    let (to_node, term, group_uid) = (node.id, node.group().term(), node.group_uid());

    for vote in [None, a_vote(u64::MAX)] {
        let request = pb::RequestVoteRequest {
            to_node,
            vote,
            leadership_transfer: true,
            group_uid: group_uid.clone(),
            ..Default::default()
        };
        let call = client.clone().request_vote(request).await;
        expect_refused(&node, Reason::BadArgument, "a vote", async { call }).await;
    }
    let gap = vec![an_entry(term, 1), an_entry(term, 3)];
    let too_new = vec![an_entry(term + 9, 1)];
    for (vote, entries) in [(a_vote(u64::MAX), vec![]), (a_vote(term + 1), gap), (a_vote(term + 1), too_new)] {
        let previous = Some(pb::LogId { term: 0, index: 0 });
        let group_uid = group_uid.clone();
        let request = pb::AppendEntriesRequest { to_node, vote, previous, entries, leader_commit: None, group_uid };
        let call = client.clone().append_entries(request).await;
        expect_refused(&node, Reason::BadArgument, "entries", async { call }).await;
    }
    let stranger =
        pb::AppendEntriesRequest { to_node: to_node + 1, vote: a_vote(term + 1), group_uid, ..Default::default() };
    let call = client.clone().append_entries(stranger).await;
    expect_refused(&node, Reason::BadArgument, "another node's entries", async { call }).await;
    assert_eq!(node.group().term(), term, "nobody was believed");
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_is_refused_and_leaves_nothing() {
    let node = TestNode::start("a", 11, Vec::new()).await;
    leader_of(std::slice::from_ref(&node)).await;
    node.say("word").await.unwrap();
    let client = RaftClient::new(serve::channel(&node.address).unwrap());
    let (to_node, term) = (node.id, node.group().term());
    let begin = pb::SnapshotBegin {
        to_node,
        vote: a_vote(term + 1),
        last_log_id: Some(pb::LogId { term, index: 1_000_000 }),
        group_uid: node.group_uid(),
        ..Default::default()
    };
    let beyond =
        pb::SnapshotBegin { last_log_id: Some(pb::LogId { term: term + 2, index: 1_000_000 }), ..begin.clone() };
    let contradicting =
        pb::SnapshotBegin { last_log_id: Some(pb::LogId { term: term + 1, index: 0 }), ..begin.clone() };
    for begin in [beyond, contradicting, pb::SnapshotBegin { vote: a_vote(u64::MAX), ..begin.clone() }] {
        let call = client.clone().install_snapshot(tokio_stream::iter(a_snapshot(begin, Vec::new()))).await;
        expect_refused(&node, Reason::BadArgument, "a beginning", async { call }).await;
    }
    // A key of one byte and a count of three: the table's are of eight.
    let row: &[u8] = &[1, 0, 0, 0, 3, 0, 0, 0, b'w', 1, 2, 3];
    let checksum = crate::types::crc32c(row);
    let short = |table: &str, checksum| pb::SnapshotRows { table: table.to_owned(), rows: row.into(), checksum };
    for rows in [short("words", checksum), short("words", checksum ^ 1), short("nobody's", checksum)] {
        let call = client.clone().install_snapshot(tokio_stream::iter(a_snapshot(begin.clone(), vec![rows]))).await;
        expect_refused(&node, Reason::Unavailable, "rows", async { call }).await;
    }
    let begin_only = a_snapshot(begin, Vec::new()).into_iter().take(1);
    let call = client.clone().install_snapshot(tokio_stream::iter(begin_only)).await;
    expect_refused(&node, Reason::BadArgument, "no end", async { call }).await;
    assert_eq!((node.count("word"), node.group().term()), (1, term));
    let names = std::fs::read_dir(node.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().contains("successor")).collect();
    assert!(left.is_empty(), "{left:?}");
}
