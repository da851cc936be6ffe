//! Two groups never become one, whatever address a node is given.

use super::*;

async fn expect_other_cluster<T: std::fmt::Debug>(what: &str, call: impl Future<Output = Result<T, tonic::Status>>) {
    let refused = timeout(DEADLINE, call).await.unwrap().expect_err(what);
    let failure = Failure::from(&refused);
    assert_eq!(failure.reason, Reason::OtherCluster, "{what}: {refused:?}");
    assert!(failure.message.contains("another"), "{what}: {failure}");
}

#[tokio::test]
async fn what_another_group_says_is_refused_and_changes_nothing() {
    let nodes = [TestNode::start("a", 11, Vec::new()).await, TestNode::start("b", 12, Vec::new()).await];
    for node in &nodes {
        leader_of(std::slice::from_ref(node)).await;
    }
    let [ours, theirs] = &nodes;
    ours.say("word").await.unwrap();
    let (to_node, term, group_uid) = (ours.id, ours.group().term(), theirs.group_uid());
    let vote = Some(pb::Vote { term: term + 1, node_id: theirs.id, committed: true });
    let mut client = RaftClient::new(serve::channel(&ours.address).unwrap());
    let append = pb::AppendEntriesRequest { to_node, vote, group_uid: group_uid.clone(), ..Default::default() };
    expect_other_cluster("entries", client.append_entries(append.clone())).await;
    let nameless = pb::AppendEntriesRequest { group_uid: Bytes::new(), ..append };
    expect_other_cluster("entries of a group without a name", client.append_entries(nameless)).await;
    for pre in [true, false] {
        let ask = pb::RequestVoteRequest {
            to_node,
            vote,
            pre,
            group_uid: group_uid.clone(),
            leadership_transfer: true,
            ..Default::default()
        };
        expect_other_cluster("a vote", client.request_vote(ask)).await;
    }
    let begin = pb::SnapshotBegin { to_node, vote, group_uid: group_uid.clone(), ..Default::default() };
    let begin = pb::InstallSnapshotRequest { part: Some(pb::install_snapshot_request::Part::Begin(begin)) };
    expect_other_cluster("a snapshot", client.install_snapshot(tokio_stream::iter([begin]))).await;
    let take_over = pb::TakeOverRequest { to_node, from_leader: vote, group_uid, ..Default::default() };
    expect_other_cluster("the lead", client.take_over(take_over)).await;
    assert_eq!(ours.group().term(), term);
    assert_eq!(ours.say("word").await.unwrap(), 2);
}

#[tokio::test]
async fn a_member_that_is_told_to_join_another_group_is_refused_and_stays_what_it_was() {
    let mut ours = TestNode::start("a", 11, Vec::new()).await;
    let theirs = TestNode::start("b", 12, Vec::new()).await;
    leader_of(std::slice::from_ref(&theirs)).await;
    leader_of(std::slice::from_ref(&ours)).await;
    let (group_uid, at) = (ours.group_uid(), theirs.address.clone());
    let mut client = MembersClient::new(serve::channel(&at).unwrap());
    let asked = pb::AddMemberRequest {
        server_id: "a".to_owned(),
        node_id: ours.id,
        address: ours.address.clone(),
        group_uid,
        ..Default::default()
    };
    expect_other_cluster("a member of another group", client.add_member(asked)).await;
    let lock = pb::AddMemberRequest {
        server_id: "lock-1".to_owned(),
        node_id: 77,
        address: ours.address.clone(),
        service: "lock".to_owned(),
        ..Default::default()
    };
    expect_other_cluster("another service's node", client.add_member(lock)).await;
    // Moved and started with the wrong address: it must not leave its group for the other one.
    ours.kill().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    ours.address = listener.local_addr().unwrap().to_string();
    ours.run(listener, vec![at]).await;
    leader_of(std::slice::from_ref(&ours)).await;
    ours.say("word").await.unwrap();
    let here = ours.address.clone();
    wait_until("it is where it is now", || ours.group().nodes().iter().all(|(_, node)| node.address == here)).await;
    assert_eq!(theirs.group().nodes().len(), 1);
}

#[tokio::test]
async fn a_node_listens_to_nobody_before_a_group_has_taken_it_in_and_belongs_to_that_one_ever_after() {
    let founder = TestNode::start("a", 11, Vec::new()).await;
    leader_of(std::slice::from_ref(&founder)).await;
    let nowhere = "127.0.0.1:1".to_owned();
    let mut joiner = TestNode::start("b", 12, vec![nowhere]).await;
    let mut client = RaftClient::new(serve::channel(&joiner.address).unwrap());
    let vote = Some(pb::Vote { term: 1, node_id: 9, committed: true });
    for group_uid in [Bytes::new(), founder.group_uid()] {
        let entries = pb::AppendEntriesRequest { to_node: joiner.id, vote, group_uid, ..Default::default() };
        let refused = client.append_entries(entries).await.unwrap_err();
        assert_eq!(Failure::from(&refused).reason, Reason::Unavailable, "{refused:?}");
    }
    joiner.kill().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    joiner.address = listener.local_addr().unwrap().to_string();
    joiner.run(listener, vec![founder.address.clone()]).await;
    wait_until("it votes", || founder.voters() == 2).await;
    assert_eq!(joiner.group_uid(), founder.group_uid());
    joiner.kill().await;
    joiner.restart().await;
    assert_eq!(joiner.group_uid(), founder.group_uid(), "also after a restart");
}

#[tokio::test]
async fn a_founder_that_has_lost_its_disk_joins_the_group_that_the_others_have() {
    let founder = TestNode::start("a", 11, Vec::new()).await;
    leader_of(std::slice::from_ref(&founder)).await;
    let waiting = TestNode::start("b", 12, vec!["127.0.0.1:1".to_owned()]).await;
    let (has_one, has_none) = (founder.address.clone(), waiting.address.clone());
    let peers = vec![has_none.clone(), has_one.clone()];
    assert_eq!(whom_to_join("words", &[], &peers, true).await, peers);
    assert!(whom_to_join("words", &[], std::slice::from_ref(&has_none), true).await.is_empty(), "it founds one");
    assert!(whom_to_join("words", &[], &peers, false).await.is_empty(), "it has one");
    assert_eq!(whom_to_join("words", &peers[..1], std::slice::from_ref(&has_one), true).await, peers[..1]);
    assert!(whom_to_join("lock", &[], &[has_one], true).await.is_empty(), "another service's group is none of its own");
}
